/* TLS streams against a peer that is BoringSSL alone, for what our stream never does: alerts of
 * every code, key updates without end, records damaged or cut off. The clock is driven. Drives:
 * R14, R16, A2 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/bio.h>
#include <openssl/err.h>

#include "test/unit/net/tls_ends.h"

/* The raw peer: BoringSSL alone, for what our stream never does. */

struct raw_peer {
    SSL *ssl;
    BIO *in, *out;
    struct stream *stream;
    unsigned num_key_updates; /* received */
    size_t num_bytes;
    int error; /* last SSL_get_error */
    int alert; /* last received, -1 */
};

static struct raw_peer raw;

static void raw_send(void)
{
    const uint8_t *data;
    size_t len;

    assert_int_equal(BIO_mem_contents(raw.out, &data, &len), 1);
    if (len == 0)
        return;
    send_raw(raw.stream, data, len);
    assert_int_equal(BIO_reset(raw.out), 1);
}

static void raw_on_read(void *arg, struct bytes data)
{
    char buf[16384];
    int ret;

    (void)arg;
    assert_int_equal(BIO_write(raw.in, data.ptr, (int)data.len), data.len);
    while ((ret = SSL_read(raw.ssl, buf, sizeof(buf))) > 0)
        raw.num_bytes += (size_t)ret;
    raw.error = SSL_get_error(raw.ssl, ret);
    ERR_clear_error();
    raw_send();
}

static void raw_ignore(void *arg)
{
    (void)arg;
}

static void raw_ignore_error(void *arg, err_t err)
{
    (void)arg;
    (void)err;
}

static void raw_on_message(int is_write, int version, int type, const void *message, size_t len,
                           SSL *ssl, void *arg)
{
    const uint8_t *bytes = message;

    (void)version;
    (void)ssl;
    (void)arg;
    if (!is_write && type == SSL3_RT_HANDSHAKE && len > 0 && bytes[0] == SSL3_MT_KEY_UPDATE)
        raw.num_key_updates++;
    if (!is_write && type == SSL3_RT_ALERT && len == 2)
        raw.alert = bytes[1];
}

/* Makes the raw peer of `end`, which is ours, and runs the handshake. */
static void raw_connect(struct end *end, enum tls_role role, SSL_CTX *ctx, uint64_t key_update)
{
    static const struct stream_events events = {
        .on_read = raw_on_read, .on_eof = raw_ignore, .on_error = raw_ignore_error};

    memset(&raw, 0, sizeof(raw));
    raw.alert = -1;
    raw.stream = end == &client ? server.lower : client.lower;
    raw.ssl = SSL_new(ctx);
    raw.in = BIO_new(BIO_s_mem());
    raw.out = BIO_new(BIO_s_mem());
    assert_int_equal(BIO_set_mem_eof_return(raw.in, -1), 1);
    SSL_set_bio(raw.ssl, raw.in, raw.out);
    SSL_set_msg_callback(raw.ssl, raw_on_message);
    if (role == TLS_CLIENT)
        SSL_set_accept_state(raw.ssl);
    else
        SSL_set_connect_state(raw.ssl);
    stream_set_events(raw.stream, &events, NULL);
    stream_read_start(raw.stream);
    end_new(end, role == TLS_CLIENT ? client_ctx : server_ctx, role, key_update);
    tls_handshake(end->tls, on_handshake, end);
    if (role == TLS_SERVER) {
        (void)SSL_do_handshake(raw.ssl);
        raw_send();
    }
    ROUNDS_UNTIL(end->num_handshakes == 1 && !SSL_in_init(raw.ssl));
    assert_int_equal(end->err.code, E_OK);
}

static void raw_close(struct end *end)
{
    stream_close(raw.stream);
    SSL_free(raw.ssl);
    end_fini(end);
    looptest_settle(loop);
}

static void raw_write(const char *text)
{
    assert_int_equal(SSL_write(raw.ssl, text, (int)strlen(text)), strlen(text));
}

/* Alerts, encrypted, all codes. */

