/* root_rotation carries a rotation of the root out: it watches the sidecars, advances the stages of
 * rotation.h when nobody holds them up, and keeps in the store how far it has come, so that a
 * control plane that is killed at any point goes on from there. Source: features F5, reliability
 * R38, R41. */
#ifndef MORTISE_CONTROL_ROOT_ROTATION_H
#define MORTISE_CONTROL_ROOT_ROTATION_H

#include "control/ca.h"
#include "control/registry.h"
#include "control/rotation.h"
#include "lib/net/loop.h"

struct root_rotation_params {
    struct loop *loop; /* borrowed, as all here */
    struct vault *vault;
    struct ca *ca;
    struct registry *registry;
    /* The CA signs with another key now: what is signed by it is to be made anew. */
    void (*on_switched)(void *arg);
    void *arg;
};

struct root_rotation;

/* root_rotation_open goes on where the store says it was. Errors: STORE_CORRUPT, KEK_UNAVAILABLE,
 * IO. */
MUST_CHECK err_t root_rotation_open(const struct root_rotation_params *params,
                                    struct root_rotation **out);
void root_rotation_close(struct root_rotation *rotation);

/* root_rotation_begin makes the new root and gives it out; the sidecars renew within `spread_ms` of
 * the switch. Errors: EXISTS (one is under way), those of ca_prepare, STORE_UNWRITABLE. */
MUST_CHECK err_t root_rotation_begin(struct root_rotation *rotation, uint32_t spread_ms);

/* root_rotation_go_back has the old root sign again, and the new one retired; the sidecars that had
 * renewed do so again within `spread_ms`. Errors: NOT_FOUND
 * (none is under way), TOO_LATE (a root is being retired, or it goes back already),
 * STORE_UNWRITABLE. */
MUST_CHECK err_t root_rotation_go_back(struct root_rotation *rotation, uint32_t spread_ms);

/* root_rotation_tick looks again: who is away for too long holds nothing up. */
void root_rotation_tick(struct root_rotation *rotation);

/* How far it is. */
struct root_rotation_state {
    rotation_stage stage;
    uint64_t number; /* of rotations that were begun; 0: none ever */
    uint64_t epoch;
    int64_t began_at;
    int64_t stage_since;
    int64_t ended_at;
    bool going_back;
    size_t done; /* sidecars that do not hold the stage up */
    size_t total;
};
struct root_rotation_state root_rotation_state(struct root_rotation *rotation);

/* root_rotation_each_waiting tells of each sidecar that holds the stage up, and why. */
void root_rotation_each_waiting(struct root_rotation *rotation,
                                void (*fn)(void *arg, const char *subsystem, const char *instance,
                                           const char *why),
                                void *arg);

#endif
