/* Memory that is refused: every allocation that may fail fails once, the 1st, the 2nd, … of a
 * connection, until one comes through in which all of them succeed. At worst that connection is
 * lost: the process, the connection beside it and the next one stay, and a peer that is to be
 * refused is never let in because something could not be allocated.
 *
 * Two kinds: our own mem_try and mem_try_alloc (wrapped by the linker), and everything that
 * BoringSSL allocates, by its own hook. Only the workers of one side meet it, so that the counting
 * repeats.
 *
 * Drives: R68, R9, R14, F1 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/mem.h>

#include "lib/base/mem.h"
#include "test/testlib/testca.h"
#include "test/unit/proxy/flow.h"

#define WALK_MAX 20000 /* no connection allocates that often: the walk has an end */
#define WAIT_MS 10000
#define NEXT_EVERY 8 /* steps of a walk: then a connection without a failure is made, too */

enum kind { KIND_OURS, KIND_LIBRARY };

/* Which allocations fail. `counts` is set on the threads concerned. */
static struct {
    atomic_int kind;   /* -1: none fails */
    atomic_uint left;  /* until the one that fails; it counts down */
    atomic_uint every; /* 1: all behind that one fail, too */
    atomic_uint failed;
} walk = {.kind = -1};
static _Thread_local bool counts;

static bool walk_fails(enum kind kind)
{
    unsigned left;

    if (!counts || atomic_load(&walk.kind) != (int)kind)
        return false;
    left = atomic_load(&walk.left);
    if (left > 1) {
        atomic_store(&walk.left, left - 1); /* one thread counts */
        return false;
    }
    if (left == 0 && atomic_load(&walk.every) == 0)
        return false;
    atomic_store(&walk.left, 0);
    atomic_fetch_add(&walk.failed, 1);
    return true;
}

/* ---- the hooks ---- */

void *__real_mem_try(size_t size);
void *__wrap_mem_try(size_t size);

void *__wrap_mem_try(size_t size)
{
    return walk_fails(KIND_OURS) ? NULL : __real_mem_try(size);
}

void *__real_mem_try_alloc(size_t size);
void *__wrap_mem_try_alloc(size_t size);

void *__wrap_mem_try_alloc(size_t size)
{
    return walk_fails(KIND_OURS) ? NULL : __real_mem_try_alloc(size);
}

static _Thread_local unsigned num_lookups;

metric_id __real_metrics_series(struct metrics *metrics, const char *family,
                                const char *const *values);
metric_id __wrap_metrics_series(struct metrics *metrics, const char *family,
                                const char *const *values);

metric_id __wrap_metrics_series(struct metrics *metrics, const char *family,
                                const char *const *values)
{
    num_lookups++;
    return __real_metrics_series(metrics, family, values);
}

/* Declared by BoringSSL as weak symbols of no header. The size stands before the block. */
void *OPENSSL_memory_alloc(size_t size);
void OPENSSL_memory_free(void *ptr);
size_t OPENSSL_memory_get_size(void *ptr);

#define SIZE_ROOM 16

void *OPENSSL_memory_alloc(size_t size)
{
    uint8_t *block;

    if (walk_fails(KIND_LIBRARY))
        return NULL;
    block = malloc(SIZE_ROOM + size);
    if (block == NULL)
        return NULL;
    memcpy(block, &size, sizeof(size));
    return block + SIZE_ROOM;
}

size_t OPENSSL_memory_get_size(void *ptr)
{
    size_t size;

    memcpy(&size, (uint8_t *)ptr - SIZE_ROOM, sizeof(size));
    return size;
}

void OPENSSL_memory_free(void *ptr)
{
    mem_wipe(ptr, OPENSSL_memory_get_size(ptr));
    free((uint8_t *)ptr - SIZE_ROOM);
}

/* To free a session's ex_data BoringSSL copies the list of their kinds; without memory for the copy
 * it leaves them (crypto/ex_data.c, CRYPTO_free_ex_data): 104 bytes of a connection that met that.
 */
const char *__lsan_default_suppressions(void);

const char *__lsan_default_suppressions(void)
{
    return "leak:CRYPTO_set_ex_data\n";
}

/* ---- one connection ---- */

#define THERE_MAX 8

/* What reached the application: connections, and whether a byte came. */
struct there {
    int fds[THERE_MAX];
    size_t num;
    bool byte;
};

static void there_take(const struct flow *flow, struct there *there)
{
    int fd = accept4(flow->app, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd < 0)
        return;
    assert_true(there->num < THERE_MAX);
    there->fds[there->num++] = fd;
}

static void there_echo(struct there *there, size_t index)
{
    char byte;
    ssize_t got = recv(there->fds[index], &byte, 1, 0);

    if (got < 0 && errno == EAGAIN)
        return;
    if (got == 1) {
        there->byte = true;
        (void)send(there->fds[index], &byte, 1, MSG_NOSIGNAL);
        return;
    }
    (void)close(there->fds[index]);
    there->fds[index] = there->fds[--there->num];
}

