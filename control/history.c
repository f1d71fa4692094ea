#include "control/history.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/random.h"
#include "lib/rpc/pb.h"

/* Whatever else changes is a decision. Lists of what is revoked are made of other records. */
static const char *const history_no_decisions[] = {
    VAULT_CERTS, VAULT_CRLS, VAULT_TOKENS, VAULT_ENDPOINTS, VAULT_AUDIT, VAULT_PLAINTEXT, "meta/"};

static void history_on_stored(void *arg, const struct store_change *change, uint64_t revision)
{
    struct history *history = arg;

    for (size_t i = 0; i < ARRAY_LEN(history_no_decisions); i++) {
        if (strncmp(change->key, history_no_decisions[i], strlen(history_no_decisions[i])) == 0)
            return;
    }
    history->decided = revision;
}

/* The record so far; an empty one when there is none. */
static err_t history_load(struct history *history)
{
    ProtobufCMessage *msg = NULL;
    err_t err = vault_get(history->vault, VAULT_HISTORY, &msg, &history->version);

    if (err_is(err, E_NOT_FOUND)) {
        static const Mortise__Control__History none = MORTISE__CONTROL__HISTORY__INIT;

        msg = pb_clone(&none.base);
        history->version = STORE_ABSENT;
        err = OK;
    }
    TRY(err);
    history->record = MSG_AS(Mortise__Control__History, mortise__control__history__descriptor, msg);
    return OK;
}

/* Puts `record`, which may borrow from the one there is, in its place. */
static err_t history_put(struct history *history, const Mortise__Control__History *record)
{
    Mortise__Control__History *fresh;

    TRY(vault_put(history->vault, VAULT_HISTORY, &record->base, history->version,
                  &history->version));
    fresh = MSG_AS(Mortise__Control__History, mortise__control__history__descriptor,
                   pb_clone(&record->base));
    pb_free(&history->record->base);
    history->record = fresh;
    return OK;
}

/* The runs before, the newest of which ended at `until`, and a new one. */
static err_t history_begin(struct history *history, uint64_t until)
{
    const Mortise__Control__History *old = history->record;
    Mortise__Control__History record = MORTISE__CONTROL__HISTORY__INIT;
    Mortise__Control__Run run = MORTISE__CONTROL__RUN__INIT;
    size_t skip = old->n_runs >= HISTORY_RUNS_MAX ? old->n_runs - HISTORY_RUNS_MAX + 1 : 0;
    err_t err;

    if (old->n_runs > 0)
        old->runs[old->n_runs - 1]->until = until;
    record.era = old->era > 0 ? old->era : 1;
    record.runs = mem_array(old->n_runs - skip + 1, sizeof(*record.runs));
    for (size_t i = skip; i < old->n_runs; i++)
        record.runs[record.n_runs++] = old->runs[i];
    while (run.id == 0)
        random_fill(&run.id, sizeof(run.id));
    record.runs[record.n_runs++] = &run;
    err = history_put(history, &record);
    mem_free(record.runs);
    return err;
}

err_t history_open(struct history *history)
{
    uint64_t revision;

    TRY(store_revision(vault_store(history->vault), &revision));
    TRY(history_load(history));
    TRY(history_begin(history, revision));
    history->decided = history->version;
    history->watch = (struct store_watch){.prefix = "", .fn = history_on_stored, .arg = history};
    store_watch(vault_store(history->vault), &history->watch);
    return OK;
}

void history_close(struct history *history)
{
    if (history->watch.fn != NULL)
        store_unwatch(&history->watch);
    if (history->record != NULL)
        pb_free(&history->record->base);
    history->record = NULL;
}

uint64_t history_run(const struct history *history)
{
    return history->record->runs[history->record->n_runs - 1]->id;
}

uint64_t history_era(const struct history *history)
{
    return history->record->era;
}

uint64_t history_until(const struct history *history, uint64_t run)
{
    const Mortise__Control__History *record = history->record;

    if (run == history_run(history))
        return history->decided;
    for (size_t i = 0; i < record->n_runs; i++) {
        if (record->runs[i]->id == run)
            return record->runs[i]->until;
    }
    return 0;
}

err_t history_raise_era(struct history *history, int64_t now_s)
{
    Mortise__Control__History record = *history->record;

    record.era++;
    if (now_s > 0 && (uint64_t)now_s > record.era)
        record.era = (uint64_t)now_s; /* above one that was raised before and is lost, too */
    return history_put(history, &record);
}
