#include "proxy/ports.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/net/listener.h"
#include "proxy/capture.h"
#include "proxy/plaintext.h"
#include "proxy/redirect/probe_port.h"
#include "proxy/worker.h"

#define PORTS_CAPTURE "--capture-port"

/* One address that is listened on. */
struct port {
    struct list link;
    struct ports *ports;
    struct listener *listener;
    struct addr addr;
    /* Of the snapshot in force: an outbound link, or an inbound one with a permissive port; NULL:
     * the inbound listener. */
    const struct link *of;
    unsigned turn; /* the endpoint that the next connection begins with */
    bool captures; /* what comes here was meant to go elsewhere */
    bool started;
    bool wanted; /* by the snapshot being applied */
};

struct ports {
    struct worker *worker;
    struct list list;
    struct snapshot *snapshot;
    struct capture *capture;
    bool closed;
};

struct ports *ports_new(struct worker *worker)
{
    struct ports *ports = mem_zalloc(sizeof(*ports));

    ports->worker = worker;
    list_init(&ports->list);
    ports->capture = capture_new(worker->loop, &worker->shared->capture);
    return ports;
}

static void port_close(struct port *port)
{
    list_del(&port->link);
    listener_close(port->listener);
    mem_free(port);
}

void ports_close(struct ports *ports)
{
    ports->closed = true;
    capture_set(ports->capture, false);
    while (!list_empty(&ports->list))
        port_close(LIST_ITEM(ports->list.next, struct port, link));
}

void ports_free(struct ports *ports)
{
    ports_close(ports);
    capture_free(ports->capture);
    if (ports->snapshot != NULL)
        snapshot_unref(ports->snapshot);
    mem_free(ports);
}

/* ---- accepting ---- */

static void port_turn_away(struct port *port, int fd, enum shed shed)
{
    static const struct linger abort_it = {.l_onoff = 1, .l_linger = 0};

    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it));
    (void)close(fd);
    stats_shed(port->ports->worker->shared->stats, shed);
}

/* False: it was a trial of the capture itself. */
static bool port_find_route(const struct port *port, struct worker_accepted *accepted)
{
    struct ports *ports = port->ports;

    accepted->captured = true;
    if (!err_is_ok(capture_destination(accepted->fd, &accepted->destination)))
        return true;
    if (snapshot_is_endpoint(ports->snapshot, &accepted->destination)) {
        /* Our own, on its way to a peer: it would be sent to itself again and again. */
        accepted->destination.len = 0;
        return true;
    }
    if (capture_takes(ports->capture, &accepted->destination))
        return false;
    accepted->link = snapshot_route(ports->snapshot, &accepted->destination);
    return true;
}

static bool port_is_inbound(const struct port *port)
{
    return !port->captures && (port->of == NULL || port->of->direction == DIRECTION_INBOUND);
}

static void port_on_accept(void *arg, int fd, const struct addr *peer)
{
    struct port *port = arg;
    struct snapshot *snapshot = port->ports->snapshot;
    struct worker_shared *shared = port->ports->worker->shared;
    struct worker_accepted accepted = {.fd = fd, .source = *peer, .link = port->of};
    enum shed shed;

    if (port->captures && !port_find_route(port, &accepted)) {
        (void)close(fd);
        return;
    }
    if (snapshot_expired(snapshot, clock_wall_s(shared->clock))) {
        port_turn_away(port, fd, SHED_EXPIRED);
        return;
    }
    if (!limits_connection_begin(shared->limits, &snapshot->tunables)) {
        port_turn_away(port, fd, SHED_CONNECTIONS);
        return;
    }
    if (port_is_inbound(port) && !limits_handshake_begin(shared->limits, &snapshot->tunables, peer,
                                                         &accepted.limit_source, &shed)) {
        limits_connection_end(shared->limits);
        port_turn_away(port, fd, shed);
        return;
    }
    accepted.snapshot = snapshot_ref(snapshot);
    accepted.first_endpoint = port->turn++;
    worker_give(worker_least_loaded(shared), &accepted);
}

static void port_on_turned_away(void *arg)
{
    const struct port *port = arg;

    stats_shed(port->ports->worker->shared->stats, SHED_RESOURCES);
}

/* ---- applying ---- */

static struct port *ports_find(struct ports *ports, const struct addr *addr)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &ports->list) {
        struct port *port = LIST_ITEM(pos, struct port, link);

        if (addr_equal(&port->addr, addr))
            return port;
    }
    return NULL;
}

/* `path` NULL: a host without such an address goes without the listener. */
static void ports_want(struct ports *ports, const struct addr *addr, const char *path,
                       struct faults *faults)
{
    struct port *port = ports_find(ports, addr);
    struct listener_params params = {
        .addr = *addr, .on_accept = port_on_accept, .on_turned_away = port_on_turned_away};
    char text[ADDR_TEXT_MAX];
    err_t err;

    if (port == NULL) {
        port = mem_zalloc(sizeof(*port));
        params.arg = port;
        err = listener_new(ports->worker->loop, &params, &port->listener);
        if (!err_is_ok(err)) {
            mem_free(port);
            if (path == NULL && err_is(err, E_IO) &&
                (err.sub == EADDRNOTAVAIL || err.sub == EAFNOSUPPORT))
                return;
            addr_format(addr, text);
            faults_add(faults, path != NULL ? path : PORTS_CAPTURE, "cannot listen on %s: %s", text,
                       err_is(err, E_IO) ? strerror(err.sub) : err_text(err.code));
            return;
        }
        port->ports = ports;
        port->addr = *addr;
        list_add_tail(&ports->list, &port->link);
    }
    port->wanted = true;
}

