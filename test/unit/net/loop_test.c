/* The loop's promises: deadlines in order, deferred calls behind the batch, nobody starved, and
 * silence after a close, whoever closes whom in which callback. Drives: R14, R15 */
#include "lib/net/loop.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/testlib/recorder.h"

/* A clock that tests move. */
struct fake_clock {
    struct clock base;
    uint64_t now_ms;
};

static uint64_t fake_mono_ms(const struct clock *clock)
{
    return ((const struct fake_clock *)(const void *)clock)->now_ms;
}

static int64_t fake_wall_s(const struct clock *clock)
{
    (void)clock;
    return 0;
}

static struct fake_clock fake = {{fake_mono_ms, fake_wall_s}, 1000};

static void advance(struct loop *loop, uint64_t ms)
{
    fake.now_ms += ms;
    loop_run_once(loop, false);
}

/* A timer that writes its name into a log when it fires. */
static char fired[256];

struct named_timer {
    struct timer timer;
    struct loop *loop;
    char name;
    uint64_t again_ms;      /* arms itself again with this, UINT64_MAX: not */
    struct timer *stop_one; /* and stops this one */
};

static void on_named_timer(void *arg)
{
    struct named_timer *named = arg;
    size_t len = strlen(fired);

    fired[len] = named->name;
    fired[len + 1] = '\0';
    assert_false(timer_is_on(&named->timer));
    if (named->stop_one != NULL)
        timer_stop(named->loop, named->stop_one);
    if (named->again_ms != UINT64_MAX)
        timer_start(named->loop, &named->timer, named->again_ms, on_named_timer, named);
}

static void start_named(struct named_timer *named, struct loop *loop, char name, uint64_t ms)
{
    *named = (struct named_timer){.loop = loop, .name = name, .again_ms = UINT64_MAX};
    timer_start(loop, &named->timer, ms, on_named_timer, named);
}

static void test_timers_fire_in_order_of_their_deadlines(void **state)
{
    struct loop *loop = loop_new(&fake.base);
    struct named_timer t[5];

    (void)state;
    fired[0] = '\0';
    start_named(&t[0], loop, 'c', 30);
    start_named(&t[1], loop, 'a', 10);
    start_named(&t[2], loop, 'e', 50);
    start_named(&t[3], loop, 'b', 20);
    start_named(&t[4], loop, 'd', 40);
    advance(loop, 9);
    assert_string_equal(fired, "");
    advance(loop, 1);
    assert_string_equal(fired, "a");
    timer_stop(loop, &t[3].timer);
    timer_stop(loop, &t[3].timer); /* twice is allowed */
    advance(loop, 100);
    assert_string_equal(fired, "acde");
    loop_free(loop);
}

static void test_timer_moved_fires_at_the_new_time_only(void **state)
{
    struct loop *loop = loop_new(&fake.base);
    struct named_timer late, early, never;

    (void)state;
    fired[0] = '\0';
    start_named(&late, loop, 'l', 10);
    start_named(&early, loop, 'e', 1000);
    start_named(&never, loop, 'n', UINT64_MAX);
    timer_start(loop, &late.timer, 100, on_named_timer, &late);
    timer_start(loop, &late.timer, 50, on_named_timer, &late);
    timer_start(loop, &early.timer, 20, on_named_timer, &early);
    advance(loop, 15);
    assert_string_equal(fired, "");
    advance(loop, 5);
    assert_string_equal(fired, "e");
    advance(loop, 29);
    assert_string_equal(fired, "e");
    advance(loop, 1);
    assert_string_equal(fired, "el");
    advance(loop, 1u << 30);
    assert_string_equal(fired, "el");
    timer_stop(loop, &never.timer);
    loop_free(loop);
}

static void test_timer_armed_again_in_its_callback(void **state)
{
    struct loop *loop = loop_new(&fake.base);
    struct named_timer t;

    (void)state;
    fired[0] = '\0';
    start_named(&t, loop, 'x', 10);
    t.again_ms = 10;
    advance(loop, 10);
    advance(loop, 5);
    advance(loop, 5);
    advance(loop, 1000); /* once a round, however late */
    assert_string_equal(fired, "xxx");
    timer_stop(loop, &t.timer);
    loop_free(loop);
}

static void test_timer_armed_for_now_does_not_hold_the_loop(void **state)
{
    struct loop *loop = loop_new(&fake.base);
    struct named_timer greedy, other;

    (void)state;
    fired[0] = '\0';
    start_named(&greedy, loop, 'g', 0);
    greedy.again_ms = 0;
    start_named(&other, loop, 'o', 0);
    loop_run_once(loop, false);
    loop_run_once(loop, false);
    assert_in_range(strlen(fired), 2, 8);
    assert_non_null(strchr(fired, 'o'));
    timer_stop(loop, &greedy.timer);
    loop_free(loop);
}

