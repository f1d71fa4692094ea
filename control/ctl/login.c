/* mortisectl admin invite, login: a one-time token, and an administrator's certificate for it. */
#include <stdio.h>
#include <string.h>

#include "certs/spiffe_id.h"
#include "control/attest.h"
#include "control/ctl/conn.h"
#include "control/ctl/files.h"
#include "control/ctl/table.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/access.pb-c.h"

static const struct option invite_options[] = {
    {.name = "role",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, role),
     .arg = "ROLE",
     .help = "viewer, operator, admin, or one of your own. Default: the role that NAME has, else "
             "admin."},
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

static int invite_run(const struct ctl_flags *flags, int num, char **operands)
{
    Mortise__V1__CreateLoginRequest request = MORTISE__V1__CREATE_LOGIN_REQUEST__INIT;
    struct conn *conn = conn_open(flags);
    const Mortise__V1__CreateLoginResponse *reply;
    char expires[TABLE_TIME_MAX];
    ProtobufCMessage *msg;

    (void)num;
    if (conn == NULL)
        return CTL_FAILED;
    request.name = operands[0];
    request.ttl_s = (uint32_t)(flags->ttl_ms / 1000);
    if (flags->role != NULL)
        request.role = flags->role;
    msg = conn_call(conn, "AccessService/CreateLogin", &request.base,
                    &mortise__v1__create_login_response__descriptor);
    conn_close(conn);
    if (msg == NULL)
        return CTL_FAILED;
    reply = MSG_AS(Mortise__V1__CreateLoginResponse, mortise__v1__create_login_response__descriptor,
                   msg);
    printf("%s\n", reply->token); /* alone on standard output */
    table_time(reply->expires_at, clock_wall_s(&clock_system), expires);
    fprintf(stderr, "for %s, role %s, until %s: mortisectl login --server … --token-file …\n",
            operands[0], reply->role, expires);
    mem_wipe(reply->token, strlen(reply->token));
    pb_free(msg);
    return CTL_OK;
}

const struct ctl_command ctl_admin_invite = {
    .name = "admin invite",
    .operands = "NAME",
    .summary = "a one-time token with which somebody gets an administrator's certificate",
    .about =
        "He uses it where he is, with mortisectl login: the key is made there and stays there. The "
        "first key that presents the token gets the certificate, nobody else ever does. NAME has "
        "the role from now on.\n\n"
        "Example: mortisectl admin invite alice --role operator > alice.token",
    .options = invite_options,
    .min_operands = 1,
    .max_operands = 1,
    .run = invite_run,
};

/* ---- login ---- */

static const struct option login_options[] = {
    {.name = "token-file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, token_file),
     .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     .arg = "FILE",
     .help = "The token (mortisectl admin invite; admin-token in the data folder after the first "
             "start), readable by you alone; - is standard input."},
    {.name = "out",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, out),
     .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE,
     .arg = "DIR",
     .help = "Folder for key.pem (0600), cert.pem and roots.pem; made if it is not there."},
    {.name = "ttl",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, ttl_ms),
     .def = "1d",
     .min = 5000,
     .max = 604800000,
     .arg = "TIME",
     .help = "Life of the certificate."},
    {.name = "", .help = "Which control plane"},
    {.name = "server",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, server),
     .flags = OPTION_FLAG_REQUIRED,
     .arg = "HOST:PORT",
     .help = "Its address."},
    {.name = "roots",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, roots),
     .flags = OPTION_FLAG_REQUIRED,
     .arg = "FILE",
     .help = "The mesh's root certificates (mortisectl roots): the token is shown to nobody else."},
    {.name = "trust-domain",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, trust_domain),
     .flags = OPTION_FLAG_REQUIRED,
     .arg = "NAME",
     .help = "The mesh's trust domain; the server must be its control plane."},
    CTL_SECRETS_ROWS,
    {.name = NULL},
};

