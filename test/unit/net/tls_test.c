/* TLS streams over a stream in memory: handshakes however they are cut, every alert, every kind of
 * end, key updates, back-pressure, and closing from any callback. The clock is driven. Drives: R3,
 * R4, R14, R16, A2, A4, F1 */
#include "lib/net/tls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/bio.h>
#include <openssl/err.h>

#include "lib/base/mem.h"
#include "test/testlib/memstream.h"
#include "test/testlib/recorder.h"
#include "test/testlib/testtls.h"

#define ROUNDS_MAX 200000

static uint64_t fake_now_ms = 1000;

static uint64_t fake_mono_ms(const struct clock *clock)
{
    (void)clock;
    return fake_now_ms;
}

static int64_t fake_wall_s(const struct clock *clock)
{
    (void)clock;
    return 0;
}

static const struct clock fake_clock = {fake_mono_ms, fake_wall_s};

static struct loop *loop;
static struct testca *root, *leaf, *other_root, *other_leaf;
static SSL_CTX *server_ctx, *client_ctx;

#define ROUNDS_UNTIL(cond)                       \
    do {                                         \
        int rounds_ = 0;                         \
        while (!(cond)) {                        \
            assert_true(rounds_++ < ROUNDS_MAX); \
            loop_run_once(loop, false);          \
        }                                        \
    } while (0)

/* One end: the TLS stream, its recorder, the memory stream below. */
struct end {
    struct stream *lower;
    struct stream *tls;
    struct recorder rec;
    unsigned num_handshakes;
    err_t err; /* of the handshake */
    /* What its handshake callback does. */
    bool read;        /* starts reading */
    const char *text; /* writes this */
    bool close;       /* closes */
    bool closed;
};

static struct end client, server;

static void end_shut(struct end *end)
{
    if (end->closed)
        return;
    end->closed = true;
    stream_close(end->tls);
}

static void write_text(struct end *end, const char *text)
{
    assert_int_equal(stream_write(end->tls, bytes_of_str(text)).code, E_OK);
}

static void on_handshake(void *arg, err_t err)
{
    struct end *end = arg;

    end->num_handshakes++;
    end->err = err;
    assert_int_equal(ERR_peek_error(), 0);
    if (end->close) {
        end_shut(end);
        return;
    }
    if (!err_is_ok(err))
        return;
    recorder_attach(&end->rec, end->tls);
    if (end->text != NULL)
        write_text(end, end->text);
    if (end->read)
        stream_read_start(end->tls);
}

static void end_init(struct end *end, struct stream *lower)
{
    memset(end, 0, sizeof(*end));
    end->lower = lower;
    end->read = true;
}

static void ends_init(void)
{
    struct stream *a, *b;

    memstream_pair(loop, &a, &b);
    end_init(&client, a);
    end_init(&server, b);
}

static void end_new(struct end *end, SSL_CTX *ctx, enum tls_role role, uint64_t key_update_records)
{
    struct tls_params params = {.ctx = ctx, .role = role, .key_update_records = key_update_records};

    assert_int_equal(tls_new(end->lower, &params, &end->tls).code, E_OK);
    end->rec.stream = end->tls;
}

static void end_begin(struct end *end, SSL_CTX *ctx, enum tls_role role)
{
    end_new(end, ctx, role, 0);
    tls_handshake(end->tls, on_handshake, end);
}

static void begin_both(SSL_CTX *for_client, SSL_CTX *for_server)
{
    end_begin(&server, for_server, TLS_SERVER);
    end_begin(&client, for_client, TLS_CLIENT);
}

static void connect_both(SSL_CTX *for_client, SSL_CTX *for_server)
{
    begin_both(for_client, for_server);
    ROUNDS_UNTIL(client.num_handshakes == 1 && server.num_handshakes == 1);
    assert_int_equal(client.err.code, E_OK);
    assert_int_equal(server.err.code, E_OK);
}

static void end_fini(struct end *end)
{
    end_shut(end);
    recorder_fini(&end->rec);
}

static void ends_fini(void)
{
    end_fini(&client);
    end_fini(&server);
    looptest_settle(loop);
    assert_int_equal(ERR_peek_error(), 0);
}

static bool has_text(const struct end *end, const char *text)
{
    return bytes_equal_str(buf_view(&end->rec.data), text);
}

static SSL_CTX *ctx_of_version(const struct testca *cert, bool need_cert, uint16_t min,
                               uint16_t max)
{
    return testtls_ctx(&(struct testtls_params){.cert = cert,
                                                .root = root,
                                                .need_cert = need_cert,
                                                .min_version = min,
                                                .max_version = max});
}

static int set_up_all(void **state)
{
    (void)state;
    root = testca_new(NULL);
    leaf = testca_issue(root, NULL);
    other_root = testca_new(NULL);
    other_leaf = testca_issue(other_root, NULL);
    server_ctx = ctx_of_version(leaf, true, 0, 0);
    client_ctx = ctx_of_version(leaf, false, 0, 0);
    return 0;
}

