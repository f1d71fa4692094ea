#include "control/rotation.h"

#include <stddef.h>

#include "lib/base/err.h"

/* What a stage waits for, of each sidecar. */
enum rotation_wait {
    ROTATION_FOR_NOBODY,
    ROTATION_FOR_ACK,  /* it has what it ought to have, roots and revocation lists among it */
    ROTATION_FOR_LEAF, /* that, and a leaf of the rotation's epoch */
};

static const struct rotation_step {
    const char *name;
    const char *says;
    enum rotation_wait waits;
    rotation_stage next;
    bool has_two;
    bool goes_back;
} rotation_steps[] = {
    [ROTATION_IDLE] = {"idle", "nothing is under way", ROTATION_FOR_NOBODY, ROTATION_IDLE, false,
                       false},
    [ROTATION_DISTRIBUTE] = {"distribute", "each sidecar acknowledges both roots", ROTATION_FOR_ACK,
                             ROTATION_REISSUE, true, true},
    [ROTATION_PREPARE] = {"prepare", "each sidecar acknowledges the new issuer's revocation list",
                          ROTATION_FOR_ACK, ROTATION_REISSUE, true, true},
    [ROTATION_REISSUE] = {"reissue", "each sidecar renews under what signs now", ROTATION_FOR_LEAF,
                          ROTATION_RETIRE, true, true},
    [ROTATION_RETIRE] = {"retire", "each sidecar acknowledges what is left", ROTATION_FOR_ACK,
                         ROTATION_IDLE, false, false},
};

static const struct rotation_kind_row {
    const char *name;
    rotation_stage first;
} rotation_kinds[] = {
    [ROTATION_OF_ROOT] = {"root", ROTATION_DISTRIBUTE},
    [ROTATION_OF_ISSUER] = {"issuer", ROTATION_PREPARE},
};

static const struct rotation_step *rotation_step(rotation_stage stage)
{
    CHECK((size_t)stage < sizeof(rotation_steps) / sizeof(rotation_steps[0]));
    return &rotation_steps[stage];
}

static const struct rotation_kind_row *rotation_kind_row(rotation_kind kind)
{
    CHECK((size_t)kind < sizeof(rotation_kinds) / sizeof(rotation_kinds[0]));
    return &rotation_kinds[kind];
}

const char *rotation_waits(rotation_stage stage, uint64_t epoch, const struct rotation_party *party)
{
    enum rotation_wait waits = rotation_step(stage)->waits;

    if (waits == ROTATION_FOR_NOBODY)
        return NULL;
    if (!party->connected)
        return party->away_ms < ROTATION_AWAIT_MS ? "disconnected, awaited" : NULL;
    if (party->refused)
        return "refused what it was sent";
    if (!party->in_sync)
        return "has not acknowledged yet";
    if (waits == ROTATION_FOR_LEAF && party->epoch < epoch)
        return party->trouble[0] != '\0' ? party->trouble : "has not renewed yet";
    return NULL;
}

rotation_stage rotation_next(rotation_kind kind, rotation_stage stage)
{
    return stage == ROTATION_IDLE ? rotation_kind_row(kind)->first : rotation_step(stage)->next;
}

const char *rotation_name(rotation_stage stage)
{
    return rotation_step(stage)->name;
}

const char *rotation_says(rotation_stage stage)
{
    return rotation_step(stage)->says;
}

const char *rotation_kind_name(rotation_kind kind)
{
    return rotation_kind_row(kind)->name;
}

bool rotation_can_go_back(rotation_stage stage)
{
    return rotation_step(stage)->goes_back;
}

bool rotation_has_two(rotation_stage stage)
{
    return rotation_step(stage)->has_two;
}

bool rotation_has_switched(rotation_stage stage)
{
    return rotation_step(stage)->waits == ROTATION_FOR_LEAF;
}
