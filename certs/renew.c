#include "certs/renew.h"

#define RENEW_LATEST_S 60 /* before the end: time for one more attempt */

int64_t renew_planned(int64_t planned, int64_t not_before, int64_t not_after, int64_t now_s,
                      uint32_t random)
{
    int64_t life = not_after > not_before ? not_after - not_before : 0;

    if (planned > now_s && planned >= not_before + life / 10 * 3 &&
        planned <= not_before + life / 10 * 7 && planned <= not_after - RENEW_LATEST_S)
        return planned;
    return renew_at(not_before, not_after, now_s, random);
}

unsigned renew_alarm(int64_t not_before, int64_t not_after, int64_t now_s)
{
    static const unsigned steps[] = {100, 90, 75, 50};
    int64_t left_s = not_after > not_before ? (not_after - not_before) / 5 * 2 : 0;

    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        if (now_s >= not_after - left_s / 100 * (100 - (int64_t)steps[i]) -
                         left_s % 100 * (100 - (int64_t)steps[i]) / 100)
            return steps[i];
    }
    return 0;
}

int64_t renew_at(int64_t not_before, int64_t not_after, int64_t now_s, uint32_t random)
{
    int64_t life = not_after > not_before ? not_after - not_before : 0;
    /* 0 ... life/5, so that life/2 - life/10 + jitter is within 40 % and 60 % of the life. Lives of
     * centuries (34 bits of seconds) times 16 bits stay far from 63. */
    int64_t jitter = life / 5 * (random >> 16) / UINT16_MAX;
    int64_t at = not_before + life / 2 - life / 10 + jitter;

    if (at > not_after - RENEW_LATEST_S)
        at = not_after - RENEW_LATEST_S;
    if (at < now_s)
        at = now_s;
    return at;
}