static void check_all_alerts(uint16_t version)
{
    SSL_CTX *ctx = ctx_of_version(leaf, true, version, version);

    stream_close(client.lower);
    stream_close(server.lower);
    for (int code = 1; code < 256; code++) {
        ends_init();
        raw_connect(&client, TLS_CLIENT, ctx, 0);
        raw_write("before");
        (void)SSL_send_fatal_alert(raw.ssl, (uint8_t)code);
        raw_send();
        ROUNDS_UNTIL(client.rec.num_errors == 1);
        assert_int_equal(client.rec.err.code, E_TLS_ALERT);
        assert_int_equal(client.rec.err.sub, code);
        assert_true(has_text(&client, "before"));
        assert_int_equal(stream_write(client.tls, bytes_of("x", 1)).code, E_TLS_ALERT);
        raw_close(&client);
    }
    SSL_CTX_free(ctx);
}

static void test_all_alerts_after_the_handshake_tls13(void **state)
{
    (void)state;
    check_all_alerts(TLS1_3_VERSION);
}

static void test_all_alerts_after_the_handshake_tls12(void **state)
{
    (void)state;
    check_all_alerts(TLS1_2_VERSION);
}

/* Key updates. */

static void test_our_key_changes_after_so_many_records(void **state)
{
    (void)state;
    raw_connect(&client, TLS_CLIENT, server_ctx, 10);
    for (unsigned i = 1; i <= 100; i++) {
        write_text(&client, "0123456789");
        ROUNDS_UNTIL(raw.num_bytes == (size_t)10 * i);
    }
    assert_int_equal(raw.num_key_updates, 9); /* with the records 11, 21 … 91 */
    raw_close(&client);
    /* TLS 1.2 has none. */
    SSL_CTX *ctx = ctx_of_version(leaf, true, TLS1_2_VERSION, TLS1_2_VERSION);
    ends_init();
    raw_connect(&client, TLS_CLIENT, ctx, 10);
    for (unsigned i = 0; i < 50; i++)
        write_text(&client, "0123456789");
    ROUNDS_UNTIL(raw.num_bytes == 500);
    raw_close(&client);
    SSL_CTX_free(ctx);
}

static void test_both_keys_change_while_data_flow(void **state)
{
    (void)state;
    end_new(&server, server_ctx, TLS_SERVER, 1);
    end_new(&client, client_ctx, TLS_CLIENT, 2);
    tls_handshake(server.tls, on_handshake, &server);
    tls_handshake(client.tls, on_handshake, &client);
    ROUNDS_UNTIL(client.num_handshakes == 1 && server.num_handshakes == 1);
    for (unsigned i = 1; i <= 300; i++) {
        if (i % 50 == 0)
            fake_now_ms += 1000; /* their number a second is limited */
        write_text(&client, "ab");
        write_text(&server, "c");
        ROUNDS_UNTIL(server.rec.num_bytes == (uint64_t)2 * i && client.rec.num_bytes == i);
    }
    assert_int_equal(client.rec.num_errors + server.rec.num_errors, 0);
    ends_fini();
}

/* The peer sends `num` key updates, each with a byte of data behind it. */
static void raw_key_updates(unsigned num, int request)
{
    for (unsigned i = 0; i < num; i++) {
        assert_int_equal(SSL_key_update(raw.ssl, request), 1);
        raw_write("x");
    }
    raw_send();
    looptest_settle(loop);
}

static void test_peer_may_change_its_key_so_often_a_second(void **state)
{
    (void)state;
    raw_connect(&server, TLS_SERVER, client_ctx, 0);
    for (int second = 0; second < 3; second++) {
        raw_key_updates(TLS_KEY_UPDATES_PER_S, SSL_KEY_UPDATE_NOT_REQUESTED);
        assert_int_equal(server.rec.num_errors, 0);
        fake_now_ms += 1000;
    }
    assert_int_equal(server.rec.num_bytes, 3 * TLS_KEY_UPDATES_PER_S);
    raw_key_updates(TLS_KEY_UPDATES_PER_S, SSL_KEY_UPDATE_NOT_REQUESTED);
    assert_int_equal(server.rec.num_errors, 0);
    fake_now_ms += 999;
    raw_key_updates(1, SSL_KEY_UPDATE_NOT_REQUESTED);
    assert_int_equal(server.rec.num_errors, 1);
    assert_int_equal(server.rec.err.code, E_TLS_KEY_UPDATES);
    assert_int_equal(raw.alert, SSL_AD_UNEXPECTED_MESSAGE);
    raw_close(&server);
}

