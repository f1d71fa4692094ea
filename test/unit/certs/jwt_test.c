/* Without this a token that the issuer did not sign, or signed for somebody else, or a year ago, is
 * an administrator: each rule of the verifier, and a token that breaks it alone.
 *
 * Drives: D5, R36 */
#include "certs/jwt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/err.h>
#include <openssl/nid.h>

#include "lib/base/mem.h"
#include "test/unit/certs/jwtgen.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)
#define assert_code(expr, name) assert_int_equal((expr).code, E_##name)

#define NOW 1700000000
#define ISSUER "https://id.example"
#define CLAIMS "\"iss\":\"" ISSUER "\",\"aud\":\"mortise\",\"sub\":\"a-1\",\"exp\":1700000600"

static const struct jwt_rules rules = {
    .issuer = ISSUER, .audience = "mortise", .groups_claim = "groups", .now_s = NOW};

enum { RSA2048, EC256, EC384, ED25519, KEYS };
static const char *const kids[KEYS] = {"rsa", "p256", "p384", "ed"};
static EVP_PKEY *keys[KEYS];
static struct jwks *all;

/* The set of keys[from] to keys[to - 1], each under its kid. */
static struct jwks *set_of(size_t from, size_t to)
{
    CLEANUP(buf_fini) struct buf text = {0};
    struct jwks *out = NULL;

    assert_ok(buf_add_str(&text, "{\"keys\":["));
    for (size_t i = from; i < to; i++) {
        CLEANUP(mem_freep) char *more = mem_printf("\"kid\":\"%s\"", kids[i]);
        CLEANUP(mem_freep) char *jwk = jwtgen_jwk(keys[i], more);

        assert_ok(buf_printf(&text, "%s%s", i > from ? "," : "", jwk));
    }
    assert_ok(buf_add_str(&text, "]}"));
    assert_ok(jwks_parse(buf_view(&text), &out));
    return out;
}

static int setup(void **state)
{
    (void)state;
    keys[RSA2048] = jwtgen_rsa(2048);
    keys[EC256] = jwtgen_ec(NID_X9_62_prime256v1);
    keys[EC384] = jwtgen_ec(NID_secp384r1);
    keys[ED25519] = jwtgen_ed25519();
    all = set_of(0, KEYS);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (size_t i = 0; i < KEYS; i++)
        EVP_PKEY_free(keys[i]);
    jwks_free(all);
    return 0;
}

static err_t judged_by(const struct jwks *set, const char *token, const struct jwt_rules *by)
{
    struct jwt jwt = {.subject = NULL};
    err_t err = jwt_verify(bytes_of_str(token), set, by, &jwt);

    assert_int_equal(ERR_peek_error(), 0);
    assert_true(err_is_ok(err) == (jwt.subject != NULL));
    if (err_is_ok(err))
        assert_string_equal(jwt.subject, "a-1");
    jwt_fini(&jwt);
    return err;
}

static err_t judged(const char *token)
{
    return judged_by(all, token, &rules);
}

/* Of a token whose header, or payload, is this; signed in order with Ed25519. */
static err_t with_header(const char *header)
{
    CLEANUP(mem_freep) char *token = jwtgen_sign(keys[ED25519], JWKS_EDDSA, header, "{" CLAIMS "}");

    return judged(token);
}

static err_t with_payload(const char *payload)
{
    CLEANUP(mem_freep)
    char *token = jwtgen_sign(keys[ED25519], JWKS_EDDSA, "{\"alg\":\"EdDSA\"}", payload);

    return judged(token);
}

/* ---- algorithms and keys ---- */

static const struct {
    enum jwks_alg alg;
    const char *name;
    size_t key;
} algs[] = {
    {JWKS_RS256, "RS256", RSA2048}, {JWKS_RS384, "RS384", RSA2048}, {JWKS_RS512, "RS512", RSA2048},
    {JWKS_PS256, "PS256", RSA2048}, {JWKS_PS384, "PS384", RSA2048}, {JWKS_PS512, "PS512", RSA2048},
    {JWKS_ES256, "ES256", EC256},   {JWKS_ES384, "ES384", EC384},   {JWKS_EDDSA, "EdDSA", ED25519},
};

