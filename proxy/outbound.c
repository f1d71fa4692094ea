#include "proxy/outbound.h"

#include <unistd.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "proxy/authz.h"
#include "proxy/conn.h"

/* A peer under load has answered by then; a shorter handshake would only fail elsewhere, too. */
#define OUTBOUND_HANDSHAKE_MIN_MS 2000

static void outbound_try_next(struct conn *conn);

static err_t outbound_authorize(void *arg, int entry, const struct peer *peer)
{
    struct conn *conn = arg;

    err_t err = authz_server(conn->snapshot, conn->link, peer,
                             clock_wall_s(loop_clock(conn->worker->loop)));

    (void)entry;
    if (!err_is_ok(err))
        conn_claim(conn, peer);
    conn_blame(conn, conn->snapshot, conn->link, peer, err);
    return err;
}

/* Our own inbound listener, under whatever address of this host it was reached. */
static bool outbound_is_loop(const struct conn *conn, int fd)
{
    const struct addr *listen = &conn->snapshot->inbound_listen;
    struct addr local, remote;

    if (!err_is_ok(addr_of_peer(fd, &remote)))
        return false;
    if (snapshot_own_listener(conn->snapshot, &remote) != NULL)
        return true;
    if (listen->len == 0 || addr_port(listen) != addr_port(&remote) ||
        !err_is_ok(addr_of_local(fd, &local)))
        return false;
    /* From and to the same address: the other end is on this host. */
    addr_set_port(&local, addr_port(&remote));
    return addr_equal(&local, &remote) && !addr_is_loopback(&remote);
}

static void outbound_attempt_failed(struct conn *conn, err_t err)
{
    conn->setup->last = err;
    stats_connect_error(conn->worker->shared->stats, DIRECTION_OUTBOUND, conn->link->name, err);
    outbound_try_next(conn);
}

/* How many attempts are left behind the one in hand. */
static size_t outbound_num_next(const struct conn *conn)
{
    const struct conn_setup *setup = conn->setup;

    return conn->link->num_endpoints - setup->num_tried + setup->num_addrs - setup->next_addr;
}

/* Time for one attempt: an even share of what is left, so that one silent endpoint does not take
 * all of it, and not less than `min_ms` while there is that much. */
static uint64_t outbound_share_ms(const struct conn *conn, uint64_t left_ms, uint64_t min_ms)
{
    uint64_t share_ms = left_ms / (outbound_num_next(conn) + 1);

    if (share_ms < min_ms)
        share_ms = min_ms;
    return share_ms < left_ms ? share_ms : left_ms;
}

static void outbound_on_connected(void *arg, err_t err, struct stream *stream)
{
    struct conn *conn = arg;

    conn->setup->connecting = NULL;
    if (!err_is_ok(err)) {
        outbound_attempt_failed(conn, err);
        return;
    }
    if (outbound_is_loop(conn, tcp_fd(stream))) {
        stream_reset(stream);
        outbound_attempt_failed(conn, FAIL(LOOP_DETECTED, 0));
        return;
    }
    turns_connected(&conn->setup->turn);
    conn_take_mesh(conn, stream);
    conn->setup->limit_ms =
        outbound_share_ms(conn, conn->setup->handshake_left_ms, OUTBOUND_HANDSHAKE_MIN_MS);
    conn_start_tls(conn, tls_ctx_ssl(conn->link->tls), TLS_CLIENT, conn->link->server_name,
                   outbound_authorize, conn_open);
}

/* For connecting, all attempts together. */
static uint64_t outbound_left_ms(const struct conn *conn)
{
    uint64_t now_ms = loop_now_ms(conn->worker->loop);

    return conn->setup->until_ms > now_ms ? conn->setup->until_ms - now_ms : 0;
}

static uint64_t outbound_attempt_ms(const struct conn *conn)
{
    return outbound_share_ms(conn, outbound_left_ms(conn), CONN_CONNECT_MIN_MS);
}

static void outbound_connect(struct conn *conn, const struct addr *to)
{
    uint64_t ms = outbound_attempt_ms(conn);
    err_t err;

    if (ms == 0) {
        conn_close(conn, FAIL(CONNECT_TIMEOUT, 0), RELAY_MESH);
        return;
    }
    conn_addr_set(&conn->destination, to);
    /* Not even connected: our own listener would accept it and begin another, without end. */
    if (snapshot_own_listener(conn->snapshot, to) != NULL) {
        outbound_attempt_failed(conn, FAIL(LOOP_DETECTED, 0));
        return;
    }
    err = tcp_connect(conn->worker->loop, to, ms, outbound_on_connected, conn,
                      &conn->setup->connecting);
    if (!err_is_ok(err)) { /* no descriptor, no memory: another endpoint is no help */
        stats_connect_error(conn->worker->shared->stats, DIRECTION_OUTBOUND, conn->link->name, err);
        conn_close(conn, err, RELAY_MESH);
    }
}

static void outbound_on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct conn *conn = arg;
    struct conn_setup *setup = conn->setup;

    if (!err_is_ok(err)) {
        outbound_attempt_failed(conn, err);
        return;
    }
    /* Each connection begins with the next address, as with endpoints. */
    mem_free(setup->addrs);
    setup->addrs = mem_array(num, sizeof(*addrs));
    for (size_t i = 0; i < num; i++)
        setup->addrs[i] = addrs[(setup->first_endpoint / conn->link->num_endpoints + i) % num];
    setup->num_addrs = num;
    setup->next_addr = 0;
    outbound_try_next(conn);
}

