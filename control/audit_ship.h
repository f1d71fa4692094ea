/* audit_ship appends the records of the audit log to a file outside of the store, as JSON lines:
 * for what carries them off the host. A file that was renamed or removed is made anew (logrotate);
 * one that cannot be written is tried again each time, from where it was, and no record is purged
 * before it is there. It goes on behind the last whole line that it finds. */
#ifndef MORTISE_CONTROL_AUDIT_SHIP_H
#define MORTISE_CONTROL_AUDIT_SHIP_H

#include "control/audit.h"
#include "lib/base/faults.h"

#define AUDIT_SHIP_MAX 1000 /* records a turn */

struct audit_ship;

/* audit_ship_open opens the file, or makes it (0640). Errors: FILE_OPEN (sub: errno), of which
 * there is a fault at `flag`. */
MUST_CHECK err_t audit_ship_open(struct audit *audit, const char *flag, const char *path,
                                 struct faults *faults, struct audit_ship **out);
/* audit_ship_tick writes what is new, durably. `ship` may be NULL. */
void audit_ship_tick(struct audit_ship *ship);
void audit_ship_close(struct audit_ship *ship);

#endif
