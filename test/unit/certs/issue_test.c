/* What is issued: within the issuer's life, unique, backdated, with exactly the fields that were
 * asked for; and what is not signed. Every certificate is judged by our own verifier;
 * cert_tool_test lets OpenSSL judge. Drives: R35, R36, R37, R40, R41. */
#include "certs/issue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/key.h"
#include "certs/verify.h"
#include "test/unit/certs/certgen.h"
#include "test/unit/certs/pki.h"

#define ID "spiffe://example.org/ns/a/sa/b"
#define DAY INT64_C(86400)

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static struct pki pki;
static EVP_PKEY *leaf_key;

static struct issue_leaf good(void)
{
    return (struct issue_leaf){
        .spiffe_id = ID, .public_key = leaf_key, .now_s = PKI_NOW, .ttl_s = DAY};
}

/* verify judges what was issued as a peer would, at `now_s`. */
static err_t verify(const struct issued *issued, int64_t now_s, enum verify_role role,
                    struct peer **out)
{
    STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();

    sk_CRYPTO_BUFFER_push(chain, CRYPTO_BUFFER_new(issued->der, issued->der_len, NULL));
    sk_CRYPTO_BUFFER_push(
        chain, CRYPTO_BUFFER_new(pki.intermediate_der.ptr, pki.intermediate_der.len, NULL));
    err_t err = verify_chain(chain, pki.bundle, role, now_s, NULL, out);
    sk_CRYPTO_BUFFER_pop_free(chain, CRYPTO_BUFFER_free);
    return err;
}

static X509 *cert_of(const struct issued *issued)
{
    return pki_x509(bytes_of(issued->der, issued->der_len));
}

static void test_leaf_is_what_was_asked_for(void **state)
{
    static const char *const names[] = {"a.example.org", "b", NULL};
    struct issue_leaf leaf = good();
    struct issued issued;

    (void)state;
    leaf.dns_names = names;
    assert_ok(issue_leaf(&pki.intermediate, &leaf, &issued));
    assert_int_equal(issued.not_before, PKI_NOW - ISSUE_BACKDATE_S);
    assert_int_equal(issued.not_after, PKI_NOW + DAY);
    for (int role = 0; role < 2; role++) {
        struct peer *peer = NULL;
        assert_ok(
            verify(&issued, PKI_NOW, role == 0 ? VERIFY_SERVER_CERT : VERIFY_CLIENT_CERT, &peer));
        assert_string_equal(peer->spiffe_id, ID);
        assert_string_equal(peer->dns_names[0], "a.example.org");
        assert_string_equal(peer->dns_names[1], "b");
        assert_null(peer->dns_names[2]);
        assert_string_equal(peer->serial, issued.serial);
        assert_int_equal(peer->not_before, issued.not_before);
        assert_int_equal(peer->not_after, issued.not_after);
        peer_unref(peer);
    }
    X509 *cert = cert_of(&issued);
    assert_int_equal(X509_get_version(cert), X509_VERSION_3);
    assert_int_equal(X509_get_ext_count(cert), 6); /* and nothing else */
    assert_int_equal(X509_get_key_usage(cert), X509v3_KU_DIGITAL_SIGNATURE);
    assert_int_equal(X509_get_extended_key_usage(cert), XKU_SSL_SERVER | XKU_SSL_CLIENT);
    assert_true(X509_EXTENSION_get_critical(
        X509_get_ext(cert, X509_get_ext_by_NID(cert, NID_key_usage, -1))));
    X509_free(cert);
    issued_fini(&issued);
}