static void test_each_algorithm_verifies_what_its_key_has_signed(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
        CLEANUP(mem_freep)
        char *header =
            mem_printf("{\"alg\":\"%s\",\"kid\":\"%s\"}", algs[i].name, kids[algs[i].key]);
        CLEANUP(mem_freep)
        char *token = jwtgen_sign(keys[algs[i].key], algs[i].alg, header, "{" CLAIMS "}");
        CLEANUP(mem_freep)
        char *other = jwtgen_sign(keys[algs[i].key], algs[i].alg, header,
                                  "{" CLAIMS ",\"groups\":\"admins\"}");
        size_t head = (size_t)(strrchr(token, '.') - token);
        CLEANUP(mem_freep)
        char *mixed = mem_printf("%.*s%s", (int)head, token, strrchr(other, '.'));

        assert_ok(judged(token));
        assert_code(judged(mixed), JWT_SIGNATURE);
        /* Each byte of the signature counts. */
        for (size_t at = head + 1; at + 1 < strlen(token); at += 7) {
            char before = token[at];

            token[at] = before == 'A' ? 'B' : 'A';
            assert_code(judged(token), JWT_SIGNATURE);
            token[at] = before;
        }
        assert_ok(judged(token));
    }
}

/* Whatever the header says: a key is used with its own algorithms alone. */
static void test_no_key_is_taken_for_another_kind(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(algs); i++) {
        for (size_t key = 0; key < KEYS; key++) {
            CLEANUP(mem_freep)
            char *header = mem_printf("{\"alg\":\"%s\",\"kid\":\"%s\"}", algs[i].name, kids[key]);
            CLEANUP(mem_freep)
            char *token = jwtgen_sign(keys[algs[i].key], algs[i].alg, header, "{" CLAIMS "}");

            if (key != algs[i].key)
                assert_code(judged(token), JWT_KEY_UNKNOWN);
        }
    }
}

/* RS256 as PS256 and the other way: the header's word is kept to. */
static void test_the_padding_is_that_of_the_algorithm(void **state)
{
    CLEANUP(mem_freep)
    char *pss = jwtgen_sign(keys[RSA2048], JWKS_RS256, "{\"alg\":\"PS256\"}", "{" CLAIMS "}");
    CLEANUP(mem_freep)
    char *pkcs1 = jwtgen_sign(keys[RSA2048], JWKS_PS256, "{\"alg\":\"RS256\"}", "{" CLAIMS "}");

    (void)state;
    assert_code(judged(pss), JWT_SIGNATURE);
    assert_code(judged(pkcs1), JWT_SIGNATURE);
}

static void test_none_and_shared_secrets_are_no_algorithms(void **state)
{
    static const char *const names[] = {"none",  "None",   "NONE", "HS256", "HS384",    "HS512", "",
                                        "ES512", "ES256K", "RS1",  "rs256", "RSA-OAEP", "dir"};
    CLEANUP(mem_freep) char *jwk = jwtgen_jwk(keys[RSA2048], "\"kid\":\"rsa\"");
    CLEANUP(mem_freep)
    char *confused =
        jwtgen_hmac(bytes_of_str(jwk), "{\"alg\":\"HS256\",\"kid\":\"rsa\"}", "{" CLAIMS "}");

    (void)state;
    assert_code(judged(confused), JWT_ALGORITHM);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CLEANUP(mem_freep) char *header = mem_printf("{\"alg\":\"%s\"}", names[i]);
        CLEANUP(mem_freep) char *bare = jwtgen_sign(NULL, JWKS_ALG_NUM, header, "{" CLAIMS "}");

        assert_code(with_header(header), JWT_ALGORITHM);
        assert_code(judged(bare), JWT_ALGORITHM);
    }
    assert_code(with_header("{}"), JWT_ALGORITHM);
    assert_code(with_header("{\"alg\":[\"EdDSA\"]}"), JWT_ALGORITHM);
    assert_code(with_header("{\"alg\":null}"), JWT_ALGORITHM);
}

