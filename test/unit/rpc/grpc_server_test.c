/* The gRPC server against a client made frame by frame: calls in order, and every way in which a
 * client can be wrong, slow, gone or not allowed; the other calls go on. Drives: R14, R15, R46. */
#include "lib/rpc/grpc_server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "test/unit/rpc/sample.h"
#include "test/unit/rpc/wire.h"

#define MESSAGE_MAX 1000

static struct loop *loop;

/* The program that serves. */
struct app {
    struct wire wire;
    struct grpc_server *server;
    struct buf log;
    struct grpc_call *call; /* the last one that came */
    unsigned num_done, num_messages, num_writable, num_freed;
    enum grpc_status allow; /* what authorize answers */
    const char *reason;
    const char *killer; /* event in which the server is freed */
};

static void app_note(struct app *app, const char *text)
{
    assert_true(err_is_ok(buf_printf(&app->log, "%s\n", text)));
}

static bool app_said(struct app *app, const char *line)
{
    struct bytes log = buf_view(&app->log);

    return log.ptr != NULL && memmem(log.ptr, log.len, line, strlen(line)) != NULL;
}

static void app_kill(struct app *app, const char *event)
{
    if (app->killer == NULL || strcmp(app->killer, event) != 0)
        return;
    app->killer = NULL;
    grpc_server_free(app->server);
    app->server = NULL;
}

static void app_on_start(struct grpc_call *call, void *service)
{
    struct app *app = service;

    app->call = call;
    grpc_call_set_data(call, app);
    app_note(app, "start");
    app_kill(app, "start");
}

/* Text and number of a request. */
static void app_note_message(struct app *app, const ProtobufCMessage *msg)
{
    const Mortise__Test__Sample *sample = (const Mortise__Test__Sample *)msg;

    app->num_messages++;
    assert_true(err_is_ok(buf_printf(&app->log, "message %s %d\n", sample->text, sample->i32)));
}

static void app_on_echo(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    app_note_message(service, msg);
    grpc_call_reply(call, msg);
}

static void app_on_hold(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    struct app *app = service;

    app->call = call;
    app_note_message(app, msg);
    app_kill(app, "message");
}

static void app_on_chat(struct grpc_call *call, void *service, const ProtobufCMessage *msg)
{
    struct app *app = service;

    app_note_message(app, msg);
    assert_true(err_is_ok(grpc_call_send(call, msg)));
    app_kill(app, "message");
}

static void app_on_half_close(struct grpc_call *call, void *service)
{
    struct app *app = service;

    app->call = call;
    app_note(app, "half close");
    app_kill(app, "half close");
}

static void app_on_done(struct grpc_call *call, void *service)
{
    struct app *app = service;

    if (app->call == call)
        app->call = NULL;
    app->num_done++;
    app_note(app, "done");
    app_kill(app, "done");
}

#define METHOD(name, streaming, start, message, half_close)                            \
    {                                                                                  \
        .path = "/t/" name, .in = &mortise__test__sample__descriptor,                  \
        .out = &mortise__test__sample__descriptor, .max_message = MESSAGE_MAX,         \
        .client_streaming = (streaming), .on_start = (start), .on_message = (message), \
        .on_half_close = (half_close), .on_done = app_on_done,                         \
    }

static const struct grpc_method app_methods[] = {
    METHOD("Echo", false, NULL, app_on_echo, NULL),
    METHOD("Hold", false, NULL, app_on_hold, NULL),
    METHOD("Chat", true, app_on_start, app_on_chat, NULL),
    METHOD("Ends", true, app_on_start, app_on_chat, app_on_half_close),
};

static enum grpc_status app_authorize(void *arg, const struct grpc_peer *peer,
                                      const struct grpc_method *method, const char **out_reason)
{
    struct app *app = arg;

    assert_ptr_equal(peer->identity, app);
    assert_true(err_is_ok(buf_printf(&app->log, "authorize %s\n", method->path)));
    *out_reason = app->reason;
    return app->allow;
}

static void app_free_identity(void *arg, void *identity)
{
    struct app *app = arg;

    assert_ptr_equal(identity, app);
    app->num_freed++;
}

static void app_on_finished(void *arg, const struct grpc_peer *peer, const char *path,
                            enum grpc_status status, uint64_t duration_us)
{
    struct app *app = arg;

    assert_ptr_equal(peer->identity, app);
    assert_true(duration_us < 60000000);
    assert_true(
        err_is_ok(buf_printf(&app->log, "finished %s %s\n", path, grpc_status_name(status))));
}

