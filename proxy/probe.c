#include "proxy/probe.h"

#include <string.h>

#include "lib/base/mem.h"
#include "lib/net/resolve.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"
#include "lib/rpc/pb.h"
#include "proxy/authz.h"
#include "proxy/conn.h"
#include "proxy/failures.h"
#include "proxy/listens.h"

/* A server that is not ours does not end the connection: it is content if it says nothing for so
 * long behind the handshake. */
#define PROBE_CONTENT_MS 500

struct probes {
    struct loop *loop;
    uint64_t second_ms; /* that is being counted */
    unsigned num;       /* in it */
};

/* One endpoint. */
struct probe_try {
    struct probe *probe;
    const struct endpoint *endpoint;
    struct addr addr;
    struct resolve *resolving;
    struct tcp_connect *connecting;
    struct stream *mesh; /* TCP, then TLS */
    bool in_tls;
    bool agreed; /* the server ends it when it is content */
    bool done;
    struct tls_check check;
    struct timer timer;
    uint64_t key;
    struct addr local;
    char *claimed;
    const char *policy; /* that denies the peer; NULL */
    Mortise__V1__ProbeResult *result;
};

struct probe {
    struct loop *loop;
    struct snapshot *snapshot;
    const struct link *link;
    uint64_t timeout_ms;
    probe_cb cb;
    void *arg;
    struct probe_try tries[PROBE_ENDPOINTS_MAX];
    size_t num, num_done;
};

struct probes *probes_new(struct loop *loop)
{
    struct probes *probes = mem_zalloc(sizeof(*probes));

    probes->loop = loop;
    return probes;
}

void probes_free(struct probes *probes)
{
    mem_free(probes);
}

static bool probes_take(struct probes *probes)
{
    uint64_t now_ms = loop_now_ms(probes->loop);

    if (now_ms - probes->second_ms >= 1000) {
        probes->second_ms = now_ms;
        probes->num = 0;
    }
    return probes->num++ < PROBE_PER_S;
}

/* ---- ending ---- */

static void probe_free(void *arg)
{
    struct probe *probe = arg;

    for (size_t i = 0; i < probe->num; i++) {
        struct probe_try *try = &probe->tries[i];

        if (try->result != NULL)
            pb_free(&try->result->base);
        mem_free(try->claimed);
        tls_check_fini(&try->check);
    }
    snapshot_unref(probe->snapshot);
    mem_free(probe);
}

/* Gives up what a try has open; no callback of it comes afterwards. */
static void probe_close(struct probe_try *try, bool alerted)
{
    timer_stop(try->probe->loop, &try->timer);
    if (try->resolving != NULL)
        resolve_cancel(try->resolving);
    if (try->connecting != NULL)
        tcp_connect_cancel(try->connecting);
    try->resolving = NULL;
    try->connecting = NULL;
    if (try->mesh == NULL)
        return;
    /* FIN behind an alert or close_notify, which the peer may still read. */
    if (alerted && err_is_ok(stream_shutdown(try->in_tls ? tls_lower(try->mesh) : try->mesh)))
        stream_close(try->mesh);
    else
        stream_reset(try->mesh);
    try->mesh = NULL;
}

static void probe_answer(struct probe *probe)
{
    Mortise__V1__ProbeAnswer answer = MORTISE__V1__PROBE_ANSWER__INIT;
    Mortise__V1__ProbeResult *results[PROBE_ENDPOINTS_MAX];

    for (size_t i = 0; i < probe->num; i++)
        results[answer.n_results++] = probe->tries[i].result;
    answer.results = results;
    probe->cb(probe->arg, &answer);
    loop_defer(probe->loop, probe_free, probe);
}

static void probe_done(struct probe_try *try)
{
    struct probe *probe = try->probe;

    try->done = true;
    if (++probe->num_done == probe->num)
        probe_answer(probe);
}

static void probe_fail(struct probe_try *try, err_t err)
{
    const struct failures_new failure = {
        .direction = DIRECTION_OUTBOUND,
        .link = try->probe->link->name,
        .reason = conn_reason(err, RELAY_MESH),
        .err = err,
        .key = try->key,
        .local = try->local,
        .peer = try->addr,
        .policy = try->policy,
        .peer_id = try->claimed,
        .ssl = try->in_tls ? tls_ssl(try->mesh) : NULL,
        .now_ms = clock_wall_us() / 1000,
    };
    bool ours = !err_is(err, E_TLS_ALERT) && !err_is(err, E_CLOSED) && !err_is(err, E_PEER_RESET) &&
                !err_is(err, E_HANDSHAKE_TIMEOUT);

    try->result->failure = failures_message(&failure);
    probe_close(try, try->in_tls && ours);
    probe_done(try);
}

