/* The whole path over sockets: plaintext, TLS, plaintext, as two sidecars have it, with random
 * pieces, small kernel buffers, stalls and half-close: every byte arrives, in order, once. Drives:
 * F1, R14, A2 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/net/tcp.h"
#include "lib/net/tls.h"
#include "test/testlib/recorder.h"
#include "test/testlib/testtls.h"
#include "test/unit/net/sockets.h"

static struct loop *loop;
static struct testca *root, *leaf;
static enum tls_records records; /* of both ends */

/* Both directions between two streams, as the proxy's relay does it. */
struct link {
    struct recorder side[2];
    bool done[2]; /* EOF passed on from this side */
    bool failed;
};

static struct link *link_of(struct recorder *rec)
{
    return rec->arg;
}

static struct recorder *other_side(struct recorder *rec)
{
    return &link_of(rec)->side[rec == &link_of(rec)->side[0] ? 1 : 0];
}

static void link_on_read(struct recorder *rec, struct bytes data)
{
    struct recorder *to = other_side(rec);

    assert_int_equal(stream_write(to->stream, data).code, E_OK);
    assert_true(to->stream->queued <= LOOP_PX_SIZE + 32768);
    if (to->stream->queued > 0)
        stream_read_stop(rec->stream);
}

static void link_on_eof(struct recorder *rec)
{
    struct link *link = link_of(rec);

    link->done[rec == &link->side[0] ? 0 : 1] = true;
    assert_int_equal(stream_shutdown(other_side(rec)->stream).code, E_OK);
}

static void link_on_drained(struct recorder *rec)
{
    stream_read_start(other_side(rec)->stream);
}

static void link_on_error(struct recorder *rec)
{
    link_of(rec)->failed = true;
}

static void link_start(struct link *link, struct stream *a, struct stream *b)
{
    struct stream *streams[2] = {a, b};

    memset(link, 0, sizeof(*link));
    for (int i = 0; i < 2; i++) {
        link->side[i] = (struct recorder){.count_only = true,
                                          .on_read = link_on_read,
                                          .on_eof = link_on_eof,
                                          .on_drained = link_on_drained,
                                          .on_error = link_on_error,
                                          .arg = link};
        recorder_attach(&link->side[i], streams[i]);
    }
    stream_read_start(a);
    stream_read_start(b);
}

static void link_close(struct link *link)
{
    stream_close(link->side[0].stream);
    stream_close(link->side[1].stream);
}

/* One direction's raw ends. */
struct flow {
    int from, to;
    uint64_t total, sent, got;
    bool ended; /* FIN sent */
    bool end_seen;
};

static uint32_t seed = 1;

