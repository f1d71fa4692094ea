#include "lib/base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/mem.h"

#define PROCESS_EXIT_UNUSABLE 2

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PROCESS_IS_SANITIZED 1
#elif defined(__has_feature)
#define PROCESS_IS_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define PROCESS_IS_SANITIZED 0
#endif

void process_begin(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
            continue;
        /* The lowest that is free is this one: those below are open. */
        if (open("/dev/null", O_RDWR) != fd) /* without O_CLOEXEC, as they always are */
            _exit(PROCESS_EXIT_UNUSABLE);
    }
}

void process_ignore_signals(void)
{
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN);
}

void process_protect(const char *program)
{
    const struct rlimit none = {0, 0};

    if (setrlimit(RLIMIT_CORE, &none) != 0)
        (void)fprintf(stderr, "%s: cannot switch core files off: %s\n", program, strerror(errno));
#if !PROCESS_IS_SANITIZED /* their leak checks look into the process with ptrace */
    /* The limit does not hold where core files are piped to a program. */
    if (prctl(PR_SET_DUMPABLE, 0) != 0)
        (void)fprintf(stderr, "%s: cannot protect memory: %s\n", program, strerror(errno));
#endif
}

bool process_has_descriptors(size_t num, char out_reason[PROCESS_REASON_MAX])
{
    int *fds = mem_array(num, sizeof(fds[0]));
    struct rlimit files;
    size_t had = 0;
    int error = 0;

    for (; had < num; had++) {
        fds[had] = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
        if (fds[had] < 0) {
            error = errno;
            break;
        }
    }
    for (size_t i = 0; i < had; i++)
        (void)close(fds[i]);
    mem_free(fds);
    if (had == num)
        return true;
    if (error == EMFILE && getrlimit(RLIMIT_NOFILE, &files) == 0)
        (void)snprintf(out_reason, PROCESS_REASON_MAX,
                       "RLIMIT_NOFILE is %" PRIu64 ", too few file descriptors to start: %" PRIu64
                       " would be enough (ulimit -n)",
                       (uint64_t)files.rlim_cur, (uint64_t)files.rlim_cur + (num - had));
    else
        (void)snprintf(out_reason, PROCESS_REASON_MAX, "no file descriptors to start with: %s",
                       strerror(error));
    return false;
}

int process_end(const char *program, int status)
{
    bool failed = fflush(stdout) != 0;
    const char *why = failed ? strerror(errno) : "an earlier write failed";

    if ((!failed && ferror(stdout) == 0) || status != EXIT_SUCCESS)
        return status;
    (void)fprintf(stderr, "%s: cannot write the answer: %s\n", program, why);
    return EXIT_FAILURE;
}
