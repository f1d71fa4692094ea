/* The calls of control/operator_service.h that stream progress: Rotate and WatchRollout. */
#include <string.h>

#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "control/rotate.h"
#include "lib/base/map.h"

/* An open stream that waits for sidecars. */
struct operator_watch {
    struct list link;
    struct operator_service *service;
    struct grpc_call *call;
    struct registry_observer observer;
    struct timer timer;
    bool over; /* its status is sent; only on_done is left */
    struct rotate rotate;
    struct map told; /* rollout: by "instance identity", who was told of, to a mark */
};

static void operator_watch_finish(struct operator_watch *watch, enum grpc_status status,
                                  const char *text)
{
    if (watch->over)
        return;
    watch->over = true;
    timer_stop(watch->service->loop, &watch->timer);
    grpc_call_finish(watch->call, status, text);
}

/* Sends a message of the stream; a reader that does not read is given up. */
static void operator_watch_send(struct operator_watch *watch, const ProtobufCMessage *msg)
{
    err_t err;

    if (watch->over)
        return;
    err = grpc_call_send(watch->call, msg);
    if (!err_is_ok(err))
        operator_watch_finish(watch, GRPC_RESOURCE_EXHAUSTED, err_text(err.code));
}

static void operator_watch_open(struct operator_service *service, struct grpc_call *call,
                                uint32_t timeout_s, struct operator_watch *watch,
                                void (*on_event)(void *arg, enum registry_event event,
                                                 struct workload *workload),
                                void (*on_timeout)(void *arg))
{
    uint64_t seconds = timeout_s != 0 ? timeout_s : OPERATOR_WAIT_DEFAULT_S;

    if (seconds > OPERATOR_WAIT_MAX_S)
        seconds = OPERATOR_WAIT_MAX_S;
    watch->service = service;
    watch->call = call;
    watch->observer = (struct registry_observer){.fn = on_event, .arg = watch};
    registry_observe(service->registry, &watch->observer);
    list_add_tail(&service->watches, &watch->link);
    grpc_call_set_data(call, watch);
    timer_start(service->loop, &watch->timer, seconds * 1000, on_timeout, watch);
}

void operator_on_watch_done(struct grpc_call *call, void *arg)
{
    struct operator_watch *watch = grpc_call_data(call);
    struct operator_service *service = arg;

    if (watch == NULL)
        return; /* it did not wait */
    timer_stop(service->loop, &watch->timer);
    registry_unobserve(service->registry, &watch->observer);
    list_del(&watch->link);
    rotate_fini(&watch->rotate);
    map_fini(&watch->told);
    mem_free(watch);
}

void operator_service_stop(struct operator_service *service)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->watches)
        operator_watch_finish(LIST_ITEM(pos, struct operator_watch, link), GRPC_UNAVAILABLE,
                              "control plane is shutting down");
    operator_surveys_stop(service);
    operator_whys_stop(service);
    operator_watchers_stop(service);
    operator_logs_stop(service);
}

/* ------------------------------------------------------------------- rotate */

static void operator_send_rotate(struct operator_watch *watch, const struct workload *workload)
{
    Mortise__V1__RotateProgress progress = MORTISE__V1__ROTATE_PROGRESS__INIT;
    Mortise__V1__Workload item;

    progress.epoch = watch->rotate.epoch;
    progress.done = (uint32_t)watch->rotate.num_done;
    progress.total = (uint32_t)watch->rotate.num;
    if (workload != NULL) {
        operator_workload(workload, &item);
        progress.workload = &item;
    }
    operator_watch_send(watch, &progress.base);
}

static void operator_rotate_end(struct operator_watch *watch)
{
    operator_send_rotate(watch, NULL);
    operator_watch_finish(watch, GRPC_OK, NULL);
}

static void operator_rotate_on_event(void *arg, enum registry_event event,
                                     struct workload *workload)
{
    struct operator_watch *watch = arg;

    if (watch->over)
        return;
    if (event == REGISTRY_LEFT)
        rotate_lost(&watch->rotate, workload);
    if ((event != REGISTRY_JOINED && event != REGISTRY_REPORTED) ||
        !rotate_see(&watch->rotate, workload))
        return;
    operator_send_rotate(watch, workload);
    if (rotate_is_done(&watch->rotate))
        operator_rotate_end(watch);
}

