/* registry is the control plane's picture of the mesh, in memory: the resources in force, which
 * sidecars are connected and what they reported, where each subsystem can be reached, and the
 * configuration that each sidecar ought to have, with its version.
 *
 * Versions are one 64-bit counter for the whole mesh that never gives a number out twice
 * (VersionBlock). A change marks the registry dirty; registry_refresh, called when the batch of
 * changes is over, computes all configurations anew and gives a new version to those whose content
 * differs. Nothing here knows of connections or loops: observers hear what happened. The mesh and
 * the rotation's epochs are taken from the store whenever they change there, whoever changed them.
 */
#ifndef MORTISE_CONTROL_REGISTRY_H
#define MORTISE_CONTROL_REGISTRY_H

#include "control/mesh.h"
#include "control/revocations.h"
#include "control/vault.h"
#include "control/xds_stream.h"
#include "lib/base/clock.h"
#include "proto/mesh/discovery.pb-c.h"

#define REGISTRY_WORKLOADS_MAX 100000 /* connections are bounded before, by --max-connections */
#define REGISTRY_INSTANCES_MAX 256    /* sidecars of one subsystem */
/* An address whose sidecar has gone is still given out so long, if there is another of its
 * subsystem; without another it stays: a control plane that sees nobody must not take every
 * endpoint away. */
#define REGISTRY_GONE_MS 5000     /* a reconnect takes less */
#define REGISTRY_RESTART_MS 45000 /* after our own start: a sidecar tries again within 30 s */
/* A sidecar whose stream has ended counts as connected so long: with a new certificate it comes
 * back on a new connection, and nobody should see it missing between the two. */
#define REGISTRY_LINGER_MS 3000

struct registry;
struct member; /* a subsystem of the mesh */

/* content is what the sidecars of one subsystem ought to have. */
struct content {
    uint64_t version;
    Mortise__V1__SidecarConfig *config;
    uint64_t epoch;
    uint32_t spread_ms;
};

/* workload is a sidecar that is connected, or was until just now (`lost`). Its user reads all of it
 * and writes none but `xds` and `stream`. */
struct workload {
    struct list link;
    struct registry *registry;
    struct member *member; /* NULL once its subsystem has left the mesh */
    char *subsystem;
    char *spiffe_id;
    char *instance;
    char *build;
    char *address; /* advertised */
    int64_t connected_since_s;
    struct xds_stream xds;
    Mortise__V1__SidecarStatus *status; /* last reported, NULL: none yet */
    Mortise__V1__ErrorDetail *refused;  /* why the last response was refused, NULL: it was not */
    const struct content *content;      /* NULL once its subsystem has left the mesh */
    void *stream;                       /* the discovery service's; NULL: its stream has ended */
    bool lost;                          /* it has */
    uint64_t lost_ms;                   /* then */
};

enum registry_event {
    REGISTRY_DIRTY, /* call registry_refresh soon; no workload */
    REGISTRY_MESH,  /* other resources or revocations are in force; no workload */
    REGISTRY_JOINED,
    REGISTRY_LEFT,     /* the workload goes when the observer returns */
    REGISTRY_REPORTED, /* status, ACK or NACK */
    REGISTRY_OFFERED,  /* there is newer content for it */
};

struct registry_observer {
    struct list link;
    void (*fn)(void *arg, enum registry_event event, struct workload *workload);
    void *arg;
};

/* registry_create adds the records of a new mesh to `batch`. Errors: of sealing. */
MUST_CHECK err_t registry_create(struct vault *vault, struct vault_batch *batch, int64_t now_s);

struct registry_params {
    struct vault *vault; /* all borrowed; texts copied */
    const struct clock *clock;
    const char *trust_domain;
    const char *roots_pem;
};
/* registry_open loads the records, checks the mesh and takes a new version number, so that what
 * this process computes differs in version from what an older program computed of the same mesh.
 * Errors: STORE_CORRUPT (a mesh that does not pass too), KEK_UNAVAILABLE, STORE_UNWRITABLE. */
MUST_CHECK err_t registry_open(const struct registry_params *params, struct faults *faults,
                               struct registry **out);
/* registry_close notes the exact version (so that the next start does not skip a block) and
 * releases all; no stream may be left. */
void registry_close(struct registry *registry);

void registry_observe(struct registry *registry, struct registry_observer *observer);
void registry_unobserve(struct registry *registry, struct registry_observer *observer);

