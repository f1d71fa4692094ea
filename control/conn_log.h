/* conn_log takes the access log entries that sidecars send up, and keeps them (conn_log_store). A
 * sidecar speaks for itself alone: who it is comes from its certificate, and what it tells of a
 * link counts only if it is at that end of it. How much it may tell is bounded, of one and of all
 * together: each answer says when the next batch may come, and one that comes before is not looked
 * at. Pure but for the store. Source: features D6. */
#ifndef MORTISE_CONTROL_CONN_LOG_H
#define MORTISE_CONTROL_CONN_LOG_H

#include "control/conn_log_store.h"
#include "control/meters.h"
#include "proto/mesh/access_log.pb-c.h"
#include "proto/mesh/resource.pb-c.h"

#define CONN_LOG_BATCH_MAX 128
#define CONN_LOG_ALL_PER_S 10000  /* of all sidecars together: a tenth of a core, about */
#define CONN_LOG_ONE_PER_S 5000   /* of all of one subsystem: what is left is the others' */
#define CONN_LOG_TELLERS_MAX 4096 /* that are remembered */

struct conn_log;
/* conn_log_new borrows. `per_s`: entries a second of one sidecar. */
struct conn_log *conn_log_new(struct conn_log_store *store, struct meters *meters, uint64_t per_s);
void conn_log_free(struct conn_log *log);
struct conn_log_store *conn_log_kept(struct conn_log *log);

/* Who tells, and when; borrowed. */
struct conn_log_from {
    const char *subsystem;
    const char *id;
    const char *instance;
    int64_t ahead_ms; /* its clock is so far ahead of ours */
    int64_t now_ms;   /* Unix milliseconds */
    uint64_t mono_ms;
    const Mortise__V1__Mesh *mesh;
};
/* conn_log_take keeps what is right of a batch, counts the rest, and fills in the answer. */
void conn_log_take(struct conn_log *log, const struct conn_log_from *from,
                   const Mortise__V1__AccessLogBatch *batch, Mortise__V1__AccessLogAck *out);

#endif
