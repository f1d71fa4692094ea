#include "control/ctl/conn.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "certs/jwt.h"
#include "certs/spiffe_id.h"
#include "certs/tls_ctx.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/net/addr.h"
#include "lib/net/loop.h"
#include "lib/rpc/grpc_client.h"
#include "lib/rpc/pb.h"

#define CONN_CALL_MS 30000
#define CONN_REPLY_MAX ((size_t)16 << 20)

struct conn {
    struct loop *loop;
    struct grpc_channel *channel;
    char *target; /* for what is told */
    bool is_unix;
    /* TLS: */
    char *control_id;
    struct tls_ctx *tls;
    struct tls_check check;
    bool checking;
    /* The call in hand: */
    struct grpc_client_call *call;
    bool done;
    bool ok;
    bool reached;
    err_t unreachable; /* connecting failed */
    bool waits;        /* what ends because nobody is there is not told */
    bool away;
    struct timer timer;
    ProtobufCMessage *reply;
    void (*on_message)(void *arg, const ProtobufCMessage *msg);
    void *arg;
};

/* ----------------------------------------------------------------------- TLS */

static SSL_CTX *conn_tls(void *arg)
{
    struct conn *conn = arg;
    SSL_CTX *ssl = tls_ctx_ssl(conn->tls);

    SSL_CTX_up_ref(ssl);
    return ssl;
}

static err_t conn_authorize(void *arg, int entry, const struct peer *peer)
{
    const struct conn *conn = arg;

    (void)entry;
    return strcmp(peer->spiffe_id, conn->control_id) == 0 ? OK : FAIL(PEER_IDENTITY, 0);
}

static void conn_drop_check(struct conn *conn)
{
    if (conn->checking)
        tls_check_fini(&conn->check);
    conn->checking = false;
}

static void conn_configure(void *arg, SSL *ssl)
{
    struct conn *conn = arg;

    conn_drop_check(conn);
    tls_check_init(&conn->check, loop_clock(conn->loop), NULL);
    conn->checking = true;
    conn->check.authorize = conn_authorize;
    conn->check.arg = conn;
    tls_check_attach(&conn->check, ssl);
}

static err_t conn_handshake_done(void *arg, SSL *ssl, err_t err)
{
    struct conn *conn = arg;

    if (!conn->checking)
        return err;
    if (!err_is_ok(conn->check.err))
        err = conn->check.err;
    if (err_is_ok(err))
        err = tls_check_finish(&conn->check, ssl);
    conn_drop_check(conn);
    return err;
}

static struct tls_profile *conn_profile(void)
{
    Mortise__V1__TlsProfile msg = MORTISE__V1__TLS_PROFILE__INIT;
    struct tls_profile *profile = NULL;
    struct fault_path path = {.len = 0};
    struct faults faults = {.num = 0};
    char name[] = "mortisectl";
    err_t err;

    msg.name = name;
    msg.role = MORTISE__V1__TLS_PROFILE__ROLE__CLIENT;
    msg.min_version = MORTISE__V1__TLS_VERSION__TLS1_3;
    err = tls_profile_compile(&msg, &path, &faults, &profile);
    CHECK(err_is_ok(err));
    return profile;
}

static err_t conn_make_tls(struct svid *svid, struct bundle *roots, struct tls_ctx **out)
{
    CLEANUP(tls_profile_unrefp) struct tls_profile *profile = conn_profile();
    CLEANUP(tls_ctx_unrefp) struct tls_ctx *tls = NULL;

    TRY(tls_ctx_client(svid, roots, profile, &tls));
    TRY(tls_ctx_set_alpn(tls, "h2"));
    *out = tls;
    tls = NULL;
    return OK;
}

/* ------------------------------------------------------------------ opening */

static void conn_on_state(void *arg, bool connected, err_t err, uint32_t retry_ms)
{
    struct conn *conn = arg;

    (void)retry_ms;
    if (connected) {
        conn->reached = true;
        return;
    }
    /* A person waits: the first failure is the answer. (After GOAWAY calls under way go on.) */
    if (!conn->done && !(conn->reached && err_is(err, E_H2_GOAWAY))) {
        conn->unreachable = err;
        conn->done = true;
        loop_stop(conn->loop);
    }
}

