#include "proxy/stats.h"

#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/version.h"
#include "proxy/plaintext.h"

/* Seconds. A handshake takes 0.3 ms on loopback and some round trips elsewhere. */
static const double stats_handshake_bounds[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                0.1,    0.25,  0.5,    1,     2.5,  5,     0};
static const double stats_age_bounds[] = {1, 10, 60, 600, 3600, 21600, 86400, 604800, 0};
static const double stats_lag_bounds[] = {0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 0};

static const struct metric_family stats_families[] = {
    {"mortise_connections_open", METRIC_GAUGE, "Connections now open.", "direction,link", NULL, 0},
    {"mortise_connections_total", METRIC_COUNTER,
     "Connections that ended, by link (empty: it never came to one) and reason.",
     "direction,link,reason", NULL, 0},
    {"mortise_connections_ended_age_seconds", METRIC_HISTOGRAM,
     "Age of open connections that this sidecar ended for what their peer is, by reason.", "reason",
     stats_age_bounds, 1e-3},
    {"mortise_connection_bytes_total", METRIC_COUNTER,
     "Application bytes carried, by where they went.", "direction,link,to", NULL, 0},
    {"mortise_connect_errors_total", METRIC_COUNTER,
     "Attempts that failed: connecting to an endpoint or a target, or the handshake with an "
     "endpoint behind which another was tried.",
     "direction,link,error", NULL, 0},
    {"mortise_plaintext_connections_total", METRIC_COUNTER,
     "Connections without TLS that a permissive port took.", "link", NULL, 0},
    {"mortise_permissive_until_timestamp_seconds", METRIC_GAUGE,
     "Until when a link takes plaintext at its permissive port; 0: not any more.", "link", NULL, 0},
    {"mortise_handshakes_total", METRIC_COUNTER, "TLS handshakes, by result.", "direction,result",
     NULL, 0},
    {"mortise_handshake_duration_seconds", METRIC_HISTOGRAM, "Duration of good TLS handshakes.",
     "direction", stats_handshake_bounds, 1e-6},
    {"mortise_connections_weak_total", METRIC_COUNTER,
     "Handshakes that were good and weaker than by default, by what was weak.",
     "direction,link,weak", NULL, 0},
    {"mortise_policy_denied_total", METRIC_COUNTER,
     "Connections that a policy refused or ended, by its name.", "direction,link,policy", NULL, 0},
    {"mortise_connections_shed_total", METRIC_COUNTER,
     "Connections reset before they began, by the limit that was reached.", "limit", NULL, 0},
    {"mortise_config_generation", METRIC_GAUGE, "Generation of the snapshot in force; 0: none yet.",
     "", NULL, 0},
    {"mortise_config_applied_total", METRIC_COUNTER, "Snapshots put into force.", "", NULL, 0},
    {"mortise_config_rejected_total", METRIC_COUNTER,
     "Configurations or certificates that were refused; the old ones stayed.", "", NULL, 0},
    {"mortise_keystores_refused", METRIC_GAUGE,
     "Keystores on this sidecar's disk whose files are refused as they are now; what was read of "
     "them before is in force.",
     "", NULL, 0},
    {"mortise_config_cached_timestamp_seconds", METRIC_GAUGE,
     "When what is in force was cached, while it is from the cache; 0: the control plane sent it.",
     "", NULL, 0},
    {"mortise_cache_writes_total", METRIC_COUNTER, "Writes of the sealed cache, by result.",
     "result", NULL, 0},
    {"mortise_ready", METRIC_GAUGE, "1 when /readyz says so.", "", NULL, 0},
    {"mortise_capture_broken", METRIC_GAUGE,
     "1 while the kernel should hand the application's connections over and does not.", "", NULL,
     0},
    {"mortise_control_connected", METRIC_GAUGE, "1 while the discovery stream is open.", "", NULL,
     0},
    {"mortise_certificate_not_before_timestamp_seconds", METRIC_GAUGE,
     "When our certificate began to be valid.", "", NULL, 0},
    {"mortise_certificate_not_after_timestamp_seconds", METRIC_GAUGE,
     "When our certificate expires.", "", NULL, 0},
    {"mortise_certificate_alarm", METRIC_GAUGE,
     "How many percent of the time after the last moment for a regular renewal are gone, in steps: "
     "0, 50, 75, 90, 100 (expired).",
     "", NULL, 0},
    {"mortise_certificate_renewals_total", METRIC_COUNTER,
     "Attempts to get a certificate, by result.", "result", NULL, 0},
    {"mortise_crl_this_update_timestamp_seconds", METRIC_GAUGE,
     "When the oldest revocation list of a truststore was made; 0: it has none any more.",
     "truststore", NULL, 0},
    {"mortise_crl_next_update_timestamp_seconds", METRIC_GAUGE,
     "When the first revocation list of a truststore goes stale; 0: it has none any more.",
     "truststore", NULL, 0},
    {"mortise_clock_skew_seconds", METRIC_GAUGE,
     "How far our clock is ahead of the control plane's.", "", NULL, 1e-3},
    {"mortise_clock_skew_error_seconds", METRIC_GAUGE,
     "How far that may be from the truth: half of the round trip; 0: never measured.", "", NULL,
     1e-3},
    {"mortise_loop_lag_seconds", METRIC_HISTOGRAM, "How late event loops come to what is due.",
     "loop", stats_lag_bounds, 1e-6},
    {"mortise_log_lines_lost_total", METRIC_COUNTER, "Log lines that could not be written.", "",
     NULL, 0},
    {"mortise_access_log_told_total", METRIC_COUNTER,
     "Entries of the access log that the control plane has taken.", "", NULL, 0},
    {"mortise_access_log_lost_total", METRIC_COUNTER,
     "Entries of the access log that were thrown away, by where they would have gone: control (no "
     "room to wait), syslog (not taken at once).",
     "sink", NULL, 0},
    {"mortise_process_open_fds", METRIC_GAUGE, "Open file descriptors.", "", NULL, 0},
    {"mortise_process_resident_memory_bytes", METRIC_GAUGE, "Resident memory.", "", NULL, 0},
    {"mortise_process_start_time_seconds", METRIC_GAUGE, "When this process began.", "", NULL, 0},
    {"mortise_build_info", METRIC_GAUGE, "Always 1; the version is in the label.", "version", NULL,
     0},
};

