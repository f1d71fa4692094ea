/* Without this a key that its issuer published for something else, that anybody can forge with, or
 * that two keys share a name with, decides who is an administrator.
 *
 * Drives: D5, R36 */
#include "certs/jwks.h"

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

static err_t parsed(const char *text, size_t *out_num, unsigned *out_algs)
{
    struct jwks *set = NULL;
    err_t err = jwks_parse(bytes_of_str(text), &set);

    assert_int_equal(ERR_peek_error(), 0);
    *out_num = set != NULL ? set->num : 0;
    *out_algs = set != NULL ? set->keys[0].algs : 0;
    jwks_free(set);
    return err;
}

static err_t of_one(const char *jwk, unsigned *out_algs)
{
    CLEANUP(mem_freep) char *text = mem_printf("{\"keys\":[%s]}", jwk);
    size_t num;

    return parsed(text, &num, out_algs);
}

static unsigned algs_with(EVP_PKEY *key, const char *more)
{
    CLEANUP(mem_freep) char *jwk = jwtgen_jwk(key, more);
    unsigned algs = 0;

    if (err_is_ok(of_one(jwk, &algs)))
        assert_int_not_equal(algs, 0);
    return algs;
}

static void test_a_key_is_for_what_it_says(void **state)
{
    EVP_PKEY *ec = jwtgen_ec(NID_X9_62_prime256v1);
    EVP_PKEY *ed = jwtgen_ed25519();

    (void)state;
    assert_int_equal(algs_with(ec, ""), 1u << JWKS_ES256);
    assert_int_equal(algs_with(ec, "\"alg\":\"ES256\",\"use\":\"sig\""), 1u << JWKS_ES256);
    assert_int_equal(algs_with(ec, "\"key_ops\":[\"sign\",\"verify\"]"), 1u << JWKS_ES256);
    assert_int_equal(algs_with(ed, "\"alg\":\"EdDSA\""), 1u << JWKS_EDDSA);
    assert_int_equal(algs_with(ec, "\"alg\":\"ES384\""), 0);
    assert_int_equal(algs_with(ec, "\"alg\":\"HS256\""), 0);
    assert_int_equal(algs_with(ec, "\"alg\":\"none\""), 0);
    assert_int_equal(algs_with(ec, "\"alg\":256"), 0);
    assert_int_equal(algs_with(ec, "\"use\":\"enc\""), 0);
    assert_int_equal(algs_with(ec, "\"use\":null"), 0);
    assert_int_equal(algs_with(ec, "\"key_ops\":[\"sign\"]"), 0);
    assert_int_equal(algs_with(ec, "\"key_ops\":\"verify\""), 0);
    assert_int_equal(algs_with(ec, "\"d\":\"AAAA\""), 0);
    assert_int_equal(algs_with(ec, "\"kid\":1"), 0);
    EVP_PKEY_free(ec);
    EVP_PKEY_free(ed);
}

static void test_a_weak_key_is_left_out(void **state)
{
    EVP_PKEY *weak = jwtgen_rsa(1024);
    EVP_PKEY *strong = jwtgen_rsa(2048);
    CLEANUP(mem_freep) char *weak_jwk = jwtgen_jwk(weak, "\"kid\":\"w\"");
    CLEANUP(mem_freep) char *strong_jwk = jwtgen_jwk(strong, "\"kid\":\"s\",\"alg\":\"PS384\"");
    CLEANUP(mem_freep) char *both = mem_printf("{\"keys\":[%s,%s]}", weak_jwk, strong_jwk);
    CLEANUP(mem_freep)
    char *even = mem_printf("%.*s,\"e\":\"Ag\"}", (int)(strstr(strong_jwk, ",\"e\"") - strong_jwk),
                            strong_jwk);
    CLEANUP(mem_freep)
    char *one = mem_printf("%.*s,\"e\":\"AQ\"}", (int)(strstr(strong_jwk, ",\"e\"") - strong_jwk),
                           strong_jwk);
    struct jwks *set = NULL;
    unsigned algs;

    (void)state;
    assert_code(of_one(weak_jwk, &algs), JWKS_EMPTY);
    assert_code(of_one(even, &algs), JWKS_EMPTY);
    assert_code(of_one(one, &algs), JWKS_EMPTY);
    assert_ok(jwks_parse(bytes_of_str(both), &set));
    assert_int_equal(set->num, 1);
    assert_int_equal(set->left_out, 1);
    assert_non_null(jwks_find(set, "s", JWKS_PS384));
    assert_null(jwks_find(set, "s", JWKS_PS256));
    assert_null(jwks_find(set, "s", JWKS_RS384));
    assert_null(jwks_find(set, "w", JWKS_RS256));
    jwks_free(set);
    EVP_PKEY_free(weak);
    EVP_PKEY_free(strong);
}

