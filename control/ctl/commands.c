/* The list of commands, in the order of --help. */
#include "control/ctl/ctl.h"

const struct ctl_command *const ctl_commands[] = {
    &ctl_init,          &ctl_status, &ctl_apply,   &ctl_get,
    &ctl_token,         &ctl_roots,  &ctl_rotate,  &ctl_rotate_root,
    &ctl_rotate_status, &ctl_revoke, &ctl_lift,    &ctl_admin,
    &ctl_certificate,   &ctl_backup, &ctl_restore, &ctl_completion,
    &ctl_version,       NULL,
};
