#include "test/unit/certs/jwtgen.h"

#include <string.h>

#include <openssl/bn.h>
#include <openssl/curve25519.h>
#include <openssl/ec_key.h>
#include <openssl/ecdsa.h>
#include <openssl/hmac.h>
#include <openssl/nid.h>
#include <openssl/rsa.h>

#include "lib/base/mem.h"

char *jwtgen_base64url(struct bytes in)
{
    char *text = bytes_to_base64(in);

    for (char *pos = text; *pos != '\0'; pos++) {
        if (*pos == '+')
            *pos = '-';
        else if (*pos == '/')
            *pos = '_';
        else if (*pos == '=')
            *pos = '\0';
    }
    return text;
}

/* ---- keys ---- */

EVP_PKEY *jwtgen_rsa(unsigned bits)
{
    EVP_PKEY *key = EVP_PKEY_new();
    BIGNUM *e = BN_new();
    RSA *rsa = RSA_new();

    CHECK(key != NULL && e != NULL && rsa != NULL && BN_set_word(e, RSA_F4) == 1);
    CHECK(RSA_generate_key_ex(rsa, (int)bits, e, NULL) == 1);
    CHECK(EVP_PKEY_assign_RSA(key, rsa) == 1);
    BN_free(e);
    return key;
}

EVP_PKEY *jwtgen_ec(int curve)
{
    EVP_PKEY *key = EVP_PKEY_new();
    EC_KEY *ec = EC_KEY_new_by_curve_name(curve);

    CHECK(key != NULL && ec != NULL && EC_KEY_generate_key(ec) == 1);
    CHECK(EVP_PKEY_assign_EC_KEY(key, ec) == 1);
    return key;
}

EVP_PKEY *jwtgen_ed25519(void)
{
    static const uint8_t seed[32] = {7};
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, sizeof(seed));

    CHECK(key != NULL);
    return key;
}

static char *jwtgen_number(const BIGNUM *number, size_t len)
{
    uint8_t bytes[1024];

    if (len == 0)
        len = BN_num_bytes(number);
    CHECK(len <= sizeof(bytes) && BN_bn2bin_padded(bytes, len, number) == 1);
    return jwtgen_base64url(bytes_of(bytes, len));
}

static char *jwtgen_jwk_rsa(EVP_PKEY *key, const char *more)
{
    const RSA *rsa = EVP_PKEY_get0_RSA(key);
    CLEANUP(mem_freep) char *n = jwtgen_number(RSA_get0_n(rsa), 0);
    CLEANUP(mem_freep) char *e = jwtgen_number(RSA_get0_e(rsa), 0);

    return mem_printf("{\"kty\":\"RSA\",\"n\":\"%s\",\"e\":\"%s\"%s%s}", n, e,
                      more[0] != '\0' ? "," : "", more);
}

static char *jwtgen_jwk_ec(EVP_PKEY *key, const char *more)
{
    const EC_KEY *ec = EVP_PKEY_get0_EC_KEY(key);
    const EC_GROUP *group = EC_KEY_get0_group(ec);
    bool p256 = EC_GROUP_get_curve_name(group) == NID_X9_62_prime256v1;
    BIGNUM *x = BN_new(), *y = BN_new();
    char *x_text, *y_text, *text;

    CHECK(x != NULL && y != NULL);
    CHECK(EC_POINT_get_affine_coordinates_GFp(group, EC_KEY_get0_public_key(ec), x, y, NULL) == 1);
    x_text = jwtgen_number(x, p256 ? 32 : 48);
    y_text = jwtgen_number(y, p256 ? 32 : 48);
    text = mem_printf("{\"kty\":\"EC\",\"crv\":\"%s\",\"x\":\"%s\",\"y\":\"%s\"%s%s}",
                      p256 ? "P-256" : "P-384", x_text, y_text, more[0] != '\0' ? "," : "", more);
    mem_free(x_text);
    mem_free(y_text);
    BN_free(x);
    BN_free(y);
    return text;
}

