/* record_aead: authenticated encryption of TLS 1.3 records by different implementations.
 *
 * A row of the table is one cipher in one implementation ("engine"): AES-GCM of Intel's IPsec
 * Multi-Buffer library where the processor has VAES (three to four times the speed of BoringSSL's),
 * BoringSSL's EVP_AEAD everywhere else. Only record_key.c uses this. */
#ifndef MORTISE_LIB_NET_RECORD_AEAD_H
#define MORTISE_LIB_NET_RECORD_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/buf.h"

#define RECORD_NONCE 12
#define RECORD_TAG 16
#define RECORD_HEADER 5
#define RECORD_KEY_MAX 32

enum record_cipher {
    RECORD_AES_128_GCM,
    RECORD_AES_256_GCM,
    RECORD_CHACHA20_POLY1305,
    RECORD_NUM_CIPHERS,
};

/* Where an expanded key lies; what is in it is the engine's business. */
struct record_slot {
    _Alignas(64) uint8_t bytes[1152];
};

struct record_aead {
    const char *engine; /* "boringssl", "ipsec-mb" */
    size_t key_len;
    void (*expand)(struct record_slot *slot, const uint8_t *key);
    /* Encrypts `plain` and the byte `type` behind it to `out`: plain.len + 1 + RECORD_TAG bytes.
     * `out` does not overlap `plain`. */
    void (*seal)(const struct record_slot *slot, const uint8_t nonce[RECORD_NONCE],
                 const uint8_t header[RECORD_HEADER], struct bytes plain, uint8_t type,
                 uint8_t *out);
    /* Decrypts to `out`, sealed.len - RECORD_TAG bytes (sealed is no shorter than that). False: it
     * is not authentic, and `out` holds zeros. */
    bool (*open)(const struct record_slot *slot, const uint8_t nonce[RECORD_NONCE],
                 const uint8_t header[RECORD_HEADER], struct bytes sealed, uint8_t *out);
};

/* record_aead_portable is BoringSSL's of that cipher; record_aead_fast the quickest on this
 * processor, which may be the same. Static. */
const struct record_aead *record_aead_portable(enum record_cipher cipher);
const struct record_aead *record_aead_fast(enum record_cipher cipher);

/* record_aead_ipsec_mb: NULL where the processor or the build has it not, or the cipher is another.
 */
const struct record_aead *record_aead_ipsec_mb(enum record_cipher cipher);

#endif
