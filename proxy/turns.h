/* turns: how many connections to one peer a worker opens at once; the others wait, first come first
 * served. A burst of an application then takes longer instead of meeting the peer's limit of
 * handshakes of one source: of 6000 connections at once 1259 were lost there, and none with this.
 *
 * What takes a turn is work: a connection that waits for the network alone (its TCP connection has
 * not come about within TURNS_PATIENCE_MS) counts no longer, so that one silent endpoint does not
 * hold up those who would reach another. */
#ifndef MORTISE_PROXY_TURNS_H
#define MORTISE_PROXY_TURNS_H

#include "lib/base/list.h"
#include "lib/net/loop.h"

#define TURNS_MAX 512 /* of one link, all workers together; half of a peer's default limit */
#define TURNS_PATIENCE_MS 300 /* a SYN answered later than this has not waited for a processor */

struct turns;
/* turns_new: at most `max` at once of each link. */
struct turns *turns_new(struct loop *loop, unsigned max);
/* turns_free: nobody has or awaits a turn any more. */
void turns_free(struct turns *turns);

/* A turn, embedded in who takes it. Zeroed memory is none. */
struct turn {
    struct list link; /* in the queue, or among those that connect */
    struct turns_link *of;
    enum { TURN_NONE, TURN_WAITING, TURN_CONNECTING, TURN_WORKING } state;
    uint64_t since_ms;
    void (*go)(void *arg);
    void *arg;
};

/* turns_take: go(arg) is called when it is this one's turn: from within if it is now, else from the
 * loop. */
void turns_take(struct turns *turns, const char *link, struct turn *turn, void (*go)(void *arg),
                void *arg);
/* turns_connected: the peer is there; from now on it counts until turns_end. */
void turns_connected(struct turn *turn);
/* turns_end gives the turn back, or the place in the queue up; allowed at any time. */
void turns_end(struct turn *turn);

#endif
