#include "lib/base/skew.h"

#define SKEW_ROUNDING_MS 2                     /* of four times in whole milliseconds */
#define SKEW_TIME_MAX INT64_C(253402300800000) /* the year 10000 */

static bool skew_is_time(int64_t ms)
{
    return ms > 0 && ms < SKEW_TIME_MAX;
}

void skew_heard(struct skew *skew, const struct skew_times *times, int64_t now_ms)
{
    int64_t there_ms, back_ms;

    if (!skew_is_time(times->now_ms))
        return;
    skew->heard_ms = times->now_ms;
    skew->heard_at_ms = now_ms;
    if (!skew_is_time(times->heard_ms) || !skew_is_time(times->heard_at_ms))
        return;
    there_ms = times->heard_at_ms - times->heard_ms; /* the difference and the way there */
    back_ms = times->now_ms - now_ms;                /* the difference less the way back */
    if (there_ms - back_ms < -SKEW_ROUNDING_MS)
        return; /* back before it was sent: a clock was set meanwhile, the next one will tell */
    skew->known = true;
    skew->ahead_ms = (there_ms + back_ms) / 2;
    skew->error_ms = (there_ms - back_ms + SKEW_ROUNDING_MS) / 2 + 1;
}

struct skew_times skew_times(const struct skew *skew, int64_t now_ms)
{
    return (struct skew_times){now_ms, skew->heard_ms, skew->heard_at_ms};
}

bool skew_beyond(const struct skew *skew, int64_t limit_ms)
{
    int64_t far_ms = skew->ahead_ms < 0 ? -skew->ahead_ms : skew->ahead_ms;

    return skew->known && far_ms - skew->error_ms > limit_ms;
}
