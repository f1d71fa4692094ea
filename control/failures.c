#include "control/failures.h"

#include <string.h>

#include "lib/base/list.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define FAILURES_KEYS_MAX 8

struct failures_sidecar {
    struct list link; /* who told last is last */
    char *subsystem, *instance;
    char *key; /* both, in `by_key` */
    Mortise__V1__FailedConnection **kinds;
    size_t num;
    size_t bytes;
    int64_t heard_ms;
    unsigned room; /* that it may tell now */
};

struct failures {
    struct list sidecars;
    struct map by_key;
    size_t num;
    size_t num_dropped;
};

struct failures *failures_new(void)
{
    struct failures *failures = mem_zalloc(sizeof(*failures));

    list_init(&failures->sidecars);
    return failures;
}

static size_t failures_size(const Mortise__V1__FailedConnection *kind)
{
    return protobuf_c_message_get_packed_size(&kind->base);
}

static void failures_forget(struct failures_sidecar *sidecar, size_t i)
{
    sidecar->bytes -= failures_size(sidecar->kinds[i]);
    pb_free(&sidecar->kinds[i]->base);
    sidecar->kinds[i] = sidecar->kinds[--sidecar->num];
}

static void failures_drop_sidecar(struct failures *failures, struct failures_sidecar *sidecar)
{
    while (sidecar->num > 0)
        failures_forget(sidecar, 0);
    list_del(&sidecar->link);
    (void)map_del(&failures->by_key, sidecar->key);
    failures->num--;
    mem_free(sidecar->key);
    mem_free(sidecar->kinds);
    mem_free(sidecar->subsystem);
    mem_free(sidecar->instance);
    mem_free(sidecar);
}

void failures_free(struct failures *failures)
{
    struct list *pos, *tmp;

    LIST_EACH (pos, tmp, &failures->sidecars)
        failures_drop_sidecar(failures, LIST_ITEM(pos, struct failures_sidecar, link));
    map_fini(&failures->by_key);
    mem_free(failures);
}

size_t failures_dropped(const struct failures *failures)
{
    return failures->num_dropped;
}

/* ---- taking ---- */

static struct failures_sidecar *failures_find(struct failures *failures,
                                              const struct failures_from *from)
{
    CLEANUP(mem_freep) char *key = mem_printf("%s/%s", from->subsystem, from->instance);
    struct failures_sidecar *sidecar = map_get(&failures->by_key, key);

    if (sidecar != NULL)
        return sidecar;
    if (failures->num == FAILURES_SIDECARS_MAX)
        failures_drop_sidecar(failures,
                              LIST_ITEM(failures->sidecars.next, struct failures_sidecar, link));
    sidecar = mem_zalloc(sizeof(*sidecar));
    list_init(&sidecar->link);
    sidecar->subsystem = mem_strdup(from->subsystem);
    sidecar->instance = mem_strdup(from->instance);
    sidecar->room = FAILURES_BURST;
    list_add_tail(&failures->sidecars, &sidecar->link);
    sidecar->key = mem_strdup(key);
    (void)map_put(&failures->by_key, key, sidecar);
    failures->num++;
    return sidecar;
}

static void failures_make_room(struct failures_sidecar *sidecar, int64_t now_ms)
{
    int64_t since_ms = now_ms - sidecar->heard_ms;
    uint64_t more;

    if (sidecar->heard_ms != 0 && since_ms <= 0) {
        if (since_ms < 0)
            sidecar->heard_ms = now_ms; /* the clock was set back */
        return;
    }
    if (since_ms > FAILURES_BURST * 1000 / FAILURES_PER_S)
        since_ms = FAILURES_BURST * 1000 / FAILURES_PER_S;
    more = (uint64_t)since_ms * FAILURES_PER_S / 1000;
    if (more == 0)
        return; /* what is left of a second counts on */
    sidecar->heard_ms = now_ms;
    sidecar->room =
        sidecar->room + more < FAILURES_BURST ? sidecar->room + (unsigned)more : FAILURES_BURST;
}

