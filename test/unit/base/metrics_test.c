/* Metrics: what threads count is all there when it is read, whatever ends or begins meanwhile; the
 * text is exactly what Prometheus takes, whatever a label's value was; the number of series is
 * bounded.
 *
 * Drives: D4, R14. */
#include "lib/base/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/unit/base/death.h"

static const double odd[] = {0.043, 0.35, 0.7, 0}; /* in floats 42.99…, 349.99…, 699.99… ms */
static const double seconds[] = {0.001, 0.005, 0.25, 1, 0};

static const struct metric_family families[] = {
    {"mortise_connections_total", METRIC_COUNTER, "Connections closed.", "link,reason", NULL, 0},
    {"mortise_open_connections", METRIC_GAUGE, "Connections \\ open\nnow.", "", NULL, 0},
    {"mortise_handshake_seconds", METRIC_HISTOGRAM, "Handshakes.", "role", seconds, 1e-6},
    {"mortise_cpu_seconds_total", METRIC_COUNTER, "CPU.", "", NULL, 1e-6},
    {"mortise_wait_seconds", METRIC_HISTOGRAM, "Waits.", "", seconds, 1e-6},
    {"mortise_odd_seconds", METRIC_HISTOGRAM, "Odd bounds.", "role", odd, 1e-3},
    {"mortise_unused_total", METRIC_COUNTER, "Nothing.", "link", NULL, 0},
};

static int registry_make(void **state)
{
    *state = metrics_new(families, ARRAY_LEN(families));
    return 0;
}

static int registry_free(void **state)
{
    metrics_free(*state);
    return 0;
}

static char *text_of(struct metrics *metrics)
{
    struct buf buf = {0};

    assert_int_equal(metrics_write(metrics, &buf).code, E_OK);
    return buf_take_str(&buf);
}

static metric_id connections(struct metrics *metrics, const char *link, const char *reason)
{
    return metrics_series(metrics, "mortise_connections_total",
                          (const char *const[]){link, reason});
}

static metric_id gauge(struct metrics *metrics)
{
    return metrics_series(metrics, "mortise_open_connections", NULL);
}

static metric_id handshakes(struct metrics *metrics, const char *role)
{
    return metrics_series(metrics, "mortise_handshake_seconds", (const char *const[]){role});
}

/* ---- text ---- */

