#include "control/vault.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

#define VAULT_PAGE 256 /* records that are in memory at once while all are walked */

struct vault {
    struct store *store;
    struct seal_keys keys;
    size_t stale; /* records that are not under the first */
    char *cursor; /* vault_rewrap has come so far; NULL: it begins */
    bool found;   /* this time around it has found some */
    const struct vault_journal *journal;
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
    {VAULT_HISTORY, &mortise__control__history__descriptor},
    {VAULT_ROOT, &mortise__control__authority__descriptor},
    {VAULT_ISSUER, &mortise__control__authority__descriptor},
    {VAULT_OTHER_ROOT, &mortise__control__authority__descriptor},
    {VAULT_OTHER_ISSUER, &mortise__control__authority__descriptor},
    {VAULT_AUDIT, &mortise__v1__audit_record__descriptor},
    {VAULT_AUDIT_HEAD, &mortise__v1__audit_head__descriptor},
    {VAULT_AUDIT_KEY, &mortise__control__audit_key__descriptor},
    {VAULT_LINEAGE, &mortise__control__lineage__descriptor},
    {VAULT_PENDING_ISSUER, &mortise__control__pending_issuer__descriptor},
    {VAULT_MESH, &mortise__control__mesh_record__descriptor},
    {VAULT_REVISIONS, &mortise__control__revision__descriptor},
    {VAULT_REVISION_MESHES, &mortise__control__mesh_record__descriptor},
    {VAULT_EPOCHS, &mortise__control__epochs__descriptor},
    {VAULT_ROOT_ROTATION, &mortise__control__root_rotation__descriptor},
    {VAULT_ADMINS, &mortise__control__admin_epoch__descriptor},
    {VAULT_ACCESS, &mortise__control__access__descriptor},
    {VAULT_REVOCATIONS, &mortise__control__revocations__descriptor},
    {VAULT_CRLS, &mortise__control__crl_record__descriptor},
    {VAULT_KEYSTORES, &mortise__control__keystore_record__descriptor},
    {VAULT_TOKENS, &mortise__control__token__descriptor},
    {VAULT_CERTS, &mortise__control__issuance__descriptor},
    {VAULT_ENDPOINTS, &mortise__control__endpoints__descriptor},
    {VAULT_PLAINTEXT, &mortise__control__plaintext_use__descriptor},
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

struct vault *vault_new(struct store *store, const struct seal_keys *keys)
{
    struct vault *vault = mem_zalloc(sizeof(*vault));

    vault->store = store;
    vault->keys = *keys;
    return vault;
}

void vault_free(struct vault *vault)
{
    if (vault == NULL)
        return;
    store_free(vault->store);
    seal_keys_fini(&vault->keys);
    mem_free(vault->cursor);
    mem_free(vault);
}

struct store *vault_store(struct vault *vault)
{
    return vault->store;
}

/* What was sealed, by whichever of the keys has done it. */
static err_t vault_unwrap(struct vault *vault, const char *path, struct bytes sealed,
                          struct buf *out)
{
    const struct seal_key *key = seal_keys_of(&vault->keys, sealed);

    /* Under none of them, or no sealed record at all: seal_open tells which. */
    return seal_open(key != NULL ? key : &vault->keys.keys[0], path, sealed, out);
}

static bool vault_is_stale(const struct vault *vault, struct bytes sealed)
{
    return seal_keys_of(&vault->keys, sealed) != &vault->keys.keys[0];
}

static err_t vault_unseal(struct vault *vault, const char *path, struct bytes sealed,
                          ProtobufCMessage **out)
{
    const ProtobufCMessageDescriptor *desc = vault_type(path);
    CLEANUP(buf_wipe_fini) struct buf plain = {0};

    if (desc == NULL)
        return FAIL(STORE_CORRUPT, 0);
    TRY(vault_unwrap(vault, path, sealed, &plain));
    return pb_unpack(desc, buf_view(&plain), STORE_VALUE_MAX, out);
}

/* Opens a record; whatever is wrong with it but the key is STORE_CORRUPT. */
static err_t vault_open(struct vault *vault, const char *path, struct bytes sealed,
                        ProtobufCMessage **out)
{
    err_t err = vault_unseal(vault, path, sealed, out);
    char name[SEAL_NAME];

    if (err_is_ok(err))
        return OK;
    seal_name(sealed, name);
    log_error("store", "record_refused", LOG_STR("path", path), LOG_ERR("error", err),
              LOG_STR("key", name));
    return err_is(err, E_KEK_UNAVAILABLE) ? err : FAIL(STORE_CORRUPT, err.sub);
}

/* Which key is missing, and which there are, by their names. */
static void vault_tell_key(const struct seal_keys *keys, const struct store_item *item,
                           struct faults *faults)
{
    CLEANUP(buf_fini) struct buf given = {0};
    char name[SEAL_NAME];
    err_t err = OK;

