/* sidecar is one simulated sidecar: what mortise-proxy says to its control plane, without a data
 * path. It joins with a token (Attest), holds a discovery stream over mutual TLS, acknowledges each
 * response, renews when the epoch asks for it and some time later comes back on a new connection
 * under the new certificate, the old stream staying until the new one has spoken, as in
 * proxy/control_mode.c, identity.c and discovery.c; retries with their delays. */
#ifndef MORTISE_TEST_BENCH_FLEET_SIDECAR_H
#define MORTISE_TEST_BENCH_FLEET_SIDECAR_H

#include "certs/bundle.h"
#include "certs/svid.h"
#include "certs/tls_ctx.h"
#include "lib/base/backoff.h"
#include "lib/net/loop.h"
#include "lib/rpc/grpc_client.h"

/* shared_key is a key pair and its request, which many sidecars use: making 10,000 keys would
 * measure the load. A renewal takes one of the other half of the pool: the control plane refuses
 * the key that the caller has already. */
struct shared_key {
    EVP_PKEY *key;
    uint8_t *csr;
    size_t csr_len;
};

enum sidecar_event {
    SIDECAR_JOINED, /* has its first certificate */
    SIDECAR_UP,     /* acknowledged the first response of a stream */
    SIDECAR_ACKED,  /* acknowledged a version that it did not have */
    SIDECAR_ISSUED, /* has a renewed certificate */
    SIDECAR_DOWN,   /* its stream ended, and not by its own doing */
};

/* What all sidecars of the fleet have in common; borrowed. */
struct sidecar_world {
    struct loop *loop;
    const char *target;
    const char *trust_domain;
    const char *control_id;
    struct bundle *roots;
    struct tls_profile *profile;
    struct verify_cache *cache; /* of the control plane's chain, the same for all */
    struct shared_key *keys;    /* num_keys for odd turns, then as many for even ones */
    size_t num_keys;
    void (*on_event)(void *arg, unsigned index, enum sidecar_event event);
    /* An attempt failed (`what` is connection, stream, attest or renew), or what was established
     * ended (lost); another attempt comes by itself. */
    void (*on_failure)(void *arg, const char *what, const char *reason);
    void *arg;
};

struct sidecar_stream;

struct sidecar {
    const struct sidecar_world *world;
    unsigned index;
    char instance[20];
    char advertise[32];
    char *token;
    struct svid *svid; /* NULL: has not joined */
    unsigned turn;     /* which half of the keys the last certificate's is of */
    uint64_t epoch;
    uint64_t wanted_epoch;
    uint64_t version; /* in force */
    uint64_t generation;
    struct grpc_channel *channel;
    bool linked; /* its newest connection has been established */
    struct tls_check check;
    bool checking;
    struct grpc_client_call *call;
    struct sidecar_stream *stream;
    struct sidecar_stream *old;
    struct timer identity_timer;
    struct timer stream_timer;
    struct timer move_timer;
    struct backoff identity_backoff;
    struct backoff stream_backoff;
    bool up;
};

/* sidecar_init borrows `world`; sidecar_fini closes without further events. */
void sidecar_init(struct sidecar *sidecar, const struct sidecar_world *world, unsigned index);
void sidecar_fini(struct sidecar *sidecar);
/* sidecar_join takes `token` (owned) and asks until it has a certificate; it then has no
 * connection. */
void sidecar_join(struct sidecar *sidecar, char *token);
/* sidecar_connect opens the discovery stream, and again whenever it ends. */
void sidecar_connect(struct sidecar *sidecar);

#endif
