/* grpc_client: a channel to one target that connects when needed, reconnects with jittered backoff,
 * keeps itself alive with pings, and carries unary and streaming calls with deadlines. Source: gRPC
 * over HTTP/2, connection-backoff. */
#ifndef MORTISE_LIB_RPC_GRPC_CLIENT_H
#define MORTISE_LIB_RPC_GRPC_CLIENT_H

#include <openssl/ssl.h>
#include <protobuf-c/protobuf-c.h>

#include "lib/net/stream.h"
#include "lib/rpc/grpc_frame.h"
#include "lib/rpc/h2.h"

struct grpc_channel;
struct grpc_client_call;

struct grpc_channel_params {
    const char *target;    /* "host:port", "[v6]:port", "unix:/path"; copied */
    const char *authority; /* :authority; NULL: from target; copied */
    /* Asked for each new connection: a reference to the context to use now (the channel releases it
     * with SSL_CTX_free), or NULL: cannot connect now. `tls` NULL: plaintext (Unix socket only). */
    SSL_CTX *(*tls)(void *arg);
    const char *server_name; /* SNI or NULL; copied */
    /* The header `authorization` of each call, over TLS alone; NULL: none; copied, and wiped. */
    const char *authorization;
    /* Called with the SSL before the handshake, and after the connection is gone or the handshake
     * is over (`done`), to attach and take back what the context's callbacks need. May be NULL. It
     * returns the reason that its callbacks kept for a failed handshake, else OK. */
    void (*configure)(void *arg, SSL *ssl);
    err_t (*handshake_done)(void *arg, SSL *ssl, err_t err);
    const struct h2_limits *limits; /* NULL: the defaults */
    uint64_t connect_timeout_ms;    /* 5 s when 0, connect and handshake together */
    uint32_t backoff_base_ms;       /* 200 when 0 */
    uint32_t backoff_max_ms;        /* 30 s when 0 */
    /* Told of each change: connected, or the error and the delay until the next try. May be NULL.
     */
    void (*on_state)(void *arg, bool connected, err_t err, uint32_t retry_ms);
    void *arg;
};

/* grpc_channel_new makes a channel; it connects with the first call. */
struct grpc_channel *grpc_channel_new(struct loop *loop, const struct grpc_channel_params *params);
/* grpc_channel_close ends all calls without callbacks, and the channel. */
void grpc_channel_close(struct grpc_channel *channel);
/* grpc_channel_reconnect: new calls go over a new connection (with a new TLS context); the old
 * one ends when its calls have. */
void grpc_channel_reconnect(struct grpc_channel *channel);

struct grpc_result {
    enum grpc_status status;
    const char *message; /* of the server, or our reason; borrowed for the callback; never NULL */
    err_t err;           /* what broke when no status came from the server */
};

/* grpc_unary: one request, one reply within deadline_ms from now (0: no deadline). `reply` is
 * borrowed and NULL unless status is OK. A call waits for the connection (first try and retries) up
 * to its deadline. The callback comes once, from the loop, unless cancelled. */
typedef void (*grpc_unary_cb)(void *arg, const struct grpc_result *result,
                              const ProtobufCMessage *reply);
struct grpc_client_call *grpc_unary(struct grpc_channel *channel, const char *path,
                                    const ProtobufCMessage *request,
                                    const ProtobufCMessageDescriptor *reply, uint64_t deadline_ms,
                                    grpc_unary_cb cb, void *arg);

struct grpc_stream_events {
    void (*on_open)(void *arg); /* the request is on a connection (may be NULL) */
    void (*on_message)(void *arg, const ProtobufCMessage *msg); /* borrowed */
    /* Over, exactly once unless cancelled. */
    void (*on_done)(void *arg, const struct grpc_result *result);
};
/* grpc_stream_open begins a bidirectional (or server-streaming) call; one attempt: on_done tells
 * when it fails and the user opens another (grpc_stream_open waits out the channel's backoff by
 * itself). deadline_ms 0: none. `max_message` bounds a reply message. */
struct grpc_client_call *grpc_stream_open(struct grpc_channel *channel, const char *path,
                                          const ProtobufCMessageDescriptor *reply,
                                          size_t max_message, uint64_t deadline_ms,
                                          const struct grpc_stream_events *events, void *arg);
/* Errors: LIMIT when too much waits for the peer. Messages before on_open are queued. */
MUST_CHECK err_t grpc_stream_send(struct grpc_client_call *call, const ProtobufCMessage *msg);
void grpc_stream_half_close(struct grpc_client_call *call);
/* grpc_client_cancel: RST_STREAM; no callback comes. */
void grpc_client_cancel(struct grpc_client_call *call);

#endif
