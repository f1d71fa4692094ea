/* policy shows policies, and what comes of them. */
#ifndef MORTISE_CONTROL_CTL_POLICY_H
#define MORTISE_CONTROL_CTL_POLICY_H

#include <stdbool.h>

#include "control/ctl/table.h"
#include "lib/base/buf.h"
#include "proto/mesh/resource.pb-c.h"

/* policy_row adds the line of a policy to its table. */
void policy_row(bool wide, const Mortise__V1__Policy *policy, struct table *table);

/* policy_of_link appends a line for each policy that may concern the link of that name, and says
 * whom they keep from it. */
MUST_CHECK err_t policy_of_link(const Mortise__V1__Mesh *mesh, const char *trust_domain,
                                const char *link, struct buf *out);

/* policy_effect appends a line for each link from which that policy keeps one of its ends. */
MUST_CHECK err_t policy_effect(const Mortise__V1__Mesh *mesh, const char *trust_domain,
                               const char *policy, struct buf *out);

#endif
