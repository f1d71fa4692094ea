#include "certs/cert.h"

#include <pthread.h>

#include <openssl/sha.h>

#include "certs/boring.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "lib/base/mem.h"

#define CERT_DER_MAX ((size_t)1 << 20)
#define CERT_CN_MAX 64
#define CERT_SUBJECT_MAX 160
#define CERT_DNS_MAX 253
#define CERT_LABEL_MAX 63

/* Context-specific tags of GeneralName (RFC 5280 section 4.2.1.6). */
#define CERT_TAG_DNS (CBS_ASN1_CONTEXT_SPECIFIC | 2)
#define CERT_TAG_URI (CBS_ASN1_CONTEXT_SPECIFIC | 6)

static CRYPTO_BUFFER_POOL *cert_the_pool;
static pthread_once_t cert_pool_once = PTHREAD_ONCE_INIT;

static void cert_pool_make(void)
{
    cert_the_pool = CRYPTO_BUFFER_POOL_new();
    CHECK(cert_the_pool != NULL);
}

CRYPTO_BUFFER_POOL *cert_pool(void)
{
    CHECK(pthread_once(&cert_pool_once, cert_pool_make) == 0);
    return cert_the_pool;
}

/* cert_extension finds the value of an extension: 0 when there is none, -1 when it is there twice.
 */
static int cert_extension(const X509 *cert, int nid, CBS *out)
{
    int at = X509_get_ext_by_NID(cert, nid, -1);

    if (at < 0)
        return 0;
    if (X509_get_ext_by_NID(cert, nid, at) >= 0)
        return -1;
    const ASN1_OCTET_STRING *value = X509_EXTENSION_get_data(X509_get_ext(cert, at));
    CBS_init(out, ASN1_STRING_get0_data(value), (size_t)ASN1_STRING_length(value));
    return 1;
}

/* cert_count counts the elements of a SEQUENCE's content up to just above `max`; malformed: -1. */
static int cert_count(CBS list, int max)
{
    int num = 0;

    while (CBS_len(&list) > 0 && num <= max) {
        if (!CBS_get_any_asn1_element(&list, NULL, NULL, NULL))
            return -1;
        num++;
    }
    return num;
}

/* cert_check_sans bounds the names before anything allocates for each of them. */
static err_t cert_check_sans(const X509 *cert)
{
    CBS value;
    CBS list;
    int found = cert_extension(cert, NID_subject_alt_name, &value);

    if (found == 0)
        return OK;
    if (found < 0 || !CBS_get_asn1(&value, &list, CBS_ASN1_SEQUENCE) || CBS_len(&value) != 0)
        return FAIL(CERT_SYNTAX, NID_subject_alt_name);
    int num = cert_count(list, CERT_SANS_MAX);
    if (num < 0)
        return FAIL(CERT_SYNTAX, NID_subject_alt_name);
    if (num > CERT_SANS_MAX)
        return FAIL(SAN_TOO_MANY, num);
    return OK;
}

/* cert_check_constraints bounds name constraints, each of which is compared with each name below.
 */
static err_t cert_check_constraints(const X509 *cert)
{
    CBS value;
    CBS both;
    int found = cert_extension(cert, NID_name_constraints, &value);

    if (found == 0)
        return OK;
    if (found < 0 || !CBS_get_asn1(&value, &both, CBS_ASN1_SEQUENCE) || CBS_len(&value) != 0)
        return FAIL(CERT_SYNTAX, NID_name_constraints);
    /* Constraints without one would be taken for no constraint: they may not be (section 4.2.1.10).
     */
    if (CBS_len(&both) == 0)
        return FAIL(CERT_SYNTAX, NID_name_constraints);
    int num = 0;
    while (CBS_len(&both) > 0) {
        CBS list;
        if (!CBS_get_any_asn1(&both, &list, NULL))
            return FAIL(CERT_SYNTAX, NID_name_constraints);
        int more = cert_count(list, CERT_CONSTRAINTS_MAX);
        if (more <= 0)
            return FAIL(CERT_SYNTAX, NID_name_constraints);
        num += more;
        if (num > CERT_CONSTRAINTS_MAX)
            return FAIL(CERT_USAGE, NID_name_constraints);
    }
    return OK;
}

/* cert_check_extensions: not too many, and of each kind one (RFC 5280 section 4.2), as which of two
 * counts would be a guess. */
static err_t cert_check_extensions(const X509 *cert)
{
    int num = X509_get_ext_count(cert);

    if (num > CERT_EXTENSIONS_MAX)
        return FAIL(CERT_USAGE, num);
    for (int i = 1; i < num; i++) {
        const ASN1_OBJECT *kind = X509_EXTENSION_get_object(X509_get_ext(cert, i));
        for (int j = 0; j < i; j++) {
            if (OBJ_cmp(kind, X509_EXTENSION_get_object(X509_get_ext(cert, j))) == 0)
                return FAIL(CERT_SYNTAX, i);
        }
    }
    return OK;
}

