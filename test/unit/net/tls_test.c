/* TLS streams over a stream in memory: whole lives with half-close either way, back-pressure, and
 * closing from any callback. Drives: F1, R14, A2 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "lib/base/mem.h"
#include "test/unit/net/tls_ends.h"

/* Whole lives. */

static void check_life(uint16_t version, const char *version_text, bool client_ends_first)
{
    SSL_CTX *ctx = ctx_of_version(leaf, true, version, version);
    struct end *first = client_ends_first ? &client : &server;
    struct end *second = client_ends_first ? &server : &client;

    connect_both(ctx, ctx);
    assert_string_equal(tls_info(client.tls).version, version_text);
    assert_string_equal(tls_info(server.tls).version, version_text);
    if (strcmp(tls_info(client.tls).group, "X25519MLKEM768") != 0) /* a newer library's first */
        assert_string_equal(tls_info(client.tls).group, "X25519");
    assert_string_equal(tls_info(client.tls).cipher, tls_info(server.tls).cipher);
    assert_non_null(strstr(tls_info(client.tls).cipher, "_GCM_SHA"));
    write_text(&client, "hello");
    write_text(&server, "welcome");
    ROUNDS_UNTIL(server.rec.num_bytes == 5 && client.rec.num_bytes == 7);
    /* One direction ends; the other goes on. */
    write_text(first, "!");
    assert_int_equal(stream_shutdown(first->tls).code, E_OK);
    assert_int_equal(stream_shutdown(first->tls).code, E_OK);
    assert_int_equal(stream_write(first->tls, bytes_of("x", 1)).code, E_BUG);
    ROUNDS_UNTIL(second->rec.num_eofs == 1);
    for (int i = 0; i < 3; i++) {
        write_text(second, "more");
        looptest_settle(loop);
    }
    assert_int_equal(first->rec.num_eofs, 0);
    assert_int_equal(stream_shutdown(second->tls).code, E_OK);
    ROUNDS_UNTIL(first->rec.num_eofs == 1);
    assert_true(has_text(&server, client_ends_first ? "hello!" : "hellomoremoremore"));
    assert_true(has_text(&client, client_ends_first ? "welcomemoremoremore" : "welcome!"));
    assert_int_equal(client.tls->bytes_read, client.rec.num_bytes);
    assert_int_equal(client.tls->bytes_written, server.rec.num_bytes);
    looptest_settle(loop);
    assert_int_equal(client.rec.num_errors + server.rec.num_errors, 0);
    ends_fini();
    SSL_CTX_free(ctx);
}

static void test_life_of_tls13_client_ends_first(void **state)
{
    (void)state;
    check_life(TLS1_3_VERSION, "TLSv1.3", true);
}

static void test_life_of_tls13_server_ends_first(void **state)
{
    (void)state;
    check_life(TLS1_3_VERSION, "TLSv1.3", false);
}

static void test_life_of_tls12_client_ends_first(void **state)
{
    (void)state;
    check_life(TLS1_2_VERSION, "TLSv1.2", true);
}

static void test_life_of_tls12_server_ends_first(void **state)
{
    (void)state;
    check_life(TLS1_2_VERSION, "TLSv1.2", false);
}

static void test_context_with_buffers_method(void **state)
{
    SSL_CTX *ctx =
        testtls_ctx(&(struct testtls_params){.cert = leaf, .need_cert = true, .buffers = true});

    (void)state;
    connect_both(ctx, ctx);
    write_text(&client, "x");
    ROUNDS_UNTIL(server.rec.num_bytes == 1);
    ends_fini();
    SSL_CTX_free(ctx);
}

static void test_reset_after_the_handshake(void **state)
{
    (void)state;
    connect_both(client_ctx, server_ctx);
    write_text(&client, "last words");
    memstream_reset(server.lower);
    ROUNDS_UNTIL(server.rec.num_errors == 1);
    assert_int_equal(server.rec.err.code, E_PEER_RESET);
    assert_true(has_text(&server, "last words"));
    ends_fini();
}

/* Reading and writing against resistance. */

static void stop_reading(struct recorder *rec, struct bytes data)
{
    (void)data;
    stream_read_stop(rec->stream);
}

static void test_read_stop_holds_data_and_end_back(void **state)
{
    (void)state;
    server.rec.on_read = stop_reading;
    connect_both(client_ctx, server_ctx);
    write_text(&client, "one");
    ROUNDS_UNTIL(server.rec.num_reads == 1);
    write_text(&client, "two");
    assert_int_equal(stream_shutdown(client.tls).code, E_OK);
    looptest_settle(loop);
    assert_true(has_text(&server, "one"));
    assert_int_equal(server.rec.num_eofs, 0);
    stream_read_start(server.tls);
    assert_int_equal(server.rec.num_reads, 1);
    ROUNDS_UNTIL(server.rec.num_reads == 2);
    looptest_settle(loop);
    assert_true(has_text(&server, "onetwo"));
    assert_int_equal(server.rec.num_eofs, 0); /* it came along, but the reader had stopped again */
    stream_read_start(server.tls);
    ROUNDS_UNTIL(server.rec.num_eofs == 1);
    ends_fini();
}

