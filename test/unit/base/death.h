/* death: runs a call in a child process and tells whether it stopped the process by abort. */
#ifndef MORTISE_TEST_UNIT_BASE_DEATH_H
#define MORTISE_TEST_UNIT_BASE_DEATH_H

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/err.h"

/* The child writes nothing and leaves no core file. */
static inline bool death_aborts(void (*call)(void *arg), void *arg)
{
    int status = 0;
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0, 0};
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

        (void)setrlimit(RLIMIT_CORE, &none);
        (void)signal(SIGABRT, SIG_DFL);
        (void)dup2(null, STDERR_FILENO);
        call(arg);
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

#endif
