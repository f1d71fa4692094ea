#include "lib/rpc/grpc_client.h"

#include <stdio.h>

#include "lib/base/backoff.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/net/resolve.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"
#include "lib/rpc/pb.h"

#define GRPC_CONNECT_MS 5000
#define GRPC_BACKOFF_BASE_MS 200
#define GRPC_BACKOFF_MAX_MS 30000
#define GRPC_REPLY_MAX ((size_t)4 << 20) /* of a unary call; gRPC's own default */
#define GRPC_REPLAYS_MAX 3               /* of a call that the server said it had not begun */
#define GRPC_DEADLINE_MAX_MS ((uint64_t)1 << 40)

/* Where the way to the server stands. A connection that works is channel->conn. */
enum grpc_channel_state {
    GRPC_CHANNEL_IDLE, /* nothing to do, or conn is there */
    GRPC_CHANNEL_RESOLVING,
    GRPC_CHANNEL_CONNECTING,
    GRPC_CHANNEL_HANDSHAKE,
    GRPC_CHANNEL_GREETING, /* HTTP/2 begins: the server's SETTINGS are awaited */
    GRPC_CHANNEL_BACKOFF,
    GRPC_CHANNEL_CLOSED,
    GRPC_CHANNEL_NUM,
};

#define TO(state) (1u << GRPC_CHANNEL_##state)
#define TO_END (TO(BACKOFF) | TO(IDLE) | TO(CLOSED)) /* failed; given up for a new try; closed */
static const unsigned grpc_channel_next[GRPC_CHANNEL_NUM] = {
    [GRPC_CHANNEL_IDLE] = TO(RESOLVING) | TO(BACKOFF) | TO(CLOSED),
    [GRPC_CHANNEL_RESOLVING] = TO(CONNECTING) | TO_END,
    [GRPC_CHANNEL_CONNECTING] = TO(HANDSHAKE) | TO(GREETING) | TO_END,
    [GRPC_CHANNEL_HANDSHAKE] = TO(GREETING) | TO_END,
    [GRPC_CHANNEL_GREETING] = TO_END,
    [GRPC_CHANNEL_BACKOFF] = TO(IDLE) | TO(CLOSED),
    [GRPC_CHANNEL_CLOSED] = 0,
};
#undef TO
#undef TO_END

/* One HTTP/2 connection. */
struct grpc_link {
    struct list link; /* in channel->links */
    struct grpc_channel *channel;
    struct h2 *h2;
    struct list calls;
    bool ready;  /* its SETTINGS came */
    bool proven; /* a call got an answer: the next failure starts the backoff anew */
};

struct grpc_channel {
    struct loop *loop;
    struct grpc_channel_params params;
    char *target, *authority, *server_name;
    enum grpc_channel_state state;
    struct timer timer; /* of the attempt as a whole, or of the backoff */
    struct backoff backoff;
    err_t last_err; /* why there is no connection */
    struct resolve *resolve;
    struct addr addrs[RESOLVE_MAX];
    size_t num_addrs, next_addr;
    struct tcp_connect *connect;
    struct stream *stream;  /* of the attempt, before HTTP/2 has it */
    SSL *configured;        /* handshake_done is due */
    struct grpc_link *conn; /* the one that takes new calls, or will when ready */
    struct list links;      /* all, those that drain too */
    struct list waiting;    /* calls without a connection */
    struct list refused;    /* calls that will fail without one */
    bool serving;           /* grpc_channel_serve is deferred */
};

enum grpc_cc_state {
    GRPC_CC_WAITING,
    GRPC_CC_OPEN, /* the request is on a connection */
    GRPC_CC_DONE, /* the callback was called, or is not wanted */
    GRPC_CC_NUM,
};

static const unsigned grpc_cc_next[GRPC_CC_NUM] = {
    [GRPC_CC_WAITING] = 1u << GRPC_CC_OPEN | 1u << GRPC_CC_DONE,
    [GRPC_CC_OPEN] = 1u << GRPC_CC_WAITING | 1u << GRPC_CC_DONE, /* WAITING: replayed */
    [GRPC_CC_DONE] = 0,
};

struct grpc_client_call {
    struct list link; /* in channel->waiting or grpc_link.calls */
    struct grpc_channel *channel;
    struct grpc_link *conn;
    struct h2_stream *stream;
    enum grpc_cc_state state;
    char *path;
    const ProtobufCMessageDescriptor *reply;
    uint64_t deadline_at_ms; /* 0: none */
    struct timer deadline;
    struct buf out; /* frames that wait for the connection; of a unary call kept for a replay */
    bool unary;
    bool out_end;   /* half-closed */
    bool attempted; /* streaming: a connection attempt was made for it */
    unsigned replays;
    struct grpc_decoder decoder;
    /* the answer */
    bool have_head;
    int http_status;
    bool have_status;
    enum grpc_status status;
    char *message;
    ProtobufCMessage *msg; /* of a unary call */
    /* the user */
    grpc_unary_cb unary_cb;
    const struct grpc_stream_events *events;
    void *arg;
};

