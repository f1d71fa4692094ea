#include "proxy/age.h"

struct age_rule age_rule(const Mortise__V1__TlsProfile *profile)
{
    return (struct age_rule){
        .keep = profile->on_expiry == MORTISE__V1__TLS_PROFILE__ON_EXPIRY__KEEP,
        .abrupt = profile->on_expiry == MORTISE__V1__TLS_PROFILE__ON_EXPIRY__CLOSE,
        .max_age_s = profile->max_age_s,
    };
}

static uint64_t age_less(uint64_t from, uint64_t part)
{
    return from > part ? from - part : 0;
}

uint64_t age_left_ms(const struct age_rule *rule, const struct age_moment *moment, bool *out_expiry)
{
    uint64_t left_ms = AGE_NO_END, until_ms;

    if (rule->max_age_s != 0)
        left_ms = age_less((uint64_t)rule->max_age_s * 1000, moment->age_ms);
    if (out_expiry != NULL)
        *out_expiry = false;
    if (rule->keep)
        return left_ms;
    until_ms = moment->peer_not_after > moment->now_s
                   ? (uint64_t)(moment->peer_not_after - moment->now_s) * 1000
                   : 0;
    if (until_ms >= left_ms)
        return left_ms;
    if (out_expiry != NULL)
        *out_expiry = true;
    return until_ms;
}

uint32_t age_drain_ms(const struct age_rule *rule, uint64_t left_ms, uint32_t random)
{
    uint64_t most = left_ms / 4;

    if (rule->abrupt || left_ms == AGE_NO_END)
        return 0;
    if (most > AGE_DRAIN_MAX_MS)
        most = AGE_DRAIN_MAX_MS;
    return (uint32_t)(most / 2 + (most - most / 2) * random / UINT32_MAX);
}

bool age_is_late(uint32_t drain_ms, uint64_t left_ms)
{
    return left_ms <= drain_ms / 4 || left_ms <= AGE_LAST_MS;
}

uint64_t age_quiet_ms(uint64_t left_ms)
{
    uint64_t ms = age_less(left_ms, AGE_LAST_MS) / 16;

    if (ms > AGE_QUIET_MAX_MS)
        return AGE_QUIET_MAX_MS;
    return ms < AGE_QUIET_MIN_MS ? AGE_QUIET_MIN_MS : ms;
}
