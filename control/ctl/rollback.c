/* mortisectl rollback: back to what the mesh was. */
#include "control/ctl/apply.h"
#include "control/ctl/history.h"

static const struct option rollback_options[] = {
    CTL_DRY_RUN_ROW, CTL_FORCE_STRICT_ROW, CTL_WAIT_ROW,        CTL_WEAKER_ROW,
    CTL_MESSAGE_ROW, CTL_TIMEOUT_ROW,      CTL_CONNECTION_ROWS, {.name = NULL},
};

static int rollback_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__ApplyRequest request = MORTISE__V1__APPLY_REQUEST__INIT;
    struct conn *conn;
    int status = CTL_FAILED;

    if (num == 0) {
        ctl_tell("rollback of what?\n"
                 "  the mesh, to what it was: mortisectl rollback REVISION (mortisectl history "
                 "lists them)\n"
                 "  sidecars refuse a store that was put back: mortisectl accept-restore");
        return CTL_USAGE;
    }
    if (!history_number(operands[0], &request.revision))
        return CTL_USAGE;
    conn = conn_open(flags);
    if (conn != NULL)
        status = apply_send(conn, flags, &request);
    conn_close(conn);
    return status;
}

const struct ctl_command ctl_rollback = {
    .name = "rollback",
    .operands = "REVISION",
    .summary = "back to what the mesh was at a revision",
    .about = "Makes the mesh of a revision the one in force again, whole: what was added since "
             "goes, what was removed comes back. It is checked as any other document, and refused "
             "with every fault when it is no longer valid. It is a new revision, which says where "
             "it goes back to, so that it can be undone in the same way. Revocations stay as they "
             "are.\n\n"
             "Example: mortisectl rollback 41 --dry-run\n"
             "         mortisectl rollback 41 -m \"portal was not ready\" --wait",
    .options = rollback_options,
    .min_operands = 0, /* it says which two there are */
    .max_operands = 1,
    .run = rollback_run,
};
