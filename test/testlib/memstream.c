#include "test/testlib/memstream.h"

#include "lib/base/mem.h"

struct memstream {
    struct stream base;
    struct memstream *peer; /* NULL once it is closed */
    struct memstream_script script;
    struct buf in;  /* written by the peer, not yet read */
    struct buf out; /* written, not yet taken by the "kernel" */
    uint64_t num_read;
    err_t broken;
    bool reading;
    bool scheduled;
    bool peer_ended; /* EOF stands behind `in` */
    bool peer_reset; /* PEER_RESET stands behind `in` */
    bool cut;        /* eof_after or reset_after was reached: what follows is lost */
    bool shut;
    bool ended; /* on_eof or on_error was called */
    bool closed;
    bool keep;
};

static const struct stream_ops memstream_ops;

static struct memstream *memstream_of(struct stream *stream)
{
    CHECK(stream->ops == &memstream_ops);
    return CONTAINER_OF(stream, struct memstream, base);
}

static void memstream_on_round(void *arg);

static void memstream_schedule(struct memstream *mem)
{
    if (mem->scheduled)
        return;
    mem->scheduled = true;
    loop_defer(mem->base.loop, memstream_on_round, mem);
}

static void memstream_add(struct buf *buf, const uint8_t *ptr, size_t len)
{
    err_t err = buf_add(buf, ptr, len);

    CHECK(err_is_ok(err));
}

/* Hands `len` bytes to the peer, as far as the script lets them. */
static void memstream_deliver(struct memstream *mem, const uint8_t *ptr, size_t len)
{
    size_t end = mem->script.eof_after != 0 ? mem->script.eof_after : mem->script.reset_after;

    if (mem->peer == NULL || mem->cut)
        return;
    if (end != 0 && mem->script.num_bytes + len >= end) {
        len = (size_t)(end - mem->script.num_bytes);
        mem->cut = true;
        mem->peer->peer_ended = mem->script.eof_after != 0;
        mem->peer->peer_reset = mem->script.eof_after == 0;
    }
    mem->script.num_bytes += len;
    memstream_add(&mem->peer->in, ptr, len);
    memstream_schedule(mem->peer);
}

static void memstream_take(struct memstream *mem)
{
    struct bytes out = buf_view(&mem->out);
    size_t num = out.len;

    if (mem->script.stall || num == 0)
        return;
    if (mem->script.write_max != 0 && num > mem->script.write_max)
        num = mem->script.write_max;
    memstream_deliver(mem, out.ptr, num);
    buf_consume(&mem->out, num);
    mem->base.queued = buf_size(&mem->out);
    if (mem->base.queued > 0) {
        memstream_schedule(mem);
        return;
    }
    if (mem->shut && mem->peer != NULL) {
        mem->peer->peer_ended = true;
        memstream_schedule(mem->peer);
    }
    if (mem->base.events != NULL && mem->base.events->on_drained != NULL)
        mem->base.events->on_drained(mem->base.arg);
}

static size_t memstream_read_size(const struct memstream *mem)
{
    size_t num = buf_size(&mem->in);

    if (mem->script.read_max != 0 && num > mem->script.read_max)
        num = mem->script.read_max;
    if (mem->script.split_at > mem->num_read && mem->num_read + num > mem->script.split_at)
        num = (size_t)(mem->script.split_at - mem->num_read);
    return num;
}

static void memstream_read(struct memstream *mem)
{
    size_t num = memstream_read_size(mem);
    uint8_t *copy;

    if (num > 0) {
        /* A block of its own size: a sanitizer sees who looks behind its end, or too late. */
        copy = mem_dup(buf_view(&mem->in).ptr, num);
        buf_consume(&mem->in, num);
        mem->num_read += num;
        mem->base.bytes_read += num;
        memstream_schedule(mem);
        mem->base.events->on_read(mem->base.arg, bytes_of(copy, num));
        mem_free(copy);
        return;
    }
    if (mem->peer_reset) {
        mem->ended = true;
        mem->reading = false;
        mem->broken = FAIL(PEER_RESET, 0);
        mem->base.events->on_error(mem->base.arg, mem->broken);
    } else if (mem->peer_ended) {
        mem->ended = true;
        mem->reading = false;
        mem->base.events->on_eof(mem->base.arg);
    }
}

static void memstream_on_round(void *arg)
{
    struct memstream *mem = arg;

    mem->scheduled = false;
    if (!mem->closed)
        memstream_take(mem);
    if (!mem->closed && mem->reading)
        memstream_read(mem);
}

