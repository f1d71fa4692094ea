/* HTTP/2 sessions against a peer made frame by frame: what is in order works however it is cut;
 * floods, bombs and stalled readers end with GOAWAY or a close, at flat memory; every state can be
 * left at any time. Drives: R14, R15, R16. */
#include "lib/rpc/h2.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/unit/rpc/wire.h"

/* The user of the h2 under test: writes down what it hears. */
struct app {
    struct wire wire;
    struct h2 *h2;
    struct h2_limits limits;
    struct buf log; /* events as text */
    struct buf data;
    struct h2_stream *stream; /* the last one that began or answered */
    size_t num_headers, num_writable, num_closed, num_broken, num_ready, num_goaway;
    err_t broken, closed;
    bool consume;
    bool answer;        /* servers: answer each request at once */
    bool answer_at_end; /* or when its body has come */
    const char *killer; /* event in which the h2 is closed */
};

static struct loop *loop;

static bool app_kill(struct app *app, const char *event)
{
    if (app->killer == NULL || strcmp(app->killer, event) != 0)
        return false;
    app->killer = NULL;
    h2_close(app->h2);
    app->h2 = NULL;
    return true;
}

static const struct h2_header app_head[] = {
    {{(const uint8_t *)":status", 7}, {(const uint8_t *)"200", 3}},
};
static const struct h2_header app_trailers[] = {
    {{(const uint8_t *)"grpc-status", 11}, {(const uint8_t *)"0", 1}},
};

static void app_on_headers(void *arg, struct h2_stream *stream, const struct h2_header *headers,
                           size_t num, bool trailers, bool end)
{
    struct app *app = arg;

    app->num_headers++;
    app->stream = stream;
    assert_true(err_is_ok(
        buf_printf(&app->log, "headers%s%s", trailers ? " trailers" : "", end ? " end" : "")));
    for (size_t i = 0; i < num; i++)
        assert_true(err_is_ok(buf_printf(
            &app->log, " %.*s=%.*s", (int)headers[i].name.len, (const char *)headers[i].name.ptr,
            (int)headers[i].value.len, (const char *)headers[i].value.ptr)));
    assert_true(err_is_ok(buf_add_str(&app->log, "\n")));
    if (app_kill(app, "headers"))
        return;
    if (app->answer && !trailers)
        assert_true(err_is_ok(h2_respond(stream, app_head, 1, true)));
}

static void app_on_data(void *arg, struct h2_stream *stream, struct bytes data, bool end)
{
    struct app *app = arg;

    assert_true(err_is_ok(buf_add(&app->data, data.ptr, data.len)));
    if (end)
        assert_true(err_is_ok(buf_add_str(&app->log, "data end\n")));
    if (app->consume)
        h2_stream_consume(stream, data.len);
    if (app_kill(app, "data"))
        return;
    if (end && app->answer_at_end)
        assert_true(err_is_ok(h2_respond(stream, app_head, 1, true)));
}

static void app_on_writable(void *arg, struct h2_stream *stream)
{
    struct app *app = arg;

    assert_int_equal(h2_stream_queued(stream), 0);
    app->num_writable++;
    (void)app_kill(app, "writable");
}

static void app_on_close(void *arg, struct h2_stream *stream, err_t err)
{
    struct app *app = arg;

    if (app->stream == stream)
        app->stream = NULL;
    app->num_closed++;
    app->closed = err;
    assert_true(err_is_ok(buf_printf(&app->log, "close %s %d\n", err_name(err.code), err.sub)));
    (void)app_kill(app, "close");
}

static void app_on_ready(void *arg)
{
    struct app *app = arg;

    app->num_ready++;
    (void)app_kill(app, "ready");
}

static void app_on_goaway(void *arg)
{
    struct app *app = arg;

    app->num_goaway++;
    (void)app_kill(app, "goaway");
}

static void app_on_broken(void *arg, err_t err)
{
    struct app *app = arg;

    assert_int_equal(h2_num_streams(app->h2), 0);
    app->num_broken++;
    app->broken = err;
    assert_true(err_is_ok(buf_printf(&app->log, "broken %s\n", err_name(err.code))));
    (void)app_kill(app, "broken");
}

static const struct h2_events app_events = {
    .on_headers = app_on_headers,
    .on_data = app_on_data,
    .on_writable = app_on_writable,
    .on_close = app_on_close,
    .on_ready = app_on_ready,
    .on_goaway = app_on_goaway,
    .on_broken = app_on_broken,
};

static void app_start(struct app *app, bool server)
{
    wire_init(&app->wire, loop);
    app->h2 = h2_new(app->wire.lower, server, &app->limits, &app_events, app);
    wire_hello(&app->wire, server);
    wire_settle(&app->wire);
}

static struct app *app_new(void)
{
    struct app *app = mem_zalloc(sizeof(*app));

    app->limits = h2_limits_default;
    app->consume = true;
    app->broken = app->closed = OK;
    return app;
}

/* A server with a peer that has said hello. */
static struct app *server_new(void)
{
    struct app *app = app_new();

    app_start(app, true);
    return app;
}

static struct app *client_new(void)
{
    struct app *app = app_new();

    app_start(app, false);
    return app;
}

static void app_free(struct app *app)
{
    if (app->h2 != NULL)
        h2_close(app->h2);
    wire_fini(&app->wire);
    buf_fini(&app->log);
    buf_fini(&app->data);
    mem_free(app);
}

static bool app_said(struct app *app, const char *line)
{
    struct bytes log = buf_view(&app->log);

    return log.ptr != NULL && memmem(log.ptr, log.len, line, strlen(line)) != NULL;
}

static void move_clock(struct app *app, uint64_t ms)
{
    wire_now_ms += ms;
    wire_settle(&app->wire);
}

/* What a flood must come to: GOAWAY, streams told, the connection over. */
static void check_ended(struct app *app, enum err_code code, uint32_t h2_error)
{
    wire_settle(&app->wire);
    assert_true(app->wire.goaway);
    assert_int_equal(app->wire.goaway_code, h2_error);
    assert_int_equal(app->wire.recorder.num_eofs, 1);
    move_clock(app, 1000); /* for the peer to read it */
    assert_int_equal(app->num_broken, 1);
    assert_int_equal(app->broken.code, code);
}

static void check_alive(struct app *app)
{
    wire_settle(&app->wire);
    assert_false(app->wire.goaway);
    assert_int_equal(app->num_broken, 0);
}

/* ---- in order ---- */

static void request(struct app *app, uint32_t stream, uint8_t flags)
{
    wire_headers(&app->wire, flags, stream, WIRE_LIST(WIRE_POST("/a/b")));
}

static void test_request_body_response_trailers(void **state)
{
    struct app *app = server_new();

    (void)state;
    request(app, 1, 0);
    wire_send(&app->wire, NGHTTP2_DATA, 0, 1, "hel", 3);
    wire_send(&app->wire, NGHTTP2_DATA, WIRE_END_STREAM, 1, "lo", 2);
    wire_settle(&app->wire);
    assert_true(app_said(app, "headers :method=POST :scheme=http :path=/a/b :authority=x "
                              "te=trailers content-type=application/grpc\ndata end\n"));
    assert_true(bytes_equal_str(buf_view(&app->data), "hello"));
    assert_true(err_is_ok(h2_respond(app->stream, app_head, 1, false)));
    assert_true(err_is_ok(h2_send(app->stream, bytes_of_str("answer"), false)));
    assert_true(err_is_ok(h2_trailers(app->stream, app_trailers, 1)));
    assert_int_equal(h2_send(app->stream, bytes_of_str("more"), false).code, E_CLOSED);
    assert_int_equal(h2_trailers(app->stream, app_trailers, 1).code, E_CLOSED);
    wire_settle(&app->wire);
    assert_true(wire_has(&app->wire, "1 :status: 200"));
    assert_true(bytes_equal_str(buf_view(&app->wire.data), "answer"));
    assert_true(wire_has(&app->wire, "1 grpc-status: 0"));
    assert_true(wire_has(&app->wire, "1 end"));
    assert_true(app_said(app, "close ok 0\n"));
    assert_int_equal(h2_num_streams(app->h2), 0);
    app_free(app);
}