static void test_root_and_intermediate(void **state)
{
    X509 *root = pki.root.cert;
    X509 *ca = pki.intermediate.cert;
    struct cert_names names;

    (void)state;
    assert_ok(cert_check_ca(root));
    assert_ok(cert_check_ca(ca));
    assert_int_equal(X509_get_pathlen(root), -1);
    assert_int_equal(X509_get_pathlen(ca), 0);
    assert_int_equal(X509_get_key_usage(ca), X509v3_KU_KEY_CERT_SIGN | X509v3_KU_CRL_SIGN);
    assert_int_equal(X509_check_issued(root, ca), X509_V_OK);
    assert_int_equal(X509_check_issued(root, root), X509_V_OK);
    assert_ok(cert_names_get(root, &names));
    assert_string_equal(names.uri, "spiffe://" PKI_DOMAIN);
    cert_names_fini(&names);
    /* Generations have names that differ. */
    assert_int_not_equal(X509_NAME_cmp(X509_get_subject_name(root), X509_get_subject_name(ca)), 0);
    int at = X509_get_ext_by_NID(ca, NID_name_constraints, -1);
    assert_true(at >= 0 && X509_EXTENSION_get_critical(X509_get_ext(ca, at)));
}

/* What somebody signs who has the intermediate's key and none of issue_leaf's scruples. */
static struct issued sign_without_scruples(const char *uri)
{
    X509 *cert = X509_new();
    BASIC_CONSTRAINTS *basic = BASIC_CONSTRAINTS_new();
    ASN1_BIT_STRING *usage = ASN1_BIT_STRING_new();
    GENERAL_NAMES *names = GENERAL_NAMES_new();
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();
    uint8_t *der = NULL;

    assert_true(ASN1_STRING_set(text, uri, (ossl_ssize_t)strlen(uri)));
    GENERAL_NAME_set0_value(name, GEN_URI, text);
    sk_GENERAL_NAME_push(names, name);
    assert_true(X509_set_version(cert, X509_VERSION_3));
    assert_true(ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), 5));
    assert_true(X509_set_issuer_name(cert, X509_get_subject_name(pki.intermediate.cert)));
    assert_true(ASN1_TIME_set_posix(X509_getm_notBefore(cert), PKI_NOW - 60) != NULL);
    assert_true(ASN1_TIME_set_posix(X509_getm_notAfter(cert), PKI_NOW + 60) != NULL);
    assert_true(X509_set_pubkey(cert, leaf_key));
    assert_true(ASN1_BIT_STRING_set_bit(usage, 0, 1));
    assert_true(X509_add1_ext_i2d(cert, NID_basic_constraints, basic, 1, 0));
    assert_true(X509_add1_ext_i2d(cert, NID_key_usage, usage, 1, 0));
    assert_true(X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, 0));
    assert_true(X509_sign(cert, pki.intermediate.key, EVP_sha256()) > 0);
    int len = i2d_X509(cert, &der);
    struct issued out = {.der = mem_dup(der, (size_t)len), .der_len = (size_t)len};
    OPENSSL_free(der);
    BASIC_CONSTRAINTS_free(basic);
    ASN1_BIT_STRING_free(usage);
    GENERAL_NAMES_free(names);
    X509_free(cert);
    return out;
}

/* R41: an intermediate that got into wrong hands is of use for its own trust domain alone. */
static void test_intermediate_cannot_leave_its_trust_domain(void **state)
{
    static const char *const foreign[] = {"spiffe://example.com/a", "spiffe://sub.example.org/a",
                                          "spiffe://example.org.evil/a",
                                          "spiffe://notexample.org/a"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++) {
        struct issue_leaf leaf = good();
        struct issued issued;
        leaf.spiffe_id = foreign[i];
        assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_TRUST_DOMAIN);

        struct issued forged = sign_without_scruples(foreign[i]);
        struct peer *peer = NULL;
        err_t err = verify(&forged, PKI_NOW, VERIFY_SERVER_CERT, &peer);
        assert_int_equal(err.code, E_CHAIN_INVALID);
        assert_int_equal(err.sub, X509_V_ERR_PERMITTED_VIOLATION);
        issued_fini(&forged);
    }
    struct issued fine = sign_without_scruples(ID); /* the same hand, within the limits */
    struct peer *peer = NULL;
    assert_ok(verify(&fine, PKI_NOW, VERIFY_SERVER_CERT, &peer));
    peer_unref(peer);
    issued_fini(&fine);
}

