#include "test/unit/certs/certgen.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/bytestring.h>
#include <openssl/curve25519.h>
#include <openssl/digest.h>
#include <openssl/ec_key.h>
#include <openssl/mem.h>
#include <openssl/nid.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

/* --- keys --- */

static EVP_PKEY *certgen_keys[CERTGEN_KEYS];

static EVP_PKEY *certgen_new_ec(int curve)
{
    EVP_PKEY *key = EVP_PKEY_new();
    EC_KEY *ec = EC_KEY_new_by_curve_name(curve);

    CHECK(key != NULL && ec != NULL && EC_KEY_generate_key(ec));
    CHECK(EVP_PKEY_assign_EC_KEY(key, ec));
    return key;
}

static EVP_PKEY *certgen_new_rsa(int bits)
{
    EVP_PKEY *key = EVP_PKEY_new();
    RSA *rsa = RSA_new();
    BIGNUM *e = BN_new();

    CHECK(key != NULL && rsa != NULL && e != NULL && BN_set_word(e, RSA_F4));
    CHECK(RSA_generate_key_ex(rsa, bits, e, NULL));
    CHECK(EVP_PKEY_assign_RSA(key, rsa));
    BN_free(e);
    return key;
}

static EVP_PKEY *certgen_new_ed25519(void)
{
    uint8_t seed[32] = {1, 2, 3};
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, sizeof seed);

    CHECK(key != NULL);
    return key;
}

static EVP_PKEY *certgen_new_key(enum certgen_key kind)
{
    switch ((int)kind) {
    case CERTGEN_P224:
        return certgen_new_ec(NID_secp224r1);
    case CERTGEN_P384:
        return certgen_new_ec(NID_secp384r1);
    case CERTGEN_P521:
        return certgen_new_ec(NID_secp521r1);
    case CERTGEN_RSA1024:
        return certgen_new_rsa(1024);
    case CERTGEN_RSA2048:
        return certgen_new_rsa(2048);
    case CERTGEN_ED25519:
        return certgen_new_ed25519();
    default:
        return certgen_new_ec(NID_X9_62_prime256v1);
    }
}

EVP_PKEY *certgen_key(enum certgen_key kind)
{
    CHECK(kind < CERTGEN_KEYS);
    if (certgen_keys[kind] == NULL)
        certgen_keys[kind] = certgen_new_key(kind);
    return certgen_keys[kind];
}

void certgen_cleanup(void)
{
    for (size_t i = 0; i < CERTGEN_KEYS; i++) {
        EVP_PKEY_free(certgen_keys[i]);
        certgen_keys[i] = NULL;
    }
}

/* --- DER --- */

#define CERTGEN_SEQ CBS_ASN1_SEQUENCE

static const uint8_t oid_cn[] = {0x55, 0x04, 0x03};
static const uint8_t oid_ec_key[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01};
static const uint8_t oid_prime_field[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x01, 0x01};
static const uint8_t oid_rsa[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01};
static const uint8_t oid_dsa[] = {0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01};
static const uint8_t oid_unknown[] = {0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x63, 0x07};
static const uint8_t oid_san[] = {0x55, 0x1d, 0x11};
static const uint8_t oid_basic[] = {0x55, 0x1d, 0x13};
static const uint8_t oid_usage[] = {0x55, 0x1d, 0x0f};
static const uint8_t oid_eku[] = {0x55, 0x1d, 0x25};
static const uint8_t oid_constraints[] = {0x55, 0x1d, 0x1e};
static const uint8_t oid_policies[] = {0x55, 0x1d, 0x20};
static const uint8_t oid_policy_rules[] = {0x55, 0x1d, 0x24};
static const uint8_t oid_skid[] = {0x55, 0x1d, 0x0e};
static const uint8_t oid_akid[] = {0x55, 0x1d, 0x23};

static void certgen_oid(CBB *cbb, const uint8_t *oid, size_t len)
{
    CBB child;

    CHECK(CBB_add_asn1(cbb, &child, CBS_ASN1_OBJECT) && CBB_add_bytes(&child, oid, len) &&
          CBB_flush(cbb));
}

