#include "control/meters.h"

#include <string.h>

#include "control/build.h"
#include "lib/base/mem.h"

static const double meters_seconds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                        0.1,    0.25,  0.5,    1,     2.5,  5,     0};
#define METERS_US 0.000001 /* what is added is microseconds */

static const struct metric_family meters_families[] = {
    {"mortise_control_sidecars_connected", METRIC_GAUGE, "Sidecars with an open discovery stream.",
     "", NULL, 0},
    {"mortise_control_sidecars_in_sync", METRIC_GAUGE,
     "Of these: those that have what they ought to have in force.", "", NULL, 0},
    {"mortise_control_sidecars_rolled_back", METRIC_GAUGE,
     "Connected sidecars that have seen more than the store has: it is an older copy of itself.",
     "", NULL, 0},
    {"mortise_control_sidecars_refusing", METRIC_GAUGE,
     "Of these: those that refused what they ought to have.", "", NULL, 0},
    {"mortise_control_version", METRIC_GAUGE, "Last version given to any configuration.", "", NULL,
     0},
    {"mortise_control_mesh_version", METRIC_GAUGE, "Version of the mesh in force.", "", NULL, 0},
    {"mortise_control_connections", METRIC_GAUGE, "Open connections over TLS.", "", NULL, 0},
    {"mortise_control_store_writable", METRIC_GAUGE,
     "0 when the last write to the store failed, else 1.", "", NULL, 0},
    {"mortise_control_ca_not_after_seconds", METRIC_GAUGE,
     "When a certificate of the control plane expires (Unix time).", "certificate", NULL, 0},
    {"mortise_control_root_rotation_stage", METRIC_GAUGE,
     "0: no rotation of root or issuer is under way; 1 distribute, 2 reissue, 3 retire, 4 prepare.",
     "", NULL, 0},
    {"mortise_control_root_rotation_stage_since_seconds", METRIC_GAUGE,
     "When that stage began (Unix time).", "", NULL, 0},
    {"mortise_control_store_stale_records", METRIC_GAUGE,
     "Records that are still sealed under another key-encryption key than the first.", "", NULL, 0},
    {"mortise_control_audit_records", METRIC_GAUGE, "Number of the audit log's last record.", "",
     NULL, 0},
    {"mortise_control_audit_unshipped_records", METRIC_GAUGE,
     "Records of the audit log that are not in the audit file yet; 0 without one.", "", NULL, 0},
    {"mortise_control_audit_broken", METRIC_GAUGE,
     "1 when the audit log did not end as it was written at the last start.", "", NULL, 0},
    {"mortise_control_crl_next_update_timestamp_seconds", METRIC_GAUGE,
     "When the first of the published revocation lists goes stale.", "", NULL, 0},
    {"mortise_control_certificates_issued_total", METRIC_COUNTER, "Certificates issued.", "reason",
     NULL, 0},
    {"mortise_control_refusals_total", METRIC_COUNTER,
     "Calls of sidecars and strangers that were turned down, by error.", "code", NULL, 0},
    {"mortise_control_configs_total", METRIC_COUNTER,
     "Configurations sent to sidecars, and their answers.", "event", NULL, 0},
    {"mortise_control_configs_refused_total", METRIC_COUNTER,
     "Configurations that sidecars refused, by the code that they gave.", "code", NULL, 0},
    {"mortise_control_push_duration_seconds", METRIC_HISTOGRAM,
     "From sending a configuration to the sidecar's answer.", "", meters_seconds, METERS_US},
    {"mortise_control_connections_ended_total", METRIC_COUNTER,
     "Live connections that sidecars ended because a change no longer allows them.", "reason", NULL,
     0},
    {"mortise_control_access_log_entries_total", METRIC_COUNTER,
     "Access log entries of sidecars, by what became of them: kept; missing (thrown away by the "
     "sidecar); malformed; foreign (of a link whose end it is not); put_off (they came too early); "
     "unwritable.",
     "result", NULL, 0},
    {"mortise_control_sidecars_skewed", METRIC_GAUGE,
     "Sidecars whose clock is off by more than half of what certificates allow for.", "", NULL, 0},
    {"mortise_control_kubernetes_keys", METRIC_GAUGE,
     "Keys of the cluster's token issuer that are in force.", "", NULL, 0},
    {"mortise_control_oidc_keys", METRIC_GAUGE,
     "Keys of the administrators' token issuer that are in force.", "", NULL, 0},
    {"mortise_control_oidc_keys_read_timestamp_seconds", METRIC_GAUGE,
     "When these were read last (Unix time); 0: never.", "", NULL, 0},
    {"mortise_control_oidc_refreshes_total", METRIC_COUNTER,
     "Attempts to read these keys, by result.", "result", NULL, 0},
    {"mortise_control_calls_total", METRIC_COUNTER, "Calls ended.", "method,status", NULL, 0},
    {"mortise_control_call_duration_seconds", METRIC_HISTOGRAM,
     "How long calls took; streams count when they end.", "method", meters_seconds, METERS_US},
    {"mortise_control_handshakes_total", METRIC_COUNTER, "TLS handshakes ended, by result.",
     "result", NULL, 0},
    {"mortise_control_store_commit_duration_seconds", METRIC_HISTOGRAM,
     "How long a transaction took to become durable.", "", meters_seconds, METERS_US},
    {"mortise_control_build_info", METRIC_GAUGE, "Always 1; the version is the label.", "version",
     NULL, 0},
};

