#include "control/rotate.h"

#include <string.h>

static bool rotate_concerns(const char *const *subsystems, size_t num, const char *name)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(subsystems[i], name) == 0)
            return true;
    }
    return false;
}

/* Of the same process, whatever stream it comes by. */
static char *rotate_key(const struct workload *workload)
{
    return mem_printf("%s %s", workload->instance, workload->spiffe_id);
}

void rotate_begin(struct rotate *rotate, uint64_t epoch, const struct list *workloads,
                  const char *const *subsystems, size_t num)
{
    size_t cap = 0;

    *rotate = (struct rotate){.epoch = epoch};
    for (const struct list *pos = workloads->next; pos != workloads; pos = pos->next)
        cap++;
    rotate->entries = mem_array(cap, sizeof(*rotate->entries));
    for (struct list *pos = workloads->next; pos != workloads; pos = pos->next) {
        const struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (!rotate_concerns(subsystems, num, workload->subsystem))
            continue;
        CLEANUP(mem_freep) char *key = rotate_key(workload);
        map_put(&rotate->by_key, key, &rotate->entries[rotate->num]);
        rotate->entries[rotate->num++] = (struct rotate_entry){
            .subsystem = mem_strdup(workload->subsystem),
            .spiffe_id = mem_strdup(workload->spiffe_id),
            .instance = mem_strdup(workload->instance),
            .error = mem_strdup(""),
            .connected = true,
        };
    }
}

void rotate_fini(struct rotate *rotate)
{
    for (size_t i = 0; i < rotate->num; i++) {
        mem_free(rotate->entries[i].subsystem);
        mem_free(rotate->entries[i].spiffe_id);
        mem_free(rotate->entries[i].instance);
        mem_free(rotate->entries[i].error);
    }
    mem_free(rotate->entries);
    map_fini(&rotate->by_key);
    *rotate = (struct rotate){0};
}

static struct rotate_entry *rotate_entry(const struct rotate *rotate,
                                         const struct workload *workload)
{
    CLEANUP(mem_freep) char *key = rotate_key(workload);

    return map_get(&rotate->by_key, key);
}

bool rotate_see(struct rotate *rotate, const struct workload *workload)
{
    struct rotate_entry *entry = rotate_entry(rotate, workload);
    const Mortise__V1__SidecarStatus *status = workload->status;

    if (entry == NULL)
        return false;
    entry->connected = true;
    if (status == NULL || entry->done)
        return false;
    mem_free(entry->error);
    entry->error = mem_strdup(status->renewal_error);
    if (status->certificate_epoch < rotate->epoch)
        return false;
    entry->done = true;
    rotate->num_done++;
    return true;
}

void rotate_lost(struct rotate *rotate, const struct workload *workload)
{
    struct rotate_entry *entry = rotate_entry(rotate, workload);

    if (entry != NULL)
        entry->connected = false;
}

err_t rotate_missing(const struct rotate *rotate, struct buf *out)
{
    bool any = false;

    for (size_t i = 0; i < rotate->num; i++) {
        const struct rotate_entry *entry = &rotate->entries[i];
        const char *why = entry->error;

        if (entry->done)
            continue;
        if (!entry->connected)
            why = "disconnected";
        else if (why[0] == '\0')
            why = "no answer";
        TRY(buf_printf(out, "%s%s (%.8s): %s", any ? "; " : "", entry->subsystem, entry->instance,
                       why));
        any = true;
    }
    return OK;
}
