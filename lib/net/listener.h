/* listener: binds, accepts in batches, pauses when descriptors run out, resumes by itself.
 * Source: accept(2); EMFILE handling keeps one descriptor in reserve so that a pending connection
 * can be accepted and reset rather than spin. */
#ifndef MORTISE_LIB_NET_LISTENER_H
#define MORTISE_LIB_NET_LISTENER_H

#include "lib/net/addr.h"
#include "lib/net/loop.h"

struct listener;
/* `fd` is the callee's, non-blocking and close-on-exec. */
typedef void (*listener_accept_cb)(void *arg, int fd, const struct addr *peer);

struct listener_params {
    struct addr addr;
    int backlog;        /* 0: 4096 */
    unsigned unix_mode; /* of a Unix socket's file; 0: 0600; the directory must exist */
    listener_accept_cb on_accept;
    /* A connection was reset because there is neither descriptor nor memory for it; NULL: untold.
     */
    void (*on_turned_away)(void *arg);
    void *arg;
};

/* listener_new binds and listens but does not accept before listener_start: the kernel queues.
 * A stale Unix socket file that nobody answers on is replaced. Port 0 takes any; see listener_addr.
 * Errors: ADDR_IN_USE, PERMISSION, IO (sub: errno). */
MUST_CHECK err_t listener_new(struct loop *loop, const struct listener_params *params,
                              struct listener **out);
void listener_start(struct listener *listener);
void listener_pause(struct listener *listener);
/* listener_close stops listening at once; its socket file is removed. */
void listener_close(struct listener *listener);
const struct addr *listener_addr(const struct listener *listener);

#endif
