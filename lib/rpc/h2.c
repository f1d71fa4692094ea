#include "lib/rpc/h2.h"

#include <stdio.h>

#include <nghttp2/nghttp2.h>

#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/rpc/h2_flood.h"
#include "lib/rpc/h2_head.h"

/* Rules that keep us out of the library's old faults:
 * - our callbacks for nghttp2 return no error: a stream-close callback that did leaked
 * (CVE-2023-35945); what is wrong is noted in h2->fault and acted on when nghttp2 has returned;
 * - a session that was given up is neither fed nor asked for frames again (CVE-2026-27135): its
 * GOAWAY is written by hand;
 * - extension frames (ALTSVC, ORIGIN, PRIORITY_UPDATE) are not switched on: they are skipped
 * unread;
 * - floods are counted by h2_flood, frame by frame, since the library's own limits differ by
 * version. */

#define H2_FEED ((size_t)4096) /* bytes between two looks at h2->fault: 455 empty frames */
#define H2_WRITE_BATCH ((size_t)64 << 10)
#define H2_OUT_KEEP ((size_t)4096) /* a write buffer beyond that is released when it is empty */
#define H2_STALL_MS 30000          /* the peer reads nothing of what is queued */
#define H2_NOTICE_MS 1000          /* for the PING between the two GOAWAY of an orderly end */
#define H2_LINGER_MS 1000          /* for the peer to read our GOAWAY */
#define H2_LINGER_BYTES ((size_t)1 << 20)
#define H2_QUEUE_MAX 1000     /* frames nghttp2 holds while the peer does not read */
#define H2_OUT_HEADERS_MAX 32 /* of one block of ours */
#define H2_OUT_HEADERS_SIZE (64 << 10)

const struct h2_limits h2_limits_default = {
    .max_streams = 100,
    .stream_window = 256 << 10,
    .connection_window = 1 << 20,
    .header_bytes = 16 << 10,
    .header_count = 64,
    .resets_per_s = 100,
    .pings_per_s = 20,
    .keepalive_ms = 20000,
    .keepalive_timeout_ms = 10000,
    .out_bytes = 4 << 20,
};

enum h2_state {
    H2_OPEN,
    H2_NOTICE,   /* server: "no new requests" is said; those on their way are still taken */
    H2_DRAINING, /* the final GOAWAY is said; ends with the last stream */
    H2_LINGER,   /* over; our direction is ended, the peer's is read and dropped */
    H2_BROKEN,   /* on_broken was called: the user closes */
    H2_CLOSED,
    H2_NUM,
};

#define TO(state) (1u << H2_##state)
static const unsigned h2_next[H2_NUM] = {
    [H2_OPEN] = TO(NOTICE) | TO(DRAINING) | TO(LINGER) | TO(BROKEN) | TO(CLOSED),
    [H2_NOTICE] = TO(DRAINING) | TO(LINGER) | TO(BROKEN) | TO(CLOSED),
    [H2_DRAINING] = TO(LINGER) | TO(BROKEN) | TO(CLOSED),
    [H2_LINGER] = TO(BROKEN) | TO(CLOSED),
    [H2_BROKEN] = TO(CLOSED),
    [H2_CLOSED] = 0,
};
#undef TO

struct h2 {
    struct stream *lower;
    struct loop *loop;
    nghttp2_session *session;
    bool server;
    struct h2_limits limits;
    const struct h2_events *events;
    void *arg;
    enum h2_state state;
    struct list streams;
    size_t num_streams;
    struct list writable; /* streams whose queue became empty: on_writable is due */
    struct timer timer;
    struct buf out;     /* what one write takes */
    size_t queued;      /* DATA in the streams' queues */
    bool pump_due;      /* h2_on_pump is deferred */
    bool reading;       /* begun, after our SETTINGS: they come before anything else */
    bool peer_settings; /* seen */
    bool peer_goaway;
    err_t fault;          /* found inside a callback; acted on outside */
    uint32_t fault_code;  /* HTTP/2 error code for the GOAWAY */
    uint32_t goaway_sent; /* by nghttp2 on its own: its error code */
    uint32_t goaway_code; /* of the peer */
    err_t end_err;        /* what on_broken will say, while lingering */
    size_t lingered;
    uint64_t last_read_ms;
    uint64_t ping_ms;    /* our keepalive PING is out since; 0: none */
    uint64_t stalled_ms; /* a write is not taken since; 0: none */
    uint64_t state_ms;   /* the state began */
    struct h2_flood flood;
    struct h2_head head; /* the header block in hand: blocks never interleave */
};

