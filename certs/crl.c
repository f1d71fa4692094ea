#include "certs/crl.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/nid.h>
#include <openssl/obj.h>
#include <openssl/sha.h>
#include <openssl/time.h>

#include "certs/boring.h"

#define CRL_EXTENSIONS_MAX 32 /* of a list, of an entry */
#define CRL_SIGNERS 4       /* keys whose verdict is remembered; a list has one, at a renewal two */
#define CRL_REASON_REMOVE 8 /* removeFromCRL: of deltas only */
#define CRL_TAG_EXTENSIONS (CBS_ASN1_CONTEXT_SPECIFIC | CBS_ASN1_CONSTRUCTED | 0)
#define CRL_TAG_INDIRECT (CBS_ASN1_CONTEXT_SPECIFIC | 4)

struct crl_serial {
    uint8_t bytes[CERT_SERIAL_MAX]; /* right-aligned */
};

/* A verdict about one key: written once, read by all threads. */
enum { CRL_SIGNER_NONE, CRL_SIGNER_BUSY, CRL_SIGNER_GOOD, CRL_SIGNER_BAD };
struct crl_signer {
    atomic_int state;
    uint8_t key_sha256[32];
};

struct crl_impl {
    struct crl_serial *serials; /* ascending */
    const EVP_MD *md;
    int key_type;
    uint8_t digest[EVP_MAX_MD_SIZE]; /* of what is signed */
    uint8_t *signature;
    size_t signature_len;
    struct crl_signer signers[CRL_SIGNERS];
};

/* ---- pieces ---- */

static err_t crl_syntax(void)
{
    return FAIL(CRL_SYNTAX, 0);
}

static bool crl_is_time(unsigned tag)
{
    return tag == CBS_ASN1_UTCTIME || tag == CBS_ASN1_GENERALIZEDTIME;
}

static err_t crl_time(CBS *in, int64_t *out)
{
    CBS value;
    CBS_ASN1_TAG tag;
    struct tm tm;
    bool good;

    if (!CBS_get_any_asn1(in, &value, &tag) || !crl_is_time(tag))
        return crl_syntax();
    good = tag == CBS_ASN1_UTCTIME ? CBS_parse_utc_time(&value, &tm, 0)
                                   : CBS_parse_generalized_time(&value, &tm, 0);
    return good && OPENSSL_tm_to_posix(&tm, out) ? OK : crl_syntax();
}

/* The algorithm of the signature; `alg` is the content of an AlgorithmIdentifier. */
static err_t crl_algorithm(CBS alg, struct crl_impl *out)
{
    static const struct {
        int nid;
        int key_type;
        const EVP_MD *(*md)(void);
    } known[] = {
        {NID_ecdsa_with_SHA256, EVP_PKEY_EC, EVP_sha256},
        {NID_ecdsa_with_SHA384, EVP_PKEY_EC, EVP_sha384},
        {NID_ecdsa_with_SHA512, EVP_PKEY_EC, EVP_sha512},
        {NID_sha256WithRSAEncryption, EVP_PKEY_RSA, EVP_sha256},
        {NID_sha384WithRSAEncryption, EVP_PKEY_RSA, EVP_sha384},
        {NID_sha512WithRSAEncryption, EVP_PKEY_RSA, EVP_sha512},
    };
    CBS oid, null;
    int nid;

    if (!CBS_get_asn1(&alg, &oid, CBS_ASN1_OBJECT))
        return crl_syntax();
    nid = OBJ_cbs2nid(&oid);
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (known[i].nid != nid)
            continue;
        /* NULL parameters are usual with RSA, none with ECDSA. */
        if (CBS_len(&alg) != 0 && (!CBS_get_asn1(&alg, &null, CBS_ASN1_NULL) ||
                                   CBS_len(&null) != 0 || CBS_len(&alg) != 0))
            return crl_syntax();
        out->md = known[i].md();
        out->key_type = known[i].key_type;
        return OK;
    }
    return FAIL(CERT_WEAK_SIGNATURE, nid);
}

/* ---- extensions ---- */

struct crl_extension {
    int nid; /* NID_undef: one that nobody here knows */
    bool critical;
    CBS value;
};