static struct app *app_with(const struct grpc_server_params *more)
{
    struct app *app = mem_zalloc(sizeof(*app));
    struct grpc_server_params params = *more;
    struct grpc_peer peer = {.uid = 7, .identity = app};

    params.free_identity = app_free_identity;
    params.on_finished = app_on_finished;
    params.arg = app;
    app->server = grpc_server_new(loop, &params);
    grpc_server_add(app->server, app_methods, ARRAY_LEN(app_methods), app);
    wire_init(&app->wire, loop);
    grpc_server_accept(app->server, app->wire.lower, &peer);
    wire_hello(&app->wire, true);
    wire_settle(&app->wire);
    return app;
}

static struct app *app_new(void)
{
    return app_with(&(struct grpc_server_params){.authorize = app_authorize});
}

static void app_free(struct app *app)
{
    if (app->server != NULL)
        grpc_server_free(app->server);
    wire_fini(&app->wire);
    assert_int_equal(app->num_freed, 1);
    buf_fini(&app->log);
    mem_free(app);
}

static void move_clock(struct app *app, uint64_t ms)
{
    wire_now_ms += ms;
    wire_settle(&app->wire);
}

static const char hello[] = "\x7a\x05hello\x08\x05"; /* text "hello", i32 5 */
#define HELLO hello, sizeof(hello) - 1

static void check_status(struct app *app, uint32_t stream, enum grpc_status status)
{
    char line[64];

    wire_settle(&app->wire);
    (void)snprintf(line, sizeof(line), "%u grpc-status: %d", stream, (int)status);
    if (!wire_has(&app->wire, line))
        print_error("%.*s\n", (int)buf_size(&app->wire.headers),
                    (const char *)buf_view(&app->wire.headers).ptr);
    assert_true(wire_has(&app->wire, line));
    (void)snprintf(line, sizeof(line), "%u end", stream);
    assert_true(wire_has(&app->wire, line));
}