static void operator_rotate_on_timeout(void *arg)
{
    struct operator_watch *watch = arg;
    Mortise__V1__RotateProgress progress = MORTISE__V1__ROTATE_PROGRESS__INIT;
    struct buf missing = {.max = REPLY_TEXT_MAX - 64};
    CLEANUP(mem_freep) char *text = NULL;

    if (!err_is_ok(rotate_missing(&watch->rotate, &missing))) {
        /* More than fit: the first ones say enough. */
    }
    text = buf_take_str(&missing);
    progress.epoch = watch->rotate.epoch;
    progress.done = (uint32_t)watch->rotate.num_done;
    progress.total = (uint32_t)watch->rotate.num;
    progress.error = text;
    operator_watch_send(watch, &progress.base);
    operator_watch_finish(watch, GRPC_DEADLINE_EXCEEDED, text);
}

/* The subsystems that a request names, or all: borrowed names in an owned list; NULL when the call
 * was refused. */
static const char **operator_chosen(struct operator_service *service, struct grpc_call *call,
                                    const Mortise__V1__RotateRequest *request, size_t *out_num)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(service->registry);
    const char **names = mem_array(mesh->n_subsystems + 1, sizeof(*names));
    size_t num = 0;

    for (size_t i = 0; i < mesh->n_subsystems; i++) {
        bool chosen = request->all;

        for (size_t j = 0; j < request->n_subsystems && !chosen; j++)
            chosen = strcmp(request->subsystems[j], mesh->subsystems[i]->name) == 0;
        if (chosen)
            names[num++] = mesh->subsystems[i]->name;
    }
    for (size_t j = 0; j < request->n_subsystems; j++) {
        CLEANUP(mem_freep) char *there = NULL;

        if (mesh_subsystem(mesh, request->subsystems[j]) != NULL)
            continue;
        there = operator_names(service);
        reply_text(call, GRPC_NOT_FOUND, "no subsystem \"%.64s\"; there are: %s",
                   request->subsystems[j], there);
        mem_free(names);
        return NULL;
    }
    *out_num = num;
    return names;
}

static void operator_will_rotate(struct operator_service *service, struct grpc_call *call,
                                 const char *const *names, size_t num)
{
    CLEANUP(buf_fini) struct buf text = {.max = 4 * AUDIT_TEXT_MAX};
    CLEANUP(mem_freep) char *object = NULL;
    err_t err = OK;

    for (size_t i = 0; i < num && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? ", " : "", names[i]);
    object = buf_take_str(&text);
    operator_will(service, call, VAULT_EPOCHS,
                  &(struct audit_entry){.action = AUDIT_ROTATE, .object = object});
}

static void operator_rotate(struct operator_service *service, struct grpc_call *call,
                            const Mortise__V1__RotateRequest *request, const char **names,
                            size_t num)
{
    struct operator_watch *watch;
    uint64_t epoch;
    err_t err;

    operator_will_rotate(service, call, names, num);
    err = registry_rotate(service->registry, names, num, request->spread_ms, &epoch);
    if (!err_is_ok(err)) {
        reply_error(call, err);
        return;
    }
    for (size_t i = 0; i < num; i++)
        operator_log(service, call, "rotated", names[i], epoch);
    watch = mem_zalloc(sizeof(*watch));
    rotate_begin(&watch->rotate, epoch, registry_workloads(service->registry), names, num);
    operator_watch_open(service, call, request->timeout_s, watch, operator_rotate_on_event,
                        operator_rotate_on_timeout);
    registry_refresh(service->registry); /* the pushes go out now */
    if (!request->wait || rotate_is_done(&watch->rotate))
        operator_rotate_end(watch);
    else
        operator_send_rotate(watch, NULL);
}

