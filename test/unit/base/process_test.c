/* What a program finds when its parent was careless: closed descriptors, too few of them, a limit
 * of file sizes, a full disk behind its output.
 *
 * Drives: R14, R21, R25, R71. */
#include "lib/base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"

/* Runs `call` in a child; returns its exit status, or minus the signal that ended it. */
static int in_child(int (*call)(void))
{
    int status = 0;
    pid_t pid;

    (void)fflush(stdout); /* or the child would write it, too */
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(call());
    assert_true(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static bool is_null(int fd)
{
    struct stat st, null;

    return fstat(fd, &st) == 0 && stat("/dev/null", &null) == 0 && st.st_rdev == null.st_rdev;
}

/* Each of the eight combinations: what was closed is /dev/null and what was open is as it was. */
static int closed_ones_are_opened(void)
{
    for (unsigned closed = 0; closed < 8; closed++) {
        int pipes[2], next;

        if (pipe(pipes) != 0 || pipes[0] <= 2)
            return 1;
        for (int fd = 0; fd < 3; fd++)
            if ((closed >> fd & 1) != 0 ? close(fd) != 0 : dup2(pipes[1], fd) != fd)
                return 2;
        process_begin();
        for (int fd = 0; fd < 3; fd++)
            if (is_null(fd) != ((closed >> fd & 1) != 0) || fcntl(fd, F_GETFD) != 0)
                return 3;
        next = dup(0);
        if (next <= 2 || write(1, "x", 1) != 1)
            return 4;
        (void)close(next);
        (void)close(pipes[0]);
        (void)close(pipes[1]);
    }
    return 0;
}

static void test_what_was_closed_is_dev_null(void **state)
{
    (void)state;
    assert_int_equal(in_child(closed_ones_are_opened), 0);
}

static int nothing_can_be_opened(void)
{
    const struct rlimit none = {0, 0};

    (void)close(2);
    if (setrlimit(RLIMIT_NOFILE, &none) != 0)
        return 1;
    process_begin();
    return 0;
}

static void test_without_any_it_ends_with_2(void **state)
{
    (void)state;
    assert_int_equal(in_child(nothing_can_be_opened), 2);
}

static int grow_beyond_the_limit(void)
{
    const struct rlimit small = {10, 10};
    char name[] = "/tmp/process.XXXXXX";
    int fd = mkstemp(name);

    if (fd < 0 || unlink(name) != 0 || setrlimit(RLIMIT_FSIZE, &small) != 0)
        return 1;
    if (write(fd, "0123456789abc", 13) != 10 || write(fd, "abc", 3) != -1)
        return 2;
    return errno == EFBIG ? 0 : 3;
}

static int grow_ignoring(void)
{
    process_ignore_signals();
    return grow_beyond_the_limit();
}

static int write_to_nobody(void)
{
    int fds[2];

    process_ignore_signals();
    if (pipe(fds) != 0 || close(fds[0]) != 0)
        return 1;
    return write(fds[1], "x", 1) == -1 && errno == EPIPE ? 0 : 2;
}

static void test_signals_that_kill_become_errors(void **state)
{
    (void)state;
    assert_int_equal(in_child(grow_beyond_the_limit), -SIGXFSZ); /* else nothing is shown */
    assert_int_equal(in_child(grow_ignoring), 0);
    assert_int_equal(in_child(write_to_nobody), 0);
}

/* The number in "… N would be enough …". */
static unsigned long long enough_in(const char *reason)
{
    const char *at = strstr(reason, "to start: ");

    return at != NULL && strncmp(reason, "RLIMIT_NOFILE is ", 17) == 0 ? strtoull(at + 10, NULL, 10)
                                                                       : 0;
}

static int count_descriptors(void)
{
    int first = dup(0);
    struct rlimit files = {(rlim_t)first + 10, (rlim_t)first + 10};
    char reason[PROCESS_REASON_MAX] = "";

    (void)close(first);
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        return 1;
    for (int i = 0; i < 3; i++) /* what was tried is given back */
        if (!process_has_descriptors(10, reason))
            return 2;
    if (process_has_descriptors(11, reason) || enough_in(reason) != files.rlim_cur + 1)
        return 3;
    if (process_has_descriptors(1000, reason) || enough_in(reason) != files.rlim_cur + 990)
        return 4;
    return dup(0) == first ? 0 : 5;
}

static void test_descriptors_are_tried_to_the_last(void **state)
{
    (void)state;
    assert_int_equal(in_child(count_descriptors), 0);
}

static int to_full(size_t bytes, int status)
{
    int full = open("/dev/full", O_WRONLY);
    int told[2];
    char text[200] = "", big[20000] = "";
    ssize_t len = 0;

    if (pipe(told) != 0 || dup2(told[1], 2) != 2 || full < 0 || dup2(full, 1) != 1)
        return 100;
    memset(big, 'x', sizeof(big) - 1);
    (void)printf("%.*s", (int)bytes, big);
    status = process_end("mortise-x", status);
    (void)close(2);
    (void)close(told[1]);
    len = read(told[0], text, sizeof(text) - 1);
    if (len < 0 || (len > 0) != (strstr(text, "mortise-x: cannot write the answer") != NULL))
        return 101;
    return status + (len > 0 ? 50 : 0);
}

static int little_to_full(void)
{
    return to_full(3, 0);
}

static int much_to_full(void)
{
    return to_full(19000, 0);
}

static int nothing_to_full(void)
{
    return to_full(0, 0);
}

static int refused_to_full(void)
{
    return to_full(3, 2);
}

static void test_an_answer_that_was_not_written_is_no_success(void **state)
{
    (void)state;
    assert_int_equal(in_child(little_to_full), 50 + 1);
    assert_int_equal(in_child(much_to_full), 50 + 1); /* more than is buffered */
    assert_int_equal(in_child(nothing_to_full), 0);
    assert_int_equal(in_child(refused_to_full), 2); /* it has told another reason */
}

/* Neither by the limit, nor where the kernel pipes core files to a program. */
static int protected_process(void)
{
    struct rlimit core;

    process_protect("test");
    if (getrlimit(RLIMIT_CORE, &core) != 0 || core.rlim_cur != 0 || core.rlim_max != 0)
        return 1;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__has_feature)
    if (prctl(PR_GET_DUMPABLE) != 0)
        return 2;
#endif
    return 0;
}

static void test_no_core_file_of_what_holds_keys(void **state)
{
    (void)state;
    assert_int_equal(in_child(protected_process), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_closed_is_dev_null),
        cmocka_unit_test(test_without_any_it_ends_with_2),
        cmocka_unit_test(test_signals_that_kill_become_errors),
        cmocka_unit_test(test_descriptors_are_tried_to_the_last),
        cmocka_unit_test(test_an_answer_that_was_not_written_is_no_success),
        cmocka_unit_test(test_no_core_file_of_what_holds_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
