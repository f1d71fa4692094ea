/* slots plans when certificates are renewed, so that those issued in one storm do not come back in
 * one: within 40 % and 60 % of its life each gets a time in the slot that has fewest so far. Pure;
 * time and randomness are passed in. What was planned is in memory only: after a restart a
 * plan begins anew, above what sidecars keep to. Source: reliability F32. */
#ifndef MORTISE_CONTROL_SLOTS_H
#define MORTISE_CONTROL_SLOTS_H

#include <stdint.h>

#define SLOTS_IN_WINDOW 1024 /* so many a window, or one a second */
#define SLOTS_NUM 4096       /* the windows of certificates that are issued now end within them */

struct slot {
    int64_t number; /* its time divided by the width */
    uint32_t planned;
};

/* Zeroed memory is an empty plan. */
struct slots {
    int64_t width_s; /* follows from the life; another life begins another plan */
    struct slot slots[SLOTS_NUM];
};

/* slots_pick plans the renewal of one certificate and returns its time (Unix seconds), later than
 * now_s and at least a minute before not_after; 0 when there is no such time. */
int64_t slots_pick(struct slots *slots, int64_t not_before, int64_t not_after, int64_t now_s,
                   uint32_t random);

#endif
