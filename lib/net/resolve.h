/* resolve turns "name:port" into addresses without blocking the loop (getaddrinfo on libuv's pool).
 */
#ifndef MORTISE_LIB_NET_RESOLVE_H
#define MORTISE_LIB_NET_RESOLVE_H

#include "lib/net/addr.h"
#include "lib/net/loop.h"

#define RESOLVE_MAX 16 /* addresses a name gives at most */

struct resolve;
/* Called once; `addrs` is borrowed for the call. Errors: ADDR_SYNTAX, RESOLVE_FAILED (sub: EAI_
 * value), TIMEOUT. */
typedef void (*resolve_cb)(void *arg, err_t err, const struct addr *addrs, size_t num);

/* resolve_start looks `target` ("host:port", an address, "unix:/path") up; addresses answer from
 * the next round of the loop, too. Returns the query, owned by the loop until the callback. */
struct resolve *resolve_start(struct loop *loop, const char *target, uint64_t timeout_ms,
                              resolve_cb cb, void *arg);
/* resolve_cancel: the callback will not come. */
void resolve_cancel(struct resolve *resolve);

#endif
