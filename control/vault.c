#include "control/vault.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

struct vault {
    struct store *store;
    struct seal_key key;
    struct vault_health health;
    void (*on_commit)(void *arg, uint64_t duration_us);
    void *on_commit_arg;
};

/* What lies where. A path that ends in '/' stands for all under it. */
static const struct vault_type {
    const char *path;
    const ProtobufCMessageDescriptor *desc;
} vault_types[] = {
    {VAULT_SETTINGS, &mortise__control__settings__descriptor},
    {VAULT_VERSION, &mortise__control__version_block__descriptor},
    {VAULT_ROOT, &mortise__control__authority__descriptor},
    {VAULT_ISSUER, &mortise__control__authority__descriptor},
    {VAULT_OTHER_ROOT, &mortise__control__authority__descriptor},
    {VAULT_OTHER_ISSUER, &mortise__control__authority__descriptor},
    {VAULT_LINEAGE, &mortise__control__lineage__descriptor},
    {VAULT_MESH, &mortise__control__mesh_record__descriptor},
    {VAULT_EPOCHS, &mortise__control__epochs__descriptor},
    {VAULT_ROOT_ROTATION, &mortise__control__root_rotation__descriptor},
    {VAULT_REVOCATIONS, &mortise__control__revocations__descriptor},
    {VAULT_TOKENS, &mortise__control__token__descriptor},
    {VAULT_CERTS, &mortise__control__issuance__descriptor},
    {VAULT_ENDPOINTS, &mortise__control__endpoints__descriptor},
};

static const ProtobufCMessageDescriptor *vault_type(const char *path)
{
    for (size_t i = 0; i < ARRAY_LEN(vault_types); i++) {
        const char *type = vault_types[i].path;
        size_t len = strlen(type);

        if (type[len - 1] == '/' ? strncmp(path, type, len) == 0 && path[len] != '\0'
                                 : strcmp(path, type) == 0)
            return vault_types[i].desc;
    }
    return NULL;
}

void vault_path(const char *prefix, const char *name, char out[VAULT_PATH_MAX])
{
    int len = snprintf(out, VAULT_PATH_MAX, "%s%s", prefix, name);

    CHECK(len > 0 && len < VAULT_PATH_MAX);
}

struct vault *vault_new(struct store *store, const struct seal_key *key)
{
    struct vault *vault = mem_zalloc(sizeof(*vault));

    vault->store = store;
    vault->key = *key;
    return vault;
}

void vault_free(struct vault *vault)
{
    if (vault == NULL)
        return;
    store_free(vault->store);
    seal_key_fini(&vault->key);
    mem_free(vault);
}

struct store *vault_store(struct vault *vault)
{
    return vault->store;
}

static err_t vault_unseal(struct vault *vault, const char *path, struct bytes sealed,
                          ProtobufCMessage **out)
{
    const ProtobufCMessageDescriptor *desc = vault_type(path);
    CLEANUP(buf_wipe_fini) struct buf plain = {0};

    if (desc == NULL)
        return FAIL(STORE_CORRUPT, 0);
    TRY(seal_open(&vault->key, path, sealed, &plain));
    return pb_unpack(desc, buf_view(&plain), STORE_VALUE_MAX, out);
}

/* Opens a record; whatever is wrong with it but the key is STORE_CORRUPT. */
static err_t vault_open(struct vault *vault, const char *path, struct bytes sealed,
                        ProtobufCMessage **out)
{
    err_t err = vault_unseal(vault, path, sealed, out);

    if (err_is_ok(err))
        return OK;
    log_error("store", "record_refused", LOG_STR("path", path), LOG_ERR("error", err));
    return err_is(err, E_KEK_UNAVAILABLE) ? err : FAIL(STORE_CORRUPT, err.sub);
}

/* Releases an opened record; its bytes fields may be keys and are wiped. */
static void vault_release(ProtobufCMessage *msg)
{
    if (msg == NULL)
        return;
    for (unsigned i = 0; i < msg->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &msg->descriptor->fields[i];
        const ProtobufCBinaryData *data = (const void *)((const char *)msg + field->offset);

        if (field->type == PROTOBUF_C_TYPE_BYTES && field->label != PROTOBUF_C_LABEL_REPEATED &&
            (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) == 0 && data->data != NULL)
            mem_wipe(data->data, data->len);
    }
    pb_free(msg);
}

err_t vault_verify(struct vault *vault, struct faults *faults)
{
    struct store_items items;
    err_t first = OK;

    TRY(store_list(vault->store, "", &items));
    for (size_t i = 0; i < items.num; i++) {
        const struct store_item *item = &items.items[i];
        ProtobufCMessage *msg = NULL;
        err_t err = vault_open(vault, item->key, bytes_of(item->value, item->len), &msg);

        vault_release(msg);
        if (err_is_ok(err))
            continue;
        faults_add(faults, item->key, "%s",
                   err_is(err, E_KEK_UNAVAILABLE)
                       ? "is sealed under another key-encryption key"
                       : "does not open: changed, swapped or damaged; restore the store from a "
                         "backup");
        if (err_is_ok(first))
            first = err;
        if (err_is(err, E_KEK_UNAVAILABLE))
            break; /* the others say the same */
    }
    store_items_fini(&items);
    return first;
}

