/* The TLS handshake over a stream in memory: however it is cut, refused, damaged or broken off; and
 * what lies right behind it. Drives: R3, R4, R12, R14, R16, A2, A4 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "lib/base/mem.h"
#include "test/unit/net/tls_ends.h"

/* Cuts. Each run: whole handshake, one text each way, both ends. */

static void run_cut(SSL_CTX *ctx)
{
    client.text = "from the client";
    server.text = "from the server";
    connect_both(ctx, ctx);
    ROUNDS_UNTIL(client.rec.num_bytes == 15 && server.rec.num_bytes == 15);
    assert_int_equal(stream_shutdown(client.tls).code, E_OK);
    assert_int_equal(stream_shutdown(server.tls).code, E_OK);
    ROUNDS_UNTIL(client.rec.num_eofs == 1 && server.rec.num_eofs == 1);
    ends_fini();
}

static void check_every_cut(uint16_t version)
{
    SSL_CTX *ctx = ctx_of_version(leaf, true, version, version);
    size_t of_client, of_server;

    memstream_keep(client.lower);
    memstream_keep(server.lower);
    run_cut(ctx);
    of_client = (size_t)memstream_script(client.lower)->num_bytes;
    of_server = (size_t)memstream_script(server.lower)->num_bytes;
    memstream_drop(client.lower);
    memstream_drop(server.lower);
    assert_in_range(of_client, 500, 4000);
    assert_in_range(of_server, 500, 4000);
    for (size_t cut = 1; cut < of_server; cut++) {
        ends_init();
        memstream_script(client.lower)->split_at = cut;
        memstream_script(server.lower)->split_at = cut < of_client ? cut : 0;
        run_cut(ctx);
    }
    for (size_t cut = of_server; cut < of_client; cut++) {
        ends_init();
        memstream_script(server.lower)->split_at = cut;
        run_cut(ctx);
    }
    ends_init();
    memstream_script(client.lower)->read_max = 1;
    memstream_script(server.lower)->read_max = 1;
    memstream_script(client.lower)->write_max = 1;
    memstream_script(server.lower)->write_max = 1;
    run_cut(ctx);
    SSL_CTX_free(ctx);
}

static void test_handshake_cut_at_each_byte_tls13(void **state)
{
    (void)state;
    check_every_cut(TLS1_3_VERSION);
}

static void test_handshake_cut_at_each_byte_tls12(void **state)
{
    (void)state;
    check_every_cut(TLS1_2_VERSION);
}

/* Around the end of the handshake. */

static void test_finished_and_first_data_leave_in_one_write(void **state)
{
    (void)state;
    client.text = "first data";
    server.read = false;
    connect_both(client_ctx, server_ctx);
    assert_int_equal(memstream_script(client.lower)->num_writes, 2); /* hello; finished and data */
    assert_int_equal(memstream_script(server.lower)->num_writes, 1);
    /* They came in one read with Finished, and nobody wanted them yet. */
    looptest_settle(loop);
    assert_int_equal(server.rec.num_reads, 0);
    stream_read_start(server.tls);
    assert_int_equal(server.rec.num_reads, 0); /* from the loop, not from inside the call */
    ROUNDS_UNTIL(server.rec.num_bytes == 10);
    assert_true(has_text(&server, "first data"));
    write_text(&client, ", second data");
    ROUNDS_UNTIL(server.rec.num_bytes == 23);
    assert_int_equal(memstream_script(client.lower)->num_writes, 3);
    ends_fini();
}

static void test_finished_leaves_without_data_too(void **state)
{
    (void)state;
    client.read = false; /* does nothing at all after its handshake */
    connect_both(client_ctx, server_ctx);
    ends_fini();
    /* Closed in its callback: the handshake's end and close_notify leave all the same. */
    ends_init();
    client.close = true;
    begin_both(client_ctx, server_ctx);
    ROUNDS_UNTIL(server.rec.num_eofs == 1);
    assert_int_equal(server.err.code, E_OK);
    ends_fini();
}

static void test_data_and_end_behind_finished_wait_for_the_reader(void **state)
{
    (void)state;
    client.text = "all there is";
    client.close = false;
    server.read = false;
    begin_both(client_ctx, server_ctx);
    ROUNDS_UNTIL(client.num_handshakes == 1);
    assert_int_equal(stream_shutdown(client.tls).code, E_OK);
    ROUNDS_UNTIL(server.num_handshakes == 1);
    looptest_settle(loop);
    assert_int_equal(server.rec.num_reads + server.rec.num_eofs, 0);
    stream_read_start(server.tls);
    ROUNDS_UNTIL(server.rec.num_eofs == 1);
    assert_true(has_text(&server, "all there is"));
    ends_fini();
}

