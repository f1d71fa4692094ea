/* Identities as they are loaded: a key with its chain, complete, in order, valid, of use; or the
 * reason why not and nothing half-loaded. Drives: R9, R10, R11. */
#include "certs/svid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/err.h>

#include "certs/key.h"
#include "certs/pem.h"
#include "test/unit/certs/certgen.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static struct certgen *root;
static struct certgen *ca1; /* the leaves' issuer */
static struct certgen *ca2; /* above it */
static struct certgen *stranger;
static struct bundle *roots;

/* Order of the letters: l leaf, 1 ca1, 2 ca2, r root, s stranger's CA. */
static err_t load(const struct certgen *leaf, const char *order, EVP_PKEY *key,
                  const struct bundle *against, struct svid **out)
{
    struct bytes ders[8];
    size_t num = 0;

    for (; *order != '\0'; order++)
        ders[num++] = certgen_der(*order == 'l'   ? leaf
                                  : *order == '1' ? ca1
                                  : *order == '2' ? ca2
                                  : *order == 'r' ? root
                                                  : stranger);
    return svid_of_der(ders, num, key, against, CERTGEN_NOW, out);
}

static void test_order_is_put_right(void **state)
{
    static const char *const orders[] = {"l12",  "l21",  "12l",  "21l",  "2l1",
                                         "l12r", "rl12", "r21l", "ll12", "l1122"};
    struct certgen *leaf =
        certgen_make(ca1, &(struct certgen_params){.serial = "\x0a\xbc", .serial_len = 2});

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(orders); i++) {
        struct svid *svid = NULL;
        assert_ok(load(leaf, orders[i], leaf->key, roots, &svid));
        assert_int_equal(svid->num_chain, 3);
        assert_int_equal(CRYPTO_BUFFER_len(svid->chain[0]), leaf->len);
        assert_memory_equal(CRYPTO_BUFFER_data(svid->chain[0]), leaf->der, leaf->len);
        assert_memory_equal(CRYPTO_BUFFER_data(svid->chain[1]), ca1->der, ca1->len);
        assert_memory_equal(CRYPTO_BUFFER_data(svid->chain[2]), ca2->der, ca2->len);
        assert_string_equal(svid->spiffe_id, CERTGEN_ID);
        assert_string_equal(svid->serial, "0abc");
        assert_int_equal(svid->not_before, CERTGEN_NOW - 3600);
        assert_int_equal(svid->not_after, CERTGEN_NOW + 86400);
        svid_unref(svid_ref(svid));
        svid_unref(svid);
    }
    certgen_free(leaf);
}

static void test_the_earliest_end_counts(void **state)
{
    struct certgen *short_ca = certgen_make(
        root, &(struct certgen_params){.ca = true, .key = CERTGEN_P256_CA, .to_s = -80000});
    struct certgen *leaf = certgen_make(short_ca, &(struct certgen_params){0});
    struct certgen_params short_root_params = {
        .ca = true, .subject = "root", .key = CERTGEN_P256_ROOT, .to_s = -85000};
    struct certgen *short_root = certgen_make(NULL, &short_root_params);
    struct bytes anchor = certgen_der(short_root);
    struct bytes ders[2] = {certgen_der(leaf), certgen_der(short_ca)};
    struct bundle *short_roots = NULL;
    struct svid *svid = NULL;

    (void)state;
    assert_ok(svid_of_der(ders, 2, leaf->key, roots, CERTGEN_NOW, &svid));
    assert_int_equal(svid->not_after, CERTGEN_NOW + 6400);
    svid_unref(svid);
    assert_ok(bundle_of_der(&anchor, 1, NULL, &short_roots));
    assert_ok(svid_of_der(ders, 2, leaf->key, short_roots, CERTGEN_NOW, &svid));
    assert_int_equal(svid->not_after, CERTGEN_NOW + 1400); /* the root's */
    svid_unref(svid);
    bundle_unref(short_roots);
    certgen_free(short_root);
    certgen_free(short_ca);
    certgen_free(leaf);
}

struct bad {
    const char *name;
    struct certgen_params leaf;
    const char *order;
    bool other_key;
    bool no_roots;
    enum err_code want;
};

