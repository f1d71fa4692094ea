/* key: private keys: made here, loaded from PEM, never printed. */
#ifndef MORTISE_CERTS_KEY_H
#define MORTISE_CERTS_KEY_H

#include <openssl/evp.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

/* key_generate makes a P-256 key; key_generate_p384 for CAs. Owned (EVP_PKEY_free). */
MUST_CHECK err_t key_generate(EVP_PKEY **out);
MUST_CHECK err_t key_generate_p384(EVP_PKEY **out);
/* key_parse reads PKCS#8 or SEC1 or PKCS#1 PEM (unencrypted; an encrypted one is told apart).
 * Errors: KEY_SYNTAX, PEM_SYNTAX, PEM_EMPTY, KEY_WEAK. */
MUST_CHECK err_t key_parse(struct bytes pem, EVP_PKEY **out);
/* key_der and key_from_der: PKCS#8. `out` is wiped by its owner. Errors: NO_MEMORY (key_der);
 * KEY_SYNTAX, KEY_WEAK (key_from_der). */
MUST_CHECK err_t key_der(const EVP_PKEY *key, struct buf *out);
MUST_CHECK err_t key_from_der(struct bytes der, EVP_PKEY **out);
MUST_CHECK err_t key_write_pem(const EVP_PKEY *key, struct buf *out);
/* key_check_strength: P-256, P-384, RSA >= 2048 (and <= 8192). Errors: KEY_WEAK (sub: bits). */
MUST_CHECK err_t key_check_strength(const EVP_PKEY *key);
/* key_digest is the hash that a signature with `key` is made of: as strong as the key. */
const EVP_MD *key_digest(const EVP_PKEY *key);
/* key_spki_sha256 hashes the SubjectPublicKeyInfo. Errors: NO_MEMORY. */
MUST_CHECK err_t key_spki_sha256(const EVP_PKEY *key, uint8_t out[32]);

#endif
