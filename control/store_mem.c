#include "control/store_mem.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/map.h"

struct store_mem_item {
    uint64_t version;
    size_t len;
    uint8_t value[];
};

struct store_mem {
    struct store store;
    struct map items;
    uint64_t revision;
    bool unwritable;
};

static struct store_mem *store_mem_of(struct store *store)
{
    return CONTAINER_OF(store, struct store_mem, store);
}

static struct store_mem_item *store_mem_item_new(struct bytes value, uint64_t version)
{
    struct store_mem_item *item = mem_alloc(sizeof(*item) + value.len);

    item->version = version;
    item->len = value.len;
    if (value.len > 0)
        memcpy(item->value, value.ptr, value.len);
    return item;
}

static err_t store_mem_get(struct store *store, const char *key, struct buf *out,
                           uint64_t *out_version)
{
    const struct store_mem_item *item = map_get(&store_mem_of(store)->items, key);

    if (item == NULL)
        return FAIL(NOT_FOUND, 0);
    TRY(buf_add(out, item->value, item->len));
    *out_version = item->version;
    return OK;
}

static err_t store_mem_commit(struct store *store, const struct store_change *changes, size_t num,
                              uint64_t *out_revision)
{
    struct store_mem *mem = store_mem_of(store);

    if (mem->unwritable)
        return FAIL(STORE_UNWRITABLE, 0);
    for (size_t i = 0; i < num; i++) {
        const struct store_mem_item *item = map_get(&mem->items, changes[i].key);

        if (changes[i].expect != STORE_ANY &&
            changes[i].expect != (item != NULL ? item->version : STORE_ABSENT))
            return FAIL(STORE_CONFLICT, i);
    }
    mem->revision++;
    for (size_t i = 0; i < num; i++) {
        if (changes[i].remove)
            mem_free(map_del(&mem->items, changes[i].key));
        else
            mem_free(
                map_put(&mem->items, changes[i].key,
                        store_mem_item_new(changes[i].value,
                                           changes[i].same ? changes[i].expect : mem->revision)));
    }
    *out_revision = mem->revision;
    return OK;
}

static int store_mem_compare(const void *a, const void *b)
{
    return strcmp(((const struct store_item *)a)->key, ((const struct store_item *)b)->key);
}

static err_t store_mem_list(struct store *store, const char *prefix, const char *after, size_t max,
                            struct store_items *out)
{
    struct store_mem *mem = store_mem_of(store);
    size_t iter = 0;
    const char *key;
    void *value;

    *out = (struct store_items){.items = mem_array(map_num(&mem->items) + 1, sizeof(*out->items))};
    while (map_next(&mem->items, &iter, &key, &value)) {
        const struct store_mem_item *item = value;

        if (strncmp(key, prefix, strlen(prefix)) != 0 || strcmp(key, after) <= 0)
            continue;
        out->items[out->num++] = (struct store_item){
            .key = mem_strdup(key),
            .version = item->version,
            .value = mem_dup(item->value, item->len),
            .len = item->len,
        };
    }
    qsort(out->items, out->num, sizeof(*out->items), store_mem_compare);
    while (out->num > max) {
        out->num--;
        mem_free(out->items[out->num].key);
        mem_free(out->items[out->num].value);
    }
    return OK;
}

static err_t store_mem_check(struct store *store)
{
    (void)store;
    return OK;
}

static void store_mem_free(struct store *store)
{
    struct store_mem *mem = store_mem_of(store);
    size_t iter = 0;
    const char *key;
    void *value;

    while (map_next(&mem->items, &iter, &key, &value))
        mem_free(value);
    map_fini(&mem->items);
    mem_free(mem);
}

static err_t store_mem_revision(struct store *store, uint64_t *out)
{
    *out = store_mem_of(store)->revision;
    return OK;
}

static const struct store_ops store_mem_ops = {
    .get = store_mem_get,
    .commit = store_mem_commit,
    .list = store_mem_list,
    .revision = store_mem_revision,
    .check = store_mem_check,
    .free = store_mem_free,
};

struct store *store_mem_new(void)
{
    struct store_mem *mem = mem_zalloc(sizeof(*mem));

    store_init(&mem->store, &store_mem_ops);
    return &mem->store;
}

void store_mem_set_unwritable(struct store *store, bool unwritable)
{
    store_mem_of(store)->unwritable = unwritable;
}

void store_mem_poke(struct store *store, const char *key, struct bytes value)
{
    struct store_mem *mem = store_mem_of(store);
    struct store_mem_item *old = map_get(&mem->items, key);

    CHECK(old != NULL);
    map_put(&mem->items, key, store_mem_item_new(value, old->version));
    mem_free(old);
}
