/* The judgement of control/mesh.h. */
#include <stdio.h>
#include <string.h>

#include "certs/cert.h"
#include "certs/spiffe_id.h"
#include "certs/tls_profile.h"
#include "control/labels.h"
#include "control/mesh.h"
#include "lib/base/clock.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/net/cidr.h"

#define MESH_NAMES_SHOWN 12

/* The first of the links that have something in common, and one more: of a pair the second, of a
 * server's the first that is not like it. */
struct mesh_siblings {
    const Mortise__V1__Link *first, *other;
};

struct mesh_checker {
    const Mortise__V1__Mesh *mesh;
    const struct mesh_origin *origin;
    struct faults *faults;
    struct faults *apart; /* links whose ends could not talk: `faults`, or a list of their own */
    struct fault_path path;
    struct map names[MESH_KINDS]; /* name to item */
    struct map ids;               /* "namespace/account" to subsystem */
    struct map ports;             /* "subsystem:port" to the link that listens there */
    struct map destinations;      /* of captured connections, likewise */
    struct map num_destinations;  /* by client */
    struct map server_names;      /* "subsystem:name" to the link that is asked for by it there */
    struct map pairs, servers;    /* to siblings: of "client>server", of the server */
    struct mesh_siblings *siblings;
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
    size_t own = num;

