#include "test/bench/fleet/sidecar.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/base/version.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proto/mesh/identity.pb-c.h"

#define SIDECAR_STREAM_PATH "/mortise.v1.DiscoveryService/Stream"
#define SIDECAR_ATTEST_PATH "/mortise.v1.IdentityService/Attest"
#define SIDECAR_RENEW_PATH "/mortise.v1.IdentityService/Renew"

/* Those of proxy/identity.c and proxy/discovery.c. */
#define SIDECAR_CALL_MS 15000
#define SIDECAR_MOVE_MS 30000 /* until it shows its new certificate, by chance */
#define SIDECAR_MESSAGE_MAX ((size_t)4 << 20)
#define SIDECAR_IDENTITY_BACKOFF_BASE_MS 500
#define SIDECAR_IDENTITY_BACKOFF_MAX_MS 60000
#define SIDECAR_STREAM_BACKOFF_BASE_MS 100
#define SIDECAR_STREAM_BACKOFF_MAX_MS 15000

/* Joining is let in at a rate that the control plane sets; longer delays would only leave it idle
 * between. */
#define SIDECAR_JOIN_BACKOFF_MAX_MS 1000

/* Two live at once only while a new one takes over. */
struct sidecar_stream {
    struct sidecar *sidecar;
    struct grpc_client_call *call;
    bool spoke; /* a response came on it */
};

static void sidecar_ask(void *arg);
static void sidecar_open(void *arg);

/* ---- the channel ---- */

static SSL_CTX *sidecar_tls(void *arg)
{
    struct sidecar *sidecar = arg;
    CLEANUP(tls_ctx_unrefp) struct tls_ctx *tls = NULL;
    SSL_CTX *ssl;
    err_t err = tls_ctx_client(sidecar->svid, sidecar->world->roots, sidecar->world->profile, &tls);

    if (err_is_ok(err))
        err = tls_ctx_set_alpn(tls, "h2");
    CHECK(err_is_ok(err)); /* all that goes into it is ours */
    ssl = tls_ctx_ssl(tls);
    SSL_CTX_up_ref(ssl);
    return ssl;
}

static err_t sidecar_authorize(void *arg, int entry, const struct peer *peer)
{
    const struct sidecar *sidecar = arg;

    (void)entry;
    return strcmp(peer->spiffe_id, sidecar->world->control_id) == 0 ? OK : FAIL(PEER_IDENTITY, 0);
}

static void sidecar_drop_check(struct sidecar *sidecar)
{
    if (sidecar->checking)
        tls_check_fini(&sidecar->check);
    sidecar->checking = false;
}

static void sidecar_configure(void *arg, SSL *ssl)
{
    struct sidecar *sidecar = arg;

    sidecar_drop_check(sidecar);
    sidecar->checking = true;
    tls_check_init(&sidecar->check, loop_clock(sidecar->world->loop), sidecar->world->cache);
    sidecar->check.authorize = sidecar_authorize;
    sidecar->check.arg = sidecar;
    tls_check_attach(&sidecar->check, ssl);
}

static err_t sidecar_handshake_done(void *arg, SSL *ssl, err_t err)
{
    struct sidecar *sidecar = arg;

    if (!sidecar->checking)
        return err_is_ok(err) ? FAIL(BUG, 0) : err;
    if (!err_is_ok(sidecar->check.err))
        err = sidecar->check.err;
    if (err_is_ok(err))
        err = tls_check_finish(&sidecar->check, ssl);
    sidecar_drop_check(sidecar);
    return err;
}

static void sidecar_failed(struct sidecar *sidecar, const char *what, const char *reason)
{
    sidecar->world->on_failure(sidecar->world->arg, what, reason);
}

static void sidecar_tell(struct sidecar *sidecar, enum sidecar_event event)
{
    sidecar->world->on_event(sidecar->world->arg, sidecar->index, event);
}

