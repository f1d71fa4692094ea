#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/net/tls.h"
#include "lib/rpc/grpc_client_impl.h"

#define GRPC_CONNECT_MS 5000
#define GRPC_BACKOFF_BASE_MS 200
#define GRPC_BACKOFF_MAX_MS 30000

#define TO(state) (1u << GRPC_CHANNEL_##state)
#define TO_END (TO(BACKOFF) | TO(IDLE) | TO(CLOSED)) /* failed; given up for a new try; closed */
static const unsigned grpc_channel_next[GRPC_CHANNEL_NUM] = {
    [GRPC_CHANNEL_IDLE] = TO(RESOLVING) | TO(BACKOFF) | TO(CLOSED),
    [GRPC_CHANNEL_RESOLVING] = TO(CONNECTING) | TO_END,
    [GRPC_CHANNEL_CONNECTING] = TO(HANDSHAKE) | TO(GREETING) | TO_END,
    [GRPC_CHANNEL_HANDSHAKE] = TO(GREETING) | TO_END,
    [GRPC_CHANNEL_GREETING] = TO_END,
    [GRPC_CHANNEL_BACKOFF] = TO(IDLE) | TO(CLOSED),
    [GRPC_CHANNEL_CLOSED] = 0,
};
#undef TO
#undef TO_END

static void grpc_channel_failed(struct grpc_channel *channel, err_t err);
static void grpc_channel_serve(struct grpc_channel *channel);

static void grpc_channel_set_state(struct grpc_channel *channel, enum grpc_channel_state state)
{
    CHECK((grpc_channel_next[channel->state] & 1u << state) != 0);
    channel->state = state;
}

/* ---- connections ---- */

static void grpc_link_on_headers(void *arg, struct h2_stream *stream,
                                 const struct h2_header *headers, size_t num, bool trailers,
                                 bool end)
{
    struct grpc_client_call *call = h2_stream_data(stream);

    (void)arg;
    if (call != NULL)
        grpc_cc_on_headers(call, headers, num, trailers, end);
}

static void grpc_link_on_data(void *arg, struct h2_stream *stream, struct bytes data, bool end)
{
    struct grpc_client_call *call = h2_stream_data(stream);

    (void)arg;
    h2_stream_consume(stream, data.len);
    if (call != NULL)
        grpc_cc_on_data(call, data, end);
}

static void grpc_link_on_writable(void *arg, struct h2_stream *stream)
{
    (void)arg;
    (void)stream; /* grpc_stream_send bounds the queue by an error */
}

static void grpc_link_on_close(void *arg, struct h2_stream *stream, err_t err)
{
    struct grpc_client_call *call = h2_stream_data(stream);
    struct grpc_link *link = arg;

    if (!list_empty(&link->channel->waiting)) /* one may have waited for this place */
        grpc_channel_schedule(link->channel);
    if (call != NULL)
        grpc_cc_on_close(call, err);
}

static void grpc_link_free(struct grpc_link *link)
{
    struct grpc_channel *channel = link->channel;

    if (channel->conn == link)
        channel->conn = NULL;
    list_del(&link->link);
    h2_close(link->h2);
    loop_defer(channel->loop, mem_free, link);
}

/* Peer's SETTINGS: this is a working HTTP/2 connection. */
static void grpc_link_on_ready(void *arg)
{
    struct grpc_link *link = arg;
    struct grpc_channel *channel = link->channel;

    link->ready = true;
    if (channel->conn != link || channel->state != GRPC_CHANNEL_GREETING)
        return;
    timer_stop(channel->loop, &channel->timer);
    grpc_channel_set_state(channel, GRPC_CHANNEL_IDLE);
    channel->last_err = OK;
    if (channel->params.on_state != NULL)
        channel->params.on_state(channel->params.arg, true, OK, 0);
    grpc_channel_schedule(channel);
}

