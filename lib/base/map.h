/* map: a hash map from string keys to pointers, seeded per process so that peers cannot choose
 * colliding keys. */
#ifndef MORTISE_LIB_BASE_MAP_H
#define MORTISE_LIB_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>

/* Zeroed memory is an empty map. Values are not owned. */
struct map {
    struct map_entry *entries;
    size_t num;
    size_t cap;
    size_t used; /* with tombstones */
};

void map_fini(struct map *map);
void *map_get(const struct map *map, const char *key);
/* map_put copies the key; returns the value it replaced, or NULL. */
void *map_put(struct map *map, const char *key, void *value);
/* map_del returns the value it removed, or NULL. */
void *map_del(struct map *map, const char *key);
static inline size_t map_num(const struct map *map)
{
    return map->num;
}
/* map_next walks in no particular order: start with *iter = 0; false at the end. Deleting the
 * current entry while walking is allowed. */
bool map_next(const struct map *map, size_t *iter, const char **out_key, void **out_value);

#endif
