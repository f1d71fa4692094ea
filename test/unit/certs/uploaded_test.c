/* What an operator brings: CAs of a truststore, chain and key of a keystore, each fault told with
 * its place and whose certificate it is; and what CAs of others can vouch for. Without it: a
 * truststore lets in whoever holds a leaf, a partner's CA makes identities of the mesh, a keystore
 * breaks every link at the moment it is pushed. Drives: A7, A12, A13, E3, C1, R5. */
#include "certs/uploaded.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs8.h>

#include "certs/boring.h"
#include "certs/derivation.h"
#include "certs/verify.h"
#include "test/testlib/testca.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)
#define OURS "spiffe://mesh.test/ns/default/sa/portal"

static int64_t now_s;
static struct testca *mesh_root, *other_root, *middle;

static bool has(const struct faults *faults, const char *path, const char *text)
{
    for (size_t i = 0; i < faults->num; i++) {
        if (strcmp(faults->items[i].path, path) == 0 &&
            strstr(faults->items[i].message, text) != NULL)
            return true;
    }
    for (size_t i = 0; i < faults->num; i++)
        print_error("%s: %s\n", faults->items[i].path, faults->items[i].message);
    return false;
}

static char *joined(const char *const *texts)
{
    struct buf out = {0};

    for (; *texts != NULL; texts++)
        assert_ok(buf_add_str(&out, *texts));
    return buf_take_str(&out);
}
#define JOINED(...) joined((const char *const[]){__VA_ARGS__, NULL})

/* ------------------------------------------------------------------ truststores */

static void assert_cas(const char *pem, const char *fault)
{
    struct faults faults = {0};
    struct fault_path path = {0};
    err_t err;

    (void)fault_path_field(&path, "pem");
    err = uploaded_cas(bytes_of_str(pem), now_s, &path, &faults);
    assert_int_equal(err_is_ok(err), fault == NULL);
    if (fault != NULL)
        assert_true(has(&faults, "pem", fault));
    assert_int_equal(ERR_peek_error(), 0);
    faults_fini(&faults);
}

static void test_a_truststore_has_cas_and_nothing_else(void **state)
{
    struct testca *leaf = testca_issue(
        other_root, &(struct testca_params){.name = "leaf", .dns_sans = TESTCA_LIST("a.test")});
    struct testca *old = testca_new(&(struct testca_params){
        .name = "old", .not_before = now_s - 9000, .not_after = now_s - 60});
    struct testca *early = testca_new(&(struct testca_params){
        .name = "early", .not_before = now_s + 3600, .not_after = now_s + 7200});
    struct testca *weak =
        testca_new(&(struct testca_params){.name = "weak", .key = TESTCA_RSA1024});
    struct testca *sha1 = testca_issue(
        other_root, &(struct testca_params){.name = "sha1", .is_ca = true, .hash = TESTCA_SHA1});
    char *two = JOINED("# the partners'\r\n", other_root->cert_pem, middle->cert_pem);
    char *with_leaf = JOINED(other_root->cert_pem, leaf->cert_pem);
    char *with_key = JOINED(other_root->cert_pem, leaf->key_pem);
    char *cut = mem_strndup(other_root->cert_pem, strlen(other_root->cert_pem) - 40);

    (void)state;
    assert_cas(two, NULL);
    assert_cas(with_leaf, "certificate 2 \"CN=leaf\": is no CA");
    assert_cas(with_key, "has a private key");
    assert_cas(old->cert_pem, "certificate 1 \"CN=old\": expired 60 s ago (cert_expired)");
    assert_cas(early->cert_pem, "\"CN=early\": becomes valid in");
    assert_cas(weak->cert_pem, "\"CN=weak\": a key of 1024 bits");
    assert_cas(sha1->cert_pem, "cert_weak_signature");
    assert_cas(cut, "pem_syntax");
    assert_cas("", "has no certificate");
    assert_cas("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
               "certificate 1: not a valid certificate");
    mem_free(two);
    mem_free(with_leaf);
    mem_free(with_key);
    mem_free(cut);
    testca_free(leaf);
    testca_free(old);
    testca_free(early);
    testca_free(weak);
    testca_free(sha1);
}

