/* csr: certificate requests. Only the public key of one is ever used. Source: RFC 2986. */
#ifndef MORTISE_CERTS_CSR_H
#define MORTISE_CERTS_CSR_H

#include <openssl/evp.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define CSR_MAX 8192

/* csr_build writes a signed request (DER) with one URI SAN, or with none when spiffe_id is NULL. */
MUST_CHECK err_t csr_build(EVP_PKEY *key, const char *spiffe_id, struct buf *out_der);
/* csr_parse checks syntax, size, key strength and the signature by its own key (proof of
 * possession) and returns the owned public key. Errors: CSR_SYNTAX, CSR_SIGNATURE, KEY_WEAK,
 * TOO_LARGE. */
MUST_CHECK err_t csr_parse(struct bytes der, EVP_PKEY **out_public);

#endif
