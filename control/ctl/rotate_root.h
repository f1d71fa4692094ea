/* rotate_root: how a rotation of the CA is told of. */
#ifndef MORTISE_CONTROL_CTL_ROTATE_ROOT_H
#define MORTISE_CONTROL_CTL_ROTATE_ROOT_H

#include "control/ctl/conn.h"

/* rotate_root_told takes the RootRotation that a call was answered with (NULL: refused, and told),
 * prints it and with --wait follows the rotation. Returns the exit code. */
int rotate_root_told(struct conn *conn, const struct ctl_flags *flags, ProtobufCMessage *msg);

#endif
