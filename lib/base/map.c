#include "lib/base/map.h"

#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"

#define MAP_CAP_MIN 16 /* a power of 2, as every capacity */

/* key: NULL when free, map_tombstone when deleted. */
struct map_entry {
    char *key;
    void *value;
    uint64_t hash;
};

static char map_tombstone[1];

static pthread_once_t map_seed_once = PTHREAD_ONCE_INIT;
static uint64_t map_seed[2];

static void map_make_seed(void)
{
    random_fill(map_seed, sizeof(map_seed));
}

static inline uint64_t map_rotl(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

static inline void map_sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = map_rotl(v[1], 13) ^ v[0];
    v[0] = map_rotl(v[0], 32);
    v[2] += v[3];
    v[3] = map_rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = map_rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = map_rotl(v[1], 17) ^ v[2];
    v[2] = map_rotl(v[2], 32);
}

/* SipHash-1-3 (Aumasson and Bernstein): whoever does not know the seed cannot choose collisions. */
static uint64_t map_hash(const char *key)
{
    size_t len = strlen(key);
    const char *end = key + (len & ~(size_t)7);
    uint64_t last = (uint64_t)len << 56;
    uint64_t v[4], word;

    CHECK(pthread_once(&map_seed_once, map_make_seed) == 0);
    v[0] = map_seed[0] ^ 0x736f6d6570736575;
    v[1] = map_seed[1] ^ 0x646f72616e646f6d;
    v[2] = map_seed[0] ^ 0x6c7967656e657261;
    v[3] = map_seed[1] ^ 0x7465646279746573;
    for (; key != end; key += 8) {
        memcpy(&word, key, 8);
        v[3] ^= word;
        map_sip_round(v);
        v[0] ^= word;
    }
    for (size_t i = 0; i < (len & 7); i++)
        last |= (uint64_t)(unsigned char)key[i] << (8 * i);
    v[3] ^= last;
    map_sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    map_sip_round(v);
    map_sip_round(v);
    map_sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The entry with this key, or NULL. */
static struct map_entry *map_find(const struct map *map, const char *key, uint64_t hash)
{
    if (map->cap == 0)
        return NULL;
    for (size_t i = hash & (map->cap - 1);; i = (i + 1) & (map->cap - 1)) {
        struct map_entry *entry = &map->entries[i];

        if (entry->key == NULL)
            return NULL;
        if (entry->key != map_tombstone && entry->hash == hash && strcmp(entry->key, key) == 0)
            return entry;
    }
}

/* The first entry for this hash that no key holds. */
static struct map_entry *map_slot(const struct map *map, uint64_t hash)
{
    size_t i = hash & (map->cap - 1);

    while (map->entries[i].key != NULL && map->entries[i].key != map_tombstone)
        i = (i + 1) & (map->cap - 1);
    return &map->entries[i];
}

/* New memory with half of it free, tombstones gone. */
static void map_rebuild(struct map *map)
{
    struct map old = *map;
    size_t cap = MAP_CAP_MIN;

    while (cap / 2 < map->num + 1)
        cap *= 2;
    map->entries = mem_array(cap, sizeof(*map->entries));
    map->cap = cap;
    map->used = map->num;
    for (size_t i = 0; i < old.cap; i++) {
        struct map_entry *entry = &old.entries[i];

        if (entry->key != NULL && entry->key != map_tombstone)
            *map_slot(map, entry->hash) = *entry;
    }
    mem_free(old.entries);
}

void map_fini(struct map *map)
{
    for (size_t i = 0; i < map->cap; i++) {
        if (map->entries[i].key != map_tombstone)
            mem_free(map->entries[i].key);
    }
    mem_free(map->entries);
    *map = (struct map){0};
}

void *map_get(const struct map *map, const char *key)
{
    struct map_entry *entry;

    if (map->num == 0)
        return NULL;
    entry = map_find(map, key, map_hash(key));
    return entry != NULL ? entry->value : NULL;
}

void *map_put(struct map *map, const char *key, void *value)
{
    uint64_t hash = map_hash(key);
    struct map_entry *entry = map_find(map, key, hash);

    if (entry != NULL) {
        void *before = entry->value;

        entry->value = value;
        return before;
    }
    if (map->used >= map->cap / 4 * 3)
        map_rebuild(map);
    entry = map_slot(map, hash);
    if (entry->key == NULL)
        map->used++;
    *entry = (struct map_entry){mem_strdup(key), value, hash};
    map->num++;
    return NULL;
}

void *map_del(struct map *map, const char *key)
{
    struct map_entry *entry = map_find(map, key, map_hash(key));
    void *value;

    if (entry == NULL)
        return NULL;
    value = entry->value;
    mem_free(entry->key);
    *entry = (struct map_entry){.key = map_tombstone};
    map->num--;
    return value;
}

bool map_next(const struct map *map, size_t *iter, const char **out_key, void **out_value)
{
    while (*iter < map->cap) {
        const struct map_entry *entry = &map->entries[(*iter)++];

        if (entry->key == NULL || entry->key == map_tombstone)
            continue;
        if (out_key != NULL)
            *out_key = entry->key;
        if (out_value != NULL)
            *out_value = entry->value;
        return true;
    }
    return false;
}
