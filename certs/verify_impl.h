/* verify_impl: what verify.c and verify_cache.c, the two files of verify.h, share. */
#ifndef MORTISE_CERTS_VERIFY_IMPL_H
#define MORTISE_CERTS_VERIFY_IMPL_H

#include "certs/boring.h"
#include "certs/verify.h"

/* The CAs of a path, as a peer has them: those of many peers are the same, and kept once. */
struct peer_lineage {
    struct refs refs;
    size_t num;
    EVP_PKEY **keys; /* of the issuers */
    struct peer_issuer issuers[];
};
void verify_lineage_unref(struct peer_lineage *lineage);

/* verify_cache_share returns the one that was met before, if it is the same: takes `lineage`,
 * returns a reference. */
struct peer_lineage *verify_cache_share(struct verify_cache *cache, struct peer_lineage *lineage);

#define VERIFY_KEY_HEX (2 * 32 + 1) /* of a SHA-256 */

/* verify_cache_get returns a peer that is valid at now_s, borrowed, or NULL. */
struct peer *verify_cache_get(struct verify_cache *cache, const char *key, int64_t now_s);
void verify_cache_put(struct verify_cache *cache, const char *key, struct peer *peer,
                      int64_t valid_from);

/* What stands above a leaf: its issuer, then what that one rests on, the anchor last; each was
 * verified, but for the time. `key` is over all that this verdict depends on.
 * verify_cache_above returns it, borrowed, or NULL. verify_cache_put_above takes it from a path
 * that was verified, leaf first; the last few are kept. verify_cache_hit_issuer counts that one was
 * of use. */
STACK_OF(X509) * verify_cache_above(const struct verify_cache *cache, const char *key);
void verify_cache_put_above(struct verify_cache *cache, const char *key, STACK_OF(X509) * path);
void verify_cache_hit_issuer(struct verify_cache *cache);

#endif