/* The token without the end of its line; owned, wipe it. NULL: told. */
static char *login_read_token(const struct ctl_flags *flags)
{
    CLEANUP(buf_wipe_fini) struct buf text = {0};
    struct bytes token;

    if (!ctl_read("--token-file", flags->token_file, true, &text))
        return NULL;
    token = buf_view(&text);
    while (token.len > 0 && strchr(" \t\r\n", token.ptr[token.len - 1]) != NULL)
        token.len--;
    if (token.len == 0) {
        ctl_tell("--token-file: %s: is empty", flags->token_file);
        return NULL;
    }
    return mem_strndup((const char *)token.ptr, token.len);
}

static struct bundle *login_read_roots(const struct ctl_flags *flags)
{
    CLEANUP(buf_fini) struct buf pem = {0};
    struct bundle *roots = NULL;
    err_t err;

    if (!spiffe_trust_domain_valid(bytes_of_str(flags->trust_domain))) {
        ctl_tell("--trust-domain: \"%s\" is not a trust domain", flags->trust_domain);
        return NULL;
    }
    if (!ctl_read("--roots", flags->roots, false, &pem))
        return NULL;
    err = bundle_of_pem(buf_view(&pem), flags->trust_domain, &roots);
    if (err_is_ok(err))
        return roots;
    ctl_tell("--roots: %s: %s", flags->roots, err_text(err.code));
    return NULL;
}

static ProtobufCMessage *login_ask(const struct ctl_flags *flags, char *token, struct bytes csr)
{
    Mortise__V1__LoginRequest request = MORTISE__V1__LOGIN_REQUEST__INIT;
    CLEANUP(bundle_unrefp) struct bundle *roots = login_read_roots(flags);
    struct conn *conn = NULL;
    ProtobufCMessage *msg = NULL;

    request.token = token;
    request.csr = msg_bytes(csr);
    request.ttl_s = (uint32_t)(flags->ttl_ms / 1000);
    if (roots != NULL)
        conn = conn_open_stranger(flags->server, roots, flags->trust_domain);
    if (conn != NULL)
        msg = conn_call(conn, "AccessService/Login", &request.base,
                        &mortise__v1__login_response__descriptor);
    conn_close(conn);
    return msg;
}

static int login_save(const struct ctl_flags *flags, const EVP_PKEY *key, ProtobufCMessage *msg)
{
    const Mortise__V1__LoginResponse *reply =
        MSG_AS(Mortise__V1__LoginResponse, mortise__v1__login_response__descriptor, msg);

    if (!files_write_svid(flags->out, key, reply->chain, reply->n_chain, reply->trust_roots,
                          reply->n_trust_roots))
        return CTL_FAILED;
    printf("%s, role %s, is in %s\n"
           "use it:\n"
           "  mortisectl --server %s --cert %s/cert.pem --key %s/key.pem --roots %s/roots.pem "
           "--trust-domain %s whoami\n",
           reply->spiffe_id, reply->role, flags->out, flags->server, flags->out, flags->out,
           flags->out, flags->trust_domain);
    return CTL_OK;
}

static int login_run(const struct ctl_flags *flags, int num, char **operands)
{
    CLEANUP(buf_fini) struct buf csr = {0};
    char *token = login_read_token(flags);
    ProtobufCMessage *msg = NULL;
    EVP_PKEY *key = NULL;
    int status = CTL_FAILED;

    (void)num;
    (void)operands;
    if (token == NULL)
        return CTL_FAILED;
    if (files_make_folder(flags->out) && files_are_free(flags->out, files_svid_names)) {
        key = files_csr(&csr);
        msg = login_ask(flags, token, buf_view(&csr));
    }
    if (msg != NULL)
        status = login_save(flags, key, msg);
    pb_free(msg);
    EVP_PKEY_free(key);
    mem_wipe(token, strlen(token));
    mem_free(token);
    return status;
}

const struct ctl_command ctl_login = {
    .name = "login",
    .operands = "",
    .summary = "an administrator's certificate for a one-time token",
    .about = "Makes a key here and gets a certificate for it: with the token of `admin invite`, or "
             "the one that the first start of a control plane leaves in its data folder, good for "
             "15 minutes.\n\n"
             "Example: mortisectl login --server control.example:15010 --trust-domain mesh.example "
             "--roots roots.pem --token-file alice.token --out alice/",
    .options = login_options,
    .run = login_run,
};