static void stop_and_start_reading(struct recorder *rec, struct bytes data)
{
    (void)data;
    stream_read_stop(rec->stream);
    stream_read_start(rec->stream);
    stream_read_stop(rec->stream);
    stream_read_start(rec->stream);
}

static void test_reading_stopped_and_started_in_the_callback_goes_on(void **state)
{
    (void)state;
    server.rec.on_read = stop_and_start_reading;
    connect_both(client_ctx, server_ctx);
    for (int i = 0; i < 5; i++) {
        write_text(&client, "x");
        if (i % 2 == 0)
            ROUNDS_UNTIL(server.rec.num_bytes == (uint64_t)i + 1);
    }
    assert_int_equal(stream_shutdown(client.tls).code, E_OK);
    ROUNDS_UNTIL(server.rec.num_eofs == 1);
    assert_true(has_text(&server, "xxxxx"));
    ends_fini();
}

static void test_writes_behind_a_stalled_peer_are_kept_in_order(void **state)
{
    uint8_t *block = mem_alloc(3 << 20);

    (void)state;
    for (size_t i = 0; i < 3 << 20; i++)
        block[i] = (uint8_t)(i ^ i >> 8 ^ i >> 16);
    connect_both(client_ctx, server_ctx);
    memstream_script(client.lower)->stall = true;
    assert_int_equal(stream_write(client.tls, bytes_of(block, 1000)).code, E_OK);
    assert_true(client.tls->queued > 1000);
    assert_int_equal(stream_write(client.tls, bytes_of(block + 1000, (3 << 20) - 1000)).code, E_OK);
    assert_int_equal(stream_shutdown(client.tls).code, E_OK);
    looptest_settle(loop);
    assert_int_equal(server.rec.num_bytes + client.rec.num_drained, 0);
    memstream_script(client.lower)->stall = false;
    memstream_script(client.lower)->write_max = 100003;
    memstream_go(client.lower);
    ROUNDS_UNTIL(server.rec.num_eofs == 1);
    assert_int_equal(server.rec.num_bytes, 3 << 20);
    assert_memory_equal(server.rec.data.data, block, 3 << 20);
    assert_true(server.rec.largest <= LOOP_PX_SIZE);
    assert_int_equal(client.rec.num_drained, 1);
    assert_int_equal(client.tls->queued, 0);
    ends_fini();
    mem_free(block);
}

static void test_one_write_is_one_write_below(void **state)
{
    uint8_t *block = mem_zalloc(LOOP_TX_PART);
    unsigned before;

    (void)state;
    connect_both(client_ctx, server_ctx);
    looptest_settle(loop);
    before = memstream_script(client.lower)->num_writes;
    assert_int_equal(stream_write(client.tls, bytes_of(block, LOOP_TX_PART)).code, E_OK);
    assert_int_equal(memstream_script(client.lower)->num_writes, before + 1);
    write_text(&client, "x");
    assert_int_equal(memstream_script(client.lower)->num_writes, before + 2);
    assert_int_equal(stream_write(client.tls, bytes_of(NULL, 0)).code, E_OK);
    assert_int_equal(memstream_script(client.lower)->num_writes, before + 2);
    ROUNDS_UNTIL(server.rec.num_bytes == LOOP_TX_PART + 1);
    assert_true(server.rec.num_reads <= 2); /* one callback for a batch of records */
    ends_fini();
    mem_free(block);
}

/* Closing. */

static void test_close_says_close_notify_only_behind_all_data(void **state)
{
    (void)state;
    connect_both(client_ctx, server_ctx);
    write_text(&client, "all");
    end_shut(&client);
    ROUNDS_UNTIL(server.rec.num_eofs == 1);
    assert_true(has_text(&server, "all"));
    ends_fini();
    /* Data that did not leave any more: the peer must see that something is missing. */
    ends_init();
    connect_both(client_ctx, server_ctx);
    memstream_script(client.lower)->write_max = 1;
    write_text(&client, "lost");
    assert_true(client.tls->queued > 0);
    end_shut(&client);
    ROUNDS_UNTIL(server.rec.num_errors == 1);
    assert_int_equal(server.rec.err.code, E_TLS_TRUNCATED);
    assert_int_equal(server.rec.num_bytes, 0);
    ends_fini();
    /* An abort is seen as one. */
    ends_init();
    connect_both(client_ctx, server_ctx);
    stream_reset(client.tls);
    client.closed = true;
    ROUNDS_UNTIL(server.rec.num_errors == 1);
    assert_int_equal(server.rec.err.code, E_PEER_RESET);
    ends_fini();
}