struct h2_stream {
    struct list link;
    struct list writable;
    struct h2 *h2;
    int32_t id;
    void *data;
    struct buf out;
    struct h2_head trailers;
    bool known;        /* to the user, who then hears of its end */
    bool end;          /* nothing will be added to out: END_STREAM follows it */
    bool has_trailers; /* they carry END_STREAM */
    bool responded;    /* server: h2_respond was called; client: the final response came */
    bool local_end;    /* END_STREAM was sent */
    bool remote_end;   /* END_STREAM came */
    bool reset;        /* by the user, or for an end in order */
    size_t unconsumed; /* DATA delivered and not yet consumed */
};

static void h2_arm(struct h2 *h2);
static void h2_schedule(struct h2 *h2);
static void h2_end(struct h2 *h2, err_t err, uint32_t code);

static bool h2_is_live(const struct h2 *h2)
{
    return h2->state == H2_OPEN || h2->state == H2_NOTICE || h2->state == H2_DRAINING;
}

static void h2_set_state(struct h2 *h2, enum h2_state state)
{
    CHECK((h2_next[h2->state] & 1u << state) != 0);
    h2->state = state;
    h2->state_ms = loop_now_ms(h2->loop);
    if (state == H2_BROKEN || state == H2_CLOSED)
        timer_stop(h2->loop, &h2->timer);
    else
        h2_arm(h2);
}

/* Notes the first fault; nghttp2 is on the stack. */
static void h2_fault(struct h2 *h2, err_t err, uint32_t code)
{
    if (!err_is_ok(h2->fault))
        return;
    h2->fault = err;
    h2->fault_code = code;
}

static void h2_flooded(struct h2 *h2)
{
    h2_fault(h2, FAIL(H2_FLOOD, 0), NGHTTP2_ENHANCE_YOUR_CALM);
}

static void h2_count_reset(struct h2 *h2)
{
    if (h2_flood_reset(&h2->flood, loop_now_ms(h2->loop)))
        h2_flooded(h2);
}

/* ---- streams ---- */

static struct h2_stream *h2_stream_new(struct h2 *h2, int32_t id)
{
    struct h2_stream *stream = mem_try(sizeof(*stream));

    if (stream == NULL)
        return NULL;
    stream->h2 = h2;
    stream->id = id;
    list_init(&stream->writable);
    list_add_tail(&h2->streams, &stream->link);
    h2->num_streams++;
    return stream;
}

static void h2_stream_free(struct h2_stream *stream)
{
    struct h2 *h2 = stream->h2;

    h2->queued -= buf_size(&stream->out);
    h2->num_streams--;
    list_del(&stream->link);
    list_del(&stream->writable);
    buf_fini(&stream->out);
    h2_head_clear(&stream->trailers);
    mem_free(stream);
}

/* The stream is over: tells the user, and gives back the connection's window that it held. */
static void h2_stream_over(struct h2_stream *stream, err_t err)
{
    struct h2 *h2 = stream->h2;

    if (h2_is_live(h2)) {
        (void)nghttp2_session_set_stream_user_data(h2->session, stream->id, NULL);
        if (stream->unconsumed != 0)
            (void)nghttp2_session_consume_connection(h2->session, stream->unconsumed);
        stream->unconsumed = 0;
    }
    if (h2->state != H2_CLOSED && stream->known)
        h2->events->on_close(h2->arg, stream, err);
    h2_stream_free(stream);
}

static struct h2_stream *h2_find(struct h2 *h2, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h2->session, id);
}

/* ---- header blocks ---- */

/* A response of 1xx comes before the real one and is passed over. */
static bool h2_is_interim(const struct h2_header *headers, size_t num)
{
    return num != 0 && bytes_equal_str(headers[0].name, ":status") && headers[0].value.len == 3 &&
           headers[0].value.ptr[0] == '1';
}

static void h2_deliver_head(struct h2 *h2, struct h2_stream *stream, bool request, bool end)
{
    struct h2_header *headers;
    bool trailers;

    if (h2->head.too_large) {
        /* The block was decoded, as HPACK's state wants, and dropped. */
        h2_count_reset(h2);
        h2_stream_reset(stream, NGHTTP2_ENHANCE_YOUR_CALM);
        return;
    }
    headers = h2_head_list(&h2->head);
    trailers = h2->server ? !request : stream->responded;
    if (h2->server || !h2_is_interim(headers, h2->head.num)) {
        if (!h2->server)
            stream->responded = true;
        stream->known = true;
        stream->remote_end = end;
        h2->events->on_headers(h2->arg, stream, headers, h2->head.num, trailers, end);
    }
    mem_free(headers);
}

/* ---- callbacks of nghttp2 ---- */

