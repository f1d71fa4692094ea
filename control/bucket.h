/* bucket limits rates: a token bucket a key, bounded in number. Pure; time is passed in. */
#ifndef MORTISE_CONTROL_BUCKET_H
#define MORTISE_CONTROL_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/map.h"

struct bucket {
    uint64_t level; /* thousandths of a token */
    uint64_t at_ms;
};

struct buckets {
    uint32_t burst;      /* tokens of a full bucket */
    uint32_t per_minute; /* tokens that come back */
    size_t max_keys;
    uint64_t forgot_at_ms; /* looked for full buckets last: at most once a second */
    struct map keys;
    struct bucket overflow; /* shared by the keys beyond max_keys */
};

void buckets_init(struct buckets *buckets, uint32_t burst, uint32_t per_minute, size_t max_keys);
void buckets_fini(struct buckets *buckets);

/* buckets_take takes one token of `key`; false when there is none now. A key never seen has a full
 * bucket. When all places are taken, full buckets are forgotten first; a key that still finds no
 * place shares one bucket with all such. */
bool buckets_take(struct buckets *buckets, const char *key, uint64_t now_ms);
/* buckets_has tells whether buckets_take would, and takes nothing. */
bool buckets_has(struct buckets *buckets, const char *key, uint64_t now_ms);

#endif
