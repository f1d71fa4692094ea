/* plane is the control plane put together: store, CA, registry, services, listeners; it creates
 * them in order, connects them, watches over who may stay connected, and takes them down in order.
 */
#ifndef MORTISE_CONTROL_PLANE_H
#define MORTISE_CONTROL_PLANE_H

#include "control/config.h"
#include "lib/net/loop.h"

struct plane;

/* plane_new opens the store (and makes the mesh's CA and default resources, if it is the first
 * start) and listens. Borrows `loop` and `config`; `keys` are copied. On error `faults` says what
 * is wrong and what to do. Errors: FILE_OPEN, FILE_UNSAFE, STORE_*, KEK_UNAVAILABLE, CONFIG_INVALID
 * (trust domain), CA_CANNOT_SIGN, CLOCK_BACKWARDS, those of listener_new. */
MUST_CHECK err_t plane_new(struct loop *loop, const struct config *config,
                           const struct seal_keys *keys, struct faults *faults, struct plane **out);

/* plane_addr is where sidecars are taken, for port 0. */
const struct addr *plane_addr(const struct plane *plane);

/* plane_stop begins the end: no new connections, GOAWAY, streams are ended so that sidecars look
 * for us again, calls may finish within the drain time; then loop_stop. */
void plane_stop(struct plane *plane);

/* plane_free closes what is left, and the store. */
void plane_free(struct plane *plane);

#endif
