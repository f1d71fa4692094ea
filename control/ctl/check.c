/* mortisectl check: what is wrong with the installation, or soon will be. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/build.h"
#include "control/ctl/conn.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define CHECK_CLOCK_MS 30000 /* between us and the control plane */

static const struct option check_options[] = {CTL_OUTPUT_ROW, CTL_CONNECTION_ROWS, {.name = NULL}};

/* What only we can find. All texts are owned: the reply is released as a whole. */
static void check_add(Mortise__V1__CheckReport *report, const char *name, bool good, char *text,
                      const char *hint)
{
    Mortise__V1__Finding *finding = mem_alloc(sizeof(*finding));

    mortise__v1__finding__init(finding);
    finding->area = mem_strdup("mortisectl");
    finding->name = mem_strdup(name);
    finding->state = good ? MORTISE__V1__FINDING__STATE__OK : MORTISE__V1__FINDING__STATE__WARNING;
    finding->text = text;
    finding->hint = mem_strdup(good ? "" : hint);
    report->findings =
        mem_realloc(report->findings, (report->n_findings + 1) * sizeof(*report->findings));
    report->findings[report->n_findings++] = finding;
}

/* `asked_ms` and `told_ms` are our clock before and after the call. */
static void check_here(Mortise__V1__CheckReport *report, int64_t asked_ms, int64_t told_ms)
{
    int64_t half_ms = (told_ms - asked_ms) / 2;
    int64_t ahead_ms = asked_ms + half_ms - report->now_ms;
    int64_t off_ms = ahead_ms < 0 ? -ahead_ms : ahead_ms;
    bool agree = off_ms - half_ms <= CHECK_CLOCK_MS;

    check_add(report, "clock", agree,
              agree ? mem_strdup("ours is that of the control plane")
                    : mem_printf("ours is %" PRId64 " s %s that of the control plane",
                                 off_ms / 1000, ahead_ms < 0 ? "behind" : "ahead of"),
              "set the time on one of the two hosts");
    check_add(report, "build", strcmp(report->build, BUILD_VERSION) == 0,
              mem_printf("mortisectl is " BUILD_VERSION ", the control plane %s", report->build),
              "use the mortisectl of the same release");
}

static bool check_is_good(const Mortise__V1__Finding *finding)
{
    return finding->state == MORTISE__V1__FINDING__STATE__OK ||
           finding->state == MORTISE__V1__FINDING__STATE__WARNING;
}

static void check_print_one(const Mortise__V1__Finding *finding, bool colour)
{
    bool ok = finding->state == MORTISE__V1__FINDING__STATE__OK;
    const char *mark = ok ? "ok" : check_is_good(finding) ? "warning" : "FAILED";
    const char *begin = ok ? "\033[32m" : check_is_good(finding) ? "\033[33m" : "\033[31m";

    printf("  %s%-8s%s", colour ? begin : "", mark, colour ? "\033[0m" : "");
    ctl_print(stdout, finding->name);
    printf(": ");
    ctl_print(stdout, finding->text);
    if (finding->hint[0] != '\0') {
        printf("\n          ");
        ctl_print(stdout, finding->hint);
    }
    printf("\n");
}

static void check_print(const Mortise__V1__CheckReport *report)
{
    bool colour = table_is_terminal();
    const char *area = "";

    for (size_t i = 0; i < report->n_findings; i++) {
        const Mortise__V1__Finding *finding = report->findings[i];

        if (strcmp(area, finding->area) != 0) {
            ctl_print(stdout, finding->area);
            printf("\n");
        }
        area = finding->area;
        check_print_one(finding, colour);
    }
}

static int check_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__CheckRequest request = MORTISE__V1__CHECK_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    int64_t asked_ms = clock_wall_us() / 1000;
    ProtobufCMessage *msg = NULL;
    Mortise__V1__CheckReport *report;
    bool good = true;

    (void)num;
    (void)operands;
    if (conn != NULL)
        msg = conn_call(conn, "OperatorService/Check", &request.base,
                        &mortise__v1__check_report__descriptor);
    conn_close(conn);
    if (msg == NULL)
        return CTL_FAILED;
    report = MSG_AS(Mortise__V1__CheckReport, mortise__v1__check_report__descriptor, msg);
    check_here(report, asked_ms, clock_wall_us() / 1000);
    for (size_t i = 0; i < report->n_findings; i++)
        good = good && check_is_good(report->findings[i]);
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, msg);
    else
        check_print(report);
    pb_free(msg);
    return good ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_check = {
    .name = "check",
    .operands = "",
    .summary = "what is wrong with the installation, or soon will be",
    .about =
        "Examines the control plane, its certificates, the sidecars, links without anybody at an "
        "end, clocks, versions, rotations and revocation lists. Nothing is changed. Each line says "
        "what was found, and what to do where something is. Fails when something is broken now; "
        "warnings alone do not.\n\n"
        "Example: mortisectl check\n"
        "         mortisectl check -o json",
    .options = check_options,
    .run = check_run,
};
