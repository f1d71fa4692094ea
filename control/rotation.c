#include "control/rotation.h"

#include <stddef.h>

#include "lib/base/err.h"

static const struct rotation_step {
    const char *name;
    const char *says;
    rotation_stage next;
    bool anew;      /* a leaf of the rotation's epoch is asked for, too */
    bool goes_back; /* can go back from here */
} rotation_steps[] = {
    [ROTATION_IDLE] = {"idle", "nothing is under way", ROTATION_DISTRIBUTE, false, false},
    [ROTATION_DISTRIBUTE] = {"distribute", "each sidecar acknowledges both roots", ROTATION_REISSUE,
                             false, true},
    [ROTATION_REISSUE] = {"reissue", "each sidecar renews under the root that signs now",
                          ROTATION_RETIRE, true, true},
    [ROTATION_RETIRE] = {"retire", "each sidecar acknowledges that one root is left", ROTATION_IDLE,
                         false, false},
};

static const struct rotation_step *rotation_step(rotation_stage stage)
{
    CHECK((size_t)stage < sizeof(rotation_steps) / sizeof(rotation_steps[0]));
    return &rotation_steps[stage];
}

const char *rotation_waits(rotation_stage stage, uint64_t epoch, const struct rotation_party *party)
{
    if (stage == ROTATION_IDLE)
        return NULL;
    if (!party->connected)
        return party->away_ms < ROTATION_AWAIT_MS ? "disconnected, awaited" : NULL;
    if (party->refused)
        return "refused what it was sent";
    if (!party->in_sync)
        return "has not acknowledged yet";
    if (rotation_step(stage)->anew && party->epoch < epoch)
        return party->trouble[0] != '\0' ? party->trouble : "has not renewed yet";
    return NULL;
}

rotation_stage rotation_next(rotation_stage stage)
{
    return rotation_step(stage)->next;
}

const char *rotation_name(rotation_stage stage)
{
    return rotation_step(stage)->name;
}

const char *rotation_says(rotation_stage stage)
{
    return rotation_step(stage)->says;
}

bool rotation_can_go_back(rotation_stage stage)
{
    return rotation_step(stage)->goes_back;
}
