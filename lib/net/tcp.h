/* tcp: stream on a non-blocking socket (TCP or Unix).
 *
 * Reads go into the loop's rx buffer: first 16 KiB at a time, doubling after full reads up to what
 * the user's read_max says and to 512 KiB, back to 16 KiB when the reader stops. At most
 * TCP_READ_BUDGET reads an event, then the others have their turn. A write is one send; the rest is
 * kept in an exactly sized block. What the peer sent before it reset the connection is still
 * delivered: a write that fails while reading is on says so by on_error, behind the last bytes. */
#ifndef MORTISE_LIB_NET_TCP_H
#define MORTISE_LIB_NET_TCP_H

#include "lib/net/addr.h"
#include "lib/net/stream.h"

#define TCP_READ_MIN ((size_t)16 << 10) /* the first read: one TLS record */
/* Reads of one stream in a row; then the others of the batch have their turn (2 MiB at most). */
#define TCP_READ_BUDGET 4

/* tcp_new makes a stream of a connected socket: takes `fd` (also on error), sets O_NONBLOCK,
 * CLOEXEC and TCP_NODELAY. Errors: FD_EXHAUSTED, NO_MEMORY, IO. */
MUST_CHECK err_t tcp_new(struct loop *loop, int fd, struct stream **out);

/* Called once with an owned stream, or an error: CONNECT_REFUSED, CONNECT_TIMEOUT, CONNECT_FAILED
 * (sub: errno), FD_EXHAUSTED. */
typedef void (*tcp_connect_cb)(void *arg, err_t err, struct stream *stream);
struct tcp_connect;
/* tcp_connect begins a connection; timeout_ms 0: as long as the kernel tries. The callback comes
 * from the loop, never from inside this call; `*out` is gone by then. Errors (then no callback
 * comes): FD_EXHAUSTED, NO_MEMORY, CONNECT_FAILED, IO. */
MUST_CHECK err_t tcp_connect(struct loop *loop, const struct addr *to, uint64_t timeout_ms,
                             tcp_connect_cb cb, void *arg, struct tcp_connect **out);
/* tcp_connect_cancel: the callback will not come. */
void tcp_connect_cancel(struct tcp_connect *connect);

/* tcp_err says what an errno means on an open connection: PEER_RESET for the network's verdicts,
 * which are no doing of ours (sub: errno), NO_MEMORY, and IO for what only we can bring about. */
err_t tcp_err(int value);

/* tcp_peek calls once, from the loop, with the first bytes that have come, at least one, without
 * taking them: they are read later as if nothing had been. Nothing came before the peer's end: with
 * none. A connection that breaks says on_error instead. Not while it is read. The stream's user may
 * go another way meanwhile (tcp_peek_cancel), as when it has waited long enough. */
typedef void (*tcp_peek_cb)(void *arg, struct bytes first);
void tcp_peek(struct stream *stream, tcp_peek_cb cb, void *arg);
void tcp_peek_cancel(struct stream *stream);

/* The descriptor, for addresses and socket options; stays the stream's. */
int tcp_fd(const struct stream *stream);

#endif
