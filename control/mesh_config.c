#include "control/mesh_config.h"

#include <stdlib.h>
#include <string.h>

#include "control/labels.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

/* A new message in memory that pb_free releases. */
#define MESH_NEW(type, init) ((type *)mem_dup(&(type)init, sizeof(type)))

static char **mesh_list_of_one(char *text)
{
    char **list = mem_array(1, sizeof(*list));

    list[0] = text;
    return list;
}

/* Who may be at the other end, `name`, by what vouches for it at this end: a subsystem of ours has
 * its identity from the mesh's own CAs alone; below CAs of others it is names that count. */
static Mortise__V1__PeerMatch *mesh_peer(const struct mesh_view *view, const char *name,
                                         const Mortise__V1__TlsProfile *profile)
{
    Mortise__V1__PeerMatch *peer = MESH_NEW(Mortise__V1__PeerMatch, MORTISE__V1__PEER_MATCH__INIT);
    const Mortise__V1__Subsystem *subsystem = mesh_subsystem(view->mesh, name);
    const Mortise__V1__MeshTruststore *store = mesh_truststore(view->mesh, profile);

    CHECK(subsystem != NULL);
    if (mesh_trusts_mesh(store)) {
        peer->spiffe_ids = mesh_list_of_one(mesh_spiffe_id(view->trust_domain, subsystem));
        peer->n_spiffe_ids = 1;
    }
    if (!mesh_trusts_others(store))
        return peer;
    peer->dns_names = mem_array(profile->n_peer_names, sizeof(*peer->dns_names));
    for (size_t i = 0; i < profile->n_peer_names; i++)
        peer->dns_names[peer->n_dns_names++] = mem_strdup(profile->peer_names[i]);
    return peer;
}

/* What is the mesh's own CAs alone is one truststore, whatever it is called: links that differ in
 * the name only can share a port without SNI. */
static char *mesh_store_name(const struct mesh_view *view, const Mortise__V1__TlsProfile *profile)
{
    const Mortise__V1__MeshTruststore *store = mesh_truststore(view->mesh, profile);

    return mem_strdup(mesh_trusts_others(store) ? store->name : MESH_ROOTS);
}

static char *mesh_keystore_name(const struct mesh_view *view,
                                const Mortise__V1__TlsProfile *profile)
{
    const Mortise__V1__MeshKeystore *keystore = mesh_keystore(view->mesh, profile);

    return mem_strdup(keystore != NULL ? keystore->name : "");
}

static const Mortise__V1__TlsProfile *mesh_profile_of(const struct mesh_view *view,
                                                      const char *name)
{
    const Mortise__V1__TlsProfile *profile = mesh_profile(view->mesh, name);

    CHECK(profile != NULL);
    return profile;
}

static Mortise__V1__Outbound *mesh_outbound(const struct mesh_view *view,
                                            const Mortise__V1__Link *link)
{
    Mortise__V1__Outbound *out = MESH_NEW(Mortise__V1__Outbound, MORTISE__V1__OUTBOUND__INIT);
    const Mortise__V1__TlsProfile *profile = mesh_profile_of(view, mesh_client_profile(link));
    size_t num = 0;
    const char *const *endpoints = view->endpoints(view->arg, link->server, &num);
    char *server_name;

    out->name = mem_strdup(link->name);
    if (link->client_port != 0)
        out->listen = mem_printf("127.0.0.1:%u", link->client_port);
    out->destinations = mem_array(link->n_destinations, sizeof(*out->destinations));
    for (size_t i = 0; i < link->n_destinations; i++)
        out->destinations[i] = mem_strdup(link->destinations[i]);
    out->n_destinations = link->n_destinations;
    if (num > 0)
        out->endpoints = mem_array(num, sizeof(*out->endpoints));
    for (size_t i = 0; i < num; i++)
        out->endpoints[i] = mem_strdup(endpoints[i]);
    out->n_endpoints = num;
    out->peers = mesh_peer(view, link->server, profile);
    server_name = mesh_server_name(view->mesh, link);
    if (server_name != NULL) /* else the profile, which goes with it, says that none is sent */
        out->server_name = server_name;
    out->profile = mem_strdup(profile->name);
    out->truststore = mesh_store_name(view, profile);
    out->keystore = mesh_keystore_name(view, profile);
    out->access_log_permille = mesh_log_permille(view->mesh, link);
    return out;
}