static void test_flood_of_key_updates_ends_early(void **state)
{
    (void)state;
    raw_connect(&server, TLS_SERVER, client_ctx, 0);
    for (int i = 0; i < 3000; i++) { /* all in one write */
        assert_int_equal(SSL_key_update(raw.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        raw_write("x");
    }
    raw_send();
    looptest_settle(loop);
    assert_int_equal(server.rec.err.code, E_TLS_KEY_UPDATES);
    assert_true(server.rec.num_bytes <= TLS_KEY_UPDATES_PER_S + 1);
    raw_close(&server);
}

static void test_key_update_that_asks_for_ours_is_answered(void **state)
{
    (void)state;
    raw_connect(&server, TLS_SERVER, client_ctx, 0);
    raw_key_updates(1, SSL_KEY_UPDATE_REQUESTED);
    write_text(&server, "answer");
    ROUNDS_UNTIL(raw.num_bytes == 6);
    assert_int_equal(raw.num_key_updates, 1);
    raw_close(&server);
}

/* Ends and damage after the handshake. */

static void test_end_without_close_notify_is_truncation(void **state)
{
    (void)state;
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    raw_write("part");
    raw_send();
    assert_int_equal(stream_shutdown(raw.stream).code, E_OK);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.err.code, E_TLS_TRUNCATED);
    assert_true(has_text(&client, "part"));
    assert_int_equal(client.rec.num_eofs, 0);
    raw_close(&client);
    /* Inside a record. */
    ends_init();
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    memstream_script(raw.stream)->eof_after = memstream_script(raw.stream)->num_bytes + 10;
    raw_write("never seen");
    raw_send();
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.err.code, E_TLS_TRUNCATED);
    assert_int_equal(client.rec.num_bytes, 0);
    raw_close(&client);
    /* With close_notify, what happens to the connection afterwards is not a truncation. */
    ends_init();
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    raw_write("whole");
    assert_int_equal(SSL_shutdown(raw.ssl), 0);
    raw_send();
    assert_int_equal(stream_shutdown(raw.stream).code, E_OK);
    ROUNDS_UNTIL(client.rec.num_eofs == 1);
    looptest_settle(loop);
    assert_int_equal(client.rec.num_errors, 0);
    assert_true(has_text(&client, "whole"));
    raw_close(&client);
}

/* The peer ends its direction and goes on sending: it is ignored up to a limit. */
static void test_what_comes_behind_close_notify(void **state)
{
    static uint8_t junk[TLS_IGNORED_MAX];

    (void)state;
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    raw_write("whole");
    assert_int_equal(SSL_shutdown(raw.ssl), 0);
    raw_send();
    ROUNDS_UNTIL(client.rec.num_eofs == 1);
    send_raw(raw.stream, junk, sizeof(junk));
    looptest_settle(loop);
    assert_int_equal(memstream_pending(client.lower), 0); /* it was read, and nobody told */
    assert_int_equal(client.rec.num_errors, 0);
    assert_true(has_text(&client, "whole"));
    write_text(&client, "the answer");
    looptest_settle(loop);
    assert_int_equal(raw.num_bytes, 10);
    /* The twin: one more. */
    send_raw(raw.stream, junk, 1);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.err.code, E_TLS_PROTOCOL);
    assert_true(has_text(&client, "whole"));
    raw_close(&client);
    /* All in one piece, and more than the limit. */
    ends_init();
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    assert_int_equal(SSL_shutdown(raw.ssl), 0);
    raw_send();
    send_raw(raw.stream, junk, sizeof(junk));
    send_raw(raw.stream, junk, 1);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.num_eofs, 1);
    assert_int_equal(client.rec.err.code, E_TLS_PROTOCOL);
    raw_close(&client);
    /* A reset behind it, with and without something before. */
    for (size_t len = 0; len <= 100; len += 100) {
        ends_init();
        raw_connect(&client, TLS_CLIENT, server_ctx, 0);
        assert_int_equal(SSL_shutdown(raw.ssl), 0);
        raw_send();
        ROUNDS_UNTIL(client.rec.num_eofs == 1);
        send_raw(raw.stream, junk, len);
        memstream_reset(client.lower);
        ROUNDS_UNTIL(client.rec.num_errors == 1);
        assert_int_equal(client.rec.err.code, E_PEER_RESET);
        raw_close(&client);
    }
}