static void grpc_channel_connect(struct grpc_channel *channel);
static void grpc_channel_failed(struct grpc_channel *channel, err_t err);
static void grpc_channel_serve(struct grpc_channel *channel);
static void grpc_channel_schedule(struct grpc_channel *channel);

static void grpc_channel_set_state(struct grpc_channel *channel, enum grpc_channel_state state)
{
    CHECK((grpc_channel_next[channel->state] & 1u << state) != 0);
    channel->state = state;
}

static void grpc_cc_set_state(struct grpc_client_call *call, enum grpc_cc_state state)
{
    CHECK((grpc_cc_next[call->state] & 1u << state) != 0);
    call->state = state;
}

/* ---- calls: the end ---- */

static void grpc_cc_free(void *arg)
{
    struct grpc_client_call *call = arg;

    buf_fini(&call->out);
    grpc_decoder_fini(&call->decoder);
    if (call->msg != NULL)
        pb_free(call->msg);
    mem_free(call->message);
    mem_free(call->path);
    mem_free(call);
}

/* Takes the call off its connection and its timer; the memory goes when the batch ends. */
static void grpc_cc_detach(struct grpc_client_call *call, uint32_t h2_error)
{
    grpc_cc_set_state(call, GRPC_CC_DONE);
    timer_stop(call->channel->loop, &call->deadline);
    list_del(&call->link);
    if (call->stream != NULL) {
        h2_stream_set_data(call->stream, NULL);
        h2_stream_reset(call->stream, h2_error); /* nothing, if it is over */
        call->stream = NULL;
    }
    loop_defer(call->channel->loop, grpc_cc_free, call);
}

static void grpc_cc_finish(struct grpc_client_call *call, enum grpc_status status, err_t err,
                           const char *message, uint32_t h2_error)
{
    struct grpc_result result = {status, message != NULL ? message : "", err};

    grpc_cc_detach(call, h2_error);
    if (call->unary)
        call->unary_cb(call->arg, &result, status == GRPC_OK ? call->msg : NULL);
    else
        call->events->on_done(call->arg, &result);
}

/* Ends the call for a reason of ours. */
static void grpc_cc_fail(struct grpc_client_call *call, enum grpc_status status, err_t err)
{
    grpc_cc_finish(call, status, err, err_text(err.code), 0x8 /* CANCEL */);
}

static void grpc_cc_on_deadline(void *arg)
{
    struct grpc_client_call *call = arg;
    err_t why = call->channel->last_err;
    char *text;

    if (call->state != GRPC_CC_WAITING || err_is_ok(why)) {
        grpc_cc_finish(call, GRPC_DEADLINE_EXCEEDED, FAIL(TIMEOUT, 0), "deadline passed", 0x8);
        return;
    }
    text = mem_printf("deadline passed while connecting to %s: %s", call->channel->target,
                      err_text(why.code));
    grpc_cc_finish(call, GRPC_DEADLINE_EXCEEDED, why, text, 0x8);
    mem_free(text);
}

/* The status that stands for a connection or stream that broke. */
static enum grpc_status grpc_status_of_err(err_t err)
{
    if (err_is(err, E_H2_STREAM_RESET))
        return grpc_status_of_rst((uint32_t)err.sub);
    return GRPC_UNAVAILABLE;
}

/* The answer is complete: judges it. */
static void grpc_cc_complete(struct grpc_client_call *call)
{
    if (!call->have_status) {
        enum grpc_status status =
            call->http_status == 200 ? GRPC_INTERNAL : grpc_status_of_http(call->http_status);
        char text[64];

        (void)snprintf(text, sizeof(text), "HTTP status %d and no gRPC status", call->http_status);
        grpc_cc_finish(call, status, FAIL(GRPC_STATUS, status), text, 0);
        return;
    }
    if (call->status == GRPC_OK && !grpc_decoder_idle(&call->decoder)) {
        grpc_cc_fail(call, GRPC_INTERNAL, FAIL(GRPC_FRAME, 0));
        return;
    }
    if (call->status == GRPC_OK && call->unary && call->msg == NULL) {
        grpc_cc_finish(call, GRPC_INTERNAL, FAIL(GRPC_FRAME, 0), "no message in the reply", 0);
        return;
    }
    call->conn->proven = true;
    grpc_cc_finish(call, call->status,
                   call->status == GRPC_OK ? OK : FAIL(GRPC_STATUS, call->status), call->message,
                   0);
}

/* ---- calls: sending ---- */

