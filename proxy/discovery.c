#include "proxy/discovery.h"

#include <stdio.h>

#include "lib/base/backoff.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/base/version.h"

#define DISCOVERY_PATH "/mortise.v1.DiscoveryService/Stream"
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
    if (faults->total == 0 && response->version < state->version) {
        code = "config_rollback";
        faults_add(faults, "version", "%llu is older than %llu, which is in force",
                   (unsigned long long)response->version, (unsigned long long)state->version);
    }
    if (faults->total == 0 && err_is_ok(apply(arg, response, faults))) {
        state->version = response->version;
        code = NULL;
    }
    return (struct discovery_answer){.version = state->version, .code = code};
}

/* ---- sending ---- */

static void discovery_restart(struct discovery *discovery, err_t err);

static void discovery_send(struct discovery *discovery,
                           const Mortise__V1__DiscoveryRequest *request)
{
    err_t err = grpc_stream_send(discovery->stream->call, &request->base);

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
    char build[] = MORTISE_VERSION;

    node.instance = discovery->instance;
    node.build = build;
    node.advertise = discovery->advertise;
    discovery->params.status(discovery->params.arg, &status);
    request.node = &node;
    request.version = discovery->state.version;
    request.status = &status;
    discovery_send(discovery, &request);
}

void discovery_send_status(struct discovery *discovery)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;

    if (discovery->stream == NULL || !discovery->connected)
        return; /* the first request of the next stream has it */
    discovery->params.status(discovery->params.arg, &status);
    request.version = discovery->state.version;
    request.status = &status;
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

    if (stream == stream->discovery->stream)
        discovery_set_connected(stream->discovery, true);
}

static void discovery_on_message(void *arg, const ProtobufCMessage *msg)
{
    struct discovery_stream *stream = arg;
    struct discovery *discovery = stream->discovery;
    const Mortise__V1__DiscoveryResponse *response =
        (const Mortise__V1__DiscoveryResponse *)(const void *)msg;
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct discovery_answer answer;

    if (stream != discovery->stream)
        return; /* the old one: whatever it says comes again on the new one */
    backoff_reset(&discovery->backoff);
    discovery->told = E_OK;
    discovery_drop(&discovery->old);
    answer = discovery_answer(&discovery->state, response, discovery->params.apply,
                              discovery->params.arg, &faults);
    discovery_send_answer(discovery, response, answer, &faults);
    if (response->certificate_epoch > 0)
        discovery->params.on_epoch(discovery->params.arg, response->certificate_epoch,
                                   response->renew_spread_ms);
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

bool discovery_is_connected(const struct discovery *discovery)
{
    return discovery->connected;
}