static void test_damaged_record_gets_an_alert(void **state)
{
    const uint8_t *data;
    uint8_t damaged[200];
    size_t len;

    (void)state;
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    raw_write("good");
    raw_send();
    raw_write("bad");
    assert_int_equal(BIO_mem_contents(raw.out, &data, &len), 1);
    assert_in_range(len, 20, sizeof(damaged));
    memcpy(damaged, data, len);
    damaged[len - 1] ^= 1;
    send_raw(raw.stream, damaged, len);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.err.code, E_TLS_PROTOCOL);
    assert_int_equal(client.rec.err.sub, SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC);
    assert_true(has_text(&client, "good"));
    looptest_settle(loop);
    assert_int_equal(raw.alert, SSL_AD_BAD_RECORD_MAC);
    raw_close(&client);
    /* A record longer than the protocol has. */
    ends_init();
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    send_raw(raw.stream, "\x17\x03\x03\xff\xff", 5);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.err.code, E_TLS_PROTOCOL);
    looptest_settle(loop);
    assert_int_equal(raw.alert, SSL_AD_RECORD_OVERFLOW);
    raw_close(&client);
}

static void answer_late(struct recorder *rec, struct bytes data)
{
    (void)data;
    assert_int_equal(stream_write(rec->stream, bytes_of("late", 4)).code, E_OK);
}

/* Good data and a damaged record in one batch: what the reader writes is not sent behind the alert.
 */
static void test_nothing_comes_behind_our_alert(void **state)
{
    const uint8_t *data;
    uint8_t damaged[300];
    size_t len;

    (void)state;
    if (client_records ==
        TLS_RECORDS_LIBRARY) { /* sends it at once and refuses to write afterwards */
        stream_close(client.lower);
        stream_close(server.lower);
        return;
    }
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    client.rec.on_read = answer_late;
    raw_write("good");
    raw_write("bad");
    assert_int_equal(BIO_mem_contents(raw.out, &data, &len), 1);
    assert_in_range(len, 20, sizeof(damaged));
    memcpy(damaged, data, len);
    damaged[len - 1] ^= 1;
    send_raw(raw.stream, damaged, len);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    looptest_settle(loop);
    assert_true(has_text(&client, "good"));
    assert_int_equal(raw.num_bytes, 4);
    assert_int_equal(raw.alert, SSL_AD_BAD_RECORD_MAC);
    raw_close(&client);
}

static void test_no_alert_comes_behind_our_close_notify(void **state)
{
    size_t written;

    (void)state;
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    assert_int_equal(stream_shutdown(client.tls).code, E_OK);
    looptest_settle(loop);
    assert_int_equal(raw.alert, SSL_AD_CLOSE_NOTIFY);
    written = memstream_script(client.lower)->num_bytes;
    send_raw(raw.stream, "\x17\x03\x03\xff\xff", 5);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.err.code, E_TLS_PROTOCOL);
    looptest_settle(loop);
    assert_int_equal(memstream_script(client.lower)->num_bytes, written);
    raw_close(&client);
}

static void test_garbage_in_the_clear_after_the_handshake(void **state)
{
    (void)state;
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    send_raw(raw.stream, "HTTP/1.1 400 Bad Request\r\n", 26);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.err.code, E_TLS_PROTOCOL);
    raw_close(&client);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, ends_set_up, ends_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_all_alerts_after_the_handshake_tls13),
        TEST(test_all_alerts_after_the_handshake_tls12),
        TEST(test_our_key_changes_after_so_many_records),
        TEST(test_both_keys_change_while_data_flow),
        TEST(test_peer_may_change_its_key_so_often_a_second),
        TEST(test_flood_of_key_updates_ends_early),
        TEST(test_key_update_that_asks_for_ours_is_answered),
        TEST(test_end_without_close_notify_is_truncation),
        TEST(test_what_comes_behind_close_notify),
        TEST(test_damaged_record_gets_an_alert),
        TEST(test_nothing_comes_behind_our_alert),
        TEST(test_no_alert_comes_behind_our_close_notify),
        TEST(test_garbage_in_the_clear_after_the_handshake),
    };

    return RUN_WITH_ALL_RECORDS(tests);
}
