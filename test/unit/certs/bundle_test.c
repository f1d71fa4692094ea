/* Trust bundles: a set of CAs, whatever order and dress they come in; nothing that is no CA.
 * Drives: R5, A7. */
#include "certs/bundle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "certs/pem.h"
#include "test/unit/certs/certgen.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static struct certgen *root_a;
static struct certgen *root_b;

static void add_pem(struct buf *out, const struct certgen *cert, bool crlf)
{
    struct buf text = {0};

    assert_ok(pem_write("CERTIFICATE", certgen_der(cert), &text));
    for (size_t i = 0; i < text.len; i++) {
        if (crlf && text.data[i] == '\n')
            assert_ok(buf_add_str(out, "\r"));
        assert_ok(buf_add(out, &text.data[i], 1));
    }
    buf_fini(&text);
}

static struct bundle *bundle_from(const struct buf *text, const char *trust_domain)
{
    struct bundle *bundle = NULL;

    assert_ok(bundle_of_pem(buf_view(text), trust_domain, &bundle));
    return bundle;
}

static void assert_refused(const struct certgen_params *params, enum err_code code)
{
    struct certgen *cert = certgen_make(NULL, params);
    struct bytes certs[2] = {certgen_der(root_a), certgen_der(cert)};
    struct bundle *bundle = NULL;

    assert_int_equal(bundle_of_der(certs, 2, NULL, &bundle).code, code);
    assert_null(bundle); /* not half of it */
    assert_int_equal(ERR_peek_error(), 0);
    certgen_free(cert);
}

static void test_a_set_is_a_set(void **state)
{
    struct buf texts[4] = {{0}, {0}, {0}, {0}};
    struct bundle *bundles[4];

    (void)state;
    add_pem(&texts[0], root_a, false);
    add_pem(&texts[0], root_b, false);
    add_pem(&texts[1], root_b, false);
    add_pem(&texts[1], root_a, false);
    add_pem(&texts[2], root_a, true);
    add_pem(&texts[2], root_b, true);
    add_pem(&texts[2], root_a, false);
    assert_ok(buf_add_str(&texts[3], "# our roots\nsubject=CN = x\n"));
    add_pem(&texts[3], root_b, false);
    assert_ok(buf_add_str(&texts[3], "-----BEGIN X509 CRL-----\nYWJj\n-----END X509 CRL-----\n"));
    add_pem(&texts[3], root_a, false);
    for (size_t i = 0; i < 4; i++) {
        bundles[i] = bundle_from(&texts[i], "example.org");
        assert_int_equal(bundles[i]->num, 2);
        assert_memory_equal(bundles[i]->hash, bundles[0]->hash, 32);
        assert_int_equal(bundles[i]->not_after, bundles[0]->not_after);
    }
    assert_int_equal(bundles[0]->not_after, CERTGEN_NOW + 86400 + 1000); /* root_b's */
    for (size_t i = 0; i < 4; i++) {
        bundle_unref(bundles[i]);
        buf_fini(&texts[i]);
    }
}

static void test_hash_tells_sets_apart(void **state)
{
    struct bytes a = certgen_der(root_a);
    struct bytes b = certgen_der(root_b);
    struct bytes both[2] = {a, b};
    struct bundle *bundles[5];

    (void)state;
    assert_ok(bundle_of_der(&a, 1, NULL, &bundles[0]));
    assert_ok(bundle_of_der(&b, 1, NULL, &bundles[1]));
    assert_ok(bundle_of_der(both, 2, NULL, &bundles[2]));
    assert_ok(bundle_of_der(&a, 1, "example.org", &bundles[3]));
    assert_ok(bundle_of_der(&a, 1, "example.com", &bundles[4]));
    for (size_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(bundles[i]->hash, bundles[j]->hash, 32);
    }
    assert_string_equal(bundles[0]->trust_domain, "");
    assert_string_equal(bundles[3]->trust_domain, "example.org");
    for (size_t i = 0; i < 5; i++)
        bundle_unref(bundles[i]);
}

