#include "proxy/discovery.h"

#include <stdio.h>
#include <string.h>

#include "certs/revoke.h"
#include "lib/base/backoff.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/base/version.h"

#define DISCOVERY_PATH "/mortise.v1.DiscoveryService/Stream"
#define DISCOVERY_KEPT_MAX 1024
#define DISCOVERY_KEPT_BYTES 49152 /* of the 64 KiB that a request may have */
#define DISCOVERY_KEPT_HEAD 6      /* of each one in a message */
#define DISCOVERY_BACKOFF_BASE_MS 100
#define DISCOVERY_BACKOFF_MAX_MS 15000

/* One stream. Two live at once only while a new one takes over. */
struct discovery_stream {
    struct discovery *discovery;
    struct grpc_client_call *call;
};

struct discovery {
    struct discovery_params params;
    struct discovery_state state;
    struct skew skew;                /* of the control plane's clock */
    struct discovery_stream *stream; /* the one in use; NULL: waiting to open one */
    struct discovery_stream *old; /* until the new one speaks, or it was told that it is replaced */
    struct timer timer;
    struct backoff backoff;
    bool connected; /* `stream` is on a connection */
    enum err_code told;
    char *instance, *advertise;
};

static void discovery_open(void *arg);

/* ---- judging ---- */

/* Whether the store that the response comes from lacks something that we have seen. */
static bool discovery_is_rollback(const struct discovery_state *state,
                                  const Mortise__V1__DiscoveryResponse *response)
{
    const struct discovery_point *seen = &state->seen;
    const Mortise__V1__Point *point = response->point;

    if (seen->run == 0 || point == NULL || point->run == 0)
        return seen->run != 0 || response->version < state->version;
    if (point->era != seen->era)
        return point->era < seen->era;
    if (point->run == seen->run)
        return point->revision < seen->revision || response->version < state->version;
    return response->seen_until < seen->revision;
}

static void discovery_note(struct discovery_state *state,
                           const Mortise__V1__DiscoveryResponse *response)
{
    const Mortise__V1__Point *point = response->point;

    state->version = response->version;
    if (point != NULL)
        state->seen = (struct discovery_point){point->era, point->run, point->revision};
}

struct discovery_answer
discovery_answer(struct discovery_state *state, const Mortise__V1__DiscoveryResponse *response,
                 err_t (*apply)(void *arg, const Mortise__V1__DiscoveryResponse *, struct faults *),
                 void *arg, struct faults *faults)
{
    const char *code = "config_invalid";

    if (response->version == 0)
        faults_add(faults, "version", "is missing");
    if (response->nonce[0] == '\0')
        faults_add(faults, "nonce", "is missing");
    if (response->config == NULL)
        faults_add(faults, "config", "is missing");
    if (faults->total == 0 && discovery_is_rollback(state, response)) {
        code = "config_rollback";
        faults_add(faults, "version",
                   "%llu comes from a store that lacks what %llu, which is in force, was made of: "
                   "an older copy (mortisectl accept-restore)",
                   (unsigned long long)response->version, (unsigned long long)state->version);
    }
    if (faults->total == 0 && err_is_ok(apply(arg, response, faults))) {
        discovery_note(state, response);
        code = NULL;
    }
    return (struct discovery_answer){.version = state->version, .code = code};
}

static char *discovery_subject(const Mortise__V1__Revocation *revocation)
{
    struct revoke_subject subject = revoke_subject(revocation);

    return mem_printf("%s %s", subject.kind, subject.value);
}

