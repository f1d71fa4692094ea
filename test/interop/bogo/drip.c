#include "test/interop/bogo/drip.h"

#include "lib/base/mem.h"

struct drip {
    struct stream base;
    struct stream *lower;
    struct buf kept; /* received, and not wanted yet */
    bool reading;
    bool closed;
    bool scheduled; /* drip_on_deferred will come */
};

static const struct stream_ops drip_ops;

static struct drip *drip_of(struct stream *stream)
{
    CHECK(stream->ops == &drip_ops);
    return CONTAINER_OF(stream, struct drip, base);
}

static bool drip_wants(const struct drip *drip)
{
    return drip->reading && !drip->closed;
}

/* Returns how many bytes were taken: the reader may stop or close at each. */
static size_t drip_deliver(struct drip *drip, struct bytes data)
{
    size_t taken = 0;

    while (taken < data.len && drip_wants(drip)) {
        drip->base.bytes_read++;
        drip->base.events->on_read(drip->base.arg, bytes_of(data.ptr + taken, 1));
        taken++;
    }
    return taken;
}

static void drip_on_read(void *arg, struct bytes data)
{
    struct drip *drip = arg;
    size_t taken = drip_deliver(drip, data);

    if (taken < data.len && !drip->closed)
        CHECK(err_is_ok(buf_add(&drip->kept, data.ptr + taken, data.len - taken)));
}

static void drip_on_eof(void *arg)
{
    struct drip *drip = arg;

    drip->base.events->on_eof(drip->base.arg);
}

static void drip_on_drained(void *arg)
{
    struct drip *drip = arg;

    drip->base.queued = 0;
    if (drip->base.events->on_drained != NULL)
        drip->base.events->on_drained(drip->base.arg);
}

static void drip_on_error(void *arg, err_t err)
{
    struct drip *drip = arg;

    drip->base.events->on_error(drip->base.arg, err);
}

static const struct stream_events drip_lower_events = {
    .on_read = drip_on_read,
    .on_eof = drip_on_eof,
    .on_drained = drip_on_drained,
    .on_error = drip_on_error,
};

static void drip_on_deferred(void *arg)
{
    struct drip *drip = arg;

    drip->scheduled = false;
    buf_consume(&drip->kept, drip_deliver(drip, buf_view(&drip->kept)));
    if (drip_wants(drip))
        stream_read_start(drip->lower);
}

static void drip_op_read_start(struct stream *stream)
{
    struct drip *drip = drip_of(stream);

    drip->reading = true;
    if (buf_size(&drip->kept) == 0) {
        stream_read_start(drip->lower);
    } else if (!drip->scheduled) {
        drip->scheduled = true;
        loop_defer(drip->base.loop, drip_on_deferred, drip);
    }
}

static void drip_op_read_stop(struct stream *stream)
{
    struct drip *drip = drip_of(stream);

    drip->reading = false;
    stream_read_stop(drip->lower);
}

static err_t drip_op_write(struct stream *stream, struct bytes data)
{
    struct drip *drip = drip_of(stream);
    err_t err = stream_write(drip->lower, data);

    drip->base.bytes_written += data.len;
    drip->base.queued = drip->lower->queued;
    return err;
}

static err_t drip_op_shutdown(struct stream *stream)
{
    return stream_shutdown(drip_of(stream)->lower);
}

static void drip_free(void *arg)
{
    struct drip *drip = arg;

    buf_fini(&drip->kept);
    mem_free(drip);
}

static void drip_op_close(struct stream *stream, bool reset)
{
    struct drip *drip = drip_of(stream);

    drip->closed = true;
    if (reset)
        stream_reset(drip->lower);
    else
        stream_close(drip->lower);
    loop_defer(drip->base.loop, drip_free, drip); /* behind drip_on_deferred, if that is due */
}

static const struct stream_ops drip_ops = {
    .read_start = drip_op_read_start,
    .read_stop = drip_op_read_stop,
    .write = drip_op_write,
    .shutdown = drip_op_shutdown,
    .close = drip_op_close,
};

struct stream *drip_new(struct stream *lower)
{
    struct drip *drip = mem_zalloc(sizeof(*drip));

    drip->base.ops = &drip_ops;
    drip->base.loop = lower->loop;
    drip->lower = lower;
    stream_set_events(lower, &drip_lower_events, drip);
    return &drip->base;
}