static void test_what_is_no_ca_is_refused(void **state)
{
    static const struct {
        struct certgen_params params;
        enum err_code code;
    } cases[] = {
        {{.key = CERTGEN_P256}, E_CERT_USAGE},
        {{.ca = true, .flip_ca = true}, E_CERT_USAGE},
        {{.ca = true, .basic = CERTGEN_NONE}, E_CERT_USAGE},
        {{.ca = true, .usage_bits = CERTGEN_KU_SIGN}, E_CERT_USAGE},
        {{.ca = true, .version = 1}, E_CERT_USAGE},
        {{.ca = true, .basic = CERTGEN_MALFORMED}, E_CERT_SYNTAX},
        {{.ca = true, .trailing = true}, E_CERT_SYNTAX},
        {{.ca = true, .truncated = true}, E_CERT_SYNTAX},
        {{.ca = true, .key = CERTGEN_RSA1024}, E_KEY_WEAK},
        {{.ca = true, .key = CERTGEN_P224}, E_KEY_WEAK},
        {{.ca = true, .key = CERTGEN_ED25519}, E_KEY_WEAK},
        {{.ca = true, .key = CERTGEN_DSA}, E_KEY_WEAK},
        {{.ca = true, .num_dns = 100}, E_SAN_TOO_MANY},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_refused(&cases[i].params, cases[i].code);
}

/* Kept, and refused when it is used: so that the roots to come and to go can lie beside each other.
 */
static void test_expired_and_future_cas_are_kept(void **state)
{
    struct certgen_params params[2] = {{.ca = true, .to_s = -100000}, {.ca = true, .from_s = 7200}};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct certgen *cert = certgen_make(NULL, &params[i]);
        struct bytes der = certgen_der(cert);
        struct bundle *bundle = NULL;
        assert_ok(bundle_of_der(&der, 1, NULL, &bundle));
        bundle_unref(bundle);
        certgen_free(cert);
    }
}

static void test_ca_without_key_usage_is_taken(void **state)
{
    struct certgen *cert =
        certgen_make(NULL, &(struct certgen_params){.ca = true, .usage = CERTGEN_NONE});
    struct bytes der = certgen_der(cert);
    struct bundle *bundle = NULL;

    (void)state;
    assert_ok(bundle_of_der(&der, 1, NULL, &bundle));
    bundle_unref(bundle);
    certgen_free(cert);
}

static void test_empty_and_too_many(void **state)
{
    struct bytes ders[BUNDLE_CERTS_MAX + 1];
    struct certgen *certs[BUNDLE_CERTS_MAX + 1];
    struct bundle *bundle = NULL;
    static const char key_only[] = "-----BEGIN PRIVATE KEY-----\nYWJj\n-----END PRIVATE KEY-----\n";

    (void)state;
    assert_int_equal(bundle_of_der(NULL, 0, NULL, &bundle).code, E_BUNDLE_EMPTY);
    assert_int_equal(bundle_of_pem(bytes_of_str(""), NULL, &bundle).code, E_BUNDLE_EMPTY);
    assert_int_equal(bundle_of_pem(bytes_of_str(key_only), NULL, &bundle).code, E_BUNDLE_EMPTY);
    assert_int_equal(
        bundle_of_pem(bytes_of_str("-----BEGIN CERTIFICATE-----\n"), NULL, &bundle).code,
        E_PEM_SYNTAX);
    for (size_t i = 0; i < ARRAY_LEN(certs); i++) {
        certs[i] = certgen_make(NULL, &(struct certgen_params){.ca = true, .to_s = (int64_t)i});
        ders[i] = certgen_der(certs[i]);
    }
    assert_ok(bundle_of_der(ders, BUNDLE_CERTS_MAX, NULL, &bundle));
    bundle_unref(bundle);
    bundle = NULL;
    assert_int_equal(bundle_of_der(ders, BUNDLE_CERTS_MAX + 1, NULL, &bundle).code, E_TOO_LARGE);
    assert_null(bundle);
    for (size_t i = 0; i < ARRAY_LEN(certs); i++)
        certgen_free(certs[i]);
}

static void test_written_is_read(void **state)
{
    struct bytes ders[2] = {certgen_der(root_a), certgen_der(root_b)};
    struct bundle *bundle = NULL;
    struct bundle *again;
    struct buf text = {0};

    (void)state;
    assert_ok(bundle_of_der(ders, 2, "example.org", &bundle));
    assert_ok(bundle_write_pem(bundle, &text));
    again = bundle_from(&text, "example.org");
    assert_memory_equal(bundle->hash, again->hash, 32);
    bundle_unref(bundle_ref(again));
    assert_int_equal(again->num, 2);
    bundle_unref(again);
    bundle_unref(bundle);
    buf_fini(&text);
}

static int setup(void **state)
{
    (void)state;
    root_a =
        certgen_make(NULL, &(struct certgen_params){
                               .ca = true, .subject = "a", .key = CERTGEN_P256_ROOT, .to_s = 5000});
    root_b = certgen_make(NULL,
                          &(struct certgen_params){
                              .ca = true, .subject = "b", .key = CERTGEN_P256_OTHER, .to_s = 1000});
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    certgen_free(root_a);
    certgen_free(root_b);
    certgen_cleanup();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_set_is_a_set),
        cmocka_unit_test(test_hash_tells_sets_apart),
        cmocka_unit_test(test_what_is_no_ca_is_refused),
        cmocka_unit_test(test_expired_and_future_cas_are_kept),
        cmocka_unit_test(test_ca_without_key_usage_is_taken),
        cmocka_unit_test(test_empty_and_too_many),
        cmocka_unit_test(test_written_is_read),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
