/* When a certificate is renewed: around half of its life, apart from its neighbours, never too
 * late. Drives: R11, A3, F18. */
#include "certs/renew.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define DAY 86400

static void test_half_of_life_and_a_tenth(void **state)
{
    (void)state;
    assert_int_equal(renew_at(0, DAY, 0, 0), DAY * 4 / 10);
    assert_int_equal(renew_at(0, DAY, 0, UINT32_MAX), DAY * 6 / 10);
    for (uint32_t i = 0; i < 1000; i++) {
        int64_t at = renew_at(1000, 1000 + DAY, 1000, i * 4294967U);
        assert_in_range(at, 1000 + DAY * 4 / 10, 1000 + DAY * 6 / 10);
    }
}

/* 1,000 sidecars that started together do not come together. */
static void test_jitter_spreads(void **state)
{
    int buckets[10] = {0};

    (void)state;
    for (uint32_t i = 0; i < 1000; i++) {
        int64_t at = renew_at(0, 1000000, 0, i * 4294967U);
        buckets[(at - 400000) * 10 / 200001]++;
    }
    for (int i = 0; i < 10; i++)
        assert_in_range(buckets[i], 80, 120);
}

static void test_bounds(void **state)
{
    (void)state;
    assert_int_equal(renew_at(0, DAY, DAY * 7 / 10, 0), DAY * 7 / 10); /* late: now */
    assert_int_equal(renew_at(0, DAY, 2 * DAY, 0), 2 * DAY);           /* expired: now */
    assert_int_equal(renew_at(0, 100, 0, UINT32_MAX),
                     40); /* short-lived: a minute before the end */
    assert_int_equal(renew_at(0, 30, 0, 5), 0);
    assert_int_equal(renew_at(100, 50, 60, 5), 60); /* ends before it begins */
    /* A hundred years do not overflow. */
    int64_t century = INT64_C(100) * 365 * DAY;
    assert_int_equal(renew_at(0, century, 0, UINT32_MAX), century / 10 * 6);
}

/* What the control plane planned is kept to, unless it makes no sense. */
static void test_a_planned_time_is_kept_to_within_reason(void **state)
{
    (void)state;
    assert_int_equal(renew_planned(DAY * 45 / 100, 0, DAY, 0, 0), DAY * 45 / 100);
    assert_int_equal(renew_planned(DAY * 30 / 100, 0, DAY, 0, 0), DAY * 30 / 100);
    assert_int_equal(renew_planned(DAY * 70 / 100, 0, DAY, 0, 0), DAY * 70 / 100);
    assert_int_equal(renew_planned(0, 0, DAY, 0, 0), DAY * 40 / 100);
    assert_int_equal(renew_planned(DAY * 29 / 100, 0, DAY, 0, 0), DAY * 40 / 100);
    assert_int_equal(renew_planned(DAY * 71 / 100, 0, DAY, 0, 0), DAY * 40 / 100);
    assert_int_equal(renew_planned(INT64_MAX, 0, DAY, 0, 0), DAY * 40 / 100);
    assert_int_equal(renew_planned(INT64_MIN, 0, DAY, 0, 0), DAY * 40 / 100);
    assert_int_equal(renew_planned(DAY / 2, 0, DAY, DAY / 2, 0), DAY / 2); /* it is past: now */
    assert_int_equal(renew_planned(65, 0, 100, 0, UINT32_MAX), 40);        /* the last minute */
}

/* Of the last 40 % of the life: nothing while a regular renewal may still come, then in steps. */
static void test_the_alarm_rises_to_the_end(void **state)
{
    static const struct {
        int64_t at;
        unsigned percent;
    } rows[] = {
        {-1, 0},
        {DAY * 60 / 100, 0},
        {DAY * 80 / 100 - 1, 0},
        {DAY * 80 / 100, 50},
        {DAY * 90 / 100 - 1, 50},
        {DAY * 90 / 100, 75},
        {DAY * 96 / 100 - 1, 75},
        {DAY * 96 / 100, 90},
        {DAY - 1, 90},
        {DAY, 100},
        {DAY * 1000, 100},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(renew_alarm(1000, 1000 + DAY, 1000 + rows[i].at), rows[i].percent);
    /* No regular renewal is ever late enough for one. */
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(renew_alarm(0, DAY, renew_at(0, DAY, 0, i * 4294967U)), 0);
    assert_int_equal(renew_alarm(100, 50, 49), 0); /* ends before it begins */
    assert_int_equal(renew_alarm(100, 50, 50), 100);
    assert_int_equal(renew_alarm(0, INT64_C(100) * 365 * DAY, INT64_C(81) * 365 * DAY), 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_of_life_and_a_tenth),
        cmocka_unit_test(test_jitter_spreads),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_a_planned_time_is_kept_to_within_reason),
        cmocka_unit_test(test_the_alarm_rises_to_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
