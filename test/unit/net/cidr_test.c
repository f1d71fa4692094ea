/* Without this a range would hold an address too many or too few: what is denied inside it would
 * pass. Drives: R19 */
#include "lib/net/cidr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static struct cidr range(const char *text)
{
    struct cidr out;

    assert_true(err_is_ok(cidr_parse(text, &out)));
    return out;
}

static bool holds(const char *text, const char *address)
{
    struct cidr cidr = range(text);
    struct addr addr;

    assert_true(err_is_ok(addr_parse(address, &addr)));
    return cidr_holds_addr(&cidr, &addr);
}

static void test_what_is_written_is_read(void **state)
{
    static const char *const texts[][2] = {
        {"10.0.0.0/8", "10.0.0.0/8"},       {"0.0.0.0/0", "0.0.0.0/0"},
        {"10.1.2.3", "10.1.2.3/32"},        {"192.168.1.128/25", "192.168.1.128/25"},
        {"fd00::/8", "fd00::/8"},           {"::/0", "::/0"},
        {"2001:DB8::1", "2001:db8::1/128"}, {"fe80::/10", "fe80::/10"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct cidr cidr = range(texts[i][0]);
        char text[CIDR_TEXT_MAX];

        cidr_format(&cidr, text);
        assert_string_equal(text, texts[i][1]);
    }
}

static void test_what_is_no_range_is_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "/",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/08",
        "10.0.0/8",
        "10.0.0.7/8",
        "010.0.0.0/8",
        "10.0.0.0/8 ",
        " 10.0.0.0/8",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "fd00::/129",
        "fd00::1/64",
        "fe80::1%eth0",
        "::ffff:10.0.0.7",
        "::ffff:10.0.0.0/104",
        "[fd00::]/8",
        "portal",
        "10.0.0.0/99999999999",
        "1111:2222:3333:4444:5555:6666:7777:8888:9999/128",
        "0000000000000000000000000000000000000000000000000000000000000000/8",
    };
    struct cidr out = {.prefix = 77};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        assert_true(err_is(cidr_parse(texts[i], &out), E_ADDR_SYNTAX));
        assert_int_equal(out.prefix, 77);
    }
}

static void test_a_port_may_follow(void **state)
{
    static const char *const wrong[] = {"10.0.0.7",
                                        "10.0.0.7:",
                                        "10.0.0.7:0",
                                        "10.0.0.7:65536",
                                        "10.0.0.7/8:80",
                                        "[10.0.0.7]:80",
                                        "fd00::7:80",
                                        "[fd00::7]",
                                        "[fd00::7]80",
                                        "[fd00::7]:",
                                        "[fd00::7]:80:80",
                                        "10.0.0.7:80:80",
                                        ":80",
                                        "[]:80",
                                        "portal:80",
                                        "[::ffff:10.0.0.7]:80",
                                        "10.0.0.7:00000000080",
                                        ""};
    struct cidr cidr = {.prefix = 77};
    uint16_t port = 7;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_true(err_is(cidr_parse_port(wrong[i], &cidr, &port), E_ADDR_SYNTAX));
    assert_int_equal(cidr.prefix, 77);
    assert_int_equal(port, 7);
    assert_true(err_is_ok(cidr_parse_port("10.1.0.0/16:8080", &cidr, &port)));
    assert_int_equal(cidr.prefix, 16);
    assert_int_equal(port, 8080);
    assert_true(err_is_ok(cidr_parse_port("[fd00::/64]:65535", &cidr, &port)));
    assert_int_equal(cidr.prefix, 64);
    assert_int_equal(port, 65535);
    assert_true(err_is_ok(cidr_parse_port("[fd00::7]:1", &cidr, &port)));
    assert_int_equal(cidr.prefix, 128);
}

static void test_an_address_is_inside_or_not(void **state)
{
    (void)state;
    assert_true(holds("10.0.0.0/8", "10.255.255.255:1"));
    assert_false(holds("10.0.0.0/8", "11.0.0.0:1"));
    assert_true(holds("192.168.1.128/25", "192.168.1.128:1"));
    assert_false(holds("192.168.1.128/25", "192.168.1.127:1"));
    assert_true(holds("0.0.0.0/0", "255.255.255.255:1"));
    assert_false(holds("0.0.0.0/0", "[::1]:1"));
    assert_false(holds("::/0", "10.0.0.1:1"));
    assert_true(holds("fe80::/10", "[febf::1]:1"));
    assert_false(holds("fe80::/10", "[fec0::1]:1"));
    assert_true(holds("10.0.0.7", "10.0.0.7:443"));
    assert_false(holds("10.0.0.7", "10.0.0.6:443"));
}

static void test_mapped_addresses_are_ipv4(void **state)
{
    (void)state;
    assert_true(holds("10.0.0.0/8", "[::ffff:10.1.2.3]:80"));
    assert_false(holds("10.0.0.0/8", "[::ffff:11.1.2.3]:80"));
    assert_false(holds("::/0", "[::ffff:10.1.2.3]:80"));
}

static void test_ranges_inside_ranges(void **state)
{
    struct cidr wide = range("10.0.0.0/8"), narrow = range("10.1.0.0/16"),
                other = range("11.0.0.0/8"), six = range("::/0");

    (void)state;
    assert_true(cidr_holds(&wide, &narrow));
    assert_true(cidr_holds(&wide, &wide));
    assert_false(cidr_holds(&narrow, &wide));
    assert_false(cidr_holds(&wide, &other));
    assert_false(cidr_holds(&six, &wide));
}

static void test_what_stays_on_the_link(void **state)
{
    struct cidr ranges[] = {range("127.0.0.7"),      range("::1"),        range("fe80::/64"),
                            range("169.254.0.0/16"), range("10.0.0.0/8"), range("0.0.0.0/0"),
                            range("126.0.0.0/7"),    range("::/64")};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
        assert_int_equal(cidr_is_on_link(&ranges[i]), i < 4);
        assert_int_equal(cidr_meets_loopback(&ranges[i]), i < 2 || i > 4);
    }
}

static void test_what_has_no_address_is_nowhere(void **state)
{
    struct cidr all = range("0.0.0.0/0");
    struct addr none = {.len = 0}, path;

    (void)state;
    assert_true(err_is_ok(addr_parse("unix:/run/x", &path)));
    assert_false(cidr_holds_addr(&all, &none));
    assert_false(cidr_holds_addr(&all, &path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_what_is_no_range_is_refused),
        cmocka_unit_test(test_a_port_may_follow),
        cmocka_unit_test(test_an_address_is_inside_or_not),
        cmocka_unit_test(test_mapped_addresses_are_ipv4),
        cmocka_unit_test(test_ranges_inside_ranges),
        cmocka_unit_test(test_what_stays_on_the_link),
        cmocka_unit_test(test_what_has_no_address_is_nowhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
