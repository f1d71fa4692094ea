/* mortisectl audit: what was done to the mesh, by whom, and whether that is all of it. */
#include "control/ctl/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/bytestring.h>

#include "certs/pem.h"
#include "control/audit_chain.h"
#include "control/ctl/conn.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define AUDIT_TAIL 20
#define AUDIT_POLL_MS 1000

/* ---- what is asked for ---- */

bool audit_each(struct conn *conn, Mortise__V1__ListAuditRecordsRequest *request, audit_fn fn,
                void *arg)
{
    char token[24] = "";
    bool going = true;

    while (going) {
        Mortise__V1__ListAuditRecordsResponse *reply;
        ProtobufCMessage *msg;

        request->page_token = token;
        msg = conn_call(conn, "OperatorService/ListAuditRecords", &request->base,
                        &mortise__v1__list_audit_records_response__descriptor);
        if (msg == NULL)
            return false;
        reply = MSG_AS(Mortise__V1__ListAuditRecordsResponse,
                       mortise__v1__list_audit_records_response__descriptor, msg);
        for (size_t i = 0; i < reply->n_records && going; i++)
            going = fn(arg, reply->records[i]);
        going = going && reply->next_page_token[0] != '\0' &&
                strcmp(reply->next_page_token, token) != 0;
        (void)snprintf(token, sizeof(token), "%s", reply->next_page_token);
        pb_free(msg);
    }
    request->page_token = msg_lend("");
    return true;
}

Mortise__V1__AuditState *audit_state(struct conn *conn, const char *method,
                                     const ProtobufCMessage *request)
{
    ProtobufCMessage *msg = conn_call(conn, method, request, &mortise__v1__audit_state__descriptor);
    Mortise__V1__AuditState *state;

    if (msg == NULL)
        return NULL;
    state = MSG_AS(Mortise__V1__AuditState, mortise__v1__audit_state__descriptor, msg);
    if (state->head != NULL)
        return state;
    ctl_tell("the control plane does not say where its audit log ends");
    pb_free(msg);
    return NULL;
}

Mortise__V1__AuditState *audit_get(struct conn *conn)
{
    static const Mortise__V1__GetAuditRequest request = MORTISE__V1__GET_AUDIT_REQUEST__INIT;

    return audit_state(conn, "OperatorService/GetAudit", &request.base);
}

/* ---- how it is shown ---- */

static void audit_heads(void)
{
    printf("%8s  %-24s  %-9s  %-18s  %-21s  %s\n", "SEQ", "TIME", "OUTCOME", "ACTION", "SOURCE",
           "WHO: WHAT");
}

static void audit_part(const char *before, const char *text, const char *after)
{
    if (text[0] == '\0')
        return;
    fputs(before, stdout);
    ctl_print(stdout, text);
    fputs(after, stdout);
}

static void audit_line(const Mortise__V1__AuditRecord *record)
{
    bool refused = record->outcome == MORTISE__V1__AUDIT_RECORD__OUTCOME__REFUSED;
    char when[21];

    clock_format_utc(record->at_ms / 1000, when);
    printf("%8" PRIu64 "  %.19s.%03dZ  %-9s  ", record->seq, when, (int)(record->at_ms % 1000),
           refused ? "refused" : "ok");
    ctl_print(stdout, record->action);
    printf("%*s", strlen(record->action) < 18 ? (int)(18 - strlen(record->action)) : 0, "");
    audit_part("  ", record->source[0] != '\0' ? record->source : "-", "");
    printf("%*s", strlen(record->source) < 21 ? (int)(20 - strlen(record->source)) : 0, "");
    audit_part("  ", record->who, ":");
    audit_part(" (as ", record->role, ")");
    audit_part(" ", record->object, "");
    audit_part(" serial=", record->serial, "");
    if (record->version != 0)
        printf(" version=%" PRIu64, record->version);
    audit_part(" \"", record->message, "\"");
    audit_part(" - ", record->reason, "");
    if (record->count != 0)
        printf(" (%" PRIu64 " more times)", record->count);
    if (record->n_weaker != 0)
        printf(" (weaker: %zu)", record->n_weaker);
    if (record->purged_seq != 0)
        printf(" (up to %" PRIu64 ")", record->purged_seq);
    printf("\n");
    for (size_t i = 0; i < record->n_weaker; i++)
        audit_part("          weaker: ", record->weaker[i], "\n");
}

static bool audit_print_json(FILE *to, const Mortise__V1__AuditRecord *record)
{
    CLEANUP(buf_fini) struct buf line = {0};
    err_t err = audit_json(record, &line);

    CHECK(err_is_ok(err)); /* its texts are short */
    return fwrite(buf_view(&line).ptr, 1, buf_size(&line), to) == buf_size(&line);
}

