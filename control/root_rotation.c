#include "control/root_rotation.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/rpc/pb.h"

#define ROOT_ROTATION_SAVE_MS 250       /* newcomers are noted together */
#define ROOT_ROTATION_SPREAD_MS 1800000 /* by itself; after an hour it counts as stuck */
#define ROOT_ROTATION_AGAIN_S 86400     /* not before, when an operator has turned one back */

/* A sidecar of the mesh, known whether or not a rotation is under way: one that is begun just after
 * a restart of the control plane must not overlook those that have not come back yet. It is
 * forgotten when it has been away for ROTATION_AWAIT_MS. */
struct root_party {
    char *key; /* what sidecars of two subsystems call themselves may be the same */
    char *subsystem;
    char *instance;
    const struct workload *workload; /* the registry's; NULL: it is away */
    uint64_t seen_ms; /* monotonic: when it was connected last, or this process began */
};

struct root_rotation {
    struct root_rotation_params params;
    Mortise__Control__RootRotation *record;
    uint64_t version;   /* of its record */
    struct map parties; /* by key */
    bool sift;          /* the mesh, or who is denied, has changed */
    struct registry_observer observer;
    struct timer look; /* soon, once for many events */
    struct timer settle;
    uint64_t done_ms; /* since then nobody holds the stage up; 0: somebody does */
    struct timer save;
};

static uint64_t root_rotation_now_ms(const struct root_rotation *rotation)
{
    return clock_mono_ms(loop_clock(rotation->params.loop));
}

static int64_t root_rotation_now_s(const struct root_rotation *rotation)
{
    return clock_wall_s(loop_clock(rotation->params.loop));
}

static bool root_rotation_is_idle(const struct root_rotation *rotation)
{
    return rotation->record->stage == ROTATION_IDLE;
}

/* ---- who takes part ---- */

static void root_party_free(struct root_party *party)
{
    mem_free(party->key);
    mem_free(party->subsystem);
    mem_free(party->instance);
    mem_free(party);
}

static char *root_party_key(const char *subsystem, const char *instance)
{
    return mem_printf("%s %s", subsystem, instance); /* no name has a space */
}

static struct root_party *root_rotation_find(const struct root_rotation *rotation,
                                             const struct workload *workload)
{
    CLEANUP(mem_freep) char *key = root_party_key(workload->subsystem, workload->instance);

    return map_get(&rotation->parties, key);
}

static struct root_party *root_rotation_party(struct root_rotation *rotation, const char *subsystem,
                                              const char *instance)
{
    CLEANUP(mem_freep) char *key = root_party_key(subsystem, instance);
    struct root_party *party = map_get(&rotation->parties, key);

    if (party != NULL)
        return party;
    party = mem_zalloc(sizeof(*party));
    party->key = key;
    key = NULL;
    party->subsystem = mem_strdup(subsystem);
    party->instance = mem_strdup(instance);
    party->seen_ms = root_rotation_now_ms(rotation);
    map_put(&rotation->parties, party->key, party);
    return party;
}

static void root_rotation_forget(struct root_rotation *rotation, struct root_party *party)
{
    map_del(&rotation->parties, party->key);
    root_party_free(party);
}

static bool root_party_is_here(const struct root_party *party)
{
    return party->workload != NULL && !party->workload->lost;
}

static struct rotation_party root_rotation_judge(const struct root_rotation *rotation,
                                                 const struct root_party *party)
{
    const struct workload *workload = party->workload;
    const Mortise__V1__SidecarStatus *status = workload != NULL ? workload->status : NULL;

    if (!root_party_is_here(party))
        return (struct rotation_party){
            .away_ms = root_rotation_now_ms(rotation) - party->seen_ms,
        };
    return (struct rotation_party){
        .connected = true,
        .in_sync = xds_stream_in_sync(&workload->xds),
        .refused = xds_stream_refused(&workload->xds),
        .epoch = status != NULL ? status->certificate_epoch : 0,
        .trouble = status != NULL ? status->renewal_error : "",
    };
}

struct root_rotation_count {
    size_t done;
    size_t total;
    void (*fn)(void *arg, const char *subsystem, const char *instance, const char *why);
    void *arg;
};

static void root_rotation_count_one(const struct root_rotation *rotation,
                                    const struct root_party *party,
                                    struct root_rotation_count *count)
{
    struct rotation_party facts = root_rotation_judge(rotation, party);
    const char *why = rotation_waits(rotation->record->stage, rotation->record->epoch, &facts);

