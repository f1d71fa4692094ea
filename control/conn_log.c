#include "control/conn_log.h"

#include <string.h>

#include "control/conn_log_line.h"
#include "control/mesh.h"
#include "lib/base/log.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"

#define CONN_LOG_EARLY_MS 20               /* timers and the network are no clocks */
#define CONN_LOG_DEBT_US UINT64_C(2000000) /* what all may owe together */
#define CONN_LOG_KEY_LEN 16
#define CONN_LOG_TIME_MAX INT64_C(253402300800000) /* the year 10000 */

/* A sidecar that has told something; or all of a subsystem. */
struct conn_log_teller {
    uint64_t number;  /* of its last batch that was taken */
    uint64_t next_ms; /* when the next may come */
    uint64_t due_us;  /* of a subsystem: when what it has told is paid for */
};

struct conn_log {
    struct conn_log_store *store;
    struct meters *meters;
    uint64_t per_s;
    struct map tellers;  /* by "subsystem/instance", and "subsystem/"; owned */
    uint64_t all_due_us; /* as of a subsystem, of all */
    uint64_t unwritten;  /* since the last line that could be written */
    bool failing;        /* told */
};

struct conn_log *conn_log_new(struct conn_log_store *store, struct meters *meters, uint64_t per_s)
{
    struct conn_log *log = mem_zalloc(sizeof(*log));

    log->store = store;
    log->meters = meters;
    log->per_s = per_s > 0 ? per_s : 1;
    return log;
}

static void conn_log_forget(struct conn_log *log)
{
    const char *key;
    void *teller;

    for (size_t i = 0; map_next(&log->tellers, &i, &key, &teller);)
        mem_free(teller);
    map_fini(&log->tellers);
    log->tellers = (struct map){0};
}

void conn_log_free(struct conn_log *log)
{
    if (log == NULL)
        return;
    conn_log_forget(log);
    mem_free(log);
}

struct conn_log_store *conn_log_kept(struct conn_log *log)
{
    return log->store;
}

/* ---- an entry ---- */

static bool conn_log_is_printable(const char *text)
{
    size_t len = 0;

    for (; text[len] != '\0'; len++) {
        if (len == CONN_LOG_TEXT_MAX || text[len] < ' ' || text[len] > '~')
            return false;
    }
    return true;
}

static bool conn_log_is_key(const char *text)
{
    size_t len = strspn(text, "0123456789abcdef");

    return text[len] == '\0' && (len == 0 || len == CONN_LOG_KEY_LEN);
}

static bool conn_log_is_sane(const Mortise__V1__AccessLogEntry *entry)
{
    const ProtobufCMessageDescriptor *desc = &mortise__v1__access_log_entry__descriptor;

    for (unsigned i = 0; i < desc->n_fields; i++) {
        const void *at = (const uint8_t *)entry + desc->fields[i].offset;

        if (desc->fields[i].type == PROTOBUF_C_TYPE_STRING &&
            !conn_log_is_printable(*(char *const *)at))
            return false;
        if (desc->fields[i].type == PROTOBUF_C_TYPE_UINT64 && *(const uint64_t *)at > INT64_MAX)
            return false;
    }
    return entry->at_ms >= 0 && entry->at_ms < CONN_LOG_TIME_MAX && conn_log_is_key(entry->key) &&
           (strcmp(entry->direction, "inbound") == 0 || strcmp(entry->direction, "outbound") == 0);
}

/* A link that there is not any more may have had it at that end. */
static bool conn_log_is_own(const Mortise__V1__AccessLogEntry *entry,
                            const struct conn_log_from *from)
{
    const Mortise__V1__Link *link =
        entry->link[0] != '\0' ? mesh_link(from->mesh, entry->link) : NULL;
    bool outbound = strcmp(entry->direction, "outbound") == 0;

    return link == NULL || strcmp(outbound ? link->client : link->server, from->subsystem) == 0;
}

static void conn_log_stamp(const struct conn_log_from *from, Mortise__V1__AccessLogEntry *entry)
{
    /* protobuf-c has no const: all of it is only read. */
    entry->subsystem = (char *)(uintptr_t)from->subsystem;
    entry->id = (char *)(uintptr_t)from->id;
    entry->instance = (char *)(uintptr_t)from->instance;
    entry->dropped = 0;
    entry->at_ms -= from->ahead_ms;
    if (entry->at_ms > from->now_ms || entry->at_ms <= 0)
        entry->at_ms = from->now_ms;
}

static void conn_log_count(struct conn_log *log, enum meters_access what, uint64_t num)
{
    if (num > 0)
        meters_access(log->meters, what, num);
}

/* ---- a batch ---- */

/* Of a sidecar, or (NULL) of the control plane itself, so many are missing. */
static err_t conn_log_missing(const struct conn_log_from *from, bool own, uint64_t num,
                              struct buf *out)
{
    Mortise__V1__AccessLogEntry entry = MORTISE__V1__ACCESS_LOG_ENTRY__INIT;

    if (num == 0)
        return OK;
    if (!own)
        conn_log_stamp(from, &entry);
    entry.at_ms = from->now_ms;
    entry.dropped = num;
    return conn_log_line(&entry, out);
}