static const struct {
    const char *family;
    const char *value; /* of its one label, NULL: none */
} stats_table[STAT_NUM] = {
    [STAT_GENERATION] = {"mortise_config_generation", NULL},
    [STAT_CAPTURE_BROKEN] = {"mortise_capture_broken", NULL},
    [STAT_READY] = {"mortise_ready", NULL},
    [STAT_CONTROL_CONNECTED] = {"mortise_control_connected", NULL},
    [STAT_CERT_NOT_BEFORE] = {"mortise_certificate_not_before_timestamp_seconds", NULL},
    [STAT_CERT_NOT_AFTER] = {"mortise_certificate_not_after_timestamp_seconds", NULL},
    [STAT_CONFIG_APPLIED] = {"mortise_config_applied_total", NULL},
    [STAT_CONFIG_REJECTED] = {"mortise_config_rejected_total", NULL},
    [STAT_KEYSTORES_REFUSED] = {"mortise_keystores_refused", NULL},
    [STAT_CONFIG_CACHED_AT] = {"mortise_config_cached_timestamp_seconds", NULL},
    [STAT_CACHE_SAVED] = {"mortise_cache_writes_total", "ok"},
    [STAT_CACHE_FAILED] = {"mortise_cache_writes_total", "failed"},
    [STAT_CERT_ALARM] = {"mortise_certificate_alarm", NULL},
    [STAT_RENEWED] = {"mortise_certificate_renewals_total", "ok"},
    [STAT_CLOCK_SKEW] = {"mortise_clock_skew_seconds", NULL},
    [STAT_CLOCK_ERROR] = {"mortise_clock_skew_error_seconds", NULL},
    [STAT_ACCESS_TOLD] = {"mortise_access_log_told_total", NULL},
    [STAT_ACCESS_LOST_CONTROL] = {"mortise_access_log_lost_total", "control"},
    [STAT_ACCESS_LOST_SYSLOG] = {"mortise_access_log_lost_total", "syslog"},
    [STAT_RENEW_FAILED] = {"mortise_certificate_renewals_total", "failed"},
};