static void test_lives_stay_within_the_issuers(void **state)
{
    int64_t root_before = 0;
    int64_t root_after = 0;
    struct issued issued;

    (void)state;
    assert_ok(cert_times(pki.intermediate.cert, &root_before, &root_after));
    /* At each moment of the issuer's life, for each length: inside, backdated or cut. */
    for (int64_t now = root_before; now < root_after; now += (root_after - root_before) / 37 + 1) {
        static const int64_t ttls[] = {60, 3600, DAY, 7 * DAY};
        for (size_t i = 0; i < ARRAY_LEN(ttls); i++) {
            struct issue_leaf leaf = good();
            leaf.now_s = now;
            leaf.ttl_s = ttls[i];
            assert_ok(issue_leaf(&pki.intermediate, &leaf, &issued));
            assert_true(issued.not_after <= root_after);
            assert_true(issued.not_after <= now + ttls[i]);
            assert_true(issued.not_before >= root_before);
            assert_true(issued.not_before <= now && issued.not_before >= now - ISSUE_BACKDATE_S);
            assert_true(issued.not_after > now);
            issued_fini(&issued);
        }
    }
    struct issue_leaf last = good();
    last.now_s = root_after - 1;
    assert_ok(issue_leaf(&pki.intermediate, &last, &issued));
    assert_int_equal(issued.not_after, root_after);
    issued_fini(&issued);
}

/* R37, R40 */
static void test_what_is_not_signed(void **state)
{
    static const int64_t bad_ttls[] = {0, -1, ISSUE_TTL_MIN_S - 1, ISSUE_TTL_MAX_S + 1, INT64_MAX};
    static const char *const bad_ids[] = {"",
                                          "spiffe://example.org",
                                          "spiffe://example.org/",
                                          "spiffe://Example.org/a",
                                          "spiffe://example.org/a/../b",
                                          "spiffe://example.org/a,URI:spiffe://x/y",
                                          "spiffe://example.org/a\nb",
                                          "https://example.org/a",
                                          "spiffe://example.org/*"};
    static const char *const bad_dns[] = {"",   "*.example.org", "a,DNS:b", "a\nb", "a..b", ".a",
                                          "a.", "a b",           "-a",      "a-"};
    int64_t before = 0;
    int64_t after = 0;
    struct issued issued;

    (void)state;
    assert_ok(cert_times(pki.intermediate.cert, &before, &after));
    for (size_t i = 0; i < ARRAY_LEN(bad_ttls); i++) {
        struct issue_leaf leaf = good();
        leaf.ttl_s = bad_ttls[i];
        assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_CONFIG_INVALID);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad_ids); i++) {
        struct issue_leaf leaf = good();
        leaf.spiffe_id = bad_ids[i];
        assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_SPIFFE_SYNTAX);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad_dns); i++) {
        const char *names[] = {bad_dns[i], NULL};
        struct issue_leaf leaf = good();
        leaf.dns_names = names;
        if (err_is_ok(issue_leaf(&pki.intermediate, &leaf, &issued)))
            print_error("signed: \"%s\"\n", bad_dns[i]);
        assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_CONFIG_INVALID);
    }
    struct issue_leaf leaf = good();
    leaf.spiffe_id = NULL;
    assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_CONFIG_INVALID);
    leaf = good();
    leaf.now_s = before - 1;
    assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_CA_CANNOT_SIGN);
    leaf.now_s = after;
    assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_CA_CANNOT_SIGN);
    leaf = good();
    leaf.public_key = certgen_key(CERTGEN_P224);
    assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_KEY_WEAK);
    leaf.public_key = certgen_key(CERTGEN_RSA1024);
    assert_int_equal(issue_leaf(&pki.intermediate, &leaf, &issued).code, E_KEY_WEAK);
}

