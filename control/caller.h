/* caller is who calls the control plane, and the one place that says who may call what: deny by
 * default; what a method needs is in its schema (roles.h), what somebody may in his role. Pure but
 * for the certificate's key, read once at accept. Source: features D5, reliability R44, R46, R62.
 */
#ifndef MORTISE_CONTROL_CALLER_H
#define MORTISE_CONTROL_CALLER_H

#include <sys/types.h>

#include <openssl/ssl.h>

#include "certs/jwt.h"
#include "certs/spiffe_id.h"
#include "certs/verify.h"
#include "control/roles.h"
#include "lib/net/addr.h"
#include "lib/rpc/grpc_server.h"

/* Who an administrator is by the token that came with his call, and until when. */
struct caller_token {
    char *name;    /* "oidc:https://id.example#4711"; owned */
    char **groups; /* "oidc-group:https://id.example#ops"; owned */
    size_t num_groups;
    int64_t expires_at;     /* Unix seconds */
    uint8_t key_sha256[32]; /* that signed it */
};

/* caller is the `identity` of a grpc_peer: made at accept, owned by the connection; or that of one
 * call, by its token. */
struct caller {
    struct peer *peer;          /* NULL: Unix socket, or TLS without a certificate */
    struct caller_token *token; /* of a call that brought one; owned; then there is no `peer` */
    struct caller *connection;  /* of such a call: whose connection it is on; borrowed */
    char *vouched; /* of a connection without a certificate: who was let in by token; owned */
    uint8_t key_sha256[32]; /* of the certificate's SubjectPublicKeyInfo, zero without */
    uint64_t since_ms;
    char role[ROLE_NAME_MAX + 1]; /* of its last call as an administrator; "" before */
    bool greeted;                 /* its first call as an administrator is on record */
};
/* caller_new takes `peer` (may be NULL) and reads the key from `ssl` (may be NULL). Errors:
 * CERT_SYNTAX; `peer` is then released. */
MUST_CHECK err_t caller_new(struct peer *peer, SSL *ssl, uint64_t now_ms, struct caller **out);
/* caller_of_token is the one who makes this call on `connection`, which may bring no certificate.
 * Takes what `jwt` has. */
struct caller *caller_of_token(struct caller *connection, const char *issuer, struct jwt *jwt);
void caller_free(struct caller *caller);

/* caller_is_stranger: neither a certificate, nor has a token on this connection been taken yet. */
bool caller_is_stranger(const struct caller *caller);
/* caller_vouch: a call by token was let in, so its connection may stay for a while from now. */
void caller_vouch(struct caller *caller, uint64_t now_ms);

/* What the judgement needs to know of the world. */
struct caller_rules {
    const char *trust_domain;
    uid_t uid; /* ours */
    /* Whether a SPIFFE ID is a subsystem of the mesh. */
    bool (*is_workload)(void *arg, const char *spiffe_id);
    /* Whether a certificate is denied: its bearer may do nothing, whatever he is. */
    bool (*is_revoked)(void *arg, const struct peer *peer);
    /* Whether the certificate of an administrator counts (admins.h). */
    bool (*is_admin)(void *arg, const struct peer *peer);
    /* Whether a token still counts: its time, and its key's place in the issuer's set (oidc.h).
     * NULL: none does. */
    bool (*is_token)(void *arg, const struct caller_token *token);
    /* The role of a subject (access.h); false: it has none. */
    bool (*role_of)(void *arg, const char *subject, struct role *out);
    void *arg;
};

/* caller_permits returns GRPC_OK, UNAUTHENTICATED (no identity shown where one is needed) or
 * PERMISSION_DENIED, and then a reason. To whom no role is given it tells nothing but the rule, to
 * others the permission that is missing and the role that they have. */
#define CALLER_REASON_MAX 768
enum grpc_status caller_permits(const struct caller_rules *rules, const struct grpc_peer *peer,
                                permission_t permission, char out_reason[CALLER_REASON_MAX]);

/* caller_role finds what an administrator, or a user at the operator socket, may do: root and our
 * own user everything, others what is bound to them. Who calls by token has the role that is bound
 * to himself, whatever his groups have; without one that of his groups which permits most, of equal
 * ones that of the first in his token. Anything but GRPC_OK as above. */
enum grpc_status caller_role(const struct caller_rules *rules, const struct grpc_peer *peer,
                             struct role *out, char out_reason[CALLER_REASON_MAX]);

/* caller_may_grant: nobody gives, or takes, more than he has himself. False: with a reason. */
bool caller_may_grant(const struct caller_rules *rules, const struct grpc_peer *peer,
                      const struct role *role, char out_reason[CALLER_REASON_MAX]);

/* caller_subject writes what a binding calls this one: "alice", "uid:1000", a token's name; "" when
 * nothing could be bound to it. */
#define CALLER_SUBJECT_MAX (SPIFFE_ID_MAX + 1)
void caller_subject(const struct caller_rules *rules, const struct grpc_peer *peer,
                    char out[CALLER_SUBJECT_MAX]);

/* caller_is_admin tells whether `spiffe_id` is spiffe://<trust_domain>/mortise/admin/<name>. */
bool caller_is_admin(const char *trust_domain, const char *spiffe_id);

/* caller_name writes who this is for logs: the SPIFFE ID, a token's name, "uid:0", or the address.
 */
#define CALLER_NAME_MAX (SPIFFE_ID_MAX + 1)
void caller_name(const struct grpc_peer *peer, char out[CALLER_NAME_MAX]);

/* caller_source writes the address without its port; of IPv6 the /64, which one host has all of. */
void caller_source(const struct addr *addr, char out[ADDR_TEXT_MAX]);

#endif