static void test_timer_stopped_by_another_of_the_same_moment(void **state)
{
    struct loop *loop = loop_new(&fake.base);
    struct named_timer a, b;

    (void)state;
    fired[0] = '\0';
    start_named(&a, loop, 'a', 10);
    start_named(&b, loop, 'b', 11);
    a.stop_one = &b.timer;
    advance(loop, 20);
    assert_string_equal(fired, "a");
    assert_false(timer_is_on(&b.timer));
    loop_free(loop);
}

/* Against a plain array: starts, moves and stops of 300 timers in random order. */
struct model {
    uint64_t due[300]; /* 0: off */
    uint64_t last_ms;
    unsigned num_fired;
};
static struct model model;
static struct timer model_timers[300];

static void on_model_timer(void *arg)
{
    size_t i = (size_t)((struct timer *)arg - model_timers);

    assert_true(model.due[i] != 0 && model.due[i] <= fake.now_ms);
    assert_true(model.due[i] >= model.last_ms);
    model.last_ms = model.due[i];
    model.due[i] = 0;
    model.num_fired++;
}

static void test_heap_agrees_with_a_plain_list(void **state)
{
    struct loop *loop = loop_new(&fake.base);
    uint32_t seed = 42;

    (void)state;
    memset(&model, 0, sizeof(model));
    for (int round = 0; round < 20000; round++) {
        size_t i = (seed = seed * 1664525 + 1013904223) >> 8;
        uint64_t ms = (seed >> 4) % 500;

        i %= 300;
        switch ((seed >> 28) % 4) {
        case 0:
            timer_stop(loop, &model_timers[i]);
            model.due[i] = 0;
            break;
        case 1:
            model.last_ms = 0;
            advance(loop, ms / 50);
            for (size_t k = 0; k < 300; k++)
                assert_true(model.due[k] == 0 || model.due[k] > fake.now_ms);
            break;
        default:
            timer_start(loop, &model_timers[i], ms + 1, on_model_timer, &model_timers[i]);
            model.due[i] = fake.now_ms + ms + 1;
            break;
        }
        assert_int_equal(timer_is_on(&model_timers[i]), model.due[i] != 0);
    }
    assert_true(model.num_fired > 1000);
    for (size_t k = 0; k < 300; k++)
        timer_stop(loop, &model_timers[k]);
    loop_free(loop);
}

static void test_blocking_ends_at_the_deadline_and_not_before(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct timer timer = {0};
    bool late = false;
    uint64_t begin_ms = clock_mono_ms(&clock_system);

    (void)state;
    timer_start(loop, &timer, 30, looptest_late, &late);
    while (!late)
        loop_run_once(loop, true);
    assert_in_range(clock_mono_ms(&clock_system) - begin_ms, 30, 10000);
    loop_free(loop);
}

/* Deferred calls. */

static struct loop *defer_loop;

static void on_deferred_name(void *arg)
{
    size_t len = strlen(fired);

    fired[len] = *(const char *)arg;
    fired[len + 1] = '\0';
}

static void on_deferred_twice(void *arg)
{
    on_deferred_name(arg);
    loop_defer(defer_loop, on_deferred_name, arg);
}

static void test_deferred_calls_come_in_order_and_new_ones_next_round(void **state)
{
    static char a[] = "a", b[] = "b", c[] = "c";

    (void)state;
    fired[0] = '\0';
    defer_loop = loop_new(&clock_system);
    loop_defer(defer_loop, on_deferred_name, a);
    loop_defer(defer_loop, on_deferred_twice, b);
    loop_defer(defer_loop, on_deferred_name, c);
    loop_run_once(defer_loop, true); /* does not block: something is to be done */
    assert_string_equal(fired, "abc");
    loop_run_once(defer_loop, true);
    assert_string_equal(fired, "abcb");
    loop_defer(defer_loop, on_deferred_twice, a);
    loop_free(defer_loop); /* does what is left, and what that leaves */
    assert_string_equal(fired, "abcbaa");
}

/* Descriptors. */

struct end {
    struct poll poll;
    struct loop *loop;
    int other_fd;
    unsigned num_calls;
    unsigned ready;        /* of the last call */
    struct end *close_one; /* closed in the callback */
    bool again;
};

static void on_end(void *arg, unsigned ready)
{
    struct end *end = arg;

    end->num_calls++;
    end->ready = ready;
    if (end->close_one != NULL)
        poll_close(end->loop, &end->close_one->poll);
    if (end->again)
        poll_again(end->loop, &end->poll);
}

