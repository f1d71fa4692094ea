/* backoff: the next retry delay, exponential, the upper half of it by chance. Pure. */
#ifndef MORTISE_LIB_BASE_BACKOFF_H
#define MORTISE_LIB_BASE_BACKOFF_H

#include <stdint.h>

struct backoff {
    uint32_t base_ms; /* first delay's upper bound */
    uint32_t max_ms;
    uint32_t attempts;
};

/* backoff_next returns a delay between half of min(max_ms, base_ms * 2^attempts) and all of it,
 * chosen by `random`, and counts the attempt. */
uint32_t backoff_next(struct backoff *backoff, uint32_t random);
/* backoff_reset is called after success. */
void backoff_reset(struct backoff *backoff);

#endif
