/* root_rotation carries a rotation of the root, or of the issuer alone, out: it watches the
 * sidecars, advances the stages of rotation.h when nobody holds them up, and keeps in the store how
 * far it has come, so that a control plane that is killed at any point goes on from there. Source:
 * features F5, reliability R38, R41. */
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
    /* A stage was entered: those of root_rotation_state. */
    void (*on_stage)(void *arg);
    void *arg;
};

struct root_rotation;

/* root_rotation_open goes on where the store says it was. Errors: STORE_CORRUPT, KEK_UNAVAILABLE,
 * IO. */
MUST_CHECK err_t root_rotation_open(const struct root_rotation_params *params,
                                    struct root_rotation **out);
void root_rotation_close(struct root_rotation *rotation);

/* root_rotation_begin makes the new root and gives it out, or makes the new issuer; the sidecars
 * renew within `spread_ms` of the switch. Errors: EXISTS (one is under way), those of ca_prepare,
 * STORE_UNWRITABLE. */
MUST_CHECK err_t root_rotation_begin(struct root_rotation *rotation, rotation_kind kind,
                                     uint32_t spread_ms);

/* root_rotation_maintain begins a rotation of an issuer that is past half of its life, unless one
 * is under way, or was turned back less than a day ago: to be called now and then. Nobody is in a
 * hurry: the sidecars renew within half an hour of the switch. Errors: as above. */
MUST_CHECK err_t root_rotation_maintain(struct root_rotation *rotation);

/* root_rotation_import takes what a root elsewhere has signed (ca_prepare_import), and goes on as
 * above: with another root when it is one, else with another issuer. The first CA is in force at
 * once. Errors: EXISTS, NOT_FOUND (nothing was asked for), CONFIG_INVALID (with faults),
 * STORE_UNWRITABLE. */
MUST_CHECK err_t root_rotation_import(struct root_rotation *rotation, const struct bytes *certs,
                                      size_t num, uint32_t spread_ms, struct faults *faults);

/* root_rotation_go_back has the old one sign again, and the new one retired; the sidecars that had
 * renewed do so again within `spread_ms`. Errors: NOT_FOUND (none is under way), TOO_LATE (a root
 * is being retired, or it goes back already), STORE_UNWRITABLE. */
MUST_CHECK err_t root_rotation_go_back(struct root_rotation *rotation, uint32_t spread_ms);

/* root_rotation_tick looks again: who is away for too long holds nothing up. */
void root_rotation_tick(struct root_rotation *rotation);

/* How far it is. */
struct root_rotation_state {
    rotation_kind kind; /* of the one under way, or the last */
    rotation_stage stage;
    uint64_t number; /* of rotations that were begun; 0: none ever */
    uint64_t epoch;
    int64_t began_at;
    int64_t stage_since;
    int64_t ended_at;
    bool going_back;
    size_t done; /* sidecars that do not hold the stage up */
    size_t total;
    /* Of the issuer's key that was retired last, as revocations have it; "": none ever. Borrowed
     * until the next stage. */
    const char *retired_key_sha256;
};
struct root_rotation_state root_rotation_state(struct root_rotation *rotation);

/* root_rotation_each_waiting tells of each sidecar that holds the stage up, and why. */
void root_rotation_each_waiting(struct root_rotation *rotation,
                                void (*fn)(void *arg, const char *subsystem, const char *instance,
                                           const char *why),
                                void *arg);

#endif