/* Puts the call back in the queue: the server said that it had not begun it (or never saw it). */
static bool grpc_cc_replay(struct grpc_client_call *call)
{
    if (!call->unary || call->have_head || call->replays == GRPC_REPLAYS_MAX)
        return false;
    call->replays++;
    call->stream = NULL;
    call->conn = NULL;
    list_del(&call->link);
    list_add_tail(&call->channel->waiting, &call->link);
    grpc_cc_set_state(call, GRPC_CC_WAITING);
    grpc_channel_schedule(call->channel);
    return true;
}

static struct h2_header grpc_cc_header(const char *name, const char *value)
{
    return (struct h2_header){bytes_of_str(name), bytes_of_str(value)};
}

static err_t grpc_cc_request(struct grpc_client_call *call, struct grpc_link *conn)
{
    struct grpc_channel *channel = call->channel;
    struct h2_header headers[9] = {
        grpc_cc_header(":method", "POST"),
        grpc_cc_header(":scheme", channel->params.tls != NULL ? "https" : "http"),
        grpc_cc_header(":path", call->path),
        grpc_cc_header(":authority", channel->authority),
        grpc_cc_header("te", "trailers"),
        grpc_cc_header("content-type", "application/grpc"),
        grpc_cc_header("grpc-accept-encoding", "identity"),
        grpc_cc_header("user-agent", "grpc-c-mortise/1"),
    };
    char timeout[16];
    size_t num = 8;

    if (call->deadline_at_ms != 0) {
        uint64_t now_ms = loop_now_ms(channel->loop);

        grpc_timeout_format(call->deadline_at_ms > now_ms ? call->deadline_at_ms - now_ms : 0,
                            timeout);
        headers[num++] = grpc_cc_header("grpc-timeout", timeout);
    }
    return h2_request(conn->h2, headers, num, false, call, &call->stream);
}

/* Begins the call on the connection. Errors: those of h2_request; the call still waits then. */
static err_t grpc_cc_start(struct grpc_client_call *call, struct grpc_link *conn)
{
    err_t err;

    TRY(grpc_cc_request(call, conn));
    call->conn = conn;
    list_del(&call->link);
    list_add_tail(&conn->calls, &call->link);
    grpc_cc_set_state(call, GRPC_CC_OPEN);
    if (buf_size(&call->out) != 0 || call->out_end) {
        err = h2_send(call->stream, buf_view(&call->out), call->out_end);
        if (!err_is_ok(err)) {
            grpc_cc_fail(call, GRPC_RESOURCE_EXHAUSTED, err);
            return OK;
        }
        if (!call->unary)
            buf_fini(&call->out);
    }
    if (!call->unary && call->events->on_open != NULL)
        call->events->on_open(call->arg);
    return OK;
}

/* ---- calls: receiving ---- */

static struct bytes grpc_cc_find(const struct h2_header *headers, size_t num, const char *name)
{
    for (size_t i = 0; i < num; i++) {
        if (bytes_equal_str(headers[i].name, name))
            return headers[i].value;
    }
    return bytes_of(NULL, 0);
}

/* A decimal number of one to three digits, or -1. */
static int grpc_cc_number(struct bytes text)
{
    int value = 0;

    if (text.len == 0 || text.len > 3)
        return -1;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return -1;
        value = value * 10 + (text.ptr[i] - '0');
    }
    return value;
}

static void grpc_cc_read_status(struct grpc_client_call *call, const struct h2_header *headers,
                                size_t num)
{
    struct bytes text = grpc_cc_find(headers, num, "grpc-status");
    struct buf message = {NULL, 0, 0, 0, 0};
    int status = grpc_cc_number(text);

    if (text.ptr == NULL)
        return;
    call->have_status = true;
    call->status =
        status >= 0 && status <= GRPC_UNAUTHENTICATED ? (enum grpc_status)status : GRPC_UNKNOWN;
    if (err_is_ok(grpc_message_decode(grpc_cc_find(headers, num, "grpc-message"), &message))) {
        mem_free(call->message);
        call->message = buf_take_str(&message);
    }
    buf_fini(&message);
}

static void grpc_cc_on_headers(struct grpc_client_call *call, const struct h2_header *headers,
                               size_t num, bool trailers, bool end)
{
    static const char grpc_type[] = "application/grpc";
    struct bytes type;

    if (!trailers) {
        type = grpc_cc_find(headers, num, "content-type");
        call->have_head = true;
        call->http_status = grpc_cc_number(grpc_cc_find(headers, num, ":status"));
        if (call->http_status != 200 || type.len < sizeof(grpc_type) - 1 ||
            memcmp(type.ptr, grpc_type, sizeof(grpc_type) - 1) != 0) {
            /* Not gRPC, so a grpc-status in it would not be either. */
            call->have_status = false;
            grpc_cc_complete(call);
            return;
        }
    }
    if (!end)
        return;
    grpc_cc_read_status(call, headers, num);
    grpc_cc_complete(call);
}