static void test_request_trailers_are_told(void **state)
{
    struct app *app = server_new();

    (void)state;
    request(app, 1, 0);
    wire_headers(&app->wire, WIRE_END_STREAM, 1, WIRE_LIST("x-sum: 5"));
    wire_settle(&app->wire);
    assert_true(app_said(app, "headers trailers end x-sum=5\n"));
    app_free(app);
}

/* The whole exchange again, cut at each byte, and byte by byte. */
static void test_frames_split_at_every_byte(void **state)
{
    uint64_t len = 1000;

    (void)state;
    for (uint64_t split = 0; split < len; split++) {
        struct app *app = app_new();

        wire_init(&app->wire, loop);
        if (split == 0)
            memstream_script(app->wire.lower)->read_max = 1;
        else
            memstream_script(app->wire.lower)->split_at = split;
        app->h2 = h2_new(app->wire.lower, true, &app->limits, &app_events, app);
        app->answer_at_end = true;
        wire_hello(&app->wire, true);
        request(app, 1, 0);
        wire_send(&app->wire, NGHTTP2_DATA, 0, 1, "hel", 3);
        wire_send(&app->wire, NGHTTP2_DATA, WIRE_END_STREAM, 1, "lo", 2);
        for (int i = 0; i < 8; i++)
            wire_settle(&app->wire);
        assert_true(bytes_equal_str(buf_view(&app->data), "hello"));
        assert_true(wire_has(&app->wire, "1 :status: 200"));
        len = app->wire.lower->bytes_read;
        app_free(app);
    }
    assert_in_range(len, 150, 900);
}

/* Many answers made in one batch of events leave in one write. */
static void test_a_batch_is_one_write(void **state)
{
    struct app *app = server_new();
    unsigned before;

    (void)state;
    app->answer = true;
    before = memstream_script(app->wire.lower)->num_writes;
    wire_hold(&app->wire);
    for (uint32_t i = 0; i < 50; i++)
        request(app, 1 + 2 * i, WIRE_END_STREAM);
    wire_release(&app->wire);
    wire_settle(&app->wire);
    assert_int_equal(app->num_headers, 50);
    assert_int_equal(app->num_closed, 50);
    assert_int_equal(memstream_script(app->wire.lower)->num_writes, before + 1);
    app_free(app);
}

/* A request that both sides have ended is over for good, and so is one that was left out (RFC 9113
 * section 5.1.1); what else may still come of it is passed over (section 5.1). */
static void test_headers_of_a_request_that_is_over_end_the_connection(void **state)
{
    (void)state;
    for (int what = 0; what < 3; what++) {
        struct app *app = server_new();

        app->answer = true;
        request(app, 3, WIRE_END_STREAM);
        wire_settle(&app->wire);
        assert_true(wire_has(&app->wire, "3 end"));
        wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 3, 1);
        wire_u32(&app->wire, NGHTTP2_RST_STREAM, 3, NGHTTP2_CANCEL);
        wire_send(&app->wire, NGHTTP2_PRIORITY, 0, 3, "\0\0\0\0\1", 5);
        wire_send(&app->wire, NGHTTP2_DATA, 0, 3, "more", 4);
        check_alive(app);
        if (what == 0)
            wire_headers(&app->wire, WIRE_END_STREAM, 3, WIRE_LIST("x-late: 1"));
        else
            request(app, what == 1 ? 1 : 5, WIRE_END_STREAM);
        if (what < 2)
            check_ended(app, E_H2_PROTOCOL, NGHTTP2_STREAM_CLOSED);
        else
            check_alive(app);
        assert_int_equal(app->num_headers, what < 2 ? 1 : 2);
        app_free(app);
    }
}

/* The client may have sent it before it knew of our RST_STREAM. */
static void test_frames_that_cross_a_reset_of_ours_are_passed_over(void **state)
{
    struct app *app = server_new();

    (void)state;
    request(app, 1, 0);
    wire_settle(&app->wire);
    h2_stream_reset(app->stream, NGHTTP2_CANCEL);
    wire_send(&app->wire, NGHTTP2_DATA, 0, 1, "more", 4); /* ours is not sent yet */
    wire_settle(&app->wire);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM), 1);
    wire_send(&app->wire, NGHTTP2_DATA, 0, 1, "more", 4);
    wire_headers(&app->wire, WIRE_END_STREAM, 1, WIRE_LIST("x-sum: 5"));
    check_alive(app);
    assert_int_equal(app->num_headers, 1);
    app_free(app);
}

static void test_answer_before_the_request_ends_stops_the_client(void **state)
{
    struct app *app = server_new();

    (void)state;
    app->answer = true;
    request(app, 1, 0);
    wire_settle(&app->wire);
    assert_true(wire_has(&app->wire, "1 end"));
    assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM), 1);
    assert_int_equal(app->wire.last_reset_code, NGHTTP2_NO_ERROR);
    assert_true(app_said(app, "close ok 0\n"));
    app_free(app);
}

static void test_settings_are_set_explicitly(void **state)
{
    struct app *app = server_new();
    const uint8_t *at = buf_view(&app->wire.recorder.data).ptr;
    static const uint8_t expected[] = {0,   0, 18, 4, 0, 0, 0, 0, 0, 0, 3, 0,  0, 0,
                                       100, 0, 4,  0, 4, 0, 0, 0, 6, 0, 0, 64, 0};

    (void)state;
    assert_memory_equal(at, expected, sizeof(expected));
    app_free(app);
}

/* ---- windows ---- */

static void test_sent_data_waits_for_the_window(void **state)
{
    struct app *app = app_new();
    uint8_t block[1000] = {0};

    (void)state;
    wire_init(&app->wire, loop);
    app->h2 = h2_new(app->wire.lower, true, &app->limits, &app_events, app);
    wire_bytes(&app->wire, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
    wire_settings(&app->wire, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    request(app, 1, WIRE_END_STREAM);
    wire_settle(&app->wire);
    assert_true(err_is_ok(h2_respond(app->stream, app_head, 1, false)));
    assert_true(err_is_ok(h2_send(app->stream, bytes_of(block, sizeof(block)), false)));
    wire_settle(&app->wire);
    assert_int_equal(app->wire.num_data, 0);
    assert_int_equal(h2_stream_queued(app->stream), 1000);
    wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 1, 999);
    wire_settle(&app->wire);
    assert_int_equal(app->wire.num_data, 999);
    assert_int_equal(app->num_writable, 0);
    wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 1, 1);
    wire_settle(&app->wire);
    assert_int_equal(app->wire.num_data, 1000);
    assert_int_equal(app->num_writable, 1);
    app_free(app);
}