static void end_open(struct end *end, struct loop *loop)
{
    int fd[2];

    memset(end, 0, sizeof(*end));
    end->loop = loop;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    end->other_fd = fd[1];
    assert_int_equal(poll_open(loop, &end->poll, fd[0], on_end, end).code, E_OK);
}

static void end_close(struct end *end)
{
    poll_close(end->loop, &end->poll);
    close(end->other_fd);
}

static void put_byte(int fd)
{
    assert_int_equal(write(fd, "x", 1), 1);
}

static void test_poll_tells_each_edge_once(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct end end;
    char byte;

    (void)state;
    end_open(&end, loop);
    loop_run_once(loop, false);
    assert_int_equal(end.num_calls, 1); /* writable from the start */
    assert_int_equal(end.ready, POLL_WRITABLE);
    looptest_settle(loop);
    assert_int_equal(end.num_calls, 1);
    put_byte(end.other_fd);
    looptest_settle(loop);
    assert_int_equal(end.num_calls, 2);
    assert_int_equal(end.ready,
                     POLL_READABLE | POLL_WRITABLE); /* the user clears what is used up */
    assert_int_equal(read(end.poll.fd, &byte, 1), 1);
    end.poll.ready = 0;
    shutdown(end.other_fd, SHUT_WR);
    looptest_settle(loop);
    assert_int_equal(end.num_calls, 3);
    assert_true((end.ready & POLL_HANGUP) != 0);
    end_close(&end);
    loop_free(loop);
}

static void test_poll_again_takes_turns(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct end greedy, modest;

    (void)state;
    end_open(&greedy, loop);
    end_open(&modest, loop);
    looptest_settle(loop);
    greedy.again = true;
    greedy.num_calls = modest.num_calls = 0;
    put_byte(greedy.other_fd);
    loop_run_once(loop, false);
    for (unsigned i = 1; i <= 10; i++) {
        put_byte(modest.other_fd);
        loop_run_once(loop, true); /* must not block either */
        assert_int_equal(modest.num_calls, i);
    }
    assert_in_range(greedy.num_calls, 11, 13);
    greedy.again = false;
    end_close(&greedy);
    end_close(&modest);
    loop_free(loop);
}

static void test_poll_closed_by_another_is_silent_in_the_same_batch(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct end a, b;

    (void)state;
    /* Whichever comes first closes the other: exactly one is called. */
    end_open(&a, loop);
    end_open(&b, loop);
    a.close_one = &b;
    b.close_one = &a;
    put_byte(a.other_fd);
    put_byte(b.other_fd);
    looptest_settle(loop);
    assert_int_equal(a.num_calls + b.num_calls, 1);
    end_close(&a);
    end_close(&b);
    /* The same for turns asked for. */
    end_open(&a, loop);
    end_open(&b, loop);
    looptest_settle(loop);
    a.num_calls = b.num_calls = 0;
    a.close_one = &b;
    poll_again(loop, &a.poll);
    poll_again(loop, &b.poll);
    looptest_settle(loop);
    assert_int_equal(a.num_calls, 1);
    assert_int_equal(b.num_calls, 0);
    end_close(&a);
    close(b.other_fd);
    loop_free(loop);
}

static struct end reopened;

static void on_end_reopen(void *arg, unsigned ready)
{
    struct end *end = arg;
    int fd[2];

    (void)ready;
    end->num_calls++;
    if (reopened.num_calls != 0 || end->close_one == NULL)
        return;
    /* The other one's place, and most likely its descriptor's number, are used anew at once. */
    poll_close(end->loop, &reopened.poll);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    close(reopened.other_fd);
    reopened.other_fd = fd[1];
    reopened.num_calls = 100;
    assert_int_equal(poll_open(end->loop, &reopened.poll, fd[0], on_end, &reopened).code, E_OK);
    end->close_one = NULL;
}

static void test_poll_opened_anew_gets_no_event_of_its_predecessor(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct end first;
    int flags;

    (void)state;
    end_open(&first, loop);
    end_open(&reopened, loop);
    looptest_settle(loop);
    first.poll.fn = on_end_reopen;
    first.num_calls = reopened.num_calls = 0;
    first.close_one = &reopened;
    put_byte(first.other_fd);
    put_byte(reopened.other_fd);
    looptest_settle(loop);
    flags = (int)reopened.ready;
    assert_int_equal(reopened.num_calls, 101); /* its own first edge, no byte to read */
    assert_int_equal(flags, POLL_WRITABLE);
    end_close(&first);
    end_close(&reopened);
    loop_free(loop);
}

