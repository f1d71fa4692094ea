/* A connection's state table, the reasons it can end for, and its compact addresses.
 *
 * Drives: R15, R71, F1 */
#include "proxy/conn.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static void test_the_two_ways_to_open(void **state)
{
    static const enum conn_state outbound[] = {CONN_ACCEPTED, CONN_CONNECTING, CONN_HANDSHAKE,
                                               CONN_OPEN,     CONN_DRAINING,   CONN_CLOSED};
    static const enum conn_state inbound[] = {CONN_ACCEPTED, CONN_HANDSHAKE, CONN_CONNECTING,
                                              CONN_OPEN, CONN_CLOSED};

    (void)state;
    for (size_t i = 1; i < ARRAY_LEN(outbound); i++)
        assert_true(conn_may_move(outbound[i - 1], outbound[i]));
    for (size_t i = 1; i < ARRAY_LEN(inbound); i++)
        assert_true(conn_may_move(inbound[i - 1], inbound[i]));
    assert_true(conn_may_move(CONN_HANDSHAKE, CONN_REFUSED));
    /* A permissive port: TLS, or plaintext. */
    assert_true(conn_may_move(CONN_ACCEPTED, CONN_FIRST_BYTE));
    assert_true(conn_may_move(CONN_FIRST_BYTE, CONN_HANDSHAKE));
    assert_true(conn_may_move(CONN_FIRST_BYTE, CONN_CONNECTING));
}

static void test_what_must_not_happen(void **state)
{
    (void)state;
    /* Nothing comes back from the end, nothing opens without a handshake or past a refusal. */
    for (unsigned to = 0; to < CONN_NUM_STATES; to++)
        assert_false(conn_may_move(CONN_CLOSED, (enum conn_state)to));
    for (unsigned to = 0; to < CONN_CLOSED; to++)
        assert_false(conn_may_move(CONN_REFUSED, (enum conn_state)to));
    assert_false(conn_may_move(CONN_ACCEPTED, CONN_OPEN));
    assert_false(conn_may_move(CONN_ACCEPTED, CONN_REFUSED));
    assert_false(conn_may_move(CONN_FIRST_BYTE, CONN_OPEN));
    assert_false(conn_may_move(CONN_HANDSHAKE, CONN_FIRST_BYTE));
    assert_false(conn_may_move(CONN_OPEN, CONN_HANDSHAKE));
    assert_false(conn_may_move(CONN_DRAINING, CONN_OPEN));
}

static void test_every_state_but_the_last_can_be_closed(void **state)
{
    (void)state;
    for (unsigned from = 0; from < CONN_CLOSED; from++) {
        assert_true(conn_may_move((enum conn_state)from, CONN_CLOSED));
        assert_true(strlen(conn_state_name((enum conn_state)from)) > 0);
    }
}

static void test_reasons_tell_who_did_it(void **state)
{
    (void)state;
    assert_int_equal(conn_reason(OK, RELAY_APP), CLOSE_DONE);
    assert_int_equal(conn_reason(FAIL(PEER_RESET, 0), RELAY_APP), CLOSE_APP_RESET);
    assert_int_equal(conn_reason(FAIL(PEER_RESET, 0), RELAY_MESH), CLOSE_PEER_RESET);
    assert_int_equal(conn_reason(FAIL(PEER_DENIED, 0), RELAY_MESH), CLOSE_PEER_IDENTITY);
    assert_int_equal(conn_reason(FAIL(CERT_EXPIRED, 7), RELAY_MESH), CLOSE_PEER_CERTIFICATE);
    assert_int_equal(conn_reason(FAIL(TLS_NOT_TLS, 0), RELAY_MESH), CLOSE_NOT_TLS);
    assert_int_equal(conn_reason(FAIL(SLOW_PEER, 0), RELAY_APP), CLOSE_STALLED);
    assert_int_equal(conn_reason(FAIL(BUG, 0), RELAY_APP), CLOSE_INTERNAL);
}

