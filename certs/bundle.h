/* bundle: the CA certificates that vouch for peers: immutable, shared, several roots during
 * rotation. Order, duplicates, CR LF and comments make no difference to its hash. */
#ifndef MORTISE_CERTS_BUNDLE_H
#define MORTISE_CERTS_BUNDLE_H

#include <openssl/x509.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

#define BUNDLE_CERTS_MAX 128

struct bundle {
    struct refs refs;
    size_t num;
    X509 **certs;
    uint8_t (*sha256)[32]; /* of each one's DER, in ascending order */
    bool *outside;         /* of each one: vouches for names alone; NULL: none of them does */
    X509_STORE *store;
    uint8_t hash[32];   /* over trust_domain and the sorted SHA-256 of the certificates */
    char *trust_domain; /* "": any */
    int64_t not_after;  /* the earliest */
};

/* Only CA certificates are taken (basicConstraints CA, keyCertSign where KeyUsage is present, key
 * strong enough); an expired one is kept and refused at verification. `trust_domain` may be NULL.
 * Errors: PEM_SYNTAX, CERT_SYNTAX, CERT_USAGE, KEY_WEAK, BUNDLE_EMPTY, TOO_LARGE. */
MUST_CHECK err_t bundle_of_pem(struct bytes pem, const char *trust_domain, struct bundle **out);
MUST_CHECK err_t bundle_of_der(const struct bytes *certs, size_t num, const char *trust_domain,
                               struct bundle **out);
/* bundle_of_both is the CAs of `inside` (NULL: none), which vouch for SPIFFE IDs of its trust
 * domain, and those of a text, which are outside of the mesh and vouch for DNS names alone: in such
 * a bundle a certificate below an outside CA has no SPIFFE ID or is refused, and one below an
 * inside CA has one, and its DNS names do not count. What is in both is inside. Errors: as
 * bundle_of_pem. */
MUST_CHECK err_t bundle_of_both(const struct bundle *inside, struct bytes outside_pem,
                                struct bundle **out);
/* bundle_is_outside: the CA with that SHA-256 vouches for names alone. */
bool bundle_is_outside(const struct bundle *bundle, const uint8_t sha256[32]);
/* bundle_has_inside: some CA in it may vouch for SPIFFE IDs. */
bool bundle_has_inside(const struct bundle *bundle);
/* bundle_has tells whether the certificate with that SHA-256 is in it. */
bool bundle_has(const struct bundle *bundle, const uint8_t sha256[32]);
struct bundle *bundle_ref(struct bundle *bundle);
void bundle_unref(struct bundle *bundle);
MEM_CLEANUP_FN(bundle_unrefp, struct bundle, bundle_unref)
MUST_CHECK err_t bundle_write_pem(const struct bundle *bundle, struct buf *out);

#endif