/* One connection through both sides with one byte there and back: whether it came back. Anything
 * but that or an end within WAIT_MS fails the test. */
static bool through(const struct flow *flow, struct there *there)
{
    int here = flow_dial(flow->out_port);
    bool came = false, ended = false;
    char byte;

    *there = (struct there){.num = 0};
    if (here < 0)
        return false;
    (void)send(here, "x", 1, MSG_NOSIGNAL);
    while (!came && !ended) {
        struct pollfd polled[2 + THERE_MAX] = {{.fd = here, .events = POLLIN},
                                               {.fd = flow->app, .events = POLLIN}};
        size_t num = there->num;

        for (size_t i = 0; i < num; i++)
            polled[2 + i] = (struct pollfd){.fd = there->fds[i], .events = POLLIN};
        assert_true(poll(polled, 2 + num, WAIT_MS) > 0);
        for (size_t i = num; i > 0; i--) {
            if (polled[1 + i].revents != 0)
                there_echo(there, i - 1);
        }
        if (polled[1].revents != 0)
            there_take(flow, there);
        if (polled[0].revents != 0) {
            came = recv(here, &byte, 1, 0) == 1;
            ended = !came;
        }
    }
    (void)close(here);
    while (there->num > 0)
        (void)close(there->fds[--there->num]);
    return came;
}

/* ---- the walk ---- */

static void set_counts(struct worker *worker, void *arg)
{
    (void)worker;
    counts = *(bool *)arg;
}

static void arm(int kind, unsigned left, bool every)
{
    atomic_store(&walk.kind, -1);
    atomic_store(&walk.left, left);
    atomic_store(&walk.every, every ? 1 : 0);
    atomic_store(&walk.failed, 0);
    atomic_store(&walk.kind, kind);
}

