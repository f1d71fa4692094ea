#include "control/registry.h"

#include <string.h>

#include "control/member.h"
#include "control/mesh_trust.h"
#include "control/msg.h"
#include "control/resources.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"

#define REGISTRY_ISSUERS_MAX 8 /* above one leaf */

struct registry {
    struct vault *vault;
    const struct clock *clock;
    char *trust_domain;
    char *roots_pem;
    char *crls_pem;
    struct list observers;
    struct registry_cursor *cursors; /* innermost first */
    struct list workloads;           /* by number */
    uint64_t last_number;
    struct registry_totals totals;
    struct map by_instance; /* the newest of each, by "instance identity" */

    struct resources resources;
    struct revisions revisions;
    struct revocations revocations;
    struct history history;
    struct version version;
    bool version_is_fresh; /* nothing was computed with it yet: the next contents get it */
    struct map members;    /* by name */
    struct map by_id;      /* the same by SPIFFE ID */

    bool dirty;
    bool held; /* what was computed last is not out: there was no version for it */
};

/* An observer may make other events, and may take itself or others out of the list: each walk over
 * it has a cursor that registry_unobserve moves on. */
struct registry_cursor {
    struct list *next;
    struct registry_cursor *outer;
};

static void registry_emit(struct registry *registry, enum registry_event event,
                          struct workload *workload)
{
    struct registry_cursor cursor = {registry->observers.next, registry->cursors};

    registry->cursors = &cursor;
    while (cursor.next != &registry->observers) {
        struct registry_observer *observer = LIST_ITEM(cursor.next, struct registry_observer, link);

        cursor.next = cursor.next->next;
        observer->fn(observer->arg, event, workload);
    }
    registry->cursors = cursor.outer;
}

static void registry_set_dirty(struct registry *registry)
{
    bool was = registry->dirty;

    registry->dirty = true;
    if (!was)
        registry_emit(registry, REGISTRY_DIRTY, NULL);
}

/* ----------------------------------------------------------- endpoints, views */

const char *const *registry_addresses(struct registry *registry, const char *subsystem,
                                      size_t *out_num)
{
    const struct member *member = map_get(&registry->members, subsystem);

    *out_num = member != NULL ? member->num_addresses : 0;
    return member != NULL ? member->shown : NULL;
}

static const char *const *registry_endpoints(void *arg, const char *subsystem, size_t *out_num)
{
    return registry_addresses(arg, subsystem, out_num);
}

static struct mesh_view registry_view(struct registry *registry)
{
    return (struct mesh_view){
        .mesh = registry->resources.mesh->mesh,
        .policies = registry->resources.policies,
        .trust_domain = registry->trust_domain,
        .roots_pem = registry->roots_pem,
        .crls_pem = registry->crls_pem,
        .revocations = registry->revocations.list,
        .num_revocations = registry->revocations.record->n_entries,
        .endpoints = registry_endpoints,
        .arg = registry,
    };
}

uint64_t registry_epoch(const struct registry *registry, const char *subsystem)
{
    return resources_epoch(&registry->resources, subsystem)->epoch;
}

Mortise__V1__SidecarConfig *registry_candidate(struct registry *registry, const char *subsystem,
                                               const Mortise__V1__Mesh *mesh,
                                               const struct policy_set *policies,
                                               const Mortise__V1__Revocation *revocation)
{
    const struct member *member = map_get(&registry->members, subsystem);
    const Mortise__V1__Subsystem *there = mesh_subsystem(mesh, subsystem);
    struct mesh_view view = registry_view(registry);
    CLEANUP(mem_freep) char *id = NULL;
    Mortise__V1__Revocation **revocations;
    Mortise__V1__SidecarConfig *config;

    if (there != NULL)
        id = mesh_spiffe_id(registry->trust_domain, there);
    if (member == NULL || id == NULL || strcmp(id, member->spiffe_id) != 0)
        return NULL;
    revocations = mem_array(view.num_revocations + 1, sizeof(Mortise__V1__Revocation *));
    for (size_t i = 0; i < view.num_revocations; i++)
        revocations[i] = view.revocations[i];
    if (revocation != NULL) /* only read */
        revocations[view.num_revocations++] = (Mortise__V1__Revocation *)(uintptr_t)revocation;
    view.revocations = revocations;
    view.mesh = mesh;
    view.policies = policies;
    config = mesh_config(&view, subsystem);
    mem_free(revocations);
    return config;
}

/* ------------------------------------------------------------------ members */