static void sidecar_on_state(void *arg, bool connected, err_t err, uint32_t retry_ms)
{
    struct sidecar *sidecar = arg;

    (void)retry_ms;
    if (!connected) /* what was open and is lost is no attempt that failed */
        sidecar_failed(sidecar, sidecar->linked ? "lost" : "connection", err_name(err.code));
    sidecar->linked = connected;
}

static void sidecar_open_channel(struct sidecar *sidecar)
{
    const struct grpc_channel_params params = {
        .target = sidecar->world->target,
        .tls = sidecar_tls,
        .configure = sidecar_configure,
        .handshake_done = sidecar_handshake_done,
        .on_state = sidecar_on_state,
        .arg = sidecar,
    };

    if (sidecar->channel == NULL)
        sidecar->channel = grpc_channel_new(sidecar->world->loop, &params);
}

static void sidecar_close_channel(struct sidecar *sidecar)
{
    if (sidecar->channel != NULL)
        grpc_channel_close(sidecar->channel);
    sidecar->channel = NULL;
    sidecar->linked = false;
    sidecar_drop_check(sidecar);
}

/* ---- identity ---- */

static const struct shared_key *sidecar_key(const struct sidecar *sidecar)
{
    const struct sidecar_world *world = sidecar->world;
    unsigned next = sidecar->turn + 1;

    return &world->keys[sidecar->index % world->num_keys + (next % 2) * world->num_keys];
}

static void sidecar_wait_identity(struct sidecar *sidecar, uint64_t ms)
{
    timer_start(sidecar->world->loop, &sidecar->identity_timer, ms, sidecar_ask, sidecar);
}

static void sidecar_retry_identity(struct sidecar *sidecar, const char *reason)
{
    uint32_t ms = backoff_next(&sidecar->identity_backoff, random_u32());

    sidecar_failed(sidecar, sidecar->svid == NULL ? "attest" : "renew", reason);
    sidecar_wait_identity(sidecar, ms);
}

/* The chain and the identity, as proxy/identity.c judges them. That the chain leads to the root is
 * left out: at 10,000 it would cost the load more than all it does for the network. */
static err_t sidecar_judge(struct sidecar *sidecar,
                           const Mortise__V1__CertificateResponse *response, struct svid **out)
{
    const struct shared_key *key = sidecar_key(sidecar);
    struct bytes chain[SVID_CHAIN_MAX];
    struct svid *svid;

    if (response->n_chain > SVID_CHAIN_MAX)
        return FAIL(CHAIN_TOO_LONG, response->n_chain);
    for (size_t i = 0; i < response->n_chain; i++)
        chain[i] = bytes_of(response->chain[i].data, response->chain[i].len);
    TRY(svid_of_der(chain, response->n_chain, key->key, NULL,
                    clock_wall_s(loop_clock(sidecar->world->loop)), &svid));
    if (strcmp(svid->spiffe_id, response->spiffe_id) != 0 ||
        (sidecar->svid != NULL && strcmp(svid->spiffe_id, sidecar->svid->spiffe_id) != 0) ||
        (sidecar->svid != NULL && strcmp(svid->serial, sidecar->svid->serial) == 0)) {
        svid_unref(svid);
        return FAIL(PEER_IDENTITY, 0);
    }
    *out = svid;
    return OK;
}

static void sidecar_send_status(struct sidecar *sidecar);
static void sidecar_reopen(struct sidecar *sidecar);

static void sidecar_move(void *arg)
{
    struct sidecar *sidecar = arg;

    sidecar->linked = false;
    grpc_channel_reconnect(sidecar->channel);
    sidecar_reopen(sidecar);
}

