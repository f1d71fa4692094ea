/* tls_ctx builds the SSL_CTX of one generation: identity, trust and profile, verification
 * installed, resumption, tickets, 0-RTT, renegotiation and compression off. Immutable, shared by
 * threads. */
#ifndef MORTISE_CERTS_TLS_CTX_H
#define MORTISE_CERTS_TLS_CTX_H

#include <openssl/ssl.h>

#include "certs/svid.h"
#include "certs/tls_profile.h"
#include "certs/verify.h"
#include "lib/base/clock.h"

struct tls_ctx;

/* A client: `svid` may be NULL only for Attest (no certificate to show yet). Takes references. */
MUST_CHECK err_t tls_ctx_client(struct svid *svid, struct bundle *bundle,
                                struct tls_profile *profile, struct tls_ctx **out);

/* A server: the entry is chosen by SNI before versions are, exactly (ASCII case folded); without
 * SNI (or with entries whose server_name is NULL) entry 0 is used only when all entries are
 * equal in profile and bundle; otherwise the handshake ends with unrecognized_name /
 * TLS_SNI_UNKNOWN. */
struct tls_ctx_entry {
    const char *server_name; /* NULL: this is the only entry, any or no SNI */
    struct tls_profile *profile;
    struct bundle *bundle;
};
MUST_CHECK err_t tls_ctx_server(struct svid *svid, const struct tls_ctx_entry *entries, size_t num,
                                bool client_cert_optional, struct tls_ctx **out);
/* tls_ctx_set_alpn: the one protocol to be spoken ("h2": gRPC clients insist on it); a client
 * offers it, a server refuses a client that offers others only; one that offers none is let in.
 * Once, before the context is shared. Errors: TLS_CONFIG. */
MUST_CHECK err_t tls_ctx_set_alpn(struct tls_ctx *ctx, const char *protocol);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx);
void tls_ctx_unref(struct tls_ctx *ctx);
MEM_CLEANUP_FN(tls_ctx_unrefp, struct tls_ctx, tls_ctx_unref)
/* The SSL_CTX, borrowed. */
SSL_CTX *tls_ctx_ssl(const struct tls_ctx *ctx);

/* tls_check travels with one handshake: what the callbacks need, and what they found. The owner of
 * the connection keeps it until the handshake is over or the SSL is freed. */
struct tls_check {
    const struct clock *clock;
    struct verify_cache *cache; /* of this thread; may be NULL */
    /* Asked inside the handshake, after the chain was verified: may this peer be here? `entry` is
     * the server's chosen entry, or -1 when there was no SNI (and for a client). An error refuses
     * with verify_alert. The peer has not yet proven that it has the key: an answer only, no
     * effects. */
    err_t (*authorize)(void *arg, int entry, const struct peer *peer);
    void *arg;
    /* Out: */
    err_t err;         /* why a callback of ours refused; OK otherwise */
    int entry;         /* server: chosen by SNI, -1 without; 0 where the only entry has no name */
    struct peer *peer; /* a reference, released by tls_check_fini; NULL: none shown (optional) */
};
/* tls_check_init zeroes and sets the in fields; tls_check_attach ties it to the SSL (before the
 * handshake; without memory for that, `err` says so and the handshake fails). tls_check_finish,
 * after a successful handshake, checks what was negotiated against the profile and that a peer was
 * verified (fail closed). Errors: TLS_NO_SHARED, CERT_MISSING. */
void tls_check_init(struct tls_check *check, const struct clock *clock, struct verify_cache *cache);
void tls_check_attach(struct tls_check *check, SSL *ssl);
MUST_CHECK err_t tls_check_finish(struct tls_check *check, SSL *ssl);
void tls_check_fini(struct tls_check *check);

#endif
