/* mortisectl rotate control and rotate admin: what is another at once. */
#include <inttypes.h>
#include <stdio.h>

#include "control/ctl/conn.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option rotate_now_options[] = {CTL_CONNECTION_ROWS, {.name = NULL}};

static ProtobufCMessage *rotate_now_ask(const struct ctl_flags *flags, const char *method,
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

static int rotate_control_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__RotateControlRequest request = MORTISE__V1__ROTATE_CONTROL_REQUEST__INIT;
    const Mortise__V1__RotateControlResponse *reply;
    char until[TABLE_TIME_MAX];
    ProtobufCMessage *msg = rotate_now_ask(flags, "OperatorService/RotateControl", &request.base,
                                           &mortise__v1__rotate_control_response__descriptor);

    (void)num;
    (void)operands;
    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__RotateControlResponse,
                   mortise__v1__rotate_control_response__descriptor, msg);
    table_time(reply->not_after, clock_wall_s(&clock_system), until);
    printf("new connections get the certificate %s, which expires %s\n", reply->serial, until);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_rotate_control = {
    .name = "rotate control",
    .operands = "",
    .summary = "a new certificate for the control plane itself",
    .about =
        "The control plane makes a fresh key and a certificate for it. New connections get it; "
        "sidecars that are connected stay. `get certificates` has it, with reason control.\n\n"
        "Example: mortisectl rotate control",
    .options = rotate_now_options,
    .run = rotate_control_run,
};

static int rotate_admin_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__RotateAdminRequest request = MORTISE__V1__ROTATE_ADMIN_REQUEST__INIT;
    ProtobufCMessage *msg = rotate_now_ask(flags, "OperatorService/RotateAdmin", &request.base,
                                           &mortise__v1__rotate_admin_response__descriptor);

    (void)num;
    (void)operands;
    if (msg == NULL)
        return CTL_FAILED;
    printf("epoch %" PRIu64
           ": every administrator's certificate of before is refused; make new ones "
           "with mortisectl admin create\n",
           MSG_AS(Mortise__V1__RotateAdminResponse, mortise__v1__rotate_admin_response__descriptor,
                  msg)
               ->epoch);
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_rotate_admin = {
    .name = "rotate admin",
    .operands = "",
    .summary = "refuse every administrator's certificate of before",
    .about = "At once, and for good: connections of administrators from elsewhere end, and their "
             "certificates open nothing any more. The operator socket on the control plane's "
             "machine is not touched: new ones are made there.\n\n"
             "Example: mortisectl rotate admin && mortisectl admin create alice --out alice/",
    .options = rotate_now_options,
    .run = rotate_admin_run,
};
