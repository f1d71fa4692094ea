/* watch: tells when one of some files may have changed: rewritten, replaced, appeared, or reached
 * by another symbolic link (as Kubernetes swaps secrets). It looks once a second, which works on
 * every file system; the content decides what a change is, and that is its user's to see. */
#ifndef MORTISE_PROXY_WATCH_H
#define MORTISE_PROXY_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "lib/net/loop.h"

#define WATCH_EVERY_MS 1000

/* What of a file says that it is another one than before. */
struct watch_file {
    char *path;
    bool there;
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec mtime, ctime;
};

/* Zeroed memory is an empty list. */
struct watch_files {
    struct watch_file *items;
    size_t num;
};

/* watch_files_add adds a path (copied) as it is now; add it before it is read, so that no change in
 * between is missed. */
void watch_files_add(struct watch_files *files, const char *path);
void watch_files_clear(struct watch_files *files);
/* watch_files_changed looks again and remembers what it sees. */
bool watch_files_changed(struct watch_files *files);

struct watch;
/* watch_new looks at `files` (borrowed) every WATCH_EVERY_MS and calls on_change(arg). The callback
 * may fill the list anew. */
struct watch *watch_new(struct loop *loop, struct watch_files *files, void (*on_change)(void *arg),
                        void *arg);
void watch_free(struct watch *watch);

#endif