static void certgen_bytes(CBB *cbb, CBS_ASN1_TAG tag, const void *data, size_t len)
{
    CBB child;

    CHECK(CBB_add_asn1(cbb, &child, tag) && CBB_add_bytes(&child, data, len) && CBB_flush(cbb));
}

static void certgen_finish(CBB *cbb, uint8_t **out, size_t *out_len)
{
    CHECK(CBB_finish(cbb, out, out_len));
}

/* --- keys that cannot sign --- */

/* An RSA key with a modulus of `bits`, that nobody knows the factors of. */
static void certgen_made_up_rsa(CBB *spki, size_t bits)
{
    CBB algorithm;
    CBB key;
    CBB rsa;
    CBB modulus;
    size_t len = bits / 8 + 1;
    uint8_t *n = mem_zalloc(len);

    memset(n, 0xa5, len);
    n[0] = bits % 8 == 0 ? 0 : (uint8_t)(1U << (bits % 8 - 1));
    CHECK(CBB_add_asn1(spki, &algorithm, CERTGEN_SEQ));
    certgen_oid(&algorithm, oid_rsa, sizeof oid_rsa);
    certgen_bytes(&algorithm, CBS_ASN1_NULL, "", 0);
    CHECK(CBB_add_asn1(spki, &key, CBS_ASN1_BITSTRING) && CBB_add_u8(&key, 0));
    CHECK(CBB_add_asn1(&key, &rsa, CERTGEN_SEQ) && CBB_add_asn1(&rsa, &modulus, CBS_ASN1_INTEGER));
    CHECK(CBB_add_bytes(&modulus, n, len) && CBB_add_asn1_uint64(&rsa, 65537) && CBB_flush(spki));
    mem_free(n);
}