static int h2_on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *arg)
{
    struct h2 *h2 = arg;
    bool live = h2_find(h2, hd->stream_id) != NULL;
    bool asked = h2->ping_ms != 0 || h2->state == H2_NOTICE;

    (void)session;
    if (h2_flood_received(&h2->flood, loop_now_ms(h2->loop), hd, live, asked))
        h2_flooded(h2);
    return 0;
}

static int h2_on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream;

    h2_head_clear(&h2->head);
    if (!h2->server || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    stream = h2_stream_new(h2, frame->hd.stream_id);
    if (stream == NULL || !err_is_ok(h2->fault)) {
        (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                        NGHTTP2_REFUSED_STREAM);
        if (stream != NULL)
            h2_stream_free(stream);
        return 0;
    }
    (void)nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
    return 0;
}

static int h2_on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                        size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags,
                        void *arg)
{
    (void)session;
    (void)frame;
    (void)flags;
    h2_head_add(&((struct h2 *)arg)->head, bytes_of(name, name_len), bytes_of(value, value_len));
    return 0;
}

static void h2_on_ping_ack(struct h2 *h2)
{
    h2->ping_ms = 0;
    if (h2->state == H2_NOTICE) {
        /* Requests that were on their way have come by now. */
        h2_set_state(h2, H2_DRAINING);
        (void)nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE,
                                    nghttp2_session_get_last_proc_stream_id(h2->session),
                                    NGHTTP2_NO_ERROR, NULL, 0);
    }
}

static void h2_on_peer_goaway(struct h2 *h2, const nghttp2_goaway *goaway)
{
    h2->goaway_code = goaway->error_code;
    if (h2->peer_goaway)
        return;
    h2->peer_goaway = true;
    if (goaway->error_code != NGHTTP2_NO_ERROR)
        log_debug("h2", "goaway", LOG_UINT("code", goaway->error_code),
                  LOG_BYTES("text", bytes_of(goaway->opaque_data, goaway->opaque_data_len)));
    h2->events->on_goaway(h2->arg);
}

static int h2_on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream;
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;

    (void)session;
    if (!err_is_ok(h2->fault) || !h2_is_live(h2))
        return 0; /* the user hears no more of it */
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        stream = h2_find(h2, frame->hd.stream_id);
        if (stream != NULL)
            h2_deliver_head(h2, stream, frame->headers.cat == NGHTTP2_HCAT_REQUEST, end);
        h2_head_clear(&h2->head);
        break;
    case NGHTTP2_DATA:
        stream = h2_find(h2, frame->hd.stream_id);
        if (end && stream != NULL && !stream->reset) {
            stream->remote_end = true;
            h2->events->on_data(h2->arg, stream, bytes_of(NULL, 0), true);
        }
        break;
    case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0 && !h2->peer_settings) {
            h2->peer_settings = true;
            if (h2->events->on_ready != NULL)
                h2->events->on_ready(h2->arg);
        }
        break;
    case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0)
            h2_on_ping_ack(h2);
        break;
    case NGHTTP2_GOAWAY:
        h2_on_peer_goaway(h2, &frame->goaway);
        break;
    default:
        break;
    }
    return 0;
}

static int h2_on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id,
                            const uint8_t *data, size_t len, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream = h2_find(h2, id);

    (void)flags;
    if (stream == NULL || stream->reset || !err_is_ok(h2->fault) || !h2_is_live(h2)) {
        (void)nghttp2_session_consume_connection(session, len);
        return 0;
    }
    stream->unconsumed += len;
    h2->events->on_data(h2->arg, stream, bytes_of(data, len), false);
    return 0;
}

static int h2_on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream = h2_find(h2, id);
    err_t err = OK;

    (void)session;
    if (stream == NULL)
        return 0;
    /* NO_ERROR with the peer's END_STREAM is an end in order, also when ours was not sent. */
    if (code != NGHTTP2_NO_ERROR || !stream->remote_end)
        err = FAIL(H2_STREAM_RESET, code);
    if (code == NGHTTP2_NO_ERROR && h2->server && stream->local_end)
        err = OK; /* answered before the request was complete */
    h2_stream_over(stream, err);
    return 0;
}

static int h2_on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream = h2_find(h2, frame->hd.stream_id);

    switch (frame->hd.type) {
    case NGHTTP2_DATA:
    case NGHTTP2_HEADERS:
        h2_flood_answered(&h2->flood);
        if (stream == NULL || (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
            break;
        stream->local_end = true;
        /* The answer is out; what the client may still send is not wanted (RFC 9113 section 8.1).
         */
        if (h2->server && !stream->remote_end && !stream->reset) {
            stream->reset = true;
            (void)nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, stream->id,
                                            NGHTTP2_NO_ERROR);
        }
        break;
    case NGHTTP2_RST_STREAM:
        /* Resets that the peer's faults made nghttp2 send cost like those of the peer itself
         * (CVE-2025-8671). */
        if (stream == NULL || !stream->reset)
            h2_count_reset(h2);
        break;
    case NGHTTP2_GOAWAY:
        if (frame->goaway.error_code != NGHTTP2_NO_ERROR)
            h2->goaway_sent = frame->goaway.error_code;
        break;
    default:
        break;
    }
    return 0;
}

