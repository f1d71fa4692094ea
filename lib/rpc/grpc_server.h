/* grpc_server: gRPC service on h2: method table, per-call state, deny by default.
 * Unary, server-streaming and bidirectional calls; deadlines (grpc-timeout) are kept.
 * Source: gRPC over HTTP/2. */
#ifndef MORTISE_LIB_RPC_GRPC_SERVER_H
#define MORTISE_LIB_RPC_GRPC_SERVER_H

#include <sys/types.h>

#include <protobuf-c/protobuf-c.h>

#include "lib/net/addr.h"
#include "lib/net/stream.h"
#include "lib/rpc/grpc_frame.h"
#include "lib/rpc/h2.h"

struct grpc_server;
struct grpc_call;

/* grpc_peer is who calls, for the life of its connection, or of one call that brought credentials
 * of its own. `identity` is what the program made of it when it accepted, or identified (owned by
 * the program, released by its free_identity). */
struct grpc_peer {
    struct addr addr;
    bool tls;  /* else a Unix socket */
    uid_t uid; /* of a Unix peer, else (uid_t)-1 */
    void *identity;
};

struct grpc_method {
    const char *path; /* "/mortise.v1.IdentityService/Attest" */
    const ProtobufCMessageDescriptor *in;
    const ProtobufCMessageDescriptor *out;
    size_t max_message;    /* bytes of one request message */
    bool client_streaming; /* else just one request message is taken */
    /* The call began (client_streaming only; may be NULL). */
    void (*on_start)(struct grpc_call *call, void *service);
    /* A message came; borrowed for the call. */
    void (*on_message)(struct grpc_call *call, void *service, const ProtobufCMessage *msg);
    /* The client sends no more (may be NULL: the call is then finished with OK when streaming). */
    void (*on_half_close)(struct grpc_call *call, void *service);
    /* The call is over, for whatever reason, exactly once (may be NULL): release what
     * grpc_call_data holds. The call is not to be used afterwards. */
    void (*on_done)(struct grpc_call *call, void *service);
};

struct grpc_server_params {
    const struct h2_limits *limits; /* NULL: the defaults */
    unsigned max_connections;       /* more are closed at once; default 4096 */
    /* Asked, before authorize, about a call with a header `authorization`: who makes it is then
     * `*out_identity`, for this call and no other. Anything but GRPC_OK refuses the call, as
     * authorize does. NULL: such a header is not looked at. */
    enum grpc_status (*identify)(void *arg, const struct grpc_peer *peer, struct bytes credentials,
                                 void **out_identity, const char **out_reason);
    /* Asked before a call begins, and by grpc_server_recheck; anything but GRPC_OK refuses it with
     * that status and `*out_reason` (copied at once, may be NULL). NULL function: everything is
     * refused. */
    enum grpc_status (*authorize)(void *arg, const struct grpc_peer *peer,
                                  const struct grpc_method *method, const char **out_reason);
    void (*free_identity)(void *arg, void *identity);
    /* What a call that was let in is answered with, before its caller hears it (may be NULL);
     * `message` may be NULL. `rechecked`: authorize has ended it, and knows. */
    void (*on_answer)(void *arg, const struct grpc_call *call, const struct grpc_method *method,
                      enum grpc_status status, const char *message, bool rechecked);
    /* For metrics and logs, at the end of each call (may be NULL). */
    void (*on_finished)(void *arg, const struct grpc_peer *peer, const char *path,
                        enum grpc_status status, uint64_t duration_us);
    void *arg;
};

struct grpc_server *grpc_server_new(struct loop *loop, const struct grpc_server_params *params);
/* grpc_server_add registers methods (borrowed, static) of a service. */
void grpc_server_add(struct grpc_server *server, const struct grpc_method *methods, size_t num,
                     void *service);
/* grpc_server_accept serves a connected (handshaken) stream: takes it, and `identity`. */
void grpc_server_accept(struct grpc_server *server, struct stream *stream,
                        const struct grpc_peer *peer);
/* grpc_server_drain sends GOAWAY on each connection and lets calls finish; grpc_server_free closes
 * all at once (on_done is still called for each call). */
void grpc_server_drain(struct grpc_server *server);
void grpc_server_free(struct grpc_server *server);
size_t grpc_server_num_connections(const struct grpc_server *server);
/* grpc_server_close_if ends each connection for whose peer `match` is true: at once, or, where all
 * of its calls are answered, when these answers are out, at the latest when it is asked again. */
void grpc_server_close_if(struct grpc_server *server,
                          bool (*match)(void *arg, const struct grpc_peer *peer), void *arg);

/* grpc_server_recheck asks authorize again about every call that is open, and ends those that may
 * not be any more with what it says: to be called when rights have changed, or may have. */
void grpc_server_recheck(struct grpc_server *server);

/* grpc_call_send sends a message (copied). Errors: LIMIT when the client does not read (the call
 * should then be finished with RESOURCE_EXHAUSTED), CLOSED when the call is over on the wire. */
MUST_CHECK err_t grpc_call_send(struct grpc_call *call, const ProtobufCMessage *msg);
/* Bytes not yet taken by the client's window: coalesce pushes while it is not 0. */
size_t grpc_call_queued(const struct grpc_call *call);
/* fn(call, service) when queued becomes 0. */
void grpc_call_on_writable(struct grpc_call *call,
                           void (*fn)(struct grpc_call *call, void *service));
/* grpc_call_finish ends the call; `message` may be NULL. May be called from any callback, or later.
 */
void grpc_call_finish(struct grpc_call *call, enum grpc_status status, const char *message);
/* grpc_call_reply: send, then finish with OK. */
void grpc_call_reply(struct grpc_call *call, const ProtobufCMessage *msg);
const struct grpc_peer *grpc_call_peer(const struct grpc_call *call);
void grpc_call_set_data(struct grpc_call *call, void *data);
void *grpc_call_data(const struct grpc_call *call);

#endif
