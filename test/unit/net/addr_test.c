/* Addresses are read, written and compared alike; nothing that only looks like one is taken.
 * Drives: R12, R14, R18 */
#include "lib/net/addr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void test_what_is_parsed_is_formatted_again(void **state)
{
    static const struct {
        const char *text;
        int family;
        uint16_t port;
        bool loopback;
        const char *written; /* NULL: as `text` */
    } cases[] = {
        {"127.0.0.1:80", AF_INET, 80, true, NULL},
        {"127.255.255.254:1", AF_INET, 1, true, NULL},
        {"128.0.0.1:65535", AF_INET, 65535, false, NULL},
        {"0.0.0.0:0", AF_INET, 0, false, NULL},
        {"1.2.3.4:00080", AF_INET, 80, false, "1.2.3.4:80"},
        {"[::1]:443", AF_INET6, 443, true, NULL},
        {"[::]:0", AF_INET6, 0, false, NULL},
        {"[2001:DB8::1]:5", AF_INET6, 5, false, "[2001:db8::1]:5"},
        {"[::ffff:127.0.0.1]:5", AF_INET6, 5, true, NULL},
        {"[::ffff:126.0.0.1]:5", AF_INET6, 5, false, NULL},
        {"[fe80::1%lo]:7", AF_INET6, 7, false, NULL},
        {"[fe80::1%4000000]:7", AF_INET6, 7, false, NULL},
        {"unix:/run/x.sock", AF_UNIX, 0, true, NULL},
        {"unix:@abstract", AF_UNIX, 0, true, NULL},
        {"unix:/with:colon:9", AF_UNIX, 0, true, NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[ADDR_TEXT_MAX];
        struct addr addr, again;

        assert_int_equal(addr_parse(cases[i].text, &addr).code, E_OK);
        assert_int_equal(addr.sa.any.sa_family, cases[i].family);
        assert_int_equal(addr_port(&addr), cases[i].port);
        assert_int_equal(addr_is_loopback(&addr), cases[i].loopback);
        addr_format(&addr, text);
        assert_string_equal(text, cases[i].written != NULL ? cases[i].written : cases[i].text);
        assert_int_equal(addr_parse(text, &again).code, E_OK);
        assert_true(addr_equal(&addr, &again));
    }
}

static void test_garbage_is_refused_and_leaves_the_output_alone(void **state)
{
    static const char *const cases[] = {
        "",
        ":",
        ":80",
        "80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:+1",
        "127.0.0.1: 1",
        "127.0.0.1:1 ",
        " 127.0.0.1:1",
        "127.0.0.1:0x50",
        "127.0.0.1:000080",
        "127.1:80",
        "127.0.0.01:80",
        "256.0.0.1:80",
        "1.2.3.4.5:80",
        "localhost:80",
        "::1:80",
        "[::1]",
        "[::1]80",
        "[::1]:",
        "[]:80",
        "[::1:80",
        "::1]:80",
        "[[::1]]:80",
        "[127.0.0.1]:80",
        "[::1%]:80",
        "[::1%nosuchif0]:80",
        "[::1%99999999999]:80",
        "[::g]:80",
        "unix:",
        "unix:/",
        "unix:relative",
        "unix:@",
        "Unix:/x",
        "unix:/"
        "123456789012345678901234567890123456789012345678901234567890123456789012345678901234567"
        "8901234567890123456789",
    };
    struct addr untouched, addr;

    (void)state;
    memset(&untouched, 0xa5, sizeof(untouched));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memcpy(&addr, &untouched, sizeof(addr));
        assert_int_equal(addr_parse(cases[i], &addr).code, E_ADDR_SYNTAX);
        assert_memory_equal(&addr, &untouched, sizeof(addr));
    }
}