static void test_lower_stream_that_was_read_before(void **state)
{
    (void)state;
    /* The hello is read from below between tls_new and tls_handshake. */
    end_begin(&client, client_ctx, TLS_CLIENT);
    end_new(&server, server_ctx, TLS_SERVER, 0);
    stream_read_start(server.lower);
    looptest_settle(loop);
    assert_int_equal(memstream_pending(server.lower), 0);
    tls_handshake(server.tls, on_handshake, &server);
    ROUNDS_UNTIL(server.num_handshakes == 1 && client.num_handshakes == 1);
    assert_int_equal(server.err.code, E_OK);
    ends_fini();
}

static void test_lower_stream_that_broke_before(void **state)
{
    (void)state;
    end_new(&server, server_ctx, TLS_SERVER, 0);
    stream_read_start(server.lower);
    memstream_reset(server.lower);
    looptest_settle(loop);
    tls_handshake(server.tls, on_handshake, &server);
    assert_int_equal(server.num_handshakes, 0);
    ROUNDS_UNTIL(server.num_handshakes == 1);
    assert_int_equal(server.err.code, E_PEER_RESET);
    end_fini(&server);
    stream_close(client.lower);
}

/* Refusals. */

static void fail_both(SSL_CTX *for_client, SSL_CTX *for_server)
{
    server.close = true; /* at once: the alert must have left by then */
    begin_both(for_client, for_server);
    ROUNDS_UNTIL(server.num_handshakes == 1 &&
                 (client.rec.num_errors == 1 || !err_is_ok(client.err)));
    looptest_settle(loop);
}

static void check_alert_at_client(int alert, bool after_handshake)
{
    err_t err = after_handshake ? client.rec.err : client.err;

    assert_int_equal(err.code, E_TLS_ALERT);
    assert_int_equal(err.sub, alert);
    assert_int_equal(client.num_handshakes, 1);
    assert_int_equal(client.rec.num_errors, after_handshake);
    assert_int_equal(client.rec.num_reads, 0);
}

static void test_client_without_certificate(void **state)
{
    SSL_CTX *none13 = ctx_of_version(NULL, false, TLS1_3_VERSION, TLS1_3_VERSION);
    SSL_CTX *none12 = ctx_of_version(NULL, false, TLS1_2_VERSION, TLS1_2_VERSION);

    (void)state;
    fail_both(none13, server_ctx);
    assert_int_equal(server.err.code, E_CERT_MISSING);
    check_alert_at_client(SSL_AD_CERTIFICATE_REQUIRED, true);
    ends_fini();
    ends_init();
    fail_both(none12, server_ctx);
    assert_int_equal(server.err.code, E_CERT_MISSING);
    check_alert_at_client(SSL_AD_HANDSHAKE_FAILURE, false);
    ends_fini();
    SSL_CTX_free(none13);
    SSL_CTX_free(none12);
}

static void test_certificate_of_another_ca(void **state)
{
    SSL_CTX *stranger = ctx_of_version(other_leaf, false, 0, 0);

    (void)state;
    fail_both(stranger, server_ctx);
    assert_int_equal(server.err.code, E_TLS_PROTOCOL);
    assert_int_equal(server.err.sub, SSL_R_CERTIFICATE_VERIFY_FAILED);
    check_alert_at_client(SSL_AD_UNKNOWN_CA, true);
    ends_fini();
    /* The other way round the client refuses, and the server hears why. */
    ends_init();
    client.close = true;
    begin_both(client_ctx, stranger);
    ROUNDS_UNTIL(server.num_handshakes == 1);
    assert_int_equal(client.err.code, E_TLS_PROTOCOL);
    assert_int_equal(server.err.code, E_TLS_ALERT);
    assert_int_equal(server.err.sub, SSL_AD_UNKNOWN_CA);
    ends_fini();
    SSL_CTX_free(stranger);
}

