#include "certs/key.h"

#include <openssl/sha.h>

#include "certs/boring.h"
#include "certs/pem.h"

#define KEY_RSA_MIN_BITS 2048
#define KEY_RSA_MAX_BITS                                                     \
    8192 /* verifying with more costs milliseconds that a peer could ask for \
          */

static err_t key_make(int curve, EVP_PKEY **out)
{
    BORING_SCOPE;
    CLEANUP(boring_key_ctx_freep) EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_id(EVP_PKEY_EC, NULL);
    EVP_PKEY *key = NULL;

    if (ctx == NULL || !EVP_PKEY_keygen_init(ctx) ||
        !EVP_PKEY_CTX_set_ec_paramgen_curve_nid(ctx, curve) || !EVP_PKEY_keygen(ctx, &key))
        return FAIL(NO_MEMORY, 0);
    *out = key;
    return OK;
}

err_t key_generate(EVP_PKEY **out)
{
    return key_make(NID_X9_62_prime256v1, out);
}

err_t key_generate_p384(EVP_PKEY **out)
{
    return key_make(NID_secp384r1, out);
}

err_t key_check_strength(const EVP_PKEY *key)
{
    /* The size of other kinds is not asked for: of a DSA key without parameters, which a peer can
     * send, BoringSSL would look at a number that is not there. */
    if (EVP_PKEY_id(key) == EVP_PKEY_EC) {
        const EC_KEY *ec = EVP_PKEY_get0_EC_KEY(key);
        const EC_GROUP *group = ec != NULL ? EC_KEY_get0_group(ec) : NULL;
        int curve = group != NULL ? EC_GROUP_get_curve_name(group) : NID_undef;
        if (curve == NID_X9_62_prime256v1 || curve == NID_secp384r1)
            return OK;
        return FAIL(KEY_WEAK, group != NULL ? EVP_PKEY_bits(key) : 0);
    }
    if (EVP_PKEY_id(key) == EVP_PKEY_RSA) {
        int bits = EVP_PKEY_bits(key);
        return bits >= KEY_RSA_MIN_BITS && bits <= KEY_RSA_MAX_BITS ? OK : FAIL(KEY_WEAK, bits);
    }
    return FAIL(KEY_WEAK, 0);
}

const EVP_MD *key_digest(const EVP_PKEY *key)
{
    return EVP_PKEY_id(key) == EVP_PKEY_EC && EVP_PKEY_bits(key) == 384 ? EVP_sha384()
                                                                        : EVP_sha256();
}

err_t key_from_der(struct bytes der, EVP_PKEY **out)
{
    BORING_SCOPE;
    CBS cbs;

    CBS_init(&cbs, der.ptr, der.len);
    CLEANUP(boring_key_freep) EVP_PKEY *key = EVP_parse_private_key(&cbs);
    if (key == NULL || CBS_len(&cbs) != 0)
        return FAIL(KEY_SYNTAX, 0);
    TRY(key_check_strength(key));

    *out = key;
    key = NULL;
    return OK;
}

/* key_from_ec_der reads SEC1, which `openssl ecparam -genkey` writes. */
static err_t key_from_ec_der(struct bytes der, EVP_PKEY **out)
{
    CBS cbs;

    CBS_init(&cbs, der.ptr, der.len);
    CLEANUP(boring_ec_freep) EC_KEY *ec = EC_KEY_parse_private_key(&cbs, NULL);
    if (ec == NULL || CBS_len(&cbs) != 0 || !EC_KEY_check_key(ec))
        return FAIL(KEY_SYNTAX, 0);
    CLEANUP(boring_key_freep) EVP_PKEY *key = EVP_PKEY_new();
    if (key == NULL || !EVP_PKEY_set1_EC_KEY(key, ec))
        return FAIL(NO_MEMORY, 0);
    TRY(key_check_strength(key));

    *out = key;
    key = NULL;
    return OK;
}

/* key_from_rsa_der reads PKCS#1. */
static err_t key_from_rsa_der(struct bytes der, EVP_PKEY **out)
{
    CBS cbs;

    CBS_init(&cbs, der.ptr, der.len);
    CLEANUP(boring_rsa_freep) RSA *rsa = RSA_parse_private_key(&cbs);
    if (rsa == NULL || CBS_len(&cbs) != 0)
        return FAIL(KEY_SYNTAX, 0);
    CLEANUP(boring_key_freep) EVP_PKEY *key = EVP_PKEY_new();
    if (key == NULL || !EVP_PKEY_set1_RSA(key, rsa))
        return FAIL(NO_MEMORY, 0);
    TRY(key_check_strength(key));

    *out = key;
    key = NULL;
    return OK;
}

static err_t key_of_block(const struct pem_block *block, EVP_PKEY **out)
{
    struct bytes der = bytes_of(block->der, block->der_len);

    if (block->encrypted || pem_is(block, "ENCRYPTED PRIVATE KEY"))
        return FAIL(KEY_ENCRYPTED, 0);
    if (pem_is(block, "EC PRIVATE KEY"))
        return key_from_ec_der(der, out);
    if (pem_is(block, "RSA PRIVATE KEY"))
        return key_from_rsa_der(der, out);
    return key_from_der(der, out);
}

static bool key_is_key_block(const struct pem_block *block)
{
    static const char suffix[] = "PRIVATE KEY";
    size_t len = sizeof suffix - 1;

    return block->label.len >= len &&
           memcmp(block->label.ptr + block->label.len - len, suffix, len) == 0;
}

err_t key_parse(struct bytes text, EVP_PKEY **out)
{
    BORING_SCOPE;
    CLEANUP(pem_fini) struct pem pem = {0};
    const struct pem_block *found = NULL;

    TRY(pem_parse(text, &pem));
    for (size_t i = 0; i < pem.num; i++) {
        if (!key_is_key_block(&pem.blocks[i]))
            continue;
        if (found != NULL)
            return FAIL(KEY_SYNTAX, 0); /* which of the two would be a guess */
        found = &pem.blocks[i];
    }
    if (found == NULL)
        return FAIL(PEM_EMPTY, 0);
    return key_of_block(found, out);
}

err_t key_der(const EVP_PKEY *key, struct buf *out)
{
    BORING_SCOPE;
    CLEANUP(boring_bytes_freep) uint8_t *der = NULL;
    size_t len = 0;
    CBB cbb;

    if (!CBB_init(&cbb, 256) || !EVP_marshal_private_key(&cbb, key) ||
        !CBB_finish(&cbb, &der, &len)) {
        CBB_cleanup(&cbb);
        return FAIL(NO_MEMORY, 0);
    }
    return buf_add(out, der, len);
}

err_t key_write_pem(const EVP_PKEY *key, struct buf *out)
{
    CLEANUP(buf_wipe_fini) struct buf der = {0};

    TRY(key_der(key, &der));
    return pem_write("PRIVATE KEY", buf_view(&der), out);
}

err_t key_spki_sha256(const EVP_PKEY *key, uint8_t out[32])
{
    BORING_SCOPE;
    CLEANUP(boring_bytes_freep) uint8_t *der = NULL;
    size_t len = 0;
    CBB cbb;

    if (!CBB_init(&cbb, 128) || !EVP_marshal_public_key(&cbb, key) ||
        !CBB_finish(&cbb, &der, &len)) {
        CBB_cleanup(&cbb);
        return FAIL(NO_MEMORY, 0);
    }
    SHA256(der, len, out);
    return OK;
}
