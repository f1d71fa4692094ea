/* h2_impl: what h2.c (the session) and h2_stream.c (its streams) share. Private to the two. */
#ifndef MORTISE_LIB_RPC_H2_IMPL_H
#define MORTISE_LIB_RPC_H2_IMPL_H

#include <nghttp2/nghttp2.h>

#include "lib/base/list.h"
#include "lib/rpc/h2.h"
#include "lib/rpc/h2_flood.h"
#include "lib/rpc/h2_head.h"

#define H2_OUT_HEADERS_SIZE (64 << 10) /* of one block of ours */

enum h2_state {
    H2_OPEN,
    H2_NOTICE,   /* server: "no new requests" is said; those on their way are still taken */
    H2_DRAINING, /* the final GOAWAY is said; ends with the last stream */
    H2_LINGER,   /* over; our direction is ended, the peer's is read and dropped */
    H2_BROKEN,   /* on_broken was called: the user closes */
    H2_CLOSED,
    H2_NUM,
};

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
    bool reset_sent;      /* what the peer sends on streams that are over may have crossed it */
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

static inline bool h2_is_live(const struct h2 *h2)
{
    return h2->state == H2_OPEN || h2->state == H2_NOTICE || h2->state == H2_DRAINING;
}

/* Of the session. h2_schedule: all that a batch of events brings about leaves in one write at its
 * end. h2_count_reset counts a stream that was reset for the peer's fault. */
void h2_schedule(struct h2 *h2);
void h2_count_reset(struct h2 *h2);

/* Of the streams. h2_stream_set_callbacks adds what they want to hear from nghttp2.
 * h2_stream_deliver: the header block in h2->head is complete and belongs to this stream.
 * h2_stream_over ends one: its user is told, its memory released. h2_stream_free tells nobody. */
void h2_stream_set_callbacks(nghttp2_session_callbacks *callbacks);
struct h2_stream *h2_stream_find(struct h2 *h2, int32_t id);
void h2_stream_deliver(struct h2_stream *stream, bool request, bool end);
void h2_stream_over(struct h2_stream *stream, err_t err);
void h2_stream_free(struct h2_stream *stream);

#endif
