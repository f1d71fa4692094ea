#include "lib/base/mem.h"
#include "lib/rpc/h2_impl.h"

#define H2_STREAM_HEADERS_MAX 32 /* of one block of ours */

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

void h2_stream_free(struct h2_stream *stream)
{
    struct h2 *h2 = stream->h2;

    h2->queued -= buf_size(&stream->out);
    h2->num_streams--;
    list_del(&stream->link);
    list_del(&stream->writable);
    buf_wipe_fini(&stream->out);
    h2_head_clear(&stream->trailers);
    mem_free(stream);
}

/* The stream is over: tells the user, and gives back the connection's window that it held. */
void h2_stream_over(struct h2_stream *stream, err_t err)
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

struct h2_stream *h2_stream_find(struct h2 *h2, int32_t id)
{
    return nghttp2_session_get_stream_user_data(h2->session, id);
}

/* ---- receiving ---- */

/* A response of 1xx comes before the real one and is passed over. */
static bool h2_stream_is_interim(const struct h2_header *headers, size_t num)
{
    return num != 0 && bytes_equal_str(headers[0].name, ":status") && headers[0].value.len == 3 &&
           headers[0].value.ptr[0] == '1';
}

void h2_stream_deliver(struct h2_stream *stream, bool request, bool end)
{
    struct h2 *h2 = stream->h2;
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
    if (h2->server || !h2_stream_is_interim(headers, h2->head.num)) {
        if (!h2->server)
            stream->responded = true;
        stream->known = true;
        stream->remote_end = end;
        h2->events->on_headers(h2->arg, stream, headers, h2->head.num, trailers, end);
    }
    mem_free(headers);
}

static int h2_stream_on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame,
                                      void *arg)
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

static int h2_stream_on_header(nghttp2_session *session, const nghttp2_frame *frame,
                               const uint8_t *name, size_t name_len, const uint8_t *value,
                               size_t value_len, uint8_t flags, void *arg)
{
    (void)session;
    (void)frame;
    (void)flags;
    h2_head_add(&((struct h2 *)arg)->head, bytes_of(name, name_len), bytes_of(value, value_len));
    return 0;
}

static int h2_stream_on_data_chunk(nghttp2_session *session, uint8_t flags, int32_t id,
                                   const uint8_t *data, size_t len, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream = h2_stream_find(h2, id);

    (void)flags;
    if (stream == NULL || stream->reset || !err_is_ok(h2->fault) || !h2_is_live(h2)) {
        (void)nghttp2_session_consume_connection(session, len);
        return 0;
    }
    stream->unconsumed += len;
    h2->events->on_data(h2->arg, stream, bytes_of(data, len), false);
    return 0;
}

static int h2_stream_on_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
    struct h2 *h2 = arg;
    struct h2_stream *stream = h2_stream_find(h2, id);
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

/* A request that could not even be sent has no stream that could close. */
static int h2_stream_on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame,
                                       int code, void *arg)
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

void h2_stream_set_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, h2_stream_on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, h2_stream_on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, h2_stream_on_data_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, h2_stream_on_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks,
                                                             h2_stream_on_frame_not_send);
}

/* ---- sending ---- */

static nghttp2_nv h2_stream_nv(struct bytes name, struct bytes value)
{
    /* What is a secret is kept in no table of either end (RFC 7541 section 7.1.3). */
    bool secret = bytes_equal_str(name, "authorization");

    /* nghttp2 copies both; its type is not const for the sake of another use. */
    return (nghttp2_nv){
        .name = (uint8_t *)(uintptr_t)name.ptr,
        .value = (uint8_t *)(uintptr_t)value.ptr,
        .namelen = name.len,
        .valuelen = value.len,
        .flags = secret ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE,
    };
}

static size_t h2_stream_nv_list(const struct h2_header *headers, size_t num,
                                nghttp2_nv out[H2_STREAM_HEADERS_MAX])
{
    CHECK(num <= H2_STREAM_HEADERS_MAX);
    for (size_t i = 0; i < num; i++)
        out[i] = h2_stream_nv(headers[i].name, headers[i].value);
    return num;
}

static void h2_stream_submit_trailers(struct h2_stream *stream)
{
    nghttp2_nv list[H2_STREAM_HEADERS_MAX];
    struct h2_header *headers = h2_head_list(&stream->trailers);

    (void)nghttp2_submit_trailer(stream->h2->session, stream->id, list,
                                 h2_stream_nv_list(headers, stream->trailers.num, list));
    mem_free(headers);
}

static ssize_t h2_stream_on_pull(nghttp2_session *session, int32_t id, uint8_t *to, size_t len,
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
        mem_wipe(stream->out.data + stream->out.pos, take);
        buf_consume(&stream->out, take);
        h2->queued -= take;
        if (take == have) {
            buf_wipe_fini(&stream->out);
            if (!stream->end && list_empty(&stream->writable))
                list_add_tail(&h2->writable, &stream->writable);
        }
    }
    if (take == have && stream->end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (stream->has_trailers) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            h2_stream_submit_trailers(stream);
        }
    }
    return (ssize_t)take;
}

err_t h2_request(struct h2 *h2, const struct h2_header *headers, size_t num, bool end, void *data,
                 struct h2_stream **out)
{
    nghttp2_nv list[H2_STREAM_HEADERS_MAX];
    nghttp2_data_provider provider = {.read_callback = h2_stream_on_pull};
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
    id = nghttp2_submit_request(h2->session, NULL, list, h2_stream_nv_list(headers, num, list),
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
    nghttp2_nv list[H2_STREAM_HEADERS_MAX];
    nghttp2_data_provider provider = {.source.ptr = stream, .read_callback = h2_stream_on_pull};

    if (!h2_is_live(h2) || stream->reset)
        return FAIL(CLOSED, 0);
    CHECK(h2->server && !stream->responded);
    stream->responded = true;
    stream->end = end;
    if (nghttp2_submit_response(h2->session, stream->id, list,
                                h2_stream_nv_list(headers, num, list), end ? NULL : &provider) != 0)
        return FAIL(CLOSED, 0);
    h2_schedule(h2);
    return OK;
}

/* Lets nghttp2 ask the stream's queue again. It answers with an error when it did not wait. */
static void h2_stream_resume(struct h2_stream *stream)
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
        (struct h2_head){.max_fields = H2_STREAM_HEADERS_MAX, .max_size = H2_OUT_HEADERS_SIZE};
    for (size_t i = 0; i < num; i++)
        h2_head_add(&stream->trailers, headers[i].name, headers[i].value);
    CHECK(!stream->trailers.too_large);
    stream->has_trailers = true;
    stream->end = true;
    h2_stream_resume(stream);
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
    h2_stream_resume(stream);
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
