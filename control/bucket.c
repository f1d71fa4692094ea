#include "control/bucket.h"

#include "lib/base/err.h"
#include "lib/base/mem.h"

#define BUCKET_UNIT 1000U /* a token */

void buckets_init(struct buckets *buckets, uint32_t burst, uint32_t per_minute, size_t max_keys)
{
    *buckets = (struct buckets){
        .burst = burst,
        .per_minute = per_minute,
        .max_keys = max_keys,
        .overflow = {.level = (uint64_t)burst * BUCKET_UNIT},
    };
}

void buckets_fini(struct buckets *buckets)
{
    size_t iter = 0;
    const char *key;
    void *value;

    while (map_next(&buckets->keys, &iter, &key, &value))
        mem_free(value);
    map_fini(&buckets->keys);
}

static void bucket_refill(const struct buckets *buckets, struct bucket *bucket, uint64_t now_ms)
{
    uint64_t full = (uint64_t)buckets->burst * BUCKET_UNIT;
    uint64_t passed = now_ms > bucket->at_ms ? now_ms - bucket->at_ms : 0;
    /* A minute refills per_minute tokens, 60000 ms * per_minute * 1000 / 60000: no loss by rounding
     * beyond a thousandth. An hour is always enough, and keeps the product far from overflow. */
    uint64_t add = (passed > 3600000 ? 3600000 : passed) * buckets->per_minute / 60;

    if (add == 0)
        return; /* at_ms stays: what has passed is not lost */
    bucket->level = bucket->level + add > full || passed > 3600000 ? full : bucket->level + add;
    bucket->at_ms = now_ms;
}

static void buckets_forget_full(struct buckets *buckets, uint64_t now_ms)
{
    size_t iter = 0;
    const char *key;
    void *value;

    if (buckets->forgot_at_ms != 0 && now_ms - buckets->forgot_at_ms < 1000)
        return; /* a flood of new keys must not walk all of them each time */
    buckets->forgot_at_ms = now_ms;
    while (map_next(&buckets->keys, &iter, &key, &value)) {
        bucket_refill(buckets, value, now_ms);
        if (((struct bucket *)value)->level >= (uint64_t)buckets->burst * BUCKET_UNIT)
            mem_free(map_del(&buckets->keys, key));
    }
}

static struct bucket *bucket_of(struct buckets *buckets, const char *key, uint64_t now_ms)
{
    struct bucket *bucket = map_get(&buckets->keys, key);

    if (bucket != NULL)
        return bucket;
    if (map_num(&buckets->keys) >= buckets->max_keys)
        buckets_forget_full(buckets, now_ms);
    if (map_num(&buckets->keys) >= buckets->max_keys)
        return &buckets->overflow;
    bucket = mem_alloc(sizeof(*bucket));
    *bucket = (struct bucket){.level = (uint64_t)buckets->burst * BUCKET_UNIT, .at_ms = now_ms};
    CHECK(map_put(&buckets->keys, key, bucket) == NULL);
    return bucket;
}

bool buckets_take(struct buckets *buckets, const char *key, uint64_t now_ms)
{
    struct bucket *bucket = bucket_of(buckets, key, now_ms);

    bucket_refill(buckets, bucket, now_ms);
    if (bucket->level < BUCKET_UNIT)
        return false;
    bucket->level -= BUCKET_UNIT;
    return true;
}

bool buckets_has(struct buckets *buckets, const char *key, uint64_t now_ms)
{
    struct bucket *bucket = map_get(&buckets->keys, key);

    if (bucket == NULL) {
        if (map_num(&buckets->keys) < buckets->max_keys)
            return true; /* one never seen is full */
        bucket = &buckets->overflow;
    }
    bucket_refill(buckets, bucket, now_ms);
    return bucket->level >= BUCKET_UNIT;
}
