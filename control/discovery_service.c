#include "control/discovery_service.h"

#include <stdio.h>
#include <string.h>

#include "control/caller.h"
#include "control/msg.h"
#include "control/reply.h"
#include "lib/base/log.h"

#define DISCOVERY_MESSAGE_MAX 65536 /* a NACK with 64 faults of 1 KiB */
#define DISCOVERY_TEXT_MAX 128      /* of instance and build */

struct discovery_service {
    struct discovery_service_params params;
    struct registry_observer observer;
    struct timer refresh;
    uint64_t refreshed_ms; /* the last time */
    uint64_t num_pushed;   /* then */
    struct list streams;
};

/* One stream. Its workload comes with the first request. */
struct discovery_stream {
    struct list link;
    struct discovery_service *service;
    struct grpc_call *call;
    struct workload *workload;
    struct timer timer; /* until the first request */
};

static void discovery_refuse(struct discovery_stream *stream, err_t err, const char *text)
{
    char peer[CALLER_NAME_MAX];

    caller_name(grpc_call_peer(stream->call), peer);
    log_limited(LOG_WARN, "discovery", "stream_refused",
                (const struct log_field[]){LOG_STR("peer", peer), LOG_ERR("reason", err),
                                           LOG_STR("detail", text)},
                3);
    meters_refused(stream->service->params.meters, err.code);
    reply_text(stream->call, reply_status(err), "%s: %s", err_name(err.code), text);
}

/* ------------------------------------------------------------------- pushing */

static err_t discovery_respond(struct discovery_stream *stream, const char *nonce)
{
    const struct content *content = stream->workload->content;
    Mortise__V1__DiscoveryResponse response = MORTISE__V1__DISCOVERY_RESPONSE__INIT;
    size_t num_roots;
    const struct bytes *ders = ca_roots(stream->service->params.ca, &num_roots);
    ProtobufCBinaryData *roots = mem_array(num_roots, sizeof(*roots));
    err_t err;

    for (size_t i = 0; i < num_roots; i++)
        roots[i] = msg_bytes(ders[i]);
    response.version = content->version;
    response.nonce = msg_lend(nonce);
    response.config = content->config;
    response.trust_roots = roots;
    response.n_trust_roots = num_roots;
    response.certificate_epoch = content->epoch;
    response.renew_spread_ms = content->spread_ms;
    err = grpc_call_send(stream->call, &response.base);
    mem_free(roots);
    return err;
}

/* Sends the newest content if it is due. */
static void discovery_push(struct discovery_stream *stream)
{
    struct workload *workload = stream->workload;
    char nonce[XDS_NONCE_MAX];
    err_t err;

    if (workload == NULL || workload->content == NULL || !xds_stream_due(&workload->xds))
        return;
    xds_stream_sent(&workload->xds, nonce);
    err = discovery_respond(stream, nonce);
    if (!err_is_ok(err)) {
        discovery_refuse(stream, err, "response cannot be sent");
        return;
    }
    stream->service->num_pushed++;
    meters_answered(stream->service->params.meters, METERS_PUSHED);
    log_debug("discovery", "pushed", LOG_STR("id", workload->spiffe_id),
              LOG_STR("instance", workload->instance),
              LOG_UINT("version", workload->content->version),
              LOG_UINT("epoch", workload->content->epoch));
}

static void discovery_on_refresh(void *arg)
{
    struct discovery_service *service = arg;

    service->num_pushed = 0;
    registry_refresh(service->params.registry);
    service->refreshed_ms = loop_now_ms(service->params.loop);
}

uint64_t discovery_delay_ms(uint64_t num_pushed, uint64_t since_ms)
{
    uint64_t rest_ms = num_pushed * DISCOVERY_REST_US / 1000;

    if (rest_ms > DISCOVERY_REST_MAX_MS)
        rest_ms = DISCOVERY_REST_MAX_MS;
    return since_ms + DISCOVERY_COALESCE_MS < rest_ms ? rest_ms - since_ms : DISCOVERY_COALESCE_MS;
}

static void discovery_refresh_in(struct discovery_service *service, uint64_t ms)
{
    timer_start(service->params.loop, &service->refresh, ms, discovery_on_refresh, service);
}

static void discovery_refresh_soon(struct discovery_service *service)
{
    uint64_t since_ms = loop_now_ms(service->params.loop) - service->refreshed_ms;

    discovery_refresh_in(service, discovery_delay_ms(service->num_pushed, since_ms));
}

/* Sidecars whose identity now is another subsystem's, or nobody's: what their stream would be told
 * is known only when they join again. */