static const struct {
    const char *family;
    const char *label;
} meters_gauges[METERS_NUM_GAUGES] = {
    [METERS_CONNECTED] = {"mortise_control_sidecars_connected", NULL},
    [METERS_IN_SYNC] = {"mortise_control_sidecars_in_sync", NULL},
    [METERS_ROLLED_BACK] = {"mortise_control_sidecars_rolled_back", NULL},
    [METERS_REFUSING] = {"mortise_control_sidecars_refusing", NULL},
    [METERS_VERSION] = {"mortise_control_version", NULL},
    [METERS_MESH_VERSION] = {"mortise_control_mesh_version", NULL},
    [METERS_CONNECTIONS] = {"mortise_control_connections", NULL},
    [METERS_STORE_WRITABLE] = {"mortise_control_store_writable", NULL},
    [METERS_ROOT_NOT_AFTER] = {"mortise_control_ca_not_after_seconds", "root"},
    [METERS_ISSUER_NOT_AFTER] = {"mortise_control_ca_not_after_seconds", "issuer"},
    [METERS_CONTROL_NOT_AFTER] = {"mortise_control_ca_not_after_seconds", "control"},
    [METERS_ROTATION_STAGE] = {"mortise_control_root_rotation_stage", NULL},
    [METERS_ROTATION_SINCE] = {"mortise_control_root_rotation_stage_since_seconds", NULL},
    [METERS_STALE_RECORDS] = {"mortise_control_store_stale_records", NULL},
    [METERS_AUDIT_RECORDS] = {"mortise_control_audit_records", NULL},
    [METERS_AUDIT_UNSHIPPED] = {"mortise_control_audit_unshipped_records", NULL},
    [METERS_AUDIT_BROKEN] = {"mortise_control_audit_broken", NULL},
    [METERS_CRL_NEXT_UPDATE] = {"mortise_control_crl_next_update_timestamp_seconds", NULL},
    [METERS_SKEWED] = {"mortise_control_sidecars_skewed", NULL},
    [METERS_KUBERNETES_KEYS] = {"mortise_control_kubernetes_keys", NULL},
    [METERS_OIDC_KEYS] = {"mortise_control_oidc_keys", NULL},
    [METERS_OIDC_FRESH] = {"mortise_control_oidc_keys_read_timestamp_seconds", NULL},
};

static const char *const meters_answers[METERS_NUM_ANSWERS] = {
    [METERS_PUSHED] = "pushed", [METERS_ACKED] = "acked", [METERS_NACKED] = "nacked"};

static const char *const meters_accesses[METERS_NUM_ACCESS] = {
    [METERS_ACCESS_KEPT] = "kept",           [METERS_ACCESS_MISSING] = "missing",
    [METERS_ACCESS_MALFORMED] = "malformed", [METERS_ACCESS_FOREIGN] = "foreign",
    [METERS_ACCESS_PUT_OFF] = "put_off",     [METERS_ACCESS_UNWRITABLE] = "unwritable"};

struct meters *meters_new(void)
{
    struct meters *meters = mem_zalloc(sizeof(*meters));
    const char *version = BUILD_VERSION;

