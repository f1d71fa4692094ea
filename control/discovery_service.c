#include "control/discovery_service.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "control/caller.h"
#include "control/msg.h"
#include "control/reply.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

#define DISCOVERY_MESSAGE_MAX 65536 /* a NACK with 64 faults of 1 KiB */
#define DISCOVERY_TEXT_MAX 128      /* of instance and build */
#define DISCOVERY_KEPT_MAX 1024     /* revocations that a refusal tells of: no sidecar sends more */
#define DISCOVERY_EXPIRE_MS 100  /* how often late answers are looked for, while any is awaited */
#define DISCOVERY_CLOCKS_MS 1000 /* how often it is looked whose clock is due */
#define DISCOVERY_CLOCKS_AT_ONCE 256 /* a fleet that came at once is not asked at once */

struct discovery_service {
    struct discovery_service_params params;
    struct registry_observer observer;
    struct timer refresh;
    uint64_t refreshed_ms; /* the last time */
    uint64_t num_pushed;   /* then */
    struct list streams;   /* whose clock was looked at longest ago, first */
    struct questions questions;
    struct failures *failures;
    struct timer expire; /* of questions */
    struct timer clocks;
};

/* One stream. Its workload comes with the first request. */
struct discovery_stream {
    struct list link;
    struct discovery_service *service;
    struct grpc_call *call;
    struct workload *workload;
    struct timer timer;  /* until the first request */
    uint64_t clock_ms;   /* its clock was asked for last */
    bool is_skewed;      /* told */
    uint64_t pushed_us;  /* the last response went out */
    uint64_t seen_until; /* how far what the sidecar has seen is our past; 0: it is not */
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

static int64_t discovery_now_ms(void)
{
    return clock_wall_us() / 1000;
}

/* Whatever is sent says what time it is. */
static err_t discovery_send(struct discovery_stream *stream,
                            const Mortise__V1__DiscoveryResponse *response)
{
    struct skew_times times = skew_times(&stream->workload->skew, discovery_now_ms());
    Mortise__V1__DiscoveryResponse whole = *response;
    Mortise__V1__Clock clock = MORTISE__V1__CLOCK__INIT;

    clock.now_ms = times.now_ms;
    clock.heard_ms = times.heard_ms;
    clock.heard_at_ms = times.heard_at_ms;
    whole.clock = &clock;
    return grpc_call_send(stream->call, &whole.base);
}

/* A key that the store does not give is left out: the sidecar refuses the whole, and says which. */
static void discovery_load_keys(struct discovery_service *service,
                                const Mortise__V1__SidecarConfig *config,
                                struct discovery_load *load)
{
    load->records = mem_array(config->n_keystores, sizeof(*load->records));
    load->keys = mem_array(config->n_keystores, sizeof(*load->keys));
    load->list = mem_array(config->n_keystores, sizeof(*load->list));
    for (size_t i = 0; i < config->n_keystores; i++) {
        Mortise__V1__KeystoreKey *key = &load->keys[load->num_keys];
        err_t err;

        if (config->keystores[i]->folder[0] != '\0')
            continue; /* it has that itself */
        err = registry_keystore_key(service->params.registry, config->keystores[i]->key_sha256,
                                    &load->records[load->num_keys]);
        if (!err_is_ok(err)) {
            log_limited(LOG_ERROR, "discovery", "keystore_unreadable",
                        (const struct log_field[]){LOG_STR("keystore", config->keystores[i]->name),
                                                   LOG_ERR("error", err)},
                        2);
            continue;
        }
        mortise__v1__keystore_key__init(key);
        key->key_sha256 = config->keystores[i]->key_sha256;
        key->key = load->records[load->num_keys]->key;
        load->list[load->num_keys++] = key;
    }
}

void discovery_load_fini(struct discovery_load *load)
{
    for (size_t i = 0; i < load->num_keys; i++)
        registry_keystore_free(load->records[i]);
    mem_free(load->records);
    mem_free(load->keys);
    mem_free(load->list);
    mem_free(load->roots);
    *load = (struct discovery_load){.num_keys = 0};
}

void discovery_candidate(struct discovery_service *service, const struct content *content,
                         Mortise__V1__SidecarConfig *config, Mortise__V1__DiscoveryResponse *out,
                         struct discovery_load *load)
{
    size_t num_roots;
    const struct bytes *ders = ca_roots(service->params.ca, &num_roots);

