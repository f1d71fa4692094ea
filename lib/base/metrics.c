#include "lib/base/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/list.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define METRICS_LABELS_MAX 6
#define METRICS_VALUE_MAX 256 /* bytes of a label value; a name or a SPIFFE ID of sane length */
#define METRICS_BOUNDS_MAX 32
#define METRICS_CHUNK 512 /* slots, 4 KiB: what a thread with few series costs */
#define METRICS_CHUNKS_MAX 256
#define METRICS_SLOTS_MAX (METRICS_CHUNK * METRICS_CHUNKS_MAX)
#define METRICS_NONE UINT32_MAX

/* A counter or gauge has one slot; a histogram one a bucket, one for +Inf and one for the sum. */
struct metrics_series {
    uint32_t family;
    uint32_t slot;
    uint32_t next;            /* of the family, or METRICS_NONE */
    char *labels;             /* as written between braces: link="a",reason="b"; "" for none */
    atomic_int_least64_t set; /* what metrics_set said, less what shards held then */
};

struct metrics_family {
    const struct metric_family *row;
    uint32_t first, last; /* series, in order of creation */
    uint32_t other;       /* the series for what is beyond the limit */
    uint32_t num_bounds;
    int64_t bounds[METRICS_BOUNDS_MAX]; /* in the integers that are added */
};

/* A shard is written by one thread only, which therefore needs no locked instruction; others read
 * it. */
typedef _Atomic(atomic_int_least64_t *) metrics_chunk;
struct metrics_shard {
    struct list link;
    const void *thread;
    metrics_chunk chunks[METRICS_CHUNKS_MAX];
};

struct metrics {
    uint64_t number; /* of this registry among all that ever were */
    pthread_mutex_t lock;
    struct metrics_family *families;
    size_t num_families;
    struct metrics_series *series; /* never moves: ids are used without the lock */
    uint32_t num_series;
    uint32_t num_slots;
    struct map index; /* key of a series to its id + 1 */
    struct list shards;
};

static atomic_uint_least64_t metrics_number;

/* The shard that this thread used last. Its address is also the name of the thread: a thread that
 * begins after another ended may get the same, and then goes on with that one's shard. */
static _Thread_local struct {
    uint64_t number;
    struct metrics_shard *shard;
} metrics_mine;

/* ---- registry ---- */

static uint32_t metrics_count_labels(const char *labels)
{
    uint32_t num = labels[0] != '\0';

    for (; *labels != '\0'; labels++)
        num += *labels == ',';
    return num;
}

static void metrics_init_family(struct metrics_family *family, const struct metric_family *row)
{
    double scale = row->scale != 0 ? row->scale : 1;

    *family = (struct metrics_family){row, METRICS_NONE, METRICS_NONE, METRICS_NONE, 0, {0}};
    CHECK(metrics_count_labels(row->labels) <= METRICS_LABELS_MAX);
    CHECK((row->kind == METRIC_HISTOGRAM) == (row->bounds != NULL));
    if (row->bounds == NULL)
        return;
    for (uint32_t i = 0; row->bounds[i] != 0; i++) {
        CHECK(i < METRICS_BOUNDS_MAX);
        CHECK(row->bounds[i] > (i > 0 ? row->bounds[i - 1] : 0));
        /* The largest integer within the bound: 0.005 / 1e-6 may come out as 4999.99…. */
        family->bounds[i] = (int64_t)(row->bounds[i] / scale * (1 + 1e-12));
        family->num_bounds = i + 1;
    }
}

struct metrics *metrics_new(const struct metric_family *families, size_t num)
{
    struct metrics *metrics = mem_zalloc(sizeof(*metrics));

    metrics->number = atomic_fetch_add(&metrics_number, 1) + 1;
    CHECK(pthread_mutex_init(&metrics->lock, NULL) == 0);
    metrics->families = mem_array(num, sizeof(*metrics->families));
    metrics->num_families = num;
    for (size_t i = 0; i < num; i++) {
        for (size_t j = 0; j < i; j++)
            CHECK(strcmp(families[i].name, families[j].name) != 0);
        metrics_init_family(&metrics->families[i], &families[i]);
    }
    /* Beyond the limit each family may still need its series "other". */
    metrics->series = mem_array(METRICS_SERIES_MAX + num, sizeof(*metrics->series));
    list_init(&metrics->shards);
    return metrics;
}

static void metrics_free_shard(struct metrics_shard *shard)
{
    for (size_t i = 0; i < METRICS_CHUNKS_MAX; i++)
        mem_free(atomic_load_explicit(&shard->chunks[i], memory_order_acquire));
    mem_free(shard);
}

