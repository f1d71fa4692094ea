#include "lib/net/record_aead.h"

#include <openssl/aead.h>
#include <openssl/err.h>

#include "lib/base/err.h"

/* AES-GCM and ChaCha20-Poly1305 of BoringSSL keep everything inside the context: nothing to
 * release.
 */
_Static_assert(sizeof(EVP_AEAD_CTX) <= sizeof(struct record_slot), "a context fits its slot");

static EVP_AEAD_CTX *aead_ctx(struct record_slot *slot)
{
    return (EVP_AEAD_CTX *)(void *)slot->bytes;
}

static const EVP_AEAD_CTX *aead_ctx_const(const struct record_slot *slot)
{
    return (const EVP_AEAD_CTX *)(const void *)slot->bytes;
}

static void aead_expand(struct record_slot *slot, const EVP_AEAD *aead, const uint8_t *key)
{
    EVP_AEAD_CTX_zero(aead_ctx(slot));
    CHECK(EVP_AEAD_CTX_init(aead_ctx(slot), aead, key, EVP_AEAD_key_length(aead), RECORD_TAG,
                            NULL) == 1);
}

static void aead_expand_aes_128(struct record_slot *slot, const uint8_t *key)
{
    aead_expand(slot, EVP_aead_aes_128_gcm(), key);
}

static void aead_expand_aes_256(struct record_slot *slot, const uint8_t *key)
{
    aead_expand(slot, EVP_aead_aes_256_gcm(), key);
}

static void aead_expand_chacha(struct record_slot *slot, const uint8_t *key)
{
    aead_expand(slot, EVP_aead_chacha20_poly1305(), key);
}

static void aead_seal(const struct record_slot *slot, const uint8_t nonce[RECORD_NONCE],
                      const uint8_t header[RECORD_HEADER], struct bytes plain, uint8_t type,
                      uint8_t *out)
{
    size_t tag_len;

    CHECK(EVP_AEAD_CTX_seal_scatter(aead_ctx_const(slot), out, out + plain.len, &tag_len,
                                    1 + RECORD_TAG, nonce, RECORD_NONCE, plain.ptr, plain.len,
                                    &type, 1, header, RECORD_HEADER) == 1 &&
          tag_len == 1 + RECORD_TAG);
}

static bool aead_open(const struct record_slot *slot, const uint8_t nonce[RECORD_NONCE],
                      const uint8_t header[RECORD_HEADER], struct bytes sealed, uint8_t *out)
{
    size_t len = sealed.len - RECORD_TAG;

    if (EVP_AEAD_CTX_open_gather(aead_ctx_const(slot), out, nonce, RECORD_NONCE, sealed.ptr, len,
                                 sealed.ptr + len, RECORD_TAG, header, RECORD_HEADER) == 1)
        return true;
    ERR_clear_error();
    return false;
}

const struct record_aead *record_aead_portable(enum record_cipher cipher)
{
    static const struct record_aead rows[RECORD_NUM_CIPHERS] = {
        [RECORD_AES_128_GCM] = {"boringssl", 16, aead_expand_aes_128, aead_seal, aead_open},
        [RECORD_AES_256_GCM] = {"boringssl", 32, aead_expand_aes_256, aead_seal, aead_open},
        [RECORD_CHACHA20_POLY1305] = {"boringssl", 32, aead_expand_chacha, aead_seal, aead_open},
    };

    return &rows[cipher];
}

const struct record_aead *record_aead_fast(enum record_cipher cipher)
{
    const struct record_aead *aead = record_aead_ipsec_mb(cipher);

    return aead != NULL ? aead : record_aead_portable(cipher);
}
