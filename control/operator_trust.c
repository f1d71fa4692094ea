/* The calls of control/operator_service.h about the mesh's trust. */
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"

#define OPERATOR_WAITING_MAX 100

struct operator_waiting {
    Mortise__V1__RootRotationWaiting items[OPERATOR_WAITING_MAX];
    Mortise__V1__RootRotationWaiting *list[OPERATOR_WAITING_MAX];
    size_t num;
};

static void operator_add_waiting(void *arg, const char *subsystem, const char *instance,
                                 const char *why)
{
    struct operator_waiting *waiting = arg;
    Mortise__V1__RootRotationWaiting *item;

    if (waiting->num == OPERATOR_WAITING_MAX)
        return;
    item = &waiting->items[waiting->num];
    mortise__v1__root_rotation_waiting__init(item);
    item->subsystem = msg_lend(subsystem);
    item->instance = msg_lend(instance);
    item->reason = msg_lend(why);
    waiting->list[waiting->num++] = item;
}

struct operator_key {
    Mortise__V1__KeyState msg;
    char name[SEAL_NAME];
};

static Mortise__V1__KeyState *operator_key(const struct operator_service *service,
                                           struct operator_key *out)
{
    mortise__v1__key_state__init(&out->msg);
    vault_key_name(service->vault, out->name);
    out->msg.key = out->name;
    out->msg.stale = vault_stale(service->vault);
    out->msg.done = vault_is_rewrapped(service->vault);
    return &out->msg;
}

static void operator_reply_root_rotation(struct operator_service *service, struct grpc_call *call)
{
    struct root_rotation_state state = root_rotation_state(service->root_rotation);
    Mortise__V1__RootRotation reply = MORTISE__V1__ROOT_ROTATION__INIT;
    struct operator_waiting waiting = {.num = 0};
    char signing[CA_SHA256_HEX], other[CA_SHA256_HEX];
    char issuer[CA_SHA256_HEX], other_issuer[CA_SHA256_HEX];
    struct operator_key key;

    reply.key = operator_key(service, &key);
    root_rotation_each_waiting(service->root_rotation, operator_add_waiting, &waiting);
    ca_root_sha256(service->ca, false, signing);
    ca_issuer_key_sha256(service->ca, false, issuer);
    reply.kind = msg_lend(rotation_kind_name(state.kind));
    reply.issuer_key_sha256 = issuer;
    reply.retired_issuer_key_sha256 = msg_lend(state.retired_key_sha256);
    reply.stage = msg_lend(rotation_name(state.stage));
    reply.waits_for = msg_lend(rotation_says(state.stage));
    reply.number = state.number;
    reply.going_back = state.going_back;
    reply.began_at = state.began_at;
    reply.stage_since = state.stage_since;
    reply.ended_at = state.ended_at;
    reply.signing_sha256 = signing;
    if (ca_has_other(service->ca)) {
        ca_issuer_key_sha256(service->ca, true, other_issuer);
        reply.other_issuer_key_sha256 = other_issuer;
    }
    if (ca_has_other_root(service->ca)) {
        ca_root_sha256(service->ca, true, other);
        reply.other_sha256 = other;
    }
    reply.done = (uint32_t)state.done;
    reply.total = (uint32_t)state.total;
    reply.waiting = waiting.list;
    reply.n_waiting = waiting.num;
    grpc_call_reply(call, &reply.base);
}

static void operator_refuse_rotation(struct operator_service *service, struct grpc_call *call,
                                     rotation_kind wanted, err_t err)
{
    struct root_rotation_state state = root_rotation_state(service->root_rotation);

    if (err_is(err, E_EXISTS))
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "rotation %llu, of the %s, is under way, stage %s (%zu of %zu): wait for its "
                   "end, or go back with `mortisectl rotate %s --abort`",
                   (unsigned long long)state.number, rotation_kind_name(state.kind),
                   rotation_name(state.stage), state.done, state.total,
                   rotation_kind_name(state.kind));
    else if (err_is(err, E_ROOT_ELSEWHERE))
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "the root's key is kept elsewhere: `mortisectl ca csr`, have that signed by %s, "
                   "then `mortisectl ca import`",
                   wanted == ROTATION_OF_ROOT ? "the new root" : "the root");
    else if (err_is(err, E_NOT_FOUND))
        reply_text(call, GRPC_FAILED_PRECONDITION, "no rotation of the %s is under way",
                   rotation_kind_name(wanted));
    else if (err_is(err, E_TOO_LATE) && state.going_back)
        reply_text(call, GRPC_FAILED_PRECONDITION, "it goes back already, stage %s",
                   rotation_name(state.stage));
    else if (err_is(err, E_TOO_LATE))
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "too late to go back, stage %s: the old %s's key is gone; rotate again when it "
                   "has ended",
                   rotation_name(state.stage), rotation_kind_name(state.kind));
    else
        reply_error(call, err);
}

