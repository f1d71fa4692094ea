#include "control/mesh.h"

#include <ctype.h>
#include <string.h>

#include "certs/spiffe_id.h"
#include "certs/tls_profile.h"
#include "control/msg.h"
#include "control/permissive.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define MESH_DEFAULT_CLIENT "default-tls-client"
#define MESH_DEFAULT_SERVER "default-tls-server"

#define MESH_KIND(one, many, descriptor) MESH_KIND_CALLED((one), (one), many, (descriptor))
#define MESH_KIND_CALLED(one, word, many, descriptor)                               \
    {                                                                               \
        (one), (word), #many, &(descriptor), offsetof(Mortise__V1__Mesh, n_##many), \
            offsetof(Mortise__V1__Mesh, many)                                       \
    }

const struct mesh_kind mesh_kinds[MESH_KINDS] = {
    [MESH_SUBSYSTEMS] = MESH_KIND("subsystem", subsystems, mortise__v1__subsystem__descriptor),
    [MESH_PROFILES] = MESH_KIND("profile", profiles, mortise__v1__tls_profile__descriptor),
    [MESH_LINKS] = MESH_KIND("link", links, mortise__v1__link__descriptor),
    [MESH_CRLS] =
        MESH_KIND_CALLED("revocation list", "crl", crls, mortise__v1__revocation_list__descriptor),
    [MESH_TRUSTSTORES] =
        MESH_KIND("truststore", truststores, mortise__v1__mesh_truststore__descriptor),
    [MESH_KEYSTORES] = MESH_KIND("keystore", keystores, mortise__v1__mesh_keystore__descriptor),
    [MESH_POLICIES] = MESH_KIND("policy", policies, mortise__v1__policy__descriptor),
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

static err_t mesh_add_weak(const Mortise__V1__Mesh *mesh, const char *name, struct buf *out)
{
    const Mortise__V1__TlsProfile *profile = mesh_profile(mesh, name);
    CLEANUP(buf_fini) struct buf weak = {0};

    if (profile == NULL)
        return OK;
    TRY(tls_profile_weak(profile, &weak));
    if (buf_size(&weak) == 0)
        return OK;
    if (buf_size(out) > 0)
        TRY(buf_add_str(out, ", "));
    return buf_printf(out, "%.*s by %s", (int)buf_size(&weak), (const char *)buf_view(&weak).ptr,
                      name);
}

err_t mesh_link_entry(const Mortise__V1__Link *link, struct buf *out)
{
    if (link->client_port != 0)
        TRY(buf_printf(out, "127.0.0.1:%u", link->client_port));
    for (size_t i = 0; i < link->n_destinations; i++)
        TRY(buf_printf(out, "%s%s", i > 0 || link->client_port != 0 ? ", " : "",
                       link->destinations[i]));
    return link->n_destinations > 0 ? buf_add_str(out, " (captured)") : OK;
}

err_t mesh_link_weak(const Mortise__V1__Mesh *mesh, const Mortise__V1__Link *link, int64_t now_s,
                     struct buf *out)
{
    if (link->allow_anonymous)
        TRY(buf_add_str(out, "allow_anonymous"));
    if (permissive_until(link, now_s) != 0)
        TRY(buf_printf(out, "%splaintext until %s", buf_size(out) > 0 ? ", " : "",
                       link->permissive->until));
    TRY(mesh_add_weak(mesh, mesh_client_profile(link), out));
    return mesh_add_weak(mesh, mesh_server_profile(link), out);
}

char *mesh_server_name(const Mortise__V1__Mesh *mesh, const Mortise__V1__Link *link)
{
    const Mortise__V1__TlsProfile *profile = mesh_profile(mesh, mesh_client_profile(link));
    char *name;

    if (profile != NULL && profile->send_sni == MORTISE__V1__TLS_PROFILE__SEND_SNI__OMIT)
        return NULL;
    name = profile != NULL && profile->server_name[0] != '\0'
               ? mem_strdup(profile->server_name)
               : mem_printf("%s" MESH_SERVER_NAME, link->name);
    for (char *p = name; *p != '\0'; p++)
        *p = (char)tolower((unsigned char)*p);
    return name;
}

uint32_t mesh_log_permille(const Mortise__V1__Mesh *mesh, const Mortise__V1__Link *link)
{
    if (link != NULL && link->access_log != NULL)
        return link->access_log->permille;
    return mesh->settings != NULL && mesh->settings->access_log != NULL
               ? mesh->settings->access_log->permille
               : 0;
}

uint32_t mesh_leaf_ttl_s(const Mortise__V1__Mesh *mesh)
{
    return mesh->settings != NULL && mesh->settings->leaf_ttl_s != 0 ? mesh->settings->leaf_ttl_s
                                                                     : MESH_LEAF_TTL_S;
}

uint32_t mesh_rejoin_s(const Mortise__V1__Mesh *mesh)
{
    uint32_t rejoin_s = mesh->settings != NULL ? mesh->settings->rejoin_s : 0;

    if (rejoin_s == 0)
        return MESH_REJOIN_S;
    return rejoin_s != MESH_REJOIN_NEVER ? rejoin_s : 0;
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

const Mortise__V1__Link *mesh_link(const Mortise__V1__Mesh *mesh, const char *name)
{
    for (size_t i = 0; i < mesh->n_links; i++) {
        if (strcmp(mesh->links[i]->name, name) == 0)
            return mesh->links[i];
    }
    return NULL;
}

const Mortise__V1__MeshTruststore *mesh_truststore(const Mortise__V1__Mesh *mesh,
                                                   const Mortise__V1__TlsProfile *profile)
{
    for (size_t i = 0; i < mesh->n_truststores; i++) {
        if (strcmp(mesh->truststores[i]->name, profile->truststore) == 0)
            return mesh->truststores[i];
    }
    return NULL;
}

bool mesh_trusts_mesh(const Mortise__V1__MeshTruststore *store)
{
    return store == NULL || store->mesh_roots;
}

bool mesh_trusts_others(const Mortise__V1__MeshTruststore *store)
{
    return store != NULL && store->n_pem > 0;
}

bool mesh_is_uploaded(const Mortise__V1__MeshKeystore *keystore)
{
    return keystore->chain_pem[0] != '\0' || keystore->key_sha256[0] != '\0';
}

bool mesh_is_on_disk(const Mortise__V1__MeshKeystore *keystore)
{
    return keystore->folder[0] != '\0';
}

const Mortise__V1__MeshKeystore *mesh_keystore(const Mortise__V1__Mesh *mesh,
                                               const Mortise__V1__TlsProfile *profile)
{
    for (size_t i = 0; i < mesh->n_keystores; i++) {
        if (strcmp(mesh->keystores[i]->name, profile->keystore) == 0)
            return mesh_is_uploaded(mesh->keystores[i]) || mesh_is_on_disk(mesh->keystores[i])
                       ? mesh->keystores[i]
                       : NULL;
    }
    return NULL;
}

/* What the sidecars of one end of a link show, if it was uploaded. */
static const Mortise__V1__MeshKeystore *mesh_shown(const Mortise__V1__Mesh *mesh,
                                                   const char *profile_name)
{
    const Mortise__V1__TlsProfile *profile = mesh_profile(mesh, profile_name);
    const Mortise__V1__MeshKeystore *keystore =
        profile != NULL ? mesh_keystore(mesh, profile) : NULL;

    return keystore != NULL && mesh_is_uploaded(keystore) ? keystore : NULL;
}

/* Whether both names are of the same sidecars: a name may be given to another identity. */
static bool mesh_same_sidecars(const Mortise__V1__Mesh *a, const char *name_a,
                               const Mortise__V1__Mesh *b, const char *name_b)
{
    const Mortise__V1__Subsystem *one = mesh_subsystem(a, name_a);
    const Mortise__V1__Subsystem *other = mesh_subsystem(b, name_b);

    return one != NULL && other != NULL &&
           strcmp(mesh_namespace(one), mesh_namespace(other)) == 0 &&
           strcmp(mesh_account(one), mesh_account(other)) == 0;
}

static bool mesh_link_has_key(const Mortise__V1__Mesh *before, const Mortise__V1__Link *link,
                              const Mortise__V1__Mesh *after, const char *subsystem,
                              const char *sha256)
{
    const char *const ends[] = {link->client, link->server};
    const Mortise__V1__MeshKeystore *const shown[] = {
        mesh_shown(before, mesh_client_profile(link)),
        mesh_shown(before, mesh_server_profile(link)),
    };

    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        if (shown[i] != NULL && strcmp(shown[i]->key_sha256, sha256) == 0 &&
            mesh_same_sidecars(before, ends[i], after, subsystem))
            return true;
    }
    return false;
}

/* `at`: where a link of `before` is that most likely has it. */
static bool mesh_has_key(const Mortise__V1__Mesh *before, size_t at, const Mortise__V1__Mesh *after,
                         const char *subsystem, const char *sha256)
{
    if (at < before->n_links &&
        mesh_link_has_key(before, before->links[at], after, subsystem, sha256))
        return true;
    for (size_t i = 0; i < before->n_links; i++) {
        if (mesh_link_has_key(before, before->links[i], after, subsystem, sha256))
            return true;
    }
    return false;
}

bool mesh_shows_anew(const Mortise__V1__Mesh *before, const Mortise__V1__Mesh *after,
                     const char **out_keystore, const char **out_subsystem)
{
    for (size_t i = 0; i < after->n_links; i++) {
        const Mortise__V1__Link *link = after->links[i];
        const char *const ends[] = {link->client, link->server};
        const Mortise__V1__MeshKeystore *const shown[] = {
            mesh_shown(after, mesh_client_profile(link)),
            mesh_shown(after, mesh_server_profile(link)),
        };

        for (size_t j = 0; j < ARRAY_LEN(ends); j++) {
            if (shown[j] == NULL || mesh_has_key(before, i, after, ends[j], shown[j]->key_sha256))
                continue;
            *out_keystore = shown[j]->name;
            *out_subsystem = ends[j];
            return true;
        }
    }
    return false;
}

char *mesh_spiffe_id(const char *trust_domain, const Mortise__V1__Subsystem *subsystem)
{
    return spiffe_id_of_workload(trust_domain, mesh_namespace(subsystem), mesh_account(subsystem));
}

/* Whoever is at that end, as the other one's sidecar sees it: below CAs of others nobody has an ID,
 * and who is not asked for a certificate has none. */
static const Mortise__V1__Policy *mesh_denies_end(const Mortise__V1__Mesh *mesh,
                                                  const struct policy_set *policies,
                                                  const char *trust_domain,
                                                  const Mortise__V1__Link *link, bool client)
{
    const char *judge = client ? mesh_server_profile(link) : mesh_client_profile(link);
    const Mortise__V1__TlsProfile *profile = mesh_profile(mesh, judge);
    const Mortise__V1__Subsystem *end = mesh_subsystem(mesh, client ? link->client : link->server);
    CLEANUP(mem_freep) char *id = NULL;

    if (profile == NULL || end == NULL || (!client && profile->insecure_skip_verify))
        return NULL; /* who verifies nobody judges nobody, either */
    if (mesh_trusts_mesh(mesh_truststore(mesh, profile)) &&
        !(client && profile->client_auth == MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__NONE))
        id = mesh_spiffe_id(trust_domain, end);
    return policy_find(policies, link->name, client ? POLICY_CLIENT : POLICY_SERVER,
                       id != NULL ? id : "");
}

const Mortise__V1__Policy *mesh_denies(const Mortise__V1__Mesh *mesh,
                                       const struct policy_set *policies, const char *trust_domain,
                                       const Mortise__V1__Link *link, const char **out_denied)
{
    const Mortise__V1__Policy *policy = mesh_denies_end(mesh, policies, trust_domain, link, true);

    *out_denied = link->client;
    if (policy != NULL)
        return policy;
    *out_denied = link->server;
    return mesh_denies_end(mesh, policies, trust_domain, link, false);
}

/* ------------------------------------------------------------------- built in */

/* As they are called where such meshes come from; all of them trust the mesh's own CAs. */
static const char *const mesh_builtin_truststores[] = {
    "analytics-ingestion",
    "portal-director",
    "gateway-management-client",
};

static const char *const mesh_builtin_keystores[] = {
    "analytics-ingestion",
    "portal-director",
    "gateway-management",
    "default-tls-server",
};

static ProtobufCMessage *mesh_builtin_keystore(const char *name)
{
    Mortise__V1__MeshKeystore keystore = MORTISE__V1__MESH_KEYSTORE__INIT;

    keystore.name = msg_lend(name);
    keystore.description = msg_lend("what the mesh issues to each sidecar");
    keystore.issued = true;
    return pb_clone(&keystore.base);
}

static ProtobufCMessage *mesh_builtin_truststore(const char *name)
{
    Mortise__V1__MeshTruststore store = MORTISE__V1__MESH_TRUSTSTORE__INIT;

    store.name = msg_lend(name);
    store.description = msg_lend("the CAs of this mesh");
    store.mesh_roots = true;
    return pb_clone(&store.base);
}

/* Owned (pb_free); NULL: none of that name is built in. */
static ProtobufCMessage *mesh_builtin(int kind, const char *name)
{
    Mortise__V1__TlsProfile *profile;

    if (kind == MESH_PROFILES) {
        profile = tls_profile_builtin(name);
        return profile != NULL ? &profile->base : NULL;
    }
    for (size_t i = 0; kind == MESH_TRUSTSTORES && i < ARRAY_LEN(mesh_builtin_truststores); i++) {
        if (strcmp(mesh_builtin_truststores[i], name) == 0)
            return mesh_builtin_truststore(name);
    }
    for (size_t i = 0; kind == MESH_KEYSTORES && i < ARRAY_LEN(mesh_builtin_keystores); i++) {
        if (strcmp(mesh_builtin_keystores[i], name) == 0)
            return mesh_builtin_keystore(name);
    }
    return NULL;
}

bool mesh_is_built_in(int kind, const char *name)
{
    ProtobufCMessage *builtin = mesh_builtin(kind, name);

    if (builtin == NULL)
        return false;
    pb_free(builtin);
    return true;
}

bool mesh_is_as_built_in(int kind, const ProtobufCMessage *item)
{
    ProtobufCMessage *builtin = mesh_builtin(kind, mesh_name(item));
    bool same = builtin != NULL && pb_equal(builtin, item);

    if (builtin != NULL)
        pb_free(builtin);
    return same;
}

static bool mesh_has(const Mortise__V1__Mesh *mesh, int kind, const char *name)
{
    for (size_t i = 0; i < mesh_num(mesh, &mesh_kinds[kind]); i++) {
        if (strcmp(mesh_name(mesh_item(mesh, &mesh_kinds[kind], i)), name) == 0)
            return true;
    }
    return false;
}

/* Takes `item`, which the mesh has already or gets. */
static void mesh_complete_with(Mortise__V1__Mesh *mesh, int kind, ProtobufCMessage *item)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    size_t num = mesh_num(mesh, what);
    ProtobufCMessage **items;

    if (mesh_has(mesh, kind, mesh_name(item))) {
        pb_free(item);
        return;
    }
    memcpy(&items, (const char *)mesh + what->items_at, sizeof(items));
    items = mem_realloc(items, (num + 1) * sizeof(*items));
    items[num++] = item;
    memcpy((char *)mesh + what->items_at, &items, sizeof(items));
    memcpy((char *)mesh + what->num_at, &num, sizeof(num));
}

