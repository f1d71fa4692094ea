/* mortisectl get connections, and the second half of apply --dry-run and revoke --dry-run. */
#include "control/ctl/connections.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"

#define CONNECTIONS_INSTANCE "%.8s"

/* What all sidecars said, in the order of their first words. */
struct connections {
    Mortise__V1__SidecarConnections **items; /* owned */
    size_t num;
};

static void connections_fini(struct connections *list)
{
    for (size_t i = 0; i < list->num; i++)
        pb_free(&list->items[i]->base);
    mem_free(list->items);
}

/* Those of two subsystems may be called the same. */
static Mortise__V1__SidecarConnections *connections_of(const struct connections *list,
                                                       const char *subsystem, const char *instance)
{
    for (size_t i = 0; i < list->num; i++) {
        if (strcmp(list->items[i]->instance, instance) == 0 &&
            strcmp(list->items[i]->subsystem, subsystem) == 0)
            return list->items[i];
    }
    return NULL;
}

/* A further part: what it describes goes behind what is there, the rest it says itself. */
static void connections_add_part(Mortise__V1__SidecarConnections *to,
                                 Mortise__V1__SidecarConnections *part)
{
    Mortise__V1__SidecarConnections kept = *to;
    size_t num = to->n_connections + part->n_connections;
    Mortise__V1__LiveConnection **all = mem_array(num, sizeof(Mortise__V1__LiveConnection *));

    for (size_t i = 0; i < to->n_connections; i++)
        all[i] = to->connections[i];
    for (size_t i = 0; i < part->n_connections; i++)
        all[to->n_connections + i] = part->connections[i];
    *to = *part;
    *part = kept;
    mem_free(to->connections);
    mem_free(part->connections);
    to->connections = all;
    to->n_connections = num;
    part->connections = NULL;
    part->n_connections = 0;
    pb_free(&part->base);
}

static void connections_on_message(void *arg, const ProtobufCMessage *msg)
{
    struct connections *list = arg;
    Mortise__V1__SidecarConnections *item =
        MSG_AS(Mortise__V1__SidecarConnections, mortise__v1__sidecar_connections__descriptor,
               pb_clone(msg));
    Mortise__V1__SidecarConnections *before = connections_of(list, item->subsystem, item->instance);

    if (before != NULL) {
        connections_add_part(before, item);
        return;
    }
    list->items = mem_realloc(list->items, (list->num + 1) * sizeof(*list->items));
    list->items[list->num++] = item;
}

/* False when one did not answer. */
static bool connections_tell_errors(const struct connections *list)
{
    bool all = true;

    for (size_t i = 0; i < list->num; i++) {
        const Mortise__V1__SidecarConnections *item = list->items[i];

        if (item->error[0] == '\0')
            continue;
        ctl_tell("%s (" CONNECTIONS_INSTANCE "): %s", item->subsystem, item->instance, item->error);
        all = false;
    }
    return all;
}

/* ---------------------------------------------------------------- get connections */

#define CONNECTIONS_AGE_MAX 32
static void connections_age(uint64_t age_ms, char out[CONNECTIONS_AGE_MAX])
{
    uint64_t s = age_ms / 1000;

    if (age_ms < 10000)
        (void)snprintf(out, CONNECTIONS_AGE_MAX, "%.1fs", (double)age_ms / 1000);
    else if (s < 120)
        (void)snprintf(out, CONNECTIONS_AGE_MAX, "%" PRIu64 "s", s);
    else if (s < 7200)
        (void)snprintf(out, CONNECTIONS_AGE_MAX, "%" PRIu64 "m", s / 60);
    else if (s < 2 * 86400)
        (void)snprintf(out, CONNECTIONS_AGE_MAX, "%" PRIu64 "h", s / 3600);
    else
        (void)snprintf(out, CONNECTIONS_AGE_MAX, "%" PRIu64 "d", s / 86400);
}

static void connections_row(struct table *table, bool wide,
                            const Mortise__V1__SidecarConnections *sidecar,
                            const Mortise__V1__LiveConnection *item)
{
    char age[CONNECTIONS_AGE_MAX];

    connections_age(item->age_ms, age);
    table_addf(table, wide ? "%s" : CONNECTIONS_INSTANCE, sidecar->instance);
    table_add(table, item->link);
    table_add(table, item->direction);
    table_add(table, item->peer_id);
    table_add(table, item->peer_address);
    table_add(table, age);
    table_addf(table, "%" PRIu64, item->bytes_to_mesh);
    table_addf(table, "%" PRIu64, item->bytes_to_app);
    if (!wide)
        return;
    table_add(table, item->peer_serial);
    table_add(table, item->tls_version);
    table_add(table, item->cipher);
    table_add(table, item->group);
    table_addf(table, "%" PRIu64, item->generation);
}

