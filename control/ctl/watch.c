/* mortisectl watch: what happens in the mesh, as it happens. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/ctl/conn.h"
#include "control/ctl/show.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/str.h"
#include "proto/mesh/operator.pb-c.h"

#define WATCH_SINCE_MAX_MS (INT64_C(7) * 86400 * 1000)

static const struct option watch_options[] = {
    CTL_OUTPUT_ROW,
    {.name = "since",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, since_ms),
     .def = "0s",
     .min = 0,
     .max = WATCH_SINCE_MAX_MS,
     .arg = "TIME",
     .help = "First what happened within this time: the newest 4,096 events are kept."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static void watch_print(const char *before, const char *text)
{
    if (text[0] == '\0')
        return;
    fputs(before, stdout);
    ctl_print(stdout, text);
}

static void watch_line(const Mortise__V1__Event *event)
{
    char when[21];

    clock_format_utc(event->at_ms / 1000, when);
    printf("%.19s.%03dZ", when, (int)(event->at_ms % 1000));
    watch_print(" ", event->kind);
    watch_print(" ", event->subsystem);
    if (event->instance[0] != '\0')
        printf(" (%.8s)", event->instance);
    watch_print(" ", event->id);
    if (event->version != 0)
        printf(" version=%" PRIu64, event->version);
    if (event->number != 0)
        printf(" number=%" PRIu64, event->number);
    watch_print(" serial=", event->serial);
    watch_print(": ", event->detail);
    printf("\n");
}

static void watch_on_event(void *arg, const ProtobufCMessage *msg)
{
    const struct ctl_flags *flags = arg;
    const Mortise__V1__Event *event =
        MSG_AS_CONST(Mortise__V1__Event, mortise__v1__event__descriptor, msg);

    if (flags->output == CTL_JSON) {
        show_line(&event->base);
        printf("\n");
    } else {
        watch_line(event);
    }
    (void)fflush(stdout);
}

static int watch_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__WatchRequest request = MORTISE__V1__WATCH_REQUEST__INIT;
    struct conn *conn;
    bool ok = false;

    if (flags->output == CTL_YAML || flags->output == CTL_WIDE) {
        ctl_tell("watch: lines (table), or JSON lines (json)");
        return CTL_USAGE;
    }
    request.subsystem = num > 0 ? operands[0] : msg_lend("");
    request.since_s = (uint32_t)((flags->since_ms + 999) / 1000);
    conn = conn_open(flags);
    if (conn != NULL)
        ok = conn_stream(conn, "OperatorService/Watch", &request.base,
                         &mortise__v1__event__descriptor, watch_on_event,
                         (void *)(uintptr_t)flags); /* only read */
    conn_close(conn);
    return ok ? CTL_OK : CTL_FAILED;
}

const struct ctl_command ctl_watch = {
    .name = "watch",
    .operands = "[SUBSYSTEM]",
    .summary = "what happens in the mesh, as it happens",
    .about =
        "Writes a line for each event until it is interrupted: sidecars that join and leave, "
        "configurations acknowledged or refused, certificates issued or refused, tokens used, "
        "stages of a rotation, connections ended by a change, clocks that are off, and what "
        "operators do. With SUBSYSTEM only what is about its sidecars. Who reads too slowly is "
        "told how many he missed (missed).\n\n"
        "Example: mortisectl watch --since 10m -o json",
    .options = watch_options,
    .min_operands = 0,
    .max_operands = 1,
    .run = watch_run,
};
