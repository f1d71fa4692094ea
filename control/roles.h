/* roles is the one table of permissions: which of them each RPC needs (made from the schemas), how
 * they are called, and the built-in roles, which are sets of them. Pure.
 * Source: features D5, reliability R46. */
#ifndef MORTISE_CONTROL_ROLES_H
#define MORTISE_CONTROL_ROLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/mesh/permission.pb-c.h"

typedef Mortise__V1__Permission__Name permission_t;
#define PERMISSION(name) MORTISE__V1__PERMISSION__NAME__##name

struct permission_row {
    const char *path; /* "/mortise.v1.OperatorService/Apply" */
    permission_t permission;
};
/* Every RPC of the schemas. */
const struct permission_row *permission_rows(size_t *out_num);
/* permission_of gives what a method needs; NONE, which nobody has, when it is in no schema. */
permission_t permission_of(const char *path);

/* Those that roles are made of have names: "mesh.read" of MESH_READ. */
#define PERMISSION_NAME_MAX 40
#define PERMISSIONS_MAX 64 /* all enumerators are below it */
bool permission_is_granted_by_roles(permission_t permission);
void permission_name(permission_t permission, char out[PERMISSION_NAME_MAX]);
/* permission_find: NONE when no role can have one of that name. */
permission_t permission_find(const char *name);
/* permission_bit is the permission as a member of a set. */
uint64_t permission_bit(permission_t permission);
/* All that roles are made of. */
uint64_t permissions_all(void);

#define ROLE_NAME_MAX 64
struct role {
    char name[ROLE_NAME_MAX + 1];
    uint64_t permissions; /* bits */
};

/* The built-in roles, weakest first: viewer, operator, admin. */
#define ROLES_BUILT_IN 3
extern const char *const role_names[ROLES_BUILT_IN];
#define ROLE_ADMIN "admin"
/* role_built_in: false when it is none of these. */
bool role_built_in(const char *name, struct role *out);
bool role_has(const struct role *role, permission_t permission);

#endif
