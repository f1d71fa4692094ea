#include "proxy/snapshot.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "certs/spiffe_id.h"
#include "certs/tls_profile.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"

#define SNAPSHOT_NAMES_SHOWN 8 /* "there are: a, b, …" */

typedef Mortise__V1__SidecarConfig config_msg;

/* What is known while a configuration is looked at. */
struct snapshot_store {
    const char *name;
    const char *trust_domain; /* "" : any */
    struct bundle *bundle;    /* NULL: faulty, told */
    bool own;                 /* see snapshot.h */
};

struct snapshot_profile {
    const char *name;
    struct age_rule age;
    bool server;
    struct tls_profile *profile; /* NULL: faulty, told */
};

struct snapshot_client {
    const struct snapshot_store *store;
    const struct snapshot_profile *profile;
    struct tls_ctx *tls;
};

struct snapshot_builder {
    const struct snapshot_input *in;
    struct faults *faults;
    struct fault_path path;
    struct snapshot_store *stores;
    size_t num_stores;
    struct snapshot_profile *profiles;
    size_t num_profiles;
    Mortise__V1__TlsProfile *builtin[TLS_PROFILE_DEFAULTS];
    size_t num_builtin;
    struct snapshot_client
        *clients; /* contexts made so far: links with one profile and store share */
    size_t num_clients;
    struct snapshot *snapshot;
};

