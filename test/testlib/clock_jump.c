/* Preloaded into a program under test: its wall clock is the kernel's plus the seconds in the file
 * that CLOCK_JUMP_FILE names (8 bytes, native). The monotonic clock is left alone, as the kernel
 * leaves it when somebody sets the time. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *jump;

__attribute__((constructor)) static void jump_open(void)
{
    const char *path = getenv("CLOCK_JUMP_FILE");
    int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page;

    if (fd < 0)
        abort();
    page = mmap(NULL, sizeof(*jump), PROT_READ, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        abort();
    (void)close(fd);
    jump = page;
}

int clock_gettime(clockid_t id, struct timespec *out)
{
    int got = (int)syscall(SYS_clock_gettime, id, out);

    if (got == 0 && jump != NULL && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        out->tv_sec += *jump;
    return got;
}

time_t time(time_t *out)
{
    struct timespec now = {.tv_sec = 0};

    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec now = {.tv_sec = 0};

    (void)zone;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
