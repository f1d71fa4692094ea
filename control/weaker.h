/* weaker tells where a change of the mesh would let the two ends of a link do what is weaker than
 * all that they could do before: a lower version, a suite without forward secrecy or AEAD, a group
 * or a signature algorithm of less strength, no post-quantum group any more; where a connection
 * would live on with an expired certificate, or longer; where a policy keeps out fewer; and where
 * an end would take peers that it took not before (weaker_trust.h). Judged by its effect on a link,
 * which is what both ends have in common: what one end alone allows, or a profile that no link
 * uses, is none. A link that is new is held to what no default has: clients without a certificate,
 * servers that are not verified, TLS 1.0 and 1.1 (one that takes the place of another, removed or
 * led elsewhere, between the same two applications is held to that). Pure. */
#ifndef MORTISE_CONTROL_WEAKER_H
#define MORTISE_CONTROL_WEAKER_H

#include "lib/base/faults.h"
#include "proto/mesh/resource.pb-c.h"

/* weaker_find adds each weakening: "link a-b" and "min_version TLS1_3 -> TLS1_2". Both meshes are
 * checked (mesh_check); a link whose ends could not talk before has nothing that could weaken. */
void weaker_find(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                 struct faults *out);

/* weaker_policies adds what of the policies of `before` holds in `after` no longer: "policy x" and
 * "DENY removed", "peers: spiffe://… no longer denied", "links: a-b no longer". A DENY may name
 * more than it did; an ALLOW fewer peers, and more links. What makes up for it elsewhere counts
 * only where it is plain: the same policy under another name, another ALLOW of the same link. Links
 * that are gone with nothing between the same two count for nothing. */
void weaker_policies(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                     struct faults *out);

#endif
