#include "control/resources.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

err_t resources_create(struct vault *vault, struct vault_batch *batch, uint64_t version,
                       int64_t now_s)
{
    Mortise__Control__MeshRecord mesh = MORTISE__CONTROL__MESH_RECORD__INIT;
    Mortise__Control__Epochs epochs = MORTISE__CONTROL__EPOCHS__INIT;
    err_t err;

    mesh.version = version;
    mesh.changed_at = now_s;
    mesh.mesh = mesh_default();
    err = vault_batch_put(vault, batch, VAULT_MESH, &mesh.base, STORE_ABSENT);
    pb_free(&mesh.mesh->base);
    TRY(err);
    return vault_batch_put(vault, batch, VAULT_EPOCHS, &epochs.base, STORE_ABSENT);
}

/* What was taken in by an older program and would be refused today stays in force, and is told. */
static err_t resources_check(const Mortise__V1__Mesh *mesh, struct faults *faults)
{
    struct faults warnings = {0};
    err_t err = mesh_check_stored(mesh, faults, &warnings);

    for (size_t i = 0; i < warnings.num; i++)
        log_warn("registry", "mesh_questionable", LOG_STR("path", warnings.items[i].path),
                 LOG_STR("fault", warnings.items[i].message));
    faults_fini(&warnings);
    for (size_t i = 0; i < mesh->n_profiles; i++) {
        if (mesh_is_built_in(MESH_PROFILES, mesh->profiles[i]->name) &&
            !mesh_is_as_built_in(MESH_PROFILES, &mesh->profiles[i]->base))
            log_warn("registry", "built_in_profile_changed",
                     LOG_STR("profile", mesh->profiles[i]->name));
    }
    return err;
}

static err_t resources_load_mesh(struct resources *resources, struct faults *faults)
{
    Mortise__Control__MeshRecord *mesh;
    ProtobufCMessage *msg = NULL;
    uint64_t record;

    TRY(vault_get(resources->vault, VAULT_MESH, &msg, &record));
    mesh = MSG_AS(Mortise__Control__MeshRecord, mortise__control__mesh_record__descriptor, msg);
    if (mesh->mesh != NULL)
        mesh_complete(mesh->mesh);
    if (mesh->mesh == NULL || !err_is_ok(resources_check(mesh->mesh, faults))) {
        pb_free(msg);
        return FAIL(STORE_CORRUPT, 0);
    }
    policy_set_free(resources->policies); /* it borrows from the mesh */
    if (resources->mesh != NULL)
        pb_free(&resources->mesh->base);
    resources->mesh = mesh;
    resources->policies = policy_set_new(mesh->mesh->policies, mesh->mesh->n_policies);
    resources->mesh_record = record;
    return OK;
}

static err_t resources_load_epochs(struct resources *resources)
{
    ProtobufCMessage *msg = NULL;
    uint64_t record;

    TRY(vault_get(resources->vault, VAULT_EPOCHS, &msg, &record));
    if (resources->epochs != NULL)
        pb_free(&resources->epochs->base);
    resources->epochs = MSG_AS(Mortise__Control__Epochs, mortise__control__epochs__descriptor, msg);
    resources->epochs_record = record;
    return OK;
}

static void resources_on_mesh_stored(void *arg, const struct store_change *change,
                                     uint64_t revision)
{
    struct resources *resources = arg;
    struct faults faults = {0};
    err_t err = resources_load_mesh(resources, &faults);

    (void)change;
    (void)revision;
    resources->unread = err;
    if (err_is_ok(err))
        resources->on_mesh(resources->arg);
    else /* what is in force stays */
        log_error("registry", "mesh_refused", LOG_ERR("error", err),
                  LOG_STR("path", faults.num > 0 ? faults.items[0].path : NULL));
    faults_fini(&faults);
}

static void resources_on_epochs_stored(void *arg, const struct store_change *change,
                                       uint64_t revision)
{
    struct resources *resources = arg;
    err_t err = resources_load_epochs(resources);

    (void)change;
    (void)revision;
    resources->unread = err;
    if (err_is_ok(err))
        resources->on_epochs(resources->arg);
    else
        log_error("registry", "epochs_unreadable", LOG_ERR("error", err));
}

err_t resources_open(struct resources *resources, struct faults *faults)
{
    err_t err;

    resources->mesh_watch = (struct store_watch){
        .prefix = VAULT_MESH, .fn = resources_on_mesh_stored, .arg = resources};
    resources->epochs_watch = (struct store_watch){
        .prefix = VAULT_EPOCHS, .fn = resources_on_epochs_stored, .arg = resources};
    store_watch(vault_store(resources->vault), &resources->mesh_watch);
    store_watch(vault_store(resources->vault), &resources->epochs_watch);
    err = resources_load_epochs(resources);
    if (err_is_ok(err))
        err = resources_load_mesh(resources, faults);
    return err_is(err, E_NOT_FOUND) ? FAIL(STORE_CORRUPT, 0) : err;
}