/* Only a rotation of the kind that was named is turned back. */
static err_t operator_rotate(struct operator_service *service, rotation_kind kind,
                             const Mortise__V1__RotateRootRequest *request)
{
    if (!request->abort)
        return root_rotation_begin(service->root_rotation, kind, request->spread_ms);
    if (root_rotation_state(service->root_rotation).kind != kind)
        return FAIL(NOT_FOUND, 0);
    return root_rotation_go_back(service->root_rotation, request->spread_ms);
}

/* True when the call was refused. */
static bool operator_refuse_spread(struct grpc_call *call, uint32_t spread_ms)
{
    if (spread_ms <= OPERATOR_SPREAD_MAX_MS)
        return false;
    reply_text(call, GRPC_INVALID_ARGUMENT, "spread_ms: at most %d (one hour)",
               OPERATOR_SPREAD_MAX_MS);
    return true;
}

void operator_on_rotate_root(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__RotateRootRequest *request = MSG_AS_CONST(
        Mortise__V1__RotateRootRequest, mortise__v1__rotate_root_request__descriptor, msg);
    rotation_kind kind = request->issuer_only ? ROTATION_OF_ISSUER : ROTATION_OF_ROOT;
    bool is_elevated = kind == ROTATION_OF_ROOT && !request->abort; /* back is the safe side */
    const struct elevation *elevation = NULL;
    CLEANUP(mem_freep) char *why = NULL;
    err_t err;

    if (operator_refuse_spread(call, request->spread_ms))
        return;
    if (is_elevated) {
        elevation = operator_elevation(service, call, "rotating the root");
        if (elevation == NULL)
            return;
    }
    why = mem_printf("%s%s%s", request->abort ? "turned back" : "begun",
                     elevation != NULL ? ", elevated: " : "",
                     elevation != NULL ? elevation->reason : "");
    operator_will(service, call, VAULT_ROOT_ROTATION,
                  &(struct audit_entry){
                      .action = request->issuer_only ? AUDIT_ISSUER_ROTATE : AUDIT_ROOT_ROTATE,
                      .object = rotation_kind_name(kind),
                      .message = why,
                  });
    err = operator_rotate(service, kind, request);
    if (!err_is_ok(err)) {
        operator_refuse_rotation(service, call, kind, err);
        return;
    }
    operator_log(service, call, request->abort ? "root_rotation_aborted" : "root_rotation_begun",
                 rotation_kind_name(kind), root_rotation_state(service->root_rotation).number);
    operator_reply_root_rotation(service, call);
}

/* ---- what is another at once ---- */

void operator_on_rotate_control(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    Mortise__V1__RotateControlResponse reply = MORTISE__V1__ROTATE_CONTROL_RESPONSE__INIT;
    err_t err;

    (void)msg;
    operator_will(service, call, VAULT_CERTS,
                  &(struct audit_entry){.action = AUDIT_CONTROL_ROTATE});
    err = server_cert_rotate(service->cert);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    reply.serial = msg_lend(server_cert_serial(service->cert));
    reply.not_after = server_cert_not_after(service->cert);
    operator_log(service, call, "control_rotated", reply.serial, 0);
    grpc_call_reply(call, &reply.base);
}

/* Who called is answered, also when he is cut off by it. */
void operator_on_rotate_admin(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    Mortise__V1__RotateAdminResponse reply = MORTISE__V1__ROTATE_ADMIN_RESPONSE__INIT;
    err_t err;

    (void)msg;
    operator_will(service, call, VAULT_ADMINS, &(struct audit_entry){.action = AUDIT_ADMIN_ROTATE});
    err = admins_rotate(service->admins, clock_wall_s(service->clock));
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    reply.epoch = admins_epoch(service->admins);
    operator_log(service, call, "admins_rotated", "", reply.epoch);
    grpc_call_reply(call, &reply.base);
}

/* ---- a root that is elsewhere ---- */

