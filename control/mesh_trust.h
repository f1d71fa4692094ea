/* mesh_trust judges the certificates in a mesh: what mesh_check leaves, because it takes the time.
 */
#ifndef MORTISE_CONTROL_MESH_TRUST_H
#define MORTISE_CONTROL_MESH_TRUST_H

#include "control/mesh.h"

/* mesh_trust_check adds every fault of what truststores have: no CA, expired, weak, too large
 * together; a revocation list that is none, is of nobody there or is stale. Of a truststore that is
 * in `current` as it is nothing is asked: what has expired meanwhile must not stand in the way of
 * another change. `origin` as in mesh_check. Errors: CONFIG_INVALID. */
MUST_CHECK err_t mesh_trust_check(const Mortise__V1__Mesh *mesh, const Mortise__V1__Mesh *current,
                                  const struct mesh_origin *origin, int64_t now_s,
                                  struct faults *faults);

/* mesh_keystore_expires is when the first certificate of an uploaded chain does,
 * mesh_truststore_expires when the first CA of others does; 0: it has none. */
int64_t mesh_keystore_expires(const Mortise__V1__MeshKeystore *keystore);
int64_t mesh_truststore_expires(const Mortise__V1__MeshTruststore *store);

#endif
