#include "control/permissive.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/clock.h"

int64_t permissive_until(const Mortise__V1__Link *link, int64_t now_s)
{
    int64_t until_s;

    if (link->permissive == NULL || !clock_parse_utc(link->permissive->until, &until_s))
        return 0;
    return until_s > now_s ? until_s : 0;
}

err_t permissive_check(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                       const struct mesh_origin *origin, int64_t now_s, struct faults *faults)
{
    char most[21];

    clock_format_utc(now_s + PERMISSIVE_AHEAD_S, most);
    for (size_t i = 0; i < after->n_links; i++) {
        const Mortise__V1__Link *link = after->links[i];
        int64_t until_s = permissive_until(link, now_s);
        const Mortise__V1__Link *was;
        char path[MESH_NAME_MAX + 32];

        if (until_s <= now_s + PERMISSIVE_AHEAD_S)
            continue;
        was = mesh_link(before, link->name);
        if (was != NULL && permissive_until(was, now_s) == until_s)
            continue;
        if (origin->index[MESH_LINKS][i] != MESH_KEPT)
            (void)snprintf(path, sizeof(path), "links[%zu].permissive.until",
                           origin->index[MESH_LINKS][i]);
        else
            (void)snprintf(path, sizeof(path), "links[%.*s].permissive.until", MESH_NAME_MAX,
                           link->name);
        faults_add(faults, path, "%s is more than 90 days ahead; wanted is %s or before",
                   link->permissive->until, most);
    }
    return faults_err(faults);
}

/* Whether both let in at the same port of the same sidecar, to the same application. */
static bool permissive_same_way(const Mortise__V1__Link *a, const Mortise__V1__Link *b)
{
    return strcmp(a->server, b->server) == 0 && a->server_port == b->server_port &&
           a->permissive->port == b->permissive->port;
}

void permissive_weaker(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                       int64_t now_s, struct faults *out)
{
    for (size_t i = 0; i < after->n_links; i++) {
        const Mortise__V1__Link *link = after->links[i];
        const Mortise__V1__Link *was;
        char path[MESH_NAME_MAX + 8];
        int64_t old_s;
        bool moved;

        if (permissive_until(link, now_s) == 0)
            continue;
        was = mesh_link(before, link->name);
        old_s = was != NULL ? permissive_until(was, now_s) : 0;
        moved = old_s != 0 && !permissive_same_way(was, link);
        if (permissive_until(link, now_s) <= old_s && !moved)
            continue;
        (void)snprintf(path, sizeof(path), "link %.*s", MESH_NAME_MAX, link->name);
        if (moved)
            faults_add(out, path, "plaintext at port %u to %s:%u -> at port %u to %s:%u until %s",
                       was->permissive->port, was->server, was->server_port, link->permissive->port,
                       link->server, link->server_port, link->permissive->until);
        else
            faults_add(out, path, "plaintext %s%s -> at port %u until %s",
                       old_s != 0 ? "until " : "none", old_s != 0 ? was->permissive->until : "",
                       link->permissive->port, link->permissive->until);
    }
}
