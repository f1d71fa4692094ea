/* issuing judges an issuing certificate that a root elsewhere has signed, before anything rests on
 * it: what sidecars would find out at their first handshake is told here, by the field that is
 * wrong. The request for one is issue_request (issue.h). Source: RFC 5280 sections 4.2 and 6;
 * reliability R38, R41. */
#ifndef MORTISE_CERTS_ISSUING_H
#define MORTISE_CERTS_ISSUING_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "lib/base/err.h"
#include "lib/base/faults.h"

#define ISSUING_LEFT_MIN_S 3600 /* of its life: with less it is not worth the change */

struct issuing {
    X509 *cert; /* all borrowed */
    X509 *root;
    EVP_PKEY *key; /* that the certificate was asked for */
    const char *trust_domain;
    int64_t now_s;
};

/* issuing_check adds every fault, "issuer.nameConstraints: …", "root.notAfter: …". Of the
 * certificate it asks: the key; CA with pathlen 0; keyCertSign and cRLSign; name constraints that
 * permit URIs of the trust domain and no others; a subject; its dates; the root's signature. Of the
 * root: self-signed, a CA, not ended. At last a certificate is made under it and verified as a
 * sidecar would. Errors: CONFIG_INVALID. */
MUST_CHECK err_t issuing_check(const struct issuing *what, struct faults *faults);

#endif
