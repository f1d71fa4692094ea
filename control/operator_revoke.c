/* The calls of control/operator_service.h that deny and lift. */
#include <string.h>

#include "certs/spiffe_id.h"
#include "control/caller.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/rpc/pb.h"

static Mortise__V1__RevocationStatus *
operator_revocation(const Mortise__Control__RevocationRecord *record,
                    Mortise__V1__RevocationStatus *out)
{
    mortise__v1__revocation_status__init(out);
    out->id = record->id;
    out->revocation = record->revocation;
    out->reason = record->reason;
    out->by = record->by;
    out->revoked_at = record->revoked_at;
    out->until = record->until;
    return out;
}

void operator_on_list_revocations(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__Control__Revocations *record = registry_revocations(service->registry)->record;
    Mortise__V1__ListRevocationsResponse reply = MORTISE__V1__LIST_REVOCATIONS_RESPONSE__INIT;
    Mortise__V1__RevocationStatus *items = mem_array(record->n_entries, sizeof(*items));

    (void)msg;
    reply.revocations = mem_array(record->n_entries, sizeof(*reply.revocations));
    for (size_t i = 0; i < record->n_entries; i++)
        reply.revocations[reply.n_revocations++] =
            operator_revocation(record->entries[i], &items[i]);
    grpc_call_reply(call, &reply.base);
    mem_free(reply.revocations);
    mem_free(items);
}

static bool operator_is_hex(ProtobufCBinaryData sha256, const char *hex)
{
    char text[2 * 32 + 1];

    if (sha256.len != 32)
        return false;
    bytes_to_hex(msg_view(sha256), text);
    return strcmp(text, hex) == 0;
}

/* Whether it denies the control plane's own certificate of now, which is on record as all are. What
 * denies a key that the CA has is told elsewhere. */
static bool operator_is_shown(const struct operator_service *service,
                              const Mortise__V1__Revocation *revocation)
{
    const Mortise__Control__Issuance *record;
    const char *serial = server_cert_serial(service->cert);
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];
    bool shown;

    if (serial[0] == '\0' || ca_has_key(service->ca, revocation->issuer_key_sha256))
        return false;
    vault_path(VAULT_CERTS, serial, path);
    if (!err_is_ok(vault_get(service->vault, path, &msg, NULL)))
        return false;
    record = MSG_AS(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    shown = strcmp(revocation->serial, serial) == 0 ||
            operator_is_hex(record->key_sha256, revocation->key_sha256);
    for (size_t i = 0; i < record->n_issuer_keys_sha256 && !shown; i++)
        shown = operator_is_hex(record->issuer_keys_sha256[i], revocation->issuer_key_sha256);
    pb_free(msg);
    return shown;
}

/* What must not be denied, because then nothing would work: our own authorities. */
bool operator_may_revoke(struct operator_service *service, struct grpc_call *call,
                         const Mortise__V1__Revocation *revocation)
{
    CLEANUP(mem_freep) char *own = spiffe_id_of_control(registry_trust_domain(service->registry));
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct fault_path path = {.len = 0};

    (void)fault_path_field(&path, "revocation");
    if (!err_is_ok(revoke_check(revocation, &path, &faults))) {
        reply_faults(call, &faults);
        return false;
    }
    if (strcmp(revocation->spiffe_id, own) == 0) {
        reply_text(
            call, GRPC_FAILED_PRECONDITION,
            "revocation.spiffe_id: that is this control plane; if its host was taken over, set up "
            "another from a backup, rotate the root there and revoke the old issuer's key");
        return false;
    }
    if (operator_is_shown(service, revocation)) {
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "revocation: the certificate that this control plane shows to sidecars rests on "
                   "that; none would come back. First `mortisectl rotate control`");
        return false;
    }
    if (ca_has_key(service->ca, revocation->issuer_key_sha256)) {
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "revocation.issuer_key_sha256: certificates of this mesh rest on that key now; "
                   "nothing would connect. First `mortisectl rotate issuer --wait`, or `rotate "
                   "root --wait` when it is the root's");
        return false;
    }
    return true;
}

