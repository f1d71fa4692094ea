/* source: what static_mode and control_mode, the two places a configuration can come from, are
 * given by the sidecar: how to put a snapshot into force and whom to tell of changes. */
#ifndef MORTISE_PROXY_SOURCE_H
#define MORTISE_PROXY_SOURCE_H

#include "lib/base/clock.h"
#include "lib/base/faults.h"
#include "lib/net/loop.h"
#include "proxy/access_share.h"
#include "proxy/config.h"
#include "proxy/failures.h"
#include "proxy/snapshot.h"
#include "proxy/stats.h"
#include "proxy/survey.h"

struct source_params {
    struct loop *loop;
    const struct clock *clock;
    struct stats *stats;
    const struct config_args *args;
    const struct config *settings; /* in force; outlives the source */
    /* Completes `in` (generation, counters, time) and puts what comes of it into force, or adds the
     * faults and changes nothing. */
    err_t (*publish)(void *arg, struct snapshot_input *in, struct faults *faults);
    /* Makes what `publish` would put into force, with all that it would be refused for (an address
     * that cannot be bound, too), and nothing comes into force. */
    err_t (*candidate)(void *arg, struct snapshot_input *in, struct faults *faults,
                       struct snapshot **out);
    struct surveys *surveys;
    struct failures *failures;
    struct access_share *access_share;
    /* The snapshot in force, borrowed; NULL: none yet. */
    struct snapshot *(*current)(void *arg);
    bool (*ready)(void *arg);
    void *arg;
};

#endif
