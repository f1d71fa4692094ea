/* file: whole files in and out, for configuration, keys and small state. Everything here blocks. */
#ifndef MORTISE_LIB_BASE_FILE_H
#define MORTISE_LIB_BASE_FILE_H

#include <stddef.h>
#include <sys/types.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

/* file_read appends the content of the regular file `path`, at most `max` bytes of it. On error
 * `out` is as it was. Errors: FILE_OPEN (sub: errno; EISDIR or EINVAL for what is not a regular
 * file), TOO_LARGE (sub: max, or the buffer's maximum), IO (sub: errno). */
MUST_CHECK err_t file_read(const char *path, size_t max, struct buf *out);

/* file_read_private is file_read for keys and tokens: the opened file must be owned by us or root
 * and must be neither readable nor writable by group and others. Errors: also FILE_UNSAFE (sub: the
 * mode's bits, 0 if the owner is wrong). Release `out` with buf_wipe_fini. */
MUST_CHECK err_t file_read_private(const char *path, size_t max, struct buf *out);

/* file_read_own is file_read_private for what we wrote ourselves: it must be ours, not root's, and
 * no symbolic link (FILE_OPEN, sub ELOOP). */
MUST_CHECK err_t file_read_own(const char *path, size_t max, struct buf *out);

/* file_check_private is the same judgement without reading. Errors: FILE_OPEN, FILE_UNSAFE. */
MUST_CHECK err_t file_check_private(const char *path);

/* file_write_atomic makes `path` hold `content` with exactly the permission bits `mode`, or leaves
 * what was there: a temporary file in the same folder, synced, renamed over `path`, the folder
 * synced. After OK the content survives a power cut. A symbolic link at `path` is replaced, not
 * followed. Errors: FILE_OPEN (sub: errno) when nothing can be created there, IO (sub: errno). */
MUST_CHECK err_t file_write_atomic(const char *path, struct bytes content, mode_t mode);

/* file_rename gives `from` the name `to`, in the place of what had it, durably. Both are on one
 * file system. Errors: IO (sub: errno). */
MUST_CHECK err_t file_rename(const char *from, const char *to);

#endif
