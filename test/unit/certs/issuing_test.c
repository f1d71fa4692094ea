/* An issuing certificate that a root elsewhere has signed: taken when it is right in every field,
 * and each fault told by its own. Without it: a mesh rests on a certificate that its sidecars
 * refuse at their first handshake, or on one that may sign for more than its trust domain. Drives:
 * R38, R41, F5. */
#include "certs/issuing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "certs/cert.h"
#include "certs/issue.h"
#include "certs/key.h"
#include "lib/base/mem.h"
#include "test/unit/certs/certgen.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)
#define BOTH_KU (CERTGEN_KU_CERT_SIGN | CERTGEN_KU_CRL_SIGN)
#define DOMAIN "example.org"

/* What is right; each row changes one thing. */
#define ISSUER /* its key is CERTGEN_P256 */                                \
    .ca = true, .subject = "Issuing", .path_len = 1, .usage_bits = BOTH_KU, \
    .permitted = {CERTGEN_URI(DOMAIN)}
#define ROOT .ca = true, .subject = "Root", .key = CERTGEN_P256_ROOT

struct row {
    struct certgen_params issuer;
    struct certgen_params root;
    const char *path; /* of the fault; NULL: good */
    const char *text;
};

static X509 *x509_of(const struct certgen *cert)
{
    X509 *out = NULL;

    assert_ok(cert_parse_bytes(certgen_der(cert), &out));
    return out;
}

static bool told(const struct faults *faults, const char *path, const char *text)
{
    for (size_t i = 0; i < faults->num; i++) {
        if (strcmp(faults->items[i].path, path) == 0 &&
            strstr(faults->items[i].message, text) != NULL)
            return true;
    }
    return false;
}

static void judge(const struct certgen *issuer, const struct certgen *root,
                  const struct certgen *known_root, EVP_PKEY *key, const char *path,
                  const char *text)
{
    struct faults faults = {.num = 0};
    X509 *cert = x509_of(issuer);
    X509 *ca = x509_of(known_root != NULL ? known_root : root);
    const struct issuing what = {
        .cert = cert,
        .root = ca,
        .key = key,
        .trust_domain = DOMAIN,
        .now_s = CERTGEN_NOW,
    };
    err_t err = issuing_check(&what, &faults);

    assert_int_equal(err.code, path != NULL ? E_CONFIG_INVALID : E_OK);
    assert_int_equal(faults.total > 0, path != NULL);
    if (path != NULL && !told(&faults, path, text)) {
        for (size_t i = 0; i < faults.num; i++)
            print_error("%s: %s\n", faults.items[i].path, faults.items[i].message);
        fail_msg("not told: %s: %s", path, text);
    }
    faults_fini(&faults);
    X509_free(cert);
    X509_free(ca);
}

static void judge_row(const struct row *row)
{
    struct certgen *root = certgen_make(NULL, &row->root);
    struct certgen *issuer = certgen_make(root, &row->issuer);

    judge(issuer, root, NULL, certgen_key(CERTGEN_P256), row->path, row->text);
    certgen_free(issuer);
    certgen_free(root);
}

