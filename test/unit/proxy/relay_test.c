/* The relay over streams in memory: bytes, half-close, back-pressure, aborts, deadlines; and over
 * sockets: what a stalled connection holds.
 *
 * Drives: F1, F7, R15, R71 */
#include "proxy/relay.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/net/tcp.h"
#include "test/testlib/memstream.h"
#include "test/testlib/recorder.h"
#include "test/unit/net/sockets.h"

/* app <-> near (the relay's) … far (the relay's) <-> mesh */
struct fixture {
    struct loop *loop;
    struct recorder app, mesh;
    struct stream *near, *far;
    struct relay relay;
    unsigned num_done, num_stalls;
    err_t err;
    unsigned side;
};

static void fixture_on_done(void *arg, err_t err, unsigned side)
{
    struct fixture *f = arg;

    f->num_done++;
    f->err = err;
    f->side = side;
}

static void fixture_on_stall(void *arg)
{
    struct fixture *f = arg;

    f->num_stalls++;
}

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    struct stream *app, *mesh;

    f->loop = loop_new(&clock_system);
    memstream_pair(f->loop, &app, &f->near);
    memstream_pair(f->loop, &f->far, &mesh);
    memstream_keep(f->near);
    memstream_keep(f->far);
    recorder_attach(&f->app, app);
    recorder_attach(&f->mesh, mesh);
    relay_start(&f->relay, f->near, f->far, fixture_on_done, fixture_on_stall, f);
    stream_read_start(app);
    stream_read_start(mesh);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->num_done == 0)
        relay_abort(&f->relay);
    stream_close(f->app.stream);
    stream_close(f->mesh.stream);
    looptest_settle(f->loop);
    memstream_drop(f->near);
    memstream_drop(f->far);
    recorder_fini(&f->app);
    recorder_fini(&f->mesh);
    loop_free(f->loop);
    mem_free(f);
    return 0;
}

static void put(struct recorder *from, const char *text)
{
    assert_true(err_is_ok(stream_write(from->stream, bytes_of_str(text))));
}

static bool got(const struct recorder *at, const char *text)
{
    return bytes_equal_str(buf_view(&at->data), text);
}

static void test_bytes_go_both_ways_and_are_counted(void **state)
{
    struct fixture *f = *state;

    put(&f->app, "question");
    put(&f->mesh, "and answer");
    LOOP_UNTIL(f->loop, got(&f->mesh, "question") && got(&f->app, "and answer"));
    assert_int_equal(relay_bytes(&f->relay, RELAY_APP), 8);
    assert_int_equal(relay_bytes(&f->relay, RELAY_MESH), 10);
    assert_int_equal(f->num_done, 0);
}

static void test_half_close_leaves_the_other_direction_open(void **state)
{
    struct fixture *f = *state;

    put(&f->app, "all I have");
    assert_true(err_is_ok(stream_shutdown(f->app.stream)));
    LOOP_UNTIL(f->loop, f->mesh.num_eofs == 1);
    assert_true(got(&f->mesh, "all I have"));
    assert_int_equal(f->num_done, 0);
    put(&f->mesh, "late answer");
    LOOP_UNTIL(f->loop, got(&f->app, "late answer"));
    assert_int_equal(f->app.num_eofs, 0);

    assert_true(err_is_ok(stream_shutdown(f->mesh.stream)));
    LOOP_UNTIL(f->loop, f->num_done == 1);
    assert_true(err_is_ok(f->err));
    LOOP_UNTIL(f->loop, f->app.num_eofs == 1);
    assert_false(memstream_script(f->near)->is_reset);
    assert_false(memstream_script(f->far)->is_reset);
    assert_int_equal(relay_bytes(&f->relay, RELAY_MESH), strlen("late answer"));
}

static void test_the_server_may_speak_first(void **state)
{
    struct fixture *f = *state;

    put(&f->mesh, "220 ready\r\n");
    LOOP_UNTIL(f->loop, got(&f->app, "220 ready\r\n"));
    put(&f->app, "HELO\r\n");
    LOOP_UNTIL(f->loop, got(&f->mesh, "HELO\r\n"));
}

/* --- back-pressure --- */

