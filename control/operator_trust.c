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

static void operator_reply_root_rotation(struct operator_service *service, struct grpc_call *call)
{
    struct root_rotation_state state = root_rotation_state(service->root_rotation);
    Mortise__V1__RootRotation reply = MORTISE__V1__ROOT_ROTATION__INIT;
    struct operator_waiting waiting = {.num = 0};
    char signing[CA_SHA256_HEX];
    char other[CA_SHA256_HEX];

    root_rotation_each_waiting(service->root_rotation, operator_add_waiting, &waiting);
    ca_root_sha256(service->ca, false, signing);
    reply.stage = msg_lend(rotation_name(state.stage));
    reply.waits_for = msg_lend(rotation_says(state.stage));
    reply.number = state.number;
    reply.going_back = state.going_back;
    reply.began_at = state.began_at;
    reply.stage_since = state.stage_since;
    reply.ended_at = state.ended_at;
    reply.signing_sha256 = signing;
    if (ca_has_other(service->ca)) {
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
                                     err_t err)
{
    struct root_rotation_state state = root_rotation_state(service->root_rotation);

    if (err_is(err, E_EXISTS))
        reply_text(
            call, GRPC_FAILED_PRECONDITION,
            "rotation %llu is under way, stage %s (%zu of %zu): wait for its end, or go back "
            "with --abort",
            (unsigned long long)state.number, rotation_name(state.stage), state.done, state.total);
    else if (err_is(err, E_NOT_FOUND))
        reply_text(call, GRPC_FAILED_PRECONDITION, "no rotation of the root is under way");
    else if (err_is(err, E_TOO_LATE))
        reply_text(call, GRPC_FAILED_PRECONDITION,
                   state.going_back
                       ? "it goes back already, stage %s"
                       : "too late to go back, stage %s: sidecars have given up a root "
                         "already; rotate again when it has ended",
                   rotation_name(state.stage));
    else
        reply_error(call, err);
}

void operator_on_rotate_root(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__RotateRootRequest *request = MSG_AS_CONST(
        Mortise__V1__RotateRootRequest, mortise__v1__rotate_root_request__descriptor, msg);
    err_t err;

    if (request->spread_ms > OPERATOR_SPREAD_MAX_MS) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "spread_ms: at most %d (one hour)",
                   OPERATOR_SPREAD_MAX_MS);
        return;
    }
    err = request->abort ? root_rotation_go_back(service->root_rotation, request->spread_ms)
                         : root_rotation_begin(service->root_rotation, request->spread_ms);
    if (!err_is_ok(err)) {
        operator_refuse_rotation(service, call, err);
        return;
    }
    operator_log(call, request->abort ? "root_rotation_aborted" : "root_rotation_begun", "root",
                 root_rotation_state(service->root_rotation).number);
    operator_reply_root_rotation(service, call);
}

void operator_on_get_root_rotation(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    (void)msg;
    operator_reply_root_rotation(arg, call);
}