static void test_the_text_is_exactly_this(void **state)
{
    struct metrics *metrics = *state;
    metric_id id = connections(metrics, "portal", "eof");
    char *text;

    metrics_add(metrics, id, 2);
    metrics_add(metrics, id, 3);
    metrics_add(metrics, connections(metrics, "portal", "reset"), 1);
    metrics_add(metrics, gauge(metrics), 4);
    metrics_add(metrics, gauge(metrics), -5);
    metrics_observe(metrics, handshakes(metrics, "client"), 1000);
    metrics_observe(metrics, handshakes(metrics, "client"), 1001);
    metrics_observe(metrics, handshakes(metrics, "client"), 3000000);
    metrics_add(metrics, metrics_series(metrics, "mortise_cpu_seconds_total", NULL), 1234567);
    metrics_observe(metrics, metrics_series(metrics, "mortise_wait_seconds", NULL), 250000);
    text = text_of(metrics);
    assert_string_equal(text, "# HELP mortise_connections_total Connections closed.\n"
                              "# TYPE mortise_connections_total counter\n"
                              "mortise_connections_total{link=\"portal\",reason=\"eof\"} 5\n"
                              "mortise_connections_total{link=\"portal\",reason=\"reset\"} 1\n"
                              "# HELP mortise_open_connections Connections \\\\ open\\nnow.\n"
                              "# TYPE mortise_open_connections gauge\n"
                              "mortise_open_connections -1\n"
                              "# HELP mortise_handshake_seconds Handshakes.\n"
                              "# TYPE mortise_handshake_seconds histogram\n"
                              "mortise_handshake_seconds_bucket{role=\"client\",le=\"0.001\"} 1\n"
                              "mortise_handshake_seconds_bucket{role=\"client\",le=\"0.005\"} 2\n"
                              "mortise_handshake_seconds_bucket{role=\"client\",le=\"0.25\"} 2\n"
                              "mortise_handshake_seconds_bucket{role=\"client\",le=\"1\"} 2\n"
                              "mortise_handshake_seconds_bucket{role=\"client\",le=\"+Inf\"} 3\n"
                              "mortise_handshake_seconds_sum{role=\"client\"} 3.002001\n"
                              "mortise_handshake_seconds_count{role=\"client\"} 3\n"
                              "# HELP mortise_cpu_seconds_total CPU.\n"
                              "# TYPE mortise_cpu_seconds_total counter\n"
                              "mortise_cpu_seconds_total 1.234567\n"
                              "# HELP mortise_wait_seconds Waits.\n"
                              "# TYPE mortise_wait_seconds histogram\n"
                              "mortise_wait_seconds_bucket{le=\"0.001\"} 0\n"
                              "mortise_wait_seconds_bucket{le=\"0.005\"} 0\n"
                              "mortise_wait_seconds_bucket{le=\"0.25\"} 1\n"
                              "mortise_wait_seconds_bucket{le=\"1\"} 1\n"
                              "mortise_wait_seconds_bucket{le=\"+Inf\"} 1\n"
                              "mortise_wait_seconds_sum 0.25\n"
                              "mortise_wait_seconds_count 1\n"
                              "# HELP mortise_odd_seconds Odd bounds.\n"
                              "# TYPE mortise_odd_seconds histogram\n"
                              "# HELP mortise_unused_total Nothing.\n"
                              "# TYPE mortise_unused_total counter\n");
    mem_free(text);
}

/* Every bound to the integer, also where the division falls short of it. */
static void test_a_bound_includes_itself(void **state)
{
    static const int64_t bounds[] = {1000, 5000, 250000, 1000000};
    struct metrics *metrics = *state;

    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        char role[16];
        char *want, *text;

        (void)snprintf(role, sizeof(role), "r%zu", i);
        metrics_observe(metrics, handshakes(metrics, role), bounds[i]);
        metrics_observe(metrics, handshakes(metrics, role), bounds[i] + 1);
        text = text_of(metrics);
        want = mem_printf("_bucket{role=\"%s\",le=\"%.15g\"} 1\n", role, seconds[i]);
        assert_non_null(strstr(text, want));
        mem_free(want);
        mem_free(text);
    }
}

static void test_a_bound_that_floats_fall_short_of_includes_itself(void **state)
{
    static const int64_t bounds[] = {43, 350, 700};
    struct metrics *metrics = *state;

    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        char role[16];
        char *want, *text;
        metric_id id;

        (void)snprintf(role, sizeof(role), "r%zu", i);
        id = metrics_series(metrics, "mortise_odd_seconds", (const char *const[]){role});
        metrics_observe(metrics, id, bounds[i]);
        metrics_observe(metrics, id, bounds[i] + 1);
        text = text_of(metrics);
        want = mem_printf("_bucket{role=\"%s\",le=\"%.15g\"} 1\n", role, odd[i]);
        assert_non_null(strstr(text, want));
        mem_free(want);
        mem_free(text);
    }
}

static void test_label_values_are_escaped(void **state)
{
    static const struct {
        const char *value, *text;
    } rows[] = {
        {"", "link=\"\""},
        {"a\"} 9\nfake 1\n", "link=\"a\\\"} 9\\nfake 1\\n\""},
        {"back\\slash\\", "link=\"back\\\\slash\\\\\""},
        {"caf\xc3\xa9 {x=\"y\"}", "link=\"caf\xc3\xa9 {x=\\\"y\\\"}\""},
        {"\xff\xc3", "link=\"\xef\xbf\xbd\xef\xbf\xbd\""},
    };
    struct metrics *metrics = *state;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *text,
            *want = mem_printf("\nmortise_connections_total{%s,reason=\"x\"} 1\n", rows[i].text);

        metrics_add(metrics, connections(metrics, rows[i].value, "x"), 1);
        text = text_of(metrics);
        assert_non_null(strstr(text, want));
        mem_free(text);
        mem_free(want);
    }
}

