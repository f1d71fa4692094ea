/* caller is who calls the control plane, and the one place that says who may call what: deny by
 * default, a rule a method (grpc_method.permission). Pure but for the certificate's key, read once
 * at accept. Source: reliability R44, R46, R62. */
#ifndef MORTISE_CONTROL_CALLER_H
#define MORTISE_CONTROL_CALLER_H

#include <sys/types.h>

#include <openssl/ssl.h>

#include "certs/spiffe_id.h"
#include "certs/verify.h"
#include "lib/net/addr.h"
#include "lib/rpc/grpc_server.h"

/* A method's rule. Zero refuses everybody: a method that was given none is closed. */
enum permission {
    PERMISSION_NONE,
    PERMISSION_ANYONE, /* over TLS, certificate or not: the call itself proves who it is for; on the
                        * Unix socket whoever may be there */
    PERMISSION_WORKLOAD, /* a certificate of a subsystem that is in the mesh now */
    PERMISSION_OPERATOR, /* our own user or root on the Unix socket, or an admin's certificate */
    PERMISSION_NUM,
};

/* caller is the `identity` of a grpc_peer: made at accept, owned by the connection. */
struct caller {
    struct peer *peer;      /* NULL: Unix socket, or TLS without a certificate */
    uint8_t key_sha256[32]; /* of the certificate's SubjectPublicKeyInfo, zero without */
    uint64_t since_ms;
};
/* caller_new takes `peer` (may be NULL) and reads the key from `ssl` (may be NULL). Errors:
 * CERT_SYNTAX; `peer` is then released. */
MUST_CHECK err_t caller_new(struct peer *peer, SSL *ssl, uint64_t now_ms, struct caller **out);
void caller_free(struct caller *caller);

/* What the judgement needs to know of the world. */
struct caller_rules {
    const char *trust_domain;
    uid_t uid; /* ours */
    /* Whether a SPIFFE ID is a subsystem of the mesh. */
    bool (*is_workload)(void *arg, const char *spiffe_id);
    /* Whether a certificate is denied: its bearer may do nothing, whatever he is. */
    bool (*is_revoked)(void *arg, const struct peer *peer);
    void *arg;
};

/* caller_permits returns GRPC_OK, UNAUTHENTICATED (no identity shown where one is needed) or
 * PERMISSION_DENIED, and then a reason that tells the peer nothing but the rule. */
enum grpc_status caller_permits(const struct caller_rules *rules, const struct grpc_peer *peer,
                                int permission, const char **out_reason);

/* caller_is_admin tells whether `spiffe_id` is spiffe://<trust_domain>/mortise/admin/<name>. */
bool caller_is_admin(const char *trust_domain, const char *spiffe_id);

/* caller_name writes who this is for logs: the SPIFFE ID, "uid:0", or the address. */
#define CALLER_NAME_MAX (SPIFFE_ID_MAX + 1)
void caller_name(const struct grpc_peer *peer, char out[CALLER_NAME_MAX]);

/* caller_source writes the address without its port; of IPv6 the /64, which one host has all of. */
void caller_source(const struct addr *addr, char out[ADDR_TEXT_MAX]);

#endif
