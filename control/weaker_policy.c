/* The policies of weaker.h. */
#include <stdio.h>
#include <string.h>

#include "certs/policy.h"
#include "control/mesh.h"
#include "control/weaker.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"

#define WEAKER_NAMES_SHOWN 3

typedef Mortise__V1__Policy policy_msg;
#define WEAKER_ALLOW MORTISE__V1__POLICY__ACTION__ALLOW
#define WEAKER_DENY MORTISE__V1__POLICY__ACTION__DENY

#define WEAKER_WAY_MAX (2 * MESH_NAME_MAX + 8)

/* A mesh by its names. Values of maps are lent to them. */
struct weaker_side {
    const Mortise__V1__Mesh *mesh;
    struct map links;      /* by name */
    struct map ways;       /* "client server", of its links */
    struct map policies;   /* by name */
    struct map allowed;    /* links that an ALLOW names */
    const policy_msg *all; /* an ALLOW for all links; NULL */
};

static void *weaker_lend(const void *item)
{
    return (void *)(uintptr_t)item;
}

static void weaker_way_of(const Mortise__V1__Link *link, char out[WEAKER_WAY_MAX])
{
    (void)snprintf(out, WEAKER_WAY_MAX, "%.*s %.*s", MESH_NAME_MAX, link->client, MESH_NAME_MAX,
                   link->server);
}

static void weaker_side_open(const Mortise__V1__Mesh *mesh, struct weaker_side *out)
{
    char way[WEAKER_WAY_MAX];

    *out = (struct weaker_side){.mesh = mesh};
    for (size_t i = 0; i < mesh->n_links; i++) {
        weaker_way_of(mesh->links[i], way);
        (void)map_put(&out->links, mesh->links[i]->name, mesh->links[i]);
        (void)map_put(&out->ways, way, mesh->links[i]);
    }
    for (size_t i = 0; i < mesh->n_policies; i++) {
        const policy_msg *policy = mesh->policies[i];

        (void)map_put(&out->policies, policy->name, weaker_lend(policy));
        if (policy->action != WEAKER_ALLOW)
            continue;
        if (policy->n_links == 0)
            out->all = policy;
        for (size_t j = 0; j < policy->n_links; j++)
            (void)map_put(&out->allowed, policy->links[j], weaker_lend(policy));
    }
}

static void weaker_side_close(struct weaker_side *side)
{
    map_fini(&side->links);
    map_fini(&side->ways);
    map_fini(&side->policies);
    map_fini(&side->allowed);
}

static void weaker_map_of(char *const *list, size_t num, struct map *out)
{
    *out = (struct map){.num = 0};
    for (size_t i = 0; i < num; i++)
        (void)map_put(out, list[i], list[i]);
}

/* ---- what is told ---- */

/* Names of one kind, the first few. */
struct weaker_names {
    struct buf text;
    size_t num;
};

static void weaker_name(struct weaker_names *names, const char *name)
{
    if (names->num++ < WEAKER_NAMES_SHOWN)
        CHECK(err_is_ok(buf_printf(&names->text, "%s%.100s", names->num > 1 ? ", " : "", name)));
}

/* Ends `names`; nothing where there are none. */
static void weaker_tell(struct faults *out, const policy_msg *policy, const char *before,
                        struct weaker_names *names, const char *behind)
{
    char path[MESH_NAME_MAX + 16];

    if (names->num > WEAKER_NAMES_SHOWN)
        CHECK(err_is_ok(
            buf_printf(&names->text, " and %zu more", names->num - (size_t)WEAKER_NAMES_SHOWN)));
    (void)snprintf(path, sizeof(path), "policy %.*s", MESH_NAME_MAX, policy->name);
    if (names->num > 0)
        faults_add(out, path, "%s%.*s%s", before, (int)buf_size(&names->text),
                   (const char *)buf_view(&names->text).ptr, behind);
    buf_fini(&names->text);
}

static void weaker_tell_all(struct faults *out, const policy_msg *policy, const char *what)
{
    char path[MESH_NAME_MAX + 16];

    (void)snprintf(path, sizeof(path), "policy %.*s", MESH_NAME_MAX, policy->name);
    faults_add(out, path, "%s", what);
}

/* ---- the same under another name ---- */

static bool weaker_same_list(char *const *a, size_t num_a, char *const *b, size_t num_b)
{
    if (num_a != num_b)
        return false;
    for (size_t i = 0; i < num_a; i++) {
        if (strcmp(a[i], b[i]) != 0)
            return false;
    }
    return true;
}

static bool weaker_same(const policy_msg *a, const policy_msg *b)
{
    return a->action == b->action && weaker_same_list(a->links, a->n_links, b->links, b->n_links) &&
           weaker_same_list(a->peers, a->n_peers, b->peers, b->n_peers);
}

/* The one that says the same in the other mesh, by whatever name; NULL: none. */
static const policy_msg *weaker_renamed(const struct weaker_side *side, const policy_msg *policy)
{
    for (size_t i = 0; i < side->mesh->n_policies; i++) {
        if (weaker_same(side->mesh->policies[i], policy))
            return side->mesh->policies[i];
    }
    return NULL;
}

/* ---- links ---- */

/* Whether a link of before is one of after, or what it joined is joined by another. */
static bool weaker_link_counts(const struct weaker_side *before, const struct weaker_side *after,
                               const char *name)
{
    const Mortise__V1__Link *link = map_get(&before->links, name);
    char way[WEAKER_WAY_MAX];

    if (map_get(&after->links, name) != NULL || link == NULL)
        return true;
    weaker_way_of(link, way);
    return map_get(&after->ways, way) != NULL;
}

/* ---- DENY ---- */