static void test_label_values_are_cut_at_the_limit(void **state)
{
    struct metrics *metrics = *state;
    char value[258];
    metric_id at, beyond;

    memset(value, 'v', sizeof(value));
    value[256] = '\0';
    at = connections(metrics, value, "x");
    value[255] = '\0';
    assert_int_not_equal(connections(metrics, value, "x"), at);
    value[255] = 'v';
    value[256] = 'w';
    value[257] = '\0';
    beyond = connections(metrics, value, "x");
    assert_int_equal(beyond, at);
}

/* Values that look alike when put together are not the same series. */
static void test_series_are_told_apart_by_all_their_values(void **state)
{
    struct metrics *metrics = *state;
    metric_id a = connections(metrics, "a", "b");

    assert_int_equal(connections(metrics, "a", "b"), a);
    assert_int_not_equal(connections(metrics, "b", "a"), a);
    assert_int_not_equal(connections(metrics, "ab", ""), connections(metrics, "", "ab"));
    assert_int_not_equal(connections(metrics, "a\",reason=\"b", ""), a);
    assert_int_not_equal(handshakes(metrics, "a"), a);
}

static void test_a_small_buffer_is_left_as_it_was(void **state)
{
    struct metrics *metrics = *state;
    struct buf buf;
    char *text;
    size_t len;

    metrics_add(metrics, connections(metrics, "a", "b"), 1);
    text = text_of(metrics);
    len = strlen(text);
    mem_free(text);
    buf_init(&buf, len + 1);
    assert_int_equal(buf_add_str(&buf, "##").code, E_OK);
    assert_int_equal(metrics_write(metrics, &buf).code, E_TOO_LARGE);
    assert_true(bytes_equal_str(buf_view(&buf), "##"));
    buf_consume(&buf, 1);
    assert_int_equal(metrics_write(metrics, &buf).code, E_OK);
    assert_int_equal(buf_size(&buf), len + 1);
    buf_fini(&buf);
}

/* ---- values ---- */

static void test_read_merges_each_kind(void **state)
{
    struct metrics *metrics = *state;
    metric_id id = connections(metrics, "a", "b");

    assert_int_equal(metrics_read(metrics, id), 0);
    metrics_add(metrics, id, 0);
    metrics_add(metrics, id, 7);
    assert_int_equal(metrics_read(metrics, id), 7);
    assert_int_equal(metrics_read(metrics, handshakes(metrics, "c")), 0);
    metrics_observe(metrics, handshakes(metrics, "c"), 1);
    metrics_observe(metrics, handshakes(metrics, "c"), INT64_MAX);
    metrics_observe(metrics, handshakes(metrics, "c"), -1);
    assert_int_equal(metrics_read(metrics, handshakes(metrics, "c")), 3);
    assert_int_equal(metrics_read(metrics, handshakes(metrics, "d")), 0);
}

static void test_a_gauge_that_was_set_goes_on_from_there(void **state)
{
    struct metrics *metrics = *state;
    metric_id id = gauge(metrics);

    metrics_add(metrics, id, 3);
    metrics_set(metrics, id, 100);
    assert_int_equal(metrics_read(metrics, id), 100);
    metrics_add(metrics, id, -1);
    assert_int_equal(metrics_read(metrics, id), 99);
    metrics_set(metrics, id, INT64_MIN);
    assert_int_equal(metrics_read(metrics, id), INT64_MIN);
    metrics_set(metrics, id, INT64_MAX);
    assert_int_equal(metrics_read(metrics, id), INT64_MAX);
}

