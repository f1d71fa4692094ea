#include "proxy/limits.h"

#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/random.h"

struct limits *limits_new(void)
{
    struct limits *limits = mem_zalloc(sizeof(*limits));

    random_fill(limits->seed, sizeof(limits->seed));
    return limits;
}

void limits_free(struct limits *limits)
{
    mem_free(limits);
}

/* Counts one up unless that passes `max`. */
static bool limits_take(atomic_uint *count, unsigned max)
{
    if (atomic_fetch_add_explicit(count, 1, memory_order_relaxed) < max)
        return true;
    atomic_fetch_sub_explicit(count, 1, memory_order_relaxed);
    return false;
}

static void limits_give(atomic_uint *count)
{
    CHECK(atomic_fetch_sub_explicit(count, 1, memory_order_relaxed) > 0);
}

bool limits_connection_begin(struct limits *limits, const struct tunables *tunables)
{
    return limits_take(&limits->connections, tunables->max_connections);
}

void limits_connection_end(struct limits *limits)
{
    limits_give(&limits->connections);
}

/* The address without its port; of IPv6 the /64, which one host has whole. Two rounds of a
 * multiply-and-fold with secret seeds: not a MAC, enough that a bucket cannot be chosen. */
static uint16_t limits_bucket(const struct limits *limits, const struct addr *source)
{
    uint64_t key = 0;
    unsigned __int128 product;

    if (source->sa.any.sa_family == AF_INET) {
        key = source->sa.in4.sin_addr.s_addr;
    } else if (source->sa.any.sa_family == AF_INET6) {
        const struct in6_addr *in6 = &source->sa.in6.sin6_addr;

        if (IN6_IS_ADDR_V4MAPPED(in6))
            memcpy(&key, in6->s6_addr + 12, 4);
        else
            memcpy(&key, in6->s6_addr, sizeof(key));
    }
    product = (unsigned __int128)(key ^ limits->seed[0]) * (limits->seed[1] | 1);
    key = (uint64_t)(product >> 64) ^ (uint64_t)product;
    product = (unsigned __int128)(key ^ limits->seed[1]) * (limits->seed[0] | 1);
    key = (uint64_t)(product >> 64) ^ (uint64_t)product;
    return (uint16_t)(key % LIMITS_SOURCES);
}

bool limits_handshake_begin(struct limits *limits, const struct tunables *tunables,
                            const struct addr *source, uint16_t *out_source, enum shed *out_shed)
{
    uint16_t bucket = limits_bucket(limits, source);

    if (!limits_take(&limits->handshakes, tunables->max_handshakes)) {
        *out_shed = SHED_HANDSHAKES;
        return false;
    }
    if (!limits_take(&limits->sources[bucket], tunables->max_handshakes_per_source)) {
        limits_give(&limits->handshakes);
        *out_shed = SHED_SOURCE;
        return false;
    }
    *out_source = bucket;
    return true;
}

void limits_handshake_end(struct limits *limits, uint16_t source)
{
    limits_give(&limits->sources[source]);
    limits_give(&limits->handshakes);
}