/* A client that never reads: what waits for it stays below the limit, over all its streams. */
static void test_queue_below_at_and_above_the_limit(void **state)
{
    struct app *app = app_new();
    struct h2_stream *first;
    uint8_t *block = mem_zalloc(1000);

    (void)state;
    app->limits.out_bytes = 1500;
    wire_init(&app->wire, loop);
    app->h2 = h2_new(app->wire.lower, true, &app->limits, &app_events, app);
    wire_bytes(&app->wire, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
    wire_settings(&app->wire, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
    request(app, 1, WIRE_END_STREAM);
    wire_settle(&app->wire);
    first = app->stream;
    request(app, 3, WIRE_END_STREAM);
    wire_settle(&app->wire);
    assert_true(err_is_ok(h2_respond(first, app_head, 1, false)));
    assert_true(err_is_ok(h2_respond(app->stream, app_head, 1, false)));
    assert_true(err_is_ok(h2_send(first, bytes_of(block, 1000), false)));
    assert_true(err_is_ok(h2_send(app->stream, bytes_of(block, 499), false)));
    assert_true(err_is_ok(h2_send(app->stream, bytes_of(block, 1), false)));
    assert_int_equal(h2_send(app->stream, bytes_of(block, 1), false).code, E_LIMIT);
    assert_int_equal(h2_send(first, bytes_of(block, 1), false).code, E_LIMIT);
    h2_stream_reset(first, NGHTTP2_CANCEL);
    wire_settle(&app->wire); /* what waited on it counts no more */
    assert_true(err_is_ok(h2_send(app->stream, bytes_of(block, 1000), false)));
    assert_int_equal(h2_send(app->stream, bytes_of(block, 1), false).code, E_LIMIT);
    mem_free(block);
    app_free(app);
}

/* A window opens again when the user has consumed, and not before. */
static void test_window_opens_by_consuming(void **state)
{
    struct app *app = server_new();
    uint8_t block[16384] = {0};
    size_t sent = 0;

    (void)state;
    app->consume = false;
    request(app, 1, 0);
    while (sent < app->limits.stream_window) {
        wire_send(&app->wire, NGHTTP2_DATA, 0, 1, block, sizeof(block));
        sent += sizeof(block);
    }
    wire_settle(&app->wire);
    assert_int_equal(buf_size(&app->data), sent);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_WINDOW_UPDATE),
                     1); /* of the connection's size */
    h2_stream_consume(app->stream, sent);
    wire_settle(&app->wire);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_WINDOW_UPDATE), 2);
    check_alive(app);
    app_free(app);
}

static void test_more_than_the_window_is_refused(void **state)
{
    struct app *app = server_new();
    uint8_t block[16384] = {0};

    (void)state;
    app->consume = false;
    request(app, 1, 0);
    for (size_t sent = 0; sent < app->limits.stream_window + 1; sent += sizeof(block))
        wire_send(&app->wire, NGHTTP2_DATA, 0, 1, block, sizeof(block));
    wire_settle(&app->wire);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM) + app->wire.goaway, 1);
    app_free(app);
}

/* Streams that end with bytes that nobody consumed must not eat up the connection's window. */
static void test_unconsumed_bytes_come_back_at_the_end_of_a_stream(void **state)
{
    struct app *app = server_new();
    uint8_t block[16384] = {0};

    (void)state;
    app->consume = false;
    for (uint32_t i = 0; i < 300; i++) { /* 4.8 MB through a window of 1 MiB */
        request(app, 1 + 2 * i, 0);
        wire_send(&app->wire, NGHTTP2_DATA, 0, 1 + 2 * i, block, sizeof(block));
        wire_settle(&app->wire);
        h2_stream_reset(app->stream, NGHTTP2_CANCEL);
        wire_settle(&app->wire);
        buf_clear(&app->data);
        wire_now_ms += 20;
    }
    check_alive(app);
    assert_int_equal(app->num_closed, 300);
    app_free(app);
}

/* ---- back-pressure ---- */

static void test_stalled_connection_pulls_nothing_more(void **state)
{
    struct app *app = server_new();
    uint8_t *block = mem_zalloc(1 << 20);

    (void)state;
    wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 0, 1 << 30);
    wire_settings(&app->wire, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 30);
    request(app, 1, WIRE_END_STREAM);
    wire_settle(&app->wire);
    memstream_script(app->wire.lower)->stall = true;
    assert_true(err_is_ok(h2_respond(app->stream, app_head, 1, false)));
    for (int i = 0; i < 4; i++)
        assert_true(err_is_ok(h2_send(app->stream, bytes_of(block, 1 << 20), false)));
    wire_settle(&app->wire);
    /* One batch and one frame lie below us, the rest in the stream's queue. */
    assert_in_range(app->wire.lower->queued, 1, (64 << 10) + 16384 + 1000);
    assert_true(h2_stream_queued(app->stream) > (3 << 20));
    memstream_script(app->wire.lower)->stall = false;
    memstream_go(app->wire.lower);
    for (int i = 0; i < 10; i++)
        wire_settle(&app->wire);
    assert_int_equal(app->wire.num_data, 4 << 20);
    assert_int_equal(app->num_writable, 1);
    mem_free(block);
    app_free(app);
}

static void test_peer_that_never_reads_is_closed(void **state)
{
    struct app *app = server_new();

    (void)state;
    memstream_script(app->wire.lower)->stall = true;
    app->answer = true;
    request(app, 1, WIRE_END_STREAM);
    wire_settle(&app->wire);
    for (int i = 0; i < 29; i++) { /* alive by what it sends, but it takes nothing */
        move_clock(app, 1000);
        wire_send(&app->wire, NGHTTP2_PING, 0, 0, "12345678", 8);
        wire_settle(&app->wire);
    }
    assert_int_equal(app->num_broken, 0);
    move_clock(app, 1000);
    assert_int_equal(app->num_broken, 1);
    assert_int_equal(app->broken.code, E_SLOW_PEER);
    app_free(app);
}

/* ---- floods ---- */

enum flood { RESETS, PINGS, SETTINGS, EMPTY, PRIORITIES, WINDOWS, PUSHED_RESETS, UNKNOWN, FLOODS };

/* The n-th step of a flood; each is one event of the kind. */
static void flood_step(struct app *app, enum flood flood, uint32_t n)
{
    static const uint8_t priority[] = {0, 0, 0, 0, 16};
    uint32_t stream = 1 + 2 * n;

    switch (flood) {
    case RESETS:
        request(app, stream, WIRE_END_STREAM);
        wire_u32(&app->wire, NGHTTP2_RST_STREAM, stream, NGHTTP2_CANCEL);
        break;
    case PINGS:
        wire_send(&app->wire, NGHTTP2_PING, 0, 0, "12345678", 8);
        break;
    case SETTINGS:
        wire_send(&app->wire, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
        break;
    case EMPTY:
        if (n == 0)
            request(app, 1, 0);
        wire_send(&app->wire, NGHTTP2_DATA, 0, 1, NULL, 0);
        break;
    case PRIORITIES:
        wire_send(&app->wire, NGHTTP2_PRIORITY, 0, 1001, priority, 5);
        break;
    case WINDOWS:
        wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 0, 1);
        break;
    case UNKNOWN:
        wire_send(&app->wire, (uint8_t)(0x20 + n % 200), 0, 0, "abc", 3);
        break;
    case PUSHED_RESETS: /* the peer makes us send the RST_STREAM */
        request(app, stream, 0);
        wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, stream, 0x7fffffff);
        break;
    case FLOODS:
        break;
    }
}

