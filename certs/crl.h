/* crl: one certificate revocation list: parsed within bounds, looked up fast, immutable, shared by
 * threads. Source: RFC 5280 section 5; reliability R7, F06.
 *
 * Taken is a whole list of one issuer: version 1 or 2, with a nextUpdate, signed with ECDSA or RSA
 * PKCS#1 over SHA-256, -384 or -512. Refused, each with its own error, are deltas, lists for the
 * certificates of other issuers (indirect), lists for some certificates of their issuer only (an
 * issuingDistributionPoint says so), critical extensions that are not known, of the list or of an
 * entry, and serial numbers that no certificate may have. */
#ifndef MORTISE_CERTS_CRL_H
#define MORTISE_CERTS_CRL_H

#include <openssl/evp.h>

#include "certs/cert.h"
#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

#define CRL_BYTES_MAX ((size_t)16 << 20) /* of one list; a hundred thousand entries are 4 MiB */
#define CRL_ENTRIES_MAX 400000
#define CRL_SKEW_S 300 /* the clock of who signed it may be so far ahead */

#define CRL_NUMBER_HEX (2 * CERT_SERIAL_MAX + 1)
struct crl_impl;
struct crl {
    struct refs refs;
    uint8_t sha256[32];          /* of its DER */
    uint8_t issuer_sha256[32];   /* of its issuer's name, DER */
    char *issuer;                /* the name, for people: RFC 2253 */
    int64_t this_update;         /* Unix seconds */
    int64_t next_update;         /* from that second on it is stale */
    char number[CRL_NUMBER_HEX]; /* cRLNumber, hex; "" when it has none */
    size_t num;                  /* serial numbers, each once */
    struct crl_impl *impl;
};

/* crl_parse parses one list, all of `der`, which is borrowed for the call. Whose signature it has
 * is not asked. Errors: CRL_SYNTAX, CRL_DELTA, CRL_INDIRECT, CRL_PARTIAL, CRL_EXTENSION,
 * CRL_ENDLESS, CRL_SERIAL, CERT_WEAK_SIGNATURE, TOO_LARGE. */
MUST_CHECK err_t crl_parse(struct bytes der, struct crl **out);
struct crl *crl_ref(struct crl *crl);
void crl_unref(struct crl *crl);
MEM_CLEANUP_FN(crl_unrefp, struct crl, crl_unref)

/* crl_is_signed_by tells whether the list is signed with `key`, the SHA-256 of whose
 * SubjectPublicKeyInfo is `key_sha256`. The answer is remembered, so that it costs a signature
 * check once for a list and a key. Any thread. */
bool crl_is_signed_by(const struct crl *crl, EVP_PKEY *key, const uint8_t key_sha256[32]);

/* crl_has tells whether the list names that serial number: big-endian, right-aligned. */
bool crl_has(const struct crl *crl, const uint8_t serial[CERT_SERIAL_MAX]);

#endif