/* A connection that was open before goes on. */
static void expect_alive(int here, int there)
{
    char byte;

    assert_int_equal(send(here, "a", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(there, &byte, 1, MSG_WAITALL), 1);
    assert_int_equal(send(there, "b", 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(here, &byte, 1, MSG_WAITALL), 1);
    assert_int_equal(byte, 'b');
}

/* A new certificate for the peer of `side`: no verdict on it is remembered there. */
static void renew_peer(struct flow *flow, const struct flow_side *side)
{
    bool client = side == &flow->server;
    struct testca *leaf = testca_issue(
        flow->world.root,
        &(struct testca_params){.uri_sans = TESTCA_LIST(client ? FLOW_CLIENT_ID : FLOW_SERVER_ID)});
    struct svid *svid = NULL;

    assert_true(err_is_ok(svid_of_pem(bytes_of_str(leaf->cert_pem), bytes_of_str(leaf->key_pem),
                                      NULL, flow->world.now_s, &svid)));
    if (client)
        flow_apply_good(flow, &flow->client, svid,
                        flow_client_yaml(flow, flow->out_port, FLOW_SERVER_ID));
    else
        flow_apply_good(flow, &flow->server, svid, flow_server_yaml(flow, FLOW_CLIENT_ID));
    svid_unref(svid);
    testca_free(leaf);
}

/* Fails the nth allocation of `kind` on `side`, n = 1, 2, … . With `admitted` false the server's
 * side is to refuse the client whatever happens. */
static void walk_side(struct flow *flow, struct flow_side *side, enum kind kind, bool admitted)
{
    struct worker *worker = side->shared.workers[0];
    bool yes = true, no = false;
    unsigned lost = 0, n = 1;
    struct there there;
    int here, app;

    here = flow_dial(flow->out_port);
    assert_true(here >= 0);
    app = accept4(flow->app, NULL, NULL, SOCK_CLOEXEC);
    assert_true(app >= 0);
    if (!admitted)
        flow_apply_good(flow, &flow->server, flow->world.svid,
                        flow_server_yaml(flow, "spiffe://mesh.test/ns/apim/sa/gateway"));
    assert_true(through(flow, &there) == admitted); /* what is made once is there now */
    worker_call(worker, set_counts, &yes);
    for (;; n++) {
        bool came;

        assert_true(n < WALK_MAX);
        renew_peer(flow, side);
        arm((int)kind, n, false);
        came = through(flow, &there);
        if (!admitted)
            assert_false(came || there.byte);
        if (atomic_load(&walk.failed) == 0) {
            assert_true(came == admitted);
            break;
        }
        if (!came)
            lost++;
        arm(-1, 0, false);
        expect_alive(here, app);
        if (n % NEXT_EVERY == 0)
            assert_true(through(flow, &there) == admitted);
    }
    arm(-1, 0, false);
    worker_call(worker, set_counts, &no);
    print_message("    %u allocations, %u connections lost\n", n - 1, lost);
    assert_true(n > 1);
    if (kind == KIND_OURS)
        assert_true(lost > 0);
    expect_alive(here, app);
    (void)close(here);
    (void)close(app);
}

static void test_ours_at_the_clients_side(void **state)
{
    struct flow *flow = *state;

    walk_side(flow, &flow->client, KIND_OURS, true);
    flow_wait_for_line(flow, "direction=outbound link=link");
    flow_wait_for_line(flow, "reason=resources error=no_memory");
}

static void test_ours_at_the_servers_side(void **state)
{
    struct flow *flow = *state;

    walk_side(flow, &flow->server, KIND_OURS, true);
    flow_wait_for_line(flow, "direction=inbound");
    flow_wait_for_line(flow, "reason=resources error=no_memory");
}

/* Whether one line has both. */
static bool line_has_both(struct flow *flow, const char *one, const char *other)
{
    bool found = false;

    (void)pthread_mutex_lock(&flow->lock);
    for (const char *line = flow->lines, *end; *line != '\0' && !found;
         line = *end == '\n' ? end + 1 : end) {
        end = strchrnul(line, '\n');
        found = memmem(line, (size_t)(end - line), one, strlen(one)) != NULL &&
                memmem(line, (size_t)(end - line), other, strlen(other)) != NULL;
    }
    (void)pthread_mutex_unlock(&flow->lock);
    return found;
}

/* Nobody broke the protocol, says the client's side. The server's may: where the library could not
 * read the ServerHello, its alert has the record version of before the negotiation. */
static void test_the_librarys_at_the_clients_side(void **state)
{
    struct flow *flow = *state;

    walk_side(flow, &flow->client, KIND_LIBRARY, true);
    flow_wait_for_line(flow, "direction=outbound link=link");
    flow_wait_for_line(flow, "reason=resources error=no_memory");
    assert_true(line_has_both(flow, "direction=outbound", "reason=resources"));
    assert_false(line_has_both(flow, "direction=outbound", "reason=tls_failed"));
    assert_false(flow_line_has(flow, "reason=internal"));
}

static void test_the_librarys_at_the_servers_side(void **state)
{
    struct flow *flow = *state;

    walk_side(flow, &flow->server, KIND_LIBRARY, true);
    flow_wait_for_line(flow, "direction=inbound");
    flow_wait_for_line(flow, "reason=resources error=no_memory");
    assert_false(flow_line_has(flow, "reason=tls_failed")); /* nobody broke the protocol */
    assert_false(flow_line_has(flow, "reason=internal"));
}

/* The twin: a verdict that cannot be reached is no. */
static void test_a_refused_client_stays_refused(void **state)
{
    struct flow *flow = *state;

    walk_side(flow, &flow->server, KIND_LIBRARY, false);
}

/* Nothing can be allocated for a while, for any new connection; then it can again. */
static void test_no_memory_at_all_for_a_while(void **state)
{
    struct flow *flow = *state;
    struct flow_side *sides[] = {&flow->client, &flow->server};
    int here = flow_dial(flow->out_port);
    int app = accept4(flow->app, NULL, NULL, SOCK_CLOEXEC);
    bool yes = true, no = false;
    struct there there;

    for (size_t i = 0; i < ARRAY_LEN(sides); i++) {
        worker_call(sides[i]->shared.workers[0], set_counts, &yes);
        for (int kind = KIND_OURS; kind <= KIND_LIBRARY; kind++) {
            arm(kind, 0, true);
            for (int round = 0; round < 20; round++)
                assert_false(through(flow, &there) || there.byte);
            arm(-1, 0, false);
            expect_alive(here, app);
            assert_true(through(flow, &there));
        }
        worker_call(sides[i]->shared.workers[0], set_counts, &no);
    }
    (void)close(here);
    (void)close(app);
}

/* A series is made with memory that stops the process where there is none: what strangers cause
 * again and again is looked up once, what they cause then is there from the beginning. */
static void test_counting_strangers_needs_no_memory(void **state)
{
    struct stats *stats = stats_new();

    (void)state;
    for (unsigned i = 0; i < DIRECTION_NUM; i++) {
        const enum direction direction = (enum direction)i;

        num_lookups = 0;
        stats_handshake(stats, direction, FAIL(NO_MEMORY, 0), 0);
        stats_refused(stats, direction, CLOSE_RESOURCES);
        assert_int_equal(num_lookups, 0);
        for (int again = 0; again < 2; again++) {
            stats_handshake(stats, direction, FAIL(TLS_NOT_TLS, 0), 0);
            stats_refused(stats, direction, CLOSE_NOT_TLS);
            assert_int_equal(num_lookups, 2);
        }
    }
    stats_free(stats);
}

static int setup(void **state)
{
    return flow_setup(state, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ours_at_the_clients_side, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_ours_at_the_servers_side, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_the_librarys_at_the_clients_side, setup,
                                        flow_teardown),
        cmocka_unit_test_setup_teardown(test_the_librarys_at_the_servers_side, setup,
                                        flow_teardown),
        cmocka_unit_test_setup_teardown(test_a_refused_client_stays_refused, setup, flow_teardown),
        cmocka_unit_test_setup_teardown(test_no_memory_at_all_for_a_while, setup, flow_teardown),
        cmocka_unit_test(test_counting_strangers_needs_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
