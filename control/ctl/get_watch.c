/* mortisectl get --watch: a list, and then what changes of it. The control plane tells that
 * something has happened; what, is found by listing again and comparing with what has been told. So
 * nothing is told twice or left out, whatever was missed meanwhile. */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "control/ctl/get.h"
#include "control/ctl/show.h"
#include "control/msg.h"
#include "lib/base/backoff.h"
#include "lib/base/clock.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/rpc/pb.h"
#include "proto/mesh/operator.pb-c.h"

#define WATCH_SOON_MS 50    /* events come in swarms: one look for all of a swarm */
#define WATCH_AGAIN_MS 2000 /* what follows from an event without one of its own */
#define WATCH_SINCE_S 60    /* longer than it takes from a list to the stream behind it */
#define WATCH_TRY_MS 100
#define WATCH_TRY_MAX_MS 2000
#define WATCH_TIMER_MAX_S 86400

enum watch_state {
    WATCH_GOES_ON,
    WATCH_AWAY,  /* the control plane is: it is waited for */
    WATCH_ENDED, /* told */
};

enum watch_wait { WATCH_WAIT_NEXT, WATCH_WAIT_SOON, WATCH_WAIT_AGAIN };

struct watch {
    struct get *get;
    struct get_list shown; /* what has been told */
    struct table table;
    struct conn *stream; /* NULL: none is open */
    enum watch_wait wait;
    enum watch_state state;
};

/* ---- telling ---- */

static void watch_tell(struct watch *watch, const char *type, const struct get_list *list,
                       const ProtobufCMessage *item)
{
    if (watch->get->flags->output == CTL_JSON) {
        printf("{\"type\": \"%s\", \"object\": ", type);
        show_line(item);
        printf("}\n");
        return;
    }
    watch->table.first.text = type;
    get_add_row(watch->get, list, item, &watch->table);
}

static bool watch_is_same(const struct watch *watch, const ProtobufCMessage *a,
                          const ProtobufCMessage *b)
{
    ProtobufCMessage *settled[2];
    bool same;

    if (watch->get->kind.settle == NULL)
        return pb_equal(a, b);
    settled[0] = pb_clone(a);
    settled[1] = pb_clone(b);
    for (size_t i = 0; i < ARRAY_LEN(settled); i++)
        watch->get->kind.settle(settled[i]);
    same = pb_equal(settled[0], settled[1]);
    for (size_t i = 0; i < ARRAY_LEN(settled); i++)
        pb_free(settled[i]);
    return same;
}

/* The items by what tells each from the others; they stay the list's. */
static void watch_index(const struct watch *watch, const struct get_list *list, struct map *out)
{
    for (size_t i = 0; i < list->num; i++) {
        CLEANUP(mem_freep) char *key = watch->get->kind.key_of(list->items[i]);

        map_put(out, key, (void *)(uintptr_t)list->items[i]);
    }
}

static void watch_tell_changes(struct watch *watch, const struct get_list *now)
{
    struct map before = {0}, after = {0};

    watch_index(watch, &watch->shown, &before);
    watch_index(watch, now, &after);
    for (size_t i = 0; i < watch->shown.num; i++) {
        CLEANUP(mem_freep) char *key = watch->get->kind.key_of(watch->shown.items[i]);

        if (map_get(&after, key) == NULL)
            watch_tell(watch, "DELETED", &watch->shown, watch->shown.items[i]);
    }
    for (size_t i = 0; i < now->num; i++) {
        CLEANUP(mem_freep) char *key = watch->get->kind.key_of(now->items[i]);
        const ProtobufCMessage *old = map_get(&before, key);

        if (old == NULL)
            watch_tell(watch, "ADDED", now, now->items[i]);
        else if (!watch_is_same(watch, old, now->items[i]))
            watch_tell(watch, "MODIFIED", now, now->items[i]);
    }
    map_fini(&before);
    map_fini(&after);
}

/* ---- looking ---- */

static enum watch_state watch_end_of(const struct conn *conn)
{
    return conn_is_away(conn) ? WATCH_AWAY : WATCH_ENDED;
}

/* Lists, over a connection of its own: the stream's is in use, and the certificate may be another
 * one by now. */
static enum watch_state watch_look(struct watch *watch, bool first)
{
    struct conn *conn = conn_open(watch->get->flags);
    bool missing = false;
    struct get_list now;
    enum watch_state end;

