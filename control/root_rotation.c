#include "control/root_rotation.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/rpc/pb.h"

#define ROOT_ROTATION_SAVE_MS 250 /* newcomers are noted together */

/* A sidecar of the mesh, known whether or not a rotation is under way: one that is begun just after
 * a restart of the control plane must not overlook those that have not come back yet. It is
 * forgotten when it has been away for ROTATION_AWAIT_MS. */
struct root_party {
    char *subsystem;
    char *instance;
    uint64_t seen_ms; /* monotonic: when it was connected last, or this process began */
};

struct root_rotation {
    struct root_rotation_params params;
    Mortise__Control__RootRotation *record;
    uint64_t version; /* of its record */
    struct map parties;
    struct registry_observer observer;
    struct timer look; /* soon, once for many events */
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
    mem_free(party->subsystem);
    mem_free(party->instance);
    mem_free(party);
}

static struct root_party *root_rotation_party(struct root_rotation *rotation, const char *subsystem,
                                              const char *instance)
{
    struct root_party *party = map_get(&rotation->parties, instance);

    if (party != NULL)
        return party;
    party = mem_zalloc(sizeof(*party));
    party->subsystem = mem_strdup(subsystem);
    party->instance = mem_strdup(instance);
    party->seen_ms = root_rotation_now_ms(rotation);
    map_put(&rotation->parties, party->instance, party);
    return party;
}

static void root_rotation_forget(struct root_rotation *rotation, struct root_party *party)
{
    map_del(&rotation->parties, party->instance);
    root_party_free(party);
}

static struct rotation_party root_rotation_judge(const struct root_rotation *rotation,
                                                 const struct root_party *party,
                                                 const struct workload *workload)
{
    const Mortise__V1__SidecarStatus *status = workload != NULL ? workload->status : NULL;

    if (workload == NULL || workload->lost)
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

static void root_rotation_count_one(struct root_rotation *rotation, struct root_party *party,
                                    const struct workload *workload,
                                    struct root_rotation_count *count)
{
    struct rotation_party facts = root_rotation_judge(rotation, party, workload);
    const char *why = rotation_waits(rotation->record->stage, rotation->record->epoch, &facts);

    if (facts.connected)
        party->seen_ms = root_rotation_now_ms(rotation);
    count->total++;
    if (why == NULL)
        count->done++;
    else if (count->fn != NULL)
        count->fn(count->arg, party->subsystem, party->instance, why);
}

static void root_rotation_count(struct root_rotation *rotation, struct root_rotation_count *count)
{
    struct list *all = registry_workloads(rotation->params.registry);
    struct map here = {.num = 0}; /* workloads by instance */
    size_t iter = 0;
    const char *name;
    void *value;

    for (struct list *pos = all->next; pos != all; pos = pos->next) {
        struct workload *workload = LIST_ITEM(pos, struct workload, link);

        map_put(&here, workload->instance, workload);
    }
    while (map_next(&rotation->parties, &iter, &name, &value))
        root_rotation_count_one(rotation, value, map_get(&here, name), count);
    map_fini(&here);
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

    ca_root_sha256(rotation->params.ca, false, sha256);
    log_info("rotation", event, LOG_UINT("number", record->number),
             LOG_STR("stage", rotation_name(record->stage)), LOG_STR("signs", sha256),
             LOG_UINT("parties", map_num(&rotation->parties)),
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
    ca_root_sha256(params->ca, false, before);
    CHECK(err_is_ok(ca_reload(params->ca)));
    CHECK(err_is_ok(root_rotation_load(rotation)));
    ca_root_sha256(params->ca, false, after);
    registry_set_roots(params->registry, ca_roots_pem(params->ca));
    if (strcmp(before, after) != 0)
        params->on_switched(params->arg);
    root_rotation_log(rotation, "stage");
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

/* The other root signs from now on, and every leaf is to be made anew. */
static err_t root_rotation_switch(struct root_rotation *rotation,
                                  Mortise__Control__RootRotation *changed)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};

    TRY(ca_switch(rotation->params.ca, &batch));
    TRY(registry_put_epochs(rotation->params.registry, &batch, changed->spread_ms,
                            &changed->epoch));
    return root_rotation_commit(rotation, &batch, changed);
}

static err_t root_rotation_advance(struct root_rotation *rotation)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    rotation_stage next = rotation_next(rotation->record->stage);
    Mortise__Control__RootRotation changed = root_rotation_changed(rotation, next);

    if (next == ROTATION_REISSUE)
        return root_rotation_switch(rotation, &changed);
    if (next == ROTATION_RETIRE)
        TRY(ca_retire(rotation->params.ca, &batch));
    else
        changed.ended_at = changed.stage_since;
    return root_rotation_commit(rotation, &batch, &changed);
}

