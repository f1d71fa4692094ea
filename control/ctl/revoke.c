/* mortisectl revoke, lift and get revocations: who is denied. */
#include "control/ctl/revoke.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "certs/revoke.h"
#include "control/ctl/connections.h"
#include "control/ctl/rollout.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option revoke_options[] = {
    {.name = "grace",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, grace_ms),
     .def = "0s",
     .min = 0,
     .max = REVOKE_GRACE_MAX_MS,
     .arg = "TIME",
     .help = "How long connections that live may go on; new ones are refused at once."},
    {.name = "reason",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, reason),
     .arg = "TEXT",
     .help = "Why, for people; get revocations shows it."},
    {.name = "dry-run",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, dry_run),
     .def = "false",
     .help = "Only tell which live connections would end."},
    {.name = "wait",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, wait),
     .def = "false",
     .help = "Wait until every other connected sidecar has acknowledged it."},
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* What a subsystem is called by its certificates; told when there is none. Owned. */
static char *revoke_id_of(struct conn *conn, const char *subsystem)
{
    Mortise__V1__StatusRequest ask_status = MORTISE__V1__STATUS_REQUEST__INIT;
    Mortise__V1__GetMeshRequest ask_mesh = MORTISE__V1__GET_MESH_REQUEST__INIT;
    ProtobufCMessage *status = conn_call(conn, "OperatorService/Status", &ask_status.base,
                                         &mortise__v1__status_response__descriptor);
    ProtobufCMessage *mesh = NULL;
    const Mortise__V1__Subsystem *found;
    char *id = NULL;

    if (status != NULL)
        mesh = conn_call(conn, "OperatorService/GetMesh", &ask_mesh.base,
                         &mortise__v1__get_mesh_response__descriptor);
    if (mesh != NULL) {
        found = mesh_subsystem(
            MSG_AS(Mortise__V1__GetMeshResponse, mortise__v1__get_mesh_response__descriptor, mesh)
                ->mesh,
            subsystem);
        if (found != NULL)
            id = mesh_spiffe_id(MSG_AS(Mortise__V1__StatusResponse,
                                       mortise__v1__status_response__descriptor, status)
                                    ->trust_domain,
                                found);
        else
            ctl_tell("revoke: no subsystem is called \"%s\" (mortisectl get subsystems)",
                     subsystem);
    }
    pb_free(status);
    pb_free(mesh);
    return id;
}

static const char *const revoke_kinds[] = {"subsystem", "spiffe-id", "serial",
                                           "issuer",    "key",       NULL};
enum { KIND_SUBSYSTEM, KIND_SPIFFE_ID, KIND_SERIAL, KIND_ISSUER, KIND_KEY, NUM_KINDS };

static int revoke_kind(const char *word)
{
    int nearest;

    for (int i = 0; i < NUM_KINDS; i++) {
        if (strcmp(revoke_kinds[i], word) == 0)
            return i;
    }
    nearest = str_nearest(word, revoke_kinds, NUM_KINDS);
    ctl_tell("revoke: no \"%s\"; there are: subsystem, spiffe-id, serial, issuer, key%s%s%s", word,
             nearest >= 0 ? " (meant was " : "", nearest >= 0 ? revoke_kinds[nearest] : "",
             nearest >= 0 ? "?)" : "");
    return -1;
}

static char **revoke_field(Mortise__V1__Revocation *revocation, int kind)
{
    switch (kind) {
    case KIND_SERIAL:
        return &revocation->serial;
    case KIND_ISSUER:
        return &revocation->issuer_key_sha256;
    case KIND_KEY:
        return &revocation->key_sha256;
    default:
        return &revocation->spiffe_id;
    }
}

static int revoke_told(struct conn *conn, const struct ctl_flags *flags, ProtobufCMessage *msg,
                       const char *what)
{
    const Mortise__V1__RevokeResponse *reply;
    uint64_t version;

    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__RevokeResponse, mortise__v1__revoke_response__descriptor, msg);
    version = reply->version;
    printf("revocation %" PRIu64 " is %s\n", reply->id, what);
    (void)fflush(stdout);
    pb_free(msg);
    return flags->wait ? rollout_wait(conn, flags, version, NULL) : CTL_OK;
}

static int revoke_send(struct conn *conn, const struct ctl_flags *flags, int kind,
                       const char *value)
{
    Mortise__V1__RevokeRequest request = MORTISE__V1__REVOKE_REQUEST__INIT;
    Mortise__V1__Revocation revocation = MORTISE__V1__REVOCATION__INIT;
    Mortise__V1__PreviewRequest preview = MORTISE__V1__PREVIEW_REQUEST__INIT;
    CLEANUP(mem_freep) char *id = NULL;

    if (kind == KIND_SUBSYSTEM) {
        id = revoke_id_of(conn, value);
        if (id == NULL)
            return CTL_FAILED;
        value = id;
    }
    *revoke_field(&revocation, kind) = msg_lend(value);
    revocation.grace_ms = (uint32_t)flags->grace_ms;
    if (flags->dry_run) {
        preview.revocation = &revocation;
        return connections_preview(conn, &preview);
    }
    request.revocation = &revocation;
    if (flags->reason != NULL)
        request.reason = flags->reason;
    return revoke_told(conn, flags,
                       conn_call(conn, "OperatorService/Revoke", &request.base,
                                 &mortise__v1__revoke_response__descriptor),
                       "in force");
}