static void test_issuer_must_be_a_ca_with_its_key(void **state)
{
    struct issue_leaf leaf = good();
    struct issued issued;
    struct issuer wrong_key = {pki.intermediate.cert, pki.root.key};

    (void)state;
    assert_int_equal(issue_leaf(&wrong_key, &leaf, &issued).code, E_CA_CANNOT_SIGN);
    assert_ok(issue_leaf(&pki.intermediate, &leaf, &issued));
    X509 *cert = cert_of(&issued);
    issued_fini(&issued);
    struct issuer no_ca = {cert, leaf_key};
    assert_int_equal(issue_leaf(&no_ca, &leaf, &issued).code, E_CA_CANNOT_SIGN);
    assert_int_equal(issue_intermediate(&no_ca, PKI_DOMAIN, leaf_key, PKI_NOW, DAY, &issued).code,
                     E_CA_CANNOT_SIGN);
    assert_int_equal(
        issue_intermediate(&pki.root, "example.com", leaf_key, PKI_NOW, DAY, &issued).code,
        E_TRUST_DOMAIN);
    assert_int_equal(
        issue_intermediate(&pki.root, "Example.org", leaf_key, PKI_NOW, DAY, &issued).code,
        E_SPIFFE_SYNTAX);
    assert_int_equal(issue_root("", leaf_key, PKI_NOW, DAY, &issued).code, E_SPIFFE_SYNTAX);
    assert_int_equal(issue_root(PKI_DOMAIN, leaf_key, PKI_NOW, 0, &issued).code, E_CONFIG_INVALID);
    assert_int_equal(issue_root(PKI_DOMAIN, certgen_key(CERTGEN_P521), PKI_NOW, DAY, &issued).code,
                     E_KEY_WEAK);
    X509_free(cert);
}

/* A list that nobody would take is not signed at all. */
static void test_a_list_is_signed_within_the_issuers_life(void **state)
{
    struct issuer wrong_key = {pki.intermediate.cert, pki.root.key};
    struct issue_crl list = {.number = 1, .now_s = PKI_NOW, .ttl_s = DAY};
    struct buf der = {0};
    int64_t before = 0, after = 0;

    (void)state;
    assert_ok(cert_times(pki.intermediate.cert, &before, &after));
    assert_int_equal(issue_crl(&wrong_key, &list, &der).code, E_CA_CANNOT_SIGN);
    list.now_s = before - 1;
    assert_int_equal(issue_crl(&pki.intermediate, &list, &der).code, E_CA_CANNOT_SIGN);
    list.now_s = after;
    assert_int_equal(issue_crl(&pki.intermediate, &list, &der).code, E_CA_CANNOT_SIGN);
    assert_int_equal(buf_size(&der), 0);
    list.now_s = after - 1;
    assert_ok(issue_crl(&pki.intermediate, &list, &der));
    buf_fini(&der);
}

/* Roots of other tools may not name their key: what they sign does, all the same, and as RFC 5280
 * would have it, so that a verifier finds the one among several roots of a name. */
static void test_a_key_without_a_name_gets_one(void **state)
{
    X509 *nameless = X509_dup(pki.root.cert);
    int at = X509_get_ext_by_NID(nameless, NID_subject_key_identifier, -1);
    struct issuer issuer = {nameless, pki.root.key};
    struct issue_leaf leaf = good();
    struct issued issued;

    (void)state;
    X509_EXTENSION_free(X509_delete_ext(nameless, at));
    assert_true(X509_sign(nameless, pki.root.key, EVP_sha384()) > 0);
    assert_null(X509_get0_subject_key_id(nameless));
    assert_ok(issue_leaf(&issuer, &leaf, &issued));
    X509 *cert = cert_of(&issued);
    assert_int_equal(ASN1_OCTET_STRING_cmp(X509_get0_authority_key_id(cert),
                                           X509_get0_subject_key_id(pki.root.cert)),
                     0);
    X509_free(cert);
    X509_free(nameless);
    issued_fini(&issued);
}

