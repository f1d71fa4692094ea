/* mesh_own judges truststores by what only a control plane knows: which CAs are the mesh's own. */
#ifndef MORTISE_CONTROL_MESH_OWN_H
#define MORTISE_CONTROL_MESH_OWN_H

#include "control/ca.h"
#include "control/mesh.h"

/* mesh_own_check adds a fault for each certificate in `pem` of a truststore whose key one of the
 * mesh's own CAs has: taken for one of others it would let nobody in, as what it has issued is
 * known by SPIFFE ID, and a rotation would leave it behind. Of a truststore that is in `current` as
 * it is nothing is asked. `origin` as in mesh_check. Errors: CONFIG_INVALID. */
MUST_CHECK err_t mesh_own_check(const Mortise__V1__Mesh *mesh, const Mortise__V1__Mesh *current,
                                const struct mesh_origin *origin, const struct ca *ca,
                                struct faults *faults);

#endif
