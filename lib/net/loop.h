/* loop: one thread's event loop: one epoll descriptor of our own for the sockets of the data path,
 * deadlines in a heap, libuv inside it for signals, wake-ups and its thread pool, and the buffers
 * that all connections of the thread share.
 *
 * Why an own epoll descriptor: a socket is registered once, edge-triggered for both directions, and
 * never changed again; uv_poll_t would cost 15 to 18 epoll_ctl calls a connection. libuv's own
 * descriptor is one more in ours, so that a batch of socket events costs one system call and none
 * of libuv's. Closing is synchronous: after stream_close or poll_close no callback comes; the
 * memory of what was closed is released by loop_defer when the batch of events in hand has been
 * worked off. */
#ifndef MORTISE_LIB_NET_LOOP_H
#define MORTISE_LIB_NET_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <uv.h>

#include "lib/base/clock.h"
#include "lib/base/err.h"
#include "lib/base/list.h"

/* One recv. Twice as much is no better, for it no longer fits the second level cache with what is
 * made of it (docs/performance.md). */
#define LOOP_RX_SIZE ((size_t)512 << 10)
#define LOOP_PX_SIZE \
    (LOOP_RX_SIZE + ((size_t)32 << 10)) /* plaintext of one recv and of a record before */
/* Encrypted and sent at once. */
#define LOOP_TX_PART ((size_t)256 << 10)
#define LOOP_TX_SIZE \
    (LOOP_TX_PART + ((size_t)32 << 10)) /* first size; grows for a burst, shrinks after */

struct loop;

/* loop_new makes a loop. `clock` is borrowed for its life. */
struct loop *loop_new(const struct clock *clock);
/* loop_free closes what libuv still holds open (waiting for name look-ups under way) and releases
 * the loop. No stream, timer, listener or mailbox of it may be in use. */
void loop_free(struct loop *loop);
/* loop_run runs until loop_stop; loop_run_once works off what is ready, blocking for the first
 * event if `block`. */
void loop_run(struct loop *loop);
void loop_run_once(struct loop *loop, bool block);
/* loop_stop makes loop_run return after the batch in hand; any thread may call it. */
void loop_stop(struct loop *loop);
/* loop_uv is called each time a libuv handle is started outside libuv's own callbacks: the loop
 * then lets libuv register it before it blocks. */
uv_loop_t *loop_uv(struct loop *loop);
const struct clock *loop_clock(const struct loop *loop);
/* loop_now_ms is the monotonic time at which the batch in hand began. */
uint64_t loop_now_ms(const struct loop *loop);

/* loop_defer calls fn(arg) when the batch of events in hand is done (before the loop blocks), in
 * order of deferring; what fn itself defers comes in the next round. */
void loop_defer(struct loop *loop, void (*fn)(void *arg), void *arg);

/* timer: a deadline embedded in its user. Zeroed memory is a timer that is off. */
struct timer {
    void (*fn)(void *arg);
    void *arg;
    uint64_t at_ms;
    size_t slot; /* place in the loop's heap, plus one; 0: off */
};
/* timer_start (re)arms: `fn(arg)` once, `ms` from now, from the loop. Moving a deadline further
 * away is cheap: nothing is sorted until the old one passes. */
void timer_start(struct loop *loop, struct timer *timer, uint64_t ms, void (*fn)(void *arg),
                 void *arg);
void timer_stop(struct loop *loop, struct timer *timer);
static inline bool timer_is_on(const struct timer *timer)
{
    return timer->slot != 0;
}

/* poll: readiness of one raw non-blocking descriptor. POLL_HANGUP: the peer ended its direction, or
 * both are ended; POLL_URGENT: TCP urgent data are in the queue, at which a read stops short. */
enum poll_event {
    POLL_READABLE = 1,
    POLL_WRITABLE = 2,
    POLL_FAILED = 4,
    POLL_HANGUP = 8,
    POLL_URGENT = 16,
};
struct poll {
    int fd;         /* -1: closed */
    unsigned ready; /* events seen and not yet used up: the user clears them on EAGAIN */
    void (*fn)(void *arg, unsigned ready);
    void *arg;
    struct list
        again; /* in the loop's list of what is to be called once more without a new event */
};
/* poll_open registers `fd` (taken on success), edge-triggered both ways; fn(arg, poll->ready) comes
 * when something new is ready. Errors: FD_EXHAUSTED (of those watched), NO_MEMORY, IO
 * (sub: errno). */
MUST_CHECK err_t poll_open(struct loop *loop, struct poll *poll, int fd,
                           void (*fn)(void *arg, unsigned ready), void *arg);
/* poll_again asks for one more call in the next round: a reader that stopped at its budget. */
void poll_again(struct loop *loop, struct poll *poll);
/* poll_close closes the descriptor; no call comes afterwards. Closing twice is allowed once it has
 * been opened. */
void poll_close(struct loop *loop, struct poll *poll);
/* poll_release takes the descriptor out without closing it and returns it. */
int poll_release(struct loop *loop, struct poll *poll);

/* The loop-wide buffers. Content is valid only until the function that filled them returns to the
 * loop; who needs bytes longer copies them. */
struct loop_bufs {
    uint8_t *rx; /* LOOP_RX_SIZE: what recv fills */
    uint8_t *px; /* LOOP_PX_SIZE: what TLS decrypts into */
    uint8_t *tx; /* tx_cap: what TLS encrypts into before one send */
    size_t tx_len;
    size_t tx_cap;
};
struct loop_bufs *loop_bufs(struct loop *loop);

#endif
