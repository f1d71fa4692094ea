/* member is a subsystem of the mesh as the registry keeps it: its identity, where its sidecars are
 * or were last, and the configurations that they ought to have. Private to the registry. */
#ifndef MORTISE_CONTROL_MEMBER_H
#define MORTISE_CONTROL_MEMBER_H

#include "control/mesh_config.h"
#include "control/registry.h"

struct member_address {
    char *text;
    unsigned connected; /* workloads that advertise it */
    uint64_t until_ms;  /* without one: given out until then, if there is another */
};

struct member {
    char *name;
    char *spiffe_id;
    unsigned num_workloads;
    struct member_address *addresses; /* by text */
    size_t num_addresses;
    const char **shown;      /* their texts, for mesh_config */
    bool unsaved;            /* the addresses differ from the store's */
    struct content *content; /* what its sidecars ought to have; NULL: there was none yet */
    Mortise__V1__SidecarConfig *next; /* computed in a refresh and different; else NULL */
};

struct member *member_new(const char *name, const char *spiffe_id);
void member_free(struct member *member);

/* member_load takes the addresses of a record: all gone, until `until_ms`. */
void member_load(struct member *member, const Mortise__Control__Endpoints *record,
                 uint64_t until_ms);
/* member_save fills a record that borrows from the member; `texts` has room for num_addresses. */
void member_save(const struct member *member, Mortise__Control__Endpoints *record, char **texts);

/* member_connect and member_disconnect count the sidecars at an address. True when the list has
 * changed. */
bool member_connect(struct member *member, const char *address);
void member_disconnect(struct member *member, const char *address, uint64_t until_ms);
/* member_expire drops addresses that are gone for long, if another is connected. True when it did.
 */
bool member_expire(struct member *member, uint64_t now_ms);

/* member_content returns the content, made on first use of `view`, `version`, `epoch` and
 * `spread_ms`. */
const struct content *member_content(struct member *member, const struct mesh_view *view,
                                     uint64_t version, uint64_t epoch, uint32_t spread_ms);

/* member_compute computes the content anew, if there is any, and returns whether it differs;
 * member_adopt puts what differs in force as `version`. */
bool member_compute(struct member *member, const struct mesh_view *view, uint64_t epoch);
void member_adopt(struct member *member, uint64_t version, uint64_t epoch, uint32_t spread_ms);

#endif