static void test_no_version_in_common(void **state)
{
    SSL_CTX *only13 = ctx_of_version(leaf, true, TLS1_3_VERSION, TLS1_3_VERSION);
    SSL_CTX *only12 = ctx_of_version(leaf, true, TLS1_2_VERSION, TLS1_2_VERSION);
    SSL_CTX *only10 = ctx_of_version(leaf, true, TLS1_VERSION, TLS1_VERSION);
    SSL_CTX *only11 = ctx_of_version(leaf, true, TLS1_1_VERSION, TLS1_1_VERSION);
    SSL_CTX *cases[][2] = {{only12, only13},
                           {only13, only12},
                           {only10, server_ctx},
                           {only11, server_ctx},
                           {client_ctx, only10}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (i > 0)
            ends_init();
        fail_both(cases[i][0], cases[i][1]);
        assert_int_equal(server.err.code, E_TLS_NO_SHARED);
        check_alert_at_client(SSL_AD_PROTOCOL_VERSION, false);
        ends_fini();
    }
    SSL_CTX_free(only10);
    SSL_CTX_free(only11);
    SSL_CTX_free(only12);
    SSL_CTX_free(only13);
}

static void test_no_cipher_or_group_in_common(void **state)
{
    static const int x25519[] = {NID_X25519}, p384[] = {NID_secp384r1};
    SSL_CTX *aes128 = ctx_of_version(leaf, true, TLS1_2_VERSION, TLS1_2_VERSION);
    SSL_CTX *chacha = ctx_of_version(leaf, true, TLS1_2_VERSION, TLS1_2_VERSION);
    SSL_CTX *a = ctx_of_version(leaf, true, 0, 0), *b = ctx_of_version(leaf, true, 0, 0);

    (void)state;
    assert_int_equal(SSL_CTX_set_strict_cipher_list(aes128, "ECDHE-ECDSA-AES128-GCM-SHA256"), 1);
    assert_int_equal(SSL_CTX_set_strict_cipher_list(chacha, "ECDHE-ECDSA-CHACHA20-POLY1305"), 1);
    fail_both(aes128, chacha);
    assert_int_equal(server.err.code, E_TLS_NO_SHARED);
    check_alert_at_client(SSL_AD_HANDSHAKE_FAILURE, false);
    ends_fini();
    assert_int_equal(SSL_CTX_set1_curves(a, x25519, 1), 1);
    assert_int_equal(SSL_CTX_set1_curves(b, p384, 1), 1);
    ends_init();
    fail_both(a, b);
    assert_int_equal(server.err.code, E_TLS_NO_SHARED);
    check_alert_at_client(SSL_AD_HANDSHAKE_FAILURE, false);
    ends_fini();
    SSL_CTX_free(a);
    SSL_CTX_free(b);
    SSL_CTX_free(aes128);
    SSL_CTX_free(chacha);
}

static void test_context_without_certificate_or_bad_name(void **state)
{
    SSL_CTX *none = ctx_of_version(NULL, false, 0, 0);
    struct tls_params params = {.ctx = client_ctx, .role = TLS_CLIENT};
    char long_name[300];
    struct stream *out = NULL;

    (void)state;
    memset(long_name, 'a', sizeof(long_name) - 1);
    long_name[sizeof(long_name) - 1] = '\0';
    params.server_name = long_name;
    assert_int_equal(tls_new(client.lower, &params, &out).code, E_TLS_CONFIG);
    assert_null(out);
    assert_int_equal(ERR_peek_error(), 0);
    fail_both(client_ctx, none); /* the lower stream is still the caller's, and as new */
    assert_int_equal(server.err.code, E_TLS_CONFIG);
    check_alert_at_client(SSL_AD_INTERNAL_ERROR, false);
    /* TLS in TLS would share one set of buffers. */
    params.server_name = NULL;
    assert_int_equal(tls_new(client.tls, &params, &out).code, E_TLS_CONFIG);
    ends_fini();
    SSL_CTX_free(none);
}

/* What is not TLS: from the raw end of the pair. */

static void check_not_tls(enum tls_role role, const void *data, size_t len, size_t read_max)
{
    struct end *end = role == TLS_SERVER ? &server : &client;
    struct stream *raw = role == TLS_SERVER ? client.lower : server.lower;

    end->close = true;
    memstream_script(end->lower)->read_max = read_max;
    end_begin(end, role == TLS_SERVER ? server_ctx : client_ctx, role);
    looptest_settle(loop);
    send_raw(raw, data, len);
    looptest_settle(loop);
    assert_int_equal(end->num_handshakes, 1);
    assert_int_equal(end->err.code, E_TLS_NOT_TLS);
    stream_close(raw);
    end_fini(end);
    looptest_settle(loop);
    ends_init();
}