/* The connection takes no new calls any more. */
static void grpc_link_retire(struct grpc_link *link, err_t err)
{
    struct grpc_channel *channel = link->channel;

    if (channel->conn != link)
        return;
    channel->conn = NULL;
    if (link->proven)
        backoff_reset(&channel->backoff);
    grpc_channel_failed(channel, err);
}

static void grpc_link_on_goaway(void *arg)
{
    struct grpc_link *link = arg;

    h2_goaway(link->h2); /* ends with the calls that are on it */
    grpc_link_retire(link, FAIL(H2_GOAWAY, 0));
}

static void grpc_link_on_broken(void *arg, err_t err)
{
    struct grpc_link *link = arg;

    grpc_link_retire(link, err_is_ok(err) ? FAIL(CLOSED, 0) : err);
    if (link->channel->state != GRPC_CHANNEL_CLOSED) /* else on_state closed all */
        grpc_link_free(link);
}

static const struct h2_events grpc_link_events = {
    .on_headers = grpc_link_on_headers,
    .on_data = grpc_link_on_data,
    .on_writable = grpc_link_on_writable,
    .on_close = grpc_link_on_close,
    .on_ready = grpc_link_on_ready,
    .on_goaway = grpc_link_on_goaway,
    .on_broken = grpc_link_on_broken,
};

/* ---- connecting ---- */

/* Takes back what configure attached. Returns the reason its callbacks kept, else `err`. */
static err_t grpc_channel_configured(struct grpc_channel *channel, err_t err)
{
    SSL *ssl = channel->configured;
    err_t kept = OK;

    channel->configured = NULL;
    if (ssl != NULL && channel->params.handshake_done != NULL)
        kept = channel->params.handshake_done(channel->params.arg, ssl, err);
    return err_is_ok(kept) ? err : kept;
}

/* Gives up what an attempt has under way. */
static void grpc_channel_abort(struct grpc_channel *channel)
{
    timer_stop(channel->loop, &channel->timer);
    if (channel->resolve != NULL)
        resolve_cancel(channel->resolve);
    channel->resolve = NULL;
    if (channel->connect != NULL)
        tcp_connect_cancel(channel->connect);
    channel->connect = NULL;
    (void)grpc_channel_configured(channel, FAIL(CANCELLED, 0));
    if (channel->stream != NULL)
        stream_close(channel->stream);
    channel->stream = NULL;
}

/* Streaming calls have one attempt; it has failed. */
static void grpc_channel_fail_streams(struct grpc_channel *channel, err_t err)
{
    struct list failed, *pos, *tmp;

    /* Moved first: on_done may open and cancel calls. */
    list_init(&failed);
    LIST_EACH (pos, tmp, &channel->waiting) {
        struct grpc_client_call *call = LIST_ITEM(pos, struct grpc_client_call, link);

        if (!call->unary && call->attempted) {
            list_del(&call->link);
            list_add_tail(&failed, &call->link);
        }
    }
    while (!list_empty(&failed))
        grpc_cc_fail(LIST_ITEM(failed.next, struct grpc_client_call, link), GRPC_UNAVAILABLE, err);
}

static void grpc_channel_on_backoff(void *arg)
{
    struct grpc_channel *channel = arg;

    grpc_channel_set_state(channel, GRPC_CHANNEL_IDLE);
    grpc_channel_serve(channel);
}

/* There is no connection now: waits before the next try. */
static void grpc_channel_failed(struct grpc_channel *channel, err_t err)
{
    uint32_t delay_ms;

    if (channel->state == GRPC_CHANNEL_CLOSED)
        return;
    grpc_channel_abort(channel);
    channel->last_err = err;
    delay_ms = backoff_next(&channel->backoff, random_u32());
    if (channel->state != GRPC_CHANNEL_BACKOFF)
        grpc_channel_set_state(channel, GRPC_CHANNEL_BACKOFF);
    timer_start(channel->loop, &channel->timer, delay_ms, grpc_channel_on_backoff, channel);
    if (channel->params.on_state != NULL)
        channel->params.on_state(channel->params.arg, false, err, delay_ms);
    if (channel->state != GRPC_CHANNEL_CLOSED)
        grpc_channel_fail_streams(channel, err);
}

