/* worker: one thread that carries traffic: its loop, its connections, what they share.
 *
 * Worker 0 owns all listeners (ports.h) and hands each connection, with the snapshot it begins
 * with, to the worker that has the fewest. Nothing mutable is shared but counters. */
#ifndef MORTISE_PROXY_WORKER_H
#define MORTISE_PROXY_WORKER_H

#include <stdatomic.h>

#include <uv.h>

#include "certs/verify.h"
#include "lib/base/list.h"
#include "lib/net/loop.h"
#include "lib/net/mailbox.h"
#include "proxy/limits.h"
#include "proxy/live.h"
#include "proxy/names.h"
#include "proxy/snapshot.h"
#include "proxy/stats.h"
#include "proxy/turns.h"

/* Peers whose chains are remembered, a thread; one more costs a signature of its issuer. */
#define WORKER_VERIFY_CACHE 512

struct access_share;
struct failures;
struct ports;
struct worker;

/* What all workers use; outlives them. */
struct worker_shared {
    struct stats *stats;
    struct limits *limits;
    const struct clock *clock;
    struct failures *failures;         /* NULL: nobody asks for them */
    struct access_share *access_share; /* likewise */
    atomic_int capture;                /* enum capture_state */
    struct worker **workers;
    size_t num_workers;
};

struct worker {
    unsigned index;
    struct worker_shared *shared;
    struct loop *loop;
    struct mailbox *mailbox;
    struct verify_cache *cache;
    struct names *names;
    struct turns *turns; /* of outbound connections */
    struct ports *ports; /* worker 0's */
    struct list live;    /* of struct conn */
    struct live live_check;
    atomic_uint load;  /* connections given to it and not yet freed */
    atomic_uint crowd; /* the most there were since memory was given back, see sidecar.c */
    bool draining;
    uv_thread_t thread;
};

/* A connection as it was accepted. */
struct worker_accepted {
    int fd;
    struct addr source;
    struct snapshot *snapshot; /* a reference, given away */
    const struct link *link;   /* outbound, or inbound by its permissive port; NULL: inbound, or
                                  captured and refused */
    bool captured;             /* by the kernel, outbound */
    struct addr destination;   /* where it was meant to go, len 0: to us; of a captured one */
    size_t first_endpoint;
    uint16_t limit_source; /* inbound, see limits.h */
};

/* worker_new makes worker number `index`; worker_run starts its thread. Main thread. */
struct worker *worker_new(struct worker_shared *shared, unsigned index);
void worker_run(struct worker *worker);
/* worker_free closes everything that is open, ends the thread and releases the worker. */
void worker_free(struct worker *worker);

/* worker_give hands an accepted connection over; any thread, in practice worker 0's. */
void worker_give(struct worker *worker, const struct worker_accepted *accepted);
/* worker_least_loaded returns the one that has the fewest connections. */
struct worker *worker_least_loaded(const struct worker_shared *shared);
/* worker_conn_ended is called when a connection's memory was released. */
void worker_conn_ended(struct worker *worker);

/* worker_call runs fn(worker, arg) on the worker's thread and waits for it. Main thread only. The
 * worker never waits for the main thread, so this ends after the batch in hand. */
void worker_call(struct worker *worker, void (*fn)(struct worker *worker, void *arg), void *arg);
/* worker_num_timers: deadlines now armed on this worker's loop. On its thread. */
size_t worker_num_timers(struct worker *worker);
/* worker_tick asks for the periodic duties (metrics of live connections, loop lag) without waiting.
 */
void worker_tick(struct worker *worker);
/* worker_recheck has the connections of a worker judged by what is in force now, see live.h,
 * without waiting. */
void worker_recheck(struct worker *worker, struct snapshot *now);
/* worker_survey has its connections gone over for a survey, see live.h, without waiting; takes
 * `part`, which comes back by survey_part_done. */
void worker_survey(struct worker *worker, struct survey_part *part);
/* worker_drain begins the end: listeners close, open connections come under the drain deadline. */
void worker_drain(struct worker *worker);

#endif
