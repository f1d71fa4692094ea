/* mortisectl history: who changed the mesh, when and why. */
#include "control/ctl/history.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/ctl/pages.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define HISTORY_DIGITS_MAX 19 /* every number of so many digits fits a uint64_t */

static const struct option history_options[] = {
    CTL_OUTPUT_ROW, CTL_CONNECTION_ROWS, {.name = NULL}};

bool history_number(const char *text, uint64_t *out)
{
    size_t len = strlen(text);

    if (len == 0 || len > HISTORY_DIGITS_MAX || strspn(text, "0123456789") != len ||
        text[0] == '0') {
        ctl_tell("\"%s\" is not the number of a revision (mortisectl history lists them)", text);
        return false;
    }
    *out = strtoull(text, NULL, 10);
    return true;
}

/* The first of its changes, or all of them. */
static void history_add_changes(struct table *table, const Mortise__V1__Revision *item, bool all)
{
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(mem_freep) char *joined = NULL;
    size_t told = all || item->n_changes == 0 ? item->n_changes : 1;
    err_t err = OK;

    for (size_t i = 0; i < told && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? "; " : "", item->changes[i]);
    if (told < item->num_changes && err_is_ok(err))
        err = buf_printf(&text, " (and %zu more)", (size_t)item->num_changes - told);
    CHECK(err_is_ok(err)); /* at most 64 short texts */
    joined = buf_take_str(&text);
    table_add(table, joined);
}

static void history_table(const Mortise__V1__ListRevisionsResponse *reply, bool wide)
{
    static const char *const heads[] = {"REVISION", "CHANGED", "AUTHOR",
                                        "MESSAGE",  "CHANGES", NULL};
    struct table table = {.heads = heads};
    int64_t now_s = clock_wall_s(&clock_system);

    for (size_t i = 0; i < reply->n_revisions; i++) {
        const Mortise__V1__Revision *item = reply->revisions[i];
        char when[TABLE_TIME_MAX];

        table_addf(&table, "%" PRIu64, item->version);
        table_time(item->changed_at, now_s, when);
        table_add(&table, when);
        table_add(&table, item->author);
        table_add(&table, item->message);
        history_add_changes(&table, item, wide);
    }
    table_print(&table);
}

static int history_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__ListRevisionsRequest request = MORTISE__V1__LIST_REVISIONS_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *msg = NULL;

    (void)num;
    (void)operands;
    if (conn != NULL)
        msg = pages_call(conn, "OperatorService/ListRevisions", &request.base,
                         &mortise__v1__list_revisions_response__descriptor);
    conn_close(conn);
    if (msg == NULL)
        return CTL_FAILED;
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, msg);
    else
        history_table(MSG_AS(Mortise__V1__ListRevisionsResponse,
                             mortise__v1__list_revisions_response__descriptor, msg),
                      flags->output == CTL_WIDE);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_history = {
    .name = "history",
    .operands = "",
    .summary = "who changed the mesh, when and why",
    .about = "Lists the revisions of the mesh that are kept, newest first: the newest 200, fewer "
             "when meshes are large. A revision's number is the version of the mesh with it; "
             "numbers skip, for other changes have versions, too. The newest is what is in force. "
             "-o wide shows all that each has changed.\n\n"
             "Example: mortisectl history\n"
             "         mortisectl diff 41 45; mortisectl rollback 41",
    .options = history_options,
    .run = history_run,
};
