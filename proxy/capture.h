/* capture: connections that the kernel hands over in place of where the application meant them to
 * go (mortise-redirect): where that was, and whether the kernel still does it.
 *
 * The sidecar has no right to read the kernel's rules. It connects to an address where nobody
 * listens, every few seconds and over each of IPv4 and IPv6 that this host has; what comes back to
 * its own listener has gone by the rules. */
#ifndef MORTISE_PROXY_CAPTURE_H
#define MORTISE_PROXY_CAPTURE_H

#include <stdatomic.h>

#include "lib/net/addr.h"
#include "lib/net/loop.h"

#define CAPTURE_EVERY_MS 4000
#define CAPTURE_TRIAL_MS 1000

/* What is known, as one number: any thread may read it. */
enum capture_state {
    CAPTURE_OFF,
    CAPTURE_UNKNOWN, /* not tried to the end yet */
    CAPTURE_WORKS,
    CAPTURE_NO_V4, /* should work, and does not: over IPv4 */
    CAPTURE_NO_V6,
    CAPTURE_NEITHER,
};
static inline bool capture_is_broken(enum capture_state state)
{
    return state >= CAPTURE_NO_V4;
}
/* capture_name is for /config: "off", "not tried yet", "works", "broken over IPv6". */
const char *capture_name(enum capture_state state);
/* "IPv6", of a broken one. */
const char *capture_where(enum capture_state state);

/* capture_destination gives where an accepted connection was meant to go (SO_ORIGINAL_DST).
 * Errors: LOOP_DETECTED: to us; it was captured by nobody. */
MUST_CHECK err_t capture_destination(int fd, struct addr *out);

struct capture;
/* capture_new: off. `state` is written from the loop's thread. */
struct capture *capture_new(struct loop *loop, atomic_int *state);
void capture_free(struct capture *capture);
/* capture_set turns it on, or off. */
void capture_set(struct capture *capture, bool on);
/* capture_takes: a connection to `to` was captured; true: a trial of ours, and that was all. */
bool capture_takes(struct capture *capture, const struct addr *to);

#endif
