/* stats: what mortise-proxy counts. The families stand in stats.c; names and labels are part of the
 * product's interface (test/golden). Everything may be called from any thread. */
#ifndef MORTISE_PROXY_STATS_H
#define MORTISE_PROXY_STATS_H

#include "lib/base/clock.h"
#include "lib/base/err.h"
#include "lib/base/metrics.h"
#include "lib/net/addr.h"

struct plaintext;

/* direction of a connection as this sidecar sees it: from its application to the mesh, or back. */
enum direction { DIRECTION_OUTBOUND, DIRECTION_INBOUND, DIRECTION_NUM };
const char *direction_name(enum direction direction);

enum close_reason {
#define X(reason, name) CLOSE_##reason,
#include "proxy/close_reason_tbl.h"
#undef X
    CLOSE_NUM,
};
const char *close_reason_name(enum close_reason reason);

/* Limits that shed a connection before it began. */
enum shed {
    SHED_CONNECTIONS,
    SHED_HANDSHAKES,
    SHED_SOURCE,
    SHED_EXPIRED,
    SHED_RESOURCES,
    SHED_NUM
};

/* What may be weak about a connection that its profile lets be so. */
enum weak { WEAK_ANONYMOUS, WEAK_LEGACY, WEAK_UNVERIFIED, WEAK_NUM };

/* stats_link is what a link counts at each connection, looked up once. */
struct stats_link {
    metric_id open;
    metric_id done;
    metric_id bytes_to_mesh;
    metric_id bytes_to_app;
};

/* The gauges and counters of the process. */
enum stat_id {
    STAT_GENERATION,
    STAT_READY,
    STAT_CONTROL_CONNECTED,
    STAT_CERT_NOT_BEFORE,
    STAT_CERT_NOT_AFTER,
    STAT_CONFIG_APPLIED,
    STAT_CONFIG_REJECTED,
    STAT_KEYSTORES_REFUSED,
    STAT_CONFIG_CACHED_AT,
    STAT_CACHE_SAVED,
    STAT_CACHE_FAILED,
    STAT_CERT_ALARM,
    STAT_RENEWED,
    STAT_RENEW_FAILED,
    STAT_CLOCK_SKEW, /* milliseconds, as the next one */
    STAT_CLOCK_ERROR,
    STAT_CAPTURE_BROKEN,
    STAT_ACCESS_TOLD,
    STAT_ACCESS_LOST_CONTROL,
    STAT_ACCESS_LOST_SYSLOG,
    STAT_NUM,
};

struct stats;
struct stats *stats_new(void);
void stats_free(struct stats *stats);
struct metrics *stats_metrics(struct stats *stats);

void stats_link_init(struct stats *stats, enum direction direction, const char *link,
                     struct stats_link *out);

void stats_add(struct stats *stats, enum stat_id stat, int64_t n);
void stats_set(struct stats *stats, enum stat_id stat, int64_t value);
void stats_shed(struct stats *stats, enum shed shed);
/* A handshake ended: OK with its duration, or why not. */
void stats_handshake(struct stats *stats, enum direction direction, err_t err, uint64_t us);
/* So many more handshakes were weak so; 0: the series is there. */
void stats_weak(struct stats *stats, enum direction direction, const char *link, enum weak weak,
                int64_t n);
/* One more was kept out, or ended, by that policy. */
void stats_policy_denied(struct stats *stats, enum direction direction, const char *link,
                         const char *policy);
void stats_connect_error(struct stats *stats, enum direction direction, const char *link,
                         err_t err);
/* A connection began, or ended after having been counted as open. */
void stats_opened(struct stats *stats, const struct stats_link *link);
void stats_closed(struct stats *stats, enum direction direction, const struct stats_link *link,
                  const char *link_name, enum close_reason reason);
/* This sidecar ended an open connection for what its peer is: POLICY, TRUST, REVOKED, EXPIRED or
 * MAX_AGE. stats_ended_total is how many so far. */
void stats_ended(struct stats *stats, enum close_reason reason, uint64_t age_ms);
uint64_t stats_ended_total(struct stats *stats, enum close_reason reason);
/* A connection ended before it had a link. */
void stats_refused(struct stats *stats, enum direction direction, enum close_reason reason);
/* A connection came without TLS to the permissive port of that link, see plaintext.h. */
void stats_plaintext(struct stats *stats, const char *link, int64_t now_s,
                     const struct addr *source);
void stats_plaintext_ended(struct stats *stats, const char *link, int64_t now_s);
struct plaintext *stats_plaintext_uses(struct stats *stats);
/* Until when a link takes plaintext, Unix seconds; 0: not, any more. */
void stats_permissive(struct stats *stats, const char *link, int64_t until_s);
void stats_bytes(struct stats *stats, const struct stats_link *link, uint64_t to_mesh,
                 uint64_t to_app);
/* The revocation lists of a truststore: the earliest of their dates, Unix seconds; 0: it has none.
 */
void stats_crls(struct stats *stats, const char *truststore, int64_t this_update,
                int64_t next_update);
/* How late a loop came to what was asked of it. */
void stats_lag(struct stats *stats, bool worker, uint64_t us);
/* stats_sample reads what the kernel knows of this process. Main thread, every few seconds. */
void stats_sample(struct stats *stats);

#endif
