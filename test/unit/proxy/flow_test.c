/* Whole connections through two sets of workers in one process: an application, the outbound side,
 * the inbound side, an application; and what listens following the snapshot.
 *
 * Drives: F1, F3, R9, R13, R14, R18, D6 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proxy/access_log.h"
#include "proxy/conn.h"
#include "proxy/ports.h"
#include "proxy/worker.h"
#include "test/unit/proxy/world.h"

#define CLIENT_ID WORLD_CLIENT_ID
#define SERVER_ID WORLD_ID

/* One side: workers and the snapshot they have. */
struct side {
    struct worker_shared shared;
    struct stats *stats;
};

struct flow {
    struct world world;
    struct side client, server;
    struct svid *client_svid;
    int app; /* the listening application behind the server side */
    uint16_t app_port, out_port, in_port;
    pthread_mutex_t lock;
    pthread_cond_t more;
    char lines[65536]; /* of the access log */
    size_t lines_len;
};

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

static bool line_has(struct flow *flow, const char *text)
{
    bool found;

    (void)pthread_mutex_lock(&flow->lock);
    found = strstr(flow->lines, text) != NULL;
    (void)pthread_mutex_unlock(&flow->lock);
    return found;
}

/* Lines are written by other threads: waits until one has `text`, ten seconds at most. */
static void wait_for_line(struct flow *flow, const char *text)
{
    for (int i = 0; i < 2000 && !line_has(flow, text); i++)
        (void)poll(NULL, 0, 5);
    if (!line_has(flow, text))
        print_message("%s", flow->lines);
    assert_true(line_has(flow, text));
}

static int bound_socket(uint16_t *out_port)
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

static void side_init(struct side *side, size_t num_workers)
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

static void side_fini(struct side *side)
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
static err_t side_apply(struct flow *flow, struct side *side, struct svid *svid, const char *yaml,
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

#define STORE "truststores: [{name: mesh, ca_file: root, trust_domain: mesh.test}]\n"

static char *client_yaml(const struct flow *flow, uint16_t port, const char *peer)
{
    return mem_printf(STORE "outbound: [{name: link, listen: '127.0.0.1:%u', truststore: mesh,\n"
                            "  endpoints: ['127.0.0.1:%u'], peers: {spiffe_ids: ['%s']}}]\n",
                      port, flow->in_port, peer);
}

static char *server_yaml(const struct flow *flow, const char *peer)
{
    return mem_printf(STORE "inbound: {listen: '127.0.0.1:%u', links: [{name: link,\n"
                            "  target: '127.0.0.1:%u', truststore: mesh,\n"
                            "  peers: {spiffe_ids: ['%s']}}]}\n",
                      flow->in_port, flow->app_port, peer);
}

static void apply_good(struct flow *flow, struct side *side, struct svid *svid, char *yaml)
{
    struct faults faults = {.num = 0};
    err_t err = side_apply(flow, side, svid, yaml, &faults);

    for (size_t i = 0; i < faults.num; i++)
        print_message("%s: %s\n", faults.items[i].path, faults.items[i].message);
    assert_true(err_is_ok(err));
    faults_fini(&faults);
    mem_free(yaml);
}

static int setup(void **state)
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
    assert_true(err_is_ok(access_log_open("-")));
    flow->app = bound_socket(&flow->app_port);
    assert_int_equal(listen(flow->app, 16), 0);
    reserved[0] = bound_socket(&flow->out_port); /* ports nobody else is given meanwhile */
    reserved[1] = bound_socket(&flow->in_port);
    (void)close(reserved[0]);
    (void)close(reserved[1]);
    side_init(&flow->client, 1);
    side_init(&flow->server, 3);
    apply_good(flow, &flow->server, flow->world.svid, server_yaml(flow, CLIENT_ID));
    apply_good(flow, &flow->client, flow->client_svid,
               client_yaml(flow, flow->out_port, SERVER_ID));
    *state = flow;
    return 0;
}