/* A request that could not even be sent has no stream that could close. */
static int h2_on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int code,
                                void *arg)
{
    struct h2 *h2 = arg;
    struct list *pos, *tmp;

    (void)session;
    (void)code;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    LIST_EACH (pos, tmp, &h2->streams) {
        struct h2_stream *stream = LIST_ITEM(pos, struct h2_stream, link);

        if (stream->id == frame->hd.stream_id) {
            h2_stream_over(stream, stream->reset ? FAIL(H2_STREAM_RESET, NGHTTP2_CANCEL)
                                                 : FAIL(H2_STREAM_RESET, NGHTTP2_REFUSED_STREAM));
            break;
        }
    }
    return 0;
}

static void h2_submit_trailers(struct h2_stream *stream);

static ssize_t h2_on_pull(nghttp2_session *session, int32_t id, uint8_t *to, size_t len,
                          uint32_t *flags, nghttp2_data_source *source, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream = source->ptr;
    size_t have = buf_size(&stream->out);
    size_t take = have < len ? have : len;

    (void)session;
    (void)id;
    if (take == 0 && !stream->end)
        return NGHTTP2_ERR_DEFERRED;
    if (take != 0) {
        memcpy(to, buf_view(&stream->out).ptr, take);
        buf_consume(&stream->out, take);
        h2->queued -= take;
        if (take == have) {
            buf_fini(&stream->out);
            if (!stream->end && list_empty(&stream->writable))
                list_add_tail(&h2->writable, &stream->writable);
        }
    }
    if (take == have && stream->end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (stream->has_trailers) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            h2_submit_trailers(stream);
        }
    }
    return (ssize_t)take;
}

/* ---- reading and writing ---- */

/* A GOAWAY frame by hand, for a session that must not be used any more. */
static void h2_write_goaway(struct h2 *h2, uint32_t code)
{
    uint8_t frame[17] = {0, 0, 8, NGHTTP2_GOAWAY};

    put_be32(frame + 9, (uint32_t)nghttp2_session_get_last_proc_stream_id(h2->session));
    put_be32(frame + 13, code);
    if (!err_is_ok(stream_write(h2->lower, bytes_of(frame, sizeof(frame)))))
        return; /* broken anyhow */
}

static void h2_close_streams(struct h2 *h2, err_t err)
{
    while (!list_empty(&h2->streams) && h2->state != H2_CLOSED)
        h2_stream_over(LIST_ITEM(h2->streams.next, struct h2_stream, link), err);
}

static void h2_broken(struct h2 *h2, err_t err)
{
    if (h2->state == H2_CLOSED || h2->state == H2_BROKEN)
        return;
    h2_set_state(h2, H2_BROKEN);
    h2_close_streams(h2, err_is_ok(err) ? FAIL(CLOSED, 0) : err);
    if (h2->state == H2_CLOSED)
        return;
    stream_read_stop(h2->lower);
    h2->events->on_broken(h2->arg, err);
}

/* Ends the connection, with a GOAWAY of `code` unless nghttp2 has sent one: streams are over now,
 * on_broken comes when the peer has had time to read it. */
static void h2_end(struct h2 *h2, err_t err, uint32_t code)
{
    if (!h2_is_live(h2))
        return;
    if (code != NGHTTP2_NO_ERROR)
        h2_write_goaway(h2, code);
    h2->end_err = err;
    h2_set_state(h2, H2_LINGER);
    h2_close_streams(h2, err_is_ok(err) ? FAIL(CLOSED, 0) : err);
    if (h2->state == H2_CLOSED)
        return;
    if (!err_is_ok(stream_shutdown(h2->lower)))
        h2_broken(h2, err);
}

/* Is there nothing left that either side could want? */
static void h2_check_end(struct h2 *h2)
{
    if (!h2_is_live(h2))
        return;
    if (!err_is_ok(h2->fault)) {
        h2_end(h2, h2->fault, h2->fault_code);
    } else if (h2->goaway_sent != 0) {
        h2_end(h2, FAIL(H2_PROTOCOL, h2->goaway_sent), NGHTTP2_NO_ERROR);
    } else if (h2->state == H2_DRAINING && h2->num_streams == 0 &&
               !nghttp2_session_want_write(h2->session)) {
        h2_end(h2, OK, NGHTTP2_NO_ERROR);
    } else if (!nghttp2_session_want_read(h2->session) &&
               !nghttp2_session_want_write(h2->session)) {
        h2_end(h2, h2->goaway_code == NGHTTP2_NO_ERROR ? OK : FAIL(H2_GOAWAY, h2->goaway_code),
               NGHTTP2_NO_ERROR);
    }
}