err_t cert_parse(CRYPTO_BUFFER *der, X509 **out)
{
    BORING_SCOPE;
    CLEANUP(boring_x509_freep) X509 *cert = X509_parse_from_buffer(der);
    int64_t not_before = 0;
    int64_t not_after = 0;

    if (cert == NULL)
        return FAIL(CERT_SYNTAX, 0);
    TRY(cert_check_extensions(cert));
    TRY(cert_check_sans(cert));
    TRY(cert_check_constraints(cert));
    /* The first look at the extensions decodes and keeps them. */
    if ((X509_get_extension_flags(cert) & EXFLAG_INVALID) != 0)
        return FAIL(CERT_SYNTAX, 0);
    TRY(cert_times(cert, &not_before, &not_after));

    *out = cert;
    cert = NULL;
    return OK;
}

err_t cert_parse_bytes(struct bytes der, X509 **out)
{
    if (der.len > CERT_DER_MAX)
        return FAIL(TOO_LARGE, CERT_DER_MAX);
    CLEANUP(boring_buffer_freep)
    CRYPTO_BUFFER *buffer = CRYPTO_BUFFER_new(der.ptr, der.len, cert_pool());
    if (buffer == NULL)
        return FAIL(NO_MEMORY, 0);
    return cert_parse(buffer, out);
}

err_t cert_times(const X509 *cert, int64_t *out_not_before, int64_t *out_not_after)
{
    int64_t before;
    int64_t after;

    if (!ASN1_TIME_to_posix(X509_get0_notBefore(cert), &before) ||
        !ASN1_TIME_to_posix(X509_get0_notAfter(cert), &after))
        return FAIL(CERT_SYNTAX, 0);
    *out_not_before = before;
    *out_not_after = after;
    return OK;
}

/* cert_seconds keeps a difference within err_t's 32 bits: 68 years. */
static int32_t cert_seconds(int64_t seconds)
{
    return seconds > INT32_MAX ? INT32_MAX : (int32_t)seconds;
}

err_t cert_check_time(const X509 *cert, int64_t now_s)
{
    int64_t before = 0;
    int64_t after = 0;

    TRY(cert_times(cert, &before, &after));
    if (now_s >= after)
        return FAIL(CERT_EXPIRED, cert_seconds(now_s - after));
    if (now_s < before)
        return FAIL(CERT_NOT_YET_VALID, cert_seconds(before - now_s));
    return OK;
}

err_t cert_check_key(X509 *cert)
{
    BORING_SCOPE;
    CLEANUP(boring_key_freep) EVP_PKEY *key = X509_get_pubkey(cert);

    /* Of a kind that is not known; no point on its curve; or a curve whose parameters are written
     * out, which may be those of one that only looks the same: BoringSSL knows curves by name
     * alone. */
    if (key == NULL)
        return FAIL(KEY_WEAK, 0);
    return key_check_strength(key);
}

err_t cert_check_signature(const X509 *cert)
{
    int nid = X509_get_signature_nid(cert);

    switch (nid) {
    case NID_ecdsa_with_SHA256:
    case NID_ecdsa_with_SHA384:
    case NID_ecdsa_with_SHA512:
    case NID_sha256WithRSAEncryption:
    case NID_sha384WithRSAEncryption:
    case NID_sha512WithRSAEncryption:
        return OK;
    default:
        return FAIL(CERT_WEAK_SIGNATURE, nid);
    }
}

err_t cert_check_ca(X509 *cert)
{
    BORING_SCOPE;
    uint32_t flags = X509_get_extension_flags(cert);

    if ((flags & EXFLAG_INVALID) != 0)
        return FAIL(CERT_SYNTAX, 0);
    if ((flags & EXFLAG_CA) == 0)
        return FAIL(CERT_USAGE, 0);
    /* Without the extension X509_get_key_usage has all bits set. */
    if ((X509_get_key_usage(cert) & X509v3_KU_KEY_CERT_SIGN) == 0)
        return FAIL(CERT_USAGE, 0);
    return OK;
}

err_t cert_check_leaf(X509 *cert)
{
    BORING_SCOPE;
    uint32_t flags = X509_get_extension_flags(cert);
    uint32_t usage = X509_get_key_usage(cert);

    if ((flags & EXFLAG_INVALID) != 0)
        return FAIL(CERT_SYNTAX, 0);
    if ((flags & EXFLAG_CA) != 0)
        return FAIL(CHAIN_INVALID, X509_V_ERR_INVALID_CA);
    /* Without the extension X509_get_key_usage has all bits set, keyCertSign too: refused. */
    if ((usage & X509v3_KU_DIGITAL_SIGNATURE) == 0 ||
        (usage & (X509v3_KU_KEY_CERT_SIGN | X509v3_KU_CRL_SIGN)) != 0)
        return FAIL(CERT_USAGE, 0);
    return OK;
}