/* What is right of it, as lines; how many. */
static size_t conn_log_judge(struct conn_log *log, const struct conn_log_from *from,
                             const Mortise__V1__AccessLogBatch *batch, struct buf *out)
{
    size_t num = batch->n_entries < CONN_LOG_BATCH_MAX ? batch->n_entries : CONN_LOG_BATCH_MAX;
    uint64_t kept = 0, malformed = batch->n_entries - num, foreign = 0;

    for (size_t i = 0; i < num; i++) {
        Mortise__V1__AccessLogEntry entry = *batch->entries[i];

        if (!conn_log_is_sane(&entry)) {
            malformed++;
            continue;
        }
        if (!conn_log_is_own(&entry, from)) {
            foreign++;
            continue;
        }
        conn_log_stamp(from, &entry);
        CHECK(err_is_ok(conn_log_line(&entry, out))); /* all of it is bounded */
        kept++;
    }
    conn_log_count(log, METERS_ACCESS_MALFORMED, malformed);
    conn_log_count(log, METERS_ACCESS_FOREIGN, foreign);
    if (malformed + foreign > 0)
        log_limited(LOG_WARN, "access", "entries_refused",
                    (const struct log_field[]){
                        LOG_STR("id", from->id), LOG_STR("instance", from->instance),
                        LOG_UINT("malformed", malformed), LOG_UINT("foreign", foreign)},
                    4);
    return kept;
}

static void conn_log_told(struct conn_log *log, err_t err)
{
    if (!err_is_ok(err) && !log->failing)
        log_error("access", "not_written", LOG_ERR("error", err),
                  LOG_STR("reason", strerror(err.sub)));
    if (err_is_ok(err) && log->failing)
        log_info("access", "written_again", LOG_UINT("lost", log->unwritten));
    log->failing = !err_is_ok(err);
}

static void conn_log_keep(struct conn_log *log, const struct conn_log_from *from,
                          const Mortise__V1__AccessLogBatch *batch)
{
    CLEANUP(buf_fini) struct buf lines = {.data = NULL};
    uint64_t missing = batch->dropped < INT32_MAX ? batch->dropped : INT32_MAX;
    size_t num;
    err_t err;

    CHECK(err_is_ok(conn_log_missing(from, true, log->unwritten, &lines)) &&
          err_is_ok(conn_log_missing(from, false, missing, &lines)));
    num = conn_log_judge(log, from, batch, &lines);
    conn_log_count(log, METERS_ACCESS_MISSING, missing);
    if (buf_size(&lines) == 0)
        return;
    err = conn_log_append(log->store, buf_view(&lines));
    conn_log_told(log, err);
    log->unwritten = err_is_ok(err) ? 0 : log->unwritten + num;
    conn_log_count(log, err_is_ok(err) ? METERS_ACCESS_KEPT : METERS_ACCESS_UNWRITABLE, num);
}

static struct conn_log_teller *conn_log_find_teller(struct conn_log *log, const char *subsystem,
                                                    const char *instance)
{
    CLEANUP(mem_freep) char *key = mem_printf("%s/%s", subsystem, instance);
    struct conn_log_teller *teller = map_get(&log->tellers, key);

    if (teller != NULL)
        return teller;
    teller = mem_zalloc(sizeof(*teller));
    (void)map_put(&log->tellers, key, teller);
    return teller;
}

static uint64_t conn_log_owes_ms(uint64_t due_us, uint64_t now_ms)
{
    uint64_t patient_us = now_ms * 1000 + CONN_LOG_DEBT_US;

    return due_us > patient_us ? (due_us - patient_us) / 1000 + 1 : 0;
}

static void conn_log_charge(uint64_t *due_us, uint64_t now_ms, uint64_t cost, uint64_t per_s)
{
    if (*due_us < now_ms * 1000)
        *due_us = now_ms * 1000;
    *due_us += cost * 1000000 / per_s;
}

/* How long the batch has to wait: for what the sidecar itself has told, for what its subsystem has,
 * and for what all have. */
static uint64_t conn_log_wait_ms(const struct conn_log *log, const struct conn_log_teller *teller,
                                 const struct conn_log_teller *subsystem, uint64_t now_ms)
{
    uint64_t own_ms = conn_log_owes_ms(subsystem->due_us, now_ms);
    uint64_t all_ms = conn_log_owes_ms(log->all_due_us, now_ms);

    if (now_ms + CONN_LOG_EARLY_MS < teller->next_ms)
        return teller->next_ms - now_ms;
    return own_ms > all_ms ? own_ms : all_ms;
}

void conn_log_take(struct conn_log *log, const struct conn_log_from *from,
                   const Mortise__V1__AccessLogBatch *batch, Mortise__V1__AccessLogAck *out)
{
    struct conn_log_teller *teller, *subsystem;
    uint64_t cost = batch->n_entries + 1, now_ms = from->mono_ms, wait_ms;

    /* All begin anew: batches that come again then are kept twice. */
    if (map_num(&log->tellers) >= CONN_LOG_TELLERS_MAX)
        conn_log_forget(log);
    teller = conn_log_find_teller(log, from->subsystem, from->instance);
    subsystem = conn_log_find_teller(log, from->subsystem, "");
    wait_ms = conn_log_wait_ms(log, teller, subsystem, now_ms);
    if (wait_ms == 0) {
        if (batch->number != teller->number)
            conn_log_keep(log, from, batch);
        teller->number = batch->number;
        wait_ms = (cost * 1000 + log->per_s - 1) / log->per_s;
        teller->next_ms = now_ms + wait_ms;
        conn_log_charge(&subsystem->due_us, now_ms, cost, CONN_LOG_ONE_PER_S);
        conn_log_charge(&log->all_due_us, now_ms, cost, CONN_LOG_ALL_PER_S);
    } else {
        conn_log_count(log, METERS_ACCESS_PUT_OFF, batch->n_entries);
    }
    out->number = teller->number;
    out->wait_ms = (uint32_t)(wait_ms < UINT32_MAX ? wait_ms : UINT32_MAX);
}
