/* seal: envelope encryption of a record: a data key per record, AES-256-GCM, under a key-encryption
 * key; the record's path and version are authenticated, so that no record can stand in for another.
 * Layout: "MS1" | key id (8) | nonce (12) | wrapped data key (32+16) | nonce (12) | ciphertext +
 * tag. */
#ifndef MORTISE_CERTS_SEAL_H
#define MORTISE_CERTS_SEAL_H

#include "lib/base/buf.h"
#include "lib/base/err.h"

struct seal_key {
    uint8_t key[32];
    uint8_t id[8]; /* first bytes of SHA-256 over "mortise-kek" and the key */
};

/* seal_key_parse reads 32 bytes as 64 hex digits or base64, white space around allowed.
 * Errors: KEK_UNAVAILABLE. The caller wipes with seal_key_fini. */
MUST_CHECK err_t seal_key_parse(struct bytes text, struct seal_key *out);
void seal_key_fini(struct seal_key *key);

MUST_CHECK err_t seal_close(const struct seal_key *key, const char *path, struct bytes plain,
                            struct buf *out);
/* Errors: KEK_UNAVAILABLE (sealed under another key), SEAL_BROKEN. */
MUST_CHECK err_t seal_open(const struct seal_key *key, const char *path, struct bytes sealed,
                           struct buf *out);

#endif