size_t discovery_kept(const Mortise__V1__SidecarConfig *in_force,
                      const Mortise__V1__SidecarConfig *offered, size_t max, size_t max_bytes,
                      Mortise__V1__Revocation **out, size_t *out_num)
{
    struct map known = {0};
    size_t total = 0;

    *out_num = 0;
    for (size_t i = 0; i < offered->n_revocations; i++) {
        CLEANUP(mem_freep) char *subject = discovery_subject(offered->revocations[i]);

        map_put(&known, subject, offered->revocations[i]);
    }
    for (size_t i = 0; in_force != NULL && i < in_force->n_revocations; i++) {
        Mortise__V1__Revocation *revocation = in_force->revocations[i];
        CLEANUP(mem_freep) char *subject = discovery_subject(revocation);
        size_t bytes = protobuf_c_message_get_packed_size(&revocation->base) + DISCOVERY_KEPT_HEAD;

        if (map_get(&known, subject) != NULL)
            continue;
        total++;
        if (*out_num == max || bytes > max_bytes)
            continue;
        max_bytes -= bytes;
        out[(*out_num)++] = revocation;
    }
    map_fini(&known);
    return total;
}

/* ---- sending ---- */

static void discovery_restart(struct discovery *discovery, err_t err);

static int64_t discovery_now_ms(void)
{
    return clock_wall_us() / 1000;
}

static void discovery_send(struct discovery *discovery,
                           const Mortise__V1__DiscoveryRequest *request)
{
    struct skew_times times = skew_times(&discovery->skew, discovery_now_ms());
    Mortise__V1__DiscoveryRequest whole = *request;
    Mortise__V1__Clock clock = MORTISE__V1__CLOCK__INIT;
    err_t err;

    clock.now_ms = times.now_ms;
    clock.heard_ms = times.heard_ms;
    clock.heard_at_ms = times.heard_at_ms;
    whole.clock = &clock;
    err = grpc_stream_send(discovery->stream->call, &whole.base);
    if (err_is_ok(err) || err_is(err, E_CLOSED)) /* closed: on_done comes */
        return;
    /* The control plane does not read: this stream is of no use. */
    grpc_client_cancel(discovery->stream->call);
    mem_free(discovery->stream);
    discovery->stream = NULL;
    discovery_restart(discovery, err);
}

static void discovery_send_first(struct discovery *discovery)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;
    Mortise__V1__Node node = MORTISE__V1__NODE__INIT;
    Mortise__V1__Point seen = MORTISE__V1__POINT__INIT;
    char build[] = MORTISE_VERSION;

    discovery->skew.heard_ms = 0; /* it may be another control plane's clock */
    node.instance = discovery->instance;
    node.build = build;
    node.advertise = discovery->advertise;
    node.answers = true;
    discovery->params.status(discovery->params.arg, &status);
    request.node = &node;
    seen.era = discovery->state.seen.era;
    seen.run = discovery->state.seen.run;
    seen.revision = discovery->state.seen.revision;
    if (seen.run != 0)
        request.seen = &seen;
    request.version = discovery->state.version;
    request.status = &status;
    discovery_send(discovery, &request);
}

static bool discovery_can_send(const struct discovery *discovery)
{
    return discovery->stream != NULL && discovery->connected;
}

void discovery_send_status(struct discovery *discovery)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;

    if (!discovery_can_send(discovery))
        return; /* the first request of the next stream has it */
    discovery->params.status(discovery->params.arg, &status);
    request.version = discovery->state.version;
    request.status = &status;
    discovery_send(discovery, &request);
}

void discovery_send_answer_part(struct discovery *discovery, const Mortise__V1__Answer *answer)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;

    if (!discovery_can_send(discovery))
        return; /* who asked has gone, too */
    request.version = discovery->state.version;
    request.answer = (Mortise__V1__Answer *)(uintptr_t)answer; /* read only */
    discovery_send(discovery, &request);
}

bool discovery_send_failures(struct discovery *discovery, Mortise__V1__FailedConnection **list,
                             size_t num)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;

    if (!discovery_can_send(discovery))
        return false;
    request.version = discovery->state.version;
    request.failures = list;
    request.n_failures = num;
    discovery_send(discovery, &request);
    return true;
}

bool discovery_send_access_log(struct discovery *discovery, Mortise__V1__AccessLogBatch *batch)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;

    if (!discovery_can_send(discovery))
        return false;
    request.version = discovery->state.version;
    request.access_log = batch;
    discovery_send(discovery, &request);
    return true;
}

/* Only the time was asked for. */
static void discovery_send_clock(struct discovery *discovery)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;

    request.version = discovery->state.version;
    discovery_send(discovery, &request);
}