static void sidecar_take(struct sidecar *sidecar, struct svid *svid, uint64_t epoch)
{
    bool joined = sidecar->svid == NULL;

    if (!joined)
        svid_unref(sidecar->svid);
    sidecar->svid = svid;
    sidecar->epoch = epoch;
    sidecar->turn++;
    sidecar->generation++;
    backoff_reset(&sidecar->identity_backoff);
    if (joined) {
        mem_free(sidecar->token);
        sidecar->token = NULL;
        sidecar_close_channel(sidecar);
        sidecar_tell(sidecar, SIDECAR_JOINED);
        return;
    }
    sidecar_tell(sidecar, SIDECAR_ISSUED);
    if (sidecar->wanted_epoch > epoch)
        sidecar_wait_identity(sidecar, SIDECAR_IDENTITY_BACKOFF_BASE_MS);
    /* The stream in use tells it; later one under the new certificate takes over. */
    sidecar_send_status(sidecar);
    if (!timer_is_on(&sidecar->move_timer))
        timer_start(sidecar->world->loop, &sidecar->move_timer,
                    SIDECAR_MOVE_MS / 4 + random_u32() % (SIDECAR_MOVE_MS * 3 / 4), sidecar_move,
                    sidecar);
}

static void sidecar_on_certificate(void *arg, const struct grpc_result *result,
                                   const ProtobufCMessage *reply)
{
    const Mortise__V1__CertificateResponse *response =
        (const Mortise__V1__CertificateResponse *)(const void *)reply;
    struct sidecar *sidecar = arg;
    struct svid *svid;
    err_t err;

    sidecar->call = NULL;
    if (result->status != GRPC_OK) {
        sidecar_retry_identity(sidecar, grpc_status_name(result->status));
        return;
    }
    err = sidecar_judge(sidecar, response, &svid);
    if (err_is_ok(err))
        sidecar_take(sidecar, svid, response->certificate_epoch);
    else
        sidecar_retry_identity(sidecar, err_name(err.code));
}

static void sidecar_attest(struct sidecar *sidecar)
{
    const struct shared_key *key = sidecar_key(sidecar);
    Mortise__V1__AttestRequest request = MORTISE__V1__ATTEST_REQUEST__INIT;

    request.credential_case = MORTISE__V1__ATTEST_REQUEST__CREDENTIAL_JOIN_TOKEN;
    request.join_token = sidecar->token;
    request.csr.data = key->csr;
    request.csr.len = key->csr_len;
    sidecar->call = grpc_unary(sidecar->channel, SIDECAR_ATTEST_PATH, &request.base,
                               &mortise__v1__certificate_response__descriptor, SIDECAR_CALL_MS,
                               sidecar_on_certificate, sidecar);
}

static void sidecar_renew(struct sidecar *sidecar)
{
    const struct shared_key *key = sidecar_key(sidecar);
    Mortise__V1__RenewRequest request = MORTISE__V1__RENEW_REQUEST__INIT;

    request.csr.data = key->csr;
    request.csr.len = key->csr_len;
    request.certificate_epoch = sidecar->wanted_epoch;
    sidecar->call = grpc_unary(sidecar->channel, SIDECAR_RENEW_PATH, &request.base,
                               &mortise__v1__certificate_response__descriptor, SIDECAR_CALL_MS,
                               sidecar_on_certificate, sidecar);
}

static void sidecar_ask(void *arg)
{
    struct sidecar *sidecar = arg;

    if (sidecar->svid == NULL)
        sidecar_attest(sidecar);
    else
        sidecar_renew(sidecar);
}

static void sidecar_on_epoch(struct sidecar *sidecar, uint64_t epoch, uint32_t spread_ms)
{
    if (epoch <= sidecar->wanted_epoch || epoch <= sidecar->epoch)
        return;
    sidecar->wanted_epoch = epoch;
    if (sidecar->call == NULL && !timer_is_on(&sidecar->identity_timer))
        sidecar_wait_identity(sidecar, spread_ms > 0 ? random_u32() % spread_ms : 0);
}

/* ---- discovery ---- */

static void sidecar_drop_stream(struct sidecar_stream **stream)
{
    if (*stream == NULL)
        return;
    grpc_client_cancel((*stream)->call);
    mem_free(*stream);
    *stream = NULL;
}