char *jwtgen_jwk(EVP_PKEY *key, const char *more)
{
    uint8_t raw[32];
    size_t len = sizeof(raw);
    char *x, *text;

    if (EVP_PKEY_id(key) == EVP_PKEY_RSA)
        return jwtgen_jwk_rsa(key, more);
    if (EVP_PKEY_id(key) == EVP_PKEY_EC)
        return jwtgen_jwk_ec(key, more);
    CHECK(EVP_PKEY_get_raw_public_key(key, raw, &len) == 1);
    x = jwtgen_base64url(bytes_of(raw, len));
    text = mem_printf("{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"%s\"%s%s}", x,
                      more[0] != '\0' ? "," : "", more);
    mem_free(x);
    return text;
}

/* ---- tokens ---- */

static char *jwtgen_head(const char *header, const char *payload)
{
    CLEANUP(mem_freep) char *first = jwtgen_base64url(bytes_of_str(header));
    CLEANUP(mem_freep) char *second = jwtgen_base64url(bytes_of_str(payload));

    return mem_printf("%s.%s", first, second);
}

static char *jwtgen_whole(const char *head, const uint8_t *signature, size_t len)
{
    CLEANUP(mem_freep) char *last = jwtgen_base64url(bytes_of(signature, len));

    return mem_printf("%s.%s", head, last);
}

static size_t jwtgen_ecdsa(EVP_PKEY *key, const EVP_MD *md, const char *text, uint8_t *out)
{
    size_t half = EVP_MD_size(md) == 32 ? 32 : 48;
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    const BIGNUM *r, *s;
    ECDSA_SIG *sig;

    CHECK(EVP_Digest(text, strlen(text), digest, &len, md, NULL) == 1);
    sig = ECDSA_do_sign(digest, len, EVP_PKEY_get0_EC_KEY(key));
    CHECK(sig != NULL);
    ECDSA_SIG_get0(sig, &r, &s);
    CHECK(BN_bn2bin_padded(out, half, r) == 1 && BN_bn2bin_padded(out + half, half, s) == 1);
    ECDSA_SIG_free(sig);
    return 2 * half;
}

char *jwtgen_sign(EVP_PKEY *key, enum jwks_alg alg, const char *header, const char *payload)
{
    static const int sizes[JWKS_ALG_NUM] = {256, 384, 512, 256, 384, 512, 256, 384, 0};
    CLEANUP(mem_freep) char *head = jwtgen_head(header, payload);
    const EVP_MD *md = NULL;
    uint8_t signature[1024];
    size_t len = sizeof(signature);
    EVP_PKEY_CTX *params = NULL;
    EVP_MD_CTX ctx;

    if (alg == JWKS_ALG_NUM)
        return jwtgen_whole(head, signature, 0);
    if (sizes[alg] != 0)
        md = sizes[alg] == 256 ? EVP_sha256() : sizes[alg] == 384 ? EVP_sha384() : EVP_sha512();
    if (alg == JWKS_ES256 || alg == JWKS_ES384)
        return jwtgen_whole(head, signature, jwtgen_ecdsa(key, md, head, signature));
    EVP_MD_CTX_init(&ctx);
    CHECK(EVP_DigestSignInit(&ctx, &params, md, NULL, key) == 1);
    if (alg == JWKS_PS256 || alg == JWKS_PS384 || alg == JWKS_PS512)
        CHECK(EVP_PKEY_CTX_set_rsa_padding(params, RSA_PKCS1_PSS_PADDING) == 1 &&
              EVP_PKEY_CTX_set_rsa_pss_saltlen(params, -1) == 1);
    CHECK(EVP_DigestSign(&ctx, signature, &len, (const uint8_t *)head, strlen(head)) == 1);
    EVP_MD_CTX_cleanup(&ctx);
    return jwtgen_whole(head, signature, len);
}

char *jwtgen_hmac(struct bytes secret, const char *header, const char *payload)
{
    CLEANUP(mem_freep) char *head = jwtgen_head(header, payload);
    uint8_t mac[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    CHECK(HMAC(EVP_sha256(), secret.ptr, secret.len, (const uint8_t *)head, strlen(head), mac,
               &len) != NULL);
    return jwtgen_whole(head, mac, len);
}
