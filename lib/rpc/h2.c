#include "lib/rpc/h2.h"

#include <malloc.h>
#include <string.h>

#include <nghttp2/nghttp2.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/rpc/h2_impl.h"

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
#define H2_PUMP_BATCHES 4          /* writes in a row for a peer that reads as fast as we send */
#define H2_OUT_KEEP ((size_t)4096) /* a write buffer beyond that is released when it is empty */
#define H2_STALL_MS 30000          /* the peer reads nothing of what is queued */
#define H2_NOTICE_MS 1000          /* for the PING between the two GOAWAY of an orderly end */
#define H2_LINGER_MS 1000          /* for the peer to read our GOAWAY */
#define H2_LINGER_BYTES ((size_t)1 << 20)
#define H2_QUEUE_MAX 1000 /* frames nghttp2 holds while the peer does not read */

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

static void h2_arm(struct h2 *h2);
static void h2_end(struct h2 *h2, err_t err, uint32_t code);

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

void h2_count_reset(struct h2 *h2)
{
    if (h2_flood_reset(&h2->flood, loop_now_ms(h2->loop)))
        h2_flooded(h2);
}

/* ---- callbacks of nghttp2 ---- */

/* HEADERS of a request that is over on both sides, or was left out: the peer's fault (RFC 9113
 * section 5.1.1), unless a RST_STREAM of ours may have crossed them. nghttp2 keeps no streams of
 * the past and passes over their frames. */
static bool h2_is_of_the_past(const struct h2 *h2, const nghttp2_frame_hd *hd)
{
    return h2->server && !h2->reset_sent && hd->type == NGHTTP2_HEADERS && hd->stream_id % 2 == 1 &&
           hd->stream_id <= nghttp2_session_get_last_proc_stream_id(h2->session) &&
           nghttp2_session_find_stream(h2->session, hd->stream_id) == NULL;
}

static int h2_on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *arg)
{
    struct h2 *h2 = arg;
    bool live = h2_stream_find(h2, hd->stream_id) != NULL;
    bool asked = h2->ping_ms != 0 || h2->state == H2_NOTICE;

    (void)session;
    if (h2_flood_received(&h2->flood, loop_now_ms(h2->loop), hd, live, asked))
        h2_flooded(h2);
    if (h2_is_of_the_past(h2, hd))
        h2_fault(h2, FAIL(H2_PROTOCOL, hd->stream_id), NGHTTP2_STREAM_CLOSED);
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
        stream = h2_stream_find(h2, frame->hd.stream_id);
        if (stream != NULL)
            h2_stream_deliver(stream, frame->headers.cat == NGHTTP2_HCAT_REQUEST, end);
        h2_head_clear(&h2->head);
        break;
    case NGHTTP2_DATA:
        stream = h2_stream_find(h2, frame->hd.stream_id);
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

static int h2_on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream = h2_stream_find(h2, frame->hd.stream_id);

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
        h2->reset_sent = true;
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
    for (int batches = 0; h2_is_live(h2) && h2->lower->queued == 0; batches++) {
        err_t err;

        if (batches == H2_PUMP_BATCHES) { /* the others have their turn */
            h2_schedule(h2);
            break;
        }
        if (!h2_collect(h2))
            break;
        err = stream_write(h2->lower, buf_view(&h2->out));
        mem_wipe(h2->out.data + h2->out.pos, buf_size(&h2->out));
        buf_clear(&h2->out);
        if (!err_is_ok(err)) {
            h2_broken(h2, err);
            return;
        }
        h2_call_writable(h2);
    }
    if (h2->out.cap > H2_OUT_KEEP)
        buf_wipe_fini(&h2->out);
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
void h2_schedule(struct h2 *h2)
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

/* Frames are put together in nghttp2's memory: what they had is gone with it. */
static void *h2_mem_alloc(size_t size, void *arg)
{
    (void)arg;
    return mem_try_alloc(size);
}

static void *h2_mem_zalloc(size_t num, size_t size, void *arg)
{
    (void)arg;
    return size != 0 && num > SIZE_MAX / size ? NULL : mem_try(num * size);
}

static void h2_mem_free(void *ptr, void *arg)
{
    (void)arg;
    mem_wipe_free(ptr);
}

static void *h2_mem_realloc(void *ptr, size_t size, void *arg)
{
    size_t had = ptr != NULL ? malloc_usable_size(ptr) : 0;
    void *moved = mem_try_alloc(size);

    (void)arg;
    if (moved == NULL)
        return NULL;
    if (had != 0)
        memcpy(moved, ptr, had < size ? had : size);
    mem_wipe_free(ptr);
    return moved;
}

static nghttp2_session *h2_session_new(struct h2 *h2)
{
    nghttp2_mem mem = {NULL, h2_mem_alloc, h2_mem_free, h2_mem_zalloc, h2_mem_realloc};
    nghttp2_session_callbacks *callbacks;
    nghttp2_session *session;
    nghttp2_option *option;
    int rc;

    /* Both fail for want of memory only. */
    CHECK(nghttp2_session_callbacks_new(&callbacks) == 0);
    CHECK(nghttp2_option_new(&option) == 0);
    h2_stream_set_callbacks(callbacks);
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, h2_on_begin_frame);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, h2_on_frame_recv);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, h2_on_frame_send);

    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1); /* no memory for priorities of the past */
    nghttp2_option_set_max_settings(option, 32);
    nghttp2_option_set_max_outbound_ack(option, 256);
    nghttp2_option_set_max_reserved_remote_streams(option, 0);
    nghttp2_option_set_max_send_header_block_length(option, H2_OUT_HEADERS_SIZE);
    nghttp2_option_set_peer_max_concurrent_streams(option, h2->limits.max_streams);
    rc = h2->server ? nghttp2_session_server_new3(&session, callbacks, h2, option, &mem)
                    : nghttp2_session_client_new3(&session, callbacks, h2, option, &mem);
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
    buf_wipe_fini(&h2->out);
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
