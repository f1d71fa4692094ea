#include "lib/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/base/random.h"

#define FILE_CHUNK 16384
#define FILE_TMP_TRIES 16

static void file_closep(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

/* O_NONBLOCK: opening a pipe that nobody writes to must not hang before fstat can refuse it. */
static err_t file_open(const char *path, int flags, int *out_fd, struct stat *out_stat)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | flags);

    if (fd < 0)
        return FAIL(FILE_OPEN, errno);
    if (fstat(fd, out_stat) != 0) {
        int error = errno;

        (void)close(fd);
        return FAIL(FILE_OPEN, error);
    }
    if (!S_ISREG(out_stat->st_mode)) {
        (void)close(fd);
        return FAIL(FILE_OPEN, S_ISDIR(out_stat->st_mode) ? EISDIR : EINVAL);
    }
    *out_fd = fd;
    return OK;
}

static err_t file_judge(const struct stat *stat)
{
    if (stat->st_uid != geteuid() && stat->st_uid != 0)
        return FAIL(FILE_UNSAFE, 0);
    if ((stat->st_mode & (S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH)) != 0)
        return FAIL(FILE_UNSAFE, stat->st_mode & 0777);
    return OK;
}

/* Reads to the end of the file and not to its size in fstat: it may grow meanwhile, and files of
 * the kernel say 0. */
static err_t file_read_fd(int fd, size_t max, struct buf *out)
{
    uint8_t chunk[FILE_CHUNK];
    err_t err = OK;
    ssize_t got;

    for (size_t done = 0; err_is_ok(err);) {
        got = read(fd, chunk, sizeof(chunk));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            err = got < 0 ? FAIL(IO, errno) : OK;
            break;
        }
        done += (size_t)got;
        if (done > max)
            err = FAIL(TOO_LARGE, max);
        else
            err = buf_add(out, chunk, (size_t)got);
    }
    mem_wipe(chunk, sizeof(chunk)); /* it may have been a key */
    return err;
}

enum file_kind { FILE_KIND_ANY, FILE_KIND_PRIVATE, FILE_KIND_OWN };

static err_t file_read_as(const char *path, size_t max, enum file_kind kind, struct buf *out)
{
    CLEANUP(file_closep) int fd = -1;
    size_t before = buf_size(out);
    struct stat stat;
    err_t err;

    CHECK(max <= BUF_MAX_DEFAULT);
    TRY(file_open(path, kind == FILE_KIND_OWN ? O_NOFOLLOW : 0, &fd, &stat));
    if (kind != FILE_KIND_ANY)
        TRY(file_judge(&stat));
    if (kind == FILE_KIND_OWN && stat.st_uid != geteuid())
        return FAIL(FILE_UNSAFE, 0);
    err = file_read_fd(fd, max, out);
    if (!err_is_ok(err))
        buf_truncate(out, before);
    return err;
}

err_t file_read(const char *path, size_t max, struct buf *out)
{
    return file_read_as(path, max, FILE_KIND_ANY, out);
}

err_t file_read_private(const char *path, size_t max, struct buf *out)
{
    return file_read_as(path, max, FILE_KIND_PRIVATE, out);
}

err_t file_read_own(const char *path, size_t max, struct buf *out)
{
    return file_read_as(path, max, FILE_KIND_OWN, out);
}

err_t file_check_private(const char *path)
{
    CLEANUP(file_closep) int fd = -1;
    struct stat stat;

    TRY(file_open(path, 0, &fd, &stat));
    return file_judge(&stat);
}

static err_t file_write_fd(int fd, struct bytes content, mode_t mode)
{
    while (content.len > 0) {
        ssize_t wrote = write(fd, content.ptr, content.len);

        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return FAIL(IO, errno);
        content.ptr += wrote;
        content.len -= (size_t)wrote;
    }
    /* open's mode goes through the umask; and the bits come only when the content is whole. */
    if (fchmod(fd, mode) != 0 || fsync(fd) != 0)
        return FAIL(IO, errno);
    return OK;
}

/* The name is synced into the folder, else the rename may be lost in a power cut. */
static err_t file_sync_folder(const char *path)
{
    CLEANUP(mem_freep) char *folder = NULL;
    CLEANUP(file_closep) int fd = -1;
    const char *slash = strrchr(path, '/');

    if (slash == NULL)
        folder = mem_strdup(".");
    else
        folder = mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0)
        return FAIL(IO, errno);
    return OK;
}

static err_t file_create_beside(const char *path, char **out_tmp, int *out_fd)
{
    for (int i = 0; i < FILE_TMP_TRIES; i++) {
        char *tmp = mem_printf("%s.tmp-%08x", path, (unsigned)random_u32());
        int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        int error = errno;

        if (fd >= 0) {
            *out_tmp = tmp;
            *out_fd = fd;
            return OK;
        }
        mem_free(tmp);
        if (error != EEXIST)
            return FAIL(FILE_OPEN, error);
    }
    return FAIL(FILE_OPEN, EEXIST);
}

err_t file_write_atomic(const char *path, struct bytes content, mode_t mode)
{
    CLEANUP(mem_freep) char *tmp = NULL;
    int fd = -1;
    err_t err;

    TRY(file_create_beside(path, &tmp, &fd));
    err = file_write_fd(fd, content, mode);
    /* Some file systems tell of a failed write only here. */
    if (close(fd) != 0 && err_is_ok(err))
        err = FAIL(IO, errno);
    if (err_is_ok(err) && rename(tmp, path) != 0)
        err = FAIL(IO, errno);
    if (!err_is_ok(err)) {
        (void)unlink(tmp);
        return err;
    }
    return file_sync_folder(path);
}

err_t file_rename(const char *from, const char *to)
{
    if (rename(from, to) != 0)
        return FAIL(IO, errno);
    return file_sync_folder(to);
}