static void test_poll_release_gives_the_descriptor_back_open(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct end end;
    int fd;

    (void)state;
    end_open(&end, loop);
    put_byte(end.other_fd);
    fd = poll_release(loop, &end.poll);
    looptest_settle(loop);
    assert_int_equal(end.num_calls, 0);
    assert_true(fcntl(fd, F_GETFD) >= 0);
    assert_int_equal(poll_release(loop, &end.poll), -1);
    poll_close(loop, &end.poll);
    assert_true(fcntl(fd, F_GETFD) >= 0);
    close(fd);
    close(end.other_fd);
    loop_free(loop);
}

static void test_poll_open_tells_what_cannot_be_polled(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct poll poll = {0};
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    (void)state;
    assert_int_equal(poll_open(loop, &poll, fd, on_end, NULL).code, E_IO);
    assert_true(fcntl(fd, F_GETFD) >= 0); /* still the caller's */
    close(fd);
    loop_free(loop);
}

/* libuv inside. */

static void on_uv_timer(uv_timer_t *timer)
{
    ++*(int *)timer->data;
}

static void on_uv_poll(uv_poll_t *poll, int status, int events)
{
    char byte;
    uv_os_fd_t fd;

    assert_int_equal(status, 0);
    assert_int_equal(events, UV_READABLE);
    assert_int_equal(uv_fileno((uv_handle_t *)poll, &fd), 0);
    assert_int_equal(read(fd, &byte, 1), 1);
    ++*(int *)poll->data;
}

struct uv_starter {
    struct loop *loop;
    uv_poll_t poll;
    int fd;
    int num_calls;
};

static void on_start_uv_poll(void *arg)
{
    struct uv_starter *starter = arg;

    assert_int_equal(uv_poll_init(loop_uv(starter->loop), &starter->poll, starter->fd), 0);
    starter->poll.data = &starter->num_calls;
    assert_int_equal(uv_poll_start(&starter->poll, UV_READABLE, on_uv_poll), 0);
}

static void test_libuv_handles_work_inside(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct uv_starter starter = {.loop = loop};
    struct timer timer = {0};
    uv_timer_t uv_timer;
    int fd[2], num_ticks = 0;

    (void)state;
    assert_int_equal(uv_timer_init(loop_uv(loop), &uv_timer), 0);
    uv_timer.data = &num_ticks;
    assert_int_equal(uv_timer_start(&uv_timer, on_uv_timer, 5, 5), 0);
    LOOP_UNTIL(loop, num_ticks >= 3);
    uv_timer_stop(&uv_timer);
    /* A handle that is started in a callback of ours, with nothing else going on. */
    assert_int_equal(pipe2(fd, O_NONBLOCK | O_CLOEXEC), 0);
    starter.fd = fd[0];
    timer_start(loop, &timer, 1, on_start_uv_poll, &starter);
    put_byte(fd[1]);
    LOOP_UNTIL(loop, starter.num_calls == 1);
    uv_close((uv_handle_t *)&starter.poll, NULL);
    loop_free(loop); /* closes the timer's handle by itself */
    close(fd[0]);
    close(fd[1]);
}

static void *stop_from_thread(void *arg)
{
    loop_stop(arg);
    return NULL;
}

static void test_stop_comes_from_any_thread(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    pthread_t thread;

    (void)state;
    for (int i = 0; i < 50; i++) {
        assert_int_equal(pthread_create(&thread, NULL, stop_from_thread, loop), 0);
        loop_run(loop); /* blocks in the kernel: there is nothing to do */
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    loop_stop(loop); /* before it runs: it returns at once */
    loop_run(loop);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timers_fire_in_order_of_their_deadlines),
        cmocka_unit_test(test_timer_moved_fires_at_the_new_time_only),
        cmocka_unit_test(test_timer_armed_again_in_its_callback),
        cmocka_unit_test(test_timer_armed_for_now_does_not_hold_the_loop),
        cmocka_unit_test(test_timer_stopped_by_another_of_the_same_moment),
        cmocka_unit_test(test_heap_agrees_with_a_plain_list),
        cmocka_unit_test(test_blocking_ends_at_the_deadline_and_not_before),
        cmocka_unit_test(test_deferred_calls_come_in_order_and_new_ones_next_round),
        cmocka_unit_test(test_poll_tells_each_edge_once),
        cmocka_unit_test(test_poll_again_takes_turns),
        cmocka_unit_test(test_poll_closed_by_another_is_silent_in_the_same_batch),
        cmocka_unit_test(test_poll_opened_anew_gets_no_event_of_its_predecessor),
        cmocka_unit_test(test_poll_release_gives_the_descriptor_back_open),
        cmocka_unit_test(test_poll_open_tells_what_cannot_be_polled),
        cmocka_unit_test(test_libuv_handles_work_inside),
        cmocka_unit_test(test_stop_comes_from_any_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
