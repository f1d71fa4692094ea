#include "control/plaintext_uses.h"

#include <stdio.h>
#include <string.h>

#include "control/mesh.h"
#include "control/msg.h"
#include "control/permissive.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/base/metrics.h"
#include "lib/rpc/pb.h"

/* What a sidecar has told of a link so far. */
struct plaintext_told {
    char *instance;
    uint64_t connections;
};

/* A link's. */
struct plaintext_use {
    Mortise__Control__PlaintextUse *record; /* owned */
    struct plaintext_told *told;
    size_t num_told;
    int64_t saved_at; /* 0: not yet */
};

struct plaintext_uses {
    struct vault *vault;
    struct registry *registry;
    const struct clock *clock;
    struct registry_observer observer;
    struct map by_link;
    bool untidy; /* there may be records of others */
};

struct plaintext_tidy {
    struct plaintext_uses *uses;
    struct vault_batch batch;
};

/* ---- records ---- */

static void plaintext_use_free(struct plaintext_use *use)
{
    if (use == NULL)
        return;
    for (size_t i = 0; i < use->num_told; i++)
        mem_free(use->told[i].instance);
    mem_free(use->told);
    pb_free(&use->record->base);
    mem_free(use);
}

static err_t plaintext_on_record(void *arg, const char *path, uint64_t version,
                                 const ProtobufCMessage *msg)
{
    struct plaintext_uses *uses = arg;
    struct plaintext_use *use = mem_zalloc(sizeof(*use));

    (void)version;
    use->record = MSG_AS(Mortise__Control__PlaintextUse,
                         mortise__control__plaintext_use__descriptor, pb_clone(msg));
    use->saved_at = use->record->last_at;
    plaintext_use_free(map_put(&uses->by_link, path + strlen(VAULT_PLAINTEXT), use));
    return OK;
}

/* What cannot be written now is written with the next use. */
static void plaintext_save(struct plaintext_uses *uses, const char *link, struct plaintext_use *use,
                           int64_t now_s)
{
    char path[VAULT_PATH_MAX];
    err_t err;

    if (use->saved_at != 0 && now_s - use->saved_at < PLAINTEXT_SAVE_S && now_s >= use->saved_at)
        return;
    vault_path(VAULT_PLAINTEXT, link, path);
    err = vault_put(uses->vault, path, &use->record->base, STORE_ANY, NULL);
    if (err_is_ok(err))
        use->saved_at = now_s;
    else
        log_limited(LOG_ERROR, "registry", "plaintext_use_not_saved",
                    (const struct log_field[]){LOG_STR("link", link), LOG_ERR("error", err)}, 2);
}

static err_t plaintext_on_stored(void *arg, const char *path, uint64_t version,
                                 const ProtobufCMessage *msg)
{
    struct plaintext_tidy *tidy = arg;

    (void)version;
    (void)msg;
    if (map_get(&tidy->uses->by_link, path + strlen(VAULT_PLAINTEXT)) == NULL)
        vault_batch_delete(&tidy->batch, path, STORE_ANY);
    return OK;
}

/* Removes the records of links that are of no interest any more. */
static void plaintext_tidy(struct plaintext_uses *uses)
{
    struct plaintext_tidy tidy = {.uses = uses};
    err_t err = vault_each(uses->vault, VAULT_PLAINTEXT, plaintext_on_stored, &tidy);

    if (err_is_ok(err))
        err = vault_commit(uses->vault, &tidy.batch, NULL);
    if (!err_is_ok(err))
        log_limited(LOG_ERROR, "registry", "plaintext_uses_not_removed",
                    (const struct log_field[]){LOG_ERR("error", err)}, 1);
    vault_batch_fini(&tidy.batch);
}

/* ---- hearing of sidecars ---- */

static struct plaintext_use *plaintext_use_for(struct plaintext_uses *uses, const char *link)
{
    struct plaintext_use *use = map_get(&uses->by_link, link);

    if (use != NULL)
        return use;
    use = mem_zalloc(sizeof(*use));
    use->record = mem_alloc(sizeof(*use->record));
    mortise__control__plaintext_use__init(use->record);
    (void)map_put(&uses->by_link, link, use);
    return use;
}

static struct plaintext_told *plaintext_told_by(struct plaintext_use *use, const char *instance)
{
    for (size_t i = 0; i < use->num_told; i++) {
        if (strcmp(use->told[i].instance, instance) == 0)
            return &use->told[i];
    }
    return NULL;
}

/* How many have come since the sidecar told last. At its first word in this process it is not known
 * how many of them it had told before: at least one, if it knows a later use than we. */
