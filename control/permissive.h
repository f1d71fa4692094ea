/* permissive judges what links take in plaintext: at a port of their own, until a day that is
 * written down. To let a link do so, or for longer, is a weakening. Pure. Source: features F11,
 * reliability R2. */
#ifndef MORTISE_CONTROL_PERMISSIVE_H
#define MORTISE_CONTROL_PERMISSIVE_H

#include "control/mesh.h"

#define PERMISSIVE_AHEAD_S (INT64_C(90) * 86400) /* the day may be no further away */

/* permissive_until is the end of the link's, Unix seconds; 0: it takes no plaintext at `now_s`. */
int64_t permissive_until(const Mortise__V1__Link *link, int64_t now_s);

/* permissive_check adds a fault for each link of `after` whose end is new and too far away. Both
 * meshes are checked (mesh_check); `origin` as there. Errors: CONFIG_INVALID. */
MUST_CHECK err_t permissive_check(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                                  const struct mesh_origin *origin, int64_t now_s,
                                  struct faults *faults);

/* permissive_weaker adds each link that would take plaintext, or for longer, new links too: "link
 * a-b" and "plaintext none -> at port 18081 until 2026-12-31T23:59:59Z". */
void permissive_weaker(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                       int64_t now_s, struct faults *out);

#endif
