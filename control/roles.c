#include "control/roles.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

static const struct permission_row rows[] = {
#define ROW(path, number) {path, (permission_t)(number)},
#include "proto/mesh/permission_tbl.h"
#undef ROW
};

const struct permission_row *permission_rows(size_t *out_num)
{
    *out_num = ARRAY_LEN(rows);
    return rows;
}

permission_t permission_of(const char *path)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (strcmp(rows[i].path, path) == 0)
            return rows[i].permission;
    }
    return PERMISSION(NONE);
}

bool permission_is_granted_by_roles(permission_t permission)
{
    return permission > PERMISSION(SESSION) &&
           protobuf_c_enum_descriptor_get_value(&mortise__v1__permission__name__descriptor,
                                                (int)permission) != NULL;
}

uint64_t permission_bit(permission_t permission)
{
    CHECK((unsigned)permission < PERMISSIONS_MAX);
    return (uint64_t)1 << (unsigned)permission;
}

void permission_name(permission_t permission, char out[PERMISSION_NAME_MAX])
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(
        &mortise__v1__permission__name__descriptor, (int)permission);
    bool dotted = false;

    (void)snprintf(out, PERMISSION_NAME_MAX, "%s", value != NULL ? value->name : "unknown");
    for (char *pos = out; *pos != '\0'; pos++) {
        *pos = (char)tolower((unsigned char)*pos);
        if (*pos == '_' && !dotted) {
            *pos = '.';
            dotted = true;
        }
    }
}

permission_t permission_find(const char *name)
{
    const ProtobufCEnumDescriptor *all = &mortise__v1__permission__name__descriptor;
    char own[PERMISSION_NAME_MAX];

    for (unsigned i = 0; i < all->n_values; i++) {
        permission_t permission = (permission_t)all->values[i].value;

        permission_name(permission, own);
        if (permission_is_granted_by_roles(permission) && strcmp(own, name) == 0)
            return permission;
    }
    return PERMISSION(NONE);
}

uint64_t permissions_all(void)
{
    const ProtobufCEnumDescriptor *all = &mortise__v1__permission__name__descriptor;
    uint64_t set = 0;

    for (unsigned i = 0; i < all->n_values; i++) {
        if (permission_is_granted_by_roles((permission_t)all->values[i].value))
            set |= permission_bit((permission_t)all->values[i].value);
    }
    return set;
}

/* ---- roles ---- */

#define BIT(name) ((uint64_t)1 << PERMISSION(name))
#define VIEWER BIT(MESH_READ)
#define OPERATOR                                                              \
    (VIEWER | BIT(MESH_WRITE) | BIT(TOKEN_CREATE) | BIT(CERTIFICATE_ROTATE) | \
     BIT(REVOCATION_WRITE) | BIT(ACCESS_READ) | BIT(AUDIT_READ))

const char *const role_names[ROLES_BUILT_IN] = {"viewer", "operator", ROLE_ADMIN};

bool role_built_in(const char *name, struct role *out)
{
    const uint64_t sets[ROLES_BUILT_IN] = {VIEWER, OPERATOR, permissions_all()};

    for (size_t i = 0; i < ROLES_BUILT_IN; i++) {
        if (strcmp(role_names[i], name) != 0)
            continue;
        *out = (struct role){.permissions = sets[i]};
        (void)snprintf(out->name, sizeof(out->name), "%s", name);
        return true;
    }
    return false;
}

bool role_has(const struct role *role, permission_t permission)
{
    return permission_is_granted_by_roles(permission) &&
           (role->permissions & permission_bit(permission)) != 0;
}
