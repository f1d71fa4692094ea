#include "certs/seal.h"

#include <openssl/base64.h>
#include <openssl/sha.h>

#include "certs/boring.h"
#include "lib/base/random.h"

#define SEAL_MAGIC "MS1"
#define SEAL_MAGIC_LEN 3
#define SEAL_ID_LEN 8
#define SEAL_NONCE_LEN 12
#define SEAL_KEY_LEN 32
#define SEAL_TAG_LEN 16
#define SEAL_HEAD_LEN (SEAL_MAGIC_LEN + SEAL_ID_LEN)
#define SEAL_WRAPPED_LEN (SEAL_KEY_LEN + SEAL_TAG_LEN)
#define SEAL_OVERHEAD \
    (SEAL_HEAD_LEN + SEAL_NONCE_LEN + SEAL_WRAPPED_LEN + SEAL_NONCE_LEN + SEAL_TAG_LEN)

static bool seal_is_space(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static int seal_hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

static bool seal_key_of_hex(struct bytes text, uint8_t out[SEAL_KEY_LEN])
{
    if (text.len != 2 * (size_t)SEAL_KEY_LEN)
        return false;
    for (size_t i = 0; i < SEAL_KEY_LEN; i++) {
        int high = seal_hex_digit(text.ptr[2 * i]);
        int low = seal_hex_digit(text.ptr[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static bool seal_key_of_base64(struct bytes text, uint8_t out[SEAL_KEY_LEN])
{
    CLEANUP(buf_wipe_fini) struct buf raw = {0};

    if (text.len != 43 && text.len != 44) /* 32 bytes without or with padding */
        return false;
    if (!err_is_ok(bytes_from_base64((const char *)text.ptr, text.len, &raw)) ||
        buf_size(&raw) != SEAL_KEY_LEN)
        return false;
    memcpy(out, raw.data + raw.pos, SEAL_KEY_LEN);
    return true;
}

err_t seal_key_parse(struct bytes text, struct seal_key *out)
{
    struct seal_key key;

    while (text.len > 0 && seal_is_space(text.ptr[0]))
        text = bytes_of(text.ptr + 1, text.len - 1);
    while (text.len > 0 && seal_is_space(text.ptr[text.len - 1]))
        text.len--;
    if (!seal_key_of_hex(text, key.key) && !seal_key_of_base64(text, key.key)) {
        seal_key_fini(&key);
        return FAIL(KEK_UNAVAILABLE, text.len);
    }

    static const char prefix[] = "mortise-kek";
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256_CTX sha;
    SHA256_Init(&sha);
    SHA256_Update(&sha, prefix, sizeof prefix - 1);
    SHA256_Update(&sha, key.key, sizeof key.key);
    SHA256_Final(digest, &sha);
    memcpy(key.id, digest, sizeof key.id);

    *out = key;
    mem_wipe(&key, sizeof key);
    mem_wipe(&sha, sizeof sha);
    return OK;
}

void seal_key_fini(struct seal_key *key)
{
    mem_wipe(key, sizeof *key);
}

static bool seal_is_between(uint8_t c)
{
    return seal_is_space(c) || c == ',';
}

/* The next word of `*text`, which is left behind it. */
static struct bytes seal_word(struct bytes *text)
{
    struct bytes word;
    size_t len = 0;

    while (text->len > 0 && seal_is_between(text->ptr[0]))
        *text = bytes_of(text->ptr + 1, text->len - 1);
    while (len < text->len && !seal_is_between(text->ptr[len]))
        len++;
    word = bytes_of(text->ptr, len);
    if (len > 0) /* of nothing there may be no pointer to move */
        *text = bytes_of(text->ptr + len, text->len - len);
    return word;
}

static bool seal_keys_has(const struct seal_keys *keys, const struct seal_key *key)
{
    for (size_t i = 0; i < keys->num; i++) {
        if (memcmp(keys->keys[i].id, key->id, SEAL_ID_LEN) == 0)
            return true;
    }
    return false;
}

err_t seal_keys_parse(struct bytes text, struct seal_keys *out)
{
    CLEANUP(seal_keys_fini) struct seal_keys keys = {.num = 0};
    CLEANUP(seal_key_fini) struct seal_key key;
    size_t num = 0;

    for (struct bytes word = seal_word(&text); word.len > 0; word = seal_word(&text)) {
        num++;
        if (!err_is_ok(seal_key_parse(word, &key)))
            return FAIL(KEK_UNAVAILABLE, num);
        if (seal_keys_has(&keys, &key))
            continue;
        if (keys.num == SEAL_KEYS_MAX)
            return FAIL(KEK_UNAVAILABLE, 0);
        keys.keys[keys.num++] = key;
    }
    if (keys.num == 0)
        return FAIL(KEK_UNAVAILABLE, 0);
    *out = keys;
    return OK;
}

void seal_keys_fini(struct seal_keys *keys)
{
    mem_wipe(keys, sizeof *keys);
}

static bool seal_has_head(struct bytes sealed)
{
    return sealed.len >= SEAL_OVERHEAD && memcmp(sealed.ptr, SEAL_MAGIC, SEAL_MAGIC_LEN) == 0;
}

const struct seal_key *seal_keys_of(const struct seal_keys *keys, struct bytes sealed)
{
    for (size_t i = 0; seal_has_head(sealed) && i < keys->num; i++) {
        if (memcmp(sealed.ptr + SEAL_MAGIC_LEN, keys->keys[i].id, SEAL_ID_LEN) == 0)
            return &keys->keys[i];
    }
    return NULL;
}

void seal_key_name(const struct seal_key *key, char out[SEAL_NAME])
{
    bytes_to_hex(bytes_of(key->id, SEAL_ID_LEN), out);
}

void seal_name(struct bytes sealed, char out[SEAL_NAME])
{
    if (seal_has_head(sealed))
        bytes_to_hex(bytes_of(sealed.ptr + SEAL_MAGIC_LEN, SEAL_ID_LEN), out);
    else
        memcpy(out, "?", 2);
}

/* seal_gcm encrypts (`seal`) or decrypts `in` to `out`, which has room for SEAL_TAG_LEN more, or
 * less, bytes than it. Both layers authenticate the head and the path. */
static bool seal_gcm(bool seal, const uint8_t key[SEAL_KEY_LEN], const uint8_t *nonce,
                     struct bytes in, struct bytes aad, uint8_t *out, size_t out_max)
{
    EVP_AEAD_CTX ctx;
    size_t len = 0;

    EVP_AEAD_CTX_zero(&ctx);
    if (!EVP_AEAD_CTX_init(&ctx, EVP_aead_aes_256_gcm(), key, SEAL_KEY_LEN, SEAL_TAG_LEN, NULL))
        return false;
    int done = seal ? EVP_AEAD_CTX_seal(&ctx, out, &len, out_max, nonce, SEAL_NONCE_LEN, in.ptr,
                                        in.len, aad.ptr, aad.len)
                    : EVP_AEAD_CTX_open(&ctx, out, &len, out_max, nonce, SEAL_NONCE_LEN, in.ptr,
                                        in.len, aad.ptr, aad.len);
    EVP_AEAD_CTX_cleanup(&ctx);
    return done == 1 && len == out_max;
}

/* seal_aad is head | path. */
static err_t seal_aad(const uint8_t *head, const char *path, struct buf *out)
{
    TRY(buf_add(out, head, SEAL_HEAD_LEN));
    return buf_add_str(out, path);
}

err_t seal_close(const struct seal_key *key, const char *path, struct bytes plain, struct buf *out)
{
    BORING_SCOPE;
    CLEANUP(buf_fini) struct buf aad = {0};
    uint8_t data_key[SEAL_KEY_LEN];
    uint8_t *p = NULL;

    if (plain.len > BUF_MAX_DEFAULT)
        return FAIL(TOO_LARGE, BUF_MAX_DEFAULT);
    TRY(buf_reserve(out, SEAL_OVERHEAD + plain.len, &p));
    uint8_t *wrap_nonce = p + SEAL_HEAD_LEN;
    uint8_t *wrapped = wrap_nonce + SEAL_NONCE_LEN;
    uint8_t *nonce = wrapped + SEAL_WRAPPED_LEN;
    uint8_t *sealed = nonce + SEAL_NONCE_LEN;

    memcpy(p, SEAL_MAGIC, SEAL_MAGIC_LEN);
    memcpy(p + SEAL_MAGIC_LEN, key->id, SEAL_ID_LEN);
    TRY(seal_aad(p, path, &aad));
    random_fill(wrap_nonce, SEAL_NONCE_LEN);
    random_fill(nonce, SEAL_NONCE_LEN);
    random_fill(data_key, sizeof data_key);
    bool done =
        seal_gcm(true, key->key, wrap_nonce, bytes_of(data_key, sizeof data_key), buf_view(&aad),
                 wrapped, SEAL_WRAPPED_LEN) &&
        seal_gcm(true, data_key, nonce, plain, buf_view(&aad), sealed, plain.len + SEAL_TAG_LEN);
    mem_wipe(data_key, sizeof data_key);
    if (!done)
        return FAIL(NO_MEMORY, 0);
    buf_commit(out, SEAL_OVERHEAD + plain.len);
    return OK;
}

err_t seal_open(const struct seal_key *key, const char *path, struct bytes sealed, struct buf *out)
{
    BORING_SCOPE;
    CLEANUP(buf_fini) struct buf aad = {0};
    uint8_t data_key[SEAL_KEY_LEN];
    uint8_t *plain = NULL;

    if (!seal_has_head(sealed))
        return FAIL(SEAL_BROKEN, 0);
    if (memcmp(sealed.ptr + SEAL_MAGIC_LEN, key->id, SEAL_ID_LEN) != 0)
        return FAIL(KEK_UNAVAILABLE, 0);
    const uint8_t *wrap_nonce = sealed.ptr + SEAL_HEAD_LEN;
    const uint8_t *wrapped = wrap_nonce + SEAL_NONCE_LEN;
    const uint8_t *nonce = wrapped + SEAL_WRAPPED_LEN;
    const uint8_t *data = nonce + SEAL_NONCE_LEN;
    size_t data_len = sealed.len - (size_t)(data - sealed.ptr);
    size_t plain_len = data_len - SEAL_TAG_LEN;

    TRY(seal_aad(sealed.ptr, path, &aad));
    TRY(buf_reserve(out, plain_len, &plain));
    bool done = seal_gcm(false, key->key, wrap_nonce, bytes_of(wrapped, SEAL_WRAPPED_LEN),
                         buf_view(&aad), data_key, sizeof data_key) &&
                seal_gcm(false, data_key, nonce, bytes_of(data, data_len), buf_view(&aad), plain,
                         plain_len);
    mem_wipe(data_key, sizeof data_key);
    if (!done)
        return FAIL(SEAL_BROKEN, 0);
    buf_commit(out, plain_len);
    return OK;
}
