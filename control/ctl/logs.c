/* mortisectl logs: the access log entries that sidecars have sent up. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/conn_log_line.h"
#include "control/ctl/conn.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define LOGS_SINCE_MAX_MS (INT64_C(3650) * 86400 * 1000)
#define LOGS_JOIN_MAX 100000 /* connections that are joined at once */
#define LOGS_WHEN_MAX 32

typedef Mortise__V1__AccessLogEntry logs_entry;

static const struct option logs_options[] = {
    CTL_OUTPUT_ROW,
    {.name = "since",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, since_ms),
     .def = "1h",
     .min = 0,
     .max = LOGS_SINCE_MAX_MS,
     .arg = "TIME",
     .help = "What ended within this time. 0s: all that is kept."},
    {.name = "follow",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, follow),
     .def = "false",
     .help = "Go on with those to come, until it is interrupted; -f for short."},
    {.name = "connection",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, connection),
     .arg = "KEY",
     .help = "Of one connection: what both its ends tell."},
    {.name = "join",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, join),
     .def = "false",
     .help = "A row for each connection, with what both ends tell of it."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* ---- a line for each ---- */

static void logs_when(int64_t at_ms, char out[LOGS_WHEN_MAX])
{
    char when[21];

    clock_format_utc(at_ms / 1000, when);
    (void)snprintf(out, LOGS_WHEN_MAX, "%.19s.%03dZ", when, (int)(at_ms % 1000));
}

static void logs_print(const char *before, const char *text)
{
    if (text[0] == '\0')
        return;
    fputs(before, stdout);
    ctl_print(stdout, text);
}

static void logs_line(const logs_entry *entry)
{
    char when[LOGS_WHEN_MAX], instance[9];

    logs_when(entry->at_ms, when);
    fputs(when, stdout);
    if (entry->subsystem[0] == '\0') {
        printf(" %" PRIu64 " entries are missing: they could not be written here\n",
               entry->dropped);
        return;
    }
    logs_print(" ", entry->subsystem);
    (void)snprintf(instance, sizeof(instance), "%s", entry->instance);
    logs_print(" (", instance);
    printf(")");
    if (entry->dropped != 0) {
        printf(" %" PRIu64 " of its entries are missing: it threw them away\n", entry->dropped);
        return;
    }
    logs_print(" ", entry->direction);
    logs_print(" link=", entry->link);
    logs_print(" key=", entry->key);
    logs_print(" source=", entry->source);
    logs_print(" peer=", entry->peer_id);
    logs_print(" peer=", entry->peer);
    logs_print(" claims=", entry->claimed_id);
    logs_print(" serial=", entry->peer_serial);
    logs_print(" ", entry->tls_version);
    logs_print(" ", entry->cipher);
    logs_print(" ", entry->group);
    printf(" to_mesh=%" PRIu64 " to_app=%" PRIu64 " ms=%" PRIu64, entry->bytes_to_mesh,
           entry->bytes_to_app, entry->duration_ms);
    logs_print(": ", entry->reason);
    logs_print(", ", entry->error);
    logs_print(" by ", entry->policy);
    if (entry->suppressed != 0)
        printf(" (and %" PRIu64 " more that never opened)", entry->suppressed);
    printf("\n");
}

static void logs_json(const logs_entry *entry)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    struct bytes line;

    if (!err_is_ok(conn_log_line(entry, &text)))
        return;
    line = buf_view(&text);
    (void)fwrite(line.ptr, 1, line.len, stdout);
}

static const logs_entry *logs_of(const ProtobufCMessage *msg)
{
    return MSG_AS_CONST(Mortise__V1__AccessLogEntry, mortise__v1__access_log_entry__descriptor,
                        msg);
}

static void logs_on_entry(void *arg, const ProtobufCMessage *msg)
{
    const struct ctl_flags *flags = arg;

    if (flags->output == CTL_JSON)
        logs_json(logs_of(msg));
    else
        logs_line(logs_of(msg));
    if (flags->follow)
        (void)fflush(stdout);
}

/* ---- both ends of each ---- */

/* A connection, as its ends tell of it. */
struct logs_pair {
    logs_entry *ends[2]; /* owned: of the client's sidecar, of the server's; NULL: not told */
};

struct logs_pairs {
    struct map by_key;
    struct logs_pair **items; /* in the order of their first words */
    size_t num;
    uint64_t left_out;
};

static struct logs_pair *logs_new_pair(struct logs_pairs *pairs)
{
    struct logs_pair *pair = mem_zalloc(sizeof(*pair));

    pairs->items = mem_realloc(pairs->items, (pairs->num + 1) * sizeof(struct logs_pair *));
    pairs->items[pairs->num++] = pair;
    return pair;
}

static size_t logs_end_of(const logs_entry *entry)
{
    return strcmp(entry->direction, "inbound") == 0;
}

/* What two subsystems say of one end stands side by side: one of them is not that end, and which it
 * is cannot be told here. One that says a thing twice has it once. */