static Mortise__V1__InboundLink *mesh_inbound_link(const struct mesh_view *view,
                                                   const Mortise__V1__Link *link)
{
    Mortise__V1__InboundLink *in =
        MESH_NEW(Mortise__V1__InboundLink, MORTISE__V1__INBOUND_LINK__INIT);
    const Mortise__V1__TlsProfile *profile = mesh_profile_of(view, mesh_server_profile(link));

    in->name = mem_strdup(link->name);
    in->target = mem_printf("127.0.0.1:%u", link->server_port);
    in->peers = mesh_peer(view, link->client, profile);
    in->server_name = mesh_server_name(view->mesh, link);
    if (in->server_name == NULL) /* nobody asks for it, but each has one */
        in->server_name = mem_printf("%s" MESH_SERVER_NAME, link->name);
    in->profile = mem_strdup(profile->name);
    in->truststore = mesh_store_name(view, profile);
    in->keystore = mesh_keystore_name(view, profile);
    in->allow_anonymous = link->allow_anonymous;
    in->access_log_permille = mesh_log_permille(view->mesh, link);
    if (link->permissive != NULL)
        in->permissive = MSG_AS(Mortise__V1__Permissive, mortise__v1__permissive__descriptor,
                                pb_clone(&link->permissive->base));
    return in;
}

/* An operator's lists are for CAs that this control plane has no key of; for the others it makes
 * them itself, so that no issuer is without. */
static char *mesh_crls(const struct mesh_view *view)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    err_t err = OK;

    for (size_t i = 0; i < view->mesh->n_crls && err_is_ok(err); i++)
        err = buf_printf(&text, "%s\n", view->mesh->crls[i]->pem);
    if (err_is_ok(err) && view->crls_pem != NULL)
        err = buf_add_str(&text, view->crls_pem);
    CHECK(err_is_ok(err));
    return buf_take_str(&text);
}

static Mortise__V1__Truststore *mesh_own_store(const struct mesh_view *view)
{
    Mortise__V1__Truststore *store =
        MESH_NEW(Mortise__V1__Truststore, MORTISE__V1__TRUSTSTORE__INIT);

    store->name = mem_strdup(MESH_ROOTS);
    store->pem = mem_strdup(view->roots_pem);
    store->trust_domain = mem_strdup(view->trust_domain);
    if (view->mesh->n_crls > 0)
        store->crl_pem = mesh_crls(view);
    return store;
}

static char *mesh_join(char *const *texts, size_t num)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    err_t err = OK;

    for (size_t i = 0; i < num && err_is_ok(err); i++)
        err = buf_printf(&text, "%s\n", texts[i]);
    CHECK(err_is_ok(err));
    return buf_take_str(&text);
}

static Mortise__V1__Truststore *mesh_other_store(const struct mesh_view *view,
                                                 const Mortise__V1__MeshTruststore *from)
{
    Mortise__V1__Truststore *store =
        MESH_NEW(Mortise__V1__Truststore, MORTISE__V1__TRUSTSTORE__INIT);

    store->name = mem_strdup(from->name);
    store->trust_domain = mem_strdup(view->trust_domain);
    if (mesh_trusts_mesh(from))
        store->pem = mem_strdup(view->roots_pem);
    store->outside_pem = mesh_join(from->pem, from->n_pem);
    if (from->n_crl_pem > 0)
        store->crl_pem = mesh_join(from->crl_pem, from->n_crl_pem);
    return store;
}

static bool mesh_config_trusts(const Mortise__V1__SidecarConfig *config, const char *store)
{
    for (size_t i = 0; i < config->n_outbound; i++) {
        if (strcmp(config->outbound[i]->truststore, store) == 0)
            return true;
    }
    for (size_t i = 0; config->inbound != NULL && i < config->inbound->n_links; i++) {
        if (strcmp(config->inbound->links[i]->truststore, store) == 0)
            return true;
    }
    return false;
}

