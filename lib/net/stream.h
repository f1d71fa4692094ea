/* stream: five operations shared by TCP, TLS and the test stream, and the events they give back.
 *
 * A stream begins with reading stopped. After on_eof or on_error no on_read follows. Once
 * stream_close was called no callback comes, and the pointer is not to be used again (memory goes
 * when the loop's batch ends). Callbacks may call any operation on any stream, close included. */
#ifndef MORTISE_LIB_NET_STREAM_H
#define MORTISE_LIB_NET_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/net/loop.h"

struct stream;

struct stream_events {
    /* Bytes arrived; borrowed until the callback returns; never empty. */
    void (*on_read)(void *arg, struct bytes data);
    /* The peer ended its direction in order (FIN; with TLS close_notify). Ours stays open. */
    void (*on_eof)(void *arg);
    /* The write queue became empty after it was not. */
    void (*on_drained)(void *arg);
    /* The stream is broken: PEER_RESET, TLS_TRUNCATED, TLS_ALERT … Close it. */
    void (*on_error)(void *arg, err_t err);
};

struct stream_ops {
    void (*read_start)(struct stream *stream);
    void (*read_stop)(struct stream *stream);
    err_t (*write)(struct stream *stream, struct bytes data);
    err_t (*shutdown)(struct stream *stream);
    void (*close)(struct stream *stream, bool reset);
    size_t (*room)(const struct stream *stream); /* NULL: not known */
};

/* What is read at once from a stream whose reader's own receiver may stop: it is what a stalled
 * connection holds. */
#define STREAM_READ_SMALL ((size_t)48 << 10)

struct stream {
    const struct stream_ops *ops;
    const struct stream_events *events; /* static table of the user */
    void *arg;
    struct loop *loop;
    size_t queued;          /* bytes taken by write that the kernel has not taken yet */
    size_t read_max;        /* the user's: about the most that one on_read gives */
    uint64_t bytes_read;    /* delivered by on_read */
    uint64_t bytes_written; /* taken by write */
};

/* stream_set_events says who hears of it; borrows `events` for the stream's life. */
static inline void stream_set_events(struct stream *stream, const struct stream_events *events,
                                     void *arg)
{
    stream->events = events;
    stream->arg = arg;
}

static inline void stream_read_start(struct stream *stream)
{
    stream->ops->read_start(stream);
}

/* stream_read_stop: no on_read after it returns, until read_start. What had been received already
 * is kept: at most what one read gave. */
static inline void stream_read_stop(struct stream *stream)
{
    stream->ops->read_stop(stream);
}

/* stream_write tries now and copies what is left to the queue: all of `data` is taken. The writer
 * keeps the queue bounded by not writing while stream->queued > 0. An error means the stream is
 * broken (on_error is not called for it): close it. */
MUST_CHECK static inline err_t stream_write(struct stream *stream, struct bytes data)
{
    return stream->ops->write(stream, data);
}

/* stream_room is about how many bytes the kernel would take now; STREAM_READ_SMALL where that is
 * not known. */
static inline size_t stream_room(const struct stream *stream)
{
    return stream->ops->room != NULL ? stream->ops->room(stream) : STREAM_READ_SMALL;
}

/* stream_shutdown ends our direction after what is queued: FIN; with TLS close_notify first. */
MUST_CHECK static inline err_t stream_shutdown(struct stream *stream)
{
    return stream->ops->shutdown(stream);
}

/* stream_close ends both directions at once; what is queued is lost (use shutdown first where it
 * matters). stream_reset does it with RST, so that the peer sees an abort. */
static inline void stream_close(struct stream *stream)
{
    stream->ops->close(stream, false);
}
static inline void stream_reset(struct stream *stream)
{
    stream->ops->close(stream, true);
}

#endif
