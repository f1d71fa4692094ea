#include "test/unit/proxy/flow.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proxy/access_log.h"
#include "proxy/ports.h"

static void keep_line(void *arg, const char *line, size_t len)
{
    struct flow *flow = arg;

    (void)pthread_mutex_lock(&flow->lock);
    if (flow->lines_len + len < sizeof(flow->lines)) {
        memcpy(flow->lines + flow->lines_len, line, len);
        flow->lines_len += len;
        flow->lines[flow->lines_len] = '\0';
    }
    (void)pthread_cond_broadcast(&flow->more);
    (void)pthread_mutex_unlock(&flow->lock);
}

bool flow_line_has(struct flow *flow, const char *text)
{
    bool found;

    (void)pthread_mutex_lock(&flow->lock);
    found = strstr(flow->lines, text) != NULL;
    (void)pthread_mutex_unlock(&flow->lock);
    return found;
}

/* Lines are written by other threads: waits until one has `text`, ten seconds at most. */
void flow_wait_for_line(struct flow *flow, const char *text)
{
    for (int i = 0; i < 2000 && !flow_line_has(flow, text); i++)
        (void)poll(NULL, 0, 5);
    if (!flow_line_has(flow, text))
        print_message("%s", flow->lines);
    assert_true(flow_line_has(flow, text));
}

int flow_bound_socket(uint16_t *out_port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    *out_port = ntohs(addr.sin_port);
    return fd;
}

void flow_side_init(struct flow_side *side, size_t num_workers)
{
    side->stats = stats_new();
    side->shared.stats = side->stats;
    side->shared.limits = limits_new();
    side->shared.clock = &clock_system;
    side->shared.num_workers = num_workers;
    side->shared.workers = mem_array(num_workers, sizeof(struct worker *));
    for (size_t i = 0; i < num_workers; i++)
        side->shared.workers[i] = worker_new(&side->shared, (unsigned)i);
    for (size_t i = 0; i < num_workers; i++)
        worker_run(side->shared.workers[i]);
}

void flow_side_fini(struct flow_side *side)
{
    for (size_t i = 0; i < side->shared.num_workers; i++)
        worker_free(side->shared.workers[i]);
    limits_free(side->shared.limits);
    stats_free(side->stats);
    mem_free(side->shared.workers);
}

struct apply {
    struct snapshot *snapshot;
    struct faults *faults;
    err_t err;
};

static void apply_on_worker(struct worker *worker, void *arg)
{
    struct apply *apply = arg;

    apply->err = ports_apply(worker->ports, apply->snapshot, apply->faults);
}

/* Puts YAML into force on a side. */
err_t flow_apply(struct flow *flow, struct flow_side *side, struct svid *svid, const char *yaml,
                 struct faults *faults)
{
    Mortise__V1__SidecarConfig *config = world_config(yaml);
    struct bytes *files = mem_array(config->n_truststores, sizeof(*files));
    struct snapshot_input in = {
        .config = config,
        .svid = svid,
        .ca_files = files,
        .stats = side->stats,
        .generation = 1,
        .now_s = flow->world.now_s,
        .tunables = {.handshake_ms = 5000,
                     .connect_ms = 2000,
                     .idle_ms = 60000,
                     .stall_ms = 5000,
                     .drain_ms = 5000,
                     .max_connections = 100,
                     .max_handshakes = 100,
                     .max_handshakes_per_source = 100},
    };
    struct apply apply = {.faults = faults};

    for (size_t i = 0; i < config->n_truststores; i++)
        files[i] = bytes_of_str(flow->world.root->cert_pem);
    assert_true(err_is_ok(snapshot_build(&in, faults, &apply.snapshot)));
    worker_call(side->shared.workers[0], apply_on_worker, &apply);
    snapshot_unref(apply.snapshot);
    mem_free(files);
    pb_free(&config->base);
    return apply.err;
}

char *flow_client_yaml(const struct flow *flow, uint16_t port, const char *peer)
{
    return mem_printf(FLOW_STORE
                      "outbound: [{name: link, listen: '127.0.0.1:%u', truststore: mesh,\n"
                      "  endpoints: ['127.0.0.1:%u'], peers: {spiffe_ids: ['%s']}}]\n",
                      port, flow->in_port, peer);
}

char *flow_server_yaml(const struct flow *flow, const char *peer)
{
    return mem_printf(FLOW_STORE "inbound: {listen: '127.0.0.1:%u', links: [{name: link,\n"
                                 "  target: '127.0.0.1:%u', truststore: mesh,\n"
                                 "  peers: {spiffe_ids: ['%s']}}]}\n",
                      flow->in_port, flow->app_port, peer);
}

void flow_apply_good(struct flow *flow, struct flow_side *side, struct svid *svid, char *yaml)
{
    struct faults faults = {.num = 0};
    err_t err = flow_apply(flow, side, svid, yaml, &faults);

    for (size_t i = 0; i < faults.num; i++)
        print_message("%s: %s\n", faults.items[i].path, faults.items[i].message);
    assert_true(err_is_ok(err));
    faults_fini(&faults);
    mem_free(yaml);
}

int flow_setup(void **state, size_t server_workers)
{
    struct flow *flow = mem_zalloc(sizeof(*flow));
    int reserved[2];

    world_init(&flow->world);
    assert_true(err_is_ok(svid_of_pem(bytes_of_str(flow->world.client->cert_pem),
                                      bytes_of_str(flow->world.client->key_pem), NULL,
                                      flow->world.now_s, &flow->client_svid)));
    (void)pthread_mutex_init(&flow->lock, NULL);
    (void)pthread_cond_init(&flow->more, NULL);
    log_set_sink(keep_line, flow);
    assert_true(err_is_ok(access_log_open("-", 1)));
    flow->app = flow_bound_socket(&flow->app_port);
    assert_int_equal(listen(flow->app, 16), 0);
    reserved[0] = flow_bound_socket(&flow->out_port); /* ports nobody else is given meanwhile */
    reserved[1] = flow_bound_socket(&flow->in_port);
    (void)close(reserved[0]);
    (void)close(reserved[1]);
    flow_side_init(&flow->client, 1);
    flow_side_init(&flow->server, server_workers);
    flow_apply_good(flow, &flow->server, flow->world.svid, flow_server_yaml(flow, FLOW_CLIENT_ID));
    flow_apply_good(flow, &flow->client, flow->client_svid,
                    flow_client_yaml(flow, flow->out_port, FLOW_SERVER_ID));
    *state = flow;
    return 0;
}

int flow_teardown(void **state)
{
    struct flow *flow = *state;

    flow_side_fini(&flow->client);
    flow_side_fini(&flow->server);
    access_log_close();
    log_set_sink(NULL, NULL);
    (void)close(flow->app);
    (void)pthread_cond_destroy(&flow->more);
    (void)pthread_mutex_destroy(&flow->lock);
    svid_unref(flow->client_svid);
    world_fini(&flow->world);
    mem_free(flow);
    return 0;
}

/* Connects; -1 when refused. Reads and writes give up after ten seconds. */
int flow_dial(uint16_t port)
{
    const struct timeval limit = {.tv_sec = 10};
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    (void)close(fd);
    return -1;
}
