#include "certs/jwt.h"

#include <string.h>
#include <strings.h>

#include <openssl/bn.h>
#include <openssl/ecdsa.h>

#include "certs/boring.h"
#include "certs/jose.h"

#define JWT_TIME_MAX ((int64_t)1 << 53) /* what every JSON reader has exactly */

/* ---- the three parts ---- */

struct jwt_parts {
    struct bytes signed_part; /* header.payload, as it was sent */
    json_t *header;
    struct buf payload;
    struct buf signature;
};

static void jwt_parts_fini(struct jwt_parts *parts)
{
    json_decref(parts->header);
    buf_wipe_fini(&parts->payload);
    buf_fini(&parts->signature);
}

/* Cuts `rest` at its first dot. */
static err_t jwt_next_part(struct bytes *rest, struct bytes *out)
{
    const uint8_t *dot = rest->len != 0 ? memchr(rest->ptr, '.', rest->len) : NULL;

    if (dot == NULL)
        return FAIL(JWT_SYNTAX, 0);
    *out = bytes_of(rest->ptr, (size_t)(dot - rest->ptr));
    *rest = bytes_of(dot + 1, rest->len - out->len - 1);
    return OK;
}

static err_t jwt_split(struct bytes token, struct jwt_parts *out)
{
    CLEANUP(buf_fini) struct buf text = {0};
    struct bytes rest = token, header, payload;

    TRY(jwt_next_part(&rest, &header));
    TRY(jwt_next_part(&rest, &payload));
    /* A dot in the rest is no base64url. */
    if (!err_is_ok(jose_base64url(header, &text)) ||
        !err_is_ok(jose_base64url(payload, &out->payload)) ||
        !err_is_ok(jose_base64url(rest, &out->signature)) ||
        !err_is_ok(jose_object(buf_view(&text), &out->header)))
        return FAIL(JWT_SYNTAX, 0);
    out->signed_part = bytes_of(token.ptr, header.len + 1 + payload.len);
    return OK;
}

/* ---- the header ---- */

/* Other kinds of tokens are signed with the same keys (RFC 8725 section 3.11). */
static err_t jwt_check_type(const json_t *header)
{
    static const char *const types[] = {"JWT", "at+jwt", "application/at+jwt", "application/jwt"};
    const char *type = jose_string(header, "typ");

    if (jose_has(header, "cty"))
        return FAIL(JWT_TYPE, 0);
    if (!jose_has(header, "typ"))
        return OK;
    for (size_t i = 0; i < ARRAY_LEN(types) && type != NULL; i++) {
        if (strcasecmp(type, types[i]) == 0)
            return OK;
    }
    return FAIL(JWT_TYPE, 0);
}

static err_t jwt_choose(const json_t *header, const struct jwks *keys, enum jwks_alg *out_alg,
                        const struct jwks_key **out_key)
{
    const char *kid = jose_string(header, "kid");

    *out_alg = jwks_alg_find(jose_string(header, "alg"));
    if (*out_alg == JWKS_ALG_NUM)
        return FAIL(JWT_ALGORITHM, 0);
    if (jose_has(header, "crit") || jose_has(header, "b64"))
        return FAIL(JWT_CRITICAL, 0);
    if (jose_has(header, "kid") && kid == NULL)
        return FAIL(JWT_SYNTAX, 0);
    TRY(jwt_check_type(header));
    *out_key = jwks_find(keys, kid, *out_alg);
    return *out_key != NULL ? OK : FAIL(JWT_KEY_UNKNOWN, 0);
}

/* ---- the signature ---- */

static const EVP_MD *jwt_digest(enum jwks_alg alg)
{
    switch (alg) {
    case JWKS_RS256:
    case JWKS_PS256:
    case JWKS_ES256:
        return EVP_sha256();
    case JWKS_RS384:
    case JWKS_PS384:
    case JWKS_ES384:
        return EVP_sha384();
    case JWKS_RS512:
    case JWKS_PS512:
        return EVP_sha512();
    case JWKS_EDDSA:
    case JWKS_ALG_NUM:
        break;
    }
    return NULL;
}

/* r and s, each as long as the order (RFC 7518 section 3.4). */
static bool jwt_verify_ecdsa(const struct jwks_key *key, enum jwks_alg alg, struct bytes text,
                             struct bytes signature)
{
    size_t half = alg == JWKS_ES256 ? 32 : 48;
    uint8_t digest[EVP_MAX_MD_SIZE];
    unsigned digest_len = 0;
    BIGNUM *r, *s;
    ECDSA_SIG *sig;
    bool done;

