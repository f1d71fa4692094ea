#include "test/unit/certs/crlgen.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include <openssl/bytestring.h>
#include <openssl/digest.h>
#include <openssl/mem.h>
#include <openssl/x509.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

#define CRLGEN_CONTEXT(n) (CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | (n))

static const uint8_t oid_cn[] = {0x55, 0x04, 0x03};
static const uint8_t oid_reason[] = {0x55, 0x1d, 0x15};
static const uint8_t oid_entry_issuer[] = {0x55, 0x1d, 0x1d};
static const uint8_t oid_number[] = {0x55, 0x1d, 0x14};
static const uint8_t oid_delta[] = {0x55, 0x1d, 0x1b};
static const uint8_t oid_point[] = {0x55, 0x1d, 0x1c};
static const uint8_t oid_unknown[] = {0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x63, 0x07};
static const uint8_t oid_ecdsa_sha256[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02};
static const uint8_t oid_ecdsa_sha384[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03};
static const uint8_t oid_ecdsa_sha1[] = {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01};
static const uint8_t oid_rsa_sha256[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b};
static const uint8_t oid_rsa_sha384[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c};
static const uint8_t oid_rsa_sha1[] = {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05};

static void crlgen_bytes(CBB *cbb, CBS_ASN1_TAG tag, const void *data, size_t len)
{
    CBB child;

    CHECK(CBB_add_asn1(cbb, &child, tag) && CBB_add_bytes(&child, data, len) && CBB_flush(cbb));
}

static void crlgen_raw(CBB *cbb, struct bytes raw)
{
    CHECK(CBB_add_bytes(cbb, raw.ptr, raw.len));
}

static void crlgen_algorithm(CBB *cbb, const struct crlgen_params *params, EVP_PKEY *key,
                             bool other)
{
    CBB seq;
    bool rsa = EVP_PKEY_id(key) == EVP_PKEY_RSA;

    CHECK(CBB_add_asn1(cbb, &seq, CBS_ASN1_SEQUENCE));
    if (params->sha1)
        crlgen_bytes(&seq, CBS_ASN1_OBJECT, rsa ? oid_rsa_sha1 : oid_ecdsa_sha1,
                     rsa ? sizeof(oid_rsa_sha1) : sizeof(oid_ecdsa_sha1));
    else if (params->sha384 || other)
        crlgen_bytes(&seq, CBS_ASN1_OBJECT, rsa ? oid_rsa_sha384 : oid_ecdsa_sha384,
                     rsa ? sizeof(oid_rsa_sha384) : sizeof(oid_ecdsa_sha384));
    else
        crlgen_bytes(&seq, CBS_ASN1_OBJECT, rsa ? oid_rsa_sha256 : oid_ecdsa_sha256,
                     rsa ? sizeof(oid_rsa_sha256) : sizeof(oid_ecdsa_sha256));
    if (params->raw_parameters.ptr != NULL)
        crlgen_raw(&seq, params->raw_parameters);
    else if (rsa)
        crlgen_bytes(&seq, CBS_ASN1_NULL, "", 0);
    CHECK(CBB_flush(cbb));
}

static void crlgen_name(CBB *cbb, const struct certgen *issuer, const char *cn)
{
    const uint8_t *at = issuer->der, *name;
    CBB seq, set, entry;
    X509 *cert;
    size_t len;

    if (cn == NULL) {
        cert = d2i_X509(NULL, &at, (long)issuer->len);
        CHECK(cert != NULL && X509_NAME_get0_der(X509_get_subject_name(cert), &name, &len) &&
              CBB_add_bytes(cbb, name, len));
        X509_free(cert);
        return;
    }
    CHECK(CBB_add_asn1(cbb, &seq, CBS_ASN1_SEQUENCE) && CBB_add_asn1(&seq, &set, CBS_ASN1_SET) &&
          CBB_add_asn1(&set, &entry, CBS_ASN1_SEQUENCE));
    crlgen_bytes(&entry, CBS_ASN1_OBJECT, oid_cn, sizeof(oid_cn));
    crlgen_bytes(&entry, CBS_ASN1_UTF8STRING, cn, strlen(cn));
    CHECK(CBB_flush(cbb));
}