/* Whole arcs in their shortest form; those that are known are. */
static bool crl_is_oid(const CBS *oid)
{
    bool begins = true;

    for (size_t i = 0; i < CBS_len(oid); i++) {
        if (begins && CBS_data(oid)[i] == 0x80)
            return false;
        begins = (CBS_data(oid)[i] & 0x80) == 0;
    }
    return CBS_len(oid) > 0 && begins;
}

static err_t crl_next_extension(CBS *list, struct crl_extension *out)
{
    CBS extension, oid;
    int critical = 0;

    if (!CBS_get_asn1(list, &extension, CBS_ASN1_SEQUENCE) ||
        !CBS_get_asn1(&extension, &oid, CBS_ASN1_OBJECT) || !crl_is_oid(&oid))
        return crl_syntax();
    if (CBS_peek_asn1_tag(&extension, CBS_ASN1_BOOLEAN) &&
        (!CBS_get_asn1_bool(&extension, &critical) || !critical)) /* FALSE is left out in DER */
        return crl_syntax();
    if (!CBS_get_asn1(&extension, &out->value, CBS_ASN1_OCTETSTRING) || CBS_len(&extension) != 0)
        return crl_syntax();
    out->nid = OBJ_cbs2nid(&oid);
    out->critical = critical != 0;
    return OK;
}

/* Calls `take` with each; an extension of one kind twice is a fault. */
static err_t crl_extensions(CBS list, err_t (*take)(void *arg, struct crl_extension *extension),
                            void *arg)
{
    int seen[CRL_EXTENSIONS_MAX];
    size_t num = 0;

    if (CBS_len(&list) == 0)
        return crl_syntax();
    while (CBS_len(&list) > 0) {
        struct crl_extension extension;

        TRY(crl_next_extension(&list, &extension));
        if (num == CRL_EXTENSIONS_MAX)
            return FAIL(TOO_LARGE, CRL_EXTENSIONS_MAX);
        for (size_t i = 0; extension.nid != NID_undef && i < num; i++) {
            if (seen[i] == extension.nid)
                return crl_syntax();
        }
        seen[num++] = extension.nid;
        TRY(take(arg, &extension));
    }
    return OK;
}

static err_t crl_unknown(const struct crl_extension *extension)
{
    return extension->critical ? FAIL(CRL_EXTENSION, extension->nid) : OK;
}

static err_t crl_entry_extension(void *arg, struct crl_extension *extension)
{
    CBS reason;

    (void)arg;
    switch (extension->nid) {
    case NID_crl_reason:
        if (!CBS_get_asn1(&extension->value, &reason, CBS_ASN1_ENUMERATED) ||
            CBS_len(&reason) != 1 || CBS_len(&extension->value) != 0)
            return crl_syntax();
        return CBS_data(&reason)[0] == CRL_REASON_REMOVE ? FAIL(CRL_DELTA, 0) : OK;
    case NID_certificate_issuer:
        return FAIL(CRL_INDIRECT, 0);
    case NID_invalidity_date: /* revoked is revoked, since whenever */
        return OK;
    default:
        return crl_unknown(extension);
    }
}

/* An issuingDistributionPoint, whatever it says, makes a list of a part. */
static err_t crl_distribution_point(struct crl_extension *extension)
{
    CBS point, value;
    CBS_ASN1_TAG tag;

    if (!CBS_get_asn1(&extension->value, &point, CBS_ASN1_SEQUENCE) ||
        CBS_len(&extension->value) != 0)
        return crl_syntax();
    while (CBS_len(&point) > 0) {
        if (!CBS_get_any_asn1(&point, &value, &tag))
            return crl_syntax();
        if (tag == CRL_TAG_INDIRECT && CBS_len(&value) == 1 && CBS_data(&value)[0] != 0)
            return FAIL(CRL_INDIRECT, 0);
    }
    return FAIL(CRL_PARTIAL, 0);
}

