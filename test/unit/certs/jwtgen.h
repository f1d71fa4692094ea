/* jwtgen is an issuer of tokens for tests: keys, the set of them, and tokens that are right or
 * wrong in one way. */
#ifndef MORTISE_TEST_UNIT_CERTS_JWTGEN_H
#define MORTISE_TEST_UNIT_CERTS_JWTGEN_H

#include <openssl/evp.h>

#include "certs/jwks.h"
#include "lib/base/buf.h"

/* jwtgen_base64url is owned text. */
char *jwtgen_base64url(struct bytes in);

/* Fresh keys, but for that of Ed25519, which is the same each time. */
EVP_PKEY *jwtgen_rsa(unsigned bits);
EVP_PKEY *jwtgen_ec(int curve);
EVP_PKEY *jwtgen_ed25519(void);

/* jwtgen_jwk is the public key as an object, owned text; `more` goes into it: "\"kid\":\"a\"". */
char *jwtgen_jwk(EVP_PKEY *key, const char *more);

/* jwtgen_sign signs header and payload (JSON) as `alg` wants, owned text. JWKS_ALG_NUM: with an
 * empty signature. jwtgen_hmac: HS256 with `secret`. */
char *jwtgen_sign(EVP_PKEY *key, enum jwks_alg alg, const char *header, const char *payload);
char *jwtgen_hmac(struct bytes secret, const char *header, const char *payload);

#endif
