#include "proxy/conn.h"

#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "proxy/access_log.h"
#include "proxy/authz.h"
#include "proxy/limits.h"
#include "proxy/live.h"
#include "proxy/worker.h"

#define TO(state) (1u << CONN_##state)

/* conn_next[s] is the set of states that s may move to. */
static const unsigned conn_next[CONN_NUM_STATES] = {
    [CONN_ACCEPTED] = TO(FIRST_BYTE) | TO(CONNECTING) | TO(HANDSHAKE) | TO(CLOSED),
    [CONN_FIRST_BYTE] = TO(CONNECTING) | TO(HANDSHAKE) | TO(CLOSED),
    [CONN_CONNECTING] = TO(HANDSHAKE) | TO(OPEN) | TO(CLOSED),
    [CONN_HANDSHAKE] = TO(CONNECTING) | TO(OPEN) | TO(REFUSED) | TO(CLOSED),
    [CONN_OPEN] = TO(DRAINING) | TO(CLOSED),
    [CONN_DRAINING] = TO(CLOSED),
    [CONN_REFUSED] = TO(CLOSED),
    [CONN_CLOSED] = 0,
};

static const char *const conn_state_names[CONN_NUM_STATES] = {
    [CONN_ACCEPTED] = "accepted",
    [CONN_FIRST_BYTE] = "first_byte",
    [CONN_CONNECTING] = "connecting",
    [CONN_HANDSHAKE] = "handshake",
    [CONN_OPEN] = "open",
    [CONN_DRAINING] = "draining",
    [CONN_REFUSED] = "refused",
    [CONN_CLOSED] = "closed",
};

static const struct {
    enum err_code code;
    enum close_reason reason;
} conn_reasons[] = {
    {E_OK, CLOSE_DONE},
    {E_CLOSED, CLOSE_PEER_TRUNCATED},
    {E_TLS_TRUNCATED, CLOSE_PEER_TRUNCATED},
    {E_TLS_ALERT, CLOSE_PEER_ALERT},
    {E_TLS_NOT_TLS, CLOSE_NOT_TLS},
    {E_TLS_PROTOCOL, CLOSE_TLS_FAILED},
    {E_TLS_KEY_UPDATES, CLOSE_TLS_FAILED},
    {E_TLS_NO_SHARED, CLOSE_NO_SHARED_PARAMETERS},
    {E_TLS_SNI_UNKNOWN, CLOSE_SERVER_NAME},
    {E_PEER_IDENTITY, CLOSE_PEER_IDENTITY},
    {E_PEER_DENIED, CLOSE_PEER_IDENTITY},
    {E_PEER_REVOKED, CLOSE_REVOKED},
    {E_CRL_MISSING, CLOSE_CRL_MISSING},
    {E_CRL_STALE, CLOSE_CRL_STALE},
    {E_PEER_EXPIRED, CLOSE_EXPIRED},
    {E_MAX_AGE, CLOSE_MAX_AGE},
    {E_POLICY_CHANGED, CLOSE_POLICY},
    {E_POLICY_DENIED, CLOSE_POLICY},
    {E_TRUST_CHANGED, CLOSE_TRUST},
    {E_TRUST_DOMAIN, CLOSE_PEER_IDENTITY},
    {E_KEY_WEAK, CLOSE_PEER_CERTIFICATE},
    {E_CERT_SYNTAX, CLOSE_PEER_CERTIFICATE},
    {E_CERT_EXPIRED, CLOSE_PEER_CERTIFICATE},
    {E_CERT_NOT_YET_VALID, CLOSE_PEER_CERTIFICATE},
    {E_CERT_MISSING, CLOSE_PEER_CERTIFICATE},
    {E_CERT_USAGE, CLOSE_PEER_CERTIFICATE},
    {E_CERT_WEAK_SIGNATURE, CLOSE_PEER_CERTIFICATE},
    {E_CHAIN_UNTRUSTED, CLOSE_PEER_CERTIFICATE},
    {E_CHAIN_INVALID, CLOSE_PEER_CERTIFICATE},
    {E_CHAIN_TOO_LONG, CLOSE_PEER_CERTIFICATE},
    {E_SAN_NONE, CLOSE_PEER_CERTIFICATE},
    {E_SAN_MULTIPLE, CLOSE_PEER_CERTIFICATE},
    {E_SAN_SYNTAX, CLOSE_PEER_CERTIFICATE},
    {E_SAN_TOO_MANY, CLOSE_PEER_CERTIFICATE},
    {E_TOO_LARGE, CLOSE_PEER_CERTIFICATE},
    {E_HANDSHAKE_TIMEOUT, CLOSE_HANDSHAKE_TIMEOUT},
    {E_CONNECT_REFUSED, CLOSE_CONNECT_FAILED},
    {E_CONNECT_FAILED, CLOSE_CONNECT_FAILED},
    {E_CONNECT_TIMEOUT, CLOSE_CONNECT_TIMEOUT},
    {E_RESOLVE_FAILED, CLOSE_RESOLVE_FAILED},
    {E_TIMEOUT, CLOSE_RESOLVE_FAILED},
    {E_NO_ENDPOINT, CLOSE_NO_ENDPOINT},
    {E_NO_ROUTE, CLOSE_NO_ROUTE},
    {E_LOOP_DETECTED, CLOSE_LOOP},
    {E_PROBED, CLOSE_PROBE},
    {E_IDLE, CLOSE_IDLE},
    {E_SLOW_PEER, CLOSE_STALLED},
    {E_DRAINING, CLOSE_DRAINED},
    {E_CANCELLED, CLOSE_SHUTDOWN},
    {E_FD_EXHAUSTED, CLOSE_RESOURCES},
    {E_NO_MEMORY, CLOSE_RESOURCES},
};

