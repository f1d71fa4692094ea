/* The judgement of control/mesh.h. */
#include <stdio.h>
#include <string.h>

#include "certs/spiffe_id.h"
#include "certs/tls_profile.h"
#include "control/mesh.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define MESH_NAMES_SHOWN 12

struct mesh_checker {
    const Mortise__V1__Mesh *mesh;
    const struct mesh_origin *origin;
    struct faults *faults;
    struct fault_path path;
    struct map names[MESH_KINDS];  /* name to item */
    struct map ids;                /* "namespace/account" to subsystem */
    struct map ports;              /* "subsystem:port" to the link that listens there */
    struct tls_profile **profiles; /* compiled, NULL where it could not be */
};

/* Points the path at an item: links[2] of the document, or link[name] of what was there before. */
static void mesh_at(struct mesh_checker *checker, int kind, size_t index)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    size_t at = checker->origin != NULL ? checker->origin->index[kind][index] : index;

    fault_path_pop(&checker->path, 0);
    if (at != MESH_KEPT) {
        fault_path_field(&checker->path, what->many);
        fault_path_index(&checker->path, at);
    } else {
        char text[MESH_NAME_MAX + 32];

        (void)snprintf(text, sizeof(text), "%s[%.*s]", what->many, MESH_NAME_MAX,
                       mesh_name(mesh_item(checker->mesh, what, index)));
        fault_path_field(&checker->path, text);
    }
}

/* A fault of one field of the item that the path points at. */
__attribute__((format(printf, 3, 4))) static void
mesh_fault(struct mesh_checker *checker, const char *field, const char *format, ...)
{
    size_t mark = fault_path_field(&checker->path, field);
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    faults_add(checker->faults, checker->path.text, "%s", text);
    fault_path_pop(&checker->path, mark);
}

static bool mesh_label_valid(const char *text)
{
    size_t len = strlen(text);

    if (len == 0 || len > MESH_NAME_MAX || text[0] == '-' || text[len - 1] == '-')
        return false;
    return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

static void mesh_check_label(struct mesh_checker *checker, const char *field, const char *text)
{
    if (!mesh_label_valid(text))
        mesh_fault(checker, field,
                   "\"%s\" is not a name: lower-case letters, digits and inner hyphens, 1 to %d "
                   "characters",
                   text, MESH_NAME_MAX);
}

static void mesh_check_description(struct mesh_checker *checker, const char *text)
{
    if (strlen(text) > MESH_DESCRIPTION_MAX)
        mesh_fault(checker, "description", "is longer than %d bytes", MESH_DESCRIPTION_MAX);
}

static const char *mesh_role_name(Mortise__V1__TlsProfile__Role role)
{
    return role == MORTISE__V1__TLS_PROFILE__ROLE__CLIENT ? "CLIENT" : "SERVER";
}

/* The names of a list, of profiles only those of `role` (unless unspecified): "a, b and 3 more". */
static char *mesh_names(const struct mesh_checker *checker, int kind,
                        Mortise__V1__TlsProfile__Role role)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    size_t num = mesh_num(checker->mesh, what);
    CLEANUP(buf_fini) struct buf text = {0};
    size_t shown = 0, more = 0;
    err_t err = OK;

    for (size_t i = 0; i < num && err_is_ok(err); i++) {
        if (kind == MESH_PROFILES && role != MORTISE__V1__TLS_PROFILE__ROLE__ROLE_UNSPECIFIED &&
            checker->mesh->profiles[i]->role != role)
            continue;
        if (shown == MESH_NAMES_SHOWN) {
            more++;
            continue;
        }
        err = buf_printf(&text, "%s%s", shown++ > 0 ? ", " : "",
                         mesh_name(mesh_item(checker->mesh, what, i)));
    }
    if (more > 0 && err_is_ok(err))
        err = buf_printf(&text, " and %zu more", more);
    if (shown == 0 && err_is_ok(err))
        err = buf_add_str(&text, "none");
    CHECK(err_is_ok(err));
    return buf_take_str(&text);
}

