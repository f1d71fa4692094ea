/* attest turns the credential of a sidecar without a valid certificate into who it is: a one-time
 * join token, or the certificate that it had until just now.
 *
 * A token is "mjt1." and 32 random bytes in base64url. The store holds its SHA-256 only, so that
 * nobody who reads the store can join; looking it up by hash leaks nothing of it by timing. The
 * first key that presents a token owns it: the same key may ask again until it expires (an answer
 * was lost), any other is refused. Source: reliability R36, R50, F51. */
#ifndef MORTISE_CONTROL_ATTEST_H
#define MORTISE_CONTROL_ATTEST_H

#include "control/vault.h"
#include "proto/mesh/identity.pb-c.h"

#define ATTEST_TTL_DEFAULT_S 900
#define ATTEST_TTL_MIN_S 10
#define ATTEST_TTL_MAX_S 86400
#define ATTEST_KEEP_S 86400 /* an expired token is told from an unknown one for a day */

/* attest_token_new makes a token of `subsystem` (which must exist; not checked here) and keeps its
 * record. The owned text is returned this once; wipe it. Errors: STORE_UNWRITABLE. */
MUST_CHECK err_t attest_token_new(struct vault *vault, const char *subsystem, int64_t now_s,
                                  int64_t ttl_s, char **out_token);

/* attest_login_new makes one for an administrator instead, "mlt1." and as many random bytes;
 * neither is good for the other's purpose. It ends with the epoch of administrators' certificates
 * (admins.h), too. It is only added to `batch`. */
MUST_CHECK err_t attest_login_new(struct vault *vault, struct vault_batch *batch, const char *admin,
                                  uint64_t epoch, int64_t now_s, int64_t ttl_s, char **out_token);

/* attest_grant is what a token gives. */
struct attest_grant {
    Mortise__Control__Token *token;
    uint64_t version;
    char path[VAULT_PATH_MAX];
};
void attest_grant_fini(struct attest_grant *grant);

/* attest_find looks a token up; it is cheap and comes before anything that costs.
 * Errors: TOKEN_UNKNOWN (malformed ones too), TOKEN_EXPIRED, STORE_CORRUPT, IO. */
MUST_CHECK err_t attest_find(struct vault *vault, const char *token, int64_t now_s,
                             struct attest_grant *out);

/* attest_login_find is the same for one of an administrator; one of another epoch has expired. */
MUST_CHECK err_t attest_login_find(struct vault *vault, const char *token, uint64_t epoch,
                                   int64_t now_s, struct attest_grant *out);

/* attest_bind ties the token to the key that `key_sha256` is the hash of: adds that to `batch` when
 * it is the first. Errors: TOKEN_USED. */
MUST_CHECK err_t attest_bind(struct vault *vault, const struct attest_grant *grant,
                             const uint8_t key_sha256[32], int64_t now_s,
                             struct vault_batch *batch);

/* attest_last finds the record of an expired certificate whose bearer asks for a new one: we have
 * issued just that one to a sidecar, it expired at most `rejoin_s` ago (0: it never helps), and its
 * key has signed `csr` (certs/proof.h). Whether it was revoked is the caller's to ask. Owned
 * (pb_free). Errors: REJOIN_UNKNOWN, REJOIN_LATE, PROOF_INVALID, those of proof_read;
 * STORE_CORRUPT, IO. */
MUST_CHECK err_t attest_last(struct vault *vault, const Mortise__V1__LastCertificate *last,
                             struct bytes csr, int64_t now_s, uint32_t rejoin_s,
                             Mortise__Control__Issuance **out);

/* attest_purge removes tokens that expired more than ATTEST_KEEP_S ago. */
MUST_CHECK err_t attest_purge(struct vault *vault, int64_t now_s);

#endif
