/* Whole connections through two sets of workers in one process: an application, the outbound side,
 * the inbound side, an application; and what listens following the snapshot.
 *
 * Drives: F1, F3, R9, R13, R14, R18, D6 */
#include "test/unit/proxy/flow.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static int setup(void **state)
{
    return flow_setup(state, 3);
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
    int fd = flow_dial(flow->out_port);
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
    int here = flow_dial(flow->out_port), there;
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

    flow_wait_for_line(flow, "direction=outbound");
    flow_wait_for_line(flow, "direction=inbound");
    assert_true(flow_line_has(flow, "local_id=" FLOW_CLIENT_ID " "));
    assert_true(flow_line_has(flow, "peer_id=" FLOW_SERVER_ID " "));
    assert_true(flow_line_has(flow, "peer_id=" FLOW_CLIENT_ID " "));
    assert_true(flow_line_has(flow, "tls_version=TLSv1.3 "));
    assert_true(flow_line_has(flow, "allowed_by=link "));
    assert_true(flow_line_has(flow, "bytes_to_mesh=8 bytes_to_app=12 ")); /* outbound's view */
    assert_true(flow_line_has(flow, "bytes_to_mesh=12 bytes_to_app=8 ")); /* inbound's */
    assert_true(flow_line_has(flow, "reason=done"));
}