static void test_a_huge_text_is_refused_unread(void **state)
{
    char *text = mem_alloc(UPLOADED_BYTES_MAX + 2);

    (void)state;
    memset(text, '#', UPLOADED_BYTES_MAX + 1);
    text[UPLOADED_BYTES_MAX + 1] = '\0';
    assert_cas(text, "is larger than");
    mem_free(text);
}

/* -------------------------------------------------------------- CAs of others */

static err_t verify(const struct bundle *bundle, const struct testca *leaf,
                    struct verify_cache *cache, struct peer **out)
{
    STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
    struct bytes ders[VERIFY_CHAIN_MAX];
    size_t num = testca_chain(leaf, ders, ARRAY_LEN(ders));
    err_t err;

    for (size_t i = 0; i < num; i++)
        assert_true(
            sk_CRYPTO_BUFFER_push(chain, CRYPTO_BUFFER_new(ders[i].ptr, ders[i].len, NULL)) > 0);
    err = verify_chain(chain, bundle, VERIFY_CLIENT_CERT, now_s, cache, out);
    sk_CRYPTO_BUFFER_pop_free(chain, CRYPTO_BUFFER_free);
    return err;
}

static void assert_peer(const struct bundle *bundle, const struct testca *leaf,
                        struct verify_cache *cache, enum err_code code, bool ours, bool by_name)
{
    static const char *const ids[] = {OURS}, *const names[] = {"partner.test"};
    const struct peer_match id = {.spiffe_ids = ids, .num_spiffe_ids = 1};
    const struct peer_match name = {.dns_names = names, .num_dns_names = 1};

    for (unsigned again = 0; again < 2; again++) { /* the second one from the cache */
        struct peer *peer = NULL;

        assert_int_equal(verify(bundle, leaf, cache, &peer).code, code);
        if (code != E_OK) {
            assert_null(peer);
            continue;
        }
        assert_int_equal(peer_matches(peer, &id), ours);
        assert_int_equal(peer_matches(peer, &name), by_name);
        peer_unref(peer);
    }
}

/* An identity of the mesh is never had from a CA of others, whichever CAs stand beside it; and
 * names that a CA of the mesh has signed do not count where those of others do. */
static void test_cas_of_others_vouch_for_names_alone(void **state)
{
    const struct testca_params id = {.uri_sans = TESTCA_LIST(OURS)};
    const struct testca_params name = {.dns_sans = TESTCA_LIST("partner.test")};
    const struct testca_params both = {.uri_sans = TESTCA_LIST(OURS),
                                       .dns_sans = TESTCA_LIST("partner.test")};
    struct testca *inside_id = testca_issue(mesh_root, &id);
    struct testca *inside_name = testca_issue(mesh_root, &name);
    struct testca *inside_both = testca_issue(mesh_root, &both);
    struct testca *outside_id = testca_issue(middle, &id);
    struct testca *outside_name = testca_issue(middle, &name);
    struct testca *outside_both = testca_issue(middle, &both);
    struct verify_cache *cache = verify_cache_new(64);
    struct bundle *inside, *mixed, *outside;

    (void)state;
    assert_ok(bundle_of_pem(bytes_of_str(mesh_root->cert_pem), "mesh.test", &inside));
    assert_ok(bundle_of_both(inside, bytes_of_str(other_root->cert_pem), &mixed));
    assert_ok(bundle_of_both(NULL, bytes_of_str(other_root->cert_pem), &outside));
    assert_true(bundle_has_inside(inside));
    assert_true(bundle_has_inside(mixed));
    assert_false(bundle_has_inside(outside));

    assert_peer(mixed, inside_id, cache, E_OK, true, false);
    assert_peer(mixed, inside_both, cache, E_OK, true, false); /* its name does not count */
    assert_peer(mixed, inside_name, cache, E_TRUST_DOMAIN, false, false);
    assert_peer(mixed, outside_name, cache, E_OK, false, true);
    assert_peer(mixed, outside_id, cache, E_TRUST_DOMAIN, false, false);
    assert_peer(mixed, outside_both, cache, E_TRUST_DOMAIN, false, false);
    assert_peer(outside, outside_name, cache, E_OK, false, true);
    assert_peer(outside, outside_id, cache, E_TRUST_DOMAIN, false, false);
    assert_peer(outside, outside_both, cache, E_TRUST_DOMAIN, false, false);
    assert_peer(outside, inside_id, cache, E_CHAIN_UNTRUSTED, false, false);
    assert_peer(inside, outside_name, cache, E_CHAIN_UNTRUSTED, false, false);
    verify_cache_free(cache);
    bundle_unref(inside);
    bundle_unref(mixed);
    bundle_unref(outside);
    testca_free(inside_id);
    testca_free(inside_name);
    testca_free(inside_both);
    testca_free(outside_id);
    testca_free(outside_name);
    testca_free(outside_both);
}