static void registry_detach(struct workload *workload)
{
    struct registry *registry = workload->registry;

    if (workload->member == NULL)
        return;
    workload->content = NULL;
    member_disconnect(workload->member, workload->address,
                      clock_mono_ms(registry->clock) + REGISTRY_GONE_MS);
    workload->member = NULL;
}

static char *registry_instance_key(const char *spiffe_id, const char *instance)
{
    return mem_printf("%s %s", instance, spiffe_id);
}

struct workload *registry_workload(struct registry *registry, const char *spiffe_id,
                                   const char *instance)
{
    CLEANUP(mem_freep) char *key = registry_instance_key(spiffe_id, instance);

    return map_get(&registry->by_instance, key);
}

/* Brings the totals up to what the workload's stream says now. */
static void registry_count(struct workload *workload)
{
    struct registry_totals *totals = &workload->registry->totals;
    bool in_sync = xds_stream_in_sync(&workload->xds);
    bool refused = xds_stream_refused(&workload->xds);

    totals->in_sync += (unsigned)in_sync - (unsigned)workload->counted_in_sync;
    totals->refused += (unsigned)refused - (unsigned)workload->counted_refused;
    workload->counted_in_sync = in_sync;
    workload->counted_refused = refused;
}

static void registry_uncount(const struct workload *workload)
{
    struct registry_totals *totals = &workload->registry->totals;

    totals->connected--;
    totals->in_sync -= workload->counted_in_sync;
    totals->refused -= workload->counted_refused;
}

/* The sidecar is gone for good. */
static void registry_drop_workload(struct workload *workload)
{
    struct registry *registry = workload->registry;
    CLEANUP(mem_freep)
    char *key = registry_instance_key(workload->spiffe_id, workload->instance);

    CHECK(workload->lost);
    if (map_get(&registry->by_instance, key) == workload)
        map_del(&registry->by_instance, key);
    list_del(&workload->link);
    registry_uncount(workload);
    registry_detach(workload);
    registry_emit(registry, REGISTRY_LEFT, workload);
    if (workload->status != NULL)
        pb_free(&workload->status->base);
    if (workload->refused != NULL)
        pb_free(&workload->refused->base);
    registry_note_rollback(workload, NULL);
    if (workload->seen != NULL)
        pb_free(&workload->seen->base);
    mem_free(workload->subsystem);
    mem_free(workload->spiffe_id);
    mem_free(workload->instance);
    mem_free(workload->build);
    mem_free(workload->address);
    mem_free(workload);
}

static void registry_drop_member(struct registry *registry, struct member *member)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &registry->workloads) {
        struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (workload->member == member && workload->lost)
            registry_drop_workload(workload);
        else if (workload->member == member)
            registry_detach(workload);
    }
    map_del(&registry->members, member->name);
    if (map_get(&registry->by_id, member->spiffe_id) == member)
        map_del(&registry->by_id, member->spiffe_id);
    member_free(member);
}

static void registry_load_addresses(struct registry *registry, struct member *member)
{
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];
    err_t err;

    vault_path(VAULT_ENDPOINTS, member->name, path);
    err = vault_get(registry->vault, path, &msg, NULL);
    if (!err_is_ok(err)) {
        /* Nothing known of it; anything worse than that was found when the store was opened. */
        if (!err_is(err, E_NOT_FOUND))
            log_error("registry", "endpoints_lost", LOG_STR("path", path), LOG_ERR("error", err));
        return;
    }
    member_load(member,
                MSG_AS(Mortise__Control__Endpoints, mortise__control__endpoints__descriptor, msg),
                clock_mono_ms(registry->clock) + REGISTRY_RESTART_MS);
    pb_free(msg);
}

/* Makes members what the mesh says; one that keeps name and identity keeps its sidecars. */
static void registry_update_members(struct registry *registry)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(registry);
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&registry->members, &iter, &name, &value)) {
        struct member *member = value;
        const Mortise__V1__Subsystem *subsystem = mesh_subsystem(mesh, member->name);
        CLEANUP(mem_freep) char *id = NULL;

        if (subsystem != NULL)
            id = mesh_spiffe_id(registry->trust_domain, subsystem);
        if (id == NULL || strcmp(id, member->spiffe_id) != 0)
            registry_drop_member(registry, member);
    }
    for (size_t i = 0; i < mesh->n_subsystems; i++) {
        const Mortise__V1__Subsystem *subsystem = mesh->subsystems[i];
        CLEANUP(mem_freep) char *id = NULL;
        struct member *member;

        if (map_get(&registry->members, subsystem->name) != NULL)
            continue;
        id = mesh_spiffe_id(registry->trust_domain, subsystem);
        member = member_new(subsystem->name, id);
        registry_load_addresses(registry, member);
        map_put(&registry->members, member->name, member);
        map_put(&registry->by_id, member->spiffe_id, member);
    }
}

