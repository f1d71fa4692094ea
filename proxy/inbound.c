#include "proxy/inbound.h"

#include <unistd.h>

#include "proxy/authz.h"
#include "proxy/conn.h"

/* Inside the handshake: an answer, and a note of whom the peer wanted to reach. */
static err_t inbound_authorize(void *arg, int entry, const struct peer *peer)
{
    struct conn *conn = arg;
    struct conn_setup *setup = conn->setup;
    err_t err = authz_client(conn->snapshot, entry, peer,
                             clock_wall_s(loop_clock(conn->worker->loop)), &setup->wanted);

    if (err_is_ok(err))
        return OK;
    if (err_is(err, E_POLICY_DENIED))
        conn_blame(conn, conn->snapshot, setup->wanted, peer, err);
    else if (entry >= 0)
        setup->wanted = &conn->snapshot->inbound[entry];
    conn_claim(conn, peer);
    return err;
}

static void inbound_on_connected(void *arg, err_t err, struct stream *stream)
{
    struct conn *conn = arg;

    conn->setup->connecting = NULL;
    if (!err_is_ok(err)) {
        stats_connect_error(conn->worker->shared->stats, DIRECTION_INBOUND, conn->link->name, err);
        conn_close(conn, err, RELAY_APP);
        return;
    }
    conn_take_app(conn, stream);
    conn_open(conn);
}

static void inbound_connect(struct conn *conn)
{
    const struct link *link = conn->link;
    err_t err;

    if (conn->setup->in_tls && tls_is_probe(tls_ssl(conn->setup->mesh))) {
        conn_end_probe(conn);
        return;
    }
    CHECK(link != NULL); /* authorize was asked, or it comes by a permissive port */
    conn_set_state(conn, CONN_CONNECTING);
    conn_addr_set(&conn->destination, &link->target);
    err = tcp_connect(conn->worker->loop, &link->target, conn->snapshot->tunables.connect_ms,
                      inbound_on_connected, conn, &conn->setup->connecting);
    if (!err_is_ok(err)) {
        stats_connect_error(conn->worker->shared->stats, DIRECTION_INBOUND, link->name, err);
        conn_close(conn, err, RELAY_APP);
    }
}

static void inbound_handshake(struct conn *conn)
{
    conn_start_tls(conn, tls_ctx_ssl(conn->snapshot->server), TLS_SERVER, NULL, inbound_authorize,
                   inbound_connect);
}

/* At a permissive port. What begins as TLS has to prove itself as anywhere. */
static void inbound_on_first_byte(struct conn *conn, struct bytes first)
{
    const struct link *link = conn->setup->wanted;
    int64_t now_s = clock_wall_s(loop_clock(conn->worker->loop));
    err_t err = authz_plain(conn->snapshot, link, now_s);
    struct addr source;

    conn->setup->wanted = NULL;
    if (first.len > 0 && first.ptr[0] == SSL3_RT_HANDSHAKE) {
        inbound_handshake(conn);
    } else if (!link_is_permissive(link, now_s)) {
        conn_close(conn, FAIL(TLS_NOT_TLS, 0), RELAY_MESH);
    } else if (!err_is_ok(err)) {
        conn_set_link(conn, link);
        conn_blame(conn, conn->snapshot, link, NULL, err);
        conn_close(conn, err, RELAY_MESH);
    } else {
        conn_take_plain(conn, link);
        source = conn_addr_get(&conn->source);
        stats_plaintext(conn->worker->shared->stats, link->name, now_s, &source);
        inbound_connect(conn);
    }
}

void inbound_start(struct worker *worker, const struct worker_accepted *accepted)
{
    struct conn *conn =
        conn_new(worker, DIRECTION_INBOUND, accepted->snapshot, NULL, &accepted->source);
    struct stream *mesh;
    err_t err;

    if (conn == NULL) {
        (void)close(accepted->fd);
        stats_shed(worker->shared->stats, SHED_RESOURCES);
        limits_handshake_end(worker->shared->limits, accepted->limit_source);
        limits_connection_end(worker->shared->limits);
        worker_conn_ended(worker);
        return;
    }
    conn->setup->source = accepted->limit_source;
    conn->setup->counts_handshake = true;
    err = tcp_new(worker->loop, accepted->fd, &mesh);
    if (!err_is_ok(err)) {
        conn_close(conn, err, RELAY_MESH);
        return;
    }
    conn_take_mesh(conn, mesh);
    if (accepted->link == NULL) {
        inbound_handshake(conn);
        return;
    }
    conn->setup->wanted = accepted->link;
    conn_await_first_byte(conn, inbound_on_first_byte);
}
