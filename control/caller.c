#include "control/caller.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "control/subject.h"
#include "lib/base/mem.h"

#define CALLER_ADMIN_PATH "/mortise/admin/"

static err_t caller_read_key(SSL *ssl, uint8_t out[32])
{
    const STACK_OF(CRYPTO_BUFFER) *chain = SSL_get0_peer_certificates(ssl);
    X509 *leaf = NULL;
    EVP_PKEY *key = NULL;
    err_t err;

    if (chain != NULL && sk_CRYPTO_BUFFER_num(chain) > 0)
        leaf = X509_parse_from_buffer(sk_CRYPTO_BUFFER_value(chain, 0));
    if (leaf != NULL)
        key = X509_get_pubkey(leaf);
    err = key != NULL ? key_spki_sha256(key, out) : FAIL(CERT_SYNTAX, 0);
    EVP_PKEY_free(key);
    X509_free(leaf);
    ERR_clear_error();
    return err;
}

err_t caller_new(struct peer *peer, SSL *ssl, uint64_t now_ms, struct caller **out)
{
    struct caller *caller = mem_zalloc(sizeof(*caller));

    caller->peer = peer;
    caller->since_ms = now_ms;
    if (peer != NULL) {
        err_t err = caller_read_key(ssl, caller->key_sha256);

        if (!err_is_ok(err)) {
            caller_free(caller);
            return err;
        }
    }
    *out = caller;
    return OK;
}

struct caller *caller_of_token(struct caller *connection, const char *issuer, struct jwt *jwt)
{
    struct caller *caller = mem_zalloc(sizeof(*caller));
    struct caller_token *token = mem_zalloc(sizeof(*token));

    CHECK(connection->peer == NULL && connection->token == NULL);
    token->name = mem_printf(SUBJECT_TOKEN "%s#%s", issuer, jwt->subject);
    token->groups = mem_array(jwt->num_groups + 1, sizeof(*token->groups));
    token->num_groups = jwt->num_groups;
    for (size_t i = 0; i < jwt->num_groups; i++)
        token->groups[i] = mem_printf(SUBJECT_GROUP "%s#%s", issuer, jwt->groups[i]);
    token->expires_at = jwt->expires_at;
    memcpy(token->key_sha256, jwt->key_sha256, sizeof(token->key_sha256));
    jwt_fini(jwt);
    caller->token = token;
    caller->connection = connection;
    caller->since_ms = connection->since_ms;
    return caller;
}

static void caller_token_free(struct caller_token *token)
{
    if (token == NULL)
        return;
    for (size_t i = 0; i < token->num_groups; i++)
        mem_free(token->groups[i]);
    mem_free(token->groups);
    mem_free(token->name);
    mem_free(token);
}

void caller_free(struct caller *caller)
{
    if (caller == NULL)
        return;
    if (caller->peer != NULL)
        peer_unref(caller->peer);
    caller_token_free(caller->token);
    mem_free(caller->vouched);
    mem_free(caller);
}

bool caller_is_stranger(const struct caller *caller)
{
    return caller->peer == NULL && caller->token == NULL && caller->vouched == NULL;
}

void caller_vouch(struct caller *caller, uint64_t now_ms)
{
    struct caller *connection = caller->connection;

    connection->since_ms = now_ms;
    if (connection->vouched == NULL || strcmp(connection->vouched, caller->token->name) != 0) {
        mem_free(connection->vouched);
        connection->vouched = mem_strdup(caller->token->name);
        connection->greeted = false;
    }
}

/* The SPIFFE ID of a peer, "" when it showed none. */
static const char *caller_spiffe_id(const struct grpc_peer *peer)
{
    const struct caller *caller = peer->identity;

    return caller != NULL && caller->peer != NULL ? caller->peer->spiffe_id : "";
}

bool caller_is_admin(const char *trust_domain, const char *spiffe_id)
{
    const size_t prefix = sizeof(CALLER_ADMIN_PATH) - 1;
    struct spiffe_id id;

    if (!err_is_ok(spiffe_id_parse(bytes_of_str(spiffe_id), &id)) ||
        !bytes_equal_str(id.trust_domain, trust_domain))
        return false;
    return id.path.len > prefix && memcmp(id.path.ptr, CALLER_ADMIN_PATH, prefix) == 0 &&
           spiffe_segment_valid(bytes_of(id.path.ptr + prefix, id.path.len - prefix));
}

/* ---- the judgement ---- */

static enum grpc_status caller_refuse(enum grpc_status status, char out_reason[CALLER_REASON_MAX],
                                      const char *reason)
{
    (void)snprintf(out_reason, CALLER_REASON_MAX, "%s", reason);
    return status;
}