static uint32_t random_below(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

static size_t random_piece(void)
{
    /* Mostly small, now and then large. */
    return random_below(8) == 0 ? 1 + random_below(400000) : 1 + random_below(3000);
}

static void flow_step(struct flow *flow)
{
    if (flow->sent < flow->total && random_below(3) != 0) {
        uint64_t left = flow->total - flow->sent;
        size_t num = random_piece();

        flow->sent += sockets_fill(flow->from, flow->sent, num < left ? num : (size_t)left);
    }
    if (flow->sent == flow->total && !flow->ended) {
        flow->ended = true;
        assert_int_equal(shutdown(flow->from, SHUT_WR), 0);
    }
    if (!flow->end_seen && random_below(3) != 0) {
        size_t num = sockets_drain(flow->to, flow->got, random_piece());

        if (num == 0)
            flow->end_seen = true;
        else if (num != SIZE_MAX)
            flow->got += num;
    }
}

struct pair {
    struct stream *a_plain, *a_tls, *b_tls, *b_plain;
    int a_app, b_app;
    unsigned num_open;
};

static void on_open(void *arg, err_t err)
{
    assert_int_equal(err.code, E_OK);
    ++*(unsigned *)arg;
}

static struct stream *new_tcp(int fd, int send_buffer)
{
    struct stream *stream;

    if (send_buffer != 0)
        sockets_set_send_buffer(fd, send_buffer);
    assert_int_equal(tcp_new(loop, fd, &stream).code, E_OK);
    return stream;
}

static struct stream *new_tls(struct stream *lower, SSL_CTX *ctx, enum tls_role role,
                              unsigned *num_open)
{
    struct tls_params params = {
        .ctx = ctx, .role = role, .records = records, .key_update_records = 500};
    struct stream *stream;

    assert_int_equal(tls_new(lower, &params, &stream).code, E_OK);
    tls_handshake(stream, on_open, num_open);
    return stream;
}

static void pair_open(struct pair *pair, SSL_CTX *ctx, int send_buffer)
{
    int app_a[2], app_b[2], wire[2];

    sockets_pair(app_a);
    sockets_pair(app_b);
    sockets_pair(wire);
    memset(pair, 0, sizeof(*pair));
    pair->a_app = app_a[0];
    pair->b_app = app_b[0];
    pair->a_plain = new_tcp(app_a[1], send_buffer);
    pair->b_plain = new_tcp(app_b[1], send_buffer);
    pair->b_tls = new_tls(new_tcp(wire[1], send_buffer), ctx, TLS_SERVER, &pair->num_open);
    pair->a_tls = new_tls(new_tcp(wire[0], send_buffer), ctx, TLS_CLIENT, &pair->num_open);
    LOOP_UNTIL(loop, pair->num_open == 2);
}

static void check_transfer(uint16_t version, int send_buffer, uint64_t up, uint64_t down)
{
    SSL_CTX *ctx = testtls_ctx(&(struct testtls_params){.cert = leaf,
                                                        .root = root,
                                                        .need_cert = true,
                                                        .min_version = version,
                                                        .max_version = version});
    struct pair pair;
    struct link a, b;
    struct flow flows[2];

    pair_open(&pair, ctx, send_buffer);
    flows[0] = (struct flow){.from = pair.a_app, .to = pair.b_app, .total = up};
    flows[1] = (struct flow){.from = pair.b_app, .to = pair.a_app, .total = down};
    link_start(&a, pair.a_plain, pair.a_tls);
    link_start(&b, pair.b_tls, pair.b_plain);
    while (!flows[0].end_seen || !flows[1].end_seen) {
        flow_step(&flows[0]);
        flow_step(&flows[1]);
        loop_run_once(loop, false);
        assert_false(a.failed || b.failed);
    }
    assert_int_equal(flows[0].got, up);
    assert_int_equal(flows[1].got, down);
    assert_true(a.done[0] && a.done[1] && b.done[0] && b.done[1]);
    link_close(&a);
    link_close(&b);
    close(pair.a_app);
    close(pair.b_app);
    SSL_CTX_free(ctx);
    looptest_settle(loop);
}

static void test_tls13_large_both_ways(void **state)
{
    (void)state;
    check_transfer(TLS1_3_VERSION, 0, 24 << 20, 10 << 20);
}

static void test_tls12_large_both_ways(void **state)
{
    (void)state;
    check_transfer(TLS1_2_VERSION, 0, 10 << 20, 24 << 20);
}

static void test_small_kernel_buffers(void **state)
{
    (void)state;
    check_transfer(TLS1_3_VERSION, 4096, 2 << 20, 1 << 20);
    check_transfer(TLS1_2_VERSION, 20000, 1 << 20, 2 << 20);
}

static void test_many_short_ones(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 60; i++)
        check_transfer(i % 2 == 0 ? TLS1_3_VERSION : TLS1_2_VERSION, 0, random_below(70000),
                       random_below(5) == 0 ? 0 : random_below(70000));
}

static void test_stalled_reader_holds_one_slab_a_direction(void **state)
{
    SSL_CTX *ctx =
        testtls_ctx(&(struct testtls_params){.cert = leaf, .root = root, .need_cert = true});
    struct pair pair;
    struct link a, b;
    uint64_t sent = 0, got = 0;
    size_t queued, num;

    (void)state;
    pair_open(&pair, ctx, 0);
    link_start(&a, pair.a_plain, pair.a_tls);
    link_start(&b, pair.b_tls, pair.b_plain);
    for (int idle = 0; idle < 100; idle++) { /* until nothing moves */
        num = sockets_fill(pair.a_app, sent, 1 << 20);
        sent += num;
        loop_run_once(loop, false);
        if (num > 0)
            idle = 0;
    }
    queued = a.side[1].stream->queued;
    assert_in_range(queued, 1, LOOP_PX_SIZE);
    print_message("stalled: %zu bytes of ciphertext at A, %zu of plaintext at B\n", queued,
                  b.side[1].stream->queued);
    assert_true(b.side[1].stream->queued <= LOOP_PX_SIZE);
    while (got < sent) {
        num = sockets_drain(pair.b_app, got, 100000);
        got += num != SIZE_MAX ? num : 0;
        loop_run_once(loop, false);
    }
    assert_false(a.failed || b.failed);
    link_close(&a);
    link_close(&b);
    close(pair.a_app);
    close(pair.b_app);
    SSL_CTX_free(ctx);
}

static int set_up(void **state)
{
    (void)state;
    loop = loop_new(&clock_system);
    root = testca_new(NULL);
    leaf = testca_issue(root, NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    testca_free(leaf);
    testca_free(root);
    loop_free(loop);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tls13_large_both_ways),
        cmocka_unit_test(test_tls12_large_both_ways),
        cmocka_unit_test(test_small_kernel_buffers),
        cmocka_unit_test(test_many_short_ones),
        cmocka_unit_test(test_stalled_reader_holds_one_slab_a_direction),
    };

    int failed = cmocka_run_group_tests_name("own records", tests, set_up, tear_down);

    records = TLS_RECORDS_LIBRARY;
    return failed + cmocka_run_group_tests_name("library's records", tests, set_up, tear_down);
}