/* How many steps are let through within a second. The hello had one SETTINGS. */
static uint32_t flood_limit(const struct app *app, enum flood flood)
{
    if (flood == RESETS || flood == PUSHED_RESETS)
        return app->limits.resets_per_s;
    if (flood == PINGS)
        return app->limits.pings_per_s;
    if (flood == SETTINGS)
        return app->limits.pings_per_s - 1;
    return 1000;
}

static void run_flood(enum flood flood, int32_t beyond)
{
    struct app *app = app_new();
    uint32_t num;

    app->limits.max_streams = 1000; /* more than any flood here opens at once */
    app_start(app, true);
    wire_now_ms += 2000;
    if (flood == SETTINGS)
        wire_send(&app->wire, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    num = (uint32_t)((int32_t)flood_limit(app, flood) + beyond);
    wire_hold(&app->wire);
    for (uint32_t n = 0; n < num; n++)
        flood_step(app, flood, n);
    wire_release(&app->wire);
    if (beyond > 0)
        check_ended(app, E_H2_FLOOD, NGHTTP2_ENHANCE_YOUR_CALM);
    else
        check_alive(app);
    app_free(app);
}

static void test_floods_below_at_and_above_the_limit(void **state)
{
    (void)state;
    for (enum flood flood = 0; flood < UNKNOWN;
         flood++) { /* unknown frames are skipped, not counted */
        run_flood(flood, -1);
        run_flood(flood, 0);
        run_flood(flood, 1);
    }
}

/* A hundred thousand steps in writes of any size: little memory, little of it worked off. */
static void test_floods_leave_memory_flat(void **state)
{
    (void)state;
    for (enum flood flood = 0; flood < FLOODS; flood++) {
        struct app *app = server_new();
        size_t before = 0, most = 0;

        app->consume = true;
        for (uint32_t n = 0; n < 100000 && app->num_broken == 0; n++) {
            flood_step(app, flood, n);
            if (n % 16 != 0)
                continue;
            looptest_settle(loop);
            wire_now_ms += 16; /* 1,000 steps a second */
            if (n == 160)
                before = mallinfo2().uordblks;
            else if (n > 160 && mallinfo2().uordblks > before + most)
                most = mallinfo2().uordblks - before;
        }
        if (flood == RESETS || flood == PUSHED_RESETS || flood == PINGS || flood == SETTINGS)
            assert_int_equal(app->broken.code, E_H2_FLOOD);
        else /* at the limit: what it costs is the test's own copy of what we send */
            assert_true(most < 1 << 20);
        app_free(app);
    }
}

/* The same events in twice the time are nobody's flood. */
static void test_slow_resets_are_no_flood(void **state)
{
    struct app *app = server_new();

    (void)state;
    for (uint32_t n = 0; n < 1000; n++) {
        flood_step(app, RESETS, n);
        if (n % 50 == 49) {
            wire_settle(&app->wire);
            wire_now_ms += 1000;
        }
    }
    check_alive(app);
    app_free(app);
}

/* gRPC's own peers send a PING for each answer, to measure the path. */
static void test_pings_for_answers_are_free(void **state)
{
    struct app *app = server_new();

    (void)state;
    app->answer = true;
    for (uint32_t n = 0; n < 200; n++) {
        request(app, 1 + 2 * n, WIRE_END_STREAM);
        wire_send(&app->wire, NGHTTP2_PING, 0, 0, "12345678", 8);
        wire_settle(&app->wire);
    }
    check_alive(app);
    assert_int_equal(app->wire.num_acks, 201);
    app_free(app);
}

/* Answers that the peer did not ask for are a flood as well. */
static void test_unasked_ping_answers_are_counted(void **state)
{
    struct app *app = server_new();

    (void)state;
    wire_now_ms += 2000;
    for (uint32_t n = 0; n <= app->limits.pings_per_s; n++)
        wire_send(&app->wire, NGHTTP2_PING, WIRE_ACK, 0, "12345678", 8);
    check_ended(app, E_H2_FLOOD, NGHTTP2_ENHANCE_YOUR_CALM);
    app_free(app);
}

static void test_endless_continuation_ends(void **state)
{
    struct app *app = server_new();
    size_t before;

    (void)state;
    wire_send(&app->wire, NGHTTP2_HEADERS, 0, 1, "\x86", 1);
    wire_settle(&app->wire);
    before = mallinfo2().uordblks;
    for (uint32_t n = 0; n < 10000 && !app->wire.goaway; n++) {
        wire_send(&app->wire, NGHTTP2_CONTINUATION, 0, 1, "\x86", 1);
        wire_settle(&app->wire);
    }
    assert_true(app->wire.goaway);
    assert_true(wire_count(&app->wire, NGHTTP2_GOAWAY) == 1);
    assert_true(mallinfo2().uordblks < before + (64 << 10));
    app_free(app);
}

/* ---- header blocks ---- */

/* A request with `num` more fields of `len` bytes of value. */
static void big_request(struct app *app, uint32_t stream, size_t num, size_t len)
{
    static const char *const post[] = {WIRE_POST("/")};
    struct buf block = {NULL, 0, 0, 0, 0};
    char *value = mem_zalloc(len + 1);

    memset(value, 'v', len);
    for (size_t i = 0; i < ARRAY_LEN(post); i++) {
        const char *colon = strchr(post[i] + 1, ':');

        wire_block(&block, bytes_of(post[i], (size_t)(colon - post[i])), bytes_of_str(colon + 2));
    }
    for (size_t i = 0; i < num; i++)
        wire_block(&block, bytes_of_str("x"), bytes_of(value, len));
    for (size_t at = 0; at < buf_size(&block); at += 16384) {
        size_t left = buf_size(&block) - at;

        wire_send(
            &app->wire, at == 0 ? NGHTTP2_HEADERS : NGHTTP2_CONTINUATION,
            (uint8_t)((at == 0 ? WIRE_END_STREAM : 0) | (left <= 16384 ? WIRE_END_HEADERS : 0)),
            stream, buf_view(&block).ptr + at, left < 16384 ? left : 16384);
    }
    mem_free(value);
    buf_fini(&block);
    wire_settle(&app->wire);
}

static void test_header_count_below_at_and_above_the_limit(void **state)
{
    struct app *app = server_new();

    (void)state;
    big_request(app, 1, 64 - 6 - 1, 1);
    big_request(app, 3, 64 - 6, 1);
    assert_int_equal(app->num_headers, 2);
    big_request(app, 5, 64 - 6 + 1, 1);
    assert_int_equal(app->num_headers, 2);
    assert_int_equal(app->num_closed, 0); /* the user never heard of it */
    assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM), 1);
    assert_int_equal(app->wire.last_reset_code, NGHTTP2_ENHANCE_YOUR_CALM);
    assert_int_equal(h2_num_streams(app->h2), 2);
    request(app, 7, WIRE_END_STREAM); /* and the connection goes on */
    wire_settle(&app->wire);
    assert_int_equal(app->num_headers, 3);
    app_free(app);
}

static void test_header_bytes_below_at_and_above_the_limit(void **state)
{
    /* names and values of WIRE_POST("/") and 32 for each of 6 and one more fields */
    size_t base = 7 + 4 + 7 + 4 + 5 + 1 + 10 + 1 + 2 + 8 + 12 + 16 + 7 * 32 + 1;
    struct app *app = server_new();

    (void)state;
    big_request(app, 1, 1, app->limits.header_bytes - base - 1);
    big_request(app, 3, 1, app->limits.header_bytes - base);
    assert_int_equal(app->num_headers, 2);
    big_request(app, 5, 1, app->limits.header_bytes - base + 1);
    assert_int_equal(app->num_headers, 2);
    assert_int_equal(app->wire.last_reset_code, NGHTTP2_ENHANCE_YOUR_CALM);
    app_free(app);
}