static err_t crl_number(struct crl_extension *extension, struct crl *crl)
{
    CBS number;
    int negative;

    if (!CBS_get_asn1(&extension->value, &number, CBS_ASN1_INTEGER) ||
        !CBS_is_valid_asn1_integer(&number, &negative) || negative ||
        CBS_len(&extension->value) != 0)
        return crl_syntax();
    if (CBS_len(&number) > 1 && CBS_data(&number)[0] == 0)
        CBS_skip(&number, 1);
    if (CBS_len(&number) > CERT_SERIAL_MAX)
        return crl_syntax();
    bytes_to_hex(bytes_of(CBS_data(&number), CBS_len(&number)), crl->number);
    return OK;
}

/* Name and signature say better whose list it is; it has to be one all the same. */
static err_t crl_authority(const struct crl_extension *extension)
{
    const uint8_t *at = CBS_data(&extension->value), *end = at + CBS_len(&extension->value);
    AUTHORITY_KEYID *id = d2i_AUTHORITY_KEYID(NULL, &at, (long)CBS_len(&extension->value));

    AUTHORITY_KEYID_free(id);
    return id != NULL && at == end ? OK : crl_syntax();
}

static err_t crl_extension(void *arg, struct crl_extension *extension)
{
    switch (extension->nid) {
    case NID_crl_number:
        return crl_number(extension, arg);
    case NID_delta_crl:
        return FAIL(CRL_DELTA, 0);
    case NID_issuing_distribution_point:
        return crl_distribution_point(extension);
    case NID_authority_key_identifier:
        return crl_authority(extension);
    default:
        return crl_unknown(extension);
    }
}

/* ---- entries ---- */

static err_t crl_serial_of(CBS *entry, struct crl_serial *out)
{
    CBS value;
    int negative;
    size_t len;

    if (!CBS_get_asn1(entry, &value, CBS_ASN1_INTEGER) ||
        !CBS_is_valid_asn1_integer(&value, &negative))
        return crl_syntax();
    if (CBS_data(&value)[0] == 0)
        CBS_skip(&value, 1);
    len = CBS_len(&value);
    if (negative || len == 0 || len > CERT_SERIAL_MAX)
        return FAIL(CRL_SERIAL, 0);
    memset(out, 0, sizeof(*out));
    memcpy(out->bytes + CERT_SERIAL_MAX - len, CBS_data(&value), len);
    return OK;
}

static err_t crl_entry(CBS entry, struct crl_serial *out)
{
    CBS extensions;
    int64_t when;

    TRY(crl_serial_of(&entry, out));
    TRY(crl_time(&entry, &when)); /* one of the future counts now: better too early */
    if (CBS_len(&entry) == 0)
        return OK;
    if (!CBS_get_asn1(&entry, &extensions, CBS_ASN1_SEQUENCE) || CBS_len(&entry) != 0)
        return crl_syntax();
    return crl_extensions(extensions, crl_entry_extension, NULL);
}

static int crl_compare(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct crl_serial));
}

static size_t crl_drop_duplicates(struct crl_serial *serials, size_t num)
{
    size_t kept = 0;

    for (size_t i = 0; i < num; i++) {
        if (kept == 0 || crl_compare(&serials[kept - 1], &serials[i]) != 0)
            serials[kept++] = serials[i];
    }
    return kept;
}

static err_t crl_entries(CBS list, struct crl *crl)
{
    CBS rest = list, entry;
    size_t num = 0;

    while (CBS_len(&rest) > 0) {
        if (!CBS_get_asn1(&rest, &entry, CBS_ASN1_SEQUENCE))
            return crl_syntax();
        if (++num > CRL_ENTRIES_MAX)
            return FAIL(TOO_LARGE, CRL_ENTRIES_MAX);
    }
    crl->impl->serials = mem_array(num, sizeof(struct crl_serial));
    for (size_t i = 0; i < num; i++) {
        CHECK(CBS_get_asn1(&list, &entry, CBS_ASN1_SEQUENCE));
        TRY(crl_entry(entry, &crl->impl->serials[i]));
    }
    if (num > 1)
        qsort(crl->impl->serials, num, sizeof(struct crl_serial), crl_compare);
    crl->num = crl_drop_duplicates(crl->impl->serials, num);
    return OK;
}

/* ---- whole ---- */

