/* revoke: what `mortisectl get revocations` shows. */
#ifndef MORTISE_CONTROL_CTL_REVOKE_H
#define MORTISE_CONTROL_CTL_REVOKE_H

#include "control/ctl/conn.h"

/* revocations_show writes who is denied in the form that the flags ask for; an exit code. */
int revocations_show(const struct ctl_flags *flags, struct conn *conn);

#endif