static void discovery_end_strays(struct discovery_service *service)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->streams) {
        struct discovery_stream *stream = LIST_ITEM(pos, struct discovery_stream, link);

        if (stream->workload != NULL && stream->workload->member == NULL)
            grpc_call_finish(stream->call, GRPC_ABORTED, "its subsystem has left the mesh");
    }
}

static void discovery_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    struct discovery_service *service = arg;

    if (event == REGISTRY_DIRTY && !timer_is_on(&service->refresh))
        discovery_refresh_soon(service);
    else if (event == REGISTRY_OFFERED && workload->stream != NULL)
        discovery_push(workload->stream);
    if (event != REGISTRY_MESH)
        return;
    discovery_refresh_in(service, DISCOVERY_COALESCE_MS);
    discovery_end_strays(service);
}

/* ------------------------------------------------------------- first request */

err_t discovery_address(const char *advertise, const struct addr *from, char **out)
{
    char host[256];
    char text[ADDR_TEXT_MAX];
    uint16_t port;
    struct addr addr;

    if (advertise[0] == '\0') {
        if (from->sa.any.sa_family != AF_INET && from->sa.any.sa_family != AF_INET6)
            return FAIL(ADDR_SYNTAX, 0);
        addr = *from;
        addr_set_port(&addr, DISCOVERY_PORT);
        addr_format(&addr, text);
        *out = mem_strdup(text);
        return OK;
    }
    if (strncmp(advertise, "unix:", 5) == 0)
        return FAIL(ADDR_SYNTAX, 0);
    TRY(addr_split_host(advertise, host, &port));
    if (port == 0)
        return FAIL(ADDR_SYNTAX, 0);
    if (err_is_ok(addr_parse(advertise, &addr)) &&
        ((addr.sa.any.sa_family == AF_INET && addr.sa.in4.sin_addr.s_addr == INADDR_ANY) ||
         (addr.sa.any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&addr.sa.in6.sin6_addr))))
        return FAIL(ADDR_SYNTAX, 0); /* a wildcard is no place to connect to */
    *out = mem_strdup(advertise);
    return OK;
}

/* A second stream of one process: its first one is dead, or about to be found so. */
static void discovery_replace(struct discovery_service *service, const char *spiffe_id,
                              const char *instance)
{
    struct workload *workload = registry_workload(service->params.registry, spiffe_id, instance);
    struct discovery_stream *stream = workload != NULL ? workload->stream : NULL;

    if (stream == NULL)
        return;
    workload->stream = NULL;
    stream->workload = NULL;
    registry_leave(workload);
    grpc_call_finish(stream->call, GRPC_ABORTED, "replaced by a newer stream of this instance");
}

static err_t discovery_join(struct discovery_stream *stream,
                            const Mortise__V1__DiscoveryRequest *request, const char **out_text)
{
    struct discovery_service *service = stream->service;
    const struct grpc_peer *peer = grpc_call_peer(stream->call);
    const struct caller *caller = peer->identity;
    const Mortise__V1__Node *node = request->node;
    CLEANUP(mem_freep) char *address = NULL;
    struct registry_join join = {.spiffe_id = caller->peer->spiffe_id};

    *out_text = "node.instance is missing, or longer than 128 bytes";
    if (node == NULL || node->instance[0] == '\0' || strlen(node->instance) > DISCOVERY_TEXT_MAX ||
        strlen(node->build) > DISCOVERY_TEXT_MAX)
        return FAIL(SYNTAX, 0);
    *out_text = "node.advertise is not an address and port that peers can reach";
    TRY(discovery_address(node->advertise, &peer->addr, &address));
    discovery_replace(service, join.spiffe_id, node->instance);
    join.instance = node->instance;
    join.build = node->build;
    join.address = address;
    *out_text = "this sidecar cannot be taken now";
    TRY(registry_join(service->params.registry, &join, &stream->workload));
    stream->workload->stream = stream;
    log_info("discovery", "connected", LOG_STR("id", join.spiffe_id),
             LOG_STR("instance", join.instance), LOG_STR("address", address),
             LOG_STR("build", join.build), LOG_UINT("version", request->version));
    return OK;
}

/* ------------------------------------------------------------------ requests */

