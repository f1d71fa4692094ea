/* proof: an expired certificate that comes with a signature of its key, over a request for the next
 * one: whoever was somebody until just now may be that again. The certificate itself says nothing
 * any more; who checks looks it up in his own records. */
#ifndef MORTISE_CERTS_PROOF_H
#define MORTISE_CERTS_PROOF_H

#include <openssl/evp.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define PROOF_CERT_MAX 16384
#define PROOF_SIGNATURE_MAX 1024 /* RSA 8192 */

/* proof_sign appends the signature of `key`, that of `certificate` (DER), over the certificate and
 * `csr` (DER). Errors: KEY_SYNTAX, NO_MEMORY. */
MUST_CHECK err_t proof_sign(EVP_PKEY *key, struct bytes certificate, struct bytes csr,
                            struct buf *out);

/* What a certificate is looked up by. */
struct proof_subject {
    char *serial; /* lower-case hex, owned */
    uint8_t sha256[32];
    uint8_t key_sha256[32];
    EVP_PKEY *key; /* public; owned */
};
void proof_subject_fini(struct proof_subject *subject);
/* proof_read parses the certificate; nothing about it is verified. Errors: CERT_SYNTAX, TOO_LARGE,
 * KEY_WEAK, those of cert_parse. */
MUST_CHECK err_t proof_read(struct bytes certificate, struct proof_subject *out);
/* proof_check verifies the signature. Errors: PROOF_INVALID. */
MUST_CHECK err_t proof_check(const struct proof_subject *subject, struct bytes csr,
                             struct bytes signature);

#endif