/* The item that `name` refers to, or a fault that says which there are. */
static const ProtobufCMessage *mesh_refer(struct mesh_checker *checker, const char *field, int kind,
                                          const char *name, Mortise__V1__TlsProfile__Role role)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    const ProtobufCMessage *item = map_get(&checker->names[kind], name);
    CLEANUP(mem_freep) char *names = NULL;

    if (item != NULL)
        return item;
    names = mesh_names(checker, kind, role);
    if (name[0] == '\0')
        mesh_fault(checker, field, "is missing: the name of a %s; there are: %s", what->one, names);
    else
        mesh_fault(checker, field, "no %s \"%s\"; there are: %s", what->one, name, names);
    return NULL;
}

static void mesh_check_names(struct mesh_checker *checker, int kind, size_t max)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    size_t num = mesh_num(checker->mesh, what);

    if (num > max)
        faults_add(checker->faults, what->many, "%zu are too many: at most %zu", num, max);
    for (size_t i = 0; i < num; i++) {
        const ProtobufCMessage *item = mesh_item(checker->mesh, what, i);
        const char *name = mesh_name(item);

        mesh_at(checker, kind, i);
        mesh_check_label(checker, "name", name);
        if (map_get(&checker->names[kind], name) != NULL)
            mesh_fault(checker, "name", "there is another %s \"%s\"", what->one, name);
        else
            /* Lent to the map, which only gives it back. */
            map_put(&checker->names[kind], name, (void *)(uintptr_t)item);
    }
}

static void mesh_check_subsystem(struct mesh_checker *checker,
                                 const Mortise__V1__Subsystem *subsystem)
{
    const Mortise__V1__Subsystem *other;
    char id[2 * MESH_NAME_MAX + 2];

    mesh_check_description(checker, subsystem->description);
    if (subsystem->namespace_[0] != '\0')
        mesh_check_label(checker, "namespace", subsystem->namespace_);
    if (subsystem->service_account[0] != '\0')
        mesh_check_label(checker, "service_account", subsystem->service_account);
    if (!mesh_label_valid(mesh_namespace(subsystem)) || !mesh_label_valid(mesh_account(subsystem)))
        return;
    (void)snprintf(id, sizeof(id), "%s/%s", mesh_namespace(subsystem), mesh_account(subsystem));
    other = map_get(&checker->ids, id);
    if (other != NULL && strcmp(other->name, subsystem->name) != 0)
        mesh_fault(checker, "service_account",
                   "subsystem \"%s\" is ns/%s/sa/%s already; each needs an identity of its own",
                   other->name, mesh_namespace(subsystem), mesh_account(subsystem));
    else
        map_put(&checker->ids, id, (void *)(uintptr_t)subsystem);
}

static void mesh_check_profile(struct mesh_checker *checker, size_t index)
{
    const Mortise__V1__TlsProfile *profile = checker->mesh->profiles[index];
    err_t err;

    mesh_check_description(checker, profile->description);
    /* Every fault of it is in the list; what could not be compiled stays NULL. */
    err = tls_profile_compile(profile, &checker->path, checker->faults, &checker->profiles[index]);
    (void)err;
}

static bool mesh_check_port(struct mesh_checker *checker, const char *field, uint32_t port)
{
    if (port == 0)
        mesh_fault(checker, field, "is missing: a port, 1 to 65535");
    else if (port > 65535)
        mesh_fault(checker, field, "%u is not a port: 1 to 65535", port);
    else if (port == MESH_INBOUND_PORT)
        mesh_fault(checker, field, "%u is where every sidecar takes mTLS", port);
    else
        return true;
    return false;
}

static void mesh_port_key(const char *subsystem, uint32_t port, char out[MESH_NAME_MAX + 16])
{
    (void)snprintf(out, MESH_NAME_MAX + 16, "%.*s:%u", MESH_NAME_MAX, subsystem, port);
}

