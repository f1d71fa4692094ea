/* mortisectl certificate: a subsystem's certificate as files, for a peer that is not Mortise: joins
 * as a sidecar would. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/conn.h"
#include "control/ctl/files.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/identity.pb-c.h"
#include "proto/mesh/operator.pb-c.h"

static const struct option certificate_options[] = {
    {.name = "out",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, out),
     .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     .arg = "DIR",
     .help = "Folder for key.pem (0600), cert.pem and roots.pem; made if it is not there."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* What joining needs, from the operator's side. */
struct certificate_ticket {
    char *token;
    char *trust_domain;
    struct bundle *roots;
};

static void certificate_ticket_fini(struct certificate_ticket *ticket)
{
    if (ticket->token != NULL)
        mem_wipe(ticket->token, strlen(ticket->token));
    mem_free(ticket->token);
    mem_free(ticket->trust_domain);
    if (ticket->roots != NULL)
        bundle_unref(ticket->roots);
}

static bool certificate_read_status(struct conn *conn, struct certificate_ticket *ticket)
{
    Mortise__V1__StatusRequest request = MORTISE__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *msg = conn_call(conn, "OperatorService/Status", &request.base,
                                      &mortise__v1__status_response__descriptor);
    const Mortise__V1__StatusResponse *status;
    CLEANUP(buf_fini) struct buf pem = {0};
    err_t err;

    if (msg == NULL)
        return false;
    status = MSG_AS(Mortise__V1__StatusResponse, mortise__v1__status_response__descriptor, msg);
    ticket->trust_domain = mem_strdup(status->trust_domain);
    files_pem(status->trust_roots, status->n_trust_roots, &pem);
    err = bundle_of_pem(buf_view(&pem), ticket->trust_domain, &ticket->roots);
    pb_free(msg);
    if (err_is_ok(err))
        return true;
    ctl_tell("the mesh's roots: %s", err_text(err.code));
    return false;
}

static bool certificate_get_token(struct conn *conn, char *subsystem,
                                  struct certificate_ticket *ticket)
{
    Mortise__V1__CreateTokenRequest request = MORTISE__V1__CREATE_TOKEN_REQUEST__INIT;
    Mortise__V1__CreateTokenResponse *reply;
    ProtobufCMessage *msg;

    request.subsystem = subsystem;
    request.ttl_s = 60; /* it is used at once */
    msg = conn_call(conn, "OperatorService/CreateToken", &request.base,
                    &mortise__v1__create_token_response__descriptor);
    if (msg == NULL)
        return false;
    reply = MSG_AS(Mortise__V1__CreateTokenResponse, mortise__v1__create_token_response__descriptor,
                   msg);
    ticket->token = mem_strdup(reply->token);
    mem_wipe(reply->token, strlen(reply->token));
    pb_free(msg);
    return true;
}

/* The operator's part goes over the socket, or over mTLS when there is an administrator's
 * certificate. */
static bool certificate_ticket(const struct ctl_flags *flags, char *subsystem,
                               struct certificate_ticket *out)
{
    struct ctl_flags operator_flags = *flags;
    struct conn *conn;
    bool done;

    if (flags->cert == NULL)
        operator_flags.server = NULL;
    conn = conn_open(&operator_flags);
    done = conn != NULL && certificate_read_status(conn, out) &&
           certificate_get_token(conn, subsystem, out);
    conn_close(conn);
    return done;
}

static ProtobufCMessage *certificate_attest(const struct ctl_flags *flags,
                                            const struct certificate_ticket *ticket,
                                            struct bytes csr)
{
    Mortise__V1__AttestRequest request = MORTISE__V1__ATTEST_REQUEST__INIT;
    struct conn *conn = conn_open_stranger(flags->server, ticket->roots, ticket->trust_domain);
    ProtobufCMessage *msg = NULL;

    request.credential_case = MORTISE__V1__ATTEST_REQUEST__CREDENTIAL_JOIN_TOKEN;
    request.join_token = ticket->token;
    request.csr = msg_bytes(csr);
    if (conn != NULL)
        msg = conn_call(conn, "IdentityService/Attest", &request.base,
                        &mortise__v1__certificate_response__descriptor);
    conn_close(conn);
    return msg;
}

static int certificate_save(const struct ctl_flags *flags, const EVP_PKEY *key,
                            ProtobufCMessage *msg)
{
    const Mortise__V1__CertificateResponse *reply = MSG_AS(
        Mortise__V1__CertificateResponse, mortise__v1__certificate_response__descriptor, msg);

    if (!files_write_svid(flags->out, key, reply->chain, reply->n_chain, reply->trust_roots,
                          reply->n_trust_roots))
        return CTL_FAILED;
    printf("%s is in %s; renewing it is up to you\n", reply->spiffe_id, flags->out);
    return CTL_OK;
}

static int certificate_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct certificate_ticket ticket = {.token = NULL};
    CLEANUP(buf_fini) struct buf csr = {0};
    ProtobufCMessage *msg = NULL;
    EVP_PKEY *key;
    int status = CTL_FAILED;

    (void)num;
    if (flags->server == NULL) {
        ctl_tell(
            "--server: is needed: where the control plane takes sidecars (its --listen address)");
        return CTL_USAGE;
    }
    if (!files_make_folder(flags->out) || !files_are_free(flags->out, files_svid_names))
        return CTL_FAILED;
    key = files_csr(&csr);
    if (certificate_ticket(flags, operands[0], &ticket))
        msg = certificate_attest(flags, &ticket, buf_view(&csr));
    if (msg != NULL)
        status = certificate_save(flags, key, msg);
    pb_free(msg);
    EVP_PKEY_free(key);
    certificate_ticket_fini(&ticket);
    return status;
}

const struct ctl_command ctl_certificate = {
    .name = "certificate",
    .operands = "SUBSYSTEM",
    .summary = "a subsystem's certificate as files, for a peer that is not Mortise",
    .about = "Makes a key here, a join token over the operator socket (or over mTLS, with --cert), "
             "and joins "
             "at --server as a sidecar would. Whoever uses the files must renew them.\n\n"
             "Example: mortisectl certificate portal --server 127.0.0.1:15010 --out portal/",
    .options = certificate_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = certificate_run,
};