static void test_a_stalled_side_stops_the_reading_of_the_other(void **state)
{
    struct fixture *f = *state;
    size_t held;

    memstream_script(f->far)->stall = true;
    put(&f->app, "first");
    LOOP_UNTIL(f->loop, f->far->queued > 0);
    assert_int_equal(f->num_stalls, 1);
    for (int i = 0; i < 100; i++)
        put(&f->app, "more");
    looptest_settle(f->loop);
    held = f->far->queued;
    assert_int_equal(held, strlen("first")); /* one read's worth, whatever else has come */
    assert_true(memstream_pending(f->near) > 0);

    /* The other direction is not concerned. */
    put(&f->mesh, "still here");
    LOOP_UNTIL(f->loop, got(&f->app, "still here"));

    memstream_script(f->far)->stall = false;
    memstream_go(f->far);
    LOOP_UNTIL(f->loop, buf_size(&f->mesh.data) == 5 + 400);
    assert_int_equal(f->num_done, 0);
}

static void test_an_end_behind_a_stall_waits_for_the_bytes(void **state)
{
    struct fixture *f = *state;

    memstream_script(f->far)->stall = true;
    put(&f->app, "tail");
    assert_true(err_is_ok(stream_shutdown(f->app.stream)));
    LOOP_UNTIL(f->loop, f->far->queued > 0);
    assert_true(err_is_ok(stream_shutdown(f->mesh.stream)));
    looptest_settle(f->loop);
    assert_int_equal(f->num_done, 0); /* both have ended, but not everything has been taken */

    memstream_script(f->far)->stall = false;
    memstream_go(f->far);
    LOOP_UNTIL(f->loop, f->num_done == 1);
    assert_true(err_is_ok(f->err));
    LOOP_UNTIL(f->loop, f->mesh.num_eofs == 1);
    assert_true(got(&f->mesh, "tail"));
}

static void test_dribbles_arrive_whole(void **state)
{
    struct fixture *f = *state;
    char text[4001];

    for (size_t i = 0; i < 4000; i++)
        text[i] = (char)('a' + i % 26);
    text[4000] = '\0';
    memstream_script(f->near)->read_max = 7;
    memstream_script(f->far)->write_max = 3;
    put(&f->app, text);
    LOOP_UNTIL(f->loop, buf_size(&f->mesh.data) == 4000);
    assert_true(got(&f->mesh, text));
}

/* --- aborts --- */

static void test_an_abort_of_the_application_aborts_the_tunnel(void **state)
{
    struct fixture *f = *state;

    memstream_reset(f->near);
    LOOP_UNTIL(f->loop, f->num_done == 1);
    assert_true(err_is(f->err, E_PEER_RESET));
    assert_int_equal(f->side, RELAY_APP);
    assert_true(memstream_script(f->far)->is_reset);
    LOOP_UNTIL(f->loop, f->mesh.num_errors == 1);
    assert_int_equal(f->mesh.num_eofs, 0); /* an abort never looks like an orderly end */
}

static void test_an_abort_of_the_tunnel_aborts_the_application(void **state)
{
    struct fixture *f = *state;

    memstream_reset(f->far);
    LOOP_UNTIL(f->loop, f->num_done == 1);
    assert_int_equal(f->side, RELAY_MESH);
    assert_true(memstream_script(f->near)->is_reset);
    LOOP_UNTIL(f->loop, f->app.num_errors == 1);
    assert_int_equal(f->app.num_eofs, 0);
}

static void test_a_failing_write_aborts_the_reader(void **state)
{
    struct fixture *f = *state;

    memstream_script(f->far)->fail_write = 2;
    put(&f->app, "one");
    LOOP_UNTIL(f->loop, got(&f->mesh, "one"));
    put(&f->app, "two");
    LOOP_UNTIL(f->loop, f->num_done == 1);
    assert_false(err_is_ok(f->err));
    assert_int_equal(f->side, RELAY_MESH);
    assert_true(memstream_script(f->near)->is_reset);
}

static void test_abort_is_silent_and_resets_both(void **state)
{
    struct fixture *f = *state;

    put(&f->app, "x");
    LOOP_UNTIL(f->loop, got(&f->mesh, "x"));
    relay_abort(&f->relay);
    LOOP_UNTIL(f->loop, f->app.num_errors == 1 && f->mesh.num_errors == 1);
    assert_int_equal(f->num_done, 0);
    assert_true(memstream_script(f->near)->is_reset);
    assert_true(memstream_script(f->far)->is_reset);
    assert_int_equal(relay_bytes(&f->relay, RELAY_APP), 1); /* still known */
    f->num_done = 1;                                        /* nothing is left to abort */
}