    for (size_t i = 0; i < keys->num && err_is_ok(err); i++) {
        seal_key_name(&keys->keys[i], name);
        err = buf_printf(&given, "%s%s", i > 0 ? ", " : "", name);
    }
    CHECK(err_is_ok(err)); /* a few words */
    seal_name(bytes_of(item->value, item->len), name);
    faults_add(faults, item->key, "is sealed under key-encryption key %s; given: %.*s", name,
               (int)buf_size(&given), (const char *)buf_view(&given).ptr);
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

/* Opens `items`, and notes each that does not. False: the others need no look. */
static bool vault_verify_items(struct vault *vault, const struct store_items *items,
                               struct faults *faults, err_t *first)
{
    for (size_t i = 0; i < items->num; i++) {
        const struct store_item *item = &items->items[i];
        struct bytes sealed = bytes_of(item->value, item->len);
        ProtobufCMessage *msg = NULL;
        err_t err = vault_open(vault, item->key, sealed, &msg);

        vault_release(msg);
        vault->stale += vault_is_stale(vault, sealed);
        if (err_is_ok(err))
            continue;
        if (err_is_ok(*first))
            *first = err;
        if (err_is(err, E_KEK_UNAVAILABLE)) {
            vault_tell_key(&vault->keys, item, faults);
            return false; /* the others say the same */
        }
        faults_add(faults, item->key,
                   "does not open: changed, swapped or damaged; restore the store from a backup");
    }
    return true;
}

err_t vault_verify(struct vault *vault, struct faults *faults)
{
    CLEANUP(mem_freep) char *after = mem_strdup("");
    err_t first = OK;
    bool more = true;

    vault->stale = 0;
    while (more) {
        struct store_items items;

        TRY(store_list_page(vault->store, "", after, VAULT_PAGE, &items));
        more = vault_verify_items(vault, &items, faults, &first) && items.num == VAULT_PAGE;
        if (more) {
            mem_free(after);
            after = mem_strdup(items.items[items.num - 1].key);
        }
        store_items_fini(&items);
    }
    return first;
}

struct vault_change {
    char *path;
    bool remove;
    bool same; /* as in store.h */
    uint64_t expect;
    struct buf sealed;
};

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

/* ---- other keys ---- */

/* How many of the page's records are not under the first of `keys`. Errors: KEK_UNAVAILABLE. */
static err_t vault_count(const struct seal_keys *keys, const struct store_items *items,
                         struct faults *faults, size_t *out_stale)
{
    for (size_t i = 0; i < items->num; i++) {
        const struct store_item *item = &items->items[i];
        const struct seal_key *key = seal_keys_of(keys, bytes_of(item->value, item->len));

        if (key == NULL) {
            vault_tell_key(keys, item, faults);
            return FAIL(KEK_UNAVAILABLE, 0);
        }
        *out_stale += key != &keys->keys[0];
    }
    return OK;
}

err_t vault_rekey(struct vault *vault, const struct seal_keys *keys, struct faults *faults)
{
    CLEANUP(mem_freep) char *after = mem_strdup("");
    size_t stale = 0;
    bool more = true;

    while (more) {
        struct store_items items;
        err_t err;

        TRY(store_list_page(vault->store, "", after, VAULT_PAGE, &items));
        more = items.num == VAULT_PAGE;
        err = vault_count(keys, &items, faults, &stale);
        if (more) {
            mem_free(after);
            after = mem_strdup(items.items[items.num - 1].key);
        }
        store_items_fini(&items);
        TRY(err);
    }
    vault->keys = *keys;
    vault->stale = stale;
    mem_free(vault->cursor);
    vault->cursor = NULL;
    vault->found = false;
    return OK;
}

/* Adds what is stale of the page to `batch`, sealed anew. */
static err_t vault_reseal(struct vault *vault, const struct store_items *items,
                          struct vault_batch *batch)
{
    for (size_t i = 0; i < items->num; i++) {
        const struct store_item *item = &items->items[i];
        struct bytes sealed = bytes_of(item->value, item->len);
        CLEANUP(buf_wipe_fini) struct buf plain = {0};
        struct vault_change *change;

        if (!vault_is_stale(vault, sealed))
            continue;
        TRY(vault_unwrap(vault, item->key, sealed, &plain));
        change = vault_batch_add(batch, item->key, item->version);
        change->same = true;
        TRY(seal_close(&vault->keys.keys[0], item->key, buf_view(&plain), &change->sealed));
    }
    return OK;
}

/* All around, and nothing was found: the other keys are of no use any more. */
static void vault_come_around(struct vault *vault)
{
    if (!vault->found) {
        vault->stale = 0;
        for (size_t i = 1; i < vault->keys.num; i++)
            seal_key_fini(&vault->keys.keys[i]);
        vault->keys.num = 1;
    }
    vault->found = false;
}

err_t vault_rewrap(struct vault *vault, size_t max)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct store_items items;
    char *last = NULL;
    err_t err;

