/* snapshot: everything a new connection needs, of one generation: TLS contexts, links with their
 * expectations, endpoints and targets, deadlines. Immutable and shared; a connection keeps the one
 * it began with. A change builds a whole new one, or nothing. */
#ifndef MORTISE_PROXY_SNAPSHOT_H
#define MORTISE_PROXY_SNAPSHOT_H

#include "certs/bundle.h"
#include "certs/revoke.h"
#include "certs/svid.h"
#include "certs/tls_ctx.h"
#include "certs/verify.h"
#include "lib/base/faults.h"
#include "lib/base/mem.h"
#include "lib/net/addr.h"
#include "proto/mesh/sidecar.pb-c.h"
#include "proxy/age.h"
#include "proxy/config.h"
#include "proxy/stats.h"

#define SNAPSHOT_LINKS_MAX 1024     /* in each direction */
#define SNAPSHOT_ENDPOINTS_MAX 1024 /* of a link */

struct endpoint {
    const char *text; /* "10.0.0.7:15443", "name:port"; the configuration's */
    struct addr addr; /* len 0: a name, to be resolved at each connection */
};

struct link {
    enum direction direction;
    size_t index;            /* in the configuration's list */
    const char *name;        /* the configuration's */
    char *server_name;       /* SNI, lower-case as configured or made from the name */
    struct peer_match peers; /* who may be at the other end; strings are the configuration's */
    char *profile;           /* name, for /config */
    struct age_rule age;
    struct bundle *bundle; /* that vouches for its peers; one of snapshot->trust */
    bool own_trust;        /* an operator's own choice; else a control plane rotates it */
    struct stats_link stats;
    /* Outbound: */
    struct addr listen;
    struct endpoint *endpoints;
    size_t num_endpoints;
    struct tls_ctx *tls;
    /* Inbound: */
    struct addr target;
};

/* A truststore as it is in force, for /config. */
struct trust {
    const char *name; /* the configuration's */
    struct bundle *bundle;
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
    struct revoke_set *revoked;
    struct link *outbound;
    size_t num_outbound;
    struct link *inbound;
    size_t num_inbound;
    struct addr inbound_listen; /* len 0: no inbound link */
    struct tls_ctx *server;     /* entry i is inbound[i]; NULL without inbound links */
    struct tunables tunables;
};

/* What a snapshot is made of. Everything is borrowed for the call. */
struct snapshot_input {
    const Mortise__V1__SidecarConfig *config;
    struct svid *svid;
    /* Static mode: the content of truststores[i].ca_file, NULL ptr where it could not be read (that
     * fault was told already). NULL: the configuration comes from a control plane. */
    const struct bytes *ca_files;
    /* With a control plane: the mesh's roots, for truststores that bring none of their own, and the
     * address of the inbound listener, which is this sidecar's own affair. */
    struct bundle *roots;
    const struct addr *inbound_listen;
    struct tunables tunables;
    struct stats *stats;
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

/* snapshot_link returns the link of that direction and name, or NULL. */
const struct link *snapshot_link(const struct snapshot *snapshot, enum direction direction,
                                 const char *name);

/* snapshot_own_listener returns what of this sidecar listens where a connection to `to` would
 * arrive: the name of an outbound link, "inbound", or NULL. An any-address listener counts for
 * loopback addresses only: whether another address is ours is not known here. */
const char *snapshot_own_listener(const struct snapshot *snapshot, const struct addr *to);

#endif
