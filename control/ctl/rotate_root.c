/* mortisectl rotate root, rotate issuer and rotate status: a new root or issuer for the mesh. */
#include "control/ctl/rotate_root.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "control/ctl/conn.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define ROOT_POLL_MS 200
#define ROOT_SHA256_SHOWN 16 /* of 64 digits */

static Mortise__V1__RootRotation *root_reply(ProtobufCMessage *reply)
{
    return reply != NULL
               ? MSG_AS(Mortise__V1__RootRotation, mortise__v1__root_rotation__descriptor, reply)
               : NULL;
}

static Mortise__V1__RootRotation *root_get(struct conn *conn)
{
    Mortise__V1__GetRootRotationRequest request = MORTISE__V1__GET_ROOT_ROTATION_REQUEST__INIT;

    return root_reply(conn_call(conn, "OperatorService/GetRootRotation", &request.base,
                                &mortise__v1__root_rotation__descriptor));
}

static bool root_is_idle(const Mortise__V1__RootRotation *rotation)
{
    return strcmp(rotation->stage, "idle") == 0;
}

static bool root_is_of_issuer(const Mortise__V1__RootRotation *rotation)
{
    return strcmp(rotation->kind, "issuer") == 0;
}

static void root_print_line(const Mortise__V1__RootRotation *rotation)
{
    if (root_is_idle(rotation) && root_is_of_issuer(rotation))
        printf("done: the issuer with key %s signs\n"
               "if the old one may be in other hands: mortisectl revoke issuer %s\n",
               rotation->issuer_key_sha256, rotation->retired_issuer_key_sha256);
    else if (root_is_idle(rotation))
        printf("done: root %.*s signs\n", ROOT_SHA256_SHOWN, rotation->signing_sha256);
    else
        printf("%s%s: %s (%u of %u)\n", rotation->going_back ? "back, " : "", rotation->stage,
               rotation->waits_for, rotation->done, rotation->total);
    (void)fflush(stdout);
}

static void root_tell_waiting(const Mortise__V1__RootRotation *rotation)
{
    for (size_t i = 0; i < rotation->n_waiting; i++)
        ctl_tell("%s (%.8s): %s", rotation->waiting[i]->subsystem, rotation->waiting[i]->instance,
                 rotation->waiting[i]->reason);
}

/* Follows the rotation until it has ended or the time is over. */
static int root_follow(struct conn *conn, Mortise__V1__RootRotation *rotation, int64_t timeout_ms)
{
    const struct timespec pause = {.tv_nsec = ROOT_POLL_MS * 1000000L};
    uint64_t end_ms = clock_mono_ms(&clock_system) + (uint64_t)timeout_ms;
    bool over = false;

    while (!root_is_idle(rotation) && !over) {
        Mortise__V1__RootRotation *newer;

        (void)nanosleep(&pause, NULL);
        over = clock_mono_ms(&clock_system) >= end_ms;
        newer = root_get(conn);
        if (newer == NULL) {
            pb_free(&rotation->base);
            return CTL_FAILED;
        }
        if (strcmp(newer->stage, rotation->stage) != 0 || newer->done != rotation->done)
            root_print_line(newer);
        pb_free(&rotation->base);
        rotation = newer;
    }
    over = !root_is_idle(rotation);
    if (over) {
        ctl_tell("the rotation goes on; stage %s still waits for", rotation->stage);
        root_tell_waiting(rotation);
    }
    pb_free(&rotation->base);
    return over ? CTL_FAILED : CTL_OK;
}

static const struct option rotate_root_options[] = {
    {.name = "abort",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, abort),
     .def = "false",
     .help = "Go back to the one of before; possible until it is being retired."},
    CTL_SPREAD_ROW,
    {.name = "wait",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, wait),
     .def = "false",
     .help = "Tell of each stage and wait for the end."},
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

int rotate_root_told(struct conn *conn, const struct ctl_flags *flags, ProtobufCMessage *msg)
{
    Mortise__V1__RootRotation *rotation = root_reply(msg);

    if (rotation == NULL)
        return CTL_FAILED;
    printf("rotation %" PRIu64 "\n", rotation->number);
    root_print_line(rotation);
    if (flags->wait)
        return root_follow(conn, rotation, flags->timeout_ms);
    pb_free(&rotation->base);
    return CTL_OK;
}

static int root_begin(const struct ctl_flags *flags, bool issuer_only)
{
    Mortise__V1__RotateRootRequest request = MORTISE__V1__ROTATE_ROOT_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    int status = CTL_FAILED;

    request.issuer_only = issuer_only;
    request.abort = flags->abort;
    request.spread_ms = (uint32_t)flags->spread_ms;
    if (conn != NULL)
        status = rotate_root_told(conn, flags,
                                  conn_call(conn, "OperatorService/RotateRoot", &request.base,
                                            &mortise__v1__root_rotation__descriptor));
    conn_close(conn);
    return status;
}