    TRY(store_list_page(vault->store, "", vault->cursor != NULL ? vault->cursor : "", max, &items));
    err = vault_reseal(vault, &items, &batch);
    if (items.num == max)
        last = mem_strdup(items.items[items.num - 1].key);
    store_items_fini(&items);
    if (err_is_ok(err))
        err = vault_commit(vault, &batch, NULL);
    if (!err_is_ok(err)) {
        mem_free(last);
        return err;
    }
    mem_free(vault->cursor);
    vault->cursor = last;
    vault->found = vault->found || batch.num > 0;
    vault->stale -= batch.num < vault->stale ? batch.num : vault->stale;
    if (last == NULL)
        vault_come_around(vault);
    return OK;
}

size_t vault_stale(const struct vault *vault)
{
    return vault->stale;
}

bool vault_is_rewrapped(const struct vault *vault)
{
    return vault->keys.num == 1;
}

void vault_key_name(const struct vault *vault, char out[SEAL_NAME])
{
    seal_key_name(&vault->keys.keys[0], out);
}

err_t vault_get(struct vault *vault, const char *path, ProtobufCMessage **out,
                uint64_t *out_version)
{
    CLEANUP(buf_fini) struct buf sealed = {0};

    TRY(store_get(vault->store, path, &sealed, out_version));
    return vault_open(vault, path, buf_view(&sealed), out);
}

err_t vault_each_page(struct vault *vault, const char *prefix, size_t max, char **io_after,
                      vault_each_fn fn, void *arg)
{
    struct store_items items;
    char *last = NULL;
    err_t err = OK;

    TRY(store_list_page(vault->store, prefix, *io_after != NULL ? *io_after : "", max, &items));
    for (size_t i = 0; i < items.num && err_is_ok(err); i++) {
        const struct store_item *item = &items.items[i];
        ProtobufCMessage *msg = NULL;

        err = vault_open(vault, item->key, bytes_of(item->value, item->len), &msg);
        if (err_is_ok(err))
            err = fn(arg, item->key, item->version, msg);
        vault_release(msg);
    }
    if (err_is_ok(err) && items.num == max)
        last = mem_strdup(items.items[max - 1].key);
    store_items_fini(&items);
    mem_free(*io_after);
    *io_after = last;
    return err;
}

err_t vault_each(struct vault *vault, const char *prefix, vault_each_fn fn, void *arg)
{
    CLEANUP(mem_freep) char *after = NULL;

    do
        TRY(vault_each_page(vault, prefix, VAULT_PAGE, &after, fn, arg));
    while (after != NULL);
    return OK;
}

void vault_batch_fini(struct vault_batch *batch)
{
    for (size_t i = 0; i < batch->num; i++) {
        mem_free(batch->changes[i].path);
        buf_fini(&batch->changes[i].sealed);
    }
    mem_free(batch->changes);
    *batch = (struct vault_batch){0};
}

err_t vault_batch_put(struct vault *vault, struct vault_batch *batch, const char *path,
                      const ProtobufCMessage *msg, uint64_t expect)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {0};

