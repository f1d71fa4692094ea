/* revisions keeps what the mesh was: each change of it, who made it and why, with the whole mesh
 * that it led to, written in the transaction that changes the mesh. So the newest revision always
 * is the mesh in force.
 *
 * A revision's number is the version that the mesh had with it: the number that `apply` and
 * `status` print, and that if_version asks for. Such numbers skip (other changes have versions,
 * too), grow, and never come back. Revocations are no part of the mesh, and of no revision.
 *
 * The newest REVISIONS_KEPT are kept, fewer when their meshes are large; an older one goes in the
 * transaction that brings a new one. Who they are of is in memory, their meshes are read when they
 * are asked for. Private to the registry but for reading. */
#ifndef MORTISE_CONTROL_REVISIONS_H
#define MORTISE_CONTROL_REVISIONS_H

#include "control/vault.h"

#define REVISIONS_KEPT 200
#define REVISIONS_BYTES_MAX ((size_t)32 << 20) /* of all meshes; the newest is kept anyhow */
#define REVISIONS_CHANGES_MAX 64               /* texts of one; the others are counted */
#define REVISIONS_MESSAGE_MAX 1024             /* bytes that an operator may give */

struct revisions {
    struct vault *vault;
    Mortise__Control__Revision **items; /* by number, ascending */
    size_t num;
    struct store_watch watch;
};

/* What is to be known of a change, borrowed. */
struct revisions_new {
    const char *author;  /* a SPIFFE ID, "uid:0" */
    const char *message; /* printable, checked where it comes in */
    char *const *changes;
    size_t num_changes;
};

/* revisions_open loads them; `vault` is set by the caller before. Errors: STORE_CORRUPT,
 * KEK_UNAVAILABLE, IO. On error revisions_close is still due. */
MUST_CHECK err_t revisions_open(struct revisions *revisions);
void revisions_close(struct revisions *revisions);

/* revisions_put adds the revision of `mesh` to `batch`, and the end of those that are too many.
 * Errors: TOO_LARGE. */
MUST_CHECK err_t revisions_put(const struct revisions *revisions, struct vault_batch *batch,
                               const Mortise__Control__MeshRecord *mesh,
                               const struct revisions_new *about);

/* revisions_newest is the number of the newest one; 0: there is none. */
uint64_t revisions_newest(const struct revisions *revisions);
/* revisions_find: by its number; NULL when it is not kept. Borrowed until the mesh changes. */
const Mortise__Control__Revision *revisions_find(const struct revisions *revisions,
                                                 uint64_t version);
/* revisions_mesh returns its mesh, owned (pb_free). Errors: NOT_FOUND (not kept), STORE_CORRUPT,
 * IO. */
MUST_CHECK err_t revisions_mesh(const struct revisions *revisions, uint64_t version,
                                Mortise__Control__MeshRecord **out);

#endif
