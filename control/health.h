/* health says why a control plane cannot do its work: what /readyz tells, and Check. */
#ifndef MORTISE_CONTROL_HEALTH_H
#define MORTISE_CONTROL_HEALTH_H

#include "control/ca.h"
#include "control/server_cert.h"
#include "control/vault.h"
#include "lib/base/faults.h"

/* health_faults adds a fault for each reason; none: it is ready. */
void health_faults(const struct ca *ca, const struct vault *vault, struct server_cert *cert,
                   struct faults *reasons);

#endif