static void grpc_cc_deliver(struct grpc_client_call *call, struct bytes message)
{
    ProtobufCMessage *msg;
    err_t err = pb_unpack(call->reply, message, call->decoder.max, &msg);

    if (!err_is_ok(err)) {
        grpc_cc_fail(call, GRPC_INTERNAL, err);
        return;
    }
    if (!call->unary) {
        call->conn->proven = true;
        call->events->on_message(call->arg, msg);
        pb_free(msg);
        return;
    }
    if (call->msg != NULL) {
        pb_free(msg);
        grpc_cc_fail(call, GRPC_INTERNAL, FAIL(GRPC_FRAME, 2));
        return;
    }
    call->msg = msg;
}

static void grpc_cc_on_data(struct grpc_client_call *call, struct bytes data)
{
    err_t err = grpc_decoder_feed(&call->decoder, data);
    struct bytes message;

    while (err_is_ok(err) && call->state == GRPC_CC_OPEN) {
        err = grpc_decoder_next(&call->decoder, &message);
        if (err_is_ok(err))
            grpc_cc_deliver(call, message);
    }
    if (err_is_ok(err) || err_is(err, E_AGAIN))
        return;
    grpc_cc_fail(call, err_is(err, E_TOO_LARGE) ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL, err);
}

/* ---- connections ---- */

static void grpc_link_on_headers(void *arg, struct h2_stream *stream,
                                 const struct h2_header *headers, size_t num, bool trailers,
                                 bool end)
{
    struct grpc_client_call *call = h2_stream_data(stream);

    (void)arg;
    if (call != NULL)
        grpc_cc_on_headers(call, headers, num, trailers, end);
}

static void grpc_link_on_data(void *arg, struct h2_stream *stream, struct bytes data, bool end)
{
    struct grpc_client_call *call = h2_stream_data(stream);

    (void)arg;
    h2_stream_consume(stream, data.len);
    if (call == NULL)
        return;
    if (data.len != 0)
        grpc_cc_on_data(call, data);
    if (end && call->state == GRPC_CC_OPEN) /* ended without trailers */
        grpc_cc_complete(call);
}

static void grpc_link_on_writable(void *arg, struct h2_stream *stream)
{
    (void)arg;
    (void)stream; /* grpc_stream_send bounds the queue by an error */
}

static void grpc_link_on_close(void *arg, struct h2_stream *stream, err_t err)
{
    struct grpc_client_call *call = h2_stream_data(stream);
    struct grpc_link *link = arg;

    if (!list_empty(&link->channel->waiting)) /* one may have waited for this place */
        grpc_channel_schedule(link->channel);
    if (call == NULL)
        return;
    if (err_is(err, E_H2_STREAM_RESET) && err.sub == 0x7 && grpc_cc_replay(call))
        return; /* REFUSED_STREAM: nothing was done */
    call->stream = NULL;
    if (err_is_ok(err))
        grpc_cc_complete(call);
    else
        grpc_cc_finish(call, grpc_status_of_err(err), err, err_text(err.code), 0);
}

static void grpc_link_free(struct grpc_link *link)
{
    struct grpc_channel *channel = link->channel;

    if (channel->conn == link)
        channel->conn = NULL;
    list_del(&link->link);
    h2_close(link->h2);
    loop_defer(channel->loop, mem_free, link);
}

/* Peer's SETTINGS: this is a working HTTP/2 connection. */
static void grpc_link_on_ready(void *arg)
{
    struct grpc_link *link = arg;
    struct grpc_channel *channel = link->channel;

    link->ready = true;
    if (channel->conn != link || channel->state != GRPC_CHANNEL_GREETING)
        return;
    timer_stop(channel->loop, &channel->timer);
    grpc_channel_set_state(channel, GRPC_CHANNEL_IDLE);
    channel->last_err = OK;
    if (channel->params.on_state != NULL)
        channel->params.on_state(channel->params.arg, true, OK, 0);
    grpc_channel_schedule(channel);
}

/* The connection takes no new calls any more. */
static void grpc_link_retire(struct grpc_link *link, err_t err)
{
    struct grpc_channel *channel = link->channel;

    if (channel->conn != link)
        return;
    channel->conn = NULL;
    if (link->proven)
        backoff_reset(&channel->backoff);
    grpc_channel_failed(channel, err);
}

static void grpc_link_on_goaway(void *arg)
{
    struct grpc_link *link = arg;

    h2_goaway(link->h2); /* ends with the calls that are on it */
    grpc_link_retire(link, FAIL(H2_GOAWAY, 0));
}