/* Verdicts are remembered under the hash: the same certificates, otherwise divided, have another.
 */
static void test_who_is_outside_is_in_the_hash(void **state)
{
    char *pem = JOINED(mesh_root->cert_pem, other_root->cert_pem);
    struct bundle *inside, *all, *mixed, *outside;

    (void)state;
    assert_ok(bundle_of_pem(bytes_of_str(mesh_root->cert_pem), NULL, &inside));
    assert_ok(bundle_of_pem(bytes_of_str(pem), NULL, &all));
    assert_ok(bundle_of_both(inside, bytes_of_str(pem), &mixed)); /* what is in both is inside */
    assert_ok(bundle_of_both(NULL, bytes_of_str(pem), &outside));
    assert_int_equal(mixed->num, 2);
    assert_memory_not_equal(all->hash, mixed->hash, sizeof(all->hash));
    assert_memory_not_equal(all->hash, outside->hash, sizeof(all->hash));
    assert_memory_not_equal(mixed->hash, outside->hash, sizeof(all->hash));
    assert_false(bundle_is_outside(mixed, inside->sha256[0]));
    assert_true(bundle_is_outside(outside, inside->sha256[0]));
    bundle_unref(inside);
    bundle_unref(all);
    bundle_unref(mixed);
    bundle_unref(outside);
    mem_free(pem);
}

/* ------------------------------------------------------------------- keystores */

/* What comes of the two texts: the chain's length, or the fault. */
static void assert_keystore(const char *certs, const char *key, size_t want, const char *path,
                            const char *fault)
{
    struct faults faults = {0};
    struct uploaded uploaded = {0};
    struct svid *svid = NULL;
    err_t err = uploaded_pem(bytes_of_str(certs), bytes_of_str(key), NULL, &faults, &uploaded);

    if (err_is_ok(err))
        err = uploaded_keystore(&uploaded, now_s, &faults, &svid);
    assert_int_equal(err_is_ok(err), fault == NULL);
    if (fault != NULL) {
        assert_true(has(&faults, path, fault));
        assert_null(svid);
    } else {
        assert_int_equal(svid->num_chain, want);
        svid_unref(svid);
    }
    assert_int_equal(ERR_peek_error(), 0);
    uploaded_fini(&uploaded);
    faults_fini(&faults);
}