static void discovery_note_answer(struct discovery_stream *stream, enum xds_request kind,
                                  const Mortise__V1__DiscoveryRequest *request)
{
    const struct workload *workload = stream->workload;
    const Mortise__V1__FieldFault *fault = NULL;

    if (kind == XDS_ACK)
        meters_answered(stream->service->params.meters, METERS_ACKED);
    if (kind != XDS_NACK)
        return;
    meters_answered(stream->service->params.meters, METERS_NACKED);
    if (request->error->n_faults > 0)
        fault = request->error->faults[0];
    log_warn("discovery", "config_refused", LOG_STR("id", workload->spiffe_id),
             LOG_STR("instance", workload->instance),
             LOG_UINT("version", workload->xds.sent_version), LOG_STR("code", request->error->code),
             LOG_STR("path", fault != NULL ? fault->path : NULL),
             LOG_STR("detail", fault != NULL ? fault->message : NULL),
             LOG_UINT("faults", request->error->n_faults));
}

static void discovery_on_message(struct grpc_call *call, void *arg, const ProtobufCMessage *msg)
{
    struct discovery_stream *stream = grpc_call_data(call);
    const Mortise__V1__DiscoveryRequest *request = MSG_AS_CONST(
        Mortise__V1__DiscoveryRequest, mortise__v1__discovery_request__descriptor, msg);
    const char *text = "";
    enum xds_request kind;
    err_t err = OK;

    (void)arg;
    timer_stop(stream->service->params.loop, &stream->timer);
    if (stream->workload == NULL)
        err = discovery_join(stream, request, &text);
    if (!err_is_ok(err)) {
        discovery_refuse(stream, err, text);
        return;
    }
    kind = xds_stream_on_request(&stream->workload->xds, request->version, request->nonce,
                                 request->error != NULL);
    if (kind == XDS_INVALID) {
        discovery_refuse(stream, FAIL(SYNTAX, 0),
                         "an acknowledgement names another version than the response had");
        return;
    }
    discovery_note_answer(stream, kind, request);
    registry_report(stream->workload, kind, request->status, request->error);
    discovery_push(stream);
}

static void discovery_on_silence(void *arg)
{
    struct discovery_stream *stream = arg;

    discovery_refuse(stream, FAIL(TIMEOUT, 0), "no request came");
}

static void discovery_on_start(struct grpc_call *call, void *arg)
{
    struct discovery_service *service = arg;
    struct discovery_stream *stream = mem_try(sizeof(*stream));

    if (stream == NULL) {
        grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, err_name(E_NO_MEMORY));
        return;
    }
    stream->service = service;
    stream->call = call;
    list_add_tail(&service->streams, &stream->link);
    grpc_call_set_data(call, stream);
    timer_start(service->params.loop, &stream->timer, DISCOVERY_FIRST_MS, discovery_on_silence,
                stream);
}

static void discovery_on_done(struct grpc_call *call, void *arg)
{
    struct discovery_stream *stream = grpc_call_data(call);
    struct discovery_service *service = arg;

    if (stream == NULL)
        return; /* there was no memory for it */
    timer_stop(service->params.loop, &stream->timer);
    list_del(&stream->link);
    if (stream->workload != NULL) {
        log_info("discovery", "disconnected", LOG_STR("id", stream->workload->spiffe_id),
                 LOG_STR("instance", stream->workload->instance));
        stream->workload->stream = NULL;
        registry_leave(stream->workload);
    }
    mem_free(stream);
}

/* --------------------------------------------------------------------- whole */

static const struct grpc_method discovery_methods[] = {
    {
        .path = "/mortise.v1.DiscoveryService/Stream",
        .in = &mortise__v1__discovery_request__descriptor,
        .out = &mortise__v1__discovery_response__descriptor,
        .max_message = DISCOVERY_MESSAGE_MAX,
        .client_streaming = true,
        .permission = PERMISSION_WORKLOAD,
        .on_start = discovery_on_start,
        .on_message = discovery_on_message,
        .on_done = discovery_on_done,
    },
};

const struct grpc_method *discovery_service_methods(size_t *out_num)
{
    *out_num = ARRAY_LEN(discovery_methods);
    return discovery_methods;
}

struct discovery_service *discovery_service_new(const struct discovery_service_params *params)
{
    struct discovery_service *service = mem_zalloc(sizeof(*service));

    service->params = *params;
    list_init(&service->streams);
    service->observer = (struct registry_observer){.fn = discovery_on_event, .arg = service};
    registry_observe(params->registry, &service->observer);
    return service;
}

void discovery_service_stop(struct discovery_service *service)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->streams) {
        struct discovery_stream *stream = LIST_ITEM(pos, struct discovery_stream, link);

        grpc_call_finish(stream->call, GRPC_UNAVAILABLE, "control plane is shutting down");
    }
}

void discovery_service_free(struct discovery_service *service)
{
    if (service == NULL)
        return;
    CHECK(list_empty(&service->streams));
    timer_stop(service->params.loop, &service->refresh);
    registry_unobserve(service->params.registry, &service->observer);
    mem_free(service);
}
