/* conn is mortisectl's connection to a control plane: one command, one channel, calls that wait. */
#ifndef MORTISE_CONTROL_CTL_CONN_H
#define MORTISE_CONTROL_CTL_CONN_H

#include <protobuf-c/protobuf-c.h>

#include "certs/bundle.h"
#include "control/ctl/ctl.h"

struct conn;

/* conn_open prepares the connection that the flags describe: the operator socket, or TLS with
 * --server: mutual, or with a token in each call. What is wrong is told; NULL then. */
struct conn *conn_open(const struct ctl_flags *flags);
/* conn_open_stranger is one without a certificate, to a server that must be the control plane of
 * `trust_domain` under `roots` (shared). */
struct conn *conn_open_stranger(const char *server, struct bundle *roots, const char *trust_domain);
void conn_close(struct conn *conn);

/* conn_call makes a unary call and returns the owned reply (pb_free), or NULL when it was refused
 * or nobody was reached, which has been told with what to do. `method` is "OperatorService/Status".
 */
ProtobufCMessage *conn_call(struct conn *conn, const char *method, const ProtobufCMessage *request,
                            const ProtobufCMessageDescriptor *reply);

/* conn_stream sends one message and gives each reply to on_message; true when the server ended it
 * with OK. Anything else has been told. */
bool conn_stream(struct conn *conn, const char *method, const ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *reply,
                 void (*on_message)(void *arg, const ProtobufCMessage *msg), void *arg);

/* conn_wait_for_it: from now on a call that ends because nobody is there (the control plane stops,
 * or starts again, the network is gone) is not told; conn_is_away tells that it ended so. */
void conn_wait_for_it(struct conn *conn);
bool conn_is_away(const struct conn *conn);
/* conn_wake calls `fn` once, `ms` from now, while a stream goes on, instead of what was to be
 * called before; conn_stop, out of it or of on_message, ends the stream: conn_stream returns false.
 */
void conn_wake(struct conn *conn, uint64_t ms, void (*fn)(void *arg), void *arg);
void conn_stop(struct conn *conn);

#endif
