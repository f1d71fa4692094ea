/* command runs another program and reads what it prints: a secret that only a program reaches (a
 * key-management service), rules of the kernel. There is no shell. Everything here blocks. */
#ifndef MORTISE_LIB_BASE_COMMAND_H
#define MORTISE_LIB_BASE_COMMAND_H

#include <stdint.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

/* command_read runs argv[0], a path with a '/' in it, with the words of `argv` (NULL-ended), and
 * appends what it writes to standard output, at most `max` bytes, to `out`. It has no standard
 * input, what it writes to standard error is dropped, and of our environment it gets all but
 * MORTISE_…: those may be secrets. After `timeout_ms`, or when it writes more, it is killed with
 * all of its process group. On error `out` is as it was; release it with buf_wipe_fini.
 * Errors: COMMAND_START (sub: errno), COMMAND_FAILED (sub: exit status; below 0: minus the signal
 * that ended it), TIMEOUT, TOO_LARGE (sub: max), IO (sub: errno). */
MUST_CHECK err_t command_read(const char *const *argv, char *const *environment, size_t max,
                              uint64_t timeout_ms, struct buf *out);

/* command_report is command_read of a program whose own words are wanted: what it writes to
 * standard error comes in between, and stays in `out` when it fails. */
MUST_CHECK err_t command_report(const char *const *argv, char *const *environment, size_t max,
                                uint64_t timeout_ms, struct buf *out);

#endif
