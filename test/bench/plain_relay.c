/* plain_relay copies bytes between two ports on the product's own loop, sockets and relay: what the
 * same hops cost without TLS. One thread; ends at SIGTERM.
 *
 *     plain_relay LISTEN CONNECT        addresses, as 127.0.0.1:80 */
#include <stdio.h>
#include <sys/resource.h>

#include "lib/base/mem.h"
#include "lib/net/addr.h"
#include "lib/net/listener.h"
#include "lib/net/loop.h"
#include "lib/net/tcp.h"
#include "proxy/relay.h"

static struct loop *loop;
static struct addr target;

struct hop {
    struct stream *app;
    struct relay relay;
};

static void hop_free(void *arg)
{
    mem_free(arg);
}

static void hop_on_done(void *arg, err_t err, unsigned side)
{
    (void)err;
    (void)side;
    loop_defer(loop, hop_free, arg);
}

static void hop_on_stall(void *arg)
{
    (void)arg;
}

static void hop_on_connected(void *arg, err_t err, struct stream *stream)
{
    struct hop *hop = arg;

    if (err_is_ok(err)) {
        relay_start(&hop->relay, hop->app, stream, hop_on_done, hop_on_stall, hop);
        return;
    }
    stream_reset(hop->app);
    mem_free(hop);
}

static void hop_on_early_error(void *arg, err_t err)
{
    (void)arg;
    (void)err; /* seen again as soon as the relay reads or writes */
}

static void hop_begin(void *arg, int fd, const struct addr *peer)
{
    static const struct stream_events events = {.on_error = hop_on_early_error};
    struct tcp_connect *attempt;
    struct hop *hop = mem_zalloc(sizeof(*hop));

    (void)arg;
    (void)peer;
    if (!err_is_ok(tcp_new(loop, fd, &hop->app))) {
        mem_free(hop);
        return;
    }
    stream_set_events(hop->app, &events, hop);
    if (!err_is_ok(tcp_connect(loop, &target, 0, hop_on_connected, hop, &attempt))) {
        stream_reset(hop->app);
        mem_free(hop);
    }
}

static void descriptors_raise(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    struct listener_params params = {.on_accept = hop_begin};
    struct listener *listener;

    if (argc != 3 || !err_is_ok(addr_parse(argv[1], &params.addr)) ||
        !err_is_ok(addr_parse(argv[2], &target))) {
        (void)fprintf(stderr, "usage: plain_relay LISTEN CONNECT\n");
        return 2;
    }
    descriptors_raise();
    loop = loop_new(&clock_system);
    if (!err_is_ok(listener_new(loop, &params, &listener))) {
        (void)fprintf(stderr, "plain_relay: cannot listen on %s\n", argv[1]);
        return 1;
    }
    listener_start(listener);
    loop_run(loop);
    return 0;
}