enum close_reason conn_reason(err_t err, unsigned side)
{
    if (err_is(err, E_PEER_RESET))
        return side == RELAY_APP ? CLOSE_APP_RESET : CLOSE_PEER_RESET;
    if (err_is(err, E_TLS_ALERT) && err.sub == SSL_AD_CERTIFICATE_REVOKED)
        return CLOSE_REVOKED;
    for (size_t i = 0; i < ARRAY_LEN(conn_reasons); i++) {
        if (conn_reasons[i].code == err.code)
            return conn_reasons[i].reason;
    }
    return CLOSE_INTERNAL;
}

const char *conn_state_name(enum conn_state state)
{
    CHECK((unsigned)state < CONN_NUM_STATES);
    return conn_state_names[state];
}

bool conn_may_move(enum conn_state from, enum conn_state to)
{
    return (conn_next[from] & 1u << to) != 0;
}

/* ---- addresses ---- */

void conn_addr_set(union conn_addr *out, const struct addr *addr)
{
    memset(out, 0, sizeof(*out));
    if (addr->sa.any.sa_family == AF_INET)
        out->in4 = addr->sa.in4;
    else if (addr->sa.any.sa_family == AF_INET6)
        out->in6 = addr->sa.in6;
}

struct addr conn_addr_get(const union conn_addr *addr)
{
    struct addr out = {.len = 0};

    if (addr->any.sa_family == AF_INET) {
        out.len = sizeof(out.sa.in4);
        out.sa.in4 = addr->in4;
    } else if (addr->any.sa_family == AF_INET6) {
        out.len = sizeof(out.sa.in6);
        out.sa.in6 = addr->in6;
    }
    return out;
}

/* ---- making and states ---- */

struct conn *conn_new(struct worker *worker, enum direction direction, struct snapshot *snapshot,
                      const struct link *link, const struct addr *source)
{
    struct conn *conn = mem_try(sizeof(*conn));

    if (conn == NULL)
        return NULL;
    conn->setup = mem_try(sizeof(*conn->setup));
    if (conn->setup == NULL) {
        mem_free(conn);
        return NULL;
    }
    conn->worker = worker;
    list_init(&conn->live);
    conn->direction = (uint8_t)direction;
    conn->state = CONN_ACCEPTED;
    conn->snapshot = snapshot_ref(snapshot);
    conn->asked = worker->live_check.round;
    conn->began_ms = loop_now_ms(worker->loop);
    conn_addr_set(&conn->source, source);
    tls_check_init(&conn->setup->check, loop_clock(worker->loop), worker->cache);
    list_add_tail(&worker->live, &conn->live);
    if (link != NULL)
        conn_set_link(conn, link);
    return conn;
}

void conn_set_link(struct conn *conn, const struct link *link)
{
    CHECK(conn->link == NULL);
    conn->link = link;
    stats_opened(conn->worker->shared->stats, &link->stats);
}

void conn_claim(struct conn *conn, const struct peer *peer)
{
    const char *name;

    if (peer == NULL)
        return;
    name = peer->spiffe_id[0] != '\0' ? peer->spiffe_id : peer->dns_names[0];
    mem_free(conn->setup->claimed);
    conn->setup->claimed = name != NULL ? mem_strdup(name) : NULL;
}