void metrics_free(struct metrics *metrics)
{
    struct list *pos, *tmp;

    if (metrics == NULL)
        return;
    LIST_EACH (pos, tmp, &metrics->shards)
        metrics_free_shard(LIST_ITEM(pos, struct metrics_shard, link));
    for (uint32_t i = 0; i < metrics->num_series; i++)
        mem_free(metrics->series[i].labels);
    mem_free(metrics->series);
    mem_free(metrics->families);
    map_fini(&metrics->index);
    (void)pthread_mutex_destroy(&metrics->lock);
    mem_free(metrics);
}

static uint32_t metrics_find_family(const struct metrics *metrics, const char *name)
{
    uint32_t i = 0;

    while (i < metrics->num_families && strcmp(metrics->families[i].row->name, name) != 0)
        i++;
    CHECK(i < metrics->num_families);
    return i;
}

/* A label value as the text format wants it: backslash, quote and newline escaped, valid UTF-8. */
static void metrics_put_value(struct buf *out, const char *value)
{
    struct bytes in = bytes_of_str(value);
    err_t err = OK;

    in.len = str_utf8_cut(in, METRICS_VALUE_MAX);
    while (in.len > 0 && err_is_ok(err)) {
        uint32_t c;
        size_t len = str_utf8(in, &c);

        if (len == 0)
            err = buf_add_str(out, "\xef\xbf\xbd");
        else if (c == '\n')
            err = buf_add_str(out, "\\n");
        else if (c == '"' || c == '\\')
            err = buf_printf(out, "\\%c", (int)c);
        else
            err = buf_add(out, in.ptr, len);
        len = len != 0 ? len : 1;
        in.ptr += len;
        in.len -= len;
    }
    CHECK(err_is_ok(err)); /* 6 values of 256 bytes cannot fill the buffer */
}

/* The labels of a series as text; `values` NULL means "other" for each. */
static char *metrics_labels(const struct metric_family *row, const char *const *values)
{
    const char *name = row->labels;
    struct buf out = {0};

    for (uint32_t i = 0; i < metrics_count_labels(row->labels); i++) {
        size_t len = strcspn(name, ",");

        CHECK(err_is_ok(buf_printf(&out, "%s%.*s=\"", i > 0 ? "," : "", (int)len, name)));
        metrics_put_value(&out, values != NULL ? values[i] : "other");
        CHECK(err_is_ok(buf_add_str(&out, "\"")));
        name += len + (name[len] == ',');
    }
    return buf_take_str(&out);
}

static uint32_t metrics_num_slots(const struct metrics_family *family)
{
    return family->row->kind == METRIC_HISTOGRAM ? family->num_bounds + 2 : 1;
}

/* Under the lock; takes `labels`. */
static uint32_t metrics_add_series(struct metrics *metrics, uint32_t family_index, char *labels)
{
    struct metrics_family *family = &metrics->families[family_index];
    uint32_t id = metrics->num_series++;
    struct metrics_series *series = &metrics->series[id];

    series->family = family_index;
    series->slot = metrics->num_slots;
    series->next = METRICS_NONE;
    series->labels = labels;
    atomic_init(&series->set, 0);
    metrics->num_slots += metrics_num_slots(family);
    if (family->last == METRICS_NONE)
        family->first = id;
    else
        metrics->series[family->last].next = id;
    family->last = id;
    return id;
}

/* Slots are kept back for the series "other" of every family. */
static bool metrics_is_full(const struct metrics *metrics)
{
    return metrics->num_series >= METRICS_SERIES_MAX ||
           metrics->num_slots + (metrics->num_families + 1) * (METRICS_BOUNDS_MAX + 2) >
               METRICS_SLOTS_MAX;
}

metric_id metrics_series(struct metrics *metrics, const char *family, const char *const *values)
{
    uint32_t family_index = metrics_find_family(metrics, family);
    struct metrics_family *of = &metrics->families[family_index];
    char *labels = metrics_labels(of->row, values);
    CLEANUP(mem_freep) char *key = mem_printf("%s{%s", family, labels);
    uintptr_t known;
    uint32_t id;

    (void)pthread_mutex_lock(&metrics->lock);
    known = (uintptr_t)map_get(&metrics->index, key);
    if (known != 0) {
        id = (uint32_t)(known - 1);
        mem_free(labels);
    } else if (metrics_is_full(metrics) && of->row->labels[0] != '\0') {
        if (of->other == METRICS_NONE) {
            CLEANUP(mem_freep) char *other_key = NULL;
            char *other = metrics_labels(of->row, NULL);

            other_key = mem_printf("%s{%s", family, other);
            known = (uintptr_t)map_get(&metrics->index, other_key);
            if (known != 0) {
                of->other = (uint32_t)(known - 1);
                mem_free(other);
            } else {
                of->other = metrics_add_series(metrics, family_index, other);
                (void)map_put(&metrics->index, other_key, (void *)((uintptr_t)of->other + 1));
            }
        }
        id = of->other;
        mem_free(labels);
    } else {
        id = metrics_add_series(metrics, family_index, labels);
        (void)map_put(&metrics->index, key, (void *)((uintptr_t)id + 1));
    }
    (void)pthread_mutex_unlock(&metrics->lock);
    return id;
}