    CHECK(vault_type(path) == msg->descriptor);
    TRY(pb_pack(msg, &plain));
    return seal_close(&vault->keys.keys[0], path, buf_view(&plain),
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

void vault_batch_each(const struct vault_batch *batch,
                      void (*fn)(void *arg, const struct vault_batch_item *item), void *arg)
{
    for (size_t i = 0; i < batch->num; i++) {
        const struct vault_change *change = &batch->changes[i];

        fn(arg, &(struct vault_batch_item){
                    .path = change->path,
                    .remove = change->remove,
                    .fresh = change->expect == STORE_ABSENT,
                    .same = change->same,
                });
    }
}

/* What was sealed before another key came, and is committed after, is sealed anew: vault_rewrap may
 * have been there already. */
static err_t vault_freshen(struct vault *vault, struct vault_change *change)
{
    CLEANUP(buf_wipe_fini) struct buf plain = {0};

    if (change->remove || !vault_is_stale(vault, buf_view(&change->sealed)))
        return OK;
    TRY(vault_unwrap(vault, change->path, buf_view(&change->sealed), &plain));
    buf_clear(&change->sealed);
    return seal_close(&vault->keys.keys[0], change->path, buf_view(&plain), &change->sealed);
}

static err_t vault_freshen_all(struct vault *vault, const struct vault_batch *const *batches,
                               size_t num)
{
    for (size_t i = 0; i < num; i++) {
        for (size_t j = 0; j < batches[i]->num; j++)
            TRY(vault_freshen(vault, &batches[i]->changes[j]));
    }
    return OK;
}

static void vault_add_changes(const struct vault_batch *batch, struct store_change *changes,
                              size_t *at)
{
    for (size_t i = 0; i < batch->num; i++) {
        const struct vault_change *change = &batch->changes[i];

        changes[(*at)++] = (struct store_change){
            .key = change->path,
            .remove = change->remove,
            .value = buf_view(&change->sealed),
            .expect = change->expect,
            .same = change->same,
        };
    }
}

/* The changes of all batches, those of `first` before them; owned. */
static struct store_change *vault_changes(const struct vault_batch *first,
                                          const struct vault_batch *const *batches, size_t num,
                                          size_t *out_num)
{
    struct store_change *changes;
    size_t total = first->num, at = 0;

    for (size_t i = 0; i < num; i++)
        total += batches[i]->num;
    changes = mem_array(total, sizeof(*changes));
    vault_add_changes(first, changes, &at);
    for (size_t i = 0; i < num; i++)
        vault_add_changes(batches[i], changes, &at);
    *out_num = total;
    return changes;
}

static void vault_note_commit(struct vault *vault, uint64_t started_us, err_t err)
{
    if (vault->on_commit != NULL)
        vault->on_commit(vault->on_commit_arg, clock_mono_us() - started_us);
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
}

static err_t vault_write(struct vault *vault, const struct vault_batch *first,
                         const struct vault_batch *const *batches, size_t num,
                         uint64_t *out_revision)
{
    uint64_t started_us = clock_mono_us();
    size_t num_changes;
    struct store_change *changes = vault_changes(first, batches, num, &num_changes);
    err_t err = OK;

    if (num_changes > 0) {
        err = store_commit(vault->store, changes, num_changes, out_revision);
        vault_note_commit(vault, started_us, err);
    }
    mem_free(changes);
    return err;
}

static err_t vault_commit_these(struct vault *vault, const struct vault_batch *const *batches,
                                size_t num, uint64_t *out_revision)
{
    CLEANUP(vault_batch_fini) struct vault_batch first = {0};
    const struct vault_journal *journal = vault->journal;
    err_t err;

    TRY(vault_freshen_all(vault, batches, num));
    if (journal != NULL)
        TRY(journal->add(journal->arg, batches, num, &first));
    err = vault_write(vault, &first, batches, num, out_revision);
    if (journal != NULL)
        journal->done(journal->arg, err);
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

void vault_set_journal(struct vault *vault, const struct vault_journal *journal)
{
    vault->journal = journal;
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
