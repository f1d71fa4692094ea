#include "control/revocations.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

typedef Mortise__Control__Revocations revocations_msg;
typedef Mortise__Control__RevocationRecord revocations_entry;

/* The entries as sidecars are given them; borrowed from the record. */
static Mortise__V1__Revocation **revocations_list(const revocations_msg *record)
{
    Mortise__V1__Revocation **list =
        mem_array(record->n_entries, sizeof(Mortise__V1__Revocation *));

    for (size_t i = 0; i < record->n_entries; i++)
        list[i] = record->entries[i]->revocation;
    return list;
}

static bool revocations_are_whole(const revocations_msg *record)
{
    for (size_t i = 0; i < record->n_entries; i++) {
        if (record->entries[i]->revocation == NULL)
            return false;
    }
    return true;
}

/* Takes `record`. */
static err_t revocations_take(struct revocations *revocations, revocations_msg *record,
                              uint64_t version)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct revoke_set *set = NULL;
    Mortise__V1__Revocation **list = NULL;

    if (revocations_are_whole(record))
        list = revocations_list(record);
    if (list == NULL || !err_is_ok(revoke_set_new(list, record->n_entries, &faults, &set))) {
        mem_free(list);
        pb_free(&record->base);
        return FAIL(STORE_CORRUPT, 0);
    }
    revoke_set_free(revocations->set);
    mem_free(revocations->list);
    if (revocations->record != NULL)
        pb_free(&revocations->record->base);
    revocations->record = record;
    revocations->version = version;
    revocations->set = set;
    revocations->list = list;
    return OK;
}

static err_t revocations_load(struct revocations *revocations)
{
    ProtobufCMessage *msg = NULL;
    uint64_t version = STORE_ABSENT;
    err_t err = vault_get(revocations->vault, VAULT_REVOCATIONS, &msg, &version);

    if (err_is(err, E_NOT_FOUND)) { /* nothing was ever revoked */
        static const revocations_msg none = MORTISE__CONTROL__REVOCATIONS__INIT;

        msg = pb_clone(&none.base);
        version = STORE_ABSENT;
        err = OK;
    }
    TRY(err);
    return revocations_take(
        revocations,
        MSG_AS(Mortise__Control__Revocations, mortise__control__revocations__descriptor, msg),
        version);
}

static void revocations_on_stored(void *arg, const struct store_change *change, uint64_t revision)
{
    struct revocations *revocations = arg;

    (void)change;
    (void)revision;
    revocations->unread = revocations_load(revocations);
    if (err_is_ok(revocations->unread))
        revocations->on_change(revocations->arg);
    else /* what was denied before stays denied */
        log_error("registry", "revocations_unreadable", LOG_ERR("error", revocations->unread));
}

err_t revocations_open(struct revocations *revocations)
{
    revocations->watch = (struct store_watch){
        .prefix = VAULT_REVOCATIONS, .fn = revocations_on_stored, .arg = revocations};
    store_watch(vault_store(revocations->vault), &revocations->watch);
    return revocations_load(revocations);
}

void revocations_close(struct revocations *revocations)
{
    if (revocations->watch.fn != NULL)
        store_unwatch(&revocations->watch);
    revoke_set_free(revocations->set);
    mem_free(revocations->list);
    if (revocations->record != NULL)
        pb_free(&revocations->record->base);
    revocations->set = NULL;
    revocations->list = NULL;
    revocations->record = NULL;
}

/* ---- changes ---- */

static err_t revocations_put(struct revocations *revocations, const revocations_msg *record)
{
    TRY(vault_put(revocations->vault, VAULT_REVOCATIONS, &record->base, revocations->version,
                  NULL));
    return revocations->unread; /* the watch has read it, or not */
}

/* The record without the entries that `drop` names, with room for one more; the list is owned. */
static revocations_msg
revocations_without(const revocations_msg *record,
                    bool (*drop)(const revocations_entry *entry, const void *arg), const void *arg)
{
    revocations_msg kept = MORTISE__CONTROL__REVOCATIONS__INIT;

    kept.last = record->last;
    kept.entries = mem_array(record->n_entries + 1, sizeof(*kept.entries));
    for (size_t i = 0; i < record->n_entries; i++) {
        if (!drop(record->entries[i], arg))
            kept.entries[kept.n_entries++] = record->entries[i];
    }
    return kept;
}