static uint64_t plaintext_new_ones(struct plaintext_use *use, const char *instance,
                                   const Mortise__V1__PlaintextUse *msg)
{
    struct plaintext_told *told = plaintext_told_by(use, instance);
    uint64_t before;

    if (told != NULL) {
        before = told->connections;
        told->connections = msg->connections;
        return msg->connections > before ? msg->connections - before : 0;
    }
    use->told = mem_realloc(use->told, (use->num_told + 1) * sizeof(*use->told));
    use->told[use->num_told++] =
        (struct plaintext_told){.instance = mem_strdup(instance), .connections = msg->connections};
    if (msg->connections == 0 || msg->last_at <= use->record->last_at)
        return 0;
    return use->record->last_at == 0 ? msg->connections : 1;
}

static void plaintext_set(char **field, const char *text)
{
    if (*field != protobuf_c_empty_string)
        mem_free(*field);
    *field = mem_strdup(text);
}

static void plaintext_note(struct plaintext_uses *uses, const struct workload *workload,
                           const Mortise__V1__PlaintextUse *msg)
{
    const Mortise__V1__Link *link = mesh_link(registry_mesh(uses->registry), msg->link);
    int64_t now_s = clock_wall_s(uses->clock);
    struct plaintext_use *use;
    int64_t last_at;
    uint64_t num;

    /* Of a link only its server's sidecars know. */
    if (link == NULL || link->permissive == NULL || strcmp(link->server, workload->subsystem) != 0)
        return;
    use = plaintext_use_for(uses, link->name);
    num = plaintext_new_ones(use, workload->instance, msg);
    last_at = msg->last_at < now_s ? msg->last_at : now_s; /* its clock may be off */
    use->record->connections += num;
    /* Later without new ones: who came before is still there. Earlier: another sidecar knows of a
     * later use, and that counts. */
    if (use->record->connections == 0 || last_at <= use->record->last_at)
        return;
    use->record->last_at = last_at;
    plaintext_set(&use->record->last_source, msg->last_source);
    plaintext_set(&use->record->told_by, workload->instance);
    plaintext_save(uses, link->name, use, now_s);
}

static void plaintext_forget_instance(struct plaintext_uses *uses, const char *instance)
{
    size_t iter = 0;
    void *value;

    while (map_next(&uses->by_link, &iter, NULL, &value)) {
        struct plaintext_use *use = value;
        struct plaintext_told *told = plaintext_told_by(use, instance);

        if (told == NULL)
            continue;
        mem_free(told->instance);
        *told = use->told[--use->num_told];
    }
}

/* Those of links that have no permissive port any more. */
static void plaintext_forget_links(struct plaintext_uses *uses)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(uses->registry);
    size_t iter = 0;
    const char *name;
    void *value;

    while (map_next(&uses->by_link, &iter, &name, &value)) {
        const Mortise__V1__Link *link = mesh_link(mesh, name);
        CLEANUP(mem_freep) char *copy = mem_strdup(name);

        if (link != NULL && link->permissive != NULL)
            continue;
        plaintext_use_free(map_del(&uses->by_link, copy));
        uses->untidy = true;
    }
}

void plaintext_uses_tick(struct plaintext_uses *uses)
{
    if (uses->untidy)
        plaintext_tidy(uses);
    uses->untidy = false;
}

static void plaintext_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    struct plaintext_uses *uses = arg;

    if (event == REGISTRY_MESH)
        plaintext_forget_links(uses);
    if (event == REGISTRY_LEFT)
        plaintext_forget_instance(uses, workload->instance);
    if (event != REGISTRY_REPORTED || workload->status == NULL || workload->subsystem == NULL)
        return;
    for (size_t i = 0; i < workload->status->n_plaintext; i++)
        plaintext_note(uses, workload, workload->status->plaintext[i]);
}

err_t plaintext_uses_open(struct vault *vault, struct registry *registry, const struct clock *clock,
                          struct plaintext_uses **out)
{
    struct plaintext_uses *uses = mem_zalloc(sizeof(*uses));
    err_t err;

    *uses = (struct plaintext_uses){
        .vault = vault,
        .registry = registry,
        .clock = clock,
        .observer = {.fn = plaintext_on_event, .arg = uses},
    };
    registry_observe(registry, &uses->observer);
    err = vault_each(vault, VAULT_PLAINTEXT, plaintext_on_record, uses);
    if (!err_is_ok(err)) {
        plaintext_uses_free(uses);
        return err;
    }
    plaintext_forget_links(uses);
    *out = uses;
    return OK;
}

