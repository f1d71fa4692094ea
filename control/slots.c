#include "control/slots.h"

#include <string.h>

#define SLOTS_LATEST_S 60 /* before the end: time for one more attempt */

/* The slot of that number, forgotten if it stands for another time. */
static struct slot *slots_at(struct slots *slots, int64_t number)
{
    struct slot *slot = &slots->slots[(uint64_t)number % SLOTS_NUM];

    if (slot->number != number)
        *slot = (struct slot){.number = number};
    return slot;
}

static void slots_fit(struct slots *slots, int64_t window_s)
{
    int64_t width_s = window_s / SLOTS_IN_WINDOW;

    if (width_s < 1)
        width_s = 1;
    if (width_s == slots->width_s)
        return;
    memset(slots, 0, sizeof(*slots));
    slots->width_s = width_s;
}

int64_t slots_pick(struct slots *slots, int64_t not_before, int64_t not_after, int64_t now_s,
                   uint32_t random)
{
    int64_t life_s = not_after > not_before ? not_after - not_before : 0;
    int64_t from_s = not_before + life_s / 10 * 4;
    int64_t until_s = not_before + life_s / 10 * 6; /* not itself */
    int64_t first, num, best_s;
    struct slot *best = NULL;

    slots_fit(slots, until_s - from_s);
    if (until_s > not_after - SLOTS_LATEST_S)
        until_s = not_after - SLOTS_LATEST_S;
    if (from_s <= now_s)
        from_s = now_s + 1;
    if (from_s >= until_s || from_s < 0)
        return 0;
    first = (from_s + slots->width_s - 1) / slots->width_s; /* whole ones only */
    num = until_s / slots->width_s - first;
    if (num < 1) { /* the end of the window: there is part of one */
        first = from_s / slots->width_s;
        num = 1;
    }
    /* From a place by chance on: of those that have as few it is not always the first. */
    for (int64_t i = 0; i < num; i++) {
        struct slot *slot = slots_at(slots, first + (random % num + i) % num);

        if (best == NULL || slot->planned < best->planned)
            best = slot;
    }
    best->planned++;
    best_s = best->number * slots->width_s + (random >> 16) % slots->width_s;
    if (best_s < from_s)
        best_s = from_s;
    return best_s < until_s ? best_s : until_s - 1;
}