static void snapshot_fault(struct snapshot_builder *b, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void snapshot_fault(struct snapshot_builder *b, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    faults_add(b->faults, b->path.text, "%s", text);
}

/* A fault of one field below the current path. */
#define FIELD_FAULT(b, field, ...)                                  \
    do {                                                            \
        size_t field_mark_ = fault_path_field(&(b)->path, (field)); \
        snapshot_fault((b), __VA_ARGS__);                           \
        fault_path_pop(&(b)->path, field_mark_);                    \
    } while (0)

static bool snapshot_is_empty(const char *str)
{
    return str == NULL || str[0] == '\0';
}

/* ---- names and words ---- */

/* [a-z0-9]([-a-z0-9]{0,61}[a-z0-9])? */
static bool snapshot_is_label(const char *text)
{
    size_t len = strlen(text);

    if (len == 0 || len > 63 || text[0] == '-' || text[len - 1] == '-')
        return false;
    return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

static bool snapshot_is_dns_name(const char *text)
{
    size_t len = strlen(text), label = 0;

    if (len == 0 || len > 253)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (c == '.') {
            if (label == 0 || text[i - 1] == '-')
                return false;
            label = 0;
            continue;
        }
        if (!(isalnum((unsigned char)c) || c == '_' || (c == '-' && label > 0)) || ++label > 63)
            return false;
    }
    return label > 0 && text[len - 1] != '-';
}

/* The name of a member of a list; `name_of(i)` gives those before it. */
static void snapshot_check_name(struct snapshot_builder *b, const char *what, const char *name,
                                const char *(*name_of)(const config_msg *config, size_t i),
                                size_t index)
{
    if (snapshot_is_empty(name)) {
        FIELD_FAULT(b, "name", "is missing: each %s has one", what);
        return;
    }
    if (!snapshot_is_label(name)) {
        FIELD_FAULT(
            b, "name",
            "\"%s\" is not a name: wanted are at most 63 of a-z, 0-9 and '-', which neither "
            "begins nor ends it",
            name);
        return;
    }
    for (size_t i = 0; i < index; i++) {
        const char *other = name_of(b->in->config, i);

        if (other != NULL && strcmp(other, name) == 0) {
            FIELD_FAULT(b, "name", "\"%s\" is the name of another %s already", name, what);
            return;
        }
    }
}

static const char *snapshot_store_name(const config_msg *config, size_t i)
{
    return config->truststores[i]->name;
}

static const char *snapshot_profile_name(const config_msg *config, size_t i)
{
    return config->profiles[i]->name;
}

static const char *snapshot_outbound_name(const config_msg *config, size_t i)
{
    return config->outbound[i]->name;
}

static const char *snapshot_inbound_name(const config_msg *config, size_t i)
{
    return config->inbound->links[i]->name;
}

/* "there are: a, b" of what a reference may name. */
static void snapshot_known(const char *const *names, size_t num, char *out, size_t size)
{
    size_t len = 0, shown = 0;

    out[0] = '\0';
    if (num == 0) {
        (void)snprintf(out, size, "there are none");
        return;
    }
    for (size_t i = 0; i < num && len < size; i++) {
        const char *name = names[i];
        int more;

        if (shown == SNAPSHOT_NAMES_SHOWN)
            name = "…";
        more = snprintf(out + len, size - len, "%s%s", shown == 0 ? "there are: " : ", ", name);
        if (more < 0)
            return;
        len += (size_t)more;
        if (shown++ == SNAPSHOT_NAMES_SHOWN)
            return;
    }
}

/* ---- truststores ---- */

static void snapshot_build_bundle(struct snapshot_builder *b, const Mortise__V1__Truststore *msg,
                                  struct bytes file, const char *trust_domain,
                                  struct snapshot_store *store)
{
    const char *field = "pem";
    struct bytes pem = bytes_of_str(msg->pem);
    err_t err;

    /* A control plane changes roots by rotating them; distrust of one it says by revoking its key.
     */
    store->own = b->in->ca_files != NULL;
    if (b->in->ca_files != NULL && !snapshot_is_empty(msg->ca_file)) {
        if (file.ptr == NULL)
            return; /* told by who read it */
        field = "ca_file";
        pem = file;
    } else if (b->in->ca_files == NULL && snapshot_is_empty(msg->pem)) {
        if (b->in->roots != NULL)
            store->bundle = bundle_ref(b->in->roots);
        else
            FIELD_FAULT(b, field, "is missing, and the control plane sent no roots");
        return;
    }
    err = bundle_of_pem(pem, trust_domain[0] != '\0' ? trust_domain : NULL, &store->bundle);
    if (!err_is_ok(err))
        FIELD_FAULT(b, field, "%s (%s%s)", err_text(err.code), err_name(err.code),
                    field[0] == 'c' ? ", in the file" : "");
}

static void snapshot_build_store(struct snapshot_builder *b, size_t index)
{
    const Mortise__V1__Truststore *msg = b->in->config->truststores[index];
    struct snapshot_store *store = &b->stores[index];
    bool has_file = !snapshot_is_empty(msg->ca_file), has_pem = !snapshot_is_empty(msg->pem);

    store->name = msg->name;
    store->trust_domain = msg->trust_domain;
    snapshot_check_name(b, "truststore", msg->name, snapshot_store_name, index);
    if (!snapshot_is_empty(msg->trust_domain) &&
        !spiffe_trust_domain_valid(bytes_of_str(msg->trust_domain))) {
        FIELD_FAULT(b, "trust_domain",
                    "\"%s\" is not a trust domain: wanted are a-z, 0-9, '.', '-' and '_'",
                    msg->trust_domain);
        return;
    }
    if (has_file && has_pem) {
        FIELD_FAULT(b, "pem", "and ca_file are both given: one of the two");
        return;
    }
    if (has_file && b->in->ca_files == NULL) {
        FIELD_FAULT(b, "ca_file", "is for static mode only; here the certificates are in pem");
        return;
    }
    if (!has_file && !has_pem && b->in->ca_files != NULL) {
        FIELD_FAULT(b, "ca_file", "is missing: the file with the CA certificates (or pem)");
        return;
    }
    snapshot_build_bundle(b, msg,
                          b->in->ca_files != NULL ? b->in->ca_files[index] : bytes_of(NULL, 0),
                          msg->trust_domain, store);
}

static void snapshot_build_stores(struct snapshot_builder *b)
{
    size_t top = fault_path_field(&b->path, "truststores");

    b->num_stores = b->in->config->n_truststores;
    b->stores = mem_array(b->num_stores, sizeof(*b->stores));
    for (size_t i = 0; i < b->num_stores; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_build_store(b, i);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
}

static void snapshot_keep_trust(struct snapshot_builder *b)
{
    struct snapshot *snapshot = b->snapshot;

    snapshot->num_trust = b->num_stores;
    snapshot->trust = mem_array(b->num_stores, sizeof(*snapshot->trust));
    for (size_t i = 0; i < b->num_stores; i++)
        snapshot->trust[i] = (struct trust){.name = snapshot->config->truststores[i]->name,
                                            .bundle = bundle_ref(b->stores[i].bundle)};
}

/* The truststore that a link names, which is noted with it. */
static const struct snapshot_store *snapshot_find_store(struct snapshot_builder *b,
                                                        const char *name, struct link *link)
{
    char known[256];
    const char **names;

    for (size_t i = 0; i < b->num_stores; i++) {
        if (snapshot_is_empty(name) || strcmp(b->stores[i].name, name) != 0)
            continue;
        link->bundle = b->stores[i].bundle;
        link->own_trust = b->stores[i].own;
        return &b->stores[i];
    }
    names = mem_array(b->num_stores, sizeof(*names));
    for (size_t i = 0; i < b->num_stores; i++)
        names[i] = b->stores[i].name;
    snapshot_known(names, b->num_stores, known, sizeof(known));
    mem_free(names);
    if (snapshot_is_empty(name))
        FIELD_FAULT(b, "truststore", "is missing; %s", known);
    else
        FIELD_FAULT(b, "truststore", "no truststore \"%s\"; %s", name, known);
    return NULL;
}

/* ---- profiles ---- */

static void snapshot_add_profile(struct snapshot_builder *b, const Mortise__V1__TlsProfile *msg)
{
    struct snapshot_profile *entry = &b->profiles[b->num_profiles++];

    entry->name = msg->name;
    entry->age = age_rule(msg);
    entry->server = msg->role == MORTISE__V1__TLS_PROFILE__ROLE__SERVER;
    if (!err_is_ok(tls_profile_compile(msg, &b->path, b->faults, &entry->profile)))
        entry->profile = NULL;
}

/* Built-in profiles can be named as well, unless the configuration has one of that name. */
static void snapshot_build_profiles(struct snapshot_builder *b)
{
    const config_msg *config = b->in->config;
    size_t top = fault_path_field(&b->path, "profiles");

    tls_profile_defaults(b->builtin, &b->num_builtin);
    b->profiles = mem_array(config->n_profiles + b->num_builtin, sizeof(*b->profiles));
    for (size_t i = 0; i < config->n_profiles; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_check_name(b, "profile", config->profiles[i]->name, snapshot_profile_name, i);
        snapshot_add_profile(b, config->profiles[i]);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);

    for (size_t i = 0; i < b->num_builtin; i++) {
        bool taken = false;

        for (size_t j = 0; j < config->n_profiles; j++)
            taken = taken || strcmp(config->profiles[j]->name, b->builtin[i]->name) == 0;
        if (!taken)
            snapshot_add_profile(b, b->builtin[i]);
    }
}

static const struct snapshot_profile *snapshot_find_profile(struct snapshot_builder *b,
                                                            const char *name, bool server)
{
    char known[256];
    const char **names;

    if (snapshot_is_empty(name))
        name = server ? "default-tls-server" : "default-tls-client";
    for (size_t i = 0; i < b->num_profiles; i++) {
        if (b->profiles[i].name == NULL || strcmp(b->profiles[i].name, name) != 0)
            continue;
        if (b->profiles[i].profile != NULL && b->profiles[i].server != server) {
            FIELD_FAULT(b, "profile", "\"%s\" is of role %s; wanted is one of role %s", name,
                        server ? "CLIENT" : "SERVER", server ? "SERVER" : "CLIENT");
            return NULL;
        }
        if (b->profiles[i].profile != NULL && b->in->svid != NULL &&
            !tls_profile_serves(b->profiles[i].profile, b->in->svid->key)) {
            FIELD_FAULT(b, "profile",
                        "\"%s\" has no cipher suite or no signature algorithm for the kind of key "
                        "that this sidecar's certificate has",
                        name);
            return NULL;
        }
        return &b->profiles[i];
    }
    names = mem_array(b->num_profiles, sizeof(*names));
    for (size_t i = 0; i < b->num_profiles; i++)
        names[i] = b->profiles[i].name;
    snapshot_known(names, b->num_profiles, known, sizeof(known));
    mem_free(names);
    FIELD_FAULT(b, "profile", "no profile \"%s\"; %s", name, known);
    return NULL;
}

/* ------------------------------------------------------------------------- what links have in
 * common */

static void snapshot_take_profile(const struct snapshot_profile *profile, struct link *link)
{
    if (profile == NULL)
        return;
    link->profile = mem_strdup(profile->name);
    link->age = profile->age;
}

static void snapshot_check_spiffe_ids(struct snapshot_builder *b, const Mortise__V1__PeerMatch *msg,
                                      const struct snapshot_store *store)
{
    size_t top = fault_path_field(&b->path, "spiffe_ids");

    for (size_t i = 0; i < msg->n_spiffe_ids; i++) {
        size_t mark = fault_path_index(&b->path, i);
        struct spiffe_id id;
        err_t err = spiffe_id_parse(bytes_of_str(msg->spiffe_ids[i]), &id);

        if (!err_is_ok(err))
            snapshot_fault(b,
                           "\"%s\" is not a SPIFFE ID (byte %d): wanted is "
                           "spiffe://TRUST-DOMAIN/PATH",
                           msg->spiffe_ids[i], (int)err.sub + 1);
        else if (id.path.len == 0)
            snapshot_fault(b, "\"%s\" is a trust domain's own ID, which no peer has",
                           msg->spiffe_ids[i]);
        else if (store != NULL && !snapshot_is_empty(store->trust_domain) &&
                 !bytes_equal_str(id.trust_domain, store->trust_domain))
            snapshot_fault(b, "\"%s\" is of another trust domain than truststore \"%s\" (%s)",
                           msg->spiffe_ids[i], store->name, store->trust_domain);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
}

static void snapshot_check_peers(struct snapshot_builder *b, const Mortise__V1__PeerMatch *msg,
                                 const struct snapshot_store *store, struct link *link)
{
    size_t top = fault_path_field(&b->path, "peers");

    if (msg == NULL || msg->n_spiffe_ids + msg->n_dns_names == 0) {
        snapshot_fault(b,
                       "is missing: name who may be at the other end, in spiffe_ids or dns_names");
        fault_path_pop(&b->path, top);
        return;
    }
    snapshot_check_spiffe_ids(b, msg, store);
    for (size_t i = 0; i < msg->n_dns_names; i++) {
        size_t field = fault_path_field(&b->path, "dns_names");

        (void)fault_path_index(&b->path, i);
        if (!snapshot_is_dns_name(msg->dns_names[i]))
            snapshot_fault(b, "\"%s\" is not a DNS name (exact names only)", msg->dns_names[i]);
        fault_path_pop(&b->path, field);
    }
    fault_path_pop(&b->path, top);
    link->peers = (struct peer_match){
        .spiffe_ids = (const char *const *)msg->spiffe_ids,
        .num_spiffe_ids = msg->n_spiffe_ids,
        .dns_names = (const char *const *)msg->dns_names,
        .num_dns_names = msg->n_dns_names,
    };
}

static void snapshot_set_server_name(struct snapshot_builder *b, const char *server_name,
                                     struct link *link)
{
    if (snapshot_is_empty(server_name)) {
        link->server_name = mem_printf("%s.mortise.internal", link->name);
        return;
    }
    if (!snapshot_is_dns_name(server_name))
        FIELD_FAULT(b, "server_name", "\"%s\" is not a DNS name", server_name);
    link->server_name = mem_strdup(server_name);
}

/* An address with a port, told as a fault of `field` when it is none. */
static bool snapshot_addr(struct snapshot_builder *b, const char *field, const char *text,
                          bool loopback, struct addr *out)
{
    struct addr addr;

    if (snapshot_is_empty(text)) {
        FIELD_FAULT(b, field, "is missing: IPv4:PORT or [IPv6]:PORT");
        return false;
    }
    if (!err_is_ok(addr_parse(text, &addr)) || addr.sa.any.sa_family == AF_UNIX ||
        addr_port(&addr) == 0) {
        FIELD_FAULT(b, field, "\"%s\" is not an address: wanted is IPv4:PORT or [IPv6]:PORT", text);
        return false;
    }
    if (loopback && !addr_is_loopback(&addr)) {
        FIELD_FAULT(b, field, "\"%s\" is not a loopback address; plaintext stays on loopback",
                    text);
        return false;
    }
    *out = addr;
    return true;
}

static bool snapshot_is_any(const struct addr *addr)
{
    if (addr->sa.any.sa_family == AF_INET)
        return addr->sa.in4.sin_addr.s_addr == htonl(INADDR_ANY);
    return addr->sa.any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&addr->sa.in6.sin6_addr);
}

/* ::ffff:a.b.c.d is a.b.c.d: the same socket answers to both. */
static struct addr snapshot_unmapped(const struct addr *addr)
{
    struct addr v4 = {.len = sizeof(v4.sa.in4)};

    if (addr->sa.any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&addr->sa.in6.sin6_addr))
        return *addr;
    v4.sa.in4.sin_family = AF_INET;
    v4.sa.in4.sin_port = addr->sa.in6.sin6_port;
    memcpy(&v4.sa.in4.sin_addr, addr->sa.in6.sin6_addr.s6_addr + 12, 4);
    return v4;
}

/* The loopback address that a connection to a wildcard goes to. */
static struct addr snapshot_destination(const struct addr *to)
{
    struct addr addr = snapshot_unmapped(to);

    if (snapshot_is_any(&addr) && addr.sa.any.sa_family == AF_INET)
        addr.sa.in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else if (snapshot_is_any(&addr))
        addr.sa.in6.sin6_addr = in6addr_loopback;
    return addr;
}

/* Whether a connection to `to` would arrive at a listener on `listen`. */
static bool snapshot_arrives(const struct addr *listen, const struct addr *to)
{
    struct addr at, going;

    if (listen->len == 0 || addr_port(listen) != addr_port(to))
        return false;
    at = snapshot_unmapped(listen);
    going = snapshot_destination(to);
    return addr_equal(&at, &going) || (snapshot_is_any(&at) && addr_is_loopback(&going));
}

const struct link *snapshot_link(const struct snapshot *snapshot, enum direction direction,
                                 const char *name)
{
    bool out = direction == DIRECTION_OUTBOUND;
    const struct link *links = out ? snapshot->outbound : snapshot->inbound;
    size_t num = out ? snapshot->num_outbound : snapshot->num_inbound;

    for (size_t i = 0; i < num; i++) {
        if (strcmp(links[i].name, name) == 0)
            return &links[i];
    }
    return NULL;
}

const char *snapshot_own_listener(const struct snapshot *snapshot, const struct addr *to)
{
    if (snapshot_arrives(&snapshot->inbound_listen, to))
        return "inbound";
    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        if (snapshot_arrives(&snapshot->outbound[i].listen, to))
            return snapshot->outbound[i].name;
    }
    return NULL;
}

