/* Certificate requests: only a strong public key whose owner signed comes out, whatever else the
 * request asks for. Without it: an identity, CA rights or names chosen by whoever asks.
 * Drives: R35, R36. */
#include "certs/csr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "certs/boring.h"
#include "certs/key.h"
#include "test/unit/certs/certgen.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

/* --- requests written byte by byte --- */

struct request {
    enum certgen_key key;
    enum certgen_key signer; /* of the signature, when other_signer */
    bool other_signer;
    uint64_t version;
    const char *attributes; /* content of [0], raw */
    size_t attributes_len;
    size_t subject_len; /* so many bytes of common name */
    enum certgen_hash hash;
    bool no_attributes;  /* the [0] is missing */
    bool trailing_info;  /* something behind the attributes */
    bool trailing;       /* something behind the request */
    bool bad_bits;       /* the signature claims unused bits */
    bool flip;           /* one bit of the signature */
    bool rsa_oid;        /* says RSA where the key is EC */
    bool parameters;     /* a NULL behind the signature's OID: right for RSA, wrong for EC */
    bool odd_parameters; /* something else there */
};

static void add_algorithm(CBB *out, bool rsa, const struct request *r)
{
    static const uint8_t ecdsa[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02};
    static const uint8_t ecdsa_sha1[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01};
    static const uint8_t rsa_sha256[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b};
    CBB seq;
    CBB oid;

    assert_true(CBB_add_asn1(out, &seq, CBS_ASN1_SEQUENCE) &&
                CBB_add_asn1(&seq, &oid, CBS_ASN1_OBJECT));
    if (rsa)
        assert_true(CBB_add_bytes(&oid, rsa_sha256, sizeof rsa_sha256));
    else if (r->hash == CERTGEN_SHA1)
        assert_true(CBB_add_bytes(&oid, ecdsa_sha1, sizeof ecdsa_sha1));
    else
        assert_true(CBB_add_bytes(&oid, ecdsa, sizeof ecdsa));
    if (r->parameters)
        assert_true(CBB_add_asn1(&seq, &oid, CBS_ASN1_NULL));
    if (r->odd_parameters)
        assert_true(CBB_add_asn1_uint64(&seq, 5));
    assert_true(CBB_flush(out));
}

static void add_subject(CBB *info, size_t len)
{
    static const uint8_t cn[] = {0x55, 0x04, 0x03};
    CBB name;
    CBB set;
    CBB attribute;
    CBB child;

    assert_true(CBB_add_asn1(info, &name, CBS_ASN1_SEQUENCE));
    if (len > 0) {
        assert_true(CBB_add_asn1(&name, &set, CBS_ASN1_SET) &&
                    CBB_add_asn1(&set, &attribute, CBS_ASN1_SEQUENCE) &&
                    CBB_add_asn1(&attribute, &child, CBS_ASN1_OBJECT) &&
                    CBB_add_bytes(&child, cn, sizeof cn) &&
                    CBB_add_asn1(&attribute, &child, CBS_ASN1_UTF8STRING));
        for (size_t i = 0; i < len; i++)
            assert_true(CBB_add_u8(&child, 'n'));
    }
    assert_true(CBB_flush(info));
}

static void make_info(const struct request *r, uint8_t **out, size_t *out_len)
{
    uint8_t *spki = NULL;
    size_t spki_len = 0;
    CBB cbb;
    CBB info;
    CBB attributes;

    certgen_spki(r->key, &spki, &spki_len);
    assert_true(CBB_init(&cbb, 512) && CBB_add_asn1(&cbb, &info, CBS_ASN1_SEQUENCE) &&
                CBB_add_asn1_uint64(&info, r->version));
    add_subject(&info, r->subject_len);
    assert_true(CBB_add_bytes(&info, spki, spki_len));
    if (!r->no_attributes)
        assert_true(CBB_add_asn1(&info, &attributes,
                                 CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | 0) &&
                    CBB_add_bytes(&attributes, (const uint8_t *)r->attributes, r->attributes_len));
    if (r->trailing_info)
        assert_true(CBB_add_asn1_uint64(&info, 1));
    assert_true(CBB_finish(&cbb, out, out_len));
    OPENSSL_free(spki);
}