static void crlgen_time(CBB *cbb, int64_t unix_s, const char *raw)
{
    time_t when = (time_t)unix_s;
    char text[32];
    struct tm tm;

    CHECK(gmtime_r(&when, &tm) != NULL && strftime(text, sizeof(text), "%y%m%d%H%M%SZ", &tm) > 0);
    if (raw == NULL)
        raw = text;
    crlgen_bytes(cbb, CBS_ASN1_UTCTIME, raw, strlen(raw));
}

static void crlgen_extension(CBB *list, const uint8_t *oid, size_t oid_len, bool critical,
                             const void *value, size_t len)
{
    CBB seq;

    CHECK(CBB_add_asn1(list, &seq, CBS_ASN1_SEQUENCE));
    crlgen_bytes(&seq, CBS_ASN1_OBJECT, oid, oid_len);
    if (critical)
        crlgen_bytes(&seq, CBS_ASN1_BOOLEAN, "\xff", 1);
    crlgen_bytes(&seq, CBS_ASN1_OCTETSTRING, value, len);
    CHECK(CBB_flush(list));
}

static void crlgen_entry(CBB *list, const struct crlgen_params *params, struct bytes serial)
{
    static const uint8_t others_name[] = {0x30, 0x0b, 0xa4, 0x09, 0x30, 0x07, 0x31,
                                          0x05, 0x30, 0x03, 0x06, 0x01, 0x2a};
    uint8_t reason[] = {0x0a, 0x01, (uint8_t)params->reason};
    CBB entry, extensions;

    CHECK(CBB_add_asn1(list, &entry, CBS_ASN1_SEQUENCE));
    crlgen_bytes(&entry, CBS_ASN1_INTEGER, serial.ptr, serial.len);
    crlgen_time(&entry, CERTGEN_NOW - 7200, params->raw_when);
    if (params->raw_entry_extensions.ptr != NULL)
        crlgen_raw(&entry, params->raw_entry_extensions);
    if (params->reason != 0 || params->entry_issuer || params->entry_unknown_critical ||
        params->entry_unknown_plain) {
        CHECK(CBB_add_asn1(&entry, &extensions, CBS_ASN1_SEQUENCE));
        if (params->reason != 0)
            crlgen_extension(&extensions, oid_reason, sizeof(oid_reason), false, reason,
                             sizeof(reason));
        if (params->entry_issuer)
            crlgen_extension(&extensions, oid_entry_issuer, sizeof(oid_entry_issuer), true,
                             others_name, sizeof(others_name));
        if (params->entry_unknown_critical || params->entry_unknown_plain)
            crlgen_extension(&extensions, oid_unknown, sizeof(oid_unknown),
                             params->entry_unknown_critical, "\x05\x00", 2);
    }
    CHECK(CBB_flush(list));
}

static void crlgen_entries(CBB *tbs, const struct crlgen_params *params)
{
    CBB list;

    if (params->raw_revoked.ptr != NULL) {
        crlgen_raw(tbs, params->raw_revoked);
        return;
    }
    if (params->serials[0].ptr == NULL && params->many == 0)
        return;
    CHECK(CBB_add_asn1(tbs, &list, CBS_ASN1_SEQUENCE));
    for (size_t i = 0; i < ARRAY_LEN(params->serials) && params->serials[i].ptr != NULL; i++)
        crlgen_entry(&list, params, params->serials[i]);
    for (size_t i = params->many; i-- > 0;) { /* not in order */
        uint32_t number = 0x10000000u + (uint32_t)i * 7;
        uint8_t serial[4] = {(uint8_t)(number >> 24), (uint8_t)(number >> 16),
                             (uint8_t)(number >> 8), (uint8_t)number};

        crlgen_entry(&list, params, bytes_of(serial, sizeof(serial)));
    }
    CHECK(CBB_flush(tbs));
}

static void crlgen_number(CBB *list, const struct crlgen_params *params)
{
    uint8_t value[64] = {0x02, 0x01, 0x01};
    size_t len = 3;

    if (params->number.ptr != NULL) {
        CHECK(params->number.len < sizeof(value) - 2);
        value[1] = (uint8_t)params->number.len;
        memcpy(value + 2, params->number.ptr, params->number.len);
        len = 2 + params->number.len;
    }
    crlgen_extension(list, oid_number, sizeof(oid_number), false, value, len);
}