static void test_a_counter_at_its_end_wraps_round(void **state)
{
    struct metrics *metrics = *state;
    metric_id id = connections(metrics, "a", "b");

    metrics_add(metrics, id, INT64_MAX);
    metrics_add(metrics, id, 1);
    assert_int_equal(metrics_read(metrics, id), INT64_MIN);
}

static void misuse(void *arg)
{
    struct metrics *metrics = metrics_new(families, ARRAY_LEN(families));

    switch (*(const int *)arg) {
    case 0:
        (void)metrics_series(metrics, "mortise_unknown_total", NULL);
        break;
    case 1:
        metrics_add(metrics, connections(metrics, "a", "b"), -1);
        break;
    case 2:
        metrics_set(metrics, connections(metrics, "a", "b"), 1);
        break;
    case 3:
        metrics_add(metrics, handshakes(metrics, "a"), 1);
        break;
    case 4:
        metrics_observe(metrics, gauge(metrics), 1);
        break;
    default:
        metrics_add(metrics, gauge(metrics), -1);
        break;
    }
    metrics_free(metrics);
}

static void test_the_wrong_use_of_a_kind_stops_the_process(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++)
        assert_int_equal(death_aborts(misuse, &i), i < 5);
}

static void make_registry(void *arg)
{
    const struct metric_family *two = arg;

    metrics_free(metrics_new(two, 2));
}