static int revoke_run(const struct ctl_flags *flags, int num, char **operands)
{
    int kind = revoke_kind(operands[0]), status = CTL_FAILED;
    struct conn *conn;

    (void)num;
    if (kind < 0)
        return CTL_USAGE;
    conn = conn_open(flags);
    if (conn != NULL)
        status = revoke_send(conn, flags, kind, operands[1]);
    conn_close(conn);
    return status;
}

const struct ctl_command ctl_revoke = {
    .name = "revoke",
    .operands = "KIND VALUE",
    .summary = "deny an identity, a certificate, a key or an issuer",
    .about =
        "KIND and VALUE are: subsystem NAME; spiffe-id ID; serial HEX (of a certificate); key "
        "SHA-256 (of a certificate's SubjectPublicKeyInfo, hex); issuer SHA-256 (the same of a CA: "
        "everything below it). Every sidecar refuses new connections with it at once and ends "
        "those "
        "that live after the grace time; the control plane takes no call from it and issues it "
        "nothing. It lasts until `mortisectl lift`; of a serial number until that certificate "
        "expires.\n\n"
        "Example: mortisectl revoke subsystem portal --grace 10s --reason \"host taken over\" "
        "--wait",
    .options = revoke_options,
    .min_operands = 2,
    .max_operands = 2,
    .run = revoke_run,
};

/* ---- lift ---- */

static const struct option lift_options[] = {
    {.name = "wait",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, wait),
     .def = "false",
     .help = "Wait until every connected sidecar has acknowledged it."},
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static bool lift_id(const char *text, uint64_t *out)
{
    if (text[0] == '\0' || strspn(text, "0123456789") != strlen(text) || strlen(text) > 19)
        return false;
    *out = strtoull(text, NULL, 10);
    return true;
}

static int lift_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__LiftRequest request = MORTISE__V1__LIFT_REQUEST__INIT;
    struct conn *conn;
    int status = CTL_FAILED;

    (void)num;
    if (!lift_id(operands[0], &request.id)) {
        ctl_tell("lift: \"%s\" is not a revocation's number (mortisectl get revocations)",
                 operands[0]);
        return CTL_USAGE;
    }
    conn = conn_open(flags);
    if (conn != NULL)
        status = revoke_told(conn, flags,
                             conn_call(conn, "OperatorService/Lift", &request.base,
                                       &mortise__v1__revoke_response__descriptor),
                             "lifted");
    conn_close(conn);
    return status;
}

const struct ctl_command ctl_lift = {
    .name = "lift",
    .operands = "ID",
    .summary = "take a revocation back",
    .about = "What it denied is let in again, if nothing else is wrong with it.\n\n"
             "Example: mortisectl lift 3",
    .options = lift_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = lift_run,
};

/* ---- get revocations ---- */

static void revocations_table(const Mortise__V1__ListRevocationsResponse *reply)
{
    static const char *const heads[] = {"ID", "KIND",  "VALUE",  "GRACE", "REVOKED",
                                        "BY", "UNTIL", "REASON", NULL};
    struct table table = {.heads = heads};
    int64_t now_s = clock_wall_s(&clock_system);
    char when[TABLE_TIME_MAX];

    for (size_t i = 0; i < reply->n_revocations; i++) {
        const Mortise__V1__RevocationStatus *item = reply->revocations[i];
        struct revoke_subject subject;

        if (item->revocation == NULL)
            continue;
        subject = revoke_subject(item->revocation);
        table_addf(&table, "%" PRIu64, item->id);
        table_add(&table, subject.kind);
        table_add(&table, subject.value);
        table_addf(&table, "%.3gs", item->revocation->grace_ms / 1000.0);
        table_time(item->revoked_at, now_s, when);
        table_add(&table, when);
        table_add(&table, item->by);
        table_time(item->until, now_s, when);
        table_add(&table, item->until != 0 ? when : "until lifted");
        table_add(&table, item->reason);
    }
    table_print(&table);
}

int revocations_show(const struct ctl_flags *flags, struct conn *conn)
{
    Mortise__V1__ListRevocationsRequest request = MORTISE__V1__LIST_REVOCATIONS_REQUEST__INIT;
    ProtobufCMessage *msg = conn_call(conn, "OperatorService/ListRevocations", &request.base,
                                      &mortise__v1__list_revocations_response__descriptor);

    if (msg == NULL)
        return CTL_FAILED;
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, msg);
    else
        revocations_table(MSG_AS(Mortise__V1__ListRevocationsResponse,
                                 mortise__v1__list_revocations_response__descriptor, msg));
    pb_free(msg);
    return CTL_OK;
}