    count->total++;
    if (why == NULL)
        count->done++;
    else if (count->fn != NULL)
        count->fn(count->arg, party->subsystem, party->instance, why);
}

static void root_rotation_count(const struct root_rotation *rotation,
                                struct root_rotation_count *count)
{
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&rotation->parties, &iter, &name, &value))
        root_rotation_count_one(rotation, value, count);
}

/* ---- the record ---- */

/* Adds the record with the parties of now, and `changed`'s other fields. */
static err_t root_rotation_put(struct root_rotation *rotation, struct vault_batch *batch,
                               const Mortise__Control__RootRotation *changed)
{
    Mortise__Control__RootRotation record = *changed;
    Mortise__Control__Party *parties = mem_array(map_num(&rotation->parties) + 1, sizeof(*parties));
    Mortise__Control__Party **list = mem_array(map_num(&rotation->parties) + 1, sizeof(*list));
    size_t iter = 0;
    const char *name;
    void *value;
    err_t err;

    record.n_parties = 0;
    record.parties = list;
    while (map_next(&rotation->parties, &iter, &name, &value)) {
        const struct root_party *party = value;
        Mortise__Control__Party *item = &parties[record.n_parties];

        mortise__control__party__init(item);
        item->subsystem = party->subsystem;
        item->instance = party->instance;
        list[record.n_parties++] = item;
    }
    err = vault_batch_put(rotation->params.vault, batch, VAULT_ROOT_ROTATION, &record.base,
                          rotation->version);
    mem_free(list);
    mem_free(parties);
    return err;
}

/* Takes the record from the store, or an empty one when there is none. */
static err_t root_rotation_load(struct root_rotation *rotation)
{
    ProtobufCMessage *msg = NULL;
    uint64_t version = STORE_ABSENT;
    err_t err = vault_get(rotation->params.vault, VAULT_ROOT_ROTATION, &msg, &version);

    if (!err_is(err, E_NOT_FOUND))
        TRY(err);
    if (rotation->record != NULL)
        pb_free(&rotation->record->base);
    if (msg != NULL) {
        rotation->record = MSG_AS(Mortise__Control__RootRotation,
                                  mortise__control__root_rotation__descriptor, msg);
    } else {
        rotation->record = mem_alloc(sizeof(*rotation->record));
        mortise__control__root_rotation__init(rotation->record);
        version = STORE_ABSENT;
    }
    rotation->version = version;
    return OK;
}

static void root_rotation_log(const struct root_rotation *rotation, const char *event)
{
    const Mortise__Control__RootRotation *record = rotation->record;
    char sha256[CA_SHA256_HEX];

    ca_issuer_key_sha256(rotation->params.ca, false, sha256);
    log_info("rotation", event, LOG_STR("of", rotation_kind_name(record->kind)),
             LOG_UINT("number", record->number), LOG_STR("stage", rotation_name(record->stage)),
             LOG_STR("issuer_key", sha256), LOG_UINT("parties", map_num(&rotation->parties)),
             LOG_STR("waits_for", rotation_says(record->stage)));
}

/* Commits `batch` with the record; then memory follows. That the store can be written but not read
 * back ends the process: what it would sign with is not what the store says. */
static err_t root_rotation_commit(struct root_rotation *rotation, struct vault_batch *batch,
                                  const Mortise__Control__RootRotation *changed)
{
    const struct root_rotation_params *params = &rotation->params;
    char before[CA_SHA256_HEX];
    char after[CA_SHA256_HEX];

    TRY(root_rotation_put(rotation, batch, changed));
    TRY(vault_commit(params->vault, batch, NULL));
    ca_issuer_key_sha256(params->ca, false, before);
    CHECK(err_is_ok(root_rotation_load(rotation)));
    CHECK(err_is_ok(ca_reload(params->ca))); /* then: who hears of it may fail to write */
    ca_issuer_key_sha256(params->ca, false, after);
    registry_set_roots(params->registry, ca_roots_pem(params->ca));
    if (strcmp(before, after) != 0)
        params->on_switched(params->arg);
    root_rotation_log(rotation, "stage");
    params->on_stage(params->arg);
    registry_refresh(params->registry); /* the pushes go out now */
    return OK;
}

/* ---- stages ---- */

static Mortise__Control__RootRotation root_rotation_changed(const struct root_rotation *rotation,
                                                            rotation_stage stage)
{
    Mortise__Control__RootRotation changed = *rotation->record;

    changed.stage = stage;
    changed.stage_since = root_rotation_now_s(rotation);
    return changed;
}

