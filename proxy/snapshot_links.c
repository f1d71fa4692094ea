#include <stdio.h>
#include <string.h>

#include "certs/cert.h"
#include "certs/spiffe_id.h"
#include "certs/tls_profile.h"
#include "lib/base/str.h"
#include "proxy/snapshot_impl.h"

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

/* ---- profiles ---- */

static void snapshot_add_profile(struct snapshot_builder *b, const Mortise__V1__TlsProfile *msg)
{
    struct snapshot_profile *entry = &b->profiles[b->num_profiles++];

    entry->name = msg->name;
    entry->msg = msg;
    entry->server = msg->role == MORTISE__V1__TLS_PROFILE__ROLE__SERVER;
    if (!err_is_ok(tls_profile_compile(msg, &b->path, b->faults, &entry->profile)))
        entry->profile = NULL;
}

/* What a file says of a profile and nobody would look at. */
static void snapshot_check_static_profile(struct snapshot_builder *b,
                                          const Mortise__V1__TlsProfile *msg)
{
    if (b->in->ca_files == NULL)
        return;
    if (!snapshot_is_empty(msg->truststore))
        FIELD_FAULT(b, "truststore", "is for a mesh: here each link names its own");
    if (!snapshot_is_empty(msg->keystore))
        FIELD_FAULT(b, "keystore", "is for a mesh: here each link names its own");
    if (msg->n_peer_names > 0)
        FIELD_FAULT(b, "peer_names", "are for a mesh: here each link has them in peers.dns_names");
}

