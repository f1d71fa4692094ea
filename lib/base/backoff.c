#include "lib/base/backoff.h"

uint32_t backoff_next(struct backoff *backoff, uint32_t random)
{
    uint64_t bound = backoff->max_ms;
    uint64_t least;

    /* Past 32 doublings every base but 0 is beyond every maximum. */
    if (backoff->attempts < 32 && (uint64_t)backoff->base_ms << backoff->attempts < bound)
        bound = (uint64_t)backoff->base_ms << backoff->attempts;
    if (backoff->base_ms == 0)
        bound = 0;
    if (backoff->attempts < UINT32_MAX)
        backoff->attempts++;

    least = bound / 2;
    return (uint32_t)(least + (random * (bound - least + 1) >> 32));
}

void backoff_reset(struct backoff *backoff)
{
    backoff->attempts = 0;
}