static void close_client(struct recorder *rec)
{
    (void)rec;
    end_shut(&client);
}

static void close_client_on_read(struct recorder *rec, struct bytes data)
{
    assert_true(data.len > 0 && data.ptr[data.len - 1] == 'x');
    close_client(rec);
    assert_int_equal(data.ptr[0], 'x'); /* still there */
}

static void test_close_in_every_callback(void **state)
{
    (void)state;
    client.close = true; /* in the handshake's, when it succeeded */
    begin_both(client_ctx, server_ctx);
    ROUNDS_UNTIL(client.closed);
    ends_fini();

    ends_init();
    client.rec.on_read = close_client_on_read;
    server.text = "x";
    begin_both(client_ctx, server_ctx);
    ROUNDS_UNTIL(client.closed);
    ends_fini();

    ends_init();
    client.rec.on_eof = close_client;
    connect_both(client_ctx, server_ctx);
    assert_int_equal(stream_shutdown(server.tls).code, E_OK);
    ROUNDS_UNTIL(client.closed);
    ends_fini();

    ends_init();
    client.rec.on_error = close_client;
    connect_both(client_ctx, server_ctx);
    memstream_reset(client.lower);
    ROUNDS_UNTIL(client.closed);
    ends_fini();

    ends_init();
    client.rec.on_drained = close_client;
    connect_both(client_ctx, server_ctx);
    memstream_script(client.lower)->write_max = 5;
    write_text(&client, "some bytes");
    ROUNDS_UNTIL(client.closed);
    ends_fini();
}

static void test_close_at_every_round_of_a_life(void **state)
{
    (void)state;
    stream_close(client.lower);
    stream_close(server.lower);
    for (int at = 0; at < 30; at++) {
        for (int side = 0; side < 2; side++) {
            ends_init();
            client.text = "from the client";
            server.text = "from the server";
            begin_both(client_ctx, server_ctx);
            for (int round = 0; round < at; round++)
                loop_run_once(loop, false);
            end_shut(side != 0 ? &server : &client);
            looptest_settle(loop);
            ends_fini();
        }
    }
}

static unsigned num_configured;

static void on_configure(void *arg, SSL *ssl)
{
    assert_non_null(ssl);
    assert_ptr_equal(arg, &num_configured);
    assert_true(SSL_in_init(ssl));
    num_configured++;
}

static void test_configure_server_name_and_accessors(void **state)
{
    struct tls_params params = {.ctx = client_ctx,
                                .role = TLS_CLIENT,
                                .server_name = "name.example",
                                .configure = on_configure,
                                .arg = &num_configured};

    (void)state;
    num_configured = 0;
    end_begin(&server, server_ctx, TLS_SERVER);
    assert_int_equal(tls_new(client.lower, &params, &client.tls).code, E_OK);
    assert_int_equal(num_configured, 1);
    assert_ptr_equal(tls_lower(client.tls), client.lower);
    assert_string_equal(tls_info(client.tls).cipher, "");
    assert_string_equal(tls_info(client.tls).group, "");
    tls_handshake(client.tls, on_handshake, &client);
    ROUNDS_UNTIL(client.num_handshakes == 1 && server.num_handshakes == 1);
    assert_string_equal(server.server_name, "name.example");
    /* TLS 1.3 went over to our records: nothing is left of BoringSSL's session but the facts. */
    assert_true((tls_ssl(server.tls) == NULL) == (server_records != TLS_RECORDS_LIBRARY));
    assert_string_equal(tls_info(server.tls).version, "TLSv1.3");
    assert_string_equal(tls_info(server.tls).cipher, tls_info(client.tls).cipher);
    ends_fini();
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, ends_set_up, ends_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_life_of_tls13_client_ends_first),
        TEST(test_life_of_tls13_server_ends_first),
        TEST(test_life_of_tls12_client_ends_first),
        TEST(test_life_of_tls12_server_ends_first),
        TEST(test_context_with_buffers_method),
        TEST(test_reset_after_the_handshake),
        TEST(test_read_stop_holds_data_and_end_back),
        TEST(test_reading_stopped_and_started_in_the_callback_goes_on),
        TEST(test_writes_behind_a_stalled_peer_are_kept_in_order),
        TEST(test_one_write_is_one_write_below),
        TEST(test_close_says_close_notify_only_behind_all_data),
        TEST(test_close_in_every_callback),
        TEST(test_close_at_every_round_of_a_life),
        TEST(test_configure_server_name_and_accessors),
    };

    return RUN_WITH_ALL_RECORDS(tests);
}