static const struct bad bads[] = {
    {"key of another", .order = "l12", .other_key = true, .want = E_SVID_KEY_MISMATCH},
    {"no leaf at all", .order = "12", .want = E_SVID_KEY_MISMATCH},
    {"nothing", .order = "", .want = E_PEM_EMPTY},
    {"intermediate missing", .order = "l2", .want = E_CHAIN_INVALID}, /* 2 belongs to nothing */
    {"intermediates missing", .order = "l", .want = E_CHAIN_UNTRUSTED},
    {"upper one missing", .order = "l1", .want = E_CHAIN_UNTRUSTED},
    {"a stranger's intermediate", .order = "l12s", .want = E_CHAIN_INVALID},
    {"expired", .leaf = {.to_s = -86401}, .order = "l12", .want = E_CERT_EXPIRED},
    {"expired, no roots", .leaf = {.to_s = -86401}, .order = "l", .no_roots = true,
     .want = E_CERT_EXPIRED},
    {"not yet", .leaf = {.from_s = 7200}, .order = "l12", .want = E_CERT_NOT_YET_VALID},
    {"for e-mail", .leaf = {.eku_bits = CERTGEN_EKU_EMAIL}, .order = "l12", .want = E_CERT_USAGE},
    {"an ID for servers alone", .leaf = {.eku_bits = CERTGEN_EKU_SERVER}, .order = "l12",
     .want = E_CERT_USAGE},
    {"an ID for clients alone, no roots", .leaf = {.eku_bits = CERTGEN_EKU_CLIENT}, .order = "l",
     .no_roots = true, .want = E_CERT_USAGE},
    {"no key usage", .leaf = {.usage = CERTGEN_NONE}, .order = "l12", .want = E_CERT_USAGE},
    {"a CA", .leaf = {.ca = true, .sans = {CERTGEN_URI(CERTGEN_ID)}}, .order = "l12",
     .want = E_CHAIN_INVALID},
    {"no names", .leaf = {.san = CERTGEN_NONE}, .order = "l12", .want = E_SAN_NONE},
    {"two IDs", .leaf = {.sans = {CERTGEN_URI(CERTGEN_ID), CERTGEN_URI(CERTGEN_ID)}},
     .order = "l12", .want = E_SAN_MULTIPLE},
    {"no path", .leaf = {.sans = {CERTGEN_URI("spiffe://example.org")}}, .order = "l12",
     .want = E_SAN_SYNTAX},
    {"a wildcard", .leaf = {.sans = {CERTGEN_DNS("*.example.org")}}, .order = "l12",
     .want = E_SAN_SYNTAX},
    {"weak key", .leaf = {.key = CERTGEN_RSA1024}, .order = "l12", .want = E_KEY_WEAK},
    {"SHA-1", .leaf = {.hash = CERTGEN_SHA1}, .order = "l12", .want = E_CERT_WEAK_SIGNATURE},
    {"SHA-1, no roots", .leaf = {.hash = CERTGEN_SHA1}, .order = "l", .no_roots = true,
     .want = E_CERT_WEAK_SIGNATURE},
    {"bad signature", .leaf = {.bad_signature = true}, .order = "l12", .want = E_CHAIN_INVALID},
    {"truncated", .leaf = {.truncated = true}, .order = "l12", .want = E_CERT_SYNTAX},
    {"another trust domain", .leaf = {.sans = {CERTGEN_URI("spiffe://example.com/a")}},
     .order = "l12", .want = E_TRUST_DOMAIN},
    {"six certificates", .order = "l12rs", .want = E_CHAIN_INVALID},
};

static void test_what_is_refused(void **state)
{
    size_t wrong = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bads); i++) {
        struct certgen *leaf = certgen_make(ca1, &bads[i].leaf);
        struct svid *svid = NULL;
        EVP_PKEY *key = bads[i].other_key ? certgen_key(CERTGEN_P256_OTHER) : leaf->key;
        err_t err = load(leaf, bads[i].order, key, bads[i].no_roots ? NULL : roots, &svid);
        if (err.code != bads[i].want) {
            print_error("%s: %s %d at %s\n", bads[i].name, err_name(err.code), err.sub, err.where);
            wrong++;
        }
        assert_null(svid);
        assert_int_equal(ERR_peek_error(), 0);
        certgen_free(leaf);
    }
    assert_int_equal(wrong, 0);
}

/* Static mode: certificates with DNS names, for one role. */
static void test_dns_names_for_one_role(void **state)
{
    static const unsigned bits[] = {CERTGEN_EKU_SERVER, CERTGEN_EKU_CLIENT,
                                    CERTGEN_EKU_SERVER | CERTGEN_EKU_CLIENT};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bits); i++) {
        struct certgen_params params = {.sans = {CERTGEN_DNS("a.example.org")},
                                        .eku_bits = bits[i]};
        struct certgen *leaf = certgen_make(ca1, &params);
        struct svid *svid = NULL;
        assert_ok(load(leaf, "l12", leaf->key, roots, &svid));
        assert_string_equal(svid->spiffe_id, "");
        svid_unref(svid);
        certgen_free(leaf);
    }
}

