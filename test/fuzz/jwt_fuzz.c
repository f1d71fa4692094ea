/* Key sets and tokens of strangers. The first byte says what the rest is: a key set, a token, or
 * header and payload (a line each) that are then signed in order, so that what lies behind the
 * signature is reached. What is accepted is signed by the one key there is, for us, and in its
 * time. Drives: R75, R36. */
#include "certs/jwt.h"

#include <string.h>

#include <openssl/err.h>

#include "lib/base/mem.h"
#include "test/unit/certs/jwtgen.h"

#define ISSUER "https://id.example"
#define NOW 1700000000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static EVP_PKEY *key;
static struct jwks *keys;

static void begin(void)
{
    CLEANUP(mem_freep) char *jwk = NULL;
    CLEANUP(mem_freep) char *text = NULL;

    if (keys != NULL)
        return;
    key = jwtgen_ed25519();
    jwk = jwtgen_jwk(key, "\"kid\":\"ed\"");
    text = mem_printf("{\"keys\":[%s]}", jwk);
    CHECK(err_is_ok(jwks_parse(bytes_of_str(text), &keys)));
}

static void try_set(struct bytes text)
{
    struct jwks *set = NULL;

    if (!err_is_ok(jwks_parse(text, &set))) {
        CHECK(set == NULL);
        return;
    }
    CHECK(set->num > 0 && set->num <= JWKS_KEYS_MAX);
    for (size_t i = 0; i < set->num; i++) {
        CHECK(set->keys[i].algs != 0 && jwks_holds(set, set->keys[i].sha256));
        CHECK(set->keys[i].kid == NULL || strlen(set->keys[i].kid) <= JWKS_KID_MAX);
    }
    jwks_free(set);
}

static void try_token(struct bytes token)
{
    const struct jwt_rules rules = {
        .issuer = ISSUER, .audience = "mortise", .groups_claim = "groups", .now_s = NOW};
    struct jwt jwt = {.subject = NULL};

    if (!err_is_ok(jwt_verify(token, keys, &rules, &jwt))) {
        CHECK(jwt.subject == NULL && jwt.groups == NULL);
        return;
    }
    CHECK(token.len <= JWT_MAX && jwt.expires_at > NOW && jwt_name_valid(jwt.subject, false));
    CHECK(jwks_holds(keys, jwt.key_sha256));
    for (size_t i = 0; i < jwt.num_groups; i++)
        CHECK(jwt_name_valid(jwt.groups[i], true));
    jwt_fini(&jwt);
}

static void try_signed(const uint8_t *data, size_t size)
{
    CLEANUP(mem_freep) char *header = mem_strndup((const char *)data, size);
    char *payload = strchr(header, '\n');
    char *token;

    if (payload == NULL)
        return;
    *payload = '\0';
    token = jwtgen_sign(key, JWKS_EDDSA, header, payload + 1);
    try_token(bytes_of_str(token));
    mem_free(token);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    begin();
    if (size == 0)
        return 0;
    if (data[0] == 'k')
        try_set(bytes_of(data + 1, size - 1));
    else if (data[0] == 's')
        try_signed(data + 1, size - 1);
    else
        try_token(bytes_of(data + 1, size - 1));
    CHECK(ERR_peek_error() == 0);
    return 0;
}