/* The other issuer signs from now on, and every leaf is to be made anew. */
static err_t root_rotation_switch(struct root_rotation *rotation,
                                  Mortise__Control__RootRotation *changed)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};

    TRY(ca_switch(rotation->params.ca, &batch));
    TRY(registry_put_epochs(rotation->params.registry, &batch, changed->spread_ms,
                            &changed->epoch));
    return root_rotation_commit(rotation, &batch, changed);
}

/* The other issuer, and its root when it has one of its own, goes for good. */
static err_t root_rotation_retire(struct root_rotation *rotation,
                                  const Mortise__Control__RootRotation *changed)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    Mortise__Control__RootRotation whole = *changed;
    char key_sha256[CA_SHA256_HEX];

    ca_issuer_key_sha256(rotation->params.ca, true, key_sha256);
    whole.retired_key_sha256 = key_sha256;
    TRY(ca_retire(rotation->params.ca, &batch));
    return root_rotation_commit(rotation, &batch, &whole);
}

static err_t root_rotation_advance(struct root_rotation *rotation)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    rotation_stage next = rotation_next(rotation->record->kind, rotation->record->stage);
    Mortise__Control__RootRotation changed = root_rotation_changed(rotation, next);

    if (next == ROTATION_REISSUE)
        return root_rotation_switch(rotation, &changed);
    if (next == ROTATION_RETIRE)
        return root_rotation_retire(rotation, &changed);
    changed.ended_at = changed.stage_since;
    return root_rotation_commit(rotation, &batch, &changed);
}

static void root_rotation_on_save(void *arg);

static void root_rotation_save_soon(struct root_rotation *rotation)
{
    timer_start(rotation->params.loop, &rotation->save, ROOT_ROTATION_SAVE_MS,
                root_rotation_on_save, rotation);
}

/* Those who are away for too long are forgotten. */
static void root_rotation_drop_absent(struct root_rotation *rotation)
{
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&rotation->parties, &iter, &name, &value)) {
        struct root_party *party = value;

        if (root_party_is_here(party))
            party->seen_ms = root_rotation_now_ms(rotation);
        if (root_rotation_now_ms(rotation) - party->seen_ms < ROTATION_AWAIT_MS)
            continue;
        if (!root_rotation_is_idle(rotation))
            log_warn("rotation", "went_on_without", LOG_STR("subsystem", party->subsystem),
                     LOG_STR("instance", party->instance),
                     LOG_STR("stage", rotation_name(rotation->record->stage)));
        root_rotation_forget(rotation, party);
        root_rotation_save_soon(rotation);
    }
}

/* Who is denied, or whose subsystem has left the mesh, is not waited for. */
static void root_rotation_forget_outcasts(struct root_rotation *rotation)
{
    static const uint8_t no_key[32];
    const struct registry *registry = rotation->params.registry;
    size_t iter = 0;
    const char *name;
    void *value;
    bool any = false;

    if (!rotation->sift)
        return;
    rotation->sift = false;
    while (map_next(&rotation->parties, &iter, &name, &value)) {
        struct root_party *party = value;
        const char *id = registry_spiffe_id(registry, party->subsystem);

        if (id == NULL || err_is(registry_may_issue(registry, id, no_key), E_PEER_REVOKED)) {
            root_rotation_forget(rotation, party);
            any = true;
        }
    }
    if (any)
        root_rotation_save_soon(rotation);
}

static void root_rotation_on_look(void *arg);

/* Nobody holds the stage up; where a root goes next, that must have been so for a while. */
static bool root_rotation_has_settled(struct root_rotation *rotation)
{
    uint64_t now_ms = root_rotation_now_ms(rotation);

    if (rotation->record->stage != ROTATION_REISSUE || !ca_has_other_root(rotation->params.ca))
        return true;
    if (rotation->done_ms == 0) {
        rotation->done_ms = now_ms;
        timer_start(rotation->params.loop, &rotation->settle, ROTATION_SETTLE_MS,
                    root_rotation_on_look, rotation);
    }
    return now_ms - rotation->done_ms >= ROTATION_SETTLE_MS;
}

/* Goes on as long as nobody holds the stage up. */
static void root_rotation_look(struct root_rotation *rotation)
{
    for (;;) {
        struct root_rotation_count count = {.done = 0};
        err_t err;

        registry_refresh(rotation->params.registry);
        root_rotation_drop_absent(rotation);
        if (root_rotation_is_idle(rotation) || registry_is_held(rotation->params.registry))
            return;
        root_rotation_forget_outcasts(rotation);
        root_rotation_count(rotation, &count);
        if (count.done < count.total) {
            rotation->done_ms = 0;
            return;
        }
        if (count.total > 0 && !root_rotation_has_settled(rotation))
            return;
        rotation->done_ms = 0;
        err = root_rotation_advance(rotation);
        if (!err_is_ok(err)) { /* the next tick tries again */
            log_error("rotation", "cannot_advance",
                      LOG_STR("stage", rotation_name(rotation->record->stage)),
                      LOG_ERR("error", err));
            return;
        }
    }
}