const char *registry_subsystem_of(const struct registry *registry, const char *spiffe_id)
{
    const struct member *member = map_get(&registry->by_id, spiffe_id);

    return member != NULL ? member->name : NULL;
}

const char *registry_spiffe_id(const struct registry *registry, const char *subsystem)
{
    const struct member *member = map_get(&registry->members, subsystem);

    return member != NULL ? member->spiffe_id : NULL;
}

/* ------------------------------------------------------------------ opening */

static void registry_on_mesh(void *arg)
{
    struct registry *registry = arg;
    uint64_t version = registry->resources.mesh->version;

    if (version > registry->version.value) {
        registry->version.value = version;
        registry->version_is_fresh = true;
    }
    registry_update_members(registry);
    registry_set_dirty(registry);
    registry_emit(registry, REGISTRY_MESH, NULL);
}

static void registry_on_epochs(void *arg)
{
    registry_set_dirty(arg);
}

static void registry_on_revocations(void *arg)
{
    struct registry *registry = arg;

    registry_set_dirty(registry);
    registry_emit(registry, REGISTRY_MESH, NULL);
}

err_t registry_create(struct vault *vault, struct vault_batch *batch, int64_t now_s)
{
    TRY(version_create(vault, batch, 1));
    return resources_create(vault, batch, 1, now_s);
}

/* The mesh of a first start, and that of a store from before there were revisions. */
static err_t registry_put_first(struct registry *registry, struct vault_batch *batch)
{
    const Mortise__Control__MeshRecord *mesh = registry->resources.mesh;
    static const struct revisions_new first = {
        .author = "mortise-control",
        .message = "what was in force when revisions began to be kept",
    };

    if (revisions_newest(&registry->revisions) == mesh->version)
        return OK;
    return revisions_put(&registry->revisions, batch, mesh, &first);
}

/* A number of our own for what this process computes. */
static err_t registry_take_version(struct registry *registry)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};

    TRY(registry_put_first(registry, &batch));
    TRY(version_prepare(&registry->version, &batch));
    TRY(vault_commit(registry->vault, &batch, NULL));
    version_prepared(&registry->version);
    registry->version.value++;
    return OK;
}

static err_t registry_load(struct registry *registry, struct faults *faults)
{
    err_t err = history_open(&registry->history); /* before anything is decided */

    TRY(err);
    err = version_open(&registry->version, registry->vault);

    if (!err_is_ok(err))
        return err_is(err, E_NOT_FOUND) ? FAIL(STORE_CORRUPT, 0) : err;
    TRY(resources_open(&registry->resources, faults));
    TRY(revisions_open(&registry->revisions));
    TRY(revocations_open(&registry->revocations));
    TRY(registry_take_version(registry));
    registry_update_members(registry);
    return OK;
}

err_t registry_open(const struct registry_params *params, struct faults *faults,
                    struct registry **out)
{
    struct registry *registry = mem_zalloc(sizeof(*registry));
    err_t err;

    registry->vault = params->vault;
    registry->history.vault = params->vault;
    registry->revisions.vault = params->vault;
    registry->clock = params->clock;
    registry->trust_domain = mem_strdup(params->trust_domain);
    registry->roots_pem = mem_strdup(params->roots_pem);
    registry->crls_pem = mem_strdup("");
    registry->resources = (struct resources){
        .vault = params->vault,
        .clock = params->clock,
        .on_mesh = registry_on_mesh,
        .on_epochs = registry_on_epochs,
        .arg = registry,
    };
    registry->revocations = (struct revocations){
        .vault = params->vault,
        .on_change = registry_on_revocations,
        .arg = registry,
    };
    list_init(&registry->observers);
    list_init(&registry->workloads);
    err = registry_load(registry, faults);
    if (!err_is_ok(err)) {
        registry_close(registry);
        return err;
    }
    *out = registry;
    return OK;
}