/* One byte on the wire names an entry of 4 KiB: a frame of 16 KiB would be 64 MiB of headers. */
static void test_compression_bomb_costs_nothing(void **state)
{
    struct app *app = server_new();
    struct buf block = {NULL, 0, 0, 0, 0};
    char value[3900];
    size_t before = 0;

    (void)state;
    memset(value, 'v', sizeof(value));
    assert_true(err_is_ok(buf_add(&block, "\x83\x86\x84\x41\x01x", 6))); /* POST http / x */
    assert_true(
        err_is_ok(buf_add(&block, "\x40\x01y\x7f\xbd\x1d", 6))); /* y: 3900 bytes, indexed */
    assert_true(err_is_ok(buf_add(&block, value, sizeof(value))));
    while (buf_size(&block) < 16384)
        assert_true(err_is_ok(buf_add(&block, "\xbe", 1)));
    for (uint32_t n = 0; n < 50; n++) {
        wire_send(&app->wire, NGHTTP2_HEADERS, WIRE_END_STREAM | WIRE_END_HEADERS, 1 + 2 * n,
                  buf_view(&block).ptr, buf_size(&block));
        wire_settle(&app->wire);
        if (n == 0) /* from here on the memory stream's buffers stay as they are */
            before = mallinfo2().uordblks;
    }
    assert_int_equal(app->num_headers, 0);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM), 50);
    assert_true(mallinfo2().uordblks < before + (64 << 10));
    wire_hold(&app->wire);
    for (uint32_t n = 50; n < 101; n++) /* and a hundred a second are a flood */
        wire_send(&app->wire, NGHTTP2_HEADERS, WIRE_END_STREAM | WIRE_END_HEADERS, 1 + 2 * n,
                  buf_view(&block).ptr, buf_size(&block));
    wire_release(&app->wire);
    check_ended(app, E_H2_FLOOD, NGHTTP2_ENHANCE_YOUR_CALM);
    buf_fini(&block);
    app_free(app);
}

static void test_malformed_requests_are_reset(void **state)
{
    const char *const *const bad[] = {
        WIRE_LIST(":method: POST", ":scheme: http", ":path: /"),      /* nobody is meant */
        WIRE_LIST(":method: POST", ":scheme: http", ":authority: x"), /* no path */
        WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", ":path: /",
                  "X-Upper: a"), /* upper case */
        WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", ":path: /",
                  ":path: /b"), /* twice */
        WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", "x: y",
                  ":path: /"), /* order */
        WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", ":path: /",
                  "connection: x"), /* of HTTP/1 */
        WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", ":path: /", ":status: 200"),
        WIRE_LIST(":method: POST", ":scheme: http", ":authority: x", ":path: /", "te: gzip"),
    };
    struct app *app = server_new();

    (void)state;
    for (uint32_t i = 0; i < ARRAY_LEN(bad); i++) {
        wire_headers(&app->wire, WIRE_END_STREAM, 1 + 2 * i, bad[i]);
        wire_settle(&app->wire);
        assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM), i + 1);
        assert_int_equal(app->wire.last_reset_code, NGHTTP2_PROTOCOL_ERROR);
    }
    assert_int_equal(app->num_headers, 0);
    assert_int_equal(app->num_closed, 0);
    check_alive(app);
    app_free(app);
}

/* Requests whose end contradicts their beginning. */
static void test_malformed_bodies_are_reset(void **state)
{
    struct app *app = server_new();
    const char *const *head = WIRE_LIST(WIRE_POST("/"), "content-length: 5");

    (void)state;
    wire_headers(&app->wire, 0, 1, head);
    wire_send(&app->wire, NGHTTP2_DATA, WIRE_END_STREAM, 1, "four", 4);
    wire_headers(&app->wire, 0, 3, head);
    wire_send(&app->wire, NGHTTP2_DATA, 0, 3, "longer", 6);
    wire_headers(&app->wire, WIRE_END_STREAM, 5, head);
    wire_headers(&app->wire, 0, 7, WIRE_LIST(WIRE_POST("/")));
    wire_headers(&app->wire, WIRE_END_STREAM, 7, WIRE_LIST(":path: /again"));
    wire_headers(&app->wire, 0, 9, WIRE_LIST(WIRE_POST("/")));
    wire_headers(&app->wire, 0, 9, WIRE_LIST("x: trailers that do not end"));
    wire_settle(&app->wire);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM), 5);
    assert_int_equal(app->wire.last_reset_code, NGHTTP2_PROTOCOL_ERROR);
    assert_false(app_said(app, "data end"));
    assert_false(app_said(app, "headers trailers"));
    check_alive(app);
    app_free(app);
}

static void test_streams_below_at_and_above_the_limit(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->limits.max_streams = 3;
    app_start(app, true);
    for (uint32_t i = 0; i < 3; i++)
        request(app, 1 + 2 * i, 0);
    check_alive(app);
    assert_int_equal(app->num_headers, 3);
    assert_int_equal(h2_num_streams(app->h2), 3);
    request(app, 7, 0); /* though the peer has acknowledged the limit */
    check_ended(app, E_H2_PROTOCOL, NGHTTP2_PROTOCOL_ERROR);
    assert_int_equal(app->num_headers, 3);
    app_free(app);
}

/* Before our SETTINGS have reached the peer it may not know better. */
static void test_streams_above_the_limit_are_refused_kindly_at_first(void **state)
{
    struct app *app = app_new();

    (void)state;
    app->limits.max_streams = 3;
    wire_init(&app->wire, loop);
    app->h2 = h2_new(app->wire.lower, true, &app->limits, &app_events, app);
    wire_bytes(&app->wire, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
    wire_send(&app->wire, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    for (uint32_t i = 0; i < 4; i++)
        request(app, 1 + 2 * i, 0);
    check_alive(app);
    assert_int_equal(app->num_headers, 3);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_RST_STREAM), 1);
    assert_int_equal(app->wire.last_reset_code, NGHTTP2_REFUSED_STREAM);
    app_free(app);
}

/* ---- the end ---- */

static void test_wrong_preface_is_answered_with_goaway(void **state)
{
    static const char *const bad[] = {
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on, TLS"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct app *app = app_new();

        wire_init(&app->wire, loop);
        app->h2 = h2_new(app->wire.lower, true, &app->limits, &app_events, app);
        wire_bytes(&app->wire, bad[i], 24);
        check_ended(app, E_H2_PROTOCOL, NGHTTP2_PROTOCOL_ERROR);
        assert_int_equal(wire_count(&app->wire, NGHTTP2_SETTINGS), 1); /* came first */
        app_free(app);
    }
}

static void test_protocol_errors_end_the_connection(void **state)
{
    struct app *app = server_new();

    (void)state;
    request(app, 1, 0);
    wire_settle(&app->wire);
    wire_send(&app->wire, NGHTTP2_DATA, 0, 0, "x", 1); /* on stream 0 */
    check_ended(app, E_H2_PROTOCOL, NGHTTP2_PROTOCOL_ERROR);
    assert_int_equal(app->num_closed, 1);
    assert_int_equal(app->closed.code, E_H2_PROTOCOL);
    app_free(app);
}

