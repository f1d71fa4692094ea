/* Time: a clock can be driven by tests; dates print right at every edge and never past their
 * buffer.
 *
 * Drives: none of its own. */
#include "lib/base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

struct fake {
    struct clock clock;
    uint64_t ms;
};

static uint64_t fake_mono_ms(const struct clock *clock)
{
    return ((const struct fake *)(const void *)clock)->ms;
}

static int64_t fake_wall_s(const struct clock *clock)
{
    return (int64_t)fake_mono_ms(clock) / 1000 - 5;
}

static void test_a_clock_of_ones_own_is_asked(void **state)
{
    struct fake fake = {{fake_mono_ms, fake_wall_s}, 7000};

    (void)state;
    assert_int_equal(clock_mono_ms(&fake.clock), 7000);
    assert_int_equal(clock_wall_s(&fake.clock), 2);
}

static void test_the_system_clock_tells_the_kernels_time(void **state)
{
    int64_t before = time(NULL);
    int64_t now = clock_wall_s(&clock_system);
    int64_t now_us = clock_wall_us();
    int64_t after = time(NULL);
    struct timespec mono;
    uint64_t mono_ms;

    (void)state;
    /* time() may be read from a coarser clock, which is a tick behind. */
    assert_in_range(now, before, after + 1);
    assert_in_range(now_us / 1000000, before, after + 1);
    assert_int_equal(clock_gettime(CLOCK_MONOTONIC, &mono), 0);
    mono_ms = (uint64_t)mono.tv_sec * 1000 + (uint64_t)mono.tv_nsec / 1000000;
    assert_true(clock_mono_ms(&clock_system) >= mono_ms);
    assert_true(clock_mono_us() / 1000 >= mono_ms);
    assert_true(clock_mono_ms(&clock_system) < mono_ms + 60000);
}

static void test_monotonic_time_never_goes_back(void **state)
{
    uint64_t last = clock_mono_us();

    (void)state;
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_mono_us();

        assert_true(now >= last);
        last = now;
    }
}

static void test_dates_at_the_edges(void **state)
{
    static const struct {
        int64_t unix_s;
        const char *text;
    } rows[] = {
        {0, "1970-01-01T00:00:00Z"},
        {-1, "1969-12-31T23:59:59Z"},
        {951782400, "2000-02-29T00:00:00Z"},
        {1795484124, "2026-11-24T01:35:24Z"},
        {4107542400, "2100-03-01T00:00:00Z"}, /* 2100 has no 29 February */
        {2147483648, "2038-01-19T03:14:08Z"},
        {253402300799, "9999-12-31T23:59:59Z"},
        {253402300800, "9999-12-31T23:59:59Z"},
        {INT64_MAX, "9999-12-31T23:59:59Z"},
        {-62167219200, "0000-01-01T00:00:00Z"},
        {-62167219201, "0000-01-01T00:00:00Z"},
        {INT64_MIN, "0000-01-01T00:00:00Z"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char out[22];

        memset(out, '#', sizeof(out));
        clock_format_utc(rows[i].unix_s, out);
        assert_string_equal(out, rows[i].text);
        assert_int_equal(out[21], '#');
    }
}

static void test_dates_are_read_in_one_form(void **state)
{
    static const char *const others[] = {
        "",
        "tomorrow",
        "2026-11-24",
        "2026-11-24T01:35:24",
        "2026-11-24T01:35:24z",
        "2026-11-24T01:35:24+00:00",
        "2026-11-24 01:35:24Z",
        " 2026-11-24T01:35:24Z",
        "2026-11-24T01:35:24Z ",
        "2026-11-24T01:35:24.5Z",
        "2026-11-24T1:35:24Z",
        "2026-02-30T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-11-24T24:00:00Z",
        "2026-11-24T23:59:60Z",
        "2026-11-24T23:60:00Z",
        "99999-01-01T00:00:00Z",
        "-001-01-01T00:00:00Z",
    };
    static const int64_t times[] = {0, -1, 951782400, 1795484124, 253402300799};
    int64_t read = 7;

    (void)state;
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_false(clock_parse_utc(others[i], &read));
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        char text[21];

        clock_format_utc(times[i], text);
        assert_true(clock_parse_utc(text, &read));
        assert_int_equal(read, times[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_clock_of_ones_own_is_asked),
        cmocka_unit_test(test_the_system_clock_tells_the_kernels_time),
        cmocka_unit_test(test_monotonic_time_never_goes_back),
        cmocka_unit_test(test_dates_at_the_edges),
        cmocka_unit_test(test_dates_are_read_in_one_form),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
