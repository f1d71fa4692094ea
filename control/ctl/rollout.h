/* rollout follows a change until every connected sidecar has acknowledged it. */
#ifndef MORTISE_CONTROL_CTL_ROLLOUT_H
#define MORTISE_CONTROL_CTL_ROLLOUT_H

#include "control/ctl/conn.h"

/* rollout_wait tells of each sidecar that has `version`, and of each that refuses it; CTL_OK when
 * all have it within the time that the flags give, else CTL_FAILED. `out_refuser` (may be NULL) is
 * the first that refuses it and why, owned; NULL: none does. */
int rollout_wait(struct conn *conn, const struct ctl_flags *flags, uint64_t version,
                 char **out_refuser);

#endif
