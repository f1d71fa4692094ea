/* crl_set is the revocation lists of one truststore, and what they say of a peer. Immutable, shared
 * by threads and by snapshots. Source: RFC 5280 section 6.3; reliability R7, F06.
 *
 * The rule. A truststore without lists asks nothing. With any, every certificate of the peer's path
 * below its anchor (the certificate of the truststore that the path ends at) is asked about: each
 * issuer on the path, the anchor among them, needs a list in the set that
 *   - has that issuer's subject as its issuer, byte for byte,
 *   - is signed with that issuer's key, and the issuer's KeyUsage (if it has one) allows that, and
 *   - is not stale: now is before its nextUpdate.
 * Of several lists of one issuer all are asked, and one that is not stale suffices. A list that has
 * gone stale still denies whom it names. Nothing is asked about a peer whose own certificate is in
 * the truststore, nor about what is above the anchor. */
#ifndef MORTISE_CERTS_CRL_SET_H
#define MORTISE_CERTS_CRL_SET_H

#include "certs/bundle.h"
#include "certs/crl.h"
#include "certs/verify.h"

#define CRL_SET_LISTS_MAX 64
#define CRL_SET_TEXT_MAX (CRL_BYTES_MAX / 3 * 4 + ((size_t)1 << 20)) /* of one PEM text */

struct crl_set {
    struct refs refs;
    size_t num;         /* of lists, at least 1 */
    struct crl **lists; /* each once, in the order of their hashes */
    uint8_t hash[32];   /* over the lists' */
};

/* crl_set_of makes the set of all lists in `texts`, each PEM ("X509 CRL" blocks; other blocks are
 * passed over) or one list in DER. A list whose issuer has a certificate in `bundle` (by name) must
 * be signed by one of those; that of an intermediate is judged when a peer comes with it. Lists
 * that `before` (may be NULL) has are shared with it, not parsed again. A new list that is stale is
 * refused where `before` has one of that issuer that is not; otherwise it is taken, and refuses.
 * On an error `*out_text` says which text it was. Errors: those of crl_parse, PEM_SYNTAX, PEM_EMPTY
 * (a text without any), CRL_SIGNATURE, CRL_NOT_YET_VALID, CRL_STALE, LIMIT. */
MUST_CHECK err_t crl_set_of(const struct bytes *texts, size_t num, const struct bundle *bundle,
                            int64_t now_s, const struct crl_set *before, struct crl_set **out,
                            size_t *out_text);
struct crl_set *crl_set_ref(struct crl_set *set);
void crl_set_unref(struct crl_set *set);
MEM_CLEANUP_FN(crl_set_unrefp, struct crl_set, crl_set_unref)

/* crl_set_names tells whether the list names that CA as its issuer. */
bool crl_set_names(const struct crl *crl, X509 *ca);

/* crl_set_check applies the rule to a verified peer. `set` NULL: nothing is asked. Errors:
 * PEER_REVOKED, which comes before the others; CRL_MISSING and CRL_STALE (sub: which certificate,
 * 0: the leaf). */
MUST_CHECK err_t crl_set_check(const struct crl_set *set, const struct peer *peer, int64_t now_s);

/* crl_set_next_update and crl_set_this_update: the earliest of the lists'. */
int64_t crl_set_next_update(const struct crl_set *set);
int64_t crl_set_this_update(const struct crl_set *set);

#endif