static void conn_on_deadline(void *arg);

/* It is looked at in `ms` at the latest. */
static void conn_look_within(struct conn *conn, uint64_t ms)
{
    if (conn->timer.at_ms > loop_now_ms(conn->worker->loop) + ms)
        timer_start(conn->worker->loop, &conn->timer, ms, conn_on_deadline, conn);
}

/* ---- age ---- */

/* As what is in force has it, which may have moved since the connection began. */
static int64_t conn_plain_until(const struct conn *conn)
{
    const struct snapshot *now = conn->worker->live_check.now;
    const struct link *link =
        now != NULL ? snapshot_link(now, DIRECTION_INBOUND, conn->link->name) : NULL;

    return (link != NULL ? link : conn->link)->permissive_until;
}

/* Who shows no certificate has no end of it; without TLS it is that of the permissive port,
 * whatever the profile keeps. */
static uint64_t conn_left_ms(const struct conn *conn, bool *out_expiry)
{
    const struct loop *loop = conn->worker->loop;
    struct age_moment now = {
        .age_ms = loop_now_ms(loop) - conn->began_ms,
        .now_s = clock_wall_s(loop_clock(loop)),
        .peer_not_after = conn->peer != NULL ? conn->peer->not_after : 0,
    };
    struct age_rule rule = conn->link->age;

    rule.keep |= conn->peer == NULL;
    if (conn->plain) {
        rule.keep = false;
        now.peer_not_after = conn_plain_until(conn);
    }
    return age_left_ms(&rule, &now, out_expiry);
}

static err_t conn_age_err(const struct conn *conn, bool expiry)
{
    if (expiry && conn->plain)
        return FAIL(POLICY_CHANGED, 0);
    return expiry ? FAIL(PEER_EXPIRED, 0) : FAIL(MAX_AGE, 0);
}

/* The side that asks; the other one's answer must not be cut off. */
static unsigned conn_client(const struct conn *conn)
{
    return conn->direction == DIRECTION_OUTBOUND ? RELAY_APP : RELAY_MESH;
}

/* An application that never lets go is told of before it is cut. */
static void conn_report(struct conn *conn, uint64_t left_ms)
{
    char source[ADDR_TEXT_MAX];
    struct addr addr = conn_addr_get(&conn->source);

    if (conn->reported)
        return;
    conn->reported = true;
    addr_format(&addr, source);
    log_limited(LOG_WARN, "conn", "does_not_go",
                (const struct log_field[]){
                    LOG_STR("direction", direction_name((enum direction)conn->direction)),
                    LOG_STR("link", conn->link->name), LOG_STR("source", source),
                    LOG_STR("peer_id", conn->peer != NULL ? conn->peer->spiffe_id : NULL),
                    LOG_UINT("age_ms", loop_now_ms(conn->worker->loop) - conn->began_ms),
                    LOG_UINT("cut_in_ms", left_ms)},
                6);
}

/* What is left is known to the second; in the last one it is looked at often. */
static uint64_t conn_sharp_ms(uint64_t left_ms, bool expiry)
{
    if (!expiry)
        return left_ms;
    return left_ms > AGE_LAST_MS ? left_ms - AGE_LAST_MS : CONN_LAST_LOOK_MS;
}

/* The connection is told to end at a good moment; looked for again in what is returned. */
static err_t conn_let_go(struct conn *conn, uint64_t left_ms, uint64_t *out_next_ms,
                         unsigned *out_side)
{
    uint64_t quiet_ms = age_quiet_ms(left_ms);

    *out_next_ms = quiet_ms / 2;
    if (!relay_is_quiet(&conn->relay, conn_client(conn), loop_now_ms(conn->worker->loop), quiet_ms))
        return OK;
    conn->going = true;
    *out_side = conn_client(conn);
    return relay_end(&conn->relay, conn_client(conn));
}

/* Whether it is too old; otherwise it is looked at again in `*again_ms` at the latest. */
static err_t conn_look_age(struct conn *conn, uint64_t *again_ms, unsigned *out_side)
{
    bool expiry;
    uint64_t left_ms = conn_left_ms(conn, &expiry), next_ms;

    if (left_ms == 0)
        return conn_age_err(conn, expiry);
    if (left_ms == AGE_NO_END)
        return OK;
    next_ms = conn_sharp_ms(left_ms, expiry);
    if (left_ms > conn->drain_ms) {
        next_ms = conn_sharp_ms(left_ms - conn->drain_ms, expiry);
    } else {
        if (age_is_late(conn->drain_ms, left_ms))
            conn_report(conn, left_ms);
        if (!conn->going)
            TRY(conn_let_go(conn, left_ms, &next_ms, out_side));
    }
    if (next_ms < *again_ms)
        *again_ms = next_ms;
    return OK;
}