void registry_close(struct registry *registry)
{
    size_t iter = 0;
    const char *name;
    void *value;

    if (registry == NULL)
        return;
    while (!list_empty(&registry->workloads))
        registry_drop_workload(LIST_ITEM(registry->workloads.next, struct workload, link));
    version_close(&registry->version);
    history_close(&registry->history);
    resources_close(&registry->resources);
    revisions_close(&registry->revisions);
    revocations_close(&registry->revocations);
    while (map_next(&registry->members, &iter, &name, &value))
        member_free(value);
    map_fini(&registry->members);
    map_fini(&registry->by_id);
    map_fini(&registry->by_instance);
    mem_free(registry->trust_domain);
    mem_free(registry->roots_pem);
    mem_free(registry->crls_pem);
    mem_free(registry);
}

/* ------------------------------------------------------------------ changes */

/* Nothing is kept of subsystems that leave the mesh, nor of an identity that they give up: its
 * sidecars' addresses are not those of the next one. */
static void registry_forget(struct registry *registry, const Mortise__V1__Mesh *mesh,
                            struct vault_batch *batch)
{
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&registry->members, &iter, &name, &value)) {
        const struct member *member = value;
        const Mortise__V1__Subsystem *subsystem = mesh_subsystem(mesh, name);
        CLEANUP(mem_freep) char *id = NULL;
        char path[VAULT_PATH_MAX];

        if (subsystem != NULL)
            id = mesh_spiffe_id(registry->trust_domain, subsystem);
        if (id != NULL && strcmp(id, member->spiffe_id) == 0)
            continue;
        vault_path(VAULT_ENDPOINTS, name, path);
        vault_batch_delete(batch, path, STORE_ANY);
    }
}

static bool registry_has_keystore(const Mortise__V1__Mesh *mesh, const char *sha256)
{
    for (size_t i = 0; i < mesh->n_keystores; i++) {
        if (strcmp(mesh->keystores[i]->key_sha256, sha256) == 0)
            return true;
    }
    return false;
}

/* The key that comes, and the end of those that nothing in the mesh names any more. */
static err_t registry_put_keys(struct registry *registry, struct vault_batch *batch,
                               const Mortise__V1__Mesh *mesh, const struct registry_key *key)
{
    const Mortise__V1__Mesh *before = registry_mesh(registry);
    Mortise__Control__KeystoreRecord record = MORTISE__CONTROL__KEYSTORE_RECORD__INIT;
    char path[VAULT_PATH_MAX];

    for (size_t i = 0; i < before->n_keystores; i++) {
        const char *sha256 = before->keystores[i]->key_sha256;

        if (sha256[0] == '\0' || registry_has_keystore(mesh, sha256))
            continue;
        vault_path(VAULT_KEYSTORES, sha256, path);
        if (!vault_batch_has(batch, path)) /* two keystores may have one key */
            vault_batch_delete(batch, path, STORE_ANY);
    }
    if (key == NULL)
        return OK;
    record.key = msg_bytes(key->pkcs8);
    record.stored_at = clock_wall_s(registry->clock);
    record.by = msg_lend(key->by);
    vault_path(VAULT_KEYSTORES, key->sha256, path);
    return vault_batch_put(registry->vault, batch, path, &record.base, STORE_ANY);
}

err_t registry_keystore_key(struct registry *registry, const char *sha256,
                            Mortise__Control__KeystoreRecord **out)
{
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];

    if (strlen(sha256) != 64)
        return FAIL(NOT_FOUND, 0);
    vault_path(VAULT_KEYSTORES, sha256, path);
    TRY(vault_get(registry->vault, path, &msg, NULL));
    *out = MSG_AS(Mortise__Control__KeystoreRecord, mortise__control__keystore_record__descriptor,
                  msg);
    return OK;
}

void registry_keystore_free(Mortise__Control__KeystoreRecord *record)
{
    mem_wipe(record->key.data, record->key.len);
    pb_free(&record->base);
}

err_t registry_apply(struct registry *registry, const Mortise__V1__Mesh *mesh,
                     const struct revisions_new *about, uint64_t *out_version)
{
    return registry_apply_with_key(registry, mesh, about, NULL, out_version);
}

err_t registry_apply_with_key(struct registry *registry, const Mortise__V1__Mesh *mesh,
                              const struct revisions_new *about, const struct registry_key *key,
                              uint64_t *out_version)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    Mortise__Control__MeshRecord record = MORTISE__CONTROL__MESH_RECORD__INIT;

    record.version = registry->version.value + 1;
    record.changed_at = clock_wall_s(registry->clock);
    record.mesh = (Mortise__V1__Mesh *)(uintptr_t)mesh; /* only read */
    TRY(version_prepare(&registry->version, &batch));
    /* Before the mesh: who hears of that finds its revision. */
    TRY(revisions_put(&registry->revisions, &batch, &record, about));
    TRY(resources_put_mesh(&registry->resources, &batch, &record));
    registry_forget(registry, mesh, &batch);
    TRY(registry_put_keys(registry, &batch, mesh, key));
    TRY(vault_commit(registry->vault, &batch, NULL));
    version_prepared(&registry->version);
    *out_version = record.version;
    return registry->resources.unread; /* the watch has read it, or not */
}

