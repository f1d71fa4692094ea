/* authority is one signing certificate with its key, as the store keeps it. A root of a mesh and
 * the issuing certificate that it vouches for are a pair. */
#ifndef MORTISE_CONTROL_AUTHORITY_H
#define MORTISE_CONTROL_AUTHORITY_H

#include "certs/issue.h"
#include "control/vault.h"

struct authority {
    struct issuer issuer; /* key NULL: of a root whose key is kept elsewhere */
    uint8_t *der;
    size_t der_len;
    uint8_t key_sha256[32]; /* of its SubjectPublicKeyInfo */
    int64_t not_before;
    int64_t not_after;
    uint64_t version; /* of its record in the store */
};

/* authority_make takes a certificate (DER), which was judged before, and a reference to its key
 * (NULL: it is elsewhere). Errors: CERT_SYNTAX. */
MUST_CHECK err_t authority_make(struct bytes der, EVP_PKEY *key, struct authority *out);
/* authority_load reads the record at `path`. Errors: NOT_FOUND, STORE_CORRUPT (also: the key is not
 * the certificate's), KEK_UNAVAILABLE, IO. On error `*out` is empty. */
MUST_CHECK err_t authority_load(struct vault *vault, const char *path, struct authority *out);
/* authority_save adds its record to `batch`; `expect` as in store.h. */
MUST_CHECK err_t authority_save(struct vault *vault, struct vault_batch *batch, const char *path,
                                const struct authority *authority, uint64_t expect);
void authority_fini(struct authority *authority);
struct bytes authority_der(const struct authority *authority); /* borrowed */

struct authority_pair {
    struct authority root;
    struct authority issuer;
};

/* authority_make_pair makes a new root (P-384) of `ttl_s` and its issuer of `issuer_ttl_s`;
 * authority_make_issuer an issuer alone: P-256, because peers verify its signatures at each
 * handshake. Nothing is stored. Errors: those of issue.h. */
MUST_CHECK err_t authority_make_pair(const char *trust_domain, int64_t now_s, int64_t ttl_s,
                                     int64_t issuer_ttl_s, struct authority_pair *out);
MUST_CHECK err_t authority_make_issuer(const struct issuer *root, const char *trust_domain,
                                       int64_t now_s, int64_t ttl_s, struct authority *out);
/* authority_belongs: the issuer is signed by the root. */
bool authority_belongs(const struct authority *root, const struct authority *issuer);
void authority_pair_fini(struct authority_pair *pair);

#endif