/* Whether the end has come that somebody set. */
static err_t conn_look_end(const struct conn *conn, uint64_t *again_ms)
{
    uint64_t now_ms = loop_now_ms(conn->worker->loop);

    if (conn->end_ms == 0)
        return OK;
    if (now_ms >= conn->end_ms)
        return (err_t){.code = (enum err_code)conn->end_code};
    if (conn->end_ms - now_ms < *again_ms)
        *again_ms = conn->end_ms - now_ms;
    return OK;
}

/* An open connection: is it idle, stalled, too old, at its end? */
static void conn_look(struct conn *conn)
{
    const struct tunables *tunables = &conn->snapshot->tunables;
    uint64_t again_ms = 0;
    unsigned side = RELAY_APP;
    err_t err = relay_due(&conn->relay, loop_now_ms(conn->worker->loop), conn->link->idle_ms,
                          tunables->stall_ms, &again_ms, &side);

    if (err_is_ok(err)) {
        side = RELAY_APP;
        err = conn_look_end(conn, &again_ms);
    }
    if (err_is_ok(err))
        err = conn_look_age(conn, &again_ms, &side);
    if (err_is_ok(err))
        timer_start(conn->worker->loop, &conn->timer, again_ms, conn_on_deadline, conn);
    else
        conn_close(conn, err, side);
}

static void conn_handshake_failed(struct conn *conn, err_t err, bool alerted);

static void conn_on_deadline(void *arg)
{
    struct conn *conn = arg;

    switch ((enum conn_state)conn->state) {
    case CONN_CONNECTING:
        stats_connect_error(conn->worker->shared->stats, (enum direction)conn->direction,
                            conn->link->name, FAIL(CONNECT_TIMEOUT, 0));
        conn_close(conn, FAIL(CONNECT_TIMEOUT, 0),
                   conn->direction == DIRECTION_OUTBOUND ? RELAY_MESH : RELAY_APP);
        return;
    case CONN_FIRST_BYTE:
        tcp_peek_cancel(conn->setup->mesh);
        conn->setup->first_byte(conn, bytes_of(NULL, 0));
        return;
    case CONN_HANDSHAKE:
        stats_handshake(conn->worker->shared->stats, conn->direction, FAIL(HANDSHAKE_TIMEOUT, 0),
                        0);
        conn_handshake_failed(conn, FAIL(HANDSHAKE_TIMEOUT, 0), false);
        return;
    case CONN_REFUSED:
        conn_close(conn, conn->setup->last, RELAY_MESH);
        return;
    case CONN_OPEN:
    case CONN_DRAINING:
        conn_look(conn);
        return;
    case CONN_ACCEPTED:
    case CONN_CLOSED:
    case CONN_NUM_STATES:
        break;
    }
    err_check_failed("a state without a deadline", ERR_WHERE);
}

static uint64_t conn_deadline_ms(const struct conn *conn)
{
    const struct tunables *tunables = &conn->snapshot->tunables;

    switch ((enum conn_state)conn->state) {
    case CONN_CONNECTING:
        return conn->setup->limit_ms != 0 ? conn->setup->limit_ms : tunables->connect_ms;
    case CONN_FIRST_BYTE:
        return CONN_FIRST_BYTE_MS;
    case CONN_HANDSHAKE:
        return conn->setup->limit_ms != 0 ? conn->setup->limit_ms : tunables->handshake_ms;
    case CONN_OPEN:
    case CONN_DRAINING:
        return relay_look_ms(conn->link->idle_ms);
    case CONN_REFUSED:
        return CONN_LINGER_MS;
    case CONN_ACCEPTED:
    case CONN_CLOSED:
    case CONN_NUM_STATES:
        break;
    }
    return 0;
}

void conn_set_state(struct conn *conn, enum conn_state state)
{
    CHECK(conn_may_move((enum conn_state)conn->state, state));
    conn->state = (uint8_t)state;
    if (state == CONN_CLOSED)
        timer_stop(conn->worker->loop, &conn->timer);
    else
        timer_start(conn->worker->loop, &conn->timer, conn_deadline_ms(conn), conn_on_deadline,
                    conn);
}

/* ---- until it is open ---- */

