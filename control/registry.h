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

#include "control/history.h"
#include "control/mesh.h"
#include "control/revisions.h"
#include "control/revocations.h"
#include "control/vault.h"
#include "control/xds_stream.h"
#include "lib/base/clock.h"
#include "lib/base/skew.h"
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
 * and writes none but `xds`, `answers`, `skew` and `stream`. */
struct workload {
    struct list link;
    struct registry *registry;
    uint64_t number;       /* from 1, as they come; the list is in this order */
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
    Mortise__V1__DiscoveryRequest *rollback; /* its NACK, if it has seen more than our store has */
    Mortise__V1__Point *seen;                /* that it told of when it joined, NULL: nothing */
    bool answers;                            /* takes questions; the user's, as the next ones */
    struct skew skew;                        /* its clock against ours */
    void *stream;                          /* the discovery service's; NULL: its stream has ended */
    bool lost;                             /* it has */
    uint64_t lost_ms;                      /* then */
    bool counted_in_sync, counted_refused; /* in registry_totals */
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

/* registry_set_crls changes our own CAs' revocation lists (PEM, copied), which every sidecar is
 * given where the mesh has lists. */
void registry_set_crls(struct registry *registry, const char *crls_pem);

const Mortise__V1__Mesh *registry_mesh(const struct registry *registry);
/* registry_policies is the set of that mesh's policies; as long as it is in force. */
const struct policy_set *registry_policies(const struct registry *registry);
uint64_t registry_mesh_version(const struct registry *registry);
uint64_t registry_version(const struct registry *registry);
const char *registry_trust_domain(const struct registry *registry);

/* registry_subsystem_of returns the name of the subsystem with that identity; NULL when none has
 * it. */
const char *registry_subsystem_of(const struct registry *registry, const char *spiffe_id);
/* registry_spiffe_id returns the identity of a subsystem; NULL when it is not in the mesh. Borrowed
 * until the mesh changes. */
const char *registry_spiffe_id(const struct registry *registry, const char *subsystem);

/* registry_apply makes a checked mesh the one in force, durably, with its revision. Errors:
 * STORE_CONFLICT, STORE_UNWRITABLE, TOO_LARGE; STORE_CORRUPT, IO: it is durable and cannot be read
 * back, so that the one before is in force until a restart. */
MUST_CHECK err_t registry_apply(struct registry *registry, const Mortise__V1__Mesh *mesh,
                                const struct revisions_new *about, uint64_t *out_version);
/* registry_apply_with_key is the same with the key of a keystore that the mesh has now (NULL: none
 * comes), in the same transaction. In either, keys that no keystore of the mesh has any more go. */
struct registry_key {
    const char *sha256; /* of its SubjectPublicKeyInfo, hex */
    struct bytes pkcs8;
    const char *by;
};
MUST_CHECK err_t registry_apply_with_key(struct registry *registry, const Mortise__V1__Mesh *mesh,
                                         const struct revisions_new *about,
                                         const struct registry_key *key, uint64_t *out_version);
/* registry_keystore_key reads the key of a keystore, owned: registry_keystore_free wipes it.
 * Errors: NOT_FOUND, and those of vault_get. */
MUST_CHECK err_t registry_keystore_key(struct registry *registry, const char *sha256,
                                       Mortise__Control__KeystoreRecord **out);
void registry_keystore_free(Mortise__Control__KeystoreRecord *record);
/* registry_keystore_expires is when the first certificate of a keystore does: of its chain, or as
 * sidecars say of their files; 0: nothing is known. */
int64_t registry_keystore_expires(struct registry *registry,
                                  const Mortise__V1__MeshKeystore *keystore);

/* What the mesh was, see revisions.h; read only. */
const struct revisions *registry_revisions(const struct registry *registry);

/* What is denied in the mesh, see revocations.h; read only. */
const struct revocations *registry_revocations(const struct registry *registry);
/* registry_revoke and registry_lift change it, durably; every sidecar is told. Errors: those of
 * revocations_add and revocations_lift. */
MUST_CHECK err_t registry_revoke(struct registry *registry, const struct revocations_new *add,
                                 uint64_t *out_id);
/* registry_revoke_all: revocations_add_all. */
MUST_CHECK err_t registry_revoke_all(struct registry *registry, const struct revocations_new *adds,
                                     size_t num, uint64_t *out_first);
MUST_CHECK err_t registry_lift(struct registry *registry, uint64_t id);
/* registry_is_revoked: that certificate's bearer may do nothing. */
bool registry_is_revoked(const struct registry *registry, const struct peer *peer);
/* registry_issued_is_revoked: the same of a certificate that we have the record of. */
bool registry_issued_is_revoked(const struct registry *registry,
                                const Mortise__Control__Issuance *record);
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
 * and the kind that xds_stream made of it with `error` for a NACK. Messages are copied, what is
 * longer than a sidecar of ours makes it is cut. */
#define REGISTRY_SAID_MAX 512      /* bytes of a text */
#define REGISTRY_FAULTS_MAX 8      /* of a configuration that it refuses */
#define REGISTRY_PLAINTEXT_MAX 256 /* links that have taken some */
#define REGISTRY_REASONS_MAX 8     /* for which its connections have ended */
void registry_report(struct workload *workload, enum xds_request kind,
                     const Mortise__V1__SidecarStatus *status,
                     const Mortise__V1__ErrorDetail *error);

/* registry_note_rollback keeps the NACK of a sidecar that has seen more than our store has; NULL:
 * it has not, or takes what there is by now. Copied. */
void registry_note_rollback(struct workload *workload, const Mortise__V1__DiscoveryRequest *nack);
/* Where our store is, what of the past it knows, and a new era; see history.h. */
const struct history *registry_history(const struct registry *registry);
MUST_CHECK err_t registry_raise_era(struct registry *registry);
/* registry_reserve_epochs makes the next rotation's epoch higher than `last`, durably. Errors:
 * those of vault_put. */
MUST_CHECK err_t registry_reserve_epochs(struct registry *registry, uint64_t last);

/* registry_refresh computes what is due; nothing when nothing is dirty. registry_tick is called
 * every second or so: it lets addresses go and tries again what the store refused. */
void registry_refresh(struct registry *registry);
/* registry_is_held: what was computed last waits, because the store takes no number for it; who is
 * in sync is so with what was before. */
bool registry_is_held(const struct registry *registry);
void registry_tick(struct registry *registry);

/* registry_workload is the sidecar of that identity and instance, connected or lost just now, or
 * NULL. */
struct workload *registry_workload(struct registry *registry, const char *spiffe_id,
                                   const char *instance);
struct list *
registry_workloads(struct registry *registry); /* of struct workload, by time of joining */
struct registry_totals {
    unsigned rolled_back; /* have seen more than our store has, and refuse */
    unsigned connected;
    unsigned in_sync;
    unsigned refused; /* refused what they ought to have */
};
struct registry_totals registry_totals(const struct registry *registry);

/* registry_candidate is what the sidecars of a subsystem would be given if `mesh` (checked;
 * `policies` are its) were in force, and if `revocation` were, too (NULL: none but those that are);
 * owned (pb_free). NULL: it would be no member under that name and identity. */
Mortise__V1__SidecarConfig *registry_candidate(struct registry *registry, const char *subsystem,
                                               const Mortise__V1__Mesh *mesh,
                                               const struct policy_set *policies,
                                               const Mortise__V1__Revocation *revocation);

/* registry_addresses is where the sidecars of a subsystem are, those connected first; borrowed
 * until the next refresh. */
const char *const *registry_addresses(struct registry *registry, const char *subsystem,
                                      size_t *out_num);

#endif