const struct revisions *registry_revisions(const struct registry *registry)
{
    return &registry->revisions;
}

const struct revocations *registry_revocations(const struct registry *registry)
{
    return &registry->revocations;
}

err_t registry_revoke(struct registry *registry, const struct revocations_new *add,
                      uint64_t *out_id)
{
    return revocations_add(&registry->revocations, add, out_id);
}

err_t registry_revoke_all(struct registry *registry, const struct revocations_new *adds, size_t num,
                          uint64_t *out_first)
{
    return revocations_add_all(&registry->revocations, adds, num, out_first);
}

err_t registry_lift(struct registry *registry, uint64_t id)
{
    return revocations_lift(&registry->revocations, id);
}

bool registry_is_revoked(const struct registry *registry, const struct peer *peer)
{
    uint32_t grace_ms;

    return revoke_find(registry->revocations.set, peer, &grace_ms);
}

bool registry_issued_is_revoked(const struct registry *registry,
                                const Mortise__Control__Issuance *record)
{
    struct peer_issuer issuers[REGISTRY_ISSUERS_MAX] = {{.key_sha256 = {0}}};
    struct peer was = {
        .spiffe_id = record->spiffe_id, .serial = record->serial, .issuers = issuers};

    if (record->key_sha256.len != sizeof(was.key_sha256) ||
        record->n_issuer_keys_sha256 > REGISTRY_ISSUERS_MAX)
        return true; /* a record that cannot be judged */
    memcpy(was.key_sha256, record->key_sha256.data, sizeof(was.key_sha256));
    for (size_t i = 0; i < record->n_issuer_keys_sha256; i++) {
        if (record->issuer_keys_sha256[i].len != sizeof(issuers[i].key_sha256))
            return true;
        memcpy(issuers[i].key_sha256, record->issuer_keys_sha256[i].data, 32);
    }
    was.num_issuers = record->n_issuer_keys_sha256;
    return registry_is_revoked(registry, &was);
}

err_t registry_may_issue(const struct registry *registry, const char *spiffe_id,
                         const uint8_t key_sha256[32])
{
    char none[] = "";
    struct peer asks = {.spiffe_id = (char *)(uintptr_t)spiffe_id, .serial = none};

    memcpy(asks.key_sha256, key_sha256, sizeof(asks.key_sha256));
    return registry_is_revoked(registry, &asks) ? FAIL(PEER_REVOKED, 0) : OK;
}

err_t registry_rotate(struct registry *registry, const char *const *subsystems, size_t num,
                      uint32_t spread_ms, uint64_t *out_epoch)
{
    return resources_rotate(&registry->resources, subsystems, num, spread_ms, out_epoch);
}

err_t registry_put_epochs(struct registry *registry, struct vault_batch *batch, uint32_t spread_ms,
                          uint64_t *out_epoch)
{
    return resources_put_epochs(&registry->resources, batch, spread_ms, out_epoch);
}

const struct history *registry_history(const struct registry *registry)
{
    return &registry->history;
}

err_t registry_raise_era(struct registry *registry)
{
    return history_raise_era(&registry->history, clock_wall_s(registry->clock));
}

err_t registry_reserve_epochs(struct registry *registry, uint64_t last)
{
    return resources_reserve_epochs(&registry->resources, last);
}

void registry_set_roots(struct registry *registry, const char *roots_pem)
{
    if (strcmp(registry->roots_pem, roots_pem) == 0)
        return;
    mem_free(registry->roots_pem);
    registry->roots_pem = mem_strdup(roots_pem);
    registry_set_dirty(registry);
}

void registry_set_crls(struct registry *registry, const char *crls_pem)
{
    if (strcmp(registry->crls_pem, crls_pem) == 0)
        return;
    mem_free(registry->crls_pem);
    registry->crls_pem = mem_strdup(crls_pem);
    if (registry_mesh(registry)->n_crls > 0)
        registry_set_dirty(registry);
}

/* ---------------------------------------------------------------- workloads */

static char *registry_text(const char *text)
{
    return mem_strndup(text, 256);
}