/* P-256 with its parameters written out, as `openssl ecparam -param_enc explicit` does. */
static void certgen_explicit(CBB *spki)
{
    static const uint8_t p[] = {0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00,
                                0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff,
                                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t a[] = {0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
                                0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff,
                                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc};
    static const uint8_t b[] = {0x5a, 0xc6, 0x35, 0xd8, 0xaa, 0x3a, 0x93, 0xe7, 0xb3, 0xeb, 0xbd,
                                0x55, 0x76, 0x98, 0x86, 0xbc, 0x65, 0x1d, 0x06, 0xb0, 0xcc, 0x53,
                                0xb0, 0xf6, 0x3b, 0xce, 0x3c, 0x3e, 0x27, 0xd2, 0x60, 0x4b};
    static const uint8_t g[] = {0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc,
                                0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d,
                                0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
                                0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb,
                                0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31,
                                0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5};
    static const uint8_t n[] = {0x00, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff,
                                0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
                                0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51};
    CBB algorithm;
    CBB params;
    CBB field;
    CBB curve;
    CBB key;

    CHECK(CBB_add_asn1(spki, &algorithm, CERTGEN_SEQ));
    certgen_oid(&algorithm, oid_ec_key, sizeof oid_ec_key);
    CHECK(CBB_add_asn1(&algorithm, &params, CERTGEN_SEQ) && CBB_add_asn1_uint64(&params, 1));
    CHECK(CBB_add_asn1(&params, &field, CERTGEN_SEQ));
    certgen_oid(&field, oid_prime_field, sizeof oid_prime_field);
    certgen_bytes(&field, CBS_ASN1_INTEGER, p, sizeof p);
    CHECK(CBB_add_asn1(&params, &curve, CERTGEN_SEQ));
    certgen_bytes(&curve, CBS_ASN1_OCTETSTRING, a, sizeof a);
    certgen_bytes(&curve, CBS_ASN1_OCTETSTRING, b, sizeof b);
    certgen_bytes(&params, CBS_ASN1_OCTETSTRING, g, sizeof g);
    certgen_bytes(&params, CBS_ASN1_INTEGER, n, sizeof n);
    CHECK(CBB_add_asn1_uint64(&params, 1));
    CHECK(CBB_add_asn1(spki, &key, CBS_ASN1_BITSTRING) && CBB_add_u8(&key, 0) &&
          CBB_add_bytes(&key, g, sizeof g) && CBB_flush(spki)); /* the generator is a point too */
}

static void certgen_odd_key(CBB *spki, const uint8_t *oid, size_t oid_len)
{
    CBB algorithm;
    CBB key;

    CHECK(CBB_add_asn1(spki, &algorithm, CERTGEN_SEQ));
    certgen_oid(&algorithm, oid, oid_len);
    CHECK(CBB_add_asn1(spki, &key, CBS_ASN1_BITSTRING) && CBB_add_u8(&key, 0));
    CHECK(CBB_add_asn1_uint64(&key, 12345) && CBB_flush(spki));
}

static void certgen_garbage_point(CBB *spki)
{
    static const uint8_t p256[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    uint8_t point[65] = {0x04, 0x01, 0x02};
    CBB algorithm;
    CBB key;

    CHECK(CBB_add_asn1(spki, &algorithm, CERTGEN_SEQ));
    certgen_oid(&algorithm, oid_ec_key, sizeof oid_ec_key);
    certgen_oid(&algorithm, p256, sizeof p256);
    CHECK(CBB_add_asn1(spki, &key, CBS_ASN1_BITSTRING) && CBB_add_u8(&key, 0) &&
          CBB_add_bytes(&key, point, sizeof point) && CBB_flush(spki));
}

void certgen_spki(enum certgen_key kind, uint8_t **out, size_t *out_len)
{
    CBB cbb;
    CBB spki;

    CHECK(CBB_init(&cbb, 512));
    if (kind < CERTGEN_KEYS) {
        CHECK(EVP_marshal_public_key(&cbb, certgen_key(kind)));
        certgen_finish(&cbb, out, out_len);
        return;
    }
    CHECK(CBB_add_asn1(&cbb, &spki, CERTGEN_SEQ));
    if (kind == CERTGEN_RSA2047)
        certgen_made_up_rsa(&spki, 2047);
    else if (kind == CERTGEN_RSA8193)
        certgen_made_up_rsa(&spki, 8193);
    else if (kind == CERTGEN_RSA16384)
        certgen_made_up_rsa(&spki, 16384);
    else if (kind == CERTGEN_DSA)
        certgen_odd_key(&spki, oid_dsa, sizeof oid_dsa);
    else if (kind == CERTGEN_EXPLICIT_P256)
        certgen_explicit(&spki);
    else if (kind == CERTGEN_UNKNOWN_KEY)
        certgen_odd_key(&spki, oid_unknown, sizeof oid_unknown);
    else
        certgen_garbage_point(&spki);
    certgen_finish(&cbb, out, out_len);
}

/* --- extensions --- */

static void certgen_extension(CBB *list, const uint8_t *oid, size_t oid_len, bool critical,
                              const uint8_t *value, size_t len)
{
    CBB extension;

    CHECK(CBB_add_asn1(list, &extension, CERTGEN_SEQ));
    certgen_oid(&extension, oid, oid_len);
    if (critical)
        certgen_bytes(&extension, CBS_ASN1_BOOLEAN, "\xff", 1);
    certgen_bytes(&extension, CBS_ASN1_OCTETSTRING, value, len);
    CHECK(CBB_flush(list));
}

/* certgen_put finishes `value` and adds it as `opt` says. */
static void certgen_put(CBB *list, enum certgen_opt opt, const uint8_t *oid, size_t oid_len,
                        bool critical, CBB *value)
{
    static const uint8_t malformed[] = {0x30, 0x05, 0x02, 0x01};
    uint8_t *der = NULL;
    size_t len = 0;

    certgen_finish(value, &der, &len);
    if (opt == CERTGEN_MALFORMED)
        certgen_extension(list, oid, oid_len, critical, malformed, sizeof malformed);
    for (int i = 0; i < (opt == CERTGEN_TWICE ? 2 : opt == CERTGEN_USUAL ? 1 : 0); i++)
        certgen_extension(list, oid, oid_len, critical, der, len);
    OPENSSL_free(der);
}

static void certgen_general_name(CBB *list, const struct certgen_name *name)
{
    CBB child;
    CBS_ASN1_TAG tag = CBS_ASN1_CONTEXT_SPECIFIC | (name->tag & 0x1fU);

    if ((name->tag & CERTGEN_CONSTRUCTED) != 0)
        tag |= CBS_ASN1_CONSTRUCTED;
    CHECK(CBB_add_asn1(list, &child, tag));
    if (name->text != NULL)
        CHECK(CBB_add_bytes(&child, (const uint8_t *)name->text, name->len));
    for (size_t i = 0; name->text == NULL && i < name->len; i++)
        CHECK(CBB_add_u8(&child, 'a'));
    CHECK(CBB_flush(list));
}

static void certgen_dns_names(CBB *list, size_t num, bool subtrees)
{
    for (size_t i = 0; i < num; i++) {
        char text[48];
        CBB subtree;
        (void)snprintf(text, sizeof text, "n%zu.example.org", i);
        struct certgen_name name = {0x82, text, strlen(text)};
        if (subtrees) {
            CHECK(CBB_add_asn1(list, &subtree, CERTGEN_SEQ));
            certgen_general_name(&subtree, &name);
            CHECK(CBB_flush(list));
        } else {
            certgen_general_name(list, &name);
        }
    }
}

static void certgen_add_sans(CBB *list, const struct certgen_params *params)
{
    static const struct certgen_name usual = CERTGEN_URI(CERTGEN_ID);
    CBB value;
    CBB names;

    if (params->sans[0].tag == 0 && params->num_dns == 0 && params->ca &&
        params->san == CERTGEN_USUAL)
        return;
    CHECK(CBB_init(&value, 64) && CBB_add_asn1(&value, &names, CERTGEN_SEQ));
    for (size_t i = 0; i < 6 && params->sans[i].tag != 0; i++)
        certgen_general_name(&names, &params->sans[i]);
    certgen_dns_names(&names, params->num_dns, false);
    if (params->sans[0].tag == 0 && params->num_dns == 0)
        certgen_general_name(&names, &usual);
    certgen_put(list, params->san, oid_san, sizeof oid_san, params->san_critical, &value);
}

static void certgen_add_basic(CBB *list, const struct certgen_params *params)
{
    bool ca = params->ca != params->flip_ca;
    CBB value;
    CBB basic;

    CHECK(CBB_init(&value, 16) && CBB_add_asn1(&value, &basic, CERTGEN_SEQ));
    if (ca)
        certgen_bytes(&basic, CBS_ASN1_BOOLEAN, "\xff", 1);
    if (params->path_len > 0)
        CHECK(CBB_add_asn1_uint64(&basic, (uint64_t)params->path_len - 1));
    certgen_put(list, params->basic, oid_basic, sizeof oid_basic, true, &value);
}

static void certgen_add_usage(CBB *list, const struct certgen_params *params)
{
    uint8_t bits = (uint8_t)params->usage_bits;
    uint8_t unused = 0;
    CBB value;

    if (bits == 0)
        bits = params->ca ? CERTGEN_KU_CERT_SIGN | CERTGEN_KU_CRL_SIGN : CERTGEN_KU_SIGN;
    while (unused < 7 && (bits & 1U << unused) == 0)
        unused++;
    uint8_t content[2] = {unused, bits};
    CHECK(CBB_init(&value, 16));
    certgen_bytes(&value, CBS_ASN1_BITSTRING, content, sizeof content);
    certgen_put(list, params->usage, oid_usage, sizeof oid_usage, true, &value);
}

static void certgen_add_eku(CBB *list, const struct certgen_params *params)
{
    static const uint8_t purpose[] = {0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03};
    static const uint8_t any[] = {0x55, 0x1d, 0x25, 0x00};
    static const struct {
        unsigned bit;
        uint8_t last;
    } kinds[] = {{CERTGEN_EKU_SERVER, 1},
                 {CERTGEN_EKU_CLIENT, 2},
                 {CERTGEN_EKU_CODE, 3},
                 {CERTGEN_EKU_EMAIL, 4}};
    unsigned bits = params->eku_bits;
    CBB value;
    CBB ekus;

    if (bits == 0 && params->ca && params->eku == CERTGEN_USUAL)
        return;
    if (bits == 0)
        bits = CERTGEN_EKU_SERVER | CERTGEN_EKU_CLIENT;
    CHECK(CBB_init(&value, 32) && CBB_add_asn1(&value, &ekus, CERTGEN_SEQ));
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        uint8_t oid[sizeof purpose + 1];
        memcpy(oid, purpose, sizeof purpose);
        oid[sizeof purpose] = kinds[i].last;
        if ((bits & kinds[i].bit) != 0)
            certgen_oid(&ekus, oid, sizeof oid);
    }
    if ((bits & CERTGEN_EKU_ANY) != 0)
        certgen_oid(&ekus, any, sizeof any);
    certgen_put(list, params->eku, oid_eku, sizeof oid_eku, params->eku_critical, &value);
}

static void certgen_add_subtrees(CBB *both, unsigned tag, const struct certgen_name *names,
                                 size_t num_dns)
{
    CBB list;
    CBB subtree;

    if (names[0].tag == 0 && num_dns == 0)
        return;
    CHECK(CBB_add_asn1(both, &list, CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | tag));
    for (size_t i = 0; i < 4 && names[i].tag != 0; i++) {
        CHECK(CBB_add_asn1(&list, &subtree, CERTGEN_SEQ));
        certgen_general_name(&subtree, &names[i]);
        CHECK(CBB_flush(&list));
    }
    certgen_dns_names(&list, num_dns, true);
    CHECK(CBB_flush(both));
}

static void certgen_add_constraints(CBB *list, const struct certgen_params *params)
{
    CBB value;
    CBB both;
    CBB none;

    if (params->permitted[0].tag == 0 && params->excluded[0].tag == 0 &&
        params->num_excluded == 0 && !params->constraints_malformed && !params->constraints_empty)
        return;
    CHECK(CBB_init(&value, 64) && CBB_add_asn1(&value, &both, CERTGEN_SEQ));
    if (params->constraints_empty)
        CHECK(CBB_add_asn1(&both, &none, CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | 0) &&
              CBB_flush(&both));
    certgen_add_subtrees(&both, 0, params->permitted, 0);
    certgen_add_subtrees(&both, 1, params->excluded, params->num_excluded);
    certgen_put(list, params->constraints_malformed ? CERTGEN_MALFORMED : CERTGEN_USUAL,
                oid_constraints, sizeof oid_constraints, true, &value);
}

static void certgen_add_ids(CBB *list, const struct certgen_params *params,
                            const struct certgen *self, const struct certgen *issuer)
{
    uint8_t key_id[20];
    CBB value;
    CBB akid;

    if (params->ids == CERTGEN_NONE)
        return;
    CHECK(CBB_init(&value, 32));
    certgen_bytes(&value, CBS_ASN1_OCTETSTRING, self->key_id, sizeof self->key_id);
    certgen_put(list, CERTGEN_USUAL, oid_skid, sizeof oid_skid, false, &value);

    memcpy(key_id, issuer != NULL ? issuer->key_id : self->key_id, sizeof key_id);
    if (params->akid_lies)
        key_id[0] ^= 1;
    CHECK(CBB_init(&value, 32) && CBB_add_asn1(&value, &akid, CERTGEN_SEQ));
    certgen_bytes(&akid, CBS_ASN1_CONTEXT_SPECIFIC | 0, key_id, sizeof key_id);
    certgen_put(list, CERTGEN_USUAL, oid_akid, sizeof oid_akid, false, &value);
}

static void certgen_add_policies(CBB *list, const struct certgen_params *params)
{
    if (params->policies) /* 1.2.3.4 */
        certgen_extension(list, oid_policies, sizeof oid_policies, false,
                          (const uint8_t *)"\x30\x07\x30\x05\x06\x03\x2a\x03\x04", 9);
    if (params->explicit_policy) /* requireExplicitPolicy 0 */
        certgen_extension(list, oid_policy_rules, sizeof oid_policy_rules, true,
                          (const uint8_t *)"\x30\x03\x80\x01\x00", 5);
}

static void certgen_add_unknown(CBB *list, const struct certgen_params *params)
{
    uint8_t oid[sizeof oid_unknown + 1];
    uint8_t *filler = mem_zalloc(params->extension_len);

    memcpy(oid, oid_unknown, sizeof oid_unknown);
    oid[sizeof oid_unknown] = 1;
    if (params->unknown_critical || params->unknown_plain)
        certgen_extension(list, oid, sizeof oid, params->unknown_critical,
                          (const uint8_t *)"\x05\x00", 2);
    for (size_t i = 0; i < params->num_extensions; i++) {
        oid[sizeof oid_unknown] = (uint8_t)(i + 2);
        certgen_extension(list, oid, sizeof oid, false, (const uint8_t *)"\x05\x00", 2);
    }
    if (params->extension_len > 0)
        certgen_extension(list, oid, sizeof oid, false, filler, params->extension_len);
    mem_free(filler);
}

/* --- the certificate --- */

struct certgen_algorithm {
    uint8_t len;
    uint8_t oid[9];
    bool null_param;
};

static const struct certgen_algorithm *certgen_algorithm(const EVP_PKEY *key,
                                                         enum certgen_hash hash)
{
    static const struct certgen_algorithm ecdsa[] = {
        [CERTGEN_SHA256] = {8, {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}, false},
        [CERTGEN_SHA384] = {8, {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03}, false},
        [CERTGEN_SHA512] = {8, {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04}, false},
        [CERTGEN_SHA1] = {7, {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01}, false},
    };
    static const struct certgen_algorithm rsa[] = {
        [CERTGEN_SHA256] = {9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b}, true},
        [CERTGEN_SHA384] = {9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c}, true},
        [CERTGEN_SHA512] = {9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d}, true},
        [CERTGEN_SHA1] = {9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05}, true},
        [CERTGEN_MD5] = {9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04}, true},
    };
    static const struct certgen_algorithm ed25519 = {3, {0x2b, 0x65, 0x70}, false};

    if (EVP_PKEY_id(key) == EVP_PKEY_ED25519)
        return &ed25519;
    return EVP_PKEY_id(key) == EVP_PKEY_RSA ? &rsa[hash] : &ecdsa[hash];
}