static void grpc_channel_on_timeout(void *arg)
{
    struct grpc_channel *channel = arg;
    struct grpc_link *link = channel->conn;
    err_t err = FAIL(CONNECT_TIMEOUT, 0);

    if (channel->state == GRPC_CHANNEL_HANDSHAKE)
        err = FAIL(HANDSHAKE_TIMEOUT, 0);
    if (link != NULL) /* GREETING: it spoke no HTTP/2 */
        grpc_link_free(link);
    grpc_channel_failed(channel, err);
}

static void grpc_channel_begin_h2(struct grpc_channel *channel)
{
    struct grpc_link *link = mem_zalloc(sizeof(*link));

    link->channel = channel;
    list_init(&link->calls);
    list_add_tail(&channel->links, &link->link);
    channel->conn = link;
    grpc_channel_set_state(channel, GRPC_CHANNEL_GREETING);
    link->h2 = h2_new(channel->stream, false, channel->params.limits, &grpc_link_events, link);
    channel->stream = NULL;
}

/* A server that chose another protocol than h2 would not understand us. None chosen is let through:
 * its SETTINGS will tell. */
static err_t grpc_channel_check_alpn(SSL *ssl)
{
    const uint8_t *name;
    unsigned len;

    SSL_get0_alpn_selected(ssl, &name, &len);
    if (len != 0 && !bytes_equal_str(bytes_of(name, len), "h2"))
        return FAIL(H2_PROTOCOL, 0);
    return OK;
}

static void grpc_channel_on_handshake(void *arg, err_t err)
{
    struct grpc_channel *channel = arg;

    if (err_is_ok(err))
        err = grpc_channel_check_alpn(tls_ssl(channel->stream));
    err = grpc_channel_configured(channel, err);
    if (err_is_ok(err))
        grpc_channel_begin_h2(channel);
    else
        grpc_channel_failed(channel, err);
}

static void grpc_channel_configure(void *arg, SSL *ssl)
{
    struct grpc_channel *channel = arg;

    channel->configured = ssl;
    if (channel->params.configure != NULL)
        channel->params.configure(channel->params.arg, ssl);
}

/* No events are wanted while tls_handshake runs: it reports by its callback. */
static void grpc_channel_on_stray_read(void *arg, struct bytes data)
{
    (void)arg;
    (void)data;
}

static void grpc_channel_on_stray(void *arg)
{
    (void)arg;
}

static void grpc_channel_on_stray_error(void *arg, err_t err)
{
    struct grpc_channel *channel = arg;

    grpc_channel_failed(channel, grpc_channel_configured(channel, err));
}

static const struct stream_events grpc_channel_stream_events = {
    .on_read = grpc_channel_on_stray_read,
    .on_eof = grpc_channel_on_stray,
    .on_drained = grpc_channel_on_stray,
    .on_error = grpc_channel_on_stray_error,
};

/* Begins TLS on channel->stream. */
static err_t grpc_channel_begin_tls(struct grpc_channel *channel)
{
    SSL_CTX *ctx = channel->params.tls(channel->params.arg);
    struct tls_params params = {
        .ctx = ctx,
        .role = TLS_CLIENT,
        .server_name = channel->server_name,
        .configure = grpc_channel_configure,
        .arg = channel,
    };
    struct stream *tls;
    err_t err;

    if (ctx == NULL)
        return FAIL(SVID_MISSING, 0);
    err = tls_new(channel->stream, &params, &tls);
    SSL_CTX_free(ctx);
    if (!err_is_ok(err)) {
        channel->configured = NULL; /* the SSL is gone */
        return err;
    }
    channel->stream = tls;
    stream_set_events(tls, &grpc_channel_stream_events, channel);
    grpc_channel_set_state(channel, GRPC_CHANNEL_HANDSHAKE);
    tls_handshake(tls, grpc_channel_on_handshake, channel);
    return OK;
}

