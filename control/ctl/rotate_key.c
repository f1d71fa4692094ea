/* mortisectl rotate key: the store under another key-encryption key. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "control/ctl/conn.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define KEY_POLL_MS 100

static const struct option rotate_key_options[] = {
    {.name = "wait",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, wait),
     .def = "false",
     .help = "Wait until every record is sealed under it."},
    {.name = "timeout",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, timeout_ms),
     .def = "60s",
     .min = 1000,
     .max = 3600000,
     .arg = "TIME",
     .help = "With --wait: how long."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* How far it is; `*out_done` when it has ended. False: told. */
static bool key_look(struct conn *conn, bool *out_done, uint64_t *out_stale)
{
    Mortise__V1__GetRootRotationRequest request = MORTISE__V1__GET_ROOT_ROTATION_REQUEST__INIT;
    ProtobufCMessage *msg = conn_call(conn, "OperatorService/GetRootRotation", &request.base,
                                      &mortise__v1__root_rotation__descriptor);
    const Mortise__V1__KeyState *key;

    if (msg == NULL)
        return false;
    key = MSG_AS(Mortise__V1__RootRotation, mortise__v1__root_rotation__descriptor, msg)->key;
    *out_done = key != NULL && key->done;
    *out_stale = key != NULL ? key->stale : 0;
    pb_free(msg);
    return true;
}

static int key_wait(struct conn *conn, int64_t timeout_ms)
{
    const struct timespec pause = {.tv_nsec = KEY_POLL_MS * 1000000L};
    uint64_t end_ms = clock_mono_ms(&clock_system) + (uint64_t)timeout_ms;
    uint64_t stale = 0;
    bool done = false;

    for (;;) {
        if (!key_look(conn, &done, &stale))
            return CTL_FAILED;
        if (done)
            break;
        if (clock_mono_ms(&clock_system) >= end_ms) {
            ctl_tell("it goes on: %" PRIu64 " records are left", stale);
            return CTL_FAILED;
        }
        (void)nanosleep(&pause, NULL);
    }
    printf("done: the old key opens nothing any more; take it out of the key file, and keep it "
           "elsewhere for as long as there are backups of before\n");
    return CTL_OK;
}

static int rotate_key_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__RotateKeyRequest request = MORTISE__V1__ROTATE_KEY_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *msg = NULL;
    int status = CTL_FAILED;

    (void)num;
    (void)operands;
    if (conn != NULL)
        msg = conn_call(conn, "OperatorService/RotateKey", &request.base,
                        &mortise__v1__key_state__descriptor);
    if (msg != NULL) {
        const Mortise__V1__KeyState *key =
            MSG_AS(Mortise__V1__KeyState, mortise__v1__key_state__descriptor, msg);

        printf("key %s seals; %" PRIu64 " records are sealed anew\n", key->key, key->stale);
        (void)fflush(stdout);
        pb_free(msg);
        status = flags->wait ? key_wait(conn, flags->timeout_ms) : CTL_OK;
    }
    conn_close(conn);
    return status;
}

const struct ctl_command ctl_rotate_key = {
    .name = "rotate key",
    .operands = "",
    .summary = "the store under another key-encryption key",
    .about = "The control plane reads its key file (kek_file) again: the first key in it, a key a "
             "line, seals from now on, and all records are sealed anew under it while everything "
             "goes on. The old key stays in the file, below the new one, until that is done: a "
             "control plane that is restarted goes on where it was. No key goes over the wire.\n\n"
             "Example: (openssl rand -hex 32; cat kek) > kek.new && mv kek.new kek && mortisectl "
             "rotate key --wait",
    .options = rotate_key_options,
    .run = rotate_key_run,
};