static void certgen_add_algorithm(CBB *cbb, const struct certgen_algorithm *algorithm)
{
    CBB child;

    CHECK(CBB_add_asn1(cbb, &child, CERTGEN_SEQ));
    certgen_oid(&child, algorithm->oid, algorithm->len);
    if (algorithm->null_param)
        certgen_bytes(&child, CBS_ASN1_NULL, "", 0);
    CHECK(CBB_flush(cbb));
}

static void certgen_add_cn(CBB *cbb, const char *text)
{
    CBB name;
    CBB set;
    CBB attribute;

    CHECK(CBB_add_asn1(cbb, &name, CERTGEN_SEQ) && CBB_add_asn1(&name, &set, CBS_ASN1_SET) &&
          CBB_add_asn1(&set, &attribute, CERTGEN_SEQ));
    certgen_oid(&attribute, oid_cn, sizeof oid_cn);
    certgen_bytes(&attribute, CBS_ASN1_UTF8STRING, text, strlen(text));
    CHECK(CBB_flush(cbb));
}

/* UTCTime up to 2049, GeneralizedTime from then on: RFC 5280 section 4.1.2.5. */
static void certgen_add_time(CBB *cbb, int64_t unix_s)
{
    time_t when = (time_t)unix_s;
    struct tm tm;
    char text[32];

    CHECK(gmtime_r(&when, &tm) != NULL);
    if (tm.tm_year < 150) {
        CHECK(strftime(text, sizeof text, "%y%m%d%H%M%SZ", &tm) > 0);
        certgen_bytes(cbb, CBS_ASN1_UTCTIME, text, strlen(text));
    } else {
        CHECK(strftime(text, sizeof text, "%Y%m%d%H%M%SZ", &tm) > 0);
        certgen_bytes(cbb, CBS_ASN1_GENERALIZEDTIME, text, strlen(text));
    }
}