static const struct tls_profile *mesh_check_end(struct mesh_checker *checker, const char *field,
                                                const char *name,
                                                Mortise__V1__TlsProfile__Role role)
{
    const ProtobufCMessage *item = mesh_refer(checker, field, MESH_PROFILES, name, role);
    CLEANUP(mem_freep) char *names = NULL;

    if (item == NULL)
        return NULL;
    for (size_t i = 0; i < checker->mesh->n_profiles; i++) {
        const Mortise__V1__TlsProfile *profile = checker->mesh->profiles[i];

        if (&profile->base != item)
            continue;
        if (profile->role == role)
            return checker->profiles[i];
        if (profile->role == MORTISE__V1__TLS_PROFILE__ROLE__ROLE_UNSPECIFIED)
            return NULL; /* told at the profile */
        names = mesh_names(checker, MESH_PROFILES, role);
        mesh_fault(checker, field, "\"%s\" is a %s profile; of role %s there are: %s", name,
                   mesh_role_name(profile->role), mesh_role_name(role), names);
        return NULL;
    }
    return NULL;
}

/* Client ports of one subsystem are listening sockets of its sidecar: each once. */
static void mesh_check_client_port(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    char key[MESH_NAME_MAX + 16];
    const Mortise__V1__Link *other;

    if (!mesh_check_port(checker, "client_port", link->client_port))
        return;
    mesh_port_key(link->client, link->client_port, key);
    other = map_get(&checker->ports, key);
    if (other != NULL)
        mesh_fault(checker, "client_port", "%u of \"%s\" is taken by link \"%s\"",
                   link->client_port, link->client, other->name);
    else
        map_put(&checker->ports, key, (void *)(uintptr_t)link);
}

static const Mortise__V1__TlsProfile *mesh_profile_of(const struct mesh_checker *checker,
                                                      const struct tls_profile *compiled)
{
    for (size_t i = 0; i < checker->mesh->n_profiles; i++)
        if (checker->profiles[i] == compiled)
            return checker->mesh->profiles[i];
    return NULL;
}

/* In TLS 1.2 a client's groups bind the curve of the server's certificate as well (RFC 8422 section
 * 5.1), and the mesh's certificates are P-256: without it every handshake would fail. */
static void mesh_check_curve(struct mesh_checker *checker, const Mortise__V1__TlsProfile *client,
                             const Mortise__V1__TlsProfile *server)
{
    if (client->n_groups == 0 || (client->max_version != MORTISE__V1__TLS_VERSION__TLS1_2 &&
                                  server->max_version != MORTISE__V1__TLS_VERSION__TLS1_2))
        return;
    for (size_t i = 0; i < client->n_groups; i++)
        if (strcmp(client->groups[i], "P-256") == 0)
            return;
    mesh_fault(
        checker, "client_profile",
        "\"%s\" has no group P-256, which TLS 1.2 needs for the mesh's certificates: add it, "
        "or allow TLS1_3 at both ends",
        client->name);
}

static void mesh_check_link(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    const Mortise__V1__TlsProfile__Role any = MORTISE__V1__TLS_PROFILE__ROLE__ROLE_UNSPECIFIED;
    const struct tls_profile *client_profile, *server_profile;
    bool ends;
    err_t err;

    mesh_check_description(checker, link->description);
    ends = mesh_refer(checker, "client", MESH_SUBSYSTEMS, link->client, any) != NULL;
    ends = mesh_refer(checker, "server", MESH_SUBSYSTEMS, link->server, any) != NULL && ends;
    if (ends && strcmp(link->client, link->server) == 0)
        mesh_fault(checker, "server", "is \"%s\" as the client is: a link joins two subsystems",
                   link->server);
    mesh_check_client_port(checker, link);
    (void)mesh_check_port(checker, "server_port", link->server_port);
    client_profile = mesh_check_end(checker, "client_profile", mesh_client_profile(link),
                                    MORTISE__V1__TLS_PROFILE__ROLE__CLIENT);
    server_profile = mesh_check_end(checker, "server_profile", mesh_server_profile(link),
                                    MORTISE__V1__TLS_PROFILE__ROLE__SERVER);
    if (client_profile == NULL || server_profile == NULL)
        return;
    /* An empty intersection is a fault in the list. */
    err = tls_profile_intersect(client_profile, server_profile, checker->path.text, checker->faults,
                                NULL);
    if (err_is_ok(err))
        mesh_check_curve(checker, mesh_profile_of(checker, client_profile),
                         mesh_profile_of(checker, server_profile));
}

