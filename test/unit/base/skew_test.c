/* Two clocks compared by messages that both send anyway. Without it: a sidecar whose clock is an
 * hour behind is found when its certificates are refused.
 *
 * Drives: F13 */
#include "lib/base/skew.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define NOW INT64_C(1800000000000)

/* A message each way: we send at `sent`, the other has it `there` later by true time, answers after
 * `took`, and we have that `back` later. The other's clock is `ahead`. */
static struct skew exchange(int64_t sent, int64_t there, int64_t took, int64_t back, int64_t ahead)
{
    struct skew ours = {.heard_ms = 0}, theirs = {.heard_ms = 0};
    struct skew_times times = skew_times(&ours, sent);

    skew_heard(&theirs, &times, sent + there + ahead);
    assert_false(theirs.known); /* one way says nothing */
    times = skew_times(&theirs, sent + there + took + ahead);
    skew_heard(&ours, &times, sent + there + took + back);
    assert_true(ours.known);
    return ours;
}

static void is_within(const struct skew *skew, int64_t truth)
{
    assert_true(skew->ahead_ms - skew->error_ms <= truth);
    assert_true(skew->ahead_ms + skew->error_ms >= truth);
}

static void test_the_truth_is_within_the_error(void **state)
{
    static const int64_t truths[] = {0, 1, -1, 500, -500, 3600000, -3600000, 86400000};
    static const int64_t ways[] = {0, 1, 40, 700};

    (void)state;
    for (size_t i = 0; i < sizeof(truths) / sizeof(truths[0]); i++) {
        for (size_t j = 0; j < sizeof(ways) / sizeof(ways[0]); j++) {
            for (size_t k = 0; k < sizeof(ways) / sizeof(ways[0]); k++) {
                struct skew skew = exchange(NOW, ways[j], 60000, ways[k], truths[i]);

                is_within(&skew, truths[i]);
                /* What the other took to answer is no part of it. */
                assert_in_range(skew.error_ms, 0, (ways[j] + ways[k]) / 2 + 2);
            }
        }
    }
}

static void test_a_clock_that_was_set_between_misleads_nobody(void **state)
{
    struct skew ours = {.heard_ms = 0}, theirs = {.heard_ms = 0};
    struct skew_times times = skew_times(&ours, NOW);

    (void)state;
    skew_heard(&theirs, &times, NOW + 5);
    times = skew_times(&theirs, NOW + 1000 + 30000); /* forward: it cannot be */
    skew_heard(&ours, &times, NOW + 1005);
    assert_false(ours.known);
    times = skew_times(&theirs, NOW + 1000 - 30000); /* back: as if the way were long */
    skew_heard(&ours, &times, NOW + 1005);
    is_within(&ours, -30000);
    is_within(&ours, 0);
    /* With the next one all is well. */
    times = skew_times(&ours, NOW + 2000);
    skew_heard(&theirs, &times, NOW + 2005 - 30000);
    times = skew_times(&theirs, NOW + 2006 - 30000);
    skew_heard(&ours, &times, NOW + 2011);
    is_within(&ours, -30000);
    assert_in_range(ours.error_ms, 0, 10);
}

static void test_only_what_is_certain_is_beyond(void **state)
{
    struct skew skew = exchange(NOW, 1000, 0, 0, 151000);

    (void)state;
    assert_true(skew_beyond(&skew, 149000));
    assert_false(skew_beyond(&skew, 151000)); /* it might be the way that is slow */
    skew = exchange(NOW, 0, 0, 0, -151000);
    assert_true(skew_beyond(&skew, 150000));
    assert_false(skew_beyond(&(struct skew){.ahead_ms = 900000}, 150000)); /* nothing is known */
}

static void test_times_that_cannot_be_are_ignored(void **state)
{
    static const struct skew_times bad[] = {
        {0, 0, 0},
        {-1, NOW, NOW},
        {INT64_MAX, NOW, NOW},
        {INT64_MIN, NOW, NOW},
        {NOW, 0, NOW},
        {NOW, INT64_MIN, NOW},
        {NOW, NOW, INT64_MAX},
        {NOW, NOW, 0},
        {NOW, -5, INT64_MIN},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct skew skew = {.heard_ms = 0};

        skew_heard(&skew, &bad[i], NOW);
        assert_false(skew.known);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_truth_is_within_the_error),
        cmocka_unit_test(test_a_clock_that_was_set_between_misleads_nobody),
        cmocka_unit_test(test_only_what_is_certain_is_beyond),
        cmocka_unit_test(test_times_that_cannot_be_are_ignored),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