static void certgen_add_validity(CBB *cbb, const struct certgen_params *params)
{
    CBB validity;

    CHECK(CBB_add_asn1(cbb, &validity, CERTGEN_SEQ));
    certgen_add_time(&validity, CERTGEN_NOW - 3600 + params->from_s);
    if (params->raw_not_after != NULL)
        certgen_bytes(&validity, CBS_ASN1_UTCTIME, params->raw_not_after,
                      strlen(params->raw_not_after));
    else
        certgen_add_time(&validity, CERTGEN_NOW + 86400 + params->to_s);
    CHECK(CBB_flush(cbb));
}

static void certgen_add_version(CBB *cbb, int version)
{
    CBB child;

    if (version == 1)
        return;
    CHECK(CBB_add_asn1(cbb, &child, CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | 0) &&
          CBB_add_asn1_uint64(&child, version == 0 ? 2 : (uint64_t)version - 1) && CBB_flush(cbb));
}

static void certgen_add_extensions(CBB *tbs, const struct certgen_params *params,
                                   const struct certgen *self, const struct certgen *issuer)
{
    CBB child;
    CBB list;

    if (params->version == 1)
        return;
    CHECK(CBB_add_asn1(tbs, &child, CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | 3) &&
          CBB_add_asn1(&child, &list, CERTGEN_SEQ));
    if (params->raw_extensions.ptr != NULL) {
        CHECK(CBB_add_bytes(&list, params->raw_extensions.ptr, params->raw_extensions.len) &&
              CBB_flush(tbs));
        return;
    }
    certgen_add_basic(&list, params);
    certgen_add_usage(&list, params);
    certgen_add_eku(&list, params);
    certgen_add_ids(&list, params, self, issuer);
    certgen_add_constraints(&list, params);
    certgen_add_sans(&list, params);
    certgen_add_policies(&list, params);
    certgen_add_unknown(&list, params);
    CHECK(CBB_flush(tbs));
}

