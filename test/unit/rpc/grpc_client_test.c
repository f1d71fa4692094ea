/* The gRPC channel against servers made frame by frame on a Unix socket, and against our own over
 * TLS: calls, every way in which a server can be wrong, slow or gone, reconnecting, and leaving at
 * any time. Drives: R14, R15, F2. */
#include "lib/rpc/grpc_client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/net/listener.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"
#include "lib/rpc/grpc_server.h"
#include "test/testlib/testtls.h"
#include "test/unit/rpc/sample.h"
#include "test/unit/rpc/wire.h"

#define WIRES_MAX 16
#define SAMPLE (&mortise__test__sample__descriptor)

static struct loop *loop;
static char folder[] = "/tmp/mortise-rpc-XXXXXX";

/* A channel, the socket it wants to reach, the connections that came, and what was heard. */
struct app {
    char target[80];
    struct listener *listener;
    struct wire wires[WIRES_MAX];
    size_t num_wires;
    bool mute;                  /* connections are taken and nothing is said */
    SSL_CTX *server_ctx;        /* accept with TLS */
    struct stream *shaking;     /* in its handshake */
    struct grpc_server *server; /* takes handshaken streams */
    struct grpc_channel *channel;
    struct h2_limits limits;
    struct buf log;
    struct grpc_client_call *call;
    SSL_CTX *client_ctx;
    err_t keep; /* what handshake_done returns */
    unsigned num_configured, num_done;
    const char *killer; /* event in which the channel is closed */
    bool reopen;        /* on_done opens the stream again */
    unsigned num_opened;
    uint32_t retry_ms;
};

