/* mortisectl why: does one subsystem reach another, and if not, why. */
#include <inttypes.h>
#include <stdio.h>

#include "control/ctl/conn.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

enum { WHY_WORKS = CTL_OK, WHY_FAILS = CTL_FAILED, WHY_UNKNOWN = 2 };

static const struct option why_options[] = {
    {.name = "link",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, link),
     .arg = "NAME",
     .help = "This link only; else every one from the one to the other."},
    {.name = "probe",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, probe),
     .def = "true",
     .help = "Try it now; --no-probe: say what is known and remembered."},
    {.name = "timeout",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, timeout_ms),
     .def = "5s",
     .min = 1000,
     .max = 10000,
     .arg = "TIME",
     .help = "How long an endpoint may take for connecting, and for its handshake."},
    CTL_OUTPUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL}};

static void why_print_link(const Mortise__V1__WhyLink *link)
{
    bool works = link->state == MORTISE__V1__WHY_LINK__STATE__WORKS;
    bool colour = table_is_terminal();
    const char *begin = works                                                ? "\033[32m"
                        : link->state == MORTISE__V1__WHY_LINK__STATE__FAILS ? "\033[31m"
                                                                             : "\033[33m";

    printf("%s", colour ? begin : "");
    ctl_print(stdout, link->because);
    printf("%s\n", colour ? "\033[0m" : "");
    if (link->link[0] != '\0') {
        printf("  link: ");
        ctl_print(stdout, link->link);
        printf("\n");
    }
    for (size_t i = 0; i < link->n_details; i++) {
        printf("  ");
        ctl_print(stdout, link->details[i]->name);
        printf(": ");
        ctl_print(stdout, link->details[i]->text);
        printf("\n");
    }
    if (link->hint[0] != '\0') {
        printf("  what to do: ");
        ctl_print(stdout, link->hint);
        printf("\n");
    }
}

static int why_status(const Mortise__V1__WhyReport *report)
{
    if (report->state == MORTISE__V1__WHY_LINK__STATE__WORKS)
        return WHY_WORKS;
    return report->state == MORTISE__V1__WHY_LINK__STATE__FAILS ? WHY_FAILS : WHY_UNKNOWN;
}

static int why_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__WhyRequest request = MORTISE__V1__WHY_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *msg = NULL;
    const Mortise__V1__WhyReport *report;
    int status;

    (void)num;
    request.client = operands[0];
    request.server = operands[1];
    if (flags->link != NULL)
        request.link = flags->link;
    request.no_probe = !flags->probe;
    request.timeout_s = (uint32_t)((flags->timeout_ms + 999) / 1000);
    if (conn != NULL)
        msg = conn_call(conn, "OperatorService/Why", &request.base,
                        &mortise__v1__why_report__descriptor);
    conn_close(conn);
    if (msg == NULL)
        return WHY_UNKNOWN;
    report = MSG_AS(Mortise__V1__WhyReport, mortise__v1__why_report__descriptor, msg);
    if (flags->output == CTL_JSON || flags->output == CTL_YAML) {
        show_message(flags->output, msg);
    } else {
        for (size_t i = 0; i < report->n_links; i++)
            why_print_link(report->links[i]);
    }
    status = why_status(report);
    pb_free(msg);
    return status;
}

const struct ctl_command ctl_why = {
    .name = "why",
    .operands = "CLIENT SERVER",
    .summary = "does one subsystem reach another, and if not, why",
    .about = "Says in one sentence why connections from CLIENT to SERVER fail, then what is known "
             "of it: what is offered and what is required, which certificate was refused by which "
             "rule, clocks, policy. It has CLIENT's sidecars try the link now: they connect, shake "
             "hands and end; SERVER's application sees nothing of it. Nothing is changed.\n\n"
             "Exit status: 0 it works, 1 it does not, 2 that cannot be known.\n\n"
             "Example: mortisectl why portal gateway\n"
             "         mortisectl why portal gateway -o json",
    .options = why_options,
    .min_operands = 2,
    .max_operands = 2,
    .run = why_run,
};
