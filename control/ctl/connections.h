/* connections shows what sidecars say of their live connections: all of a subsystem, or those that
 * a change would end. */
#ifndef MORTISE_CONTROL_CTL_CONNECTIONS_H
#define MORTISE_CONTROL_CTL_CONNECTIONS_H

#include "control/ctl/conn.h"
#include "proto/mesh/operator.pb-c.h"

/* connections_get is `get connections SUBSYSTEM`; CTL_FAILED when a sidecar did not answer. */
int connections_get(struct conn *conn, const struct ctl_flags *flags, const char *subsystem);

/* connections_preview tells which live connections a change would end; CTL_FAILED when a sidecar
 * would refuse it or did not answer. */
int connections_preview(struct conn *conn, const Mortise__V1__PreviewRequest *request);

#endif
