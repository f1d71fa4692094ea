/* crl shows the revocation lists that the CAs of a mesh publish. */
#ifndef MORTISE_CONTROL_CTL_CRL_H
#define MORTISE_CONTROL_CTL_CRL_H

#include "control/ctl/ctl.h"

struct conn;
/* crls_show asks for them and shows them, or writes the one of --issuer to --file; an exit status.
 */
int crls_show(const struct ctl_flags *flags, struct conn *conn);

#endif
