/* Private keys: made, written, read in all the forms that tools write; weak, encrypted, broken and
 * ambiguous ones told apart. Keys are made here: none is in the repository.
 * Drives: R21. */
#include "certs/key.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "certs/boring.h"
#include "certs/pem.h"
#include "test/unit/certs/certgen.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static void add_pem(struct buf *out, const char *label, CBB *cbb)
{
    uint8_t *der = NULL;
    size_t len = 0;

    assert_true(CBB_finish(cbb, &der, &len));
    assert_ok(pem_write(label, bytes_of(der, len), out));
    OPENSSL_free(der);
}

static void add_pkcs8(struct buf *out, EVP_PKEY *key)
{
    CBB cbb;

    assert_true(CBB_init(&cbb, 64) && EVP_marshal_private_key(&cbb, key));
    add_pem(out, "PRIVATE KEY", &cbb);
}

static void add_sec1(struct buf *out, EVP_PKEY *key)
{
    CBB cbb;

    assert_true(CBB_init(&cbb, 64) &&
                EC_KEY_marshal_private_key(&cbb, EVP_PKEY_get0_EC_KEY(key), 0));
    add_pem(out, "EC PRIVATE KEY", &cbb);
}

static void add_pkcs1(struct buf *out, EVP_PKEY *key)
{
    CBB cbb;

    assert_true(CBB_init(&cbb, 64) && RSA_marshal_private_key(&cbb, EVP_PKEY_get0_RSA(key)));
    add_pem(out, "RSA PRIVATE KEY", &cbb);
}

static void assert_parses(const struct buf *text, const EVP_PKEY *want)
{
    EVP_PKEY *key = NULL;

    assert_ok(key_parse(buf_view(text), &key));
    assert_int_equal(EVP_PKEY_cmp(key, want), 1);
    EVP_PKEY_free(key);
}

static void assert_fails(const struct buf *text, enum err_code code)
{
    EVP_PKEY *key = NULL;

    assert_int_equal(key_parse(buf_view(text), &key).code, code);
    assert_null(key);
    assert_int_equal(ERR_peek_error(), 0);
}

static void test_forms(void **state)
{
    static const enum certgen_key kinds[] = {CERTGEN_P256, CERTGEN_P384, CERTGEN_RSA2048};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        EVP_PKEY *key = certgen_key(kinds[i]);
        struct buf text = {0};
        add_pkcs8(&text, key);
        assert_parses(&text, key);
        buf_clear(&text);
        if (EVP_PKEY_id(key) == EVP_PKEY_RSA) {
            add_pkcs1(&text, key);
        } else {
            /* As `openssl ecparam -genkey` writes it. */
            assert_ok(buf_add_str(&text, "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n"
                                         "-----END EC PARAMETERS-----\n"));
            add_sec1(&text, key);
        }
        assert_parses(&text, key);
        buf_wipe_fini(&text);
    }
}

static void test_generated_survive_writing(void **state)
{
    EVP_PKEY *key = NULL;
    EVP_PKEY *again = NULL;
    uint8_t a[32];
    uint8_t b[32];

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct buf pem = {0};
        struct buf der = {0};
        assert_ok(i == 0 ? key_generate(&key) : key_generate_p384(&key));
        assert_int_equal(EVP_PKEY_bits(key), i == 0 ? 256 : 384);
        assert_ok(key_check_strength(key));
        assert_ok(key_write_pem(key, &pem));
        assert_parses(&pem, key);
        assert_ok(key_der(key, &der));
        assert_ok(key_from_der(buf_view(&der), &again));
        assert_ok(key_spki_sha256(key, a));
        assert_ok(key_spki_sha256(again, b));
        assert_memory_equal(a, b, 32);
        buf_wipe_fini(&pem);
        buf_wipe_fini(&der);
        EVP_PKEY_free(key);
        EVP_PKEY_free(again);
    }
}

static void test_no_two_are_equal(void **state)
{
    uint8_t hashes[8][32];

    (void)state;
    for (size_t i = 0; i < 8; i++) {
        EVP_PKEY *key = NULL;
        assert_ok(key_generate(&key));
        assert_ok(key_spki_sha256(key, hashes[i]));
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(hashes[i], hashes[j], 32);
        EVP_PKEY_free(key);
    }
}

