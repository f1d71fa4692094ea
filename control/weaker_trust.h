/* weaker_trust tells where a change of the mesh would have an end of a link take peers that it took
 * not before: a CA that vouches for them and did not, or, below CAs of others, a DNS name more. A
 * CA is the same when its certificate is. Pure. */
#ifndef MORTISE_CONTROL_WEAKER_TRUST_H
#define MORTISE_CONTROL_WEAKER_TRUST_H

#include "lib/base/faults.h"
#include "lib/base/map.h"
#include "proto/mesh/resource.pb-c.h"

/* The truststores of a mesh, each read when it is first asked about. */
struct weaker_trusts {
    const Mortise__V1__Mesh *mesh; /* borrowed */
    struct map by_name;            /* indices plus one */
    struct weaker_cas *cas;
};
void weaker_trusts_open(const Mortise__V1__Mesh *mesh, struct weaker_trusts *out);
void weaker_trusts_close(struct weaker_trusts *trusts);

/* weaker_trust_is_same: both profiles trust just the same, at a glance. */
bool weaker_trust_is_same(const struct weaker_trusts *before, const Mortise__V1__TlsProfile *was,
                          const struct weaker_trusts *after, const Mortise__V1__TlsProfile *now);

/* weaker_trust_judge adds "truststore of the `end` profile: vouched for also by …" and "peer_names
 * of the `end` profile: also …" at `path`, if there is something to tell. Both meshes are checked.
 */
void weaker_trust_judge(struct weaker_trusts *before, const Mortise__V1__TlsProfile *was,
                        struct weaker_trusts *after, const Mortise__V1__TlsProfile *now,
                        const char *end, const char *path, struct faults *out);

#endif