/* Where an application listens its own sidecar cannot. */
static void mesh_check_server_port(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    char key[MESH_NAME_MAX + 16];
    const Mortise__V1__Link *other;

    mesh_port_key(link->server, link->server_port, key);
    other = map_get(&checker->ports, key);
    if (other != NULL)
        mesh_fault(checker, "server_port",
                   "%u of \"%s\" cannot be the application's: link \"%s\" has it as client_port",
                   link->server_port, link->server, other->name);
}

static void mesh_check_settings(struct mesh_checker *checker)
{
    const Mortise__V1__MeshSettings *settings = checker->mesh->settings;

    if (settings == NULL || settings->leaf_ttl_s == 0)
        return;
    if (settings->leaf_ttl_s < MESH_LEAF_TTL_MIN_S || settings->leaf_ttl_s > MESH_LEAF_TTL_MAX_S)
        faults_add(checker->faults, "settings.leaf_ttl_s", "%u is not between %d and %d seconds",
                   settings->leaf_ttl_s, MESH_LEAF_TTL_MIN_S, MESH_LEAF_TTL_MAX_S);
}

static void mesh_check_all(struct mesh_checker *checker)
{
    const Mortise__V1__Mesh *mesh = checker->mesh;

    mesh_check_settings(checker);
    mesh_check_names(checker, MESH_SUBSYSTEMS, MESH_SUBSYSTEMS_MAX);
    mesh_check_names(checker, MESH_PROFILES, MESH_PROFILES_MAX);
    mesh_check_names(checker, MESH_LINKS, MESH_LINKS_MAX);
    for (size_t i = 0; i < mesh->n_subsystems; i++) {
        mesh_at(checker, MESH_SUBSYSTEMS, i);
        mesh_check_subsystem(checker, mesh->subsystems[i]);
    }
    for (size_t i = 0; i < mesh->n_profiles; i++) {
        mesh_at(checker, MESH_PROFILES, i);
        mesh_check_profile(checker, i);
    }
    for (size_t i = 0; i < mesh->n_links; i++) {
        mesh_at(checker, MESH_LINKS, i);
        mesh_check_link(checker, mesh->links[i]);
    }
    for (size_t i = 0; i < mesh->n_links; i++) {
        mesh_at(checker, MESH_LINKS, i);
        mesh_check_server_port(checker, mesh->links[i]);
    }
}

err_t mesh_check(const Mortise__V1__Mesh *mesh, const struct mesh_origin *origin,
                 struct faults *faults)
{
    size_t before = faults->total;
    struct mesh_checker checker = {
        .mesh = mesh,
        .origin = origin,
        .faults = faults,
        .profiles = mem_array(mesh->n_profiles, sizeof(*checker.profiles)),
    };

    mesh_check_all(&checker);
    for (size_t i = 0; i < mesh->n_profiles; i++) {
        if (checker.profiles[i] != NULL)
            tls_profile_unref(checker.profiles[i]);
    }
    mem_free(checker.profiles);
    for (size_t i = 0; i < MESH_KINDS; i++)
        map_fini(&checker.names[i]);
    map_fini(&checker.ids);
    map_fini(&checker.ports);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}
