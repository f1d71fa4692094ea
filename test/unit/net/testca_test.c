/* The certificates that all other tests rely on are what they are asked to be.
 * Drives: R5, R6 */
#include "test/testlib/testca.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

/* Verifies leaf (and what is above it) against root; returns X509_V_*. */
static int verify(const struct testca *root, const struct testca *leaf, int purpose)
{
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    STACK_OF(X509) *above = sk_X509_new_null();
    int result;

    for (const struct testca *ca = leaf->issuer; ca != NULL && ca->issuer != NULL; ca = ca->issuer)
        assert_true(sk_X509_push(above, ca->cert) > 0);
    assert_int_equal(X509_STORE_add_cert(store, root->cert), 1);
    assert_int_equal(X509_STORE_CTX_init(ctx, store, leaf->cert, above), 1);
    assert_int_equal(X509_STORE_CTX_set_purpose(ctx, purpose), 1);
    (void)X509_verify_cert(ctx);
    result = X509_STORE_CTX_get_error(ctx);
    sk_X509_free(above);
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    ERR_clear_error();
    return result;
}

static void test_defaults_verify_with_every_key(void **state)
{
    static const enum testca_key keys[] = {TESTCA_P256,    TESTCA_P384,    TESTCA_P521,
                                           TESTCA_RSA2048, TESTCA_RSA1024, TESTCA_P224};

    (void)state;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        struct testca *root = testca_new(&(struct testca_params){.key = keys[i]});
        struct testca *middle =
            testca_issue(root, &(struct testca_params){.is_ca = true, .path_len = 1});
        struct testca *leaf = testca_issue(
            middle, &(struct testca_params){.key = keys[i],
                                            .uri_sans = TESTCA_LIST("spiffe://example.org/x"),
                                            .dns_sans = TESTCA_LIST("a.example.org"),
                                            .ip_sans = TESTCA_LIST("10.0.0.1", "::1")});
        struct bytes chain[4];

        assert_int_equal(verify(root, leaf, X509_PURPOSE_SSL_SERVER), X509_V_OK);
        assert_int_equal(verify(root, leaf, X509_PURPOSE_SSL_CLIENT), X509_V_OK);
        assert_int_equal(X509_check_host(leaf->cert, "a.example.org", 13, 0, NULL), 1);
        assert_int_equal(X509_check_ip_asc(leaf->cert, "::1", 0), 1);
        assert_int_equal(testca_chain(leaf, chain, 4), 2);
        assert_true(bytes_equal(chain[0], testca_der(leaf)));
        assert_true(bytes_equal(chain[1], testca_der(middle)));
        assert_non_null(strstr(leaf->key_pem, "BEGIN PRIVATE KEY"));
        testca_free(leaf);
        testca_free(middle);
        testca_free(root);
    }
}

static void test_bad_ones_are_bad_in_the_asked_way(void **state)
{
    int64_t now_s = (int64_t)time(NULL);
    struct testca *root = testca_new(NULL);
    struct testca *other = testca_new(NULL);
    const struct {
        struct testca_params params;
        int expected;
    } cases[] = {
        {{.name = "good"}, X509_V_OK},
        {{.not_before = now_s - 20, .not_after = now_s - 10}, X509_V_ERR_CERT_HAS_EXPIRED},
        {{.not_before = now_s + 600}, X509_V_ERR_CERT_NOT_YET_VALID},
        {{.bad_signature = true}, X509_V_ERR_CERT_SIGNATURE_FAILURE},
        {{.eku = TESTCA_EKU_CLIENT}, X509_V_ERR_INVALID_PURPOSE},
        {{.eku = TESTCA_EKU_SERVER | TESTCA_EKU_EMAIL}, X509_V_OK},
        {{.unknown_critical = true}, X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct testca *leaf = testca_issue(root, &cases[i].params);

        assert_int_equal(verify(root, leaf, X509_PURPOSE_SSL_SERVER), cases[i].expected);
        assert_int_not_equal(verify(other, leaf, X509_PURPOSE_SSL_SERVER), X509_V_OK);
        testca_free(leaf);
    }
    testca_free(other);
    testca_free(root);
}

static void test_constraints_of_a_ca_bind(void **state)
{
    struct testca *root = testca_new(NULL);
    struct testca *ca = testca_issue(root, &(struct testca_params){.is_ca = true,
                                                                   .permit_uri = "example.org",
                                                                   .permit_dns = "example.org"});
    struct testca *good =
        testca_issue(ca, &(struct testca_params){.uri_sans = TESTCA_LIST("https://example.org/x"),
                                                 .dns_sans = TESTCA_LIST("a.example.org")});
    struct testca *bad =
        testca_issue(ca, &(struct testca_params){.dns_sans = TESTCA_LIST("example.com")});
    struct testca *not_ca = testca_issue(root, NULL);
    struct testca *below = testca_issue(not_ca, NULL);

    (void)state;
    assert_int_equal(verify(root, good, X509_PURPOSE_SSL_SERVER), X509_V_OK);
    assert_int_equal(verify(root, bad, X509_PURPOSE_SSL_SERVER), X509_V_ERR_PERMITTED_VIOLATION);
    assert_int_not_equal(verify(root, below, X509_PURPOSE_SSL_SERVER), X509_V_OK);
    testca_free(below);
    testca_free(not_ca);
    testca_free(bad);
    testca_free(good);
    testca_free(ca);
    testca_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_verify_with_every_key),
        cmocka_unit_test(test_bad_ones_are_bad_in_the_asked_way),
        cmocka_unit_test(test_constraints_of_a_ca_bind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
