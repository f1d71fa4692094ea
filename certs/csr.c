#include "certs/csr.h"

#include <openssl/x509.h>

#include "certs/boring.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"

static void csr_names_freep(GENERAL_NAMES **names)
{
    GENERAL_NAMES_free(*names);
}

static void csr_extensions_freep(STACK_OF(X509_EXTENSION) * *list)
{
    if (*list != NULL)
        sk_X509_EXTENSION_pop_free(*list, X509_EXTENSION_free);
}

static void csr_general_name_freep(GENERAL_NAME **name)
{
    GENERAL_NAME_free(*name);
}

static bool csr_add_uri(X509_REQ *req, const char *uri)
{
    CLEANUP(csr_names_freep) GENERAL_NAMES *names = GENERAL_NAMES_new();
    CLEANUP(csr_general_name_freep) GENERAL_NAME *name = GENERAL_NAME_new();
    CLEANUP(csr_extensions_freep) STACK_OF(X509_EXTENSION) *list = NULL;
    ASN1_IA5STRING *text = ASN1_IA5STRING_new();

    if (names == NULL || name == NULL || text == NULL ||
        !ASN1_STRING_set(text, uri, (ossl_ssize_t)strlen(uri))) {
        ASN1_IA5STRING_free(text);
        return false;
    }
    GENERAL_NAME_set0_value(name, GEN_URI, text);
    if (!sk_GENERAL_NAME_push(names, name))
        return false;
    name = NULL;
    return X509V3_add1_i2d(&list, NID_subject_alt_name, names, 0, 0) == 1 &&
           X509_REQ_add_extensions(req, list);
}

err_t csr_build(EVP_PKEY *key, const char *spiffe_id, struct buf *out_der)
{
    BORING_SCOPE;
    CLEANUP(boring_req_freep) X509_REQ *req = X509_REQ_new();
    CLEANUP(boring_bytes_freep) uint8_t *der = NULL;
    struct spiffe_id parsed;

    TRY(key_check_strength(key));
    if (spiffe_id != NULL)
        TRY(spiffe_id_parse(bytes_of_str(spiffe_id), &parsed));
    if (req == NULL || !X509_REQ_set_version(req, X509_REQ_VERSION_1) ||
        !X509_REQ_set_pubkey(req, key) || (spiffe_id != NULL && !csr_add_uri(req, spiffe_id)) ||
        !X509_REQ_sign(req, key, key_digest(key)))
        return FAIL(NO_MEMORY, 0);
    int len = i2d_X509_REQ(req, &der);
    if (len <= 0)
        return FAIL(NO_MEMORY, 0);
    return buf_add(out_der, der, (size_t)len);
}

/* csr_digest knows the signature algorithms that a request may have; NULL: another one. RSA's has a
 * NULL for parameters or nothing, ECDSA's nothing (RFC 4055 section 5, RFC 5758 section 3.2). */
static const EVP_MD *csr_digest(CBS algorithm, int key_type)
{
    CBS oid;
    CBS null;
    static const struct {
        const EVP_MD *(*digest)(void);
        int key_type;
        uint8_t len;
        uint8_t oid[9];
    } known[] = {
        /* ecdsa-with-SHA256, -384, -512: RFC 5758 section 3.2 */
        {EVP_sha256, EVP_PKEY_EC, 8, {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}},
        {EVP_sha384, EVP_PKEY_EC, 8, {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03}},
        {EVP_sha512, EVP_PKEY_EC, 8, {0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04}},
        /* sha256WithRSAEncryption, 384, 512: RFC 8017 appendix A.2.4 */
        {EVP_sha256, EVP_PKEY_RSA, 9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b}},
        {EVP_sha384, EVP_PKEY_RSA, 9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c}},
        {EVP_sha512, EVP_PKEY_RSA, 9, {0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d}},
    };

    if (!CBS_get_asn1(&algorithm, &oid, CBS_ASN1_OBJECT))
        return NULL;
    if (key_type == EVP_PKEY_RSA && CBS_len(&algorithm) > 0 &&
        (!CBS_get_asn1(&algorithm, &null, CBS_ASN1_NULL) || CBS_len(&null) != 0))
        return NULL;
    if (CBS_len(&algorithm) != 0)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (known[i].key_type == key_type && CBS_mem_equal(&oid, known[i].oid, known[i].len))
            return known[i].digest();
    }
    return NULL;
}