void plaintext_uses_free(struct plaintext_uses *uses)
{
    size_t iter = 0;
    void *value;

    if (uses == NULL)
        return;
    registry_unobserve(uses->registry, &uses->observer);
    while (map_next(&uses->by_link, &iter, NULL, &value))
        plaintext_use_free(value);
    map_fini(&uses->by_link);
    mem_free(uses);
}

/* ---- telling ---- */

const Mortise__Control__PlaintextUse *plaintext_uses_of(const struct plaintext_uses *uses,
                                                        const char *link)
{
    const struct plaintext_use *use = map_get(&uses->by_link, link);

    return use != NULL && use->record->last_at != 0 ? use->record : NULL;
}

static bool plaintext_goes_on(const Mortise__V1__Link *link, const Mortise__V1__Mesh *after,
                              int64_t now_s)
{
    const Mortise__V1__Link *then = mesh_link(after, link->name);

    return then != NULL && permissive_until(then, now_s) != 0 &&
           then->permissive->port == link->permissive->port &&
           strcmp(then->server, link->server) == 0;
}

static int64_t plaintext_quiet_s(const Mortise__V1__Mesh *mesh)
{
    if (mesh->settings == NULL || mesh->settings->plaintext_quiet_s == 0)
        return MESH_PLAINTEXT_QUIET_S;
    return mesh->settings->plaintext_quiet_s;
}

void plaintext_uses_early(const struct plaintext_uses *uses, const Mortise__V1__Mesh *after,
                          struct faults *out)
{
    const Mortise__V1__Mesh *now = registry_mesh(uses->registry);
    int64_t now_s = clock_wall_s(uses->clock);
    int64_t quiet_s = plaintext_quiet_s(now), then_s = plaintext_quiet_s(after);

    if (then_s > quiet_s) /* the longer one: a change cannot shorten its own */
        quiet_s = then_s;
    for (size_t i = 0; i < now->n_links; i++) {
        const Mortise__V1__Link *link = now->links[i];
        const Mortise__Control__PlaintextUse *use = plaintext_uses_of(uses, link->name);
        char path[MESH_NAME_MAX + 8], at[21];

        if (permissive_until(link, now_s) == 0 || use == NULL || now_s - use->last_at >= quiet_s ||
            plaintext_goes_on(link, after, now_s))
            continue;
        clock_format_utc(use->last_at, at);
        (void)snprintf(path, sizeof(path), "link %.*s", MESH_NAME_MAX, link->name);
        faults_add(out, path, "plaintext was used %lld s ago (%s), last from %s; %llu times in all",
                   (long long)(now_s - use->last_at), at, use->last_source,
                   (unsigned long long)use->connections);
    }
}

#define PLAINTEXT_UNTIL "mortise_control_permissive_until_timestamp_seconds"
#define PLAINTEXT_LAST "mortise_control_plaintext_last_used_timestamp_seconds"
#define PLAINTEXT_TOTAL "mortise_control_plaintext_connections"

static err_t plaintext_write(const struct plaintext_uses *uses, const char *family, struct buf *out)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(uses->registry);
    int64_t now_s = clock_wall_s(uses->clock);

    for (size_t i = 0; i < mesh->n_links; i++) {
        const Mortise__V1__Link *link = mesh->links[i];
        const Mortise__Control__PlaintextUse *use = plaintext_uses_of(uses, link->name);
        const char *const labels[] = {"link", link->name, NULL};
        double value = (double)permissive_until(link, now_s);

        if (link->permissive == NULL)
            continue;
        if (strcmp(family, PLAINTEXT_LAST) == 0)
            value = use != NULL ? (double)use->last_at : 0;
        if (strcmp(family, PLAINTEXT_TOTAL) == 0)
            value = use != NULL ? (double)use->connections : 0;
        TRY(metrics_write_value(out, family, labels, value));
    }
    return OK;
}

err_t plaintext_uses_write(const struct plaintext_uses *uses, struct buf *out)
{
    static const char *const families[][2] = {
        {PLAINTEXT_UNTIL, "Until when a link takes plaintext; 0: it has ended by itself."},
        {PLAINTEXT_LAST, "When a link that takes plaintext was used so last; 0: never."},
        {PLAINTEXT_TOTAL, "Plaintext connections of a link that its sidecars have told of."},
    };

    for (size_t i = 0; i < ARRAY_LEN(families); i++) {
        TRY(metrics_write_gauge(out, families[i][0], families[i][1]));
        TRY(plaintext_write(uses, families[i][0], out));
    }
    return OK;
}