static bool audit_show(void *arg, const Mortise__V1__AuditRecord *record)
{
    const struct ctl_flags *flags = arg;

    if (flags->output == CTL_JSON)
        (void)audit_print_json(stdout, record);
    else
        audit_line(record);
    return true;
}

static bool audit_can_show(const struct ctl_flags *flags)
{
    if (flags->output == CTL_TABLE || flags->output == CTL_JSON)
        return true;
    ctl_tell("audit: lines (table), or JSON lines (json)");
    return false;
}

/* ---- tail ---- */

static const struct option audit_tail_options[] = {
    CTL_OUTPUT_ROW,
    {.name = "limit",
     .kind = OPTION_INT,
     .offset = offsetof(struct ctl_flags, limit),
     .def = "20",
     .min = 1,
     .max = 1000000,
     .arg = "N",
     .help = "How many of the newest."},
    {.name = "follow",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, follow),
     .def = "false",
     .help = "Go on with those to come, until it is interrupted; -f for short."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* From `next` on; moves it on. */
static bool audit_tail_from(const struct ctl_flags *flags, struct conn *conn, uint64_t *next)
{
    Mortise__V1__ListAuditRecordsRequest request = MORTISE__V1__LIST_AUDIT_RECORDS_REQUEST__INIT;
    Mortise__V1__AuditState *state = audit_get(conn);
    bool ok = true;

    if (state == NULL)
        return false;
    request.last_seq = state->head->seq;
    if (*next == 0)
        *next = request.last_seq >= (uint64_t)flags->limit
                    ? request.last_seq - (uint64_t)flags->limit + 1
                    : 1;
    request.first_seq = *next;
    if (request.first_seq <= request.last_seq)
        ok = audit_each(conn, &request, audit_show, (void *)(uintptr_t)flags); /* only read */
    *next = request.last_seq + 1;
    pb_free(&state->base);
    (void)fflush(stdout);
    return ok;
}

static int audit_tail_run(const struct ctl_flags *flags, int num, char **operands)
{
    const struct timespec pause = {AUDIT_POLL_MS / 1000, 0};
    struct conn *conn;
    uint64_t next = 0;
    bool ok;

    (void)num;
    (void)operands;
    if (!audit_can_show(flags))
        return CTL_USAGE;
    conn = conn_open(flags);
    if (conn == NULL)
        return CTL_FAILED;
    if (flags->output == CTL_TABLE)
        audit_heads();
    ok = audit_tail_from(flags, conn, &next);
    while (ok && flags->follow) {
        (void)nanosleep(&pause, NULL);
        ok = audit_tail_from(flags, conn, &next);
    }
    conn_close(conn);
    return ok ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_audit_tail = {
    .name = "audit tail",
    .operands = "",
    .summary = "the newest records of the audit log",
    .about = "Writes a line for each: its number, when, whether it was done or refused, what "
             "(mesh.apply, token.create, certificate.issue, …), from where, who, and to what. "
             "-o json writes records as JSON lines, with digests and hashes.\n\n"
             "Example: mortisectl audit tail -f",
    .options = audit_tail_options,
    .run = audit_tail_run,
};

/* ---- search ---- */

static const struct option audit_search_options[] = {
    CTL_OUTPUT_ROW,
    {.name = "who",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, who),
     .arg = "TEXT",
     .help = "Only by whom this is part of the name of."},
    {.name = "action",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, action),
     .arg = "WORD",
     .help = "Only this: mesh.apply; or all of a kind: mesh."},
    {.name = "object",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, object),
     .arg = "TEXT",
     .help = "Only what this is part of the object, the serial number or the message of."},
    {.name = "outcome",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, outcome),
     .arg = "ok|refused",
     .help = "Only what was done, or what was refused."},
    {.name = "since",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, since),
     .arg = "TIME",
     .help = "Not before: 2026-11-23T08:00:00Z, 2026-11-23, or how long ago: 90s, 30m, 12h, 7d."},
    {.name = "until",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, until),
     .arg = "TIME",
     .help = "Not after; likewise."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* A number and a unit, in seconds; -1: it is none. */
static int64_t audit_ago(const char *text)
{
    static const struct {
        char unit;
        int64_t seconds;
    } units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
    size_t digits = strspn(text, "0123456789");

    if (digits == 0 || digits > 9 || text[digits] == '\0' || text[digits + 1] != '\0')
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        if (units[i].unit == text[digits])
            return (int64_t)strtoll(text, NULL, 10) * units[i].seconds;
    }
    return -1;
}

