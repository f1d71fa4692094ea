#include "test/testlib/testca.h"

#include <arpa/inet.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include <openssl/bio.h>
#include <openssl/bytestring.h>
#include <openssl/digest.h>
#include <openssl/ec_key.h>
#include <openssl/mem.h>
#include <openssl/nid.h>
#include <openssl/obj.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

static EVP_PKEY *testca_key_ec(int nid)
{
    EC_KEY *ec = EC_KEY_new_by_curve_name(nid);
    EVP_PKEY *key = EVP_PKEY_new();

    CHECK(ec != NULL && key != NULL);
    CHECK(EC_KEY_generate_key(ec) == 1);
    CHECK(EVP_PKEY_assign_EC_KEY(key, ec) == 1);
    return key;
}

static EVP_PKEY *testca_key_of_kind(int type, int rsa_bits)
{
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_id(type, NULL);

    CHECK(ctx != NULL && EVP_PKEY_keygen_init(ctx) == 1);
    if (type == EVP_PKEY_RSA)
        CHECK(EVP_PKEY_CTX_set_rsa_keygen_bits(ctx, rsa_bits) == 1);
    CHECK(EVP_PKEY_keygen(ctx, &key) == 1);
    EVP_PKEY_CTX_free(ctx);
    return key;
}

static EVP_PKEY *testca_key_new(enum testca_key kind)
{
    switch (kind) {
    case TESTCA_P256:
        return testca_key_ec(NID_X9_62_prime256v1);
    case TESTCA_P384:
        return testca_key_ec(NID_secp384r1);
    case TESTCA_P521:
        return testca_key_ec(NID_secp521r1);
    case TESTCA_P224:
        return testca_key_ec(NID_secp224r1);
    case TESTCA_RSA1024:
        return testca_key_of_kind(EVP_PKEY_RSA, 1024);
    case TESTCA_RSA2048:
        return testca_key_of_kind(EVP_PKEY_RSA, 2048);
    case TESTCA_RSA3072:
        return testca_key_of_kind(EVP_PKEY_RSA, 3072);
    case TESTCA_ED25519:
        return testca_key_of_kind(EVP_PKEY_ED25519, 0);
    }
    CHECK(!"a key kind of the list");
    return NULL;
}

static void testca_add_name(GENERAL_NAMES *names, int type, const char *text)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_IA5STRING *value = ASN1_IA5STRING_new();

    CHECK(name != NULL && value != NULL);
    CHECK(ASN1_STRING_set(value, text, (ossl_ssize_t)strlen(text)) == 1);
    GENERAL_NAME_set0_value(name, type, value);
    CHECK(sk_GENERAL_NAME_push(names, name) > 0);
}

static void testca_add_ip(GENERAL_NAMES *names, const char *text)
{
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
    uint8_t ip[16];
    int len = 4;

    CHECK(name != NULL && value != NULL);
    if (inet_pton(AF_INET, text, ip) != 1) {
        CHECK(inet_pton(AF_INET6, text, ip) == 1);
        len = 16;
    }
    CHECK(ASN1_OCTET_STRING_set(value, ip, len) == 1);
    GENERAL_NAME_set0_value(name, GEN_IPADD, value);
    CHECK(sk_GENERAL_NAME_push(names, name) > 0);
}

static bool testca_has_sans(const struct testca_params *params)
{
    return params->uri_sans != NULL || params->dns_sans != NULL || params->email_sans != NULL ||
           params->ip_sans != NULL;
}

static void testca_add_sans(X509 *cert, const struct testca_params *params)
{
    GENERAL_NAMES *names = GENERAL_NAMES_new();

    CHECK(names != NULL);
    for (const char *const *text = params->uri_sans; text != NULL && *text != NULL; text++)
        testca_add_name(names, GEN_URI, *text);
    for (const char *const *text = params->dns_sans; text != NULL && *text != NULL; text++)
        testca_add_name(names, GEN_DNS, *text);
    for (const char *const *text = params->email_sans; text != NULL && *text != NULL; text++)
        testca_add_name(names, GEN_EMAIL, *text);
    for (const char *const *text = params->ip_sans; text != NULL && *text != NULL; text++)
        testca_add_ip(names, *text);
    CHECK(X509_add1_ext_i2d(cert, NID_subject_alt_name, names, params->san_critical, 0) == 1);
    GENERAL_NAMES_free(names);
}

