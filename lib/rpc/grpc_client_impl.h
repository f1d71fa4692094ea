/* grpc_client_impl: what grpc_channel.c (the way to the server) and grpc_client.c (the calls)
 * share. Private to the two. */
#ifndef MORTISE_LIB_RPC_GRPC_CLIENT_IMPL_H
#define MORTISE_LIB_RPC_GRPC_CLIENT_IMPL_H

#include "lib/base/backoff.h"
#include "lib/base/list.h"
#include "lib/net/resolve.h"
#include "lib/net/tcp.h"
#include "lib/rpc/grpc_client.h"

/* Where the way to the server stands. A connection that works is channel->conn. */
enum grpc_channel_state {
    GRPC_CHANNEL_IDLE, /* nothing to do, or conn is there */
    GRPC_CHANNEL_RESOLVING,
    GRPC_CHANNEL_CONNECTING,
    GRPC_CHANNEL_HANDSHAKE,
    GRPC_CHANNEL_GREETING, /* HTTP/2 begins: the server's SETTINGS are awaited */
    GRPC_CHANNEL_BACKOFF,
    GRPC_CHANNEL_CLOSED,
    GRPC_CHANNEL_NUM,
};

/* One HTTP/2 connection. */
struct grpc_link {
    struct list link; /* in channel->links */
    struct grpc_channel *channel;
    struct h2 *h2;
    struct list calls;
    bool ready;  /* its SETTINGS came */
    bool proven; /* a call got an answer: the next failure starts the backoff anew */
};

struct grpc_channel {
    struct loop *loop;
    struct grpc_channel_params params;
    char *target, *authority, *server_name, *authorization;
    enum grpc_channel_state state;
    struct timer timer; /* of the attempt as a whole, or of the backoff */
    struct backoff backoff;
    err_t last_err; /* why there is no connection */
    struct resolve *resolve;
    struct addr addrs[RESOLVE_MAX];
    size_t num_addrs, next_addr;
    struct tcp_connect *connect;
    struct stream *stream;  /* of the attempt, before HTTP/2 has it */
    SSL *configured;        /* handshake_done is due */
    struct grpc_link *conn; /* the one that takes new calls, or will when ready */
    struct list links;      /* all, those that drain too */
    struct list waiting;    /* calls without a connection */
    struct list refused;    /* calls that will fail without one */
    bool serving;           /* grpc_channel_serve is deferred */
};

enum grpc_cc_state {
    GRPC_CC_WAITING,
    GRPC_CC_OPEN, /* the request is on a connection */
    GRPC_CC_DONE, /* the callback was called, or is not wanted */
    GRPC_CC_NUM,
};

struct grpc_client_call {
    struct list link; /* in channel->waiting or grpc_link.calls */
    struct grpc_channel *channel;
    struct grpc_link *conn;
    struct h2_stream *stream;
    enum grpc_cc_state state;
    char *path;
    const ProtobufCMessageDescriptor *reply;
    uint64_t deadline_at_ms; /* 0: none */
    struct timer deadline;
    struct buf out; /* frames that wait for the connection; of a unary call kept for a replay */
    bool unary;
    bool out_end;   /* half-closed */
    bool attempted; /* streaming: a connection attempt was made for it */
    unsigned replays;
    struct grpc_decoder decoder;
    /* the answer */
    bool have_head;
    int http_status;
    bool have_status;
    enum grpc_status status;
    char *message;
    ProtobufCMessage *msg; /* of a unary call */
    /* the user */
    grpc_unary_cb unary_cb;
    const struct grpc_stream_events *events;
    void *arg;
};

/* Of the channel. grpc_channel_schedule: waiting calls are brought onto the connection, or one is
 * made for them, when the batch of events is done. */
void grpc_channel_schedule(struct grpc_channel *channel);

/* Of the calls. grpc_cc_start begins one on a connection; it still waits on an error, which is one
 * of h2_request. grpc_cc_fail ends one for a reason of ours; grpc_cc_drop without a word. The
 * others are events of its HTTP/2 stream. */
MUST_CHECK err_t grpc_cc_start(struct grpc_client_call *call, struct grpc_link *conn);
void grpc_cc_fail(struct grpc_client_call *call, enum grpc_status status, err_t err);
void grpc_cc_drop(struct grpc_client_call *call);
void grpc_cc_on_headers(struct grpc_client_call *call, const struct h2_header *headers, size_t num,
                        bool trailers, bool end);
void grpc_cc_on_data(struct grpc_client_call *call, struct bytes data, bool end);
void grpc_cc_on_close(struct grpc_client_call *call, err_t err);

#endif