static void test_other_protocols_are_told_by_their_first_bytes(void **state)
{
    static const struct {
        const char *data;
        size_t len;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", 18},
        {"POST /", 6},
        {"CONNECT a:1", 11},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24},
        {"SSH-2.0-x\r\n", 11},
        {"PROXY TCP4 ", 11},
        {"\r\n\r\n\0\r\nQUIT\n\x21\x11", 14},
        {"220 mail ESMTP\r\n", 16},
        {"\x16\x02\x01\x00\x05", 5},
        {"\x17\x03\x03\x00\x05", 5},
        {"\x14\x03\x03\x00\x01\x01", 6},
        {"\0", 1},
        {"x", 1},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        check_not_tls(TLS_SERVER, cases[i].data, cases[i].len, 0);
        check_not_tls(TLS_SERVER, cases[i].data, cases[i].len, 1);
        check_not_tls(TLS_CLIENT, cases[i].data, cases[i].len, 1);
    }
    stream_close(client.lower);
    stream_close(server.lower);
}

static void test_garbage_that_begins_like_tls(void **state)
{
    static const struct {
        const char *data;
        size_t len;
    } cases[] = {
        {"\x16\x03\x01\xff\xff"
         "aaaa",
         9},                                                  /* a record larger than allowed */
        {"\x16\x03\x01\x00\x04\x01\xff\xff\xff", 9},          /* a hello larger than allowed */
        {"\x16\x03\x01\x00\x04\x02\x00\x00\x00", 9},          /* no hello at all */
        {"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03", 11}, /* a hello of two bytes */
        {"\x16\x03\x01\x00\x00\x16\x03\x01\x00\x00", 10}, /* empty records, one after the other */
        {"\x80\x05\x01\x03\x01"
         "aa",
         7}, /* SSLv2 hello, too short */
        {"\xff\xff\x01\x03\x01"
         "aa",
         7}, /* and too long */
        {"\x80\x2e\x02\x00\x02"
         "aa",
         7},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        server.close = true;
        end_begin(&server, server_ctx, TLS_SERVER);
        for (int k = 0; k < 100 && server.num_handshakes == 0; k++) {
            send_raw(client.lower, cases[i].data, cases[i].len);
            looptest_settle(loop);
        }
        assert_int_equal(server.num_handshakes, 1);
        assert_int_equal(server.err.code, E_TLS_PROTOCOL);
        stream_close(client.lower);
        end_fini(&server);
        looptest_settle(loop);
        ends_init();
    }
    stream_close(client.lower);
    stream_close(server.lower);
}

/* Ends during the handshake. */

static void test_end_or_reset_at_each_byte_of_the_handshake(void **state)
{
    (void)state;
    stream_close(client.lower);
    stream_close(server.lower);
    for (size_t at = 1; at < 700; at += 7) {
        for (int reset = 0; reset < 2; reset++) {
            ends_init();
            memstream_script(server.lower)->eof_after = reset != 0 ? 0 : at;
            memstream_script(server.lower)->reset_after = reset != 0 ? at : 0;
            begin_both(client_ctx, server_ctx);
            ROUNDS_UNTIL(client.num_handshakes == 1);
            assert_int_equal(client.err.code, reset != 0 ? E_PEER_RESET : E_CLOSED);
            ends_fini();
        }
    }
    /* Before the first byte. */
    ends_init();
    end_begin(&server, server_ctx, TLS_SERVER);
    stream_close(client.lower);
    ROUNDS_UNTIL(server.num_handshakes == 1);
    assert_int_equal(server.err.code, E_CLOSED);
    end_fini(&server);
}

static void test_each_write_that_fails(void **state)
{
    (void)state;
    stream_close(client.lower);
    stream_close(server.lower);
    for (unsigned at = 1; at <= 3; at++) {
        for (int side = 0; side < 2; side++) {
            struct end *end = side != 0 ? &server : &client;

            ends_init();
            memstream_script(end->lower)->fail_write = at;
            client.text = NULL;
            begin_both(client_ctx, server_ctx);
            looptest_settle(loop);
            if (end->num_handshakes == 1 && err_is_ok(end->err) && end->rec.num_errors == 0) {
                err_t err = stream_write(end->tls, bytes_of("x", 1));

                if (err_is_ok(err))
                    err = stream_write(end->tls, bytes_of("x", 1));
                if (err_is_ok(err))
                    err = stream_write(end->tls, bytes_of("x", 1));
                assert_int_equal(err.code, E_PEER_RESET);
                assert_int_equal(stream_write(end->tls, bytes_of("x", 1)).code, E_PEER_RESET);
                assert_int_equal(stream_shutdown(end->tls).code, E_PEER_RESET);
                assert_int_equal(end->rec.num_errors, 0);
            } else if (end->rec.num_errors == 1) {
                assert_int_equal(end->rec.err.code, E_PEER_RESET);
            } else {
                assert_int_equal(end->num_handshakes, 1);
                assert_int_equal(end->err.code, E_PEER_RESET);
            }
            ends_fini();
        }
    }
}

