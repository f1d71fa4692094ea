/* certgen: certificates as no CA would issue them, written byte by byte: any name with any bytes,
 * any key, extensions twice, malformed or missing. Zeroed parameters make an ordinary certificate,
 * so that each case of a table says only what is odd about it.
 *
 *   struct certgen *root = certgen_make(NULL, &(struct certgen_params){.ca = true});
 *   struct certgen *leaf = certgen_make(root, &(struct certgen_params){
 *       .sans = {CERTGEN_URI("spiffe://example.org/ns/a\0.evil/sa/b")}});
 *
 * What cannot be made stops the test. All times are relative to CERTGEN_NOW. */
#ifndef MORTISE_TEST_UNIT_CERTS_CERTGEN_H
#define MORTISE_TEST_UNIT_CERTS_CERTGEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>
#include <openssl/pool.h>

#include "lib/base/buf.h"

#define CERTGEN_NOW INT64_C(1780000000) /* 2026-05-28 */
#define CERTGEN_ID "spiffe://example.org/ns/a/sa/b"

/* A GeneralName: context tag and content. A text of NULL with a length: that many 'a's. */
struct certgen_name {
    unsigned tag; /* number | CERTGEN_CONSTRUCTED; 0 with no text ends a list */
    const char *text;
    size_t len;
};
#define CERTGEN_CONSTRUCTED 0x100u
#define CERTGEN_NAME(tag_, literal)            \
    {                                          \
        (tag_), (literal), sizeof(literal) - 1 \
    }
#define CERTGEN_OTHER(literal) CERTGEN_NAME(0x80u | CERTGEN_CONSTRUCTED, literal)
#define CERTGEN_EMAIL(literal) CERTGEN_NAME(0x81u, literal)
#define CERTGEN_DNS(literal) CERTGEN_NAME(0x82u, literal)
#define CERTGEN_DIR(literal) CERTGEN_NAME(0x84u | CERTGEN_CONSTRUCTED, literal)
#define CERTGEN_URI(literal) CERTGEN_NAME(0x86u, literal)
#define CERTGEN_IP(literal) CERTGEN_NAME(0x87u, literal)
#define CERTGEN_RID(literal) CERTGEN_NAME(0x88u, literal)

enum certgen_key {
    CERTGEN_P256,
    CERTGEN_P256_CA, /* more keys of the kind */
    CERTGEN_P256_ROOT,
    CERTGEN_P256_OTHER,
    CERTGEN_P224,
    CERTGEN_P384,
    CERTGEN_P521,
    CERTGEN_RSA1024,
    CERTGEN_RSA2048,
    CERTGEN_ED25519,
    CERTGEN_KEYS, /* from here on keys that cannot sign: another one does in their place */
    CERTGEN_RSA2047,
    CERTGEN_RSA8193,
    CERTGEN_RSA16384,
    CERTGEN_DSA,
    CERTGEN_EXPLICIT_P256, /* the curve's parameters written out */
    CERTGEN_UNKNOWN_KEY,   /* an algorithm that nobody knows */
    CERTGEN_GARBAGE_KEY,   /* P-256, but no point on it */
};

enum certgen_hash { CERTGEN_SHA256, CERTGEN_SHA384, CERTGEN_SHA512, CERTGEN_SHA1, CERTGEN_MD5 };

enum certgen_opt { CERTGEN_USUAL, CERTGEN_NONE, CERTGEN_TWICE, CERTGEN_MALFORMED };

#define CERTGEN_KU_SIGN 0x80u /* bits of the first byte */
#define CERTGEN_KU_ENCIPHER 0x20u
#define CERTGEN_KU_CERT_SIGN 0x04u
#define CERTGEN_KU_CRL_SIGN 0x02u
#define CERTGEN_EKU_SERVER 1u
#define CERTGEN_EKU_CLIENT 2u
#define CERTGEN_EKU_EMAIL 4u
#define CERTGEN_EKU_ANY 8u
#define CERTGEN_EKU_CODE 16u

struct certgen_params {
    bool ca;                 /* what is usual then differs: no SAN, keyCertSign, no EKU */
    const char *subject;     /* CN; NULL: "leaf" or "ca" */
    const char *issuer_name; /* written instead of the issuer's subject */
    enum certgen_key key;
    enum certgen_hash hash;
    bool hash_differs;         /* the inner algorithm is not the outer one */
    int64_t from_s;            /* notBefore is CERTGEN_NOW - 3600 + from_s */
    int64_t to_s;              /* notAfter is CERTGEN_NOW + 86400 + to_s */
    const char *raw_not_after; /* UTCTime with this text */
    const char *serial;        /* raw bytes */
    size_t serial_len;
    int version; /* 0: v3; 1: v1 without extensions; n: as it is */

    struct certgen_name sans[6]; /* none: CERTGEN_ID unless `ca` */
    enum certgen_opt san;
    size_t num_dns; /* so many DNS names "n0.example.org" ... instead */
    bool san_critical;
    enum certgen_opt basic;
    bool flip_ca; /* CA where it usually is not, or the other way round */
    int path_len; /* n > 0: n - 1 */
    enum certgen_opt usage;
    unsigned usage_bits; /* instead of the usual */
    enum certgen_opt eku;
    unsigned eku_bits; /* instead of the usual: both for leaves */
    bool eku_critical;
    struct certgen_name permitted[4];
    struct certgen_name excluded[4];
    size_t num_excluded; /* so many excluded DNS names */
    bool constraints_malformed;
    bool constraints_empty; /* a list of permitted names with none in it */
    bool policies;          /* certificatePolicies with one of them, always the same */
    bool explicit_policy;   /* policyConstraints: below it no certificate without */
    bool unknown_critical;
    bool unknown_plain;
    size_t num_extensions;       /* so many unknown ones */
    size_t extension_len;        /* one unknown one so long */
    struct bytes raw_extensions; /* all of the extensions, instead; ptr NULL: as said above */
    enum certgen_opt ids;        /* subject and authority key identifiers */
    bool akid_lies;              /* names another key */

    bool bad_signature; /* a bit of it turned */
    bool trailing;      /* bytes behind the certificate */
    bool truncated;     /* the last byte is missing */
};

struct certgen {
    uint8_t *der;
    size_t len;
    EVP_PKEY *key; /* that it signs with */
    char subject[32];
    uint8_t key_id[20];
};

/* certgen_make: `issuer` NULL: self-signed. Owned: certgen_free. */
struct certgen *certgen_make(const struct certgen *issuer, const struct certgen_params *params);
void certgen_free(struct certgen *cert);
struct bytes certgen_der(const struct certgen *cert);
/* certgen_extensions is what raw_extensions would have to be for the same extensions; empty: none.
 */
struct bytes certgen_extensions(const struct certgen *cert);
/* certgen_key is the process's one key of a kind, borrowed: made when first wanted. */
EVP_PKEY *certgen_key(enum certgen_key kind);
/* certgen_spki is the SubjectPublicKeyInfo of any kind; owned (OPENSSL_free). */
void certgen_spki(enum certgen_key kind, uint8_t **out, size_t *out_len);
void certgen_cleanup(void);

#endif
