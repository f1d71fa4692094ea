/* metrics: counters, gauges and histograms, kept per thread and merged when read, so that a worker
 * never shares a cache line; written as Prometheus text (format 0.0.4).
 *
 * A program declares its families in one table at start and registers them before any thread runs:
 *
 *   static const struct metric_family families[] = {
 *       {"mortise_connections_total", METRIC_COUNTER, "Connections closed.", "link,reason"}, … };
 *
 * A series is a family with label values; it is looked up once and its id kept. Series are never
 * removed; their number is bounded by METRICS_SERIES_MAX (beyond it a family's last series with all
 * labels "other" is used). */
#ifndef MORTISE_LIB_BASE_METRICS_H
#define MORTISE_LIB_BASE_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metric_family {
    const char *name;
    enum metric_kind kind;
    const char *help;
    const char *labels;   /* comma-separated names, "" for none; at most 6 */
    const double *bounds; /* histogram: upper bounds, ascending, ending with 0 (+Inf is added) */
    double scale;         /* what is added is integer; value shown = integer * scale; 0 means 1 */
};

struct metrics;
#define METRICS_SERIES_MAX 4096

/* metrics_new makes a registry of these families (borrowed, usually static). */
struct metrics *metrics_new(const struct metric_family *families, size_t num);
void metrics_free(struct metrics *metrics);

/* metrics_series returns the id of a series; thread-safe, takes a lock: look up once, keep the id.
 * `values` are as many strings as the family has labels; copied, escaped when written. CHECKs that
 * the family exists. */
typedef uint32_t metric_id;
metric_id metrics_series(struct metrics *metrics, const char *family, const char *const *values);

/* Each thread that counts has a shard; the first use on a thread makes it. Relaxed atomics, own
 * cache lines. A gauge is the sum of what all threads added, or the last value set by metrics_set.
 */
void metrics_add(struct metrics *metrics, metric_id id, int64_t n);
void metrics_set(struct metrics *metrics, metric_id id, int64_t value);
void metrics_observe(struct metrics *metrics, metric_id id, int64_t value);
/* metrics_read returns the merged value of a counter or gauge, or the count of a histogram. */
int64_t metrics_read(struct metrics *metrics, metric_id id);

/* metrics_write appends the Prometheus text of all series; families without a series appear with
 * HELP and TYPE only. */
MUST_CHECK err_t metrics_write(struct metrics *metrics, struct buf *out);

/* What comes and goes with what it is about, as a certificate, is no series here: it is written
 * when it is asked for. metrics_write_gauge appends the head of a family of gauges,
 * metrics_write_value one sample of it; `labels` are names and values in turn, ended by NULL,
 * values escaped and cut as those of a series. */
MUST_CHECK err_t metrics_write_gauge(struct buf *out, const char *family, const char *help);
MUST_CHECK err_t metrics_write_value(struct buf *out, const char *family, const char *const *labels,
                                     double value);

#endif