/* Collects frames for one write. False when there are none. */
static bool h2_collect(struct h2 *h2)
{
    const uint8_t *data;
    ssize_t len = 0;

    while (buf_size(&h2->out) < H2_WRITE_BATCH && err_is_ok(h2->fault)) {
        len = nghttp2_session_mem_send(h2->session, &data);
        if (len <= 0)
            break;
        /* A batch, one frame more, and a header block of ours: below the buffer's maximum. */
        if (!err_is_ok(buf_add(&h2->out, data, (size_t)len)))
            len = NGHTTP2_ERR_NOMEM;
    }
    if (len < 0)
        h2_fault(h2, FAIL(H2_PROTOCOL, len), NGHTTP2_INTERNAL_ERROR);
    return buf_size(&h2->out) != 0;
}

static void h2_call_writable(struct h2 *h2)
{
    while (!list_empty(&h2->writable) && h2_is_live(h2)) {
        struct h2_stream *stream = LIST_ITEM(h2->writable.next, struct h2_stream, writable);

        list_del(&stream->writable);
        if (buf_size(&stream->out) == 0)
            h2->events->on_writable(h2->arg, stream);
    }
}

/* Writes what nghttp2 wants to send while the lower stream takes it at once. */
static void h2_pump(struct h2 *h2)
{
    while (h2_is_live(h2) && h2->lower->queued == 0 && h2_collect(h2)) {
        err_t err = stream_write(h2->lower, buf_view(&h2->out));

        buf_clear(&h2->out);
        if (!err_is_ok(err)) {
            h2_broken(h2, err);
            return;
        }
        h2_call_writable(h2);
    }
    if (h2->out.cap > H2_OUT_KEEP)
        buf_fini(&h2->out);
    if (!h2_is_live(h2))
        return;
    if (h2->lower->queued != 0 && h2->stalled_ms == 0) {
        h2->stalled_ms = loop_now_ms(h2->loop);
        h2_arm(h2);
    }
    /* While the peer does not read, its frames make nghttp2 queue answers. */
    if (nghttp2_session_get_outbound_queue_size(h2->session) >
        H2_QUEUE_MAX + (size_t)h2->limits.max_streams)
        h2_flooded(h2);
    h2_check_end(h2);
}

static void h2_on_pump(void *arg)
{
    struct h2 *h2 = arg;

    h2->pump_due = false;
    h2_pump(h2);
    if (!h2->reading && h2_is_live(h2)) {
        h2->reading = true;
        stream_read_start(h2->lower);
    }
}

/* All that a batch of events brings about leaves in one write at its end. */
static void h2_schedule(struct h2 *h2)
{
    if (h2->pump_due || !h2_is_live(h2))
        return;
    h2->pump_due = true;
    loop_defer(h2->loop, h2_on_pump, h2);
}

static void h2_recv_failed(struct h2 *h2, ssize_t code)
{
    if (code == NGHTTP2_ERR_FLOODED)
        h2_fault(h2, FAIL(H2_FLOOD, code), NGHTTP2_ENHANCE_YOUR_CALM);
    else if (code == NGHTTP2_ERR_NOMEM)
        h2_fault(h2, FAIL(NO_MEMORY, 0), NGHTTP2_INTERNAL_ERROR);
    else
        h2_fault(h2, FAIL(H2_PROTOCOL, code), NGHTTP2_PROTOCOL_ERROR);
}

static void h2_on_read(void *arg, struct bytes data)
{
    struct h2 *h2 = arg;

    h2->last_read_ms = loop_now_ms(h2->loop);
    if (h2->state == H2_LINGER) {
        h2->lingered += data.len;
        if (h2->lingered > H2_LINGER_BYTES)
            h2_broken(h2, h2->end_err);
        return;
    }
    while (data.len != 0 && h2_is_live(h2) && err_is_ok(h2->fault)) {
        size_t len = data.len < H2_FEED ? data.len : H2_FEED;
        ssize_t used = nghttp2_session_mem_recv(h2->session, data.ptr, len);

        if (used < 0) {
            h2_recv_failed(h2, used);
            break;
        }
        data.ptr += used;
        data.len -= (size_t)used;
    }
    if (!err_is_ok(h2->fault))
        h2_check_end(h2);
    h2_schedule(h2);
}