/* When the certificate of that serial number expires, if it is one of ours; 0 otherwise. */
static int64_t operator_serial_until(struct operator_service *service, const char *serial)
{
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];
    int64_t until;

    if (serial[0] == '\0')
        return 0;
    vault_path(VAULT_CERTS, serial, path);
    if (!err_is_ok(vault_get(service->vault, path, &msg, NULL)))
        return 0;
    until =
        MSG_AS(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg)->not_after;
    pb_free(msg);
    return until;
}

static void operator_reply_revoke(struct operator_service *service, struct grpc_call *call,
                                  uint64_t id)
{
    Mortise__V1__RevokeResponse reply = MORTISE__V1__REVOKE_RESPONSE__INIT;

    registry_refresh(service->registry); /* the pushes go out now */
    reply.id = id;
    reply.version = registry_version(service->registry);
    grpc_call_reply(call, &reply.base);
}

void operator_on_revoke(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__RevokeRequest *request =
        MSG_AS_CONST(Mortise__V1__RevokeRequest, mortise__v1__revoke_request__descriptor, msg);
    char by[CALLER_NAME_MAX];
    uint64_t id = 0;
    err_t err;

    if (request->revocation == NULL) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "revocation: is missing");
        return;
    }
    if (strlen(request->reason) > REVOCATIONS_REASON_MAX) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "reason: at most %d bytes", REVOCATIONS_REASON_MAX);
        return;
    }
    if (!operator_may_revoke(service, call, request->revocation))
        return;
    caller_name(grpc_call_peer(call), by);
    operator_will(service, call, VAULT_REVOCATIONS,
                  &(struct audit_entry){
                      .action = AUDIT_REVOKE,
                      .object = revoke_subject(request->revocation).value,
                      .message = request->reason,
                  });
    err =
        registry_revoke(service->registry,
                        &(struct revocations_new){
                            .revocation = request->revocation,
                            .reason = request->reason,
                            .by = by,
                            .now_s = clock_wall_s(service->clock),
                            .until_s = operator_serial_until(service, request->revocation->serial),
                        },
                        &id);
    if (err_is(err, E_LIMIT)) {
        reply_text(call, GRPC_RESOURCE_EXHAUSTED,
                   "%d are revoked already, which is the most; lift some (mortisectl get "
                   "revocations), or rotate the root",
                   REVOCATIONS_MAX);
        return;
    }
    if (!err_is_ok(err) && !err_is(err, E_EXISTS)) { /* asked twice: it is so */
        reply_error(call, err);
        return;
    }
    if (err_is_ok(err))
        operator_log(service, call, "revoked", revoke_subject(request->revocation).value, id);
    operator_reply_revoke(service, call, id);
}

/* What the revocation of that number denies, owned; "" when there is none. */
static char *operator_revoked(const struct operator_service *service, uint64_t id)
{
    const Mortise__Control__Revocations *record = registry_revocations(service->registry)->record;

    for (size_t i = 0; i < record->n_entries; i++) {
        if (record->entries[i]->id == id)
            return mem_strdup(revoke_subject(record->entries[i]->revocation).value);
    }
    return mem_strdup("");
}

void operator_on_lift(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__LiftRequest *request =
        MSG_AS_CONST(Mortise__V1__LiftRequest, mortise__v1__lift_request__descriptor, msg);
    CLEANUP(mem_freep) char *subject = operator_revoked(service, request->id);
    err_t err;

    operator_will(service, call, VAULT_REVOCATIONS,
                  &(struct audit_entry){.action = AUDIT_REVOKE_LIFT, .object = subject});
    err = registry_lift(service->registry, request->id);

    if (err_is(err, E_NOT_FOUND)) {
        reply_text(call, GRPC_NOT_FOUND,
                   "id: there is no revocation %llu (mortisectl get "
                   "revocations)",
                   (unsigned long long)request->id);
        return;
    }
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    operator_log(service, call, "revocation_lifted", "", request->id);
    operator_reply_revoke(service, call, request->id);
}