/* Alerts in the clear, all codes. */

static void test_all_alerts_in_the_handshake(void **state)
{
    (void)state;
    stream_close(client.lower);
    stream_close(server.lower);
    for (int role = 0; role < 2; role++) {
        for (int level = 1; level <= 3; level++) {
            for (int code = 0; code < 256; code++) {
                struct stream *raw;
                struct end *end = role != 0 ? &server : &client;
                uint8_t alert[7] = {21, 3, 1, 0, 2, (uint8_t)level, (uint8_t)code};

                ends_init();
                raw = role != 0 ? client.lower : server.lower;
                end_begin(end, role != 0 ? server_ctx : client_ctx,
                          role != 0 ? TLS_SERVER : TLS_CLIENT);
                send_raw(raw, alert, sizeof(alert));
                looptest_settle(loop);
                if (level == 2) {
                    assert_int_equal(end->num_handshakes, 1);
                    assert_int_equal(end->err.code, E_TLS_ALERT);
                    assert_int_equal(end->err.sub, code);
                } else if (level == 3) {
                    assert_int_equal(end->err.code, E_TLS_PROTOCOL);
                } else if (code == SSL_AD_CLOSE_NOTIFY) {
                    assert_int_equal(end->err.code, E_CLOSED);
                } else { /* a warning: ignored, a few times */
                    assert_int_equal(end->num_handshakes, 0);
                }
                stream_close(raw);
                end_fini(end);
                looptest_settle(loop);
            }
        }
    }
}

#define MANY_NAMES 20000

static void test_tx_buffer_grows_for_a_moment(void **state)
{
    static char names[MANY_NAMES][24];
    static const char *list[MANY_NAMES + 1];
    struct testca *big;
    SSL_CTX *ctx, *patient = ctx_of_version(leaf, false, 0, 0);

    (void)state;
    /* A flight larger than the buffer: a certificate with very many names. */
    for (int i = 0; i < MANY_NAMES; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "name-%05d.example", i);
        list[i] = names[i];
    }
    big = testca_issue(root, &(struct testca_params){.dns_sans = list});
    assert_true(big->der_len > LOOP_TX_SIZE);
    ctx = ctx_of_version(big, false, 0, 0);
    SSL_CTX_set_max_cert_list(patient, 1 << 20);
    connect_both(patient, ctx);
    assert_int_equal(memstream_script(server.lower)->num_writes, 1);
    assert_int_equal(loop_bufs(loop)->tx_cap, LOOP_TX_SIZE);
    assert_int_equal(loop_bufs(loop)->tx_len, 0);
    write_text(&server, "x");
    ROUNDS_UNTIL(client.rec.num_bytes == 1);
    ends_fini();
    /* Who is not that patient refuses it. */
    ends_init();
    client.close = true;
    begin_both(client_ctx, ctx);
    ROUNDS_UNTIL(client.num_handshakes == 1 && server.num_handshakes == 1);
    assert_int_equal(client.err.code, E_TLS_PROTOCOL);
    assert_int_equal(server.err.code, E_TLS_ALERT);
    ends_fini();
    SSL_CTX_free(ctx);
    SSL_CTX_free(patient);
    testca_free(big);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, ends_set_up, ends_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_handshake_cut_at_each_byte_tls13),
        TEST(test_handshake_cut_at_each_byte_tls12),
        TEST(test_finished_and_first_data_leave_in_one_write),
        TEST(test_finished_leaves_without_data_too),
        TEST(test_data_and_end_behind_finished_wait_for_the_reader),
        TEST(test_lower_stream_that_was_read_before),
        TEST(test_lower_stream_that_broke_before),
        TEST(test_client_without_certificate),
        TEST(test_certificate_of_another_ca),
        TEST(test_no_version_in_common),
        TEST(test_no_cipher_or_group_in_common),
        TEST(test_context_without_certificate_or_bad_name),
        TEST(test_other_protocols_are_told_by_their_first_bytes),
        TEST(test_garbage_that_begins_like_tls),
        TEST(test_end_or_reset_at_each_byte_of_the_handshake),
        TEST(test_each_write_that_fails),
        TEST(test_all_alerts_in_the_handshake),
        TEST(test_tx_buffer_grows_for_a_moment),
    };

    return cmocka_run_group_tests(tests, ends_set_up_all, ends_tear_down_all);
}
