/* workload shows sidecars in tables. */
#ifndef MORTISE_CONTROL_CTL_WORKLOAD_H
#define MORTISE_CONTROL_CTL_WORKLOAD_H

#include "control/ctl/table.h"
#include "proto/mesh/operator.pb-c.h"

/* workload_add_state adds a cell: "ready", or what is wrong with it, the worst first. */
void workload_add_state(struct table *table, const Mortise__V1__Workload *item);

#endif