static const char *const stats_shed_names[SHED_NUM] = {
    [SHED_CONNECTIONS] = "connections",      [SHED_HANDSHAKES] = "handshakes",
    [SHED_SOURCE] = "handshakes_per_source", [SHED_EXPIRED] = "certificate_expired",
    [SHED_RESOURCES] = "resources",
};

static const char *const stats_weak_names[WEAK_NUM] = {
    [WEAK_ANONYMOUS] = "anonymous",
    [WEAK_LEGACY] = "legacy_version",
    [WEAK_UNVERIFIED] = "unverified",
};

static const enum close_reason stats_judged[] = {CLOSE_POLICY, CLOSE_TRUST, CLOSE_REVOKED,
                                                 CLOSE_EXPIRED, CLOSE_MAX_AGE};

struct stats {
    struct metrics *metrics;
    struct plaintext *plaintext;
    metric_id ids[STAT_NUM];
    metric_id shed[SHED_NUM];
    metric_id handshake_ok[DIRECTION_NUM];
    metric_id handshake_us[DIRECTION_NUM];
    /* What strangers can bring about without end: looked up once, so that it costs no memory when
     * there is none left. Id + 1; 0: not yet. */
    _Atomic(metric_id) handshake_failed[DIRECTION_NUM][E_NUM];
    _Atomic(metric_id) refused[DIRECTION_NUM][CLOSE_NUM];
    metric_id lag[2];
    metric_id ended[CLOSE_NUM]; /* of those in stats_judged */
    metric_id log_lost, fds, memory;
    uint64_t log_lost_seen;
};

const char *direction_name(enum direction direction)
{
    return direction == DIRECTION_OUTBOUND ? "outbound" : "inbound";
}

const char *close_reason_name(enum close_reason reason)
{
    static const char *const names[CLOSE_NUM] = {
#define X(reason, name) name,
#include "proxy/close_reason_tbl.h"
#undef X
    };

    CHECK((unsigned)reason < CLOSE_NUM);
    return names[reason];
}

static metric_id stats_series(struct stats *stats, const char *family, const char *a, const char *b,
                              const char *c)
{
    const char *values[] = {a, b, c};

    return metrics_series(stats->metrics, family, values);
}

static metric_id stats_handshake_failed(struct stats *stats, enum direction direction,
                                        enum err_code code)
{
    _Atomic(metric_id) *slot = &stats->handshake_failed[direction][code];
    metric_id id = atomic_load_explicit(slot, memory_order_acquire);

    if (id == 0) { /* two threads that come at once get the same; with the id goes the series */
        id = 1 + stats_series(stats, "mortise_handshakes_total", direction_name(direction),
                              err_name(code), NULL);
        atomic_store_explicit(slot, id, memory_order_release);
    }
    return id - 1;
}

static metric_id stats_refused_for(struct stats *stats, enum direction direction,
                                   enum close_reason reason)
{
    _Atomic(metric_id) *slot = &stats->refused[direction][reason];
    metric_id id = atomic_load_explicit(slot, memory_order_acquire);

    if (id == 0) {
        id = 1 + stats_series(stats, "mortise_connections_total", direction_name(direction), "",
                              close_reason_name(reason));
        atomic_store_explicit(slot, id, memory_order_release);
    }
    return id - 1;
}

struct stats *stats_new(void)
{
    struct stats *stats = mem_zalloc(sizeof(*stats));
    metric_id id;

