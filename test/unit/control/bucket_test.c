/* Rate limits: a burst, then a steady rate, and bounded memory whatever keys come.
 * Without it: one source keeps the CA busy, or fills its memory with names.
 * Drives: R14, R16, R36. */
#include "control/bucket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static void test_a_burst_then_the_rate(void **state)
{
    struct buckets buckets;

    (void)state;
    buckets_init(&buckets, 5, 60, 10); /* one a second comes back */
    for (int i = 0; i < 5; i++)
        assert_true(buckets_take(&buckets, "a", 1000));
    assert_false(buckets_take(&buckets, "a", 1000));
    assert_false(buckets_take(&buckets, "a", 1999));
    assert_true(buckets_take(&buckets, "a", 2000));
    assert_false(buckets_take(&buckets, "a", 2000));
    assert_true(buckets_take(&buckets, "b", 2000)); /* the others have their own */
    buckets_fini(&buckets);
}

static void test_looking_takes_nothing(void **state)
{
    struct buckets buckets;

    (void)state;
    buckets_init(&buckets, 2, 60, 1);
    for (int i = 0; i < 9; i++)
        assert_true(buckets_has(&buckets, "a", 1000));
    assert_true(buckets_take(&buckets, "a", 1000) && buckets_has(&buckets, "a", 1000));
    assert_true(buckets_take(&buckets, "a", 1000));
    assert_false(buckets_has(&buckets, "a", 1999));
    assert_true(buckets_has(&buckets, "a", 2000));
    /* Whoever finds no place shares one with the others of that kind. */
    assert_true(buckets_has(&buckets, "b", 1000));
    assert_true(buckets_take(&buckets, "b", 1000) && buckets_take(&buckets, "c", 1000));
    assert_false(buckets_has(&buckets, "d", 1000));
    buckets_fini(&buckets);
}

static void test_asking_often_in_vain_costs_nothing(void **state)
{
    struct buckets buckets;
    unsigned taken = 0;

    (void)state;
    buckets_init(&buckets, 1, 60, 10);
    for (uint64_t now = 0; now <= 10000; now++)
        taken += buckets_take(&buckets, "a", now);
    assert_int_equal(taken, 11); /* the burst of one, then one each second */
    buckets_fini(&buckets);
}

static void test_a_bucket_is_never_fuller_than_full(void **state)
{
    struct buckets buckets;
    unsigned taken = 0;

    (void)state;
    buckets_init(&buckets, 3, 6000, 10);
    assert_true(buckets_take(&buckets, "a", 0));
    while (buckets_take(&buckets, "a", UINT64_C(1) << 60) && taken < 100)
        taken++;
    assert_int_equal(taken, 3);
    buckets_fini(&buckets);
}

static void test_a_clock_that_stands_or_goes_back_gives_nothing(void **state)
{
    struct buckets buckets;

    (void)state;
    buckets_init(&buckets, 1, 60, 10);
    assert_true(buckets_take(&buckets, "a", 100000));
    assert_false(buckets_take(&buckets, "a", 50000));
    assert_false(buckets_take(&buckets, "a", 100000));
    buckets_fini(&buckets);
}

static void test_many_keys_share_what_is_left(void **state)
{
    struct buckets buckets;
    unsigned taken = 0;
    char key[16];

    (void)state;
    buckets_init(&buckets, 2, 60, 100);
    for (unsigned i = 0; i < 100000; i++) {
        (void)snprintf(key, sizeof(key), "k%u", i);
        taken += buckets_take(&buckets, key, 1000);
    }
    assert_int_equal(map_num(&buckets.keys), 100);
    assert_int_equal(taken, 102); /* one each for the first hundred, and the shared bucket's two */
    /* Later the first hundred are full again and make room. */
    assert_true(buckets_take(&buckets, "late", 1000000));
    assert_true(map_num(&buckets.keys) <= 100);
    assert_true(buckets_take(&buckets, "late", 1000000));
    assert_false(buckets_take(&buckets, "late", 1000000));
    buckets_fini(&buckets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_burst_then_the_rate),
        cmocka_unit_test(test_looking_takes_nothing),
        cmocka_unit_test(test_asking_often_in_vain_costs_nothing),
        cmocka_unit_test(test_a_bucket_is_never_fuller_than_full),
        cmocka_unit_test(test_a_clock_that_stands_or_goes_back_gives_nothing),
        cmocka_unit_test(test_many_keys_share_what_is_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
