/* tls_ctx builds the SSL_CTX of one generation: identity, trust and profile, verification
 * installed, resumption, tickets, 0-RTT and compression off; renegotiation as a client's profile
 * says. Immutable, shared by threads. */
#ifndef MORTISE_CERTS_TLS_CTX_H
#define MORTISE_CERTS_TLS_CTX_H

#include <openssl/ssl.h>

#include "certs/shown.h"
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
 * equal in profile, bundle and client_auth; otherwise the handshake ends with unrecognized_name /
 * TLS_SNI_UNKNOWN. */
struct tls_ctx_entry {
    const char *server_name; /* NULL: this is the only entry, any or no SNI */
    struct tls_profile *profile;
    struct bundle *bundle;
    enum tls_client_auth client_auth; /* counts here, not the profile's: policy may ask for more */
    struct svid *svid;                /* shown in place of the context's; NULL: that one */
};
MUST_CHECK err_t tls_ctx_server(struct svid *svid, const struct tls_ctx_entry *entries, size_t num,
                                struct tls_ctx **out);
/* tls_ctx_set_alpn: the one protocol to be spoken ("h2": gRPC clients insist on it); a client
 * offers it, a server refuses a client that offers others only; one that offers none is let in.
 * Once, before the context is shared. Errors: TLS_CONFIG. */
MUST_CHECK err_t tls_ctx_set_alpn(struct tls_ctx *ctx, const char *protocol);
/* tls_ctx_take_probes: a server agrees to the protocol TLS_PROBE_PROTOCOL with a client that offers
 * it, and ignores all others. That client wants the handshake's outcome and nothing behind it.
 * tls_probe_offer has a client's session offer it; tls_is_probe says whether it was agreed to. */
#define TLS_PROBE_PROTOCOL "mortise-probe"
void tls_ctx_take_probes(struct tls_ctx *ctx);
MUST_CHECK err_t tls_probe_offer(SSL *ssl);
bool tls_is_probe(const SSL *ssl);
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
     * effects. `peer` NULL: a server that the profile does not verify. Of a client that need not
     * show a certificate and did not it is asked by tls_check_finish, with `peer` NULL. */
    err_t (*authorize)(void *arg, int entry, const struct peer *peer);
    /* Told of the server's chosen entry (-1: there was no SNI) as soon as it is known; may be NULL.
     */
    void (*chosen)(void *arg, int entry);
    void *arg;
    /* Out: */
    err_t err;         /* why a callback of ours refused; OK otherwise */
    int entry;         /* server: chosen by SNI, -1 without; 0 where the only entry has no name */
    struct peer *peer; /* a reference, released by tls_check_fini; NULL: none shown (optional) */
    struct shown_hello hello; /* server: what the client offered */
};
/* tls_check_init zeroes and sets the in fields; tls_check_attach ties it to the SSL (before the
 * handshake; without memory for that, `err` says so and the handshake fails). tls_check_finish,
 * after a successful handshake, checks what was negotiated against the profile and that a peer was
 * verified (fail closed). Errors: TLS_NO_SHARED, CERT_MISSING, what `authorize` says. */
void tls_check_init(struct tls_check *check, const struct clock *clock, struct verify_cache *cache);
void tls_check_attach(struct tls_check *check, SSL *ssl);
MUST_CHECK err_t tls_check_finish(struct tls_check *check, SSL *ssl);
void tls_check_fini(struct tls_check *check);

#endif