void mesh_complete(Mortise__V1__Mesh *mesh)
{
    Mortise__V1__TlsProfile *builtin[TLS_PROFILE_DEFAULTS];
    size_t num;

    tls_profile_defaults(builtin, &num);
    for (size_t i = 0; i < num; i++)
        mesh_complete_with(mesh, MESH_PROFILES, &builtin[i]->base);
    for (size_t i = 0; i < ARRAY_LEN(mesh_builtin_truststores); i++)
        mesh_complete_with(mesh, MESH_TRUSTSTORES,
                           mesh_builtin_truststore(mesh_builtin_truststores[i]));
    for (size_t i = 0; i < ARRAY_LEN(mesh_builtin_keystores); i++)
        mesh_complete_with(mesh, MESH_KEYSTORES, mesh_builtin_keystore(mesh_builtin_keystores[i]));
}

static void mesh_default_link(Mortise__V1__Link *link, const char *name, const char *client,
                              uint32_t client_port, const char *server, uint32_t server_port,
                              const char *client_profile)
{
    *link = (Mortise__V1__Link)MORTISE__V1__LINK__INIT;
    link->name = msg_lend(name);
    link->client = msg_lend(client);
    link->client_port = client_port;
    link->server = msg_lend(server);
    link->server_port = server_port;
    link->client_profile = msg_lend(client_profile);
}

