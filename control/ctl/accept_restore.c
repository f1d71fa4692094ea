/* mortisectl accept-restore: a store that is older than what sidecars have seen. */
#include <inttypes.h>
#include <stdio.h>

#include "certs/revoke.h"
#include "control/ctl/conn.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option accept_restore_options[] = {
    {.name = "confirm",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, confirm),
     .def = "false",
     .help = "Take the store as it is: sidecars obey it from then on."},
    {.name = "keep-revocations",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, keep_revocations),
     .def = "false",
     .help = "With --confirm: put what is denied by sidecars into the store first."},
    {.name = "drop-revocations",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, drop_revocations),
     .def = "false",
     .help = "With --confirm: who is denied by sidecars only is let in again."},
    CTL_OUTPUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static void accept_restore_print(const Mortise__V1__Rollback *rollback)
{
    if (rollback->n_witnesses == 0) {
        printf("no connected sidecar has seen more than this store has\n");
        return;
    }
    printf("%zu sidecars have seen more than this store has, and refuse what it says:\n",
           rollback->n_witnesses);
    for (size_t i = 0; i < rollback->n_witnesses; i++) {
        const Mortise__V1__RollbackWitness *witness = rollback->witnesses[i];

        printf("  %s (%s) keeps version %" PRIu64 ", of revision %" PRIu64 "\n", witness->subsystem,
               witness->instance, witness->version,
               witness->seen != NULL ? witness->seen->revision : 0);
    }
    if (rollback->n_missing > 0)
        printf("%zu revocations that they have in force are not in it:\n", rollback->n_missing);
    for (size_t i = 0; i < rollback->n_missing; i++) {
        const Mortise__V1__RollbackRevocation *missing = rollback->missing[i];
        struct revoke_subject subject = revoke_subject(missing->revocation);

        printf("  %s %s (told by %u)\n", subject.kind, subject.value, missing->witnesses);
    }
}

static ProtobufCMessage *accept_restore_ask(const struct ctl_flags *flags)
{
    Mortise__V1__GetRollbackRequest get = MORTISE__V1__GET_ROLLBACK_REQUEST__INIT;
    Mortise__V1__ConfirmRollbackRequest confirm = MORTISE__V1__CONFIRM_ROLLBACK_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *reply = NULL;

    confirm.keep_revocations = flags->keep_revocations;
    confirm.drop_revocations = flags->drop_revocations;
    if (conn != NULL)
        reply = conn_call(
            conn,
            flags->confirm ? "OperatorService/ConfirmRollback" : "OperatorService/GetRollback",
            flags->confirm ? &confirm.base : &get.base, &mortise__v1__rollback__descriptor);
    conn_close(conn);
    return reply;
}

static int accept_restore_run(const struct ctl_flags *flags, int num, char **operands)
{
    ProtobufCMessage *reply;
    const Mortise__V1__Rollback *rollback;
    bool more;

    (void)num;
    (void)operands;
    if (!flags->confirm && (flags->keep_revocations || flags->drop_revocations)) {
        ctl_tell("--keep-revocations and --drop-revocations go with --confirm");
        return CTL_USAGE;
    }
    reply = accept_restore_ask(flags);
    if (reply == NULL)
        return CTL_FAILED;
    rollback = MSG_AS_CONST(Mortise__V1__Rollback, mortise__v1__rollback__descriptor, reply);
    more = rollback->more;
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, reply);
    else if (!flags->confirm)
        accept_restore_print(rollback);
    else if (!more)
        printf("confirmed for %zu sidecars: era %" PRIu64 ", %zu revocations %s\n",
               rollback->n_witnesses, rollback->era, rollback->n_missing,
               flags->keep_revocations ? "kept" : "dropped");
    if (more)
        ctl_tell("%zu revocations are kept; sidecars have more: ask again", rollback->n_missing);
    pb_free(reply);
    return more ? CTL_FAILED : CTL_OK;
}

const struct ctl_command ctl_accept_restore = {
    .name = "accept-restore",
    .operands = "",
    .summary = "a store that was put back, and the sidecars that know more",
    .about = "After a restore of an old backup, or of an old copy of the store, sidecars that have "
             "seen what was decided since refuse what it says (config_rollback) and keep what they "
             "have. This shows who they are, and which revocations they have in force that the "
             "store lacks; with --confirm they take the store as it is. Nobody is let in again "
             "unless that is said.\n\n"
             "Example: mortisectl accept-restore --confirm --keep-revocations",
    .options = accept_restore_options,
    .run = accept_restore_run,
};