static int rotate_root_run(const struct ctl_flags *flags, int num, char **operands)
{
    (void)num;
    (void)operands;
    return root_begin(flags, false);
}

static int rotate_issuer_run(const struct ctl_flags *flags, int num, char **operands)
{
    (void)num;
    (void)operands;
    return root_begin(flags, true);
}

const struct ctl_command ctl_rotate_root = {
    .name = "rotate root",
    .operands = "",
    .summary = "a new root for the mesh, without cutting anybody off",
    .about =
        "Makes a new root, gives it out beside the old one, and when each connected sidecar has "
        "acknowledged that has all certificates made anew under it; when each has its own, the old "
        "root is retired and its key destroyed. A sidecar that refuses or does not answer stops "
        "the advance; rotate status names it. A control plane that is restarted goes on where it "
        "was. It takes an elevation.\n\n"
        "Example: mortisectl elevate --for 30m --reason \"it is due\" && mortisectl rotate root "
        "--wait",
    .options = rotate_root_options,
    .run = rotate_root_run,
};

const struct ctl_command ctl_rotate_issuer = {
    .name = "rotate issuer",
    .operands = "",
    .summary = "a new issuing key below the same root",
    .about = "Makes a new issuing key and certificate, signs with it, and has all certificates "
             "made anew; when each connected sidecar has its own, the old key is destroyed. "
             "Everybody trusts the root, so no trust changes. When the old key may be in other "
             "hands, revoke it after that: the last line tells how.\n\n"
             "Example: mortisectl rotate issuer --wait",
    .options = rotate_root_options,
    .run = rotate_issuer_run,
};

static const struct option rotate_status_options[] = {
    CTL_OUTPUT_ROW, CTL_CONNECTION_ROWS, {.name = NULL}};

static void root_print(const Mortise__V1__RootRotation *rotation)
{
    int64_t now_s = clock_wall_s(&clock_system);
    char began[TABLE_TIME_MAX], since[TABLE_TIME_MAX], ended[TABLE_TIME_MAX];

    table_time(rotation->began_at, now_s, began);
    table_time(rotation->stage_since, now_s, since);
    table_time(rotation->ended_at, now_s, ended);
    if (rotation->number == 0)
        printf("neither root nor issuer was ever rotated\n");
    else if (root_is_idle(rotation))
        printf("rotation %" PRIu64 ", of the %s: ended %s%s\n", rotation->number, rotation->kind,
               ended, rotation->going_back ? ", went back" : "");
    else
        printf("rotation %" PRIu64 ", of the %s: %sstage %s since %s, begun %s\n"
               "waits until %s: %u of %u\n",
               rotation->number, rotation->kind, rotation->going_back ? "goes back, " : "",
               rotation->stage, since, began, rotation->waits_for, rotation->done, rotation->total);
    printf("root               %s\n", rotation->signing_sha256);
    if (rotation->other_sha256[0] != '\0')
        printf("trusted too        %s\n", rotation->other_sha256);
    printf("issuer key         %s\n", rotation->issuer_key_sha256);
    if (rotation->other_issuer_key_sha256[0] != '\0')
        printf("other issuer key   %s\n", rotation->other_issuer_key_sha256);
    if (rotation->retired_issuer_key_sha256[0] != '\0')
        printf("retired issuer key %s\n", rotation->retired_issuer_key_sha256);
    if (rotation->key != NULL && rotation->key->done)
        printf("store's key        %s\n", rotation->key->key);
    else if (rotation->key != NULL)
        printf("store's key        %s; %" PRIu64 " records are still under another\n",
               rotation->key->key, rotation->key->stale);
    for (size_t i = 0; i < rotation->n_waiting; i++)
        printf("waiting for %s (%.8s): %s\n", rotation->waiting[i]->subsystem,
               rotation->waiting[i]->instance, rotation->waiting[i]->reason);
}

static int rotate_status_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__RootRotation *rotation = NULL;
    struct conn *conn = conn_open(flags);

    (void)num;
    (void)operands;
    if (conn != NULL)
        rotation = root_get(conn);
    conn_close(conn);
    if (rotation == NULL)
        return CTL_FAILED;
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, &rotation->base);
    else
        root_print(rotation);
    pb_free(&rotation->base);
    return CTL_OK;
}

const struct ctl_command ctl_rotate_status = {
    .name = "rotate status",
    .operands = "",
    .summary = "how far the rotation of root or issuer is, and whom it waits for",
    .about = "Names each sidecar that holds the stage up, and why, and the keys that sign.\n\n"
             "Example: mortisectl rotate status",
    .options = rotate_status_options,
    .run = rotate_status_run,
};
