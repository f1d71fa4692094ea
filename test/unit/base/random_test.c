/* Random bytes: all of what was asked for is filled, nothing beyond, and never the same twice.
 *
 * Drives: none of its own. */
#include "lib/base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_every_byte_is_filled_and_none_beyond(void **state)
{
    uint8_t ever[1001] = {0};

    (void)state;
    for (int i = 0; i < 16; i++) {
        uint8_t out[1001] = {0};

        random_fill(out, 1000);
        for (size_t j = 0; j < sizeof(out); j++)
            ever[j] |= out[j];
    }
    /* That a byte is 0 sixteen times in a row has the chance 2^-128. */
    for (size_t j = 0; j < 1000; j++)
        assert_int_not_equal(ever[j], 0);
    assert_int_equal(ever[1000], 0);
    random_fill(NULL, 0);
}

static void test_two_keys_differ(void **state)
{
    uint8_t a[16], b[16];

    (void)state;
    random_fill(a, sizeof(a));
    random_fill(b, sizeof(b));
    assert_memory_not_equal(a, b, sizeof(a));
}

static void test_every_bit_of_a_number_is_seen_both_ways(void **state)
{
    uint32_t ones = 0, zeros = 0;

    (void)state;
    for (int i = 0; i < 200; i++) {
        uint32_t value = random_u32();

        ones |= value;
        zeros |= ~value;
    }
    assert_int_equal(ones, UINT32_MAX);
    assert_int_equal(zeros, UINT32_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte_is_filled_and_none_beyond),
        cmocka_unit_test(test_two_keys_differ),
        cmocka_unit_test(test_every_bit_of_a_number_is_seen_both_ways),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
