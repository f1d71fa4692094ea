/* snapshot: everything a new connection needs, of one generation: TLS contexts, links with their
 * expectations, endpoints and targets, deadlines. Immutable and shared; a connection keeps the one
 * it began with. A change builds a whole new one, or nothing. */
#ifndef MORTISE_PROXY_SNAPSHOT_H
#define MORTISE_PROXY_SNAPSHOT_H

#include "certs/bundle.h"
#include "certs/crl_set.h"
#include "certs/policy.h"
#include "certs/revoke.h"
#include "certs/svid.h"
#include "certs/tls_ctx.h"
#include "certs/verify.h"
#include "lib/base/faults.h"
#include "lib/base/mem.h"
#include "lib/net/addr.h"
#include "lib/net/cidr.h"
#include "proto/mesh/sidecar.pb-c.h"
#include "proxy/age.h"
#include "proxy/config.h"
#include "proxy/stats.h"

#define SNAPSHOT_LINKS_MAX 1024     /* in each direction */
#define SNAPSHOT_ENDPOINTS_MAX 1024 /* of a link */
#define SNAPSHOT_ROUTES_MAX 4096    /* of all links */

struct endpoint {
    const char *text; /* "10.0.0.7:15443", "name:port"; the configuration's */
    struct addr addr; /* len 0: a name, to be resolved at each connection */
};

struct link {
    enum direction direction;
    size_t index;            /* in the configuration's list */
    const char *name;        /* the configuration's */
    char *server_name;       /* SNI, as configured or made from the name; NULL: none is sent */
    struct peer_match peers; /* who may be at the other end; strings are the configuration's */
    char *profile;           /* name, for /config */
    char *weak;              /* what of it is weaker than it might be, for people; NULL: nothing */
    unsigned can_be_weak;    /* bits 1 << enum weak: what connections may be counted as */
    struct age_rule age;
    uint64_t handshake_ms; /* deadlines: the profile's, else the settings' */
    uint64_t idle_ms;
    struct bundle *bundle; /* that vouches for its peers; one of snapshot->trust */
    bool own_trust;        /* an operator's own choice; else a control plane rotates it */
    struct crl_set *crls;  /* of the same truststore; NULL: it has none */
    struct svid *svid;     /* what it shows; one of snapshot->keystores, or the sidecar's own */
    unsigned log_permille; /* of its access log, up to the control plane */
    struct stats_link stats;
    /* Outbound: */
    struct addr listen; /* len 0: it is for captured connections alone */
    struct endpoint *endpoints;
    size_t num_endpoints;
    struct tls_ctx *tls;
    bool unverified; /* whoever answers is taken */
    /* Inbound: */
    struct addr target;
    bool anonymous;                /* clients without a certificate may enter */
    struct addr permissive_listen; /* len 0: mTLS only */
    int64_t permissive_until;      /* Unix seconds */
};

/* Where captured connections go. */
struct route {
    struct cidr range;
    uint16_t port;
    const struct link *link;
};

/* An endpoint that is an address; IPv4 as ::ffff:a.b.c.d. */
struct snapshot_endpoint {
    uint8_t bytes[16];
    uint16_t port;
};

/* A truststore as it is in force, for /config. */
struct trust {
    const char *name; /* the configuration's */
    struct bundle *bundle;
    struct crl_set *crls; /* NULL: none configured */
};

struct snapshot {
    struct refs refs;
    uint64_t generation; /* counts up at each change of any part, from 1 */
    uint64_t version;    /* of the control plane's configuration; 0 in static mode */
    int64_t since;       /* Unix seconds */
    Mortise__V1__SidecarConfig *config;
    struct svid *svid;
    struct trust *trust;
    size_t num_trust;
    struct svid **keystores; /* of config->keystores; a reference each */
    size_t num_keystores;
    struct revoke_set *revoked;
    struct policy_set *policies; /* of config->policies; NULL: none */
    struct link *outbound;
    size_t num_outbound;
    struct route *routes; /* the longest prefixes first */
    size_t num_routes;
    struct snapshot_endpoint *endpoints; /* of all links, sorted; with routes only */
    size_t num_endpoints;
    struct link *inbound;
    size_t num_inbound;
    struct addr inbound_listen; /* len 0: no inbound link */
    struct tls_ctx *server;     /* entry i is inbound[i]; NULL without inbound links */
    struct tunables tunables;
    unsigned log_permille; /* of connections without a link */
};

/* The contents of the files that one field names. */
struct snapshot_texts {
    struct bytes *items;
    size_t num;
};

/* What a snapshot is made of. Everything is borrowed for the call. */
struct snapshot_input {
    const Mortise__V1__SidecarConfig *config;
    struct svid *svid;
    /* Static mode: the content of truststores[i].ca_file, NULL ptr where it could not be read (that
     * fault was told already). NULL: the configuration comes from a control plane. */
    const struct bytes *ca_files;
    /* Likewise of each truststore's crl_files; a view with NULL ptr was told. */
    const struct snapshot_texts *crl_files;
    /* Of each of config->keystores, what was read; NULL where it could not be, which was told. NULL
     * altogether: there are none. */
    struct svid *const *keystores;
    const struct snapshot *before; /* in force, whose revocation lists are shared; may be NULL */
    /* With a control plane: the mesh's roots, for truststores that bring none of their own, and the
     * address of the inbound listener, which is this sidecar's own affair. */
    struct bundle *roots;
    const struct addr *inbound_listen;
    struct tunables tunables;
    struct stats *stats; /* NULL: nobody will connect by it */
    uint64_t generation;
    uint64_t version;
    int64_t now_s;
};

/* snapshot_build checks all of the configuration, adds every fault with its path
 * ("outbound[2].profile") and compiles it. `in->svid` NULL: check only, *out is then NULL.
 * Errors: CONFIG_INVALID; *out is then untouched. */
MUST_CHECK err_t snapshot_build(const struct snapshot_input *in, struct faults *faults,
                                struct snapshot **out);

struct snapshot *snapshot_ref(struct snapshot *snapshot);
void snapshot_unref(struct snapshot *snapshot);
MEM_CLEANUP_FN(snapshot_unrefp, struct snapshot, snapshot_unref)

/* snapshot_expired: our own certificate is no longer valid at `now_s`; nothing may begin. */
static inline bool snapshot_expired(const struct snapshot *snapshot, int64_t now_s)
{
    return now_s >= snapshot->svid->not_after;
}

/* link_is_permissive: it takes plaintext at its own port, at `now_s`. */
static inline bool link_is_permissive(const struct link *link, int64_t now_s)
{
    return link->permissive_listen.len != 0 && now_s < link->permissive_until;
}

/* snapshot_link returns the link of that direction and name, or NULL. */
const struct link *snapshot_link(const struct snapshot *snapshot, enum direction direction,
                                 const char *name);

/* snapshot_route returns the outbound link that names `to` as a destination, or NULL. */
const struct link *snapshot_route(const struct snapshot *snapshot, const struct addr *to);

/* snapshot_is_endpoint: a peer's sidecar is at `to`, so that whoever connects there is one, we
 * ourselves for one. Only with routes. */
bool snapshot_is_endpoint(const struct snapshot *snapshot, const struct addr *to);

/* snapshot_own_listener returns what of this sidecar listens where a connection to `to` would
 * arrive: the name of an outbound link, "inbound", the name of a permissive link, or NULL. An
 * any-address listener counts for loopback addresses only: whether another address is ours is not
 * known here. */
const char *snapshot_own_listener(const struct snapshot *snapshot, const struct addr *to);

#endif