/* The mesh's own, and of the others those that links of this sidecar name. */
static void mesh_add_truststores(const struct mesh_view *view, Mortise__V1__SidecarConfig *config)
{
    const Mortise__V1__Mesh *mesh = view->mesh;

    config->truststores = mem_array(mesh->n_truststores + 1, sizeof(*config->truststores));
    config->truststores[config->n_truststores++] = mesh_own_store(view);
    for (size_t i = 0; i < mesh->n_truststores; i++) {
        if (mesh_trusts_others(mesh->truststores[i]) &&
            mesh_config_trusts(config, mesh->truststores[i]->name))
            config->truststores[config->n_truststores++] =
                mesh_other_store(view, mesh->truststores[i]);
    }
}

static bool mesh_config_shows(const Mortise__V1__SidecarConfig *config, const char *keystore)
{
    for (size_t i = 0; i < config->n_outbound; i++) {
        if (strcmp(config->outbound[i]->keystore, keystore) == 0)
            return true;
    }
    for (size_t i = 0; config->inbound != NULL && i < config->inbound->n_links; i++) {
        if (strcmp(config->inbound->links[i]->keystore, keystore) == 0)
            return true;
    }
    return false;
}

/* Those that links of this sidecar show, and no others: their keys go with them. */
static void mesh_add_keystores(const struct mesh_view *view, Mortise__V1__SidecarConfig *config)
{
    const Mortise__V1__Mesh *mesh = view->mesh;

    config->keystores = mem_array(mesh->n_keystores, sizeof(*config->keystores));
    for (size_t i = 0; i < mesh->n_keystores; i++) {
        const Mortise__V1__MeshKeystore *from = mesh->keystores[i];
        Mortise__V1__SidecarKeystore *keystore;

        if ((!mesh_is_uploaded(from) && !mesh_is_on_disk(from)) ||
            !mesh_config_shows(config, from->name))
            continue;
        keystore = MESH_NEW(Mortise__V1__SidecarKeystore, MORTISE__V1__SIDECAR_KEYSTORE__INIT);
        keystore->name = mem_strdup(from->name);
        keystore->chain_pem = mem_strdup(from->chain_pem);
        keystore->key_sha256 = mem_strdup(from->key_sha256);
        keystore->folder = mem_strdup(from->folder);
        config->keystores[config->n_keystores++] = keystore;
    }
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

/* The profiles in the mesh's order, so that the same mesh always gives the same bytes; without
 * their labels, so that a label is no new configuration. */
static void mesh_add_profiles(const struct mesh_view *view, Mortise__V1__SidecarConfig *config)
{
    const Mortise__V1__Mesh *mesh = view->mesh;

    config->profiles = mem_array(mesh->n_profiles, sizeof(*config->profiles));
    for (size_t i = 0; i < mesh->n_profiles; i++) {
        ProtobufCMessage *profile;

        if (!mesh_config_names(config, mesh->profiles[i]->name))
            continue;
        profile = pb_clone(&mesh->profiles[i]->base);
        labels_drop(profile);
        config->profiles[config->n_profiles++] =
            MSG_AS(Mortise__V1__TlsProfile, mortise__v1__tls_profile__descriptor, profile);
    }
}

/* ---- policies ---- */

/* That a policy decides of a link, by one of its entries (or by none, see policy_each). */
struct mesh_decision {
    size_t policy, order;
    const char *link; /* the configuration's */
    char *entry;      /* NULL: none */
};

struct mesh_decisions {
    struct mesh_decision *items;
    size_t num, cap;
    const char *link; /* in hand */
};

static void mesh_decide(void *arg, size_t index, const char *entry)
{
    struct mesh_decisions *all = arg;

    if (all->num == all->cap) {
        all->cap = all->cap > 0 ? 2 * all->cap : 16;
        all->items = mem_realloc(all->items, all->cap * sizeof(*all->items));
    }
    all->items[all->num] = (struct mesh_decision){
        .policy = index,
        .order = all->num,
        .link = all->link,
        .entry = entry != NULL ? mem_strdup(entry) : NULL,
    };
    all->num++;
}

static void mesh_decide_link(const struct mesh_view *view, const char *link, enum policy_peer what,
                             const Mortise__V1__PeerMatch *peers, struct mesh_decisions *all)
{
    all->link = link;
    policy_each(view->policies, link, what, peers->n_spiffe_ids > 0 ? peers->spiffe_ids[0] : "",
                mesh_decide, all);
}

static int mesh_compare_decisions(const void *a, const void *b)
{
    const struct mesh_decision *one = a, *two = b;

    if (one->policy != two->policy)
        return one->policy < two->policy ? -1 : 1;
    return one->order < two->order ? -1 : one->order > two->order;
}

/* What the first `num` of `items` say, which are of one policy. */
static Mortise__V1__Policy *mesh_cut_policy(const Mortise__V1__Policy *from,
                                            const struct mesh_decision *items, size_t num)
{
    Mortise__V1__Policy *policy = MESH_NEW(Mortise__V1__Policy, MORTISE__V1__POLICY__INIT);
    struct map seen = {.num = 0};

    policy->name = mem_strdup(from->name);
    policy->action = from->action;
    policy->links = mem_array(num, sizeof(*policy->links));
    policy->peers = mem_array(num, sizeof(*policy->peers));
    for (size_t i = 0; i < num; i++) {
        if (policy->n_links == 0 || items[i].link != items[i - 1].link)
            policy->links[policy->n_links++] = mem_strdup(items[i].link);
        if (items[i].entry != NULL && map_put(&seen, items[i].entry, policy) == NULL)
            policy->peers[policy->n_peers++] = mem_strdup(items[i].entry);
    }
    map_fini(&seen);
    return policy;
}

/* In the mesh's order, so that the same mesh always gives the same bytes. */
static void mesh_add_policies(const struct mesh_view *view, Mortise__V1__SidecarConfig *config)
{
    struct mesh_decisions all = {.num = 0};

    CHECK(view->policies != NULL || view->mesh->n_policies == 0);
    for (size_t i = 0; i < config->n_outbound; i++)
        mesh_decide_link(view, config->outbound[i]->name, POLICY_SERVER, config->outbound[i]->peers,
                         &all);
    for (size_t i = 0; config->inbound != NULL && i < config->inbound->n_links; i++)
        mesh_decide_link(view, config->inbound->links[i]->name, POLICY_CLIENT,
                         config->inbound->links[i]->peers, &all);
    if (all.num == 0)
        return;
    qsort(all.items, all.num, sizeof(*all.items), mesh_compare_decisions);
    config->policies = mem_array(all.num, sizeof(*config->policies));
    for (size_t i = 0, end; i < all.num; i = end) {
        for (end = i + 1; end < all.num && all.items[end].policy == all.items[i].policy;)
            end++;
        config->policies[config->n_policies++] =
            mesh_cut_policy(view->mesh->policies[all.items[i].policy], &all.items[i], end - i);
    }
    for (size_t i = 0; i < all.num; i++)
        mem_free(all.items[i].entry);
    mem_free(all.items);
}

Mortise__V1__SidecarConfig *mesh_config(const struct mesh_view *view, const char *subsystem)
{
    Mortise__V1__SidecarConfig *config =
        MESH_NEW(Mortise__V1__SidecarConfig, MORTISE__V1__SIDECAR_CONFIG__INIT);

    config->allow_insecure = view->mesh->settings != NULL && view->mesh->settings->allow_insecure;
    config->access_log_permille = mesh_log_permille(view->mesh, NULL);
    mesh_add_revocations(view, config);
    mesh_add_links(view, subsystem, config);
    mesh_add_truststores(view, config);
    mesh_add_keystores(view, config);
    mesh_add_profiles(view, config);
    mesh_add_policies(view, config);
    return config;
}
