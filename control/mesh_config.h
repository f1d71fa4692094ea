/* mesh_config computes what one sidecar has to enforce from the mesh and from where its peers are.
 * Pure. */
#ifndef MORTISE_CONTROL_MESH_CONFIG_H
#define MORTISE_CONTROL_MESH_CONFIG_H

#include "certs/policy.h"
#include "proto/mesh/resource.pb-c.h"
#include "proto/mesh/sidecar.pb-c.h"

struct mesh_view {
    const Mortise__V1__Mesh *mesh;     /* checked (mesh_check) */
    const struct policy_set *policies; /* of that mesh; NULL only where it has none */
    const char *trust_domain;
    const char *roots_pem;
    const char *crls_pem; /* of our own CAs, see crls.h; NULL: none */
    Mortise__V1__Revocation *const *revocations;
    size_t num_revocations;
    /* The addresses of a subsystem's sidecars: a borrowed list, in a steady order. */
    const char *const *(*endpoints)(void *arg, const char *subsystem, size_t *out_num);
    void *arg;
};

/* mesh_config returns the owned configuration (pb_free) of the sidecars of `subsystem`: a plaintext
 * listener on loopback for each link that it is the client of, a target on loopback for each that
 * it is the server of, the profiles that these name, and the truststore "mesh" with those that the
 * profiles name. Where a sidecar
 * takes mTLS is its own setting. Where the mesh has revocation lists, the truststore has
 * those and our own CAs'. Of the policies it gets those that decide
 * of one of its links, cut to these links and to the peers that use them. A subsystem that is not
 * in the mesh gets the truststore and nothing else: it may do nothing. */
Mortise__V1__SidecarConfig *mesh_config(const struct mesh_view *view, const char *subsystem);

#endif