static void test_what_is_no_point_of_the_curve_is_left_out(void **state)
{
    EVP_PKEY *ec = jwtgen_ec(NID_X9_62_prime256v1);
    CLEANUP(mem_freep) char *jwk = jwtgen_jwk(ec, "");
    char *digit = strstr(jwk, "\"y\":\"") + 5;
    unsigned algs;

    (void)state;
    assert_ok(of_one(jwk, &algs));
    *digit = *digit == 'A' ? 'B' : 'A';
    assert_code(of_one(jwk, &algs), JWKS_EMPTY);
    assert_code(of_one("{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"}", &algs),
                JWKS_EMPTY);
    assert_code(of_one("{\"kty\":\"oct\",\"k\":\"c2VjcmV0\",\"alg\":\"HS256\"}", &algs),
                JWKS_EMPTY);
    assert_code(of_one("{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"AAAA\"}", &algs), JWKS_EMPTY);
    assert_code(of_one("{\"kty\":\"RSA\"}", &algs), JWKS_EMPTY);
    assert_code(of_one("1", &algs), JWKS_EMPTY);
    EVP_PKEY_free(ec);
}

static void test_a_name_means_one_key(void **state)
{
    EVP_PKEY *one = jwtgen_ec(NID_X9_62_prime256v1);
    EVP_PKEY *two = jwtgen_ec(NID_X9_62_prime256v1);
    EVP_PKEY *other = jwtgen_ec(NID_secp384r1);
    CLEANUP(mem_freep) char *a = jwtgen_jwk(one, "\"kid\":\"a\"");
    CLEANUP(mem_freep) char *twin = jwtgen_jwk(two, "\"kid\":\"a\"");
    CLEANUP(mem_freep) char *of_384 = jwtgen_jwk(other, "\"kid\":\"a\"");
    CLEANUP(mem_freep) char *twins = mem_printf("{\"keys\":[%s,%s]}", a, twin);
    CLEANUP(mem_freep) char *kinds = mem_printf("{\"keys\":[%s,%s]}", a, of_384);
    size_t num;
    unsigned algs;

    (void)state;
    assert_code(parsed(twins, &num, &algs), JWKS_SYNTAX);
    assert_ok(parsed(kinds, &num, &algs)); /* RFC 7517 section 4.5: equivalent ones of two kinds */
    assert_int_equal(num, 2);
    EVP_PKEY_free(one);
    EVP_PKEY_free(two);
    EVP_PKEY_free(other);
}

static void test_what_is_no_set_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "{}",
                                      "[]",
                                      "null",
                                      "{\"keys\":{}}",
                                      "{\"keys\":[]",
                                      "{\"keys\":[],\"keys\":[]}",
                                      "{\"keys\":[]} x",
                                      "<html>503</html>"};
    size_t num;
    unsigned algs;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_code(parsed(bad[i], &num, &algs), JWKS_SYNTAX);
    assert_code(parsed("{\"keys\":[]}", &num, &algs), JWKS_EMPTY);
}

static void test_a_set_has_its_limits(void **state)
{
    EVP_PKEY *key = jwtgen_ed25519();
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(buf_fini) struct buf large = {0};
    struct jwks *set = NULL;
    uint8_t *room;

    (void)state;
    assert_ok(buf_add_str(&text, "{\"keys\":["));
    for (unsigned i = 0; i <= JWKS_KEYS_MAX; i++) {
        CLEANUP(mem_freep) char *more = mem_printf("\"kid\":\"%u\"", i);
        CLEANUP(mem_freep) char *jwk = jwtgen_jwk(key, more);

        assert_ok(buf_printf(&text, "%s%s", i > 0 ? "," : "", jwk));
    }
    assert_ok(buf_add_str(&text, "]}"));
    assert_code(jwks_parse(buf_view(&text), &set), TOO_LARGE);
    assert_ok(buf_reserve(&large, JWKS_TEXT_MAX + 1, &room));
    memset(room, ' ', JWKS_TEXT_MAX + 1);
    buf_commit(&large, JWKS_TEXT_MAX + 1);
    assert_code(jwks_parse(buf_view(&large), &set), TOO_LARGE);
    assert_null(set);
    EVP_PKEY_free(key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_is_for_what_it_says),
        cmocka_unit_test(test_a_weak_key_is_left_out),
        cmocka_unit_test(test_what_is_no_point_of_the_curve_is_left_out),
        cmocka_unit_test(test_a_name_means_one_key),
        cmocka_unit_test(test_what_is_no_set_is_refused),
        cmocka_unit_test(test_a_set_has_its_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