static void test_longest_chain(void **state)
{
    struct certgen *cas[6] = {root};
    struct bytes ders[6];
    struct svid *svid = NULL;

    (void)state;
    for (size_t i = 1; i < 6; i++) {
        static const char *const names[] = {"", "x1", "x2", "x3", "x4", "x5"};
        struct certgen_params params = {.ca = true, .subject = names[i], .key = CERTGEN_P256_CA};
        cas[i] = certgen_make(cas[i - 1], &params);
    }
    for (size_t depth = 4; depth < 6; depth++) {
        struct certgen *leaf = certgen_make(cas[depth], &(struct certgen_params){0});
        ders[0] = certgen_der(leaf);
        for (size_t i = 0; i < depth; i++)
            ders[i + 1] = certgen_der(cas[depth - i]);
        err_t err = svid_of_der(ders, depth + 1, leaf->key, roots, CERTGEN_NOW, &svid);
        if (depth == 4) {
            assert_ok(err);
            assert_int_equal(svid->num_chain, 5);
            svid_unref(svid);
        } else {
            assert_int_equal(err.code, E_CHAIN_TOO_LONG);
        }
        certgen_free(leaf);
    }
    for (size_t i = 1; i < 6; i++)
        certgen_free(cas[i]);
}

static void test_pem(void **state)
{
    struct certgen *leaf = certgen_make(ca1, &(struct certgen_params){0});
    struct buf chain = {0};
    struct buf key = {0};
    struct buf both = {0};
    struct svid *svid = NULL;

    (void)state;
    assert_ok(pem_write("CERTIFICATE", certgen_der(ca2), &chain));
    assert_ok(pem_write("CERTIFICATE", certgen_der(leaf), &chain));
    assert_ok(pem_write("CERTIFICATE", certgen_der(ca1), &chain));
    assert_ok(key_write_pem(leaf->key, &key));
    assert_ok(svid_of_pem(buf_view(&chain), buf_view(&key), roots, CERTGEN_NOW, &svid));
    assert_int_equal(svid->num_chain, 3);

    struct buf written = {0};
    struct svid *again = NULL;
    assert_ok(svid_write_pem(svid, &written));
    assert_null(memmem(written.data, written.len, "PRIVATE", 7));
    assert_ok(svid_of_pem(buf_view(&written), buf_view(&key), roots, CERTGEN_NOW, &again));
    assert_string_equal(svid->serial, again->serial);
    svid_unref(svid);
    svid_unref(again);
    svid = NULL;

    /* One file with both, as some tools write it. */
    assert_ok(buf_add(&both, key.data, key.len));
    assert_ok(buf_add(&both, chain.data, chain.len));
    assert_ok(svid_of_pem(buf_view(&both), buf_view(&both), roots, CERTGEN_NOW, &svid));
    svid_unref(svid);
    svid = NULL;

    /* Swapped arguments, empty files, halves of files. */
    assert_int_equal(svid_of_pem(buf_view(&key), buf_view(&chain), roots, CERTGEN_NOW, &svid).code,
                     E_PEM_EMPTY);
    assert_int_equal(
        svid_of_pem(buf_view(&chain), buf_view(&chain), roots, CERTGEN_NOW, &svid).code,
        E_PEM_EMPTY);
    assert_int_equal(svid_of_pem(bytes_of_str(""), buf_view(&key), roots, CERTGEN_NOW, &svid).code,
                     E_PEM_EMPTY);
    for (size_t len = 1; len < key.len - 1; len += 7)
        assert_false(err_is_ok(
            svid_of_pem(buf_view(&chain), bytes_of(key.data, len), roots, CERTGEN_NOW, &svid)));
    for (size_t len = 1; len < chain.len - 1; len += 13)
        assert_false(err_is_ok(
            svid_of_pem(bytes_of(chain.data, len), buf_view(&key), roots, CERTGEN_NOW, &svid)));
    assert_null(svid);
    buf_fini(&written);
    buf_fini(&chain);
    buf_wipe_fini(&key);
    buf_wipe_fini(&both);
    certgen_free(leaf);
}

static int setup(void **state)
{
    struct certgen_params params = {
        .ca = true, .subject = "root", .key = CERTGEN_P256_ROOT, .to_s = 864000};

    (void)state;
    root = certgen_make(NULL, &params);
    params.subject = "ca2";
    params.key = CERTGEN_P384;
    ca2 = certgen_make(root, &params);
    params.subject = "ca1";
    params.key = CERTGEN_P256_CA;
    ca1 = certgen_make(ca2, &params);
    params.subject = "strange root";
    params.key = CERTGEN_P256_OTHER;
    struct certgen *strange_root = certgen_make(NULL, &params);
    params.subject = "strange ca";
    params.key = CERTGEN_RSA2048;
    stranger = certgen_make(strange_root, &params);
    certgen_free(strange_root);
    struct bytes anchor = certgen_der(root);
    assert_ok(bundle_of_der(&anchor, 1, "example.org", &roots));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bundle_unref(roots);
    certgen_free(root);
    certgen_free(ca1);
    certgen_free(ca2);
    certgen_free(stranger);
    certgen_cleanup();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_is_put_right), cmocka_unit_test(test_the_earliest_end_counts),
        cmocka_unit_test(test_what_is_refused),    cmocka_unit_test(test_dns_names_for_one_role),
        cmocka_unit_test(test_longest_chain),      cmocka_unit_test(test_pem),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
