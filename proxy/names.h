/* names: a worker's cache of resolved endpoint names. Queries for one name are one query; an answer
 * holds for some seconds, and when the resolver fails, or says nothing for NAMES_PATIENCE_MS, the
 * last answer goes on being used: who is at the other end is judged by its certificate, never by
 * its address. */
#ifndef MORTISE_PROXY_NAMES_H
#define MORTISE_PROXY_NAMES_H

#include "lib/base/list.h"
#include "lib/net/addr.h"
#include "lib/net/loop.h"

#define NAMES_FRESH_MS 5000
#define NAMES_RETRY_MS 1000   /* after a failure */
#define NAMES_PATIENCE_MS 300 /* a resolver that is well has answered by then */
#define NAMES_MAX 1024        /* entries that nobody waits for are dropped beyond */

struct names;
struct names *names_new(struct loop *loop);
/* names_free: nobody waits any more. */
void names_free(struct names *names);

/* `addrs` is borrowed for the call; at least one when `err` is OK. */
typedef void (*names_cb)(void *arg, err_t err, const struct addr *addrs, size_t num);

/* A place in the queue for an answer, embedded in who waits. */
struct names_wait {
    struct list link;
    names_cb cb;
    void *arg;
};

/* names_get looks `target` ("name:port") up and calls wait->cb once: from within if the answer is
 * known, else later. `timeout_ms` bounds a query that this call begins. Errors told:
 * RESOLVE_FAILED, TIMEOUT. */
void names_get(struct names *names, const char *target, uint64_t timeout_ms,
               struct names_wait *wait, names_cb cb, void *arg);
/* names_cancel: the callback will not come. May be called at any time after names_get. */
void names_cancel(struct names_wait *wait);

#endif