/* The server is still good for others. */
static void check_serves(struct app *app, uint32_t stream)
{
    wire_headers(&app->wire, 0, stream, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_grpc(&app->wire, WIRE_END_STREAM, stream, HELLO);
    check_status(app, stream, GRPC_OK);
}

/* ---- in order ---- */

static void test_unary_call(void **state)
{
    struct app *app = app_new();

    (void)state;
    check_serves(app, 1);
    assert_true(wire_has(&app->wire, "1 :status: 200"));
    assert_true(wire_has(&app->wire, "1 content-type: application/grpc"));
    assert_true(
        bytes_equal(buf_view(&app->wire.data), bytes_of("\0\0\0\0\x09\x08\x05\x7a\x05hello", 14)));
    assert_true(bytes_equal_str(buf_view(&app->log), "authorize /t/Echo\n"
                                                     "message hello 5\n"
                                                     "done\n"
                                                     "finished /t/Echo OK\n"));
    app_free(app);
}

static void test_message_split_at_every_byte(void **state)
{
    static const char frame[] = "\0\0\0\0\x09\x7a\x05hello\x08\x05";

    (void)state;
    for (size_t split = 0; split <= sizeof(frame) - 1; split++) {
        struct app *app = app_new();

        wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Echo")));
        wire_send(&app->wire, NGHTTP2_DATA, 0, 1, frame, split);
        wire_settle(&app->wire);
        assert_int_equal(app->num_messages, 0);
        wire_send(&app->wire, NGHTTP2_DATA, 0, 1, frame + split, sizeof(frame) - 1 - split);
        wire_settle(&app->wire);
        assert_int_equal(app->num_messages, 0); /* it may not be the only one */
        wire_send(&app->wire, NGHTTP2_DATA, WIRE_END_STREAM, 1, NULL, 0);
        check_status(app, 1, GRPC_OK);
        assert_true(app_said(app, "message hello 5\n"));
        app_free(app);
    }
}

static void test_bidirectional_call(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    assert_true(app_said(app, "start\n"));
    for (int i = 0; i < 3; i++) {
        wire_grpc(&app->wire, 0, 1, HELLO);
        wire_settle(&app->wire);
        assert_int_equal(app->wire.num_data, 14 * (i + 1));
    }
    assert_false(wire_has(&app->wire, "1 end"));
    wire_send(&app->wire, NGHTTP2_DATA, WIRE_END_STREAM, 1, NULL, 0);
    check_status(app, 1, GRPC_OK);
    assert_int_equal(app->num_done, 1);
    app_free(app);
}

static void test_half_close_is_told(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Ends")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
    wire_settle(&app->wire);
    assert_true(app_said(app, "message hello 5\nhalf close\n"));
    assert_false(wire_has(&app->wire, "1 end"));
    assert_true(err_is_ok(grpc_call_send(app->call, sample_full())));
    grpc_call_finish(app->call, GRPC_ABORTED, "enough");
    check_status(app, 1, GRPC_ABORTED);
    assert_true(wire_has(&app->wire, "1 grpc-message: enough"));
    app_free(app);
}

static void test_request_that_ends_with_its_head(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, WIRE_END_STREAM, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    check_status(app, 1, GRPC_OK); /* no message is fine for a stream */
    wire_headers(&app->wire, WIRE_END_STREAM, 3, WIRE_LIST(WIRE_POST("/t/Echo")));
    check_status(app, 3, GRPC_INVALID_ARGUMENT);
    /* trailers end a request as well */
    wire_headers(&app->wire, 0, 5, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_grpc(&app->wire, 0, 5, HELLO);
    wire_headers(&app->wire, WIRE_END_STREAM, 5, WIRE_LIST("x-checksum: 1"));
    check_status(app, 5, GRPC_OK);
    app_free(app);
}

static void test_peer_and_data_of_a_call(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    assert_int_equal(grpc_call_peer(app->call)->uid, 7);
    assert_ptr_equal(grpc_call_data(app->call), app);
    assert_int_equal(grpc_call_queued(app->call), 0);
    app_free(app);
}

static void test_status_messages_are_escaped_and_cut(void **state)
{
    struct app *app = app_new();
    char *text = mem_zalloc(6000);

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    grpc_call_finish(app->call, GRPC_INTERNAL, "n\xc3\xb6\n100%");
    grpc_call_finish(app->call, GRPC_OK, NULL); /* the first one holds */
    check_status(app, 1, GRPC_INTERNAL);
    assert_true(wire_has(&app->wire, "1 grpc-message: n%C3%B6%0A100%25"));
    memset(text, 'x', 5999);
    wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    grpc_call_finish(app->call, GRPC_INTERNAL, text);
    check_status(app, 3, GRPC_INTERNAL);
    assert_in_range(buf_size(&app->wire.headers), 4096, 5000);
    mem_free(text);
    app_free(app);
}

static void test_head_and_status_are_one_block_without_messages(void **state)
{
    struct app *app = app_new();
    size_t before = wire_count(&app->wire, NGHTTP2_HEADERS);

    (void)state;
    wire_headers(&app->wire, WIRE_END_STREAM, 1, WIRE_LIST(WIRE_POST("/t/Nope")));
    check_status(app, 1, GRPC_UNIMPLEMENTED);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_HEADERS), before + 1);
    assert_true(wire_has(&app->wire, "1 :status: 200"));
    app_free(app);
}

/* ---- who may ---- */

static void test_nothing_is_allowed_unless_said(void **state)
{
    struct app *app = app_with(&(struct grpc_server_params){.authorize = NULL});

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
    check_status(app, 1, GRPC_PERMISSION_DENIED);
    wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 3, HELLO);
    check_status(app, 3, GRPC_PERMISSION_DENIED);
    assert_int_equal(app->num_messages, 0);
    assert_false(app_said(app, "start"));
    assert_false(app_said(app, "done"));
    app_free(app);
}

static void test_refused_calls_do_not_begin(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->allow = GRPC_UNAUTHENTICATED;
    app->reason = "who are you";
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_grpc(&app->wire, 0, 1, HELLO);
    check_status(app, 1, GRPC_UNAUTHENTICATED);
    assert_true(wire_has(&app->wire, "1 grpc-message: who are you"));
    app->allow = GRPC_PERMISSION_DENIED;
    app->reason = NULL;
    wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 3, HELLO);
    check_status(app, 3, GRPC_PERMISSION_DENIED);
    assert_int_equal(app->num_messages + app->num_done, 0);
    app->allow = GRPC_OK;
    check_serves(app, 5);
    app_free(app);
}

