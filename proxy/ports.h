/* ports: the listeners of the sidecar, all owned by worker 0. What listens follows the snapshot:
 * new ones are bound before anything changes, unchanged ones are left alone, those no longer named
 * are closed. */
#ifndef MORTISE_PROXY_PORTS_H
#define MORTISE_PROXY_PORTS_H

#include "lib/base/faults.h"
#include "proxy/snapshot.h"

struct worker;
struct ports;

struct ports *ports_new(struct worker *worker);
void ports_free(struct ports *ports);

/* ports_apply puts `snapshot` (a reference is taken) into force for new connections, or, when an
 * address cannot be bound, changes nothing, adds the faults ("outbound[1].listen") and returns
 * CONFIG_INVALID. Worker 0's thread. */
MUST_CHECK err_t ports_apply(struct ports *ports, struct snapshot *snapshot, struct faults *faults);

/* ports_try tells what ports_apply would find wrong, by binding what is new for a moment. Worker
 * 0's thread. Errors: CONFIG_INVALID, DRAINING (nothing listens any more). */
MUST_CHECK err_t ports_try(struct ports *ports, const struct snapshot *snapshot,
                           struct faults *faults);

/* ports_close stops listening, for good. */
void ports_close(struct ports *ports);

#endif