static void grpc_link_on_broken(void *arg, err_t err)
{
    struct grpc_link *link = arg;

    grpc_link_retire(link, err_is_ok(err) ? FAIL(CLOSED, 0) : err);
    if (link->channel->state != GRPC_CHANNEL_CLOSED) /* else on_state closed all */
        grpc_link_free(link);
}

static const struct h2_events grpc_link_events = {
    .on_headers = grpc_link_on_headers,
    .on_data = grpc_link_on_data,
    .on_writable = grpc_link_on_writable,
    .on_close = grpc_link_on_close,
    .on_ready = grpc_link_on_ready,
    .on_goaway = grpc_link_on_goaway,
    .on_broken = grpc_link_on_broken,
};

/* ---- connecting ---- */

/* Takes back what configure attached. Returns the reason its callbacks kept, else `err`. */
static err_t grpc_channel_configured(struct grpc_channel *channel, err_t err)
{
    SSL *ssl = channel->configured;
    err_t kept = OK;

    channel->configured = NULL;
    if (ssl != NULL && channel->params.handshake_done != NULL)
        kept = channel->params.handshake_done(channel->params.arg, ssl, err);
    return err_is_ok(kept) ? err : kept;
}

/* Gives up what an attempt has under way. */
static void grpc_channel_abort(struct grpc_channel *channel)
{
    timer_stop(channel->loop, &channel->timer);
    if (channel->resolve != NULL)
        resolve_cancel(channel->resolve);
    channel->resolve = NULL;
    if (channel->connect != NULL)
        tcp_connect_cancel(channel->connect);
    channel->connect = NULL;
    (void)grpc_channel_configured(channel, FAIL(CANCELLED, 0));
    if (channel->stream != NULL)
        stream_close(channel->stream);
    channel->stream = NULL;
}

/* Streaming calls have one attempt; it has failed. */
static void grpc_channel_fail_streams(struct grpc_channel *channel, err_t err)
{
    struct list failed, *pos, *tmp;

    /* Moved first: on_done may open and cancel calls. */
    list_init(&failed);
    LIST_EACH (pos, tmp, &channel->waiting) {
        struct grpc_client_call *call = LIST_ITEM(pos, struct grpc_client_call, link);

        if (!call->unary && call->attempted) {
            list_del(&call->link);
            list_add_tail(&failed, &call->link);
        }
    }
    while (!list_empty(&failed))
        grpc_cc_fail(LIST_ITEM(failed.next, struct grpc_client_call, link), GRPC_UNAVAILABLE, err);
}

static void grpc_channel_on_backoff(void *arg)
{
    struct grpc_channel *channel = arg;

    grpc_channel_set_state(channel, GRPC_CHANNEL_IDLE);
    grpc_channel_serve(channel);
}

/* There is no connection now: waits before the next try. */
static void grpc_channel_failed(struct grpc_channel *channel, err_t err)
{
    uint32_t delay_ms;

    if (channel->state == GRPC_CHANNEL_CLOSED)
        return;
    grpc_channel_abort(channel);
    channel->last_err = err;
    delay_ms = backoff_next(&channel->backoff, random_u32());
    if (channel->state != GRPC_CHANNEL_BACKOFF)
        grpc_channel_set_state(channel, GRPC_CHANNEL_BACKOFF);
    timer_start(channel->loop, &channel->timer, delay_ms, grpc_channel_on_backoff, channel);
    if (channel->params.on_state != NULL)
        channel->params.on_state(channel->params.arg, false, err, delay_ms);
    if (channel->state != GRPC_CHANNEL_CLOSED)
        grpc_channel_fail_streams(channel, err);
}

static void grpc_channel_on_timeout(void *arg)
{
    struct grpc_channel *channel = arg;
    struct grpc_link *link = channel->conn;
    err_t err = FAIL(CONNECT_TIMEOUT, 0);

    if (channel->state == GRPC_CHANNEL_HANDSHAKE)
        err = FAIL(HANDSHAKE_TIMEOUT, 0);
    if (link != NULL) /* GREETING: it spoke no HTTP/2 */
        grpc_link_free(link);
    grpc_channel_failed(channel, err);
}

static void grpc_channel_begin_h2(struct grpc_channel *channel)
{
    struct grpc_link *link = mem_zalloc(sizeof(*link));

    link->channel = channel;
    list_init(&link->calls);
    list_add_tail(&channel->links, &link->link);
    channel->conn = link;
    grpc_channel_set_state(channel, GRPC_CHANNEL_GREETING);
    link->h2 = h2_new(channel->stream, false, channel->params.limits, &grpc_link_events, link);
    channel->stream = NULL;
}

/* A server that chose another protocol than h2 would not understand us. None chosen is let through:
 * its SETTINGS will tell. */