static int compare_serials(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* R37: at least 64 random bits, positive, at most 20 bytes, all different. */
static void test_serials(void **state)
{
    enum { NUM = 300 };
    static char serials[NUM][41];
    int ones[160] = {0};

    (void)state;
    for (size_t i = 0; i < NUM; i++) {
        struct issue_leaf leaf = good();
        struct issued issued;
        assert_ok(issue_leaf(&pki.intermediate, &leaf, &issued));
        memcpy(serials[i], issued.serial, sizeof serials[i]);
        assert_in_range(strlen(serials[i]), 34, 40);
        X509 *cert = cert_of(&issued);
        const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
        assert_int_equal(ASN1_STRING_type(serial), V_ASN1_INTEGER);
        size_t len = (size_t)ASN1_STRING_length(serial);
        for (size_t bit = 0; bit < 8 * len; bit++)
            ones[bit] += ASN1_STRING_get0_data(serial)[len - 1 - bit / 8] >> (bit % 8) & 1;
        X509_free(cert);
        issued_fini(&issued);
    }
    qsort(serials, NUM, sizeof serials[0], compare_serials);
    for (size_t i = 1; i < NUM; i++)
        assert_string_not_equal(serials[i - 1], serials[i]);
    assert_int_equal(ones[159], 0);
    /* Each of the others is a coin: 300 throws are within 90 and 210 but for one time in 10^12. */
    for (size_t bit = 0; bit < 159; bit++)
        assert_in_range(ones[bit], 90, 210);
}

/* P-384 keys sign with SHA-384, RSA ones are accepted; all verify. */
static void test_all_kinds_of_keys(void **state)
{
    static const enum certgen_key kinds[] = {CERTGEN_P256, CERTGEN_P384, CERTGEN_RSA2048};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct issued root;
        struct issued ca;
        struct issued issued;
        struct issue_leaf leaf = good();
        EVP_PKEY *key = certgen_key(kinds[i]);
        assert_ok(issue_root(PKI_DOMAIN, key, PKI_NOW, 100 * DAY, &root));
        struct issuer root_issuer = {cert_of(&root), key};
        assert_ok(issue_intermediate(&root_issuer, PKI_DOMAIN, key, PKI_NOW, 10 * DAY, &ca));
        struct issuer ca_issuer = {cert_of(&ca), key};
        leaf.public_key = key;
        assert_ok(issue_leaf(&ca_issuer, &leaf, &issued));

        struct bytes anchor = bytes_of(root.der, root.der_len);
        struct bytes chain_der[] = {bytes_of(issued.der, issued.der_len),
                                    bytes_of(ca.der, ca.der_len)};
        struct bundle *bundle = NULL;
        struct svid *svid = NULL;
        assert_ok(bundle_of_der(&anchor, 1, PKI_DOMAIN, &bundle));
        assert_ok(svid_of_der(chain_der, 2, key, bundle, PKI_NOW, &svid));
        assert_string_equal(svid->serial, issued.serial);
        svid_unref(svid);
        bundle_unref(bundle);
        X509_free(root_issuer.cert);
        X509_free(ca_issuer.cert);
        issued_fini(&root);
        issued_fini(&ca);
        issued_fini(&issued);
    }
}

/* --- a root that vouches for its successor --- */

#define LINE 3

/* LINE roots, each vouched for by the one before, and a leaf below the last. */
struct line {
    struct issued roots[LINE];
    struct issuer issuers[LINE];
    struct issued crosses[LINE - 1]; /* [i]: the key of root i+1, signed by root i */
    struct issued ca;
    struct issued leaf;
    struct bytes chain[2 + LINE - 1]; /* what the last one's leaves would be sent with */
};

static void line_init(struct line *line)
{
    struct issue_leaf leaf = good();
    EVP_PKEY *key = NULL;

    *line = (struct line){0};
    for (size_t i = 0; i < LINE; i++) {
        assert_ok(key_generate_p384(&line->issuers[i].key));
        assert_ok(issue_root(PKI_DOMAIN, line->issuers[i].key, PKI_NOW, (10 + (int64_t)i) * DAY,
                             &line->roots[i]));
        line->issuers[i].cert = cert_of(&line->roots[i]);
        if (i > 0)
            assert_ok(issue_cross(&line->issuers[i - 1], line->issuers[i].cert, PKI_DOMAIN, PKI_NOW,
                                  &line->crosses[i - 1]));
    }
    assert_ok(key_generate(&key));
    assert_ok(
        issue_intermediate(&line->issuers[LINE - 1], PKI_DOMAIN, key, PKI_NOW, 5 * DAY, &line->ca));
    struct issuer ca = {cert_of(&line->ca), key};
    assert_ok(issue_leaf(&ca, &leaf, &line->leaf));
    X509_free(ca.cert);
    EVP_PKEY_free(key);
    line->chain[0] = bytes_of(line->leaf.der, line->leaf.der_len);
    line->chain[1] = bytes_of(line->ca.der, line->ca.der_len);
    for (size_t i = 0; i + 1 < LINE; i++) /* the newest first */
        line->chain[2 + i] =
            bytes_of(line->crosses[LINE - 2 - i].der, line->crosses[LINE - 2 - i].der_len);
}

