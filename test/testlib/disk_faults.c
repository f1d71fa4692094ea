/* Preloaded into a program under test: what it does to the files of one folder (DISK_FAULTS_FOLDER)
 * is counted, and from a chosen call on it is killed, or told that the disk is full or broken. What
 * is chosen lies in the file that DISK_FAULTS_FILE names (struct disk_faults), which the test
 * changes while the program runs; see disk_faults.py.
 *
 * For a power cut (DISK_FAULTS_POWER) what was written since a file's last sync is taken back
 * before the program is killed: bytes as they were, the length as it was. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    DISK_FAULTS_WRITE = 1,
    DISK_FAULTS_SYNC = 2,
    DISK_FAULTS_TRUNCATE = 4,
    DISK_FAULTS_RENAME = 8,
    DISK_FAULTS_UNLINK = 16,
    DISK_FAULTS_CREATE = 32,
    DISK_FAULTS_CHMOD = 64,
    DISK_FAULTS_READ = 128,
};

enum {
    DISK_FAULTS_KILL = -1,  /* before the call */
    DISK_FAULTS_TORN = -2,  /* when half of it is written */
    DISK_FAULTS_POWER = -3, /* before the call, and what was not synced is lost */
};

struct disk_faults {
    uint64_t kinds;  /* of calls that count */
    uint64_t count;  /* of such calls */
    uint64_t at;     /* which one it begins with; 0: none */
    uint64_t num;    /* how many fail */
    int64_t action;  /* an errno, or one of the above */
    uint64_t failed; /* calls that were told so */
};

#define FDS_MAX 1024
#define UNDO_MAX 4096

/* A write that no sync has followed. */
struct undo {
    char *path;
    dev_t dev;
    ino_t ino;
    off_t offset;
    off_t size; /* of the file, before */
    size_t len;
    uint8_t *bytes;
};

static volatile struct disk_faults *shared;
static const char *folder;
static size_t folder_len;
static char *paths[FDS_MAX]; /* of descriptors in the folder */
static struct undo undos[UNDO_MAX];
static size_t num_undos;

__attribute__((constructor)) static void disk_open(void)
{
    const char *path = getenv("DISK_FAULTS_FILE");
    int fd = path != NULL ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    void *page;

    folder = getenv("DISK_FAULTS_FOLDER");
    if (fd < 0 || folder == NULL)
        abort();
    page = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED)
        abort();
    (void)syscall(SYS_close, fd);
    folder_len = strlen(folder);
    shared = page;
}

static bool disk_is_ours(const char *path)
{
    return shared != NULL && strncmp(path, folder, folder_len) == 0 &&
           (path[folder_len] == '/' || path[folder_len] == '\0');
}

static const char *disk_path(int fd)
{
    return shared != NULL && fd >= 0 && fd < FDS_MAX ? paths[fd] : NULL;
}

/* ---- a power cut ---- */

static void disk_restore(const struct undo *undo)
{
    struct stat st;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, undo->path, O_RDWR | O_CLOEXEC);

    /* A file that has gone, or another of that name, is left alone. */
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == undo->ino && st.st_dev == undo->dev &&
        ((undo->len > 0 && syscall(SYS_pwrite64, fd, undo->bytes, undo->len, undo->offset) < 0) ||
         syscall(SYS_ftruncate, fd, undo->size) != 0))
        abort();
}

static void disk_die(void)
{
    if (shared->action == DISK_FAULTS_POWER) {
        while (num_undos > 0)
            disk_restore(&undos[--num_undos]);
    }
    (void)kill(getpid(), SIGKILL);
    for (;;)
        (void)pause();
}

static void disk_note(int fd, off_t offset, size_t len)
{
    struct undo *undo = &undos[num_undos];
    struct stat st;
    long got;

    if (shared->action != DISK_FAULTS_POWER || fstat(fd, &st) != 0)
        return;
    if (num_undos == UNDO_MAX)
        abort();
    undo->bytes = malloc(len + 1);
    undo->path = strdup(paths[fd]);
    if (undo->bytes == NULL || undo->path == NULL)
        abort();
    got = syscall(SYS_pread64, fd, undo->bytes, len, offset);
    undo->len = got > 0 ? (size_t)got : 0;
    undo->dev = st.st_dev;
    undo->ino = st.st_ino;
    undo->offset = offset;
    undo->size = st.st_size;
    num_undos++;
}

static void disk_synced(int fd)
{
    struct stat st;
    size_t kept = 0;

    if (num_undos == 0 || fstat(fd, &st) != 0)
        return;
    for (size_t i = 0; i < num_undos; i++) {
        if (undos[i].ino == st.st_ino && undos[i].dev == st.st_dev) {
            free(undos[i].bytes);
            free(undos[i].path);
        } else {
            undos[kept++] = undos[i];
        }
    }
    num_undos = kept;
}

/* ---- counting ---- */

/* True when the call is to fail; errno is set. Does not return when the program is to die now. */
static bool disk_fails(uint64_t kind, bool *out_torn)
{
    uint64_t number;

    *out_torn = false;
    if ((shared->kinds & kind) == 0)
        return false;
    number = ++shared->count;
    if (shared->at == 0 || number < shared->at || number - shared->at >= shared->num)
        return false;
    shared->failed++;
    if (shared->action > 0) {
        errno = (int)shared->action;
        return true;
    }
    if (shared->action == DISK_FAULTS_TORN && kind == DISK_FAULTS_WRITE) {
        *out_torn = true;
        return false;
    }
    disk_die();
    return false;
}