static size_t failures_oldest(const struct failures_sidecar *sidecar)
{
    size_t oldest = 0;

    for (size_t i = 1; i < sidecar->num; i++) {
        if (sidecar->kinds[i]->last_ms < sidecar->kinds[oldest]->last_ms)
            oldest = i;
    }
    return oldest;
}

/* True: a kind that was not known. */
static bool failures_keep(struct failures_sidecar *sidecar,
                          const Mortise__V1__FailedConnection *told, int64_t ahead_ms,
                          int64_t now_ms)
{
    Mortise__V1__FailedConnection *kind;
    bool known = false;

    for (size_t i = 0; i < sidecar->num && !known; i++) {
        known = sidecar->kinds[i]->id == told->id;
        if (known)
            failures_forget(sidecar, i);
    }
    kind = (Mortise__V1__FailedConnection *)pb_clone(&told->base);
    kind->first_ms -= ahead_ms;
    kind->last_ms -= ahead_ms;
    if (kind->last_ms > now_ms)
        kind->last_ms = now_ms;
    while (sidecar->num > 0 && (sidecar->num >= FAILURES_EACH_MAX ||
                                sidecar->bytes + failures_size(kind) > FAILURES_BYTES_MAX))
        failures_forget(sidecar, failures_oldest(sidecar));
    if (sidecar->kinds == NULL)
        sidecar->kinds = mem_array(FAILURES_EACH_MAX, sizeof(*sidecar->kinds));
    sidecar->bytes += failures_size(kind);
    sidecar->kinds[sidecar->num++] = kind;
    return !known;
}

static bool failures_is_sane(const Mortise__V1__FailedConnection *told)
{
    const int64_t limit = INT64_C(253402300800000); /* of times: the year 10000 */

    return told->id != 0 && told->n_keys <= FAILURES_KEYS_MAX && told->last_ms >= 0 &&
           told->last_ms < limit && told->first_ms >= 0 && told->first_ms < limit &&
           failures_size(told) <= FAILURES_ONE_MAX;
}

size_t failures_take(struct failures *failures, const struct failures_from *from,
                     Mortise__V1__FailedConnection *const *list, size_t num, int64_t now_ms)
{
    struct failures_sidecar *sidecar;
    size_t num_new = 0;

    if (num == 0)
        return 0;
    sidecar = failures_find(failures, from);
    list_del(&sidecar->link);
    list_add_tail(&failures->sidecars, &sidecar->link);
    failures_make_room(sidecar, now_ms);
    for (size_t i = 0; i < num; i++) {
        if (sidecar->room == 0 || !failures_is_sane(list[i])) {
            failures->num_dropped++;
            continue;
        }
        sidecar->room--;
        num_new += failures_keep(sidecar, list[i], from->ahead_ms, now_ms);
    }
    return num_new;
}

/* ---- giving ---- */

static size_t failures_insert(const Mortise__V1__FailedConnection *kind, size_t num, size_t max,
                              const Mortise__V1__FailedConnection **out)
{
    size_t at = num;

    while (at > 0 && out[at - 1]->last_ms < kind->last_ms)
        at--;
    if (at == max)
        return num;
    if (num == max)
        num--;
    memmove(&out[at + 1], &out[at], (num - at) * sizeof(*out));
    out[at] = kind;
    return num + 1;
}

size_t failures_of(const struct failures *failures, const char *subsystem, const char *direction,
                   const char *link, size_t max, const Mortise__V1__FailedConnection **out)
{
    struct list *pos, *tmp;
    size_t num = 0;

    LIST_EACH (pos, tmp, &failures->sidecars) {
        const struct failures_sidecar *sidecar = LIST_ITEM(pos, struct failures_sidecar, link);

        if (strcmp(sidecar->subsystem, subsystem) != 0)
            continue;
        for (size_t i = 0; i < sidecar->num; i++) {
            const Mortise__V1__FailedConnection *kind = sidecar->kinds[i];

            if (strcmp(kind->direction, direction) == 0 &&
                strcmp(kind->link, link != NULL ? link : "") == 0)
                num = failures_insert(kind, num, max, out);
        }
    }
    return num;
}
