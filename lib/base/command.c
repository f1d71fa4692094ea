#include "lib/base/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/mem.h"

#define COMMAND_PREFIX "MORTISE_"

static uint64_t command_now_ms(void)
{
    struct timespec now;

    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A list (owned, its strings are not) without our own settings. */
static char **command_environment(char *const *environment)
{
    size_t num = 0, kept = 0;
    char **out;

    while (environment[num] != NULL)
        num++;
    out = mem_array(num + 1, sizeof(*out));
    for (size_t i = 0; i < num; i++) {
        if (strncmp(environment[i], COMMAND_PREFIX, sizeof(COMMAND_PREFIX) - 1) != 0)
            out[kept++] = environment[i];
    }
    return out;
}

/* Signals as a program expects them at its start: of ours, ignored ones would stay ignored. */
static void command_attributes(posix_spawnattr_t *attributes)
{
    const short flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK;
    sigset_t all, none;

    (void)sigfillset(&all);
    (void)sigdelset(&all, SIGKILL); /* cannot be set */
    (void)sigdelset(&all, SIGSTOP);
    (void)sigemptyset(&none);
    CHECK(posix_spawnattr_init(attributes) == 0);
    CHECK(posix_spawnattr_setflags(attributes, flags) == 0);
    CHECK(posix_spawnattr_setpgroup(attributes, 0) == 0);
    CHECK(posix_spawnattr_setsigdefault(attributes, &all) == 0);
    CHECK(posix_spawnattr_setsigmask(attributes, &none) == 0);
}

/* Nothing of ours is open in it but the pipe. */
static err_t command_start(const char *const *argv, char *const *environment, int output,
                           bool errors, pid_t *out_pid)
{
    char **passed = command_environment(environment);
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int error = ENOMEM;

    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    command_attributes(&attributes);
    if (posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0) == 0 &&
        posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO) == 0 &&
        (errors ? posix_spawn_file_actions_adddup2(&actions, output, STDERR_FILENO)
                : posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY,
                                                   0)) == 0 &&
        posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1) == 0)
        error = posix_spawn(out_pid, argv[0], &actions, &attributes, (char *const *)(uintptr_t)argv,
                            passed);
    (void)posix_spawnattr_destroy(&attributes);
    (void)posix_spawn_file_actions_destroy(&actions);
    mem_free(passed);
    return error == 0 ? OK : FAIL(COMMAND_START, error);
}

/* Waits until `fd` has something, or has ended. */
static err_t command_wait(int fd, uint64_t end_ms)
{
    struct pollfd wanted = {.fd = fd, .events = POLLIN};

    for (;;) {
        uint64_t now_ms = command_now_ms();
        int num;

        if (now_ms >= end_ms)
            return FAIL(TIMEOUT, 0);
        num = poll(&wanted, 1, (int)(end_ms - now_ms));
        if (num > 0)
            return OK;
        if (num < 0 && errno != EINTR)
            return FAIL(IO, errno);
    }
}

/* All at once, so that no copy of it is left behind by a buffer that grows. */
static err_t command_drain(int fd, size_t max, uint64_t end_ms, struct buf *out)
{
    uint8_t *room = NULL;
    size_t had = 0;

    TRY(buf_reserve(out, max + 1, &room));
    for (;;) {
        ssize_t len;

        TRY(command_wait(fd, end_ms));
        len = read(fd, room + had, max + 1 - had);
        if (len == 0)
            return OK;
        if (len < 0 && errno == EINTR)
            continue;
        if (len < 0)
            return FAIL(IO, errno);
        had += (size_t)len;
        buf_commit(out, (size_t)len);
        if (had > max)
            return FAIL(TOO_LARGE, max);
    }
}

/* It has closed its output; that it ends as well has the rest of the time. */
static err_t command_await_end(pid_t pid, uint64_t end_ms)
{
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    err_t err;

    if (fd < 0)
        return FAIL(IO, errno);
    err = command_wait(fd, end_ms);
    (void)close(fd);
    return err;
}

/* Its status; whatever it has left running is ended with it. */
static err_t command_reap(pid_t pid)
{
    int status = 0;

    (void)kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return FAIL(IO, errno);
    }
    if (WIFSIGNALED(status))
        return FAIL(COMMAND_FAILED, -WTERMSIG(status));
    return WEXITSTATUS(status) == 0 ? OK : FAIL(COMMAND_FAILED, WEXITSTATUS(status));
}

static err_t command_run(const char *const *argv, char *const *environment, size_t max,
                         uint64_t timeout_ms, bool errors, struct buf *out)
{
    const uint64_t end_ms = command_now_ms() + timeout_ms;
    int ends[2];
    pid_t pid = 0;
    err_t err, ended;

    if (strchr(argv[0], '/') == NULL)
        return FAIL(COMMAND_START, ENOENT);
    if (pipe2(ends, O_CLOEXEC) != 0)
        return FAIL(IO, errno);
    err = command_start(argv, environment, ends[1], errors, &pid);
    (void)close(ends[1]);
    if (err_is_ok(err)) {
        err = command_drain(ends[0], max, end_ms, out);
        if (err_is_ok(err))
            err = command_await_end(pid, end_ms);
        ended = command_reap(pid);
        err = err_is_ok(err) ? ended : err;
    }
    (void)close(ends[0]);
    return err;
}

err_t command_read(const char *const *argv, char *const *environment, size_t max,
                   uint64_t timeout_ms, struct buf *out)
{
    const size_t before = buf_size(out);
    err_t err = command_run(argv, environment, max, timeout_ms, false, out);

    if (!err_is_ok(err))
        buf_truncate(out, before);
    return err;
}

err_t command_report(const char *const *argv, char *const *environment, size_t max,
                     uint64_t timeout_ms, struct buf *out)
{
    return command_run(argv, environment, max, timeout_ms, true, out);
}