    meters->metrics = metrics_new(meters_families, ARRAY_LEN(meters_families));
    for (size_t i = 0; i < METERS_NUM_GAUGES; i++)
        meters->gauges[i] =
            metrics_series(meters->metrics, meters_gauges[i].family, &meters_gauges[i].label);
    for (size_t i = 0; i < METERS_NUM_ANSWERS; i++)
        meters->answers[i] =
            metrics_series(meters->metrics, "mortise_control_configs_total", &meters_answers[i]);
    for (size_t i = 0; i < METERS_NUM_ACCESS; i++)
        meters->access[i] = metrics_series(
            meters->metrics, "mortise_control_access_log_entries_total", &meters_accesses[i]);
    meters->commits =
        metrics_series(meters->metrics, "mortise_control_store_commit_duration_seconds", NULL);
    meters->pushes = metrics_series(meters->metrics, "mortise_control_push_duration_seconds", NULL);
    metrics_set(meters->metrics,
                metrics_series(meters->metrics, "mortise_control_build_info", &version), 1);
    return meters;
}

void meters_free(struct meters *meters)
{
    if (meters == NULL)
        return;
    metrics_free(meters->metrics);
    mem_free(meters);
}

void meters_set(struct meters *meters, enum meters_gauge gauge, int64_t value)
{
    metrics_set(meters->metrics, meters->gauges[gauge], value);
}

void meters_add(struct meters *meters, enum meters_gauge gauge, int64_t n)
{
    metrics_add(meters->metrics, meters->gauges[gauge], n);
}

/* The word if it is one of ours; a sidecar may say anything. */
static const char *meters_known(const char *word, const char *const *known)
{
    for (; *known != NULL; known++) {
        if (strcmp(word, *known) == 0)
            return *known;
    }
    return "other";
}

void meters_push_answered(struct meters *meters, uint64_t duration_us)
{
    metrics_observe(meters->metrics, meters->pushes, (int64_t)duration_us);
}

void meters_config_refused(struct meters *meters, const char *code)
{
    static const char *const codes[] = {"config_invalid", "config_rollback", NULL};
    const char *known = meters_known(code, codes);

    metrics_add(meters->metrics,
                metrics_series(meters->metrics, "mortise_control_configs_refused_total", &known),
                1);
}

void meters_ended(struct meters *meters, const char *reason, uint64_t num)
{
    static const char *const reasons[] = {"policy", "trust", "revoked", NULL};
    const char *known = meters_known(reason, reasons);

    if (num > INT32_MAX)
        num = INT32_MAX; /* no sidecar ever had so many */
    metrics_add(meters->metrics,
                metrics_series(meters->metrics, "mortise_control_connections_ended_total", &known),
                (int64_t)num);
}

void meters_issued(struct meters *meters, const char *reason)
{
    metrics_add(
        meters->metrics,
        metrics_series(meters->metrics, "mortise_control_certificates_issued_total", &reason), 1);
}

void meters_refused(struct meters *meters, enum err_code code)
{
    const char *name = err_name(code);

    metrics_add(meters->metrics,
                metrics_series(meters->metrics, "mortise_control_refusals_total", &name), 1);
}

void meters_answered(struct meters *meters, enum meters_answer answer)
{
    metrics_add(meters->metrics, meters->answers[answer], 1);
}

void meters_access(struct meters *meters, enum meters_access what, uint64_t num)
{
    metrics_add(meters->metrics, meters->access[what], num < INT32_MAX ? (int64_t)num : INT32_MAX);
}

void meters_called(struct meters *meters, const char *path, enum grpc_status status,
                   uint64_t duration_us)
{
    /* Methods are ours and statuses are 17: the series stay few. */
    const char *labels[] = {path, grpc_status_name(status)};

    metrics_add(meters->metrics,
                metrics_series(meters->metrics, "mortise_control_calls_total", labels), 1);
    metrics_observe(meters->metrics,
                    metrics_series(meters->metrics, "mortise_control_call_duration_seconds", &path),
                    (int64_t)duration_us);
}

void meters_handshake(struct meters *meters, err_t err)
{
    const char *result = err_is_ok(err) ? "ok" : err_name(err.code);

    metrics_add(meters->metrics,
                metrics_series(meters->metrics, "mortise_control_handshakes_total", &result), 1);
}

void meters_refreshed(struct meters *meters, err_t err)
{
    const char *result = err_is_ok(err) ? "ok" : err_name(err.code);

    metrics_add(meters->metrics,
                metrics_series(meters->metrics, "mortise_control_oidc_refreshes_total", &result),
                1);
}

void meters_committed(struct meters *meters, uint64_t duration_us)
{
    metrics_observe(meters->metrics, meters->commits, (int64_t)duration_us);
}
