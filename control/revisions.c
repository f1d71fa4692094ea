#include "control/revisions.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

/* Their order by path is that by number. */
static void revisions_path(const char *prefix, uint64_t version, char out[VAULT_PATH_MAX])
{
    char name[24];

    (void)snprintf(name, sizeof(name), "%020" PRIu64, version);
    vault_path(prefix, name, out);
}

/* ---- what is in memory ---- */

static void revisions_drop_at(struct revisions *revisions, size_t at)
{
    pb_free(&revisions->items[at]->base);
    revisions->num--;
    memmove(&revisions->items[at], &revisions->items[at + 1],
            (revisions->num - at) * sizeof(*revisions->items));
}

/* Takes `item`; one of the same number is replaced. */
static void revisions_take(struct revisions *revisions, Mortise__Control__Revision *item)
{
    size_t at = revisions->num;

    while (at > 0 && revisions->items[at - 1]->version >= item->version)
        at--;
    if (at < revisions->num && revisions->items[at]->version == item->version)
        revisions_drop_at(revisions, at);
    revisions->items =
        mem_realloc(revisions->items, (revisions->num + 1) * sizeof(*revisions->items));
    memmove(&revisions->items[at + 1], &revisions->items[at],
            (revisions->num - at) * sizeof(*revisions->items));
    revisions->items[at] = item;
    revisions->num++;
}

static err_t revisions_see(void *arg, const char *path, uint64_t version,
                           const ProtobufCMessage *msg)
{
    (void)path;
    (void)version;
    revisions_take(arg, MSG_AS(Mortise__Control__Revision, mortise__control__revision__descriptor,
                               pb_clone(msg)));
    return OK;
}

static void revisions_forget(struct revisions *revisions, const char *path)
{
    for (size_t i = 0; i < revisions->num; i++) {
        char known[VAULT_PATH_MAX];

        revisions_path(VAULT_REVISIONS, revisions->items[i]->version, known);
        if (strcmp(known, path) == 0) {
            revisions_drop_at(revisions, i);
            return;
        }
    }
}

static void revisions_on_stored(void *arg, const struct store_change *change, uint64_t number)
{
    struct revisions *revisions = arg;
    ProtobufCMessage *msg = NULL;
    err_t err;

    (void)number;
    if (change->remove) {
        revisions_forget(revisions, change->key);
        return;
    }
    err = vault_get(revisions->vault, change->key, &msg, NULL);
    if (err_is_ok(err))
        revisions_take(revisions, MSG_AS(Mortise__Control__Revision,
                                         mortise__control__revision__descriptor, msg));
    else /* the next start tells what is wrong with the store */
        log_error("registry", "revision_unreadable", LOG_STR("path", change->key),
                  LOG_ERR("error", err));
}

err_t revisions_open(struct revisions *revisions)
{
    revisions->watch = (struct store_watch){
        .prefix = VAULT_REVISIONS, .fn = revisions_on_stored, .arg = revisions};
    store_watch(vault_store(revisions->vault), &revisions->watch);
    return vault_each(revisions->vault, VAULT_REVISIONS, revisions_see, revisions);
}

void revisions_close(struct revisions *revisions)
{
    if (revisions->watch.fn != NULL)
        store_unwatch(&revisions->watch);
    while (revisions->num > 0)
        revisions_drop_at(revisions, revisions->num - 1);
    mem_free(revisions->items);
    revisions->items = NULL;
}

/* ---- a new one ---- */

/* Room for a mesh of `size` bytes: the oldest go. */
static void revisions_prune(const struct revisions *revisions, struct vault_batch *batch,
                            uint64_t size)
{
    size_t left = revisions->num;
    uint64_t bytes = size;

    for (size_t i = 0; i < revisions->num; i++)
        bytes += revisions->items[i]->size;
    for (size_t i = 0; left >= REVISIONS_KEPT || (left > 0 && bytes > REVISIONS_BYTES_MAX); i++) {
        char path[VAULT_PATH_MAX];

        revisions_path(VAULT_REVISIONS, revisions->items[i]->version, path);
        vault_batch_delete(batch, path, STORE_ANY);
        revisions_path(VAULT_REVISION_MESHES, revisions->items[i]->version, path);
        vault_batch_delete(batch, path, STORE_ANY);
        bytes -= revisions->items[i]->size;
        left--;
    }
}

err_t revisions_put(const struct revisions *revisions, struct vault_batch *batch,
                    const Mortise__Control__MeshRecord *mesh, const struct revisions_new *about)
{
    Mortise__Control__Revision item = MORTISE__CONTROL__REVISION__INIT;
    char path[VAULT_PATH_MAX];

    item.version = mesh->version;
    item.changed_at = mesh->changed_at;
    item.author = msg_lend(about->author);
    item.message = msg_lend(about->message);
    item.changes = (char **)(uintptr_t)about->changes; /* only read */
    item.n_changes =
        about->num_changes < REVISIONS_CHANGES_MAX ? about->num_changes : REVISIONS_CHANGES_MAX;
    item.num_changes = (uint32_t)about->num_changes;
    item.size = protobuf_c_message_get_packed_size(&mesh->base);
    revisions_path(VAULT_REVISIONS, mesh->version, path);
    TRY(vault_batch_put(revisions->vault, batch, path, &item.base, STORE_ABSENT));
    revisions_path(VAULT_REVISION_MESHES, mesh->version, path);
    TRY(vault_batch_put(revisions->vault, batch, path, &mesh->base, STORE_ABSENT));
    revisions_prune(revisions, batch, item.size);
    return OK;
}

/* ---- reading ---- */

uint64_t revisions_newest(const struct revisions *revisions)
{
    return revisions->num > 0 ? revisions->items[revisions->num - 1]->version : 0;
}

const Mortise__Control__Revision *revisions_find(const struct revisions *revisions,
                                                 uint64_t version)
{
    for (size_t i = 0; i < revisions->num; i++) {
        if (revisions->items[i]->version == version)
            return revisions->items[i];
    }
    return NULL;
}

err_t revisions_mesh(const struct revisions *revisions, uint64_t version,
                     Mortise__Control__MeshRecord **out)
{
    Mortise__Control__MeshRecord *record;
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];

    revisions_path(VAULT_REVISION_MESHES, version, path);
    TRY(vault_get(revisions->vault, path, &msg, NULL));
    record = MSG_AS(Mortise__Control__MeshRecord, mortise__control__mesh_record__descriptor, msg);
    if (record->mesh == NULL) {
        pb_free(msg);
        return FAIL(STORE_CORRUPT, 0);
    }
    *out = record;
    return OK;
}
