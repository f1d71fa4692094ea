/* mesh_crls judges the revocation lists of a mesh: what mesh_check cannot, because it takes the CA
 * and the time. */
#ifndef MORTISE_CONTROL_MESH_CRLS_H
#define MORTISE_CONTROL_MESH_CRLS_H

#include "control/ca.h"
#include "control/mesh.h"

/* mesh_crls_check adds every fault: what is no list or one of those that are refused (crl.h), is of
 * a CA that this mesh does not have or not signed by it, is stale or of the future, what is too
 * large together, and a root whose key is elsewhere and that is left without a list. Of a text that
 * is in `current` already nothing is asked: a list that has gone stale meanwhile must not stand in
 * the way of another change. `origin` as in mesh_check. Errors: CONFIG_INVALID. */
MUST_CHECK err_t mesh_crls_check(const Mortise__V1__Mesh *mesh, const Mortise__V1__Mesh *current,
                                 const struct mesh_origin *origin, const struct ca *ca,
                                 int64_t now_s, struct faults *faults);

#endif