static void certgen_tbs(CBB *cbb, const struct certgen_params *params, struct certgen *self,
                        const struct certgen *issuer, const struct certgen_algorithm *algorithm)
{
    static uint8_t counter;
    uint8_t serial[] = {0x11, 0x22, ++counter};
    uint8_t *spki = NULL;
    size_t spki_len = 0;
    CBB tbs;

    CHECK(CBB_add_asn1(cbb, &tbs, CERTGEN_SEQ));
    certgen_add_version(&tbs, params->version);
    certgen_bytes(&tbs, CBS_ASN1_INTEGER,
                  params->serial != NULL ? (const void *)params->serial : serial,
                  params->serial != NULL ? params->serial_len : sizeof serial);
    certgen_add_algorithm(&tbs, algorithm);
    certgen_add_cn(&tbs, params->issuer_name != NULL ? params->issuer_name
                         : issuer != NULL            ? issuer->subject
                                                     : self->subject);
    certgen_add_validity(&tbs, params);
    certgen_add_cn(&tbs, self->subject);
    certgen_spki(params->key, &spki, &spki_len);
    SHA1(spki, spki_len, self->key_id);
    CHECK(CBB_add_bytes(&tbs, spki, spki_len));
    OPENSSL_free(spki);
    certgen_add_extensions(&tbs, params, self, issuer);
    CHECK(CBB_flush(cbb));
}