static void sidecar_wait_stream(struct sidecar *sidecar, const char *reason)
{
    uint32_t ms = backoff_next(&sidecar->stream_backoff, random_u32());
    bool was_up = sidecar->up;

    sidecar->up = false;
    timer_start(sidecar->world->loop, &sidecar->stream_timer, ms, sidecar_open, sidecar);
    if (was_up)
        sidecar_tell(sidecar, SIDECAR_DOWN);
    else
        sidecar_failed(sidecar, "stream", reason);
}

static void sidecar_send(struct sidecar *sidecar, const Mortise__V1__DiscoveryRequest *request)
{
    err_t err = grpc_stream_send(sidecar->stream->call, &request->base);

    if (err_is_ok(err) || err_is(err, E_CLOSED)) /* closed: on_done comes */
        return;
    sidecar_drop_stream(&sidecar->stream);
    sidecar_wait_stream(sidecar, err_name(err.code));
}

/* A request with our status. Empty nonce: it answers nothing. */
static void sidecar_request(struct sidecar *sidecar, Mortise__V1__Node *node, const char *nonce)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;
    CLEANUP(mem_freep) char *copy = mem_strdup(nonce);

    status.ready = sidecar->version > 0;
    status.generation = sidecar->generation;
    status.certificate_serial = sidecar->svid->serial;
    status.certificate_not_after = sidecar->svid->not_after;
    status.certificate_epoch = sidecar->epoch;
    request.node = node;
    request.version = sidecar->version;
    request.nonce = copy;
    request.status = &status;
    sidecar_send(sidecar, &request);
}

static void sidecar_send_status(struct sidecar *sidecar)
{
    if (sidecar->stream != NULL && sidecar->up)
        sidecar_request(sidecar, NULL, "");
}

/* Asked for its live connections it has none; asked for the time it says it, as in
 * proxy/discovery.c. */
static void sidecar_answer(struct sidecar *sidecar, const Mortise__V1__DiscoveryResponse *asked)
{
    Mortise__V1__DiscoveryRequest request = MORTISE__V1__DISCOVERY_REQUEST__INIT;
    Mortise__V1__Answer answer = MORTISE__V1__ANSWER__INIT;
    Mortise__V1__Clock clock = MORTISE__V1__CLOCK__INIT;

    clock.now_ms = clock.heard_at_ms = clock_wall_us() / 1000;
    if (asked->clock != NULL)
        clock.heard_ms = asked->clock->now_ms;
    request.clock = &clock;
    if (asked->question != NULL) {
        answer.id = asked->question->id;
        request.answer = &answer;
    }
    sidecar_send(sidecar, &request);
}

static void sidecar_on_message(void *arg, const ProtobufCMessage *msg)
{
    struct sidecar_stream *stream = arg;
    struct sidecar *sidecar = stream->sidecar;
    const Mortise__V1__DiscoveryResponse *response =
        (const Mortise__V1__DiscoveryResponse *)(const void *)msg;
    bool newer = response->version > sidecar->version;
    bool first;

    if (stream != sidecar->stream)
        return; /* the old one: whatever it says comes again on the new one */
    backoff_reset(&sidecar->stream_backoff);
    sidecar_drop_stream(&sidecar->old);
    if (response->nonce[0] == '\0' && response->config == NULL) { /* pushes nothing */
        sidecar_answer(sidecar, response);
        return;
    }
    first = !stream->spoke;
    stream->spoke = true;
    if (response->version < sidecar->version || response->config == NULL) {
        sidecar_failed(sidecar, "response", "config_rollback");
        return;
    }
    sidecar->version = response->version;
    sidecar->generation += newer;
    sidecar_request(sidecar, NULL, response->nonce);
    if (sidecar->stream != stream)
        return; /* could not be sent */
    if (newer)
        sidecar_tell(sidecar, SIDECAR_ACKED);
    if (first) {
        sidecar->up = true;
        sidecar_tell(sidecar, SIDECAR_UP);
    }
    sidecar_on_epoch(sidecar, response->certificate_epoch, response->renew_spread_ms);
}

