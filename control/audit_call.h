/* audit_call is who calls, as the audit log tells it. */
#ifndef MORTISE_CONTROL_AUDIT_CALL_H
#define MORTISE_CONTROL_AUDIT_CALL_H

#include "control/audit.h"
#include "control/caller.h"

struct audit_who {
    char name[CALLER_NAME_MAX]; /* SPIFFE ID, "uid:0", or AUDIT_STRANGER */
    char source[ADDR_TEXT_MAX]; /* "192.0.2.1:4711"; "unix" */
    char host[ADDR_TEXT_MAX];   /* without the port, of IPv6 the /64: of what is counted */
    char role[ROLE_NAME_MAX + 1];
    bool stranger;
};
void audit_who(const struct grpc_peer *peer, struct audit_who *out);

/* audit_call_expect: audit_expect by the caller, whose name and source come into `entry`. */
void audit_call_expect(struct audit *audit, const struct grpc_call *call, const char *path,
                       const struct audit_entry *entry);
/* audit_call_put: audit_put likewise. `audit` may be NULL: nobody listens. */
MUST_CHECK err_t audit_call_put(struct audit *audit, const struct grpc_peer *peer,
                                const struct audit_entry *entry);

/* audit_call_denied notes a call that its caller may not make; audit_call_over what became of one
 * that was let in: what was refused is noted under the word for that method, with what was expected
 * last; what only asked (audit_only_asks), or ended with the control plane, is no refusal.
 * audit_call_login notes that an administrator is there, audit_call_no_login that a token was
 * refused, by the code of why. */
void audit_call_denied(struct audit *audit, const struct grpc_peer *peer, const char *method,
                       const char *reason);
void audit_call_over(struct audit *audit, const struct grpc_call *call, const char *method,
                     enum grpc_status status, const char *message);
void audit_call_login(struct audit *audit, const struct grpc_peer *peer);
void audit_call_no_login(struct audit *audit, const struct grpc_peer *peer, const char *code);

#endif