static void test_a_key_is_found_by_its_name_or_alone(void **state)
{
    CLEANUP(jwks_freep) struct jwks *only = set_of(ED25519, KEYS);
    CLEANUP(mem_freep) char *one = jwtgen_jwk(keys[EC256], "\"kid\":\"a\"");
    EVP_PKEY *other = jwtgen_ec(NID_X9_62_prime256v1);
    CLEANUP(mem_freep) char *two = jwtgen_jwk(other, "\"kid\":\"b\"");
    CLEANUP(mem_freep) char *text = mem_printf("{\"keys\":[%s,%s]}", one, two);
    CLEANUP(mem_freep)
    char *nameless = jwtgen_sign(keys[EC256], JWKS_ES256, "{\"alg\":\"ES256\"}", "{" CLAIMS "}");
    CLEANUP(mem_freep)
    char *named =
        jwtgen_sign(keys[EC256], JWKS_ES256, "{\"alg\":\"ES256\",\"kid\":\"a\"}", "{" CLAIMS "}");
    CLEANUP(mem_freep)
    char *wrong =
        jwtgen_sign(keys[EC256], JWKS_ES256, "{\"alg\":\"ES256\",\"kid\":\"b\"}", "{" CLAIMS "}");
    struct jwks *pair = NULL;

    (void)state;
    assert_ok(with_header("{\"alg\":\"EdDSA\"}"));
    assert_ok(with_header("{\"alg\":\"EdDSA\",\"kid\":\"ed\"}"));
    assert_code(with_header("{\"alg\":\"EdDSA\",\"kid\":\"ed2\"}"), JWT_KEY_UNKNOWN);
    assert_code(with_header("{\"alg\":\"EdDSA\",\"kid\":\"\"}"), JWT_KEY_UNKNOWN);
    assert_code(with_header("{\"alg\":\"EdDSA\",\"kid\":1}"), JWT_SYNTAX);
    assert_code(judged_by(only, named, &rules), JWT_KEY_UNKNOWN);
    assert_ok(jwks_parse(bytes_of_str(text), &pair));
    assert_code(judged_by(pair, nameless, &rules), JWT_KEY_UNKNOWN);
    assert_ok(judged_by(pair, named, &rules));
    assert_code(judged_by(pair, wrong, &rules), JWT_SIGNATURE);
    jwks_free(pair);
    EVP_PKEY_free(other);
}

/* A key that the header brings along is not looked at. */
static void test_the_header_brings_no_key(void **state)
{
    EVP_PKEY *mallory = jwtgen_ec(NID_X9_62_prime256v1);
    CLEANUP(mem_freep) char *jwk = jwtgen_jwk(mallory, "");
    CLEANUP(mem_freep)
    char *header =
        mem_printf("{\"alg\":\"ES256\",\"jwk\":%s,\"jku\":\"https://mallory.example/keys\"}", jwk);
    CLEANUP(mem_freep) char *token = jwtgen_sign(mallory, JWKS_ES256, header, "{" CLAIMS "}");

    (void)state;
    assert_code(judged(token), JWT_SIGNATURE);
    EVP_PKEY_free(mallory);
}

/* ---- header and form ---- */

