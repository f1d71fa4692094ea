/* What a peer may send for nothing: a busy client's frames are not a flood, one without work of
 * ours behind them are. Drives: R14, F2. */
#include "lib/rpc/h2_flood.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const nghttp2_frame_hd window = {.type = NGHTTP2_WINDOW_UPDATE, .length = 4};

/* How many WINDOW_UPDATE pass within one second, up to `most`. */
static uint32_t windows_passed(struct h2_flood *flood, uint32_t most)
{
    uint32_t n = 0;

    while (n < most && !h2_flood_received(flood, 1, &window, true, false))
        n++;
    return n;
}

/* A client with a hundred calls at once reads the answers of all of them in one go. */
static void test_windows_of_a_batch_of_answers_are_free(void **state)
{
    struct h2_flood flood = {.resets_per_s = 100, .pings_per_s = 20};

    (void)state;
    for (unsigned round = 0; round < 40; round++) {
        for (unsigned i = 0; i < 200; i++)
            h2_flood_answered(&flood);
        assert_int_equal(windows_passed(&flood, 300), 300);
    }
}

static void test_windows_beyond_the_answers_are_a_flood(void **state)
{
    struct h2_flood flood = {.resets_per_s = 100, .pings_per_s = 20};

    (void)state;
    h2_flood_answered(&flood);
    assert_int_equal(windows_passed(&flood, UINT32_MAX),
                     H2_FLOOD_WINDOW_CREDIT + H2_FLOOD_SMALL_PER_S);
}

static void test_answers_of_long_ago_are_no_endless_credit(void **state)
{
    struct h2_flood flood = {.resets_per_s = 100, .pings_per_s = 20};

    (void)state;
    for (unsigned i = 0; i < 1000000; i++)
        h2_flood_answered(&flood);
    assert_int_equal(windows_passed(&flood, UINT32_MAX),
                     H2_FLOOD_WINDOW_CREDIT_MAX + H2_FLOOD_SMALL_PER_S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows_of_a_batch_of_answers_are_free),
        cmocka_unit_test(test_windows_beyond_the_answers_are_a_flood),
        cmocka_unit_test(test_answers_of_long_ago_are_no_endless_credit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
