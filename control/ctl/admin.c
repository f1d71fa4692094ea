/* mortisectl admin create: a certificate for administration over mTLS. The key is made here. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/conn.h"
#include "control/ctl/files.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define ADMIN_OUT_ROW                                                                         \
    {                                                                                         \
        .name = "out", .kind = OPTION_STR, .offset = offsetof(struct ctl_flags, out),         \
        .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE, .arg = "DIR",                    \
        .help = "Folder for key.pem (0600), cert.pem and roots.pem; made if it is not there." \
    }

static const struct option admin_options[] = {
    ADMIN_OUT_ROW,
    {.name = "ttl",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, ttl_ms),
     .def = "1d",
     .min = 5000,
     .max = 604800000,
     .arg = "TIME",
     .help = "Life of the certificate."},
    {.name = "role",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, role),
     .arg = "ROLE",
     .help = "viewer, operator, admin, or one of your own (mortisectl role list); bound to NAME, "
             "whatever certificates it has. Default: the role that NAME has, else admin."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static ProtobufCMessage *admin_ask(const struct ctl_flags *flags, char *name, struct bytes csr)
{
    Mortise__V1__IssueAdminRequest request = MORTISE__V1__ISSUE_ADMIN_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    ProtobufCMessage *msg = NULL;

    request.name = name;
    request.csr = msg_bytes(csr);
    request.ttl_s = (uint32_t)(flags->ttl_ms / 1000);
    if (flags->role != NULL)
        request.role = flags->role;
    if (conn != NULL)
        msg = conn_call(conn, "OperatorService/IssueAdmin", &request.base,
                        &mortise__v1__issue_admin_response__descriptor);
    conn_close(conn);
    return msg;
}

static int admin_save(const struct ctl_flags *flags, const char *name, const EVP_PKEY *key,
                      ProtobufCMessage *msg)
{
    const Mortise__V1__IssueAdminResponse *reply =
        MSG_AS(Mortise__V1__IssueAdminResponse, mortise__v1__issue_admin_response__descriptor, msg);

    if (!files_write_svid(flags->out, key, reply->chain, reply->n_chain, reply->trust_roots,
                          reply->n_trust_roots))
        return CTL_FAILED;
    printf(
        "%s for %s, role %s, is in %s\n"
        "use it from elsewhere:\n"
        "  mortisectl --server HOST:15010 --cert %s/cert.pem --key %s/key.pem --roots %s/roots.pem "
        "--trust-domain %.*s status\n",
        reply->spiffe_id, name, reply->role, flags->out, flags->out, flags->out, flags->out,
        (int)strcspn(reply->spiffe_id + 9, "/"), reply->spiffe_id + 9);
    return CTL_OK;
}

static int admin_run(const struct ctl_flags *flags, int num, char **operands)
{
    CLEANUP(buf_fini) struct buf csr = {0};
    ProtobufCMessage *msg;
    EVP_PKEY *key;
    int status = CTL_FAILED;

    (void)num;
    if (!files_make_folder(flags->out) || !files_are_free(flags->out, files_svid_names))
        return CTL_FAILED;
    key = files_csr(&csr);
    msg = admin_ask(flags, operands[0], buf_view(&csr));
    if (msg != NULL)
        status = admin_save(flags, operands[0], key, msg);
    pb_free(msg);
    EVP_PKEY_free(key);
    return status;
}

const struct ctl_command ctl_admin = {
    .name = "admin create",
    .operands = "NAME",
    .summary = "a certificate for administration from elsewhere",
    .about = "Makes a key here and gets a certificate of spiffe://TRUST-DOMAIN/mortise/admin/NAME "
             "for it, "
             "good until it expires or `rotate admin`. What it may do is the role of NAME.\n\n"
             "Example: mortisectl admin create alice --role operator --out alice/",
    .options = admin_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = admin_run,
};
