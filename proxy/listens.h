/* listens says whether a program listens at a local address, without connecting to it: the kernel's
 * own list is read (/proc/net/tcp). */
#ifndef MORTISE_PROXY_LISTENS_H
#define MORTISE_PROXY_LISTENS_H

#include "lib/net/addr.h"

enum listens { LISTENS_UNKNOWN, LISTENS_YES, LISTENS_NO };

/* Listeners come first in that list: what is behind so many lines is not looked at. */
#define LISTENS_LINES_MAX 4096

/* listens_at asks the kernel. LISTENS_UNKNOWN: the list cannot be read, or is too long. */
enum listens listens_at(const struct addr *addr);
/* listens_line reads one line of the list: true where it is a listener that takes connections to
 * `addr`. Pure. */
bool listens_line(const char *line, const struct addr *addr);

#endif