static void conn_on_early_read(void *arg, struct bytes data)
{
    (void)arg;
    (void)data;
    err_check_failed("read before it was asked for", ERR_WHERE);
}

static void conn_on_early_eof(void *arg)
{
    (void)arg;
    err_check_failed("end seen before reading was asked for", ERR_WHERE);
}

static void conn_on_app_error(void *arg, err_t err)
{
    conn_close(arg, err, RELAY_APP);
}

static void conn_on_mesh_error(void *arg, err_t err)
{
    conn_close(arg, err, RELAY_MESH);
}

/* Neither stream is read before the relay begins: only their breaking is heard of. */
static const struct stream_events conn_app_events = {
    .on_read = conn_on_early_read,
    .on_eof = conn_on_early_eof,
    .on_error = conn_on_app_error,
};
static const struct stream_events conn_mesh_events = {
    .on_read = conn_on_early_read,
    .on_eof = conn_on_early_eof,
    .on_error = conn_on_mesh_error,
};

void conn_take_app(struct conn *conn, struct stream *stream)
{
    conn->setup->app = stream;
    stream_set_events(stream, &conn_app_events, conn);
}

void conn_take_mesh(struct conn *conn, struct stream *stream)
{
    conn->setup->mesh = stream;
    stream_set_events(stream, &conn_mesh_events, conn);
}

/* A refused peer: the alert has been written. Closing now, with bytes of the peer unread, would
 * make the kernel send RST, and the peer might never read why. So: FIN, and what it still sends is
 * thrown away until its FIN comes. */

static void conn_on_linger_read(void *arg, struct bytes data)
{
    struct conn *conn = arg;

    conn->setup->lingered += data.len;
    if (conn->setup->lingered > CONN_LINGER_BYTES)
        conn_close(conn, conn->setup->last, RELAY_MESH);
}

static void conn_on_linger_end(void *arg)
{
    struct conn *conn = arg;

    conn_close(conn, conn->setup->last, RELAY_MESH);
}

static void conn_on_linger_error(void *arg, err_t err)
{
    (void)err;
    conn_on_linger_end(arg);
}

static const struct stream_events conn_linger_events = {
    .on_read = conn_on_linger_read,
    .on_eof = conn_on_linger_end,
    .on_error = conn_on_linger_error,
};

static void conn_count_end(struct conn *conn, enum close_reason reason)
{
    struct stats *stats = conn->worker->shared->stats;

    if (conn->link != NULL)
        stats_closed(stats, conn->direction, &conn->link->stats, conn->link->name, reason);
    else
        stats_refused(stats, conn->direction, reason);
    if (conn->policy != NULL && conn->link != NULL)
        stats_policy_denied(stats, conn->direction, conn->link->name, conn->policy);
    if (conn->plain)
        stats_plaintext_ended(stats, conn->link->name,
                              clock_wall_s(loop_clock(conn->worker->loop)));
}

/* Once: what became of it. */
static void conn_tell_end(struct conn *conn, err_t err, unsigned side)
{
    enum close_reason reason = conn_reason(err, side);
    bool expiry;

    if (conn->logged)
        return;
    if (conn->going && err_is_ok(err)) {
        (void)conn_left_ms(conn, &expiry);
        reason = conn_reason(conn_age_err(conn, expiry), side);
    }
    conn->logged = true;
    conn_tell_bytes(conn);
    conn_count_end(conn, reason);
    access_log_conn(conn, reason, err);
    conn_note_failure(conn, err, side);
}

static void conn_refuse(struct conn *conn, err_t err)
{
    struct stream *lower = tls_lower(conn->setup->mesh);

    conn->setup->last = err;
    if (conn->setup->app != NULL) {
        stream_reset(conn->setup->app);
        conn->setup->app = NULL;
    }
    conn_set_state(conn, CONN_REFUSED);
    conn_tell_end(conn, err, RELAY_MESH);
    if (!err_is_ok(stream_shutdown(lower))) {
        conn_close(conn, err, RELAY_MESH);
        return;
    }
    /* The broken session has nothing more to do with it. */
    stream_set_events(lower, &conn_linger_events, conn);
    stream_read_start(lower);
}

void conn_end_probe(struct conn *conn)
{
    struct stream *mesh = conn->setup->mesh;
    err_t err = FAIL(PROBED, 0);

    conn->setup->last = err;
    conn_set_state(conn, CONN_REFUSED);
    conn_tell_end(conn, err, RELAY_MESH);
    if (!err_is_ok(stream_shutdown(mesh))) {
        conn_close(conn, err, RELAY_MESH);
        return;
    }
    stream_set_events(mesh, &conn_linger_events, conn);
    stream_read_start(mesh);
}