static void h2_on_eof(void *arg)
{
    struct h2 *h2 = arg;

    if (h2->state == H2_LINGER)
        h2_broken(h2, h2->end_err);
    else if (h2->num_streams == 0 && (h2->peer_goaway || h2->state == H2_DRAINING))
        h2_broken(h2, OK);
    else
        h2_broken(h2, FAIL(CLOSED, 0));
}

static void h2_on_drained(void *arg)
{
    struct h2 *h2 = arg;

    h2->stalled_ms = 0;
    h2_schedule(h2);
}

static void h2_on_error(void *arg, err_t err)
{
    struct h2 *h2 = arg;

    h2_broken(h2, h2->state == H2_LINGER ? h2->end_err : err);
}

static const struct stream_events h2_stream_events = {
    .on_read = h2_on_read,
    .on_eof = h2_on_eof,
    .on_drained = h2_on_drained,
    .on_error = h2_on_error,
};

/* ---- time ---- */

static void h2_on_timer(void *arg);

static uint64_t h2_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* The next moment at which something may be due. What was received meanwhile only moves it away, so
 * the timer is not touched for each read. */
static uint64_t h2_due_ms(const struct h2 *h2)
{
    uint64_t due_ms = UINT64_MAX;

    if (h2->state == H2_LINGER)
        return h2->state_ms + H2_LINGER_MS;
    if (h2->state == H2_NOTICE)
        due_ms = h2->state_ms + H2_NOTICE_MS;
    if (h2->stalled_ms != 0)
        due_ms = h2_min(due_ms, h2->stalled_ms + H2_STALL_MS);
    if (h2->limits.keepalive_ms != 0)
        due_ms = h2_min(due_ms, h2->ping_ms != 0 ? h2->ping_ms + h2->limits.keepalive_timeout_ms
                                                 : h2->last_read_ms + h2->limits.keepalive_ms);
    return due_ms;
}

static void h2_arm(struct h2 *h2)
{
    uint64_t now_ms = loop_now_ms(h2->loop);
    uint64_t due_ms = h2_due_ms(h2);

    if (due_ms != UINT64_MAX)
        timer_start(h2->loop, &h2->timer, due_ms > now_ms ? due_ms - now_ms : 0, h2_on_timer, h2);
}

static void h2_keepalive(struct h2 *h2, uint64_t now_ms)
{
    if (h2->limits.keepalive_ms == 0)
        return;
    if (h2->ping_ms != 0 && h2->last_read_ms > h2->ping_ms)
        h2->ping_ms = 0; /* anything at all proves the peer alive */
    if (h2->ping_ms != 0) {
        if (now_ms - h2->ping_ms >= h2->limits.keepalive_timeout_ms)
            h2_broken(h2, FAIL(TIMEOUT, 0));
    } else if (now_ms - h2->last_read_ms >= h2->limits.keepalive_ms) {
        h2->ping_ms = now_ms;
        (void)nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL);
        h2_schedule(h2);
    }
}

static void h2_on_timer(void *arg)
{
    struct h2 *h2 = arg;
    uint64_t now_ms = loop_now_ms(h2->loop);

    if (h2->state == H2_LINGER) {
        h2_broken(h2, h2->end_err);
        return;
    }
    if (h2->stalled_ms != 0 && now_ms - h2->stalled_ms >= H2_STALL_MS) {
        h2_broken(h2, FAIL(SLOW_PEER, 0));
        return;
    }
    if (h2->state == H2_NOTICE && now_ms - h2->state_ms >= H2_NOTICE_MS)
        h2_on_ping_ack(h2);
    h2_keepalive(h2, now_ms);
    h2_schedule(h2);
    if (h2_is_live(h2))
        h2_arm(h2);
}

/* ---- life ---- */

static nghttp2_session *h2_session_new(struct h2 *h2)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_session *session;
    nghttp2_option *option;
    int rc;

    /* Both fail for want of memory only. */
    CHECK(nghttp2_session_callbacks_new(&callbacks) == 0);
    CHECK(nghttp2_option_new(&option) == 0);
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, h2_on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, h2_on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, h2_on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, h2_on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, h2_on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, h2_on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, h2_on_frame_send);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, h2_on_frame_not_send);

    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1); /* no memory for priorities of the past */
    nghttp2_option_set_max_settings(option, 32);
    nghttp2_option_set_max_outbound_ack(option, 256);
    nghttp2_option_set_max_reserved_remote_streams(option, 0);
    nghttp2_option_set_max_send_header_block_length(option, H2_OUT_HEADERS_SIZE);
    nghttp2_option_set_peer_max_concurrent_streams(option, h2->limits.max_streams);
    rc = h2->server ? nghttp2_session_server_new2(&session, callbacks, h2, option)
                    : nghttp2_session_client_new2(&session, callbacks, h2, option);
    CHECK(rc == 0);
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(callbacks);
    return session;
}

