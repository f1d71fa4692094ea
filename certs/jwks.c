#include "certs/jwks.h"

#include <string.h>

#include <openssl/bn.h>
#include <openssl/ec_key.h>
#include <openssl/nid.h>
#include <openssl/rsa.h>

#include "certs/boring.h"
#include "certs/jose.h"
#include "certs/key.h"

#define BIT(alg) (1u << JWKS_##alg)
#define JWKS_OF_RSA (BIT(RS256) | BIT(RS384) | BIT(RS512) | BIT(PS256) | BIT(PS384) | BIT(PS512))

static const char *const jwks_alg_names[JWKS_ALG_NUM] = {
    [JWKS_RS256] = "RS256", [JWKS_RS384] = "RS384", [JWKS_RS512] = "RS512",
    [JWKS_PS256] = "PS256", [JWKS_PS384] = "PS384", [JWKS_PS512] = "PS512",
    [JWKS_ES256] = "ES256", [JWKS_ES384] = "ES384", [JWKS_EDDSA] = "EdDSA",
};

enum jwks_alg jwks_alg_find(const char *name)
{
    enum jwks_alg alg = JWKS_RS256;

    while (alg < JWKS_ALG_NUM && (name == NULL || strcmp(jwks_alg_names[alg], name) != 0))
        alg++;
    return alg;
}

/* ---- one key ---- */

/* The bytes of a member; with `len` just so many. */
static err_t jwks_member(const json_t *object, const char *name, size_t len, struct buf *out)
{
    const char *text = jose_string(object, name);

    if (text == NULL)
        return FAIL(JWKS_SYNTAX, 0);
    TRY(jose_base64url(bytes_of_str(text), out));
    if (buf_size(out) == 0 || (len != 0 && buf_size(out) != len))
        return FAIL(JWKS_SYNTAX, 0);
    return OK;
}

static err_t jwks_number(const json_t *object, const char *name, size_t len, BIGNUM **out)
{
    CLEANUP(buf_fini) struct buf bytes = {0};

    TRY(jwks_member(object, name, len, &bytes));
    *out = BN_bin2bn(buf_view(&bytes).ptr, buf_size(&bytes), NULL);
    return *out != NULL ? OK : FAIL(NO_MEMORY, 0);
}

static err_t jwks_read_rsa(const json_t *object, struct jwks_key *key)
{
    CLEANUP(boring_bn_freep) BIGNUM *modulus = NULL;
    CLEANUP(boring_bn_freep) BIGNUM *exponent = NULL;
    CLEANUP(boring_rsa_freep) RSA *rsa = NULL;

    TRY(jwks_number(object, "n", 0, &modulus));
    TRY(jwks_number(object, "e", 0, &exponent));
    if (BN_num_bits(modulus) < JWKS_RSA_MIN_BITS || BN_num_bits(modulus) > JWKS_RSA_MAX_BITS)
        return FAIL(KEY_WEAK, BN_num_bits(modulus));
    if (BN_num_bits(exponent) < 2 || BN_num_bits(exponent) > 33 || !BN_is_odd(exponent))
        return FAIL(KEY_WEAK, 0);
    rsa = RSA_new();
    if (rsa == NULL || RSA_set0_key(rsa, modulus, exponent, NULL) != 1)
        return FAIL(NO_MEMORY, 0);
    modulus = NULL; /* the key's now */
    exponent = NULL;
    if (EVP_PKEY_set1_RSA(key->key, rsa) != 1)
        return FAIL(JWKS_SYNTAX, 0);
    key->algs = JWKS_OF_RSA;
    return OK;
}

static err_t jwks_read_ec(const json_t *object, struct jwks_key *key)
{
    const char *curve = jose_string(object, "crv");
    bool p256 = curve != NULL && strcmp(curve, "P-256") == 0;
    CLEANUP(boring_bn_freep) BIGNUM *x = NULL;
    CLEANUP(boring_bn_freep) BIGNUM *y = NULL;
    CLEANUP(boring_ec_freep) EC_KEY *ec = NULL;
    size_t len = p256 ? 32 : 48;

    if (!p256 && (curve == NULL || strcmp(curve, "P-384") != 0))
        return FAIL(UNSUPPORTED, 0);
    TRY(jwks_number(object, "x", len, &x));
    TRY(jwks_number(object, "y", len, &y));
    ec = EC_KEY_new_by_curve_name(p256 ? NID_X9_62_prime256v1 : NID_secp384r1);
    /* It refuses what is not on the curve. */
    if (ec == NULL || EC_KEY_set_public_key_affine_coordinates(ec, x, y) != 1 ||
        EVP_PKEY_set1_EC_KEY(key->key, ec) != 1)
        return FAIL(JWKS_SYNTAX, 0);
    key->algs = p256 ? BIT(ES256) : BIT(ES384);
    return OK;
}

static err_t jwks_read_okp(const json_t *object, struct jwks_key *key)
{
    const char *curve = jose_string(object, "crv");
    CLEANUP(buf_fini) struct buf x = {0};

    if (curve == NULL || strcmp(curve, "Ed25519") != 0)
        return FAIL(UNSUPPORTED, 0);
    TRY(jwks_member(object, "x", 32, &x));
    EVP_PKEY_free(key->key);
    key->key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, buf_view(&x).ptr, 32);
    if (key->key == NULL)
        return FAIL(JWKS_SYNTAX, 0);
    key->algs = BIT(EDDSA);
    return OK;
}

