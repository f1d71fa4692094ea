/* How long a connection may live: every rule at its edges. Without it: one that outlives the
 * certificate it rests on, or a thousand that end in the same moment.
 *
 * Drives: F7, R8 */
#include "proxy/age.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/mem.h"

#define NOW INT64_C(1800000000)

static uint64_t left(struct age_rule rule, uint64_t age_ms, int64_t valid_s, bool *expiry)
{
    const struct age_moment moment = {
        .age_ms = age_ms, .now_s = NOW, .peer_not_after = NOW + valid_s};

    return age_left_ms(&rule, &moment, expiry);
}

static void test_what_is_nearer_ends_it(void **state)
{
    const struct age_rule plain = {0}, aged = {.max_age_s = 60}, kept = {.keep = true},
                          both = {.keep = true, .max_age_s = 60};
    bool expiry;

    (void)state;
    assert_int_equal(left(plain, 5, 100, &expiry), 100000);
    assert_true(expiry);
    assert_int_equal(left(aged, 1000, 100, &expiry), 59000);
    assert_false(expiry);
    assert_int_equal(left(aged, 1000, 30, &expiry), 30000);
    assert_true(expiry);
    assert_true(left(kept, 1000, -5, &expiry) == AGE_NO_END);
    assert_false(expiry);
    assert_int_equal(left(both, 1000, -5, NULL), 59000);
}

/* Not a moment later, and never less than nothing, whatever a clock does. */
static void test_the_end_is_the_end(void **state)
{
    const struct age_rule plain = {0}, aged = {.max_age_s = 60};

    (void)state;
    assert_int_equal(left(plain, 0, 1, NULL), 1000);
    assert_int_equal(left(plain, 0, 0, NULL), 0);
    assert_int_equal(left(plain, 0, -1000000, NULL), 0);
    assert_int_equal(left(aged, 59999, 1000, NULL), 1);
    assert_int_equal(left(aged, 60000, 1000, NULL), 0);
    assert_int_equal(left(aged, UINT64_MAX, 1000, NULL), 0);
}

static void test_those_who_began_together_do_not_end_together(void **state)
{
    const struct age_rule plain = {0}, abrupt = {.abrupt = true};
    const uint64_t day_ms = 86400000;
    uint32_t last = 0;

    (void)state;
    for (uint32_t i = 0; i <= 10; i++) {
        uint32_t drain_ms = age_drain_ms(&plain, day_ms, UINT32_MAX / 10 * i);

        assert_in_range(drain_ms, AGE_DRAIN_MAX_MS / 2, AGE_DRAIN_MAX_MS);
        assert_true(i == 0 || drain_ms > last);
        last = drain_ms;
    }
    assert_int_equal(age_drain_ms(&plain, day_ms, UINT32_MAX), AGE_DRAIN_MAX_MS);
    assert_int_equal(age_drain_ms(&plain, 400, UINT32_MAX), 100);
    assert_int_equal(age_drain_ms(&plain, 400, 0), 50);
    assert_int_equal(age_drain_ms(&plain, 0, 7), 0);
    assert_int_equal(age_drain_ms(&abrupt, day_ms, 7), 0);
    assert_int_equal(age_drain_ms(&plain, AGE_NO_END, 7), 0);
}

static void test_the_nearer_the_end_the_shorter_a_quiet_moment(void **state)
{
    (void)state;
    assert_int_equal(age_quiet_ms(600000), AGE_QUIET_MAX_MS);
    assert_int_equal(age_quiet_ms(17000), 1000);
    assert_int_equal(age_quiet_ms(AGE_LAST_MS), AGE_QUIET_MIN_MS);
    assert_int_equal(age_quiet_ms(1), AGE_QUIET_MIN_MS);
    assert_false(age_is_late(8000, 2001));
    assert_true(age_is_late(8000, 2000));
    assert_true(age_is_late(1, AGE_LAST_MS));
}

static void test_what_a_profile_says(void **state)
{
    Mortise__V1__TlsProfile profile = MORTISE__V1__TLS_PROFILE__INIT;
    struct age_rule rule = age_rule(&profile);

    (void)state;
    assert_false(rule.keep || rule.abrupt || rule.max_age_s != 0);
    profile.on_expiry = MORTISE__V1__TLS_PROFILE__ON_EXPIRY__KEEP;
    profile.max_age_s = 30;
    rule = age_rule(&profile);
    assert_true(rule.keep && !rule.abrupt && rule.max_age_s == 30);
    profile.on_expiry = MORTISE__V1__TLS_PROFILE__ON_EXPIRY__CLOSE;
    rule = age_rule(&profile);
    assert_true(!rule.keep && rule.abrupt);
    profile.on_expiry = MORTISE__V1__TLS_PROFILE__ON_EXPIRY__DRAIN;
    rule = age_rule(&profile);
    assert_false(rule.keep || rule.abrupt);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_nearer_ends_it),
        cmocka_unit_test(test_the_end_is_the_end),
        cmocka_unit_test(test_those_who_began_together_do_not_end_together),
        cmocka_unit_test(test_the_nearer_the_end_the_shorter_a_quiet_moment),
        cmocka_unit_test(test_what_a_profile_says),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
