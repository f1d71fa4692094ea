/* mesh judges a Mesh resource as a whole and knows its defaults. Pure. */
#ifndef MORTISE_CONTROL_MESH_H
#define MORTISE_CONTROL_MESH_H

#include "certs/policy.h"
#include "lib/base/faults.h"
#include "proto/mesh/resource.pb-c.h"

#define MESH_NAME_MAX 63
#define MESH_SUBSYSTEMS_MAX 1000
#define MESH_PROFILES_MAX 500 /* besides those that are built in */
#define MESH_LINKS_MAX 10000
#define MESH_CRLS_MAX 16
#define MESH_CRLS_BYTES_MAX 262144 /* of all together: every sidecar gets them at each change */
#define MESH_DESTINATIONS_MAX 64   /* of a link */
#define MESH_ROUTES_MAX 4096       /* of all links of a client: what a sidecar takes (snapshot.h) */
#define MESH_TRUSTSTORES_MAX 100   /* besides those that are built in */
#define MESH_TRUST_BYTES_MAX ((size_t)512 << 10) /* of all of them together */
#define MESH_KEYSTORES_MAX 100                   /* likewise */
#define MESH_POLICIES_MAX POLICY_MAX
#define MESH_PEER_NAMES_MAX 16 /* of a profile */
#define MESH_ROOTS "mesh"      /* what sidecars call the truststore of the mesh's own CAs */
#define MESH_DESCRIPTION_MAX 512
#define MESH_LEAF_TTL_MIN_S 300
#define MESH_REJOIN_S 259200 /* default: a long weekend */
#define MESH_REJOIN_MIN_S 60
#define MESH_REJOIN_MAX_S 604800 /* records are kept so long, CA_KEEP_EXPIRED_S */
#define MESH_REJOIN_NEVER 1
#define MESH_PLAINTEXT_QUIET_S 86400 /* default */
#define MESH_PLAINTEXT_QUIET_MIN_S 60
#define MESH_PLAINTEXT_QUIET_MAX_S 2592000
#define MESH_LEAF_TTL_MAX_S 604800
#define MESH_LEAF_TTL_S 86400
#define MESH_LOG_ALL 1000                    /* permille */
#define MESH_SERVER_NAME ".mortise.internal" /* behind a link's name */
#define MESH_INBOUND_PORT 15443              /* of every sidecar, unless it advertises another */

/* The lists of a mesh, for code that treats them alike. */
struct mesh_kind {
    const char *one;  /* "link", "revocation list": in texts */
    const char *word; /* "link", "crl": in commands */
    const char *many; /* "links": the field's name */
    const ProtobufCMessageDescriptor *desc;
    size_t num_at;   /* offset of the count in Mortise__V1__Mesh */
    size_t items_at; /* offset of the array of pointers */
};
enum {
    MESH_SUBSYSTEMS,
    MESH_PROFILES,
    MESH_LINKS,
    MESH_CRLS,
    MESH_TRUSTSTORES,
    MESH_KEYSTORES,
    MESH_POLICIES,
    MESH_KINDS
};
extern const struct mesh_kind mesh_kinds[MESH_KINDS];
size_t mesh_num(const Mortise__V1__Mesh *mesh, const struct mesh_kind *kind);
const ProtobufCMessage *mesh_item(const Mortise__V1__Mesh *mesh, const struct mesh_kind *kind,
                                  size_t index);
/* mesh_name is the `name` of a subsystem, profile, link, revocation list, truststore,
 * keystore or policy. */
const char *mesh_name(const ProtobufCMessage *item);

/* What an absent field means. */
const char *mesh_namespace(const Mortise__V1__Subsystem *subsystem);
const char *mesh_account(const Mortise__V1__Subsystem *subsystem);
const char *mesh_client_profile(const Mortise__V1__Link *link);
const char *mesh_server_profile(const Mortise__V1__Link *link);
/* mesh_server_name is what the client of a link asks for (SNI), lower-case; owned; NULL: nothing.
 */
char *mesh_server_name(const Mortise__V1__Mesh *mesh, const Mortise__V1__Link *link);
/* mesh_link_entry appends where a link's client connects to: "127.0.0.1:9001", "10.0.0.7:8080
 * (captured)", or both. */
MUST_CHECK err_t mesh_link_entry(const Mortise__V1__Link *link, struct buf *out);

/* mesh_link_weak appends what of a link is weaker than the defaults, and by which profile (see
 * tls_profile_weak); nothing where nothing is. */
MUST_CHECK err_t mesh_link_weak(const Mortise__V1__Mesh *mesh, const Mortise__V1__Link *link,
                                int64_t now_s, struct buf *out);
