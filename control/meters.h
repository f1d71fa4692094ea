/* meters are the control plane's metrics: the families, and the series that are looked up once. */
#ifndef MORTISE_CONTROL_METERS_H
#define MORTISE_CONTROL_METERS_H

#include "lib/base/err.h"
#include "lib/base/metrics.h"
#include "lib/rpc/grpc_frame.h"

enum meters_gauge {
    METERS_CONNECTED,
    METERS_IN_SYNC,
    METERS_REFUSING,
    METERS_ROLLED_BACK,
    METERS_VERSION,
    METERS_MESH_VERSION,
    METERS_CONNECTIONS,
    METERS_STORE_WRITABLE,
    METERS_ROOT_NOT_AFTER,
    METERS_ISSUER_NOT_AFTER,
    METERS_CONTROL_NOT_AFTER,
    METERS_ROTATION_STAGE,
    METERS_ROTATION_SINCE,
    METERS_STALE_RECORDS,
    METERS_AUDIT_RECORDS,
    METERS_AUDIT_UNSHIPPED,
    METERS_AUDIT_BROKEN,
    METERS_CRL_NEXT_UPDATE,
    METERS_SKEWED,
    METERS_KUBERNETES_KEYS,
    METERS_OIDC_KEYS,
    METERS_OIDC_FRESH,
    METERS_NUM_GAUGES,
};

enum meters_answer { METERS_PUSHED, METERS_ACKED, METERS_NACKED, METERS_NUM_ANSWERS };

/* What became of access log entries that sidecars sent up. */
enum meters_access {
    METERS_ACCESS_KEPT,
    METERS_ACCESS_MISSING, /* thrown away by the sidecar */
    METERS_ACCESS_MALFORMED,
    METERS_ACCESS_FOREIGN, /* of a link whose end it is not */
    METERS_ACCESS_PUT_OFF, /* too early; an honest sidecar sends them again */
    METERS_ACCESS_UNWRITABLE,
    METERS_NUM_ACCESS,
};

struct meters {
    struct metrics *metrics;
    metric_id gauges[METERS_NUM_GAUGES];
    metric_id answers[METERS_NUM_ANSWERS];
    metric_id access[METERS_NUM_ACCESS];
    metric_id commits;
    metric_id pushes;
};

/* meters_new registers everything; meters_free releases it. */
struct meters *meters_new(void);
void meters_free(struct meters *meters);

void meters_set(struct meters *meters, enum meters_gauge gauge, int64_t value);
void meters_add(struct meters *meters, enum meters_gauge gauge, int64_t n);
void meters_issued(struct meters *meters, const char *reason);
/* meters_refused counts a call of a sidecar or stranger that was turned down, by the error's name.
 */
void meters_refused(struct meters *meters, enum err_code code);
void meters_answered(struct meters *meters, enum meters_answer answer);
/* meters_push_answered: a push was acknowledged or refused so long after it was sent. */
void meters_push_answered(struct meters *meters, uint64_t duration_us);
/* meters_config_refused counts a NACK by the code that it has (any text of a sidecar's). */
void meters_config_refused(struct meters *meters, const char *code);
/* meters_ended counts live connections that sidecars say a re-check has ended. */
void meters_ended(struct meters *meters, const char *reason, uint64_t num);
void meters_access(struct meters *meters, enum meters_access what, uint64_t num);
void meters_called(struct meters *meters, const char *path, enum grpc_status status,
                   uint64_t duration_us);
void meters_handshake(struct meters *meters, err_t err);
/* meters_refreshed: the keys of the administrators' issuer were read, or could not be. */
void meters_refreshed(struct meters *meters, err_t err);
void meters_committed(struct meters *meters, uint64_t duration_us);

#endif