/* ---- counting ---- */

static struct metrics_shard *metrics_find_shard(struct metrics *metrics)
{
    struct metrics_shard *shard = NULL;
    struct list *pos, *tmp;

    (void)pthread_mutex_lock(&metrics->lock);
    LIST_EACH (pos, tmp, &metrics->shards) {
        shard = LIST_ITEM(pos, struct metrics_shard, link);
        if (shard->thread == &metrics_mine)
            break;
        shard = NULL;
    }
    if (shard == NULL) {
        shard = mem_zalloc(sizeof(*shard));
        shard->thread = &metrics_mine;
        list_add_tail(&metrics->shards, &shard->link);
    }
    (void)pthread_mutex_unlock(&metrics->lock);
    metrics_mine.number = metrics->number;
    metrics_mine.shard = shard;
    return shard;
}

/* The calling thread's slots from `slot` on to the end of its chunk. */
static atomic_int_least64_t *metrics_slot(struct metrics *metrics, uint32_t slot)
{
    struct metrics_shard *shard =
        metrics_mine.number == metrics->number ? metrics_mine.shard : metrics_find_shard(metrics);
    metrics_chunk *at = &shard->chunks[slot / METRICS_CHUNK];
    atomic_int_least64_t *chunk = atomic_load_explicit(at, memory_order_relaxed);

    if (chunk == NULL) {
        chunk = mem_array(METRICS_CHUNK, sizeof(*chunk));
        atomic_store_explicit(at, chunk, memory_order_release);
    }
    return &chunk[slot % METRICS_CHUNK];
}

/* Wraps round rather than being undefined; Prometheus reads a counter that falls as a restart. */
static int64_t metrics_sum(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

static void metrics_bump(struct metrics *metrics, uint32_t slot, int64_t n)
{
    atomic_int_least64_t *at = metrics_slot(metrics, slot);
    int64_t before = atomic_load_explicit(at, memory_order_relaxed);

    atomic_store_explicit(at, metrics_sum(before, n), memory_order_relaxed);
}

void metrics_add(struct metrics *metrics, metric_id id, int64_t n)
{
    const struct metrics_series *series = &metrics->series[id];
    enum metric_kind kind = metrics->families[series->family].row->kind;

    CHECK(kind == METRIC_GAUGE || (kind == METRIC_COUNTER && n >= 0));
    metrics_bump(metrics, series->slot, n);
}

void metrics_observe(struct metrics *metrics, metric_id id, int64_t value)
{
    const struct metrics_series *series = &metrics->series[id];
    const struct metrics_family *family = &metrics->families[series->family];
    uint32_t bucket = 0;

    CHECK(family->row->kind == METRIC_HISTOGRAM);
    while (bucket < family->num_bounds && value > family->bounds[bucket])
        bucket++;
    metrics_bump(metrics, series->slot + bucket, 1);
    metrics_bump(metrics, series->slot + family->num_bounds + 1, value);
}

/* ---- reading ---- */

/* Under the lock. */
static int64_t metrics_merge(const struct metrics *metrics, uint32_t slot)
{
    int64_t sum = 0;

    for (const struct list *pos = metrics->shards.next; pos != &metrics->shards; pos = pos->next) {
        const struct metrics_shard *shard =
            (const struct metrics_shard *)((const char *)pos -
                                           offsetof(struct metrics_shard, link));
        const atomic_int_least64_t *chunk =
            atomic_load_explicit(&shard->chunks[slot / METRICS_CHUNK], memory_order_acquire);

        if (chunk != NULL)
            sum = metrics_sum(
                sum, atomic_load_explicit(&chunk[slot % METRICS_CHUNK], memory_order_relaxed));
    }
    return sum;
}

static int64_t metrics_value(const struct metrics *metrics, const struct metrics_series *series)
{
    return metrics_sum(metrics_merge(metrics, series->slot),
                       atomic_load_explicit(&series->set, memory_order_relaxed));
}

void metrics_set(struct metrics *metrics, metric_id id, int64_t value)
{
    struct metrics_series *series = &metrics->series[id];
    uint64_t added;

    CHECK(metrics->families[series->family].row->kind == METRIC_GAUGE);
    (void)pthread_mutex_lock(&metrics->lock);
    added = (uint64_t)metrics_merge(metrics, series->slot);
    atomic_store_explicit(&series->set, (int64_t)((uint64_t)value - added), memory_order_relaxed);
    (void)pthread_mutex_unlock(&metrics->lock);
}

int64_t metrics_read(struct metrics *metrics, metric_id id)
{
    const struct metrics_series *series = &metrics->series[id];
    const struct metrics_family *family = &metrics->families[series->family];
    int64_t value = 0;

    (void)pthread_mutex_lock(&metrics->lock);
    if (family->row->kind == METRIC_HISTOGRAM) {
        for (uint32_t i = 0; i <= family->num_bounds; i++)
            value = metrics_sum(value, metrics_merge(metrics, series->slot + i));
    } else {
        value = metrics_value(metrics, series);
    }
    (void)pthread_mutex_unlock(&metrics->lock);
    return value;
}

static err_t metrics_write_number(const struct metric_family *row, int64_t value, struct buf *out)
{
    if (row->scale == 0 || row->scale == 1)
        return buf_printf(out, " %" PRId64 "\n", value);
    return buf_printf(out, " %.15g\n", (double)value * row->scale);
}

static err_t metrics_write_sample(const struct metric_family *row, const char *suffix,
                                  const char *labels, struct buf *out)
{
    return buf_printf(out, "%s%s%s%s%s", row->name, suffix, labels[0] != '\0' ? "{" : "", labels,
                      labels[0] != '\0' ? "}" : "");
}

static err_t metrics_write_histogram(const struct metrics *metrics,
                                     const struct metrics_family *family,
                                     const struct metrics_series *series, struct buf *out)
{
    const struct metric_family *row = family->row;
    const char *comma = series->labels[0] != '\0' ? "," : "";
    int64_t count = 0;

    for (uint32_t i = 0; i <= family->num_bounds; i++) {
        char bound[32] = "+Inf";

        if (i < family->num_bounds)
            (void)snprintf(bound, sizeof(bound), "%.15g", row->bounds[i]);
        count = metrics_sum(count, metrics_merge(metrics, series->slot + i));
        TRY(buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %" PRId64 "\n", row->name, series->labels,
                       comma, bound, count));
    }
    TRY(metrics_write_sample(row, "_sum", series->labels, out));
    TRY(metrics_write_number(row, metrics_merge(metrics, series->slot + family->num_bounds + 1),
                             out));
    TRY(metrics_write_sample(row, "_count", series->labels, out));
    return buf_printf(out, " %" PRId64 "\n", count);
}

