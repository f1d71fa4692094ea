/* jwks: the public keys with which an issuer signs, as it publishes them. What cannot be used here
 * (another kind of key, one for encryption, one that is too weak or that has its private half with
 * it) is left out, as the specification wants; a set without any key that can is refused. A set is
 * immutable. Source: RFC 7517, RFC 7518 section 6, RFC 8037. */
#ifndef MORTISE_CERTS_JWKS_H
#define MORTISE_CERTS_JWKS_H

#include <openssl/evp.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

#define JWKS_TEXT_MAX 262144 /* 64 keys with their certificate chains */
#define JWKS_KEYS_MAX 64
#define JWKS_KID_MAX 256
#define JWKS_RSA_MIN_BITS 2048
#define JWKS_RSA_MAX_BITS 8192 /* a signature of it takes half a millisecond */

/* The algorithms that tokens may be signed with: what a key of each kind is good for. */
enum jwks_alg {
    JWKS_RS256,
    JWKS_RS384,
    JWKS_RS512,
    JWKS_PS256,
    JWKS_PS384,
    JWKS_PS512,
    JWKS_ES256,
    JWKS_ES384,
    JWKS_EDDSA,
    JWKS_ALG_NUM,
};
/* jwks_alg_find: JWKS_ALG_NUM for whatever else a header may say, "none" and "HS256" among it. */
enum jwks_alg jwks_alg_find(const char *name);

struct jwks_key {
    char *kid;          /* owned; NULL: it has none */
    unsigned algs;      /* bits: that it may be used with */
    EVP_PKEY *key;      /* owned, public */
    uint8_t sha256[32]; /* of its SubjectPublicKeyInfo */
};

struct jwks {
    struct jwks_key keys[JWKS_KEYS_MAX];
    size_t num;
    size_t left_out;
};

/* jwks_parse reads a set, owned (jwks_free). Errors: TOO_LARGE (the text, or more than
 * JWKS_KEYS_MAX keys), JWKS_SYNTAX (also: two keys of one kind under one kid), JWKS_EMPTY. */
MUST_CHECK err_t jwks_parse(struct bytes text, struct jwks **out);
void jwks_free(struct jwks *jwks);
MEM_CLEANUP_FN(jwks_freep, struct jwks, jwks_free)

/* jwks_find gives the key named `kid` that may be used with `alg`; with `kid` NULL the only one
 * that may. NULL: there is none, or it is not the only one. */
const struct jwks_key *jwks_find(const struct jwks *jwks, const char *kid, enum jwks_alg alg);
/* jwks_holds: whether a key is still in the set. */
bool jwks_holds(const struct jwks *jwks, const uint8_t sha256[32]);

#endif