static bool disk_path_fails(uint64_t kind, const char *path)
{
    bool torn;

    return disk_is_ours(path) && disk_fails(kind, &torn);
}

/* What is there needs no room. */
static bool disk_exists(const char *path)
{
    return syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
}

/* ---- descriptors ---- */

static int disk_do_open(int at, const char *path, int flags, mode_t mode)
{
    int fd;

    if ((flags & O_CREAT) != 0 && !disk_exists(path) && disk_path_fails(DISK_FAULTS_CREATE, path))
        return -1;
    fd = (int)syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && fd < FDS_MAX) {
        free(paths[fd]);
        paths[fd] = disk_is_ours(path) ? strdup(path) : NULL;
    }
    return fd;
}

#define DISK_OPEN(name, flags_type)                               \
    int name(const char *path, flags_type flags, ...);            \
    int name(const char *path, flags_type flags, ...)             \
    {                                                             \
        va_list args;                                             \
        mode_t mode;                                              \
                                                                  \
        va_start(args, flags);                                    \
        mode = (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0; \
        va_end(args);                                             \
        return disk_do_open(AT_FDCWD, path, flags, mode);         \
    }

DISK_OPEN(open, int)
DISK_OPEN(open64, int)

int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags)
{
    return disk_do_open(AT_FDCWD, path, flags, 0);
}

int __open64_2(const char *path, int flags);
int __open64_2(const char *path, int flags)
{
    return disk_do_open(AT_FDCWD, path, flags, 0);
}

int close(int fd)
{
    if (disk_path(fd) != NULL) {
        free(paths[fd]);
        paths[fd] = NULL;
    }
    return (int)syscall(SYS_close, fd);
}

/* A full disk takes what goes to where something is already. */
static bool disk_needs_room(int fd, off_t offset, size_t len)
{
    struct stat st;

    return shared->action != ENOSPC || offset < 0 || fstat(fd, &st) != 0 ||
           offset + (off_t)len > st.st_size;
}

/* `offset` < 0: where the file is at. */
static ssize_t disk_do_write(int fd, const void *data, size_t len, off_t offset)
{
    bool torn = false;
    ssize_t done;

    if (disk_path(fd) != NULL) {
        if (disk_needs_room(fd, offset, len) && disk_fails(DISK_FAULTS_WRITE, &torn))
            return -1;
        disk_note(fd, offset >= 0 ? offset : lseek(fd, 0, SEEK_CUR), len);
    }
    if (torn)
        len /= 2;
    done = offset >= 0 ? syscall(SYS_pwrite64, fd, data, len, offset)
                       : syscall(SYS_write, fd, data, len);
    if (torn)
        disk_die();
    return done;
}

ssize_t write(int fd, const void *data, size_t len)
{
    return disk_do_write(fd, data, len, -1);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    return disk_do_write(fd, data, len, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset);
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
    return disk_do_write(fd, data, len, offset);
}

static ssize_t disk_do_pread(int fd, void *out, size_t len, off_t offset)
{
    bool torn;

    if (disk_path(fd) != NULL && disk_fails(DISK_FAULTS_READ, &torn))
        return -1;
    return syscall(SYS_pread64, fd, out, len, offset);
}

ssize_t pread(int fd, void *out, size_t len, off_t offset)
{
    return disk_do_pread(fd, out, len, offset);
}

ssize_t pread64(int fd, void *out, size_t len, off64_t offset);
ssize_t pread64(int fd, void *out, size_t len, off64_t offset)
{
    return disk_do_pread(fd, out, len, offset);
}

static int disk_do_sync(int fd, long call)
{
    bool torn;
    int done;

    if (disk_path(fd) != NULL && disk_fails(DISK_FAULTS_SYNC, &torn))
        return -1;
    done = (int)syscall(call, fd);
    if (done == 0 && disk_path(fd) != NULL)
        disk_synced(fd);
    return done;
}

int fsync(int fd)
{
    return disk_do_sync(fd, SYS_fsync);
}

int fdatasync(int fd)
{
    return disk_do_sync(fd, SYS_fdatasync);
}

static int disk_do_truncate(int fd, off_t len)
{
    bool torn;

    if (disk_path(fd) != NULL) {
        struct stat st;

        if (disk_fails(DISK_FAULTS_TRUNCATE, &torn))
            return -1;
        if (fstat(fd, &st) == 0 && st.st_size > len)
            disk_note(fd, len, (size_t)(st.st_size - len));
    }
    return (int)syscall(SYS_ftruncate, fd, len);
}

int ftruncate(int fd, off_t len)
{
    return disk_do_truncate(fd, len);
}

int ftruncate64(int fd, off64_t len);
int ftruncate64(int fd, off64_t len)
{
    return disk_do_truncate(fd, len);
}

int fchmod(int fd, mode_t mode)
{
    bool torn;

    if (disk_path(fd) != NULL && disk_fails(DISK_FAULTS_CHMOD, &torn))
        return -1;
    return (int)syscall(SYS_fchmod, fd, mode);
}

/* ---- names ---- */

int rename(const char *from, const char *to)
{
    if (disk_path_fails(DISK_FAULTS_RENAME, to))
        return -1;
    return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

int link(const char *from, const char *to)
{
    if (disk_path_fails(DISK_FAULTS_RENAME, to))
        return -1;
    return (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    if (disk_path_fails(DISK_FAULTS_UNLINK, path))
        return -1;
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int mkdir(const char *path, mode_t mode)
{
    if (!disk_exists(path) && disk_path_fails(DISK_FAULTS_CREATE, path))
        return -1;
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