void conn_drop_mesh(struct conn *conn, bool alerted)
{
    struct conn_setup *setup = conn->setup;

    /* FIN behind an alert, which the peer may still read. No lingering for it as in conn_refuse:
     * the application waits. */
    if (alerted && err_is_ok(stream_shutdown(tls_lower(setup->mesh))))
        stream_close(setup->mesh);
    else
        stream_reset(setup->mesh);
    setup->mesh = NULL;
    setup->in_tls = false;
    tls_check_fini(&setup->check);
    tls_check_init(&setup->check, loop_clock(conn->worker->loop), conn->worker->cache);
    mem_free(setup->claimed);
    setup->claimed = NULL;
    conn->policy = NULL;
    conn->handshake_us = 0;
}

static void conn_handshake_failed(struct conn *conn, err_t err, bool alerted)
{
    if (conn->setup->again != NULL && conn->setup->again(conn, err, alerted))
        return;
    if (alerted)
        conn_refuse(conn, err);
    else
        conn_close(conn, err, RELAY_MESH);
}

static void conn_end_handshake_count(struct conn *conn)
{
    if (conn->setup->counts_handshake)
        limits_handshake_end(conn->worker->shared->limits, conn->setup->source);
    conn->setup->counts_handshake = false;
}

static bool conn_peer_is_gone(err_t err)
{
    return err_is(err, E_PEER_RESET) || err_is(err, E_CLOSED) || err_is(err, E_TLS_ALERT);
}

/* A client that was refused behind its handshake: nothing of it can be sent inside any more. */
static void conn_tell_late(struct conn *conn, err_t err)
{
    struct conn_setup *setup = conn->setup;

    if (conn->direction != DIRECTION_INBOUND || !tls_is_open(setup->mesh))
        return;
    tls_abort(setup->mesh, verify_alert(err));
    setup->mesh = NULL;
}

static void conn_count_weak(const struct conn *conn)
{
    struct stats *stats = conn->worker->shared->stats;
    enum direction direction = (enum direction)conn->direction;

    if (conn->peer == NULL)
        stats_weak(stats, direction, conn->link->name,
                   direction == DIRECTION_INBOUND ? WEAK_ANONYMOUS : WEAK_UNVERIFIED, 1);
    if (SSL_version(tls_ssl(conn->setup->mesh)) < TLS1_2_VERSION)
        stats_weak(stats, direction, conn->link->name, WEAK_LEGACY, 1);
}

static void conn_on_handshake(void *arg, err_t err)
{
    struct conn *conn = arg;
    struct conn_setup *setup = conn->setup;
    uint64_t us = clock_mono_us() - setup->handshake_from_us;
    bool alerted = !err_is_ok(err) && !conn_peer_is_gone(err);

    if (!err_is_ok(setup->check.err))
        err = setup->check.err; /* our own verdict: the library only knows that we refused */
    if (conn->direction == DIRECTION_OUTBOUND)
        conn->key = shown_key_of(tls_ssl(setup->mesh));
    else if (setup->check.hello.seen)
        conn->key = shown_key_number(setup->check.hello.random);
    if (err_is_ok(err))
        err = tls_check_finish(&setup->check, tls_ssl(setup->mesh));
    stats_handshake(conn->worker->shared->stats, conn->direction, err, us);
    conn->handshake_us = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
    if (setup->wanted != NULL)
        conn_set_link(conn, setup->wanted);
    if (!err_is_ok(err)) {
        conn_tell_late(conn, err);
        conn_handshake_failed(conn, err, alerted);
        return;
    }
    if (setup->check.peer != NULL)
        conn->peer = peer_ref(setup->check.peer);
    conn->tls = tls_info(setup->mesh);
    conn_count_weak(conn);
    conn_end_handshake_count(conn);
    setup->then(conn);
}

/* The deadline of a handshake is the profile's, once the server knows which that is; it counts from
 * the beginning. */
static void conn_on_chosen(void *arg, int entry)
{
    struct conn *conn = arg;
    uint64_t spent_ms = (clock_mono_us() - conn->setup->handshake_from_us) / 1000;
    uint64_t ms;

    if (conn->direction != DIRECTION_INBOUND || entry < 0 || conn->worker->draining)
        return;
    ms = conn->snapshot->inbound[entry].handshake_ms;
    if (ms != conn->snapshot->tunables.handshake_ms)
        timer_start(conn->worker->loop, &conn->timer, ms > spent_ms ? ms - spent_ms : 0,
                    conn_on_deadline, conn);
}

