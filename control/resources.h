/* resources is what the operator decided: the mesh in force and the epochs of rotation, as the
 * store has them. A change is one transaction; whoever makes it, the store's watch brings it here,
 * and the user hears of it. Private to the registry. */
#ifndef MORTISE_CONTROL_RESOURCES_H
#define MORTISE_CONTROL_RESOURCES_H

#include "control/mesh.h"
#include "control/vault.h"
#include "control/version.h"
#include "lib/base/clock.h"

struct resources {
    struct vault *vault;
    const struct clock *clock;
    Mortise__Control__MeshRecord *mesh; /* with its mesh, never NULL after resources_open */
    struct policy_set *policies;        /* of that mesh, never NULL either */
    Mortise__Control__Epochs *epochs;
    uint64_t mesh_record; /* versions of the records in the store */
    uint64_t epochs_record;
    err_t unread; /* why what was committed last could not be read back: it is not in force */
    struct store_watch mesh_watch;
    struct store_watch epochs_watch;
    void (*on_mesh)(void *arg);
    void (*on_epochs)(void *arg);
    void *arg;
};

/* resources_create adds the records of a new mesh, which has `version`. */
MUST_CHECK err_t resources_create(struct vault *vault, struct vault_batch *batch, uint64_t version,
                                  int64_t now_s);

/* resources_open loads and checks them; callbacks, clock, vault and arg are set by the caller
 * before. Errors: STORE_CORRUPT (records missing, or a mesh that does not pass), KEK_UNAVAILABLE,
 * IO. On error resources_close is still due. */
MUST_CHECK err_t resources_open(struct resources *resources, struct faults *faults);
void resources_close(struct resources *resources);

/* resources_put_mesh adds a checked mesh; it comes into force with the commit. Errors: TOO_LARGE.
 */
MUST_CHECK err_t resources_put_mesh(struct resources *resources, struct vault_batch *batch,
                                    const Mortise__Control__MeshRecord *mesh);
/* resources_rotate gives the named subsystems a new epoch, durably. Errors: those of vault_put, and
 * of reading it back. */
MUST_CHECK err_t resources_rotate(struct resources *resources, const char *const *subsystems,
                                  size_t num, uint32_t spread_ms, uint64_t *out_epoch);

/* resources_put_epochs adds a new epoch of all subsystems, also of those to come, to `batch`. */
MUST_CHECK err_t resources_put_epochs(struct resources *resources, struct vault_batch *batch,
                                      uint32_t spread_ms, uint64_t *out_epoch);

/* resources_reserve_epochs makes `last` the highest epoch that was given out, if it is higher; what
 * is higher by more than RESOURCES_EPOCHS_LOST_MAX nobody ever gave out, and counts as that much:
 * epochs must not come to their end by what a sidecar says. Errors: those of vault_put. */
#define RESOURCES_EPOCHS_LOST_MAX 1000000
MUST_CHECK err_t resources_reserve_epochs(struct resources *resources, uint64_t last);

/* resources_epoch is that of a subsystem; all zero when it was never rotated. */
const Mortise__Control__Epoch *resources_epoch(const struct resources *resources,
                                               const char *subsystem);

#endif