/* An open connection that the network gives up is the peer's loss, whatever the kernel calls it. */
static void test_what_the_kernel_says_of_an_open_connection(void **state)
{
    static const struct {
        int value;
        enum err_code code;
        enum close_reason mesh, app;
    } rows[] = {
        {ECONNRESET, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {EPIPE, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ENOTCONN, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ECONNREFUSED, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ECONNABORTED, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ETIMEDOUT, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {EHOSTUNREACH, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {EHOSTDOWN, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ENETUNREACH, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ENETDOWN, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ENETRESET, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ENONET, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {EACCES, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {EPERM, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {EPROTO, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ENOPROTOOPT, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {EOPNOTSUPP, E_PEER_RESET, CLOSE_PEER_RESET, CLOSE_APP_RESET},
        {ENOMEM, E_NO_MEMORY, CLOSE_RESOURCES, CLOSE_RESOURCES},
        {ENOBUFS, E_NO_MEMORY, CLOSE_RESOURCES, CLOSE_RESOURCES},
        {EBADF, E_IO, CLOSE_INTERNAL, CLOSE_INTERNAL}, /* the twin: ours */
        {EFAULT, E_IO, CLOSE_INTERNAL, CLOSE_INTERNAL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        err_t err = tcp_err(rows[i].value);

        assert_int_equal(err.code, rows[i].code);
        assert_int_equal(err.sub, rows[i].value);
        assert_int_equal(conn_reason(err, RELAY_MESH), rows[i].mesh);
        assert_int_equal(conn_reason(err, RELAY_APP), rows[i].app);
    }
}

/* A peer can cause none of what says that we are at fault. */
static void test_no_certificate_error_is_called_internal(void **state)
{
    static const char *const prefixes[] = {"cert_", "chain_", "san_", "tls_", "connect_"};

    (void)state;
    for (unsigned code = 1; code < E_NUM; code++) {
        const char *name = err_name((enum err_code)code);

        if (code == E_TLS_CONFIG)
            continue; /* the operator's */
        for (size_t i = 0; i < ARRAY_LEN(prefixes); i++) {
            if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
                assert_int_not_equal(conn_reason((err_t){(enum err_code)code, 0, NULL}, RELAY_MESH),
                                     CLOSE_INTERNAL);
        }
    }
}

static void test_reason_names_are_labels(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CLOSE_NUM; i++) {
        const char *name = close_reason_name((enum close_reason)i);

        assert_true(strspn(name, "abcdefghijklmnopqrstuvwxyz_") == strlen(name));
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(name, close_reason_name((enum close_reason)j));
    }
}

static void test_addresses_keep_what_they_are(void **state)
{
    static const char *const texts[] = {"127.0.0.1:1", "10.1.2.3:65535", "[::1]:80",
                                        "[2001:db8::7]:15443"};
    union conn_addr small;
    struct addr addr, back;

    (void)state;
    assert_true(sizeof(small) <= 28);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        assert_true(err_is_ok(addr_parse(texts[i], &addr)));
        conn_addr_set(&small, &addr);
        back = conn_addr_get(&small);
        assert_true(addr_equal(&addr, &back));
    }
    memset(&small, 0, sizeof(small));
    assert_int_equal(conn_addr_get(&small).len, 0);
    assert_true(err_is_ok(addr_parse("unix:/tmp/x", &addr)));
    conn_addr_set(&small, &addr);
    assert_int_equal(conn_addr_get(&small).len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_two_ways_to_open),
        cmocka_unit_test(test_what_must_not_happen),
        cmocka_unit_test(test_every_state_but_the_last_can_be_closed),
        cmocka_unit_test(test_reasons_tell_who_did_it),
        cmocka_unit_test(test_what_the_kernel_says_of_an_open_connection),
        cmocka_unit_test(test_no_certificate_error_is_called_internal),
        cmocka_unit_test(test_reason_names_are_labels),
        cmocka_unit_test(test_addresses_keep_what_they_are),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