static void test_connections_are_spread_over_the_workers(void **state)
{
    struct flow *flow = *state;
    int here[6], there[6];

    for (size_t i = 0; i < ARRAY_LEN(here); i++) {
        here[i] = flow_dial(flow->out_port);
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

    flow_apply_good(flow, &flow->client, flow->client_svid,
                    flow_client_yaml(flow, flow->out_port, "spiffe://mesh.test/ns/apim/sa/db"));
    assert_int_equal(fate(flow), ECONNRESET);
    flow_wait_for_line(flow, "reason=peer_identity error=peer_identity");
    assert_true(flow_line_has(flow, "claimed_id=" FLOW_SERVER_ID));
    assert_false(
        flow_line_has(flow, "allowed_by=link bytes_to_mesh=0 bytes_to_app=0 handshake_us=0"));
}

static void test_a_client_that_no_link_allows(void **state)
{
    struct flow *flow = *state;

    flow_apply_good(flow, &flow->server, flow->world.svid,
                    flow_server_yaml(flow, "spiffe://mesh.test/ns/apim/sa/gateway"));
    assert_int_equal(fate(flow), ECONNRESET);
    flow_wait_for_line(flow, "reason=peer_identity error=peer_denied");
    flow_wait_for_line(flow, "reason=peer_alert"); /* the client's side was told why */
}

static void test_a_server_side_that_is_gone(void **state)
{
    struct flow *flow = *state;

    flow_apply_good(flow, &flow->server, flow->world.svid, mem_strdup(FLOW_STORE));
    assert_int_equal(fate(flow), ECONNRESET);
    flow_wait_for_line(flow, "reason=connect_failed error=connect_refused");
}

static void test_an_application_that_does_not_listen(void **state)
{
    struct flow *flow = *state;

    (void)close(flow->app);
    assert_int_equal(fate(flow), ECONNRESET);
    flow_wait_for_line(flow, "direction=inbound link=link");
    flow_wait_for_line(flow, "error=connect_refused");
    flow->app = flow_bound_socket(&flow->app_port);
}

/* An endpoint that leads back to this sidecar's own listener. */
static void test_a_loop_is_refused(void **state)
{
    struct flow *flow = *state;
    char *yaml =
        mem_printf(FLOW_STORE "outbound: [{name: link, listen: '127.0.0.1:%u', truststore: mesh,\n"
                              "  endpoints: ['127.0.0.1:%u'], peers: {spiffe_ids: ['%s']}}]\n",
                   flow->out_port, flow->out_port, FLOW_SERVER_ID);

    flow_apply_good(flow, &flow->client, flow->client_svid, yaml);
    assert_int_equal(fate(flow), ECONNRESET);
    flow_wait_for_line(flow, "reason=loop");
}

/* --- what listens --- */

static void test_listeners_follow_the_snapshot(void **state)
{
    struct flow *flow = *state;
    uint16_t other;
    int fd = flow_bound_socket(&other), open;

    (void)close(fd);
    open = flow_dial(flow->out_port);
    assert_true(open >= 0);
    fd = accept_app(flow);
    flow_apply_good(flow, &flow->client, flow->client_svid,
                    flow_client_yaml(flow, other, FLOW_SERVER_ID));
    assert_int_equal(flow_dial(flow->out_port), -1); /* closed */
    assert_int_equal(send(open, "x", 1, MSG_NOSIGNAL), 1);
    expect(fd, "x"); /* what was open goes on */
    (void)close(open);
    (void)close(fd);
    open = flow_dial(other);
    assert_true(open >= 0);
    (void)close(open);
}

static void test_an_address_that_is_taken_changes_nothing(void **state)
{
    struct flow *flow = *state;
    struct faults faults = {.num = 0};
    uint16_t taken, free_port;
    int squatter = flow_bound_socket(&taken), fd = flow_bound_socket(&free_port), there;
    char *yaml;

    (void)close(fd);
    assert_int_equal(listen(squatter, 1), 0);
    yaml = mem_printf(FLOW_STORE "outbound:\n"
                                 "  - {name: a, listen: '127.0.0.1:%u', truststore: mesh,\n"
                                 "     endpoints: ['10.0.0.1:1'], peers: {dns_names: [x.test]}}\n"
                                 "  - {name: b, listen: '127.0.0.1:%u', truststore: mesh,\n"
                                 "     endpoints: ['10.0.0.1:1'], peers: {dns_names: [x.test]}}\n",
                      free_port, taken);
    assert_false(err_is_ok(flow_apply(flow, &flow->client, flow->client_svid, yaml, &faults)));
    assert_int_equal(faults.num, 1);
    assert_string_equal(faults.items[0].path, "outbound[1].listen");
    assert_non_null(strstr(faults.items[0].message, "cannot listen on 127.0.0.1:"));
    assert_int_equal(flow_dial(free_port), -1); /* bound for a moment, and given up */

    fd = flow_dial(flow->out_port); /* the old link is in force */
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
    int here = flow_dial(flow->out_port), there;
    char byte;

    assert_true(here >= 0);
    there = accept_app(flow);
    assert_int_equal(send(here, "x", 1, MSG_NOSIGNAL), 1);
    expect(there, "x");
    flow_side_fini(&flow->server);
    assert_int_equal(recv(here, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    assert_int_equal(recv(there, &byte, 1, 0), -1);
    flow_wait_for_line(flow, "reason=shutdown");
    (void)close(here);
    (void)close(there);
    flow_side_init(&flow->server, 1); /* for teardown */
}

static void test_draining_lets_connections_end(void **state)
{
    struct flow *flow = *state;
    int here = flow_dial(flow->out_port), there;
    char byte;

    assert_true(here >= 0);
    there = accept_app(flow);
    worker_drain(flow->client.shared.workers[0]);
    assert_int_equal(flow_dial(flow->out_port), -1);
    assert_int_equal(send(here, "late", 4, MSG_NOSIGNAL), 4);
    expect(there, "late");
    (void)close(there);
    assert_int_equal(recv(here, &byte, 1, 0), 0);
    (void)close(here);
    flow_wait_for_line(flow, "reason=done");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_connection_from_end_to_end, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_connections_are_spread_over_the_workers, setup,
                                        flow_teardown),
        cmocka_unit_test_setup_teardown(test_a_server_that_is_somebody_else, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_no_link_allows, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_a_server_side_that_is_gone, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_an_application_that_does_not_listen, setup,
                                        flow_teardown),
        cmocka_unit_test_setup_teardown(test_a_loop_is_refused, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_listeners_follow_the_snapshot, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_an_address_that_is_taken_changes_nothing, setup,
                                        flow_teardown),
        cmocka_unit_test_setup_teardown(test_closing_down_cuts_what_is_open, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_draining_lets_connections_end, setup, flow_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