    for (size_t i = 0; i < num; i++)
        own -= mesh_is_built_in(kind, mesh_name(mesh_item(checker->mesh, what, i)));
    if (own > max)
        faults_add(checker->faults, what->many, "%zu are too many: at most %zu", own, max);
    for (size_t i = 0; i < num; i++) {
        const ProtobufCMessage *item = mesh_item(checker->mesh, what, i);
        const char *name = mesh_name(item);

        mesh_at(checker, kind, i);
        mesh_check_label(checker, "name", name);
        labels_check(item, &checker->path, checker->faults);
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

static void mesh_check_truststore(struct mesh_checker *checker,
                                  const Mortise__V1__MeshTruststore *store)
{
    mesh_check_description(checker, store->description);
    if (strcmp(store->name, MESH_ROOTS) == 0)
        mesh_fault(checker, "name",
                   "\"%s\" is what the mesh's own CAs are called: they are there without it",
                   store->name);
    if (!mesh_trusts_mesh(store) && !mesh_trusts_others(store))
        mesh_fault(checker, "pem",
                   "is missing: it trusts nobody; CA certificates are wanted, or "
                   "mesh_roots: true");
    if (store->n_crl_pem > 0 && mesh_trusts_mesh(store))
        mesh_fault(checker, "crl_pem",
                   "goes without mesh_roots, whose lists are the mesh's (crls): take the other CAs "
                   "and their lists into a truststore of their own");
    if (checker->mesh->n_crls > 0 && mesh_trusts_mesh(store) && mesh_trusts_others(store))
        mesh_fault(checker, "pem",
                   "the mesh has revocation lists (crls), so that each CA beside mesh_roots would "
                   "need one: take these CAs and their lists into a truststore of their own");
}

/* A name that could never match. A mesh that an older program took in must not be kept from
 * starting by it: its links do not work as it is. */
static void mesh_check_address(struct mesh_checker *checker, const char *name)
{
    size_t mark = fault_path_field(&checker->path, "peer_names");

    faults_add(checker->apart, checker->path.text,
               "\"%s\" is an IP address, and peers are known by DNS names alone: an address in a "
               "certificate (iPAddress) does not count; name what it has beside that, or have it "
               "issued with a DNS name",
               name);
    fault_path_pop(&checker->path, mark);
}

/* Below CAs of others names alone count: without any nobody would be let in, and names that stand
 * beside the mesh's CAs alone would seem to count. */
static void mesh_check_peer_names(struct mesh_checker *checker,
                                  const Mortise__V1__TlsProfile *profile,
                                  const Mortise__V1__MeshTruststore *store)
{
    if (mesh_trusts_others(store) && profile->n_peer_names == 0)
        mesh_fault(checker, "peer_names",
                   "is missing: truststore \"%s\" has CAs of others, and below them a peer is "
                   "known by its DNS name alone",
                   store->name);
    if (!mesh_trusts_others(store) && profile->n_peer_names > 0)
        mesh_fault(checker, "peer_names",
                   "goes with a truststore that has CAs of others; the mesh's own peers are known "
                   "by their identity");
    if (profile->n_peer_names > MESH_PEER_NAMES_MAX)
        mesh_fault(checker, "peer_names", "are %zu; at most %d", profile->n_peer_names,
                   MESH_PEER_NAMES_MAX);
    for (size_t i = 0; i < profile->n_peer_names && i < MESH_PEER_NAMES_MAX; i++) {
        if (cert_is_address(profile->peer_names[i]))
            mesh_check_address(checker, profile->peer_names[i]);
        else if (!cert_dns_valid(bytes_of_str(profile->peer_names[i])))
            mesh_fault(checker, "peer_names",
                       "\"%s\" is not a DNS name (exact names only, no wildcard)",
                       profile->peer_names[i]);
    }
}

static void mesh_check_keystore(struct mesh_checker *checker,
                                const Mortise__V1__MeshKeystore *keystore)
{
    size_t len = strlen(keystore->key_sha256);

    mesh_check_description(checker, keystore->description);
    if (mesh_is_on_disk(keystore)) {
        mesh_check_label(checker, "folder", keystore->folder);
        if (keystore->issued || mesh_is_uploaded(keystore))
            mesh_fault(checker, "folder",
                       "goes without issued, chain_pem and key_sha256: what lies there is the "
                       "sidecar's to read");
        return;
    }
    if (!mesh_is_uploaded(keystore))
        return; /* issued */
    if (keystore->issued)
        mesh_fault(checker, "issued",
                   "goes without chain_pem and key_sha256: it is issued, or it was uploaded");
    if (keystore->chain_pem[0] == '\0')
        mesh_fault(checker, "chain_pem", "is missing: the certificates of the key, leaf first");
    if (len != 64 || strspn(keystore->key_sha256, "0123456789abcdef") != len)
        mesh_fault(checker, "key_sha256",
                   "is no fingerprint (64 hexadecimal digits, lower-case); a key is brought by "
                   "mortisectl import keystore");
}

static void mesh_check_profile_trust(struct mesh_checker *checker,
                                     const Mortise__V1__TlsProfile *profile)
{
    if (profile->keystore[0] != '\0')
        (void)mesh_refer(checker, "keystore", MESH_KEYSTORES, profile->keystore,
                         MORTISE__V1__TLS_PROFILE__ROLE__ROLE_UNSPECIFIED);
    if (profile->truststore[0] != '\0' &&
        mesh_refer(checker, "truststore", MESH_TRUSTSTORES, profile->truststore,
                   MORTISE__V1__TLS_PROFILE__ROLE__ROLE_UNSPECIFIED) == NULL)
        return;
    mesh_check_peer_names(checker, profile, mesh_truststore(checker->mesh, profile));
}

static void mesh_check_profile(struct mesh_checker *checker, size_t index)
{
    const Mortise__V1__TlsProfile *profile = checker->mesh->profiles[index];
    err_t err;

    mesh_check_description(checker, profile->description);
    mesh_check_profile_trust(checker, profile);
    if (profile->insecure_skip_verify && profile->role == MORTISE__V1__TLS_PROFILE__ROLE__CLIENT &&
        (checker->mesh->settings == NULL || !checker->mesh->settings->allow_insecure))
        mesh_fault(checker, "insecure_skip_verify",
                   "needs allow_insecure: true in settings: whoever answers would be taken for the "
                   "server");
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

    if (link->client_port == 0 && link->n_destinations > 0)
        return; /* its applications' connections are captured */
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

/* A client's sidecar takes what is captured by the one link that names where it was to go. */
static void mesh_check_destination(struct mesh_checker *checker, const Mortise__V1__Link *link,
                                   const char *field, const char *text)
{
    struct cidr range;
    uint16_t port;
    char canonical[CIDR_TEXT_MAX];
    CLEANUP(mem_freep) char *key = NULL;
    const Mortise__V1__Link *other;

    if (!err_is_ok(cidr_parse_port(text, &range, &port))) {
        mesh_fault(checker, field,
                   "\"%s\" is no destination: wanted is ADDRESS:PORT or RANGE:PORT, as "
                   "10.0.0.7:8080, 10.1.0.0/16:8080 (bits behind the prefix are 0) or "
                   "[fd00::/64]:8080",
                   text);
        return;
    }
    if (cidr_is_on_link(&range)) {
        mesh_fault(checker, field, "\"%s\" is loopback or link-local, which is never captured",
                   text);
        return;
    }
    cidr_format(&range, canonical);
    key = mem_printf("%s %s %u", link->client, canonical, port);
    other = map_get(&checker->destinations, key);
    if (other != NULL)
        mesh_fault(checker, field, "%s of \"%s\" is a destination of link \"%s\"%s", text,
                   link->client, other->name, other == link ? " twice" : "");
    else
        map_put(&checker->destinations, key, (void *)(uintptr_t)link);
}

/* All of a client's, which its sidecar has in one table. */
static void mesh_count_destinations(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    size_t num = (size_t)(uintptr_t)map_get(&checker->num_destinations, link->client);

    num += link->n_destinations;
    if (num == 0)
        return;
    map_put(&checker->num_destinations, link->client, (void *)num);
    if (num > MESH_ROUTES_MAX)
        mesh_fault(checker, "destinations", "of all links of \"%s\" are %zu so far; at most %d",
                   link->client, num, MESH_ROUTES_MAX);
}

static void mesh_check_destinations(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    if (link->n_destinations > MESH_DESTINATIONS_MAX) {
        mesh_fault(checker, "destinations", "has %zu members; at most %d", link->n_destinations,
                   MESH_DESTINATIONS_MAX);
        return;
    }
    mesh_count_destinations(checker, link);
    for (size_t i = 0; i < link->n_destinations; i++) {
        char field[48];

        (void)snprintf(field, sizeof(field), "destinations[%zu]", i);
        mesh_check_destination(checker, link, field, link->destinations[i]);
    }
}

/* Two ends that could not talk: told where the client's is named. */
static void mesh_check_meeting(struct mesh_checker *checker, const struct tls_profile *client,
                               const struct tls_profile *server)
{
    size_t mark = fault_path_field(&checker->path, "client_profile");
    err_t err = tls_profile_intersect(client, server, checker->path.text, checker->apart, NULL);

    (void)err; /* a fault in the list */
    fault_path_pop(&checker->path, mark);
}

static void mesh_check_anonymous(struct mesh_checker *checker, const Mortise__V1__Link *link,
                                 const struct tls_profile *server)
{
    enum tls_client_auth client_auth = tls_profile_client_auth(server);

    if (link->allow_anonymous && client_auth == TLS_CLIENT_REQUIRED)
        mesh_fault(checker, "allow_anonymous",
                   "server profile \"%s\" requires a certificate: give it client_auth OPTIONAL or "
                   "NONE, or leave this out",
                   tls_profile_name(server));
    if (!link->allow_anonymous && client_auth == TLS_CLIENT_NONE)
        mesh_fault(checker, "server_profile",
                   "\"%s\" asks for no certificate (client_auth: NONE), so that nobody could come "
                   "in: say allow_anonymous: true, or take one that asks",
                   tls_profile_name(server));
}

/* It is a listening socket of the server's sidecar, on all of its addresses. */
static void mesh_check_permissive_port(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    char key[MESH_NAME_MAX + 16];
    const Mortise__V1__Link *other;

    if (!mesh_check_port(checker, "permissive.port", link->permissive->port))
        return;
    if (link->permissive->port == link->server_port) {
        mesh_fault(checker, "permissive.port", "%u is where the application of \"%s\" listens",
                   link->permissive->port, link->server);
        return;
    }
    mesh_port_key(link->server, link->permissive->port, key);
    other = map_get(&checker->ports, key);
    if (other != NULL)
        mesh_fault(checker, "permissive.port", "%u of \"%s\" is taken by link \"%s\"",
                   link->permissive->port, link->server, other->name);
    else
        map_put(&checker->ports, key, (void *)(uintptr_t)link);
}

static void mesh_check_permissive(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    int64_t until_s;

    mesh_check_permissive_port(checker, link);
    if (!clock_parse_utc(link->permissive->until, &until_s))
        mesh_fault(checker, "permissive.until",
                   "\"%s\" is not a time: wanted is 2026-12-31T23:59:59Z", link->permissive->until);
}

static void mesh_check_link(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    const Mortise__V1__TlsProfile__Role any = MORTISE__V1__TLS_PROFILE__ROLE__ROLE_UNSPECIFIED;
    const struct tls_profile *client_profile, *server_profile;
    bool ends;

    mesh_check_description(checker, link->description);
    ends = mesh_refer(checker, "client", MESH_SUBSYSTEMS, link->client, any) != NULL;
    ends = mesh_refer(checker, "server", MESH_SUBSYSTEMS, link->server, any) != NULL && ends;
    if (ends && strcmp(link->client, link->server) == 0)
        mesh_fault(checker, "server", "is \"%s\" as the client is: a link joins two subsystems",
                   link->server);
    mesh_check_client_port(checker, link);
    mesh_check_destinations(checker, link);
    (void)mesh_check_port(checker, "server_port", link->server_port);
    client_profile = mesh_check_end(checker, "client_profile", mesh_client_profile(link),
                                    MORTISE__V1__TLS_PROFILE__ROLE__CLIENT);
    server_profile = mesh_check_end(checker, "server_profile", mesh_server_profile(link),
                                    MORTISE__V1__TLS_PROFILE__ROLE__SERVER);
    if (client_profile != NULL && server_profile != NULL)
        mesh_check_meeting(checker, client_profile, server_profile);
    if (server_profile != NULL)
        mesh_check_anonymous(checker, link, server_profile);
    if (link->permissive != NULL)
        mesh_check_permissive(checker, link);
    if (link->access_log != NULL && link->access_log->permille > MESH_LOG_ALL)
        mesh_fault(checker, "access_log.permille", "%u is more than 1000 of a thousand",
                   link->access_log->permille);
}

/* ---- policies ---- */

#define MESH_NEAREST_MAX 8 /* faults that look for what was meant: each looks at all links */

static void mesh_check_policy_link(struct mesh_checker *checker, const char *name)
{
    const Mortise__V1__Mesh *mesh = checker->mesh;
    CLEANUP(mem_freep) char *there = NULL;
    const char *nearest = NULL;

    if (map_get(&checker->names[MESH_LINKS], name) != NULL)
        return;
    if (checker->faults->total < MESH_NEAREST_MAX && mesh->n_links > 0) {
        const char **names = mem_array(mesh->n_links, sizeof(*names));
        int at;

        for (size_t i = 0; i < mesh->n_links; i++)
            names[i] = mesh->links[i]->name;
        at = str_nearest(name, names, mesh->n_links);
        if (at >= 0)
            nearest = names[at];
        mem_free(names);
    }
    there = mesh_names(checker, MESH_LINKS, MORTISE__V1__TLS_PROFILE__ROLE__ROLE_UNSPECIFIED);
    faults_add(checker->faults, checker->path.text, "no link \"%.64s\"%s%s%s; there are: %s", name,
               nearest != NULL ? " (meant was " : "", nearest != NULL ? nearest : "",
               nearest != NULL ? "?)" : "", there);
}

static void mesh_check_policy(struct mesh_checker *checker, const Mortise__V1__Policy *policy)
{
    err_t err = policy_check(policy, false, &checker->path, checker->faults);
    size_t mark;

    (void)err; /* every fault is in the list */
    mesh_check_description(checker, policy->description);
    mark = fault_path_field(&checker->path, "links");
    for (size_t i = 0; i < policy->n_links; i++) {
        size_t at = fault_path_index(&checker->path, i);

        mesh_check_policy_link(checker, policy->links[i]);
        fault_path_pop(&checker->path, at);
    }
    fault_path_pop(&checker->path, mark);
}

/* A fault of the field that names the client's profile. */
#define MESH_SNI_FAULT(checker, ...) mesh_fault((checker), "client_profile", __VA_ARGS__)

static const struct tls_profile *mesh_compiled(const struct mesh_checker *checker,
                                               const char *profile)
{
    for (size_t i = 0; i < checker->mesh->n_profiles; i++) {
        if (strcmp(checker->mesh->profiles[i]->name, profile) == 0)
            return checker->profiles[i];
    }
    return NULL;
}

/* Whether two links to one subsystem ask the same of their clients: then its sidecar needs no name
 * to begin the handshake. `a` and `b` are their server profiles. */
static bool mesh_serves_alike(const struct mesh_checker *checker, const Mortise__V1__Link *link,
                              const struct tls_profile *a, const Mortise__V1__Link *other,
                              const struct tls_profile *b)
{
    const Mortise__V1__MeshTruststore *trusts[2] = {
        mesh_truststore(checker->mesh, mesh_profile(checker->mesh, mesh_server_profile(link))),
        mesh_truststore(checker->mesh, mesh_profile(checker->mesh, mesh_server_profile(other))),
    };

    for (size_t i = 0; i < ARRAY_LEN(trusts); i++) {
        if (!mesh_trusts_others(trusts[i]))
            trusts[i] = NULL; /* the mesh's own CAs, by whatever name */
    }
    return tls_profile_equal(a, b) && trusts[0] == trusts[1] &&
           link->allow_anonymous == other->allow_anonymous;
}

/* What a link's server profile may negotiate; NULL: it could not be compiled, which is told. */
static const struct tls_profile *mesh_serves(const struct mesh_checker *checker,
                                             const Mortise__V1__Link *link)
{
    return mesh_compiled(checker, mesh_server_profile(link));
}

static char *mesh_pair_key(const Mortise__V1__Link *link)
{
    return mem_printf("%s>%s", link->client, link->server);
}

/* Fills `servers` and `pairs`, once: each link is looked at as often as there are links otherwise.
 * Alike is an equivalence: one link that is not like the first is enough to know. */
static void mesh_gather_servers(struct mesh_checker *checker)
{
    const Mortise__V1__Mesh *mesh = checker->mesh;

    if (checker->siblings != NULL)
        return;
    checker->siblings = mem_array(2 * mesh->n_links, sizeof(*checker->siblings));
    for (size_t i = 0; i < mesh->n_links; i++) {
        const Mortise__V1__Link *link = mesh->links[i];
        const struct tls_profile *own = mesh_serves(checker, link);
        CLEANUP(mem_freep) char *key = mesh_pair_key(link);
        struct mesh_siblings *pair = map_get(&checker->pairs, key);
        struct mesh_siblings *server = map_get(&checker->servers, link->server);

        if (pair == NULL) {
            pair = &checker->siblings[2 * i];
            pair->first = link;
            map_put(&checker->pairs, key, pair);
        } else if (pair->other == NULL) {
            pair->other = link;
        }
        if (own == NULL)
            continue;
        if (server == NULL) {
            server = &checker->siblings[2 * i + 1];
            server->first = link;
            map_put(&checker->servers, link->server, server);
        } else if (server->other == NULL &&
                   !mesh_serves_alike(checker, server->first, mesh_serves(checker, server->first),
                                      link, own)) {
            server->other = link;
        }
    }
}

/* The first link that joins the same two; NULL: there is none. */
static const Mortise__V1__Link *mesh_same_two(const struct mesh_checker *checker,
                                              const Mortise__V1__Link *link)
{
    CLEANUP(mem_freep) char *key = mesh_pair_key(link);
    const struct mesh_siblings *pair = map_get(&checker->pairs, key);

    return pair->first != link ? pair->first : pair->other;
}

/* The first link to the same server that asks something else of its clients; NULL: none does. */
static const Mortise__V1__Link *mesh_served_otherwise(const struct mesh_checker *checker,
                                                      const Mortise__V1__Link *link)
{
    const struct mesh_siblings *server = map_get(&checker->servers, link->server);
    const struct tls_profile *own = mesh_serves(checker, link);

    if (own == NULL || server == NULL)
        return NULL;
    return mesh_serves_alike(checker, server->first, mesh_serves(checker, server->first), link, own)
               ? server->other
               : server->first;
}

/* The server's sidecar chooses without a name only where it makes no difference which link it is,
 * and by who the client is. */
static void mesh_check_no_server_name(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    const Mortise__V1__Link *other;

    mesh_gather_servers(checker);
    other = mesh_same_two(checker, link);
    if (other != NULL) {
        MESH_SNI_FAULT(checker,
                       "\"%s\" sends no server name (send_sni: OMIT), and link \"%s\" joins "
                       "the same two: \"%s\" could not tell which is meant",
                       mesh_client_profile(link), other->name, link->server);
        return;
    }
    other = mesh_served_otherwise(checker, link);
    if (other != NULL)
        MESH_SNI_FAULT(checker,
                       "\"%s\" sends no server name (send_sni: OMIT): then every link to "
                       "\"%s\" needs a server profile like \"%s\"%s, and link \"%s\" has "
                       "\"%s\"%s",
                       mesh_client_profile(link), link->server, mesh_server_profile(link),
                       link->allow_anonymous ? " and allow_anonymous" : "", other->name,
                       mesh_server_profile(other),
                       other->allow_anonymous ? " and allow_anonymous" : "");
}

/* A server's sidecar tells its links apart by what they are asked for. */
static void mesh_check_server_name(struct mesh_checker *checker, const Mortise__V1__Link *link)
{
    CLEANUP(mem_freep) char *name = mesh_server_name(checker->mesh, link);
    CLEANUP(mem_freep) char *key = NULL;
    const Mortise__V1__Link *other;

    if (name == NULL) {
        mesh_check_no_server_name(checker, link);
        return;
    }
    key = mem_printf("%s:%s", link->server, name);
    other = map_get(&checker->server_names, key);
    if (other != NULL)
        MESH_SNI_FAULT(checker,
                       "asks \"%s\" for \"%s\", as link \"%s\" does, and could not be told from "
                       "it: a profile with server_name is for one link to each subsystem",
                       link->server, name, other->name);
    else
        map_put(&checker->server_names, key, (void *)(uintptr_t)link);
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

static void mesh_check_seconds(struct mesh_checker *checker, const char *path, uint32_t value,
                               uint32_t min, uint32_t max)
{
    if (value != 0 && (value < min || value > max))
        faults_add(checker->faults, path, "%u is not between %u and %u seconds", value, min, max);
}

static void mesh_check_settings(struct mesh_checker *checker)
{
    const Mortise__V1__MeshSettings *settings = checker->mesh->settings;

    if (settings == NULL)
        return;
    mesh_check_seconds(checker, "settings.leaf_ttl_s", settings->leaf_ttl_s, MESH_LEAF_TTL_MIN_S,
                       MESH_LEAF_TTL_MAX_S);
    if (settings->rejoin_s != MESH_REJOIN_NEVER)
        mesh_check_seconds(checker, "settings.rejoin_s", settings->rejoin_s, MESH_REJOIN_MIN_S,
                           MESH_REJOIN_MAX_S);
    mesh_check_seconds(checker, "settings.plaintext_quiet_s", settings->plaintext_quiet_s,
                       MESH_PLAINTEXT_QUIET_MIN_S, MESH_PLAINTEXT_QUIET_MAX_S);
    if (settings->access_log != NULL && settings->access_log->permille > MESH_LOG_ALL)
        faults_add(checker->faults, "settings.access_log.permille",
                   "%u is more than 1000 of a thousand", settings->access_log->permille);
}

static void mesh_check_all(struct mesh_checker *checker)
{
    const Mortise__V1__Mesh *mesh = checker->mesh;

    mesh_check_settings(checker);
    mesh_check_names(checker, MESH_SUBSYSTEMS, MESH_SUBSYSTEMS_MAX);
    mesh_check_names(checker, MESH_PROFILES, MESH_PROFILES_MAX);
    mesh_check_names(checker, MESH_LINKS, MESH_LINKS_MAX);
    mesh_check_names(checker, MESH_CRLS, MESH_CRLS_MAX);
    mesh_check_names(checker, MESH_TRUSTSTORES, MESH_TRUSTSTORES_MAX);
    for (size_t i = 0; i < mesh->n_truststores; i++) {
        mesh_at(checker, MESH_TRUSTSTORES, i);
        mesh_check_truststore(checker, mesh->truststores[i]);
    }
    mesh_check_names(checker, MESH_KEYSTORES, MESH_KEYSTORES_MAX);
    for (size_t i = 0; i < mesh->n_keystores; i++) {
        mesh_at(checker, MESH_KEYSTORES, i);
        mesh_check_keystore(checker, mesh->keystores[i]);
    }
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
        mesh_check_server_name(checker, mesh->links[i]);
    }
    mesh_check_names(checker, MESH_POLICIES, MESH_POLICIES_MAX);
    for (size_t i = 0; i < mesh->n_policies; i++) {
        mesh_at(checker, MESH_POLICIES, i);
        mesh_check_policy(checker, mesh->policies[i]);
    }
    for (size_t i = 0; i < mesh->n_crls; i++) {
        mesh_at(checker, MESH_CRLS, i);
        mesh_check_description(checker, mesh->crls[i]->description);
    }
}

static err_t mesh_check_with(const Mortise__V1__Mesh *mesh, const struct mesh_origin *origin,
                             struct faults *faults, struct faults *apart)
{
    size_t before = faults->total;
    struct mesh_checker checker = {
        .mesh = mesh,
        .origin = origin,
        .faults = faults,
        .apart = apart,
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
    map_fini(&checker.destinations);
    map_fini(&checker.num_destinations);
    map_fini(&checker.server_names);
    map_fini(&checker.pairs);
    map_fini(&checker.servers);
    mem_free(checker.siblings);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

err_t mesh_check(const Mortise__V1__Mesh *mesh, const struct mesh_origin *origin,
                 struct faults *faults)
{
    return mesh_check_with(mesh, origin, faults, faults);
}

err_t mesh_check_stored(const Mortise__V1__Mesh *mesh, struct faults *faults,
                        struct faults *warnings)
{
    return mesh_check_with(mesh, NULL, faults, warnings);
}

/* Why somebody at an end of the link may be there without a name that a policy knows; NULL: nobody
 * may. */
static const char *mesh_nameless(const Mortise__V1__Mesh *mesh, const Mortise__V1__Link *link)
{
    const Mortise__V1__TlsProfile *client = mesh_profile(mesh, mesh_client_profile(link));
    const Mortise__V1__TlsProfile *server = mesh_profile(mesh, mesh_server_profile(link));

    if (link->allow_anonymous)
        return "lets in clients without a certificate";
    if (link->permissive != NULL)
        return "lets in clients without TLS";
    if (server != NULL && mesh_trusts_others(mesh_truststore(mesh, server)))
        return "lets in clients of other CAs, who have no SPIFFE ID";
    if (client != NULL && client->insecure_skip_verify)
        return "takes whoever answers for the server";
    if (client != NULL && mesh_trusts_others(mesh_truststore(mesh, client)))
        return "takes servers of other CAs, who have no SPIFFE ID";
    return NULL;
}

struct mesh_open {
    const char *link;
    const char *why;
    bool changed; /* by the document */
};

/* The first open link that a policy is for; of a policy that was there, that was changed. */
static const struct mesh_open *mesh_open_of(const Mortise__V1__Policy *policy, bool kept,
                                            const struct mesh_open *open, size_t num,
                                            const struct map *by_name)
{
    for (size_t i = 0; i < policy->n_links; i++) {
        const struct mesh_open *one = map_get(by_name, policy->links[i]);

        if (one != NULL && (!kept || one->changed))
            return one;
    }
    for (size_t i = 0; i < num && policy->n_links == 0; i++) {
        if (!kept || open[i].changed)
            return &open[i];
    }
    return NULL;
}

/* Whom a DENY names can come, or be there, without a name. */
static void mesh_warn_policies(struct mesh_checker *checker)
{
    const Mortise__V1__Mesh *mesh = checker->mesh;
    struct mesh_open *open;
    struct map by_name = {.num = 0};
    size_t num = 0;

    if (mesh->n_policies == 0)
        return;
    open = mem_array(mesh->n_links, sizeof(*open));
    for (size_t i = 0; i < mesh->n_links; i++) {
        const char *why = mesh_nameless(mesh, mesh->links[i]);

        if (why == NULL)
            continue;
        open[num] = (struct mesh_open){
            .link = mesh->links[i]->name,
            .why = why,
            .changed = checker->origin->index[MESH_LINKS][i] != MESH_KEPT,
        };
        (void)map_put(&by_name, open[num].link, &open[num]);
        num++;
    }
    for (size_t i = 0; i < mesh->n_policies && num > 0; i++) {
        const Mortise__V1__Policy *policy = mesh->policies[i];
        bool kept = checker->origin->index[MESH_POLICIES][i] == MESH_KEPT;
        const struct mesh_open *found = mesh_open_of(policy, kept, open, num, &by_name);

        if (policy->action != MORTISE__V1__POLICY__ACTION__DENY || found == NULL)
            continue;
        mesh_at(checker, MESH_POLICIES, i);
        mesh_fault(checker, "action",
                   "link \"%s\" %s, whom no DENY meets: whom it names can be there as such; of "
                   "clients, an ALLOW keeps them out",
                   found->link, found->why);
    }
    map_fini(&by_name);
    mem_free(open);
}

void mesh_warn(const Mortise__V1__Mesh *mesh, const struct mesh_origin *origin,
               struct faults *warnings)
{
    struct mesh_checker checker = {.mesh = mesh, .origin = origin, .faults = warnings};

    for (size_t i = 0; i < mesh->n_profiles; i++) {
        if (origin->index[MESH_PROFILES][i] == MESH_KEPT)
            continue;
        mesh_at(&checker, MESH_PROFILES, i);
        tls_profile_left_out(mesh->profiles[i], &checker.path, warnings);
    }
    mesh_warn_policies(&checker);
}