static void test_split_host_parts_names_and_addresses(void **state)
{
    static const struct {
        const char *text, *host;
        uint16_t port;
    } cases[] = {
        {"localhost:80", "localhost", 80},
        {"a-b_c.example.org:65535", "a-b_c.example.org", 65535},
        {"10.0.0.1:1", "10.0.0.1", 1},
        {"[::1]:2", "::1", 2},
        {"[fe80::1%lo]:2", "fe80::1%lo", 2},
        {"unix:/run/x", "unix:/run/x", 0},
    };
    static const char *const bad[] = {
        "",       "host",      "host:", ":80",   "a b:80", "a\n:80",    "host:80x", "host:65536",
        "a:b:80", "[host]:80", "-x:80", ".x:80", "h/x:80", "user@h:80", "unix:rel", "\xc3\xa4:80",
    };
    char host[256], long_name[300];
    uint16_t port;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(addr_split_host(cases[i].text, host, &port).code, E_OK);
        assert_string_equal(host, cases[i].host);
        assert_int_equal(port, cases[i].port);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(addr_split_host(bad[i], host, &port).code, E_ADDR_SYNTAX);
    memset(long_name, 'a', sizeof(long_name));
    memcpy(long_name + 255, ":80", 4);
    assert_int_equal(addr_split_host(long_name, host, &port).code, E_OK);
    assert_int_equal(strlen(host), 255);
    memcpy(long_name + 255, "a:80", 5);
    assert_int_equal(addr_split_host(long_name, host, &port).code, E_ADDR_SYNTAX);
}

static struct addr parsed(const char *text)
{
    struct addr addr;

    assert_int_equal(addr_parse(text, &addr).code, E_OK);
    return addr;
}

static void test_equal_looks_at_every_part(void **state)
{
    static const char *const all[] = {
        "127.0.0.1:80",   "127.0.0.1:81",   "127.0.0.2:80",
        "[::1]:80",       "[::1]:81",       "[::2]:80",
        "[fe80::1%1]:80", "[fe80::1%2]:80", "[::ffff:127.0.0.1]:80",
        "unix:/a",        "unix:/b",        "unix:/ab",
        "unix:@a",
    };
    struct addr none = {0};

    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        for (size_t j = 0; j < sizeof(all) / sizeof(all[0]); j++) {
            struct addr a = parsed(all[i]), b = parsed(all[j]);

            assert_int_equal(addr_equal(&a, &b), i == j);
        }
        struct addr a = parsed(all[i]);
        assert_false(addr_equal(&a, &none));
        assert_false(addr_equal(&none, &a));
    }
    assert_true(addr_equal(&none, &none));
}

static void test_port_is_set_only_where_there_is_one(void **state)
{
    struct addr v4 = parsed("1.2.3.4:5"), v6 = parsed("[::9]:5"), un = parsed("unix:/x");
    struct addr none = {0};
    char text[ADDR_TEXT_MAX];

    (void)state;
    addr_set_port(&v4, 6);
    addr_set_port(&v6, 7);
    addr_set_port(&un, 8);
    addr_format(&v4, text);
    assert_string_equal(text, "1.2.3.4:6");
    addr_format(&v6, text);
    assert_string_equal(text, "[::9]:7");
    addr_format(&un, text);
    assert_string_equal(text, "unix:/x");
    addr_format(&none, text);
    assert_string_equal(text, "none");
    assert_int_equal(addr_port(&none), 0);
    assert_false(addr_is_loopback(&none));
}

static void test_of_socket_asks_the_kernel(void **state)
{
    struct addr any = parsed("127.0.0.1:0"), local, peer;
    int fd = socket(AF_INET, SOCK_STREAM, 0), pair[2];
    char text[ADDR_TEXT_MAX];

    (void)state;
    assert_int_equal(bind(fd, &any.sa.any, any.len), 0);
    assert_int_equal(addr_of_local(fd, &local).code, E_OK);
    assert_true(addr_port(&local) != 0);
    assert_int_equal(addr_of_peer(fd, &peer).code, E_IO); /* not connected */
    close(fd);
    assert_int_equal(addr_of_local(fd, &local).code, E_IO);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(addr_of_peer(pair[0], &peer).code, E_OK);
    assert_true(addr_is_loopback(&peer));
    addr_format(&peer, text); /* has no name */
    assert_string_equal(text, "unix:");
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_parsed_is_formatted_again),
        cmocka_unit_test(test_garbage_is_refused_and_leaves_the_output_alone),
        cmocka_unit_test(test_split_host_parts_names_and_addresses),
        cmocka_unit_test(test_equal_looks_at_every_part),
        cmocka_unit_test(test_port_is_set_only_where_there_is_one),
        cmocka_unit_test(test_of_socket_asks_the_kernel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