static void test_a_chain_is_put_in_order_and_judged(void **state)
{
    const struct testca_params ordinary = {.name = "web", .dns_sans = TESTCA_LIST("web.test")};
    struct testca *leaf = testca_issue(middle, &ordinary);
    struct testca *other = testca_issue(other_root, &ordinary);
    struct testca *rsa =
        testca_issue(middle, &(struct testca_params){.dns_sans = TESTCA_LIST("web.test"),
                                                     .key = TESTCA_RSA2048});
    char *shuffled = JOINED(other_root->cert_pem, middle->cert_pem, leaf->cert_pem);
    char *stranger = JOINED(leaf->cert_pem, middle->cert_pem, other->cert_pem);
    char *one_file = JOINED(leaf->key_pem, leaf->cert_pem, middle->cert_pem);
    char *two_keys = JOINED(leaf->key_pem, other->key_pem);

    (void)state;
    assert_keystore(leaf->chain_pem, leaf->key_pem, 2, NULL, NULL);
    assert_keystore(shuffled, leaf->key_pem, 2, NULL, NULL); /* in order, without the root */
    assert_keystore(one_file, one_file, 2, NULL, NULL);
    assert_keystore(rsa->chain_pem, rsa->key_pem, 2, NULL, NULL);
    assert_keystore(leaf->cert_pem, other->key_pem, 0, "key",
                    "as to \"CN=web\" (svid_key_mismatch)");
    assert_keystore(stranger, leaf->key_pem, 0, "chain", "belongs to no chain");
    assert_keystore(leaf->cert_pem, two_keys, 0, "--private-key", "two private keys");
    assert_keystore(leaf->cert_pem, leaf->cert_pem, 0, "--private-key", "has no private key");
    assert_keystore(leaf->key_pem, leaf->key_pem, 0, "--chain", "has no certificate");
    assert_keystore(leaf->cert_pem, "-----BEGIN PRIVATE KEY-----\nAAAA\n", 0, "--private-key",
                    "pem_syntax");
    mem_free(shuffled);
    mem_free(stranger);
    mem_free(one_file);
    mem_free(two_keys);
    testca_free(leaf);
    testca_free(other);
    testca_free(rsa);
}