    if (signature.len != 2 * half ||
        EVP_Digest(text.ptr, text.len, digest, &digest_len, jwt_digest(alg), NULL) != 1)
        return false;
    sig = ECDSA_SIG_new();
    r = BN_bin2bn(signature.ptr, half, NULL);
    s = BN_bin2bn(signature.ptr + half, half, NULL);
    if (sig == NULL || r == NULL || s == NULL || ECDSA_SIG_set0(sig, r, s) != 1) {
        BN_free(r);
        BN_free(s);
        ECDSA_SIG_free(sig);
        return false;
    }
    done = ECDSA_do_verify(digest, digest_len, sig, EVP_PKEY_get0_EC_KEY(key->key)) == 1;
    ECDSA_SIG_free(sig);
    return done;
}

static bool jwt_verify_other(const struct jwks_key *key, enum jwks_alg alg, struct bytes text,
                             struct bytes signature)
{
    bool pss = alg == JWKS_PS256 || alg == JWKS_PS384 || alg == JWKS_PS512;
    EVP_PKEY_CTX *params = NULL;
    EVP_MD_CTX ctx;
    bool done;

    EVP_MD_CTX_init(&ctx);
    done = EVP_DigestVerifyInit(&ctx, &params, jwt_digest(alg), NULL, key->key) == 1;
    if (done && pss) /* the salt is as long as the digest (RFC 7518 section 3.5) */
        done = EVP_PKEY_CTX_set_rsa_padding(params, RSA_PKCS1_PSS_PADDING) == 1 &&
               EVP_PKEY_CTX_set_rsa_pss_saltlen(params, -1) == 1;
    done = done && EVP_DigestVerify(&ctx, signature.ptr, signature.len, text.ptr, text.len) == 1;
    EVP_MD_CTX_cleanup(&ctx);
    return done;
}

static err_t jwt_check_signature(const struct jwt_parts *parts, const struct jwks_key *key,
                                 enum jwks_alg alg)
{
    struct bytes signature = buf_view(&parts->signature);
    bool ecdsa = alg == JWKS_ES256 || alg == JWKS_ES384;

    if (signature.len == 0)
        return FAIL(JWT_SIGNATURE, 0);
    if (ecdsa ? jwt_verify_ecdsa(key, alg, parts->signed_part, signature)
              : jwt_verify_other(key, alg, parts->signed_part, signature))
        return OK;
    return FAIL(JWT_SIGNATURE, 0);
}

/* ---- the claims ---- */

bool jwt_name_valid(const char *name, bool spaces)
{
    size_t len = strlen(name);

    for (size_t i = 0; i < len; i++) {
        if (name[i] < (spaces ? 0x20 : 0x21) || name[i] > 0x7e)
            return false;
    }
    return len > 0 && len <= JWT_NAME_MAX && name[0] != ' ' && name[len - 1] != ' ';
}

/* A NumericDate; *out stays as it is when the claim is not there and need not be. */
static err_t jwt_time(const json_t *claims, const char *name, bool needed, int64_t *out)
{
    const json_t *value = json_object_get(claims, name);
    double number;

    if (value == NULL && !needed)
        return OK;
    if (!json_is_number(value))
        return FAIL(JWT_CLAIM, 0);
    number = json_number_value(value);
    if (!(number >= 0 && number < (double)JWT_TIME_MAX))
        return FAIL(JWT_CLAIM, 0);
    *out = (int64_t)number;
    return OK;
}

static err_t jwt_check_times(const json_t *claims, int64_t now_s, struct jwt *out)
{
    int64_t not_before = 0, issued = 0;

    TRY(jwt_time(claims, "exp", true, &out->expires_at));
    TRY(jwt_time(claims, "nbf", false, &not_before));
    TRY(jwt_time(claims, "iat", false, &issued));
    if (now_s >= out->expires_at)
        return FAIL(JWT_EXPIRED, now_s - out->expires_at);
    if (not_before - JWT_SKEW_S > now_s)
        return FAIL(JWT_NOT_YET_VALID, not_before - now_s);
    if (issued - JWT_SKEW_S > now_s)
        return FAIL(JWT_NOT_YET_VALID, issued - now_s);
    return OK;
}