static void test_unknown_methods_are_unimplemented(void **state)
{
    struct app *app = app_new();
    char path[600] = ":path: /t/";

    (void)state;
    wire_headers(&app->wire, WIRE_END_STREAM, 1, WIRE_LIST(WIRE_POST("/t/Other")));
    check_status(app, 1, GRPC_UNIMPLEMENTED);
    wire_headers(&app->wire, WIRE_END_STREAM, 3, WIRE_LIST(WIRE_POST("/t/Echo/")));
    check_status(app, 3, GRPC_UNIMPLEMENTED);
    memset(path + 10, 'x', sizeof(path) - 11);
    wire_headers(&app->wire, WIRE_END_STREAM, 5,
                 WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", path,
                           "content-type: application/grpc"));
    check_status(app, 5, GRPC_UNIMPLEMENTED);
    /* the client's word is no label */
    assert_true(bytes_equal_str(buf_view(&app->log), "finished unknown UNIMPLEMENTED\n"
                                                     "finished unknown UNIMPLEMENTED\n"
                                                     "finished unknown UNIMPLEMENTED\n"));
    app_free(app);
}

static void test_what_is_not_grpc_is_told_so(void **state)
{
    static const char *const wrong[] = {"application/json", "application/grpcx", "application/grp",
                                        "text/plain"};
    static const char *const right[] = {"application/grpc+proto", "application/grpc;x=y"};
    struct app *app = app_new();
    uint32_t stream = 1;
    char line[64];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong) + 1; i++, stream += 2) {
        char type[64] = "x: y";

        if (i < ARRAY_LEN(wrong))
            (void)snprintf(type, sizeof(type), "content-type: %s", wrong[i]);
        wire_headers(
            &app->wire, 0, stream,
            WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", ":path: /t/Echo", type));
        wire_grpc(&app->wire, WIRE_END_STREAM, stream, HELLO);
        wire_settle(&app->wire);
        (void)snprintf(line, sizeof(line), "%u :status: 415", stream);
        assert_true(wire_has(&app->wire, line));
    }
    wire_headers(&app->wire, WIRE_END_STREAM, stream,
                 WIRE_LIST(":method: GET", ":scheme: http", ":authority: x", ":path: /t/Echo",
                           "content-type: application/grpc"));
    wire_settle(&app->wire);
    (void)snprintf(line, sizeof(line), "%u :status: 405", stream);
    assert_true(wire_has(&app->wire, line));
    assert_int_equal(app->num_messages, 0);
    for (size_t i = 0; i < ARRAY_LEN(right); i++) {
        char type[64];

        stream += 2;
        (void)snprintf(type, sizeof(type), "content-type: %s", right[i]);
        wire_headers(
            &app->wire, 0, stream,
            WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", ":path: /t/Echo", type));
        wire_grpc(&app->wire, WIRE_END_STREAM, stream, HELLO);
        check_status(app, stream, GRPC_OK);
    }
    app_free(app);
}

/* ---- wrong messages ---- */

static void test_message_size_below_at_and_above_the_limit(void **state)
{
    (void)state;
    for (size_t len = MESSAGE_MAX - 1; len <= MESSAGE_MAX + 1; len++) {
        for (int streaming = 0; streaming < 2; streaming++) {
            struct app *app = app_new();
            uint8_t message[MESSAGE_MAX + 1] = {0x7a, (uint8_t)((len - 3) | 0x80),
                                                (uint8_t)((len - 3) >> 7)};

            memset(message + 3, 'x', len - 3);
            if (streaming != 0)
                wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
            else
                wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Echo")));
            wire_grpc(&app->wire, WIRE_END_STREAM, 1, message, len);
            check_status(app, 1, len <= MESSAGE_MAX ? GRPC_OK : GRPC_RESOURCE_EXHAUSTED);
            check_serves(app, 3);
            app_free(app);
        }
    }
}

/* The announcement is enough. */
static void test_huge_message_is_refused_by_its_prefix(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_send(&app->wire, NGHTTP2_DATA, 0, 1, "\0\xff\xff\xff\xff", 5);
    check_status(app, 1, GRPC_RESOURCE_EXHAUSTED);
    check_serves(app, 3);
    app_free(app);
}

static void test_wrong_messages_have_their_status(void **state)
{
    static const struct {
        const char *data;
        size_t len;
        enum grpc_status status;
    } rows[] = {
        {"\0\0\0\0\2\x0b\x0c", 7, GRPC_INVALID_ARGUMENT},     /* not protobuf */
        {"\0\0\0\0\3\x7a\x01\xff", 8, GRPC_INVALID_ARGUMENT}, /* not text */
        {"\0\0\0\0\1\x08", 6, GRPC_INVALID_ARGUMENT},         /* cut inside */
        {"\0\0\0\0\5\x08", 6, GRPC_INVALID_ARGUMENT},         /* cut by the end */
        {"\0\0", 2, GRPC_INVALID_ARGUMENT},                   /* half a prefix */
        {"\0\0\0\0\0\0\0\0\0\0", 10, GRPC_INVALID_ARGUMENT},  /* two messages */
        {"\0\0\0\0\2\x08\1\0\0\0\0\2\x08\2", 14, GRPC_INVALID_ARGUMENT},
        {"\0\0\0\0\0\0", 6, GRPC_INVALID_ARGUMENT}, /* one and a bit */
        {"", 0, GRPC_INVALID_ARGUMENT},             /* none */
        {"\1\0\0\0\0", 5, GRPC_INTERNAL},           /* compressed, with what? */
        {"\xff\0\0\0\0", 5, GRPC_INTERNAL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct app *app = app_new();

        wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat"))); /* is not disturbed */
        wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Echo")));
        wire_send(&app->wire, NGHTTP2_DATA, WIRE_END_STREAM, 3, rows[i].data, rows[i].len);
        check_status(app, 3, rows[i].status);
        assert_int_equal(app->num_messages, 0);
        wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
        check_status(app, 1, GRPC_OK);
        app_free(app);
    }
}

static void test_wrong_message_in_a_stream_ends_it(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_grpc(&app->wire, 0, 1, HELLO);
    wire_grpc(&app->wire, 0, 1, "\x0b", 1);
    wire_grpc(&app->wire, 0, 1, HELLO);
    check_status(app, 1, GRPC_INVALID_ARGUMENT);
    assert_int_equal(app->num_messages, 1);
    assert_int_equal(app->num_done, 1);
    app_free(app);
}

static void test_compression_is_unimplemented(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Echo"), "grpc-encoding: gzip"));
    check_status(app, 1, GRPC_UNIMPLEMENTED);
    assert_true(wire_has(&app->wire, "1 grpc-accept-encoding: identity"));
    wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Echo"), "grpc-encoding: identity"));
    wire_grpc(&app->wire, WIRE_END_STREAM, 3, HELLO);
    check_status(app, 3, GRPC_OK);
    app_free(app);
}

/* ---- time ---- */

static void test_deadlines_are_kept(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Hold"), "grpc-timeout: 100m"));
    wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
    wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Chat"), "grpc-timeout: 200000u"));
    wire_settle(&app->wire);
    move_clock(app, 99);
    assert_int_equal(app->num_done, 0);
    move_clock(app, 1);
    check_status(app, 1, GRPC_DEADLINE_EXCEEDED);
    assert_int_equal(app->num_done, 1);
    move_clock(app, 100);
    check_status(app, 3, GRPC_DEADLINE_EXCEEDED);
    assert_int_equal(app->num_done, 2);
    assert_true(app_said(app, "finished /t/Hold DEADLINE_EXCEEDED\n"));
    app_free(app);
}

static void test_wrong_deadlines_are_refused(void **state)
{
    static const char *const wrong[] = {"grpc-timeout: 123456789S", "grpc-timeout: S",
                                        "grpc-timeout: -1S", "grpc-timeout: 1x"};
    struct app *app = app_new();
    uint32_t stream = 1;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++, stream += 2) {
        wire_headers(&app->wire, 0, stream, WIRE_LIST(WIRE_POST("/t/Chat"), wrong[i]));
        check_status(app, stream, GRPC_INVALID_ARGUMENT);
    }
    assert_false(app_said(app, "start"));
    wire_headers(&app->wire, 0, stream, WIRE_LIST(WIRE_POST("/t/Echo"), "grpc-timeout: 99999999H"));
    wire_grpc(&app->wire, WIRE_END_STREAM, stream, HELLO);
    check_status(app, stream, GRPC_OK);
    wire_headers(&app->wire, 0, stream + 2, WIRE_LIST(WIRE_POST("/t/Chat"), "grpc-timeout: 0S"));
    move_clock(app, 0);
    check_status(app, stream + 2, GRPC_DEADLINE_EXCEEDED);
    app_free(app);
}

/* Keeps the connection alive while the clock moves. */
static void move_alive(struct app *app, unsigned seconds)
{
    for (unsigned i = 0; i < seconds; i++) {
        wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 0, 1);
        move_clock(app, 1000);
    }
}

