/* access_log: one line for each connection, when it ends. The names of the fields are part of the
 * product's interface. */
#ifndef MORTISE_PROXY_ACCESS_LOG_H
#define MORTISE_PROXY_ACCESS_LOG_H

#include "proxy/conn.h"

/* access_log_open says where lines go: a file (appended to; 0600 when new), "-" for standard
 * output, "off". Called at start and, to let a file be rotated, on SIGHUP. Never waits: a pipe has
 * a reader already, or is refused. On error the one that was open stays. Errors: FILE_OPEN (sub:
 * errno). */
MUST_CHECK err_t access_log_open(const char *target);
/* access_log_reason says why it could not be opened. */
const char *access_log_reason(err_t err);
void access_log_close(void);

/* access_log_conn writes the line. Of connections that never opened, which any peer can cause in
 * any number, only some (see log_limited). */
void access_log_conn(const struct conn *conn, enum close_reason reason, err_t err);

#endif