static void testca_add_basic_constraints(X509 *cert, const struct testca_params *params, bool ca)
{
    BASIC_CONSTRAINTS *basic = BASIC_CONSTRAINTS_new();

    CHECK(basic != NULL);
    basic->ca = ca ? 0xff : 0;
    if (params->path_len > 0) {
        basic->pathlen = ASN1_INTEGER_new();
        CHECK(basic->pathlen != NULL && ASN1_INTEGER_set(basic->pathlen, params->path_len - 1));
    }
    CHECK(X509_add1_ext_i2d(cert, NID_basic_constraints, basic, 1, 0) == 1);
    BASIC_CONSTRAINTS_free(basic);
}

static void testca_add_key_usage(X509 *cert, unsigned usage)
{
    /* The bits of X509v3_KU_*: the first octet of the BIT STRING is the low one, KU_DECIPHER_ONLY
     * the highest bit of the second. */
    ASN1_BIT_STRING *bits = ASN1_BIT_STRING_new();

    CHECK(bits != NULL);
    for (int i = 0; i < 8; i++)
        if ((usage >> (7 - i) & 1) != 0)
            CHECK(ASN1_BIT_STRING_set_bit(bits, i, 1) == 1);
    if ((usage & X509v3_KU_DECIPHER_ONLY) != 0)
        CHECK(ASN1_BIT_STRING_set_bit(bits, 8, 1) == 1);
    CHECK(X509_add1_ext_i2d(cert, NID_key_usage, bits, 1, 0) == 1);
    ASN1_BIT_STRING_free(bits);
}

static void testca_add_eku(X509 *cert, unsigned eku)
{
    static const struct {
        unsigned bit;
        int nid;
    } kinds[] = {{TESTCA_EKU_SERVER, NID_server_auth},
                 {TESTCA_EKU_CLIENT, NID_client_auth},
                 {TESTCA_EKU_EMAIL, NID_email_protect},
                 {TESTCA_EKU_ANY, NID_anyExtendedKeyUsage}};
    EXTENDED_KEY_USAGE *usages = EXTENDED_KEY_USAGE_new();

    CHECK(usages != NULL);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if ((eku & kinds[i].bit) != 0)
            CHECK(sk_ASN1_OBJECT_push(usages, OBJ_nid2obj(kinds[i].nid)) > 0);
    CHECK(X509_add1_ext_i2d(cert, NID_ext_key_usage, usages, 0, 0) == 1);
    EXTENDED_KEY_USAGE_free(usages);
}

static void testca_add_conf(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *ext;

    X509V3_set_ctx(&ctx, NULL, cert, NULL, NULL, 0);
    ext = X509V3_EXT_nconf_nid(NULL, &ctx, nid, value);
    CHECK(ext != NULL && X509_add_ext(cert, ext, -1) == 1);
    X509_EXTENSION_free(ext);
}

static void testca_add_name_constraints(X509 *cert, const struct testca_params *params)
{
    char *value =
        mem_printf("critical,%s%s%s%s%s", params->permit_uri != NULL ? "permitted;URI:" : "",
                   params->permit_uri != NULL ? params->permit_uri : "",
                   params->permit_uri != NULL && params->permit_dns != NULL ? "," : "",
                   params->permit_dns != NULL ? "permitted;DNS:" : "",
                   params->permit_dns != NULL ? params->permit_dns : "");

    testca_add_conf(cert, NID_name_constraints, value);
    mem_free(value);
}

static void testca_add_unknown(X509 *cert)
{
    ASN1_OBJECT *oid = OBJ_txt2obj("1.3.6.1.4.1.55555.1.2.3", 1);
    ASN1_OCTET_STRING *value = ASN1_OCTET_STRING_new();
    X509_EXTENSION *ext;

    CHECK(oid != NULL && value != NULL);
    CHECK(ASN1_OCTET_STRING_set(value, (const uint8_t *)"\x05\x00", 2) == 1);
    ext = X509_EXTENSION_create_by_OBJ(NULL, oid, 1, value);
    CHECK(ext != NULL && X509_add_ext(cert, ext, -1) == 1);
    X509_EXTENSION_free(ext);
    ASN1_OCTET_STRING_free(value);
    ASN1_OBJECT_free(oid);
}

