/* The call Watch of control/operator_service.h: what happens in the mesh, as it happens. */
#include <string.h>

#include "control/events.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/reply.h"
#include "lib/rpc/pb.h"

#define OPERATOR_WATCHERS_MAX 64
#define OPERATOR_WATCH_QUEUED \
    65536 /* bytes that wait for one who reads slowly; the rest waits in the ring */

struct operator_watcher {
    struct list link;
    struct events_reader reader;
    struct operator_service *service;
    struct grpc_call *call;
    char *subsystem; /* "": all */
    bool over;
    bool pumping;
};

static void operator_watcher_finish(struct operator_watcher *watcher, enum grpc_status status,
                                    const char *text)
{
    if (watcher->over)
        return;
    watcher->over = true;
    grpc_call_finish(watcher->call, status, text);
}

static void operator_watcher_send(struct operator_watcher *watcher, const ProtobufCMessage *msg)
{
    err_t err = grpc_call_send(watcher->call, msg);

    if (!err_is_ok(err))
        operator_watcher_finish(watcher, GRPC_RESOURCE_EXHAUSTED, err_text(err.code));
}

static void operator_watcher_tell_missed(struct operator_watcher *watcher, uint64_t missed)
{
    Mortise__V1__Event event = MORTISE__V1__EVENT__INIT;
    char kind[] = "missed";

    event.at_ms = clock_wall_us() / 1000;
    event.kind = kind;
    event.number = missed;
    operator_watcher_send(watcher, &event.base);
}

/* Sends on until there is nothing more, or enough on its way. */
static void operator_watcher_pump(struct operator_watcher *watcher)
{
    Mortise__V1__Event *event;
    uint64_t missed;

    if (watcher->pumping)
        return;
    watcher->pumping = true;
    while (!watcher->over && grpc_call_queued(watcher->call) < OPERATOR_WATCH_QUEUED &&
           (event = events_next(watcher->service->events, &watcher->reader, &missed)) != NULL) {
        if (missed > 0)
            operator_watcher_tell_missed(watcher, missed);
        if (!watcher->over &&
            (watcher->subsystem[0] == '\0' || strcmp(watcher->subsystem, event->subsystem) == 0))
            operator_watcher_send(watcher, &event->base);
        pb_free(&event->base);
    }
    watcher->pumping = false;
}

static void operator_watcher_on_event(struct events_reader *reader)
{
    operator_watcher_pump(CONTAINER_OF(reader, struct operator_watcher, reader));
}

static void operator_watcher_on_writable(struct grpc_call *call, void *service)
{
    (void)service;
    operator_watcher_pump(grpc_call_data(call));
}

void operator_on_watch(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct operator_service *service = arg;
    const Mortise__V1__WatchRequest *request =
        MSG_AS_CONST(Mortise__V1__WatchRequest, mortise__v1__watch_request__descriptor, msg);
    struct operator_watcher *watcher;
    size_t num = 0;
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->watchers)
        num++;
    if (num >= OPERATOR_WATCHERS_MAX) {
        reply_text(call, GRPC_RESOURCE_EXHAUSTED, "%d watch already", OPERATOR_WATCHERS_MAX);
        return;
    }
    watcher = mem_zalloc(sizeof(*watcher));
    watcher->service = service;
    watcher->call = call;
    watcher->subsystem = mem_strndup(request->subsystem, OPERATOR_TEXT_MAX);
    watcher->reader.fn = operator_watcher_on_event;
    list_add_tail(&service->watchers, &watcher->link);
    events_join(service->events, &watcher->reader,
                request->since_s != 0 ? clock_wall_us() / 1000 - (int64_t)request->since_s * 1000
                                      : 0);
    grpc_call_set_data(call, watcher);
    grpc_call_on_writable(call, operator_watcher_on_writable);
    operator_watcher_pump(watcher);
}

void operator_on_watcher_done(struct grpc_call *call, void *arg)
{
    struct operator_watcher *watcher = grpc_call_data(call);

    (void)arg;
    if (watcher == NULL)
        return; /* it was refused */
    events_leave(&watcher->reader);
    list_del(&watcher->link);
    mem_free(watcher->subsystem);
    mem_free(watcher);
}

void operator_watchers_stop(struct operator_service *service)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->watchers)
        operator_watcher_finish(LIST_ITEM(pos, struct operator_watcher, link), GRPC_UNAVAILABLE,
                                "control plane is shutting down");
}
