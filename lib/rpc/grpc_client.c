#include "lib/rpc/grpc_client.h"

#include <stdio.h>

#include "lib/base/mem.h"
#include "lib/rpc/grpc_client_impl.h"
#include "lib/rpc/pb.h"

#define GRPC_REPLY_MAX ((size_t)4 << 20) /* of a unary call; gRPC's own default */
#define GRPC_REPLAYS_MAX 3               /* of a call that the server said it had not begun */
#define GRPC_DEADLINE_MAX_MS ((uint64_t)1 << 40)

static const unsigned grpc_cc_next[GRPC_CC_NUM] = {
    [GRPC_CC_WAITING] = 1u << GRPC_CC_OPEN | 1u << GRPC_CC_DONE,
    [GRPC_CC_OPEN] = 1u << GRPC_CC_WAITING | 1u << GRPC_CC_DONE, /* WAITING: replayed */
    [GRPC_CC_DONE] = 0,
};

static void grpc_cc_set_state(struct grpc_client_call *call, enum grpc_cc_state state)
{
    CHECK((grpc_cc_next[call->state] & 1u << state) != 0);
    call->state = state;
}

/* ---- the end ---- */

static void grpc_cc_free(void *arg)
{
    struct grpc_client_call *call = arg;

    buf_wipe_fini(&call->out);
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
void grpc_cc_fail(struct grpc_client_call *call, enum grpc_status status, err_t err)
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

/* A call on the connection got an answer. If it is the one in use the backoff begins anew: waiting
 * for its failure would be too late, when a reconnect takes its place before. */
static void grpc_cc_prove(struct grpc_link *link)
{
    link->proven = true;
    if (link->channel->conn == link)
        backoff_reset(&link->channel->backoff);
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
    grpc_cc_prove(call->conn);
    grpc_cc_finish(call, call->status,
                   call->status == GRPC_OK ? OK : FAIL(GRPC_STATUS, call->status), call->message,
                   0);
}

/* ---- sending ---- */

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
    struct h2_header headers[10] = {
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
    if (channel->authorization != NULL)
        headers[num++] = grpc_cc_header("authorization", channel->authorization);
    return h2_request(conn->h2, headers, num, false, call, &call->stream);
}

/* Begins the call on the connection. Errors: those of h2_request; the call still waits then. */
err_t grpc_cc_start(struct grpc_client_call *call, struct grpc_link *conn)
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
            buf_wipe_fini(&call->out);
    }
    if (!call->unary && call->events->on_open != NULL)
        call->events->on_open(call->arg);
    return OK;
}

/* ---- receiving ---- */

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

void grpc_cc_on_headers(struct grpc_client_call *call, const struct h2_header *headers, size_t num,
                        bool trailers, bool end)
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
        grpc_cc_prove(call->conn);
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

static void grpc_cc_decode(struct grpc_client_call *call, struct bytes data)
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

void grpc_cc_on_data(struct grpc_client_call *call, struct bytes data, bool end)
{
    if (data.len != 0)
        grpc_cc_decode(call, data);
    if (end && call->state == GRPC_CC_OPEN) /* ended without trailers */
        grpc_cc_complete(call);
}

void grpc_cc_on_close(struct grpc_client_call *call, err_t err)
{
    if (err_is(err, E_H2_STREAM_RESET) && err.sub == 0x7 && grpc_cc_replay(call))
        return; /* REFUSED_STREAM: nothing was done */
    call->stream = NULL;
    if (err_is_ok(err))
        grpc_cc_complete(call);
    else
        grpc_cc_finish(call, grpc_status_of_err(err), err, err_text(err.code), 0);
}

/* ---- the beginning ---- */

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
    buf_wipe_fini(&frame);
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

void grpc_cc_drop(struct grpc_client_call *call)
{
    grpc_cc_detach(call, 0x8 /* CANCEL */);
}

void grpc_client_cancel(struct grpc_client_call *call)
{
    if (call->state != GRPC_CC_DONE)
        grpc_cc_drop(call);
}