static void root_rotation_on_save(void *arg);

static void root_rotation_save_soon(struct root_rotation *rotation)
{
    timer_start(rotation->params.loop, &rotation->save, ROOT_ROTATION_SAVE_MS,
                root_rotation_on_save, rotation);
}

/* Those who are away for too long are forgotten. The count before has told who is not. */
static void root_rotation_drop_absent(struct root_rotation *rotation)
{
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&rotation->parties, &iter, &name, &value)) {
        struct root_party *party = value;

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

/* Goes on as long as nobody holds the stage up. */
static void root_rotation_look(struct root_rotation *rotation)
{
    for (;;) {
        struct root_rotation_count count = {.done = 0};
        err_t err;

        registry_refresh(rotation->params.registry);
        root_rotation_count(rotation, &count);
        root_rotation_drop_absent(rotation);
        if (root_rotation_is_idle(rotation) || count.done < count.total)
            return;
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

/* Who is denied is not waited for. */
static void root_rotation_forget_revoked(struct root_rotation *rotation)
{
    static const uint8_t no_key[32];
    const struct registry *registry = rotation->params.registry;
    size_t iter = 0;
    const char *name;
    void *value;
    bool any = false;

    while (map_next(&rotation->parties, &iter, &name, &value)) {
        struct root_party *party = value;
        const char *id = registry_spiffe_id(registry, party->subsystem);

        if (id != NULL && err_is(registry_may_issue(registry, id, no_key), E_PEER_REVOKED)) {
            root_rotation_forget(rotation, party);
            any = true;
        }
    }
    if (any)
        root_rotation_save_soon(rotation);
}

static void root_rotation_on_look(void *arg)
{
    root_rotation_forget_revoked(arg);
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

static void root_rotation_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    struct root_rotation *rotation = arg;
    struct root_party *party;

    if (workload == NULL && event == REGISTRY_MESH && !root_rotation_is_idle(rotation))
        timer_start(rotation->params.loop, &rotation->look, 0, root_rotation_on_look, rotation);
    if (workload == NULL)
        return;
    party = map_get(&rotation->parties, workload->instance);
    if (workload->member == NULL && party != NULL) { /* its subsystem has left the mesh */
        root_rotation_forget(rotation, party);
    } else if (event == REGISTRY_JOINED && workload->member != NULL) {
        if (party == NULL)
            root_rotation_save_soon(rotation);
        party = root_rotation_party(rotation, workload->subsystem, workload->instance);
        party->seen_ms = root_rotation_now_ms(rotation);
    } else if (event == REGISTRY_LEFT && party != NULL) {
        party->seen_ms = root_rotation_now_ms(rotation);
    }
    if (!root_rotation_is_idle(rotation))
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

err_t root_rotation_begin(struct root_rotation *rotation, uint32_t spread_ms)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    Mortise__Control__RootRotation changed = root_rotation_changed(rotation, ROTATION_DISTRIBUTE);

    if (!root_rotation_is_idle(rotation))
        return FAIL(EXISTS, 0);
    changed.number++;
    changed.began_at = changed.stage_since;
    changed.going_back = false;
    changed.spread_ms = spread_ms;
    TRY(ca_prepare(rotation->params.ca, &batch));
    TRY(root_rotation_commit(rotation, &batch, &changed));
    root_rotation_look(rotation);
    return OK;
}

err_t root_rotation_go_back(struct root_rotation *rotation, uint32_t spread_ms)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const Mortise__Control__RootRotation *record = rotation->record;
    Mortise__Control__RootRotation changed;

    if (root_rotation_is_idle(rotation))
        return FAIL(NOT_FOUND, 0);
    if (record->going_back || !rotation_can_go_back(record->stage))
        return FAIL(TOO_LATE, 0);
    if (record->stage == ROTATION_DISTRIBUTE) { /* it has signed nothing */
        changed = root_rotation_changed(rotation, ROTATION_RETIRE);
        changed.going_back = true;
        TRY(ca_retire(rotation->params.ca, &batch));
        TRY(root_rotation_commit(rotation, &batch, &changed));
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
    /* Another pair is there exactly while there are two roots to be given out. */
    if (err_is_ok(err) &&
        ca_has_other(params->ca) != (rotation->record->stage == ROTATION_DISTRIBUTE ||
                                     rotation->record->stage == ROTATION_REISSUE))
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
    timer_stop(rotation->params.loop, &rotation->look);
    timer_stop(rotation->params.loop, &rotation->save);
    root_rotation_disperse(rotation);
    map_fini(&rotation->parties);
    if (rotation->record != NULL)
        pb_free(&rotation->record->base);
    mem_free(rotation);
}
