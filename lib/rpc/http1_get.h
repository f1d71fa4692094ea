/* http1_get fetches one document over HTTPS: GET, one connection, one answer. The server proves its
 * name; only 200 counts, and no redirection is followed: who is asked is said by the caller alone.
 * Everything is bounded in size and time. The parser is a library. Source: RFC 9110, RFC 9112. */
#ifndef MORTISE_LIB_RPC_HTTP1_GET_H
#define MORTISE_LIB_RPC_HTTP1_GET_H

#include <openssl/ssl.h>

#include "lib/base/buf.h"
#include "lib/net/loop.h"

#define HTTP1_URL_MAX 1024
#define HTTP1_HOST_MAX 253

/* http1_url is "https://host[:port]/path" in its parts. */
struct http1_url {
    char host[HTTP1_HOST_MAX + 1]; /* of an IPv6 address without its brackets */
    uint16_t port;
    bool is_address;
    char path[HTTP1_URL_MAX + 1]; /* with the query; "/" at least */
};
/* http1_url_parse: https alone, printable ASCII, neither user nor fragment. Errors: SYNTAX. */
MUST_CHECK err_t http1_url_parse(const char *url, struct http1_url *out);

struct http1_get;
/* Called once, from the loop; `body` is borrowed for the call. Errors: RESOLVE_FAILED, CONNECT_*,
 * those of tls_handshake, CHAIN_UNTRUSTED (sub: X509_V_ERR; a wrong name is one, too), TIMEOUT,
 * CLOSED, PEER_RESET, TLS_TRUNCATED, HTTP1_SYNTAX, HTTP1_STATUS (sub), TOO_LARGE. */
typedef void (*http1_get_cb)(void *arg, err_t err, struct bytes body);

struct http1_get_params {
    SSL_CTX *ctx;                /* says which CAs are trusted; a reference is taken */
    const struct http1_url *url; /* borrowed for the call */
    const char *accept;          /* header; borrowed until the end, usually constant */
    uint64_t timeout_ms;         /* for all of it */
    size_t body_max;
    http1_get_cb cb;
    void *arg;
};
/* http1_get_start begins; the result is owned by the loop until the callback. */
struct http1_get *http1_get_start(struct loop *loop, const struct http1_get_params *params);
/* http1_get_cancel: the callback will not come. */
void http1_get_cancel(struct http1_get *get);

#endif
