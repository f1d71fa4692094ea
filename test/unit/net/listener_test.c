/* Listeners: nothing accepted before its time, all of it afterwards; out of descriptors they rest
 * instead of spinning and come back by themselves; socket files are private and never another's.
 * Drives: R14, R32 */
#include "lib/net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "test/testlib/recorder.h"
#include "test/unit/net/sockets.h"

#define CLIENTS_MAX 300

static struct loop *loop;

struct accepted {
    struct listener *listener;
    int fds[CLIENTS_MAX];
    size_t num;
    size_t num_turned_away;
    size_t close_listener_at; /* in the callback of this connection; 0: not */
    struct addr peer;         /* of the last */
};

static void on_accept(void *arg, int fd, const struct addr *peer)
{
    struct accepted *accepted = arg;

    assert_true((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_true(accepted->num < CLIENTS_MAX);
    accepted->fds[accepted->num++] = fd;
    accepted->peer = *peer;
    if (accepted->num == accepted->close_listener_at) {
        listener_close(accepted->listener);
        accepted->listener = NULL;
    }
}

static void on_turned_away(void *arg)
{
    struct accepted *accepted = arg;

    accepted->num_turned_away++;
}

static err_t open_listener(struct accepted *accepted, const char *text, unsigned unix_mode)
{
    struct listener_params params = {.on_accept = on_accept,
                                     .on_turned_away = on_turned_away,
                                     .arg = accepted,
                                     .unix_mode = unix_mode};

    memset(accepted, 0, sizeof(*accepted));
    assert_int_equal(addr_parse(text, &params.addr).code, E_OK);
    return listener_new(loop, &params, &accepted->listener);
}

static void close_accepted(struct accepted *accepted)
{
    if (accepted->listener != NULL)
        listener_close(accepted->listener);
    for (size_t i = 0; i < accepted->num; i++)
        close(accepted->fds[i]);
    looptest_settle(loop);
}

static int client(const struct addr *to)
{
    int fd = socket(to->sa.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_true(connect(fd, &to->sa.any, to->len) == 0 || errno == EINPROGRESS);
    return fd;
}

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

static void test_nothing_is_accepted_before_start_or_while_paused(void **state)
{
    struct accepted accepted;
    struct addr local;
    int fd[3];

    (void)state;
    assert_int_equal(open_listener(&accepted, "127.0.0.1:0", 0).code, E_OK);
    assert_true(addr_port(listener_addr(accepted.listener)) != 0);
    fd[0] = client(listener_addr(accepted.listener));
    looptest_settle(loop);
    assert_int_equal(accepted.num, 0);
    listener_start(accepted.listener);
    LOOP_UNTIL(loop, accepted.num == 1); /* no new edge comes for it */
    assert_int_equal(addr_of_local(fd[0], &local).code, E_OK);
    assert_true(addr_equal(&local, &accepted.peer));
    listener_pause(accepted.listener);
    fd[1] = client(listener_addr(accepted.listener));
    fd[2] = client(listener_addr(accepted.listener));
    looptest_settle(loop);
    assert_int_equal(accepted.num, 1);
    listener_start(accepted.listener);
    LOOP_UNTIL(loop, accepted.num == 3);
    close_accepted(&accepted);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
}

static void test_more_than_a_batch_at_once(void **state)
{
    struct accepted accepted;
    int fd[200];

    (void)state;
    assert_int_equal(open_listener(&accepted, "[::1]:0", 0).code, E_OK);
    for (int i = 0; i < 200; i++)
        fd[i] = client(listener_addr(accepted.listener));
    listener_start(accepted.listener);
    LOOP_UNTIL(loop, accepted.num == 200);
    close_accepted(&accepted);
    for (int i = 0; i < 200; i++)
        close(fd[i]);
}

static void test_closing_it_in_the_callback(void **state)
{
    struct accepted accepted;
    int fd[10];

    (void)state;
    assert_int_equal(open_listener(&accepted, "127.0.0.1:0", 0).code, E_OK);
    accepted.close_listener_at = 3;
    for (int i = 0; i < 10; i++)
        fd[i] = client(listener_addr(accepted.listener));
    listener_start(accepted.listener);
    LOOP_UNTIL(loop, accepted.num == 3);
    looptest_settle(loop);
    assert_int_equal(accepted.num, 3);
    close_accepted(&accepted);
    for (int i = 0; i < 10; i++)
        close(fd[i]);
}

static void ignore_line(void *arg, const char *line, size_t len)
{
    (void)line;
    (void)len;
    ++*(unsigned *)arg;
}

static void test_without_descriptors_it_rests_and_comes_back(void **state)
{
    struct accepted accepted;
    struct rlimit limit, low;
    unsigned num_lines = 0, num_rounds = 0, num_gone = 0;
    uint64_t end_ms;
    int fd[20], next;
    char byte;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(open_listener(&accepted, "127.0.0.1:0", 0).code, E_OK);
    log_set_sink(ignore_line, &num_lines);
    for (int i = 0; i < 20; i++)
        fd[i] = client(listener_addr(accepted.listener));
    next = dup(0); /* the lowest number that is free: five more, then no other */
    close(next);
    low = limit;
    low.rlim_cur = (rlim_t)next + 5;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    listener_start(accepted.listener);
    end_ms = clock_mono_ms(&clock_system) + 350;
    while (clock_mono_ms(&clock_system) < end_ms) {
        struct timer timer = {0};
        bool over = false;

        timer_start(loop, &timer, 50, looptest_late, &over);
        loop_run_once(loop, true);
        timer_stop(loop, &timer);
        num_rounds++;
    }
    assert_int_equal(accepted.num, 5);
    assert_in_range(num_rounds, 5, 40); /* it does not spin */
    assert_in_range(num_lines, 1, 10);
    /* Somebody was told; most still wait. */
    for (int i = 0; i < 20; i++)
        num_gone += recv(fd[i], &byte, 1, 0) < 0 && errno == ECONNRESET;
    assert_in_range(num_gone, 1, 10);
    assert_int_equal(accepted.num_turned_away, num_gone); /* each is counted */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    LOOP_UNTIL(loop, accepted.num == 20 - num_gone); /* no new edge comes: its own timer it is */
    log_set_sink(NULL, NULL);
    close_accepted(&accepted);
    for (int i = 0; i < 20; i++)
        close(fd[i]);
}

static void test_the_last_descriptor_used_up_is_no_reason_to_turn_anyone_away(void **state)
{
    struct accepted accepted;
    struct rlimit limit, low;
    unsigned num_lines = 0;
    int fd, late, next;
    char byte;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(open_listener(&accepted, "127.0.0.1:0", 0).code, E_OK);
    log_set_sink(ignore_line, &num_lines);
    fd = client(listener_addr(accepted.listener));
    late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    next = dup(0);
    close(next);
    low = limit;
    low.rlim_cur = (rlim_t)next + 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    listener_start(accepted.listener);
    LOOP_UNTIL(loop, accepted.num == 1);
    looptest_settle(loop);
    assert_int_equal(num_lines, 0);
    assert_int_equal(accepted.num_turned_away, 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(connect(late, &listener_addr(accepted.listener)->sa.any,
                             listener_addr(accepted.listener)->len),
                     0);
    LOOP_UNTIL(loop, accepted.num == 2); /* at once: it is not resting */
    assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    log_set_sink(NULL, NULL);
    close_accepted(&accepted);
    close(fd);
    close(late);
}

static void test_ports_in_use_and_addresses_of_others_are_told(void **state)
{
    struct accepted first, second;
    char text[ADDR_TEXT_MAX];

    (void)state;
    assert_int_equal(open_listener(&first, "127.0.0.1:0", 0).code, E_OK);
    addr_format(listener_addr(first.listener), text);
    assert_int_equal(open_listener(&second, text, 0).code, E_ADDR_IN_USE);
    assert_int_equal(open_listener(&second, "192.0.2.1:80", 0).code, E_IO); /* not ours: RFC 5737 */
    close_accepted(&first);
    assert_int_equal(open_listener(&second, text, 0).code, E_OK); /* free again at once */
    close_accepted(&second);
}

/* Socket files. */

static char folder[128];
static char path[160];
static char text_of_path[192];

static void make_folder(void)
{
    /* Not below TEST_TMPDIR: a socket's path has 107 bytes at most. */
    (void)snprintf(folder, sizeof(folder), "/tmp/sock.XXXXXX");
    assert_non_null(mkdtemp(folder));
    (void)snprintf(path, sizeof(path), "%s/x.sock", folder);
    (void)snprintf(text_of_path, sizeof(text_of_path), "unix:%s", path);
}

static void remove_folder(void)
{
    (void)unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

static void test_socket_file_is_private_and_removed(void **state)
{
    struct accepted accepted;
    struct stat st;
    mode_t umask_before = umask(0);
    int fd;

    (void)state;
    make_folder();
    assert_int_equal(open_listener(&accepted, text_of_path, 0).code, E_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    listener_start(accepted.listener);
    fd = client(listener_addr(accepted.listener));
    LOOP_UNTIL(loop, accepted.num == 1);
    assert_true(addr_is_loopback(&accepted.peer));
    close(fd);
    close_accepted(&accepted);
    assert_int_equal(stat(path, &st), -1);
    (void)umask(077);
    assert_int_equal(open_listener(&accepted, text_of_path, 0660).code, E_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660); /* as asked, whatever the umask */
    close_accepted(&accepted);
    (void)umask(umask_before);
    remove_folder();
}

static void test_stale_socket_file_is_replaced_a_live_one_is_not(void **state)
{
    struct accepted accepted, second;
    struct addr addr;
    struct stat st;
    int stale;

    (void)state;
    make_folder();
    assert_int_equal(addr_parse(text_of_path, &addr).code, E_OK);
    stale = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(stale, &addr.sa.any, addr.len), 0);
    close(stale); /* died without removing it */
    assert_int_equal(open_listener(&accepted, text_of_path, 0).code, E_OK);
    assert_int_equal(open_listener(&second, text_of_path, 0).code, E_ADDR_IN_USE);
    /* Somebody takes our place: our close leaves his file alone. */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(open_listener(&second, text_of_path, 0).code, E_OK);
    close_accepted(&accepted);
    assert_int_equal(stat(path, &st), 0);
    close_accepted(&second);
    assert_int_equal(stat(path, &st), -1);
    remove_folder();
}

static void test_a_file_that_is_no_socket_is_never_removed(void **state)
{
    struct accepted accepted;
    struct stat st;
    int fd;

    (void)state;
    make_folder();
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    assert_int_equal(open_listener(&accepted, text_of_path, 0).code, E_ADDR_IN_USE);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/nonexistent", path), 0);
    assert_int_equal(open_listener(&accepted, text_of_path, 0).code, E_ADDR_IN_USE);
    assert_int_equal(lstat(path, &st), 0);
    assert_int_equal(open_listener(&accepted, "unix:/nonexistent/x.sock", 0).code, E_IO);
    remove_folder();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_accepted_before_start_or_while_paused),
        cmocka_unit_test(test_more_than_a_batch_at_once),
        cmocka_unit_test(test_closing_it_in_the_callback),
        cmocka_unit_test(test_without_descriptors_it_rests_and_comes_back),
        cmocka_unit_test(test_the_last_descriptor_used_up_is_no_reason_to_turn_anyone_away),
        cmocka_unit_test(test_ports_in_use_and_addresses_of_others_are_told),
        cmocka_unit_test(test_socket_file_is_private_and_removed),
        cmocka_unit_test(test_stale_socket_file_is_replaced_a_live_one_is_not),
        cmocka_unit_test(test_a_file_that_is_no_socket_is_never_removed),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
