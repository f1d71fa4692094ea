/* h2: one nghttp2 session on a stream, client or server, with every limit set explicitly.
 *
 * Requests and responses are header lists and bytes both ways; flow control follows the user:
 * received DATA counts as consumed when h2_stream_consume says so, sent DATA is pulled from the
 * stream's out buffer, which the user keeps bounded (h2_stream_queued). Source: RFC 9113;
 * reliability R14. */
#ifndef MORTISE_LIB_RPC_H2_H
#define MORTISE_LIB_RPC_H2_H

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/net/stream.h"

struct h2;
struct h2_stream;

struct h2_header {
    struct bytes name;
    struct bytes value;
};

struct h2_limits {
    uint32_t max_streams;       /* 100 */
    uint32_t stream_window;     /* 256 KiB */
    uint32_t connection_window; /* 1 MiB */
    size_t header_bytes;        /* 16 KiB decoded, name + value + 32 each */
    uint32_t header_count;      /* 64 */
    uint32_t resets_per_s; /* of the peer, RST_STREAM and streams we reset for its faults: 100 */
    uint32_t pings_per_s;  /* PING and SETTINGS of the peer: 20 */
    uint64_t keepalive_ms; /* PING when nothing was received so long; 0: none; 20 s */
    uint64_t keepalive_timeout_ms; /* the answer must come; 10 s */
    size_t out_bytes;              /* DATA of all streams waiting for the peer to read: 4 MiB */
};
extern const struct h2_limits h2_limits_default;

struct h2_events {
    /* A stream's header block is complete. Server: a request (the stream is new); client: the
     * response, or trailers (`trailers`). Borrowed for the call. */
    void (*on_headers)(void *arg, struct h2_stream *stream, const struct h2_header *headers,
                       size_t num, bool trailers, bool end);
    void (*on_data)(void *arg, struct h2_stream *stream, struct bytes data, bool end);
    /* The out buffer of the stream became empty. */
    void (*on_writable)(void *arg, struct h2_stream *stream);
    /* The stream is over: OK, H2_STREAM_RESET (sub: HTTP/2 error code), or the connection's error.
     * Its pointer is not to be used afterwards. */
    void (*on_close)(void *arg, struct h2_stream *stream, err_t err);
    /* The peer's SETTINGS came: it speaks HTTP/2. May be NULL. */
    void (*on_ready)(void *arg);
    /* GOAWAY came (no new requests), or the connection is over (after every stream's on_close): OK
     * when it ended in order. After on_broken nothing more comes; release it with h2_close. */
    void (*on_goaway)(void *arg);
    void (*on_broken)(void *arg, err_t err);
};

/* h2_new begins a session on `lower` (takes it); events come from the loop, not from inside this
 * call. */
struct h2 *h2_new(struct stream *lower, bool server, const struct h2_limits *limits,
                  const struct h2_events *events, void *arg);
/* h2_goaway ends in order: streams in flight go on, then the connection closes and on_broken says
 * OK. h2_close at once, without callbacks. Both may be called from any callback. */
void h2_goaway(struct h2 *h2);
void h2_close(struct h2 *h2);
size_t h2_num_streams(const struct h2 *h2);
struct stream *h2_lower(const struct h2 *h2);

/* Client: begins a request. `end`: no body follows. Errors: H2_GOAWAY, LIMIT (peer's stream limit),
 * CLOSED. */
MUST_CHECK err_t h2_request(struct h2 *h2, const struct h2_header *headers, size_t num, bool end,
                            void *data, struct h2_stream **out);
/* Server: response headers, trailers (which end the stream after what is queued). */
MUST_CHECK err_t h2_respond(struct h2_stream *stream, const struct h2_header *headers, size_t num,
                            bool end);
MUST_CHECK err_t h2_trailers(struct h2_stream *stream, const struct h2_header *headers, size_t num);
/* h2_send queues a copy. Errors: LIMIT (the queues of the connection's streams would pass
 * limits.out_bytes), CLOSED (the stream is over on the wire, or ended by us). */
MUST_CHECK err_t h2_send(struct h2_stream *stream, struct bytes data, bool end);
size_t h2_stream_queued(const struct h2_stream *stream);
/* h2_stream_consume opens the peer's window again by `len` bytes that on_data delivered. */
void h2_stream_consume(struct h2_stream *stream, size_t len);
void h2_stream_reset(struct h2_stream *stream, uint32_t h2_error);
void h2_stream_set_data(struct h2_stream *stream, void *data);
void *h2_stream_data(const struct h2_stream *stream);

#endif