/* A frame behind our GOAWAY once made nghttp2 stop the process: nothing is fed to it any more. */
static void test_frames_behind_the_end_are_not_looked_at(void **state)
{
    struct app *app = server_new();

    (void)state;
    wire_hold(&app->wire);
    wire_send(&app->wire, NGHTTP2_DATA, 0, 0, "x", 1);
    for (unsigned type = 0; type < 32; type++)
        wire_send(&app->wire, (uint8_t)type, 0xff, 1, "\xff\xff\xff\xff\xff", 5);
    wire_release(&app->wire);
    check_ended(app, E_H2_PROTOCOL, NGHTTP2_PROTOCOL_ERROR);
    app_free(app);
}

static void test_server_drains_in_two_steps(void **state)
{
    struct app *app = server_new();

    (void)state;
    request(app, 1, 0);
    wire_settle(&app->wire);
    h2_goaway(app->h2);
    h2_goaway(app->h2);
    wire_settle(&app->wire);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_GOAWAY), 1);
    assert_int_equal(app->wire.goaway_last, 0x7fffffff);
    request(app, 3, 0); /* was on its way: taken */
    wire_send(&app->wire, NGHTTP2_PING, WIRE_ACK, 0, "\0\0\0\0\0\0\0\0", 8);
    wire_settle(&app->wire);
    assert_int_equal(app->num_headers, 2);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_GOAWAY), 2);
    assert_int_equal(app->wire.goaway_last, 3);
    request(app, 5, 0); /* too late: not taken */
    wire_settle(&app->wire);
    assert_int_equal(app->num_headers, 2);
    assert_int_equal(app->num_broken, 0);
    wire_u32(&app->wire, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
    wire_settle(&app->wire);
    assert_int_equal(app->wire.recorder.num_eofs, 0);
    assert_true(err_is_ok(h2_respond(app->stream, app_head, 1, true)));
    wire_settle(&app->wire);
    assert_true(wire_has(&app->wire, "3 end"));
    assert_int_equal(app->wire.recorder.num_eofs, 1);
    assert_true(err_is_ok(stream_shutdown(app->wire.raw)));
    wire_settle(&app->wire);
    assert_int_equal(app->num_broken, 1);
    assert_true(err_is_ok(app->broken));
    app_free(app);
}

static void test_drain_without_streams_ends_though_the_ping_is_not_answered(void **state)
{
    struct app *app = server_new();

    (void)state;
    h2_goaway(app->h2);
    wire_settle(&app->wire);
    assert_int_equal(app->wire.recorder.num_eofs, 0);
    move_clock(app, 1000);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_GOAWAY), 2);
    assert_int_equal(app->wire.recorder.num_eofs, 1);
    move_clock(app, 1000); /* the peer does not close: we do */
    assert_int_equal(app->num_broken, 1);
    assert_true(err_is_ok(app->broken));
    app_free(app);
}

static void test_keepalive_asks_and_gives_up(void **state)
{
    struct app *app = server_new();

    (void)state;
    request(app, 1, 0);
    wire_settle(&app->wire);
    move_clock(app, 19999);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_PING), 0);
    move_clock(app, 1);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_PING), 1);
    move_clock(app, 5000);
    wire_send(&app->wire, NGHTTP2_PING, WIRE_ACK, 0, "\0\0\0\0\0\0\0\0", 8);
    wire_settle(&app->wire);
    move_clock(app, 19999);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_PING), 1);
    move_clock(app, 1);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_PING), 2);
    move_clock(app, 9999);
    assert_int_equal(app->num_broken, 0);
    move_clock(app, 1);
    assert_int_equal(app->num_broken, 1);
    assert_int_equal(app->broken.code, E_TIMEOUT);
    assert_int_equal(app->num_closed, 1);
    assert_int_equal(app->closed.code, E_TIMEOUT);
    app_free(app);
}

static void test_a_talking_peer_is_not_asked(void **state)
{
    struct app *app = server_new();

    (void)state;
    for (int i = 0; i < 10; i++) {
        move_clock(app, 15000);
        wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 0, 1);
        wire_settle(&app->wire);
    }
    assert_int_equal(wire_count(&app->wire, NGHTTP2_PING), 0);
    check_alive(app);
    app_free(app);
}

/* Anything at all proves the peer alive: the answer may stand behind much else. */
static void test_a_peer_that_sends_instead_of_answering_is_alive(void **state)
{
    struct app *app = server_new();

    (void)state;
    move_clock(app, 20000);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_PING), 1);
    move_clock(app, 9000);
    wire_u32(&app->wire, NGHTTP2_WINDOW_UPDATE, 0, 1);
    wire_settle(&app->wire);
    move_clock(app, 1000);
    move_clock(app, 18999);
    check_alive(app);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_PING), 1);
    move_clock(app, 1);
    assert_int_equal(wire_count(&app->wire, NGHTTP2_PING), 2);
    app_free(app);
}

static void test_connection_errors_tell_every_stream(void **state)
{
    struct app *app = server_new();

    (void)state;
    request(app, 1, 0);
    request(app, 3, 0);
    wire_settle(&app->wire);
    memstream_reset(app->wire.lower);
    wire_settle(&app->wire);
    assert_int_equal(app->num_closed, 2);
    assert_int_equal(app->closed.code, E_PEER_RESET);
    assert_int_equal(app->broken.code, E_PEER_RESET);
    app_free(app);

    app = server_new();
    request(app, 1, 0);
    wire_settle(&app->wire);
    assert_true(err_is_ok(stream_shutdown(app->wire.raw)));
    wire_settle(&app->wire);
    assert_int_equal(app->closed.code, E_CLOSED);
    assert_int_equal(app->broken.code, E_CLOSED);
    app_free(app);

    app = server_new();
    memstream_script(app->wire.lower)->fail_write =
        memstream_script(app->wire.lower)->num_writes + 1;
    app->answer = true;
    request(app, 1, WIRE_END_STREAM);
    wire_settle(&app->wire);
    assert_int_equal(app->num_closed, 1);
    assert_int_equal(app->num_broken, 1);
    app_free(app);
}

/* ---- client ---- */

static const struct h2_header client_head[] = {
    {{(const uint8_t *)":method", 7}, {(const uint8_t *)"POST", 4}},
    {{(const uint8_t *)":scheme", 7}, {(const uint8_t *)"http", 4}},
    {{(const uint8_t *)":path", 5}, {(const uint8_t *)"/", 1}},
    {{(const uint8_t *)":authority", 10}, {(const uint8_t *)"x", 1}},
};

static struct h2_stream *client_request(struct app *app, bool end)
{
    struct h2_stream *stream = NULL;

    assert_true(err_is_ok(h2_request(app->h2, client_head, 4, end, app, &stream)));
    assert_ptr_equal(h2_stream_data(stream), app);
    return stream;
}

static void test_client_request_and_answer(void **state)
{
    struct app *app = client_new();
    struct h2_stream *stream = client_request(app, false);

    (void)state;
    assert_int_equal(app->num_ready, 1);
    assert_true(err_is_ok(h2_send(stream, bytes_of_str("question"), true)));
    wire_settle(&app->wire);
    assert_true(wire_has(&app->wire, "1 :path: /"));
    assert_true(wire_has(&app->wire, "1 end"));
    assert_true(bytes_equal_str(buf_view(&app->wire.data), "question"));
    wire_headers(&app->wire, 0, 1, WIRE_LIST(":status: 103", "link: x")); /* passed over */
    wire_headers(&app->wire, 0, 1, WIRE_LIST(":status: 200"));
    wire_send(&app->wire, NGHTTP2_DATA, 0, 1, "answer", 6);
    wire_headers(&app->wire, WIRE_END_STREAM, 1, WIRE_LIST("grpc-status: 0"));
    wire_settle(&app->wire);
    assert_true(bytes_equal_str(buf_view(&app->log), "headers :status=200\n"
                                                     "headers trailers end grpc-status=0\n"
                                                     "close ok 0\n"));
    assert_true(bytes_equal_str(buf_view(&app->data), "answer"));
    app_free(app);
}