static void sidecar_on_done(void *arg, const struct grpc_result *result)
{
    struct sidecar_stream *stream = arg;
    struct sidecar *sidecar = stream->sidecar;

    if (stream == sidecar->old) {
        sidecar->old = NULL;
        mem_free(stream);
        return;
    }
    sidecar->stream = NULL;
    mem_free(stream);
    sidecar_wait_stream(sidecar, grpc_status_name(result->status));
}

static void sidecar_open(void *arg)
{
    static const struct grpc_stream_events events = {
        .on_message = sidecar_on_message,
        .on_done = sidecar_on_done,
    };
    struct sidecar *sidecar = arg;
    struct sidecar_stream *stream = mem_zalloc(sizeof(*stream));
    Mortise__V1__Node node = MORTISE__V1__NODE__INIT;
    char build[] = MORTISE_VERSION;

    stream->sidecar = sidecar;
    sidecar->stream = stream;
    stream->call = grpc_stream_open(sidecar->channel, SIDECAR_STREAM_PATH,
                                    &mortise__v1__discovery_response__descriptor,
                                    SIDECAR_MESSAGE_MAX, 0, &events, stream);
    node.instance = sidecar->instance;
    node.build = build;
    node.advertise = sidecar->advertise;
    node.answers = true;
    sidecar_request(sidecar, &node, "");
}

static void sidecar_reopen(struct sidecar *sidecar)
{
    if (sidecar->stream == NULL)
        return; /* the timer will */
    sidecar_drop_stream(&sidecar->old);
    sidecar->old = sidecar->stream;
    sidecar->up = false;
    sidecar_open(sidecar);
}

/* ---- whole ---- */

void sidecar_init(struct sidecar *sidecar, const struct sidecar_world *world, unsigned index)
{
    *sidecar = (struct sidecar){
        .world = world,
        .index = index,
        .identity_backoff = {.base_ms = SIDECAR_IDENTITY_BACKOFF_BASE_MS,
                             .max_ms = SIDECAR_JOIN_BACKOFF_MAX_MS},
        .stream_backoff = {.base_ms = SIDECAR_STREAM_BACKOFF_BASE_MS,
                           .max_ms = SIDECAR_STREAM_BACKOFF_MAX_MS},
    };
    (void)snprintf(sidecar->instance, sizeof(sidecar->instance), "fleet-%u", index);
    /* Nobody connects to it; each has its own, as in a cluster. */
    (void)snprintf(sidecar->advertise, sizeof(sidecar->advertise), "10.%u.%u.%u:15443",
                   index / 62500U, index / 250U % 250U, index % 250U + 1);
}

void sidecar_join(struct sidecar *sidecar, char *token)
{
    sidecar->token = token;
    sidecar_open_channel(sidecar);
    sidecar_ask(sidecar);
}

void sidecar_connect(struct sidecar *sidecar)
{
    CHECK(sidecar->svid != NULL);
    sidecar->identity_backoff.max_ms = SIDECAR_IDENTITY_BACKOFF_MAX_MS;
    sidecar_open_channel(sidecar);
    sidecar_open(sidecar);
}

void sidecar_fini(struct sidecar *sidecar)
{
    timer_stop(sidecar->world->loop, &sidecar->identity_timer);
    timer_stop(sidecar->world->loop, &sidecar->stream_timer);
    timer_stop(sidecar->world->loop, &sidecar->move_timer);
    if (sidecar->call != NULL)
        grpc_client_cancel(sidecar->call);
    sidecar_drop_stream(&sidecar->stream);
    sidecar_drop_stream(&sidecar->old);
    sidecar_close_channel(sidecar);
    if (sidecar->svid != NULL)
        svid_unref(sidecar->svid);
    mem_free(sidecar->token);
}