/* A unary request that never ends is not waited for; one that is worked on is. */
static void test_unfinished_request_has_its_time(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Hold")));
    wire_send(&app->wire, NGHTTP2_DATA, 0, 1, "\0\0\0\0\x09\x7a", 6);
    wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Hold")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 3, HELLO);
    wire_headers(&app->wire, 0, 5, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    move_alive(app, 29);
    assert_false(wire_has(&app->wire, "1 end"));
    move_alive(app, 1);
    check_status(app, 1, GRPC_CANCELLED);
    move_alive(app, 100);
    assert_false(wire_has(&app->wire, "3 end"));
    assert_false(wire_has(&app->wire, "5 end"));
    app_free(app);
}

/* A client that opens no window does not hold a finished call for ever. */
static void test_untaken_answer_is_dropped_in_time(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_settings(&app->wire, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
    wire_settle(&app->wire);
    assert_int_equal(app->num_messages, 1);
    move_alive(app, 29);
    assert_int_equal(app->num_done, 0);
    move_alive(app, 1);
    assert_int_equal(app->num_done, 1);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM), 1);
    app_free(app);
}

/* ---- slow and gone ---- */

static void app_on_writable(struct grpc_call *call, void *service)
{
    struct app *app = service;

    assert_int_equal(grpc_call_queued(call), 0);
    app->num_writable++;
}