static int tear_down_all(void **state)
{
    (void)state;
    SSL_CTX_free(server_ctx);
    SSL_CTX_free(client_ctx);
    testca_free(other_leaf);
    testca_free(other_root);
    testca_free(leaf);
    testca_free(root);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    loop = loop_new(&fake_clock);
    ends_init();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

/* Whole lives. */

static void check_life(uint16_t version, const char *version_text, bool client_ends_first)
{
    SSL_CTX *ctx = ctx_of_version(leaf, true, version, version);
    struct end *first = client_ends_first ? &client : &server;
    struct end *second = client_ends_first ? &server : &client;

    connect_both(ctx, ctx);
    assert_string_equal(tls_info(client.tls).version, version_text);
    assert_string_equal(tls_info(server.tls).version, version_text);
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

static void send_raw(struct stream *stream, const void *data, size_t len)
{
    assert_int_equal(stream_write(stream, bytes_of(data, len)).code, E_OK);
}

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

/* Alerts: all codes, in the clear and encrypted. */

static void test_all_alerts_in_the_handshake(void **state)
{
    (void)state;
    stream_close(client.lower);
    stream_close(server.lower);
    for (int role = 0; role < 2; role++) {
        for (int level = 1; level <= 3; level++) {
            for (int code = 0; code < 256; code++) {
                struct end *end = role != 0 ? &server : &client;
                uint8_t alert[7] = {21, 3, 1, 0, 2, (uint8_t)level, (uint8_t)code};

                ends_init();
                raw.stream = role != 0 ? client.lower : server.lower;
                end_begin(end, role != 0 ? server_ctx : client_ctx,
                          role != 0 ? TLS_SERVER : TLS_CLIENT);
                send_raw(raw.stream, alert, sizeof(alert));
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
                stream_close(raw.stream);
                end_fini(end);
                looptest_settle(loop);
            }
        }
    }
}

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

static void test_garbage_in_the_clear_after_the_handshake(void **state)
{
    (void)state;
    raw_connect(&client, TLS_CLIENT, server_ctx, 0);
    send_raw(raw.stream, "HTTP/1.1 400 Bad Request\r\n", 26);
    ROUNDS_UNTIL(client.rec.num_errors == 1);
    assert_int_equal(client.rec.err.code, E_TLS_PROTOCOL);
    raw_close(&client);
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

static void test_one_write_is_one_write_below(void **state)
{
    uint8_t *block = mem_zalloc(LOOP_RX_SIZE);
    unsigned before;

    (void)state;
    connect_both(client_ctx, server_ctx);
    looptest_settle(loop);
    before = memstream_script(client.lower)->num_writes;
    assert_int_equal(stream_write(client.tls, bytes_of(block, LOOP_RX_SIZE)).code, E_OK);
    assert_int_equal(memstream_script(client.lower)->num_writes, before + 1);
    write_text(&client, "x");
    assert_int_equal(memstream_script(client.lower)->num_writes, before + 2);
    assert_int_equal(stream_write(client.tls, bytes_of(NULL, 0)).code, E_OK);
    assert_int_equal(memstream_script(client.lower)->num_writes, before + 2);
    ROUNDS_UNTIL(server.rec.num_bytes == LOOP_RX_SIZE + 1);
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
    assert_string_equal(SSL_get_servername(tls_ssl(server.tls), TLSEXT_NAMETYPE_host_name),
                        "name.example");
    assert_int_equal(SSL_session_reused(tls_ssl(client.tls)), 0);
    ends_fini();
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_life_of_tls13_client_ends_first),
        TEST(test_life_of_tls13_server_ends_first),
        TEST(test_life_of_tls12_client_ends_first),
        TEST(test_life_of_tls12_server_ends_first),
        TEST(test_context_with_buffers_method),
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
        TEST(test_all_alerts_after_the_handshake_tls13),
        TEST(test_all_alerts_after_the_handshake_tls12),
        TEST(test_our_key_changes_after_so_many_records),
        TEST(test_both_keys_change_while_data_flow),
        TEST(test_peer_may_change_its_key_so_often_a_second),
        TEST(test_flood_of_key_updates_ends_early),
        TEST(test_key_update_that_asks_for_ours_is_answered),
        TEST(test_end_without_close_notify_is_truncation),
        TEST(test_reset_after_the_handshake),
        TEST(test_damaged_record_gets_an_alert),
        TEST(test_garbage_in_the_clear_after_the_handshake),
        TEST(test_read_stop_holds_data_and_end_back),
        TEST(test_reading_stopped_and_started_in_the_callback_goes_on),
        TEST(test_writes_behind_a_stalled_peer_are_kept_in_order),
        TEST(test_tx_buffer_grows_for_a_moment),
        TEST(test_one_write_is_one_write_below),
        TEST(test_close_says_close_notify_only_behind_all_data),
        TEST(test_close_in_every_callback),
        TEST(test_close_at_every_round_of_a_life),
        TEST(test_configure_server_name_and_accessors),
    };

    return cmocka_run_group_tests(tests, set_up_all, tear_down_all);
}