/* Built-in profiles can be named as well, unless the configuration has one of that name. */
void snapshot_build_profiles(struct snapshot_builder *b)
{
    const config_msg *config = b->in->config;
    size_t top = fault_path_field(&b->path, "profiles");

    tls_profile_defaults(b->builtin, &b->num_builtin);
    b->profiles = mem_array(config->n_profiles + b->num_builtin, sizeof(*b->profiles));
    for (size_t i = 0; i < config->n_profiles; i++) {
        size_t mark = fault_path_index(&b->path, i);

        snapshot_check_name(b, "profile", config->profiles[i]->name, snapshot_profile_name, i);
        snapshot_add_profile(b, config->profiles[i]);
        if (config->profiles[i]->insecure_skip_verify && !b->profiles[i].server &&
            !config->allow_insecure)
            FIELD_FAULT(b, "insecure_skip_verify",
                        "needs allow_insecure: true beside the profiles: whoever answers would be "
                        "taken for the server");
        snapshot_check_static_profile(b, config->profiles[i]);
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

/* `svid` is what its link shows; NULL: nothing yet. */
static const struct snapshot_profile *snapshot_find_profile(struct snapshot_builder *b,
                                                            const char *name, bool server,
                                                            const struct svid *svid)
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
        if (b->profiles[i].profile != NULL && svid != NULL &&
            !tls_profile_serves(b->profiles[i].profile, svid->key)) {
            FIELD_FAULT(b, "profile",
                        "\"%s\" has no cipher suite or no signature algorithm for the kind of key "
                        "that %s has",
                        name,
                        svid == b->in->svid ? "this sidecar's certificate" : "the link's keystore");
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

/* ---- what links have in common ---- */

static void snapshot_take_profile(struct snapshot_builder *b,
                                  const struct snapshot_profile *profile, struct link *link)
{
    CLEANUP(buf_fini) struct buf weak = {.data = NULL};
    const Mortise__V1__TlsProfile *msg;

    if (profile == NULL)
        return;
    msg = profile->msg;
    CHECK(err_is_ok(tls_profile_weak(msg, &weak)));
    if (buf_size(&weak) > 0)
        link->weak = buf_take_str(&weak);
    if (msg->min_version == MORTISE__V1__TLS_VERSION__TLS1_0 ||
        msg->min_version == MORTISE__V1__TLS_VERSION__TLS1_1)
        link->can_be_weak |= 1U << WEAK_LEGACY;
    link->unverified = msg->insecure_skip_verify;
    link->can_be_weak |= link->unverified ? 1U << WEAK_UNVERIFIED : 0;
    link->profile = mem_strdup(profile->name);
    link->age = age_rule(msg);
    link->handshake_ms = msg->handshake_timeout_ms != 0 ? msg->handshake_timeout_ms
                                                        : b->snapshot->tunables.handshake_ms;
    link->idle_ms = msg->idle_timeout_s != 0 ? (uint64_t)msg->idle_timeout_s * 1000
                                             : b->snapshot->tunables.idle_ms;
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
        if (b->in->ca_files != NULL && cert_is_address(msg->dns_names[i]))
            snapshot_fault(b,
                           "\"%s\" is an IP address, and peers are known by DNS names alone: an "
                           "address in a certificate (iPAddress) does not count",
                           msg->dns_names[i]);
        else if (!snapshot_is_dns_name(msg->dns_names[i]))
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
    for (size_t i = 0; i < snapshot->num_inbound; i++) {
        if (snapshot_arrives(&snapshot->inbound[i].permissive_listen, to))
            return snapshot->inbound[i].name;
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

/* What the link says goes before what its profile says. */
static void snapshot_set_sni(struct snapshot_builder *b, const Mortise__V1__Outbound *msg,
                             const struct snapshot_profile *profile, struct link *link)
{
    bool by_profile = snapshot_is_empty(msg->server_name) && profile != NULL;

    if (profile != NULL && profile->msg->send_sni == MORTISE__V1__TLS_PROFILE__SEND_SNI__OMIT) {
        if (!snapshot_is_empty(msg->server_name))
            FIELD_FAULT(b, "server_name",
                        "would not be sent: profile \"%s\" has send_sni: OMIT; leave out one of "
                        "the two",
                        profile->name);
        return;
    }
    snapshot_set_server_name(b, by_profile ? profile->msg->server_name : msg->server_name, link);
}

static struct tls_ctx *snapshot_client_ctx(struct snapshot_builder *b,
                                           const struct snapshot_store *store,
                                           const struct snapshot_profile *profile,
                                           struct svid *svid)
{
    struct tls_ctx *tls;
    err_t err;

    for (size_t i = 0; i < b->num_clients; i++) {
        if (b->clients[i].store == store && b->clients[i].profile == profile &&
            b->clients[i].svid == svid)
            return tls_ctx_ref(b->clients[i].tls);
    }
    err = tls_ctx_client(svid, store->bundle, profile->profile, &tls);
    if (!err_is_ok(err)) {
        FIELD_FAULT(b, "profile", "no TLS client can be made of \"%s\": %s", profile->name,
                    err_text(err.code));
        return NULL;
    }
    b->clients[b->num_clients++] =
        (struct snapshot_client){.store = store, .profile = profile, .svid = svid, .tls = tls};
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
    if (snapshot_is_empty(msg->listen) && msg->n_destinations > 0) {
        if (b->snapshot->tunables.capture_port == 0 && b->in->ca_files != NULL)
            FIELD_FAULT(b, "listen",
                        "is missing, and without --capture-port nothing is captured for this "
                        "link: give one of the two");
    } else if (snapshot_addr(b, "listen", msg->listen, true, &link->listen)) {
        for (size_t i = 0; i < index; i++) {
            if (addr_equal(&b->snapshot->outbound[i].listen, &link->listen))
                FIELD_FAULT(b, "listen", "%s is where outbound[%zu] (%s) listens already",
                            msg->listen, i, b->snapshot->outbound[i].name);
        }
    }
    snapshot_build_endpoints(b, msg, link);
    store = snapshot_find_store(b, msg->truststore, link);
    snapshot_check_peers(b, msg->peers, store, link);
    link->svid = snapshot_find_keystore(b, msg->keystore);
    profile = snapshot_find_profile(b, msg->profile, false, link->svid);
    snapshot_take_profile(b, profile, link);
    link->log_permille = snapshot_log_permille(b, msg->access_log_permille);
    snapshot_set_sni(b, msg, profile, link);
    if (b->in->svid != NULL && link->svid != NULL && store != NULL && store->bundle != NULL &&
        profile != NULL && profile->profile != NULL)
        link->tls = snapshot_client_ctx(b, store, profile, link->svid);
}

void snapshot_build_outbounds(struct snapshot_builder *b)
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

/* Who shows no certificate has no identity: profile and link must both say that he may enter. What
 * the profile alone says lets nobody in. */
static enum tls_client_auth snapshot_client_auth(struct snapshot_builder *b,
                                                 const Mortise__V1__InboundLink *msg,
                                                 const struct tls_profile *profile)
{
    enum tls_client_auth client_auth = tls_profile_client_auth(profile);

    if (msg->allow_anonymous && client_auth == TLS_CLIENT_REQUIRED)
        FIELD_FAULT(b, "allow_anonymous",
                    "profile \"%s\" requires a certificate: give it client_auth OPTIONAL or NONE, "
                    "or leave this out",
                    tls_profile_name(profile));
    if (!msg->allow_anonymous && client_auth == TLS_CLIENT_NONE)
        FIELD_FAULT(b, "profile",
                    "\"%s\" asks for no certificate (client_auth: NONE), so that nobody could come "
                    "in: say allow_anonymous: true, or take one that asks",
                    tls_profile_name(profile));
    return msg->allow_anonymous ? client_auth : TLS_CLIENT_REQUIRED;
}

static void snapshot_check_permissive(struct snapshot_builder *b, const struct link *link)
{
    const struct snapshot *snapshot = b->snapshot;
    const struct addr *listen = &link->permissive_listen;

    if (addr_port(listen) == addr_port(&snapshot->inbound_listen))
        FIELD_FAULT(b, "port", "%u is that of inbound.listen", addr_port(listen));
    for (size_t i = 0; i <= link->index; i++) {
        const struct link *other = &snapshot->inbound[i];

        if (i < link->index && addr_equal(&other->permissive_listen, listen))
            FIELD_FAULT(b, "port", "%u is that of inbound.links[%zu] (%s) already",
                        addr_port(listen), i, other->name);
        if (other->target.len != 0 && snapshot_arrives(listen, &other->target))
            FIELD_FAULT(b, "port",
                        "%u is where the target of inbound.links[%zu] (%s) is: that "
                        "would be a loop",
                        addr_port(listen), i, other->name);
    }
    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        if (snapshot_arrives(listen, &snapshot->outbound[i].listen))
            FIELD_FAULT(b, "port", "%u is where outbound[%zu] (%s) listens already",
                        addr_port(listen), i, snapshot->outbound[i].name);
    }
}

static void snapshot_build_permissive(struct snapshot_builder *b,
                                      const Mortise__V1__Permissive *msg, struct link *link)
{
    size_t mark = fault_path_field(&b->path, "permissive");

    if (!clock_parse_utc(msg->until, &link->permissive_until))
        FIELD_FAULT(b, "until", "\"%s\" is not a time: wanted is 2026-12-31T23:59:59Z", msg->until);
    if (msg->port == 0 || msg->port > UINT16_MAX) {
        FIELD_FAULT(b, "port", "%u is not a port: wanted is 1 to 65535", msg->port);
    } else if (b->snapshot->inbound_listen.len != 0) {
        link->permissive_listen = b->snapshot->inbound_listen;
        addr_set_port(&link->permissive_listen, (uint16_t)msg->port);
        snapshot_check_permissive(b, link);
    }
    fault_path_pop(&b->path, mark);
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
    link->log_permille = snapshot_log_permille(b, msg->access_log_permille);
    for (size_t i = 0; i < index; i++) {
        if (strcasecmp(b->snapshot->inbound[i].server_name, link->server_name) == 0)
            FIELD_FAULT(b, "server_name", "%s is that of inbound.links[%zu] (%s) already",
                        link->server_name, i, b->snapshot->inbound[i].name);
    }
    store = snapshot_find_store(b, msg->truststore, link);
    snapshot_check_peers(b, msg->peers, store, link);
    link->svid = snapshot_find_keystore(b, msg->keystore);
    profile = snapshot_find_profile(b, msg->profile, true, link->svid);
    snapshot_take_profile(b, profile, link);
    if (msg->permissive != NULL)
        snapshot_build_permissive(b, msg->permissive, link);
    *entry = (struct tls_ctx_entry){
        .server_name = link->server_name,
        .profile = profile != NULL ? profile->profile : NULL,
        .bundle = store != NULL ? store->bundle : NULL,
        .svid = link->svid != b->in->svid ? link->svid : NULL,
    };
    if (entry->profile != NULL)
        entry->client_auth = snapshot_client_auth(b, msg, entry->profile);
    link->anonymous = entry->client_auth != TLS_CLIENT_REQUIRED;
    link->can_be_weak |= link->anonymous ? 1U << WEAK_ANONYMOUS : 0;
}

void snapshot_build_inbounds(struct snapshot_builder *b)
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
        err = tls_ctx_server(b->in->svid, entries, num, &snapshot->server);
        if (err_is_ok(err))
            tls_ctx_take_probes(snapshot->server);
        if (!err_is_ok(err)) {
            (void)links;
            faults_add(b->faults, "inbound.links", "no TLS server can be made of them: %s",
                       err_text(err.code));
        }
    }
    mem_free(entries);
}
