/* tls_profile: a TlsProfile resource, checked against what the library can do, and applied. */
#ifndef MORTISE_CERTS_TLS_PROFILE_H
#define MORTISE_CERTS_TLS_PROFILE_H

#include <openssl/ssl.h>

#include "lib/base/faults.h"
#include "lib/base/mem.h"
#include "proto/mesh/resource.pb-c.h"

#define TLS_MAX_AGE_MIN_S 10
#define TLS_MAX_AGE_MAX_S 31536000

/* Compiled, immutable, shared. */
struct tls_profile;

/* tls_profile_compile checks the message and adds every fault under `path` ("profiles[3]"): unknown
 * names (with the nearest known), suites the library lacks (with reason and nearest available),
 * versions below TLS 1.2, minimum above maximum, nothing left to negotiate. Errors: CONFIG_INVALID.
 */
MUST_CHECK err_t tls_profile_compile(const Mortise__V1__TlsProfile *msg, struct fault_path *path,
                                     struct faults *faults, struct tls_profile **out);
struct tls_profile *tls_profile_ref(struct tls_profile *profile);
void tls_profile_unref(struct tls_profile *profile);
MEM_CLEANUP_FN(tls_profile_unrefp, struct tls_profile, tls_profile_unref)
const char *tls_profile_name(const struct tls_profile *profile);
bool tls_profile_is_server(const struct tls_profile *profile);
/* tls_profile_equal: the same on the wire, whatever the name. */
bool tls_profile_equal(const struct tls_profile *a, const struct tls_profile *b);

/* tls_profile_apply sets versions, TLS 1.2 suites, groups and signature algorithms: of a context,
 * or of one session from within the early callback. Errors: TLS_CONFIG. */
MUST_CHECK err_t tls_profile_apply_ctx(const struct tls_profile *profile, SSL_CTX *ctx);
MUST_CHECK err_t tls_profile_apply_ssl(const struct tls_profile *profile, SSL *ssl);
/* tls_profile_allows says whether what was negotiated is within the profile: TLS 1.3 suites cannot
 * be switched off in the library. Errors: TLS_NO_SHARED. */
MUST_CHECK err_t tls_profile_allows(const struct tls_profile *profile, const SSL *ssl);

/* tls_profile_intersect computes what client and server have in common. When nothing:
 * CONFIG_INVALID, and one fault at `path` that shows both lists. `out_text` (may be NULL) gets a
 * line such as "TLS1_2-TLS1_3; TLS_AES_128_GCM_SHA256, …; X25519, P-256". */
MUST_CHECK err_t tls_profile_intersect(const struct tls_profile *client,
                                       const struct tls_profile *server, const char *path,
                                       struct faults *faults, struct buf *out_text);
/* tls_profile_describe appends what the profile offers on the wire, a line a kind, for golden
 * files. */
MUST_CHECK err_t tls_profile_describe(const struct tls_profile *profile, struct buf *out);

/* tls_profile_serves: whether a certificate with this key can be used under the profile: one with
 * suites or signature algorithms for RSA keys alone is of no use to an ECDSA identity, and no other
 * end can know that beforehand. */
bool tls_profile_serves(const struct tls_profile *profile, const EVP_PKEY *key);

/* The built-in profiles of a new mesh, "default-tls-client" and "default-tls-server": out[] has
 * room for TLS_PROFILE_DEFAULTS pointers; each message is the caller's, as if unpacked
 * (mortise__v1__tls_profile__free_unpacked). */
#define TLS_PROFILE_DEFAULTS 2
void tls_profile_defaults(Mortise__V1__TlsProfile **out, size_t *out_num);

#endif
