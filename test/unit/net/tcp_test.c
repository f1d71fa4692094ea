/* TCP streams: nothing lost, doubled or out of order, whatever the kernel takes or gives at a time;
 * bounded memory behind a peer that does not read; every way an end can come told once and as what
 * it is. Drives: R14, R15, F1 */
#include "lib/net/tcp.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/testlib/recorder.h"
#include "test/unit/net/sockets.h"

static struct loop *loop;

static int set_up(void **state)
{
    (void)state;
    loop = loop_new(&clock_system);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

static struct stream *new_stream(int fd)
{
    struct stream *stream;

    assert_int_equal(tcp_new(loop, fd, &stream).code, E_OK);
    return stream;
}

/* A stream of ours with its recorder, and the raw socket at the other end. */
struct half {
    struct recorder rec;
    int peer;
};

static void half_open(struct half *half)
{
    int fd[2];

    sockets_pair(fd);
    memset(half, 0, sizeof(*half));
    recorder_attach(&half->rec, new_stream(fd[0]));
    half->peer = fd[1];
}

static void half_close(struct half *half)
{
    if (half->rec.stream != NULL)
        stream_close(half->rec.stream);
    if (half->peer >= 0)
        close(half->peer);
    recorder_fini(&half->rec);
}

static void must_write(struct stream *stream, uint64_t offset, size_t len)
{
    uint8_t *data = mem_alloc(len);

    pattern_fill(data, offset, len);
    assert_int_equal(stream_write(stream, bytes_of(data, len)).code, E_OK);
    mem_free(data);
}

static void test_bytes_go_both_ways_and_are_counted(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    must_write(half.rec.stream, 0, 1000);
    must_write(half.rec.stream, 1000, 1);
    assert_int_equal(stream_write(half.rec.stream, bytes_of(NULL, 0)).code, E_OK);
    assert_int_equal(half.rec.stream->queued, 0);
    assert_int_equal(half.rec.stream->bytes_written, 1001);
    LOOP_UNTIL(loop, sockets_drain(half.peer, 0, 1001) == 1001);
    sockets_fill(half.peer, 0, 500);
    looptest_settle(loop);
    assert_int_equal(half.rec.num_reads, 0); /* begins with reading stopped */
    stream_read_start(half.rec.stream);
    LOOP_UNTIL(loop, half.rec.num_bytes == 500);
    sockets_fill(half.peer, 500, 500);
    LOOP_UNTIL(loop, half.rec.num_bytes == 1000);
    assert_true(pattern_holds(half.rec.data.data, 0, 1000));
    assert_int_equal(half.rec.stream->bytes_read, 1000);
    assert_int_equal(half.rec.num_eofs + half.rec.num_errors + half.rec.num_drained, 0);
    half_close(&half);
}

static void test_half_close_leaves_the_other_direction_open(void **state)
{
    struct half half;

    (void)state;
    /* The peer ends first. */
    half_open(&half);
    stream_read_start(half.rec.stream);
    shutdown(half.peer, SHUT_WR);
    LOOP_UNTIL(loop, half.rec.num_eofs == 1);
    must_write(half.rec.stream, 0, 100);
    assert_int_equal(stream_shutdown(half.rec.stream).code, E_OK);
    assert_int_equal(stream_shutdown(half.rec.stream).code, E_OK); /* twice is one */
    LOOP_UNTIL(loop, sockets_drain(half.peer, 0, 100) == 100);
    assert_int_equal(sockets_drain(half.peer, 0, 1), 0);
    looptest_settle(loop);
    assert_int_equal(half.rec.num_eofs, 1);
    assert_int_equal(half.rec.num_errors, 0);
    half_close(&half);
    /* We end first. */
    half_open(&half);
    stream_read_start(half.rec.stream);
    assert_int_equal(stream_shutdown(half.rec.stream).code, E_OK);
    assert_int_equal(stream_write(half.rec.stream, bytes_of("x", 1)).code, E_BUG);
    LOOP_UNTIL(loop, sockets_drain(half.peer, 0, 1) == 0);
    sockets_fill(half.peer, 0, 100);
    LOOP_UNTIL(loop, half.rec.num_bytes == 100);
    close(half.peer);
    half.peer = -1;
    LOOP_UNTIL(loop, half.rec.num_eofs == 1);
    half_close(&half);
}

/* Reads one callback, then stops; the test starts it again. */
static void stop_reading(struct recorder *rec, struct bytes data)
{
    (void)data;
    stream_read_stop(rec->stream);
}

static void test_read_stop_is_obeyed_at_once_and_nothing_is_lost(void **state)
{
    struct half half;
    uint64_t sent = 0;
    unsigned rounds = 0;

    (void)state;
    half_open(&half);
    half.rec.on_read = stop_reading;
    sent += sockets_fill(half.peer, sent, 300000);
    assert_true(sent > 100000);
    shutdown(half.peer, SHUT_WR);
    while (half.rec.num_eofs == 0) {
        unsigned reads = half.rec.num_reads;

        stream_read_start(half.rec.stream);
        LOOP_UNTIL(loop, half.rec.num_reads > reads || half.rec.num_eofs > 0);
        looptest_settle(loop);
        assert_true(half.rec.num_reads <= reads + 1);
        rounds++;
    }
    assert_int_equal(half.rec.num_bytes, sent);
    assert_true(pattern_holds(half.rec.data.data, 0, sent));
    assert_int_equal(half.rec.largest, TCP_READ_MIN); /* stopping makes the reads small again */
    assert_true(rounds >= sent / TCP_READ_MIN);
    half_close(&half);
}

/* Follows the size that each read may have at most. */
static void check_size(struct recorder *rec, struct bytes data)
{
    size_t *allowed = rec->arg;

    assert_true(data.len <= *allowed);
    if (data.len == *allowed && *allowed < LOOP_RX_SIZE)
        *allowed *= 2;
}

static void test_read_size_grows_with_full_reads_and_falls_on_a_stop(void **state)
{
    struct half half;
    size_t allowed = TCP_READ_MIN;
    uint64_t sent = 0;

    (void)state;
    half_open(&half);
    half.rec.on_read = check_size;
    half.rec.arg = &allowed;
    half.rec.count_only = true;
    stream_read_start(half.rec.stream);
    /* Not beyond what the user said. */
    for (int i = 0; i < 1000; i++) {
        sent += sockets_fill(half.peer, sent, 4 << 20);
        loop_run_once(loop, false);
    }
    assert_int_equal(half.rec.largest, STREAM_READ_SMALL);
    half.rec.stream->read_max = LOOP_RX_SIZE;
    allowed = LOOP_RX_SIZE;
    for (int i = 0; i < 10000 && half.rec.largest < LOOP_RX_SIZE; i++) {
        sent += sockets_fill(half.peer, sent, 4 << 20);
        loop_run_once(loop, false);
    }
    assert_int_equal(half.rec.largest, LOOP_RX_SIZE);
    stream_read_stop(half.rec.stream);
    allowed = TCP_READ_MIN;
    stream_read_start(half.rec.stream);
    LOOP_UNTIL(loop, half.rec.num_bytes == sent);
    assert_true(allowed > TCP_READ_MIN); /* and grew again */
    half_close(&half);
}

static void test_end_behind_much_data_comes_last(void **state)
{
    struct half half;
    uint64_t sent = 0;

    (void)state;
    /* More than one event's budget lies before the FIN, and no further edge will come. */
    half_open(&half);
    while (sent < 700000)
        sent += sockets_fill(half.peer, sent, 700000 - (size_t)sent);
    close(half.peer);
    half.peer = -1;
    looptest_settle(loop);
    stream_read_start(half.rec.stream);
    LOOP_UNTIL(loop, half.rec.num_eofs == 1);
    assert_int_equal(half.rec.num_bytes, sent);
    assert_true(pattern_holds(half.rec.data.data, 0, sent));
    half_close(&half);
}

static void test_more_than_the_budget_without_another_edge(void **state)
{
    struct recorder rec = {0};
    uint64_t sent = 0;
    size_t num;
    int fd[2];

    (void)state;
    /* A Unix socket: all of it lies at our end, and nothing more happens there. */
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
    sockets_set_send_buffer(fd[1], 1 << 20);
    recorder_attach(&rec, new_stream(fd[0]));
    while ((num = sockets_fill(fd[1], sent, 30000)) > 0)
        sent += num;
    assert_true(sent > TCP_READ_MIN * 15); /* 16 + 32 + 64 + 128 KiB are the first event's reads */
    looptest_settle(loop);
    stream_read_start(rec.stream);
    LOOP_UNTIL(loop, rec.num_bytes == sent);
    assert_true(rec.num_reads > TCP_READ_BUDGET);
    assert_true(pattern_holds(rec.data.data, 0, sent));
    stream_close(rec.stream);
    close(fd[1]);
    recorder_fini(&rec);
}

static void test_short_read_then_end_is_seen(void **state)
{
    struct half half;

    (void)state;
    /* The short read stops without asking again: data and FIN in any timing must both arrive. */
    for (int i = 0; i < 300; i++) {
        half_open(&half);
        stream_read_start(half.rec.stream);
        sockets_fill(half.peer, 0, 10);
        if (i % 3 == 1)
            loop_run_once(loop, false);
        shutdown(half.peer, SHUT_WR);
        LOOP_UNTIL(loop, half.rec.num_eofs == 1);
        assert_int_equal(half.rec.num_bytes, 10);
        half_close(&half);
    }
}

static void test_urgent_data_does_not_hold_up_what_follows(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    sockets_fill(half.peer, 0, 1000);
    assert_int_equal(send(half.peer, "!", 1, MSG_OOB), 1);
    sockets_fill(half.peer, 1000, 1000);
    looptest_settle(loop); /* all edges are over */
    stream_read_start(half.rec.stream);
    LOOP_UNTIL(loop, half.rec.num_bytes >= 2000);
    assert_int_equal(half.rec.num_bytes, 2000); /* the urgent byte is not part of the stream */
    assert_true(pattern_holds(half.rec.data.data, 0, 2000));
    half_close(&half);
}

static void test_passed_descriptors_do_not_hold_up_what_follows(void **state)
{
    struct recorder rec = {0};
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {.iov_base = (char[]){"abc"}, .iov_len = 3};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    int fd[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(cmsg), &fd[1], sizeof(int));
    recorder_attach(&rec, new_stream(fd[0]));
    assert_int_equal(sendmsg(fd[1], &msg, 0), 3);
    assert_int_equal(send(fd[1], "def", 3, 0), 3);
    looptest_settle(loop);
    stream_read_start(rec.stream);
    LOOP_UNTIL(loop, rec.num_bytes == 6);
    assert_memory_equal(rec.data.data, "abcdef", 6);
    stream_close(rec.stream);
    close(fd[1]);
    recorder_fini(&rec);
}

/* Writing more than the kernel takes. */

static void drain_peer(struct half *half, uint64_t from, uint64_t until)
{
    while (from < until) {
        size_t got = sockets_drain(half->peer, from, 1000);

        if (got == SIZE_MAX)
            loop_run_once(loop, false);
        else
            from += got;
        assert_int_not_equal(got, 0);
    }
}

static void test_short_writes_arrive_whole(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    sockets_set_send_buffer(tcp_fd(half.rec.stream), 1);
    must_write(half.rec.stream, 0, 1000000);
    assert_true(half.rec.stream->queued > 900000);
    /* Behind it: small ones and a large one, in order. */
    for (unsigned i = 0; i < 3000; i++)
        must_write(half.rec.stream, 1000000 + i * 7, 7);
    must_write(half.rec.stream, 1021000, 100000);
    assert_int_equal(stream_shutdown(half.rec.stream).code, E_OK);
    assert_int_equal(half.rec.num_drained, 0);
    drain_peer(&half, 0, 1121000);
    LOOP_UNTIL(loop, sockets_drain(half.peer, 0, 1) == 0); /* FIN behind all of it */
    assert_int_equal(half.rec.stream->queued, 0);
    assert_int_equal(half.rec.num_drained, 1);
    assert_int_equal(half.rec.stream->bytes_written, 1121000);
    half_close(&half);
}

static void write_again(struct recorder *rec)
{
    unsigned *left = rec->arg;

    if (*left > 0)
        must_write(rec->stream, 100000 * (10 - (uint64_t)(*left)--), 100000);
}

static void test_writing_from_on_drained(void **state)
{
    struct half half;
    unsigned left = 9;

    (void)state;
    half_open(&half);
    sockets_set_send_buffer(tcp_fd(half.rec.stream), 1);
    half.rec.on_drained = write_again;
    half.rec.arg = &left;
    must_write(half.rec.stream, 0, 100000);
    drain_peer(&half, 0, 1000000);
    LOOP_UNTIL(loop, half.rec.num_drained == 10);
    half_close(&half);
}

/* Relays what it reads to another stream, as the proxy does. */
static void relay_on(struct recorder *rec, struct bytes data)
{
    struct stream *to = rec->arg;

    assert_int_equal(stream_write(to, data).code, E_OK);
    if (to->queued > 0)
        stream_read_stop(rec->stream);
}

static void relay_drained(struct recorder *rec)
{
    stream_read_start(rec->arg);
}

static void test_stalled_reader_holds_at_most_one_slab(void **state)
{
    struct half from, to;
    uint64_t sent = 0, got = 0;
    size_t most = 0;

    (void)state;
    half_open(&from);
    half_open(&to);
    from.rec.count_only = true;
    from.rec.on_read = relay_on;
    from.rec.arg = to.rec.stream;
    to.rec.on_drained = relay_drained;
    to.rec.arg = from.rec.stream;
    stream_read_start(from.rec.stream);
    for (int idle = 0; idle < 100; idle++) { /* until nothing moves: all buffers are full */
        size_t num = sockets_fill(from.peer, sent, 1 << 20);

        sent += num;
        loop_run_once(loop, false);
        if (to.rec.stream->queued > most)
            most = to.rec.stream->queued;
        if (num > 0)
            idle = 0;
    }
    assert_true(to.rec.stream->queued > 0);
    assert_true(most <= LOOP_RX_SIZE);
    print_message("stalled: %zu bytes queued of a slab of %zu\n", most, LOOP_RX_SIZE);
    /* It reads again: all arrives, in order. */
    while (got < sent) {
        size_t num = sockets_drain(to.peer, got, 65536);

        got += num != SIZE_MAX ? num : 0;
        loop_run_once(loop, false);
    }
    assert_int_equal(from.rec.num_bytes, sent);
    half_close(&from);
    half_close(&to);
}

/* The kernel wakes a writer when much is free; it knows of each byte that the peer took. */
static void test_what_the_peer_takes_is_known_before_the_kernel_calls(void **state)
{
    const size_t len = (size_t)8 << 20;
    struct half half;
    struct stream *stream;
    struct stream_sent sent;
    uint64_t before, got = 0;
    size_t queued;

    (void)state;
    half_open(&half);
    stream = half.rec.stream;
    sent = stream_sent(stream);
    assert_true(sent.total == 0 && sent.acked == 0);
    sockets_set_send_buffer(tcp_fd(stream), 1 << 20);
    must_write(stream, 0, len);
    looptest_settle(loop);
    queued = stream->queued;
    sent = stream_sent(stream);
    before = sent.acked;
    assert_true(queued > 0 && sent.total == len && before < len - queued);
    while (sent.acked == before) { /* the loop does not run: nothing but the kernel knows */
        size_t num = sockets_drain(half.peer, got, 4096);

        got += num != SIZE_MAX ? num : 0;
        sent = stream_sent(stream);
    }
    assert_int_equal(stream->queued, queued);
    assert_true(sent.acked <= len - queued);
    stream_retry(stream);
    loop_run_once(loop, false);
    assert_true(stream->queued < queued);
    assert_int_equal(stream_shutdown(stream).code, E_OK);
    while (got < len) {
        size_t num = sockets_drain(half.peer, got, len);

        got += num != SIZE_MAX ? num : 0;
        loop_run_once(loop, false);
    }
    LOOP_UNTIL(loop, stream_sent(stream).acked == len);
    stream_retry(stream); /* nothing is queued */
    looptest_settle(loop);
    half_close(&half);
}

static void test_a_flood_leaves_room_for_others(void **state)
{
    struct half flood, ping;
    uint64_t sent = 0;

    (void)state;
    half_open(&flood);
    half_open(&ping);
    flood.rec.count_only = true;
    stream_read_start(flood.rec.stream);
    stream_read_start(ping.rec.stream);
    for (unsigned i = 1; i <= 200; i++) {
        uint64_t before = flood.rec.num_bytes;

        sent += sockets_fill(flood.peer, sent, 4 << 20);
        sockets_fill(ping.peer, i - 1, 1);
        loop_run_once(loop, true);
        assert_int_equal(ping.rec.num_bytes, i);
        /* An event's budget and one more turn of the same round. */
        assert_true(flood.rec.num_bytes - before <= 2 * TCP_READ_BUDGET * LOOP_RX_SIZE);
    }
    half_close(&flood);
    half_close(&ping);
}

/* Looking at what comes first. */

struct looker {
    unsigned num;
    uint8_t first[16];
    size_t len;
};

static void on_first(void *arg, struct bytes first)
{
    struct looker *looker = arg;

    looker->num++;
    looker->len = first.len;
    assert_true(first.len <= sizeof(looker->first));
    if (first.len > 0)
        memcpy(looker->first, first.ptr, first.len);
}

static void test_a_look_takes_nothing(void **state)
{
    struct looker looker = {.num = 0};
    struct half half;
    uint8_t expected[1];

    (void)state;
    half_open(&half);
    tcp_peek(half.rec.stream, on_first, &looker);
    looptest_settle(loop);
    assert_int_equal(looker.num, 0);
    sockets_fill(half.peer, 0, 1);
    LOOP_UNTIL(loop, looker.num == 1);
    pattern_fill(expected, 0, 1);
    assert_int_equal(looker.len, 1);
    assert_memory_equal(looker.first, expected, 1);
    sockets_fill(half.peer, 1, 100000);
    looptest_settle(loop);
    assert_int_equal(looker.num, 1); /* once */
    assert_int_equal(half.rec.num_bytes, 0);
    stream_read_start(half.rec.stream);
    LOOP_UNTIL(loop, half.rec.num_bytes == 100001); /* the recorder compares them */
    half_close(&half);
}

static void test_a_look_at_what_was_there_before(void **state)
{
    struct looker looker = {.num = 0};
    struct half half;

    (void)state;
    half_open(&half);
    sockets_fill(half.peer, 0, 100);
    looptest_settle(loop); /* the edge is over */
    tcp_peek(half.rec.stream, on_first, &looker);
    LOOP_UNTIL(loop, looker.num == 1);
    assert_true(looker.len > 0);
    stream_read_start(half.rec.stream);
    LOOP_UNTIL(loop, half.rec.num_bytes == 100);
    half_close(&half);
}

static void test_a_look_at_nothing_but_the_end(void **state)
{
    struct looker looker = {.num = 0}, other = {.num = 0};
    struct half half, broken;

    (void)state;
    half_open(&half);
    half_open(&broken);
    tcp_peek(half.rec.stream, on_first, &looker);
    tcp_peek(broken.rec.stream, on_first, &other);
    close(half.peer);
    half.peer = -1;
    sockets_reset(broken.peer);
    broken.peer = -1;
    LOOP_UNTIL(loop, looker.num == 1 && broken.rec.num_errors == 1);
    assert_int_equal(looker.len, 0);
    assert_int_equal(broken.rec.err.code, E_PEER_RESET);
    assert_int_equal(other.num, 0);
    half_close(&half);
    half_close(&broken);
}

static void test_a_look_that_was_given_up(void **state)
{
    struct looker looker = {.num = 0};
    struct half half;

    (void)state;
    half_open(&half);
    tcp_peek(half.rec.stream, on_first, &looker);
    tcp_peek_cancel(half.rec.stream);
    sockets_fill(half.peer, 0, 100);
    looptest_settle(loop);
    assert_int_equal(looker.num, 0);
    stream_read_start(half.rec.stream);
    LOOP_UNTIL(loop, half.rec.num_bytes == 100);
    half_close(&half);
}

/* Resets. */

static void test_reset_is_told_behind_the_last_data(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    stream_read_start(half.rec.stream);
    sockets_fill(half.peer, 0, 100);
    sockets_reset(half.peer);
    half.peer = -1;
    LOOP_UNTIL(loop, half.rec.num_errors == 1);
    assert_int_equal(half.rec.err.code, E_PEER_RESET);
    assert_int_equal(half.rec.err.sub, ECONNRESET);
    assert_int_equal(half.rec.num_bytes, 100);
    assert_int_equal(half.rec.num_eofs, 0);
    half_close(&half);
}

static void test_reset_is_told_at_once_when_nothing_waits(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    sockets_reset(half.peer);
    half.peer = -1;
    LOOP_UNTIL(loop, half.rec.num_errors == 1); /* with reading stopped */
    assert_int_equal(half.rec.err.code, E_PEER_RESET);
    assert_int_equal(stream_write(half.rec.stream, bytes_of("x", 1)).code, E_PEER_RESET);
    stream_read_start(half.rec.stream);
    looptest_settle(loop);
    assert_int_equal(half.rec.num_errors, 1);
    half_close(&half);
}

static void test_reset_behind_unread_data_waits_for_the_reader(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    sockets_fill(half.peer, 0, 100);
    sockets_reset(half.peer);
    half.peer = -1;
    looptest_settle(loop);
    assert_int_equal(half.rec.num_errors, 0);
    stream_read_start(half.rec.stream);
    LOOP_UNTIL(loop, half.rec.num_errors == 1);
    assert_int_equal(half.rec.num_bytes, 100);
    assert_int_equal(half.rec.err.code, E_PEER_RESET);
    half_close(&half);
    /* Whoever writes instead hears it at once, and never twice. */
    half_open(&half);
    sockets_fill(half.peer, 0, 100);
    sockets_reset(half.peer);
    half.peer = -1;
    looptest_settle(loop);
    assert_int_equal(stream_write(half.rec.stream, bytes_of("x", 1)).code, E_PEER_RESET);
    stream_read_start(half.rec.stream);
    looptest_settle(loop);
    assert_int_equal(half.rec.num_errors + half.rec.num_reads, 0);
    half_close(&half);
}

static void test_failed_write_lets_the_peers_last_words_be_read(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    looptest_settle(loop);
    stream_read_start(half.rec.stream);
    sockets_fill(half.peer, 0, 100);
    sockets_reset(half.peer);
    half.peer = -1;
    /* The loop has seen neither: the write is the first to hit the reset. */
    assert_int_equal(stream_write(half.rec.stream, bytes_of("x", 1)).code, E_OK);
    assert_int_equal(stream_write(half.rec.stream, bytes_of("x", 1)).code, E_OK);
    assert_int_equal(half.rec.stream->queued, 0);
    LOOP_UNTIL(loop, half.rec.num_errors == 1);
    assert_int_equal(half.rec.num_bytes, 100);
    assert_int_equal(half.rec.err.code, E_PEER_RESET);
    half_close(&half);
    /* With reading stopped it is the write that says so. */
    half_open(&half);
    looptest_settle(loop);
    sockets_reset(half.peer);
    half.peer = -1;
    assert_int_equal(stream_write(half.rec.stream, bytes_of("x", 1)).code, E_PEER_RESET);
    looptest_settle(loop);
    assert_int_equal(half.rec.num_errors, 0);
    half_close(&half);
}

static void test_reset_while_output_is_queued(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    must_write(half.rec.stream, 0, 8 << 20);
    assert_true(half.rec.stream->queued > 0);
    sockets_reset(half.peer);
    half.peer = -1;
    LOOP_UNTIL(loop, half.rec.num_errors == 1);
    assert_int_equal(half.rec.stream->queued, 0);
    assert_int_equal(half.rec.num_drained, 0);
    half_close(&half);
}

static void test_our_reset_and_our_close_look_different(void **state)
{
    struct half half;
    char byte;

    (void)state;
    half_open(&half);
    stream_reset(half.rec.stream);
    half.rec.stream = NULL;
    assert_int_equal(recv(half.peer, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    half_close(&half);
    half_open(&half);
    stream_close(half.rec.stream);
    half.rec.stream = NULL;
    assert_int_equal(recv(half.peer, &byte, 1, 0), 0);
    half_close(&half);
}

static void test_error_after_both_ends_is_no_news(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    stream_read_start(half.rec.stream);
    assert_int_equal(stream_shutdown(half.rec.stream).code, E_OK);
    shutdown(half.peer, SHUT_WR);
    LOOP_UNTIL(loop, half.rec.num_eofs == 1);
    sockets_reset(half.peer);
    half.peer = -1;
    looptest_settle(loop);
    assert_int_equal(half.rec.num_errors, 0);
    half_close(&half);
}

/* Closing in callbacks: the sanitizers watch. */

static void close_self_on_read(struct recorder *rec, struct bytes data)
{
    stream_close(rec->stream);
    rec->stream = NULL;
    assert_true(pattern_holds(data.ptr, 0, data.len)); /* still there */
}

static void close_self(struct recorder *rec)
{
    stream_close(rec->stream);
    rec->stream = NULL;
}

static void close_both(struct recorder *rec)
{
    struct recorder *other = rec->arg;

    close_self(rec);
    if (other->stream != NULL)
        close_self(other);
}

static void close_both_on_read(struct recorder *rec, struct bytes data)
{
    (void)data;
    close_both(rec);
}

static void test_close_in_every_callback(void **state)
{
    struct half half;

    (void)state;
    half_open(&half);
    half.rec.on_read = close_self_on_read;
    stream_read_start(half.rec.stream);
    sockets_fill(half.peer, 0, 700000);
    LOOP_UNTIL(loop, half.rec.stream == NULL);
    looptest_settle(loop);
    assert_int_equal(half.rec.num_reads, 1);
    half_close(&half);

    half_open(&half);
    half.rec.on_eof = close_self;
    stream_read_start(half.rec.stream);
    shutdown(half.peer, SHUT_WR);
    LOOP_UNTIL(loop, half.rec.stream == NULL);
    half_close(&half);

    half_open(&half);
    half.rec.on_error = close_self;
    sockets_reset(half.peer);
    half.peer = -1;
    LOOP_UNTIL(loop, half.rec.stream == NULL);
    half_close(&half);

    half_open(&half);
    half.rec.on_drained = close_self;
    stream_read_start(half.rec.stream);
    must_write(half.rec.stream, 0, 8 << 20);
    while (half.rec.stream != NULL) {
        (void)recv(half.peer, (char[65536]){0}, 65536, 0);
        loop_run_once(loop, false);
    }
    half_close(&half);
    looptest_settle(loop);
}

static void test_close_of_each_other_in_one_batch(void **state)
{
    struct half a, b;

    (void)state;
    for (int i = 0; i < 3; i++) {
        half_open(&a);
        half_open(&b);
        a.rec.on_read = b.rec.on_read = close_both_on_read;
        a.rec.on_error = b.rec.on_error = close_both;
        a.rec.arg = &b.rec;
        b.rec.arg = &a.rec;
        stream_read_start(a.rec.stream);
        stream_read_start(b.rec.stream);
        looptest_settle(loop);
        if (i == 2) {
            sockets_reset(a.peer);
            sockets_reset(b.peer);
            a.peer = b.peer = -1;
        } else {
            sockets_fill(a.peer, 0, i == 0 ? 1 : 300000);
            sockets_fill(b.peer, 0, i == 0 ? 1 : 300000);
        }
        looptest_settle(loop);
        assert_null(a.rec.stream);
        assert_null(b.rec.stream);
        assert_int_equal(a.rec.num_reads + b.rec.num_reads + a.rec.num_errors + b.rec.num_errors,
                         1);
        half_close(&a);
        half_close(&b);
    }
}

static void test_new_takes_the_descriptor_on_error_too(void **state)
{
    struct stream *stream = NULL;

    (void)state;
    assert_int_equal(tcp_new(loop, 987654, &stream).code, E_IO);
    assert_null(stream);
}

/* Connecting. */

struct connecting {
    struct tcp_connect *attempt;
    struct stream *stream;
    err_t err;
    unsigned num_calls;
};

static void on_connected(void *arg, err_t err, struct stream *stream)
{
    struct connecting *connecting = arg;

    assert_int_equal(err_is_ok(err), stream != NULL);
    connecting->num_calls++;
    connecting->err = err;
    connecting->stream = stream;
    connecting->attempt = NULL;
}

static void begin_connect(struct connecting *connecting, const struct addr *to, uint64_t timeout_ms)
{
    memset(connecting, 0, sizeof(*connecting));
    assert_int_equal(
        tcp_connect(loop, to, timeout_ms, on_connected, connecting, &connecting->attempt).code,
        E_OK);
    assert_int_equal(connecting->num_calls, 0);
}

static void test_connect_and_what_the_server_says_first(void **state)
{
    struct addr addr;
    int listener = sockets_listen(8, &addr), peer;
    struct connecting connecting;
    struct recorder rec = {0};

    (void)state;
    begin_connect(&connecting, &addr, 5000);
    do {
        peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    } while (peer < 0);
    sockets_fill(peer, 0, 100);
    close(peer); /* data and FIN are there before the loop has looked once */
    LOOP_UNTIL(loop, connecting.num_calls == 1);
    assert_int_equal(connecting.err.code, E_OK);
    recorder_attach(&rec, connecting.stream);
    looptest_settle(loop);
    stream_read_start(rec.stream);
    LOOP_UNTIL(loop, rec.num_eofs == 1);
    assert_int_equal(rec.num_bytes, 100);
    stream_close(rec.stream);
    recorder_fini(&rec);
    close(listener);
}

static void test_connect_refused(void **state)
{
    struct addr addr;
    struct connecting connecting;

    (void)state;
    close(sockets_listen(1, &addr));
    begin_connect(&connecting, &addr, 5000);
    LOOP_UNTIL(loop, connecting.num_calls == 1);
    assert_int_equal(connecting.err.code, E_CONNECT_REFUSED);
    assert_int_equal(connecting.err.sub, ECONNREFUSED);
    looptest_settle(loop);
    assert_int_equal(connecting.num_calls, 1);
}

static void test_connect_fails_at_once_but_tells_from_the_loop(void **state)
{
    struct connecting missing, cancelled;
    struct addr addr;

    (void)state;
    assert_int_equal(addr_parse("unix:/nonexistent/socket", &addr).code, E_OK);
    begin_connect(&missing, &addr, 5000);
    begin_connect(&cancelled, &addr, 5000);
    tcp_connect_cancel(cancelled.attempt);
    LOOP_UNTIL(loop, missing.num_calls == 1);
    assert_int_equal(missing.err.code, E_CONNECT_FAILED);
    assert_int_equal(missing.err.sub, ENOENT);
    looptest_settle(loop);
    assert_int_equal(cancelled.num_calls, 0);
}

static void test_connect_times_out_where_nobody_answers(void **state)
{
    struct addr addr;
    int listener = sockets_listen(0, &addr);
    struct connecting filler[4], late, cancelled;
    uint64_t begin_ms;

    (void)state;
    /* The listener's queue is full: the kernel drops further SYNs, as a black hole would. */
    for (int i = 0; i < 4; i++)
        begin_connect(&filler[i], &addr, 0);
    looptest_settle(loop);
    begin_ms = clock_mono_ms(&clock_system);
    begin_connect(&late, &addr, 60);
    begin_connect(&cancelled, &addr, 60);
    LOOP_UNTIL(loop, late.num_calls + cancelled.num_calls > 0);
    assert_int_equal(late.num_calls, 1);
    assert_int_equal(late.err.code, E_CONNECT_TIMEOUT);
    assert_in_range(clock_mono_ms(&clock_system) - begin_ms, 59, 10000);
    if (cancelled.attempt != NULL)
        tcp_connect_cancel(cancelled.attempt);
    for (int i = 0; i < 4; i++) {
        if (filler[i].attempt != NULL)
            tcp_connect_cancel(filler[i].attempt);
        else if (filler[i].stream != NULL)
            stream_close(filler[i].stream);
    }
    looptest_settle(loop);
    assert_int_equal(late.num_calls, 1);
    close(listener);
}

static void test_connect_cancelled_is_silent(void **state)
{
    struct addr addr;
    int listener = sockets_listen(8, &addr);
    struct connecting connecting;

    (void)state;
    begin_connect(&connecting, &addr, 5000);
    tcp_connect_cancel(connecting.attempt);
    looptest_settle(loop);
    assert_int_equal(connecting.num_calls, 0);
    close(listener);
}

static void test_connect_without_descriptors(void **state)
{
    struct addr addr;
    int listener = sockets_listen(8, &addr);
    struct rlimit limit, none;
    struct connecting connecting = {0};

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    none = limit;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(
        tcp_connect(loop, &addr, 1000, on_connected, &connecting, &connecting.attempt).code,
        E_FD_EXHAUSTED);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    looptest_settle(loop);
    assert_int_equal(connecting.num_calls, 0);
    close(listener);
}

/* What there is not enough of is nobody's fault but this host's. */
static struct {
    int epoll_ctl, socket; /* the errno that it fails with; 0: it does not */
} refuse;

int __real_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event);
int __real_socket(int domain, int type, int protocol);
int __wrap_socket(int domain, int type, int protocol);

int __wrap_epoll_ctl(int epoll_fd, int op, int fd, struct epoll_event *event)
{
    errno = refuse.epoll_ctl;
    return errno != 0 ? -1 : __real_epoll_ctl(epoll_fd, op, fd, event);
}

int __wrap_socket(int domain, int type, int protocol)
{
    errno = refuse.socket;
    return errno != 0 ? -1 : __real_socket(domain, type, protocol);
}

static bool no_memory;

void *__real_mem_try(size_t size);
void *__wrap_mem_try(size_t size);
void *__real_mem_try_alloc(size_t size);
void *__wrap_mem_try_alloc(size_t size);

void *__wrap_mem_try(size_t size)
{
    return no_memory ? NULL : __real_mem_try(size);
}

void *__wrap_mem_try_alloc(size_t size)
{
    return no_memory ? NULL : __real_mem_try_alloc(size);
}

/* A connection is lost for that, not the process; the other one goes on. */
static void test_no_memory_for_what_the_kernel_does_not_take(void **state)
{
    const size_t len = (size_t)8 << 20;
    uint8_t *data = mem_zalloc(len);
    struct connecting connecting = {0};
    struct half half, other;
    struct addr addr;
    int listener = sockets_listen(8, &addr);

    (void)state;
    half_open(&other);
    for (int reading = 0; reading < 2; reading++) {
        err_t err;

        half_open(&half);
        sockets_set_send_buffer(tcp_fd(half.rec.stream), 1);
        if (reading)
            stream_read_start(half.rec.stream);
        no_memory = true;
        err = stream_write(half.rec.stream, bytes_of(data, len));
        no_memory = false;
        if (reading) { /* as with every write that fails then */
            assert_int_equal(err.code, E_OK);
            LOOP_UNTIL(loop, half.rec.num_errors == 1);
            err = half.rec.err;
        }
        assert_int_equal(err.code, E_NO_MEMORY);
        assert_int_equal(half.rec.stream->queued, 0);
        half_close(&half);
    }
    no_memory = true;
    assert_int_equal(
        tcp_connect(loop, &addr, 1000, on_connected, &connecting, &connecting.attempt).code,
        E_NO_MEMORY);
    no_memory = false;
    must_write(other.rec.stream, 0, 100);
    LOOP_UNTIL(loop, sockets_drain(other.peer, 0, 100) == 100);
    half_close(&other);
    close(listener);
    mem_free(data);
}

static void test_what_the_kernel_has_not(void **state)
{
    static const struct {
        int value;
        enum err_code epoll_ctl, socket;
    } rows[] = {
        {ENOMEM, E_NO_MEMORY, E_NO_MEMORY},     {ENOSPC, E_FD_EXHAUSTED, E_CONNECT_FAILED},
        {ENOBUFS, E_IO, E_NO_MEMORY},           {EMFILE, E_IO, E_FD_EXHAUSTED},
        {EAFNOSUPPORT, E_IO, E_CONNECT_FAILED},
    };
    struct connecting connecting = {0};
    struct stream *stream;
    struct addr addr;
    int listener = sockets_listen(8, &addr);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int fd[2];
        err_t err;

        sockets_pair(fd);
        refuse.epoll_ctl = rows[i].value;
        err = tcp_new(loop, fd[0], &stream);
        assert_int_equal(err.code, rows[i].epoll_ctl);
        assert_int_equal(err.sub, rows[i].value);
        err = tcp_connect(loop, &addr, 1000, on_connected, &connecting, &connecting.attempt);
        assert_int_equal(err.code, rows[i].epoll_ctl);
        refuse.epoll_ctl = 0;
        refuse.socket = rows[i].value;
        err = tcp_connect(loop, &addr, 1000, on_connected, &connecting, &connecting.attempt);
        assert_int_equal(err.code, rows[i].socket);
        refuse.socket = 0;
        close(fd[1]);
    }
    looptest_settle(loop);
    assert_int_equal(connecting.num_calls, 0);
    close(listener);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_go_both_ways_and_are_counted),
        cmocka_unit_test(test_half_close_leaves_the_other_direction_open),
        cmocka_unit_test(test_read_stop_is_obeyed_at_once_and_nothing_is_lost),
        cmocka_unit_test(test_read_size_grows_with_full_reads_and_falls_on_a_stop),
        cmocka_unit_test(test_end_behind_much_data_comes_last),
        cmocka_unit_test(test_more_than_the_budget_without_another_edge),
        cmocka_unit_test(test_short_read_then_end_is_seen),
        cmocka_unit_test(test_urgent_data_does_not_hold_up_what_follows),
        cmocka_unit_test(test_passed_descriptors_do_not_hold_up_what_follows),
        cmocka_unit_test(test_a_look_takes_nothing),
        cmocka_unit_test(test_a_look_at_what_was_there_before),
        cmocka_unit_test(test_a_look_at_nothing_but_the_end),
        cmocka_unit_test(test_a_look_that_was_given_up),
        cmocka_unit_test(test_short_writes_arrive_whole),
        cmocka_unit_test(test_writing_from_on_drained),
        cmocka_unit_test(test_stalled_reader_holds_at_most_one_slab),
        cmocka_unit_test(test_what_the_peer_takes_is_known_before_the_kernel_calls),
        cmocka_unit_test(test_a_flood_leaves_room_for_others),
        cmocka_unit_test(test_reset_is_told_behind_the_last_data),
        cmocka_unit_test(test_reset_is_told_at_once_when_nothing_waits),
        cmocka_unit_test(test_reset_behind_unread_data_waits_for_the_reader),
        cmocka_unit_test(test_failed_write_lets_the_peers_last_words_be_read),
        cmocka_unit_test(test_reset_while_output_is_queued),
        cmocka_unit_test(test_our_reset_and_our_close_look_different),
        cmocka_unit_test(test_error_after_both_ends_is_no_news),
        cmocka_unit_test(test_close_in_every_callback),
        cmocka_unit_test(test_close_of_each_other_in_one_batch),
        cmocka_unit_test(test_new_takes_the_descriptor_on_error_too),
        cmocka_unit_test(test_connect_and_what_the_server_says_first),
        cmocka_unit_test(test_connect_refused),
        cmocka_unit_test(test_connect_fails_at_once_but_tells_from_the_loop),
        cmocka_unit_test(test_connect_times_out_where_nobody_answers),
        cmocka_unit_test(test_connect_cancelled_is_silent),
        cmocka_unit_test(test_connect_without_descriptors),
        cmocka_unit_test(test_what_the_kernel_has_not),
        cmocka_unit_test(test_no_memory_for_what_the_kernel_does_not_take),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