/* Every fault at every step: whatever breaks first, it is told once and both ends are closed. */
static void test_faults_at_every_write(void **state)
{
    struct fixture *unused = *state;

    (void)unused;
    for (unsigned kind = 0; kind < 2; kind++) {
        for (unsigned k = 1; k <= 6; k++) {
            void *inner = NULL;
            struct fixture *f;

            assert_int_equal(setup(&inner), 0);
            f = inner;
            if (kind == 0)
                memstream_script(f->far)->fail_write = k;
            else
                memstream_script(f->near)->fail_write = k;
            for (unsigned i = 0; i < 6 && f->num_done == 0; i++) {
                put(&f->app, "there");
                put(&f->mesh, "back");
                looptest_settle(f->loop);
            }
            assert_int_equal(f->num_done, 1);
            assert_false(err_is_ok(f->err));
            assert_int_equal(f->side, kind == 0 ? RELAY_MESH : RELAY_APP);
            assert_true(memstream_script(f->near)->is_closed);
            assert_true(memstream_script(f->far)->is_closed);
            teardown(&inner);
        }
    }
}

/* --- deadlines --- */

#define IDLE_MS 1000
#define STALL_MS 100

static void test_idle_counts_from_the_last_byte(void **state)
{
    struct fixture *f = *state;
    uint64_t again_ms = 0, from_ms = f->relay.active_ms;
    unsigned side = 9;

    assert_true(err_is_ok(
        relay_due(&f->relay, from_ms + IDLE_MS - 1, IDLE_MS, STALL_MS, &again_ms, &side)));
    assert_int_equal(again_ms, 1);
    assert_true(err_is(relay_due(&f->relay, from_ms + IDLE_MS, IDLE_MS, STALL_MS, &again_ms, &side),
                       E_IDLE));

    put(&f->mesh, "a byte in either direction");
    f->relay.active_ms = 0;
    LOOP_UNTIL(f->loop, buf_size(&f->app.data) > 0);
    assert_true(f->relay.active_ms >= from_ms);
}

static void test_a_receiver_that_takes_nothing_is_told_apart_from_a_slow_one(void **state)
{
    struct fixture *f = *state;
    uint64_t again_ms = 0, from_ms;
    unsigned side = 9;

    memstream_script(f->far)->stall = true;
    put(&f->app, "0123456789");
    LOOP_UNTIL(f->loop, f->far->queued == 10);
    from_ms = f->relay.sides[RELAY_MESH].stall_ms;
    assert_true(err_is_ok(
        relay_due(&f->relay, from_ms + STALL_MS - 1, IDLE_MS, STALL_MS, &again_ms, &side)));
    assert_int_equal(again_ms, 1);

    /* It takes one byte: time begins anew. */
    memstream_script(f->far)->stall = false;
    memstream_script(f->far)->write_max = 1;
    memstream_go(f->far);
    while (f->far->queued == 10)
        loop_run_once(f->loop, true);
    memstream_script(f->far)->stall = true;
    assert_true(
        err_is_ok(relay_due(&f->relay, from_ms + STALL_MS, IDLE_MS, STALL_MS, &again_ms, &side)));
    assert_int_equal(again_ms, relay_look_ms(STALL_MS));

    assert_true(
        err_is(relay_due(&f->relay, from_ms + 2 * STALL_MS, IDLE_MS, STALL_MS, &again_ms, &side),
               E_SLOW_PEER));
    assert_int_equal(side, RELAY_MESH);
}

static err_t due_at(struct fixture *f, uint64_t now_ms, uint64_t *out_again_ms)
{
    unsigned side;

    return relay_due(&f->relay, now_ms, IDLE_MS, STALL_MS, out_again_ms, &side);
}

/* The queue stands still as long as the kernel does not call: it has taken bytes for which there
 * was room, and the receiver takes those. */
static void test_what_leaves_the_kernel_counts_as_taken(void **state)
{
    struct fixture *f = *state;
    uint64_t now_ms, again_ms;

    put(&f->app, "nine bytes");
    LOOP_UNTIL(f->loop, got(&f->mesh, "nine bytes"));
    memstream_script(f->far)->unacked = 9;
    memstream_script(f->far)->stall = true;
    put(&f->app, "and more");
    LOOP_UNTIL(f->loop, f->far->queued > 0);
    now_ms = f->relay.sides[RELAY_MESH].stall_ms;
    assert_true(err_is_ok(due_at(f, now_ms, &again_ms)));
    memstream_script(f->far)->num_retries = 0;
    for (size_t left = 8; left < 9; left--) {
        assert_true(err_is_ok(due_at(f, now_ms += STALL_MS - 1, &again_ms)));
        assert_true(again_ms <= relay_look_ms(STALL_MS)); /* often enough to see it */
        memstream_script(f->far)->unacked = left;
        assert_true(err_is_ok(due_at(f, ++now_ms, &again_ms)));
    }
    assert_int_equal(memstream_script(f->far)->num_retries, 9); /* there is room now, perhaps */
    /* The twin: now it stands still. */
    assert_true(err_is_ok(due_at(f, now_ms + STALL_MS - 1, &again_ms)));
    assert_int_equal(again_ms, 1);
    assert_true(err_is(due_at(f, now_ms + STALL_MS, &again_ms), E_SLOW_PEER));
}