/* ---- events ---- */

static void root_rotation_on_look(void *arg)
{
    root_rotation_look(arg);
}

static void root_rotation_on_save(void *arg)
{
    struct root_rotation *rotation = arg;
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    err_t err;

    err = root_rotation_put(rotation, &batch, rotation->record);
    if (err_is_ok(err))
        err = vault_commit(rotation->params.vault, &batch, NULL);
    if (err_is_ok(err))
        err = root_rotation_load(rotation);
    if (!err_is_ok(err)) /* the stage's end writes them too */
        log_error("rotation", "parties_not_noted", LOG_ERR("error", err));
}

/* It is here, or comes: one that was not known is noted. */
static void root_rotation_meet(struct root_rotation *rotation, const struct workload *workload)
{
    if (root_rotation_find(rotation, workload) == NULL)
        root_rotation_save_soon(rotation);
    root_rotation_party(rotation, workload->subsystem, workload->instance)->workload = workload;
}

static void root_rotation_see(struct root_rotation *rotation, enum registry_event event,
                              const struct workload *workload)
{
    struct root_party *party = root_rotation_find(rotation, workload);

    if (event == REGISTRY_JOINED && workload->member != NULL) {
        root_rotation_meet(rotation, workload);
        return;
    }
    if (event != REGISTRY_LEFT || party == NULL || party->workload != workload)
        return;
    party->workload = NULL;
    party->seen_ms = root_rotation_now_ms(rotation);
}

static void root_rotation_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    struct root_rotation *rotation = arg;

    if (event == REGISTRY_MESH)
        rotation->sift = true;
    if (workload != NULL)
        root_rotation_see(rotation, event, workload);
    if ((workload != NULL || event == REGISTRY_MESH) && !root_rotation_is_idle(rotation))
        timer_start(rotation->params.loop, &rotation->look, 0, root_rotation_on_look, rotation);
}

void root_rotation_tick(struct root_rotation *rotation)
{
    root_rotation_look(rotation);
}

/* ---- orders ---- */

static void root_rotation_disperse(struct root_rotation *rotation)
{
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&rotation->parties, &iter, &name, &value))
        root_rotation_forget(rotation, value);
}

/* The record of one that begins with `stage`. */
static Mortise__Control__RootRotation root_rotation_first(const struct root_rotation *rotation,
                                                          rotation_kind kind, rotation_stage stage,
                                                          uint32_t spread_ms)
{
    Mortise__Control__RootRotation changed = root_rotation_changed(rotation, stage);

    changed.number++;
    changed.began_at = changed.stage_since;
    changed.kind = kind;
    changed.going_back = false;
    changed.spread_ms = spread_ms;
    return changed;
}

err_t root_rotation_import(struct root_rotation *rotation, const struct bytes *certs, size_t num,
                           uint32_t spread_ms, struct faults *faults)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    Mortise__Control__RootRotation changed;
    enum ca_import import;
    rotation_kind kind;

    if (!root_rotation_is_idle(rotation))
        return FAIL(EXISTS, 0);
    TRY(ca_prepare_import(rotation->params.ca, &batch, certs, num, faults, &import));
    kind = import == CA_IMPORT_SAME_ROOT ? ROTATION_OF_ISSUER : ROTATION_OF_ROOT;
    changed = root_rotation_first(
        rotation, kind,
        import == CA_IMPORT_FIRST ? ROTATION_IDLE : rotation_next(kind, ROTATION_IDLE), spread_ms);
    if (import == CA_IMPORT_FIRST)
        changed.ended_at = changed.began_at;
    TRY(root_rotation_commit(rotation, &batch, &changed));
    root_rotation_look(rotation);
    return OK;
}

err_t root_rotation_begin(struct root_rotation *rotation, rotation_kind kind, uint32_t spread_ms)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    Mortise__Control__RootRotation changed =
        root_rotation_first(rotation, kind, rotation_next(kind, ROTATION_IDLE), spread_ms);

    if (!root_rotation_is_idle(rotation))
        return FAIL(EXISTS, 0);
    TRY(kind == ROTATION_OF_ROOT ? ca_prepare(rotation->params.ca, &batch)
                                 : ca_prepare_issuer(rotation->params.ca, &batch));
    TRY(root_rotation_commit(rotation, &batch, &changed));
    root_rotation_look(rotation);
    return OK;
}