static void weaker_deny_links(const struct weaker_side *before, const struct weaker_side *after,
                              const policy_msg *was, const policy_msg *policy, struct faults *out)
{
    struct weaker_names names = {.num = 0};
    struct map now;

    if (policy->n_links == 0)
        return; /* of all */
    if (was->n_links == 0) {
        weaker_tell_all(out, was, "DENY on every link -> on some");
        return;
    }
    weaker_map_of(policy->links, policy->n_links, &now);
    for (size_t i = 0; i < was->n_links; i++) {
        if (map_get(&now, was->links[i]) == NULL &&
            weaker_link_counts(before, after, was->links[i]))
            weaker_name(&names, was->links[i]);
    }
    weaker_tell(out, was, "DENY no longer on link ", &names, "");
    map_fini(&now);
}

static void weaker_deny_peers(const policy_msg *was, const policy_msg *policy, struct faults *out)
{
    struct weaker_names names = {.num = 0};
    struct map now;

    weaker_map_of(policy->peers, policy->n_peers, &now);
    for (size_t i = 0; i < was->n_peers; i++) {
        if (!policy_covers(&now, was->peers[i]))
            weaker_name(&names, was->peers[i]);
    }
    weaker_tell(out, was, "DENY no longer of ", &names, "");
    map_fini(&now);
}

static void weaker_deny(const struct weaker_side *before, const struct weaker_side *after,
                        const policy_msg *was, struct faults *out)
{
    const policy_msg *policy = map_get(&after->policies, was->name);

    if (policy == NULL || policy->action != WEAKER_DENY)
        policy = weaker_renamed(after, was);
    if (policy == NULL) {
        weaker_tell_all(out, was, "DENY removed");
        return;
    }
    weaker_deny_links(before, after, was, policy, out);
    weaker_deny_peers(was, policy, out);
}

/* ---- ALLOW ---- */

/* A link on which there is an ALLOW no longer lets in whomever it declares. */
static void weaker_allow_links(const struct weaker_side *before, const struct weaker_side *after,
                               const policy_msg *was, struct faults *out)
{
    struct weaker_names names = {.num = 0};

    if (after->all != NULL)
        return;
    if (was->n_links == 0) {
        weaker_tell_all(out, was, "ALLOW on every link -> on some, or none");
        return;
    }
    for (size_t i = 0; i < was->n_links; i++) {
        if (map_get(&after->allowed, was->links[i]) == NULL &&
            weaker_link_counts(before, after, was->links[i]))
            weaker_name(&names, was->links[i]);
    }
    weaker_tell(out, was, "ALLOW no longer on link ", &names, "");
}

/* Whether some link of `policy` had an ALLOW before. Those that it has only now are meant. */
static bool weaker_had_allow(const struct weaker_side *before, const policy_msg *policy)
{
    if (before->all != NULL)
        return true;
    for (size_t i = 0; i < policy->n_links; i++) {
        if (map_get(&before->allowed, policy->links[i]) != NULL)
            return true;
    }
    return policy->n_links == 0 && map_num(&before->allowed) > 0;
}

/* Links that had the ALLOW of others, and have this one, too, now. */
static void weaker_allow_reaches(const struct weaker_side *before, const policy_msg *was,
                                 const policy_msg *policy, struct faults *out)
{
    struct weaker_names names = {.num = 0};
    struct map own;

    if (was->n_links == 0)
        return; /* they had it before */
    if (policy->n_links == 0 && (before->all != NULL || map_num(&before->allowed) > was->n_links)) {
        weaker_tell_all(out, policy, "ALLOW on some links -> on every one, beside those of others");
        return;
    }
    weaker_map_of(was->links, was->n_links, &own);
    for (size_t i = 0; i < policy->n_links; i++) {
        if (map_get(&own, policy->links[i]) == NULL &&
            (before->all != NULL || map_get(&before->allowed, policy->links[i]) != NULL))
            weaker_name(&names, policy->links[i]);
    }
    weaker_tell(out, policy, "ALLOW also on link ", &names, ", beside others");
    map_fini(&own);
}

static void weaker_allow_peers(const policy_msg *was, const policy_msg *policy, struct faults *out)
{
    struct weaker_names names = {.num = 0};
    struct map old;

    weaker_map_of(was->peers, was->n_peers, &old);
    for (size_t i = 0; i < policy->n_peers; i++) {
        if (!policy_covers(&old, policy->peers[i]))
            weaker_name(&names, policy->peers[i]);
    }
    weaker_tell(out, policy, "ALLOW also of ", &names, "");
    map_fini(&old);
}

/* One of after: does it let in whom those of before did not? */
static void weaker_allow(const struct weaker_side *before, const policy_msg *policy,
                         struct faults *out)
{
    const policy_msg *was = map_get(&before->policies, policy->name);

    if (was == NULL || was->action != WEAKER_ALLOW)
        was = weaker_renamed(before, policy);
    if (was != NULL) {
        weaker_allow_peers(was, policy, out);
        weaker_allow_reaches(before, was, policy, out);
    } else if (weaker_had_allow(before, policy)) {
        weaker_tell_all(out, policy, "ALLOW added to links that others were allowed on alone");
    }
}

void weaker_policies(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                     struct faults *out)
{
    struct weaker_side old, new;

    weaker_side_open(before, &old);
    weaker_side_open(after, &new);
    for (size_t i = 0; i < before->n_policies; i++) {
        const policy_msg *was = before->policies[i];

        if (was->action == WEAKER_DENY)
            weaker_deny(&old, &new, was, out);
        else
            weaker_allow_links(&old, &new, was, out);
    }
    for (size_t i = 0; i < after->n_policies; i++) {
        if (after->policies[i]->action == WEAKER_ALLOW)
            weaker_allow(&old, after->policies[i], out);
    }
    weaker_side_close(&old);
    weaker_side_close(&new);
}