static void test_what_leaves_the_kernel_is_not_idle(void **state)
{
    struct fixture *f = *state;
    uint64_t now_ms, again_ms;

    memstream_script(f->far)->unacked = 4;
    put(&f->app, "late");
    LOOP_UNTIL(f->loop, got(&f->mesh, "late"));
    now_ms = f->relay.active_ms;
    for (size_t left = 3; left < 4; left--) {
        assert_true(err_is_ok(due_at(f, now_ms += IDLE_MS - 1, &again_ms)));
        memstream_script(f->far)->unacked = left;
        assert_true(err_is_ok(due_at(f, ++now_ms, &again_ms)));
        assert_int_equal(again_ms, relay_look_ms(IDLE_MS));
    }
    assert_true(err_is(due_at(f, now_ms + IDLE_MS, &again_ms), E_IDLE));
}

/* What left at once is no news at the next look, which may come long after. */
static void test_a_look_makes_no_connection_younger(void **state)
{
    struct fixture *f = *state;
    uint64_t again_ms;

    put(&f->app, "question");
    put(&f->mesh, "answer");
    LOOP_UNTIL(f->loop, got(&f->mesh, "question") && got(&f->app, "answer"));
    assert_true(err_is(due_at(f, f->relay.active_ms + IDLE_MS, &again_ms), E_IDLE));
}

static void test_a_drained_queue_ends_the_stall(void **state)
{
    struct fixture *f = *state;
    uint64_t again_ms = 0;
    unsigned side = 9;

    memstream_script(f->far)->stall = true;
    put(&f->app, "x");
    LOOP_UNTIL(f->loop, f->far->queued > 0);
    memstream_script(f->far)->stall = false;
    memstream_go(f->far);
    LOOP_UNTIL(f->loop, got(&f->mesh, "x"));
    LOOP_UNTIL(f->loop, f->relay.sides[RELAY_MESH].stall_ms == 0);
    assert_true(err_is_ok(relay_due(&f->relay, f->relay.active_ms + STALL_MS * 2, IDLE_MS, STALL_MS,
                                    &again_ms, &side)));
}

/* ---- over sockets ---- */

#define STALLED_MAX ((size_t)64 << 10)

static struct stream *tcp_of_fd(struct loop *loop, int fd)
{
    struct stream *stream;

    assert_true(err_is_ok(tcp_new(loop, fd, &stream)));
    return stream;
}

/* Reads that have grown large under a quick receiver must not be what a receiver that stops then
 * leaves in our hands. */
static void test_a_receiver_that_stops_leaves_little_behind(void **state)
{
    struct fixture f = {.loop = loop_new(&clock_system)};
    uint64_t sent = 0, got = 0;
    size_t most = 0, largest = 0;
    int app[2], mesh[2];

    (void)state;
    sockets_pair(app);
    sockets_pair(mesh);
    f.near = tcp_of_fd(f.loop, app[0]);
    f.far = tcp_of_fd(f.loop, mesh[0]);
    relay_start(&f.relay, f.near, f.far, fixture_on_done, fixture_on_stall, &f);
    for (int round = 0; round < 3; round++) {
        uint64_t until = sent + ((uint64_t)64 << 20);

        while (got < until) {
            size_t num = sockets_drain(mesh[1], got, (size_t)4 << 20);

            got += num != SIZE_MAX ? num : 0;
            if (sent < until)
                sent += sockets_fill(app[1], sent, until - sent);
            loop_run_once(f.loop, false);
            if (f.near->read_max > largest)
                largest = f.near->read_max;
        }
        for (int idle = 0; idle < 100; idle++) { /* now nobody reads: until nothing moves */
            size_t num = sockets_fill(app[1], sent, (size_t)1 << 20);

            sent += num;
            loop_run_once(f.loop, false);
            most = f.far->queued > most ? f.far->queued : most;
            idle = num > 0 ? 0 : idle;
        }
        assert_true(f.far->queued > 0);
    }
    print_message("reads of %zu bytes; stalled: at most %zu\n", largest, most);
    assert_int_equal(largest, LOOP_RX_SIZE);
    assert_true(most <= STALLED_MAX);
    relay_abort(&f.relay);
    close(app[1]);
    close(mesh[1]);
    loop_free(f.loop);
}