/* The parts of a request that are looked at. */
struct csr_parts {
    CBS info;      /* CertificationRequestInfo with its header: what is signed */
    CBS spki;      /* SubjectPublicKeyInfo with its header */
    CBS algorithm; /* of the signature: OID and parameters */
    CBS signature;
};

/* csr_split takes the request apart (RFC 2986 section 4). Subject and attributes are passed over:
 * what the caller asks to be called is no business of ours. */
static bool csr_split(struct bytes der, struct csr_parts *out)
{
    CBS in;
    CBS request;
    CBS info;
    uint64_t version = 0;
    uint8_t unused_bits = 0;

    CBS_init(&in, der.ptr, der.len);
    if (!CBS_get_asn1(&in, &request, CBS_ASN1_SEQUENCE) || CBS_len(&in) != 0 ||
        !CBS_get_asn1_element(&request, &out->info, CBS_ASN1_SEQUENCE) ||
        !CBS_get_asn1(&request, &out->algorithm, CBS_ASN1_SEQUENCE) ||
        !CBS_get_asn1(&request, &out->signature, CBS_ASN1_BITSTRING) ||
        !CBS_get_u8(&out->signature, &unused_bits) || unused_bits != 0 || CBS_len(&request) != 0)
        return false;
    info = out->info;
    return CBS_get_asn1(&info, &info, CBS_ASN1_SEQUENCE) && CBS_get_asn1_uint64(&info, &version) &&
           version == 0 && CBS_get_asn1(&info, NULL, CBS_ASN1_SEQUENCE) &&
           CBS_get_asn1_element(&info, &out->spki, CBS_ASN1_SEQUENCE) &&
           CBS_get_asn1(&info, NULL, CBS_ASN1_CONSTRUCTED | CBS_ASN1_CONTEXT_SPECIFIC | 0) &&
           CBS_len(&info) == 0;
}

static err_t csr_check_signature(const struct csr_parts *parts, EVP_PKEY *key)
{
    EVP_MD_CTX ctx;
    const EVP_MD *digest = csr_digest(parts->algorithm, EVP_PKEY_id(key));

    if (digest == NULL)
        return FAIL(CSR_SIGNATURE, 0);
    EVP_MD_CTX_init(&ctx);
    bool good = EVP_DigestVerifyInit(&ctx, NULL, digest, NULL, key) &&
                EVP_DigestVerify(&ctx, CBS_data(&parts->signature), CBS_len(&parts->signature),
                                 CBS_data(&parts->info), CBS_len(&parts->info));
    EVP_MD_CTX_cleanup(&ctx);
    return good ? OK : FAIL(CSR_SIGNATURE, 0);
}

err_t csr_parse(struct bytes der, EVP_PKEY **out_public)
{
    BORING_SCOPE;
    struct csr_parts parts;

    if (der.len > CSR_MAX)
        return FAIL(TOO_LARGE, CSR_MAX);
    if (!csr_split(der, &parts))
        return FAIL(CSR_SYNTAX, 0);
    CLEANUP(boring_key_freep) EVP_PKEY *key = EVP_parse_public_key(&parts.spki);
    if (key == NULL || CBS_len(&parts.spki) != 0)
        return FAIL(KEY_WEAK, 0); /* as cert_check_key */
    TRY(key_check_strength(key));
    TRY(csr_check_signature(&parts, key));

    *out_public = key;
    key = NULL;
    return OK;
}