err_t root_rotation_maintain(struct root_rotation *rotation)
{
    const Mortise__Control__RootRotation *record = rotation->record;

    if (!ca_issuer_is_old(rotation->params.ca) || !root_rotation_is_idle(rotation))
        return OK;
    if (record->going_back &&
        root_rotation_now_s(rotation) - record->ended_at < ROOT_ROTATION_AGAIN_S)
        return OK;
    log_info("rotation", "issuer_is_old",
             LOG_INT("not_after", ca_issuer_not_after(rotation->params.ca)));
    return root_rotation_begin(rotation, ROTATION_OF_ISSUER, ROOT_ROTATION_SPREAD_MS);
}

err_t root_rotation_go_back(struct root_rotation *rotation, uint32_t spread_ms)
{
    const Mortise__Control__RootRotation *record = rotation->record;
    Mortise__Control__RootRotation changed;

    if (root_rotation_is_idle(rotation))
        return FAIL(NOT_FOUND, 0);
    if (record->going_back || !rotation_can_go_back(record->stage))
        return FAIL(TOO_LATE, 0);
    if (!rotation_has_switched(record->stage)) { /* the new one has signed nothing */
        changed = root_rotation_changed(rotation, ROTATION_RETIRE);
        changed.going_back = true;
        TRY(root_rotation_retire(rotation, &changed));
    } else {
        changed = root_rotation_changed(rotation, ROTATION_REISSUE);
        changed.going_back = true;
        changed.spread_ms = spread_ms;
        TRY(root_rotation_switch(rotation, &changed));
    }
    root_rotation_look(rotation);
    return OK;
}

/* ---- telling ---- */

struct root_rotation_state root_rotation_state(struct root_rotation *rotation)
{
    const Mortise__Control__RootRotation *record = rotation->record;
    struct root_rotation_count count = {.done = 0};

    if (!root_rotation_is_idle(rotation))
        root_rotation_count(rotation, &count);
    return (struct root_rotation_state){
        .kind = record->kind,
        .retired_key_sha256 = record->retired_key_sha256,
        .stage = record->stage,
        .number = record->number,
        .epoch = record->epoch,
        .began_at = record->began_at,
        .stage_since = record->stage_since,
        .ended_at = record->ended_at,
        .going_back = record->going_back,
        .done = count.done,
        .total = count.total,
    };
}

void root_rotation_each_waiting(struct root_rotation *rotation,
                                void (*fn)(void *arg, const char *subsystem, const char *instance,
                                           const char *why),
                                void *arg)
{
    struct root_rotation_count count = {.fn = fn, .arg = arg};

    if (!root_rotation_is_idle(rotation))
        root_rotation_count(rotation, &count);
}

/* ---- life ---- */

err_t root_rotation_open(const struct root_rotation_params *params, struct root_rotation **out)
{
    struct root_rotation *rotation = mem_zalloc(sizeof(*rotation));
    err_t err;

    rotation->params = *params;
    err = root_rotation_load(rotation);
    if (err_is_ok(err) && ca_has_other(params->ca) != rotation_has_two(rotation->record->stage))
        err = FAIL(STORE_CORRUPT, 0);
    if (!err_is_ok(err)) {
        root_rotation_close(rotation);
        return err;
    }
    for (size_t i = 0; i < rotation->record->n_parties; i++)
        (void)root_rotation_party(rotation, rotation->record->parties[i]->subsystem,
                                  rotation->record->parties[i]->instance);
    rotation->observer = (struct registry_observer){.fn = root_rotation_on_event, .arg = rotation};
    registry_observe(params->registry, &rotation->observer);
    if (!root_rotation_is_idle(rotation))
        root_rotation_log(rotation, "goes_on");
    *out = rotation;
    return OK;
}

void root_rotation_close(struct root_rotation *rotation)
{
    if (rotation == NULL)
        return;
    if (rotation->observer.fn != NULL)
        registry_unobserve(rotation->params.registry, &rotation->observer);
    timer_stop(rotation->params.loop, &rotation->settle);
    timer_stop(rotation->params.loop, &rotation->look);
    timer_stop(rotation->params.loop, &rotation->save);
    root_rotation_disperse(rotation);
    map_fini(&rotation->parties);
    if (rotation->record != NULL)
        pb_free(&rotation->record->base);
    mem_free(rotation);
}