/* Takes `tls`, NULL for a Unix socket. With `authorization` each call has that header. */
static struct conn *conn_new(const char *target, struct tls_ctx *tls, const char *trust_domain,
                             const char *authorization)
{
    struct conn *conn = mem_zalloc(sizeof(*conn));
    const struct grpc_channel_params params = {
        .target = target,
        .authority = tls != NULL ? NULL : "localhost",
        .authorization = authorization,
        .tls = tls != NULL ? conn_tls : NULL,
        .configure = tls != NULL ? conn_configure : NULL,
        .handshake_done = tls != NULL ? conn_handshake_done : NULL,
        .on_state = conn_on_state,
        .arg = conn,
    };
    err_t err = log_set_spec("error", &(struct bytes){NULL, 0});

    CHECK(err_is_ok(err));
    conn->loop = loop_new(&clock_system);
    conn->target = mem_strdup(target);
    conn->is_unix = tls == NULL;
    conn->tls = tls;
    conn->control_id = tls != NULL ? spiffe_id_of_control(trust_domain) : NULL;
    conn->channel = grpc_channel_new(conn->loop, &params);
    return conn;
}

static struct bundle *conn_read_roots(const struct ctl_flags *flags)
{
    CLEANUP(buf_fini) struct buf pem = {0};
    struct bundle *roots = NULL;
    err_t err;

    if (!ctl_read("--roots", flags->roots, false, &pem))
        return NULL;
    err = bundle_of_pem(buf_view(&pem), flags->trust_domain, &roots);
    if (err_is_ok(err))
        return roots;
    ctl_tell("--roots: %s: %s", flags->roots, err_text(err.code));
    return NULL;
}

static struct svid *conn_read_svid(const struct ctl_flags *flags)
{
    CLEANUP(buf_fini) struct buf cert = {0};
    CLEANUP(buf_wipe_fini) struct buf key = {0};
    struct svid *svid = NULL;
    err_t err;

    if (!ctl_read("--cert", flags->cert, false, &cert) ||
        !ctl_read("--key", flags->key, true, &key))
        return NULL;
    err = svid_of_pem(buf_view(&cert), buf_view(&key), NULL, clock_wall_s(&clock_system), &svid);
    if (err_is_ok(err))
        return svid;
    ctl_tell("--cert, --key: %s, %s: %s%s", flags->cert, flags->key, err_text(err.code),
             err_is(err, E_CERT_EXPIRED) ? ": make a new one with mortisectl admin create" : "");
    return NULL;
}

/* "Bearer …", owned, to be wiped; NULL: told. */
static char *conn_read_token(const struct ctl_flags *flags)
{
    CLEANUP(buf_wipe_fini) struct buf text = {0};
    struct bytes token;

    if (!ctl_read("--oidc-token-file", flags->oidc_token_file, true, &text))
        return NULL;
    token = buf_view(&text);
    while (token.len > 0 && strchr(" \t\r\n", token.ptr[token.len - 1]) != NULL)
        token.len--;
    for (size_t i = 0; i < token.len; i++) {
        if (token.ptr[i] <= ' ' || token.ptr[i] > '~')
            token.len = 0;
    }
    if (token.len > 0 && token.len <= JWT_MAX)
        return mem_printf("Bearer %.*s", (int)token.len, (const char *)token.ptr);
    ctl_tell("--oidc-token-file: %s: is %s", flags->oidc_token_file,
             token.len == 0 ? "no token: wanted is one line, header.payload.signature"
                            : "too large for a token (16 KiB)");
    return NULL;
}

static bool conn_check_flags(const struct ctl_flags *flags)
{
    const struct {
        const char *flag;
        const char *value;
        bool with_token;
    } rows[] = {
        {"--cert", flags->cert, false},
        {"--key", flags->key, false},
        {"--roots", flags->roots, true},
        {"--trust-domain", flags->trust_domain, true},
    };
    bool by_token = flags->oidc_token_file != NULL;
    bool complete = true;

    if (by_token && (flags->cert != NULL || flags->key != NULL)) {
        ctl_tell("--oidc-token-file: is instead of --cert and --key: give one of both");
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].value == NULL && (!by_token || rows[i].with_token)) {
            ctl_tell("%s: is needed with --server", rows[i].flag);
            complete = false;
        }
    }
    if (complete && !spiffe_trust_domain_valid(bytes_of_str(flags->trust_domain))) {
        ctl_tell("--trust-domain: \"%s\" is not a trust domain", flags->trust_domain);
        complete = false;
    }
    return complete;
}

static struct conn *conn_open_by_token(const struct ctl_flags *flags)
{
    CLEANUP(bundle_unrefp) struct bundle *roots = conn_read_roots(flags);
    char *authorization = roots != NULL ? conn_read_token(flags) : NULL;
    struct tls_ctx *tls = NULL;
    struct conn *conn = NULL;
    err_t err;

