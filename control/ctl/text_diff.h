/* text_diff writes what differs between two texts, line by line, in the unified form that `patch`
 * takes. Pure. Source: Myers, "An O(ND) Difference Algorithm and Its Variations" (1986). */
#ifndef MORTISE_CONTROL_CTL_TEXT_DIFF_H
#define MORTISE_CONTROL_CTL_TEXT_DIFF_H

#include "lib/base/buf.h"

#define TEXT_DIFF_CONTEXT 3
/* Texts that differ in more lines than that, in what lies between their first and last difference,
 * are shown there as all gone and all new: right, if not the shortest. It bounds time and memory
 * (32 MiB). */
#define TEXT_DIFF_MAX 2000

/* text_diff appends the difference of `a` and `b`, nothing when they are the same. Each text is
 * empty or ends with a newline. Errors: TOO_LARGE (of the buffer). */
MUST_CHECK err_t text_diff(const char *name_a, struct bytes a, const char *name_b, struct bytes b,
                           struct buf *out);

#endif
