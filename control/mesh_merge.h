/* mesh_merge puts an operator's document into the mesh, by name, and says what that changes. Pure.
 */
#ifndef MORTISE_CONTROL_MESH_MERGE_H
#define MORTISE_CONTROL_MESH_MERGE_H

#include "control/mesh.h"

/* Zeroed memory is an empty result. */
struct mesh_merge {
    Mortise__V1__Mesh *mesh;   /* what the mesh would be */
    struct mesh_origin origin; /* where its items stand in the document */
    char **changes;            /* "link a-b: changed client_profile", "profile x: removed" */
    size_t num_changes;
    struct faults weaker; /* of whom it is asked: what links could do then (control/weaker.h) */
};
void mesh_merge_fini(struct mesh_merge *merge);

/* mesh_merge: an item of the document takes the place of the one of the same name, or is new; its
 * settings take the place of all settings. What the document does not name stays, or with `prune`
 * goes, what is built in excepted. The result is not yet checked (mesh_check). Faults here: a name
 * twice in the document, a change of what is built in. Errors: CONFIG_INVALID; `*out` is filled
 * even then, so that mesh_check can tell the rest; the caller ends it with mesh_merge_fini. */
MUST_CHECK err_t mesh_merge(const Mortise__V1__Mesh *current, const Mortise__V1__Mesh *document,
                            bool prune, struct faults *faults, struct mesh_merge *out);

#endif