/* Key identifiers as RFC 5280 section 4.2.1.2 (1): SHA-1 of the public key's bits. */
static void testca_key_id(const X509 *cert, uint8_t out[SHA_DIGEST_LENGTH])
{
    const ASN1_BIT_STRING *bits = X509_get0_pubkey_bitstr(cert);

    CHECK(bits != NULL);
    SHA1(ASN1_STRING_get0_data(bits), (size_t)ASN1_STRING_length(bits), out);
}

static ASN1_OCTET_STRING *testca_key_id_string(const X509 *cert)
{
    uint8_t id[SHA_DIGEST_LENGTH];
    ASN1_OCTET_STRING *string = ASN1_OCTET_STRING_new();

    testca_key_id(cert, id);
    CHECK(string != NULL && ASN1_OCTET_STRING_set(string, id, sizeof(id)) == 1);
    return string;
}

static void testca_add_key_ids(X509 *cert, const X509 *issuer)
{
    ASN1_OCTET_STRING *own = testca_key_id_string(cert);
    AUTHORITY_KEYID *authority = AUTHORITY_KEYID_new();

    CHECK(authority != NULL);
    authority->keyid = testca_key_id_string(issuer);
    CHECK(X509_add1_ext_i2d(cert, NID_subject_key_identifier, own, 0, 0) == 1);
    CHECK(X509_add1_ext_i2d(cert, NID_authority_key_identifier, authority, 0, 0) == 1);
    AUTHORITY_KEYID_free(authority);
    ASN1_OCTET_STRING_free(own);
}

static void testca_add_extensions(X509 *cert, const struct testca_params *params, bool ca,
                                  const X509 *issuer)
{
    unsigned usage = params->key_usage;
    unsigned eku = params->eku;

    if (usage == 0)
        usage = ca ? X509v3_KU_KEY_CERT_SIGN | X509v3_KU_CRL_SIGN : X509v3_KU_DIGITAL_SIGNATURE;
    if (eku == 0)
        eku = ca ? TESTCA_EKU_NONE : (unsigned)TESTCA_EKU_SERVER | TESTCA_EKU_CLIENT;
    if (!params->no_basic_constraints)
        testca_add_basic_constraints(cert, params, ca);
    if (usage != TESTCA_KU_NONE)
        testca_add_key_usage(cert, usage);
    if (eku != TESTCA_EKU_NONE)
        testca_add_eku(cert, eku);
    if (testca_has_sans(params))
        testca_add_sans(cert, params);
    if (params->permit_uri != NULL || params->permit_dns != NULL)
        testca_add_name_constraints(cert, params);
    if (params->unknown_critical)
        testca_add_unknown(cert);
    testca_add_key_ids(cert, issuer);
}

static char *testca_pem_of_bio(BIO *bio)
{
    const uint8_t *data;
    size_t len;
    char *text;

    CHECK(BIO_mem_contents(bio, &data, &len) == 1);
    text = mem_strndup((const char *)data, len);
    BIO_free(bio);
    return text;
}

static void testca_export(struct testca *out)
{
    BIO *bio = BIO_new(BIO_s_mem());
    const char *above = "";

    out->der_len = (size_t)i2d_X509(out->cert, &out->der);
    CHECK(out->der != NULL);
    CHECK(bio != NULL && PEM_write_bio_X509(bio, out->cert) == 1);
    out->cert_pem = testca_pem_of_bio(bio);
    if (out->key != NULL) {
        bio = BIO_new(BIO_s_mem());
        CHECK(bio != NULL);
        CHECK(PEM_write_bio_PKCS8PrivateKey(bio, out->key, NULL, NULL, 0, NULL, NULL) == 1);
        out->key_pem = testca_pem_of_bio(bio);
    }
    if (out->issuer != NULL && out->issuer->issuer != NULL)
        above = out->issuer->chain_pem;
    out->chain_pem = mem_printf("%s%s", out->cert_pem, above);
}

static const EVP_MD *testca_md(const struct testca_params *params, const EVP_PKEY *signer)
{
    if (EVP_PKEY_id(signer) == EVP_PKEY_ED25519)
        return NULL;
    switch (params->hash) {
    case TESTCA_SHA256:
        return EVP_sha256();
    case TESTCA_SHA384:
        return EVP_sha384();
    case TESTCA_SHA1:
        return EVP_sha1();
    }
    return EVP_sha256();
}

