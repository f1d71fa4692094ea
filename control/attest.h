/* attest turns the credential of a new sidecar into the subsystem that it is: one-time join tokens.
 *
 * A token is "mjt1." and 32 random bytes in base64url. The store holds its SHA-256 only, so that
 * nobody who reads the store can join; looking it up by hash leaks nothing of it by timing. The
 * first key that presents a token owns it: the same key may ask again until it expires (an answer
 * was lost), any other is refused. Source: reliability R36, R50, F51. */
#ifndef MORTISE_CONTROL_ATTEST_H
#define MORTISE_CONTROL_ATTEST_H

#include "control/vault.h"

#define ATTEST_TTL_DEFAULT_S 900
#define ATTEST_TTL_MIN_S 10
#define ATTEST_TTL_MAX_S 86400
#define ATTEST_KEEP_S 86400 /* an expired token is told from an unknown one for a day */

/* attest_token_new makes a token of `subsystem` (which must exist; not checked here) and keeps its
 * record. The owned text is returned this once; wipe it. Errors: STORE_UNWRITABLE. */
MUST_CHECK err_t attest_token_new(struct vault *vault, const char *subsystem, int64_t now_s,
                                  int64_t ttl_s, char **out_token);

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

/* attest_bind ties the token to the key that `key_sha256` is the hash of: adds that to `batch` when
 * it is the first. Errors: TOKEN_USED. */
MUST_CHECK err_t attest_bind(struct vault *vault, const struct attest_grant *grant,
                             const uint8_t key_sha256[32], int64_t now_s,
                             struct vault_batch *batch);

/* attest_purge removes tokens that expired more than ATTEST_KEEP_S ago. */
MUST_CHECK err_t attest_purge(struct vault *vault, int64_t now_s);

#endif