static void test_slow_reader_meets_the_limit(void **state)
{
    struct h2_limits limits = h2_limits_default;
    struct app *app;
    unsigned sent = 0;
    err_t err;

    (void)state;
    limits.out_bytes = 100000;
    app = app_with(&(struct grpc_server_params){.authorize = app_authorize, .limits = &limits});
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    grpc_call_on_writable(app->call, app_on_writable);
    while (err_is_ok(err = grpc_call_send(app->call, sample_full()))) {
        sent++;
        wire_settle(&app->wire);
    }
    assert_int_equal(err.code, E_LIMIT);
    assert_in_range(grpc_call_queued(app->call), 90000, 100000);
    assert_int_equal(app->num_writable, app->wire.num_data == 65535 ? app->num_writable : 0);
    app->num_writable = 0;
    wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 0, 1 << 30);
    wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 1, 1 << 30);
    wire_settle(&app->wire);
    assert_int_equal(app->num_writable, 1);
    assert_int_equal(grpc_call_queued(app->call), 0);
    assert_true(sent > 100);
    grpc_call_finish(app->call, GRPC_OK, NULL);
    assert_int_equal(grpc_call_send(app->call, sample_full()).code, E_CLOSED);
    check_status(app, 1, GRPC_OK);
    app_free(app);
}

