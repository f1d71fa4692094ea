/* seal: envelope encryption of a record: a data key per record, AES-256-GCM, under a key-encryption
 * key; the record's path is authenticated, so that no record can stand in for another of another
 * path. An older one of the same path opens, too. Layout: "MS1" | key id (8) | nonce (12) | wrapped
 * data key (32+16) | nonce (12) | ciphertext + tag. */
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

/* Several keys: the first one closes, all of them open. */
#define SEAL_KEYS_MAX 4 /* a new one, the one before it, and two for backups of before */
struct seal_keys {
    struct seal_key keys[SEAL_KEYS_MAX];
    size_t num;
};
/* seal_keys_parse reads one key or more, each as above, with white space or commas between them;
 * one that is there twice counts once. Errors: KEK_UNAVAILABLE (sub: which one is none, from 1; 0:
 * there are none, or too many). The caller wipes with seal_keys_fini. */
MUST_CHECK err_t seal_keys_parse(struct bytes text, struct seal_keys *out);
void seal_keys_fini(struct seal_keys *keys);
/* seal_keys_of is the one that `sealed` was closed with; NULL: none of them. */
const struct seal_key *seal_keys_of(const struct seal_keys *keys, struct bytes sealed);

/* A key's name is its id in hex: it tells one from another, and nothing of the key. seal_name is of
 * the key that `sealed` was closed with, "?" when it is no sealed record. */
#define SEAL_NAME 17
void seal_key_name(const struct seal_key *key, char out[SEAL_NAME]);
void seal_name(struct bytes sealed, char out[SEAL_NAME]);

MUST_CHECK err_t seal_close(const struct seal_key *key, const char *path, struct bytes plain,
                            struct buf *out);
/* Errors: KEK_UNAVAILABLE (sealed under another key), SEAL_BROKEN. */
MUST_CHECK err_t seal_open(const struct seal_key *key, const char *path, struct bytes sealed,
                           struct buf *out);

#endif