/* registry_set_roots changes the roots that every sidecar is given (PEM, copied). */
void registry_set_roots(struct registry *registry, const char *roots_pem);

const Mortise__V1__Mesh *registry_mesh(const struct registry *registry);
uint64_t registry_mesh_version(const struct registry *registry);
uint64_t registry_version(const struct registry *registry);
const char *registry_trust_domain(const struct registry *registry);

/* registry_subsystem_of returns the name of the subsystem with that identity; NULL when none has
 * it. */
const char *registry_subsystem_of(const struct registry *registry, const char *spiffe_id);
/* registry_spiffe_id returns the identity of a subsystem; NULL when it is not in the mesh. Borrowed
 * until the mesh changes. */
const char *registry_spiffe_id(const struct registry *registry, const char *subsystem);

/* registry_apply makes a checked mesh the one in force, durably. Errors: STORE_CONFLICT,
 * STORE_UNWRITABLE, TOO_LARGE. */
MUST_CHECK err_t registry_apply(struct registry *registry, const Mortise__V1__Mesh *mesh,
                                uint64_t *out_version);

/* What is denied in the mesh, see revocations.h; read only. */
const struct revocations *registry_revocations(const struct registry *registry);
/* registry_revoke and registry_lift change it, durably; every sidecar is told. Errors: those of
 * revocations_add and revocations_lift. */
MUST_CHECK err_t registry_revoke(struct registry *registry, const struct revocations_new *add,
                                 uint64_t *out_id);
MUST_CHECK err_t registry_lift(struct registry *registry, uint64_t id);
/* registry_is_revoked: that certificate's bearer may do nothing. */
bool registry_is_revoked(const struct registry *registry, const struct peer *peer);
/* registry_may_issue: neither that identity nor that key is denied. Errors: PEER_REVOKED. */
MUST_CHECK err_t registry_may_issue(const struct registry *registry, const char *spiffe_id,
                                    const uint8_t key_sha256[32]);

/* registry_rotate raises the certificate epoch of subsystems (which exist), durably; their sidecars
 * renew within `spread_ms`. Errors: STORE_CONFLICT, STORE_UNWRITABLE. */
MUST_CHECK err_t registry_rotate(struct registry *registry, const char *const *subsystems,
                                 size_t num, uint32_t spread_ms, uint64_t *out_epoch);
/* registry_put_epochs adds that for every subsystem, also those to come, to `batch`. */
MUST_CHECK err_t registry_put_epochs(struct registry *registry, struct vault_batch *batch,
                                     uint32_t spread_ms, uint64_t *out_epoch);
uint64_t registry_epoch(const struct registry *registry, const char *subsystem);

struct registry_join {
    const char *spiffe_id;
    const char *instance;
    const char *build;
    const char *address; /* "host:port", checked */
};
/* registry_join makes a workload; its content is there at once. Errors: PEER_DENIED (identity is
 * not in the mesh), LIMIT. */
MUST_CHECK err_t registry_join(struct registry *registry, const struct registry_join *join,
                               struct workload **out);
/* registry_leave is called when its stream is over: it lingers, and is gone unless the same process
 * joins again in time. */
void registry_leave(struct workload *workload);
/* registry_report takes what a request says beyond version and nonce: `status` (NULL: nothing new)
 * and the kind that xds_stream made of it with `error` for a NACK. Messages are copied. */
void registry_report(struct workload *workload, enum xds_request kind,
                     const Mortise__V1__SidecarStatus *status,
                     const Mortise__V1__ErrorDetail *error);

/* registry_refresh computes what is due; nothing when nothing is dirty. registry_tick is called
 * every second or so: it lets addresses go and tries again what the store refused. */
void registry_refresh(struct registry *registry);
void registry_tick(struct registry *registry);

/* registry_workload is the sidecar of that identity and instance, connected or lost just now, or
 * NULL. */
struct workload *registry_workload(struct registry *registry, const char *spiffe_id,
                                   const char *instance);
struct list *
registry_workloads(struct registry *registry); /* of struct workload, by time of joining */
struct registry_totals {
    unsigned connected;
    unsigned in_sync;
    unsigned refused; /* refused what they ought to have */
};
struct registry_totals registry_totals(struct registry *registry);

/* registry_addresses is where the sidecars of a subsystem are, those connected first; borrowed
 * until the next refresh. */
const char *const *registry_addresses(struct registry *registry, const char *subsystem,
                                      size_t *out_num);

#endif