static enum grpc_status caller_permits_workload(const struct caller_rules *rules,
                                                const struct grpc_peer *peer,
                                                char out_reason[CALLER_REASON_MAX])
{
    const char *id = caller_spiffe_id(peer);

    if (id[0] == '\0')
        return caller_refuse(GRPC_UNAUTHENTICATED, out_reason,
                             "a certificate of the mesh is needed");
    if (rules->is_workload(rules->arg, id))
        return GRPC_OK;
    return caller_refuse(GRPC_PERMISSION_DENIED, out_reason,
                         "identity is not a subsystem of this mesh");
}

void caller_subject(const struct caller_rules *rules, const struct grpc_peer *peer,
                    char out[CALLER_SUBJECT_MAX])
{
    const struct caller *caller = peer->identity;
    const char *id = caller_spiffe_id(peer);

    out[0] = '\0';
    if (caller != NULL && caller->token != NULL)
        (void)snprintf(out, CALLER_SUBJECT_MAX, "%s", caller->token->name);
    else if (!peer->tls)
        (void)snprintf(out, CALLER_SUBJECT_MAX, "uid:%lu", (unsigned long)peer->uid);
    else if (caller_is_admin(rules->trust_domain, id))
        (void)snprintf(out, CALLER_SUBJECT_MAX, "%s", strrchr(id, '/') + 1);
}

static enum grpc_status caller_role_at_socket(const struct caller_rules *rules,
                                              const struct grpc_peer *peer, struct role *out,
                                              char out_reason[CALLER_REASON_MAX])
{
    char subject[CALLER_SUBJECT_MAX];

    if (peer->uid == rules->uid || peer->uid == 0) {
        bool known = role_built_in(ROLE_ADMIN, out);

        CHECK(known);
        return GRPC_OK;
    }
    caller_subject(rules, peer, subject);
    if (rules->role_of(rules->arg, subject, out))
        return GRPC_OK;
    return caller_refuse(GRPC_PERMISSION_DENIED, out_reason,
                         "only the control plane's own user, root, and users with a role may call "
                         "on this socket");
}

static unsigned caller_num_permissions(const struct role *role)
{
    return (unsigned)__builtin_popcountll(role->permissions);
}

static enum grpc_status caller_role_by_token(const struct caller_rules *rules,
                                             const struct caller_token *token, struct role *out,
                                             char out_reason[CALLER_REASON_MAX])
{
    struct role role;
    bool found = false;

    if (rules->is_token == NULL || !rules->is_token(rules->arg, token))
        return caller_refuse(GRPC_UNAUTHENTICATED, out_reason,
                             "jwt_expired: its time is over, or its issuer has taken back the "
                             "key that signed it");
    if (rules->role_of(rules->arg, token->name, out))
        return GRPC_OK;
    for (size_t i = 0; i < token->num_groups; i++) {
        if (!rules->role_of(rules->arg, token->groups[i], &role) ||
            (found && caller_num_permissions(&role) <= caller_num_permissions(out)))
            continue;
        *out = role;
        found = true;
    }
    if (found)
        return GRPC_OK;
    (void)snprintf(out_reason, CALLER_REASON_MAX,
                   "%s has no role, and none of the groups in the token has one: whoever may can "
                   "give one, mortisectl admin bind SUBJECT --role viewer",
                   token->name);
    return GRPC_PERMISSION_DENIED;
}

enum grpc_status caller_role(const struct caller_rules *rules, const struct grpc_peer *peer,
                             struct role *out, char out_reason[CALLER_REASON_MAX])
{
    const struct caller *caller = peer->identity;
    const char *id = caller_spiffe_id(peer);
    char subject[CALLER_SUBJECT_MAX];

    if (peer->tls && caller != NULL && caller->token != NULL)
        return caller_role_by_token(rules, caller->token, out, out_reason);
    if (!peer->tls)
        return caller_role_at_socket(rules, peer, out, out_reason);
    if (id[0] == '\0')
        return caller_refuse(GRPC_UNAUTHENTICATED, out_reason, "an admin's certificate is needed");
    caller_subject(rules, peer, subject);
    if (subject[0] == '\0')
        return caller_refuse(GRPC_PERMISSION_DENIED, out_reason,
                             "identity is not an admin of this mesh");
    if (!rules->is_admin(rules->arg, ((const struct caller *)peer->identity)->peer))
        return caller_refuse(GRPC_PERMISSION_DENIED, out_reason,
                             "this admin's certificate is from before the last `rotate admin`, or "
                             "was not issued here");
    if (rules->role_of(rules->arg, subject, out))
        return GRPC_OK;
    (void)snprintf(out_reason, CALLER_REASON_MAX,
                   "%.64s has no role: whoever may can give one, mortisectl admin bind %.64s "
                   "--role viewer",
                   subject, subject);
    return GRPC_PERMISSION_DENIED;
}

