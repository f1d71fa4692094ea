/* issue signs certificates from typed fields; nothing is ever built from strings or copied from a
 * request. Source: RFC 5280; SPIFFE X509-SVID; reliability R35-R37, R41. */
#ifndef MORTISE_CERTS_ISSUE_H
#define MORTISE_CERTS_ISSUE_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define ISSUE_BACKDATE_S 300   /* peers may be five minutes behind */
#define ISSUE_TTL_MIN_S 5      /* an administrator may want a certificate for one command */
#define ISSUE_TTL_MAX_S 604800 /* of a leaf */

struct issuer {
    X509 *cert;
    EVP_PKEY *key;
};

/* A certificate just issued. */
struct issued {
    uint8_t *der; /* owned: issued_fini */
    size_t der_len;
    char serial[41]; /* lower-case hex, 159 random bits */
    int64_t not_before;
    int64_t not_after;
};
void issued_fini(struct issued *issued);

struct issue_leaf {
    const char *spiffe_id;        /* the one URI SAN, or NULL */
    const char *const *dns_names; /* NULL-ended or NULL; no wildcard */
    EVP_PKEY *public_key;
    int64_t now_s;
    int64_t ttl_s; /* cut at the issuer's notAfter */
};

/* issue_root self-signs a CA for the trust domain (URI SAN spiffe://td); issue_intermediate signs a
 * CA with pathlen 0 and name constraints for the trust domain; issue_leaf signs with serverAuth and
 * clientAuth. Errors: CA_CANNOT_SIGN (issuer not valid at now_s, key mismatch), KEY_WEAK,
 * SPIFFE_SYNTAX, CONFIG_INVALID (ttl). */
MUST_CHECK err_t issue_root(const char *trust_domain, EVP_PKEY *key, int64_t now_s, int64_t ttl_s,
                            struct issued *out);
MUST_CHECK err_t issue_intermediate(const struct issuer *root, const char *trust_domain,
                                    EVP_PKEY *public_key, int64_t now_s, int64_t ttl_s,
                                    struct issued *out);
/* issue_cross signs the name and key of another root of the same trust domain, so that who trusts
 * `root` alone finds a path to what `other` vouches for (RFC 5280 section 3.2). It ends with the
 * earlier of the two. Errors: as above, and TRUST_DOMAIN. */
MUST_CHECK err_t issue_cross(const struct issuer *root, X509 *other, const char *trust_domain,
                             int64_t now_s, struct issued *out);
MUST_CHECK err_t issue_leaf(const struct issuer *issuer, const struct issue_leaf *leaf,
                            struct issued *out);

/* What a revocation list is to say. */
struct issue_crl_entry {
    char serial[41]; /* lower-case hex, of whole bytes */
    int64_t revoked_at;
};
struct issue_crl {
    const struct issue_crl_entry *entries; /* each serial number once */
    size_t num;
    uint64_t number; /* cRLNumber: above that of every list of this issuer before */
    int64_t now_s;   /* thisUpdate is ISSUE_BACKDATE_S before */
    int64_t ttl_s;   /* until nextUpdate */
};
/* issue_crl signs a whole list of version 2 with cRLNumber and authority key identifier; `*out` is
 * its DER. Errors: CA_CANNOT_SIGN. Source: RFC 5280 section 5. */
MUST_CHECK err_t issue_crl(const struct issuer *issuer, const struct issue_crl *crl,
                           struct buf *out);

/* issue_request appends a request (PKCS#10, DER) for what issue_intermediate would make of `key`: a
 * root elsewhere that copies its extensions signs just that. Errors: KEY_WEAK, SPIFFE_SYNTAX.
 * Source: RFC 2986. */
MUST_CHECK err_t issue_request(const char *trust_domain, EVP_PKEY *key, struct buf *out);

#endif