struct h2 *h2_new(struct stream *lower, bool server, const struct h2_limits *limits,
                  const struct h2_events *events, void *arg)
{
    struct h2 *h2 = mem_zalloc(sizeof(*h2));
    const struct h2_limits *use = limits != NULL ? limits : &h2_limits_default;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, server ? use->max_streams : 0},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, use->stream_window},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)use->header_bytes},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}, /* last: clients alone may send it */
    };

    h2->lower = lower;
    h2->loop = lower->loop;
    h2->server = server;
    h2->limits = *use;
    h2->events = events;
    h2->arg = arg;
    h2->fault = OK;
    h2->end_err = OK;
    h2->last_read_ms = loop_now_ms(h2->loop);
    h2->flood =
        (struct h2_flood){.resets_per_s = use->resets_per_s, .pings_per_s = use->pings_per_s};
    h2->head = (struct h2_head){.max_fields = use->header_count, .max_size = use->header_bytes};
    list_init(&h2->streams);
    list_init(&h2->writable);
    h2->session = h2_session_new(h2);
    CHECK(nghttp2_submit_settings(h2->session, NGHTTP2_FLAG_NONE, settings,
                                  server ? ARRAY_LEN(settings) - 1 : ARRAY_LEN(settings)) == 0);
    CHECK(nghttp2_session_set_local_window_size(h2->session, NGHTTP2_FLAG_NONE, 0,
                                                (int32_t)use->connection_window) == 0);
    stream_set_events(lower, &h2_stream_events, h2);
    h2_arm(h2);
    h2_schedule(h2); /* and then reads: no event comes before the caller has the pointer */
    return h2;
}

void h2_goaway(struct h2 *h2)
{
    if (h2->state != H2_OPEN)
        return;
    if (h2->server) {
        h2_set_state(h2, H2_NOTICE);
        (void)nghttp2_submit_shutdown_notice(h2->session);
        (void)nghttp2_submit_ping(h2->session, NGHTTP2_FLAG_NONE, NULL);
    } else {
        h2_set_state(h2, H2_DRAINING);
        (void)nghttp2_submit_goaway(h2->session, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, NULL, 0);
    }
    h2_schedule(h2);
}

static void h2_free(void *arg)
{
    struct h2 *h2 = arg;

    while (!list_empty(&h2->streams))
        h2_stream_free(LIST_ITEM(h2->streams.next, struct h2_stream, link));
    nghttp2_session_del(h2->session);
    h2_head_clear(&h2->head);
    buf_fini(&h2->out);
    mem_free(h2);
}

void h2_close(struct h2 *h2)
{
    h2_set_state(h2, H2_CLOSED);
    stream_close(h2->lower);
    /* Later: nghttp2 may be on the stack, and a pump deferred earlier runs first. */
    loop_defer(h2->loop, h2_free, h2);
}

size_t h2_num_streams(const struct h2 *h2)
{
    return h2->num_streams;
}

struct stream *h2_lower(const struct h2 *h2)
{
    return h2->lower;
}

/* ---- sending ---- */

static nghttp2_nv h2_nv(struct bytes name, struct bytes value)
{
    /* nghttp2 copies both; its type is not const for the sake of another use. */
    return (nghttp2_nv){
        .name = (uint8_t *)(uintptr_t)name.ptr,
        .value = (uint8_t *)(uintptr_t)value.ptr,
        .namelen = name.len,
        .valuelen = value.len,
        .flags = NGHTTP2_NV_FLAG_NONE,
    };
}

static size_t h2_nv_list(const struct h2_header *headers, size_t num,
                         nghttp2_nv out[H2_OUT_HEADERS_MAX])
{
    CHECK(num <= H2_OUT_HEADERS_MAX);
    for (size_t i = 0; i < num; i++)
        out[i] = h2_nv(headers[i].name, headers[i].value);
    return num;
}

err_t h2_request(struct h2 *h2, const struct h2_header *headers, size_t num, bool end, void *data,
                 struct h2_stream **out)
{
    nghttp2_nv list[H2_OUT_HEADERS_MAX];
    nghttp2_data_provider provider = {.read_callback = h2_on_pull};
    struct h2_stream *stream;
    int32_t id;