static int teardown(void **state)
{
    struct flow *flow = *state;

    side_fini(&flow->client);
    side_fini(&flow->server);
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
static int dial(uint16_t port)
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

static int accept_app(const struct flow *flow)
{
    const struct timeval limit = {.tv_sec = 10};
    int fd = accept(flow->app, NULL, NULL);

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    return fd;
}

static void expect(int fd, const char *text)
{
    char got[64];

    assert_int_equal(recv(fd, got, strlen(text), MSG_WAITALL), (ssize_t)strlen(text));
    assert_memory_equal(got, text, strlen(text));
}

/* What becomes of one connection to the outbound port: 0 for an orderly end, errno for an abort. */
static int fate(const struct flow *flow)
{
    char byte;
    int fd = dial(flow->out_port);
    int result;

    assert_true(fd >= 0);
    /* The kernel tells of a reset once, to whoever asks first. */
    result = send(fd, "x", 1, MSG_NOSIGNAL) < 0 ? errno : 0;
    if (result == EPIPE)
        result = ECONNRESET;
    if (result == 0)
        result = recv(fd, &byte, 1, 0) < 0 ? errno : 0;
    (void)close(fd);
    return result;
}

static void test_a_connection_from_end_to_end(void **state)
{
    struct flow *flow = *state;
    int here = dial(flow->out_port), there;
    char byte;

    assert_true(here >= 0);
    there = accept_app(flow);
    assert_int_equal(send(there, "banner", 6, MSG_NOSIGNAL), 6); /* the server speaks first */
    expect(here, "banner");
    assert_int_equal(send(here, "question", 8, MSG_NOSIGNAL), 8);
    expect(there, "question");
    assert_int_equal(shutdown(here, SHUT_WR), 0);
    assert_int_equal(recv(there, &byte, 1, 0), 0);
    assert_int_equal(send(there, "answer", 6, MSG_NOSIGNAL), 6); /* half-closed */
    expect(here, "answer");
    (void)close(there);
    assert_int_equal(recv(here, &byte, 1, 0), 0);
    (void)close(here);

    wait_for_line(flow, "direction=outbound");
    wait_for_line(flow, "direction=inbound");
    assert_true(line_has(flow, "local_id=" CLIENT_ID " "));
    assert_true(line_has(flow, "peer_id=" SERVER_ID " "));
    assert_true(line_has(flow, "peer_id=" CLIENT_ID " "));
    assert_true(line_has(flow, "tls_version=TLSv1.3 "));
    assert_true(line_has(flow, "allowed_by=link "));
    assert_true(line_has(flow, "bytes_to_mesh=8 bytes_to_app=12 ")); /* outbound's view */
    assert_true(line_has(flow, "bytes_to_mesh=12 bytes_to_app=8 ")); /* inbound's */
    assert_true(line_has(flow, "reason=done"));
}

static void test_connections_are_spread_over_the_workers(void **state)
{
    struct flow *flow = *state;
    int here[6], there[6];

    for (size_t i = 0; i < ARRAY_LEN(here); i++) {
        here[i] = dial(flow->out_port);
        assert_true(here[i] >= 0);
        there[i] = accept_app(flow);
        assert_int_equal(send(here[i], "x", 1, MSG_NOSIGNAL), 1);
        expect(there[i], "x");
    }
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(atomic_load(&flow->server.shared.workers[i]->load), 2);
    for (size_t i = 0; i < ARRAY_LEN(here); i++) {
        (void)close(here[i]);
        (void)close(there[i]);
    }
}

static void test_a_server_that_is_somebody_else(void **state)
{
    struct flow *flow = *state;

    apply_good(flow, &flow->client, flow->client_svid,
               client_yaml(flow, flow->out_port, "spiffe://mesh.test/ns/apim/sa/db"));
    assert_int_equal(fate(flow), ECONNRESET);
    wait_for_line(flow, "reason=peer_identity error=peer_identity");
    assert_true(line_has(flow, "claimed_id=" SERVER_ID));
    assert_false(line_has(flow, "allowed_by=link bytes_to_mesh=0 bytes_to_app=0 handshake_us=0"));
}

static void test_a_client_that_no_link_allows(void **state)
{
    struct flow *flow = *state;

    apply_good(flow, &flow->server, flow->world.svid,
               server_yaml(flow, "spiffe://mesh.test/ns/apim/sa/gateway"));
    assert_int_equal(fate(flow), ECONNRESET);
    wait_for_line(flow, "reason=peer_identity error=peer_denied");
    wait_for_line(flow, "reason=peer_alert"); /* the client's side was told why */
}

static void test_a_server_side_that_is_gone(void **state)
{
    struct flow *flow = *state;

    apply_good(flow, &flow->server, flow->world.svid, mem_strdup(STORE));
    assert_int_equal(fate(flow), ECONNRESET);
    wait_for_line(flow, "reason=connect_failed error=connect_refused");
}

static void test_an_application_that_does_not_listen(void **state)
{
    struct flow *flow = *state;

    (void)close(flow->app);
    assert_int_equal(fate(flow), ECONNRESET);
    wait_for_line(flow, "direction=inbound link=link");
    wait_for_line(flow, "error=connect_refused");
    flow->app = bound_socket(&flow->app_port);
}

/* An endpoint that leads back to this sidecar's own listener. */
static void test_a_loop_is_refused(void **state)
{
    struct flow *flow = *state;
    char *yaml =
        mem_printf(STORE "outbound: [{name: link, listen: '127.0.0.1:%u', truststore: mesh,\n"
                         "  endpoints: ['127.0.0.1:%u'], peers: {spiffe_ids: ['%s']}}]\n",
                   flow->out_port, flow->out_port, SERVER_ID);

    apply_good(flow, &flow->client, flow->client_svid, yaml);
    assert_int_equal(fate(flow), ECONNRESET);
    wait_for_line(flow, "reason=loop");
}

/* --- what listens --- */

static void test_listeners_follow_the_snapshot(void **state)
{
    struct flow *flow = *state;
    uint16_t other;
    int fd = bound_socket(&other), open;

    (void)close(fd);
    open = dial(flow->out_port);
    assert_true(open >= 0);
    fd = accept_app(flow);
    apply_good(flow, &flow->client, flow->client_svid, client_yaml(flow, other, SERVER_ID));
    assert_int_equal(dial(flow->out_port), -1); /* closed */
    assert_int_equal(send(open, "x", 1, MSG_NOSIGNAL), 1);
    expect(fd, "x"); /* what was open goes on */
    (void)close(open);
    (void)close(fd);
    open = dial(other);
    assert_true(open >= 0);
    (void)close(open);
}

static void test_an_address_that_is_taken_changes_nothing(void **state)
{
    struct flow *flow = *state;
    struct faults faults = {.num = 0};
    uint16_t taken, free_port;
    int squatter = bound_socket(&taken), fd = bound_socket(&free_port), there;
    char *yaml;

    (void)close(fd);
    assert_int_equal(listen(squatter, 1), 0);
    yaml = mem_printf(STORE "outbound:\n"
                            "  - {name: a, listen: '127.0.0.1:%u', truststore: mesh,\n"
                            "     endpoints: ['10.0.0.1:1'], peers: {dns_names: [x.test]}}\n"
                            "  - {name: b, listen: '127.0.0.1:%u', truststore: mesh,\n"
                            "     endpoints: ['10.0.0.1:1'], peers: {dns_names: [x.test]}}\n",
                      free_port, taken);
    assert_false(err_is_ok(side_apply(flow, &flow->client, flow->client_svid, yaml, &faults)));
    assert_int_equal(faults.num, 1);
    assert_string_equal(faults.items[0].path, "outbound[1].listen");
    assert_non_null(strstr(faults.items[0].message, "cannot listen on 127.0.0.1:"));
    assert_int_equal(dial(free_port), -1); /* bound for a moment, and given up */

    fd = dial(flow->out_port); /* the old link is in force */
    assert_true(fd >= 0);
    there = accept_app(flow);
    assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), 1);
    expect(there, "x");
    (void)close(fd);
    (void)close(there);
    (void)close(squatter);
    faults_fini(&faults);
    mem_free(yaml);
}