/* The next address of the name in hand, or else the next endpoint. */
static void outbound_try_next(struct conn *conn)
{
    struct conn_setup *setup = conn->setup;
    const struct link *link = conn->link;
    const struct endpoint *endpoint;

    if (setup->next_addr < setup->num_addrs) {
        outbound_connect(conn, &setup->addrs[setup->next_addr++]);
        return;
    }
    if (setup->num_tried == link->num_endpoints) {
        conn_close(conn, link->num_endpoints == 0 ? FAIL(NO_ENDPOINT, 0) : setup->last, RELAY_MESH);
        return;
    }
    endpoint = &link->endpoints[(setup->first_endpoint + setup->num_tried++) % link->num_endpoints];
    if (endpoint->addr.len != 0)
        outbound_connect(conn, &endpoint->addr);
    else
        names_get(conn->worker->names, endpoint->text, outbound_attempt_ms(conn), &setup->wait,
                  outbound_on_resolved, conn);
}

static void outbound_on_turn(void *arg)
{
    outbound_try_next(arg);
}

/* ---- the next endpoint after a failed handshake ---- */

static void outbound_tell_failed(const struct conn *conn, err_t err)
{
    struct addr addr = conn_addr_get(&conn->destination);
    char destination[ADDR_TEXT_MAX];

    addr_format(&addr, destination);

    const struct log_field fields[] = {
        LOG_STR("link", conn->link->name),
        LOG_STR("destination", destination),
        LOG_STR("claimed_id", conn->setup->claimed),
        LOG_STR("reason", close_reason_name(conn_reason(err, RELAY_MESH))),
        LOG_STR("error", err_name(err.code)),
        err.sub != 0 ? LOG_INT("error_sub", err.sub) : LOG_STR("error_sub", NULL),
    };

    log_limited(LOG_WARN, "outbound", "endpoint_failed", fields, ARRAY_LEN(fields));
}

static bool outbound_is_ours(err_t err)
{
    enum close_reason reason = conn_reason(err, RELAY_MESH);

    return reason == CLOSE_INTERNAL || reason == CLOSE_RESOURCES;
}

/* Nothing of the application was read yet, so whoever failed here, an impostor too, got nothing,
 * and another endpoint may serve the whole connection. Connecting and handshakes each have their
 * time for all attempts together: connecting's clock stands still in a handshake. */
static bool outbound_again(struct conn *conn, err_t err, bool alerted)
{
    struct conn_setup *setup = conn->setup;
    uint64_t spent_ms = (clock_mono_us() - setup->handshake_from_us) / 1000;

    if (outbound_num_next(conn) == 0 || conn->worker->draining || outbound_is_ours(err) ||
        spent_ms >= setup->handshake_left_ms)
        return false;
    setup->handshake_left_ms -= spent_ms;
    setup->until_ms += spent_ms;
    setup->limit_ms = outbound_left_ms(conn);
    if (setup->limit_ms == 0)
        return false;
    outbound_tell_failed(conn, err);
    conn_note_failure(conn, err, RELAY_MESH);
    stats_connect_error(conn->worker->shared->stats, DIRECTION_OUTBOUND, conn->link->name, err);
    setup->last = err;
    conn_drop_mesh(conn, alerted);
    conn_set_state(conn, CONN_CONNECTING);
    turns_end(&setup->turn); /* to connect is another turn: who waits for the network holds none */
    turns_take(conn->worker->turns, conn->link->name, &setup->turn, outbound_on_turn, conn);
    return true;
}

/* Captured, and no link goes there. The application reads that nobody listens. */
static void outbound_refuse(struct conn *conn, const struct addr *destination)
{
    if (destination->len == 0) {
        conn_close(conn, FAIL(LOOP_DETECTED, 0), RELAY_APP);
        return;
    }
    conn_addr_set(&conn->destination, destination);
    conn_close(conn, FAIL(NO_ROUTE, 0), RELAY_APP);
}

void outbound_start(struct worker *worker, const struct worker_accepted *accepted)
{
    struct conn *conn =
        conn_new(worker, DIRECTION_OUTBOUND, accepted->snapshot, accepted->link, &accepted->source);
    struct stream *app;
    err_t err;

    if (conn == NULL) {
        (void)close(accepted->fd);
        stats_shed(worker->shared->stats, SHED_RESOURCES);
        limits_connection_end(worker->shared->limits);
        worker_conn_ended(worker);
        return;
    }
    err = tcp_new(worker->loop, accepted->fd, &app);
    if (!err_is_ok(err)) {
        conn_close(conn, err, RELAY_APP);
        return;
    }
    conn_take_app(conn, app);
    if (accepted->link == NULL) {
        outbound_refuse(conn, &accepted->destination);
        return;
    }
    conn->setup->first_endpoint = accepted->first_endpoint;
    conn->setup->until_ms = conn->began_ms + accepted->snapshot->tunables.connect_ms;
    conn->setup->handshake_left_ms = accepted->link->handshake_ms;
    conn->setup->again = outbound_again;
    conn_set_state(conn, CONN_CONNECTING); /* its deadline holds for waiting, too */
    turns_take(worker->turns, conn->link->name, &conn->setup->turn, outbound_on_turn, conn);
}