static err_t grpc_channel_check_alpn(SSL *ssl)
{
    const uint8_t *name;
    unsigned len;

    if (ssl == NULL) /* an own record layer has taken over */
        return OK;
    SSL_get0_alpn_selected(ssl, &name, &len);
    if (len != 0 && !bytes_equal_str(bytes_of(name, len), "h2"))
        return FAIL(H2_PROTOCOL, 0);
    return OK;
}

static void grpc_channel_on_handshake(void *arg, err_t err)
{
    struct grpc_channel *channel = arg;

    if (err_is_ok(err))
        err = grpc_channel_check_alpn(tls_ssl(channel->stream));
    err = grpc_channel_configured(channel, err);
    if (err_is_ok(err))
        grpc_channel_begin_h2(channel);
    else
        grpc_channel_failed(channel, err);
}

static void grpc_channel_configure(void *arg, SSL *ssl)
{
    struct grpc_channel *channel = arg;

    channel->configured = ssl;
    if (channel->params.configure != NULL)
        channel->params.configure(channel->params.arg, ssl);
}

/* No events are wanted while tls_handshake runs: it reports by its callback. */
static void grpc_channel_on_stray_read(void *arg, struct bytes data)
{
    (void)arg;
    (void)data;
}

static void grpc_channel_on_stray(void *arg)
{
    (void)arg;
}

static void grpc_channel_on_stray_error(void *arg, err_t err)
{
    struct grpc_channel *channel = arg;

    grpc_channel_failed(channel, grpc_channel_configured(channel, err));
}

static const struct stream_events grpc_channel_stream_events = {
    .on_read = grpc_channel_on_stray_read,
    .on_eof = grpc_channel_on_stray,
    .on_drained = grpc_channel_on_stray,
    .on_error = grpc_channel_on_stray_error,
};

/* Begins TLS on channel->stream. */
static err_t grpc_channel_begin_tls(struct grpc_channel *channel)
{
    SSL_CTX *ctx = channel->params.tls(channel->params.arg);
    struct tls_params params = {
        .ctx = ctx,
        .role = TLS_CLIENT,
        .server_name = channel->server_name,
        .configure = grpc_channel_configure,
        .arg = channel,
    };
    struct stream *tls;
    err_t err;

    if (ctx == NULL)
        return FAIL(SVID_MISSING, 0);
    err = tls_new(channel->stream, &params, &tls);
    SSL_CTX_free(ctx);
    if (!err_is_ok(err)) {
        channel->configured = NULL; /* the SSL is gone */
        return err;
    }
    channel->stream = tls;
    stream_set_events(tls, &grpc_channel_stream_events, channel);
    grpc_channel_set_state(channel, GRPC_CHANNEL_HANDSHAKE);
    tls_handshake(tls, grpc_channel_on_handshake, channel);
    return OK;
}

static void grpc_channel_next_addr(struct grpc_channel *channel, err_t last);

static void grpc_channel_on_connected(void *arg, err_t err, struct stream *stream)
{
    struct grpc_channel *channel = arg;

    channel->connect = NULL;
    if (!err_is_ok(err)) {
        grpc_channel_next_addr(channel, err);
        return;
    }
    channel->stream = stream;
    if (channel->params.tls == NULL) {
        grpc_channel_begin_h2(channel);
        return;
    }
    err = grpc_channel_begin_tls(channel);
    if (!err_is_ok(err))
        grpc_channel_failed(channel, err);
}

/* Tries the addresses of the name in turn; `last` says why the one before did not do. */
static void grpc_channel_next_addr(struct grpc_channel *channel, err_t last)
{
    while (channel->next_addr < channel->num_addrs) {
        const struct addr *addr = &channel->addrs[channel->next_addr++];
        /* Plaintext is for a socket file, whose permissions stand for TLS; the timer of the whole
         * attempt cuts the last address short. */
        bool allowed = channel->params.tls != NULL || addr->sa.any.sa_family == AF_UNIX;

        last = allowed ? tcp_connect(channel->loop, addr, channel->params.connect_timeout_ms,
                                     grpc_channel_on_connected, channel, &channel->connect)
                       : FAIL(TLS_CONFIG, 0);
        if (err_is_ok(last))
            return;
    }
    grpc_channel_failed(channel, last);
}

static void grpc_channel_on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct grpc_channel *channel = arg;

    channel->resolve = NULL;
    if (!err_is_ok(err)) {
        grpc_channel_failed(channel, err);
        return;
    }
    channel->num_addrs = num < RESOLVE_MAX ? num : RESOLVE_MAX;
    channel->next_addr = 0;
    /* Each attempt begins with another one: the first may take connections and not work. */
    for (size_t i = 0; i < channel->num_addrs; i++)
        channel->addrs[i] = addrs[(i + channel->backoff.attempts) % channel->num_addrs];
    grpc_channel_set_state(channel, GRPC_CHANNEL_CONNECTING);
    grpc_channel_next_addr(channel, FAIL(RESOLVE_FAILED, 0));
}

