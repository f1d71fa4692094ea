#include "control/ctl/program.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

/* What we ignore is the child's to obey. */
int program_run(char *const *argv)
{
    posix_spawnattr_t attr;
    sigset_t obeyed;
    pid_t child;
    int status = -1;
    int err;

    CHECK(posix_spawnattr_init(&attr) == 0);
    CHECK(sigemptyset(&obeyed) == 0 && sigaddset(&obeyed, SIGPIPE) == 0 &&
          sigaddset(&obeyed, SIGXFSZ) == 0 && sigaddset(&obeyed, SIGINT) == 0 &&
          sigaddset(&obeyed, SIGQUIT) == 0);
    CHECK(posix_spawnattr_setsigdefault(&attr, &obeyed) == 0 &&
          posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF) == 0);
    err = posix_spawnp(&child, argv[0], NULL, &attr, argv, environ);
    CHECK(posix_spawnattr_destroy(&attr) == 0);
    if (err != 0) {
        errno = err;
        return -1;
    }
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            return -1;
    }
    return status;
}

char *program_path(const char *name)
{
    char own[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", own, sizeof(own) - 1);
    CLEANUP(mem_freep) char *path = NULL;
    char *found;
    char *slash;

    own[len > 0 ? len : 0] = '\0';
    slash = strrchr(own, '/');
    if (slash == NULL)
        return mem_strdup(name);
    path = mem_printf("%.*s/%s", (int)(slash - own), own, name);
    if (access(path, X_OK) != 0)
        return mem_strdup(name);
    found = path;
    path = NULL; /* the caller's now */
    return found;
}