void operator_on_create_csr(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__CreateCsrRequest *request = MSG_AS_CONST(
        Mortise__V1__CreateCsrRequest, mortise__v1__create_csr_request__descriptor, msg);
    Mortise__V1__CreateCsrResponse reply = MORTISE__V1__CREATE_CSR_RESPONSE__INIT;
    CLEANUP(buf_fini) struct buf csr = {0};
    err_t err;

    operator_will(service, call, VAULT_PENDING_ISSUER,
                  &(struct audit_entry){.action = AUDIT_CA_CSR, .object = "issuer"});
    err = ca_request(service->ca, request->fresh, &csr);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    operator_log(service, call, "issuer_requested", request->fresh ? "new" : "pending", 0);
    reply.request = msg_bytes(buf_view(&csr));
    grpc_call_reply(call, &reply.base);
}

static void operator_refuse_import(struct operator_service *service, struct grpc_call *call,
                                   const struct faults *faults, err_t err)
{
    if (faults->total > 0)
        reply_faults(call, faults);
    else if (err_is(err, E_NOT_FOUND))
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "nothing was asked for, or its answer was taken already: first `mortisectl ca "
                   "csr`, and have that signed");
    else
        operator_refuse_rotation(service, call, ROTATION_OF_ISSUER, err);
}

/* Where the mesh has revocation lists, each root needs one, and one of a root that is not known yet
 * cannot be handed in. */
static bool operator_refuse_unlisted(struct operator_service *service, struct grpc_call *call,
                                     const struct bytes *certs, size_t num)
{
    uint8_t sha256[SHA256_DIGEST_LENGTH];

    if (registry_mesh(service->registry)->n_crls == 0 || num < 2 || ca_is_empty(service->ca))
        return false;
    for (size_t i = 0; i < num; i++) {
        SHA256(certs[i].ptr, certs[i].len, sha256);
        if (bundle_has(ca_bundle(service->ca), sha256))
            return false; /* the root is known */
    }
    reply_text(
        call, GRPC_FAILED_PRECONDITION,
        "the mesh has revocation lists (crls), and of that root there is none yet: everybody "
        "would be refused. Take them out of the mesh document, and hand them in again, with "
        "the new root's, when it is in force");
    return true;
}

#define OPERATOR_IMPORT_MAX 8 /* certificates; it takes two, and says so */

void operator_on_import_issuer(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct operator_service *service = arg;
    const Mortise__V1__ImportIssuerRequest *request = MSG_AS_CONST(
        Mortise__V1__ImportIssuerRequest, mortise__v1__import_issuer_request__descriptor, msg);
    struct bytes certs[OPERATOR_IMPORT_MAX];
    size_t num =
        request->n_certificates < ARRAY_LEN(certs) ? request->n_certificates : ARRAY_LEN(certs);
    err_t err;

    if (operator_refuse_spread(call, request->spread_ms))
        return;
    for (size_t i = 0; i < num; i++)
        certs[i] = msg_view(request->certificates[i]);
    /* The first one has nothing to endanger. */
    if (!ca_is_empty(service->ca) &&
        operator_elevation(service, call, "importing an issuer") == NULL)
        return;
    if (operator_refuse_unlisted(service, call, certs, num))
        return;
    operator_will(service, call, VAULT_PENDING_ISSUER,
                  &(struct audit_entry){.action = AUDIT_CA_IMPORT, .object = "issuer"});
    err = root_rotation_import(service->root_rotation, certs, num, request->spread_ms, &faults);
    if (!err_is_ok(err)) {
        operator_refuse_import(service, call, &faults, err);
        return;
    }
    operator_log(service, call, "issuer_imported",
                 rotation_kind_name(root_rotation_state(service->root_rotation).kind),
                 root_rotation_state(service->root_rotation).number);
    operator_reply_root_rotation(service, call);
}

void operator_on_rotate_key(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct operator_service *service = arg;
    struct operator_key key;
    err_t err;

    (void)msg;
    if (!operator_records(service, call,
                          &(struct audit_entry){.action = AUDIT_KEY_ROTATE, .object = "store"}))
        return;
    err = rekey_begin(service->rekey, &faults);
    (void)operator_key(service, &key);
    if (err_is(err, E_EXISTS)) {
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   "key %s, the first in the file, seals already: put the new key in front of it",
                   key.name);
        return;
    }
    if (!err_is_ok(err)) {
        if (faults.total > 0)
            reply_faults(call, &faults);
        else
            reply_error(call, err);
        return;
    }
    operator_log(service, call, "key_rotation_begun", key.name, key.msg.stale);
    grpc_call_reply(call, &key.msg.base);
}

void operator_on_get_root_rotation(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    (void)msg;
    operator_reply_root_rotation(arg, call);
}