static void grpc_channel_connect(struct grpc_channel *channel)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &channel->waiting)
        LIST_ITEM(pos, struct grpc_client_call, link)->attempted = true;
    grpc_channel_set_state(channel, GRPC_CHANNEL_RESOLVING);
    timer_start(channel->loop, &channel->timer, channel->params.connect_timeout_ms,
                grpc_channel_on_timeout, channel);
    channel->resolve =
        resolve_start(channel->loop, channel->target, channel->params.connect_timeout_ms,
                      grpc_channel_on_resolved, channel);
}

/* ---- the channel ---- */

/* Brings waiting calls onto the connection, or makes one for them. */
static void grpc_channel_serve(struct grpc_channel *channel)
{
    struct grpc_link *conn = channel->conn;
    err_t err = OK;

    while (channel->state != GRPC_CHANNEL_CLOSED && !list_empty(&channel->waiting)) {
        struct list *first = channel->waiting.next;

        if (conn == NULL && channel->state == GRPC_CHANNEL_IDLE)
            grpc_channel_connect(channel);
        if (conn == NULL || !conn->ready || conn != channel->conn)
            return;
        err = grpc_cc_start(LIST_ITEM(first, struct grpc_client_call, link), conn);
        if (err_is(err, E_H2_GOAWAY)) /* all its stream ids are used up */
            grpc_link_on_goaway(conn);
        if (!err_is_ok(err)) /* at the server's limit of streams: served again when one ends */
            return;
    }
}

static void grpc_channel_on_serve(void *arg)
{
    struct grpc_channel *channel = arg;

    channel->serving = false;
    grpc_channel_serve(channel);
}

static void grpc_channel_schedule(struct grpc_channel *channel)
{
    if (channel->serving || channel->state == GRPC_CHANNEL_CLOSED)
        return;
    channel->serving = true;
    loop_defer(channel->loop, grpc_channel_on_serve, channel);
}

/* What stands for the server in :authority: its name, or "localhost" for a socket file. */
static char *grpc_channel_authority(const struct grpc_channel_params *params)
{
    if (params->authority != NULL)
        return mem_strdup(params->authority);
    if (strncmp(params->target, "unix:", 5) == 0)
        return mem_strdup("localhost");
    return mem_strdup(params->target);
}

struct grpc_channel *grpc_channel_new(struct loop *loop, const struct grpc_channel_params *params)
{
    struct grpc_channel *channel = mem_zalloc(sizeof(*channel));

    channel->loop = loop;
    channel->params = *params;
    channel->target = mem_strdup(params->target);
    channel->authority = grpc_channel_authority(params);
    if (params->server_name != NULL)
        channel->server_name = mem_strdup(params->server_name);
    if (channel->params.connect_timeout_ms == 0)
        channel->params.connect_timeout_ms = GRPC_CONNECT_MS;
    channel->backoff.base_ms =
        params->backoff_base_ms != 0 ? params->backoff_base_ms : GRPC_BACKOFF_BASE_MS;
    channel->backoff.max_ms =
        params->backoff_max_ms != 0 ? params->backoff_max_ms : GRPC_BACKOFF_MAX_MS;
    channel->last_err = OK;
    list_init(&channel->links);
    list_init(&channel->waiting);
    list_init(&channel->refused);
    return channel;
}

static void grpc_channel_free(void *arg)
{
    struct grpc_channel *channel = arg;

    mem_free(channel->target);
    mem_free(channel->authority);
    mem_free(channel->server_name);
    mem_free(channel);
}

static void grpc_channel_drop_calls(struct list *calls)
{
    while (!list_empty(calls))
        grpc_cc_detach(LIST_ITEM(calls->next, struct grpc_client_call, link), 0x8);
}

void grpc_channel_close(struct grpc_channel *channel)
{
    grpc_channel_abort(channel);
    grpc_channel_set_state(channel, GRPC_CHANNEL_CLOSED);
    grpc_channel_drop_calls(&channel->waiting);
    grpc_channel_drop_calls(&channel->refused);
    while (!list_empty(&channel->links)) {
        struct grpc_link *link = LIST_ITEM(channel->links.next, struct grpc_link, link);

        grpc_channel_drop_calls(&link->calls);
        grpc_link_free(link);
    }
    /* A round of deferred calls may still bring grpc_channel_on_serve before this. */
    loop_defer(channel->loop, grpc_channel_free, channel);
}

