/* mortisectl status: the mesh at a glance. */
#include <inttypes.h>
#include <stdio.h>

#include "control/build.h"
#include "control/ctl/conn.h"
#include "control/ctl/files.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option status_options[] = {CTL_OUTPUT_ROW, CTL_CONNECTION_ROWS, {.name = NULL}};

static Mortise__V1__StatusResponse *status_get(const struct ctl_flags *flags)
{
    Mortise__V1__StatusRequest request = MORTISE__V1__STATUS_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *reply = NULL;

    if (conn != NULL)
        reply = conn_call(conn, "OperatorService/Status", &request.base,
                          &mortise__v1__status_response__descriptor);
    conn_close(conn);
    return reply != NULL ? MSG_AS(Mortise__V1__StatusResponse,
                                  mortise__v1__status_response__descriptor, reply)
                         : NULL;
}

static void status_print(const Mortise__V1__StatusResponse *status)
{
    int64_t now_s = clock_wall_s(&clock_system);
    char started[TABLE_TIME_MAX], root[TABLE_TIME_MAX], issuer[TABLE_TIME_MAX];

    table_time(status->started_at, now_s, started);
    table_time(status->root_not_after, now_s, root);
    table_time(status->issuer_not_after, now_s, issuer);
    printf("trust domain  %s\n", status->trust_domain);
    printf("program       %s, started %s\n", status->build, started);
    printf("mesh          version %" PRIu64 ": %u subsystems, %u links\n", status->version,
           status->subsystems, status->links);
    printf("sidecars      %u connected, %u in sync", status->connected, status->in_sync);
    if (status->skewed > 0)
        printf(", %u with a clock that is off (mortisectl get workloads)", status->skewed);
    printf("\n");
    if (status->rolled_back > 0)
        printf(
            "store         is older than what %u sidecars have seen: mortisectl accept-restore\n",
            status->rolled_back);
    printf("root          expires %s\n", root);
    printf("              sha256 %s\n", status->root_sha256);
    printf("issuer        expires %s\n", issuer);
}

static int status_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__StatusResponse *status = status_get(flags);

    (void)num;
    (void)operands;
    if (status == NULL)
        return CTL_FAILED;
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, &status->base);
    else
        status_print(status);
    pb_free(&status->base);
    return CTL_OK;
}

const struct ctl_command ctl_status = {
    .name = "status",
    .operands = "",
    .summary = "the mesh at a glance",
    .about =
        "Shows trust domain, version, how many sidecars are connected and have what they ought to "
        "have, and when the CA's certificates expire.\n\n"
        "Example: mortisectl status -o json",
    .options = status_options,
    .run = status_run,
};

static const struct option roots_options[] = {CTL_CONNECTION_ROWS, {.name = NULL}};

static int roots_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__StatusResponse *status = status_get(flags);
    CLEANUP(buf_fini) struct buf pem = {0};

    (void)num;
    (void)operands;
    if (status == NULL)
        return CTL_FAILED;
    files_pem(status->trust_roots, status->n_trust_roots, &pem);
    printf("%.*s", (int)buf_size(&pem), (const char *)buf_view(&pem).ptr);
    pb_free(&status->base);
    return CTL_OK;
}

const struct ctl_command ctl_roots = {
    .name = "roots",
    .operands = "",
    .summary = "the mesh's root certificates, as PEM",
    .about =
        "Writes the trust bundle that a new sidecar or an administrator needs. It is no secret.\n\n"
        "Example: mortisectl roots > roots.pem",
    .options = roots_options,
    .run = roots_run,
};

static const struct option version_options[] = {CTL_CONNECTION_ROWS, {.name = NULL}};

static int version_run(const struct ctl_flags *flags, int num, char **operands)
{
    (void)flags;
    (void)num;
    (void)operands;
    build_print("mortisectl", stdout);
    return CTL_OK;
}

const struct ctl_command ctl_version = {
    .name = "version",
    .operands = "",
    .summary = "this program's version and those of its libraries",
    .about = "Asks no control plane.\n\nExample: mortisectl version",
    .options = version_options,
    .run = version_run,
};
