/* age: how long a connection may live. By default none outlives its peer's certificate, nor max_age
 * where the profile has one; before that comes a time in which it is ended at a moment when nothing
 * is under way. Pure. Source: features F7, reliability R8. */
#ifndef MORTISE_PROXY_AGE_H
#define MORTISE_PROXY_AGE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/mesh/resource.pb-c.h"

#define AGE_NO_END UINT64_MAX
#define AGE_DRAIN_MAX_MS 600000 /* at most so long before its end a connection is to go */
#define AGE_QUIET_MAX_MS                                                    \
    2000 /* nothing moved for so long: a good moment; less as the end nears \
          */
#define AGE_QUIET_MIN_MS 20
#define AGE_LAST_MS 1000 /* certificates end at whole seconds: this one is not divided further */

struct age_rule {
    bool keep;          /* it may outlive its peer's certificate */
    bool abrupt;        /* no time to go in: it is cut at its end */
    uint32_t max_age_s; /* 0: none */
};
struct age_rule age_rule(const Mortise__V1__TlsProfile *profile);

/* A moment of a connection. */
struct age_moment {
    uint64_t age_ms;
    int64_t now_s; /* wall clock */
    int64_t peer_not_after;
};

/* age_left_ms is how long it may live from then on; AGE_NO_END: without end, 0: it is over.
 * `*out_expiry` (may be NULL): what ends it is the certificate. */
uint64_t age_left_ms(const struct age_rule *rule, const struct age_moment *moment,
                     bool *out_expiry);

/* age_drain_ms is how long before its end one begins to go that has `left_ms` when it opens: up to
 * a quarter of that, spread by `random`, so that those who began together do not end together. */
uint32_t age_drain_ms(const struct age_rule *rule, uint64_t left_ms, uint32_t random);

/* age_is_late: one that has begun to go and is still there is to be told of. */
bool age_is_late(uint32_t drain_ms, uint64_t left_ms);

/* age_quiet_ms is how long nothing must have moved for a good moment, that long before the end. */
uint64_t age_quiet_ms(uint64_t left_ms);

#endif