static void grpc_channel_next_addr(struct grpc_channel *channel, err_t last);

static void grpc_channel_on_connected(void *arg, err_t err, struct stream *stream)
{
    struct grpc_channel *channel = arg;

    channel->connect = NULL;
    if (!err_is_ok(err)) {
        grpc_channel_next_addr(channel, err);
        return;
    }
    channel->stream = stream;
    if (channel->params.tls == NULL) {
        grpc_channel_begin_h2(channel);
        return;
    }
    err = grpc_channel_begin_tls(channel);
    if (!err_is_ok(err))
        grpc_channel_failed(channel, err);
}

/* Tries the addresses of the name in turn; `last` says why the one before did not do. */
static void grpc_channel_next_addr(struct grpc_channel *channel, err_t last)
{
    while (channel->next_addr < channel->num_addrs) {
        const struct addr *addr = &channel->addrs[channel->next_addr++];
        /* Plaintext is for a socket file, whose permissions stand for TLS; the timer of the whole
         * attempt cuts the last address short. */
        bool allowed = channel->params.tls != NULL || addr->sa.any.sa_family == AF_UNIX;

        last = allowed ? tcp_connect(channel->loop, addr, channel->params.connect_timeout_ms,
                                     grpc_channel_on_connected, channel, &channel->connect)
                       : FAIL(TLS_CONFIG, 0);
        if (err_is_ok(last))
            return;
    }
    grpc_channel_failed(channel, last);
}

static void grpc_channel_on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct grpc_channel *channel = arg;

    channel->resolve = NULL;
    if (!err_is_ok(err)) {
        grpc_channel_failed(channel, err);
        return;
    }
    channel->num_addrs = num < RESOLVE_MAX ? num : RESOLVE_MAX;
    channel->next_addr = 0;
    /* Each attempt begins with another one: the first may take connections and not work. */
    for (size_t i = 0; i < channel->num_addrs; i++)
        channel->addrs[i] = addrs[(i + channel->backoff.attempts) % channel->num_addrs];
    grpc_channel_set_state(channel, GRPC_CHANNEL_CONNECTING);
    grpc_channel_next_addr(channel, FAIL(RESOLVE_FAILED, 0));
}

static void grpc_channel_connect(struct grpc_channel *channel)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &channel->waiting)
        LIST_ITEM(pos, struct grpc_client_call, link)->attempted = true;
    grpc_channel_set_state(channel, GRPC_CHANNEL_RESOLVING);
    timer_start(channel->loop, &channel->timer, channel->params.connect_timeout_ms,
                grpc_channel_on_timeout, channel);
    channel->resolve =
        resolve_start(channel->loop, channel->target, channel->params.connect_timeout_ms,
                      grpc_channel_on_resolved, channel);
}

/* ---- the channel ---- */

/* Brings waiting calls onto the connection, or makes one for them. */
static void grpc_channel_serve(struct grpc_channel *channel)
{
    struct grpc_link *conn = channel->conn;

    while (channel->state != GRPC_CHANNEL_CLOSED && !list_empty(&channel->waiting)) {
        struct list *first = channel->waiting.next;
        err_t err;

        if (conn == NULL && channel->state == GRPC_CHANNEL_IDLE)
            grpc_channel_connect(channel);
        if (conn == NULL || !conn->ready || conn != channel->conn)
            return;
        err = grpc_cc_start(LIST_ITEM(first, struct grpc_client_call, link), conn);
        if (err_is(err, E_H2_GOAWAY)) /* all its stream ids are used up */
            grpc_link_on_goaway(conn);
        if (!err_is_ok(err)) /* at the server's limit of streams: served again when one ends */
            return;
    }
}

