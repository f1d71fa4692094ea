/* revoke is the deny set: identities, certificates, keys and issuers that are refused although
 * everything else about them is right. Immutable, shared by threads. Source: RFC 5280 section 3.3
 * for the idea; reliability R7, R42. */
#ifndef MORTISE_CERTS_REVOKE_H
#define MORTISE_CERTS_REVOKE_H

#include "certs/verify.h"
#include "lib/base/faults.h"
#include "proto/mesh/resource.pb-c.h"

#define REVOKE_MAX 4096        /* entries of a set */
#define REVOKE_SERIAL_BYTES 20 /* at most, RFC 5280 section 4.1.2.2 */
#define REVOKE_GRACE_MAX_MS 86400000

/* revoke_check judges one entry and adds every fault below `path` ("revocations[2]"). Errors:
 * CONFIG_INVALID. */
MUST_CHECK err_t revoke_check(const Mortise__V1__Revocation *entry, struct fault_path *path,
                              struct faults *faults);

/* What an entry says, in the words of its message, and of which field. */
struct revoke_subject {
    const char *kind;  /* "spiffe_id", "serial", "issuer_key_sha256", "key_sha256" */
    const char *value; /* the message's */
};
/* revoke_subject of an entry that passed revoke_check. */
struct revoke_subject revoke_subject(const Mortise__V1__Revocation *entry);

struct revoke_set;
/* revoke_set_new checks all entries (faults under "revocations[i]") and makes the set of them.
 * Errors: CONFIG_INVALID. */
MUST_CHECK err_t revoke_set_new(Mortise__V1__Revocation *const *entries, size_t num,
                                struct faults *faults, struct revoke_set **out);
void revoke_set_free(struct revoke_set *set);
size_t revoke_set_num(const struct revoke_set *set);

/* revoke_find tells whether a peer is denied: by its identity, its serial number, its key, or the
 * key of any CA on its path. Of several entries the one with the shortest grace counts. */
bool revoke_find(const struct revoke_set *set, const struct peer *peer, uint32_t *out_grace_ms);

#endif
