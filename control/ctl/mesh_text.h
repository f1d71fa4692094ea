/* mesh_text is the mesh in force, and meshes as texts that can be compared. */
#ifndef MORTISE_CONTROL_CTL_MESH_TEXT_H
#define MORTISE_CONTROL_CTL_MESH_TEXT_H

#include "control/ctl/conn.h"
#include "lib/base/buf.h"
#include "proto/mesh/operator.pb-c.h"

/* mesh_get asks for the mesh in force; owned (pb_free), NULL: told. Its `mesh` is there. */
Mortise__V1__GetMeshResponse *mesh_get(struct conn *conn);

/* mesh_write appends the mesh as a document in YAML or (`output` CTL_JSON) JSON; each list by name,
 * settings that are all default left out, so that the same mesh always is the same text. */
void mesh_write(int output, const Mortise__V1__Mesh *mesh, struct buf *out);

/* mesh_sort is the same as a message, lent from `mesh`; the caller ends it with mesh_sort_fini. */
void mesh_sort(const Mortise__V1__Mesh *mesh, Mortise__V1__Mesh *out);
void mesh_sort_fini(Mortise__V1__Mesh *sorted);

#endif
