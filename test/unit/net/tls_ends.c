#include "test/unit/net/tls_ends.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/err.h>

struct end client, server;
struct loop *loop;
uint64_t fake_now_ms = 1000;
enum tls_records client_records, server_records;
struct testca *root, *leaf, *other_root, *other_leaf;
SSL_CTX *server_ctx, *client_ctx;

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
void end_shut(struct end *end)
{
    if (end->closed)
        return;
    end->closed = true;
    stream_close(end->tls);
}

void write_text(struct end *end, const char *text)
{
    assert_int_equal(stream_write(end->tls, bytes_of_str(text)).code, E_OK);
}

static void end_note_server_name(struct end *end)
{
    const char *name = SSL_get_servername(tls_ssl(end->tls), TLSEXT_NAMETYPE_host_name);

    if (name != NULL)
        (void)snprintf(end->server_name, sizeof(end->server_name), "%s", name);
}

void on_handshake(void *arg, err_t err)
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
    end_note_server_name(end);
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

void ends_init(void)
{
    struct stream *a, *b;

    memstream_pair(loop, &a, &b);
    end_init(&client, a);
    end_init(&server, b);
}

void end_new(struct end *end, SSL_CTX *ctx, enum tls_role role, uint64_t key_update_records)
{
    struct tls_params params = {
        .ctx = ctx,
        .role = role,
        .records = role == TLS_CLIENT ? client_records : server_records,
        .key_update_records = key_update_records,
    };

    assert_int_equal(tls_new(end->lower, &params, &end->tls).code, E_OK);
    end->rec.stream = end->tls;
}

void end_begin(struct end *end, SSL_CTX *ctx, enum tls_role role)
{
    end_new(end, ctx, role, 0);
    tls_handshake(end->tls, on_handshake, end);
}

void begin_both(SSL_CTX *for_client, SSL_CTX *for_server)
{
    end_begin(&server, for_server, TLS_SERVER);
    end_begin(&client, for_client, TLS_CLIENT);
}

void connect_both(SSL_CTX *for_client, SSL_CTX *for_server)
{
    begin_both(for_client, for_server);
    ROUNDS_UNTIL(client.num_handshakes == 1 && server.num_handshakes == 1);
    assert_int_equal(client.err.code, E_OK);
    assert_int_equal(server.err.code, E_OK);
}

void end_fini(struct end *end)
{
    end_shut(end);
    recorder_fini(&end->rec);
}

void ends_fini(void)
{
    end_fini(&client);
    end_fini(&server);
    looptest_settle(loop);
    assert_int_equal(ERR_peek_error(), 0);
}

bool has_text(const struct end *end, const char *text)
{
    return bytes_equal_str(buf_view(&end->rec.data), text);
}

SSL_CTX *ctx_of_version(const struct testca *cert, bool need_cert, uint16_t min, uint16_t max)
{
    return testtls_ctx(&(struct testtls_params){.cert = cert,
                                                .root = root,
                                                .need_cert = need_cert,
                                                .min_version = min,
                                                .max_version = max});
}

int ends_set_up_all(void **state)
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

int ends_tear_down_all(void **state)
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

int ends_set_up(void **state)
{
    (void)state;
    loop = loop_new(&fake_clock);
    ends_init();
    return 0;
}

int ends_tear_down(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

void send_raw(struct stream *stream, const void *data, size_t len)
{
    assert_int_equal(stream_write(stream, bytes_of(data, len)).code, E_OK);
}

int run_with_all_records(const struct CMUnitTest *tests, size_t num)
{
    static const struct {
        const char *name;
        enum tls_records client, server;
    } pairs[] = {
        {"ours and ours", TLS_RECORDS_AUTO, TLS_RECORDS_AUTO},
        {"ours and the library's", TLS_RECORDS_AUTO, TLS_RECORDS_LIBRARY},
        {"the library's and ours", TLS_RECORDS_LIBRARY, TLS_RECORDS_AUTO},
        {"ours, portable and fast", TLS_RECORDS_PORTABLE, TLS_RECORDS_AUTO},
        {"the library's and the library's", TLS_RECORDS_LIBRARY, TLS_RECORDS_LIBRARY},
    };
    int failed = 0;

    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        client_records = pairs[i].client;
        server_records = pairs[i].server;
        failed +=
            _cmocka_run_group_tests(pairs[i].name, tests, num, ends_set_up_all, ends_tear_down_all);
    }
    return failed;
}
