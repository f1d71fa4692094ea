/* What conn.h tells failures.h of a connection that failed. */
#include "proxy/conn.h"
#include "proxy/failures.h"
#include "proxy/worker.h"

/* A server of TLS 1.3 judges its client when that one is done with the handshake: what comes so
 * soon, and before any byte, is its verdict. */
#define CONN_VERDICT_MS 10000

static bool conn_is_verdict(const struct conn *conn, err_t err)
{
    bool ended = err_is(err, E_TLS_ALERT) || err_is(err, E_TLS_TRUNCATED) ||
                 err_is(err, E_CLOSED) || err_is(err, E_PEER_RESET);

    return ended && conn->direction == DIRECTION_OUTBOUND &&
           relay_bytes(&conn->relay, RELAY_MESH) == 0 &&
           loop_now_ms(conn->worker->loop) - conn->began_ms < CONN_VERDICT_MS;
}

/* Whether the two sidecars, or the server's application, are to blame: not our own end, and not a
 * client's application that went away. */
static bool conn_has_failed(const struct conn *conn, err_t err, unsigned side)
{
    if (err_is_ok(err) || err_is(err, E_CANCELLED) || err_is(err, E_DRAINING) ||
        err_is(err, E_PROBED))
        return false;
    if (side == RELAY_APP && conn->direction == DIRECTION_OUTBOUND)
        return false;
    return conn->setup != NULL || (side == RELAY_MESH && conn_is_verdict(conn, err));
}

static void conn_failure_of_setup(const struct conn *conn, unsigned side, struct failures_new *out)
{
    const struct conn_setup *setup = conn->setup;
    int fd;

    out->peer_id = setup->claimed;
    if (out->link == NULL && conn->direction == DIRECTION_INBOUND && setup->check.entry >= 0)
        out->link = conn->snapshot->inbound[setup->check.entry].name; /* that it asked for */
    if (setup->check.hello.seen) {
        out->hello = &setup->check.hello;
        out->key = shown_key_number(setup->check.hello.random);
    }
    if (setup->in_tls && setup->mesh != NULL) {
        out->ssl = tls_ssl(setup->mesh);
        if (out->key == 0)
            out->key = shown_key_of(out->ssl);
        fd = tcp_fd(tls_lower(setup->mesh));
        if (fd < 0 || !err_is_ok(addr_of_local(fd, &out->local)))
            out->local.len = 0;
    }
    if (side == RELAY_APP) /* the application's address */
        out->local = conn_addr_get(&conn->destination);
}

void conn_note_failure(const struct conn *conn, err_t err, unsigned side)
{
    struct failures *failures = conn->worker->shared->failures;
    struct failures_new add = {
        .direction = (enum direction)conn->direction,
        .link = conn->link != NULL ? conn->link->name : NULL,
        .reason = conn_reason(err, side),
        .err = err,
        .policy = conn->policy,
        .key = conn->key,
        .peer = conn_addr_get(conn->direction == DIRECTION_OUTBOUND ? &conn->destination
                                                                    : &conn->source),
        .now_ms = clock_wall_us() / 1000,
    };

    if (failures == NULL || !conn_has_failed(conn, err, side))
        return;
    if (conn->setup != NULL)
        conn_failure_of_setup(conn, side, &add);
    else if (conn->peer != NULL)
        add.peer_id = conn->peer->spiffe_id;
    failures_note(failures, &add);
}
