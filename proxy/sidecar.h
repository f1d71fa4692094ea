/* sidecar: the assembly. It creates, connects and stops the parts, puts snapshots into force, knows
 * whether it is ready, and drains at the end. */
#ifndef MORTISE_PROXY_SIDECAR_H
#define MORTISE_PROXY_SIDECAR_H

#include "certs/bundle.h"
#include "lib/base/faults.h"
#include "lib/net/loop.h"
#include "proxy/capture.h"
#include "proxy/config.h"
#include "proxy/control_mode.h"
#include "proxy/limits.h"
#include "proxy/snapshot.h"
#include "proxy/static_config.h"
#include "proxy/static_mode.h"
#include "proxy/stats.h"
#include "proxy/worker.h"

struct sidecar_params {
    struct loop *loop; /* the main thread's */
    const struct clock *clock;
    const struct config_args *args;
    const struct config *settings; /* outlives the sidecar */
    struct stats *stats;           /* likewise */
    /* Static mode: what was loaded, and from which files (taken over). */
    const struct static_config *first;
    struct watch_files *files;
    /* With a control plane: the roots of the first contact. */
    struct bundle *roots;
    struct cache *cache; /* NULL: none */
};

struct sidecar;
/* sidecar_new starts everything. Nothing accepts before certificate and policy are there: in static
 * mode that is when it returns, else when the control plane has given both. Errors: CONFIG_INVALID
 * (an address that cannot be bound, too) with the faults. */
MUST_CHECK err_t sidecar_new(const struct sidecar_params *params, struct faults *faults,
                             struct sidecar **out);
/* sidecar_free closes everything at once. */
void sidecar_free(struct sidecar *sidecar);

/* SIGHUP: files are read again, log files opened again. */
void sidecar_reload(struct sidecar *sidecar);
/* sidecar_drain begins the end: not ready, no new connections; the loop is stopped when the last
 * one has ended or the drain deadline has passed. */
void sidecar_drain(struct sidecar *sidecar);

/* What pages.c shows. */
const struct snapshot *sidecar_snapshot(const struct sidecar *sidecar);
const struct worker_shared *sidecar_workers(const struct sidecar *sidecar);
/* sidecar_capture: whether the kernel hands connections over. */
enum capture_state sidecar_capture(const struct sidecar *sidecar);
/* sidecar_why_not_ready adds the reasons; none: ready. */
void sidecar_why_not_ready(const struct sidecar *sidecar, struct faults *reasons);
/* NULL in static mode. */
const struct control_mode *sidecar_control(const struct sidecar *sidecar);
/* Why the last configuration is not in force; NULL: it is. */
const char *sidecar_rejected(const struct sidecar *sidecar);

#endif
