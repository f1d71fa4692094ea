/* cert: what is asked of a single X.509 certificate, whoever asks: dates, key, signature algorithm,
 * usage, names. No chain, no trust: verify has those. Source: RFC 5280 section 4; SPIFFE X509-SVID.
 */
#ifndef MORTISE_CERTS_CERT_H
#define MORTISE_CERTS_CERT_H

#include <openssl/pool.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define CERT_SANS_MAX 64        /* names in one certificate; a mesh leaf has one */
#define CERT_SERIAL_MAX 20      /* bytes; RFC 5280 section 4.1.2.2 */
#define CERT_EXTENSIONS_MAX 32  /* honest certificates have fewer than 12 */
#define CERT_CONSTRAINTS_MAX 64 /* subtrees of name constraints; ours have one */

/* cert_parse parses one DER certificate, all of the buffer, and refuses more names, extensions or
 * name constraints than anybody needs before they cost anything, extensions of one kind twice, and
 * name constraints that are none. Shares `der`. Returns owned.
 * Errors: CERT_SYNTAX, SAN_TOO_MANY, CERT_USAGE. */
MUST_CHECK err_t cert_parse(CRYPTO_BUFFER *der, X509 **out);
/* cert_parse_bytes copies `der` (at most 1 MiB). Errors: as cert_parse, TOO_LARGE. */
MUST_CHECK err_t cert_parse_bytes(struct bytes der, X509 **out);

/* cert_times: Unix seconds. Errors: CERT_SYNTAX. */
MUST_CHECK err_t cert_times(const X509 *cert, int64_t *out_not_before, int64_t *out_not_after);
/* cert_check_time: errors CERT_EXPIRED (sub: seconds since; notAfter itself is the first second
 * that is too late), CERT_NOT_YET_VALID (sub: seconds until). */
MUST_CHECK err_t cert_check_time(const X509 *cert, int64_t now_s);
/* cert_check_key: strength as key_check_strength, curves by name only. Errors: KEY_WEAK (sub:
 * bits). */
MUST_CHECK err_t cert_check_key(X509 *cert);
/* cert_check_signature: ECDSA or RSA PKCS#1 with SHA-256, -384 or -512.
 * Errors: CERT_WEAK_SIGNATURE (sub: NID). */
MUST_CHECK err_t cert_check_signature(const X509 *cert);
/* cert_check_ca: basicConstraints CA and, if there is KeyUsage, keyCertSign. Errors: CERT_USAGE,
 * CERT_SYNTAX. */
MUST_CHECK err_t cert_check_ca(X509 *cert);
/* cert_check_leaf: no CA, KeyUsage with digitalSignature and neither keyCertSign nor cRLSign.
 * Errors: CHAIN_INVALID (a CA; sub: X509_V_ERR_INVALID_CA), CERT_USAGE, CERT_SYNTAX. */
MUST_CHECK err_t cert_check_leaf(X509 *cert);
/* cert_has_eku: whether ExtendedKeyUsage, where there is any, has all of these XKU_ bits. */
bool cert_has_eku(X509 *cert, uint32_t xku);

/* cert_check_serial: above 0 and of at most CERT_SERIAL_MAX bytes. Old roots have others, and
 * nobody counts theirs. Errors: CERT_SYNTAX. Source: RFC 5280 section 4.1.2.2. */
MUST_CHECK err_t cert_check_serial(const X509 *cert);
/* cert_serial returns lower-case hex, of whole bytes, owned. Errors: CERT_SYNTAX (too long,
 * negative). */
MUST_CHECK err_t cert_serial(const X509 *cert, char **out);
/* cert_key_id is a name for the key in `cert`: SHA-1 of its bits, not a signature. Owned
 * (ASN1_OCTET_STRING_free); NULL: no memory. Source: RFC 5280 section 4.2.1.2, method 1. */
ASN1_OCTET_STRING *cert_key_id(const X509 *cert);
/* cert_authority_id is what is signed by `issuer` names its key by: as the issuer itself does, if
 * it does. Owned (AUTHORITY_KEYID_free); NULL: no memory. */
AUTHORITY_KEYID *cert_authority_id(X509 *issuer);
/* cert_issuer_cn returns the issuer's common name for people to read: printable ASCII, "?" for
 * everything else, at most 64 characters; "" when there is none. Owned. */
char *cert_issuer_cn(const X509 *cert);

/* cert_subject returns the whole subject likewise, as RFC 2253 writes it, at most 160 characters;
 * "no name" when it has none. Owned. */
char *cert_subject(const X509 *cert);

/* cert_names are the names that identify: one URI, any DNS names; other kinds are not looked at. */
struct cert_names {
    char *uri;  /* owned; "" when there is none. A SPIFFE ID, with or without a path */
    char **dns; /* owned, NULL-ended; lower-case */
};
void cert_names_fini(struct cert_names *names);
/* cert_names_get: errors SAN_NONE (neither URI nor DNS name), SAN_MULTIPLE, SAN_SYNTAX (the URI is
 * no SPIFFE ID; a DNS name has a byte that no host name has, or a wildcard; the extension is
 * malformed), SAN_TOO_MANY. */
MUST_CHECK err_t cert_names_get(X509 *cert, struct cert_names *out);
/* cert_dns_valid: letters, digits, hyphens, dots; labels of 1 to 63; at most 253; no wildcard. */
bool cert_dns_valid(struct bytes name);
/* cert_is_address: an IP address, or what a resolver could take for one (a last label of digits
 * alone): never a name to expect, as no name of a certificate can be meant by it. */
bool cert_is_address(const char *name);

/* cert_der is the DER of `cert`, owned by the caller (CRYPTO_BUFFER_free). */
MUST_CHECK err_t cert_der(X509 *cert, CRYPTO_BUFFER **out);
/* cert_pool is the process's pool: equal certificates are kept once. Never freed. */
CRYPTO_BUFFER_POOL *cert_pool(void);

#endif