/* Both loopback addresses; false: the snapshot captures nothing. */
static bool ports_capture_addr(const struct snapshot *snapshot, bool in6, struct addr *out)
{
    CHECK(err_is_ok(addr_parse(in6 ? "[::1]:0" : "127.0.0.1:0", out)));
    addr_set_port(out, snapshot->tunables.capture_port);
    return snapshot->tunables.capture_port != 0;
}

static bool ports_is_capture(const struct snapshot *snapshot, const struct addr *addr)
{
    struct addr own;

    for (int in6 = 0; in6 < 2; in6++) {
        if (ports_capture_addr(snapshot, in6 != 0, &own) && addr_equal(&own, addr))
            return true;
    }
    return false;
}

static void ports_bind_capture(struct ports *ports, const struct snapshot *snapshot,
                               struct faults *faults)
{
    for (int in6 = 0; in6 < 2; in6++) {
        const char *other;
        struct addr addr;

        if (!ports_capture_addr(snapshot, in6 != 0, &addr))
            return;
        other = snapshot_own_listener(snapshot, &addr);
        if (other == NULL) {
            addr_set_port(&addr, REDIRECT_PROBE_PORT);
            other = snapshot_own_listener(snapshot, &addr);
            if (other != NULL) {
                faults_add(faults, PORTS_CAPTURE, "is tried at port %d, where \"%s\" listens",
                           REDIRECT_PROBE_PORT, other);
                continue;
            }
            addr_set_port(&addr, snapshot->tunables.capture_port);
        }
        if (other != NULL)
            faults_add(faults, PORTS_CAPTURE, "%u is where \"%s\" listens",
                       snapshot->tunables.capture_port, other);
        else
            ports_want(ports, &addr, in6 != 0 ? NULL : PORTS_CAPTURE, faults);
    }
}

static void ports_bind(struct ports *ports, const struct snapshot *snapshot, struct faults *faults)
{
    struct fault_path path = {.len = 0};

    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        size_t mark = fault_path_field(&path, "outbound");

        (void)fault_path_index(&path, i);
        (void)fault_path_field(&path, "listen");
        if (snapshot->outbound[i].listen.len != 0)
            ports_want(ports, &snapshot->outbound[i].listen, path.text, faults);
        fault_path_pop(&path, mark);
    }
    if (snapshot->inbound_listen.len != 0)
        ports_want(ports, &snapshot->inbound_listen, "inbound.listen", faults);
    for (size_t i = 0; i < snapshot->num_inbound; i++) {
        char field[64];

        (void)snprintf(field, sizeof(field), "inbound.links[%zu].permissive.port", i);
        if (snapshot->inbound[i].permissive_listen.len != 0)
            ports_want(ports, &snapshot->inbound[i].permissive_listen, field, faults);
    }
    ports_bind_capture(ports, snapshot, faults);
}

/* Closes what is not wanted (`wanted` false), or, after a fault, what was bound just now. */
static void ports_sweep(struct ports *ports, bool fault)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &ports->list) {
        struct port *port = LIST_ITEM(pos, struct port, link);

        if (fault ? !port->started : !port->wanted)
            port_close(port);
    }
}

static const struct link *ports_link_of(const struct snapshot *snapshot, const struct addr *addr)
{
    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        if (addr_equal(&snapshot->outbound[i].listen, addr))
            return &snapshot->outbound[i];
    }
    for (size_t i = 0; i < snapshot->num_inbound; i++) {
        if (addr_equal(&snapshot->inbound[i].permissive_listen, addr))
            return &snapshot->inbound[i];
    }
    return NULL;
}

err_t ports_try(struct ports *ports, const struct snapshot *snapshot, struct faults *faults)
{
    if (ports->closed)
        return FAIL(DRAINING, 0);
    ports_bind(ports, snapshot, faults);
    ports_sweep(ports, true);
    return faults_err(faults);
}

static void ports_tell_permissive(const struct ports *ports, const struct snapshot *old,
                                  const struct snapshot *now)
{
    struct stats *stats = ports->worker->shared->stats;

    for (size_t i = 0; old != NULL && i < old->num_inbound; i++) {
        const char *name = old->inbound[i].name;
        const struct link *then = snapshot_link(now, DIRECTION_INBOUND, name);

        if (old->inbound[i].permissive_listen.len == 0 ||
            (then != NULL && then->permissive_listen.len != 0))
            continue;
        stats_permissive(stats, name, 0);
        plaintext_forget(stats_plaintext_uses(stats), name);
    }
    for (size_t i = 0; i < now->num_inbound; i++) {
        if (now->inbound[i].permissive_listen.len != 0)
            stats_permissive(stats, now->inbound[i].name, now->inbound[i].permissive_until);
    }
}

err_t ports_apply(struct ports *ports, struct snapshot *snapshot, struct faults *faults)
{
    struct snapshot *old = ports->snapshot;
    struct list *pos, *tmp;

    if (ports->closed)
        return FAIL(DRAINING, 0);
    LIST_EACH (pos, tmp, &ports->list)
        LIST_ITEM(pos, struct port, link)->wanted = false;
    ports_bind(ports, snapshot, faults);
    if (faults->total > 0) {
        ports_sweep(ports, true);
        return faults_err(faults);
    }
    ports->snapshot = snapshot_ref(snapshot);
    ports_sweep(ports, false);
    ports_tell_permissive(ports, old, snapshot);
    LIST_EACH (pos, tmp, &ports->list) {
        struct port *port = LIST_ITEM(pos, struct port, link);

        port->of = ports_link_of(snapshot, &port->addr);
        port->captures = ports_is_capture(snapshot, &port->addr);
        if (!port->started)
            listener_start(port->listener);
        port->started = true;
    }
    capture_set(ports->capture, snapshot->tunables.capture_port != 0);
    if (old != NULL)
        snapshot_unref(old);
    return OK;
}
