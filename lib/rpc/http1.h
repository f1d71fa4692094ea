/* http1: a small HTTP/1.1 server: bounded head and body, timeouts, keep-alive. The parser is a
 * library. Source: RFC 9112. */
#ifndef MORTISE_LIB_RPC_HTTP1_H
#define MORTISE_LIB_RPC_HTTP1_H

#include "lib/base/buf.h"
#include "lib/net/stream.h"

#define HTTP1_CONNECTIONS_MAX 64 /* of one server, where max_connections does not say */
#define HTTP1_HEAD_MAX 16384     /* heads of kubelet, Prometheus, API servers are < 4 KiB */

struct http1_request {
    const char *method; /* "GET" */
    const char *path;   /* without query */
    const char *query;  /* "" when none */
    struct bytes body;
};

struct http1_response {
    int status;               /* set to 200 before the handler */
    const char *content_type; /* constant; set to "text/plain; charset=utf-8" */
    const char *allow;        /* for 405; constant */
    struct buf body;          /* the server releases it */
};

typedef void (*http1_handler)(void *arg, const struct http1_request *request,
                              struct http1_response *response);

struct http1_params {
    http1_handler handler; /* answers at once */
    void *arg;
    size_t body_max;     /* 413 beyond */
    uint64_t timeout_ms; /* for a whole request, and idle between two; 10 s when 0 */
    /* 64 when 0. One more takes the place of the one that has owed its request for longest, or,
     * when all are being answered, has taken longest over its answer. */
    unsigned max_connections;
};

struct http1_server;
struct http1_server *http1_server_new(struct loop *loop, const struct http1_params *params);
/* http1_server_accept serves a stream (taken). */
void http1_server_accept(struct http1_server *server, struct stream *stream);
void http1_server_free(struct http1_server *server);

#endif
