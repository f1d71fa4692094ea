#include <string.h>

#include "certs/verify_impl.h"
#include "lib/base/list.h"
#include "lib/base/map.h"

struct verify_entry {
    struct list link; /* in cache->recent */
    char key[VERIFY_KEY_HEX];
    struct peer *peer;
    int64_t valid_from; /* the latest notBefore of the chain: clocks are set back, too */
};

/* Enough for both roles while a root is being replaced. */
#define VERIFY_ABOVE_MAX 4

struct verify_above {
    char key[VERIFY_KEY_HEX]; /* "": nothing is here */
    STACK_OF(X509) * certs;
};

struct verify_cache {
    struct map by_key;
    struct list recent;           /* the most recently used first */
    struct peer_lineage *lineage; /* of the last peer that was verified, or NULL */
    struct verify_above above[VERIFY_ABOVE_MAX];
    size_t next_above; /* that the next one takes the place of */
    size_t max;
    size_t hits;
    size_t issuer_hits;
};

struct verify_cache *verify_cache_new(size_t max_entries)
{
    CHECK(max_entries > 0);
    struct verify_cache *cache = mem_zalloc(sizeof *cache);
    list_init(&cache->recent);
    cache->max = max_entries;
    return cache;
}

static void verify_cache_drop(struct verify_cache *cache, struct verify_entry *entry)
{
    CHECK(map_del(&cache->by_key, entry->key) == entry);
    list_del(&entry->link);
    peer_unref(entry->peer);
    mem_free(entry);
}

void verify_cache_free(struct verify_cache *cache)
{
    struct list *pos;
    struct list *tmp;

    if (cache == NULL)
        return;
    LIST_EACH (pos, tmp, &cache->recent)
        verify_cache_drop(cache, LIST_ITEM(pos, struct verify_entry, link));
    map_fini(&cache->by_key);
    verify_lineage_unref(cache->lineage);
    for (size_t i = 0; i < VERIFY_ABOVE_MAX; i++)
        boring_x509s_freep(&cache->above[i].certs);
    mem_free(cache);
}

size_t verify_cache_hits(const struct verify_cache *cache)
{
    return cache->hits;
}

size_t verify_cache_issuer_hits(const struct verify_cache *cache)
{
    return cache->issuer_hits;
}

struct peer *verify_cache_get(struct verify_cache *cache, const char *key, int64_t now_s)
{
    struct verify_entry *entry = map_get(&cache->by_key, key);

    if (entry == NULL)
        return NULL;
    if (now_s >= entry->peer->not_after || now_s < entry->valid_from) {
        verify_cache_drop(cache, entry);
        return NULL;
    }
    list_del(&entry->link);
    list_add_head(&cache->recent, &entry->link);
    cache->hits++;
    return entry->peer;
}

void verify_cache_put(struct verify_cache *cache, const char *key, struct peer *peer,
                      int64_t valid_from)
{
    struct verify_entry *entry = mem_zalloc(sizeof *entry);

    if (map_num(&cache->by_key) == cache->max)
        verify_cache_drop(cache, LIST_ITEM(cache->recent.prev, struct verify_entry, link));
    memcpy(entry->key, key, sizeof entry->key);
    entry->peer = peer_ref(peer);
    entry->valid_from = valid_from;
    list_init(&entry->link);
    list_add_head(&cache->recent, &entry->link);
    CHECK(map_put(&cache->by_key, entry->key, entry) == NULL);
}

struct peer_lineage *verify_cache_share(struct verify_cache *cache, struct peer_lineage *lineage)
{
    struct peer_lineage *known = cache->lineage;

    if (known == NULL || known->num != lineage->num ||
        memcmp(known->issuers, lineage->issuers, known->num * sizeof known->issuers[0]) != 0) {
        verify_lineage_unref(known);
        cache->lineage = known = lineage;
    } else {
        verify_lineage_unref(lineage);
    }
    refs_take(&known->refs);
    return known;
}

STACK_OF(X509) * verify_cache_above(const struct verify_cache *cache, const char *key)
{
    for (size_t i = 0; i < VERIFY_ABOVE_MAX; i++) {
        if (strcmp(cache->above[i].key, key) == 0)
            return cache->above[i].certs;
    }
    return NULL;
}

void verify_cache_put_above(struct verify_cache *cache, const char *key, STACK_OF(X509) * path)
{
    struct verify_above *place = &cache->above[cache->next_above];
    STACK_OF(X509) * certs;

    if (verify_cache_above(cache, key) != NULL)
        return;
    certs = X509_chain_up_ref(path);
    if (certs == NULL)
        return;
    X509_free(sk_X509_shift(certs));
    boring_x509s_freep(&place->certs);
    place->certs = certs;
    memcpy(place->key, key, sizeof place->key);
    cache->next_above = (cache->next_above + 1) % VERIFY_ABOVE_MAX;
}

void verify_cache_hit_issuer(struct verify_cache *cache)
{
    cache->issuer_hits++;
}