static void test_a_table_that_makes_no_sense_stops_the_process(void **state)
{
    static const double falling[] = {2, 1, 0};
    static const double negative[] = {-1, 1, 0};
    static const struct metric_family good = {"a", METRIC_COUNTER, "h", "", NULL, 0};
    struct metric_family rows[][2] = {
        {good, {"a", METRIC_GAUGE, "h", "", NULL, 0}},
        {good, {"b", METRIC_COUNTER, "h", "1,2,3,4,5,6,7", NULL, 0}},
        {good, {"b", METRIC_HISTOGRAM, "h", "", NULL, 0}},
        {good, {"b", METRIC_COUNTER, "h", "", falling, 0}},
        {good, {"b", METRIC_HISTOGRAM, "h", "", falling, 0}},
        {good, {"b", METRIC_HISTOGRAM, "h", "", negative, 0}},
        {good, {"b", METRIC_HISTOGRAM, "h", "1,2,3,4,5,6", seconds, 0}},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_int_equal(death_aborts(make_registry, rows[i]), i + 1 < ARRAY_LEN(rows));
}

/* ---- limits ---- */

static void test_series_beyond_the_limit_share_other(void **state)
{
    struct metrics *metrics = *state;
    metric_id last = 0, other, other_role;
    char link[16];
    char *text;

    other_role = handshakes(metrics, "other"); /* by chance there before it is needed */
    for (size_t i = 1; i < METRICS_SERIES_MAX; i++) {
        (void)snprintf(link, sizeof(link), "l%zu", i);
        last = connections(metrics, link, "x");
        assert_int_equal(last, i);
    }
    other = connections(metrics, "one more", "x");
    assert_int_equal(connections(metrics, "and one", "y"), other);
    assert_int_equal(connections(metrics, "other", "other"), other);
    assert_int_not_equal(other, last);
    assert_int_equal(connections(metrics, link, "x"), last); /* those there are stay themselves */
    assert_int_equal(handshakes(metrics, "client"), other_role);
    assert_int_equal(handshakes(metrics, "server"), other_role);
    assert_int_not_equal(other_role, other);
    metrics_add(metrics, other, 5);
    metrics_add(metrics, gauge(metrics), 1); /* without labels there is nothing to share */
    metrics_observe(metrics, other_role, 1);
    text = text_of(metrics);
    assert_non_null(
        strstr(text, "\nmortise_connections_total{link=\"other\",reason=\"other\"} 5\n"));
    assert_non_null(strstr(text, "\nmortise_open_connections 1\n"));
    assert_non_null(strstr(text, "\nmortise_handshake_seconds_count{role=\"other\"} 1\n"));
    assert_null(strstr(text, "one more"));
    mem_free(text);
}

static void test_wide_histograms_run_out_of_room_before_the_table_does(void **state)
{
    static double bounds[33];
    static const struct metric_family wide[] = {
        {"wide", METRIC_HISTOGRAM, "h", "l", bounds, 0},
        {"late", METRIC_HISTOGRAM, "h", "l", bounds, 0},
    };
    struct metrics *metrics;
    metric_id last = 0, id;
    char value[16];

    (void)state;
    for (int i = 0; i < 32; i++)
        bounds[i] = i + 1;
    metrics = metrics_new(wide, 2);
    for (int i = 0; i < METRICS_SERIES_MAX; i++) {
        (void)snprintf(value, sizeof(value), "%d", i);
        id = metrics_series(metrics, "wide", (const char *const[]){value});
        metrics_observe(metrics, id, 40);
        last = id > last ? id : last;
    }
    assert_in_range(last, 3000, METRICS_SERIES_MAX - 2);
    id = metrics_series(metrics, "late", (const char *const[]){"x"});
    metrics_observe(metrics, id, 1);
    assert_int_equal(metrics_read(metrics, id), 1);
    metrics_free(metrics);
}

/* ---- threads ---- */

#define COUNT_THREADS 4
#define COUNT_ROUNDS 20000

struct counting {
    struct metrics *metrics;
    metric_id counter, gauge, histogram;
    atomic_bool stop;
};

static void *count(void *arg)
{
    struct counting *counting = arg;

    for (int i = 0; i < COUNT_ROUNDS; i++) {
        metrics_add(counting->metrics, counting->counter, 1);
        metrics_add(counting->metrics, counting->gauge, i % 2 == 0 ? 1 : -1);
        metrics_observe(counting->metrics, counting->histogram, i);
        if (i % 1000 == 0) {
            char link[16];

            (void)snprintf(link, sizeof(link), "l%d", i);
            metrics_add(counting->metrics, connections(counting->metrics, link, "new"), 1);
        }
    }
    return NULL;
}

/* A counter never falls while it is read, and a histogram's count is its last bucket. */
static void *read_on(void *arg)
{
    struct counting *counting = arg;
    int64_t before = 0;

    while (!atomic_load(&counting->stop)) {
        int64_t now = metrics_read(counting->metrics, counting->counter);
        struct buf buf = {0};

        CHECK(now >= before && now <= COUNT_THREADS * COUNT_ROUNDS);
        before = now;
        CHECK(err_is_ok(metrics_write(counting->metrics, &buf)));
        buf_fini(&buf);
    }
    return NULL;
}

static void test_threads_count_everything_while_others_read(void **state)
{
    struct metrics *metrics = *state;
    struct counting counting = {.metrics = metrics,
                                .counter = connections(metrics, "a", "b"),
                                .gauge = gauge(metrics),
                                .histogram = handshakes(metrics, "c")};
    pthread_t threads[COUNT_THREADS], reader;

    assert_int_equal(pthread_create(&reader, NULL, read_on, &counting), 0);
    for (int i = 0; i < COUNT_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, count, &counting), 0);
    for (int i = 0; i < COUNT_THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    atomic_store(&counting.stop, true);
    assert_int_equal(pthread_join(reader, NULL), 0);
    assert_int_equal(metrics_read(metrics, counting.counter), COUNT_THREADS * COUNT_ROUNDS);
    assert_int_equal(metrics_read(metrics, counting.gauge), 0);
    assert_int_equal(metrics_read(metrics, counting.histogram), COUNT_THREADS * COUNT_ROUNDS);
    for (int i = 0; i < COUNT_ROUNDS; i += 1000) {
        char link[16];

        (void)snprintf(link, sizeof(link), "l%d", i);
        assert_int_equal(metrics_read(metrics, connections(metrics, link, "new")), COUNT_THREADS);
    }
}

static void *set_gauge(void *arg)
{
    struct counting *counting = arg;

    for (int i = 0; i < 2000; i++)
        metrics_set(counting->metrics, counting->gauge, 7);
    return NULL;
}

static void test_threads_that_set_a_gauge_leave_the_value_that_was_set(void **state)
{
    struct counting counting = {.metrics = *state, .gauge = gauge(*state)};
    pthread_t threads[2];

    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, set_gauge, &counting), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(metrics_read(counting.metrics, counting.gauge), 7);
}