static void testca_turn_last_bit(X509 *cert)
{
    const ASN1_BIT_STRING *signature;
    const X509_ALGOR *algor;
    uint8_t *copy;
    size_t len;

    X509_get0_signature(&signature, &algor, cert);
    len = (size_t)ASN1_STRING_length(signature);
    copy = mem_dup(ASN1_STRING_get0_data(signature), len);
    copy[len - 1] ^= 1;
    CHECK(X509_set1_signature_value(cert, copy, len) == 1);
    mem_free(copy);
}

static void testca_set_time(ASN1_TIME *time, int64_t at_s)
{
    CHECK(ASN1_TIME_set(time, (time_t)at_s) != NULL);
}

static struct testca *testca_make(const struct testca *issuer, const struct testca_params *params,
                                  bool ca)
{
    static const struct testca_params defaults;
    static atomic_uint_fast64_t next_serial = 0x1001;
    struct testca *out = mem_zalloc(sizeof(*out));
    EVP_PKEY *subject_key, *signer;
    const char *name;

    if (params == NULL)
        params = &defaults;
    name = params->name;
    if (name == NULL && (ca || !testca_has_sans(params)))
        name = ca ? "test CA" : "test";
    if (params->use_key == NULL)
        out->key = testca_key_new(params->key);
    out->issuer = issuer;
    out->cert = X509_new();
    subject_key = params->use_key != NULL ? params->use_key : out->key;
    signer = issuer != NULL ? issuer->key : subject_key;
    CHECK(out->cert != NULL && signer != NULL);

    CHECK(X509_set_version(out->cert, params->version == 1 ? X509_VERSION_1 : X509_VERSION_3) == 1);
    CHECK(ASN1_INTEGER_set_uint64(X509_get_serialNumber(out->cert),
                                  params->serial != 0 ? params->serial
                                                      : atomic_fetch_add(&next_serial, 1)) == 1);
    testca_set_time(X509_getm_notBefore(out->cert),
                    params->not_before != 0 ? params->not_before : (int64_t)time(NULL) - 3600);
    testca_set_time(X509_getm_notAfter(out->cert),
                    params->not_after != 0 ? params->not_after : (int64_t)time(NULL) + 86400);
    if (name != NULL)
        CHECK(X509_NAME_add_entry_by_NID(X509_get_subject_name(out->cert), NID_commonName,
                                         MBSTRING_UTF8, (const uint8_t *)name, -1, -1, 0) == 1);
    CHECK(X509_set_issuer_name(
              out->cert, X509_get_subject_name(issuer != NULL ? issuer->cert : out->cert)) == 1);
    CHECK(X509_set_pubkey(out->cert, subject_key) == 1);
    if (params->version != 1)
        testca_add_extensions(out->cert, params, ca, issuer != NULL ? issuer->cert : out->cert);
    CHECK(X509_sign(out->cert, signer, testca_md(params, signer)) > 0);
    if (params->bad_signature)
        testca_turn_last_bit(out->cert);
    testca_export(out);
    return out;
}

struct testca *testca_new(const struct testca_params *params)
{
    return testca_make(NULL, params, true);
}

struct testca *testca_new_self_signed_leaf(const struct testca_params *params)
{
    return testca_make(NULL, params, params != NULL && params->is_ca);
}

struct testca *testca_issue(const struct testca *issuer, const struct testca_params *params)
{
    return testca_make(issuer, params, params != NULL && params->is_ca);
}

void testca_free(struct testca *cert)
{
    if (cert == NULL)
        return;
    X509_free(cert->cert);
    EVP_PKEY_free(cert->key);
    OPENSSL_free(cert->der);
    mem_free(cert->cert_pem);
    mem_free(cert->key_pem);
    mem_free(cert->chain_pem);
    mem_free(cert);
}

size_t testca_chain(const struct testca *cert, struct bytes *out, size_t max)
{
    size_t num = 0;

    for (; cert != NULL && (cert->issuer != NULL || num == 0); cert = cert->issuer) {
        CHECK(num < max);
        out[num++] = testca_der(cert);
    }
    return num;
}