static err_t jwks_read_kind(const json_t *object, struct jwks_key *key)
{
    const char *kind = jose_string(object, "kty");

    if (kind == NULL)
        return FAIL(JWKS_SYNTAX, 0);
    if (strcmp(kind, "RSA") == 0)
        return jwks_read_rsa(object, key);
    if (strcmp(kind, "EC") == 0)
        return jwks_read_ec(object, key);
    if (strcmp(kind, "OKP") == 0)
        return jwks_read_okp(object, key);
    return FAIL(UNSUPPORTED, 0); /* "oct": a secret is nobody's public key */
}

/* Whether `use` and `key_ops` let it verify signatures (RFC 7517 sections 4.2 and 4.3). */
static bool jwks_may_verify(const json_t *object)
{
    const json_t *ops = json_object_get(object, "key_ops");
    const char *use = jose_string(object, "use");

    if (jose_has(object, "use") && (use == NULL || strcmp(use, "sig") != 0))
        return false;
    if (ops == NULL)
        return true;
    for (size_t i = 0; i < json_array_size(ops); i++) {
        const char *op = json_string_value(json_array_get(ops, i));

        if (op != NULL && strcmp(op, "verify") == 0)
            return true;
    }
    return false;
}

static err_t jwks_read_key(const json_t *object, struct jwks_key *key)
{
    const char *kid = jose_string(object, "kid");

    /* Whose private half is published is anybody's. */
    if (!json_is_object(object) || jose_has(object, "d") || !jwks_may_verify(object))
        return FAIL(UNSUPPORTED, 0);
    if (jose_has(object, "kid") && (kid == NULL || strlen(kid) > JWKS_KID_MAX))
        return FAIL(JWKS_SYNTAX, 0);
    key->key = EVP_PKEY_new();
    if (key->key == NULL)
        return FAIL(NO_MEMORY, 0);
    TRY(jwks_read_kind(object, key));
    if (jose_has(object, "alg")) {
        enum jwks_alg alg = jwks_alg_find(jose_string(object, "alg"));

        key->algs &= alg != JWKS_ALG_NUM ? 1u << alg : 0;
    }
    if (key->algs == 0)
        return FAIL(UNSUPPORTED, 0);
    TRY(key_spki_sha256(key->key, key->sha256));
    key->kid = kid != NULL ? mem_strdup(kid) : NULL;
    return OK;
}

/* ---- the set ---- */

static void jwks_key_fini(struct jwks_key *key)
{
    EVP_PKEY_free(key->key);
    mem_free(key->kid);
    *key = (struct jwks_key){.kid = NULL};
}

void jwks_free(struct jwks *jwks)
{
    if (jwks == NULL)
        return;
    for (size_t i = 0; i < jwks->num; i++)
        jwks_key_fini(&jwks->keys[i]);
    mem_free(jwks);
}

/* Two under one name for one algorithm: which of them a token means could not be said. */
static bool jwks_is_taken(const struct jwks *jwks, const struct jwks_key *key)
{
    for (size_t i = 0; i < jwks->num; i++) {
        const struct jwks_key *other = &jwks->keys[i];

        if (key->kid != NULL && other->kid != NULL && strcmp(key->kid, other->kid) == 0 &&
            (key->algs & other->algs) != 0)
            return true;
    }
    return false;
}

static err_t jwks_read(const json_t *list, struct jwks *jwks)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        CLEANUP(jwks_key_fini) struct jwks_key key = {.kid = NULL};

        if (!err_is_ok(jwks_read_key(json_array_get(list, i), &key))) {
            jwks->left_out++;
            continue;
        }
        if (jwks_is_taken(jwks, &key))
            return FAIL(JWKS_SYNTAX, i);
        jwks->keys[jwks->num++] = key;
        key = (struct jwks_key){.kid = NULL}; /* the set's now */
    }
    return jwks->num > 0 ? OK : FAIL(JWKS_EMPTY, jwks->left_out);
}

err_t jwks_parse(struct bytes text, struct jwks **out)
{
    BORING_SCOPE;
    CLEANUP(jose_freep) json_t *json = NULL;
    CLEANUP(jwks_freep) struct jwks *jwks = NULL;
    const json_t *list;

    if (text.len > JWKS_TEXT_MAX)
        return FAIL(TOO_LARGE, JWKS_TEXT_MAX);
    if (!err_is_ok(jose_object(text, &json)))
        return FAIL(JWKS_SYNTAX, 0);
    list = json_object_get(json, "keys");
    if (!json_is_array(list))
        return FAIL(JWKS_SYNTAX, 0);
    if (json_array_size(list) > JWKS_KEYS_MAX)
        return FAIL(TOO_LARGE, JWKS_KEYS_MAX);
    jwks = mem_zalloc(sizeof(*jwks));
    TRY(jwks_read(list, jwks));
    *out = jwks;
    jwks = NULL; /* the caller's now */
    return OK;
}

const struct jwks_key *jwks_find(const struct jwks *jwks, const char *kid, enum jwks_alg alg)
{
    const struct jwks_key *found = NULL;

    CHECK(alg < JWKS_ALG_NUM);
    for (size_t i = 0; i < jwks->num; i++) {
        const struct jwks_key *key = &jwks->keys[i];

        if ((key->algs & 1u << alg) == 0)
            continue;
        if (kid != NULL && (key->kid == NULL || strcmp(key->kid, kid) != 0))
            continue;
        if (found != NULL)
            return NULL;
        found = key;
    }
    return found;
}

bool jwks_holds(const struct jwks *jwks, const uint8_t sha256[32])
{
    for (size_t i = 0; i < jwks->num; i++) {
        if (memcmp(jwks->keys[i].sha256, sha256, 32) == 0)
            return true;
    }
    return false;
}
