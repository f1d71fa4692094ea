/* revocations is what is denied in the mesh, as the store has it: who, since when, why, by whom.
 * One record; a change is one transaction, and whoever makes it, the store's watch brings it here.
 * Changed through the registry only; others read it. Source: reliability R42. */
#ifndef MORTISE_CONTROL_REVOCATIONS_H
#define MORTISE_CONTROL_REVOCATIONS_H

#include "certs/revoke.h"
#include "control/vault.h"

#define REVOCATIONS_MAX 1024 /* each sidecar gets all of them */
#define REVOCATIONS_REASON_MAX 256
/* Sidecars' clocks may lag: so long beyond its end a certificate stays denied. */
#define REVOCATIONS_SKEW_S 86400

struct revocations {
    struct vault *vault;
    Mortise__Control__Revocations *record; /* never NULL after revocations_open */
    uint64_t version;                      /* of the record; STORE_ABSENT: there is none yet */
    struct revoke_set *set;
    Mortise__V1__Revocation **list; /* of the record's entries, what sidecars are given */
    struct store_watch watch;
    err_t unread; /* why what is stored is not in force; OK: it is */
    void (*on_change)(void *arg);
    void *arg;
};

/* revocations_open loads them; vault, on_change and arg are set by the caller before. Errors:
 * STORE_CORRUPT, KEK_UNAVAILABLE, IO. On error revocations_close is still due. */
MUST_CHECK err_t revocations_open(struct revocations *revocations);
void revocations_close(struct revocations *revocations);

/* revocations_add makes a checked entry durable and in force. `until_s`: what it
 * denies has expired then, and a day later it is dropped; 0: never by itself. Errors: LIMIT, EXISTS
 * (the same with the same grace; *out_id is that one's), STORE_*. */
struct revocations_new {
    const Mortise__V1__Revocation *revocation;
    const char *reason;
    const char *by;
    int64_t now_s;
    int64_t until_s;
};
MUST_CHECK err_t revocations_add(struct revocations *revocations, const struct revocations_new *add,
                                 uint64_t *out_id);
/* revocations_add_all does that with several in one transaction, all or none; their ids are
 * *out_first and those that follow. The caller has seen that no two have the same subject, and none
 * one that is denied already. Errors: LIMIT, STORE_*. */
MUST_CHECK err_t revocations_add_all(struct revocations *revocations,
                                     const struct revocations_new *adds, size_t num,
                                     uint64_t *out_first);
/* revocations_lift takes one back. Errors: NOT_FOUND, STORE_*. */
MUST_CHECK err_t revocations_lift(struct revocations *revocations, uint64_t id);
/* revocations_expire drops those whose time is over. Errors: STORE_*. */
MUST_CHECK err_t revocations_expire(struct revocations *revocations, int64_t now_s);

#endif
