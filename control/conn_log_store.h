/* conn_log_store keeps lines of text in the files access-NUMBER.jsonl of a folder, which together
 * never exceed a limit: the oldest file goes when a new one begins. Nothing is synced, and a write
 * that fails costs those lines alone; a file that somebody else removes is missed by nobody. Lines
 * go out to readers, each with a place of its own. Not for secrets, and no audit log: whoever can
 * write to the folder can change it. One thread. Source: features D6. */
#ifndef MORTISE_CONTROL_CONN_LOG_STORE_H
#define MORTISE_CONTROL_CONN_LOG_STORE_H

#include <sys/types.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/list.h"

#define CONN_LOG_FILES 8                      /* that share the limit */
#define CONN_LOG_RESERVE ((uint64_t)16 << 20) /* of the disk: the store needs room, too */
#define CONN_LOG_LINE_MAX ((size_t)32768)

struct conn_log_store;
/* conn_log_store_new never fails: the folder is made (0700) when the first lines come, and what is
 * there is read then. `max_bytes`: of all files together. */
struct conn_log_store *conn_log_store_new(const char *folder, uint64_t max_bytes);
void conn_log_store_free(struct conn_log_store *store);

/* conn_log_append adds whole lines, all of them or none, and tells the readers. Errors: FILE_OPEN,
 * IO (sub: errno; ENOSPC also when less than CONN_LOG_RESERVE would be left). */
MUST_CHECK err_t conn_log_append(struct conn_log_store *store, struct bytes lines);

struct conn_log_reader {
    struct list link;
    void (*fn)(struct conn_log_reader *reader); /* there is more */
    uint64_t file;                              /* its number */
    int fd;                                     /* -1: not open */
    off_t at;
};

/* conn_log_join puts a reader before the first file that was written to at `since_s` (Unix seconds)
 * or later. conn_log_leave ends it. */
void conn_log_join(struct conn_log_store *store, struct conn_log_reader *reader, int64_t since_s);
void conn_log_leave(struct conn_log_reader *reader);

/* conn_log_read reads whole lines, at least one when there is any; conn_log_seen moves the reader
 * on by so many bytes of what it was given. `*out` is empty at the end. `room` is at least
 * CONN_LOG_LINE_MAX. */
void conn_log_read(struct conn_log_store *store, struct conn_log_reader *reader, uint8_t *buffer,
                   size_t room, struct bytes *out);
void conn_log_seen(struct conn_log_reader *reader, size_t len);

#endif