    stats->plaintext = plaintext_new();
    stats->metrics = metrics_new(stats_families, ARRAY_LEN(stats_families));
    for (unsigned i = 0; i < STAT_NUM; i++)
        stats->ids[i] =
            stats_series(stats, stats_table[i].family, stats_table[i].value, NULL, NULL);
    for (unsigned i = 0; i < SHED_NUM; i++)
        stats->shed[i] =
            stats_series(stats, "mortise_connections_shed_total", stats_shed_names[i], NULL, NULL);
    for (unsigned i = 0; i < DIRECTION_NUM; i++) {
        const char *direction = direction_name((enum direction)i);

        stats->handshake_ok[i] =
            stats_series(stats, "mortise_handshakes_total", direction, "ok", NULL);
        stats->handshake_us[i] =
            stats_series(stats, "mortise_handshake_duration_seconds", direction, NULL, NULL);
        (void)stats_handshake_failed(stats, (enum direction)i, E_NO_MEMORY);
        (void)stats_refused_for(stats, (enum direction)i, CLOSE_RESOURCES);
    }
    for (size_t i = 0; i < ARRAY_LEN(stats_judged); i++)
        stats->ended[stats_judged[i]] =
            stats_series(stats, "mortise_connections_ended_age_seconds",
                         close_reason_name(stats_judged[i]), NULL, NULL);
    stats->lag[0] = stats_series(stats, "mortise_loop_lag_seconds", "main", NULL, NULL);
    stats->lag[1] = stats_series(stats, "mortise_loop_lag_seconds", "worker", NULL, NULL);
    stats->log_lost = stats_series(stats, "mortise_log_lines_lost_total", NULL, NULL, NULL);
    stats->fds = stats_series(stats, "mortise_process_open_fds", NULL, NULL, NULL);
    stats->memory = stats_series(stats, "mortise_process_resident_memory_bytes", NULL, NULL, NULL);

    id = stats_series(stats, "mortise_build_info", MORTISE_VERSION, NULL, NULL);
    metrics_set(stats->metrics, id, 1);
    id = stats_series(stats, "mortise_process_start_time_seconds", NULL, NULL, NULL);
    metrics_set(stats->metrics, id, clock_wall_s(&clock_system));
    stats_sample(stats);
    return stats;
}

void stats_free(struct stats *stats)
{
    plaintext_free(stats->plaintext);
    metrics_free(stats->metrics);
    mem_free(stats);
}

struct metrics *stats_metrics(struct stats *stats)
{
    return stats->metrics;
}

void stats_link_init(struct stats *stats, enum direction direction, const char *link,
                     struct stats_link *out)
{
    const char *name = direction_name(direction);

    out->open = stats_series(stats, "mortise_connections_open", name, link, NULL);
    out->done =
        stats_series(stats, "mortise_connections_total", name, link, close_reason_name(CLOSE_DONE));
    out->bytes_to_mesh = stats_series(stats, "mortise_connection_bytes_total", name, link, "mesh");
    out->bytes_to_app = stats_series(stats, "mortise_connection_bytes_total", name, link, "app");
}

void stats_add(struct stats *stats, enum stat_id stat, int64_t n)
{
    metrics_add(stats->metrics, stats->ids[stat], n);
}

void stats_set(struct stats *stats, enum stat_id stat, int64_t value)
{
    metrics_set(stats->metrics, stats->ids[stat], value);
}

void stats_shed(struct stats *stats, enum shed shed)
{
    metrics_add(stats->metrics, stats->shed[shed], 1);
}

void stats_handshake(struct stats *stats, enum direction direction, err_t err, uint64_t us)
{
    if (!err_is_ok(err)) {
        metrics_add(stats->metrics, stats_handshake_failed(stats, direction, err.code), 1);
        return;
    }
    metrics_add(stats->metrics, stats->handshake_ok[direction], 1);
    metrics_observe(stats->metrics, stats->handshake_us[direction], (int64_t)us);
}

void stats_weak(struct stats *stats, enum direction direction, const char *link, enum weak weak,
                int64_t n)
{
    metrics_add(stats->metrics,
                stats_series(stats, "mortise_connections_weak_total", direction_name(direction),
                             link, stats_weak_names[weak]),
                n);
}

void stats_policy_denied(struct stats *stats, enum direction direction, const char *link,
                         const char *policy)
{
    metrics_add(
        stats->metrics,
        stats_series(stats, "mortise_policy_denied_total", direction_name(direction), link, policy),
        1);
}

void stats_plaintext(struct stats *stats, const char *link, int64_t now_s,
                     const struct addr *source)
{
    metrics_add(stats->metrics,
                stats_series(stats, "mortise_plaintext_connections_total", link, NULL, NULL), 1);
    plaintext_note(stats->plaintext, link, now_s, source);
}

