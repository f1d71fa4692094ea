/* access_log: one line for each connection, when it ends: to a file or standard output, to syslog,
 * and, where the mesh says so, up to the control plane (access_share.h). The names of the fields
 * are part of the product's interface. */
#ifndef MORTISE_PROXY_ACCESS_LOG_H
#define MORTISE_PROXY_ACCESS_LOG_H

#include "lib/base/faults.h"
#include "proxy/conn.h"

/* access_log_check adds the faults of a value of --access-log: "off", or a file, "-" for standard
 * output, and a syslog target (see syslog_target), one of each kind at most, with a comma between
 * them. */
void access_log_check(const char *flag, const char *targets, struct faults *faults);

/* access_log_open says where lines go, see access_log_check; a file is appended to, 0600 when new.
 * Called at start and, to let a file be rotated, on SIGHUP. Never waits: a pipe has a reader
 * already, or is refused; a syslog receiver that is not there is looked for while lines come. On
 * error what was open stays. `facility` is that of syslog. Errors: FILE_OPEN (sub: errno). */
MUST_CHECK err_t access_log_open(const char *targets, unsigned facility);
/* access_log_reason says why it could not be opened. */
const char *access_log_reason(err_t err);
/* access_log_follow opens the file again when its name stands for another one by now, or for none;
 * every second. Errors: as access_log_open, once each time that it begins to fail. */
MUST_CHECK err_t access_log_follow(const char *targets, unsigned facility);
void access_log_close(void);

/* access_log_conn writes the line. Of connections that never opened, which any peer can cause in
 * any number, only some (see log_limited). */
void access_log_conn(const struct conn *conn, enum close_reason reason, err_t err);

#endif
