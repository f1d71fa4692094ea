#include "control/mesh.h"

#include <string.h>

#include "certs/spiffe_id.h"
#include "certs/tls_profile.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define MESH_DEFAULT_CLIENT "default-tls-client"
#define MESH_DEFAULT_SERVER "default-tls-server"

#define MESH_KIND(one, many, descriptor)                                    \
    {                                                                       \
        (one), #many, &(descriptor), offsetof(Mortise__V1__Mesh, n_##many), \
            offsetof(Mortise__V1__Mesh, many)                               \
    }

const struct mesh_kind mesh_kinds[MESH_KINDS] = {
    [MESH_SUBSYSTEMS] = MESH_KIND("subsystem", subsystems, mortise__v1__subsystem__descriptor),
    [MESH_PROFILES] = MESH_KIND("profile", profiles, mortise__v1__tls_profile__descriptor),
    [MESH_LINKS] = MESH_KIND("link", links, mortise__v1__link__descriptor),
};

size_t mesh_num(const Mortise__V1__Mesh *mesh, const struct mesh_kind *kind)
{
    size_t num;

    memcpy(&num, (const char *)mesh + kind->num_at, sizeof(num));
    return num;
}

const ProtobufCMessage *mesh_item(const Mortise__V1__Mesh *mesh, const struct mesh_kind *kind,
                                  size_t index)
{
    const char *items;
    const ProtobufCMessage *item;

    CHECK(index < mesh_num(mesh, kind));
    /* Pointers to different structs in memory: copied, not punned. */
    memcpy(&items, (const char *)mesh + kind->items_at, sizeof(items));
    memcpy(&item, items + index * sizeof(item), sizeof(item));
    return item;
}

const char *mesh_name(const ProtobufCMessage *item)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(item->descriptor, "name");
    const char *name;

    CHECK(field != NULL && field->type == PROTOBUF_C_TYPE_STRING);
    memcpy(&name, (const char *)item + field->offset, sizeof(name));
    return name;
}

static const char *mesh_or(const char *text, const char *otherwise)
{
    return text[0] != '\0' ? text : otherwise;
}

const char *mesh_namespace(const Mortise__V1__Subsystem *subsystem)
{
    return mesh_or(subsystem->namespace_, "default");
}

const char *mesh_account(const Mortise__V1__Subsystem *subsystem)
{
    return mesh_or(subsystem->service_account, subsystem->name);
}

const char *mesh_client_profile(const Mortise__V1__Link *link)
{
    return mesh_or(link->client_profile, MESH_DEFAULT_CLIENT);
}

const char *mesh_server_profile(const Mortise__V1__Link *link)
{
    return mesh_or(link->server_profile, MESH_DEFAULT_SERVER);
}

uint32_t mesh_leaf_ttl_s(const Mortise__V1__Mesh *mesh)
{
    return mesh->settings != NULL && mesh->settings->leaf_ttl_s != 0 ? mesh->settings->leaf_ttl_s
                                                                     : MESH_LEAF_TTL_S;
}

const Mortise__V1__Subsystem *mesh_subsystem(const Mortise__V1__Mesh *mesh, const char *name)
{
    for (size_t i = 0; i < mesh->n_subsystems; i++) {
        if (strcmp(mesh->subsystems[i]->name, name) == 0)
            return mesh->subsystems[i];
    }
    return NULL;
}

const Mortise__V1__TlsProfile *mesh_profile(const Mortise__V1__Mesh *mesh, const char *name)
{
    for (size_t i = 0; i < mesh->n_profiles; i++) {
        if (strcmp(mesh->profiles[i]->name, name) == 0)
            return mesh->profiles[i];
    }
    return NULL;
}

char *mesh_spiffe_id(const char *trust_domain, const Mortise__V1__Subsystem *subsystem)
{
    return spiffe_id_of_workload(trust_domain, mesh_namespace(subsystem), mesh_account(subsystem));
}

bool mesh_is_built_in(const char *profile)
{
    return strcmp(profile, MESH_DEFAULT_CLIENT) == 0 || strcmp(profile, MESH_DEFAULT_SERVER) == 0;
}

static void mesh_default_link(Mortise__V1__Link *link, const char *name, const char *client,
                              uint32_t client_port, const char *server, uint32_t server_port)
{
    *link = (Mortise__V1__Link)MORTISE__V1__LINK__INIT;
    link->name = msg_lend(name);
    link->client = msg_lend(client);
    link->client_port = client_port;
    link->server = msg_lend(server);
    link->server_port = server_port;
}

Mortise__V1__Mesh *mesh_default(void)
{
    static const char *const names[] = {"management", "portal", "analytics", "gateway"};
    Mortise__V1__Mesh mesh = MORTISE__V1__MESH__INIT;
    Mortise__V1__Subsystem subsystems[ARRAY_LEN(names)];
    Mortise__V1__Subsystem *subsystem_ptrs[ARRAY_LEN(names)];
    Mortise__V1__Link links[4];
    Mortise__V1__Link *link_ptrs[ARRAY_LEN(links)];
    Mortise__V1__TlsProfile *profiles[TLS_PROFILE_DEFAULTS];
    ProtobufCMessage *owned;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        subsystems[i] = (Mortise__V1__Subsystem)MORTISE__V1__SUBSYSTEM__INIT;
        subsystems[i].name = msg_lend(names[i]);
        subsystem_ptrs[i] = &subsystems[i];
    }
    mesh_default_link(&links[0], "management-portal", "management", 15101, "portal", 8081);
    mesh_default_link(&links[1], "management-gateway", "management", 15102, "gateway", 8082);
    mesh_default_link(&links[2], "management-analytics", "management", 15103, "analytics", 8083);
    mesh_default_link(&links[3], "gateway-analytics", "gateway", 15104, "analytics", 8083);
    for (size_t i = 0; i < ARRAY_LEN(links); i++)
        link_ptrs[i] = &links[i];
    mesh.subsystems = subsystem_ptrs;
    mesh.n_subsystems = ARRAY_LEN(subsystem_ptrs);
    mesh.links = link_ptrs;
    mesh.n_links = ARRAY_LEN(link_ptrs);
    mesh.profiles = profiles;
    tls_profile_defaults(profiles, &mesh.n_profiles);
    owned = pb_clone(&mesh.base);
    for (size_t i = 0; i < mesh.n_profiles; i++)
        pb_free(&profiles[i]->base);
    return MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor, owned);
}
