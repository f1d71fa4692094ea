/* audit is the log of what was done to the mesh, and of what was refused: a chain of records
 * (audit_chain.h) in the store, each in the very transaction that makes the change. It stands in
 * the vault's commits: a change of certain records (audit_watched in audit.c) is never made without
 * one, whoever makes it; a store that cannot take the record does not take the change.
 *
 * Who is about to change something says so with audit_expect; what changes unannounced is told of
 * as done by the control plane itself. What changes nothing in the store is written by audit_put,
 * before it is done. Refusals and logins are counted, and written soon after (audit_tick): the
 * first at once, the same ones after it as a number every AUDIT_WINDOW_MS; of strangers no more
 * than AUDIT_STRANGERS_MAX kinds are told apart in that time, so that a flood costs little of the
 * disk.
 *
 * Each AUDIT_CHECKPOINT_RECORDS, or AUDIT_CHECKPOINT_MS after one that is not vouched for, a signed
 * record follows. The oldest records go when there are too many, or when they are too old; a signed
 * record says so. Where the log ends is in a record of its own. Source: reliability R51, R52, F43.
 */
#ifndef MORTISE_CONTROL_AUDIT_H
#define MORTISE_CONTROL_AUDIT_H

#include "control/audit_chain.h"
#include "control/vault.h"
#include "lib/base/clock.h"

#define AUDIT_CHECKPOINT_RECORDS 1000
#define AUDIT_CHECKPOINT_MS ((int64_t)60 * 1000)
#define AUDIT_WINDOW_MS ((uint64_t)300 * 1000)
#define AUDIT_STRANGERS_MAX 32 /* kinds of refusals that are told apart */
#define AUDIT_KNOWN_MAX 256    /* likewise, of callers with a certificate, and their logins */
#define AUDIT_TEXT_MAX 512     /* bytes of one text */
#define AUDIT_WEAKER_MAX 64
#define AUDIT_PURGE_MAX 1000 /* records of one transaction */
#define AUDIT_OURSELVES "mortise-control"
#define AUDIT_STRANGER "stranger"

struct audit;

/* What happens. All borrowed; NULL and 0: does not apply. */
struct audit_entry {
    enum audit_action action;
    const char *who;
    const char *role;
    const char *source;
    const char *object;
    const char *message;
    const char *serial;
    const uint8_t *before; /* AUDIT_HASH bytes */
    const uint8_t *after;
    char *const *weaker;
    size_t num_weaker;
    uint64_t version;
    const void *call; /* whose end ends what it expects; NULL: nobody's */
};

/* audit_create adds key, first record and head to the batch that makes a store. */
MUST_CHECK err_t audit_create(struct vault *vault, struct vault_batch *batch, const char *mesh,
                              int64_t now_s);

struct audit_params {
    struct vault *vault; /* borrowed */
    const struct clock *clock;
    uint64_t keep;  /* records */
    int64_t keep_s; /* of this age */
};
/* audit_open takes its place in the vault's commits. A log whose last record is not the one that
 * was written is told (audit_is_broken), and goes on: that it was cut stays to be seen. Errors:
 * AUDIT_MISSING (there is none: it is never begun anew; sub 1: parts of one are there),
 * STORE_CORRUPT, KEK_UNAVAILABLE, IO. */
MUST_CHECK err_t audit_open(const struct audit_params *params, struct audit **out);
/* audit_close writes what is counted, and a checkpoint, if it can. */
void audit_close(struct audit *audit);
bool audit_is_broken(const struct audit *audit);

/* audit_expect has the next transaction that changes a record under `path` carry this entry
 * (copied). A transaction that fails leaves it for the next one. audit_forget drops what that call
 * (as in the entry) expected and was not carried: at its end, and of no other, which may be about
 * to commit. `audit` may be NULL in both: nobody listens. audit_expected is the first that is left
 * of that call; NULL: nothing. */
void audit_expect(struct audit *audit, const char *path, const struct audit_entry *entry);
void audit_forget(struct audit *audit, const void *call);
const Mortise__V1__AuditRecord *audit_expected(const struct audit *audit, const void *call);
/* audit_only_asks says that the call changes nothing, whatever becomes of it: when it is refused,
 * nobody has tried to. audit_has_only_asked tells, until audit_forget. */
void audit_only_asks(struct audit *audit, const void *call);
bool audit_has_only_asked(const struct audit *audit, const void *call);

/* audit_put writes a record of its own, durably. Errors: those of vault_commit. */
MUST_CHECK err_t audit_put(struct audit *audit, const struct audit_entry *entry);

/* audit_count notes a refusal (`reason`) or what comes often, a login (NULL). `stranger`: who calls
 * has shown no certificate of ours. */
void audit_count(struct audit *audit, const struct audit_entry *entry, const char *reason,
                 bool stranger);

/* audit_flush writes what was counted. audit_tick is called every second: it does so, signs what is
 * due, and removes what is too old. */
void audit_flush(struct audit *audit);
void audit_tick(struct audit *audit);

/* audit_purge removes the oldest records up to `seq`, at most AUDIT_PURGE_MAX, with a record of it
 * (`by` may be NULL: the control plane itself). The newest AUDIT_PURGE_LEAVES stay. Errors: those
 * of vault_commit. */
#define AUDIT_PURGE_LEAVES 1
MUST_CHECK err_t audit_purge(struct audit *audit, uint64_t seq, const struct audit_entry *by);

/* audit_head is where the log ends; borrowed until the next commit. */
const Mortise__V1__AuditHead *audit_head(const struct audit *audit);
/* audit_read is one record, owned (pb_free). Errors: NOT_FOUND, STORE_CORRUPT, IO. */
MUST_CHECK err_t audit_read(struct audit *audit, uint64_t seq, Mortise__V1__AuditRecord **out);
/* audit_public_key is SubjectPublicKeyInfo in DER; borrowed. */
struct bytes audit_public_key(const struct audit *audit);

/* audit_note_shipped: a file outside has all up to `seq`; what it has not is not removed while
 * `ships` was said. audit_unshipped: so many are missing there. */
void audit_set_ships(struct audit *audit, bool ships);
void audit_note_shipped(struct audit *audit, uint64_t seq);
uint64_t audit_unshipped(const struct audit *audit);

#endif