static void test_weak_kinds(void **state)
{
    static const struct {
        enum certgen_key kind;
        int bits;
    } weak[] = {
        {CERTGEN_P224, 224}, {CERTGEN_P521, 521}, {CERTGEN_RSA1024, 1024}, {CERTGEN_ED25519, 0}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(weak); i++) {
        EVP_PKEY *key = certgen_key(weak[i].kind);
        struct buf text = {0};
        err_t err = key_check_strength(key);
        assert_int_equal(err.code, E_KEY_WEAK);
        assert_int_equal(err.sub, weak[i].bits);
        add_pkcs8(&text, key);
        assert_fails(&text, E_KEY_WEAK);
        buf_clear(&text);
        if (EVP_PKEY_id(key) == EVP_PKEY_EC) {
            add_sec1(&text, key);
            assert_fails(&text, E_KEY_WEAK);
        } else if (EVP_PKEY_id(key) == EVP_PKEY_RSA) {
            add_pkcs1(&text, key);
            assert_fails(&text, E_KEY_WEAK);
        }
        buf_wipe_fini(&text);
    }
}

static void test_what_is_no_key(void **state)
{
    static const struct {
        const char *text;
        enum err_code code;
    } cases[] = {
        {"", E_PEM_EMPTY},
        {"-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n", E_PEM_EMPTY},
        {"-----BEGIN PUBLIC KEY-----\nYWJj\n-----END PUBLIC KEY-----\n", E_PEM_EMPTY},
        {"-----BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----\n", E_KEY_SYNTAX},
        {"-----BEGIN EC PRIVATE KEY-----\nYWJj\n-----END EC PRIVATE KEY-----\n", E_KEY_SYNTAX},
        {"-----BEGIN RSA PRIVATE KEY-----\nYWJj\n-----END RSA PRIVATE KEY-----\n", E_KEY_SYNTAX},
        {"-----BEGIN DSA PRIVATE KEY-----\nYWJj\n-----END DSA PRIVATE KEY-----\n", E_KEY_SYNTAX},
        {"-----BEGIN ENCRYPTED PRIVATE KEY-----\nYWJj\n-----END ENCRYPTED PRIVATE KEY-----\n",
         E_KEY_ENCRYPTED},
        {"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,0\n\nYWJj\n"
         "-----END EC PRIVATE KEY-----\n",
         E_KEY_ENCRYPTED},
        {"-----BEGIN PRIVATE KEY-----\nYWJj\n", E_PEM_SYNTAX},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        EVP_PKEY *key = NULL;
        assert_int_equal(key_parse(bytes_of_str(cases[i].text), &key).code, cases[i].code);
    }
}

static void test_two_keys_are_ambiguous(void **state)
{
    struct buf text = {0};

    (void)state;
    add_pkcs8(&text, certgen_key(CERTGEN_P256));
    add_pkcs8(&text, certgen_key(CERTGEN_P256_OTHER));
    assert_fails(&text, E_KEY_SYNTAX);
    buf_wipe_fini(&text);
}

/* A half-written or damaged file is told, never taken for another key. */
static void test_damage(void **state)
{
    EVP_PKEY *key = certgen_key(CERTGEN_P256);
    struct buf der = {0};
    EVP_PKEY *out = NULL;

    (void)state;
    assert_ok(key_der(key, &der));
    for (size_t len = 0; len < der.len; len++) {
        uint8_t *copy = mem_dup(der.data, len);
        assert_int_equal(key_from_der(bytes_of(copy, len), &out).code, E_KEY_SYNTAX);
        mem_free(copy);
    }
    assert_ok(buf_add(&der, "", 1));
    assert_int_equal(key_from_der(buf_view(&der), &out).code, E_KEY_SYNTAX);
    der.len--;
    for (size_t i = 0; i < der.len; i++) {
        der.data[i] ^= 0x20;
        err_t err = key_from_der(buf_view(&der), &out);
        /* Flips in the private number leave it without its public point. */
        assert_false(err_is_ok(err));
        der.data[i] ^= 0x20;
    }
    buf_wipe_fini(&der);
}

static int teardown(void **state)
{
    (void)state;
    certgen_cleanup();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_generated_survive_writing),
        cmocka_unit_test(test_no_two_are_equal),
        cmocka_unit_test(test_weak_kinds),
        cmocka_unit_test(test_what_is_no_key),
        cmocka_unit_test(test_two_keys_are_ambiguous),
        cmocka_unit_test(test_damage),
    };

    return cmocka_run_group_tests(tests, NULL, teardown);
}