    if (conn == NULL)
        return WATCH_ENDED;
    if (!first)
        conn_wait_for_it(conn);
    watch->get->now_s = clock_wall_s(&clock_system);
    if (!get_list(watch->get, conn, first ? &missing : NULL, &now)) {
        end = watch_end_of(conn);
        conn_close(conn);
        return end;
    }
    conn_close(conn);
    if (missing) {
        get_list_fini(&now);
        return WATCH_ENDED;
    }
    watch_tell_changes(watch, &now);
    if (watch->get->flags->output != CTL_JSON && (first || watch->table.num_cells > 0))
        table_print(&watch->table);
    get_list_fini(&watch->shown);
    watch->shown = now;
    /* Nobody reads on: main tells it. */
    return fflush(stdout) == 0 && ferror(stdout) == 0 ? WATCH_GOES_ON : WATCH_ENDED;
}

/* ---- the stream ---- */

static void watch_on_wake(void *arg);

/* When something changes next that is no event: in so many milliseconds. */
static uint64_t watch_next_ms(const struct watch *watch)
{
    int64_t now_s = clock_wall_s(&clock_system);
    int64_t wait_s = WATCH_TIMER_MAX_S;

    for (size_t i = 0; watch->get->kind.changes_at != NULL && i < watch->shown.num; i++) {
        int64_t left_s = watch->get->kind.changes_at(watch->shown.items[i]) - now_s;

        if (left_s >= 0 && left_s < wait_s)
            wait_s = left_s;
    }
    return ((uint64_t)wait_s + 1) * 1000;
}

static void watch_wait_for(struct watch *watch, enum watch_wait wait)
{
    uint64_t ms = wait == WATCH_WAIT_SOON    ? WATCH_SOON_MS
                  : wait == WATCH_WAIT_AGAIN ? WATCH_AGAIN_MS
                                             : watch_next_ms(watch);

    watch->wait = wait;
    conn_wake(watch->stream, ms, watch_on_wake, watch);
}

static void watch_on_wake(void *arg)
{
    struct watch *watch = arg;
    enum watch_wait next = watch->wait == WATCH_WAIT_SOON ? WATCH_WAIT_AGAIN : WATCH_WAIT_NEXT;

    watch->state = watch_look(watch, false);
    if (watch->state == WATCH_GOES_ON)
        watch_wait_for(watch, next);
    else
        conn_stop(watch->stream);
}

static void watch_on_event(void *arg, const ProtobufCMessage *msg)
{
    struct watch *watch = arg;
    const Mortise__V1__Event *event =
        MSG_AS_CONST(Mortise__V1__Event, mortise__v1__event__descriptor, msg);
    bool wanted = strcmp(event->kind, "missed") == 0;

    for (size_t i = 0; watch->get->kind.events[i] != NULL && !wanted; i++)
        wanted = strcmp(event->kind, watch->get->kind.events[i]) == 0;
    if (wanted && watch->wait != WATCH_WAIT_SOON)
        watch_wait_for(watch, WATCH_WAIT_SOON);
}

static enum watch_state watch_stream(struct watch *watch)
{
    Mortise__V1__WatchRequest request = MORTISE__V1__WATCH_REQUEST__INIT;
    enum watch_state end;

    request.since_s = WATCH_SINCE_S;
    watch->stream = conn_open(watch->get->flags);
    if (watch->stream == NULL)
        return WATCH_ENDED;
    conn_wait_for_it(watch->stream);
    watch->state = WATCH_GOES_ON;
    watch_wait_for(watch, WATCH_WAIT_NEXT);
    if (conn_stream(watch->stream, "OperatorService/Watch", &request.base,
                    &mortise__v1__event__descriptor, watch_on_event, watch))
        end = WATCH_AWAY; /* it ended well: another one begins where it ended */
    else
        end = watch->state != WATCH_GOES_ON ? watch->state : watch_end_of(watch->stream);
    conn_close(watch->stream);
    watch->stream = NULL;
    return end;
}

static enum watch_state watch_return(struct watch *watch)
{
    struct backoff backoff = {.base_ms = WATCH_TRY_MS, .max_ms = WATCH_TRY_MAX_MS};
    enum watch_state state;

    ctl_tell("the control plane is away: waiting for it");
    do {
        (void)poll(NULL, 0, (int)backoff_next(&backoff, random_u32()));
        state = watch_look(watch, false);
    } while (state == WATCH_AWAY);
    if (state == WATCH_GOES_ON)
        ctl_tell("it is back");
    return state;
}

int get_watch(struct get *get)
{
    struct watch watch = {.get = get, .table = get_table(get)};
    enum watch_state state;

    watch.table.first.head = "CHANGE";
    watch.table.widths[0] = strlen("MODIFIED"); /* what comes later lines up */
    state = watch_look(&watch, true);
    while (state == WATCH_GOES_ON) {
        state = watch_stream(&watch);
        if (state == WATCH_AWAY)
            state = watch_return(&watch);
    }
    get_list_fini(&watch.shown);
    return CTL_FAILED; /* it ends by a fault, or a signal */
}
