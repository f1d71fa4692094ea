/* policy: whom of those that a link lets in policies keep out, by SPIFFE ID. Pure and immutable,
 * shared by threads. A DENY that names the peer goes before everything, at either end; a link that
 * has an ALLOW lets in only clients that one of its ALLOWs names. A policy lets nobody in: what the
 * link itself says is asked elsewhere (authz.h). Names are compared byte by byte, there is no
 * normalisation: an entry is one SPIFFE ID, or all those below a path ("spiffe://mesh.test/ns/x"
 * and behind it a slash and a star). */
#ifndef MORTISE_CERTS_POLICY_H
#define MORTISE_CERTS_POLICY_H

#include <stdbool.h>

#include "lib/base/faults.h"
#include "proto/mesh/resource.pb-c.h"

#define POLICY_MAX 1000
#define POLICY_PEERS_MAX 1000 /* of one */

/* What the peer is that is judged. */
enum policy_peer { POLICY_CLIENT, POLICY_SERVER };

/* policy_check judges action, links (as a list: each once) and peers of one policy and adds every
 * fault below `path`. `cut`: as a control plane gives it to a sidecar, where an ALLOW may have no
 * peers. Errors: CONFIG_INVALID. */
MUST_CHECK err_t policy_check(const Mortise__V1__Policy *policy, bool cut, struct fault_path *path,
                              struct faults *faults);

/* policy_covers: whether whoever `entry` names is named by one of the keys of `entries`, too.
 */
struct map;
bool policy_covers(const struct map *entries, const char *entry);

struct policy_set;
/* policy_set_new makes the set of policies that passed policy_check. It borrows their names for as
 * long as it lives. */
struct policy_set *policy_set_new(Mortise__V1__Policy *const *policies, size_t num);
void policy_set_free(struct policy_set *set);

/* policy_find returns the policy that keeps out the peer `spiffe_id` ("" : it has none) of that
 * link, or NULL; of several the first. `set` may be NULL: there is none. Its time grows
 * neither with the policies nor with their peers, but with those that name this very peer or
 * concern this very link, whichever are fewer. */
const Mortise__V1__Policy *policy_find(const struct policy_set *set, const char *link,
                                       enum policy_peer what, const char *spiffe_id);

/* policy_each gives what decides of that peer of that link: the index of each policy that names it
 * (with the entry that does), or else of the first ALLOW of the link (with NULL). */
void policy_each(const struct policy_set *set, const char *link, enum policy_peer what,
                 const char *spiffe_id, void (*each)(void *arg, size_t index, const char *entry),
                 void *arg);

#endif