static const EVP_MD *certgen_digest(const EVP_PKEY *key, enum certgen_hash hash)
{
    if (EVP_PKEY_id(key) == EVP_PKEY_ED25519)
        return NULL;
    switch (hash) {
    case CERTGEN_SHA256:
        return EVP_sha256();
    case CERTGEN_SHA384:
        return EVP_sha384();
    case CERTGEN_SHA512:
        return EVP_sha512();
    case CERTGEN_SHA1:
        return EVP_sha1();
    case CERTGEN_MD5:
        return EVP_md5();
    }
    return NULL;
}

static void certgen_sign(EVP_PKEY *key, enum certgen_hash hash, const uint8_t *tbs, size_t tbs_len,
                         uint8_t **out, size_t *out_len)
{
    EVP_MD_CTX ctx;

    EVP_MD_CTX_init(&ctx);
    CHECK(EVP_DigestSignInit(&ctx, NULL, certgen_digest(key, hash), NULL, key));
    CHECK(EVP_DigestSign(&ctx, NULL, out_len, tbs, tbs_len));
    *out = mem_alloc(*out_len);
    CHECK(EVP_DigestSign(&ctx, *out, out_len, tbs, tbs_len));
    EVP_MD_CTX_cleanup(&ctx);
}

struct certgen *certgen_make(const struct certgen *issuer, const struct certgen_params *params)
{
    struct certgen *self = mem_zalloc(sizeof *self);
    const char *subject = params->subject != NULL ? params->subject : params->ca ? "ca" : "leaf";
    uint8_t *tbs = NULL;
    uint8_t *signature = NULL;
    size_t tbs_len = 0;
    size_t signature_len = 0;
    CBB cbb;
    CBB cert;
    CBB bits;