static void test_closing_down_cuts_what_is_open(void **state)
{
    struct flow *flow = *state;
    int here = dial(flow->out_port), there;
    char byte;

    assert_true(here >= 0);
    there = accept_app(flow);
    assert_int_equal(send(here, "x", 1, MSG_NOSIGNAL), 1);
    expect(there, "x");
    side_fini(&flow->server);
    assert_int_equal(recv(here, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    assert_int_equal(recv(there, &byte, 1, 0), -1);
    wait_for_line(flow, "reason=shutdown");
    (void)close(here);
    (void)close(there);
    side_init(&flow->server, 1); /* for teardown */
}

static void test_draining_lets_connections_end(void **state)
{
    struct flow *flow = *state;
    int here = dial(flow->out_port), there;
    char byte;

    assert_true(here >= 0);
    there = accept_app(flow);
    worker_drain(flow->client.shared.workers[0]);
    assert_int_equal(dial(flow->out_port), -1);
    assert_int_equal(send(here, "late", 4, MSG_NOSIGNAL), 4);
    expect(there, "late");
    (void)close(there);
    assert_int_equal(recv(here, &byte, 1, 0), 0);
    (void)close(here);
    wait_for_line(flow, "reason=done");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_connection_from_end_to_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connections_are_spread_over_the_workers, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_server_that_is_somebody_else, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_no_link_allows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_server_side_that_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_application_that_does_not_listen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_loop_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_listeners_follow_the_snapshot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_address_that_is_taken_changes_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_closing_down_cuts_what_is_open, setup, teardown),
        cmocka_unit_test_setup_teardown(test_draining_lets_connections_end, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
