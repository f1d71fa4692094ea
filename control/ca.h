/* ca signs: a root that vouches for one issuing certificate, which signs every leaf. What a
 * certificate says comes from the request struct, which its callers fill from their own records; of
 * a CSR only the public key ever gets here. The record of an issuance is durable before the
 * certificate is returned.
 *
 * While its root is being rotated (root_rotation.h) there is another pair beside the one that
 * signs: the coming one, and after ca_switch the leaving one. The roots of both are the mesh's
 * trust. A root that was replaced has vouched for its successor: leaves come with that certificate
 * while both are trusted, the control plane's own always, so that who has only the old root finds a
 * path. Source: reliability R35-R41, F30, F39, F40. */
#ifndef MORTISE_CONTROL_CA_H
#define MORTISE_CONTROL_CA_H

#include <openssl/evp.h>

#include "certs/bundle.h"
#include "control/authority.h"
#include "lib/base/clock.h"

#define CA_ROOT_TTL_S (INT64_C(10) * 365 * 86400)
#define CA_ISSUER_TTL_S (INT64_C(365) * 86400)
#define CA_LEAF_TTL_S 86400           /* default; MeshSettings.leaf_ttl_s changes it */
#define CA_KEEP_EXPIRED_S (7 * 86400) /* records of expired certificates are kept so long */

struct ca;

/* ca_create makes root key and certificate and the first issuer, and adds both records to `batch`.
 * Errors: those of issue.h and of sealing. */
MUST_CHECK err_t ca_create(struct vault *vault, struct vault_batch *batch, const char *trust_domain,
                           int64_t now_s);

struct ca_params {
    struct vault *vault; /* borrowed, as all here */
    const struct clock *clock;
    const char *trust_domain; /* copied */
    /* Told of each certificate that was issued (may be NULL). */
    void (*on_issued)(void *arg, const char *reason);
    void *arg;
};

/* ca_open loads what ca_create made and checks that keys, issuer and root belong together.
 * Errors: STORE_CORRUPT, KEK_UNAVAILABLE, IO. */
MUST_CHECK err_t ca_open(const struct ca_params *params, struct ca **out);
void ca_free(struct ca *ca);

/* What is to be signed. */
struct ca_request {
    const char *spiffe_id;
    const char *subsystem; /* "" for the control plane itself and for admins */
    EVP_PKEY *public_key;
    int64_t ttl_s;
    const char *reason; /* a constant: attest, renew, rotate, control, admin */
    uint64_t epoch;
    bool lineage; /* with what every root of before says of its successor */
};

#define CA_ANCESTORS_MAX 3 /* what fits into a chain behind leaf and issuer (verify.h) */
#define CA_CHAIN_MAX (2 + CA_ANCESTORS_MAX)
struct ca_cert {
    struct issued leaf;
    struct bytes chain[CA_CHAIN_MAX]; /* DER, leaf first; within leaf and the CA */
    size_t num_chain;
};
void ca_cert_fini(struct ca_cert *cert);

/* ca_issue signs `request`, adds its record to `batch` (which may hold what has to happen with it,
 * a token's use for one) and commits. `*out` is filled only when all of that is durable; it borrows
 * from the CA until the caller's callback returns. Errors: CA_CANNOT_SIGN, CLOCK_BACKWARDS (sub:
 * seconds behind the last issuance), KEY_WEAK, STORE_UNWRITABLE, STORE_CONFLICT. */
MUST_CHECK err_t ca_issue(struct ca *ca, const struct ca_request *request,
                          struct vault_batch *batch, struct ca_cert *out);

/* ca_sign and ca_issued are the halves of ca_issue for a caller that commits `batch` itself, with
 * others: the certificate must not leave before that commit, nor after one that failed. ca_issued
 * notes that it has been done. Errors of ca_sign: those of ca_issue but for the store's. */
MUST_CHECK err_t ca_sign(struct ca *ca, const struct ca_request *request, struct vault_batch *batch,
                         struct ca_cert *out);
void ca_issued(struct ca *ca, const struct ca_request *request, const struct issued *leaf);

/* ca_maintain is called now and then: it makes a new issuer when the old one is past half of its
 * life (its leaves stay valid: the root is the same), and removes records of certificates that
 * expired more than CA_KEEP_EXPIRED_S ago, but never the last one: it is what the clock is judged
 * by. */
MUST_CHECK err_t ca_maintain(struct ca *ca);

/* ca_state tells why nothing can be signed now: OK, CA_CANNOT_SIGN or CLOCK_BACKWARDS. */
err_t ca_state(const struct ca *ca);

/* Each of these adds to `batch` what has to be committed with the rotation's own record; then
 * ca_reload takes it into memory. ca_prepare makes another pair; ca_switch makes it the one that
 * signs, and the one before the other; ca_retire forgets the other and its keys.
 * Errors: those of issue.h and of sealing; ca_reload: those of ca_open, and memory is as it was. */
MUST_CHECK err_t ca_prepare(struct ca *ca, struct vault_batch *batch);
MUST_CHECK err_t ca_switch(struct ca *ca, struct vault_batch *batch);
MUST_CHECK err_t ca_retire(struct ca *ca, struct vault_batch *batch);
MUST_CHECK err_t ca_reload(struct ca *ca);
bool ca_has_other(const struct ca *ca);
/* SHA-256 of a root's DER in lower-case hex. `other`: of the pair that does not sign. */
#define CA_SHA256_HEX 65
void ca_root_sha256(const struct ca *ca, bool other, char out[CA_SHA256_HEX]);

/* ca_has_key tells whether one of the authorities, of those that sign or the other ones, has the
 * key with that SHA-256 of its SubjectPublicKeyInfo (lower-case hex). */
bool ca_has_key(const struct ca *ca, const char *key_sha256);

/* The trust bundle that sidecars get: the roots, borrowed until ca_reload. ca_callers is what the
 * control plane itself trusts: also roots of before, while leaves of theirs may live. */
struct bundle *ca_bundle(const struct ca *ca);
struct bundle *ca_callers(const struct ca *ca);
const struct bytes *ca_roots(const struct ca *ca, size_t *out_num); /* DER */
const char *ca_roots_pem(const struct ca *ca);
int64_t ca_root_not_after(const struct ca *ca);
int64_t ca_issuer_not_after(const struct ca *ca);

#endif