static void make_request(const struct request *r, struct buf *out)
{
    EVP_PKEY *signer = certgen_key(r->other_signer         ? r->signer
                                   : r->key < CERTGEN_KEYS ? r->key
                                                           : CERTGEN_P256_OTHER);
    const EVP_MD *digest = r->hash == CERTGEN_SHA1 ? EVP_sha1() : EVP_sha256();
    uint8_t signature[512];
    size_t signature_len = sizeof signature;
    uint8_t *info = NULL;
    uint8_t *der = NULL;
    size_t info_len = 0;
    size_t der_len = 0;
    EVP_MD_CTX ctx;
    CBB cbb;
    CBB request;
    CBB bits;

    make_info(r, &info, &info_len);
    EVP_MD_CTX_init(&ctx);
    assert_true(EVP_DigestSignInit(&ctx, NULL,
                                   EVP_PKEY_id(signer) == EVP_PKEY_ED25519 ? NULL : digest, NULL,
                                   signer) &&
                EVP_DigestSign(&ctx, signature, &signature_len, info, info_len));
    EVP_MD_CTX_cleanup(&ctx);
    if (r->flip)
        signature[signature_len - 1] ^= 1;

    assert_true(CBB_init(&cbb, 512) && CBB_add_asn1(&cbb, &request, CBS_ASN1_SEQUENCE) &&
                CBB_add_bytes(&request, info, info_len));
    add_algorithm(&request, EVP_PKEY_id(signer) == EVP_PKEY_RSA || r->rsa_oid, r);
    assert_true(CBB_add_asn1(&request, &bits, CBS_ASN1_BITSTRING) &&
                CBB_add_u8(&bits, r->bad_bits ? 1 : 0) &&
                CBB_add_bytes(&bits, signature, signature_len) && CBB_flush(&cbb));
    if (r->trailing)
        assert_true(CBB_add_u8(&cbb, 0));
    assert_true(CBB_finish(&cbb, &der, &der_len));
    assert_ok(buf_add(out, der, der_len));
    OPENSSL_free(der);
    OPENSSL_free(info);
}

/* An extension request with any bytes in it: what it asks for is never looked at. */
static const char greedy[] =
    "\x30\x3a\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x09\x0e\x31\x2d\x30\x2b"
    "\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff" /* CA:true */
    "\x30\x18\x06\x03\x55\x1d\x11\x04\x11\x30\x0f\x82\x0d"
    "evil.evil.com";

static const struct {
    const char *name;
    struct request request;
    enum err_code want;
} cases[] = {
    {"plain", {0}, E_OK},
    {"P-384", {.key = CERTGEN_P384}, E_OK},
    {"RSA 2048", {.key = CERTGEN_RSA2048}, E_OK},
    {"with a subject", {.subject_len = 40}, E_OK},
    {"asks to be a CA and for names",
     {.attributes = greedy, .attributes_len = sizeof greedy - 1},
     E_OK},
    {"garbage in the attributes", {.attributes = "\xff\xff\xff", .attributes_len = 3}, E_OK},
    {"version 1", {.version = 1}, E_CSR_SYNTAX},
    {"version huge", {.version = UINT64_MAX}, E_CSR_SYNTAX},
    {"no attributes", {.no_attributes = true}, E_CSR_SYNTAX},
    {"more behind the attributes", {.trailing_info = true}, E_CSR_SYNTAX},
    {"more behind the request", {.trailing = true}, E_CSR_SYNTAX},
    {"unused bits", {.bad_bits = true}, E_CSR_SYNTAX},
    {"signature by another key",
     {.other_signer = true, .signer = CERTGEN_P256_OTHER},
     E_CSR_SIGNATURE},
    {"signature by a key of another kind",
     {.other_signer = true, .signer = CERTGEN_RSA2048},
     E_CSR_SIGNATURE},
    {"EC signature that says RSA", {.rsa_oid = true}, E_CSR_SIGNATURE},
    {"RSA with its NULL", {.key = CERTGEN_RSA2048, .parameters = true}, E_OK},
    {"RSA with odd parameters", {.key = CERTGEN_RSA2048, .odd_parameters = true}, E_CSR_SIGNATURE},
    {"ECDSA with a NULL", {.parameters = true}, E_CSR_SIGNATURE},
    {"one bit", {.flip = true}, E_CSR_SIGNATURE},
    {"SHA-1", {.hash = CERTGEN_SHA1}, E_CSR_SIGNATURE},
    {"RSA 1024", {.key = CERTGEN_RSA1024}, E_KEY_WEAK},
    {"RSA 2047", {.key = CERTGEN_RSA2047}, E_KEY_WEAK},
    {"RSA 16384", {.key = CERTGEN_RSA16384}, E_KEY_WEAK},
    {"P-224", {.key = CERTGEN_P224}, E_KEY_WEAK},
    {"P-521", {.key = CERTGEN_P521}, E_KEY_WEAK},
    {"Ed25519", {.key = CERTGEN_ED25519}, E_KEY_WEAK},
    {"DSA", {.key = CERTGEN_DSA}, E_KEY_WEAK},
    {"written-out curve", {.key = CERTGEN_EXPLICIT_P256}, E_KEY_WEAK},
    {"unknown kind", {.key = CERTGEN_UNKNOWN_KEY}, E_KEY_WEAK},
    {"no point on the curve", {.key = CERTGEN_GARBAGE_KEY}, E_KEY_WEAK},
    {"8000 bytes of subject", {.subject_len = 8000}, E_TOO_LARGE},
    {"7500 bytes of subject", {.subject_len = 7500}, E_OK},
};