bool cert_has_eku(X509 *cert, uint32_t xku)
{
    /* Without the extension all bits are set. */
    return (X509_get_extended_key_usage(cert) & xku) == xku;
}

err_t cert_check_serial(const X509 *cert)
{
    const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);
    const uint8_t *bytes = ASN1_STRING_get0_data(serial);
    int len = ASN1_STRING_length(serial);

    if (ASN1_STRING_type(serial) != V_ASN1_INTEGER || len > CERT_SERIAL_MAX)
        return FAIL(CERT_SYNTAX, len);
    for (int i = 0; i < len; i++) {
        if (bytes[i] != 0)
            return OK;
    }
    return FAIL(CERT_SYNTAX, 0);
}

err_t cert_serial(const X509 *cert, char **out)
{
    BORING_SCOPE;
    const ASN1_INTEGER *serial = X509_get0_serialNumber(cert);

    if (ASN1_STRING_type(serial) != V_ASN1_INTEGER || ASN1_STRING_length(serial) > CERT_SERIAL_MAX)
        return FAIL(CERT_SYNTAX, 0);
    struct bytes raw = bytes_of(ASN1_STRING_get0_data(serial), (size_t)ASN1_STRING_length(serial));
    char *hex = mem_alloc(2 * raw.len + 1);
    bytes_to_hex(raw, hex);
    *out = hex;
    return OK;
}

ASN1_OCTET_STRING *cert_key_id(const X509 *cert)
{
    const ASN1_BIT_STRING *bits = X509_get0_pubkey_bitstr(cert);
    ASN1_OCTET_STRING *id = ASN1_OCTET_STRING_new();
    uint8_t digest[SHA_DIGEST_LENGTH];

    SHA1(ASN1_STRING_get0_data(bits), (size_t)ASN1_STRING_length(bits), digest);
    if (id != NULL && !ASN1_STRING_set(id, digest, sizeof(digest))) {
        ASN1_OCTET_STRING_free(id);
        return NULL;
    }
    return id;
}

AUTHORITY_KEYID *cert_authority_id(X509 *issuer)
{
    const ASN1_OCTET_STRING *own = X509_get0_subject_key_id(issuer);
    AUTHORITY_KEYID *id = AUTHORITY_KEYID_new();

    if (id == NULL)
        return NULL;
    id->keyid = own != NULL ? ASN1_OCTET_STRING_dup(own) : cert_key_id(issuer);
    if (id->keyid == NULL) {
        AUTHORITY_KEYID_free(id);
        return NULL;
    }
    return id;
}

char *cert_issuer_cn(const X509 *cert)
{
    const X509_NAME *name = X509_get_issuer_name(cert);
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);

    if (at < 0)
        return mem_strdup("");
    const ASN1_STRING *value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
    size_t len = (size_t)ASN1_STRING_length(value);
    if (len > CERT_CN_MAX)
        len = CERT_CN_MAX;
    char *text = mem_alloc(len + 1);
    for (size_t i = 0; i < len; i++) {
        uint8_t c = ASN1_STRING_get0_data(value)[i];
        text[i] = c >= ' ' && c <= '~' ? (char)c : '?';
    }
    text[len] = '\0';
    return text;
}

char *cert_subject(const X509 *cert)
{
    BIO *bio = BIO_new(BIO_s_mem());
    const uint8_t *bytes = NULL;
    size_t len = 0;
    char *text;

    CHECK(bio != NULL);
    /* XN_FLAG_RFC2253 escapes what is no printable ASCII. */
    if (X509_NAME_print_ex(bio, X509_get_subject_name(cert), 0, XN_FLAG_RFC2253) <= 0 ||
        !BIO_mem_contents(bio, &bytes, &len) || len == 0) {
        BIO_free(bio);
        return mem_strdup("no name");
    }
    text = mem_strndup((const char *)bytes, len < CERT_SUBJECT_MAX ? len : CERT_SUBJECT_MAX);
    for (char *at = text; *at != '\0'; at++) {
        if (*at < ' ' || *at > '~')
            *at = '?';
    }
    BIO_free(bio);
    return text;
}

bool cert_is_address(const char *name)
{
    const char *last = strrchr(name, '.');

    last = last != NULL ? last + 1 : name;
    return strchr(name, ':') != NULL ||
           (last[0] != '\0' && strspn(last, "0123456789") == strlen(last));
}