bool caller_may_grant(const struct caller_rules *rules, const struct grpc_peer *peer,
                      const struct role *role, char out_reason[CALLER_REASON_MAX])
{
    char name[PERMISSION_NAME_MAX];
    struct role own = {.permissions = 0};
    uint64_t missing;
    unsigned first = 0;

    if (caller_role(rules, peer, &own, out_reason) != GRPC_OK)
        return false;
    missing = role->permissions & ~own.permissions;
    if (missing == 0)
        return true;
    while ((missing >> first & 1) == 0)
        first++;
    permission_name((permission_t)first, name);
    (void)snprintf(out_reason, CALLER_REASON_MAX,
                   "that has the permission %s, which your role %s does not have: nobody gives or "
                   "takes more than his own",
                   name, own.name);
    return false;
}

static enum grpc_status caller_permits_role(const struct caller_rules *rules,
                                            const struct grpc_peer *peer, permission_t permission,
                                            char out_reason[CALLER_REASON_MAX])
{
    char name[PERMISSION_NAME_MAX];
    struct role role = {.permissions = 0};
    enum grpc_status status = caller_role(rules, peer, &role, out_reason);

    if (status != GRPC_OK)
        return status;
    if (permission == PERMISSION(SESSION) || role_has(&role, permission))
        return GRPC_OK;
    permission_name(permission, name);
    (void)snprintf(out_reason, CALLER_REASON_MAX,
                   "this needs the permission %s, which your role %s does not have (mortisectl "
                   "whoami shows what it has)",
                   name, role.name);
    return GRPC_PERMISSION_DENIED;
}

enum grpc_status caller_permits(const struct caller_rules *rules, const struct grpc_peer *peer,
                                permission_t permission, char out_reason[CALLER_REASON_MAX])
{
    const struct caller *caller = peer->identity;
    struct role role;

    if (caller != NULL && caller->peer != NULL && rules->is_revoked(rules->arg, caller->peer))
        return caller_refuse(GRPC_PERMISSION_DENIED, out_reason, "certificate is revoked");
    if (permission == PERMISSION(ANYONE))
        return peer->tls ? GRPC_OK : caller_role(rules, peer, &role, out_reason);
    if (permission == PERMISSION(WORKLOAD))
        return caller_permits_workload(rules, peer, out_reason);
    if (permission == PERMISSION(SESSION) || permission_is_granted_by_roles(permission))
        return caller_permits_role(rules, peer, permission, out_reason);
    return caller_refuse(GRPC_PERMISSION_DENIED, out_reason, "no rule permits this call");
}

void caller_name(const struct grpc_peer *peer, char out[CALLER_NAME_MAX])
{
    const struct caller *caller = peer->identity;
    const char *id = caller_spiffe_id(peer);

    if (id[0] != '\0')
        (void)snprintf(out, CALLER_NAME_MAX, "%s", id);
    else if (caller != NULL && caller->token != NULL)
        (void)snprintf(out, CALLER_NAME_MAX, "%s", caller->token->name);
    else if (!peer->tls)
        (void)snprintf(out, CALLER_NAME_MAX, "uid:%lu", (unsigned long)peer->uid);
    else
        addr_format(&peer->addr, out);
}

void caller_source(const struct addr *addr, char out[ADDR_TEXT_MAX])
{
    uint8_t host[16];

    out[0] = '\0';
    if (addr->sa.any.sa_family == AF_INET) {
        (void)inet_ntop(AF_INET, &addr->sa.in4.sin_addr, out, ADDR_TEXT_MAX);
    } else if (addr->sa.any.sa_family == AF_INET6) {
        memcpy(host, &addr->sa.in6.sin6_addr, sizeof(host));
        if (IN6_IS_ADDR_V4MAPPED(&addr->sa.in6.sin6_addr)) {
            (void)inet_ntop(AF_INET, host + 12, out, ADDR_TEXT_MAX);
            return;
        }
        memset(host + 8, 0, 8);
        (void)inet_ntop(AF_INET6, host, out, ADDR_TEXT_MAX);
    } else {
        (void)snprintf(out, ADDR_TEXT_MAX, "unix");
    }
}
