#include "control/audit_call.h"

#include <stdio.h>
#include <string.h>

void audit_who(const struct grpc_peer *peer, struct audit_who *out)
{
    const struct caller *caller = peer->identity;

    out->role[0] = '\0';
    if (caller != NULL)
        memcpy(out->role, caller->role, sizeof(out->role));
    out->stranger =
        peer->tls && (caller == NULL || (caller->peer == NULL && caller->token == NULL));
    caller_source(&peer->addr, out->host);
    if (peer->tls)
        addr_format(&peer->addr, out->source);
    else
        (void)snprintf(out->source, sizeof(out->source), "unix");
    if (out->stranger)
        (void)snprintf(out->name, sizeof(out->name), "%s", AUDIT_STRANGER);
    else
        caller_name(peer, out->name);
}

void audit_call_expect(struct audit *audit, const struct grpc_call *call, const char *path,
                       const struct audit_entry *entry)
{
    struct audit_entry whole = *entry;
    struct audit_who who = {.stranger = false};

    audit_who(grpc_call_peer(call), &who);
    whole.who = who.name;
    whole.source = who.source;
    whole.role = who.role;
    whole.call = call;
    audit_expect(audit, path, &whole);
}

err_t audit_call_put(struct audit *audit, const struct grpc_peer *peer,
                     const struct audit_entry *entry)
{
    struct audit_entry whole = *entry;
    struct audit_who who = {.stranger = false};

    if (audit == NULL)
        return OK;
    audit_who(peer, &who);
    whole.who = who.name;
    whole.source = who.source;
    whole.role = who.role;
    return audit_put(audit, &whole);
}

/* The name of a method without that of its package. */
static const char *audit_method(const char *path)
{
    const char *dot = strrchr(path, '.');

    return dot != NULL ? dot + 1 : path;
}

void audit_call_denied(struct audit *audit, const struct grpc_peer *peer, const char *method,
                       const char *reason)
{
    enum audit_action action = audit_of_method(method);
    struct audit_entry entry = {.object = audit_method(method)};
    struct audit_who who = {.stranger = false};

    audit_who(peer, &who);
    entry.action = action != AUDIT_ACTION_NUM ? action : AUDIT_CALL;
    entry.who = who.name;
    entry.source = who.host;
    entry.role = who.role;
    audit_count(audit, &entry, reason != NULL ? reason : "permission denied", who.stranger);
}

/* What ends by itself, because the caller has gone, or with the control plane (no other answer is
 * UNAVAILABLE: reply.c), is not refused. */
static bool audit_is_refusal(enum grpc_status status)
{
    return status != GRPC_OK && status != GRPC_CANCELLED && status != GRPC_DEADLINE_EXCEEDED &&
           status != GRPC_UNAVAILABLE;
}

void audit_call_over(struct audit *audit, const struct grpc_call *call, const char *method,
                     enum grpc_status status, const char *message)
{
    const Mortise__V1__AuditRecord *expected = audit_expected(audit, call);
    enum audit_action action = audit_of_method(method);
    struct audit_entry entry = {.action = action};
    struct audit_who who = {.stranger = false};

    if (!audit_is_refusal(status) || action == AUDIT_ACTION_NUM ||
        audit_has_only_asked(audit, call))
        return;
    audit_who(grpc_call_peer(call), &who);
    entry.who = who.name;
    entry.source = who.host;
    entry.role = who.role;
    if (expected != NULL) {
        entry.object = expected->object;
        entry.message = expected->message;
    }
    audit_count(audit, &entry, message != NULL ? message : "refused", who.stranger);
}

void audit_call_login(struct audit *audit, const struct grpc_peer *peer)
{
    struct audit_who who = {.stranger = false};

    audit_who(peer, &who);
    audit_count(audit,
                &(struct audit_entry){
                    .action = AUDIT_LOGIN, .who = who.name, .role = who.role, .source = who.host},
                NULL, false);
}

void audit_call_no_login(struct audit *audit, const struct grpc_peer *peer, const char *code)
{
    struct audit_who who = {.stranger = false};

    audit_who(peer, &who);
    audit_count(audit,
                &(struct audit_entry){
                    .action = AUDIT_LOGIN, .who = who.name, .role = who.role, .source = who.host},
                code, who.stranger);
}