    if (authorization == NULL)
        return NULL;
    err = conn_make_tls(NULL, roots, &tls);
    if (err_is_ok(err))
        conn = conn_new(flags->server, tls, flags->trust_domain, authorization);
    else
        ctl_tell("%s", err_text(err.code));
    mem_wipe(authorization, strlen(authorization));
    mem_free(authorization);
    return conn;
}

static struct conn *conn_open_tls(const struct ctl_flags *flags)
{
    CLEANUP(bundle_unrefp) struct bundle *roots = NULL;
    CLEANUP(svid_unrefp) struct svid *svid = NULL;
    struct tls_ctx *tls = NULL;
    err_t err;

    if (!conn_check_flags(flags))
        return NULL;
    if (flags->oidc_token_file != NULL)
        return conn_open_by_token(flags);
    roots = conn_read_roots(flags);
    svid = conn_read_svid(flags);
    if (roots == NULL || svid == NULL)
        return NULL;
    err = conn_make_tls(svid, roots, &tls);
    if (err_is_ok(err))
        return conn_new(flags->server, tls, flags->trust_domain, NULL);
    ctl_tell("%s", err_text(err.code));
    return NULL;
}

/* "unix:" and the absolute path; owned. */
static char *conn_socket_target(const char *path)
{
    char folder[PATH_MAX];

    if (path[0] == '/' || getcwd(folder, sizeof(folder)) == NULL)
        return mem_printf("unix:%s", path);
    while (strncmp(path, "./", 2) == 0)
        path += 2;
    return mem_printf("unix:%s/%s", folder, path);
}

struct conn *conn_open(const struct ctl_flags *flags)
{
    CLEANUP(mem_freep) char *target = NULL;
    struct addr addr;

    if (flags->server != NULL)
        return conn_open_tls(flags);
    if (flags->oidc_token_file != NULL) {
        ctl_tell("--oidc-token-file: is for --server: at the operator socket you are who you are");
        return NULL;
    }
    if (flags->socket == NULL) {
        ctl_tell("--socket: is empty; give the operator socket's path, or --server");
        return NULL;
    }
    target = conn_socket_target(flags->socket);
    if (err_is_ok(addr_parse(target, &addr)))
        return conn_new(target, NULL, NULL, NULL);
    ctl_tell("--socket: %s: too long for a Unix socket (107 bytes)", flags->socket);
    return NULL;
}

struct conn *conn_open_stranger(const char *server, struct bundle *roots, const char *trust_domain)
{
    struct tls_ctx *tls = NULL;
    err_t err = conn_make_tls(NULL, roots, &tls);

    if (err_is_ok(err))
        return conn_new(server, tls, trust_domain, NULL);
    ctl_tell("%s", err_text(err.code));
    return NULL;
}

void conn_close(struct conn *conn)
{
    if (conn == NULL)
        return;
    grpc_channel_close(conn->channel);
    loop_free(conn->loop);
    conn_drop_check(conn);
    if (conn->tls != NULL)
        tls_ctx_unref(conn->tls);
    if (conn->reply != NULL)
        pb_free(conn->reply);
    mem_free(conn->control_id);
    mem_free(conn->target);
    mem_free(conn);
}

/* -------------------------------------------------------------------- calling */

static void conn_tell_unreachable(const struct conn *conn)
{
    const char *why = err_text(conn->unreachable.code);
    const char *hint = "is mortise-control running there, and is --server its --listen address?";

    if (conn->reached) {
        ctl_tell("lost the connection: %s; what was asked may have been done or not: look with "
                 "mortisectl get",
                 why);
        return;
    }
    if (conn->is_unix)
        hint =
            "is mortise-control running? Its socket is DATA_DIR/operator.sock by default: give it "
            "with --socket, or in MORTISE_SOCKET";
    if (err_is(conn->unreachable, E_PEER_IDENTITY))
        hint = "what answers is not the control plane of this mesh";
    else if (err_is(conn->unreachable, E_CHAIN_UNTRUSTED))
        hint = "--roots are those of another mesh, or what answers is not the control plane";
    ctl_tell("cannot reach %s: %s; %s", conn->target + (conn->is_unix ? strlen("unix:") : 0), why,
             hint);
}

/* The server's words, a line each. */
static void conn_tell_status(const struct grpc_result *result)
{
    if (result->message[0] == '\0')
        ctl_tell("%s", grpc_status_name(result->status));
    else if (result->status == GRPC_INVALID_ARGUMENT && strchr(result->message, ':') != NULL)
        ctl_tell("refused, nothing was changed:\n%s", result->message);
    else
        ctl_tell("%s: %s", grpc_status_name(result->status), result->message);
}