Mortise__V1__Mesh *mesh_default(void)
{
    static const char *const names[] = {"management", "portal", "analytics", "gateway"};
    Mortise__V1__Mesh mesh = MORTISE__V1__MESH__INIT;
    Mortise__V1__Subsystem subsystems[ARRAY_LEN(names)];
    Mortise__V1__Subsystem *subsystem_ptrs[ARRAY_LEN(names)];
    Mortise__V1__Link links[4];
    Mortise__V1__Link *link_ptrs[ARRAY_LEN(links)];
    Mortise__V1__Mesh *owned;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        subsystems[i] = (Mortise__V1__Subsystem)MORTISE__V1__SUBSYSTEM__INIT;
        subsystems[i].name = msg_lend(names[i]);
        subsystem_ptrs[i] = &subsystems[i];
    }
    mesh_default_link(&links[0], "management-portal", "management", 15101, "portal", 8081,
                      "portal-director-client");
    mesh_default_link(&links[1], "management-gateway", "management", 15102, "gateway", 8082,
                      "gateway-management-client");
    mesh_default_link(&links[2], "management-analytics", "management", 15103, "analytics", 8083,
                      "analytics-ingestion-client");
    mesh_default_link(&links[3], "gateway-analytics", "gateway", 15104, "analytics", 8083,
                      "analytics-ingestion-client");
    for (size_t i = 0; i < ARRAY_LEN(links); i++)
        link_ptrs[i] = &links[i];
    mesh.subsystems = subsystem_ptrs;
    mesh.n_subsystems = ARRAY_LEN(subsystem_ptrs);
    mesh.links = link_ptrs;
    mesh.n_links = ARRAY_LEN(link_ptrs);
    owned = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor, pb_clone(&mesh.base));
    mesh_complete(owned);
    return owned;
}