err_t vault_get(struct vault *vault, const char *path, ProtobufCMessage **out,
                uint64_t *out_version)
{
    CLEANUP(buf_fini) struct buf sealed = {0};

    TRY(store_get(vault->store, path, &sealed, out_version));
    return vault_open(vault, path, buf_view(&sealed), out);
}

err_t vault_each(struct vault *vault, const char *prefix, vault_each_fn fn, void *arg)
{
    struct store_items items;
    err_t err = OK;

    TRY(store_list(vault->store, prefix, &items));
    for (size_t i = 0; i < items.num && err_is_ok(err); i++) {
        const struct store_item *item = &items.items[i];
        ProtobufCMessage *msg = NULL;

        err = vault_open(vault, item->key, bytes_of(item->value, item->len), &msg);
        if (err_is_ok(err))
            err = fn(arg, item->key, item->version, msg);
        vault_release(msg);
    }
    store_items_fini(&items);
    return err;
}

struct vault_change {
    char *path;
    bool remove;
    uint64_t expect;
    struct buf sealed;
};

void vault_batch_fini(struct vault_batch *batch)
{
    for (size_t i = 0; i < batch->num; i++) {
        mem_free(batch->changes[i].path);
        buf_fini(&batch->changes[i].sealed);
    }
    mem_free(batch->changes);
    *batch = (struct vault_batch){0};
}

static struct vault_change *vault_batch_add(struct vault_batch *batch, const char *path,
                                            uint64_t expect)
{
    struct vault_change *change;

    if (batch->num == batch->cap) {
        batch->cap = batch->cap == 0 ? 8 : batch->cap * 2;
        batch->changes = mem_realloc(batch->changes, batch->cap * sizeof(*batch->changes));
    }
    change = &batch->changes[batch->num++];
    *change = (struct vault_change){.path = mem_strdup(path), .expect = expect};
    return change;
}

err_t vault_batch_put(struct vault *vault, struct vault_batch *batch, const char *path,
                      const ProtobufCMessage *msg, uint64_t expect)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {0};

    CHECK(vault_type(path) == msg->descriptor);
    TRY(pb_pack(msg, &plain));
    return seal_close(&vault->key, path, buf_view(&plain),
                      &vault_batch_add(batch, path, expect)->sealed);
}

void vault_batch_delete(struct vault_batch *batch, const char *path, uint64_t expect)
{
    vault_batch_add(batch, path, expect)->remove = true;
}

bool vault_batch_has(const struct vault_batch *batch, const char *path)
{
    for (size_t i = 0; i < batch->num; i++) {
        if (strcmp(batch->changes[i].path, path) == 0)
            return true;
    }
    return false;
}

/* The changes of all batches, owned. */
static struct store_change *vault_changes(const struct vault_batch *const *batches, size_t num,
                                          size_t *out_num)
{
    struct store_change *changes;
    size_t total = 0, at = 0;

    for (size_t i = 0; i < num; i++)
        total += batches[i]->num;
    changes = mem_array(total, sizeof(*changes));
    for (size_t i = 0; i < num; i++) {
        for (size_t j = 0; j < batches[i]->num; j++) {
            const struct vault_change *change = &batches[i]->changes[j];

            changes[at++] = (struct store_change){
                .key = change->path,
                .remove = change->remove,
                .value = buf_view(&change->sealed),
                .expect = change->expect,
            };
        }
    }
    *out_num = total;
    return changes;
}

static err_t vault_commit_these(struct vault *vault, const struct vault_batch *const *batches,
                                size_t num, uint64_t *out_revision)
{
    uint64_t started = clock_mono_us();
    struct store_change *changes;
    size_t num_changes;
    err_t err = OK;

    changes = vault_changes(batches, num, &num_changes);
    if (num_changes > 0)
        err = store_commit(vault->store, changes, num_changes, out_revision);
    mem_free(changes);
    if (num_changes == 0)
        return OK;
    if (vault->on_commit != NULL)
        vault->on_commit(vault->on_commit_arg, clock_mono_us() - started);
    if (err_is(err, E_STORE_UNWRITABLE)) {
        vault->health.failed++;
        if (!vault->health.unwritable)
            log_error("store", "unwritable", LOG_ERR("error", err));
        vault->health.unwritable = true;
    } else if (err_is_ok(err)) {
        vault->health.commits++;
        if (vault->health.unwritable)
            log_info("store", "writable_again");
        vault->health.unwritable = false;
    }
    return err;
}

err_t vault_commit(struct vault *vault, const struct vault_batch *batch, uint64_t *out_revision)
{
    return vault_commit_these(vault, &batch, 1, out_revision);
}

err_t vault_commit_all(struct vault *vault, const struct vault_batch *const *batches, size_t num)
{
    return vault_commit_these(vault, batches, num, NULL);
}

err_t vault_put(struct vault *vault, const char *path, const ProtobufCMessage *msg, uint64_t expect,
                uint64_t *out_version)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};

    TRY(vault_batch_put(vault, &batch, path, msg, expect));
    return vault_commit(vault, &batch, out_version);
}

err_t vault_check(struct vault *vault)
{
    err_t err = store_check(vault->store);

    vault->health.corrupt = err_is(err, E_STORE_CORRUPT);
    return err;
}

const struct vault_health *vault_health(const struct vault *vault)
{
    return &vault->health;
}

void vault_on_commit(struct vault *vault, void (*fn)(void *arg, uint64_t duration_us), void *arg)
{
    vault->on_commit = fn;
    vault->on_commit_arg = arg;
}