static void app_note(struct app *app, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void app_note(struct app *app, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    assert_true(err_is_ok(buf_printf(&app->log, "%s\n", text)));
}

static bool app_said(struct app *app, const char *line)
{
    struct bytes log = buf_view(&app->log);

    return log.ptr != NULL && memmem(log.ptr, log.len, line, strlen(line)) != NULL;
}

static void check_said(struct app *app, const char *line)
{
    if (!app_said(app, line))
        print_error("no \"%s\" in:\n%.*s\n", line, (int)buf_size(&app->log),
                    (const char *)buf_view(&app->log).ptr);
    assert_true(app_said(app, line));
}

static void app_kill(struct app *app, const char *event)
{
    if (app->killer == NULL || strcmp(app->killer, event) != 0)
        return;
    app->killer = NULL;
    grpc_channel_close(app->channel);
    app->channel = NULL;
}

static void app_on_state(void *arg, bool connected, err_t err, uint32_t retry_ms)
{
    struct app *app = arg;

    app_note(app, "state %s", connected ? "connected" : err_name(err.code));
    app->retry_ms = retry_ms;
    app_kill(app, "state");
}

static void app_on_unary(void *arg, const struct grpc_result *result, const ProtobufCMessage *reply)
{
    struct app *app = arg;

    assert_true((reply != NULL) == (result->status == GRPC_OK));
    assert_true(err_is_ok(result->err) == (result->status == GRPC_OK));
    app->call = NULL;
    app_note(app, "unary %s \"%s\" %s %s", grpc_status_name(result->status), result->message,
             err_name(result->err.code),
             reply != NULL ? ((const Mortise__Test__Sample *)reply)->text : "-");
    app_kill(app, "unary");
}

static void app_on_open(void *arg)
{
    app_note(arg, "open");
    app_kill(arg, "open");
}

static void app_on_message(void *arg, const ProtobufCMessage *msg)
{
    app_note(arg, "message %s", ((const Mortise__Test__Sample *)msg)->text);
    app_kill(arg, "message");
}

static const struct grpc_stream_events app_events;

static void app_open(struct app *app)
{
    app->num_opened++;
    app->call = grpc_stream_open(app->channel, "/t/Chat", SAMPLE, 1000, 0, &app_events, app);
}

static void app_on_done(void *arg, const struct grpc_result *result)
{
    struct app *app = arg;

    app->call = NULL;
    app_note(app, "done %s \"%s\"", grpc_status_name(result->status), result->message);
    app_kill(app, "done");
    if (app->reopen && app->channel != NULL)
        app_open(app);
}

static const struct grpc_stream_events app_events = {
    .on_open = app_on_open,
    .on_message = app_on_message,
    .on_done = app_on_done,
};

static void app_unary(struct app *app, uint64_t deadline_ms)
{
    app->call =
        grpc_unary(app->channel, "/t/Echo", sample_full(), SAMPLE, deadline_ms, app_on_unary, app);
}

/* ---- the other end ---- */

static void app_on_shaken(void *arg, err_t err)
{
    struct app *app = arg;
    struct grpc_peer peer = {.tls = true};

    if (err_is_ok(err))
        grpc_server_accept(app->server, app->shaking, &peer);
    else
        stream_close(app->shaking);
    app->shaking = NULL;
}

static void app_on_accept(void *arg, int fd, const struct addr *peer)
{
    struct app *app = arg;
    struct stream *stream;

    (void)peer;
    assert_true(err_is_ok(tcp_new(loop, fd, &stream)));
    if (app->server_ctx != NULL) {
        struct tls_params params = {.ctx = app->server_ctx, .role = TLS_SERVER};

        assert_null(app->shaking);
        assert_true(err_is_ok(tls_new(stream, &params, &app->shaking)));
        tls_handshake(app->shaking, app_on_shaken, app);
        return;
    }
    assert_true(app->num_wires < WIRES_MAX);
    wire_attach(&app->wires[app->num_wires], loop, stream);
    app->wires[app->num_wires].is_server = true;
    if (!app->mute)
        wire_send(&app->wires[app->num_wires], NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    app->num_wires++;
}

static void app_listen(struct app *app)
{
    struct listener_params params = {.unix_mode = 0600, .on_accept = app_on_accept, .arg = app};

    assert_true(err_is_ok(addr_parse(app->target, &params.addr)));
    assert_true(err_is_ok(listener_new(loop, &params, &app->listener)));
    listener_start(app->listener);
}

static void app_deafen(struct app *app)
{
    listener_close(app->listener);
    app->listener = NULL;
}

static void settle(struct app *app)
{
    for (int i = 0; i < 4; i++)
        looptest_settle(loop);
    for (size_t i = 0; i < app->num_wires; i++)
        wire_settle(&app->wires[i]);
}

static void move_clock(struct app *app, uint64_t ms)
{
    wire_now_ms += ms;
    settle(app);
}

static struct app *app_bare(void)
{
    struct app *app = mem_zalloc(sizeof(*app));
    static unsigned count;

    (void)snprintf(app->target, sizeof(app->target), "unix:%s/%u", folder, count++);
    app->limits = h2_limits_default;
    app->keep = OK;
    return app;
}

static void app_dial(struct app *app, const struct grpc_channel_params *more)
{
    struct grpc_channel_params params = *more;

    params.target = app->target;
    params.limits = &app->limits;
    params.on_state = app_on_state;
    params.arg = app;
    app->channel = grpc_channel_new(loop, &params);
}

static struct app *app_new(void)
{
    struct app *app = app_bare();

    app_listen(app);
    app_dial(app, &(struct grpc_channel_params){.tls = NULL});
    return app;
}

static void app_free(struct app *app)
{
    if (app->channel != NULL)
        grpc_channel_close(app->channel);
    if (app->listener != NULL)
        app_deafen(app);
    settle(app);
    for (size_t i = 0; i < app->num_wires; i++)
        wire_fini(&app->wires[i]);
    if (app->server != NULL)
        grpc_server_free(app->server);
    SSL_CTX_free(app->server_ctx);
    SSL_CTX_free(app->client_ctx);
    buf_fini(&app->log);
    mem_free(app);
    looptest_settle(loop);
}

#define HEAD ":status: 200", "content-type: application/grpc"
static const char hello[] = "\x7a\x05hello";
#define HELLO hello, sizeof(hello) - 1

/* Answers the unary call on `stream` of connection `n`. */
static void answer(struct app *app, size_t n, uint32_t stream)
{
    wire_headers(&app->wires[n], 0, stream, WIRE_LIST(HEAD));
    wire_grpc(&app->wires[n], 0, stream, HELLO);
    wire_headers(&app->wires[n], WIRE_END_STREAM, stream, WIRE_LIST("grpc-status: 0"));
    settle(app);
}

#define DONE_HELLO "unary OK \"\" ok hello\n"

/* ---- in order ---- */

static void test_unary_call(void **state)
{
    struct app *app = app_new();
    struct wire *wire = &app->wires[0];

    (void)state;
    settle(app);
    assert_int_equal(app->num_wires, 0); /* nothing is dialled before a call */
    app_unary(app, 1500);
    assert_int_equal(buf_size(&app->log), 0); /* nor said inside it */
    settle(app);
    assert_int_equal(app->num_wires, 1);
    assert_true(wire_has(wire, "1 :method: POST"));
    assert_true(wire_has(wire, "1 :scheme: http"));
    assert_true(wire_has(wire, "1 :path: /t/Echo"));
    assert_true(wire_has(wire, "1 :authority: localhost"));
    assert_true(wire_has(wire, "1 te: trailers"));
    assert_true(wire_has(wire, "1 content-type: application/grpc"));
    assert_true(wire_has(wire, "1 grpc-timeout: 1500m"));
    assert_true(wire_has(wire, "1 end"));
    assert_int_equal(wire->num_data, 5 + protobuf_c_message_get_packed_size(sample_full()));
    answer(app, 0, 1);
    assert_true(bytes_equal_str(buf_view(&app->log), "state connected\n" DONE_HELLO));
    move_clock(app, 5000);
    assert_int_equal(wire_count(wire, NGHTTP2_RST_STREAM), 0);
    app_free(app);
}

static void test_calls_share_a_connection(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_unary(app, 0);
    app_unary(app, 0);
    settle(app);
    assert_int_equal(app->num_wires, 1);
    assert_false(wire_has(&app->wires[0], "1 grpc-timeout: 0m")); /* none */
    answer(app, 0, 3);
    answer(app, 0, 1);
    assert_true(bytes_equal_str(buf_view(&app->log), "state connected\n" DONE_HELLO DONE_HELLO));
    app_free(app);
}

static void test_bidirectional_call(void **state)
{
    struct app *app = app_new();
    struct wire *wire = &app->wires[0];

    (void)state;
    app_open(app);
    assert_true(
        err_is_ok(grpc_stream_send(app->call, sample_full()))); /* waits for the connection */
    settle(app);
    check_said(app, "state connected\nopen\n");
    assert_false(wire_has(wire, "1 end"));
    wire_headers(wire, 0, 1, WIRE_LIST(HEAD));
    wire_grpc(wire, 0, 1, HELLO);
    wire_grpc(wire, 0, 1, HELLO);
    settle(app);
    check_said(app, "message hello\nmessage hello\n");
    assert_true(err_is_ok(grpc_stream_send(app->call, sample_full())));
    grpc_stream_half_close(app->call);
    grpc_stream_half_close(app->call);
    assert_int_equal(grpc_stream_send(app->call, sample_full()).code, E_CLOSED);
    settle(app);
    assert_true(wire_has(wire, "1 end"));
    wire_headers(wire, WIRE_END_STREAM, 1, WIRE_LIST("grpc-status: 10", "grpc-message: n%C3%B6 %"));
    settle(app);
    check_said(app, "done ABORTED \"n\xc3\xb6 %\"\n");
    app_free(app);
}

static void test_half_close_before_the_connection(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_open(app);
    grpc_stream_half_close(app->call);
    settle(app);
    assert_true(wire_has(&app->wires[0], "1 end"));
    wire_headers(&app->wires[0], WIRE_END_STREAM, 1, WIRE_LIST(HEAD, "grpc-status: 0"));
    settle(app);
    check_said(app, "done OK \"\"\n");
    app_free(app);
}

/* The server may end a call whose other direction is open: its stream must not stay. */
static void test_server_ends_an_open_call(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->mute = true;
    app_open(app);
    settle(app);
    wire_settings(&app->wires[0], NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1);
    settle(app);
    wire_headers(&app->wires[0], WIRE_END_STREAM, 1, WIRE_LIST(HEAD, "grpc-status: 14"));
    settle(app);
    check_said(app, "done UNAVAILABLE \"\"\n");
    assert_int_equal(wire_count(&app->wires[0], NGHTTP2_RST_STREAM), 1);
    app_unary(app, 0);
    settle(app);
    answer(app, 0, 3);
    check_said(app, DONE_HELLO);
    app_free(app);
}

static void test_calls_above_the_servers_limit_wait(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->mute = true;
    app_unary(app, 0);
    settle(app);
    wire_settings(&app->wires[0], NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 2);
    settle(app);
    app_unary(app, 0);
    app_unary(app, 0);
    settle(app);
    assert_true(wire_has(&app->wires[0], "3 end"));
    assert_false(wire_has(&app->wires[0], "5 end"));
    answer(app, 0, 3);
    assert_true(wire_has(&app->wires[0], "5 end"));
    app_free(app);
}

/* ---- wrong answers ---- */

/* What a unary call says to an answer of `head`, data and `trailers` (NULL: none). */
static void check_answer(const char *const *head, const void *data, size_t len,
                         const char *const *trailers, const char *expected)
{
    struct app *app = app_new();
    struct wire *wire = &app->wires[0];

    app_unary(app, 0);
    settle(app);
    wire_headers(wire, len == 0 && trailers == NULL ? WIRE_END_STREAM : 0, 1, head);
    if (len != 0)
        wire_send(wire, NGHTTP2_DATA, trailers == NULL ? WIRE_END_STREAM : 0, 1, data, len);
    if (trailers != NULL)
        wire_headers(wire, WIRE_END_STREAM, 1, trailers);
    settle(app);
    check_said(app, expected);
    app_unary(app, 0); /* the connection is as good as before */
    settle(app);
    answer(app, 0, 3);
    check_said(app, DONE_HELLO);
    app_free(app);
}

static void test_wrong_answers_have_their_status(void **state)
{
    const char *const *head = WIRE_LIST(HEAD), *const *fine = WIRE_LIST("grpc-status: 0");

    (void)state;
    /* status of the server */
    check_answer(WIRE_LIST(HEAD, "grpc-status: 5", "grpc-message: who"), NULL, 0, NULL,
                 "unary NOT_FOUND \"who\" grpc_status -\n");
    check_answer(head, "\0\0\0\0\0", 5, WIRE_LIST("grpc-status: 7"),
                 "unary PERMISSION_DENIED \"\" grpc_status -\n");
    check_answer(WIRE_LIST(HEAD, "grpc-status: 99"), NULL, 0, NULL, "unary UNKNOWN \"\"");
    check_answer(WIRE_LIST(HEAD, "grpc-status: x"), NULL, 0, NULL, "unary UNKNOWN \"\"");
    check_answer(WIRE_LIST(HEAD, "grpc-status: 4294967296"), NULL, 0, NULL, "unary UNKNOWN \"\"");
    /* no status */
    check_answer(head, NULL, 0, NULL,
                 "unary INTERNAL \"HTTP status 200 and no gRPC status\" grpc_status -\n");
    check_answer(head, "\0\0\0\0\0", 5, NULL, "unary INTERNAL \"HTTP status 200");
    check_answer(head, "\0\0\0\0\0", 5, WIRE_LIST("x: y"), "unary INTERNAL \"HTTP status 200");
    /* not gRPC */
    check_answer(WIRE_LIST(":status: 403", "content-type: text/html"), "<html>", 6, NULL,
                 "unary PERMISSION_DENIED \"HTTP status 403 and no gRPC status\"");
    check_answer(WIRE_LIST(":status: 503"), NULL, 0, NULL, "unary UNAVAILABLE \"HTTP status 503");
    check_answer(WIRE_LIST(":status: 404", "grpc-status: 0"), NULL, 0, NULL,
                 "unary UNIMPLEMENTED \"HTTP status 404");
    check_answer(WIRE_LIST(":status: 200", "content-type: text/html"), "<html>", 6, NULL,
                 "unary INTERNAL \"HTTP status 200");
    /* messages */
    check_answer(head, NULL, 0, fine, "unary INTERNAL \"no message in the reply\"");
    check_answer(head, "\0\0\0\0\0\0\0\0\0\0", 10, fine, "unary INTERNAL \"malformed gRPC frame\"");
    check_answer(head, "\0\0\0\0\2\x08", 6, fine, "unary INTERNAL \"malformed gRPC frame\"");
    check_answer(head, "\1\0\0\0\0", 5, fine, "unary INTERNAL \"malformed gRPC frame\"");
    check_answer(head, "\0\0\0\0\1\x0b", 6, fine, "unary INTERNAL \"malformed protobuf message\"");
    check_answer(head, "\0\0\x40\0\1", 5, fine, "unary RESOURCE_EXHAUSTED \"larger than allowed\"");
    /* an error needs no message, and a half one does not matter */
    check_answer(head, "\0\0\0\0\2\x08", 6, WIRE_LIST("grpc-status: 2"), "unary UNKNOWN \"\"");
}

static void test_resets_have_their_status(void **state)
{
    static const struct {
        uint32_t code;
        const char *status;
    } rows[] = {{0x0, "done INTERNAL"},           {0x2, "done INTERNAL"},
                {0x7, "done UNAVAILABLE"},        {0x8, "done CANCELLED"},
                {0xb, "done RESOURCE_EXHAUSTED"}, {0xc, "done PERMISSION_DENIED"}};
    struct app *app = app_new();

    (void)state;
    for (uint32_t i = 0; i < ARRAY_LEN(rows); i++) {
        app_open(app);
        settle(app);
        wire_u32(&app->wires[0], NGHTTP2_RST_STREAM, 1 + 2 * i, rows[i].code);
        settle(app);
        check_said(app, rows[i].status);
        buf_clear(&app->log);
    }
    app_free(app);
}

static void test_stream_message_above_the_limit_ends_it(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_open(app);
    settle(app);
    wire_headers(&app->wires[0], 0, 1, WIRE_LIST(HEAD));
    wire_send(&app->wires[0], NGHTTP2_DATA, 0, 1, "\0\0\0\x03\xe9", 5);
    settle(app);
    check_said(app, "done RESOURCE_EXHAUSTED");
    assert_int_equal(app->wires[0].last_reset_code, NGHTTP2_CANCEL);
    app_free(app);
}

/* ---- time ---- */

static void test_deadline_while_waiting_for_the_answer(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_unary(app, 1000);
    settle(app);
    move_clock(app, 999);
    assert_false(app_said(app, "unary"));
    move_clock(app, 1);
    check_said(app, "unary DEADLINE_EXCEEDED \"deadline passed\" timeout -\n");
    assert_int_equal(app->wires[0].last_reset_code, NGHTTP2_CANCEL);
    answer(app, 0, 1); /* too late, and nobody hears it */
    assert_false(app_said(app, "hello"));
    app_unary(app, 1000);
    settle(app);
    answer(app, 0, 3);
    check_said(app, DONE_HELLO);
    app_free(app);
}

static void test_deadline_while_connecting_tells_why(void **state)
{
    struct app *app = app_new();
    char expected[256];

    (void)state;
    app_deafen(app);
    app_unary(app, 3000);
    settle(app);
    for (int i = 0; i < 30; i++)
        move_clock(app, 100);
    (void)snprintf(
        expected, sizeof(expected),
        "unary DEADLINE_EXCEEDED \"deadline passed while connecting to %s: ", app->target);
    check_said(app, expected);
    app_free(app);
}

static void test_connections_are_tried_again_ever_later(void **state)
{
    struct app *app = app_new();
    uint32_t last = 0, bound = 200;

    (void)state;
    app_deafen(app);
    app_unary(app, 0);
    for (int i = 0; i < 12; i++, bound = bound < 15000 ? bound * 2 : 30000) {
        buf_clear(&app->log);
        settle(app);
        if (i != 0) {
            move_clock(app, last - 1);
            assert_false(app_said(app, "state"));
            move_clock(app, 1);
        }
        check_said(app, "state connect_");
        assert_in_range(app->retry_ms, bound / 2, bound);
        last = app->retry_ms;
    }
    app_listen(app); /* the call has waited for it */
    move_clock(app, last);
    answer(app, 0, 1);
    check_said(app, "state connected\n" DONE_HELLO);
    /* it worked: the next loss begins anew */
    assert_true(err_is_ok(stream_shutdown(app->wires[0].raw)));
    settle(app);
    check_said(app, "state closed\n");
    assert_in_range(app->retry_ms, 100, 200);
    app_unary(app, 0);
    move_clock(app, app->retry_ms);
    answer(app, 1, 1);
    app_free(app);
}

/* A server that takes connections and drops them is not besieged, though each seemed to work. */
static void test_connections_without_an_answer_do_not_reset_the_backoff(void **state)
{
    struct app *app = app_new();
    uint32_t bound = 200;

    (void)state;
    app->reopen = true;
    app_open(app);
    for (size_t i = 0; i < 6; i++, bound *= 2) {
        settle(app);
        assert_int_equal(app->num_wires, i + 1);
        assert_true(err_is_ok(stream_shutdown(app->wires[i].raw)));
        settle(app);
        assert_in_range(app->retry_ms, bound / 2, bound);
        move_clock(app, app->retry_ms);
    }
    app_free(app);
}

/* What worked is remembered although another connection has taken its place: a sidecar that renews
 * its certificate often must not wait half a minute at the next outage. */
static void test_answer_resets_the_backoff_though_a_reconnect_follows(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_deafen(app);
    app_unary(app, 0);
    settle(app);
    for (int i = 0; i < 6; i++) {
        check_said(app, "state connect_");
        buf_clear(&app->log);
        if (i == 5)
            app_listen(app);
        move_clock(app, app->retry_ms);
        settle(app);
    }
    answer(app, 0, 1);
    check_said(app, "state connected\n" DONE_HELLO);
    grpc_channel_reconnect(app->channel);
    app_unary(app, 0);
    settle(app);
    assert_int_equal(app->num_wires, 2);
    assert_true(err_is_ok(stream_shutdown(app->wires[1].raw))); /* before any answer on it */
    settle(app);
    assert_in_range(app->retry_ms, 100, 200);
    app_free(app);
}

static void test_server_that_says_nothing_is_given_up(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->mute = true;
    app_unary(app, 0);
    settle(app);
    assert_int_equal(app->num_wires, 1);
    move_clock(app, 4999);
    assert_false(app_said(app, "state"));
    move_clock(app, 1);
    check_said(app, "state connect_timeout\n");
    assert_int_equal(app->wires[0].recorder.num_eofs, 1);
    app_free(app);
}

static void test_server_that_speaks_something_else_is_given_up(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->mute = true;
    app_open(app);
    settle(app);
    wire_bytes(&app->wires[0], "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    settle(app);
    move_clock(app, 1000);
    check_said(app, "state h2_protocol\n");
    app_free(app);
}

static void test_keepalive_ends_calls_on_a_dead_connection(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->limits.keepalive_ms = 1000;
    app->limits.keepalive_timeout_ms = 500;
    grpc_channel_close(app->channel);
    app_dial(app, &(struct grpc_channel_params){.tls = NULL});
    app_open(app);
    settle(app);
    move_clock(app, 1000);
    assert_int_equal(wire_count(&app->wires[0], NGHTTP2_PING), 1);
    wire_send(&app->wires[0], NGHTTP2_PING, WIRE_ACK, 0, "\0\0\0\0\0\0\0\0", 8);
    settle(app);
    move_clock(app, 1000);
    assert_false(app_said(app, "done"));
    move_clock(app, 500);
    check_said(app, "done UNAVAILABLE \"a deadline passed\"\nstate timeout\n");
    app_free(app);
}

/* ---- gone ---- */

static void test_lost_connection_is_not_a_second_try(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_unary(app, 0);
    app_open(app);
    settle(app);
    stream_reset(app->wires[0].raw);
    app->wires[0].raw = NULL;
    looptest_settle(loop);
    check_said(app, "unary UNAVAILABLE");
    check_said(app, "done UNAVAILABLE");
    check_said(app, "state "); /* peer_reset or closed */
    assert_int_equal(app->num_wires, 1);
    memstream_pair(loop, &app->wires[0].raw, &app->wires[1].raw); /* for wire_fini */
    stream_close(app->wires[1].raw);
    app_free(app);
}

static void test_goaway_lets_calls_finish_and_new_ones_go_elsewhere(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_unary(app, 0);
    settle(app);
    wire_send(&app->wires[0], NGHTTP2_GOAWAY, 0, 0, "\0\0\0\1\0\0\0\0", 8);
    settle(app);
    check_said(app, "state h2_goaway\n");
    app_unary(app, 0);
    move_clock(app, app->retry_ms);
    assert_int_equal(app->num_wires, 2);
    answer(app, 0, 1);
    check_said(app, DONE_HELLO);
    assert_int_equal(app->wires[0].recorder.num_eofs, 1); /* its last call is over */
    buf_clear(&app->log);
    answer(app, 1, 1);
    check_said(app, DONE_HELLO);
    app_free(app);
}

/* What the server says it has not begun is asked again: it is safe. */
static void test_unprocessed_calls_are_replayed(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_unary(app, 0);
    settle(app);
    wire_u32(&app->wires[0], NGHTTP2_RST_STREAM, 1, NGHTTP2_REFUSED_STREAM);
    settle(app);
    assert_true(wire_has(&app->wires[0], "3 end"));
    wire_send(&app->wires[0], NGHTTP2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8);
    settle(app);
    move_clock(app, app->retry_ms);
    assert_int_equal(app->num_wires, 2);
    assert_true(wire_has(&app->wires[1], "1 end"));
    answer(app, 1, 1);
    check_said(app, DONE_HELLO);
    app_free(app);
}

static void test_replays_have_an_end(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_unary(app, 0);
    for (uint32_t i = 0; i < 4; i++) {
        settle(app);
        assert_false(app_said(app, "unary"));
        wire_u32(&app->wires[0], NGHTTP2_RST_STREAM, 1 + 2 * i, NGHTTP2_REFUSED_STREAM);
    }
    settle(app);
    check_said(app, "unary UNAVAILABLE");
    app_free(app);
}

static void test_begun_calls_are_not_replayed(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_unary(app, 0);
    settle(app);
    wire_headers(&app->wires[0], 0, 1, WIRE_LIST(HEAD));
    wire_u32(&app->wires[0], NGHTTP2_RST_STREAM, 1, NGHTTP2_REFUSED_STREAM);
    settle(app);
    check_said(app, "unary UNAVAILABLE");
    assert_false(wire_has(&app->wires[0], "3 end"));
    app_free(app);
}

/* A stream has one attempt, but waits out the delay that another one's failure began. */
static void test_stream_has_one_attempt(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_deafen(app);
    app_open(app);
    settle(app);
    check_said(app, "done UNAVAILABLE");
    assert_null(app->call);
    buf_clear(&app->log);
    app_open(app);
    settle(app);
    assert_false(app_said(app, "done")); /* it waits */
    app_listen(app);
    move_clock(app, app->retry_ms);
    check_said(app, "open\n");
    app_free(app);
}

static void test_cancel_in_every_state(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->mute = true;
    app_unary(app, 1000); /* not yet dialled */
    grpc_client_cancel(app->call);
    settle(app);
    app_unary(app, 1000); /* connecting */
    settle(app);
    grpc_client_cancel(app->call);
    wire_send(&app->wires[0], NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    settle(app);
    app_unary(app, 1000); /* asked */
    settle(app);
    grpc_client_cancel(app->call);
    settle(app);
    assert_int_equal(app->wires[0].last_reset_code, NGHTTP2_CANCEL);
    app_unary(app, 1000); /* half answered */
    settle(app);
    wire_headers(&app->wires[0], 0, 3, WIRE_LIST(HEAD));
    wire_send(&app->wires[0], NGHTTP2_DATA, 0, 3, "\0\0\0\0\2x", 6);
    settle(app);
    grpc_client_cancel(app->call);
    settle(app);
    assert_int_equal(wire_count(&app->wires[0], NGHTTP2_RST_STREAM), 2);
    app_open(app); /* and a stream */
    settle(app);
    grpc_client_cancel(app->call);
    settle(app);
    move_clock(app, 2000);
    assert_true(bytes_equal_str(buf_view(&app->log), "state connected\nopen\n"));
    app_free(app);
}

static void test_slow_server_meets_the_limit(void **state)
{
    struct app *app;
    err_t err = OK;

    (void)state;
    app = app_new();
    app->limits.out_bytes = 50000;
    grpc_channel_close(app->channel);
    app_dial(app, &(struct grpc_channel_params){.tls = NULL});
    app_open(app);
    for (int i = 0; i < 1000 && err_is_ok(err); i++) /* before the connection */
        err = grpc_stream_send(app->call, sample_full());
    assert_int_equal(err.code, E_LIMIT);
    settle(app);
    err = OK;
    for (int i = 0; i < 1000 && err_is_ok(err); i++) { /* 65,535 bytes of window and no more */
        err = grpc_stream_send(app->call, sample_full());
        settle(app);
    }
    assert_int_equal(err.code, E_LIMIT);
    assert_int_equal(app->wires[0].num_data, 65535);
    app_free(app);
}

static void test_request_that_is_too_large_fails_from_the_loop(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->limits.out_bytes = 100;
    grpc_channel_close(app->channel);
    app_dial(app, &(struct grpc_channel_params){.tls = NULL});
    app_unary(app, 0);
    assert_int_equal(buf_size(&app->log), 0);
    settle(app);
    check_said(app, "unary RESOURCE_EXHAUSTED \"larger than allowed\" too_large -\n");
    app_unary(app, 0); /* closed before it was told: freed all the same */
    app_free(app);
}

static void test_reconnect_moves_new_calls(void **state)
{
    struct app *app = app_new();

    (void)state;
    app_open(app);
    settle(app);
    grpc_channel_reconnect(app->channel);
    app_unary(app, 0);
    settle(app);
    assert_int_equal(app->num_wires, 2);
    answer(app, 1, 1);
    check_said(app, DONE_HELLO);
    assert_int_equal(app->wires[0].recorder.num_eofs, 0);
    wire_headers(&app->wires[0], 0, 1, WIRE_LIST(HEAD));
    wire_grpc(&app->wires[0], 0, 1, HELLO); /* the old call lives on */
    wire_headers(&app->wires[0], WIRE_END_STREAM, 1, WIRE_LIST("grpc-status: 0"));
    settle(app);
    check_said(app, "message hello\ndone OK");
    settle(app);
    assert_int_equal(app->wires[0].recorder.num_eofs, 1);
    app_free(app);
}

/* In each state of the channel: what was under way is given up, what waits goes the new way. */
static void test_reconnect_in_every_state(void **state)
{
    struct app *app = app_new();

    (void)state;
    grpc_channel_reconnect(app->channel); /* idle */
    settle(app);
    assert_int_equal(app->num_wires, 0);
    app_unary(app, 0);
    loop_run_once(loop, false);
    grpc_channel_reconnect(app->channel); /* resolving */
    app->mute = true;
    settle(app);
    assert_int_equal(app->num_wires, 1);
    grpc_channel_reconnect(app->channel); /* waiting for SETTINGS */
    app->mute = false;
    settle(app);
    assert_int_equal(app->num_wires, 2);
    answer(app, 1, 1);
    check_said(app, DONE_HELLO);
    app_deafen(app);
    grpc_channel_reconnect(app->channel);
    app_unary(app, 0);
    settle(app);
    check_said(app, "state connect_"); /* backoff */
    app_listen(app);
    grpc_channel_reconnect(app->channel);
    settle(app);
    assert_int_equal(app->num_wires, 3);
    answer(app, 2, 1);
    app_free(app);
}

static void test_close_in_every_event(void **state)
{
    static const char *const events[] = {"state", "unary", "open", "message", "done"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(events); i++) {
        struct app *app = app_new();
        size_t said;

        app->killer = events[i];
        app_unary(app, 60000);
        app_open(app);
        settle(app);
        if (app->channel != NULL) {
            wire_hold(&app->wires[0]);
            wire_headers(&app->wires[0], 0, 3, WIRE_LIST(HEAD));
            wire_grpc(&app->wires[0], 0, 3, HELLO);
            wire_grpc(&app->wires[0], 0, 3, HELLO);
            wire_headers(&app->wires[0], WIRE_END_STREAM, 3, WIRE_LIST("grpc-status: 0"));
            wire_headers(&app->wires[0], WIRE_END_STREAM, 1, WIRE_LIST(HEAD, "grpc-status: 1"));
            wire_release(&app->wires[0]);
            settle(app);
        }
        assert_null(app->channel);
        said = buf_size(&app->log);
        move_clock(app, 60000);
        assert_int_equal(buf_size(&app->log), said);
        app_free(app);
    }
}

/* Also while the loss of a connection is being told. */
static void test_close_while_a_failure_is_told(void **state)
{
    static const char *const events[] = {"state", "unary", "done"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(events); i++) {
        struct app *app = app_new();

        app_unary(app, 60000);
        app_open(app);
        settle(app);
        app->killer = events[i];
        assert_true(err_is_ok(stream_shutdown(app->wires[0].raw)));
        settle(app);
        assert_null(app->channel);
        app_free(app);

        app = app_new(); /* and of an attempt */
        app_deafen(app);
        app->killer = i == 1 ? "state" : events[i];
        app_open(app);
        settle(app);
        assert_null(app->channel);
        app_free(app);
    }
}

/* ---- TLS ---- */

static struct testca *root, *server_cert, *other_root;

static SSL_CTX *app_tls(void *arg)
{
    struct app *app = arg;

    if (app->client_ctx != NULL)
        SSL_CTX_up_ref(app->client_ctx);
    return app->client_ctx;
}

static void app_configure(void *arg, SSL *ssl)
{
    struct app *app = arg;

    assert_non_null(ssl);
    app->num_configured++;
}

static err_t app_handshake_done(void *arg, SSL *ssl, err_t err)
{
    struct app *app = arg;

    assert_non_null(ssl);
    app->num_done++;
    app_note(app, "shaken %s", err_name(err.code));
    return app->keep;
}

static enum grpc_status app_authorize(void *arg, const struct grpc_peer *peer,
                                      const struct grpc_method *method, const char **out_reason)
{
    (void)arg;
    (void)method;
    (void)out_reason;
    return peer->tls ? GRPC_OK : GRPC_UNAUTHENTICATED;
}

static void app_on_request(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    (void)service;
    grpc_call_reply(call, msg);
}

static const struct grpc_method app_methods[] = {{
    .path = "/t/Echo",
    .in = SAMPLE,
    .out = SAMPLE,
    .max_message = 10000,
    .on_message = app_on_request,
}};

static int app_alpn(SSL *ssl, const uint8_t **out, uint8_t *out_len, const uint8_t *in,
                    unsigned in_len, void *arg)
{
    (void)ssl;
    (void)in_len;
    (void)arg;
    *out_len = in[0]; /* the first one offered */
    *out = in + 1;
    return SSL_TLSEXT_ERR_OK;
}

/* A channel over TLS to a server of ours; `trusted` says what the client trusts. */
static struct app *app_tls_new(const struct testca *trusted, bool with_context)
{
    struct app *app = app_bare();

    app->server_ctx = testtls_ctx(&(struct testtls_params){.cert = server_cert});
    SSL_CTX_set_alpn_select_cb(app->server_ctx, app_alpn, NULL);
    if (with_context)
        app->client_ctx = testtls_ctx(&(struct testtls_params){.root = trusted});
    app->server = grpc_server_new(loop, &(struct grpc_server_params){.authorize = app_authorize});
    grpc_server_add(app->server, app_methods, 1, NULL);
    app_listen(app);
    app_dial(app, &(struct grpc_channel_params){
                      .tls = app_tls,
                      .server_name = "localhost",
                      .configure = app_configure,
                      .handshake_done = app_handshake_done,
                  });
    return app;
}

static void test_tls_call(void **state)
{
    struct app *app = app_tls_new(root, true);

    (void)state;
    app_unary(app, 0);
    settle(app);
    check_said(app, "shaken ok\nstate connected\nunary OK \"\" ok spiffe://a/b\n");
    assert_int_equal(app->num_configured, 1);
    assert_int_equal(app->num_done, 1);
    app_free(app);
}

static void test_untrusted_server_gets_no_request(void **state)
{
    struct app *app = app_tls_new(other_root, true);

    (void)state;
    app_unary(app, 1000);
    settle(app);
    check_said(app, "shaken tls_protocol\nstate tls_protocol\n");
    assert_int_equal(app->num_done, app->num_configured);
    assert_int_equal(grpc_server_num_connections(app->server), 0);
    move_clock(app, 1000);
    check_said(app, "unary DEADLINE_EXCEEDED");
    app_free(app);
}

static void test_the_reason_kept_by_callbacks_is_told(void **state)
{
    struct app *app = app_tls_new(other_root, true);

    (void)state;
    app->keep = FAIL(CERT_EXPIRED, 5);
    app_open(app);
    settle(app);
    check_said(app, "state cert_expired\ndone UNAVAILABLE \"certificate expired\"\n");
    app_free(app);

    app = app_tls_new(root, true); /* also when TLS itself was content */
    app->keep = FAIL(PEER_IDENTITY, 0);
    app_open(app);
    settle(app);
    check_said(app, "shaken ok\nstate peer_identity\n");
    assert_false(app_said(app, "open"));
    app_free(app);
}

static void test_without_a_context_nothing_is_said(void **state)
{
    struct app *app = app_tls_new(root, false);

    (void)state;
    app_open(app);
    settle(app);
    check_said(app, "state svid_missing\n");
    assert_int_equal(app->num_configured, 0);
    app->client_ctx = testtls_ctx(&(struct testtls_params){.root = root}); /* now there is one */
    app_unary(app, 0);
    move_clock(app, app->retry_ms);
    check_said(app, "state connected\nunary OK");
    app_free(app);
}

static void test_another_protocol_by_alpn_is_refused(void **state)
{
    static const uint8_t wrong[] = "\x08http/1.1", right[] = "\x02h2";
    struct app *app = app_tls_new(root, true);

    (void)state;
    assert_int_equal(SSL_CTX_set_alpn_protos(app->client_ctx, wrong, 9), 0);
    app_open(app);
    settle(app);
    check_said(app, "shaken h2_protocol\nstate h2_protocol\n");
    assert_int_equal(SSL_CTX_set_alpn_protos(app->client_ctx, right, 3), 0);
    app_unary(app, 0);
    move_clock(app, app->retry_ms);
    check_said(app, "unary OK");
    app_free(app);
}

/* A server that takes the connection and shakes no hand. */
static void test_handshake_has_its_time(void **state)
{
    struct app *app = app_tls_new(root, true);

    (void)state;
    SSL_CTX_free(app->server_ctx);
    app->server_ctx = NULL;
    app->mute = true;
    app_open(app);
    settle(app);
    assert_int_equal(app->num_wires, 1);
    move_clock(app, 4999);
    assert_false(app_said(app, "state"));
    move_clock(app, 1);
    check_said(app, "shaken cancelled\nstate handshake_timeout\n");
    assert_int_equal(app->num_done, app->num_configured);
    app_free(app);
}

static void test_closing_within_the_handshake_takes_back_what_was_attached(void **state)
{
    struct app *app = app_tls_new(root, true);

    (void)state;
    SSL_CTX_free(app->server_ctx);
    app->server_ctx = NULL;
    app->mute = true;
    app_open(app);
    settle(app);
    assert_int_equal(app->num_configured, 1);
    grpc_channel_close(app->channel);
    app->channel = NULL;
    assert_int_equal(app->num_done, 1);
    app_free(app);
}

/* Without TLS nothing goes over a network, not even to ourselves. */
static void test_plaintext_is_for_socket_files_only(void **state)
{
    struct app *app = app_bare();

    (void)state;
    (void)snprintf(app->target, sizeof(app->target), "127.0.0.1:1");
    app_dial(app, &(struct grpc_channel_params){.tls = NULL});
    app_open(app);
    settle(app);
    check_said(app, "state tls_config\ndone UNAVAILABLE");
    app_free(app);
}

static void test_target_that_is_none(void **state)
{
    struct app *app = app_bare();

    (void)state;
    (void)snprintf(app->target, sizeof(app->target), "no port");
    app_dial(app, &(struct grpc_channel_params){.tls = NULL});
    app_open(app);
    settle(app);
    check_said(app, "state addr_syntax\ndone UNAVAILABLE");
    app_free(app);
}

static int setup(void **state)
{
    (void)state;
    loop = loop_new(&wire_clock);
    assert_non_null(mkdtemp(folder));
    root = testca_new(&(struct testca_params){.name = "root"});
    other_root = testca_new(&(struct testca_params){.name = "other"});
    server_cert = testca_issue(root, &(struct testca_params){.dns_sans = TESTCA_LIST("localhost")});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    (void)rmdir(folder);
    testca_free(server_cert);
    testca_free(root);
    testca_free(other_root);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unary_call),
        cmocka_unit_test(test_calls_share_a_connection),
        cmocka_unit_test(test_bidirectional_call),
        cmocka_unit_test(test_half_close_before_the_connection),
        cmocka_unit_test(test_server_ends_an_open_call),
        cmocka_unit_test(test_calls_above_the_servers_limit_wait),
        cmocka_unit_test(test_wrong_answers_have_their_status),
        cmocka_unit_test(test_resets_have_their_status),
        cmocka_unit_test(test_stream_message_above_the_limit_ends_it),
        cmocka_unit_test(test_deadline_while_waiting_for_the_answer),
        cmocka_unit_test(test_deadline_while_connecting_tells_why),
        cmocka_unit_test(test_connections_are_tried_again_ever_later),
        cmocka_unit_test(test_connections_without_an_answer_do_not_reset_the_backoff),
        cmocka_unit_test(test_answer_resets_the_backoff_though_a_reconnect_follows),
        cmocka_unit_test(test_server_that_says_nothing_is_given_up),
        cmocka_unit_test(test_server_that_speaks_something_else_is_given_up),
        cmocka_unit_test(test_keepalive_ends_calls_on_a_dead_connection),
        cmocka_unit_test(test_lost_connection_is_not_a_second_try),
        cmocka_unit_test(test_goaway_lets_calls_finish_and_new_ones_go_elsewhere),
        cmocka_unit_test(test_unprocessed_calls_are_replayed),
        cmocka_unit_test(test_replays_have_an_end),
        cmocka_unit_test(test_begun_calls_are_not_replayed),
        cmocka_unit_test(test_stream_has_one_attempt),
        cmocka_unit_test(test_cancel_in_every_state),
        cmocka_unit_test(test_slow_server_meets_the_limit),
        cmocka_unit_test(test_request_that_is_too_large_fails_from_the_loop),
        cmocka_unit_test(test_reconnect_moves_new_calls),
        cmocka_unit_test(test_reconnect_in_every_state),
        cmocka_unit_test(test_close_in_every_event),
        cmocka_unit_test(test_close_while_a_failure_is_told),
        cmocka_unit_test(test_tls_call),
        cmocka_unit_test(test_untrusted_server_gets_no_request),
        cmocka_unit_test(test_the_reason_kept_by_callbacks_is_told),
        cmocka_unit_test(test_without_a_context_nothing_is_said),
        cmocka_unit_test(test_another_protocol_by_alpn_is_refused),
        cmocka_unit_test(test_handshake_has_its_time),
        cmocka_unit_test(test_closing_within_the_handshake_takes_back_what_was_attached),
        cmocka_unit_test(test_plaintext_is_for_socket_files_only),
        cmocka_unit_test(test_target_that_is_none),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
