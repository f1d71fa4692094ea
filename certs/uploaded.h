/* uploaded judges certificates and keys that an operator brings, and tells every fault with its
 * field and the subject of the certificate: CAs for a truststore, a chain with its key for a
 * keystore. Bounded; passphrases are tried once. */
#ifndef MORTISE_CERTS_UPLOADED_H
#define MORTISE_CERTS_UPLOADED_H

#include "certs/svid.h"
#include "lib/base/faults.h"

#define UPLOADED_BYTES_MAX ((size_t)256 << 10) /* of one file */
#define UPLOADED_CERTS_MAX 16                  /* of one keystore, those that belong to it or not */
#define UPLOADED_PASSWORD_MAX 1024

/* uploaded_cas checks a text of CA certificates and adds every fault at `path`: no PEM, no
 * certificate in it, a private key in it, one that is no CA, expired or not yet valid (not asked
 * when now_s is 0), of a weak key, signed by another one with a weak algorithm. Errors:
 * CONFIG_INVALID. */
MUST_CHECK err_t uploaded_cas(struct bytes pem, int64_t now_s, struct fault_path *path,
                              struct faults *faults);

/* What a keystore is made of, as it came: certificates in any order. Zeroed memory is empty. */
struct uploaded {
    CRYPTO_BUFFER *certs[UPLOADED_CERTS_MAX];
    size_t num;
    EVP_PKEY *key;
};
void uploaded_fini(struct uploaded *uploaded);

/* uploaded_pem reads two texts: certificates, and a private key (PKCS#8, SEC1, PKCS#1; encrypted as
 * PKCS#8 or in the old way of OpenSSL, with `password`, which is NULL when there is none). Both may
 * be the same text. uploaded_pkcs12 reads PKCS#12. The faults are at "--chain", "--private-key",
 * "--pkcs12" and
 * "--password-file". Errors: CONFIG_INVALID. */
MUST_CHECK err_t uploaded_pem(struct bytes certs, struct bytes key, const char *password,
                              struct faults *faults, struct uploaded *out);
MUST_CHECK err_t uploaded_pkcs12(struct bytes file, const char *password, struct faults *faults,
                                 struct uploaded *out);

/* uploaded_keystore checks what came and puts its chain in order, leaf first, without a root: the
 * key belongs to a certificate, strength, dates, usage, names (DNS names alone: SPIFFE IDs are the
 * mesh's to give), every certificate belongs to the chain. Faults at "chain" and "key". Errors:
 * CONFIG_INVALID. */
MUST_CHECK err_t uploaded_keystore(const struct uploaded *uploaded, int64_t now_s,
                                   struct faults *faults, struct svid **out);

/* uploaded_chain checks a public chain that is in order (of an uploaded keystore) by itself and
 * adds every fault at `path`; dates are not asked when now_s is 0. With `out` (may be NULL) the
 * certificates, leaf first; the caller ends it with uploaded_fini. Errors: CONFIG_INVALID. */
MUST_CHECK err_t uploaded_chain(struct bytes pem, int64_t now_s, struct fault_path *path,
                                struct faults *faults, struct uploaded *out);

#endif