static void test_client_keeps_to_the_servers_limit_of_streams(void **state)
{
    struct app *app = client_new();
    struct h2_stream *stream;

    (void)state;
    wire_settings(&app->wire, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 2);
    wire_settle(&app->wire);
    (void)client_request(app, false);
    (void)client_request(app, false);
    assert_int_equal(h2_request(app->h2, client_head, 4, false, app, &stream).code, E_LIMIT);
    wire_settle(&app->wire);
    wire_u32(&app->wire, NGHTTP2_RST_STREAM, 1, NGHTTP2_REFUSED_STREAM);
    wire_settle(&app->wire);
    assert_true(app_said(app, "close h2_stream_reset 7\n"));
    (void)client_request(app, false);
    app_free(app);
}

static void test_goaway_refuses_what_the_server_did_not_take(void **state)
{
    struct app *app = client_new();
    struct h2_stream *stream;

    (void)state;
    (void)client_request(app, true);
    (void)client_request(app, true);
    wire_settle(&app->wire);
    wire_send(&app->wire, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\1\0\0\0\0", 8);
    wire_settle(&app->wire);
    assert_int_equal(app->num_goaway, 1);
    assert_true(app_said(app, "close h2_stream_reset 7\n")); /* REFUSED_STREAM: may be repeated */
    assert_int_equal(app->num_closed, 1);
    assert_int_equal(h2_request(app->h2, client_head, 4, false, app, &stream).code, E_H2_GOAWAY);
    wire_headers(&app->wire, WIRE_END_STREAM, 1, WIRE_LIST(":status: 200"));
    wire_settle(&app->wire);
    assert_true(app_said(app, "headers end :status=200\nclose ok 0\n"));
    wire_settle(&app->wire);
    assert_int_equal(app->wire.recorder.num_eofs, 1); /* nothing is left to wait for */
    assert_true(err_is_ok(stream_shutdown(app->wire.raw)));
    wire_settle(&app->wire);
    assert_true(err_is_ok(app->broken));
    assert_int_equal(app->num_broken, 1);
    app_free(app);
}

static void test_client_goaway_ends_with_the_last_stream(void **state)
{
    struct app *app = client_new();

    (void)state;
    (void)client_request(app, true);
    wire_settle(&app->wire);
    h2_goaway(app->h2);
    wire_settle(&app->wire);
    assert_true(app->wire.goaway);
    assert_int_equal(app->wire.recorder.num_eofs, 0);
    wire_headers(&app->wire, WIRE_END_STREAM, 1, WIRE_LIST(":status: 200"));
    wire_settle(&app->wire);
    assert_int_equal(app->wire.recorder.num_eofs, 1);
    app_free(app);
}

static void test_client_reset_in_every_state(void **state)
{
    struct app *app = client_new();
    struct h2_stream *stream;

    (void)state;
    stream = client_request(app, false); /* before the request was sent */
    h2_stream_reset(stream, NGHTTP2_CANCEL);
    h2_stream_reset(stream, NGHTTP2_CANCEL);
    assert_int_equal(h2_send(stream, bytes_of_str("x"), false).code, E_CLOSED);
    wire_settle(&app->wire);
    assert_int_equal(app->num_closed, 1);
    assert_int_equal(app->closed.code, E_H2_STREAM_RESET);

    stream = client_request(app, false); /* sent, not answered */
    wire_settle(&app->wire);
    h2_stream_reset(stream, NGHTTP2_CANCEL);
    wire_settle(&app->wire);
    assert_int_equal(app->num_closed, 2);

    stream = client_request(app, false); /* half answered, with data waiting */
    wire_settle(&app->wire);
    wire_headers(&app->wire, 0, 5, WIRE_LIST(":status: 200"));
    assert_true(err_is_ok(h2_send(stream, bytes_of_str("x"), false)));
    h2_stream_reset(stream, NGHTTP2_CANCEL);
    wire_settle(&app->wire);
    assert_int_equal(app->num_closed, 3);
    assert_int_equal(h2_num_streams(app->h2), 0);
    assert_int_equal(app->num_broken, 0);
    app_free(app);
}

/* A server that speaks something else. */
static void test_client_hears_of_a_server_that_is_none(void **state)
{
    struct app *app = app_new();

    (void)state;
    wire_init(&app->wire, loop);
    app->h2 = h2_new(app->wire.lower, false, &app->limits, &app_events, app);
    app->wire.is_server = true;
    wire_settle(&app->wire);
    (void)client_request(app, true);
    wire_bytes(&app->wire, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
    wire_settle(&app->wire);
    assert_int_equal(app->num_ready, 0);
    assert_int_equal(app->num_closed, 1);
    move_clock(app, 1000);
    assert_int_equal(app->num_broken, 1);
    assert_false(err_is_ok(app->broken));
    app_free(app);
}

/* Servers may not push: we said so. */
static void test_push_is_refused(void **state)
{
    struct app *app = client_new();

    (void)state;
    (void)client_request(app, true);
    wire_settle(&app->wire);
    wire_send(&app->wire, NGHTTP2_PUSH_PROMISE, WIRE_END_HEADERS, 1, "\0\0\0\2\x82\x86\x84", 7);
    wire_settle(&app->wire);
    assert_true(app->wire.goaway);
    app_free(app);
}

/* ---- any order ---- */

/* Whoever is called may close at once; what nghttp2 does further is not heard. */
static void test_close_in_every_event(void **state)
{
    static const char *const events[] = {"headers", "data",   "writable", "close",
                                         "ready",   "goaway", "broken"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(events); i++) {
        struct app *app = app_new();
        size_t seen;

        app->killer = events[i];
        app_start(app, true);
        wire_hold(&app->wire);
        request(app, 1, 0);
        request(app, 3, 0);
        wire_send(&app->wire, NGHTTP2_DATA, WIRE_END_STREAM, 1, "hello", 5);
        wire_release(&app->wire);
        wire_settle(&app->wire);
        if (app->h2 != NULL) {
            assert_true(err_is_ok(h2_respond(app->stream, app_head, 1, false)));
            assert_true(err_is_ok(h2_send(app->stream, bytes_of_str("x"), false)));
            wire_settle(&app->wire);
        }
        wire_hold(&app->wire);
        wire_u32(&app->wire, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL);
        wire_send(&app->wire, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8);
        wire_send(&app->wire, NGHTTP2_DATA, 0, 0, "x", 1);
        wire_release(&app->wire);
        move_clock(app, 1000);
        move_clock(app, 1000);
        assert_null(app->h2); /* the event came */
        seen = buf_size(&app->log);
        wire_settle(&app->wire);
        assert_int_equal(buf_size(&app->log), seen);
        app_free(app);
    }
}

/* The n-th of a set of frames, most of them wrong where they stand. */
#define NUM_KINDS 20
static void any_frame(struct app *app, unsigned kind, uint32_t stream)
{
    struct wire *wire = &app->wire;

    switch (kind) {
    case 0:
        wire_headers(wire, 0, stream, WIRE_LIST(WIRE_POST("/")));
        break;
    case 1:
        wire_headers(wire, WIRE_END_STREAM, stream, WIRE_LIST(":status: 200"));
        break;
    case 2:
        wire_send(wire, NGHTTP2_DATA, 0, stream, "data", 4);
        break;
    case 3:
        wire_send(wire, NGHTTP2_DATA, WIRE_END_STREAM, stream, "", 0);
        break;
    case 4:
        wire_u32(wire, NGHTTP2_RST_STREAM, stream, NGHTTP2_CANCEL);
        break;
    case 5:
        wire_send(wire, NGHTTP2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8);
        break;
    case 6:
        wire_send(wire, NGHTTP2_GOAWAY, 0, 0, "\x7f\xff\xff\xff\0\0\0\1", 8);
        break;
    case 7:
        wire_settings(wire, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0);
        break;
    case 8:
        wire_settings(wire, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0x7fffffff);
        break;
    case 9:
        wire_settings(wire, NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 0);
        break;
    case 10:
        wire_send(wire, NGHTTP2_SETTINGS, WIRE_ACK, 0, NULL, 0);
        break;
    case 11:
        wire_send(wire, NGHTTP2_PING, 0, 0, "12345678", 8);
        break;
    case 12:
        wire_send(wire, NGHTTP2_PING, WIRE_ACK, 0, "\0\0\0\0\0\0\0\0", 8);
        break;
    case 13:
        wire_u32(wire, NGHTTP2_WINDOW_UPDATE, stream, 0x7fffffff);
        break;
    case 14:
        wire_u32(wire, NGHTTP2_WINDOW_UPDATE, 0, 0);
        break;
    case 15:
        wire_send(wire, NGHTTP2_PRIORITY, 0, stream, "\0\0\0\1\1", 5);
        break;
    case 16:
        wire_send(wire, NGHTTP2_PUSH_PROMISE, WIRE_END_HEADERS, stream, "\0\0\0\2\x82\x86\x84", 7);
        break;
    case 17:
        wire_send(wire, NGHTTP2_CONTINUATION, WIRE_END_HEADERS, stream, "\x82", 1);
        break;
    case 18:
        wire_send(wire, NGHTTP2_ALTSVC, 0, 0, "\0\5abcde", 7);
        break;
    default:
        wire_send(wire, 0x10 /* PRIORITY_UPDATE */, 0, 0, "\0\0\0\1u=9", 7);
        break;
    }
}

/* Every pair of frames, and our own reset, goaway and close between them. */
static void run_pair(bool server, unsigned first, unsigned second, unsigned between)
{
    struct app *app = server ? server_new() : client_new();

    app->answer = false;
    if (server) {
        request(app, 1, 0);
        wire_settle(&app->wire);
        if (app->stream != NULL && h2_respond(app->stream, app_head, 1, false).code == E_OK)
            (void)h2_send(app->stream, bytes_of_str("hello"), false).code;
    } else {
        app->stream = client_request(app, false);
        (void)h2_send(app->stream, bytes_of_str("hello"), false).code;
    }
    if ((between & 4) == 0)
        wire_settle(&app->wire);
    any_frame(app, first, server && first == 0 ? 3 : 1);
    if ((between & 4) == 0)
        wire_settle(&app->wire);
    if ((between & 3) == 1 && app->stream != NULL)
        h2_stream_reset(app->stream, NGHTTP2_CANCEL);
    if ((between & 3) == 2 && app->num_broken == 0)
        h2_goaway(app->h2);
    any_frame(app, second, server && second == 0 ? 5 : 1);
    wire_settle(&app->wire);
    move_clock(app, 1000);
    move_clock(app, 1000);
    move_clock(app, 30000);
    move_clock(app, 10000);
    /* With nothing answered, no connection outlives its keepalive. */
    assert_int_equal(app->num_broken, 1);
    assert_int_equal(h2_num_streams(app->h2), 0);
    app_free(app);
}

static void test_every_pair_of_frames(void **state)
{
    (void)state;
    for (unsigned first = 0; first < NUM_KINDS; first++) {
        for (unsigned second = 0; second < NUM_KINDS; second++) {
            for (unsigned between = 0; between < 8; between++) {
                if ((between & 3) == 3)
                    continue;
                run_pair(true, first, second, between);
                run_pair(false, first, second, between);
            }
        }
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_request_body_response_trailers),
        cmocka_unit_test(test_request_trailers_are_told),
        cmocka_unit_test(test_frames_split_at_every_byte),
        cmocka_unit_test(test_a_batch_is_one_write),
        cmocka_unit_test(test_headers_of_a_request_that_is_over_end_the_connection),
        cmocka_unit_test(test_frames_that_cross_a_reset_of_ours_are_passed_over),
        cmocka_unit_test(test_answer_before_the_request_ends_stops_the_client),
        cmocka_unit_test(test_settings_are_set_explicitly),
        cmocka_unit_test(test_sent_data_waits_for_the_window),
        cmocka_unit_test(test_queue_below_at_and_above_the_limit),
        cmocka_unit_test(test_window_opens_by_consuming),
        cmocka_unit_test(test_more_than_the_window_is_refused),
        cmocka_unit_test(test_unconsumed_bytes_come_back_at_the_end_of_a_stream),
        cmocka_unit_test(test_stalled_connection_pulls_nothing_more),
        cmocka_unit_test(test_peer_that_never_reads_is_closed),
        cmocka_unit_test(test_floods_below_at_and_above_the_limit),
        cmocka_unit_test(test_floods_leave_memory_flat),
        cmocka_unit_test(test_slow_resets_are_no_flood),
        cmocka_unit_test(test_pings_for_answers_are_free),
        cmocka_unit_test(test_unasked_ping_answers_are_counted),
        cmocka_unit_test(test_endless_continuation_ends),
        cmocka_unit_test(test_header_count_below_at_and_above_the_limit),
        cmocka_unit_test(test_header_bytes_below_at_and_above_the_limit),
        cmocka_unit_test(test_compression_bomb_costs_nothing),
        cmocka_unit_test(test_malformed_requests_are_reset),
        cmocka_unit_test(test_malformed_bodies_are_reset),
        cmocka_unit_test(test_streams_below_at_and_above_the_limit),
        cmocka_unit_test(test_streams_above_the_limit_are_refused_kindly_at_first),
        cmocka_unit_test(test_wrong_preface_is_answered_with_goaway),
        cmocka_unit_test(test_protocol_errors_end_the_connection),
        cmocka_unit_test(test_frames_behind_the_end_are_not_looked_at),
        cmocka_unit_test(test_server_drains_in_two_steps),
        cmocka_unit_test(test_drain_without_streams_ends_though_the_ping_is_not_answered),
        cmocka_unit_test(test_keepalive_asks_and_gives_up),
        cmocka_unit_test(test_a_talking_peer_is_not_asked),
        cmocka_unit_test(test_a_peer_that_sends_instead_of_answering_is_alive),
        cmocka_unit_test(test_connection_errors_tell_every_stream),
        cmocka_unit_test(test_client_request_and_answer),
        cmocka_unit_test(test_client_keeps_to_the_servers_limit_of_streams),
        cmocka_unit_test(test_goaway_refuses_what_the_server_did_not_take),
        cmocka_unit_test(test_client_goaway_ends_with_the_last_stream),
        cmocka_unit_test(test_client_reset_in_every_state),
        cmocka_unit_test(test_client_hears_of_a_server_that_is_none),
        cmocka_unit_test(test_push_is_refused),
        cmocka_unit_test(test_close_in_every_event),
        cmocka_unit_test(test_every_pair_of_frames),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