/* ---- outbound ---- */

static void snapshot_build_endpoints(struct snapshot_builder *b, const Mortise__V1__Outbound *msg,
                                     struct link *link)
{
    size_t top = fault_path_field(&b->path, "endpoints");

    /* A control plane may not know an endpoint yet: the link is there, its peer not. */
    if (msg->n_endpoints == 0 && b->in->ca_files != NULL)
        snapshot_fault(b, "is empty: where the peers' sidecars are, as address:port or name:port");
    if (msg->n_endpoints > SNAPSHOT_ENDPOINTS_MAX) {
        snapshot_fault(b, "has %zu members; at most %d", msg->n_endpoints, SNAPSHOT_ENDPOINTS_MAX);
        fault_path_pop(&b->path, top);
        return;
    }
    link->endpoints = mem_array(msg->n_endpoints, sizeof(*link->endpoints));
    link->num_endpoints = msg->n_endpoints;
    for (size_t i = 0; i < msg->n_endpoints; i++) {
        size_t mark = fault_path_index(&b->path, i);
        struct endpoint *endpoint = &link->endpoints[i];
        char host[256];
        uint16_t port = 0;

        endpoint->text = msg->endpoints[i];
        if (!err_is_ok(addr_split_host(endpoint->text, host, &port)) || port == 0 ||
            strncmp(endpoint->text, "unix:", 5) == 0)
            snapshot_fault(b, "\"%s\" is not address:port or name:port", endpoint->text);
        else if (!err_is_ok(addr_parse(endpoint->text, &endpoint->addr)))
            endpoint->addr.len = 0; /* a name */
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
}

static struct tls_ctx *snapshot_client_ctx(struct snapshot_builder *b,
                                           const struct snapshot_store *store,
                                           const struct snapshot_profile *profile)
{
    struct tls_ctx *tls;
    err_t err;

    for (size_t i = 0; i < b->num_clients; i++) {
        if (b->clients[i].store == store && b->clients[i].profile == profile)
            return tls_ctx_ref(b->clients[i].tls);
    }
    err = tls_ctx_client(b->in->svid, store->bundle, profile->profile, &tls);
    if (!err_is_ok(err)) {
        FIELD_FAULT(b, "profile", "no TLS client can be made of \"%s\": %s", profile->name,
                    err_text(err.code));
        return NULL;
    }
    b->clients[b->num_clients++] =
        (struct snapshot_client){.store = store, .profile = profile, .tls = tls};
    return tls_ctx_ref(tls);
}

static void snapshot_build_outbound(struct snapshot_builder *b, size_t index)
{
    const Mortise__V1__Outbound *msg = b->snapshot->config->outbound[index];
    struct link *link = &b->snapshot->outbound[index];
    const struct snapshot_store *store;
    const struct snapshot_profile *profile;

    link->direction = DIRECTION_OUTBOUND;
    link->index = index;
    link->name = msg->name;
    snapshot_check_name(b, "outbound link", msg->name, snapshot_outbound_name, index);
    if (snapshot_addr(b, "listen", msg->listen, true, &link->listen)) {
        for (size_t i = 0; i < index; i++) {
            if (addr_equal(&b->snapshot->outbound[i].listen, &link->listen))
                FIELD_FAULT(b, "listen", "%s is where outbound[%zu] (%s) listens already",
                            msg->listen, i, b->snapshot->outbound[i].name);
        }
    }
    snapshot_build_endpoints(b, msg, link);
    snapshot_set_server_name(b, msg->server_name, link);
    store = snapshot_find_store(b, msg->truststore, link);
    snapshot_check_peers(b, msg->peers, store, link);
    profile = snapshot_find_profile(b, msg->profile, false);
    snapshot_take_profile(profile, link);
    if (b->in->svid != NULL && store != NULL && store->bundle != NULL && profile != NULL &&
        profile->profile != NULL)
        link->tls = snapshot_client_ctx(b, store, profile);
}

static void snapshot_build_outbounds(struct snapshot_builder *b)
{
    struct snapshot *snapshot = b->snapshot;
    size_t top = fault_path_field(&b->path, "outbound");
    size_t num = snapshot->config->n_outbound;

    if (num > SNAPSHOT_LINKS_MAX) {
        snapshot_fault(b, "has %zu links; at most %d", num, SNAPSHOT_LINKS_MAX);
        num = 0;
    }
    snapshot->num_outbound = num;
    snapshot->outbound = mem_array(num, sizeof(*snapshot->outbound));
    b->clients = mem_array(num, sizeof(*b->clients));
    for (size_t i = 0; i < num; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_build_outbound(b, i);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);
}

/* ---- inbound ---- */

/* With a control plane the sidecar's own setting says where it listens, whatever the message has.
 */
static void snapshot_take_inbound_listen(struct snapshot_builder *b, Mortise__V1__Inbound *msg)
{
    char text[ADDR_TEXT_MAX];

    b->snapshot->inbound_listen = *b->in->inbound_listen;
    addr_format(b->in->inbound_listen, text);
    if (!snapshot_is_empty(msg->listen))
        mem_free(msg->listen);
    msg->listen = mem_strdup(text);
}

static void snapshot_build_inbound_listen(struct snapshot_builder *b, Mortise__V1__Inbound *msg)
{
    struct addr *listen = &b->snapshot->inbound_listen;

    if (b->in->inbound_listen != NULL) {
        if (msg->n_links > 0)
            snapshot_take_inbound_listen(b, msg);
        return;
    }
    if (!snapshot_addr(b, "listen", msg->listen, false, listen))
        return;
    for (size_t i = 0; i < b->snapshot->num_outbound; i++) {
        const struct link *other = &b->snapshot->outbound[i];

        if (other->listen.len != 0 &&
            (addr_equal(listen, &other->listen) ||
             (snapshot_is_any(listen) && addr_port(listen) == addr_port(&other->listen))))
            FIELD_FAULT(b, "listen", "%s is where outbound[%zu] (%s) listens already", msg->listen,
                        i, other->name);
    }
}

static void snapshot_build_inbound(struct snapshot_builder *b, size_t index,
                                   struct tls_ctx_entry *entry)
{
    const Mortise__V1__InboundLink *msg = b->snapshot->config->inbound->links[index];
    struct link *link = &b->snapshot->inbound[index];
    const struct snapshot_store *store;
    const struct snapshot_profile *profile;
    const char *loop;

