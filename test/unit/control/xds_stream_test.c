/* One subscription's books: who answered what, and when the next response goes.
 * Without it: an acknowledgement of yesterday counts for today, a refused policy is pushed for
 * ever, or a slow sidecar gets responses piled up. Drives: F2, R10. */
#include "control/xds_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* A stream that has been opened with version `have`, and offered 10. */
static struct xds_stream opened(uint64_t have)
{
    struct xds_stream xds = {0};

    assert_int_equal(xds_stream_on_request(&xds, have, "", false), XDS_FIRST);
    xds_stream_offer(&xds, 10);
    return xds;
}

static void test_nothing_goes_before_the_first_request(void **state)
{
    struct xds_stream xds = {0};

    (void)state;
    xds_stream_offer(&xds, 10);
    assert_false(xds_stream_due(&xds));
    assert_int_equal(xds_stream_on_request(&xds, 0, "", false), XDS_FIRST);
    assert_true(xds_stream_due(&xds));
}

static void test_the_whole_goes_even_to_one_that_says_it_has_it(void **state)
{
    struct xds_stream xds = opened(10);

    (void)state;
    assert_true(xds_stream_due(&xds));
    assert_false(xds_stream_in_sync(&xds)); /* not before it has said so on this stream */
}

static void test_an_acknowledged_version_is_in_sync(void **state)
{
    struct xds_stream xds = opened(0);
    char nonce[XDS_NONCE_MAX];

    (void)state;
    xds_stream_sent(&xds, nonce);
    assert_false(xds_stream_due(&xds));
    assert_false(xds_stream_in_sync(&xds));
    assert_int_equal(xds_stream_on_request(&xds, 10, nonce, false), XDS_ACK);
    assert_true(xds_stream_in_sync(&xds));
    assert_false(xds_stream_due(&xds));
    assert_int_equal(xds.acked_version, 10);
}

static void test_one_response_is_in_flight_and_the_newest_follows(void **state)
{
    struct xds_stream xds = opened(0);
    char first[XDS_NONCE_MAX], second[XDS_NONCE_MAX];

    (void)state;
    xds_stream_sent(&xds, first);
    for (uint64_t version = 11; version < 50; version++) {
        xds_stream_offer(&xds, version);
        assert_false(xds_stream_due(&xds));
    }
    assert_int_equal(xds_stream_on_request(&xds, 10, first, false), XDS_ACK);
    assert_false(xds_stream_in_sync(&xds));
    assert_true(xds_stream_due(&xds));
    xds_stream_sent(&xds, second);
    assert_int_equal(xds.sent_version, 49);
    assert_string_not_equal(first, second);
}

static void test_a_refused_version_is_not_sent_again_but_the_next_is(void **state)
{
    struct xds_stream xds = opened(7);
    char nonce[XDS_NONCE_MAX];

    (void)state;
    xds_stream_sent(&xds, nonce);
    assert_int_equal(xds_stream_on_request(&xds, 7, nonce, true), XDS_NACK);
    assert_true(xds_stream_refused(&xds));
    assert_false(xds_stream_in_sync(&xds));
    assert_int_equal(xds.acked_version, 7); /* what it keeps */
    assert_int_equal(xds.refused_version, 10);
    assert_false(xds_stream_due(&xds));
    xds_stream_offer(&xds, 11);
    assert_false(xds_stream_refused(&xds)); /* of the new one nothing is known */
    assert_true(xds_stream_due(&xds));
    xds_stream_sent(&xds, nonce);
    assert_int_equal(xds_stream_on_request(&xds, 11, nonce, false), XDS_ACK);
    assert_int_equal(xds.refused_version, 0);
    assert_true(xds_stream_in_sync(&xds));
}

