/* mortisectl elevate; elevate approve, elevate list: what takes a reason and a time. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/ctl/conn.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/elevations.h"
#include "control/msg.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/access.pb-c.h"

static const struct option elevate_options[] = {
    {.name = "for",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, for_ms),
     .def = "10m",
     .min = ELEVATION_MIN_S * 1000,
     .max = ELEVATION_MAX_S * 1000,
     .arg = "TIME",
     .help = "It ends by itself after this time, at most an hour."},
    {.name = "reason",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, reason),
     .arg = "TEXT",
     .help = "Why, for the audit log: one line."},
    {.name = "end",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, end),
     .def = "false",
     .help = "End yours now."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static const struct option elevate_approve_options[] = {
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static const struct option elevate_list_options[] = {
    CTL_OUTPUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* One call that is answered with an elevation; NULL: told. */
static ProtobufCMessage *elevate_ask(const struct ctl_flags *flags, const char *method,
                                     const ProtobufCMessage *request,
                                     const ProtobufCMessageDescriptor *reply)
{
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *msg = NULL;

    if (conn != NULL)
        msg = conn_call(conn, method, request, reply);
    conn_close(conn);
    return msg;
}

static int elevate_tell(ProtobufCMessage *msg)
{
    const Mortise__V1__Elevation *elevation;

    if (msg == NULL)
        return CTL_FAILED;
    elevation = MSG_AS(Mortise__V1__Elevation, mortise__v1__elevation__descriptor, msg);
    if (elevation->left_s == 0)
        printf("the elevation of %s has ended\n", elevation->subject);
    else if (elevation->pending)
        printf("elevation %" PRIu64 " of %s waits for another administrator, who types:\n"
               "  mortisectl elevate approve %" PRIu64 "\n",
               elevation->id, elevation->subject, elevation->id);
    else
        printf("elevation %" PRIu64 ": %s is elevated for %" PRIu32
               " s; to end it: mortisectl elevate --end\n",
               elevation->id, elevation->subject, elevation->left_s);
    pb_free(msg);
    return CTL_OK;
}

static int elevate_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__ElevateRequest request = MORTISE__V1__ELEVATE_REQUEST__INIT;
    Mortise__V1__EndElevationRequest end = MORTISE__V1__END_ELEVATION_REQUEST__INIT;

    (void)num;
    (void)operands;
    if (flags->end)
        return elevate_tell(elevate_ask(flags, "AccessService/EndElevation", &end.base,
                                        &mortise__v1__elevation__descriptor));
    if (flags->reason == NULL) {
        ctl_tell("--reason: is needed: why, for the audit log");
        return CTL_USAGE;
    }
    request.for_s = (uint32_t)(flags->for_ms / 1000);
    request.reason = flags->reason;
    return elevate_tell(elevate_ask(flags, "AccessService/Elevate", &request.base,
                                    &mortise__v1__elevation__descriptor));
}

const struct ctl_command ctl_elevate = {
    .name = "elevate",
    .operands = "",
    .summary = "be allowed for a time what takes a reason, as to rotate the root",
    .about = "Adds nothing to your role. It ends by itself, with --end, and when the control plane "
             "starts again. Where two persons are asked for (mortise-control "
             "--elevation-approval) it begins when another administrator approves it.\n\n"
             "Example: mortisectl elevate --for 10m --reason \"root key of 2016 is due\"",
    .options = elevate_options,
    .run = elevate_run,
};

static int elevate_approve_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__ApproveElevationRequest request = MORTISE__V1__APPROVE_ELEVATION_REQUEST__INIT;
    size_t len = strlen(operands[0]);

    (void)num;
    if (len == 0 || len > 19 || strspn(operands[0], "0123456789") != len) {
        ctl_tell("elevate approve: \"%s\" is not an elevation's number (mortisectl elevate list)",
                 operands[0]);
        return CTL_USAGE;
    }
    request.id = strtoull(operands[0], NULL, 10);
    return elevate_tell(elevate_ask(flags, "AccessService/ApproveElevation", &request.base,
                                    &mortise__v1__elevation__descriptor));
}

const struct ctl_command ctl_elevate_approve = {
    .name = "elevate approve",
    .operands = "ID",
    .summary = "approve somebody else's elevation",
    .about = "It begins now, for the time that was asked for. Nobody approves his own.\n\n"
             "Example: mortisectl elevate approve 3",
    .options = elevate_approve_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = elevate_approve_run,
};

static void elevations_table(const Mortise__V1__ListElevationsResponse *reply)
{
    static const char *const heads[] = {"ID",          "WHO",    "STATE", "LEFT",
                                        "APPROVED BY", "REASON", NULL};
    struct table table = {.heads = heads};

    for (size_t i = 0; i < reply->n_elevations; i++) {
        const Mortise__V1__Elevation *elevation = reply->elevations[i];

        table_addf(&table, "%" PRIu64, elevation->id);
        table_add(&table, elevation->subject);
        table_add(&table, elevation->pending ? "waits for approval" : "elevated");
        table_addf(&table, "%" PRIu32 "s", elevation->left_s);
        table_add(&table, elevation->approved_by);
        table_add(&table, elevation->reason);
    }
    table_print(&table);
}

static int elevate_list_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__ListElevationsRequest request = MORTISE__V1__LIST_ELEVATIONS_REQUEST__INIT;
    ProtobufCMessage *msg = elevate_ask(flags, "AccessService/ListElevations", &request.base,
                                        &mortise__v1__list_elevations_response__descriptor);

    (void)num;
    (void)operands;
    if (msg == NULL)
        return CTL_FAILED;
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, msg);
    else
        elevations_table(MSG_AS(Mortise__V1__ListElevationsResponse,
                                mortise__v1__list_elevations_response__descriptor, msg));
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_elevate_list = {
    .name = "elevate list",
    .operands = "",
    .summary = "who is elevated, and who waits for approval",
    .about = "Example: mortisectl elevate list",
    .options = elevate_list_options,
    .run = elevate_list_run,
};
