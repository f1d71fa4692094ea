/* process: what every program does before its own work and after it, whatever its parent left it
 * with. */
#ifndef MORTISE_LIB_BASE_PROCESS_H
#define MORTISE_LIB_BASE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>

/* process_begin is the first call of main: of the descriptors 0, 1 and 2, those that are closed are
 * opened on /dev/null. Else the next files and sockets would have these numbers, and what is
 * written to standard output or error would go into one of them. Ends the program with 2 if it
 * cannot. */
void process_begin(void);

/* process_ignore_signals makes errors of two signals whose default is death: SIGPIPE (EPIPE: the
 * reader of a pipe or socket is gone) and SIGXFSZ (EFBIG: RLIMIT_FSIZE, as a full disk is ENOSPC).
 */
void process_ignore_signals(void);

/* process_protect: no core file of this process, by whichever way the kernel would make one, and no
 * other process of our user looks into it (ptrace, /proc): it holds keys. Not in sanitized builds,
 * which look into themselves. Tells standard error what the kernel refuses, in the name of
 * `program`. */
void process_protect(const char *program);

/* process_has_descriptors tries whether `num` more descriptors can be had. If not, `out_reason` is
 * what to tell: which limit it is and what would be enough. */
#define PROCESS_REASON_MAX 128
bool process_has_descriptors(size_t num, char out_reason[PROCESS_REASON_MAX]);

/* process_end is the last call of main, with its exit status: half an answer is none, so when
 * standard output could not be written (a full disk behind `>`) and `status` is 0, that is told to
 * standard error in the name of `program` and the status is 1. */
int process_end(const char *program, int status);

#endif