/* The name as an element, whose DER every certificate of the issuer has. */
static err_t crl_issuer(CBS *tbs, struct crl *crl)
{
    BIO *bio;
    X509_NAME *name = NULL;
    const uint8_t *at, *text;
    size_t len;
    CBS element;

    if (!CBS_get_asn1_element(tbs, &element, CBS_ASN1_SEQUENCE))
        return crl_syntax();
    SHA256(CBS_data(&element), CBS_len(&element), crl->issuer_sha256);
    at = CBS_data(&element);
    name = d2i_X509_NAME(NULL, &at, (long)CBS_len(&element));
    if (name == NULL || at != CBS_data(&element) + CBS_len(&element)) {
        X509_NAME_free(name);
        return crl_syntax();
    }
    bio = BIO_new(BIO_s_mem());
    CHECK(bio != NULL);
    /* Nothing: a CA without a name, which there is not (RFC 5280 section 5.1.2.3). */
    if (X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) > 0 &&
        BIO_mem_contents(bio, &text, &len) && len > 0)
        crl->issuer = mem_strndup((const char *)text, len);
    BIO_free(bio);
    X509_NAME_free(name);
    return crl->issuer != NULL ? OK : crl_syntax();
}

static err_t crl_dates(CBS *tbs, struct crl *crl)
{
    TRY(crl_time(tbs, &crl->this_update));
    if (!CBS_peek_asn1_tag(tbs, CBS_ASN1_UTCTIME) &&
        !CBS_peek_asn1_tag(tbs, CBS_ASN1_GENERALIZEDTIME))
        return FAIL(CRL_ENDLESS, 0);
    TRY(crl_time(tbs, &crl->next_update));
    return crl->next_update > crl->this_update ? OK : crl_syntax();
}

static err_t crl_tbs(CBS tbs, const CBS *alg, struct crl *crl)
{
    CBS inner, list, extensions;
    uint64_t version = 0; /* v1 */

    if (CBS_peek_asn1_tag(&tbs, CBS_ASN1_INTEGER) &&
        (!CBS_get_asn1_uint64(&tbs, &version) || version != 1))
        return crl_syntax();
    if (!CBS_get_asn1(&tbs, &inner, CBS_ASN1_SEQUENCE) || CBS_len(&inner) != CBS_len(alg) ||
        !CBS_mem_equal(&inner, CBS_data(alg), CBS_len(alg)))
        return crl_syntax();
    TRY(crl_issuer(&tbs, crl));
    TRY(crl_dates(&tbs, crl));
    CBS_init(&list, NULL, 0);
    if (CBS_peek_asn1_tag(&tbs, CBS_ASN1_SEQUENCE) && !CBS_get_asn1(&tbs, &list, CBS_ASN1_SEQUENCE))
        return crl_syntax();
    /* The extensions first: they say whether the entries are to be believed. */
    if (CBS_len(&tbs) > 0) {
        if (version != 1 || !CBS_get_asn1(&tbs, &extensions, CRL_TAG_EXTENSIONS) ||
            CBS_len(&tbs) != 0 || !CBS_get_asn1(&extensions, &inner, CBS_ASN1_SEQUENCE) ||
            CBS_len(&extensions) != 0)
            return crl_syntax();
        TRY(crl_extensions(inner, crl_extension, crl));
    }
    return crl_entries(list, crl);
}

static err_t crl_read(struct bytes der, struct crl *crl)
{
    struct crl_impl *impl = crl->impl;
    CBS all, list, element, tbs, alg, signature;
    uint8_t unused;

    CBS_init(&all, der.ptr, der.len);
    if (!CBS_get_asn1(&all, &list, CBS_ASN1_SEQUENCE) || CBS_len(&all) != 0 ||
        !CBS_get_asn1_element(&list, &element, CBS_ASN1_SEQUENCE) ||
        !CBS_get_asn1(&list, &alg, CBS_ASN1_SEQUENCE) ||
        !CBS_get_asn1(&list, &signature, CBS_ASN1_BITSTRING) || CBS_len(&list) != 0 ||
        !CBS_get_u8(&signature, &unused) || unused != 0 || CBS_len(&signature) == 0)
        return crl_syntax();
    TRY(crl_algorithm(alg, impl));
    tbs = element;
    CHECK(CBS_get_asn1(&tbs, &tbs, CBS_ASN1_SEQUENCE));
    TRY(crl_tbs(tbs, &alg, crl));
    if (!EVP_Digest(CBS_data(&element), CBS_len(&element), impl->digest, NULL, impl->md, NULL))
        return FAIL(NO_MEMORY, 0);
    impl->signature = mem_dup(CBS_data(&signature), CBS_len(&signature));
    impl->signature_len = CBS_len(&signature);
    return OK;
}

