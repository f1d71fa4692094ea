/* rotation is the stages of a rotation of the root or of the issuer, and what each waits for. Pure.
 *
 *   prepare the new root → distribute trust {old, new} → every sidecar has acknowledged it →
 *   switch the issuer → every leaf is made anew, acknowledged → retire the old root →
 *   every sidecar has acknowledged that.
 *
 * Another issuer below the same root needs no new trust, but where sidecars ask for revocation
 * lists, its list: prepare it → every sidecar has acknowledged what it ought to have → switch →
 * every leaf is made anew, acknowledged → retire the old one.
 *
 * Who keeps to it has at each moment, for each pair of sidecars, a leaf that the other one's roots
 * vouch for and whose issuer's list the other one has (test/unit/control/rotation_test.c plays it
 * at random). Source: features F5, reliability R38. */
#ifndef MORTISE_CONTROL_ROTATION_H
#define MORTISE_CONTROL_ROTATION_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/control/state.pb-c.h"

typedef Mortise__Control__RootRotation__Stage rotation_stage;
#define ROTATION_IDLE MORTISE__CONTROL__ROOT_ROTATION__STAGE__IDLE
#define ROTATION_DISTRIBUTE MORTISE__CONTROL__ROOT_ROTATION__STAGE__DISTRIBUTE
#define ROTATION_REISSUE MORTISE__CONTROL__ROOT_ROTATION__STAGE__REISSUE
#define ROTATION_RETIRE MORTISE__CONTROL__ROOT_ROTATION__STAGE__RETIRE
#define ROTATION_PREPARE MORTISE__CONTROL__ROOT_ROTATION__STAGE__PREPARE

typedef Mortise__Control__RootRotation__Kind rotation_kind;
#define ROTATION_OF_ROOT MORTISE__CONTROL__ROOT_ROTATION__KIND__ROOT
#define ROTATION_OF_ISSUER MORTISE__CONTROL__ROOT_ROTATION__KIND__ISSUER

/* A sidecar, as the control plane sees it. One that has left is waited for so long: it takes less
 * to come back from a restart of the control plane; one that stays away longer finds back by what
 * the old root said of the new one. */
#define ROTATION_AWAIT_MS 45000
/* When every sidecar has said that it uses its new leaf, handshakes are still under way that began
 * with the one before, and a worker thread may not have heard yet: a root goes so much later. */
#define ROTATION_SETTLE_MS 2000
struct rotation_party {
    bool connected;
    uint64_t away_ms;    /* not connected: since when */
    bool in_sync;        /* has acknowledged what it ought to have, the roots among it */
    bool refused;        /* has refused it */
    uint64_t epoch;      /* of the certificate that it uses */
    const char *trouble; /* of its last renewal; "" */
};

/* rotation_waits tells why the party holds the stage up; NULL when it does not. `epoch` is that of
 * the rotation. The text is a constant or the party's own. */
const char *rotation_waits(rotation_stage stage, uint64_t epoch,
                           const struct rotation_party *party);

/* rotation_next is the stage after; of ROTATION_IDLE the first. */
rotation_stage rotation_next(rotation_kind kind, rotation_stage stage);

/* rotation_name is "distribute", …; rotation_says a sentence of what the stage waits for;
 * rotation_kind_name is "root" or "issuer". */
const char *rotation_name(rotation_stage stage);
const char *rotation_says(rotation_stage stage);
const char *rotation_kind_name(rotation_kind kind);

/* rotation_can_go_back: nobody has lost a root yet. rotation_has_two: beside what signs there is
 * another root or issuer, the coming or the leaving one; rotation_has_switched: it is the leaving
 * one. */
bool rotation_can_go_back(rotation_stage stage);
bool rotation_has_two(rotation_stage stage);
bool rotation_has_switched(rotation_stage stage);

#endif
