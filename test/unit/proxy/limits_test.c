/* The limits of what peers can cause at once: at one below, at, and one above.
 *
 * Drives: R14 */
#include "proxy/limits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static struct addr addr_of(const char *text)
{
    struct addr addr;

    assert_true(err_is_ok(addr_parse(text, &addr)));
    return addr;
}

static void test_connections_stop_at_the_limit(void **state)
{
    const struct tunables tunables = {.max_connections = 3};
    struct limits *limits = limits_new();

    (void)state;
    assert_true(limits_connection_begin(limits, &tunables));
    assert_true(limits_connection_begin(limits, &tunables));
    assert_true(limits_connection_begin(limits, &tunables));
    assert_false(limits_connection_begin(limits, &tunables));
    assert_false(limits_connection_begin(limits, &tunables));
    limits_connection_end(limits);
    assert_true(limits_connection_begin(limits, &tunables)); /* the refused ones left no trace */
    assert_false(limits_connection_begin(limits, &tunables));
    limits_free(limits);
}

static void test_handshakes_stop_at_the_limit(void **state)
{
    const struct tunables tunables = {.max_handshakes = 2, .max_handshakes_per_source = 100};
    struct limits *limits = limits_new();
    struct addr source = addr_of("10.0.0.1:1000");
    uint16_t bucket[3];
    enum shed shed = SHED_NUM;

    (void)state;
    assert_true(limits_handshake_begin(limits, &tunables, &source, &bucket[0], &shed));
    assert_true(limits_handshake_begin(limits, &tunables, &source, &bucket[1], &shed));
    assert_false(limits_handshake_begin(limits, &tunables, &source, &bucket[2], &shed));
    assert_int_equal(shed, SHED_HANDSHAKES);
    limits_handshake_end(limits, bucket[0]);
    assert_true(limits_handshake_begin(limits, &tunables, &source, &bucket[2], &shed));
    limits_free(limits);
}

static void test_one_source_does_not_take_the_room_of_others(void **state)
{
    const struct tunables tunables = {.max_handshakes = 100, .max_handshakes_per_source = 2};
    struct limits *limits = limits_new();
    struct addr noisy = addr_of("10.0.0.1:1000"), other_port = addr_of("10.0.0.1:2000");
    uint16_t first, bucket;
    enum shed shed = SHED_NUM;
    unsigned through = 0;

    (void)state;
    assert_true(limits_handshake_begin(limits, &tunables, &noisy, &first, &shed));
    assert_true(limits_handshake_begin(limits, &tunables, &other_port, &bucket, &shed));
    assert_false(limits_handshake_begin(limits, &tunables, &noisy, &bucket, &shed));
    assert_int_equal(shed, SHED_SOURCE);
    /* Of 4096 buckets one of these may share the noisy one's, not more than a few. */
    for (unsigned i = 2; i < 34; i++) {
        char text[32];
        struct addr quiet;

        (void)snprintf(text, sizeof(text), "10.0.0.%u:1000", i);
        quiet = addr_of(text);
        through += limits_handshake_begin(limits, &tunables, &quiet, &bucket, &shed) ? 1 : 0;
    }
    assert_true(through >= 29);
    limits_handshake_end(limits, first);
    assert_true(limits_handshake_begin(limits, &tunables, &noisy, &bucket, &shed));
    limits_free(limits);
}

static void test_a_host_is_its_ipv6_network(void **state)
{
    const struct tunables tunables = {.max_handshakes = 100, .max_handshakes_per_source = 1};
    struct limits *limits = limits_new();
    struct addr one = addr_of("[2001:db8:1:2::1]:1"), two = addr_of("[2001:db8:1:2:ffff::9]:1");
    struct addr mapped = addr_of("[::ffff:10.0.0.1]:1"), plain = addr_of("10.0.0.1:7");
    uint16_t bucket;
    enum shed shed = SHED_NUM;

    (void)state;
    assert_true(limits_handshake_begin(limits, &tunables, &one, &bucket, &shed));
    assert_false(limits_handshake_begin(limits, &tunables, &two, &bucket, &shed));
    assert_int_equal(shed, SHED_SOURCE);
    assert_true(limits_handshake_begin(limits, &tunables, &mapped, &bucket, &shed));
    assert_false(limits_handshake_begin(limits, &tunables, &plain, &bucket, &shed));
    limits_free(limits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_connections_stop_at_the_limit),
        cmocka_unit_test(test_handshakes_stop_at_the_limit),
        cmocka_unit_test(test_one_source_does_not_take_the_room_of_others),
        cmocka_unit_test(test_a_host_is_its_ipv6_network),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