err_t crl_parse(struct bytes der, struct crl **out)
{
    BORING_SCOPE;
    CLEANUP(crl_unrefp) struct crl *crl = NULL;

    if (der.len > CRL_BYTES_MAX)
        return FAIL(TOO_LARGE, CRL_BYTES_MAX);
    crl = mem_zalloc(sizeof(*crl));
    refs_init(&crl->refs);
    crl->impl = mem_zalloc(sizeof(*crl->impl));
    TRY(crl_read(der, crl));
    SHA256(der.ptr, der.len, crl->sha256);
    *out = crl;
    crl = NULL;
    return OK;
}

struct crl *crl_ref(struct crl *crl)
{
    refs_take(&crl->refs);
    return crl;
}

void crl_unref(struct crl *crl)
{
    if (crl == NULL || !refs_drop(&crl->refs))
        return;
    mem_free(crl->impl->serials);
    mem_free(crl->impl->signature);
    mem_free(crl->impl);
    mem_free(crl->issuer);
    mem_free(crl);
}

bool crl_has(const struct crl *crl, const uint8_t serial[CERT_SERIAL_MAX])
{
    return crl->num > 0 && bsearch(serial, crl->impl->serials, crl->num, sizeof(struct crl_serial),
                                   crl_compare) != NULL;
}

/* ---- signature ---- */

static bool crl_check_signature(const struct crl_impl *impl, EVP_PKEY *key)
{
    BORING_SCOPE;
    CLEANUP(boring_key_ctx_freep) EVP_PKEY_CTX *ctx = NULL;

    if (EVP_PKEY_id(key) != impl->key_type)
        return false;
    ctx = EVP_PKEY_CTX_new(key, NULL);
    return ctx != NULL && EVP_PKEY_verify_init(ctx) &&
           (impl->key_type != EVP_PKEY_RSA ||
            EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_PADDING)) &&
           EVP_PKEY_CTX_set_signature_md(ctx, impl->md) &&
           EVP_PKEY_verify(ctx, impl->signature, impl->signature_len, impl->digest,
                           EVP_MD_size(impl->md)) == 1;
}

/* Two threads that come at once may both check: they find the same. */
static void crl_remember(struct crl_impl *impl, const uint8_t key_sha256[32], bool good)
{
    for (size_t i = 0; i < CRL_SIGNERS; i++) {
        struct crl_signer *signer = &impl->signers[i];
        int none = CRL_SIGNER_NONE;

        if (!atomic_compare_exchange_strong(&signer->state, &none, CRL_SIGNER_BUSY))
            continue;
        memcpy(signer->key_sha256, key_sha256, sizeof(signer->key_sha256));
        atomic_store_explicit(&signer->state, good ? CRL_SIGNER_GOOD : CRL_SIGNER_BAD,
                              memory_order_release);
        return;
    }
}

bool crl_is_signed_by(const struct crl *crl, EVP_PKEY *key, const uint8_t key_sha256[32])
{
    bool good;

    for (size_t i = 0; i < CRL_SIGNERS; i++) {
        struct crl_signer *signer = &crl->impl->signers[i];
        int state = atomic_load_explicit(&signer->state, memory_order_acquire);

        if ((state == CRL_SIGNER_GOOD || state == CRL_SIGNER_BAD) &&
            memcmp(signer->key_sha256, key_sha256, sizeof(signer->key_sha256)) == 0)
            return state == CRL_SIGNER_GOOD;
    }
    good = crl_check_signature(crl->impl, key);
    crl_remember(crl->impl, key_sha256, good);
    return good;
}
