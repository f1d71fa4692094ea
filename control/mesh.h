/* mesh judges a Mesh resource as a whole and knows its defaults. Pure. */
#ifndef MORTISE_CONTROL_MESH_H
#define MORTISE_CONTROL_MESH_H

#include "lib/base/faults.h"
#include "proto/mesh/resource.pb-c.h"

#define MESH_NAME_MAX 63
#define MESH_SUBSYSTEMS_MAX 1000
#define MESH_PROFILES_MAX 500
#define MESH_LINKS_MAX 5000
#define MESH_DESCRIPTION_MAX 512
#define MESH_LEAF_TTL_MIN_S 300
#define MESH_LEAF_TTL_MAX_S 604800
#define MESH_LEAF_TTL_S 86400
#define MESH_INBOUND_PORT 15443 /* of every sidecar, unless it advertises another */

/* The three lists of a mesh, for code that treats them alike. */
struct mesh_kind {
    const char *one;  /* "link" */
    const char *many; /* "links": the field's name */
    const ProtobufCMessageDescriptor *desc;
    size_t num_at;   /* offset of the count in Mortise__V1__Mesh */
    size_t items_at; /* offset of the array of pointers */
};
enum { MESH_SUBSYSTEMS, MESH_PROFILES, MESH_LINKS, MESH_KINDS };
extern const struct mesh_kind mesh_kinds[MESH_KINDS];
size_t mesh_num(const Mortise__V1__Mesh *mesh, const struct mesh_kind *kind);
const ProtobufCMessage *mesh_item(const Mortise__V1__Mesh *mesh, const struct mesh_kind *kind,
                                  size_t index);
/* mesh_name is the `name` of a subsystem, profile or link. */
const char *mesh_name(const ProtobufCMessage *item);

/* What an absent field means. */
const char *mesh_namespace(const Mortise__V1__Subsystem *subsystem);
const char *mesh_account(const Mortise__V1__Subsystem *subsystem);
const char *mesh_client_profile(const Mortise__V1__Link *link);
const char *mesh_server_profile(const Mortise__V1__Link *link);
uint32_t mesh_leaf_ttl_s(const Mortise__V1__Mesh *mesh);

/* mesh_subsystem, mesh_profile: by name; NULL when there is none. */
const Mortise__V1__Subsystem *mesh_subsystem(const Mortise__V1__Mesh *mesh, const char *name);
const Mortise__V1__TlsProfile *mesh_profile(const Mortise__V1__Mesh *mesh, const char *name);
/* mesh_spiffe_id is the identity of a subsystem; owned. */
char *mesh_spiffe_id(const char *trust_domain, const Mortise__V1__Subsystem *subsystem);

/* mesh_origin says where each item of a merged mesh stands in the operator's document, so that
 * faults point there: an index, or MESH_KEPT for what was in the mesh before. */
#define MESH_KEPT SIZE_MAX
struct mesh_origin {
    size_t *index[MESH_KINDS];
};

/* mesh_check adds every fault: names, duplicates, references (with the names that exist), ports,
 * profiles that the library cannot do, and for each link whose two profiles have nothing in common
 * both lists. `origin` may be NULL: indices are the mesh's own. Errors: CONFIG_INVALID. */
MUST_CHECK err_t mesh_check(const Mortise__V1__Mesh *mesh, const struct mesh_origin *origin,
                            struct faults *faults);

/* mesh_default is the mesh of a first start; owned (pb_free): the built-in profiles and
 *   management-portal    127.0.0.1:15101 of management -> 127.0.0.1:8081 of portal
 *   management-gateway   127.0.0.1:15102 of management -> 127.0.0.1:8082 of gateway
 *   management-analytics 127.0.0.1:15103 of management -> 127.0.0.1:8083 of analytics
 *   gateway-analytics    127.0.0.1:15104 of gateway    -> 127.0.0.1:8083 of analytics */
Mortise__V1__Mesh *mesh_default(void);

/* mesh_is_built_in tells whether a profile is one of those that every mesh has and nobody may
 * change. */
bool mesh_is_built_in(const char *profile);

#endif
