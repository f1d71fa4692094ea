#include "lib/net/record_key.h"

#include <stdatomic.h>
#include <string.h>

#include <openssl/digest.h>
#include <openssl/err.h>
#include <openssl/hkdf.h>

#include "lib/base/mem.h"

#define LABEL_MAX 12 /* "tls13 " and the longest of ours */

/* One thread's expanded keys. */
struct record_place {
    uint64_t owner;                 /* the number of its key; 0: empty */
    const struct record_aead *aead; /* of what was expanded last */
    struct record_slot slot;
};
static _Thread_local struct record_place record_sealing, record_opening;

/* Not the key's address: another may come to lie there while a slot of some other thread still
 * holds the one before. */
static atomic_uint_least64_t record_key_last;

static uint64_t record_key_number(void)
{
    return atomic_fetch_add_explicit(&record_key_last, 1, memory_order_relaxed) + 1;
}

static const struct record_slot *record_place_take(struct record_place *place,
                                                   const struct record_key *key)
{
    if (place->owner != key->number) {
        if (place->aead != key->aead) /* a longer key would leave its tail */
            mem_wipe(&place->slot, sizeof(place->slot));
        place->aead = key->aead;
        key->aead->expand(&place->slot, key->key);
        place->owner = key->number;
    }
    return &place->slot;
}

static void record_place_drop(struct record_place *place, const struct record_key *key)
{
    if (place->owner != key->number)
        return;
    mem_wipe(&place->slot, sizeof(place->slot));
    place->owner = 0;
}

const struct record_slot *record_key_slot_of_sealing(void)
{
    return &record_sealing.slot;
}

/* HKDF-Expand-Label with an empty context (RFC 8446 section 7.1). BoringSSL allocates for it. */
static err_t record_expand_label(const struct record_key *key, const char *label, uint8_t *out,
                                 size_t len)
{
    const EVP_MD *digest = key->secret_len == 48 ? EVP_sha384() : EVP_sha256();
    uint8_t info[4 + 6 + LABEL_MAX];
    size_t label_len = strlen(label);

    CHECK(label_len <= LABEL_MAX);
    info[0] = 0;
    info[1] = (uint8_t)len;
    info[2] = (uint8_t)(6 + label_len);
    memcpy(info + 3, "tls13 ", 6);
    memcpy(info + 9, label, label_len);
    info[9 + label_len] = 0;
    if (HKDF_expand(out, len, digest, key->secret, key->secret_len, info, 10 + label_len) != 1) {
        ERR_clear_error();
        return FAIL(NO_MEMORY, 0);
    }
    return OK;
}

static err_t record_key_derive(struct record_key *key)
{
    TRY(record_expand_label(key, "key", key->key, key->aead->key_len));
    return record_expand_label(key, "iv", key->iv, sizeof(key->iv));
}

err_t record_key_init(struct record_key *key, const struct record_aead *aead, struct bytes secret,
                      uint64_t seq)
{
    err_t err;

    CHECK(secret.len == 32 || secret.len == 48);
    memset(key, 0, sizeof(*key));
    key->number = record_key_number();
    key->aead = aead;
    key->seq = seq;
    memcpy(key->secret, secret.ptr, secret.len);
    key->secret_len = (uint8_t)secret.len;
    err = record_key_derive(key);
    if (!err_is_ok(err))
        record_key_fini(key);
    return err;
}

void record_key_fini(struct record_key *key)
{
    record_place_drop(&record_sealing, key);
    record_place_drop(&record_opening, key);
    mem_wipe(key, sizeof(*key));
}

err_t record_key_update(struct record_key *key)
{
    uint8_t next[RECORD_SECRET_MAX];
    err_t err = record_expand_label(key, "traffic upd", next, key->secret_len);

    if (err_is_ok(err))
        memcpy(key->secret, next, key->secret_len);
    mem_wipe(next, sizeof(next));
    record_place_drop(&record_sealing, key);
    record_place_drop(&record_opening, key);
    key->number = record_key_number();
    if (err_is_ok(err))
        err = record_key_derive(key);
    key->seq = err_is_ok(err) ? 0 : UINT64_MAX; /* no nonce comes twice under one key */
    return err;
}

/* RFC 8446 section 5.3 */
static void record_key_nonce(const struct record_key *key, uint8_t out[RECORD_NONCE])
{
    uint8_t seq[8];

    put_be64(seq, key->seq);
    memcpy(out, key->iv, RECORD_NONCE);
    for (size_t i = 0; i < sizeof(seq); i++)
        out[RECORD_NONCE - sizeof(seq) + i] ^= seq[i];
}

void record_key_seal(struct record_key *key, uint8_t type, struct bytes plain, uint8_t *out)
{
    const struct record_slot *slot = record_place_take(&record_sealing, key);
    size_t len = plain.len + 1 + RECORD_TAG;
    uint8_t nonce[RECORD_NONCE];

    CHECK(plain.len <= RECORD_PLAIN_MAX && key->seq < UINT64_MAX);
    out[0] = RECORD_TYPE_DATA;
    out[1] = RECORD_VERSION >> 8;
    out[2] = RECORD_VERSION & 0xff;
    out[3] = (uint8_t)(len >> 8);
    out[4] = (uint8_t)len;
    record_key_nonce(key, nonce);
    key->aead->seal(slot, nonce, out, plain, type, out + RECORD_HEADER);
    key->seq++;
}

bool record_key_open(struct record_key *key, struct bytes record, uint8_t *out)
{
    const struct record_slot *slot = record_place_take(&record_opening, key);
    struct bytes sealed = bytes_of(record.ptr + RECORD_HEADER, record.len - RECORD_HEADER);
    uint8_t nonce[RECORD_NONCE];

    CHECK(sealed.len >= RECORD_TAG && sealed.len <= RECORD_SEALED_MAX && key->seq < UINT64_MAX);
    record_key_nonce(key, nonce);
    if (!key->aead->open(slot, nonce, record.ptr, sealed, out))
        return false;
    key->seq++;
    return true;
}
