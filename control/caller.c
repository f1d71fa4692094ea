#include "control/caller.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "certs/key.h"
#include "certs/spiffe_id.h"
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

void caller_free(struct caller *caller)
{
    if (caller == NULL)
        return;
    if (caller->peer != NULL)
        peer_unref(caller->peer);
    mem_free(caller);
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

static enum grpc_status caller_permits_workload(const struct caller_rules *rules,
                                                const struct grpc_peer *peer, const char **reason)
{
    const char *id = caller_spiffe_id(peer);

    if (id[0] == '\0') {
        *reason = "a certificate of the mesh is needed";
        return GRPC_UNAUTHENTICATED;
    }
    if (rules->is_workload(rules->arg, id))
        return GRPC_OK;
    *reason = "identity is not a subsystem of this mesh";
    return GRPC_PERMISSION_DENIED;
}

static enum grpc_status caller_permits_operator(const struct caller_rules *rules,
                                                const struct grpc_peer *peer, const char **reason)
{
    const char *id = caller_spiffe_id(peer);

    if (!peer->tls) {
        if (peer->uid == rules->uid || peer->uid == 0)
            return GRPC_OK;
        *reason = "only the control plane's own user and root may call on this socket";
        return GRPC_PERMISSION_DENIED;
    }
    if (id[0] == '\0') {
        *reason = "an admin's certificate is needed";
        return GRPC_UNAUTHENTICATED;
    }
    if (caller_is_admin(rules->trust_domain, id))
        return GRPC_OK;
    *reason = "identity is not an admin of this mesh";
    return GRPC_PERMISSION_DENIED;
}

enum grpc_status caller_permits(const struct caller_rules *rules, const struct grpc_peer *peer,
                                int permission, const char **out_reason)
{
    const struct caller *caller = peer->identity;

    if (caller != NULL && caller->peer != NULL && rules->is_revoked(rules->arg, caller->peer)) {
        *out_reason = "certificate is revoked";
        return GRPC_PERMISSION_DENIED;
    }
    *out_reason = "no rule permits this call";
    switch ((enum permission)permission) {
    case PERMISSION_ANYONE:
        return peer->tls ? GRPC_OK : caller_permits_operator(rules, peer, out_reason);
    case PERMISSION_WORKLOAD:
        return caller_permits_workload(rules, peer, out_reason);
    case PERMISSION_OPERATOR:
        return caller_permits_operator(rules, peer, out_reason);
    case PERMISSION_NONE:
    case PERMISSION_NUM:
    default:
        return GRPC_PERMISSION_DENIED;
    }
}

void caller_name(const struct grpc_peer *peer, char out[CALLER_NAME_MAX])
{
    const char *id = caller_spiffe_id(peer);

    if (id[0] != '\0')
        (void)snprintf(out, CALLER_NAME_MAX, "%s", id);
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