static void test_cancel_in_every_state(void **state)
{
    struct app *app = app_new();

    (void)state;
    /* before any message */
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_u32(&app->wire, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
    wire_settle(&app->wire);
    assert_int_equal(app->num_done, 1);
    assert_true(app_said(app, "finished /t/Chat CANCELLED\n"));
    /* in the middle of one */
    wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_send(&app->wire, NGHTTP2_DATA, 0, 3, "\0\0\0\0\x09\x7a", 6);
    wire_settle(&app->wire);
    wire_u32(&app->wire, NGHTTP2_RST_STREAM, 3, NGHTTP2_CANCEL);
    wire_settle(&app->wire);
    assert_int_equal(app->num_done, 2);
    /* while the program works */
    wire_headers(&app->wire, 0, 5, WIRE_LIST(WIRE_POST("/t/Hold"), "grpc-timeout: 1S"));
    wire_grpc(&app->wire, WIRE_END_STREAM, 5, HELLO);
    wire_settle(&app->wire);
    assert_non_null(app->call);
    wire_u32(&app->wire, NGHTTP2_RST_STREAM, 5, NGHTTP2_CANCEL);
    wire_settle(&app->wire);
    assert_null(app->call);
    assert_int_equal(app->num_done, 3);
    /* while the answer waits for the window */
    wire_settings(&app->wire, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    wire_headers(&app->wire, 0, 7, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 7, HELLO);
    wire_settle(&app->wire);
    wire_u32(&app->wire, NGHTTP2_RST_STREAM, 7, NGHTTP2_CANCEL);
    wire_settle(&app->wire);
    assert_int_equal(app->num_done, 4);
    move_clock(app, 2000); /* no deadline is left behind */
    assert_int_equal(app->num_done, 4);
    app_free(app);
}

static void test_lost_connection_ends_all_calls(void **state)
{
    struct app *app = app_new();

    (void)state;
    for (uint32_t i = 0; i < 5; i++)
        wire_headers(&app->wire, 0, 1 + 2 * i, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    assert_int_equal(grpc_server_num_connections(app->server), 1);
    memstream_reset(app->wire.lower);
    wire_settle(&app->wire);
    assert_int_equal(app->num_done, 5);
    assert_int_equal(app->num_freed, 1);
    assert_int_equal(grpc_server_num_connections(app->server), 0);
    app_free(app);
}

static void test_floods_end_the_connection(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_hold(&app->wire);
    for (uint32_t i = 0; i < 200; i++) {
        wire_headers(&app->wire, 0, 1 + 2 * i, WIRE_LIST(WIRE_POST("/t/Chat")));
        wire_u32(&app->wire, NGHTTP2_RST_STREAM, 1 + 2 * i, NGHTTP2_CANCEL);
    }
    wire_release(&app->wire);
    wire_settle(&app->wire);
    assert_true(app->wire.goaway);
    assert_int_equal(app->wire.goaway_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_in_range(app->num_done, 100, 120); /* and each of them ended */
    move_clock(app, 1000);
    assert_int_equal(grpc_server_num_connections(app->server), 0);
    app_free(app);
}

/* ---- the server's end ---- */

static void test_drain_lets_calls_finish(void **state)
{
    struct app *app = app_new();
    struct wire late;

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Hold")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
    wire_settle(&app->wire);
    grpc_server_drain(app->server);
    wire_settle(&app->wire);
    assert_true(app->wire.goaway);
    move_clock(app, 1000);
    assert_int_equal(app->num_done, 0);
    grpc_call_reply(app->call, sample_full());
    check_status(app, 1, GRPC_OK);
    move_clock(app, 1000);
    assert_int_equal(grpc_server_num_connections(app->server), 0);

    wire_init(&late, loop); /* who comes now is closed */
    grpc_server_accept(app->server, late.lower, &(struct grpc_peer){.uid = 0});
    wire_settle(&late);
    assert_int_equal(late.recorder.num_eofs, 1);
    wire_fini(&late);
    app_free(app);
}

/* A client that takes its leave may still finish what it began. */
static void test_clients_goaway_ends_in_order(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    wire_send(&app->wire, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8);
    wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
    check_status(app, 1, GRPC_OK);
    move_clock(app, 1000);
    move_clock(app, 1000);
    assert_int_equal(app->wire.recorder.num_eofs, 1);
    assert_int_equal(grpc_server_num_connections(app->server), 0);
    app_free(app);
}

/* More than may wait for the client: the call ends with a status, not the connection. */
static void test_reply_above_what_may_wait(void **state)
{
    struct h2_limits limits = h2_limits_default;
    struct app *app;

    (void)state;
    limits.out_bytes = 10;
    app = app_with(&(struct grpc_server_params){.authorize = app_authorize, .limits = &limits});
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Echo")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
    check_status(app, 1, GRPC_RESOURCE_EXHAUSTED);
    app_free(app);
}

static void test_connections_above_the_limit_are_closed(void **state)
{
    struct app *app =
        app_with(&(struct grpc_server_params){.authorize = app_authorize, .max_connections = 1});
    struct wire second;

    (void)state;
    wire_init(&second, loop);
    grpc_server_accept(app->server, second.lower, &(struct grpc_peer){.identity = app});
    wire_settle(&second);
    assert_int_equal(second.recorder.num_eofs, 1);
    assert_int_equal(app->num_freed, 1); /* the identity is taken even so */
    app->num_freed = 0;
    wire_fini(&second);
    check_serves(app, 1);
    app_free(app);
}

static bool app_match(void *arg, const struct grpc_peer *peer)
{
    return peer->uid == *(const uid_t *)arg;
}

static void test_connections_are_closed_by_peer(void **state)
{
    struct app *app = app_new();
    uid_t other = 8, ours = 7;

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    grpc_server_close_if(app->server, app_match, &other);
    check_serves(app, 3);
    app->num_done = 0;
    grpc_server_close_if(app->server, app_match, &ours);
    assert_int_equal(app->num_done, 1);
    assert_int_equal(grpc_server_num_connections(app->server), 0);
    app_free(app);
}

/* Who may not stay hears why before he goes: but not as often as he likes. */
static void test_connections_whose_calls_are_answered_end_in_order(void **state)
{
    struct app *app = app_new();
    uid_t ours = 7;

    (void)state;
    wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    app->allow = GRPC_PERMISSION_DENIED;
    grpc_server_recheck(app->server);
    grpc_server_close_if(app->server, app_match, &ours);
    assert_int_equal(grpc_server_num_connections(app->server), 1);
    wire_settle(&app->wire);
    assert_true(wire_has(&app->wire, "1 grpc-status: 7"));
    grpc_server_close_if(app->server, app_match, &ours);
    assert_int_equal(grpc_server_num_connections(app->server), 0);
    app_free(app);
}

static void test_server_freed_in_every_event(void **state)
{
    static const char *const events[] = {"start", "message", "half close"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(events); i++) {
        struct app *app = app_new();

        app->killer = events[i];
        wire_hold(&app->wire);
        wire_headers(&app->wire, 0, 1, WIRE_LIST(WIRE_POST("/t/Ends")));
        wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Hold")));
        wire_grpc(&app->wire, 0, 1, HELLO);
        wire_grpc(&app->wire, WIRE_END_STREAM, 1, HELLO);
        wire_release(&app->wire);
        wire_settle(&app->wire);
        assert_null(app->server);
        assert_int_equal(app->num_done, i == 0 ? 1 : 2);
        app_free(app);
    }
}

static int setup(void **state)
{
    (void)state;
    loop = loop_new(&wire_clock);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

/* Rights that were taken away end what is open, and what is answered already stays so. */
static void test_recheck_ends_calls_that_are_not_allowed_any_more(void **state)
{
    struct app *app = app_new();

    (void)state;
    check_serves(app, 1);
    wire_headers(&app->wire, 0, 3, WIRE_LIST(WIRE_POST("/t/Hold")));
    wire_grpc(&app->wire, WIRE_END_STREAM, 3, HELLO);
    wire_headers(&app->wire, 0, 5, WIRE_LIST(WIRE_POST("/t/Chat")));
    wire_settle(&app->wire);
    grpc_server_recheck(app->server); /* nothing has changed */
    wire_settle(&app->wire);
    assert_false(wire_has(&app->wire, "3 end"));
    assert_false(wire_has(&app->wire, "5 end"));
    app->allow = GRPC_PERMISSION_DENIED;
    app->reason = "not any more";
    grpc_server_recheck(app->server);
    check_status(app, 3, GRPC_PERMISSION_DENIED);
    check_status(app, 5, GRPC_PERMISSION_DENIED);
    assert_true(wire_has(&app->wire, "3 grpc-message: not any more"));
    assert_int_equal(app->num_done, 3);
    grpc_server_recheck(app->server); /* none is open */
    app->allow = GRPC_OK;
    check_serves(app, 7);
    app_free(app);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recheck_ends_calls_that_are_not_allowed_any_more),
        cmocka_unit_test(test_unary_call),
        cmocka_unit_test(test_message_split_at_every_byte),
        cmocka_unit_test(test_bidirectional_call),
        cmocka_unit_test(test_half_close_is_told),
        cmocka_unit_test(test_request_that_ends_with_its_head),
        cmocka_unit_test(test_peer_and_data_of_a_call),
        cmocka_unit_test(test_status_messages_are_escaped_and_cut),
        cmocka_unit_test(test_head_and_status_are_one_block_without_messages),
        cmocka_unit_test(test_nothing_is_allowed_unless_said),
        cmocka_unit_test(test_refused_calls_do_not_begin),
        cmocka_unit_test(test_unknown_methods_are_unimplemented),
        cmocka_unit_test(test_what_is_not_grpc_is_told_so),
        cmocka_unit_test(test_message_size_below_at_and_above_the_limit),
        cmocka_unit_test(test_huge_message_is_refused_by_its_prefix),
        cmocka_unit_test(test_wrong_messages_have_their_status),
        cmocka_unit_test(test_wrong_message_in_a_stream_ends_it),
        cmocka_unit_test(test_compression_is_unimplemented),
        cmocka_unit_test(test_deadlines_are_kept),
        cmocka_unit_test(test_wrong_deadlines_are_refused),
        cmocka_unit_test(test_unfinished_request_has_its_time),
        cmocka_unit_test(test_untaken_answer_is_dropped_in_time),
        cmocka_unit_test(test_slow_reader_meets_the_limit),
        cmocka_unit_test(test_cancel_in_every_state),
        cmocka_unit_test(test_lost_connection_ends_all_calls),
        cmocka_unit_test(test_floods_end_the_connection),
        cmocka_unit_test(test_drain_lets_calls_finish),
        cmocka_unit_test(test_clients_goaway_ends_in_order),
        cmocka_unit_test(test_reply_above_what_may_wait),
        cmocka_unit_test(test_connections_above_the_limit_are_closed),
        cmocka_unit_test(test_connections_are_closed_by_peer),
        cmocka_unit_test(test_connections_whose_calls_are_answered_end_in_order),
        cmocka_unit_test(test_server_freed_in_every_event),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
