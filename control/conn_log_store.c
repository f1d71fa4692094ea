#include "control/conn_log_store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/base/mem.h"

#define CONN_LOG_NAME "access-%010" PRIu64 ".jsonl"

struct conn_log_store {
    char *folder;
    uint64_t max_bytes;
    uint64_t first, last; /* numbers of files; 0: none yet */
    int fd;               /* of the last; -1: not open */
    off_t size;
    struct list readers;
};

static char *conn_log_path(const struct conn_log_store *store, uint64_t number)
{
    return mem_printf("%s/" CONN_LOG_NAME, store->folder, number);
}

/* ---- the files ---- */

/* The number in a file's name; 0: it is none of ours. */
static uint64_t conn_log_number(const char *name)
{
    static const char prefix[] = "access-";
    const char *digits = name + sizeof(prefix) - 1;
    char again[64];
    uint64_t number = 0;

    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0 || strspn(digits, "0123456789") > 18)
        return 0;
    for (; *digits >= '0' && *digits <= '9'; digits++)
        number = number * 10 + (uint64_t)(*digits - '0');
    (void)snprintf(again, sizeof(again), CONN_LOG_NAME, number);
    return strcmp(again, name) == 0 ? number : 0;
}

static void conn_log_find(struct conn_log_store *store)
{
    DIR *dir = opendir(store->folder);
    const struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        uint64_t number = conn_log_number(entry->d_name);

        if (number == 0)
            continue;
        if (store->first == 0 || number < store->first)
            store->first = number;
        if (number > store->last)
            store->last = number;
    }
    if (dir != NULL)
        (void)closedir(dir);
}

struct conn_log_store *conn_log_store_new(const char *folder, uint64_t max_bytes)
{
    struct conn_log_store *store = mem_zalloc(sizeof(*store));

    store->folder = mem_strdup(folder);
    store->max_bytes = max_bytes;
    store->fd = -1;
    list_init(&store->readers);
    conn_log_find(store);
    return store;
}

static void conn_log_close(struct conn_log_store *store)
{
    if (store->fd >= 0)
        (void)close(store->fd);
    store->fd = -1;
}

void conn_log_store_free(struct conn_log_store *store)
{
    if (store == NULL)
        return;
    CHECK(list_empty(&store->readers));
    conn_log_close(store);
    mem_free(store->folder);
    mem_free(store);
}

static uint64_t conn_log_file_max(const struct conn_log_store *store)
{
    return store->max_bytes / CONN_LOG_FILES;
}

#define CONN_LOG_TRIM_MAX 4096 /* names tried at once */

/* The newest files that together, with room for another one, are within the limit, stay. */
static void conn_log_trim(struct conn_log_store *store)
{
    uint64_t left = store->max_bytes - conn_log_file_max(store), number = store->last;

    for (; number >= store->first && number > 0; number--) {
        CLEANUP(mem_freep) char *path = conn_log_path(store, number);
        struct stat st;

        if (store->last - number >= CONN_LOG_FILES)
            break;
        if (number == store->last || stat(path, &st) != 0)
            continue;
        if ((uint64_t)st.st_size > left)
            break;
        left -= (uint64_t)st.st_size;
    }
    /* Numbers far apart are a folder that somebody has put together. */
    for (unsigned i = 0; i < CONN_LOG_TRIM_MAX && number >= store->first && number > 0; i++) {
        CLEANUP(mem_freep) char *path = conn_log_path(store, store->first++);

        (void)unlink(path);
    }
    if (number >= store->first)
        store->first = number + 1;
}

/* Opens the last file, or begins another one. A line that a crash has left without its end is ended
 * here: whoever reads lines finds it is none. */
