/* lineage tells whether two administrators are two persons, as far as the record of who has which
 * role can tell: whoever gives a name its role, a certificate or an invitation may hold that name's
 * key himself, and so may whoever gave him his. So two names are apart when neither goes back to
 * the other and both do not go back to a third. Where names begin is the host: root and our own
 * user at the operator socket, and the first start; two names that both began there are apart. Pure
 * but for the record. Source: reliability R49. */
#ifndef MORTISE_CONTROL_LINEAGE_H
#define MORTISE_CONTROL_LINEAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "control/access.h"

/* Of whom both names have been through hands; a longer line is not believed. */
#define LINEAGE_MAX 32
#define LINEAGE_REASON_MAX 512

/* lineage_apart: whether `approver` may stand beside `asker` (subjects). `stamp` is access_stamp
 * when that one asked: a role that was given since then is none for this. `uid`: ours. False: with
 * a reason that says what would be right. */
bool lineage_apart(const struct access *access, uid_t uid, const char *asker, const char *approver,
                   uint64_t stamp, char out_reason[LINEAGE_REASON_MAX]);

#endif