static void test_bad_leaves(void **state)
{
    static const char *const web[] = {"web.test", NULL};
    static const char *const star[] = {"*.web.test", NULL};
    static const char *const ours[] = {OURS, NULL};
    const struct {
        struct testca_params params;
        const char *path, *fault;
    } rows[] = {
        {{.name = "x", .dns_sans = web, .not_before = now_s - 9000, .not_after = now_s - 5},
         "chain",
         "certificate 1 \"CN=x\": expired 5 s ago"},
        {{.name = "x", .dns_sans = web, .not_before = now_s + 3600, .not_after = now_s + 7200},
         "chain",
         "cert_not_yet_valid"},
        {{.name = "x", .dns_sans = web, .key = TESTCA_RSA1024}, "--private-key", "1024 bits"},
        {{.name = "x", .dns_sans = web, .key = TESTCA_ED25519}, "--private-key", "too weak"},
        {{.name = "x", .dns_sans = web, .key = TESTCA_P521}, "--private-key", "521 bits"},
        {{.name = "x", .dns_sans = web, .hash = TESTCA_SHA1}, "chain", "cert_weak_signature"},
        {{.name = "x", .dns_sans = web, .eku = TESTCA_EKU_EMAIL},
         "chain",
         "serverAuth, clientAuth"},
        {{.name = "x", .dns_sans = web, .is_ca = true}, "chain", "is a CA's"},
        {{.name = "x"}, "chain", "has no DNS name"},
        {{.name = "x", .dns_sans = star}, "chain", "without a wildcard"},
        {{.name = "x", .uri_sans = ours, .dns_sans = web}, "chain", "has a SPIFFE ID"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct testca *leaf = testca_issue(middle, &rows[i].params);

        assert_keystore(leaf->chain_pem, leaf->key_pem, 0, rows[i].path, rows[i].fault);
        testca_free(leaf);
    }
}

/* The key as OpenSSL writes it with a passphrase, in the new form or the old one. */
static char *encrypted(EVP_PKEY *key, const char *password, bool old)
{
    unsigned char *word = (unsigned char *)(uintptr_t)password; /* only read */
    BIO *bio = BIO_new(BIO_s_mem());
    const uint8_t *bytes;
    size_t len;
    char *text;

    if (old)
        assert_true(PEM_write_bio_PrivateKey(bio, key, EVP_aes_256_cbc(), word,
                                             (int)strlen(password), NULL, NULL));
    else
        assert_true(PEM_write_bio_PKCS8PrivateKey(bio, key, EVP_aes_256_cbc(), (char *)word,
                                                  (int)strlen(password), NULL, NULL));
    assert_true(BIO_mem_contents(bio, &bytes, &len));
    text = mem_strndup((const char *)bytes, len);
    BIO_free(bio);
    return text;
}

static void test_a_passphrase_opens_the_key_or_not(void **state)
{
    struct testca *leaf =
        testca_issue(middle, &(struct testca_params){.dns_sans = TESTCA_LIST("web.test")});
    static const char *const words[] = {"right", "wrong", "", NULL};

    (void)state;
    for (unsigned old = 0; old < 2; old++) {
        CLEANUP(mem_freep) char *key = encrypted(leaf->key, "right", old != 0);

        for (size_t i = 0; i < ARRAY_LEN(words); i++) {
            struct faults faults = {0};
            struct uploaded uploaded = {0};
            err_t err = uploaded_pem(bytes_of_str(leaf->chain_pem), bytes_of_str(key), words[i],
                                     &faults, &uploaded);

            assert_int_equal(err_is_ok(err), i == 0);
            if (i == 0)
                assert_true(EVP_PKEY_cmp(uploaded.key, leaf->key) == 1);
            else if (words[i] == NULL)
                assert_true(has(&faults, "--private-key", "is encrypted"));
            else
                assert_true(has(&faults, "--password-file", "does not open"));
            assert_int_equal(ERR_peek_error(), 0);
            uploaded_fini(&uploaded);
            faults_fini(&faults);
        }
    }
    testca_free(leaf);
}

static void pkcs12_of(const struct testca *leaf, const char *password, int mac_rounds,
                      struct buf *out)
{
    STACK_OF(X509) *cas = sk_X509_new_null();
    PKCS12 *file;
    uint8_t *der = NULL;
    int len;

    assert_true(sk_X509_push(cas, middle->cert) > 0);
    file = PKCS12_create(password, "name", leaf->key, leaf->cert, cas, 0, 0, 0, mac_rounds, 0);
    assert_non_null(file);
    len = i2d_PKCS12(file, &der);
    assert_true(len > 0);
    assert_ok(buf_add(out, der, (size_t)len));
    OPENSSL_free(der);
    PKCS12_free(file);
    sk_X509_free(cas);
}

static void assert_pkcs12(struct bytes file, const char *password, const char *path,
                          const char *fault)
{
    struct faults faults = {0};
    struct uploaded uploaded = {0};
    struct svid *svid = NULL;
    err_t err = uploaded_pkcs12(file, password, &faults, &uploaded);

    assert_int_equal(err_is_ok(err), fault == NULL);
    if (fault != NULL) {
        assert_true(has(&faults, path, fault));
    } else {
        assert_ok(uploaded_keystore(&uploaded, now_s, &faults, &svid));
        assert_int_equal(svid->num_chain, 2);
        svid_unref(svid);
    }
    assert_int_equal(ERR_peek_error(), 0);
    uploaded_fini(&uploaded);
    faults_fini(&faults);
}

/* Without a length at the top, as what browsers write. */
static void ber_of(struct bytes der, struct buf *out)
{
    static const uint8_t head[] = {0x30, 0x80}, end[] = {0, 0};
    CBS cbs, content;

    CBS_init(&cbs, der.ptr, der.len);
    assert_true(CBS_get_asn1(&cbs, &content, CBS_ASN1_SEQUENCE));
    assert_ok(buf_add(out, head, sizeof(head)));
    assert_ok(buf_add(out, CBS_data(&content), CBS_len(&content)));
    assert_ok(buf_add(out, end, sizeof(end)));
}

static void assert_the_same_as_ber(struct bytes slow, struct bytes file)
{
    CLEANUP(buf_fini) struct buf good = {0}, bad = {0};

    ber_of(file, &good);
    ber_of(slow, &bad);
    assert_pkcs12(buf_view(&good), "right", NULL, NULL);
    assert_pkcs12(buf_view(&bad), "right", "--pkcs12", "rounds");
    assert_pkcs12(bytes_of(buf_view(&good).ptr, buf_size(&good) - 1), "right", "--pkcs12", "");
}

/* Each count that stands in a file, made as large as its bytes allow, one at a time and whatever
 * the password is: refused before any work is done. */
static void test_no_count_of_rounds_is_obeyed_that_has_no_end(void **state)
{
    static const uint8_t counts[] = {0x02, 0x02, 0x03, 0xe8}; /* 1,000 */
    struct testca *leaf =
        testca_issue(middle, &(struct testca_params){.dns_sans = TESTCA_LIST("web.test")});
    STACK_OF(X509) *cas = sk_X509_new_null();
    PKCS12 *file = PKCS12_create("right", "name", leaf->key, leaf->cert, cas, 0, 0, 1000, 1000, 0);
    uint8_t *der = NULL;
    int len = i2d_PKCS12(file, &der);
    size_t found = 0;

    (void)state;
    assert_true(len > 0);
    assert_true(derivation_pkcs12_bounded(bytes_of(der, (size_t)len), 1000));
    assert_false(derivation_pkcs12_bounded(bytes_of(der, (size_t)len), 999));
    for (size_t i = 0; i + sizeof(counts) <= (size_t)len; i++) {
        struct buf longer = {0};
        static const uint8_t huge[] = {0x02, 0x02, 0x7f, 0xff};

        if (memcmp(der + i, counts, sizeof(counts)) != 0)
            continue;
        found++;
        assert_ok(buf_add(&longer, der, i));
        assert_ok(buf_add(&longer, huge, sizeof(huge)));
        assert_ok(buf_add(&longer, der + i + sizeof(huge), (size_t)len - i - sizeof(huge)));
        assert_false(derivation_pkcs12_bounded(buf_view(&longer), 1000));
        buf_fini(&longer);
    }
    assert_int_equal(found, 3); /* the MAC, the certificates, the key */
    OPENSSL_free(der);
    PKCS12_free(file);
    sk_X509_free(cas);
    testca_free(leaf);
}

/* 2^31 - 1 rounds, and of PKCS#8 too: told at once. */
static void test_numbers_of_any_size(void **state)
{
    static const struct {
        uint8_t number[12];
        size_t len;
        bool good;
    } cases[] = {
        {{0x02, 0x01, 0x01}, 3, true},
        {{0x02, 0x03, 0x1e, 0x84, 0x80}, 5, true}, /* 2,000,000 */
        {{0x02, 0x03, 0x1e, 0x84, 0x81}, 5, false},
        {{0x02, 0x04, 0x7f, 0xff, 0xff, 0xff}, 6, false},
        {{0x02, 0x01, 0xff}, 3, false}, /* negative */
        {{0x02, 0x00}, 2, false},
        {{0x02, 0x09, 0x01, 0, 0, 0, 0, 0, 0, 0, 1}, 11, false},
        {{0x04, 0x01, 0x01}, 3, false},
        {{0x02, 0x7f, 0x01}, 3, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        const uint8_t pbe = (uint8_t)(4 + cases[i].len);
        uint8_t der[64] = {0x30, (uint8_t)(pbe + 9),
                           0x30, (uint8_t)(pbe + 5),
                           0x06, 0x01,
                           0x2a, 0x30,
                           pbe,  0x04,
                           0x02, 's',
                           'a'};

        memcpy(der + 13, cases[i].number, cases[i].len);
        memcpy(der + 13 + cases[i].len, "\x04\x00", 2);
        assert_int_equal(
            derivation_pkcs8_bounded(bytes_of(der, 15 + cases[i].len), DERIVATION_ROUNDS_MAX),
            cases[i].good);
    }
}

/* What has no length nests; the stack does not. */
static void test_nothing_nests_without_end(void **state)
{
    struct buf text = {0};

    (void)state;
    for (size_t i = 0; i < 60000; i++)
        assert_ok(buf_add(&text, "\x30\x80", 2));
    assert_false(derivation_pkcs12_bounded(buf_view(&text), DERIVATION_ROUNDS_MAX));
    assert_pkcs12(buf_view(&text), "right", "--pkcs12", "is no PKCS#12");
    buf_fini(&text);
}

static void test_pkcs12(void **state)
{
    struct testca *leaf =
        testca_issue(middle, &(struct testca_params){.dns_sans = TESTCA_LIST("web.test")});
    CLEANUP(buf_fini) struct buf file = {0}, slow = {0}, huge = {0};

    (void)state;
    pkcs12_of(leaf, "right", 0, &file);
    assert_pkcs12(buf_view(&file), "right", NULL, NULL);
    assert_pkcs12(buf_view(&file), "wrong", "--password-file", "another one");
    assert_pkcs12(buf_view(&file), NULL, "--password-file", "another one");
    for (size_t len = 0; len < buf_size(&file); len += 97) {
        struct faults faults = {0};
        struct uploaded uploaded = {0};
        err_t err =
            uploaded_pkcs12(bytes_of(buf_view(&file).ptr, len), "right", &faults, &uploaded);

        assert_false(err_is_ok(err)); /* truncated */
        assert_true(faults.num > 0);
        uploaded_fini(&uploaded);
        faults_fini(&faults);
    }
    assert_pkcs12(bytes_of_str("no such thing"), "right", "--pkcs12", "");
    pkcs12_of(leaf, "right", DERIVATION_ROUNDS_MAX + 1, &slow);
    assert_pkcs12(buf_view(&slow), "right", "--pkcs12", "rounds");
    assert_the_same_as_ber(buf_view(&slow), buf_view(&file));
    for (size_t i = 0; i <= UPLOADED_BYTES_MAX; i += 64)
        assert_ok(
            buf_add(&huge, "................................................................", 64));
    assert_pkcs12(buf_view(&huge), "right", "--pkcs12", "larger");
    testca_free(leaf);
}

/* What stands in a document: in order already, and never with its key. */
static void test_a_public_chain(void **state)
{
    struct testca *leaf = testca_issue(
        middle, &(struct testca_params){.name = "web", .dns_sans = TESTCA_LIST("a.test")});
    char *reversed = JOINED(middle->cert_pem, leaf->cert_pem);
    char *with_key = JOINED(leaf->cert_pem, leaf->key_pem);
    char *unlinked = JOINED(leaf->cert_pem, mesh_root->cert_pem);
    const struct {
        const char *pem, *fault;
    } rows[] = {
        {leaf->chain_pem, NULL},
        {leaf->cert_pem, NULL},
        {reversed, "is a CA's"},
        {with_key, "has a private key"},
        {unlinked, "\"CN=web\": the one that follows"},
        {"", "has no certificate"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct faults faults = {0};
        struct fault_path path = {0};
        err_t err;

        (void)fault_path_field(&path, "chain_pem");
        err = uploaded_chain(bytes_of_str(rows[i].pem), now_s, &path, &faults, NULL);
        assert_int_equal(err_is_ok(err), rows[i].fault == NULL);
        if (rows[i].fault != NULL)
            assert_true(has(&faults, "chain_pem", rows[i].fault));
        faults_fini(&faults);
    }
    mem_free(reversed);
    mem_free(with_key);
    mem_free(unlinked);
    testca_free(leaf);
}

static int set_up(void **state)
{
    (void)state;
    now_s = (int64_t)time(NULL);
    mesh_root = testca_new(&(struct testca_params){.name = "mesh root"});
    other_root = testca_new(&(struct testca_params){.name = "partner root"});
    middle = testca_issue(other_root, &(struct testca_params){.name = "partner", .is_ca = true});
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    testca_free(middle);
    testca_free(other_root);
    testca_free(mesh_root);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_truststore_has_cas_and_nothing_else),
        cmocka_unit_test(test_a_huge_text_is_refused_unread),
        cmocka_unit_test(test_cas_of_others_vouch_for_names_alone),
        cmocka_unit_test(test_who_is_outside_is_in_the_hash),
        cmocka_unit_test(test_a_chain_is_put_in_order_and_judged),
        cmocka_unit_test(test_bad_leaves),
        cmocka_unit_test(test_a_passphrase_opens_the_key_or_not),
        cmocka_unit_test(test_pkcs12),
        cmocka_unit_test(test_no_count_of_rounds_is_obeyed_that_has_no_end),
        cmocka_unit_test(test_numbers_of_any_size),
        cmocka_unit_test(test_nothing_nests_without_end),
        cmocka_unit_test(test_a_public_chain),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
