/* admin: the pages that every program has, over HTTP/1.1: /livez, /readyz, /metrics, /loglevel; a
 * program adds its own. On a Unix socket with peer-credential check everything; on a TCP address
 * (for kubelet and Prometheus) only the read-only pages marked public. */
#ifndef MORTISE_LIB_RPC_ADMIN_H
#define MORTISE_LIB_RPC_ADMIN_H

#include "lib/base/faults.h"
#include "lib/base/metrics.h"
#include "lib/net/addr.h"
#include "lib/rpc/http1.h"

struct admin_page {
    const char *path; /* one that ends with a slash is for every path that begins so */
    bool post;        /* POST changes something; else GET and HEAD */
    bool public;      /* also on TCP */
    void (*handle)(void *arg, const struct http1_request *request, struct http1_response *response);
    const char *help; /* one line for the index page "/" */
};

struct admin_params {
    const char *listen;      /* "unix:/run/mortise/admin.sock"; NULL: none */
    const char *http_listen; /* "127.0.0.1:15020"; NULL: none; public pages only */
    struct metrics *metrics;
    /* Appends what is written behind them when they are asked for (metrics_write_value); may be
     * NULL. */
    err_t (*more_metrics)(void *arg, struct buf *out);
    /* Fills in why the program is not ready, a fault a reason; none: ready. */
    void (*ready)(void *arg, struct faults *reasons);
    const struct admin_page *pages; /* static; ended by path NULL; may be NULL */
    void *arg;
};

struct admin;
/* Errors: those of listener_new, ADDR_SYNTAX; `faults` says which setting. */
MUST_CHECK err_t admin_new(struct loop *loop, const struct admin_params *params,
                           struct faults *faults, struct admin **out);
void admin_free(struct admin *admin);
/* The TCP address in use, for port 0; NULL when none. */
const struct addr *admin_http_addr(const struct admin *admin);

#endif