/* The process that joins is the one that was here just now. */
static void registry_take_over(struct registry *registry, const struct registry_join *join)
{
    struct workload *workload = registry_workload(registry, join->spiffe_id, join->instance);

    if (workload != NULL && workload->lost)
        registry_drop_workload(workload);
}

err_t registry_join(struct registry *registry, const struct registry_join *join,
                    struct workload **out)
{
    struct member *member = map_get(&registry->by_id, join->spiffe_id);
    const struct mesh_view view = registry_view(registry);
    const Mortise__Control__Epoch *epoch;
    CLEANUP(mem_freep) char *key = NULL;
    struct workload *workload;
    bool is_new_address;

    if (member == NULL)
        return FAIL(PEER_DENIED, 0);
    registry_take_over(registry, join);
    if (registry->totals.connected >= REGISTRY_WORKLOADS_MAX ||
        member->num_workloads >= REGISTRY_INSTANCES_MAX)
        return FAIL(LIMIT, REGISTRY_INSTANCES_MAX);
    workload = mem_zalloc(sizeof(*workload));
    workload->registry = registry;
    workload->number = ++registry->last_number;
    workload->member = member;
    workload->subsystem = mem_strdup(member->name);
    workload->spiffe_id = mem_strdup(member->spiffe_id);
    workload->instance = registry_text(join->instance);
    workload->build = registry_text(join->build);
    workload->address = registry_text(join->address);
    workload->connected_since_s = clock_wall_s(registry->clock);
    is_new_address = member_connect(member, workload->address);
    epoch = resources_epoch(&registry->resources, member->name);
    workload->content =
        member_content(member, &view, registry->version.value, epoch->epoch, epoch->spread_ms);
    if (workload->content->version == registry->version.value)
        registry->version_is_fresh = false; /* it has this number, so the next change has another */
    xds_stream_offer(&workload->xds, workload->content->version);
    list_add_tail(&registry->workloads, &workload->link);
    registry->totals.connected++;
    registry_count(workload);
    key = registry_instance_key(workload->spiffe_id, workload->instance);
    map_put(&registry->by_instance, key, workload);
    *out = workload;
    if (is_new_address)
        registry_set_dirty(registry);
    registry_emit(registry, REGISTRY_JOINED, workload);
    return OK;
}

static bool registry_is_denied(const struct registry *registry, const char *spiffe_id)
{
    static const uint8_t no_key[32];

    return err_is(registry_may_issue(registry, spiffe_id, no_key), E_PEER_REVOKED);
}

void registry_leave(struct workload *workload)
{
    workload->stream = NULL;
    workload->lost = true;
    workload->lost_ms = clock_mono_ms(workload->registry->clock);
    /* One whose subsystem has left the mesh, or is denied, does not come back. */
    if (workload->member == NULL || registry_is_denied(workload->registry, workload->spiffe_id))
        registry_drop_workload(workload);
}

/* Drops those that have lingered long enough. */
static void registry_expire(struct registry *registry, uint64_t now_ms)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &registry->workloads) {
        struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (workload->lost && now_ms - workload->lost_ms >= REGISTRY_LINGER_MS)
            registry_drop_workload(workload);
    }
}

static void registry_cut(char *text)
{
    if (strlen(text) > REGISTRY_SAID_MAX)
        text[str_utf8_cut(bytes_of_str(text), REGISTRY_SAID_MAX)] = '\0';
    for (unsigned char *at = (unsigned char *)text; *at != '\0'; at++) {
        if (*at < ' ' || *at == 0x7f)
            *at = '?'; /* it may come to an operator's terminal */
        else if (at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0)
            at[0] = at[1] = '?'; /* U+0080 to U+009F: control characters, too */
    }
}

/* What a sidecar says of itself is told to operators with what all others say: none may say so much
 * that nothing can be told. */