static void conn_configure_tls(void *arg, SSL *ssl)
{
    struct conn *conn = arg;

    tls_check_attach(&conn->setup->check, ssl);
}

void conn_start_tls(struct conn *conn, SSL_CTX *ctx, enum tls_role role, const char *server_name,
                    err_t (*authorize)(void *arg, int entry, const struct peer *peer),
                    void (*then)(struct conn *conn))
{
    struct conn_setup *setup = conn->setup;
    const struct tls_params params = {
        .ctx = ctx,
        .role = role,
        .server_name = server_name,
        .records = conn->snapshot->tunables.records,
        .configure = conn_configure_tls,
        .arg = conn,
    };
    struct stream *tls;
    err_t err;

    setup->check.authorize = authorize;
    setup->check.chosen = conn_on_chosen;
    setup->check.arg = conn;
    setup->then = then;
    err = tls_new(setup->mesh, &params, &tls);
    if (!err_is_ok(err)) {
        conn_close(conn, err, RELAY_MESH);
        return;
    }
    conn_take_mesh(conn, tls);
    setup->in_tls = true;
    conn_set_state(conn, CONN_HANDSHAKE);
    setup->handshake_from_us = clock_mono_us();
    tls_handshake(tls, conn_on_handshake, conn);
}

/* ---- without TLS ---- */

static void conn_on_first_byte(void *arg, struct bytes first)
{
    struct conn *conn = arg;

    if (first.len == 0) /* it came and went */
        conn_close(conn, OK, RELAY_MESH);
    else
        conn->setup->first_byte(conn, first);
}

void conn_await_first_byte(struct conn *conn, void (*then)(struct conn *conn, struct bytes first))
{
    conn->setup->first_byte = then;
    conn_set_state(conn, CONN_FIRST_BYTE);
    tcp_peek(conn->setup->mesh, conn_on_first_byte, conn);
}

void conn_take_plain(struct conn *conn, const struct link *link)
{
    conn_end_handshake_count(conn);
    conn->plain = true;
    conn_set_link(conn, link);
}

err_t conn_judge(const struct conn *conn, const struct snapshot *now, uint32_t *out_grace_ms)
{
    int64_t now_s = clock_wall_s(loop_clock(conn->worker->loop));

    *out_grace_ms = 0;
    if (conn->plain)
        return authz_plain(now, conn->link, now_s);
    return authz_live(now, conn->link, conn->peer, now_s, out_grace_ms);
}

void conn_blame(struct conn *conn, const struct snapshot *by, const struct link *link,
                const struct peer *peer, err_t err)
{
    conn->policy = err_is(err, E_POLICY_DENIED) ? authz_policy(by, link, peer) : NULL;
}

/* ---- open ---- */

static void conn_setup_free(struct conn *conn)
{
    struct conn_setup *setup = conn->setup;

    conn->setup = NULL;
    turns_end(&setup->turn);
    tls_check_fini(&setup->check);
    mem_free(setup->claimed);
    mem_free(setup->addrs);
    mem_free(setup);
}

static void conn_on_relay_done(void *arg, err_t err, unsigned side)
{
    struct conn *conn = arg;
    bool expiry;

    if (conn->going && err_is(err, E_CLOSED)) { /* a question crossed our end */
        (void)conn_left_ms(conn, &expiry);
        err = conn_age_err(conn, expiry);
    }
    conn_close(conn, err, side);
}

static void conn_begin_age(struct conn *conn)
{
    bool expiry;
    uint64_t left_ms = conn_left_ms(conn, &expiry);

    if (left_ms == AGE_NO_END)
        return;
    conn->drain_ms = age_drain_ms(&conn->link->age, left_ms, random_u32());
    conn_look_within(conn, conn_sharp_ms(left_ms - conn->drain_ms, expiry));
}

/* The idle deadline is far away; a receiver that takes nothing is to be noticed earlier. */
static void conn_on_stall(void *arg)
{
    struct conn *conn = arg;
    uint64_t in_ms = relay_look_ms(conn->snapshot->tunables.stall_ms);

    conn_look_within(conn, in_ms);
}

void conn_open(struct conn *conn)
{
    struct stream *app = conn->setup->app, *mesh = conn->setup->mesh;

    conn_setup_free(conn);
    conn_set_state(conn, CONN_OPEN);
    relay_start(&conn->relay, app, mesh, conn_on_relay_done, conn_on_stall, conn);
    conn_begin_age(conn);
    if (live_opened(&conn->worker->live_check, conn) && conn->worker->draining)
        conn_drain(conn);
}

