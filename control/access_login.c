/* The calls of control/access_service.h that turn a one-time token into an administrator's
 * certificate. Source: reliability R50. */
#include <string.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "control/access_service.h"
#include "control/attest.h"
#include "control/audit_call.h"
#include "control/msg.h"
#include "control/reply.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "proto/mesh/access.pb-c.h"

/* ---- making a token ---- */

/* Role and token in one transaction. */
static err_t login_make(const struct access_service *service, const char *name, const char *role,
                        const struct access_author *author, uint32_t ttl_s, char **out_token)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    char *token = NULL;
    err_t err;

    TRY(access_bind(service->access, name, role, author, &batch));
    TRY(attest_login_new(service->vault, &batch, name, admins_epoch(service->admins), author->now_s,
                         ttl_s, &token));
    err = vault_commit(service->vault, &batch, NULL);
    if (err_is_ok(err))
        err = access_reload(service->access);
    if (!err_is_ok(err)) {
        mem_wipe(token, strlen(token));
        mem_free(token);
        return err;
    }
    *out_token = token;
    return OK;
}

void access_on_create_login(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    const struct access_service *service = arg;
    const Mortise__V1__CreateLoginRequest *request = MSG_AS_CONST(
        Mortise__V1__CreateLoginRequest, mortise__v1__create_login_request__descriptor, msg);
    Mortise__V1__CreateLoginResponse reply = MORTISE__V1__CREATE_LOGIN_RESPONSE__INIT;
    uint32_t ttl_s = request->ttl_s != 0 ? request->ttl_s : ATTEST_TTL_DEFAULT_S;
    CLEANUP(mem_freep) char *what = NULL;
    char name[CALLER_NAME_MAX];
    struct access_author author = access_author(service, call, name);
    struct role role;
    char *token;
    err_t err;

    if (!spiffe_segment_valid(bytes_of_str(request->name)) ||
        strlen(request->name) > ACCESS_ADMIN_NAME_MAX) {
        reply_text(call, GRPC_INVALID_ARGUMENT,
                   "name: letters, digits, '.', '-' and '_', 1 to %d characters",
                   ACCESS_ADMIN_NAME_MAX);
        return;
    }
    if (ttl_s < ATTEST_TTL_MIN_S || ttl_s > ATTEST_TTL_MAX_S) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "ttl: %u s is not between %d s and %d s (one day)",
                   ttl_s, ATTEST_TTL_MIN_S, ATTEST_TTL_MAX_S);
        return;
    }
    if (!access_may_take(service, call, request->name, request->role, &role))
        return;
    what = mem_printf("%s %s", request->name, role.name);
    access_will(service, call, AUDIT_ADMIN_INVITE, VAULT_TOKENS, what);
    err = login_make(service, request->name, role.name, &author, ttl_s, &token);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    access_log(service, call, "admin_invited", what);
    reply.token = token;
    reply.expires_at = author.now_s + ttl_s;
    reply.role = role.name;
    grpc_call_reply(call, &reply.base);
    mem_wipe(token, strlen(token));
    mem_free(token);
}

/* ---- using it ---- */

struct login {
    struct attest_grant grant;
    char *spiffe_id;
    struct ca_cert cert;
};

static void login_fini(struct login *login)
{
    attest_grant_fini(&login->grant);
    mem_free(login->spiffe_id);
    ca_cert_fini(&login->cert);
}

static err_t login_issue(struct access_service *service, const Mortise__V1__LoginRequest *request,
                         struct login *login, EVP_PKEY *key)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const struct ca_request what = {
        .spiffe_id = login->spiffe_id,
        .subsystem = "",
        .public_key = key,
        .ttl_s = request->ttl_s != 0 ? request->ttl_s : CA_LEAF_TTL_S,
        .reason = "admin",
        .epoch = admins_epoch(service->admins),
    };
    uint8_t key_sha256[32];

    if (what.ttl_s < ISSUE_TTL_MIN_S || what.ttl_s > ISSUE_TTL_MAX_S)
        return FAIL(CONFIG_INVALID, what.ttl_s);
    TRY(key_spki_sha256(key, key_sha256));
    TRY(attest_bind(service->vault, &login->grant, key_sha256, clock_wall_s(service->clock),
                    &batch));
    TRY(registry_may_issue(service->registry, login->spiffe_id, key_sha256));
    return ca_issue(service->ca, &what, &batch, &login->cert);
}