uint32_t mesh_leaf_ttl_s(const Mortise__V1__Mesh *mesh);
/* mesh_log_permille is how much of a link's access logs goes up; NULL: of connections without one.
 */
uint32_t mesh_log_permille(const Mortise__V1__Mesh *mesh, const Mortise__V1__Link *link);
uint32_t mesh_rejoin_s(const Mortise__V1__Mesh *mesh); /* 0: never */

/* mesh_subsystem, mesh_profile, mesh_link: by name; NULL when there is none. */
const Mortise__V1__Subsystem *mesh_subsystem(const Mortise__V1__Mesh *mesh, const char *name);
const Mortise__V1__TlsProfile *mesh_profile(const Mortise__V1__Mesh *mesh, const char *name);
const Mortise__V1__Link *mesh_link(const Mortise__V1__Mesh *mesh, const char *name);
/* mesh_truststore is the one that a profile names, or NULL: the mesh's own CAs alone. */
const Mortise__V1__MeshTruststore *mesh_truststore(const Mortise__V1__Mesh *mesh,
                                                   const Mortise__V1__TlsProfile *profile);
/* mesh_trusts_mesh, mesh_trusts_others: whether there are the mesh's own CAs, and other ones, in
 * it; of NULL as above. */
bool mesh_trusts_mesh(const Mortise__V1__MeshTruststore *store);
bool mesh_trusts_others(const Mortise__V1__MeshTruststore *store);
/* mesh_keystore is the one that a profile names, uploaded or on the sidecar's disk, or NULL: the
 * certificate that the mesh issues. */
const Mortise__V1__MeshKeystore *mesh_keystore(const Mortise__V1__Mesh *mesh,
                                               const Mortise__V1__TlsProfile *profile);
bool mesh_is_uploaded(const Mortise__V1__MeshKeystore *keystore);
bool mesh_is_on_disk(const Mortise__V1__MeshKeystore *keystore); /* of the sidecars that show it */
/* mesh_shows_anew: whether sidecars of a subsystem would get the key of an uploaded keystore, which
 * they do not have in `before`; the first of them, borrowed. `after` is one that mesh_check took.
 */
bool mesh_shows_anew(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                     const char **out_keystore, const char **out_subsystem);
/* mesh_spiffe_id is the identity of a subsystem; owned. */
char *mesh_spiffe_id(const char *trust_domain, const Mortise__V1__Subsystem *subsystem);

/* mesh_denies is the policy of `policies` (those of the mesh) that keeps one end of a link from the
 * other: which end it is that the other one's sidecar refuses goes to `*out_denied` (a subsystem);
 * NULL: none does. */
const Mortise__V1__Policy *mesh_denies(const Mortise__V1__Mesh *mesh,
                                       const struct policy_set *policies, const char *trust_domain,
                                       const Mortise__V1__Link *link, const char **out_denied);

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
/* mesh_check_stored is mesh_check of a mesh that is in force already: what a later program judges
 * more strictly than the one that took it in must not keep the control plane from starting. Links
 * whose ends could not talk are warnings then; the next change has to mend them. */
MUST_CHECK err_t mesh_check_stored(const Mortise__V1__Mesh *mesh, struct faults *faults,
                                   struct faults *warnings);

/* mesh_warn adds what a checked mesh is taken without, of the items that the document names: names
 * of profiles that say ignore_unavailable; and each DENY that whom it names can go around, because
 * somebody at an end of a link may have no name there, where either is the document's. */
void mesh_warn(const Mortise__V1__Mesh *mesh, const struct mesh_origin *origin,
               struct faults *warnings);

/* mesh_default is the mesh of a first start; owned (pb_free): the built-in profiles, truststores
 * and keystores, and four links, whose clients have the built-in profile of their server:
 *   management-portal    127.0.0.1:15101 of management -> 127.0.0.1:8081 of portal
 *   management-gateway   127.0.0.1:15102 of management -> 127.0.0.1:8082 of gateway
 *   management-analytics 127.0.0.1:15103 of management -> 127.0.0.1:8083 of analytics
 *   gateway-analytics    127.0.0.1:15104 of gateway    -> 127.0.0.1:8083 of analytics */
Mortise__V1__Mesh *mesh_default(void);

/* mesh_is_built_in tells whether an item of that kind is one of
 * those that every mesh has and nobody may change; mesh_is_as_built_in, whether one of such a name
 * is what is built in. */
bool mesh_is_built_in(int kind, const char *name);
bool mesh_is_as_built_in(int kind, const ProtobufCMessage *item);
/* mesh_complete adds the built-in items that a mesh of an older program lacks, behind the rest.
 * `mesh` is owned, as if unpacked. */
void mesh_complete(Mortise__V1__Mesh *mesh);

#endif