bool audit_time(const char *flag, const char *text, int64_t now_s, int64_t *out_ms)
{
    struct tm parts = {.tm_mday = 1};
    int64_t ago = audit_ago(text);
    const char *end;

    if (ago >= 0) {
        *out_ms = (now_s - ago) * 1000;
        return true;
    }
    end = strptime(text, "%Y-%m-%d", &parts);
    if (end != NULL && *end == 'T')
        end = strptime(end, "T%H:%M:%SZ", &parts);
    if (end == NULL || *end != '\0') {
        ctl_tell("--%s: \"%s\" is no time: 2026-11-23T08:00:00Z, 2026-11-23, or how long ago: 90s, "
                 "30m, 12h, 7d",
                 flag, text);
        return false;
    }
    *out_ms = (int64_t)timegm(&parts) * 1000;
    return true;
}

static bool audit_fill_search(const struct ctl_flags *flags,
                              Mortise__V1__ListAuditRecordsRequest *request)
{
    int64_t now_s = clock_wall_s(&clock_system);

    request->who = msg_lend(flags->who != NULL ? flags->who : "");
    request->action = msg_lend(flags->action != NULL ? flags->action : "");
    request->object = msg_lend(flags->object != NULL ? flags->object : "");
    if (flags->outcome != NULL && strcmp(flags->outcome, "ok") == 0) {
        request->outcome = MORTISE__V1__AUDIT_RECORD__OUTCOME__OK;
    } else if (flags->outcome != NULL && strcmp(flags->outcome, "refused") == 0) {
        request->outcome = MORTISE__V1__AUDIT_RECORD__OUTCOME__REFUSED;
    } else if (flags->outcome != NULL) {
        ctl_tell("--outcome: \"%s\" is none of ok, refused", flags->outcome);
        return false;
    }
    return (flags->since == NULL || audit_time("since", flags->since, now_s, &request->since_ms)) &&
           (flags->until == NULL || audit_time("until", flags->until, now_s, &request->until_ms));
}

static int audit_search_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__ListAuditRecordsRequest request = MORTISE__V1__LIST_AUDIT_RECORDS_REQUEST__INIT;
    struct conn *conn;
    bool ok = false;

    (void)num;
    (void)operands;
    if (!audit_can_show(flags) || !audit_fill_search(flags, &request))
        return CTL_USAGE;
    conn = conn_open(flags);
    if (conn != NULL && flags->output == CTL_TABLE)
        audit_heads();
    if (conn != NULL)
        ok = audit_each(conn, &request, audit_show, (void *)(uintptr_t)flags); /* only read */
    conn_close(conn);
    return ok ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_audit_search = {
    .name = "audit search",
    .operands = "",
    .summary = "records of the audit log by who, what, when",
    .about = "Writes the records that match all of what is asked for, oldest first, as audit tail "
             "does.\n\n"
             "Example: mortisectl audit search --who alice --action mesh --since 7d\n"
             "         mortisectl audit search --outcome refused --since 1h -o json",
    .options = audit_search_options,
    .run = audit_search_run,
};

/* ---- key ---- */

static int audit_key_run(const struct ctl_flags *flags, int num, char **operands)
{
    CLEANUP(buf_fini) struct buf pem = {0};
    struct conn *conn = conn_open(flags);
    Mortise__V1__AuditState *state = conn != NULL ? audit_get(conn) : NULL;
    err_t err;

    (void)num;
    (void)operands;
    conn_close(conn);
    if (state == NULL)
        return CTL_FAILED;
    err = pem_write("PUBLIC KEY", msg_view(state->public_key), &pem);
    pb_free(&state->base);
    if (!err_is_ok(err)) {
        ctl_tell("%s", err_text(err.code));
        return CTL_FAILED;
    }
    printf("%.*s", (int)buf_size(&pem), (const char *)buf_view(&pem).ptr);
    return CTL_OK;
}

static const struct option audit_key_options[] = {CTL_CONNECTION_ROWS, {.name = NULL}};

const struct ctl_command ctl_audit_key = {
    .name = "audit key",
    .operands = "",
    .summary = "the public key that the audit log is signed with",
    .about = "Writes it as PEM. Keep it elsewhere: who has it can verify an export, or the log, "
             "without trusting the machine that it is on.\n\n"
             "Example: mortisectl audit key > audit-key.pem",
    .options = audit_key_options,
    .run = audit_key_run,
};

/* ---- export ---- */

struct audit_export {
    FILE *to;
    uint64_t num;
    bool wrong;
};

static bool audit_export_one(void *arg, const Mortise__V1__AuditRecord *record)
{
    struct audit_export *export = arg;

    export->wrong = !audit_print_json(export->to, record);
    export->num += !export->wrong;
    return !export->wrong;
}