/* ACK or NACK, with the status as it is after it. */
static void discovery_send_answer(struct discovery *discovery,
                                  const Mortise__V1__DiscoveryResponse *response,
                                  struct discovery_answer answer, const struct faults *faults)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;
    Mortise__V1__ErrorDetail error = MORTISE__V1__ERROR_DETAIL__INIT;
    Mortise__V1__FieldFault fault[FAULTS_MAX], *list[FAULTS_MAX];
    Mortise__V1__Revocation *kept[DISCOVERY_KEPT_MAX];
    char code[64];

    discovery->params.status(discovery->params.arg, &status);
    request.version = answer.version;
    request.nonce = response->nonce;
    request.status = &status;
    if (answer.code != NULL) {
        (void)snprintf(code, sizeof(code), "%s", answer.code);
        error.code = code;
        for (size_t i = 0; i < faults->num; i++) {
            mortise__v1__field_fault__init(&fault[i]);
            fault[i].path = faults->items[i].path;
            fault[i].message = faults->items[i].message;
            list[i] = &fault[i];
        }
        error.faults = list;
        error.n_faults = faults->num;
        request.error = &error;
        if (strcmp(answer.code, "config_rollback") == 0) {
            request.kept = kept;
            request.kept_total = (uint32_t)discovery_kept(
                discovery->params.in_force(discovery->params.arg), response->config,
                DISCOVERY_KEPT_MAX, DISCOVERY_KEPT_BYTES, kept, &request.n_kept);
        }
    }
    discovery_send(discovery, &request);
}

/* ---- receiving ---- */

static void discovery_set_connected(struct discovery *discovery, bool connected)
{
    discovery->connected = connected;
    stats_set(discovery->params.stats, STAT_CONTROL_CONNECTED, connected);
}

static void discovery_drop(struct discovery_stream **stream)
{
    if (*stream == NULL)
        return;
    grpc_client_cancel((*stream)->call);
    mem_free(*stream);
    *stream = NULL;
}

static void discovery_on_open(void *arg)
{
    struct discovery_stream *stream = arg;

    if (stream == stream->discovery->stream) {
        discovery_set_connected(stream->discovery, true);
        stream->discovery->params.on_open(stream->discovery->params.arg);
    }
}

static void discovery_hear_clock(struct discovery *discovery,
                                 const Mortise__V1__DiscoveryResponse *response)
{
    const Mortise__V1__Clock *clock = response->clock;

    if (clock == NULL)
        return;
    skew_heard(&discovery->skew,
               &(struct skew_times){clock->now_ms, clock->heard_ms, clock->heard_at_ms},
               discovery_now_ms());
    if (!discovery->skew.known)
        return;
    /* Theirs ahead of ours is ours behind theirs. */
    stats_set(discovery->params.stats, STAT_CLOCK_SKEW, -discovery->skew.ahead_ms);
    stats_set(discovery->params.stats, STAT_CLOCK_ERROR, discovery->skew.error_ms);
}

/* Pushes nothing. */
static bool discovery_is_question(const Mortise__V1__DiscoveryResponse *response)
{
    return response->nonce[0] == '\0' && response->version == 0 && response->config == NULL &&
           (response->question != NULL || response->clock != NULL ||
            response->access_log_ack != NULL);
}

static void discovery_push(struct discovery *discovery,
                           const Mortise__V1__DiscoveryResponse *response)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct discovery_answer answer;

    answer = discovery_answer(&discovery->state, response, discovery->params.apply,
                              discovery->params.arg, &faults);
    discovery_send_answer(discovery, response, answer, &faults);
    if (response->certificate_epoch > 0)
        discovery->params.on_epoch(discovery->params.arg, response->certificate_epoch,
                                   response->renew_spread_ms);
}