static void test_what_has_to_be_understood_is_refused(void **state)
{
    (void)state;
    assert_code(with_header("{\"alg\":\"EdDSA\",\"crit\":[\"exp\"]}"), JWT_CRITICAL);
    assert_code(with_header("{\"alg\":\"EdDSA\",\"crit\":[]}"), JWT_CRITICAL);
    assert_code(with_header("{\"alg\":\"EdDSA\",\"crit\":null}"), JWT_CRITICAL);
    assert_code(with_header("{\"alg\":\"EdDSA\",\"b64\":false}"), JWT_CRITICAL);
    assert_ok(with_header("{\"alg\":\"EdDSA\",\"x5t\":\"unknown and not critical\"}"));
}

static void test_a_token_of_another_kind_is_refused(void **state)
{
    static const char *const right[] = {"JWT", "jwt", "at+jwt", "application/at+jwt"};
    static const char *const wrong[] = {"logout+jwt", "secevent+jwt", "dpop+jwt", "JOSE", ""};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(right); i++) {
        CLEANUP(mem_freep)
        char *header = mem_printf("{\"alg\":\"EdDSA\",\"typ\":\"%s\"}", right[i]);

        assert_ok(with_header(header));
    }
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        CLEANUP(mem_freep)
        char *header = mem_printf("{\"alg\":\"EdDSA\",\"typ\":\"%s\"}", wrong[i]);

        assert_code(with_header(header), JWT_TYPE);
    }
    assert_code(with_header("{\"alg\":\"EdDSA\",\"typ\":1}"), JWT_TYPE);
    assert_code(with_header("{\"alg\":\"EdDSA\",\"cty\":\"JWT\"}"), JWT_TYPE);
}

