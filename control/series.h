/* series are the metrics that come and go with what they are about, written when they are asked
 * for: the time of every certificate, and of each sidecar which version and generation it has in
 * force and how its clock goes. */
#ifndef MORTISE_CONTROL_SERIES_H
#define MORTISE_CONTROL_SERIES_H

#include "control/ca.h"
#include "control/registry.h"

/* More sidecars are counted, not listed: their own metrics say the same. Those that are behind or
 * whose clock is off come first. */
#define SERIES_SIDECARS_MAX 1000

/* series_write appends the families as Prometheus text. Errors: TOO_LARGE (of the buffer). */
MUST_CHECK err_t series_write(const struct ca *ca, struct registry *registry, struct buf *out);

#endif
