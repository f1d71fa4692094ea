#include "control/store.h"

#include <string.h>

void store_init(struct store *store, const struct store_ops *ops)
{
    store->ops = ops;
    list_init(&store->watches);
}

static bool store_key_valid(const char *key)
{
    size_t len = strlen(key);

    if (len == 0 || len > STORE_KEY_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (key[i] < '!' || key[i] > '~')
            return false;
    }
    return true;
}

err_t store_get(struct store *store, const char *key, struct buf *out, uint64_t *out_version)
{
    uint64_t version = 0;

    CHECK(store_key_valid(key));
    TRY(store->ops->get(store, key, out, &version));
    if (out_version != NULL)
        *out_version = version;
    return OK;
}

static void store_notify(struct store *store, const struct store_change *change, uint64_t revision)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &store->watches) {
        struct store_watch *watch = LIST_ITEM(pos, struct store_watch, link);

        if (strncmp(change->key, watch->prefix, strlen(watch->prefix)) == 0)
            watch->fn(watch->arg, change, revision);
    }
}

err_t store_commit(struct store *store, const struct store_change *changes, size_t num,
                   uint64_t *out_revision)
{
    uint64_t revision = 0;

    CHECK(num > 0 && num <= STORE_CHANGES_MAX);
    for (size_t i = 0; i < num; i++) {
        CHECK(store_key_valid(changes[i].key));
        CHECK(!changes[i].same || (!changes[i].remove && changes[i].expect != STORE_ANY &&
                                   changes[i].expect != STORE_ABSENT));
        if (!changes[i].remove && changes[i].value.len > STORE_VALUE_MAX)
            return FAIL(TOO_LARGE, STORE_VALUE_MAX);
    }
    TRY(store->ops->commit(store, changes, num, &revision));
    for (size_t i = 0; i < num; i++) {
        if (!changes[i].same)
            store_notify(store, &changes[i], revision);
    }
    if (out_revision != NULL)
        *out_revision = revision;
    return OK;
}

err_t store_put_if(struct store *store, const char *key, struct bytes value, uint64_t expect,
                   uint64_t *out_version)
{
    struct store_change change = {.key = key, .value = value, .expect = expect};

    return store_commit(store, &change, 1, out_version);
}

err_t store_delete_if(struct store *store, const char *key, uint64_t expect)
{
    struct store_change change = {.key = key, .remove = true, .expect = expect};

    return store_commit(store, &change, 1, NULL);
}

err_t store_list(struct store *store, const char *prefix, struct store_items *out)
{
    return store->ops->list(store, prefix, "", SIZE_MAX, out);
}

err_t store_list_page(struct store *store, const char *prefix, const char *after, size_t max,
                      struct store_items *out)
{
    return store->ops->list(store, prefix, after, max, out);
}

err_t store_backup(struct store *store, struct buf *out)
{
    return store->ops->backup != NULL ? store->ops->backup(store, out) : FAIL(NOT_FOUND, 0);
}

err_t store_revision(struct store *store, uint64_t *out)
{
    return store->ops->revision(store, out);
}

err_t store_check(struct store *store)
{
    return store->ops->check(store);
}

void store_watch(struct store *store, struct store_watch *watch)
{
    list_add_tail(&store->watches, &watch->link);
}

void store_unwatch(struct store_watch *watch)
{
    list_del(&watch->link);
}

void store_free(struct store *store)
{
    struct list *pos, *tmp;

    if (store == NULL)
        return;
    LIST_EACH (pos, tmp, &store->watches)
        list_del(pos);
    store->ops->free(store);
}

void store_items_fini(struct store_items *items)
{
    for (size_t i = 0; i < items->num; i++) {
        mem_free(items->items[i].key);
        mem_free(items->items[i].value);
    }
    mem_free(items->items);
    *items = (struct store_items){0};
}
