/* tls_profile: a TlsProfile resource, checked against what the library can do, and applied. */
#ifndef MORTISE_CERTS_TLS_PROFILE_H
#define MORTISE_CERTS_TLS_PROFILE_H

#include <openssl/ssl.h>

#include "certs/tls_names.h"
#include "lib/base/faults.h"
#include "lib/base/mem.h"
#include "proto/mesh/resource.pb-c.h"

#define TLS_MAX_AGE_MIN_S 10
#define TLS_MAX_AGE_MAX_S 31536000
#define TLS_HANDSHAKE_MIN_MS 100
#define TLS_HANDSHAKE_MAX_MS 300000
#define TLS_IDLE_MAX_S 2592000

/* Whether a client must show a certificate. */
enum tls_client_auth { TLS_CLIENT_REQUIRED, TLS_CLIENT_OPTIONAL, TLS_CLIENT_NONE };

/* Compiled, immutable, shared. */
struct tls_profile;

/* tls_profile_compile checks the message and adds every fault under `path` ("profiles[3]"): unknown
 * names (with the nearest known), suites the library lacks (with reason and nearest available),
 * versions below TLS 1.2 without allow_legacy, minimum above maximum, nothing left to negotiate.
 * Errors: CONFIG_INVALID.
 */
MUST_CHECK err_t tls_profile_compile(const Mortise__V1__TlsProfile *msg, struct fault_path *path,
                                     struct faults *faults, struct tls_profile **out);
/* tls_profile_left_out adds what a message that compiles is compiled without, because it says
 * ignore_unavailable: the place, why, and the nearest available. */
void tls_profile_left_out(const Mortise__V1__TlsProfile *msg, struct fault_path *path,
                          struct faults *warnings);
struct tls_profile *tls_profile_ref(struct tls_profile *profile);
void tls_profile_unref(struct tls_profile *profile);
MEM_CLEANUP_FN(tls_profile_unrefp, struct tls_profile, tls_profile_unref)
const char *tls_profile_name(const struct tls_profile *profile);
bool tls_profile_is_server(const struct tls_profile *profile);
enum tls_client_auth tls_profile_client_auth(const struct tls_profile *profile);
/* tls_profile_skips_verify: a client's, whose servers have no identity. */
bool tls_profile_skips_verify(const struct tls_profile *profile);
/* tls_profile_renegotiation: what a client grants a server of TLS 1.2 that asks for it. */
enum ssl_renegotiate_mode_t tls_profile_renegotiation(const struct tls_profile *profile);
/* tls_profile_equal: the same on the wire, whatever the name. */
bool tls_profile_equal(const struct tls_profile *a, const struct tls_profile *b);

/* tls_profile_apply sets versions, TLS 1.2 suites, groups and signature algorithms: of a context,
 * or of one session from within the early callback. Errors: TLS_CONFIG. */
MUST_CHECK err_t tls_profile_apply_ctx(const struct tls_profile *profile, SSL_CTX *ctx);
MUST_CHECK err_t tls_profile_apply_ssl(const struct tls_profile *profile, SSL *ssl);
/* tls_profile_allows says whether what was negotiated is within the profile: TLS 1.3 suites cannot
 * be switched off in the library. Errors: TLS_NO_SHARED. */
MUST_CHECK err_t tls_profile_allows(const struct tls_profile *profile, const SSL *ssl);

/* What a client and a server have in common, by the server's preference; rows of tls_names.h. */
struct tls_common {
    uint16_t min; /* TLS1_VERSION to TLS1_3_VERSION */
    uint16_t max;
    unsigned suites13;                              /* TLS_13_ bits; 0 without TLS 1.3 */
    const struct tls_suite *suites[TLS_SUITES_NUM]; /* of TLS 1.2 and below */
    size_t num_suites;
    const struct tls_group *groups[TLS_GROUPS_NUM];
    size_t num_groups;
    const struct tls_sigalg *sigalgs[TLS_SIGALGS_NUM];
    size_t num_sigalgs;
    enum tls_client_auth client_auth;
};

/* tls_profile_intersect computes what client and server have in common between two ends with P-256
 * certificates, which is what the mesh issues: just what two of our ends would negotiate. Succeeds
 * exactly when a handshake would (on CPUs with AES instructions). When it would not:
 * CONFIG_INVALID, and one fault at `path` that shows both lists and says what would be right. `out`
 * may be NULL. Pure. */
MUST_CHECK err_t tls_profile_intersect(const struct tls_profile *client,
                                       const struct tls_profile *server, const char *path,
                                       struct faults *faults, struct tls_common *out);
/* tls_version_name is the schema's: "TLS1_2". */
const char *tls_version_name(uint16_t version);
/* tls_common_text appends "TLS1_2-TLS1_3; TLS_AES_128_GCM_SHA256, …; X25519, P-256". */
MUST_CHECK err_t tls_common_text(const struct tls_common *common, struct buf *out);
/* tls_profile_describe appends what the profile offers on the wire, a line a kind, for golden
 * files. */
MUST_CHECK err_t tls_profile_describe(const struct tls_profile *profile, struct buf *out);

/* tls_profile_weak appends what of a profile is weaker than a mesh's default whatever the other end
 * is, for people: "client_auth OPTIONAL"; nothing where it is not. */
MUST_CHECK err_t tls_profile_weak(const Mortise__V1__TlsProfile *msg, struct buf *out);

/* tls_profile_serves: whether a certificate with this key can be used under the profile: one with
 * signature algorithms (or, of a server, suites) for RSA keys alone is of no use to an ECDSA
 * identity, and no other end can know that beforehand. */
bool tls_profile_serves(const struct tls_profile *profile, const EVP_PKEY *key);

/* The built-in profiles: default-tls, modern, intermediate, legacy, fips, each with "-client" and
 * "-server", and the clients of the default links: analytics-ingestion-client,
 * portal-director-client, gateway-management-client. out[] has room for TLS_PROFILE_DEFAULTS
 * pointers; each message is the caller's, as if unpacked (mortise__v1__tls_profile__free_unpacked).
 */
#define TLS_PROFILE_DEFAULTS 13
void tls_profile_defaults(Mortise__V1__TlsProfile **out, size_t *out_num);
/* tls_profile_builtin is one of them, owned likewise; NULL: no such one is built in. */
Mortise__V1__TlsProfile *tls_profile_builtin(const char *name);

#endif