static void *count_once(void *arg)
{
    struct counting *counting = arg;

    metrics_add(counting->metrics, counting->counter, 1);
    return NULL;
}

static void test_what_ended_threads_counted_stays(void **state)
{
    struct counting counting = {.metrics = *state, .counter = connections(*state, "a", "b")};

    for (int i = 0; i < 200; i++) {
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, count_once, &counting), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    assert_int_equal(metrics_read(counting.metrics, counting.counter), 200);
}

/* The thread's own pointer must never lead into the shard of another registry, nor of one that was
 * freed and whose memory a new one has. */
static void test_registries_in_turn_do_not_mix(void **state)
{
    struct metrics *a = *state;
    metric_id a_id = connections(a, "a", "b");

    for (int i = 0; i < 50; i++) {
        struct metrics *b = metrics_new(families, ARRAY_LEN(families));
        metric_id b_id = connections(b, "a", "b");

        assert_int_equal(metrics_read(b, b_id), 0);
        metrics_add(b, b_id, 3);
        metrics_add(a, a_id, 1);
        metrics_add(b, b_id, 3);
        assert_int_equal(metrics_read(b, b_id), 6);
        metrics_free(b);
    }
    assert_int_equal(metrics_read(a, a_id), 50);
    metrics_free(NULL);
}

static void test_what_is_written_when_asked_for_is_escaped_like_a_series(void **state)
{
    static const char *const labels[] = {"serial", "ab", "name", "a\"b\\c\nd", NULL};
    static const char *const none[] = {NULL};
    struct buf out = {0};
    char *text;

    (void)state;
    assert_true(err_is_ok(metrics_write_gauge(&out, "mortise_ends_seconds", "When.")));
    assert_true(err_is_ok(metrics_write_value(&out, "mortise_ends_seconds", labels, 1800000000)));
    assert_true(err_is_ok(metrics_write_value(&out, "mortise_ends_seconds", none, -0.25)));
    text = buf_take_str(&out);
    assert_string_equal(text, "# HELP mortise_ends_seconds When.\n"
                              "# TYPE mortise_ends_seconds gauge\n"
                              "mortise_ends_seconds{serial=\"ab\",name=\"a\\\"b\\\\c\\nd\"} "
                              "1800000000\n"
                              "mortise_ends_seconds{} -0.25\n");
    mem_free(text);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, registry_make, registry_free)
    const struct CMUnitTest tests[] = {
        TEST(test_the_text_is_exactly_this),
        TEST(test_a_bound_includes_itself),
        TEST(test_a_bound_that_floats_fall_short_of_includes_itself),
        TEST(test_label_values_are_escaped),
        TEST(test_label_values_are_cut_at_the_limit),
        TEST(test_series_are_told_apart_by_all_their_values),
        TEST(test_a_small_buffer_is_left_as_it_was),
        TEST(test_read_merges_each_kind),
        TEST(test_a_gauge_that_was_set_goes_on_from_there),
        TEST(test_a_counter_at_its_end_wraps_round),
        TEST(test_the_wrong_use_of_a_kind_stops_the_process),
        TEST(test_a_table_that_makes_no_sense_stops_the_process),
        TEST(test_series_beyond_the_limit_share_other),
        TEST(test_wide_histograms_run_out_of_room_before_the_table_does),
        TEST(test_threads_count_everything_while_others_read),
        TEST(test_threads_that_set_a_gauge_leave_the_value_that_was_set),
        TEST(test_what_ended_threads_counted_stays),
        TEST(test_registries_in_turn_do_not_mix),
        cmocka_unit_test(test_what_is_written_when_asked_for_is_escaped_like_a_series),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