static err_t conn_log_open(struct conn_log_store *store, bool another)
{
    uint64_t number = store->last + (another || store->last == 0 ? 1 : 0);
    CLEANUP(mem_freep) char *path = conn_log_path(store, number);
    struct stat st;
    char end = '\n';

    conn_log_close(store);
    if (mkdir(store->folder, 0700) != 0 && errno != EEXIST)
        return FAIL(FILE_OPEN, errno);
    store->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    if (store->fd < 0)
        return FAIL(FILE_OPEN, errno);
    if (fstat(store->fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        conn_log_close(store);
        return FAIL(FILE_OPEN, EINVAL);
    }
    store->size = st.st_size;
    store->last = number;
    if (store->first == 0)
        store->first = number;
    if (st.st_size > 0 && pread(store->fd, &end, 1, st.st_size - 1) == 1 && end != '\n' &&
        write(store->fd, "\n", 1) == 1)
        store->size++;
    conn_log_trim(store);
    return OK;
}

static bool conn_log_is_gone(const struct conn_log_store *store)
{
    struct stat st;

    return fstat(store->fd, &st) != 0 || st.st_nlink == 0;
}

static err_t conn_log_prepare(struct conn_log_store *store, size_t len)
{
    if (store->fd < 0)
        TRY(conn_log_open(store, false));
    if (conn_log_is_gone(store))
        TRY(conn_log_open(store, true));
    if (store->size > 0 && (uint64_t)store->size + len > conn_log_file_max(store))
        TRY(conn_log_open(store, true));
    return OK;
}

static err_t conn_log_has_room(const struct conn_log_store *store, size_t len)
{
    struct statvfs disk;

    if (fstatvfs(store->fd, &disk) == 0 &&
        (uint64_t)disk.f_bavail * disk.f_frsize < CONN_LOG_RESERVE + len)
        return FAIL(IO, ENOSPC);
    return OK;
}

err_t conn_log_append(struct conn_log_store *store, struct bytes lines)
{
    struct list *pos, *tmp;
    size_t done = 0;

    TRY(conn_log_prepare(store, lines.len));
    TRY(conn_log_has_room(store, lines.len));
    while (done < lines.len) {
        ssize_t len = write(store->fd, lines.ptr + done, lines.len - done);

        if (len > 0) {
            done += (size_t)len;
        } else if (len == 0 || errno != EINTR) {
            int error = len == 0 ? EIO : errno;

            if (ftruncate(store->fd, store->size) != 0)
                conn_log_close(store); /* opened anew, its end is looked at */
            return FAIL(IO, error);
        }
    }
    store->size += (off_t)lines.len;
    LIST_EACH (pos, tmp, &store->readers) {
        struct conn_log_reader *reader = LIST_ITEM(pos, struct conn_log_reader, link);

        reader->fn(reader);
    }
    return OK;
}

/* ---- readers ---- */

static void conn_log_reader_close(struct conn_log_reader *reader)
{
    if (reader->fd >= 0)
        (void)close(reader->fd);
    reader->fd = -1;
    reader->at = 0;
}

void conn_log_join(struct conn_log_store *store, struct conn_log_reader *reader, int64_t since_s)
{
    reader->fd = -1;
    reader->at = 0;
    reader->file = store->first != 0 ? store->first : 1;
    for (; reader->file < store->last; reader->file++) {
        CLEANUP(mem_freep) char *path = conn_log_path(store, reader->file);
        struct stat st;

        if (stat(path, &st) == 0 && st.st_mtime >= since_s)
            break;
    }
    list_add_tail(&store->readers, &reader->link);
}

void conn_log_leave(struct conn_log_reader *reader)
{
    conn_log_reader_close(reader);
    list_del(&reader->link);
}

static bool conn_log_reader_open(const struct conn_log_store *store, struct conn_log_reader *reader)
{
    while (reader->fd < 0) {
        CLEANUP(mem_freep) char *path = NULL;

        if (reader->file < store->first)
            reader->file = store->first;
        if (store->last == 0 || reader->file > store->last)
            return false;
        path = conn_log_path(store, reader->file);
        reader->fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (reader->fd < 0 && reader->file == store->last)
            return false;
        if (reader->fd < 0)
            reader->file++;
    }
    return true;
}

static size_t conn_log_whole(const uint8_t *data, size_t len)
{
    while (len > 0 && data[len - 1] != '\n')
        len--;
    return len;
}

void conn_log_read(struct conn_log_store *store, struct conn_log_reader *reader, uint8_t *buffer,
                   size_t room, struct bytes *out)
{
    *out = bytes_of(buffer, 0);
    while (conn_log_reader_open(store, reader)) {
        ssize_t len = pread(reader->fd, buffer, room, reader->at);
        size_t whole = len > 0 ? conn_log_whole(buffer, (size_t)len) : 0;

        if (whole > 0) {
            *out = bytes_of(buffer, whole);
            return;
        }
        if (len > 0 && (size_t)len == room) { /* no line of ours is so long */
            reader->at += len;
            continue;
        }
        if (reader->file >= store->last)
            return;
        conn_log_reader_close(reader);
        reader->file++;
    }
}

void conn_log_seen(struct conn_log_reader *reader, size_t len)
{
    reader->at += (off_t)len;
}
