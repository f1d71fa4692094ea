#include "control/ctl/rollout.h"

#include <inttypes.h>
#include <stdio.h>

#include "control/msg.h"
#include "lib/base/mem.h"
#include "proto/mesh/operator.pb-c.h"

struct rollout {
    char *refuser;
};

static void rollout_on_progress(void *arg, const ProtobufCMessage *msg)
{
    const Mortise__V1__RolloutProgress *progress =
        MSG_AS_CONST(Mortise__V1__RolloutProgress, mortise__v1__rollout_progress__descriptor, msg);
    const Mortise__V1__Workload *workload = progress->workload;
    struct rollout *rollout = arg;

    if (workload == NULL)
        return;
    if (workload->refused == NULL) {
        printf("%u/%u %s (%.8s) has it\n", progress->acked, progress->total, workload->subsystem,
               workload->instance);
    } else {
        if (rollout->refuser == NULL)
            rollout->refuser =
                mem_printf("%s refuses it (%s)", workload->subsystem, workload->refused->code);
        ctl_tell("%s (%.8s) refuses it and keeps version %" PRIu64 ": %s", workload->subsystem,
                 workload->instance, workload->acked_version, workload->refused->code);
        for (size_t i = 0; i < workload->refused->n_faults; i++)
            fprintf(stderr, "  %s: %s\n", workload->refused->faults[i]->path,
                    workload->refused->faults[i]->message);
    }
    (void)fflush(stdout);
}

int rollout_wait(struct conn *conn, const struct ctl_flags *flags, uint64_t version,
                 char **out_refuser)
{
    Mortise__V1__WatchRolloutRequest request = MORTISE__V1__WATCH_ROLLOUT_REQUEST__INIT;
    struct rollout rollout = {.refuser = NULL};
    bool ended;
    bool refused;

    request.version = version;
    request.timeout_s = (uint32_t)((flags->timeout_ms + 999) / 1000);
    ended = conn_stream(conn, "OperatorService/WatchRollout", &request.base,
                        &mortise__v1__rollout_progress__descriptor, rollout_on_progress, &rollout);
    refused = rollout.refuser != NULL;
    if (out_refuser != NULL)
        *out_refuser = rollout.refuser;
    else
        mem_free(rollout.refuser);
    return ended && !refused ? CTL_OK : CTL_FAILED;
}