static void probe_succeed(struct probe_try *try)
{
    const struct peer *peer = try->check.peer;

    if (peer != NULL) {
        bool named = peer->spiffe_id[0] != '\0' || peer->dns_names[0] == NULL;

        try->result->peer_id = mem_strdup(named ? peer->spiffe_id : peer->dns_names[0]);
        try->result->peer_serial = mem_strdup(peer->serial);
    }
    if (err_is_ok(stream_shutdown(try->mesh)))
        stream_close(try->mesh);
    else
        stream_reset(try->mesh);
    try->mesh = NULL;
    probe_close(try, false);
    probe_done(try);
}

/* ---- one endpoint ---- */

static void probe_on_deadline(void *arg)
{
    struct probe_try *try = arg;

    if (try->in_tls)
        probe_fail(try, FAIL(HANDSHAKE_TIMEOUT, 0));
    else if (try->resolving != NULL)
        probe_fail(try, FAIL(RESOLVE_FAILED, 0));
    else
        probe_fail(try, FAIL(CONNECT_TIMEOUT, 0));
}

static void probe_on_content(void *arg)
{
    probe_succeed(arg);
}

static void probe_on_read(void *arg, struct bytes data)
{
    (void)data;
    probe_succeed(arg); /* of no sidecar of ours: but it is through */
}

static void probe_on_eof(void *arg)
{
    probe_succeed(arg); /* close_notify: the server is content */
}

static void probe_on_error(void *arg, err_t err)
{
    probe_fail(arg, err);
}

static const struct stream_events probe_events = {
    .on_read = probe_on_read,
    .on_eof = probe_on_eof,
    .on_error = probe_on_error,
};

static err_t probe_authorize(void *arg, int entry, const struct peer *peer)
{
    struct probe_try *try = arg;
    const struct probe *probe = try->probe;
    err_t err =
        authz_server(probe->snapshot, probe->link, peer, clock_wall_s(loop_clock(probe->loop)));

    (void)entry;
    if (peer != NULL && try->claimed == NULL)
        try->claimed = mem_strdup(peer->spiffe_id);
    if (err_is(err, E_POLICY_DENIED))
        try->policy = authz_policy(probe->snapshot, probe->link, peer);
    return err;
}

static void probe_on_handshake(void *arg, err_t err)
{
    struct probe_try *try = arg;
    struct tls_info info;

    try->key = shown_key_of(tls_ssl(try->mesh));
    if (!err_is_ok(try->check.err))
        err = try->check.err;
    if (err_is_ok(err))
        err = tls_check_finish(&try->check, tls_ssl(try->mesh));
    if (!err_is_ok(err)) {
        probe_fail(try, err);
        return;
    }
    info = tls_info(try->mesh);
    try->result->tls_version = mem_strdup(info.version);
    try->result->cipher = mem_strdup(info.cipher);
    try->result->group = mem_strdup(info.group);
    try->agreed = tls_is_probe(tls_ssl(try->mesh));
    if (!try->agreed)
        timer_start(try->probe->loop, &try->timer, PROBE_CONTENT_MS, probe_on_content, try);
    stream_read_start(try->mesh);
}

static void probe_configure(void *arg, SSL *ssl)
{
    struct probe_try *try = arg;
    err_t err;

    tls_check_attach(&try->check, ssl);
    err = tls_probe_offer(ssl);
    if (!err_is_ok(err))
        try->check.err = err;
}

static void probe_on_connected(void *arg, err_t err, struct stream *stream)
{
    struct probe_try *try = arg;
    const struct probe *probe = try->probe;
    struct tls_params params = {
        .ctx = tls_ctx_ssl(probe->link->tls),
        .role = TLS_CLIENT,
        .server_name = probe->link->server_name,
        .records = probe->snapshot->tunables.records,
        .configure = probe_configure,
        .arg = try,
    };
    struct stream *tls;

    try->connecting = NULL;
    if (!err_is_ok(err)) {
        probe_fail(try, err);
        return;
    }
    try->mesh = stream;
    if (!err_is_ok(addr_of_local(tcp_fd(stream), &try->local)))
        try->local.len = 0;
    stream_set_events(stream, &probe_events, try);
    err = tls_new(stream, &params, &tls);
    if (!err_is_ok(err)) {
        probe_fail(try, err);
        return;
    }
    try->mesh = tls;
    try->in_tls = true;
    stream_set_events(tls, &probe_events, try);
    timer_start(probe->loop, &try->timer, probe->timeout_ms, probe_on_deadline, try);
    tls_handshake(tls, probe_on_handshake, try);
}

static void probe_connect(struct probe_try *try, const struct addr *addr)
{
    struct probe *probe = try->probe;
    char text[ADDR_TEXT_MAX];
    err_t err = OK;

    try->addr = *addr;
    addr_format(addr, text);
    mem_free(try->result->address);
    try->result->address = mem_strdup(text);
    if (snapshot_own_listener(probe->snapshot, addr) != NULL)
        err = FAIL(LOOP_DETECTED, 0);
    if (err_is_ok(err))
        err = tcp_connect(probe->loop, addr, probe->timeout_ms, probe_on_connected, try,
                          &try->connecting);
    if (!err_is_ok(err))
        probe_fail(try, err);
}

