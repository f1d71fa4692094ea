/* mortisectl token create: what a new sidecar joins with. */
#include <stdio.h>
#include <string.h>

#include "control/attest.h"
#include "control/ctl/conn.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option token_options[] = {
    {.name = "ttl",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, ttl_ms),
     .def = "15m",
     .min = ATTEST_TTL_MIN_S * 1000,
     .max = ATTEST_TTL_MAX_S * 1000,
     .arg = "TIME",
     .help = "How long it can be used."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static int token_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__CreateTokenRequest request = MORTISE__V1__CREATE_TOKEN_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    const Mortise__V1__CreateTokenResponse *reply;
    char expires[TABLE_TIME_MAX];
    ProtobufCMessage *msg;

    (void)num;
    if (conn == NULL)
        return CTL_FAILED;
    request.subsystem = operands[0];
    request.ttl_s = (uint32_t)(flags->ttl_ms / 1000);
    msg = conn_call(conn, "OperatorService/CreateToken", &request.base,
                    &mortise__v1__create_token_response__descriptor);
    conn_close(conn);
    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__CreateTokenResponse, mortise__v1__create_token_response__descriptor,
                   msg);
    /* The token alone on standard output: $(mortisectl token create portal). */
    printf("%s\n", reply->token);
    table_time(reply->expires_at, clock_wall_s(&clock_system), expires);
    fprintf(stderr, "for one sidecar of %s, until %s\n", operands[0], expires);
    mem_wipe(reply->token, strlen(reply->token));
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_token = {
    .name = "token create",
    .operands = "SUBSYSTEM",
    .summary = "a one-time token for a new sidecar",
    .about = "Makes a join token: the first key that presents it gets a certificate of SUBSYSTEM, "
             "nobody "
             "else ever does. It is shown this once.\n\n"
             "Example: MORTISE_JOIN_TOKEN=$(mortisectl token create portal --ttl 5m)",
    .options = token_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = token_run,
};