void stats_plaintext_ended(struct stats *stats, const char *link, int64_t now_s)
{
    plaintext_end(stats->plaintext, link, now_s);
}

struct plaintext *stats_plaintext_uses(struct stats *stats)
{
    return stats->plaintext;
}

void stats_permissive(struct stats *stats, const char *link, int64_t until_s)
{
    metrics_set(stats->metrics,
                stats_series(stats, "mortise_permissive_until_timestamp_seconds", link, NULL, NULL),
                until_s);
}

void stats_connect_error(struct stats *stats, enum direction direction, const char *link, err_t err)
{
    metrics_add(stats->metrics,
                stats_series(stats, "mortise_connect_errors_total", direction_name(direction), link,
                             err_name(err.code)),
                1);
}

void stats_opened(struct stats *stats, const struct stats_link *link)
{
    metrics_add(stats->metrics, link->open, 1);
}

void stats_closed(struct stats *stats, enum direction direction, const struct stats_link *link,
                  const char *link_name, enum close_reason reason)
{
    metric_id id = link->done;

    metrics_add(stats->metrics, link->open, -1);
    if (reason != CLOSE_DONE)
        id = stats_series(stats, "mortise_connections_total", direction_name(direction), link_name,
                          close_reason_name(reason));
    metrics_add(stats->metrics, id, 1);
}

void stats_ended(struct stats *stats, enum close_reason reason, uint64_t age_ms)
{
    metrics_observe(stats->metrics, stats->ended[reason], (int64_t)age_ms);
}

uint64_t stats_ended_total(struct stats *stats, enum close_reason reason)
{
    return (uint64_t)metrics_read(stats->metrics, stats->ended[reason]);
}

void stats_refused(struct stats *stats, enum direction direction, enum close_reason reason)
{
    metrics_add(stats->metrics, stats_refused_for(stats, direction, reason), 1);
}

void stats_bytes(struct stats *stats, const struct stats_link *link, uint64_t to_mesh,
                 uint64_t to_app)
{
    if (to_mesh != 0)
        metrics_add(stats->metrics, link->bytes_to_mesh, (int64_t)to_mesh);
    if (to_app != 0)
        metrics_add(stats->metrics, link->bytes_to_app, (int64_t)to_app);
}

void stats_crls(struct stats *stats, const char *truststore, int64_t this_update,
                int64_t next_update)
{
    metrics_set(
        stats->metrics,
        stats_series(stats, "mortise_crl_this_update_timestamp_seconds", truststore, NULL, NULL),
        this_update);
    metrics_set(
        stats->metrics,
        stats_series(stats, "mortise_crl_next_update_timestamp_seconds", truststore, NULL, NULL),
        next_update);
}

void stats_lag(struct stats *stats, bool worker, uint64_t us)
{
    metrics_observe(stats->metrics, stats->lag[worker], (int64_t)us);
}

static int64_t stats_count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int64_t num = 0;

    if (dir == NULL)
        return 0;
    while (readdir(dir) != NULL)
        num++;
    (void)closedir(dir);
    return num - 3; /* ".", "..", and the descriptor of `dir` itself */
}

static int64_t stats_resident_bytes(void)
{
    char text[128] = "";
    FILE *file = fopen("/proc/self/statm", "re");
    const char *second;

    if (file == NULL)
        return 0;
    if (fgets(text, sizeof(text), file) == NULL)
        text[0] = '\0';
    (void)fclose(file);
    second = strchr(text, ' '); /* the first number is the address space */
    return second != NULL ? strtoll(second, NULL, 10) * sysconf(_SC_PAGESIZE) : 0;
}

void stats_sample(struct stats *stats)
{
    uint64_t lost = log_lines_lost();

    metrics_set(stats->metrics, stats->fds, stats_count_fds());
    metrics_set(stats->metrics, stats->memory, stats_resident_bytes());
    metrics_add(stats->metrics, stats->log_lost, (int64_t)(lost - stats->log_lost_seen));
    stats->log_lost_seen = lost;
}