static void probe_on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct probe_try *try = arg;

    try->resolving = NULL;
    if (err_is_ok(err) && num == 0)
        err = FAIL(RESOLVE_FAILED, 0);
    if (err_is_ok(err))
        probe_connect(try, &addrs[0]);
    else
        probe_fail(try, err);
}

static void probe_begin(struct probe_try *try)
{
    struct probe *probe = try->probe;

    try->result = mem_alloc(sizeof(*try->result));
    mortise__v1__probe_result__init(try->result);
    try->result->address = mem_strdup(try->endpoint->text);
    tls_check_init(&try->check, loop_clock(probe->loop), NULL);
    try->check.authorize = probe_authorize;
    try->check.arg = try;
    /* From the loop, an address, too: nobody ends within probe_start. */
    try->resolving =
        resolve_start(probe->loop, try->endpoint->text, probe->timeout_ms, probe_on_resolved, try);
}

/* ---- whole ---- */

static struct probe *probe_refuse(probe_cb cb, void *arg, const char *error)
{
    Mortise__V1__ProbeAnswer answer = MORTISE__V1__PROBE_ANSWER__INIT;

    answer.error = (char *)(uintptr_t)error; /* only read */
    cb(arg, &answer);
    return NULL;
}

static struct probe *probe_inbound(struct snapshot *snapshot, const Mortise__V1__Probe *asked,
                                   probe_cb cb, void *arg)
{
    const struct link *link = snapshot_link(snapshot, DIRECTION_INBOUND, asked->link);
    Mortise__V1__ProbeAnswer answer = MORTISE__V1__PROBE_ANSWER__INIT;
    char target[ADDR_TEXT_MAX];

    if (link == NULL)
        return probe_refuse(cb, arg, err_name(E_NOT_FOUND));
    switch (listens_at(&link->target)) {
    case LISTENS_YES:
        answer.listens = MORTISE__V1__PROBE_ANSWER__LISTENS__YES;
        break;
    case LISTENS_NO:
        answer.listens = MORTISE__V1__PROBE_ANSWER__LISTENS__NO;
        break;
    case LISTENS_UNKNOWN:
        break;
    }
    addr_format(&link->target, target);
    answer.target = target;
    cb(arg, &answer);
    return NULL;
}

static uint64_t probe_timeout_ms(uint32_t asked_ms)
{
    if (asked_ms < PROBE_TIMEOUT_MIN_MS)
        return PROBE_TIMEOUT_MIN_MS;
    return asked_ms < PROBE_TIMEOUT_MAX_MS ? asked_ms : PROBE_TIMEOUT_MAX_MS;
}

struct probe *probe_start(struct probes *probes, struct snapshot *snapshot,
                          const Mortise__V1__Probe *asked, probe_cb cb, void *arg)
{
    const struct link *link;
    struct probe *probe;

    if (!probes_take(probes))
        return probe_refuse(cb, arg, err_name(E_RATE_LIMITED));
    if (snapshot == NULL || snapshot_expired(snapshot, clock_wall_s(loop_clock(probes->loop))))
        return probe_refuse(cb, arg, err_name(E_SVID_MISSING));
    if (asked->inbound)
        return probe_inbound(snapshot, asked, cb, arg);
    link = snapshot_link(snapshot, DIRECTION_OUTBOUND, asked->link);
    if (link == NULL)
        return probe_refuse(cb, arg, err_name(E_NOT_FOUND));
    if (link->num_endpoints == 0)
        return probe_refuse(cb, arg, err_name(E_NO_ENDPOINT));
    probe = mem_zalloc(sizeof(*probe));
    probe->loop = probes->loop;
    probe->snapshot = snapshot_ref(snapshot);
    probe->link = link;
    probe->timeout_ms = probe_timeout_ms(asked->timeout_ms);
    probe->cb = cb;
    probe->arg = arg;
    probe->num =
        link->num_endpoints < PROBE_ENDPOINTS_MAX ? link->num_endpoints : PROBE_ENDPOINTS_MAX;
    for (size_t i = 0; i < probe->num; i++) {
        probe->tries[i].probe = probe;
        probe->tries[i].endpoint = &link->endpoints[i];
        probe_begin(&probe->tries[i]);
    }
    return probe;
}

void probe_cancel(struct probe *probe)
{
    for (size_t i = 0; i < probe->num; i++) {
        if (!probe->tries[i].done)
            probe_close(&probe->tries[i], false);
    }
    loop_defer(probe->loop, probe_free, probe);
}