static void registry_take_status(struct workload *workload,
                                 const Mortise__V1__SidecarStatus *status)
{
    Mortise__V1__SidecarStatus some = *status;
    Mortise__V1__SidecarStatus *taken;

    if (some.n_ended > REGISTRY_REASONS_MAX)
        some.n_ended = REGISTRY_REASONS_MAX;
    if (some.n_plaintext > REGISTRY_PLAINTEXT_MAX)
        some.n_plaintext = REGISTRY_PLAINTEXT_MAX;
    if (some.n_keystores > MESH_KEYSTORES_MAX)
        some.n_keystores = MESH_KEYSTORES_MAX;
    taken = MSG_AS(Mortise__V1__SidecarStatus, mortise__v1__sidecar_status__descriptor,
                   pb_clone(&some.base));
    registry_cut(taken->renewal_error);
    registry_cut(taken->certificate_serial);
    for (size_t i = 0; i < taken->n_ended; i++)
        registry_cut(taken->ended[i]->reason);
    for (size_t i = 0; i < taken->n_plaintext; i++) {
        registry_cut(taken->plaintext[i]->link);
        registry_cut(taken->plaintext[i]->last_source);
    }
    for (size_t i = 0; i < taken->n_keystores; i++) {
        registry_cut(taken->keystores[i]->name);
        registry_cut(taken->keystores[i]->subject);
        registry_cut(taken->keystores[i]->dns_name);
        registry_cut(taken->keystores[i]->sha256);
        registry_cut(taken->keystores[i]->refused);
    }
    if (workload->status != NULL)
        pb_free(&workload->status->base);
    workload->status = taken;
}

static void registry_take_refusal(struct workload *workload, const Mortise__V1__ErrorDetail *error)
{
    Mortise__V1__ErrorDetail some = *error;
    Mortise__V1__ErrorDetail *taken;

    if (some.n_faults > REGISTRY_FAULTS_MAX)
        some.n_faults = REGISTRY_FAULTS_MAX;
    taken = MSG_AS(Mortise__V1__ErrorDetail, mortise__v1__error_detail__descriptor,
                   pb_clone(&some.base));
    registry_cut(taken->code);
    for (size_t i = 0; i < taken->n_faults; i++) {
        registry_cut(taken->faults[i]->path);
        registry_cut(taken->faults[i]->message);
    }
    workload->refused = taken;
}

void registry_report(struct workload *workload, enum xds_request kind,
                     const Mortise__V1__SidecarStatus *status,
                     const Mortise__V1__ErrorDetail *error)
{
    if (status != NULL)
        registry_take_status(workload, status);
    if (kind == XDS_ACK || kind == XDS_NACK) {
        if (workload->refused != NULL)
            pb_free(&workload->refused->base);
        workload->refused = NULL;
    }
    if (kind == XDS_NACK)
        registry_take_refusal(workload, error);
    registry_count(workload);
    registry_emit(workload->registry, REGISTRY_REPORTED, workload);
}

void registry_note_rollback(struct workload *workload, const Mortise__V1__DiscoveryRequest *nack)
{
    struct registry_totals *totals = &workload->registry->totals;

    if (workload->rollback != NULL) {
        pb_free(&workload->rollback->base);
        totals->rolled_back--;
    }
    workload->rollback = NULL;
    if (nack == NULL)
        return;
    workload->rollback = MSG_AS(Mortise__V1__DiscoveryRequest,
                                mortise__v1__discovery_request__descriptor, pb_clone(&nack->base));
    totals->rolled_back++;
}

int64_t registry_keystore_expires(struct registry *registry,
                                  const Mortise__V1__MeshKeystore *keystore)
{
    struct list *pos, *tmp;
    int64_t first = 0;

    if (!mesh_is_on_disk(keystore))
        return mesh_keystore_expires(keystore);
    LIST_EACH (pos, tmp, &registry->workloads) {
        const Mortise__V1__SidecarStatus *status = LIST_ITEM(pos, struct workload, link)->status;

        for (size_t i = 0; status != NULL && i < status->n_keystores; i++) {
            int64_t not_after = status->keystores[i]->not_after;

            if (strcmp(status->keystores[i]->name, keystore->name) == 0 &&
                (first == 0 || not_after < first))
                first = not_after;
        }
    }
    return first;
}

/* ------------------------------------------------------------------ refresh */

/* Adds the addresses that changed. */
static err_t registry_batch_addresses(struct registry *registry, struct vault_batch *batch)
{
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&registry->members, &iter, &name, &value)) {
        const struct member *member = value;
        Mortise__Control__Endpoints record = MORTISE__CONTROL__ENDPOINTS__INIT;
        char path[VAULT_PATH_MAX];
        char **texts;
        err_t err;

        if (!member->unsaved)
            continue;
        texts = mem_array(member->num_addresses, sizeof(*texts));
        member_save(member, &record, texts);
        vault_path(VAULT_ENDPOINTS, member->name, path);
        err = vault_batch_put(registry->vault, batch, path, &record.base, STORE_ANY);
        mem_free(texts);
        TRY(err);
    }
    return OK;
}

static void registry_saved(struct registry *registry)
{
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&registry->members, &iter, &name, &value))
        ((struct member *)value)->unsaved = false;
}

