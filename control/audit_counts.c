#include "control/audit_counts.h"

#include <string.h>

#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

struct audit_kind {
    struct list link;
    char *key;
    Mortise__V1__AuditRecord *record; /* owned */
    bool stranger;
    bool fresh;        /* not written at all yet */
    bool due;          /* given by audit_counts_due */
    uint64_t since_ms; /* mono: when it was written last */
    int64_t more_since_ms;
    uint64_t more; /* since then */
};

void audit_counts_init(struct audit_counts *counts)
{
    *counts = (struct audit_counts){.num_known = 0};
    list_init(&counts->list);
}

static void audit_kind_free(struct audit_counts *counts, struct audit_kind *kind)
{
    (void)map_del(&counts->by_key, kind->key);
    list_del(&kind->link);
    *(kind->stranger ? &counts->num_strangers : &counts->num_known) -= 1;
    pb_free(&kind->record->base);
    mem_free(kind->key);
    mem_free(kind);
}

void audit_counts_fini(struct audit_counts *counts)
{
    while (!list_empty(&counts->list))
        audit_kind_free(counts, LIST_ITEM(counts->list.next, struct audit_kind, link));
    map_fini(&counts->by_key);
}

static struct audit_kind *audit_kind_new(struct audit_counts *counts, const char *key,
                                         const Mortise__V1__AuditRecord *record, bool stranger)
{
    struct audit_kind *kind = mem_zalloc(sizeof(*kind));

    kind->key = mem_strdup(key);
    kind->record = MSG_AS(Mortise__V1__AuditRecord, mortise__v1__audit_record__descriptor,
                          pb_clone(&record->base));
    kind->stranger = stranger;
    kind->fresh = true;
    list_add_tail(&counts->list, &kind->link);
    (void)map_put(&counts->by_key, key, kind);
    *(stranger ? &counts->num_strangers : &counts->num_known) += 1;
    return kind;
}

/* Of what cannot be told apart any more only that it was. */
static struct audit_kind *audit_kind_several(struct audit_counts *counts, const char *key,
                                             const Mortise__V1__AuditRecord *record, bool stranger)
{
    Mortise__V1__AuditRecord several = MORTISE__V1__AUDIT_RECORD__INIT;

    several.at_ms = record->at_ms;
    several.who = msg_lend(stranger ? AUDIT_STRANGER : "several");
    several.source = msg_lend("several");
    several.action = record->action;
    several.outcome = record->outcome;
    several.message = msg_lend("more kinds than are told apart, counted together");
    return audit_kind_new(counts, key, &several, stranger);
}

void audit_counts_add(struct audit_counts *counts, const Mortise__V1__AuditRecord *record,
                      bool stranger, uint64_t now_ms)
{
    CLEANUP(mem_freep)
    char *key = mem_printf("%d %s %s %s %s", (int)record->outcome, record->action, record->who,
                           record->source, record->reason);
    const char *several = stranger ? "strangers" : "known";
    struct audit_kind *kind = map_get(&counts->by_key, key);
    bool full = stranger ? counts->num_strangers >= AUDIT_STRANGERS_MAX
                         : counts->num_known >= AUDIT_KNOWN_MAX;

    if (kind == NULL && full)
        kind = map_get(&counts->by_key, several);
    if (kind == NULL) {
        kind = full ? audit_kind_several(counts, several, record, stranger)
                    : audit_kind_new(counts, key, record, stranger);
        kind->since_ms = now_ms;
        return;
    }
    if (kind->more++ == 0)
        kind->more_since_ms = record->at_ms;
}

size_t audit_counts_due(struct audit_counts *counts, uint64_t now_ms, bool all,
                        Mortise__V1__AuditRecord *out[AUDIT_COUNTS_MAX])
{
    struct list *pos, *tmp;
    size_t num = 0;

    LIST_EACH (pos, tmp, &counts->list) {
        struct audit_kind *kind = LIST_ITEM(pos, struct audit_kind, link);

        kind->due = false;
        if (!kind->fresh && !all && now_ms - kind->since_ms < AUDIT_WINDOW_MS)
            continue;
        if (!kind->fresh && kind->more == 0) {
            if (!all)
                audit_kind_free(counts, kind);
            continue;
        }
        CHECK(num < AUDIT_COUNTS_MAX);
        kind->due = true;
        /* The first stands for itself; those after it are told as a number. */
        kind->record->count = kind->more;
        kind->record->since_ms = kind->more != 0 ? kind->more_since_ms : 0;
        if (!kind->fresh)
            kind->record->at_ms = 0; /* now */
        out[num++] = kind->record;
    }
    return num;
}

void audit_counts_written(struct audit_counts *counts, uint64_t now_ms)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &counts->list) {
        struct audit_kind *kind = LIST_ITEM(pos, struct audit_kind, link);

        if (!kind->due)
            continue;
        kind->due = false;
        kind->fresh = false;
        kind->more = 0;
        kind->since_ms = now_ms;
    }
}