static void conn_end(struct conn *conn, const struct grpc_result *result)
{
    conn->call = NULL;
    if (conn->done)
        return; /* the connection was lost, which is told */
    conn->done = true;
    conn->ok = result->status == GRPC_OK;
    conn->away = conn->waits &&
                 (result->status == GRPC_UNAVAILABLE || result->status == GRPC_DEADLINE_EXCEEDED);
    if (!conn->ok && !conn->away)
        conn_tell_status(result);
    loop_stop(conn->loop);
}

static void conn_on_reply(void *arg, const struct grpc_result *result,
                          const ProtobufCMessage *reply)
{
    struct conn *conn = arg;

    if (reply != NULL)
        conn->reply = pb_clone(reply);
    conn_end(conn, result);
}

static void conn_begin(struct conn *conn)
{
    conn->done = false;
    conn->ok = false;
    conn->unreachable = OK;
    conn->away = false;
}

/* Nobody is there. Somebody who refuses us, or is not who we want, stays so. */
static bool conn_may_come_back(err_t err)
{
    static const enum err_code codes[] = {
        E_CONNECT_REFUSED,
        E_CONNECT_TIMEOUT,
        E_CONNECT_FAILED,
        E_RESOLVE_FAILED,
        E_PEER_RESET,
        E_CLOSED,
        E_HANDSHAKE_TIMEOUT,
        E_TLS_TRUNCATED,
        E_H2_GOAWAY,
        E_TIMEOUT,
        E_IO,
    };

    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        if (err_is(err, codes[i]))
            return true;
    }
    return false;
}

/* Runs the loop until the call is over; true when it went well. */
static bool conn_finish(struct conn *conn)
{
    while (!conn->done)
        loop_run(conn->loop);
    if (conn->call != NULL)
        grpc_client_cancel(conn->call);
    conn->call = NULL;
    timer_stop(conn->loop, &conn->timer);
    if (!err_is_ok(conn->unreachable)) {
        conn->away = conn->waits && conn_may_come_back(conn->unreachable);
        if (!conn->away)
            conn_tell_unreachable(conn);
    }
    return conn->ok;
}

void conn_wait_for_it(struct conn *conn)
{
    conn->waits = true;
}

bool conn_is_away(const struct conn *conn)
{
    return conn->away;
}

void conn_wake(struct conn *conn, uint64_t ms, void (*fn)(void *arg), void *arg)
{
    timer_start(conn->loop, &conn->timer, ms, fn, arg);
}

void conn_stop(struct conn *conn)
{
    conn->done = true;
    loop_stop(conn->loop);
}

static void conn_path(const char *method, char out[128])
{
    int len = snprintf(out, 128, "/mortise.v1.%s", method);

    CHECK(len > 0 && len < 128);
}

ProtobufCMessage *conn_call(struct conn *conn, const char *method, const ProtobufCMessage *request,
                            const ProtobufCMessageDescriptor *reply)
{
    ProtobufCMessage *answer;
    char path[128];

    conn_path(method, path);
    conn_begin(conn);
    conn->call = grpc_unary(conn->channel, path, request, reply, CONN_CALL_MS, conn_on_reply, conn);
    if (!conn_finish(conn))
        return NULL;
    answer = conn->reply;
    conn->reply = NULL;
    return answer;
}

static void conn_on_message(void *arg, const ProtobufCMessage *msg)
{
    struct conn *conn = arg;

    conn->on_message(conn->arg, msg);
}

static void conn_on_done(void *arg, const struct grpc_result *result)
{
    conn_end(arg, result);
}

bool conn_stream(struct conn *conn, const char *method, const ProtobufCMessage *request,
                 const ProtobufCMessageDescriptor *reply,
                 void (*on_message)(void *arg, const ProtobufCMessage *msg), void *arg)
{
    static const struct grpc_stream_events events = {
        .on_message = conn_on_message,
        .on_done = conn_on_done,
    };
    char path[128];
    err_t err;

    conn_path(method, path);
    conn_begin(conn);
    conn->on_message = on_message;
    conn->arg = arg;
    conn->call = grpc_stream_open(conn->channel, path, reply, CONN_REPLY_MAX, 0, &events, conn);
    err = grpc_stream_send(conn->call, request);
    CHECK(err_is_ok(err)); /* one message is never too much */
    grpc_stream_half_close(conn->call);
    return conn_finish(conn);
}
