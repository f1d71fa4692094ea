/* ca signs: a root that vouches for one issuing certificate, which signs every leaf. What a
 * certificate says comes from the request struct, which its callers fill from their own records; of
 * a CSR only the public key ever gets here. The record of an issuance is durable before the
 * certificate is returned.
 *
 * During a rotation (root_rotation.h) there is another issuer beside the one that signs: the coming
 * one, and after ca_switch the leaving one; below another root, or below the same. The roots of
 * both are the mesh's trust. A root that was replaced has vouched for its successor: leaves come
 * with that certificate while both are trusted, the control plane's own always, so that who has
 * only the old root finds a path. Source: reliability R35-R41, F30, F39, F40. */
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
/* ca_create_without makes a request for an issuing certificate instead: the root is elsewhere.
 * Until ca_prepare_import has brought its answer there is no CA: nobody is trusted, nothing signed.
 */
MUST_CHECK err_t ca_create_without(struct vault *vault, struct vault_batch *batch,
                                   const char *trust_domain, int64_t now_s);

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
    const char *reason; /* a constant: attest, rejoin, renew, rotate, control, admin */
    uint64_t epoch;
    const char *renews; /* serial of the one that it follows; NULL: none */
    bool lineage;       /* with what every root of before says of its successor */
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

/* ca_note_renewal is for the caller of ca_sign, too: `renews` of that request, and its key.
 * ca_may_follow: nothing has followed that certificate yet, or just one of that key (successors.h).
 */
void ca_note_renewal(struct ca *ca, const char *renews, const uint8_t key_sha256[32]);
bool ca_may_follow(const struct ca *ca, const char *serial, const uint8_t key_sha256[32]);

/* ca_issuer_is_old: it is past half of its life, and another one can be made here, to live longer
 * (none outlives the root). */
bool ca_issuer_is_old(const struct ca *ca);

/* ca_maintain is called now and then. It removes records of certificates that expired more than
 * CA_KEEP_EXPIRED_S ago, but never the last one: it is what the clock is judged by. Of the records
 * it looks at some at a time: `*out_more` says to call again soon.
 *
 * An issuer is followed by another in stages (root_rotation.h). One that has ended all the same,
 * because this program was away for half a year, is replaced at once: its leaves have ended with
 * it. Of one whose root is elsewhere it can only warn. */
MUST_CHECK err_t ca_maintain(struct ca *ca, bool *out_more);

/* ca_state tells why nothing can be signed now: OK, CA_CANNOT_SIGN or CLOCK_BACKWARDS. */
err_t ca_state(const struct ca *ca);

/* Each of these adds to `batch` what has to be committed with the rotation's own record; then
 * ca_reload takes it into memory. ca_prepare makes another root and its issuer, ca_prepare_issuer
 * another issuer below the same root; ca_switch makes it the one that signs, and the one before the
 * other; ca_retire forgets the other and its keys.
 * Errors: those of issue.h and of sealing; ca_reload: those of ca_open, and memory is as it was. */
MUST_CHECK err_t ca_prepare(struct ca *ca, struct vault_batch *batch);
MUST_CHECK err_t ca_prepare_issuer(struct ca *ca, struct vault_batch *batch);
/* ca_prepare_import takes the answer to ca_request (DER, in any order; the root may be left out
 * when it is the one that is trusted): as the other issuer, below another root or the same one, or
 * as the first that there is, which needs no switch. Errors: NOT_FOUND (nothing was asked for),
 * CONFIG_INVALID (`faults` say what is wrong with it). */
enum ca_import { CA_IMPORT_FIRST, CA_IMPORT_SAME_ROOT, CA_IMPORT_NEW_ROOT };
MUST_CHECK err_t ca_prepare_import(struct ca *ca, struct vault_batch *batch,
                                   const struct bytes *certs, size_t num, struct faults *faults,
                                   enum ca_import *out);
MUST_CHECK err_t ca_switch(struct ca *ca, struct vault_batch *batch);
MUST_CHECK err_t ca_retire(struct ca *ca, struct vault_batch *batch);
MUST_CHECK err_t ca_reload(struct ca *ca);

/* ca_request appends a request (DER) for an issuing certificate, of a key that stays here: always
 * the same one until its answer was taken, or with `fresh` a new one. Errors: STORE_*. */
MUST_CHECK err_t ca_request(struct ca *ca, bool fresh, struct buf *out);
/* ca_is_empty: there is none yet; ca_is_external: the root's key is elsewhere, so that ca_prepare
 * and ca_prepare_issuer say ROOT_ELSEWHERE. */
bool ca_is_empty(const struct ca *ca);
bool ca_is_external(const struct ca *ca);
/* ca_has_other: there is an issuer that does not sign; ca_has_other_root: with a root of its own.
 */
bool ca_has_other(const struct ca *ca);
bool ca_has_other_root(const struct ca *ca);
/* In lower-case hex: SHA-256 of a root's DER; of an issuer's SubjectPublicKeyInfo; "" of one that
 * is not there. `other`: of those that do not sign. */
#define CA_SHA256_HEX 65
void ca_root_sha256(const struct ca *ca, bool other, char out[CA_SHA256_HEX]);
void ca_issuer_key_sha256(const struct ca *ca, bool other, char out[CA_SHA256_HEX]);

/* ca_has_key tells whether one of the authorities, of those that sign or the other ones, has the
 * key with that SHA-256 of its SubjectPublicKeyInfo (lower-case hex). */
bool ca_has_key(const struct ca *ca, const char *key_sha256);

/* An authority whose key is here. */
struct ca_authority {
    const struct authority *it;
    const struct authority *root; /* that vouches for it; NULL: it is one */
};
#define CA_AUTHORITIES_MAX 4
/* ca_authorities fills in those that there are, borrowed until ca_reload; returns how many.
 * ca_on_keys has fn called at the end of each ca_reload. */
size_t ca_authorities(const struct ca *ca, struct ca_authority out[CA_AUTHORITIES_MAX]);
void ca_on_keys(struct ca *ca, void (*fn)(void *arg), void *arg);

/* A certificate that is not of a sidecar: the control plane's newest, and each administrator's that
 * is valid still. */
struct ca_standing {
    const char *role; /* control, admin */
    char serial[41];
    char *spiffe_id;
    int64_t not_before;
    int64_t not_after;
};
#define CA_STANDING_MAX 64 /* those that expire last */
const struct ca_standing *ca_standing(const struct ca *ca, size_t *out_num);

/* The trust bundle that sidecars get: the roots, borrowed until ca_reload. ca_callers is what the
 * control plane itself trusts: also roots of before, while leaves of theirs may live. Both are NULL
 * while the CA is empty. */
struct bundle *ca_bundle(const struct ca *ca);
struct bundle *ca_callers(const struct ca *ca);
const struct bytes *ca_roots(const struct ca *ca, size_t *out_num); /* DER */
const char *ca_roots_pem(const struct ca *ca);
int64_t ca_root_not_after(const struct ca *ca);
int64_t ca_issuer_not_after(const struct ca *ca);

#endif
