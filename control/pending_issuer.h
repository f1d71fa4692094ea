/* pending_issuer is the issuing key for which a certificate was asked of a root that is elsewhere:
 * it is made here and stays here; what goes out is the request, what comes back a certificate, and
 * the root's certificate with it. Source: reliability R38. */
#ifndef MORTISE_CONTROL_PENDING_ISSUER_H
#define MORTISE_CONTROL_PENDING_ISSUER_H

#include "control/authority.h"

/* pending_issuer_create adds a new key and its request to `batch`. Errors: of sealing. */
MUST_CHECK err_t pending_issuer_create(struct vault *vault, struct vault_batch *batch,
                                       const char *trust_domain, int64_t now_s, uint64_t expect);

/* pending_issuer_request appends the request (DER) of the key that is pending; with `fresh`, or
 * when there is none, of a new one, which is stored first. Errors: STORE_*. */
MUST_CHECK err_t pending_issuer_request(struct vault *vault, const char *trust_domain,
                                        int64_t now_s, bool fresh, struct buf *out_csr);

/* pending_issuer_exists: one was asked for and has not come yet. */
bool pending_issuer_exists(struct vault *vault);

struct pending_issuer_reply {
    const struct bytes *certs; /* DER, in any order: the issuing certificate, and its root */
    size_t num;
    struct bytes root; /* the one that is trusted already; it need not be given. Empty: none */
    const char *trust_domain;
    int64_t now_s;
};

/* pending_issuer_take judges what came (issuing.h) and fills `*out` (authority_pair_fini); its root
 * is empty when it is the one that is trusted already. What is pending is removed with `batch`.
 * Errors: NOT_FOUND (nothing is pending), CONFIG_INVALID (`faults` say what is wrong), STORE_*. */
MUST_CHECK err_t pending_issuer_take(struct vault *vault, struct vault_batch *batch,
                                     const struct pending_issuer_reply *reply,
                                     struct faults *faults, struct authority_pair *out);

#endif