static bool audit_export_to(struct conn *conn, struct audit_export *export)
{
    static const Mortise__V1__ExportAuditRequest begin = MORTISE__V1__EXPORT_AUDIT_REQUEST__INIT;
    Mortise__V1__ListAuditRecordsRequest request = MORTISE__V1__LIST_AUDIT_RECORDS_REQUEST__INIT;
    Mortise__V1__AuditState *state = audit_state(conn, "OperatorService/ExportAudit", &begin.base);
    bool ok;

    if (state == NULL)
        return false;
    request.last_seq = state->head->seq;
    ok = audit_each(conn, &request, audit_export_one, export);
    pb_free(&state->base);
    return ok;
}

static int audit_export_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct audit_export export = {.to = stdout};
    struct conn *conn;
    bool ok = false;
    int fd;

    if (num > 0) {
        fd = open(operands[0], O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        export.to = fd >= 0 ? fdopen(fd, "w") : NULL;
        if (export.to == NULL) {
            ctl_tell("%s: %s", operands[0],
                     errno == EEXIST ? "exists already; an export replaces nothing"
                                     : strerror(errno));
            return CTL_USAGE;
        }
    }
    conn = conn_open(flags);
    if (conn != NULL)
        ok = audit_export_to(conn, &export);
    conn_close(conn);
    export.wrong =
        fflush(export.to) != 0 || (num > 0 && fsync(fileno(export.to)) != 0) || export.wrong;
    if (num > 0)
        (void)fclose(export.to);
    if (ok && export.wrong)
        ctl_tell("%s: cannot be written", num > 0 ? operands[0] : "standard output");
    if (ok && !export.wrong)
        fprintf(stderr, "%" PRIu64 " records; mortisectl audit verify judges them\n", export.num);
    else if (num > 0)
        (void)unlink(operands[0]);
    return ok && !export.wrong ? CTL_OK : CTL_FAILED;
}

static const struct option audit_export_options[] = {CTL_CONNECTION_ROWS, {.name = NULL}};

const struct ctl_command ctl_audit_export = {
    .name = "audit export",
    .operands = "[FILE]",
    .summary = "the audit log as JSON lines",
    .about = "Writes every record that is kept, oldest first, a line each; the last one, "
             "audit.export, is signed. audit verify -f judges the file without the control "
             "plane.\n\n"
             "Example: mortisectl audit export audit.jsonl\n"
             "         mortisectl audit verify -f audit.jsonl --key audit-key.pem",
    .options = audit_export_options,
    .min_operands = 0,
    .max_operands = 1,
    .run = audit_export_run,
};

/* ---- purge ---- */

static const struct option audit_purge_options[] = {
    {.name = "up-to",
     .kind = OPTION_INT,
     .offset = offsetof(struct ctl_flags, up_to),
     .flags = OPTION_FLAG_NO_FILE,
     .def = "0",
     .min = 0,
     .max = INT64_MAX,
     .arg = "SEQ",
     .help = "The last record that goes."},
    {.name = "reason",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, reason),
     .arg = "TEXT",
     .help = "Why, for the record of it."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static int audit_purge_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__PurgeAuditRequest request = MORTISE__V1__PURGE_AUDIT_REQUEST__INIT;
    struct conn *conn;
    uint64_t first = 0, before;
    bool ok;

    (void)num;
    (void)operands;
    if (flags->up_to == 0) {
        ctl_tell("--up-to: the last record that goes (mortisectl audit tail)");
        return CTL_USAGE;
    }
    conn = conn_open(flags);
    ok = conn != NULL;
    request.last_seq = (uint64_t)flags->up_to;
    request.reason = msg_lend(flags->reason != NULL ? flags->reason : "");
    do {
        Mortise__V1__AuditState *state =
            ok ? audit_state(conn, "OperatorService/PurgeAudit", &request.base) : NULL;

        ok = state != NULL;
        before = first;
        if (ok) {
            first = state->head->first_seq;
            pb_free(&state->base);
        }
    } while (ok && first != before && first <= request.last_seq);
    conn_close(conn);
    if (ok)
        printf("the log begins with record %" PRIu64 "%s\n", first,
               first <= request.last_seq ? ": those after it are not in the audit file yet" : "");
    return ok ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_audit_purge = {
    .name = "audit purge",
    .operands = "",
    .summary = "remove the oldest records of the audit log",
    .about = "Removes records up to SEQ, with a signed record of who did and why, so that what "
             "stays can be verified. Export first. It takes an elevation (mortisectl elevate).\n\n"
             "Example: mortisectl audit purge --up-to 12000 --reason \"exported 2026-11-23\"",
    .options = audit_purge_options,
    .run = audit_purge_run,
};
