/* conn_log_line is an access log entry as it is kept and shown: a line of JSON. */
#ifndef MORTISE_CONTROL_CONN_LOG_LINE_H
#define MORTISE_CONTROL_CONN_LOG_LINE_H

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "proto/mesh/access_log.pb-c.h"

#define CONN_LOG_TEXT_MAX 512 /* bytes of each text */

/* conn_log_line appends it, with its end: fields that are 0 or empty are left out, numbers are
 * numbers, and whatever a text has, the line is one and JSON; of a longer text the beginning.
 * Errors: TOO_LARGE (of the buffer). */
MUST_CHECK err_t conn_log_line(const Mortise__V1__AccessLogEntry *entry, struct buf *out);

#endif