static void memstream_read_start(struct stream *stream)
{
    struct memstream *mem = memstream_of(stream);

    CHECK(!mem->closed && mem->base.events != NULL);
    if (mem->ended)
        return;
    mem->reading = true;
    memstream_schedule(mem);
}

static void memstream_read_stop(struct stream *stream)
{
    memstream_of(stream)->reading = false;
}

static err_t memstream_write(struct stream *stream, struct bytes data)
{
    struct memstream *mem = memstream_of(stream);
    size_t queued = buf_size(&mem->out);

    CHECK(!mem->closed && !mem->shut);
    mem->script.num_writes++;
    if (mem->script.num_writes == mem->script.fail_write)
        mem->broken = FAIL(PEER_RESET, 0);
    if (!err_is_ok(mem->broken))
        return mem->broken;
    mem->base.bytes_written += data.len;
    if (queued == 0 && !mem->script.stall) {
        size_t num = data.len;

        if (mem->script.write_max != 0 && num > mem->script.write_max)
            num = mem->script.write_max;
        memstream_deliver(mem, data.ptr, num);
        data.ptr += num;
        data.len -= num;
    }
    memstream_add(&mem->out, data.ptr, data.len);
    mem->base.queued = buf_size(&mem->out);
    if (mem->base.queued > 0)
        memstream_schedule(mem);
    return OK;
}

static err_t memstream_shutdown(struct stream *stream)
{
    struct memstream *mem = memstream_of(stream);

    mem->script.got_shutdown = true;
    mem->shut = true;
    if (buf_size(&mem->out) == 0 && mem->peer != NULL) {
        mem->peer->peer_ended = true;
        memstream_schedule(mem->peer);
    }
    return OK;
}

static void memstream_free(void *arg)
{
    struct memstream *mem = arg;

    buf_fini(&mem->in);
    buf_fini(&mem->out);
    if (!mem->keep)
        mem_free(mem);
}

static void memstream_close(struct stream *stream, bool reset)
{
    struct memstream *mem = memstream_of(stream);

    CHECK(!mem->closed);
    mem->closed = true;
    mem->script.is_closed = true;
    mem->script.is_reset = reset;
    if (mem->peer != NULL) {
        mem->peer->peer_ended = !reset;
        mem->peer->peer_reset = reset;
        mem->peer->peer = NULL;
        memstream_schedule(mem->peer);
    }
    /* Behind a round that is still to come. */
    loop_defer(mem->base.loop, memstream_free, mem);
}

static struct stream_sent memstream_sent(const struct stream *stream)
{
    const struct memstream *mem = (const struct memstream *)(const void *)stream; /* first member */

    return (struct stream_sent){stream->bytes_written,
                                stream->bytes_written - stream->queued - mem->script.unacked};
}

static void memstream_retry(struct stream *stream)
{
    memstream_of(stream)->script.num_retries++;
}

static const struct stream_ops memstream_ops = {
    .read_start = memstream_read_start,
    .read_stop = memstream_read_stop,
    .write = memstream_write,
    .shutdown = memstream_shutdown,
    .close = memstream_close,
    .sent = memstream_sent,
    .retry = memstream_retry,
};

void memstream_pair(struct loop *loop, struct stream **out_a, struct stream **out_b)
{
    struct memstream *side[2];

    for (int i = 0; i < 2; i++) {
        side[i] = mem_zalloc(sizeof(*side[i]));
        side[i]->base.ops = &memstream_ops;
        side[i]->base.loop = loop;
    }
    side[0]->peer = side[1];
    side[1]->peer = side[0];
    *out_a = &side[0]->base;
    *out_b = &side[1]->base;
}

struct memstream_script *memstream_script(struct stream *stream)
{
    return &memstream_of(stream)->script;
}

void memstream_go(struct stream *stream)
{
    memstream_schedule(memstream_of(stream));
}

void memstream_reset(struct stream *stream)
{
    struct memstream *mem = memstream_of(stream);

    mem->peer_reset = true;
    memstream_schedule(mem);
}

size_t memstream_pending(struct stream *stream)
{
    return buf_size(&memstream_of(stream)->in);
}

void memstream_keep(struct stream *stream)
{
    memstream_of(stream)->keep = true;
}

void memstream_drop(struct stream *stream)
{
    mem_free(memstream_of(stream));
}