/* With MORTISE_CORPUS_WRITE=FOLDER the table becomes the corpus of csr_fuzz. */
static void corpus_write(const char *folder, const char *name, const struct buf *der)
{
    char path[512];
    size_t len = (size_t)snprintf(path, sizeof path, "%s/", folder);

    for (; *name != '\0' && len + 1 < sizeof path; name++)
        path[len++] = *name == ' ' || *name == '\'' ? '_' : *name;
    path[len] = '\0';
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(der->data, 1, der->len, f), der->len);
    assert_int_equal(fclose(f), 0);
}

static void test_table(void **state)
{
    const char *corpus = getenv("MORTISE_CORPUS_WRITE");
    size_t wrong = 0;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf der = {0};
        EVP_PKEY *key = NULL;
        make_request(&cases[i].request, &der);
        if (corpus != NULL && der.len < 2000)
            corpus_write(corpus, cases[i].name, &der);
        err_t err = csr_parse(buf_view(&der), &key);
        if (err.code != cases[i].want) {
            print_error("%s: %s at %s\n", cases[i].name, err_name(err.code), err.where);
            wrong++;
        }
        assert_int_equal(key != NULL, err_is_ok(err));
        if (err_is_ok(err))
            assert_int_equal(EVP_PKEY_cmp(key, certgen_key(cases[i].request.key)), 1);
        assert_int_equal(ERR_peek_error(), 0);
        EVP_PKEY_free(key);
        buf_fini(&der);
    }
    assert_int_equal(wrong, 0);
}

static void test_every_bit_counts(void **state)
{
    struct buf der = {0};
    EVP_PKEY *key = NULL;

    (void)state;
    make_request(&(struct request){.subject_len = 5}, &der);
    for (size_t bit = 0; bit < 8 * der.len; bit++) {
        der.data[bit / 8] ^= (uint8_t)(1U << (bit % 8));
        err_t err = csr_parse(buf_view(&der), &key);
        assert_false(err_is_ok(err));
        assert_null(key);
        der.data[bit / 8] ^= (uint8_t)(1U << (bit % 8));
    }
    buf_fini(&der);
}

static void test_every_length_counts(void **state)
{
    struct buf der = {0};
    EVP_PKEY *key = NULL;

    (void)state;
    make_request(&(struct request){0}, &der);
    for (size_t len = 0; len < der.len; len++) {
        uint8_t *copy = mem_dup(der.data, len);
        assert_int_equal(csr_parse(bytes_of(copy, len), &key).code, E_CSR_SYNTAX);
        mem_free(copy);
    }
    buf_fini(&der);
}

static void test_built_is_parsed(void **state)
{
    static const enum certgen_key kinds[] = {CERTGEN_P256, CERTGEN_P384, CERTGEN_RSA2048};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        for (int with_id = 0; with_id < 2; with_id++) {
            struct buf der = {0};
            EVP_PKEY *key = NULL;
            assert_ok(csr_build(certgen_key(kinds[i]), with_id != 0 ? CERTGEN_ID : NULL, &der));
            assert_ok(csr_parse(buf_view(&der), &key));
            assert_int_equal(EVP_PKEY_cmp(key, certgen_key(kinds[i])), 1);
            assert_int_equal(memmem(der.data, der.len, CERTGEN_ID, strlen(CERTGEN_ID)) != NULL,
                             with_id);
            EVP_PKEY_free(key);
            buf_fini(&der);
        }
    }
}

static void test_what_is_not_built(void **state)
{
    struct buf der = {0};

    (void)state;
    assert_int_equal(csr_build(certgen_key(CERTGEN_P256), "spiffe://Example.org/a", &der).code,
                     E_SPIFFE_SYNTAX);
    assert_int_equal(csr_build(certgen_key(CERTGEN_P224), CERTGEN_ID, &der).code, E_KEY_WEAK);
    assert_int_equal(buf_size(&der), 0);
    buf_fini(&der);
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
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_every_bit_counts),
        cmocka_unit_test(test_every_length_counts),
        cmocka_unit_test(test_built_is_parsed),
        cmocka_unit_test(test_what_is_not_built),
    };

    return cmocka_run_group_tests(tests, NULL, teardown);
}
