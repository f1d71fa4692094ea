/* mortisectl get crl: the revocation lists that this mesh's CAs publish. */
#include "control/ctl/crl.h"

#include <inttypes.h>
#include <string.h>

#include "control/ctl/conn.h"
#include "control/ctl/show.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/file.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

static void crl_table(const Mortise__V1__ListCrlsResponse *reply)
{
    static const char *const heads[] = {"ISSUER",  "KEY SHA-256", "NUMBER", "ENTRIES",
                                        "UPDATED", "NEXT UPDATE", NULL};
    struct table table = {.heads = heads};
    int64_t now_s = clock_wall_s(&clock_system);
    char when[TABLE_TIME_MAX];

    for (size_t i = 0; i < reply->n_crls; i++) {
        const Mortise__V1__PublishedCrl *item = reply->crls[i];

        table_add(&table, item->issuer);
        table_add(&table, item->issuer_key_sha256);
        table_addf(&table, "%" PRIu64, item->number);
        table_addf(&table, "%u", item->entries);
        table_time(item->this_update, now_s, when);
        table_add(&table, when);
        table_time(item->next_update, now_s, when);
        table_add(&table, when);
    }
    table_print(&table);
}

static int crl_write(const char *path, struct bytes der)
{
    err_t err =
        file_write_atomic(path, der, 0644); /* it is public, and its reader may be anybody */

    if (err_is_ok(err))
        return CTL_OK;
    ctl_tell("get crl: %s: %s", path, strerror(err.sub));
    return CTL_FAILED;
}

static int crl_show(const struct ctl_flags *flags, const ProtobufCMessage *msg)
{
    const Mortise__V1__ListCrlsResponse *reply = MSG_AS_CONST(
        Mortise__V1__ListCrlsResponse, mortise__v1__list_crls_response__descriptor, msg);

    if (flags->file != NULL) /* one: --issuer was asked for */
        return crl_write(flags->file, msg_view(reply->crls[0]->der));
    if (flags->output == CTL_JSON || flags->output == CTL_YAML)
        show_message(flags->output, msg);
    else
        crl_table(reply);
    return CTL_OK;
}

int crls_show(const struct ctl_flags *flags, struct conn *conn)
{
    Mortise__V1__ListCrlsRequest request = MORTISE__V1__LIST_CRLS_REQUEST__INIT;
    ProtobufCMessage *msg;
    int status;

    if (flags->file != NULL && flags->issuer == NULL) {
        ctl_tell("get crl: --file is for one list: say --issuer, with a KEY SHA-256 of mortisectl "
                 "get crl");
        return CTL_USAGE;
    }
    if (flags->issuer != NULL)
        request.issuer_key_sha256 = flags->issuer;
    msg = conn_call(conn, "OperatorService/ListCrls", &request.base,
                    &mortise__v1__list_crls_response__descriptor);
    if (msg == NULL)
        return CTL_FAILED;
    status = crl_show(flags, msg);
    pb_free(msg);
    return status;
}