bool conn_end_within(struct conn *conn, uint64_t ms, err_t err)
{
    uint64_t end_ms = loop_now_ms(conn->worker->loop) + ms;

    CHECK(conn->state == CONN_OPEN || conn->state == CONN_DRAINING);
    if (conn->end_ms != 0 && conn->end_ms <= end_ms)
        return false;
    conn->end_ms = end_ms;
    conn->end_code = (uint16_t)err.code;
    conn_look_within(conn, ms);
    return true;
}

void conn_end_not(struct conn *conn, enum err_code code)
{
    if (conn->end_ms == 0 || conn->end_code != code)
        return;
    conn->end_ms = 0;
    if (conn->state == CONN_DRAINING)
        (void)conn_end_within(conn, conn->snapshot->tunables.drain_ms, FAIL(DRAINING, 0));
}

void conn_drain(struct conn *conn)
{
    if (conn->state == CONN_OPEN) {
        conn_set_state(conn, CONN_DRAINING);
        (void)conn_end_within(conn, conn->snapshot->tunables.drain_ms, FAIL(DRAINING, 0));
    } else if (conn->state == CONN_HANDSHAKE ||
               conn->state == CONN_FIRST_BYTE) { /* those that dawdle are not waited for */
        timer_start(conn->worker->loop, &conn->timer, CONN_DRAIN_HANDSHAKE_MS, conn_on_deadline,
                    conn);
    }
}

void conn_tell_bytes(struct conn *conn)
{
    uint64_t now[2] = {relay_bytes(&conn->relay, RELAY_APP), relay_bytes(&conn->relay, RELAY_MESH)};

    if (conn->link != NULL)
        stats_bytes(conn->worker->shared->stats, &conn->link->stats,
                    now[RELAY_APP] - conn->bytes_told[RELAY_APP],
                    now[RELAY_MESH] - conn->bytes_told[RELAY_MESH]);
    memcpy(conn->bytes_told, now, sizeof(now));
}

/* ---- end ---- */

static void conn_free(void *arg)
{
    struct conn *conn = arg;
    struct worker *worker = conn->worker;

    if (conn->peer != NULL)
        peer_unref(conn->peer);
    snapshot_unref(conn->snapshot);
    mem_free(conn);
    worker_conn_ended(worker);
}

static void conn_close_setup(struct conn *conn, bool refused)
{
    struct conn_setup *setup = conn->setup;

    conn_end_handshake_count(conn);
    names_cancel(&setup->wait);
    if (setup->connecting != NULL)
        tcp_connect_cancel(setup->connecting);
    if (setup->app != NULL)
        stream_reset(setup->app);
    /* Behind an alert that the peer may still read: no RST. */
    if (setup->mesh != NULL && refused)
        stream_close(setup->mesh);
    else if (setup->mesh != NULL)
        stream_reset(setup->mesh);
    conn_setup_free(conn);
}

/* Where we end it for what the peer is, its sidecar is told so by an alert and can say why. */
static void conn_close_relay(struct conn *conn, err_t err)
{
    bool judged = err_is(err, E_PEER_REVOKED) || err_is(err, E_POLICY_CHANGED) ||
                  err_is(err, E_POLICY_DENIED) || err_is(err, E_TRUST_CHANGED) ||
                  err_is(err, E_PEER_EXPIRED) || err_is(err, E_MAX_AGE);
    struct stream *mesh = judged && !conn->plain ? relay_take(&conn->relay, RELAY_MESH) : NULL;

    if (judged)
        stats_ended(conn->worker->shared->stats, conn_reason(err, RELAY_MESH),
                    loop_now_ms(conn->worker->loop) - conn->began_ms);
    if (mesh != NULL)
        tls_abort(mesh, verify_alert(err));
    relay_abort(&conn->relay);
}

void conn_close(struct conn *conn, err_t err, unsigned side)
{
    enum conn_state was = (enum conn_state)conn->state;

    conn_set_state(conn, CONN_CLOSED);
    limits_connection_end(conn->worker->shared->limits); /* before anybody can read that it ended */
    conn_tell_end(conn, err, side);
    if (conn->setup != NULL)
        conn_close_setup(conn, was == CONN_REFUSED);
    else
        conn_close_relay(conn, err);
    list_del(&conn->live);
    loop_defer(conn->worker->loop, conn_free, conn);
}