static void discovery_on_message(void *arg, const ProtobufCMessage *msg)
{
    struct discovery_stream *stream = arg;
    struct discovery *discovery = stream->discovery;
    const Mortise__V1__DiscoveryResponse *response =
        (const Mortise__V1__DiscoveryResponse *)(const void *)msg;

    if (stream != discovery->stream)
        return; /* the old one: whatever it says comes again on the new one */
    backoff_reset(&discovery->backoff);
    discovery->told = E_OK;
    discovery_drop(&discovery->old);
    discovery_hear_clock(discovery, response);
    if (!discovery_is_question(response))
        discovery_push(discovery, response);
    else if (response->question != NULL)
        discovery->params.on_question(discovery->params.arg, response->question);
    else if (response->access_log_ack != NULL)
        discovery->params.on_access_ack(discovery->params.arg, response->access_log_ack->number,
                                        response->access_log_ack->wait_ms);
    else
        discovery_send_clock(discovery);
}

static void discovery_restart(struct discovery *discovery, err_t err)
{
    uint32_t delay_ms = backoff_next(&discovery->backoff, random_u32());

    discovery_set_connected(discovery, false);
    if (discovery->told != err.code)
        log_warn("discovery", "stream_ended", LOG_ERR("error", err),
                 LOG_UINT("retry_ms", delay_ms));
    discovery->told = err.code;
    timer_start(discovery->params.loop, &discovery->timer, delay_ms, discovery_open, discovery);
}

static void discovery_on_done(void *arg, const struct grpc_result *result)
{
    struct discovery_stream *stream = arg;
    struct discovery *discovery = stream->discovery;

    if (stream == discovery->old) {
        discovery->old = NULL;
        mem_free(stream);
        return;
    }
    discovery->stream = NULL;
    mem_free(stream);
    if (result->status != GRPC_OK && result->status != GRPC_UNAVAILABLE)
        log_warn("discovery", "refused", LOG_STR("status", grpc_status_name(result->status)),
                 LOG_STR("message", result->message));
    discovery_restart(discovery, err_is_ok(result->err) ? FAIL(CLOSED, 0) : result->err);
}

static const struct grpc_stream_events discovery_events = {
    .on_open = discovery_on_open,
    .on_message = discovery_on_message,
    .on_done = discovery_on_done,
};

/* ---- life cycle ---- */

static void discovery_open(void *arg)
{
    struct discovery *discovery = arg;
    struct discovery_stream *stream = mem_zalloc(sizeof(*stream));

    stream->discovery = discovery;
    discovery->stream = stream;
    stream->call = grpc_stream_open(uplink_channel(discovery->params.uplink), DISCOVERY_PATH,
                                    &mortise__v1__discovery_response__descriptor,
                                    DISCOVERY_MESSAGE_MAX, 0, &discovery_events, stream);
    discovery_send_first(discovery);
}

struct discovery *discovery_new(const struct discovery_params *params)
{
    struct discovery *discovery = mem_zalloc(sizeof(*discovery));

    discovery->params = *params;
    discovery->state = params->state;
    discovery->instance = mem_strdup(params->instance);
    discovery->advertise = mem_strdup(params->advertise);
    discovery->backoff =
        (struct backoff){.base_ms = DISCOVERY_BACKOFF_BASE_MS, .max_ms = DISCOVERY_BACKOFF_MAX_MS};
    return discovery;
}

void discovery_start(struct discovery *discovery)
{
    discovery_open(discovery);
}

void discovery_reopen(struct discovery *discovery)
{
    if (discovery->stream == NULL)
        return; /* the timer will */
    discovery_drop(&discovery->old);
    discovery->old = discovery->stream;
    discovery_set_connected(discovery, false);
    discovery_open(discovery);
}

void discovery_free(struct discovery *discovery)
{
    timer_stop(discovery->params.loop, &discovery->timer);
    discovery_drop(&discovery->stream);
    discovery_drop(&discovery->old);
    mem_free(discovery->instance);
    mem_free(discovery->advertise);
    mem_free(discovery);
}

struct skew discovery_skew(const struct discovery *discovery)
{
    return discovery->skew;
}

bool discovery_is_connected(const struct discovery *discovery)
{
    return discovery->connected;
}

struct discovery_point discovery_seen(const struct discovery *discovery)
{
    return discovery->state.seen;
}