static bool revocations_same_subject(const revocations_entry *entry, const void *arg)
{
    struct revoke_subject a = revoke_subject(entry->revocation), b = revoke_subject(arg);

    return strcmp(a.kind, b.kind) == 0 && strcmp(a.value, b.value) == 0;
}

/* Lends what `add` has. */
static revocations_entry revocations_entry_of(const struct revocations_new *add, uint64_t id)
{
    revocations_entry entry = MORTISE__CONTROL__REVOCATION_RECORD__INIT;

    entry.id = id;
    entry.revocation = (Mortise__V1__Revocation *)(uintptr_t)add->revocation; /* only read */
    entry.reason = msg_lend(add->reason);
    entry.by = msg_lend(add->by);
    entry.revoked_at = add->now_s;
    entry.until = add->until_s;
    return entry;
}

err_t revocations_add(struct revocations *revocations, const struct revocations_new *add,
                      uint64_t *out_id)
{
    revocations_msg record;
    revocations_entry entry;
    err_t err;

    for (size_t i = 0; i < revocations->record->n_entries; i++) {
        const revocations_entry *known = revocations->record->entries[i];

        if (!pb_equal(&known->revocation->base, &add->revocation->base))
            continue;
        *out_id = known->id;
        return FAIL(EXISTS, 0);
    }
    /* Who is revoked again with another grace is revoked by that. */
    record = revocations_without(revocations->record, revocations_same_subject, add->revocation);
    entry = revocations_entry_of(add, ++record.last);
    record.entries[record.n_entries++] = &entry;
    *out_id = entry.id;
    err = record.n_entries <= REVOCATIONS_MAX ? revocations_put(revocations, &record)
                                              : FAIL(LIMIT, REVOCATIONS_MAX);
    mem_free(record.entries);
    return err;
}

err_t revocations_add_all(struct revocations *revocations, const struct revocations_new *adds,
                          size_t num, uint64_t *out_first)
{
    const revocations_msg *old = revocations->record;
    revocations_msg record = MORTISE__CONTROL__REVOCATIONS__INIT;
    revocations_entry *entries;
    err_t err;

    if (num == 0)
        return OK;
    if (num > REVOCATIONS_MAX || old->n_entries > REVOCATIONS_MAX - num)
        return FAIL(LIMIT, REVOCATIONS_MAX);
    *out_first = old->last + 1;
    record.last = old->last;
    record.entries = mem_array(old->n_entries + num, sizeof(*record.entries));
    entries = mem_array(num, sizeof(*entries));
    for (size_t i = 0; i < old->n_entries; i++)
        record.entries[record.n_entries++] = old->entries[i];
    for (size_t i = 0; i < num; i++) {
        entries[i] = revocations_entry_of(&adds[i], ++record.last);
        record.entries[record.n_entries++] = &entries[i];
    }
    err = revocations_put(revocations, &record);
    mem_free(entries);
    mem_free(record.entries);
    return err;
}

static bool revocations_has_id(const revocations_entry *entry, const void *arg)
{
    return entry->id == *(const uint64_t *)arg;
}

static bool revocations_is_over(const revocations_entry *entry, const void *arg)
{
    return entry->until != 0 && entry->until + REVOCATIONS_SKEW_S <= *(const int64_t *)arg;
}

static err_t revocations_drop(struct revocations *revocations,
                              bool (*drop)(const revocations_entry *entry, const void *arg),
                              const void *arg, bool *out_any)
{
    revocations_msg record = revocations_without(revocations->record, drop, arg);
    err_t err = OK;

    *out_any = record.n_entries < revocations->record->n_entries;
    if (*out_any)
        err = revocations_put(revocations, &record);
    mem_free(record.entries);
    return err;
}

err_t revocations_lift(struct revocations *revocations, uint64_t id)
{
    bool any;

    TRY(revocations_drop(revocations, revocations_has_id, &id, &any));
    return any ? OK : FAIL(NOT_FOUND, 0);
}

err_t revocations_expire(struct revocations *revocations, int64_t now_s)
{
    bool any;

    return revocations_drop(revocations, revocations_is_over, &now_s, &any);
}