static void logs_on_end(void *arg, const ProtobufCMessage *msg)
{
    struct logs_pairs *pairs = arg;
    const logs_entry *entry = logs_of(msg);
    struct logs_pair *pair = entry->key[0] != '\0' ? map_get(&pairs->by_key, entry->key) : NULL;
    const logs_entry *told = pair != NULL ? pair->ends[logs_end_of(entry)] : NULL;

    if (told != NULL && strcmp(told->subsystem, entry->subsystem) == 0)
        return;
    if ((pair == NULL || told != NULL) && (entry->dropped != 0 || pairs->num == LOGS_JOIN_MAX)) {
        pairs->left_out += entry->dropped != 0 ? entry->dropped : 1;
        return;
    }
    if (pair == NULL && entry->key[0] != '\0') {
        pair = logs_new_pair(pairs);
        (void)map_put(&pairs->by_key, entry->key, pair);
    } else if (pair == NULL || told != NULL) {
        pair = logs_new_pair(pairs);
    }
    pair->ends[logs_end_of(entry)] = MSG_AS(
        Mortise__V1__AccessLogEntry, mortise__v1__access_log_entry__descriptor, pb_clone(msg));
}

static void logs_pairs_fini(struct logs_pairs *pairs)
{
    for (size_t i = 0; i < pairs->num; i++) {
        for (size_t end = 0; end < 2; end++) {
            if (pairs->items[i]->ends[end] != NULL)
                pb_free(&pairs->items[i]->ends[end]->base);
        }
        mem_free(pairs->items[i]);
    }
    mem_free(pairs->items);
    map_fini(&pairs->by_key);
}

/* The subsystem, and how it ended there. */
static void logs_cell(struct table *table, const logs_entry *entry)
{
    if (entry == NULL)
        table_add(table, "");
    else
        table_addf(table, "%s: %s%s%s", entry->subsystem, entry->reason,
                   entry->error[0] != '\0' ? ", " : "", entry->error);
}

static void logs_row(struct table *table, const struct logs_pair *pair)
{
    const logs_entry *client = pair->ends[0], *server = pair->ends[1];
    const logs_entry *one = client != NULL ? client : server;
    char when[LOGS_WHEN_MAX];

    CHECK(one != NULL); /* a pair begins with one of them */
    logs_when(one->at_ms, when);
    table_add(table, when);
    /* A server that refused its client may have found no link for it. */
    table_add(table, one->link);
    table_add(table, one->key);
    logs_cell(table, client);
    logs_cell(table, server);
    table_addf(table, "%" PRIu64, client != NULL ? client->bytes_to_mesh : server->bytes_to_app);
    table_addf(table, "%" PRIu64, client != NULL ? client->bytes_to_app : server->bytes_to_mesh);
    table_addf(table, "%" PRIu64 "ms", one->duration_ms);
    table_addf(table, "%s %s", one->tls_version, one->cipher);
}

static void logs_pairs_print(const struct logs_pairs *pairs)
{
    static const char *const heads[] = {"TIME", "LINK",     "KEY",      "CLIENT", "SERVER",
                                        "SENT", "RECEIVED", "DURATION", "TLS",    NULL};
    struct table table = {.heads = heads};

    for (size_t i = 0; i < pairs->num; i++)
        logs_row(&table, pairs->items[i]);
    table_print(&table);
    if (pairs->left_out != 0)
        ctl_tell("%" PRIu64 " entries are missing here", pairs->left_out);
}

/* ---- the command ---- */

static bool logs_join(struct conn *conn, const Mortise__V1__LogsRequest *request)
{
    CLEANUP(logs_pairs_fini) struct logs_pairs pairs = {.num = 0};
    bool ok = conn_stream(conn, "OperatorService/Logs", &request->base,
                          &mortise__v1__access_log_entry__descriptor, logs_on_end, &pairs);

    if (ok)
        logs_pairs_print(&pairs);
    return ok;
}

static const char *logs_misused(const struct ctl_flags *flags)
{
    if (flags->output == CTL_YAML || flags->output == CTL_WIDE)
        return "lines (table), or JSON lines (json)";
    if (flags->join && (flags->follow || flags->output == CTL_JSON))
        return "--join is a table of what there is: without --follow and -o json";
    return NULL;
}

static int logs_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__LogsRequest request = MORTISE__V1__LOGS_REQUEST__INIT;
    const char *misused = logs_misused(flags);
    struct conn *conn;
    bool ok = false;

    if (misused != NULL) {
        ctl_tell("logs: %s", misused);
        return CTL_USAGE;
    }
    request.name = num > 0 ? operands[0] : msg_lend("");
    request.key = flags->connection != NULL ? flags->connection : msg_lend("");
    if (flags->since_ms != 0)
        request.since_ms = clock_wall_us() / 1000 - flags->since_ms;
    request.follow = flags->follow;
    conn = conn_open(flags);
    if (conn != NULL && flags->join)
        ok = logs_join(conn, &request);
    else if (conn != NULL)
        ok = conn_stream(conn, "OperatorService/Logs", &request.base,
                         &mortise__v1__access_log_entry__descriptor, logs_on_entry,
                         (void *)(uintptr_t)flags); /* only read */
    conn_close(conn);
    return ok ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_logs = {
    .name = "logs",
    .operands = "[SUBSYSTEM|LINK]",
    .summary = "connections that ended, as the sidecars at both ends tell",
    .about =
        "Writes a line for each connection that ended and that a sidecar has sent up: link, "
        "direction, key, identities, TLS, bytes, duration, and how it ended. The key is the same "
        "at both ends. With SUBSYSTEM what its sidecars tell; with LINK what both its ends tell. "
        "Which connections are sent up, the mesh says: settings.access_log.permille and, of a "
        "link, access_log.permille; by default none.\n\n"
        "Example: mortisectl logs portal --since 10m -f\n"
        "         mortisectl logs management-portal --join\n"
        "         mortisectl logs --connection 1f0c3a5e9b7d2468 -o json",
    .options = logs_options,
    .min_operands = 0,
    .max_operands = 1,
    .run = logs_run,
};