static void line_fini(struct line *line)
{
    for (size_t i = 0; i < LINE; i++) {
        issued_fini(&line->roots[i]);
        X509_free(line->issuers[i].cert);
        EVP_PKEY_free(line->issuers[i].key);
        if (i + 1 < LINE)
            issued_fini(&line->crosses[i]);
    }
    issued_fini(&line->ca);
    issued_fini(&line->leaf);
}

static err_t line_check(const struct line *line, size_t root, size_t num_chain)
{
    struct bytes anchor = bytes_of(line->roots[root].der, line->roots[root].der_len);
    struct bundle *bundle = NULL;
    struct svid *svid = NULL;
    err_t err;

    assert_ok(bundle_of_der(&anchor, 1, PKI_DOMAIN, &bundle));
    err = svid_of_der(line->chain, num_chain, leaf_key, bundle, PKI_NOW, &svid);
    if (err_is_ok(err))
        svid_unref(svid);
    bundle_unref(bundle);
    return err;
}

/* Who trusts one root finds what any later one vouches for, when the chain comes with the
 * certificates between the two; without them, or from a later root to an earlier, there is no path.
 */
static void test_a_root_vouches_for_its_successors(void **state)
{
    struct line line;

    (void)state;
    line_init(&line);
    for (size_t root = 0; root < LINE; root++) {
        for (size_t num = 2; num <= 2 + LINE - 1; num++) {
            err_t err = line_check(&line, root, num);
            if (num - 2 >= LINE - 1 - root)
                assert_ok(err);
            else
                assert_int_equal(err.code, E_CHAIN_UNTRUSTED);
        }
    }
    /* It ends with the earlier of the two. */
    assert_int_equal(line.crosses[0].not_after, line.roots[0].not_after);
    line_fini(&line);
}

static void test_no_root_vouches_for_another_mesh(void **state)
{
    EVP_PKEY *key = NULL;
    struct issued foreign;
    struct issued cross;

    (void)state;
    assert_ok(key_generate_p384(&key));
    assert_ok(issue_root("other.example", key, PKI_NOW, DAY, &foreign));
    X509 *cert = cert_of(&foreign);
    assert_int_equal(issue_cross(&pki.root, cert, PKI_DOMAIN, PKI_NOW, &cross).code,
                     E_TRUST_DOMAIN);
    assert_int_equal(issue_cross(&pki.root, cert, "other.example", PKI_NOW, &cross).code,
                     E_TRUST_DOMAIN);
    X509_free(cert);
    issued_fini(&foreign);
    EVP_PKEY_free(key);
}

static int setup(void **state)
{
    (void)state;
    pki_init(&pki);
    assert_ok(key_generate(&leaf_key));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    EVP_PKEY_free(leaf_key);
    pki_fini(&pki);
    certgen_cleanup();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leaf_is_what_was_asked_for),
        cmocka_unit_test(test_root_and_intermediate),
        cmocka_unit_test(test_intermediate_cannot_leave_its_trust_domain),
        cmocka_unit_test(test_lives_stay_within_the_issuers),
        cmocka_unit_test(test_what_is_not_signed),
        cmocka_unit_test(test_issuer_must_be_a_ca_with_its_key),
        cmocka_unit_test(test_a_list_is_signed_within_the_issuers_life),
        cmocka_unit_test(test_a_key_without_a_name_gets_one),
        cmocka_unit_test(test_serials),
        cmocka_unit_test(test_all_kinds_of_keys),
        cmocka_unit_test(test_a_root_vouches_for_its_successors),
        cmocka_unit_test(test_no_root_vouches_for_another_mesh),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