static err_t metrics_write_help(const struct metric_family *row, struct buf *out)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};

    TRY(buf_printf(out, "# HELP %s ", row->name));
    for (const char *c = row->help; *c != '\0'; c++) {
        if (*c == '\\')
            TRY(buf_add_str(out, "\\\\"));
        else if (*c == '\n')
            TRY(buf_add_str(out, "\\n"));
        else
            TRY(buf_add(out, c, 1));
    }
    return buf_printf(out, "\n# TYPE %s %s\n", row->name, kinds[row->kind]);
}

static err_t metrics_write_family(const struct metrics *metrics,
                                  const struct metrics_family *family, struct buf *out)
{
    TRY(metrics_write_help(family->row, out));
    for (uint32_t id = family->first; id != METRICS_NONE; id = metrics->series[id].next) {
        const struct metrics_series *series = &metrics->series[id];

        if (family->row->kind == METRIC_HISTOGRAM) {
            TRY(metrics_write_histogram(metrics, family, series, out));
        } else {
            TRY(metrics_write_sample(family->row, "", series->labels, out));
            TRY(metrics_write_number(family->row, metrics_value(metrics, series), out));
        }
    }
    return OK;
}

err_t metrics_write(struct metrics *metrics, struct buf *out)
{
    size_t before = buf_size(out);
    err_t err = OK;

    (void)pthread_mutex_lock(&metrics->lock);
    for (size_t i = 0; i < metrics->num_families && err_is_ok(err); i++)
        err = metrics_write_family(metrics, &metrics->families[i], out);
    (void)pthread_mutex_unlock(&metrics->lock);
    if (!err_is_ok(err))
        buf_truncate(out, before);
    return err;
}

err_t metrics_write_gauge(struct buf *out, const char *family, const char *help)
{
    return buf_printf(out, "# HELP %s %s\n# TYPE %s gauge\n", family, help, family);
}

err_t metrics_write_value(struct buf *out, const char *family, const char *const *labels,
                          double value)
{
    struct buf values = {.data = NULL};
    err_t err = OK;

    for (size_t i = 0; labels[i] != NULL && err_is_ok(err); i += 2) {
        err = buf_printf(&values, "%s%s=\"", i > 0 ? "," : "", labels[i]);
        metrics_put_value(&values, labels[i + 1]);
        if (err_is_ok(err))
            err = buf_add_str(&values, "\"");
    }
    if (err_is_ok(err))
        err = buf_printf(out, "%s{%.*s} %.15g\n", family, (int)buf_size(&values),
                         (const char *)buf_view(&values).ptr, value);
    buf_fini(&values);
    return err;
}
