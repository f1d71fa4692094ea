/* rotate keeps the books of one rotation until every sidecar that was connected when it began has
 * reported a certificate of the new epoch. Pure: it is told of workloads and looks at what they
 * reported. */
#ifndef MORTISE_CONTROL_ROTATE_H
#define MORTISE_CONTROL_ROTATE_H

#include "control/registry.h"
#include "lib/base/buf.h"
#include "lib/base/map.h"

struct rotate_entry {
    char *subsystem;
    char *spiffe_id;
    char *instance;
    char *error; /* of its last renewal; "" */
    bool done;
    bool connected;
};

struct rotate {
    uint64_t epoch;
    struct rotate_entry *entries;
    struct map by_key; /* "<instance> <spiffe_id>" to its entry */
    size_t num;
    size_t num_done;
};

/* rotate_begin notes the workloads in `workloads` (of struct workload) that belong to `subsystems`.
 */
void rotate_begin(struct rotate *rotate, uint64_t epoch, const struct list *workloads,
                  const char *const *subsystems, size_t num);
void rotate_fini(struct rotate *rotate);

/* rotate_see is called when a workload has reported or joined (again, after it took its new
 * certificate); true when it is one of ours and is done just now. rotate_lost is called when one
 * has left. */
bool rotate_see(struct rotate *rotate, const struct workload *workload);
void rotate_lost(struct rotate *rotate, const struct workload *workload);

static inline bool rotate_is_done(const struct rotate *rotate)
{
    return rotate->num_done == rotate->num;
}

/* rotate_missing writes who has not renewed and why, as far as is known: "portal (1f2e…):
 * disconnected; gateway (77aa…): rate_limited". */
MUST_CHECK err_t rotate_missing(const struct rotate *rotate, struct buf *out);

#endif
