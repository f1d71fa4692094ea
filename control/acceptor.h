/* acceptor brings connections to the gRPC server: over TCP after a TLS handshake, from the Unix
 * socket at once. Handshakes are bounded in number, per source and in time; a stranger costs little
 * and is gone soon. Source: reliability R14, R15, R44. */
#ifndef MORTISE_CONTROL_ACCEPTOR_H
#define MORTISE_CONTROL_ACCEPTOR_H

#include "control/server_cert.h"
#include "lib/net/addr.h"
#include "lib/rpc/grpc_server.h"

struct acceptor_params {
    struct addr addr;           /* TCP, or a Unix socket (mode 0600) */
    struct server_cert *cert;   /* TCP only */
    struct grpc_server *server; /* its free_identity releases a struct caller */
    unsigned max_handshakes;    /* at once; more wait to be accepted */
    unsigned max_per_source;
    uint64_t handshake_ms;
    /* Told of the end of each handshake (may be NULL). */
    void (*on_handshake)(void *arg, err_t err);
    /* Of a Unix socket: anybody may connect, and of those who do just whom `admits` knows stays. */
    bool everyone;
    bool (*admits)(void *arg, uid_t uid);
    void *arg;
};

struct acceptor;

/* acceptor_new binds and accepts. Errors: those of listener_new. */
MUST_CHECK err_t acceptor_new(struct loop *loop, const struct acceptor_params *params,
                              struct acceptor **out);
/* acceptor_close stops listening and ends handshakes that are under way. */
void acceptor_close(struct acceptor *acceptor);
const struct addr *acceptor_addr(const struct acceptor *acceptor);

#endif