void resources_close(struct resources *resources)
{
    if (resources->mesh_watch.fn != NULL) {
        store_unwatch(&resources->mesh_watch);
        store_unwatch(&resources->epochs_watch);
    }
    policy_set_free(resources->policies);
    resources->policies = NULL;
    if (resources->mesh != NULL)
        pb_free(&resources->mesh->base);
    if (resources->epochs != NULL)
        pb_free(&resources->epochs->base);
    resources->mesh = NULL;
    resources->epochs = NULL;
}

err_t resources_put_mesh(struct resources *resources, struct vault_batch *batch,
                         const Mortise__Control__MeshRecord *mesh)
{
    return vault_batch_put(resources->vault, batch, VAULT_MESH, &mesh->base,
                           resources->mesh_record);
}

static bool resources_in(const char *const *names, size_t num, const char *name)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

err_t resources_rotate(struct resources *resources, const char *const *subsystems, size_t num,
                       uint32_t spread_ms, uint64_t *out_epoch)
{
    const Mortise__Control__Epochs *old = resources->epochs;
    Mortise__Control__Epochs record = MORTISE__CONTROL__EPOCHS__INIT;
    Mortise__Control__Epoch *added = mem_array(num, sizeof(*added));
    err_t err;

    record.last = old->last + 1;
    record.subsystems = mem_array(old->n_subsystems + num, sizeof(*record.subsystems));
    for (size_t i = 0; i < old->n_subsystems; i++) {
        Mortise__Control__Epoch *epoch = old->subsystems[i];

        /* Of a subsystem that has left the mesh nothing is kept. */
        if (!resources_in(subsystems, num, epoch->subsystem) &&
            mesh_subsystem(resources->mesh->mesh, epoch->subsystem) != NULL)
            record.subsystems[record.n_subsystems++] = epoch;
    }
    for (size_t i = 0; i < num; i++) {
        added[i] = (Mortise__Control__Epoch)MORTISE__CONTROL__EPOCH__INIT;
        added[i].subsystem = msg_lend(subsystems[i]);
        added[i].epoch = record.last;
        added[i].spread_ms = spread_ms;
        added[i].raised_at = clock_wall_s(resources->clock);
        record.subsystems[record.n_subsystems++] = &added[i];
    }
    record.all = old->all;
    *out_epoch = record.last;
    err = vault_put(resources->vault, VAULT_EPOCHS, &record.base, resources->epochs_record, NULL);
    mem_free(record.subsystems);
    mem_free(added);
    TRY(err);
    return resources->unread;
}

err_t resources_put_epochs(struct resources *resources, struct vault_batch *batch,
                           uint32_t spread_ms, uint64_t *out_epoch)
{
    Mortise__Control__Epochs record = MORTISE__CONTROL__EPOCHS__INIT;
    Mortise__Control__Epoch all = MORTISE__CONTROL__EPOCH__INIT;

    record.last = resources->epochs->last + 1;
    record.all = &all; /* above all that subsystems have of their own */
    all.epoch = record.last;
    all.spread_ms = spread_ms;
    all.raised_at = clock_wall_s(resources->clock);
    *out_epoch = record.last;
    return vault_batch_put(resources->vault, batch, VAULT_EPOCHS, &record.base,
                           resources->epochs_record);
}

err_t resources_reserve_epochs(struct resources *resources, uint64_t last)
{
    Mortise__Control__Epochs record = *resources->epochs;

    if (last <= record.last)
        return OK;
    if (last - record.last > RESOURCES_EPOCHS_LOST_MAX)
        last = record.last + RESOURCES_EPOCHS_LOST_MAX;
    record.last = last;
    return vault_put(resources->vault, VAULT_EPOCHS, &record.base, resources->epochs_record, NULL);
}

const Mortise__Control__Epoch *resources_epoch(const struct resources *resources,
                                               const char *subsystem)
{
    static const Mortise__Control__Epoch none = MORTISE__CONTROL__EPOCH__INIT;

    /* Epochs only grow, and that of all leaves none of their own: where there is one it is later.
     */
    for (size_t i = 0; i < resources->epochs->n_subsystems; i++) {
        if (strcmp(resources->epochs->subsystems[i]->subsystem, subsystem) == 0)
            return resources->epochs->subsystems[i];
    }
    return resources->epochs->all != NULL ? resources->epochs->all : &none;
}