static void test_the_form_is_the_one_form(void **state)
{
    CLEANUP(mem_freep)
    char *token = jwtgen_sign(keys[ED25519], JWKS_EDDSA, "{\"alg\":\"EdDSA\"}", "{" CLAIMS "}");
    size_t len = strlen(token);
    static const char *const bad[] = {"",
                                      ".",
                                      "..",
                                      "...",
                                      "a.b",
                                      "a.b.c",
                                      "e30.e30.",
                                      "!.e30.e30",
                                      "e30",
                                      "bnVsbA.e30.e30",
                                      "W10.e30.e30",
                                      "ImEi.e30.e30"};
    static const char *const behind[] = {"=", "==", " ", "\n", ".", ".e30", "A", "AAAA"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(err_is_ok(judged(bad[i])));
    for (size_t i = 0; i < ARRAY_LEN(behind); i++) {
        CLEANUP(mem_freep) char *more = mem_printf("%s%s", token, behind[i]);

        assert_false(err_is_ok(judged(more)));
    }
    /* 64 bytes end in a digit of which 4 bits are 0: the other spellings mean the same, and are
     * refused. */
    for (unsigned more = 1; more < 16; more++) {
        static const char digits[] =
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        char last = token[len - 1];

        token[len - 1] = digits[(unsigned)(strchr(digits, last) - digits) + more];
        assert_code(judged(token), JWT_SYNTAX);
        token[len - 1] = last;
    }
    for (size_t cut = 1; cut <= len; cut++) {
        CLEANUP(mem_freep) char *shorter = mem_strndup(token, len - cut);

        assert_false(err_is_ok(judged(shorter)));
    }
    assert_ok(judged(token));
}

static void test_no_member_is_said_twice(void **state)
{
    (void)state;
    assert_code(with_header("{\"alg\":\"EdDSA\",\"alg\":\"none\"}"), JWT_SYNTAX);
    assert_code(with_payload("{" CLAIMS ",\"sub\":\"root\"}"), JWT_CLAIM);
    assert_code(with_payload("{" CLAIMS ",\"x\":{\"a\":1,\"a\":2}}"), JWT_CLAIM);
    assert_code(with_payload("{" CLAIMS "} {}"), JWT_CLAIM);
    assert_code(with_payload("{" CLAIMS ",\"x\":\"\\u0000\"}"), JWT_CLAIM);
    assert_code(with_payload("{" CLAIMS ",\"x\":\"\xff\"}"), JWT_CLAIM);
    assert_code(with_payload("[]"), JWT_CLAIM);
    assert_code(with_payload(""), JWT_CLAIM);
}

static void test_no_token_is_larger_than_the_limit(void **state)
{
    CLEANUP(mem_freep) char *huge = mem_alloc(JWT_MAX + 2);

    (void)state;
    memset(huge, 'A', JWT_MAX + 1);
    huge[JWT_MAX + 1] = '\0';
    assert_code(judged(huge), TOO_LARGE);
    huge[JWT_MAX] = '\0';
    assert_code(judged(huge), JWT_SYNTAX);
}

/* ---- claims ---- */

static void test_issuer_and_audience_are_ours(void **state)
{
    (void)state;
#define OF(iss, aud) "{\"iss\":" iss ",\"aud\":" aud ",\"sub\":\"a-1\",\"exp\":1700000600}"
    assert_ok(with_payload(OF("\"" ISSUER "\"", "\"mortise\"")));
    assert_ok(with_payload(OF("\"" ISSUER "\"", "[\"x\",\"mortise\"]")));
    assert_code(with_payload(OF("\"" ISSUER "/\"", "\"mortise\"")), JWT_ISSUER);
    assert_code(with_payload(OF("\"https://ID.example\"", "\"mortise\"")), JWT_ISSUER);
    assert_code(with_payload(OF("[\"" ISSUER "\"]", "\"mortise\"")), JWT_ISSUER);
    assert_code(with_payload(OF("\"" ISSUER "\"", "\"mortise2\"")), JWT_AUDIENCE);
    assert_code(with_payload(OF("\"" ISSUER "\"", "\"Mortise\"")), JWT_AUDIENCE);
    assert_code(with_payload(OF("\"" ISSUER "\"", "[]")), JWT_AUDIENCE);
    assert_code(with_payload(OF("\"" ISSUER "\"", "[[\"mortise\"]]")), JWT_AUDIENCE);
    assert_code(with_payload(OF("\"" ISSUER "\"", "{\"mortise\":1}")), JWT_AUDIENCE);
    assert_code(with_payload("{\"iss\":\"" ISSUER "\",\"sub\":\"a-1\",\"exp\":1700000600}"),
                JWT_AUDIENCE);
    assert_code(with_payload("{\"aud\":\"mortise\",\"sub\":\"a-1\",\"exp\":1700000600}"),
                JWT_ISSUER);
#undef OF
}

static err_t with_times(const char *times)
{
    CLEANUP(mem_freep)
    char *payload =
        mem_printf("{\"iss\":\"" ISSUER "\",\"aud\":\"mortise\",\"sub\":\"a-1\"%s}", times);

    return with_payload(payload);
}

static void test_a_token_has_its_time(void **state)
{
    (void)state;
    assert_ok(with_times(",\"exp\":1700000001"));
    assert_ok(with_times(",\"exp\":1700000001.9"));
    assert_code(with_times(""), JWT_CLAIM);
    assert_code(with_times(",\"exp\":\"1800000000\""), JWT_CLAIM);
    assert_code(with_times(",\"exp\":null"), JWT_CLAIM);
    assert_code(with_times(",\"exp\":-1"), JWT_CLAIM);
    assert_code(with_times(",\"exp\":1e300"), JWT_CLAIM);
    assert_code(with_times(",\"exp\":9223372036854775807"), JWT_CLAIM);
    assert_code(with_times(",\"exp\":1700000000"), JWT_EXPIRED);
    assert_code(with_times(",\"exp\":1700000000.9"), JWT_EXPIRED);
    assert_code(with_times(",\"exp\":0"), JWT_EXPIRED);
    assert_ok(with_times(",\"exp\":1700000600,\"nbf\":1700000060,\"iat\":1700000060"));
    assert_code(with_times(",\"exp\":1700000600,\"nbf\":1700000061"), JWT_NOT_YET_VALID);
    assert_code(with_times(",\"exp\":1700000600,\"iat\":1700000061"), JWT_NOT_YET_VALID);
    assert_code(with_times(",\"exp\":1700000600,\"nbf\":true"), JWT_CLAIM);
}

static void test_a_subject_is_a_name(void **state)
{
    (void)state;
#define OF(sub) "{\"iss\":\"" ISSUER "\",\"aud\":\"mortise\",\"exp\":1700000600,\"sub\":" sub "}"
    assert_code(with_payload(OF("\"\"")), JWT_CLAIM);
    assert_code(with_payload(OF("1")), JWT_CLAIM);
    assert_code(with_payload(OF("\"a b\"")), JWT_CLAIM);
    assert_code(with_payload(OF("\"a\\nrole=admin\"")), JWT_CLAIM);
    assert_code(with_payload(OF("\"\u00e4\"")), JWT_CLAIM);
    assert_code(with_payload("{\"iss\":\"" ISSUER "\",\"aud\":\"mortise\",\"exp\":1700000600}"),
                JWT_CLAIM);
#undef OF
    assert_true(jwt_name_valid("a b", true) && !jwt_name_valid(" a", true));
}

static void test_groups_are_a_list_of_names(void **state)
{
    struct jwt_rules none = rules;
    struct jwt jwt = {.subject = NULL};
    CLEANUP(mem_freep)
    char *token = jwtgen_sign(keys[ED25519], JWKS_EDDSA, "{\"alg\":\"EdDSA\"}",
                              "{" CLAIMS
                              ",\"groups\":[\"ops\",\"Domain Admins\",\"\",\"a\\tb\",\"/night\"]}");

    (void)state;
    assert_ok(jwt_verify(bytes_of_str(token), all, &rules, &jwt));
    assert_int_equal(jwt.num_groups, 3);
    assert_string_equal(jwt.groups[0], "ops");
    assert_string_equal(jwt.groups[1], "Domain Admins");
    assert_string_equal(jwt.groups[2], "/night");
    assert_int_equal(jwt.expires_at, 1700000600);
    assert_true(jwks_holds(all, jwt.key_sha256));
    jwt_fini(&jwt);
    none.groups_claim = NULL;
    assert_ok(jwt_verify(bytes_of_str(token), all, &none, &jwt));
    assert_int_equal(jwt.num_groups, 0);
    jwt_fini(&jwt);
    assert_ok(with_payload("{" CLAIMS ",\"groups\":\"ops\"}"));
    assert_ok(with_payload("{" CLAIMS ",\"groups\":[]}"));
    assert_code(with_payload("{" CLAIMS ",\"groups\":{\"ops\":1}}"), JWT_CLAIM);
    assert_code(with_payload("{" CLAIMS ",\"groups\":[1]}"), JWT_CLAIM);
    assert_code(with_payload("{" CLAIMS ",\"groups\":null}"), JWT_CLAIM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_algorithm_verifies_what_its_key_has_signed),
        cmocka_unit_test(test_no_key_is_taken_for_another_kind),
        cmocka_unit_test(test_the_padding_is_that_of_the_algorithm),
        cmocka_unit_test(test_none_and_shared_secrets_are_no_algorithms),
        cmocka_unit_test(test_a_key_is_found_by_its_name_or_alone),
        cmocka_unit_test(test_the_header_brings_no_key),
        cmocka_unit_test(test_what_has_to_be_understood_is_refused),
        cmocka_unit_test(test_a_token_of_another_kind_is_refused),
        cmocka_unit_test(test_the_form_is_the_one_form),
        cmocka_unit_test(test_no_member_is_said_twice),
        cmocka_unit_test(test_no_token_is_larger_than_the_limit),
        cmocka_unit_test(test_issuer_and_audience_are_ours),
        cmocka_unit_test(test_a_token_has_its_time),
        cmocka_unit_test(test_a_subject_is_a_name),
        cmocka_unit_test(test_groups_are_a_list_of_names),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