/* The cheap look-up comes before the signature of the request is checked. */
static err_t login_take(struct access_service *service, struct grpc_call *call,
                        const Mortise__V1__LoginRequest *request, struct login *login)
{
    uint64_t now_ms = clock_mono_ms(service->clock);
    char source[ADDR_TEXT_MAX];
    EVP_PKEY *key = NULL;
    err_t err;

    caller_source(&grpc_call_peer(call)->addr, source);
    if (!buckets_take(&service->sources, source, now_ms) ||
        !buckets_take(&service->all, "all", now_ms))
        return FAIL(RATE_LIMITED, 0);
    TRY(attest_login_find(service->vault, request->token, admins_epoch(service->admins),
                          clock_wall_s(service->clock), &login->grant));
    /* Who vouches for the name by now need not be whoever has kept the token back. */
    if (access_bound_since(service->access, login->grant.token->admin,
                           login->grant.token->created_at))
        return FAIL(TOKEN_EXPIRED, 0);
    login->spiffe_id = spiffe_id_of_admin(service->rules->trust_domain, login->grant.token->admin);
    TRY(csr_parse(msg_view(request->csr), &key));
    audit_call_expect(
        service->audit, call, VAULT_CERTS,
        &(struct audit_entry){.action = AUDIT_ADMIN_LOGIN, .object = login->spiffe_id});
    err = login_issue(service, request, login, key);
    EVP_PKEY_free(key);
    return err;
}

static void login_reply(const struct access_service *service, struct grpc_call *call,
                        const struct login *login)
{
    Mortise__V1__LoginResponse reply = MORTISE__V1__LOGIN_RESPONSE__INIT;
    ProtobufCBinaryData chain[CA_CHAIN_MAX];
    size_t num_roots;
    const struct bytes *roots = ca_roots(service->ca, &num_roots);
    ProtobufCBinaryData *root_list = mem_array(num_roots + 1, sizeof(*root_list));
    struct role role = {.permissions = 0};

    (void)access_role_of(service->access, login->grant.token->admin, &role);
    for (size_t i = 0; i < login->cert.num_chain; i++)
        chain[i] = msg_bytes(login->cert.chain[i]);
    for (size_t i = 0; i < num_roots; i++)
        root_list[i] = msg_bytes(roots[i]);
    reply.chain = chain;
    reply.n_chain = login->cert.num_chain;
    reply.trust_roots = root_list;
    reply.n_trust_roots = num_roots;
    reply.spiffe_id = login->spiffe_id;
    reply.role = role.name;
    grpc_call_reply(call, &reply.base);
    mem_free(root_list);
}

/* Who calls has proven nothing: he is told codes. */
void access_on_login(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct access_service *service = arg;
    const Mortise__V1__LoginRequest *request =
        MSG_AS_CONST(Mortise__V1__LoginRequest, mortise__v1__login_request__descriptor, msg);
    struct login login = {.spiffe_id = NULL};
    char peer[CALLER_NAME_MAX];
    err_t err = login_take(service, call, request, &login);

    if (err_is_ok(err)) {
        access_log(service, call, "admin_login", login.spiffe_id);
        login_reply(service, call, &login);
        if (service->on_login != NULL)
            service->on_login(service->arg, login.grant.token->admin);
    } else {
        caller_name(grpc_call_peer(call), peer);
        log_limited(LOG_WARN, "access", "login_refused",
                    (const struct log_field[]){LOG_STR("peer", peer), LOG_ERR("reason", err)}, 2);
        reply_code(call, err);
    }
    login_fini(&login);
}
