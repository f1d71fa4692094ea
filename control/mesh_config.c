#include "control/mesh_config.h"

#include <string.h>

#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define MESH_TRUSTSTORE "mesh"
#define MESH_SERVER_NAME ".mortise.internal"

/* A new message in memory that pb_free releases. */
#define MESH_NEW(type, init) ((type *)mem_dup(&(type)init, sizeof(type)))

static char **mesh_list_of_one(char *text)
{
    char **list = mem_array(1, sizeof(*list));

    list[0] = text;
    return list;
}

static Mortise__V1__PeerMatch *mesh_peer(const struct mesh_view *view, const char *name)
{
    Mortise__V1__PeerMatch *peer = MESH_NEW(Mortise__V1__PeerMatch, MORTISE__V1__PEER_MATCH__INIT);
    const Mortise__V1__Subsystem *subsystem = mesh_subsystem(view->mesh, name);

    CHECK(subsystem != NULL);
    peer->spiffe_ids = mesh_list_of_one(mesh_spiffe_id(view->trust_domain, subsystem));
    peer->n_spiffe_ids = 1;
    return peer;
}

static Mortise__V1__Outbound *mesh_outbound(const struct mesh_view *view,
                                            const Mortise__V1__Link *link)
{
    Mortise__V1__Outbound *out = MESH_NEW(Mortise__V1__Outbound, MORTISE__V1__OUTBOUND__INIT);
    size_t num = 0;
    const char *const *endpoints = view->endpoints(view->arg, link->server, &num);

    out->name = mem_strdup(link->name);
    out->listen = mem_printf("127.0.0.1:%u", link->client_port);
    if (num > 0)
        out->endpoints = mem_array(num, sizeof(*out->endpoints));
    for (size_t i = 0; i < num; i++)
        out->endpoints[i] = mem_strdup(endpoints[i]);
    out->n_endpoints = num;
    out->peers = mesh_peer(view, link->server);
    out->server_name = mem_printf("%s" MESH_SERVER_NAME, link->name);
    out->profile = mem_strdup(mesh_client_profile(link));
    out->truststore = mem_strdup(MESH_TRUSTSTORE);
    return out;
}

static Mortise__V1__InboundLink *mesh_inbound_link(const struct mesh_view *view,
                                                   const Mortise__V1__Link *link)
{
    Mortise__V1__InboundLink *in =
        MESH_NEW(Mortise__V1__InboundLink, MORTISE__V1__INBOUND_LINK__INIT);

    in->name = mem_strdup(link->name);
    in->target = mem_printf("127.0.0.1:%u", link->server_port);
    in->peers = mesh_peer(view, link->client);
    in->server_name = mem_printf("%s" MESH_SERVER_NAME, link->name);
    in->profile = mem_strdup(mesh_server_profile(link));
    in->truststore = mem_strdup(MESH_TRUSTSTORE);
    return in;
}

static void mesh_add_truststore(const struct mesh_view *view, Mortise__V1__SidecarConfig *config)
{
    Mortise__V1__Truststore *store =
        MESH_NEW(Mortise__V1__Truststore, MORTISE__V1__TRUSTSTORE__INIT);

    store->name = mem_strdup(MESH_TRUSTSTORE);
    store->pem = mem_strdup(view->roots_pem);
    store->trust_domain = mem_strdup(view->trust_domain);
    config->truststores = mem_array(1, sizeof(*config->truststores));
    config->truststores[0] = store;
    config->n_truststores = 1;
}

static void mesh_add_revocations(const struct mesh_view *view, Mortise__V1__SidecarConfig *config)
{
    config->revocations = mem_array(view->num_revocations, sizeof(*config->revocations));
    for (size_t i = 0; i < view->num_revocations; i++)
        config->revocations[config->n_revocations++] =
            MSG_AS(Mortise__V1__Revocation, mortise__v1__revocation__descriptor,
                   pb_clone(&view->revocations[i]->base));
}

static void mesh_add_links(const struct mesh_view *view, const char *subsystem,
                           Mortise__V1__SidecarConfig *config)
{
    const Mortise__V1__Mesh *mesh = view->mesh;
    Mortise__V1__Inbound *inbound = MESH_NEW(Mortise__V1__Inbound, MORTISE__V1__INBOUND__INIT);

    config->outbound = mem_array(mesh->n_links, sizeof(*config->outbound));
    inbound->links = mem_array(mesh->n_links, sizeof(*inbound->links));
    for (size_t i = 0; i < mesh->n_links; i++) {
        const Mortise__V1__Link *link = mesh->links[i];

        if (strcmp(link->client, subsystem) == 0)
            config->outbound[config->n_outbound++] = mesh_outbound(view, link);
        if (strcmp(link->server, subsystem) == 0)
            inbound->links[inbound->n_links++] = mesh_inbound_link(view, link);
    }
    if (inbound->n_links == 0) {
        pb_free(&inbound->base);
        return;
    }
    config->inbound = inbound;
}

static bool mesh_config_names(const Mortise__V1__SidecarConfig *config, const char *profile)
{
    for (size_t i = 0; i < config->n_outbound; i++) {
        if (strcmp(config->outbound[i]->profile, profile) == 0)
            return true;
    }
    for (size_t i = 0; config->inbound != NULL && i < config->inbound->n_links; i++) {
        if (strcmp(config->inbound->links[i]->profile, profile) == 0)
            return true;
    }
    return false;
}

/* The profiles in the mesh's order, so that the same mesh always gives the same bytes. */
static void mesh_add_profiles(const struct mesh_view *view, Mortise__V1__SidecarConfig *config)
{
    const Mortise__V1__Mesh *mesh = view->mesh;

    config->profiles = mem_array(mesh->n_profiles, sizeof(*config->profiles));
    for (size_t i = 0; i < mesh->n_profiles; i++) {
        if (mesh_config_names(config, mesh->profiles[i]->name))
            config->profiles[config->n_profiles++] =
                MSG_AS(Mortise__V1__TlsProfile, mortise__v1__tls_profile__descriptor,
                       pb_clone(&mesh->profiles[i]->base));
    }
}

Mortise__V1__SidecarConfig *mesh_config(const struct mesh_view *view, const char *subsystem)
{
    Mortise__V1__SidecarConfig *config =
        MESH_NEW(Mortise__V1__SidecarConfig, MORTISE__V1__SIDECAR_CONFIG__INIT);

    mesh_add_truststore(view, config);
    mesh_add_revocations(view, config);
    mesh_add_links(view, subsystem, config);
    mesh_add_profiles(view, config);
    return config;
}