/* --- ending at a good moment --- */

#define QUIET_MS 5

static bool quiet(struct fixture *f, unsigned client, uint64_t after_ms)
{
    return relay_is_quiet(&f->relay, client, f->relay.active_ms + after_ms, QUIET_MS);
}

static void test_a_question_without_an_answer_is_not_quiet(void **state)
{
    struct fixture *f = *state;

    assert_true(quiet(f, RELAY_APP, QUIET_MS)); /* nothing was ever said */
    put(&f->app, "question");
    LOOP_UNTIL(f->loop, got(&f->mesh, "question"));
    assert_false(quiet(f, RELAY_APP, 1000));
    assert_true(quiet(f, RELAY_MESH, 1000)); /* seen the other way round it was an answer */
    put(&f->mesh, "answer");
    LOOP_UNTIL(f->loop, got(&f->app, "answer"));
    assert_false(quiet(f, RELAY_APP, QUIET_MS - 1));
    assert_true(quiet(f, RELAY_APP, QUIET_MS));
}

static void test_what_is_queued_or_half_closed_is_not_quiet(void **state)
{
    struct fixture *f = *state;

    memstream_script(f->near)->stall = true;
    put(&f->mesh, "answer");
    LOOP_UNTIL(f->loop, f->near->queued > 0);
    assert_false(quiet(f, RELAY_APP, 1000));
    memstream_script(f->near)->stall = false;
    stream_retry(f->near);
    assert_true(err_is_ok(stream_shutdown(f->mesh.stream)));
    LOOP_UNTIL(f->loop, f->app.num_eofs == 1);
    assert_false(quiet(f, RELAY_APP, 1000));
}

static void test_a_client_that_is_told_the_end_ends_it_in_order(void **state)
{
    struct fixture *f = *state;

    assert_true(err_is_ok(relay_end(&f->relay, RELAY_APP)));
    LOOP_UNTIL(f->loop, f->app.num_eofs == 1);
    assert_int_equal(f->num_done, 0);
    assert_true(err_is_ok(stream_shutdown(f->app.stream)));
    LOOP_UNTIL(f->loop, f->num_done == 1);
    assert_true(err_is_ok(f->err));
    LOOP_UNTIL(f->loop, f->mesh.num_eofs == 1);
    assert_false(memstream_script(f->far)->is_reset);
}

/* The twin: what it says all the same reaches nobody, and it sees that. */
static void test_a_question_behind_the_end_is_not_delivered(void **state)
{
    struct fixture *f = *state;

    assert_true(err_is_ok(relay_end(&f->relay, RELAY_APP)));
    put(&f->app, "one more");
    LOOP_UNTIL(f->loop, f->num_done == 1);
    assert_true(err_is(f->err, E_CLOSED));
    assert_int_equal(buf_size(&f->mesh.data), 0);
    assert_true(memstream_script(f->near)->is_reset);
    assert_true(memstream_script(f->far)->is_reset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bytes_go_both_ways_and_are_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_close_leaves_the_other_direction_open, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_server_may_speak_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_stalled_side_stops_the_reading_of_the_other, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_end_behind_a_stall_waits_for_the_bytes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_dribbles_arrive_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_abort_of_the_application_aborts_the_tunnel, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_abort_of_the_tunnel_aborts_the_application, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_failing_write_aborts_the_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_abort_is_silent_and_resets_both, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults_at_every_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle_counts_from_the_last_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_receiver_that_takes_nothing_is_told_apart_from_a_slow_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_leaves_the_kernel_counts_as_taken, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_leaves_the_kernel_is_not_idle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_look_makes_no_connection_younger, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_drained_queue_ends_the_stall, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_question_without_an_answer_is_not_quiet, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_queued_or_half_closed_is_not_quiet, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_client_that_is_told_the_end_ends_it_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_question_behind_the_end_is_not_delivered, setup,
                                        teardown),
        cmocka_unit_test(test_a_receiver_that_stops_leaves_little_behind),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