static bool jwt_is_for(const json_t *audience, const char *ours)
{
    if (json_is_string(audience))
        return strcmp(json_string_value(audience), ours) == 0;
    for (size_t i = 0; i < json_array_size(audience); i++) {
        const char *one = json_string_value(json_array_get(audience, i));

        if (one != NULL && strcmp(one, ours) == 0)
            return true;
    }
    return false;
}

static err_t jwt_add_group(const json_t *value, struct jwt *out)
{
    const char *name = json_string_value(value);

    if (name == NULL)
        return FAIL(JWT_CLAIM, 0);
    if (jwt_name_valid(name, true))
        out->groups[out->num_groups++] = mem_strdup(name);
    return OK;
}

/* A list of strings, or one string. */
static err_t jwt_read_groups(const json_t *claims, const char *claim, struct jwt *out)
{
    const json_t *groups = claim != NULL ? json_object_get(claims, claim) : NULL;
    size_t num = json_is_array(groups) ? json_array_size(groups) : 1;

    if (groups == NULL)
        return OK;
    if (!json_is_string(groups) && !json_is_array(groups))
        return FAIL(JWT_CLAIM, 0);
    if (num > JWT_GROUPS_MAX)
        return FAIL(TOO_LARGE, JWT_GROUPS_MAX);
    out->groups = mem_array(num + 1, sizeof(*out->groups));
    if (json_is_string(groups))
        return jwt_add_group(groups, out);
    for (size_t i = 0; i < num; i++)
        TRY(jwt_add_group(json_array_get(groups, i), out));
    return OK;
}

static err_t jwt_read_claims(const json_t *claims, const struct jwt_rules *rules, struct jwt *out)
{
    const char *issuer = jose_string(claims, "iss");
    const char *subject = jose_string(claims, "sub");

    if (issuer == NULL || strcmp(issuer, rules->issuer) != 0)
        return FAIL(JWT_ISSUER, 0);
    if (!jwt_is_for(json_object_get(claims, "aud"), rules->audience))
        return FAIL(JWT_AUDIENCE, 0);
    TRY(jwt_check_times(claims, rules->now_s, out));
    if (subject == NULL || !jwt_name_valid(subject, false))
        return FAIL(JWT_CLAIM, 0);
    out->subject = mem_strdup(subject);
    return jwt_read_groups(claims, rules->groups_claim, out);
}

/* ---- the whole ---- */

static err_t jwt_read(struct bytes token, const struct jwks *keys, const struct jwt_rules *rules,
                      struct jwt *out)
{
    CLEANUP(jwt_parts_fini) struct jwt_parts parts = {.header = NULL};
    CLEANUP(jose_freep) json_t *claims = NULL;
    const struct jwks_key *key;
    enum jwks_alg alg;

    if (token.len > JWT_MAX)
        return FAIL(TOO_LARGE, JWT_MAX);
    TRY(jwt_split(token, &parts));
    TRY(jwt_choose(parts.header, keys, &alg, &key));
    TRY(jwt_check_signature(&parts, key, alg));
    /* From here on it is the issuer who speaks. */
    if (!err_is_ok(jose_object(buf_view(&parts.payload), &claims)))
        return FAIL(JWT_CLAIM, 0);
    memcpy(out->key_sha256, key->sha256, sizeof(out->key_sha256));
    if (rules->claims)
        out->claims =
            mem_strndup((const char *)buf_view(&parts.payload).ptr, buf_view(&parts.payload).len);
    return jwt_read_claims(claims, rules, out);
}

err_t jwt_verify(struct bytes token, const struct jwks *keys, const struct jwt_rules *rules,
                 struct jwt *out)
{
    BORING_SCOPE;
    CLEANUP(jwt_fini) struct jwt jwt = {.subject = NULL};

    TRY(jwt_read(token, keys, rules, &jwt));
    *out = jwt;
    jwt = (struct jwt){.subject = NULL}; /* the caller's now */
    return OK;
}

void jwt_fini(struct jwt *jwt)
{
    for (size_t i = 0; i < jwt->num_groups; i++)
        mem_free(jwt->groups[i]);
    mem_free(jwt->groups);
    mem_free(jwt->subject);
    mem_free(jwt->claims);
    *jwt = (struct jwt){.subject = NULL};
}
