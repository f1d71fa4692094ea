/* audit_counts keeps what is told once and then counted: refusals and logins. Pure but for memory,
 * which is bounded: what is of a kind beyond AUDIT_STRANGERS_MAX or AUDIT_KNOWN_MAX is counted
 * together, as "several". Private to audit. */
#ifndef MORTISE_CONTROL_AUDIT_COUNTS_H
#define MORTISE_CONTROL_AUDIT_COUNTS_H

#include "control/audit.h"
#include "lib/base/list.h"
#include "lib/base/map.h"
#include "proto/mesh/audit.pb-c.h"

/* Records of one round: each kind, and the several of both. */
#define AUDIT_COUNTS_MAX (AUDIT_STRANGERS_MAX + AUDIT_KNOWN_MAX + 2)

/* Zeroed memory with `list` initialised is empty. */
struct audit_counts {
    struct list list;
    struct map by_key;
    unsigned num_strangers;
    unsigned num_known;
};

void audit_counts_init(struct audit_counts *counts);
void audit_counts_fini(struct audit_counts *counts);
/* audit_counts_add takes a copy of `record`, which has its at_ms, or counts it. */
void audit_counts_add(struct audit_counts *counts, const Mortise__V1__AuditRecord *record,
                      bool stranger, uint64_t now_ms);
/* audit_counts_due gives what is to be written now, borrowed until audit_counts_written, which is
 * called when it was. Kinds of which nothing came for a while are forgotten. `all`: also what is
 * being counted still. */
size_t audit_counts_due(struct audit_counts *counts, uint64_t now_ms, bool all,
                        Mortise__V1__AuditRecord *out[AUDIT_COUNTS_MAX]);
void audit_counts_written(struct audit_counts *counts, uint64_t now_ms);

#endif