    link->direction = DIRECTION_INBOUND;
    link->index = index;
    link->name = msg->name;
    snapshot_check_name(b, "inbound link", msg->name, snapshot_inbound_name, index);
    if (snapshot_addr(b, "target", msg->target, true, &link->target)) {
        loop = snapshot_own_listener(b->snapshot, &link->target);
        if (loop != NULL)
            FIELD_FAULT(b, "target", "%s is this sidecar itself (%s): that would be a loop",
                        msg->target, loop);
    }
    snapshot_set_server_name(b, msg->server_name, link);
    for (size_t i = 0; i < index; i++) {
        if (strcasecmp(b->snapshot->inbound[i].server_name, link->server_name) == 0)
            FIELD_FAULT(b, "server_name", "%s is that of inbound.links[%zu] (%s) already",
                        link->server_name, i, b->snapshot->inbound[i].name);
    }
    store = snapshot_find_store(b, msg->truststore, link);
    snapshot_check_peers(b, msg->peers, store, link);
    profile = snapshot_find_profile(b, msg->profile, true);
    snapshot_take_profile(profile, link);
    *entry = (struct tls_ctx_entry){
        .server_name = link->server_name,
        .profile = profile != NULL ? profile->profile : NULL,
        .bundle = store != NULL ? store->bundle : NULL,
    };
}

static void snapshot_build_inbounds(struct snapshot_builder *b)
{
    struct snapshot *snapshot = b->snapshot;
    Mortise__V1__Inbound *msg = snapshot->config->inbound; /* our copy */
    size_t top = fault_path_field(&b->path, "inbound");
    struct tls_ctx_entry *entries;
    size_t num, links;
    err_t err;

    if (msg == NULL || (msg->n_links == 0 && snapshot_is_empty(msg->listen))) {
        fault_path_pop(&b->path, top);
        return;
    }
    snapshot_build_inbound_listen(b, msg);
    links = fault_path_field(&b->path, "links");
    num = msg->n_links;
    if (num > SNAPSHOT_LINKS_MAX) {
        snapshot_fault(b, "has %zu links; at most %d", num, SNAPSHOT_LINKS_MAX);
        num = 0;
    } else if (num == 0 && b->in->inbound_listen == NULL) {
        snapshot_fault(b, "is empty: nobody could come in");
    }
    snapshot->num_inbound = num;
    snapshot->inbound = mem_array(num, sizeof(*snapshot->inbound));
    entries = mem_array(num, sizeof(*entries));
    for (size_t i = 0; i < num; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_build_inbound(b, i, &entries[i]);
        fault_path_pop(&b->path, mark);
    }
    fault_path_pop(&b->path, top);

    if (b->in->svid != NULL && num > 0 && b->faults->total == 0) {
        err = tls_ctx_server(b->in->svid, entries, num, false, &snapshot->server);
        if (!err_is_ok(err)) {
            (void)links;
            faults_add(b->faults, "inbound.links", "no TLS server can be made of them: %s",
                       err_text(err.code));
        }
    }
    mem_free(entries);
}

/* ---- our own identity ---- */

static err_t snapshot_verify_own(const struct svid *svid, const struct bundle *bundle,
                                 int64_t now_s)
{
    STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
    struct peer *peer = NULL;
    err_t err;

    CHECK(chain != NULL);
    for (size_t i = 0; i < svid->num_chain; i++)
        CHECK(sk_CRYPTO_BUFFER_push(chain, svid->chain[i]) != 0);
    err = verify_chain(chain, bundle, VERIFY_CLIENT_CERT, now_s, NULL, &peer);
    sk_CRYPTO_BUFFER_free(chain);
    if (err_is_ok(err))
        peer_unref(peer);
    return err;
}

/* A SPIFFE ID is vouched for by its own trust domain's CAs alone: where a truststore is those, our
 * certificate must lead to it. Without, every peer would refuse us, one after the other. */
static void snapshot_check_identity(struct snapshot_builder *b)
{
    const struct svid *svid = b->in->svid;
    const struct snapshot_store *store = NULL;
    struct spiffe_id id;
    err_t err = OK;

    if (b->in->ca_files == NULL || svid == NULL || svid->spiffe_id[0] == '\0' ||
        !err_is_ok(spiffe_id_parse(bytes_of_str(svid->spiffe_id), &id)))
        return;
    for (size_t i = 0; i < b->num_stores; i++) {
        if (b->stores[i].bundle == NULL ||
            !bytes_equal_str(id.trust_domain, b->stores[i].trust_domain))
            continue;
        store = &b->stores[i];
        err = snapshot_verify_own(svid, store->bundle, b->in->now_s);
        if (err_is_ok(err))
            return;
    }
    if (store != NULL)
        faults_add(b->faults, "identity.cert_file",
                   "%s is of the trust domain of truststore \"%s\", but: %s (%s)", svid->spiffe_id,
                   store->name, err_text(err.code), err_name(err.code));
}

/* ---- whole ---- */

static void snapshot_builder_fini(struct snapshot_builder *b)
{
    for (size_t i = 0; i < b->num_clients; i++)
        tls_ctx_unref(b->clients[i].tls);
    for (size_t i = 0; i < b->num_stores; i++) {
        if (b->stores[i].bundle != NULL)
            bundle_unref(b->stores[i].bundle);
    }
    for (size_t i = 0; i < b->num_profiles; i++) {
        if (b->profiles[i].profile != NULL)
            tls_profile_unref(b->profiles[i].profile);
    }
    for (size_t i = 0; i < b->num_builtin; i++)
        mortise__v1__tls_profile__free_unpacked(b->builtin[i], NULL);
    mem_free(b->clients);
    mem_free(b->stores);
    mem_free(b->profiles);
    if (b->snapshot != NULL)
        snapshot_unref(b->snapshot);
}

static void snapshot_link_stats(struct stats *stats, struct link *links, size_t num)
{
    for (size_t i = 0; i < num; i++)
        stats_link_init(stats, links[i].direction, links[i].name, &links[i].stats);
}

err_t snapshot_build(const struct snapshot_input *in, struct faults *faults, struct snapshot **out)
{
    CLEANUP(snapshot_builder_fini) struct snapshot_builder b = {.in = in, .faults = faults};
    struct snapshot *snapshot = mem_zalloc(sizeof(*snapshot));
    err_t err;

    refs_init(&snapshot->refs);
    b.snapshot = snapshot;
    snapshot->generation = in->generation;
    snapshot->version = in->version;
    snapshot->since = in->now_s;
    snapshot->tunables = in->tunables;
    snapshot->config = (config_msg *)pb_clone(&in->config->base);
    if (in->svid != NULL)
        snapshot->svid = svid_ref(in->svid);

    if (in->ca_files == NULL && in->config->identity != NULL)
        faults_add(faults, "identity", "is for static mode only: the sidecar makes its own key");
    snapshot_build_stores(&b);
    snapshot_check_identity(&b);
    snapshot_build_profiles(&b);
    snapshot_build_outbounds(&b);
    snapshot_build_inbounds(&b);
    err = revoke_set_new(in->config->revocations, in->config->n_revocations, faults,
                         &snapshot->revoked);
    TRY(faults_err(faults));
    TRY(err);
    if (in->svid == NULL) {
        *out = NULL;
        return OK;
    }

    snapshot_keep_trust(&b);
    snapshot_link_stats(in->stats, snapshot->outbound, snapshot->num_outbound);
    snapshot_link_stats(in->stats, snapshot->inbound, snapshot->num_inbound);
    *out = snapshot;
    b.snapshot = NULL; /* the caller's now */
    return OK;
}

struct snapshot *snapshot_ref(struct snapshot *snapshot)
{
    refs_take(&snapshot->refs);
    return snapshot;
}

static void snapshot_free_links(struct link *links, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        if (links[i].tls != NULL)
            tls_ctx_unref(links[i].tls);
        mem_free(links[i].endpoints);
        mem_free(links[i].server_name);
        mem_free(links[i].profile);
    }
    mem_free(links);
}

void snapshot_unref(struct snapshot *snapshot)
{
    if (!refs_drop(&snapshot->refs))
        return;
    snapshot_free_links(snapshot->outbound, snapshot->num_outbound);
    snapshot_free_links(snapshot->inbound, snapshot->num_inbound);
    for (size_t i = 0; i < snapshot->num_trust; i++)
        bundle_unref(snapshot->trust[i].bundle);
    mem_free(snapshot->trust);
    revoke_set_free(snapshot->revoked);
    if (snapshot->server != NULL)
        tls_ctx_unref(snapshot->server);
    if (snapshot->svid != NULL)
        svid_unref(snapshot->svid);
    pb_free(&snapshot->config->base);
    mem_free(snapshot);
}
