/* mortisectl apply: a mesh document, whole or not at all. */
#include "control/ctl/apply.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/ctl/connections.h"
#include "control/ctl/document.h"
#include "control/ctl/rollout.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option apply_options[] = {
    CTL_DOCUMENT_ROW,
    CTL_DRY_RUN_ROW,
    {.name = "prune",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, prune),
     .def = "false",
     .help = "Remove what the document does not name (built-in profiles stay)."},
    CTL_WEAKER_ROW,
    CTL_FORCE_STRICT_ROW,
    CTL_WAIT_ROW,
    CTL_ON_NACK_ROW,
    CTL_MESSAGE_ROW,
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* ---------------------------------------------------------------------- whole */

/* What it would do to what is open. */
static int apply_preview(struct conn *conn, const Mortise__V1__ApplyRequest *apply)
{
    Mortise__V1__PreviewRequest request = MORTISE__V1__PREVIEW_REQUEST__INIT;

    request.apply = (Mortise__V1__ApplyRequest *)(uintptr_t)apply; /* only read */
    return connections_preview(conn, &request);
}

/* The revision before `version`, which is the newest; 0: told. */
static uint64_t apply_before(struct conn *conn, uint64_t version)
{
    Mortise__V1__ListRevisionsRequest request = MORTISE__V1__LIST_REVISIONS_REQUEST__INIT;
    const Mortise__V1__ListRevisionsResponse *reply;
    ProtobufCMessage *msg;
    uint64_t before = 0;

    request.page_size = 2;
    msg = conn_call(conn, "OperatorService/ListRevisions", &request.base,
                    &mortise__v1__list_revisions_response__descriptor);
    if (msg == NULL)
        return 0;
    reply = MSG_AS(Mortise__V1__ListRevisionsResponse,
                   mortise__v1__list_revisions_response__descriptor, msg);
    if (reply->n_revisions == 2 && reply->revisions[0]->version == version)
        before = reply->revisions[1]->version;
    else
        ctl_tell("it stays: %s", reply->n_revisions == 2 ? "somebody has changed the mesh since"
                                                         : "there is no revision before it");
    pb_free(msg);
    return before;
}

/* What a sidecar refuses is taken back as it came: also where it was the weaker one before. */
static void apply_take_back(struct conn *conn, const struct ctl_flags *flags, uint64_t version,
                            const char *refuser)
{
    Mortise__V1__ApplyRequest request = MORTISE__V1__APPLY_REQUEST__INIT;
    CLEANUP(mem_freep) char *message = mem_printf("version %" PRIu64 ": %s", version, refuser);
    struct ctl_flags back = *flags;

    request.revision = apply_before(conn, version);
    if (request.revision == 0)
        return;
    request.if_version = version;
    back.message = message;
    back.allow_weaker = true;
    back.force = true; /* also where somebody uses already the plaintext that it brought */
    back.rollback_on_nack = false;
    back.wait = true;
    printf("going back to revision %" PRIu64 "\n", request.revision);
    (void)apply_send(conn, &back, &request);
}

static int apply_follow(struct conn *conn, const struct ctl_flags *flags, uint64_t version)
{
    CLEANUP(mem_freep) char *refuser = NULL;
    int status;

    if (!flags->wait && !flags->rollback_on_nack)
        return CTL_OK;
    status = rollout_wait(conn, flags, version, &refuser);
    if (refuser != NULL && flags->rollback_on_nack)
        apply_take_back(conn, flags, version, refuser);
    return status;
}

int apply_call(struct conn *conn, const struct ctl_flags *flags, const char *method,
               const ProtobufCMessage *request)
{
    const Mortise__V1__ApplyResponse *reply;
    ProtobufCMessage *msg;
    uint64_t version;
    size_t num;

    msg = conn_call(conn, method, request, &mortise__v1__apply_response__descriptor);
    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__ApplyResponse, mortise__v1__apply_response__descriptor, msg);
    for (size_t i = 0; i < reply->n_changes; i++)
        printf("%s\n", reply->changes[i]);
    for (size_t i = 0; i < reply->n_weaker; i++)
        printf("weaker: %s\n", reply->weaker[i]);
    for (size_t i = 0; i < reply->n_warnings; i++)
        ctl_tell("warning: %s", reply->warnings[i]);
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
    if (num == 0) /* what is in force may still be on its way; it is not this call's to take back */
        return flags->wait && !flags->dry_run ? rollout_wait(conn, flags, version, NULL) : CTL_OK;
    if (!flags->dry_run)
        return apply_follow(conn, flags, version);
    return request->descriptor == &mortise__v1__apply_request__descriptor
               ? apply_preview(conn, MSG_AS_CONST(Mortise__V1__ApplyRequest,
                                                  mortise__v1__apply_request__descriptor, request))
               : CTL_OK;
}

int apply_send(struct conn *conn, const struct ctl_flags *flags, Mortise__V1__ApplyRequest *request)
{
    request->dry_run = flags->dry_run;
    request->allow_weaker = flags->allow_weaker;
    request->force_strict = flags->force;
    if (flags->message != NULL)
        request->message = flags->message;
    return apply_call(conn, flags, "OperatorService/Apply", &request->base);
}

static int apply_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__ApplyRequest request = MORTISE__V1__APPLY_REQUEST__INIT;
    struct document document = {.mesh = NULL};
    struct conn *conn;
    int status = CTL_FAILED;

    (void)num;
    (void)operands;
    if (!document_read("--file", flags->file, &document))
        return CTL_FAILED;
    request.mesh = document.mesh;
    request.if_version = document.version;
    request.prune = flags->prune;
    conn = conn_open(flags);
    if (conn != NULL)
        status = apply_send(conn, flags, &request);
    conn_close(conn);
    document_fini(&document);
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
        "Example: mortisectl apply -f mesh.yaml -m \"portal moves to 8443\" --wait\n"
        "         mortisectl apply -f mesh.yaml --rollback-on-nack",
    .options = apply_options,
    .run = apply_run,
};
