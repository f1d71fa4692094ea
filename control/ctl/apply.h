/* apply sends a change of the mesh and tells what became of it, for all commands that make one. */
#ifndef MORTISE_CONTROL_CTL_APPLY_H
#define MORTISE_CONTROL_CTL_APPLY_H

#include "control/ctl/conn.h"
#include "proto/mesh/operator.pb-c.h"

/* apply_send fills in what the flags say (--dry-run, --message), sends the request and tells the
 * changes; with --dry-run also which connections would end, with --wait who has it. With
 * --rollback-on-nack, what a sidecar has refused is taken back, unless the mesh has been changed
 * since. Returns an exit code: a change that was taken back is CTL_FAILED. */
int apply_send(struct conn *conn, const struct ctl_flags *flags,
               Mortise__V1__ApplyRequest *request);

/* apply_call is the same of a call that answers as Apply does, from a request that is whole. */
int apply_call(struct conn *conn, const struct ctl_flags *flags, const char *method,
               const ProtobufCMessage *request);

#endif