void grpc_channel_reconnect(struct grpc_channel *channel)
{
    struct grpc_link *link = channel->conn;

    channel->conn = NULL;
    if (channel->state == GRPC_CHANNEL_GREETING && link != NULL)
        grpc_link_free(link); /* it carries no call yet */
    else if (link != NULL)
        h2_goaway(link->h2);
    if (channel->state != GRPC_CHANNEL_IDLE) {
        grpc_channel_abort(channel);
        grpc_channel_set_state(channel, GRPC_CHANNEL_IDLE);
    }
    grpc_channel_schedule(channel);
}

/* ---- calls: the beginning ---- */

static struct grpc_client_call *grpc_cc_new(struct grpc_channel *channel, const char *path,
                                            const ProtobufCMessageDescriptor *reply,
                                            size_t max_message, uint64_t deadline_ms)
{
    struct grpc_client_call *call = mem_zalloc(sizeof(*call));
    const struct h2_limits *limits =
        channel->params.limits != NULL ? channel->params.limits : &h2_limits_default;

    call->channel = channel;
    call->path = mem_strdup(path);
    call->reply = reply;
    buf_init(&call->out, limits->out_bytes);
    grpc_decoder_init(&call->decoder, max_message);
    if (deadline_ms > GRPC_DEADLINE_MAX_MS)
        deadline_ms = GRPC_DEADLINE_MAX_MS;
    if (deadline_ms != 0) {
        call->deadline_at_ms = loop_now_ms(channel->loop) + deadline_ms;
        timer_start(channel->loop, &call->deadline, deadline_ms, grpc_cc_on_deadline, call);
    }
    list_add_tail(&channel->waiting, &call->link);
    grpc_channel_schedule(channel);
    return call;
}

/* The message as a gRPC frame. */
static err_t grpc_cc_frame(const ProtobufCMessage *msg, struct buf *out)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t *prefix;

    TRY(buf_reserve(out, len + 5, &prefix));
    prefix[0] = 0;
    put_be32(prefix + 1, (uint32_t)len);
    buf_commit(out, 5);
    return pb_pack(msg, out);
}

static void grpc_cc_on_too_large(void *arg)
{
    struct grpc_client_call *call = arg;

    grpc_cc_fail(call, GRPC_RESOURCE_EXHAUSTED, FAIL(TOO_LARGE, call->out.max));
}

struct grpc_client_call *grpc_unary(struct grpc_channel *channel, const char *path,
                                    const ProtobufCMessage *request,
                                    const ProtobufCMessageDescriptor *reply, uint64_t deadline_ms,
                                    grpc_unary_cb cb, void *arg)
{
    struct grpc_client_call *call = grpc_cc_new(channel, path, reply, GRPC_REPLY_MAX, deadline_ms);

    call->unary = true;
    call->unary_cb = cb;
    call->arg = arg;
    call->out_end = true;
    if (!err_is_ok(grpc_cc_frame(request, &call->out))) {
        /* Told from the loop, as all is; it waits in no queue meanwhile. */
        list_del(&call->link);
        list_add_tail(&channel->refused, &call->link);
        timer_start(channel->loop, &call->deadline, 0, grpc_cc_on_too_large, call);
    }
    return call;
}

struct grpc_client_call *grpc_stream_open(struct grpc_channel *channel, const char *path,
                                          const ProtobufCMessageDescriptor *reply,
                                          size_t max_message, uint64_t deadline_ms,
                                          const struct grpc_stream_events *events, void *arg)
{
    struct grpc_client_call *call = grpc_cc_new(channel, path, reply, max_message, deadline_ms);

    call->events = events;
    call->arg = arg;
    return call;
}

err_t grpc_stream_send(struct grpc_client_call *call, const ProtobufCMessage *msg)
{
    struct buf frame = {NULL, 0, 0, 0, 0};
    err_t err;

    if (call->state == GRPC_CC_DONE || call->out_end)
        return FAIL(CLOSED, 0);
    buf_init(&frame, call->out.max);
    err = grpc_cc_frame(msg, &frame);
    if (err_is_ok(err) && call->state == GRPC_CC_OPEN)
        err = h2_send(call->stream, buf_view(&frame), false);
    else if (err_is_ok(err))
        err = buf_add(&call->out, buf_view(&frame).ptr, buf_size(&frame));
    buf_fini(&frame);
    return err_is(err, E_TOO_LARGE) ? FAIL(LIMIT, call->out.max) : err;
}

void grpc_stream_half_close(struct grpc_client_call *call)
{
    if (call->state == GRPC_CC_DONE || call->out_end)
        return;
    call->out_end = true;
    if (call->state == GRPC_CC_OPEN && !err_is_ok(h2_send(call->stream, bytes_of(NULL, 0), true)))
        return; /* over on the wire: on_done follows */
}

void grpc_client_cancel(struct grpc_client_call *call)
{
    if (call->state != GRPC_CC_DONE)
        grpc_cc_detach(call, 0x8 /* CANCEL */);
}