static void connections_table(const struct ctl_flags *flags, const struct connections *list)
{
    static const char *const heads[] = {"INSTANCE", "LINK",    "DIRECTION", "PEER", "ADDRESS",
                                        "AGE",      "TO MESH", "TO APP",    NULL};
    static const char *const wide[] = {"INSTANCE", "LINK",    "DIRECTION",  "PEER",   "ADDRESS",
                                       "AGE",      "TO MESH", "TO APP",     "SERIAL", "TLS",
                                       "CIPHER",   "GROUP",   "GENERATION", NULL};
    bool is_wide = flags->output == CTL_WIDE;
    struct table table = {.heads = is_wide ? wide : heads};

    for (size_t i = 0; i < list->num; i++) {
        for (size_t j = 0; j < list->items[i]->n_connections; j++)
            connections_row(&table, is_wide, list->items[i], list->items[i]->connections[j]);
    }
    table_print(&table);
    for (size_t i = 0; i < list->num; i++) {
        const Mortise__V1__SidecarConnections *item = list->items[i];

        if (item->error[0] == '\0')
            printf("%s (" CONNECTIONS_INSTANCE "): %" PRIu64 " connections, %zu shown\n",
                   item->subsystem, item->instance, item->total, item->n_connections);
    }
}

int connections_get(struct conn *conn, const struct ctl_flags *flags, const char *subsystem)
{
    Mortise__V1__ListConnectionsRequest request = MORTISE__V1__LIST_CONNECTIONS_REQUEST__INIT;
    Mortise__V1__ListConnectionsResponse all = MORTISE__V1__LIST_CONNECTIONS_RESPONSE__INIT;
    CLEANUP(connections_fini) struct connections list = {.num = 0};
    bool told;

    request.subsystem = msg_lend(subsystem);
    request.link = msg_lend(flags->link != NULL ? flags->link : "");
    request.peer = msg_lend(flags->peer != NULL ? flags->peer : "");
    request.limit = (uint32_t)flags->limit;
    request.timeout_s = (uint32_t)((flags->timeout_ms + 999) / 1000);
    if (!conn_stream(conn, "OperatorService/ListConnections", &request.base,
                     &mortise__v1__sidecar_connections__descriptor, connections_on_message, &list))
        return CTL_FAILED;
    all.sidecars = list.items;
    all.n_sidecars = list.num;
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, &all.base);
    else
        connections_table(flags, &list);
    (void)fflush(stdout);
    told = connections_tell_errors(&list);
    if (list.num == 0)
        ctl_tell("no sidecar of %s is connected", subsystem);
    return told ? CTL_OK : CTL_FAILED;
}

/* ------------------------------------------------------------------------ preview */

static void connections_print_end(const Mortise__V1__LiveConnection *item)
{
    char age[CONNECTIONS_AGE_MAX];

    connections_age(item->age_ms, age);
    printf("  ");
    ctl_print(stdout, item->link);
    printf(" ");
    ctl_print(stdout, item->direction);
    printf(" ");
    ctl_print(stdout, item->peer_id);
    printf(" ");
    ctl_print(stdout, item->peer_address);
    printf(", open for %s: ", age);
    ctl_print(stdout, item->reason);
    if (item->policy[0] != '\0') {
        printf(" ");
        ctl_print(stdout, item->policy);
    }
    if (item->grace_ms > 0)
        printf(" after %.3gs", item->grace_ms / 1000.0);
    printf("\n");
}

static void connections_print_ends(const Mortise__V1__SidecarConnections *item)
{
    printf("%s (" CONNECTIONS_INSTANCE "): %" PRIu64 " live connections would end:",
           item->subsystem, item->instance, item->total);
    for (size_t i = 0; i < item->n_would_end; i++) {
        printf("%s %" PRIu64 " ", i > 0 ? "," : "", item->would_end[i]->number);
        ctl_print(stdout, item->would_end[i]->reason);
    }
    printf("\n");
    for (size_t i = 0; i < item->n_connections; i++)
        connections_print_end(item->connections[i]);
    if (item->total > item->n_connections)
        printf("  and %" PRIu64 " more\n", item->total - item->n_connections);
}

static void connections_tell_refusal(const Mortise__V1__SidecarConnections *item)
{
    ctl_tell("%s (" CONNECTIONS_INSTANCE ") would refuse it, and keep what it has:",
             item->subsystem, item->instance);
    for (size_t i = 0; i < item->refused->n_faults; i++) {
        fprintf(stderr, "  ");
        ctl_print(stderr, item->refused->faults[i]->path);
        fprintf(stderr, ": ");
        ctl_print(stderr, item->refused->faults[i]->message);
        fprintf(stderr, "\n");
    }
}

int connections_preview(struct conn *conn, const Mortise__V1__PreviewRequest *request)
{
    CLEANUP(connections_fini) struct connections list = {.num = 0};
    uint64_t total = 0;
    size_t num = 0, refused = 0;

    if (!conn_stream(conn, "OperatorService/Preview", &request->base,
                     &mortise__v1__sidecar_connections__descriptor, connections_on_message, &list))
        return CTL_FAILED;
    for (size_t i = 0; i < list.num; i++) {
        const Mortise__V1__SidecarConnections *item = list.items[i];

        if (item->total > 0) {
            connections_print_ends(item);
            total += item->total;
            num++;
        }
        if (item->leaves)
            printf("%s (" CONNECTIONS_INSTANCE ") leaves the mesh: its peers end what they share "
                   "with it\n",
                   item->subsystem, item->instance);
    }
    if (total > 0)
        printf("%" PRIu64 " live connections would end at %zu sidecars (one between two of them "
               "counts at both)\n",
               total, num);
    else
        printf("no live connection would end\n");
    (void)fflush(stdout);
    for (size_t i = 0; i < list.num; i++) {
        if (list.items[i]->refused != NULL) {
            connections_tell_refusal(list.items[i]);
            refused++;
        }
    }
    return connections_tell_errors(&list) && refused == 0 ? CTL_OK : CTL_FAILED;
}