    (void)snprintf(self->subject, sizeof self->subject, "%s", subject);
    /* What cannot sign signs with another key: its issued ones do not verify, or should not. */
    self->key = certgen_key(params->key < CERTGEN_KEYS ? params->key : CERTGEN_P256_OTHER);
    EVP_PKEY *key = issuer != NULL ? issuer->key : self->key;
    CHECK(key != NULL);
    const struct certgen_algorithm *algorithm = certgen_algorithm(key, params->hash);

    CHECK(CBB_init(&cbb, 1024));
    certgen_tbs(&cbb, params, self, issuer,
                params->hash_differs ? certgen_algorithm(key, CERTGEN_SHA512) : algorithm);
    certgen_finish(&cbb, &tbs, &tbs_len);
    certgen_sign(key, params->hash, tbs, tbs_len, &signature, &signature_len);
    if (params->bad_signature)
        signature[signature_len - 1] ^= 1;

    CHECK(CBB_init(&cbb, tbs_len + 256) && CBB_add_asn1(&cbb, &cert, CERTGEN_SEQ) &&
          CBB_add_bytes(&cert, tbs, tbs_len));
    certgen_add_algorithm(&cert, algorithm);
    CHECK(CBB_add_asn1(&cert, &bits, CBS_ASN1_BITSTRING) && CBB_add_u8(&bits, 0) &&
          CBB_add_bytes(&bits, signature, signature_len) && CBB_flush(&cbb));
    if (params->trailing)
        CHECK(CBB_add_u8(&cbb, 0));
    certgen_finish(&cbb, &self->der, &self->len);
    if (params->truncated)
        self->len--;
    OPENSSL_free(tbs);
    mem_free(signature);
    return self;
}

void certgen_free(struct certgen *cert)
{
    if (cert == NULL)
        return;
    OPENSSL_free(cert->der);
    mem_free(cert);
}

struct bytes certgen_der(const struct certgen *cert)
{
    return bytes_of(cert->der, cert->len);
}

struct bytes certgen_extensions(const struct certgen *cert)
{
    CBS in;
    CBS tbs;
    CBS skipped;
    CBS_ASN1_TAG tag = 0;

    CBS_init(&in, cert->der, cert->len);
    if (!CBS_get_asn1(&in, &in, CERTGEN_SEQ) || !CBS_get_asn1(&in, &tbs, CERTGEN_SEQ))
        return bytes_of(NULL, 0);
    while (CBS_len(&tbs) > 0 && CBS_get_any_asn1(&tbs, &skipped, &tag)) {
        if (tag == (CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | 3) &&
            CBS_get_asn1(&skipped, &skipped, CERTGEN_SEQ))
            return bytes_of(CBS_data(&skipped), CBS_len(&skipped));
    }
    return bytes_of(NULL, 0);
}