bool cert_dns_valid(struct bytes name)
{
    size_t label = 0;

    if (name.len == 0 || name.len > CERT_DNS_MAX)
        return false;
    for (size_t i = 0; i < name.len; i++) {
        uint8_t c = name.ptr[i];
        bool edge = label == 0 || i + 1 == name.len || name.ptr[i + 1] == '.';

        if (c == '.') {
            if (label == 0)
                return false;
            label = 0;
            continue;
        }
        if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
            c != '_' && (c != '-' || edge))
            return false;
        if (++label > CERT_LABEL_MAX)
            return false;
    }
    return label > 0; /* no dot at the end */
}

static char *cert_lower(struct bytes text)
{
    char *out = mem_strndup((const char *)text.ptr, text.len);

    for (char *p = out; *p != '\0'; p++) {
        if (*p >= 'A' && *p <= 'Z')
            *p = (char)(*p - 'A' + 'a');
    }
    return out;
}

/* cert_add_name takes one GeneralName. */
static err_t cert_add_name(struct cert_names *names, size_t *num_dns, CBS_ASN1_TAG tag, CBS content)
{
    struct bytes text = bytes_of(CBS_data(&content), CBS_len(&content));
    struct spiffe_id id;

    if (tag == CERT_TAG_URI) {
        if (names->uri != NULL)
            return FAIL(SAN_MULTIPLE, 0);
        /* Every byte of it is one of a few printable characters, so C strings are safe from here.
         */
        err_t err = spiffe_id_parse(text, &id);
        if (!err_is_ok(err))
            return FAIL(SAN_SYNTAX, err.sub);
        names->uri = mem_strndup((const char *)text.ptr, text.len);
    } else if (tag == CERT_TAG_DNS) {
        if (!cert_dns_valid(text))
            return FAIL(SAN_SYNTAX, 0);
        names->dns[(*num_dns)++] = cert_lower(text);
    }
    return OK;
}

static err_t cert_names_read(CBS list, struct cert_names *names)
{
    size_t num_uris = 0;
    size_t num_dns = 0;
    CBS walk = list;

    /* Two URIs are told as that, even where the first is malformed. */
    while (CBS_len(&walk) > 0) {
        CBS_ASN1_TAG tag = 0;
        CBS content;
        if (!CBS_get_any_asn1(&walk, &content, &tag))
            return FAIL(SAN_SYNTAX, 0);
        num_uris += tag == CERT_TAG_URI;
    }
    if (num_uris > 1)
        return FAIL(SAN_MULTIPLE, num_uris);
    while (CBS_len(&list) > 0) {
        CBS_ASN1_TAG tag = 0;
        CBS content;
        if (!CBS_get_any_asn1(&list, &content, &tag))
            return FAIL(SAN_SYNTAX, 0);
        TRY(cert_add_name(names, &num_dns, tag, content));
    }
    if (names->uri == NULL && num_dns == 0)
        return FAIL(SAN_NONE, 0);
    if (names->uri == NULL)
        names->uri = mem_strdup("");
    return OK;
}

err_t cert_names_get(X509 *cert, struct cert_names *out)
{
    CBS value;
    CBS list;
    int found = cert_extension(cert, NID_subject_alt_name, &value);

    if (found == 0)
        return FAIL(SAN_NONE, 0);
    if (found < 0 || !CBS_get_asn1(&value, &list, CBS_ASN1_SEQUENCE) || CBS_len(&value) != 0)
        return FAIL(SAN_SYNTAX, 0);
    TRY(cert_check_sans(cert));

    struct cert_names names = {.dns = mem_array(CERT_SANS_MAX + 1, sizeof(char *))};
    err_t err = cert_names_read(list, &names);
    if (!err_is_ok(err)) {
        cert_names_fini(&names);
        return err;
    }
    *out = names;
    return OK;
}

void cert_names_fini(struct cert_names *names)
{
    for (char **name = names->dns; name != NULL && *name != NULL; name++)
        mem_free(*name);
    mem_free(names->dns);
    mem_free(names->uri);
    *names = (struct cert_names){0};
}

err_t cert_der(X509 *cert, CRYPTO_BUFFER **out)
{
    BORING_SCOPE;
    CLEANUP(boring_bytes_freep) uint8_t *der = NULL;
    int len = i2d_X509(cert, &der);

    if (len <= 0)
        return FAIL(CERT_SYNTAX, 0);
    CRYPTO_BUFFER *buffer = CRYPTO_BUFFER_new(der, (size_t)len, cert_pool());
    if (buffer == NULL)
        return FAIL(NO_MEMORY, 0);
    *out = buffer;
    return OK;
}
