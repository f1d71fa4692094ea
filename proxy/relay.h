/* relay copies bytes between two streams, both ways, until both directions have ended. It knows
 * nothing but stream.h.
 *
 * Back-pressure: while one side's queue is not empty the other is not read, so that a blocked
 * connection holds at most what one read gave; and reads are large (up to 512 KiB) only while the
 * receiver's kernel has room for as much, so that this is at most 64 KiB. End of one direction is
 * passed on and the other goes on (half-close). An abort of one side becomes an abort of the other,
 * so that a truncated transfer is seen as one. The hot path allocates nothing and touches no timer:
 * it notes the time; the owner's timer asks relay_due. That asks the kernel, too: bytes that the
 * receiver takes out of its buffer are bytes that move, and no event tells of them. */
#ifndef MORTISE_PROXY_RELAY_H
#define MORTISE_PROXY_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/net/stream.h"

/* Looks a deadline: so many times the kernel is asked before one passes. It passes at most one look
 * late. */
#define RELAY_LOOKS 8

struct relay;

struct relay_side {
    struct relay *relay;
    struct stream *stream; /* NULL once closed */
    bool eof;              /* nothing more comes from it, and the other side was told so */
    bool paused;           /* not read: the other side's queue is not empty */
    bool owing;            /* at the last look the kernel had not got rid of all */
    uint64_t acked;        /* see stream_sent, then */
    uint64_t stall_ms; /* when it last took something, or its queue became full; 0: it is empty */
};

enum { RELAY_APP, RELAY_MESH };

/* Called once when it is over and both streams are closed. OK: in order. Otherwise `side`
 * (RELAY_APP or RELAY_MESH) is where it broke. Not called after relay_abort. */
typedef void (*relay_done_cb)(void *arg, err_t err, unsigned side);
/* A queue began to stall: the owner's timer may have to come earlier (see relay_due). */
typedef void (*relay_stall_cb)(void *arg);

struct relay {
    struct relay_side sides[2];
    uint64_t active_ms; /* when the last byte came or left */
    bool from_mesh;     /* it is from there that the last byte came */
    bool ended;         /* relay_end */
    uint64_t bytes[2];  /* read from that side; final once it is over, see relay_bytes */
    relay_done_cb on_done;
    relay_stall_cb on_stall;
    void *arg;
};

/* relay_start takes both streams, reading stopped, and begins. It may be over before it returns
 * only through callbacks of the streams' own loop, never from within. */
void relay_start(struct relay *relay, struct stream *app, struct stream *mesh,
                 relay_done_cb on_done, relay_stall_cb on_stall, void *arg);

/* relay_abort resets both streams; no callback comes. */
void relay_abort(struct relay *relay);

/* relay_is_quiet: nothing is under way. Nothing moved for `quiet_ms`, nothing is queued, neither
 * direction has ended, and the last bytes, if any, were not a question of `client` (RELAY_APP or
 * RELAY_MESH) that has no answer yet. relay_end then tells `client` that this is the end, as the
 * server would; the client's own end, in answer to that, ends it in order. What the client sends in
 * spite of it reaches nobody: the relay is then over with CLOSED, and both sides see an abort.
 * Errors: those of stream_shutdown; the relay is then to be aborted. */
bool relay_is_quiet(const struct relay *relay, unsigned client, uint64_t now_ms, uint64_t quiet_ms);
MUST_CHECK err_t relay_end(struct relay *relay, unsigned client);

/* relay_take takes one side's stream out, to be closed by the caller in his own way; relay_abort is
 * due then. NULL when it is closed already. */
struct stream *relay_take(struct relay *relay, unsigned side);

/* relay_bytes: application bytes read from that side so far. */
uint64_t relay_bytes(const struct relay *relay, unsigned side);

/* relay_look_ms is how long after its beginning, or after on_stall, relay_due is to be asked. */
uint64_t relay_look_ms(uint64_t deadline_ms);

/* relay_due says whether one of the two deadlines has passed at now_ms: IDLE, SLOW_PEER
 * (`*out_side` is the one that does not read), or OK, and then in how many milliseconds to ask
 * again. */
MUST_CHECK err_t relay_due(struct relay *relay, uint64_t now_ms, uint64_t idle_ms,
                           uint64_t stall_ms, uint64_t *out_again_ms, unsigned *out_side);

#endif
