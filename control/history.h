/* history tells a store from an older copy of itself. Each start of the control plane is a run with
 * a random name; the record has all runs and how far each went, by the store's revision. Who has
 * seen the store in some run at some revision has seen this store's past only if that run is in
 * the record and went so far: else the store was put back, and what was decided then is lost.
 * Source: reliability F33, R10. Private to the registry. */
#ifndef MORTISE_CONTROL_HISTORY_H
#define MORTISE_CONTROL_HISTORY_H

#include "control/vault.h"

/* A sidecar that was away for more starts than this finds no past of its own, and an operator has
 * to confirm. */
#define HISTORY_RUNS_MAX 4096

struct history {
    struct vault *vault;
    Mortise__Control__History *record; /* the last of its runs is ours */
    uint64_t version;                  /* of the record */
    uint64_t decided;                  /* revision of the newest decision */
    struct store_watch watch;
};

/* history_open notes this run, durably; `vault` is set by the caller before. Errors: STORE_CORRUPT,
 * KEK_UNAVAILABLE, STORE_UNWRITABLE, IO. On error history_close is still due. */
MUST_CHECK err_t history_open(struct history *history);
void history_close(struct history *history);

uint64_t history_run(const struct history *history);
uint64_t history_era(const struct history *history);
/* history_until is how far the run is part of the past; 0: it is not. */
uint64_t history_until(const struct history *history, uint64_t run);

/* history_raise_era begins an era above this one and any that was begun before `now_s`, durably.
 * Errors: those of vault_put. */
MUST_CHECK err_t history_raise_era(struct history *history, int64_t now_s);

#endif
