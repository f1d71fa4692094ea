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
    {.name = "token-file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, token_file),
     .arg = "FILE",
     .help =
         "A join token (mortisectl token create) instead of one that is made now; - is standard "
         "input. With --server, --roots and --trust-domain no operator is needed then."},
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

static bool certificate_take_roots(struct certificate_ticket *ticket, struct bytes pem)
{
    err_t err = bundle_of_pem(pem, ticket->trust_domain, &ticket->roots);

    if (!err_is_ok(err))
        ctl_tell("the mesh's roots: %s", err_text(err.code));
    return err_is_ok(err);
}

static bool certificate_ask_roots(struct conn *conn, struct certificate_ticket *ticket)
{
    Mortise__V1__StatusRequest request = MORTISE__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *msg = conn_call(conn, "OperatorService/Status", &request.base,
                                      &mortise__v1__status_response__descriptor);
    const Mortise__V1__StatusResponse *status;
    CLEANUP(buf_fini) struct buf pem = {0};

    if (msg == NULL)
        return false;
    status = MSG_AS(Mortise__V1__StatusResponse, mortise__v1__status_response__descriptor, msg);
    ticket->trust_domain = mem_strdup(status->trust_domain);
    files_pem(status->trust_roots, status->n_trust_roots, &pem);
    pb_free(msg);
    return certificate_take_roots(ticket, buf_view(&pem));
}

static bool certificate_ask_token(struct conn *conn, char *subsystem,
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

static bool certificate_read_token(const struct ctl_flags *flags, struct certificate_ticket *ticket)
{
    CLEANUP(buf_wipe_fini) struct buf text = {0};
    struct bytes token;

    if (!ctl_read("--token-file", flags->token_file, true, &text))
        return false;
    token = buf_view(&text);
    while (token.len > 0 && strchr(" \t\r\n", token.ptr[token.len - 1]) != NULL)
        token.len--;
    if (token.len == 0) {
        ctl_tell("--token-file: %s: is empty", flags->token_file);
        return false;
    }
    ticket->token = mem_strndup((const char *)token.ptr, token.len);
    return true;
}

static bool certificate_read_roots(const struct ctl_flags *flags, struct certificate_ticket *ticket)
{
    CLEANUP(buf_fini) struct buf pem = {0};

    ticket->trust_domain = mem_strdup(flags->trust_domain);
    return ctl_read("--roots", flags->roots, false, &pem) &&
           certificate_take_roots(ticket, buf_view(&pem));
}

/* What is not given is asked of the operator's service: over the socket, or over mTLS when there is
 * an administrator's certificate. */
static bool certificate_ticket(const struct ctl_flags *flags, char *subsystem,
                               struct certificate_ticket *out)
{
    bool has_roots = flags->roots != NULL && flags->trust_domain != NULL;
    struct ctl_flags operator_flags = *flags;
    struct conn *conn;
    bool done;

    if (flags->token_file != NULL && !certificate_read_token(flags, out))
        return false;
    if (has_roots && !certificate_read_roots(flags, out))
        return false;
    if (has_roots && flags->token_file != NULL)
        return true;
    if (flags->cert == NULL)
        operator_flags.server = NULL;
    conn = conn_open(&operator_flags);
    done = conn != NULL && (has_roots || certificate_ask_roots(conn, out)) &&
           (flags->token_file != NULL || certificate_ask_token(conn, subsystem, out));
    conn_close(conn);
    return done;
}

/* Joins at --server; without one, over the operator socket. */
static ProtobufCMessage *certificate_attest(const struct ctl_flags *flags,
                                            const struct certificate_ticket *ticket,
                                            struct bytes csr)
{
    Mortise__V1__AttestRequest request = MORTISE__V1__ATTEST_REQUEST__INIT;
    ProtobufCMessage *msg = NULL;
    struct conn *conn = flags->server != NULL
                            ? conn_open_stranger(flags->server, ticket->roots, ticket->trust_domain)
                            : conn_open(flags);

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
    printf("%s is in ", reply->spiffe_id);
    ctl_print(stdout, flags->out);
    printf("; renewing it is up to you\n");
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
    .about =
        "Makes a key here and joins as a sidecar of SUBSYSTEM would: at --server, or over the "
        "operator "
        "socket. The join token is made on the way, or given with --token-file. Whoever uses the "
        "files must renew them.\n\n"
        "Example: mortisectl certificate portal --out portal/",
    .options = certificate_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = certificate_run,
};
