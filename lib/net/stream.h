/* stream: five operations shared by TCP, TLS and the test stream, and the events they give back.
 *
 * A stream begins with reading stopped. After on_eof or on_error no on_read follows; on_error may
 * still follow on_eof, as long as our own direction is open. Once
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

/* Of the bytes that were given to the layer that has the socket (with TLS: records), all together,
 * and how many of them are known to have left this host's kernel; it never falls. */
struct stream_sent {
    uint64_t total;
    uint64_t acked;
};

struct stream_ops {
    void (*read_start)(struct stream *stream);
    void (*read_stop)(struct stream *stream);
    err_t (*write)(struct stream *stream, struct bytes data);
    err_t (*shutdown)(struct stream *stream);
    void (*close)(struct stream *stream, bool reset);
    size_t (*room)(const struct stream *stream);             /* NULL: not known */
    struct stream_sent (*sent)(const struct stream *stream); /* NULL: what is queued tells it */
    void (*retry)(struct stream *stream);                    /* NULL: nothing to do */
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

/* stream_sent asks the kernel what the other end has taken: one system call, so not where bytes are
 * moved. What acknowledges is the other end's kernel, not its program: but that one's buffer is
 * bounded, so this stands still soon after the program stops reading. */
static inline struct stream_sent stream_sent(const struct stream *stream)
{
    if (stream->ops->sent != NULL)
        return stream->ops->sent(stream);
    return (struct stream_sent){stream->bytes_written, stream->bytes_written - stream->queued};
}

/* stream_retry tries to write what is queued in this round of the loop. The kernel calls only once
 * a third of its buffer is free, which may be megabytes, but takes bytes before that. */
static inline void stream_retry(struct stream *stream)
{
    if (stream->ops->retry != NULL)
        stream->ops->retry(stream);
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
