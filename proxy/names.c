#include "proxy/names.h"

#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/net/resolve.h"

struct names_entry {
    struct names *names;
    struct resolve *query; /* NULL: none under way */
    struct addr *addrs;    /* the last good answer */
    size_t num_addrs;
    err_t err; /* of the last query */
    uint64_t until_ms;
    struct list waits;
    struct timer patience; /* of who waits for a query while there is an old answer */
    bool late;             /* the query under way has used it up */
    bool telling;          /* names_tell is on the stack, with waits in a list of its own */
};

struct names {
    struct loop *loop;
    struct map entries;
};

struct names *names_new(struct loop *loop)
{
    struct names *names = mem_zalloc(sizeof(*names));

    names->loop = loop;
    return names;
}

static void names_entry_free(struct names_entry *entry)
{
    timer_stop(entry->names->loop, &entry->patience);
    if (entry->query != NULL)
        resolve_cancel(entry->query);
    mem_free(entry->addrs);
    mem_free(entry);
}

void names_free(struct names *names)
{
    size_t iter = 0;
    const char *key;
    void *value;

    while (map_next(&names->entries, &iter, &key, &value)) {
        struct names_entry *entry = value;

        CHECK(list_empty(&entry->waits));
        names_entry_free(entry);
    }
    map_fini(&names->entries);
    mem_free(names);
}

static void names_drop_idle(struct names *names)
{
    size_t iter = 0;
    const char *key;
    void *value;

    while (map_next(&names->entries, &iter, &key, &value)) {
        struct names_entry *entry = value;

        if (entry->telling || !list_empty(&entry->waits))
            continue;
        (void)map_del(&names->entries, key);
        names_entry_free(entry);
    }
}

/* Everybody who waits gets what the entry has. */
static void names_tell(struct names_entry *entry)
{
    struct list waits, *pos;

    /* A callback may cancel any wait, or begin another: the list is worked off from its head. */
    entry->telling = true;
    list_init(&waits);
    while (!list_empty(&entry->waits)) {
        pos = entry->waits.next;
        list_del(pos);
        list_add_tail(&waits, pos);
    }
    while (!list_empty(&waits)) {
        struct names_wait *wait = LIST_ITEM(waits.next, struct names_wait, link);

        list_del(&wait->link);
        wait->cb(wait->arg, entry->err, entry->addrs, entry->num_addrs);
    }
    entry->telling = false;
}

static void names_on_patience(void *arg)
{
    struct names_entry *entry = arg;

    entry->late = true; /* who asks meanwhile has the old answer at once */
    entry->err = OK;
    names_tell(entry);
}

static void names_on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct names_entry *entry = arg;

    entry->query = NULL;
    entry->late = false;
    timer_stop(entry->names->loop, &entry->patience);
    entry->err = err;
    if (err_is_ok(err) && num == 0)
        entry->err = FAIL(RESOLVE_FAILED, 0);
    entry->until_ms = loop_now_ms(entry->names->loop) + NAMES_RETRY_MS;
    if (err_is_ok(entry->err)) {
        entry->until_ms = loop_now_ms(entry->names->loop) + NAMES_FRESH_MS;
        mem_free(entry->addrs);
        entry->addrs = mem_dup(addrs, num * sizeof(*addrs));
        entry->num_addrs = num;
    } else if (entry->num_addrs > 0) {
        entry->err = OK; /* the old answer is better than none */
    }
    names_tell(entry);
}

static struct names_entry *names_entry_of(struct names *names, const char *target)
{
    struct names_entry *entry = map_get(&names->entries, target);

    if (entry != NULL)
        return entry;
    if (map_num(&names->entries) >= NAMES_MAX)
        names_drop_idle(names);
    entry = mem_zalloc(sizeof(*entry));
    entry->names = names;
    list_init(&entry->waits);
    (void)map_put(&names->entries, target, entry);
    return entry;
}

void names_get(struct names *names, const char *target, uint64_t timeout_ms,
               struct names_wait *wait, names_cb cb, void *arg)
{
    struct names_entry *entry = names_entry_of(names, target);

    wait->cb = cb;
    wait->arg = arg;
    list_init(&wait->link);
    if (entry->late || (entry->query == NULL && loop_now_ms(names->loop) < entry->until_ms)) {
        cb(arg, entry->err, entry->addrs, entry->num_addrs);
        return;
    }
    list_add_tail(&entry->waits, &wait->link);
    if (entry->query != NULL)
        return;
    entry->query = resolve_start(names->loop, target, timeout_ms, names_on_resolved, entry);
    if (entry->num_addrs > 0)
        timer_start(names->loop, &entry->patience, NAMES_PATIENCE_MS, names_on_patience, entry);
}

void names_cancel(struct names_wait *wait)
{
    if (wait->link.next != NULL)
        list_del(&wait->link);
}