    *load = (struct discovery_load){.roots = mem_array(num_roots, sizeof(*load->roots))};
    for (size_t i = 0; i < num_roots; i++)
        load->roots[i] = msg_bytes(ders[i]);
    discovery_load_keys(service, config, load);
    mortise__v1__discovery_response__init(out);
    out->version = content->version;
    out->config = config;
    out->trust_roots = load->roots;
    out->n_trust_roots = num_roots;
    out->keystore_keys = load->list;
    out->n_keystore_keys = load->num_keys;
    out->certificate_epoch = content->epoch;
    out->renew_spread_ms = content->spread_ms;
}

static err_t discovery_respond(struct discovery_stream *stream, const char *nonce)
{
    const struct content *content = stream->workload->content;
    const struct history *history = registry_history(stream->service->params.registry);
    Mortise__V1__Point point = MORTISE__V1__POINT__INIT;
    Mortise__V1__DiscoveryResponse response;
    struct discovery_load load;
    err_t err;

    discovery_candidate(stream->service, content, content->config, &response, &load);
    response.nonce = msg_lend(nonce);
    point.era = history_era(history);
    point.run = history_run(history);
    point.revision = history->decided;
    response.point = &point;
    response.seen_until = stream->seen_until;
    err = discovery_send(stream, &response);
    discovery_load_fini(&load);
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
    stream->pushed_us = clock_mono_us();
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

/* ------------------------------------------------------------------- asking */

static void discovery_on_expire(void *arg)
{
    struct discovery_service *service = arg;

    questions_expire(&service->questions, loop_now_ms(service->params.loop));
    if (service->questions.num > 0)
        timer_start(service->params.loop, &service->expire, DISCOVERY_EXPIRE_MS,
                    discovery_on_expire, service);
}

err_t discovery_ask(struct discovery_service *service, struct workload *workload,
                    Mortise__V1__Question *msg, uint64_t timeout_ms, struct question *question)
{
    Mortise__V1__DiscoveryResponse response = MORTISE__V1__DISCOVERY_RESPONSE__INIT;
    err_t err;

    if (workload->stream == NULL)
        return FAIL(CLOSED, 0);
    if (!workload->answers)
        return FAIL(UNSUPPORTED, 0);
    TRY(questions_add(&service->questions, question, workload->stream,
                      loop_now_ms(service->params.loop) + timeout_ms));
    msg->id = question->id;
    response.question = msg;
    err = discovery_send(workload->stream, &response);
    if (!err_is_ok(err))
        questions_cancel(&service->questions, question);
    else if (!timer_is_on(&service->expire))
        timer_start(service->params.loop, &service->expire, DISCOVERY_EXPIRE_MS,
                    discovery_on_expire, service);
    return err;
}

void discovery_ask_no_more(struct discovery_service *service, struct question *question)
{
    questions_cancel(&service->questions, question);
}

/* A response that pushes and asks nothing: the sidecar says what time it is. */
static void discovery_ask_clock(struct discovery_stream *stream)
{
    Mortise__V1__DiscoveryResponse response = MORTISE__V1__DISCOVERY_RESPONSE__INIT;
    err_t err;

    /* One that reads nothing is found by what is pushed to it. */
    if (stream->workload == NULL || !stream->workload->answers ||
        grpc_call_queued(stream->call) > 0)
        return;
    err = discovery_send(stream, &response);
    if (!err_is_ok(err))
        log_debug("discovery", "clock_not_asked", LOG_ERR("error", err));
}

static void discovery_on_clocks(void *arg)
{
    struct discovery_service *service = arg;
    uint64_t now_ms = loop_now_ms(service->params.loop);

    for (size_t i = 0; i < DISCOVERY_CLOCKS_AT_ONCE && !list_empty(&service->streams); i++) {
        struct discovery_stream *stream =
            LIST_ITEM(service->streams.next, struct discovery_stream, link);

        if (now_ms - stream->clock_ms < DISCOVERY_CLOCK_EVERY_MS)
            break;
        stream->clock_ms = now_ms;
        list_del(&stream->link);
        list_add_tail(&service->streams, &stream->link);
        discovery_ask_clock(stream);
    }
    timer_start(service->params.loop, &service->clocks, DISCOVERY_CLOCKS_MS, discovery_on_clocks,
                service);
}

static void discovery_note(const struct discovery_stream *stream, const char *kind,
                           const char *detail, uint64_t version, uint64_t number)
{
    const struct workload *workload = stream->workload;

    events_add(stream->service->params.events,
               &(struct event){.kind = kind,
                               .subsystem = workload->subsystem,
                               .instance = workload->instance,
                               .id = workload->spiffe_id,
                               .detail = detail,
                               .version = version,
                               .number = number},
               discovery_now_ms());
}

static void discovery_tell_skew(struct discovery_stream *stream)
{
    const struct workload *workload = stream->workload;
    bool is_skewed = skew_beyond(&workload->skew, DISCOVERY_CLOCK_LIMIT_MS);
    char text[96];

    if (is_skewed == stream->is_skewed)
        return;
    stream->is_skewed = is_skewed;
    log_event(is_skewed ? LOG_WARN : LOG_INFO, "discovery",
              is_skewed ? "clock_skewed" : "clock_right_again",
              (const struct log_field[]){LOG_STR("id", workload->spiffe_id),
                                         LOG_STR("instance", workload->instance),
                                         LOG_INT("ahead_ms", workload->skew.ahead_ms),
                                         LOG_INT("error_ms", workload->skew.error_ms)},
              4);
    (void)snprintf(text, sizeof(text), "%" PRId64 " ms ahead, give or take %" PRId64 " ms",
                   workload->skew.ahead_ms, workload->skew.error_ms);
    discovery_note(stream, is_skewed ? "clock_skewed" : "clock_right_again", text, 0, 0);
    meters_add(stream->service->params.meters, METERS_SKEWED, is_skewed ? 1 : -1);
}

static int64_t discovery_ahead_ms(const struct discovery_stream *stream)
{
    return stream->workload->skew.known ? stream->workload->skew.ahead_ms : 0;
}

/* Each batch is answered: the sidecar waits for that. */
static void discovery_take_access_log(struct discovery_stream *stream,
                                      const Mortise__V1__AccessLogBatch *batch)
{
    struct discovery_service *service = stream->service;
    Mortise__V1__DiscoveryResponse response = MORTISE__V1__DISCOVERY_RESPONSE__INIT;
    Mortise__V1__AccessLogAck ack = MORTISE__V1__ACCESS_LOG_ACK__INIT;
    err_t err;

    if (batch == NULL || service->params.conn_log == NULL)
        return;
    conn_log_take(service->params.conn_log,
                  &(struct conn_log_from){
                      .subsystem = stream->workload->subsystem,
                      .id = stream->workload->spiffe_id,
                      .instance = stream->workload->instance,
                      .ahead_ms = discovery_ahead_ms(stream),
                      .now_ms = discovery_now_ms(),
                      .mono_ms = loop_now_ms(service->params.loop),
                      .mesh = registry_mesh(service->params.registry),
                  },
                  batch, &ack);
    response.access_log_ack = &ack;
    err = discovery_send(stream, &response);
    if (!err_is_ok(err) && !err_is(err, E_CLOSED))
        discovery_refuse(stream, err, "it sends and does not read");
}

static void discovery_hear(struct discovery_stream *stream,
                           const Mortise__V1__DiscoveryRequest *request)
{
    const Mortise__V1__Clock *clock = request->clock;
    struct discovery_service *service = stream->service;

    if (clock != NULL) {
        skew_heard(&stream->workload->skew,
                   &(struct skew_times){clock->now_ms, clock->heard_ms, clock->heard_at_ms},
                   discovery_now_ms());
        discovery_tell_skew(stream);
    }
    (void)failures_take(service->failures,
                        &(struct failures_from){
                            .subsystem = stream->workload->subsystem,
                            .instance = stream->workload->instance,
                            .ahead_ms = discovery_ahead_ms(stream),
                        },
                        request->failures, request->n_failures, discovery_now_ms());
    discovery_take_access_log(stream, request->access_log);
    if (request->answer != NULL)
        (void)questions_take(&stream->service->questions, stream, request->answer);
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
    questions_leave(&service->questions, stream);
    registry_leave(workload);
    grpc_call_finish(stream->call, GRPC_ABORTED, "replaced by a newer stream of this instance");
}

/* What operators see and type: no space, nothing that moves a cursor. */
static bool discovery_is_name(const char *text)
{
    for (size_t i = 0; text[i] != '\0'; i++) {
        if (i == DISCOVERY_TEXT_MAX || text[i] <= ' ' || text[i] > '~')
            return false;
    }
    return text[0] != '\0';
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

    *out_text = "node.instance is missing, longer than 128 bytes, or not of printable ASCII";
    if (node == NULL || !discovery_is_name(node->instance))
        return FAIL(SYNTAX, 0);
    *out_text = "node.build is longer than 128 bytes";
    if (strlen(node->build) > DISCOVERY_TEXT_MAX)
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
    stream->workload->answers = node->answers;
    if (request->seen != NULL) {
        stream->seen_until =
            history_until(registry_history(service->params.registry), request->seen->run);
        stream->workload->seen = MSG_AS(Mortise__V1__Point, mortise__v1__point__descriptor,
                                        pb_clone(&request->seen->base));
    }
    log_info("discovery", "connected", LOG_STR("id", join.spiffe_id),
             LOG_STR("instance", join.instance), LOG_STR("address", address),
             LOG_STR("build", join.build), LOG_UINT("version", request->version));
    return OK;
}

/* ------------------------------------------------------------------ requests */

/* How many live connections were ended by re-checks since the status before. */
static void discovery_note_ended(struct discovery_stream *stream,
                                 const Mortise__V1__SidecarStatus *status)
{
    const Mortise__V1__SidecarStatus *before = stream->workload->status;

    for (size_t i = 0; status != NULL && i < status->n_ended && i < REGISTRY_REASONS_MAX; i++) {
        const Mortise__V1__ReasonCount *count = status->ended[i];
        uint64_t told = 0;

        for (size_t j = 0; before != NULL && j < before->n_ended; j++) {
            if (strcmp(before->ended[j]->reason, count->reason) == 0)
                told = before->ended[j]->number;
        }
        if (before == NULL || count->number <= told)
            continue; /* another stream of it has told that */
        meters_ended(stream->service->params.meters, count->reason, count->number - told);
        discovery_note(stream, "connections_ended", count->reason, 0, count->number - told);
    }
}

static void discovery_note_answer(struct discovery_stream *stream, enum xds_request kind,
                                  const Mortise__V1__DiscoveryRequest *request)
{
    const struct workload *workload = stream->workload;
    struct meters *meters = stream->service->params.meters;
    const Mortise__V1__FieldFault *fault = NULL;
    char text[EVENTS_TEXT_MAX];

    if (kind != XDS_ACK && kind != XDS_NACK)
        return;
    meters_push_answered(meters, clock_mono_us() - stream->pushed_us);
    if (kind == XDS_ACK) {
        meters_answered(meters, METERS_ACKED);
        discovery_note(stream, "config_acked", NULL, request->version, 0);
        return;
    }
    meters_answered(meters, METERS_NACKED);
    meters_config_refused(meters, request->error->code);
    if (request->error->n_faults > 0)
        fault = request->error->faults[0];
    (void)snprintf(text, sizeof(text), "%s: %s%s%s", request->error->code,
                   fault != NULL ? fault->path : "", fault != NULL ? ": " : "",
                   fault != NULL ? fault->message : "");
    discovery_note(stream, "config_refused", text, workload->xds.sent_version, 0);
    log_warn("discovery", "config_refused", LOG_STR("id", workload->spiffe_id),
             LOG_STR("instance", workload->instance),
             LOG_UINT("version", workload->xds.sent_version), LOG_STR("code", request->error->code),
             LOG_STR("path", fault != NULL ? fault->path : NULL),
             LOG_STR("detail", fault != NULL ? fault->message : NULL),
             LOG_UINT("faults", request->error->n_faults));
}

/* A sidecar that has seen more than our store has tells what it keeps in force. */
static void discovery_note_rollback(struct discovery_stream *stream, enum xds_request kind,
                                    const Mortise__V1__DiscoveryRequest *request)
{
    bool rollback = kind == XDS_NACK && strcmp(request->error->code, "config_rollback") == 0;

    if (kind != XDS_ACK && kind != XDS_NACK)
        return;
    if (rollback && stream->workload->rollback == NULL)
        log_limited(LOG_ERROR, "discovery", "store_is_older",
                    (const struct log_field[]){LOG_STR("id", stream->workload->spiffe_id),
                                               LOG_STR("instance", stream->workload->instance),
                                               LOG_UINT("version_in_force", request->version),
                                               LOG_UINT("revocations_kept", request->kept_total)},
                    4);
    registry_note_rollback(stream->workload, rollback ? request : NULL);
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
    if (request->n_kept > DISCOVERY_KEPT_MAX) {
        discovery_refuse(stream, FAIL(SYNTAX, 0), "kept: more revocations than one message has");
        return;
    }
    discovery_note_rollback(stream, kind, request);
    discovery_hear(stream, request);
    if (kind == XDS_STATUS && request->status == NULL)
        return; /* an answer, or the time, and no more */
    discovery_note_answer(stream, kind, request);
    discovery_note_ended(stream, request->status);
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
    stream->clock_ms = loop_now_ms(service->params.loop);
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
    if (stream->workload != NULL)
        stream->workload->stream = NULL; /* first: who is told that it left asks it no more */
    questions_leave(&service->questions, stream);
    if (stream->is_skewed)
        meters_add(service->params.meters, METERS_SKEWED, -1);
    if (stream->workload != NULL) {
        log_info("discovery", "disconnected", LOG_STR("id", stream->workload->spiffe_id),
                 LOG_STR("instance", stream->workload->instance));
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
    questions_init(&service->questions);
    service->failures = failures_new();
    discovery_on_clocks(service);
    service->observer = (struct registry_observer){.fn = discovery_on_event, .arg = service};
    registry_observe(params->registry, &service->observer);
    return service;
}

void discovery_service_retry_rolled_back(struct discovery_service *service)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &service->streams) {
        struct discovery_stream *stream = LIST_ITEM(pos, struct discovery_stream, link);

        if (stream->workload != NULL && stream->workload->rollback != NULL)
            grpc_call_finish(stream->call, GRPC_ABORTED, "a new era of the store has begun");
    }
}

const struct failures *discovery_failures(const struct discovery_service *service)
{
    return service->failures;
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
    CHECK(service->questions.num == 0); /* they went with the streams */
    timer_stop(service->params.loop, &service->refresh);
    timer_stop(service->params.loop, &service->expire);
    timer_stop(service->params.loop, &service->clocks);
    registry_unobserve(service->params.registry, &service->observer);
    failures_free(service->failures);
    mem_free(service);
}