void operator_on_rotate(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__RotateRequest *request =
        MSG_AS_CONST(Mortise__V1__RotateRequest, mortise__v1__rotate_request__descriptor, msg);
    const char **names;
    size_t num = 0;

    if (!request->all && request->n_subsystems == 0) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "subsystems: name some, or say all");
        return;
    }
    if (request->all && request->n_subsystems > 0) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "subsystems: name some or say all, not both");
        return;
    }
    if (request->spread_ms > OPERATOR_SPREAD_MAX_MS) {
        reply_text(call, GRPC_INVALID_ARGUMENT, "spread_ms: at most %d (one hour)",
                   OPERATOR_SPREAD_MAX_MS);
        return;
    }
    names = operator_chosen(service, call, request, &num);
    if (names == NULL)
        return;
    operator_rotate(service, call, request, names, num);
    mem_free(names);
}

/* ------------------------------------------------------------------ rollout */

static void operator_send_rollout(struct operator_watch *watch, const struct workload *workload)
{
    struct registry_totals totals = registry_totals(watch->service->registry);
    Mortise__V1__RolloutProgress progress = MORTISE__V1__ROLLOUT_PROGRESS__INIT;
    Mortise__V1__Workload item;

    progress.acked = totals.in_sync;
    progress.refused = totals.refused;
    progress.total = totals.connected;
    if (workload != NULL) {
        operator_workload(workload, &item);
        progress.workload = &item;
    }
    operator_watch_send(watch, &progress.base);
}

/* Tells of a sidecar once, when it has answered. */
static void operator_tell_rollout(struct operator_watch *watch, const struct workload *workload)
{
    CLEANUP(mem_freep) char *key = mem_printf("%s %s", workload->instance, workload->spiffe_id);

    if ((!xds_stream_in_sync(&workload->xds) && !xds_stream_refused(&workload->xds)) ||
        map_get(&watch->told, key) != NULL)
        return;
    map_put(&watch->told, key, watch);
    operator_send_rollout(watch, workload);
}

static void operator_rollout_check(struct operator_watch *watch)
{
    struct registry_totals totals = registry_totals(watch->service->registry);

    if (watch->over || totals.in_sync + totals.refused != totals.connected)
        return;
    operator_send_rollout(watch, NULL);
    operator_watch_finish(watch, GRPC_OK, NULL);
}

static void operator_rollout_on_event(void *arg, enum registry_event event,
                                      struct workload *workload)
{
    struct operator_watch *watch = arg;

    if (watch->over || (event != REGISTRY_REPORTED && event != REGISTRY_LEFT))
        return;
    if (event == REGISTRY_REPORTED)
        operator_tell_rollout(watch, workload);
    operator_rollout_check(watch);
}

static void operator_rollout_on_timeout(void *arg)
{
    struct operator_watch *watch = arg;
    CLEANUP(buf_fini) struct buf text = {.max = REPLY_TEXT_MAX - 64};
    CLEANUP(mem_freep) char *missing = NULL;
    struct list *pos, *tmp;
    bool any = false;
    err_t err = OK;

    LIST_EACH (pos, tmp, registry_workloads(watch->service->registry)) {
        const struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (xds_stream_in_sync(&workload->xds) || xds_stream_refused(&workload->xds) ||
            !err_is_ok(err))
            continue;
        err = buf_printf(&text, "%s%s (%.8s): no answer", any ? "; " : "", workload->subsystem,
                         workload->instance);
        any = true;
    }
    missing = buf_take_str(&text);
    operator_watch_finish(watch, GRPC_DEADLINE_EXCEEDED, missing);
}

void operator_on_rollout(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__WatchRolloutRequest *request = MSG_AS_CONST(
        Mortise__V1__WatchRolloutRequest, mortise__v1__watch_rollout_request__descriptor, msg);
    struct operator_watch *watch;
    struct list *pos, *tmp;

    if (request->version > registry_version(service->registry)) {
        reply_text(call, GRPC_NOT_FOUND, "version: %llu has not been given out yet",
                   (unsigned long long)request->version);
        return;
    }
    watch = mem_zalloc(sizeof(*watch));
    operator_watch_open(service, call, request->timeout_s, watch, operator_rollout_on_event,
                        operator_rollout_on_timeout);
    registry_refresh(service->registry);
    operator_send_rollout(watch, NULL);
    LIST_EACH (pos, tmp, registry_workloads(service->registry))
        operator_tell_rollout(watch, LIST_ITEM(pos, struct workload, link));
    operator_rollout_check(watch);
}
