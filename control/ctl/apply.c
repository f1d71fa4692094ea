/* mortisectl apply: a mesh document, whole or not at all. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/ctl/conn.h"
#include "control/ctl/rollout.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option apply_options[] = {
    {.name = "file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, file),
     .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "The document, YAML or JSON; - is standard input; -f for short."},
    {.name = "dry-run",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, dry_run),
     .def = "false",
     .help = "Check it and tell what would change."},
    {.name = "prune",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, prune),
     .def = "false",
     .help = "Remove what the document does not name (built-in profiles stay)."},
    {.name = "wait",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, wait),
     .def = "false",
     .help = "Wait until every connected sidecar has accepted it; fails if one refuses."},
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static bool apply_has_fault(const struct faults *faults, const char *path)
{
    for (size_t i = 0; i < faults->num; i++) {
        if (strcmp(faults->items[i].path, path) == 0)
            return true;
    }
    return false;
}

/* What `get mesh` writes is a document, too: with the version that it was taken at, which must
 * still be in force then. */
static bool apply_parse_answer(const char *name, struct bytes text,
                               Mortise__V1__ApplyRequest *request, struct faults *faults,
                               ProtobufCMessage **out)
{
    Mortise__V1__GetMeshResponse *answer;

    if (!err_is_ok(json_pb_parse(JSON_PB_YAML, name, text,
                                 &mortise__v1__get_mesh_response__descriptor, faults, out)))
        return false;
    answer = MSG_AS(Mortise__V1__GetMeshResponse, mortise__v1__get_mesh_response__descriptor, *out);
    request->mesh = answer->mesh;
    request->if_version = answer->version;
    return true;
}

/* Fills the request from the document; what it borrows is in `*out` (pb_free). */
static bool apply_parse(const char *name, struct bytes text, Mortise__V1__ApplyRequest *request,
                        ProtobufCMessage **out)
{
    struct faults faults = {0};
    bool parsed = err_is_ok(
        json_pb_parse(JSON_PB_YAML, name, text, &mortise__v1__mesh__descriptor, &faults, out));

    if (parsed) {
        request->mesh = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor, *out);
    } else if (apply_has_fault(&faults, "mesh")) {
        faults_fini(&faults);
        parsed = apply_parse_answer(name, text, request, &faults, out);
    }
    if (!parsed) {
        ctl_tell("%s is not a mesh document:", name);
        ctl_tell_faults(&faults);
    }
    faults_fini(&faults);
    return parsed;
}

/* ---------------------------------------------------------------------- whole */

static int apply_send(struct conn *conn, const struct ctl_flags *flags,
                      const Mortise__V1__ApplyRequest *request)
{
    ProtobufCMessage *msg = conn_call(conn, "OperatorService/Apply", &request->base,
                                      &mortise__v1__apply_response__descriptor);
    const Mortise__V1__ApplyResponse *reply;
    uint64_t version;
    size_t num;

    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__ApplyResponse, mortise__v1__apply_response__descriptor, msg);
    for (size_t i = 0; i < reply->n_changes; i++)
        printf("%s\n", reply->changes[i]);
    version = reply->version;
    num = reply->n_changes;
    pb_free(msg);
    if (num == 0)
        printf("nothing to change: version %" PRIu64 " is like that\n", version);
    else if (flags->dry_run)
        printf("dry run: nothing was changed, version %" PRIu64 " stays\n", version);
    else
        printf("version %" PRIu64 " is in force\n", version);
    (void)fflush(stdout);
    return flags->wait && !flags->dry_run ? rollout_wait(conn, flags, version) : CTL_OK;
}

static int apply_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__ApplyRequest request = MORTISE__V1__APPLY_REQUEST__INIT;
    const char *name = strcmp(flags->file, "-") == 0 ? "standard input" : flags->file;
    CLEANUP(buf_fini) struct buf text = {0};
    ProtobufCMessage *document = NULL;
    struct conn *conn;
    int status = CTL_FAILED;

    (void)num;
    (void)operands;
    if (!ctl_read("--file", flags->file, false, &text) ||
        !apply_parse(name, buf_view(&text), &request, &document))
        return CTL_FAILED;
    request.prune = flags->prune;
    request.dry_run = flags->dry_run;
    conn = conn_open(flags);
    if (conn != NULL)
        status = apply_send(conn, flags, &request);
    conn_close(conn);
    pb_free(document);
    return status;
}

const struct ctl_command ctl_apply = {
    .name = "apply",
    .operands = "",
    .summary = "change subsystems, links, profiles by a document",
    .about =
        "Merges a mesh document by name, in one transaction: all of it or, if anything is wrong, "
        "nothing; every fault is told with its place. proto/mesh/resource.proto describes the "
        "document; `mortisectl get mesh -o yaml` shows the one in force, and can be applied "
        "again as it is.\n\n"
        "Example: mortisectl apply -f mesh.yaml --wait",
    .options = apply_options,
    .run = apply_run,
};