/* Computes all members; true when any content differs from what is out. */
static bool registry_compute(struct registry *registry)
{
    const struct mesh_view view = registry_view(registry);
    size_t iter = 0;
    const char *name;
    void *value;
    bool differs = false;

    while (map_next(&registry->members, &iter, &name, &value)) {
        struct member *member = value;

        if (member_compute(member, &view, registry_epoch(registry, member->name)))
            differs = true;
    }
    return differs;
}

static void registry_adopt(struct registry *registry)
{
    size_t iter = 0;
    const char *name;
    void *value;
    struct list *pos, *tmp;

    while (map_next(&registry->members, &iter, &name, &value)) {
        struct member *member = value;
        const Mortise__Control__Epoch *epoch = resources_epoch(&registry->resources, member->name);

        member_adopt(member, registry->version.value, epoch->epoch, epoch->spread_ms);
    }
    LIST_EACH (pos, tmp, &registry->workloads) {
        struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (workload->content == NULL || workload->content->version <= workload->xds.wanted_version)
            continue;
        xds_stream_offer(&workload->xds, workload->content->version);
        registry_count(workload);
        registry_emit(registry, REGISTRY_OFFERED, workload);
    }
}

/* Writes what a refresh has to write; when the store cannot, the mesh goes on without, as long as
 * there are versions: addresses are tried again by registry_tick. */
static void registry_persist(struct registry *registry, bool new_version)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    err_t err = OK;

    if (new_version)
        err = version_prepare(&registry->version, &batch);
    if (err_is_ok(err))
        err = registry_batch_addresses(registry, &batch);
    if (err_is_ok(err))
        err = vault_commit(registry->vault, &batch, NULL);
    if (err_is_ok(err)) {
        if (new_version)
            version_prepared(&registry->version);
        registry_saved(registry);
    } else {
        log_limited(LOG_WARN, "registry", "not_saved",
                    (const struct log_field[]){LOG_ERR("error", err)}, 1);
    }
}

void registry_refresh(struct registry *registry)
{
    bool differs, new_version;

    if (!registry->dirty)
        return;
    registry->dirty = false;
    differs = registry_compute(registry);
    new_version = differs && !registry->version_is_fresh;
    registry_persist(registry, new_version);
    registry->held = new_version && !version_has_next(&registry->version);
    if (registry->held)
        return; /* a number that may come back would say that sidecars have what they have not */
    if (new_version)
        registry->version.value++;
    registry->version_is_fresh = false;
    if (differs)
        registry_adopt(registry);
}

bool registry_is_held(const struct registry *registry)
{
    return registry->held;
}

void registry_tick(struct registry *registry)
{
    uint64_t now_ms = clock_mono_ms(registry->clock);
    size_t iter = 0;
    const char *name;
    void *value;
    bool again = false;
    err_t err;

    registry_expire(registry, now_ms);
    err = revocations_expire(&registry->revocations, clock_wall_s(registry->clock));
    if (!err_is_ok(err)) /* denied longer than needed; the next tick tries again */
        log_limited(LOG_WARN, "registry", "revocations_not_expired",
                    (const struct log_field[]){LOG_ERR("error", err)}, 1);
    while (map_next(&registry->members, &iter, &name, &value)) {
        struct member *member = value;

        again = member_expire(member, now_ms) || member->unsaved || again;
    }
    if (again || registry->held)
        registry_set_dirty(registry);
}

/* ------------------------------------------------------------------- reading */

void registry_observe(struct registry *registry, struct registry_observer *observer)
{
    list_add_tail(&registry->observers, &observer->link);
}

void registry_unobserve(struct registry *registry, struct registry_observer *observer)
{
    for (struct registry_cursor *cursor = registry->cursors; cursor != NULL;
         cursor = cursor->outer) {
        if (cursor->next == &observer->link)
            cursor->next = observer->link.next;
    }
    list_del(&observer->link);
}

const struct policy_set *registry_policies(const struct registry *registry)
{
    return registry->resources.policies;
}

const Mortise__V1__Mesh *registry_mesh(const struct registry *registry)
{
    return registry->resources.mesh->mesh;
}

uint64_t registry_mesh_version(const struct registry *registry)
{
    return registry->resources.mesh->version;
}

uint64_t registry_version(const struct registry *registry)
{
    return registry->version.value;
}

const char *registry_trust_domain(const struct registry *registry)
{
    return registry->trust_domain;
}

struct list *registry_workloads(struct registry *registry)
{
    return &registry->workloads;
}

struct registry_totals registry_totals(const struct registry *registry)
{
    return registry->totals;
}