static void test_stale_and_repeated_answers_answer_nothing(void **state)
{
    struct xds_stream xds = opened(0);
    char first[XDS_NONCE_MAX], second[XDS_NONCE_MAX];

    (void)state;
    xds_stream_sent(&xds, first);
    assert_int_equal(xds_stream_on_request(&xds, 10, first, false), XDS_ACK);
    assert_int_equal(xds_stream_on_request(&xds, 10, first, false), XDS_STATUS); /* twice */
    assert_int_equal(xds_stream_on_request(&xds, 10, first, true), XDS_STATUS);
    assert_true(xds_stream_in_sync(&xds));
    xds_stream_offer(&xds, 11);
    xds_stream_sent(&xds, second);
    assert_int_equal(xds_stream_on_request(&xds, 10, first, false), XDS_STATUS); /* stale */
    assert_int_equal(xds_stream_on_request(&xds, 10, "", false), XDS_STATUS);    /* facts only */
    assert_int_equal(xds_stream_on_request(&xds, 11, "nonsense", false), XDS_STATUS);
    assert_true(xds.in_flight);
    assert_int_equal(xds_stream_on_request(&xds, 11, second, false), XDS_ACK);
}

static void test_answers_that_cannot_be_break_the_stream(void **state)
{
    struct xds_stream xds = opened(0);
    struct xds_stream fresh = {0};
    char nonce[XDS_NONCE_MAX];

    (void)state;
    xds_stream_sent(&xds, nonce);
    assert_int_equal(xds_stream_on_request(&xds, 99, nonce, false), XDS_INVALID);
    assert_int_equal(xds_stream_on_request(&fresh, 0, "1", false), XDS_INVALID);
    fresh = (struct xds_stream){0};
    assert_int_equal(xds_stream_on_request(&fresh, 0, "", true), XDS_INVALID);
}

/* A number below `num`, the same ones for the same seed. */
static uint32_t chance(uint32_t *state, uint32_t num)
{
    *state = *state * 1664525U + 1013904223U;
    return (*state >> 16) % num;
}

/* Whatever a sidecar sends, in whatever order: never two in flight, never a version backwards. */
static void test_any_order_keeps_the_rules(void **state)
{
    (void)state;
    for (uint32_t seed = 1; seed <= 200; seed++) {
        uint32_t seed_state = seed * 2654435761U;
        struct xds_stream xds = opened(0);
        char nonce[XDS_NONCE_MAX] = "";
        uint64_t version = 10, sent = 0;

        for (int step = 0; step < 200; step++) {
            switch (chance(&seed_state, 5)) {
            case 0:
                xds_stream_offer(&xds, ++version);
                break;
            case 1:
                if (!xds_stream_due(&xds))
                    break;
                assert_false(xds.in_flight);
                xds_stream_sent(&xds, nonce);
                assert_true(xds.sent_version > sent);
                sent = xds.sent_version;
                break;
            case 2:
                (void)xds_stream_on_request(&xds, sent, nonce, false);
                break;
            case 3:
                (void)xds_stream_on_request(&xds, sent, nonce, true);
                break;
            default:
                (void)xds_stream_on_request(&xds, 0, "77", chance(&seed_state, 2) == 0);
                break;
            }
            assert_true(xds.acked_version <= xds.sent_version);
            assert_true(xds.sent_version <= xds.wanted_version);
            assert_false(xds_stream_in_sync(&xds) && xds_stream_refused(&xds));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_goes_before_the_first_request),
        cmocka_unit_test(test_the_whole_goes_even_to_one_that_says_it_has_it),
        cmocka_unit_test(test_an_acknowledged_version_is_in_sync),
        cmocka_unit_test(test_one_response_is_in_flight_and_the_newest_follows),
        cmocka_unit_test(test_a_refused_version_is_not_sent_again_but_the_next_is),
        cmocka_unit_test(test_stale_and_repeated_answers_answer_nothing),
        cmocka_unit_test(test_answers_that_cannot_be_break_the_stream),
        cmocka_unit_test(test_any_order_keeps_the_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
