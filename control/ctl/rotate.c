/* mortisectl rotate: new certificates, now. */
#include <inttypes.h>
#include <stdio.h>

#include "control/ctl/conn.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option rotate_options[] = {
    {.name = "all",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, all),
     .def = "false",
     .help = "Every subsystem."},
    CTL_SPREAD_ROW,
    {.name = "wait",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, wait),
     .def = "false",
     .help = "Wait until every connected sidecar uses its new certificate."},
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

struct rotate_seen {
    bool begun;
};

static void rotate_on_progress(void *arg, const ProtobufCMessage *msg)
{
    const Mortise__V1__RotateProgress *progress =
        MSG_AS_CONST(Mortise__V1__RotateProgress, mortise__v1__rotate_progress__descriptor, msg);
    const Mortise__V1__Workload *workload = progress->workload;
    struct rotate_seen *seen = arg;

    if (workload != NULL) {
        printf("%u/%u %s (%.8s) uses %s\n", progress->done, progress->total, workload->subsystem,
               workload->instance,
               workload->status != NULL ? workload->status->certificate_serial : "");
    } else if (!seen->begun) {
        printf("epoch %" PRIu64 ": %u sidecars renew\n", progress->epoch, progress->total);
    } else if (progress->error[0] == '\0') {
        printf("done: %u of %u\n", progress->done, progress->total);
    }
    seen->begun = true;
    (void)fflush(stdout);
}

static int rotate_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__RotateRequest request = MORTISE__V1__ROTATE_REQUEST__INIT;
    struct rotate_seen seen = {.begun = false};
    struct conn *conn;
    bool done = false;

    if (flags->all == (num > 0)) {
        ctl_tell("rotate: %s (mortisectl rotate --help)",
                 flags->all ? "name subsystems or say --all, not both"
                            : "which? name subsystems, or say --all");
        return CTL_USAGE;
    }
    request.subsystems = operands;
    request.n_subsystems = (size_t)num;
    request.all = flags->all;
    request.wait = flags->wait;
    request.timeout_s = (uint32_t)((flags->timeout_ms + 999) / 1000);
    request.spread_ms = (uint32_t)flags->spread_ms;
    conn = conn_open(flags);
    if (conn != NULL)
        done = conn_stream(conn, "OperatorService/Rotate", &request.base,
                           &mortise__v1__rotate_progress__descriptor, rotate_on_progress, &seen);
    conn_close(conn);
    return done ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_rotate = {
    .name = "rotate",
    .operands = "[SUBSYSTEM…]",
    .summary = "new certificates for sidecars, without dropping a connection",
    .about =
        "Asks the sidecars of the named subsystems, or of all, to renew their certificates with "
        "fresh "
        "keys. A sidecar that is away renews when it comes back. With --wait a line tells of each "
        "that has; those that have not in time are named, and the exit code is 1.\n\n"
        "Example: mortisectl rotate --all --wait",
    .options = rotate_options,
    .max_operands = -1,
    .run = rotate_run,
};