static void crlgen_extensions(CBB *tbs, const struct crlgen_params *params)
{
    CBB tagged, list;

    CHECK(CBB_add_asn1(tbs, &tagged, CRLGEN_CONTEXT(0)) &&
          CBB_add_asn1(&tagged, &list, CBS_ASN1_SEQUENCE));
    if (params->raw_extensions.ptr != NULL) {
        crlgen_raw(&list, params->raw_extensions);
        CHECK(CBB_flush(tbs));
        return;
    }
    crlgen_number(&list, params);
    if (params->twice)
        crlgen_number(&list, params);
    if (params->delta)
        crlgen_extension(&list, oid_delta, sizeof(oid_delta), true, "\x02\x01\x01", 3);
    if (params->indirect)
        crlgen_extension(&list, oid_point, sizeof(oid_point), true, "\x30\x03\x84\x01\xff", 5);
    if (params->partial)
        crlgen_extension(&list, oid_point, sizeof(oid_point), true, "\x30\x03\x81\x01\xff", 5);
    if (params->unknown_critical || params->unknown_plain)
        crlgen_extension(&list, oid_unknown, sizeof(oid_unknown), params->unknown_critical,
                         "\x05\x00", 2);
    for (size_t i = 0; i < params->num_extensions; i++)
        crlgen_extension(&list, oid_unknown, sizeof(oid_unknown), false, "\x05\x00", 2);
    CHECK(CBB_flush(tbs));
}

static void crlgen_tbs(CBB *out, const struct certgen *issuer, const struct crlgen_params *params,
                       EVP_PKEY *key)
{
    CBB tbs;

    CHECK(CBB_add_asn1(out, &tbs, CBS_ASN1_SEQUENCE));
    if (params->version != 1)
        CHECK(CBB_add_asn1_uint64(&tbs, params->version == 0 ? 1 : (uint64_t)params->version - 1));
    crlgen_algorithm(&tbs, params, key, params->inner_differs);
    if (params->raw_name.ptr != NULL)
        crlgen_raw(&tbs, params->raw_name);
    else
        crlgen_name(&tbs, issuer, params->issuer_name);
    crlgen_time(&tbs, CERTGEN_NOW - 3600 + params->this_s, params->raw_this);
    if (!params->no_next)
        crlgen_time(&tbs, CERTGEN_NOW + 86400 + params->next_s, NULL);
    crlgen_entries(&tbs, params);
    if (params->version != 1 || params->v1_extended)
        crlgen_extensions(&tbs, params);
    CHECK(CBB_flush(out));
}

static void crlgen_sign(CBB *list, const struct crlgen_params *params, EVP_PKEY *key,
                        const uint8_t *tbs, size_t tbs_len)
{
    const EVP_MD *md = params->sha1 ? EVP_sha1() : params->sha384 ? EVP_sha384() : EVP_sha256();
    uint8_t signature[1024];
    size_t len = sizeof(signature);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    CBB bits;

    CHECK(ctx != NULL && EVP_DigestSignInit(ctx, NULL, md, NULL, key) &&
          EVP_DigestSign(ctx, signature, &len, tbs, tbs_len));
    EVP_MD_CTX_free(ctx);
    if (params->bad_signature)
        signature[len - 1] ^= 1;
    CHECK(CBB_add_asn1(list, &bits, CBS_ASN1_BITSTRING) && CBB_add_u8(&bits, 0) &&
          CBB_add_bytes(&bits, signature, len) && CBB_flush(list));
}

struct bytes crlgen_make(const struct certgen *issuer, const struct crlgen_params *params)
{
    EVP_PKEY *key = params->key != NULL ? params->key : issuer->key;
    CBB tbs, out, list;
    uint8_t *tbs_der, *der;
    size_t tbs_len, len;

    CHECK(CBB_init(&tbs, 512));
    crlgen_tbs(&tbs, issuer, params, key);
    CHECK(CBB_finish(&tbs, &tbs_der, &tbs_len));
    CHECK(CBB_init(&out, 512) && CBB_add_asn1(&out, &list, CBS_ASN1_SEQUENCE) &&
          CBB_add_bytes(&list, tbs_der, tbs_len));
    crlgen_algorithm(&list, params, key, false);
    crlgen_sign(&list, params, key, tbs_der, tbs_len);
    CHECK(CBB_flush(&out));
    if (params->trailing)
        CHECK(CBB_add_u8(&out, 0));
    CHECK(CBB_finish(&out, &der, &len));
    OPENSSL_free(tbs_der);
    return bytes_of(der, len);
}

void crlgen_free(struct bytes der)
{
    OPENSSL_free((void *)(uintptr_t)der.ptr);
}