static void test_what_is_right_is_taken(void **state)
{
    static const struct row rows[] = {
        {{ISSUER}, {ROOT}, NULL, NULL},
        {{ISSUER}, {.ca = true, .key = CERTGEN_P384}, NULL, NULL},
        {{ISSUER}, {.ca = true, .key = CERTGEN_RSA2048}, NULL, NULL},
        {{ISSUER}, {ROOT, .path_len = 2}, NULL, NULL},
        {{ISSUER, .sans = {CERTGEN_URI("spiffe://" DOMAIN)}}, {ROOT}, NULL, NULL},
        {{ISSUER, .eku = CERTGEN_USUAL, .eku_bits = CERTGEN_EKU_SERVER | CERTGEN_EKU_CLIENT},
         {ROOT},
         NULL,
         NULL},
        {{ISSUER, .to_s = -86400 + ISSUING_LEFT_MIN_S}, {ROOT}, NULL, NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        judge_row(&rows[i]);
}

static void test_each_fault_of_the_issuer_by_its_field(void **state)
{
    static const struct row rows[] = {
        {{.ca = true, .flip_ca = true, .usage_bits = BOTH_KU, .permitted = {CERTGEN_URI(DOMAIN)}},
         {ROOT},
         "issuer.basicConstraints",
         "CA:TRUE is missing"},
        {{.ca = true, .usage_bits = BOTH_KU, .permitted = {CERTGEN_URI(DOMAIN)}},
         {ROOT},
         "issuer.basicConstraints",
         "pathlen:0 is missing"},
        {{.ca = true, .usage_bits = BOTH_KU, .path_len = 2, .permitted = {CERTGEN_URI(DOMAIN)}},
         {ROOT},
         "issuer.basicConstraints",
         "pathlen:0 is missing"},
        {{.ca = true,
          .path_len = 1,
          .usage_bits = CERTGEN_KU_CERT_SIGN,
          .permitted = {CERTGEN_URI(DOMAIN)}},
         {ROOT},
         "issuer.keyUsage",
         "keyCertSign and cRLSign"},
        {{ISSUER, .usage = CERTGEN_NONE}, {ROOT}, "issuer.keyUsage", "is missing"},
        {{ISSUER, .eku_bits = CERTGEN_EKU_CODE}, {ROOT}, "issuer.extendedKeyUsage", "serverAuth"},
        {{ISSUER, .eku_bits = CERTGEN_EKU_SERVER}, {ROOT}, "issuer.extendedKeyUsage", "clientAuth"},
        {{.ca = true, .path_len = 1, .usage_bits = BOTH_KU},
         {ROOT},
         "issuer.nameConstraints",
         "is missing"},
        {{.ca = true,
          .path_len = 1,
          .usage_bits = BOTH_KU,
          .permitted = {CERTGEN_URI("other.org")}},
         {ROOT},
         "issuer.nameConstraints",
         "of no other"},
        {{.ca = true,
          .path_len = 1,
          .usage_bits = BOTH_KU,
          .permitted = {CERTGEN_URI(DOMAIN), CERTGEN_URI("other.org")}},
         {ROOT},
         "issuer.nameConstraints",
         "of no other"},
        {{.ca = true, .path_len = 1, .usage_bits = BOTH_KU, .permitted = {CERTGEN_DNS(DOMAIN)}},
         {ROOT},
         "issuer.nameConstraints",
         "of no other"},
        {{.ca = true, .path_len = 1, .usage_bits = BOTH_KU, .excluded = {CERTGEN_DNS("x.org")}},
         {ROOT},
         "issuer.nameConstraints",
         "of no other"},
        {{ISSUER, .sans = {CERTGEN_URI("spiffe://other.org")}},
         {ROOT},
         "issuer.subjectAltName",
         "another trust domain"},
        {{ISSUER, .from_s = 3601}, {ROOT}, "issuer.notBefore", "future"},
        {{ISSUER, .to_s = -86400}, {ROOT}, "issuer.notAfter", "has passed"},
        {{ISSUER, .to_s = -86400 + ISSUING_LEFT_MIN_S - 1},
         {ROOT},
         "issuer.notAfter",
         "less than an hour"},
        {{ISSUER, .serial = "\0", .serial_len = 1}, {ROOT}, "issuer.serialNumber", "above 0"},
        {{ISSUER, .hash = CERTGEN_SHA1}, {ROOT}, "issuer.signatureAlgorithm", "SHA-256"},
        {{ISSUER, .bad_signature = true}, {ROOT}, "issuer.signature", "not of the root's key"},
        {{ISSUER, .issuer_name = "Somebody"}, {ROOT}, "issuer.issuer", "another root"},
        {{ISSUER, .key = CERTGEN_P256_OTHER}, {ROOT}, "issuer.subjectPublicKey", "pending request"},
        {{ISSUER, .key = CERTGEN_GARBAGE_KEY},
         {ROOT},
         "issuer.subjectPublicKey",
         "pending request"},
        /* What no rule names: it is found as a sidecar would find it. */
        {{ISSUER, .unknown_critical = true}, {ROOT}, "issuer", "would be refused"},
        {{ISSUER, .excluded = {CERTGEN_URI(DOMAIN)}}, {ROOT}, "issuer", "would be refused"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        judge_row(&rows[i]);
}

static void test_each_fault_of_the_root_by_its_field(void **state)
{
    static const struct row rows[] = {
        {{ISSUER}, {ROOT, .flip_ca = true}, "root.basicConstraints", "CA:TRUE is missing"},
        {{ISSUER}, {ROOT, .path_len = 1}, "root.basicConstraints", "pathlen:0"},
        {{ISSUER}, {ROOT, .usage_bits = CERTGEN_KU_CRL_SIGN}, "root.keyUsage", "keyCertSign"},
        {{ISSUER}, {.ca = true, .key = CERTGEN_P224}, "root.subjectPublicKey", "P-256"},
        {{ISSUER}, {ROOT, .to_s = -86400}, "root.notAfter", "has passed"},
        {{ISSUER}, {ROOT, .from_s = 3601}, "root.notBefore", "future"},
        {{ISSUER}, {ROOT, .eku_bits = CERTGEN_EKU_EMAIL}, "root.extendedKeyUsage", "serverAuth"},
        {{ISSUER},
         {ROOT, .sans = {CERTGEN_URI("spiffe://other.org")}},
         "root.subjectAltName",
         "another trust domain"},
        {{ISSUER}, {ROOT, .bad_signature = true}, "root.issuer", "the root itself"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        judge_row(&rows[i]);
}

/* Not a root but something between, and a root that only has the right name. */
static void test_only_the_root_that_signed_it_will_do(void **state)
{
    struct certgen *root = certgen_make(NULL, &(struct certgen_params){ROOT});
    struct certgen *between = certgen_make(
        root, &(struct certgen_params){.ca = true, .subject = "ca", .key = CERTGEN_P256_CA});
    struct certgen *issuer = certgen_make(between, &(struct certgen_params){ISSUER});
    struct certgen *twin = certgen_make(
        NULL, &(struct certgen_params){.ca = true, .subject = "ca", .key = CERTGEN_P256_OTHER});

    (void)state;
    judge(issuer, between, NULL, certgen_key(CERTGEN_P256), "root.issuer", "the root itself");
    judge(issuer, root, root, certgen_key(CERTGEN_P256), "issuer.issuer", "another root");
    judge(issuer, between, twin, certgen_key(CERTGEN_P256), "issuer.signature", "root's key");
    certgen_free(twin);
    certgen_free(issuer);
    certgen_free(between);
    certgen_free(root);
}

/* The request asks for what issue_intermediate would have made: a root that copies its extensions
 * makes something that is taken. */
static void test_the_request_asks_for_what_is_right(void **state)
{
    struct buf der = {0};
    EVP_PKEY *key = NULL;
    const uint8_t *pos;
    X509_REQ *req;
    STACK_OF(X509_EXTENSION) * wanted;
    static const int nids[] = {NID_basic_constraints, NID_key_usage, NID_subject_alt_name,
                               NID_name_constraints};

    (void)state;
    assert_ok(key_generate(&key));
    assert_ok(issue_request(DOMAIN, key, &der));
    pos = buf_view(&der).ptr;
    req = d2i_X509_REQ(NULL, &pos, (long)buf_size(&der));
    assert_non_null(req);
    assert_int_equal(X509_REQ_verify(req, key), 1);
    assert_int_equal(X509_NAME_entry_count(X509_REQ_get_subject_name(req)), 2);
    wanted = X509_REQ_get_extensions(req);
    assert_int_equal(sk_X509_EXTENSION_num(wanted), ARRAY_LEN(nids));
    for (size_t i = 0; i < ARRAY_LEN(nids); i++)
        assert_true(X509v3_get_ext_by_NID(wanted, nids[i], -1) >= 0);
    sk_X509_EXTENSION_pop_free(wanted, X509_EXTENSION_free);
    X509_REQ_free(req);
    buf_clear(&der);
    assert_int_equal(issue_request("Not A Domain", key, &der).code, E_SPIFFE_SYNTAX);
    assert_int_equal(issue_request(DOMAIN, certgen_key(CERTGEN_P224), &der).code, E_KEY_WEAK);
    assert_int_equal(buf_size(&der), 0);
    buf_fini(&der);
    EVP_PKEY_free(key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_right_is_taken),
        cmocka_unit_test(test_each_fault_of_the_issuer_by_its_field),
        cmocka_unit_test(test_each_fault_of_the_root_by_its_field),
        cmocka_unit_test(test_only_the_root_that_signed_it_will_do),
        cmocka_unit_test(test_the_request_asks_for_what_is_right),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    certgen_cleanup();
    return failed;
}