static void grpc_channel_on_serve(void *arg)
{
    struct grpc_channel *channel = arg;

    channel->serving = false;
    grpc_channel_serve(channel);
}

void grpc_channel_schedule(struct grpc_channel *channel)
{
    if (channel->serving || channel->state == GRPC_CHANNEL_CLOSED)
        return;
    channel->serving = true;
    loop_defer(channel->loop, grpc_channel_on_serve, channel);
}

/* What stands for the server in :authority: its name, or "localhost" for a socket file. */
static char *grpc_channel_authority(const struct grpc_channel_params *params)
{
    if (params->authority != NULL)
        return mem_strdup(params->authority);
    if (strncmp(params->target, "unix:", 5) == 0)
        return mem_strdup("localhost");
    return mem_strdup(params->target);
}

struct grpc_channel *grpc_channel_new(struct loop *loop, const struct grpc_channel_params *params)
{
    struct grpc_channel *channel = mem_zalloc(sizeof(*channel));

    channel->loop = loop;
    channel->params = *params;
    channel->target = mem_strdup(params->target);
    channel->authority = grpc_channel_authority(params);
    CHECK(params->authorization == NULL || params->tls != NULL);
    if (params->authorization != NULL)
        channel->authorization = mem_strdup(params->authorization);
    if (params->server_name != NULL)
        channel->server_name = mem_strdup(params->server_name);
    if (channel->params.connect_timeout_ms == 0)
        channel->params.connect_timeout_ms = GRPC_CONNECT_MS;
    channel->backoff.base_ms =
        params->backoff_base_ms != 0 ? params->backoff_base_ms : GRPC_BACKOFF_BASE_MS;
    channel->backoff.max_ms =
        params->backoff_max_ms != 0 ? params->backoff_max_ms : GRPC_BACKOFF_MAX_MS;
    channel->last_err = OK;
    list_init(&channel->links);
    list_init(&channel->waiting);
    list_init(&channel->refused);
    return channel;
}

static void grpc_channel_free(void *arg)
{
    struct grpc_channel *channel = arg;

    mem_free(channel->target);
    mem_free(channel->authority);
    mem_free(channel->server_name);
    if (channel->authorization != NULL)
        mem_wipe(channel->authorization, strlen(channel->authorization));
    mem_free(channel->authorization);
    mem_free(channel);
}

static void grpc_channel_drop_calls(struct list *calls)
{
    while (!list_empty(calls))
        grpc_cc_drop(LIST_ITEM(calls->next, struct grpc_client_call, link));
}

void grpc_channel_close(struct grpc_channel *channel)
{
    grpc_channel_abort(channel);
    grpc_channel_set_state(channel, GRPC_CHANNEL_CLOSED);
    grpc_channel_drop_calls(&channel->waiting);
    grpc_channel_drop_calls(&channel->refused);
    while (!list_empty(&channel->links)) {
        struct grpc_link *link = LIST_ITEM(channel->links.next, struct grpc_link, link);

        grpc_channel_drop_calls(&link->calls);
        grpc_link_free(link);
    }
    /* A round of deferred calls may still bring grpc_channel_on_serve before this. */
    loop_defer(channel->loop, grpc_channel_free, channel);
}

void grpc_channel_reconnect(struct grpc_channel *channel)
{
    struct grpc_link *link = channel->conn;

    channel->conn = NULL;
    if (channel->state == GRPC_CHANNEL_GREETING && link != NULL)
        grpc_link_free(link); /* it carries no call yet */
    else if (link != NULL)
        h2_goaway(link->h2);
    if (channel->state != GRPC_CHANNEL_IDLE) {
        grpc_channel_abort(channel);
        grpc_channel_set_state(channel, GRPC_CHANNEL_IDLE);
    }
    grpc_channel_schedule(channel);
}