    if (h2->peer_goaway || h2->state == H2_DRAINING)
        return FAIL(H2_GOAWAY, h2->goaway_code);
    if (!h2_is_live(h2))
        return FAIL(CLOSED, 0);
    if (h2->num_streams >=
        nghttp2_session_get_remote_settings(h2->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS))
        return FAIL(LIMIT, h2->num_streams);
    stream = h2_stream_new(h2, 0);
    if (stream == NULL)
        return FAIL(NO_MEMORY, 0);
    stream->data = data;
    stream->known = true;
    stream->end = end;
    provider.source.ptr = stream;
    id = nghttp2_submit_request(h2->session, NULL, list, h2_nv_list(headers, num, list),
                                end ? NULL : &provider, stream);
    if (id < 0) {
        h2_stream_free(stream);
        return FAIL(H2_GOAWAY, id); /* no stream id is left */
    }
    stream->id = id;
    h2_schedule(h2);
    *out = stream;
    return OK;
}

err_t h2_respond(struct h2_stream *stream, const struct h2_header *headers, size_t num, bool end)
{
    struct h2 *h2 = stream->h2;
    nghttp2_nv list[H2_OUT_HEADERS_MAX];
    nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = h2_on_pull};

    if (!h2_is_live(h2) || stream->reset)
        return FAIL(CLOSED, 0);
    CHECK(h2->server && !stream->responded);
    stream->responded = true;
    stream->end = end;
    if (nghttp2_submit_response(h2->session, stream->id, list, h2_nv_list(headers, num, list),
                                end ? NULL : &provider) != 0)
        return FAIL(CLOSED, 0);
    h2_schedule(h2);
    return OK;
}

static void h2_submit_trailers(struct h2_stream *stream)
{
    nghttp2_nv list[H2_OUT_HEADERS_MAX];
    struct h2_header *headers = h2_head_list(&stream->trailers);

    (void)nghttp2_submit_trailer(stream->h2->session, stream->id, list,
                                 h2_nv_list(headers, stream->trailers.num, list));
    mem_free(headers);
}

/* Lets nghttp2 ask the stream's queue again. It answers with an error when it did not wait. */
static void h2_resume(struct h2_stream *stream)
{
    (void)nghttp2_session_resume_data(stream->h2->session, stream->id);
    h2_schedule(stream->h2);
}

err_t h2_trailers(struct h2_stream *stream, const struct h2_header *headers, size_t num)
{
    if (!h2_is_live(stream->h2) || stream->reset || stream->end)
        return FAIL(CLOSED, 0);
    CHECK(stream->responded);
    /* Kept until the DATA before them is out. */
    stream->trailers =
        (struct h2_head){.max_fields = H2_OUT_HEADERS_MAX, .max_size = H2_OUT_HEADERS_SIZE};
    for (size_t i = 0; i < num; i++)
        h2_head_add(&stream->trailers, headers[i].name, headers[i].value);
    CHECK(!stream->trailers.too_large);
    stream->has_trailers = true;
    stream->end = true;
    h2_resume(stream);
    return OK;
}

err_t h2_send(struct h2_stream *stream, struct bytes data, bool end)
{
    struct h2 *h2 = stream->h2;

    if (!h2_is_live(h2) || stream->reset || stream->end)
        return FAIL(CLOSED, 0);
    CHECK(!h2->server || stream->responded);
    if (data.len > h2->limits.out_bytes || h2->queued > h2->limits.out_bytes - data.len)
        return FAIL(LIMIT, h2->limits.out_bytes > INT32_MAX ? INT32_MAX : h2->limits.out_bytes);
    TRY(buf_add(&stream->out, data.ptr, data.len));
    h2->queued += data.len;
    stream->end = end;
    h2_resume(stream);
    return OK;
}

size_t h2_stream_queued(const struct h2_stream *stream)
{
    return buf_size(&stream->out);
}

void h2_stream_consume(struct h2_stream *stream, size_t len)
{
    struct h2 *h2 = stream->h2;

    CHECK(len <= stream->unconsumed);
    stream->unconsumed -= len;
    if (len == 0 || !h2_is_live(h2))
        return;
    (void)nghttp2_session_consume(h2->session, stream->id, len);
    h2_schedule(h2);
}

void h2_stream_reset(struct h2_stream *stream, uint32_t h2_error)
{
    struct h2 *h2 = stream->h2;

    if (stream->reset || !h2_is_live(h2) || (stream->local_end && stream->remote_end))
        return;
    stream->reset = true;
    (void)nghttp2_submit_rst_stream(h2->session, NGHTTP2_FLAG_NONE, stream->id, h2_error);
    h2_schedule(h2);
}

void h2_stream_set_data(struct h2_stream *stream, void *data)
{
    stream->data = data;
}

void *h2_stream_data(const struct h2_stream *stream)
{
    return stream->data;
}
