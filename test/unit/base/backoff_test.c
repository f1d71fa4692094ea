/* Retry delays: at least half of the bound and at most all of it, doubling up to the maximum,
 * without overflow however long the other end is away.
 *
 * Drives: none of its own (the retries of every client). */
#include "lib/base/backoff.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void test_bounds_double_up_to_the_maximum(void **state)
{
    static const uint32_t bounds[] = {100, 200, 400, 800, 1000, 1000, 1000};
    struct backoff least = {.base_ms = 100, .max_ms = 1000};
    struct backoff most = {.base_ms = 100, .max_ms = 1000};

    (void)state;
    for (size_t i = 0; i < sizeof(bounds) / sizeof(bounds[0]); i++) {
        assert_int_equal(backoff_next(&least, 0), bounds[i] / 2);
        assert_int_equal(backoff_next(&most, UINT32_MAX), bounds[i]);
    }
}

static void test_reset_begins_anew(void **state)
{
    struct backoff backoff = {.base_ms = 100, .max_ms = 1000};

    (void)state;
    for (int i = 0; i < 5; i++)
        (void)backoff_next(&backoff, 0);
    backoff_reset(&backoff);
    assert_int_equal(backoff_next(&backoff, UINT32_MAX), 100);
    assert_int_equal(backoff_next(&backoff, UINT32_MAX), 200);
}

static void test_delays_are_spread_over_the_whole_range(void **state)
{
    int low = 0, high = 0;

    (void)state;
    for (uint32_t i = 0; i < 1000; i++) {
        struct backoff backoff = {.base_ms = 1000, .max_ms = 1000};
        uint32_t delay = backoff_next(&backoff, i * 4294967u);

        assert_in_range(delay, 500, 1000);
        low += delay < 600;
        high += delay > 900;
    }
    assert_in_range(low, 150, 250);
    assert_in_range(high, 150, 250);
}

static void test_no_attempt_is_too_many(void **state)
{
    static const uint32_t attempts[] = {30, 31, 32, 33, 63, 64, 65, UINT32_MAX - 1, UINT32_MAX};
    struct backoff backoff = {.base_ms = 1, .max_ms = UINT32_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
        uint64_t bound = attempts[i] < 32 ? (uint64_t)1 << attempts[i] : UINT32_MAX;

        backoff.attempts = attempts[i];
        assert_int_equal(backoff_next(&backoff, UINT32_MAX), bound);
        assert_int_equal(backoff.attempts,
                         attempts[i] == UINT32_MAX ? UINT32_MAX : attempts[i] + 1);
    }
    /* A base whose bits all leave the number must not come back as a delay of 0. */
    for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
        backoff = (struct backoff){2, 1000, attempts[i]};
        assert_int_equal(backoff_next(&backoff, UINT32_MAX), 1000);
    }
    backoff = (struct backoff){UINT32_MAX, UINT32_MAX, 31};
    assert_int_equal(backoff_next(&backoff, UINT32_MAX), UINT32_MAX);
}

static void test_degenerate_settings_do_not_exceed_the_maximum(void **state)
{
    struct backoff none = {0};
    struct backoff no_base = {.base_ms = 0, .max_ms = 1000, .attempts = 40};
    struct backoff no_max = {.base_ms = 1000, .max_ms = 0};
    struct backoff small_max = {.base_ms = 1000, .max_ms = 10};
    struct backoff one = {.base_ms = 1, .max_ms = 1};

    (void)state;
    assert_int_equal(backoff_next(&none, UINT32_MAX), 0);
    assert_int_equal(backoff_next(&no_base, UINT32_MAX), 0);
    assert_int_equal(backoff_next(&no_max, UINT32_MAX), 0);
    assert_int_equal(backoff_next(&small_max, UINT32_MAX), 10);
    assert_int_equal(backoff_next(&one, 0), 0);
    assert_int_equal(backoff_next(&one, UINT32_MAX), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds_double_up_to_the_maximum),
        cmocka_unit_test(test_reset_begins_anew),
        cmocka_unit_test(test_delays_are_spread_over_the_whole_range),
        cmocka_unit_test(test_no_attempt_is_too_many),
        cmocka_unit_test(test_degenerate_settings_do_not_exceed_the_maximum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
