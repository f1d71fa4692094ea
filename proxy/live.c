#include "proxy/live.h"

#include "lib/base/log.h"
#include "proxy/conn.h"
#include "proxy/worker.h"

#define LIVE_LOOK_EVERY 16 /* connections; the clock is looked at between */

/* False: it was closed. `new`: it has just become open, and has no grace to ask for. */
static bool live_ask(struct live *live, struct conn *conn, bool new)
{
    uint32_t grace_ms = 0;
    err_t err = conn_judge(conn, live->now, &grace_ms);

    if (err_is_ok(err)) {
        conn_end_not(conn, E_PEER_REVOKED); /* it was lifted */
        return true;
    }
    if (grace_ms > 0 && !new) {
        live->given_grace += conn_end_within(conn, grace_ms, err);
        return true;
    }
    live->ended++;
    conn_blame(conn, live->now, conn->link, conn->peer, err);
    conn_close(conn, err, RELAY_MESH);
    return false;
}

static bool live_is_open(const struct conn *conn)
{
    return conn->state == CONN_OPEN || conn->state == CONN_DRAINING;
}

static void live_tell(struct live *live)
{
    if (live->ended + live->given_grace > 0)
        log_info("live", "rechecked", LOG_UINT("generation", live->now->generation),
                 LOG_UINT("worker", live->worker->index), LOG_UINT("connections", live->asked),
                 LOG_UINT("ended", live->ended), LOG_UINT("in_grace", live->given_grace),
                 LOG_UINT("us", clock_mono_us() - live->began_us));
    live->asked = live->ended = live->given_grace = 0;
}

/* What is still owed to a connection that was looked at last in round `asked`. */
static void live_look(struct live *live, struct conn *conn, uint64_t asked)
{
    bool judge = asked < live->judge_from, survey = asked < live->survey_from;

    live->asked += judge;
    if (!live_is_open(conn) || (judge && !live_ask(live, conn, false)))
        return;
    if (survey && live->surveys != NULL)
        survey_see(live->surveys, conn);
}

static void live_walk(void *arg);

static void live_begin(struct live *live)
{
    if (live->walking)
        return; /* it goes on, and over those again that it has passed */
    live->walking = true;
    live_walk(live);
}

static void live_walked(struct live *live)
{
    struct survey_part *part = live->surveys;

    live->walking = false;
    live_tell(live);
    if (part == NULL)
        return;
    live->surveys = *survey_part_next(part);
    survey_part_done(part);
    if (live->surveys == NULL)
        return;
    live->survey_from = ++live->round;
    live->walking = true;
    loop_defer(live->worker->loop, live_walk, live);
}

/* One turn. Who was looked at goes to the end of the list, with the number of this round, and so do
 * those that begin: the front is what is left. (Not by generations: a connection may begin with a
 * newer one before this worker has heard of it.) One that is in its handshake is asked when it
 * opens. */
static void live_walk(void *arg)
{
    struct live *live = arg;
    uint64_t until_us = clock_mono_us() + live->turn_us;
    struct list *all = &live->worker->live;

    for (unsigned i = 1; !list_empty(all); i++) {
        struct conn *conn = LIST_ITEM(all->next, struct conn, live);
        uint64_t asked = conn->asked;

        if (asked == live->round)
            break;
        if (i % LIVE_LOOK_EVERY == 0 && clock_mono_us() >= until_us) {
            loop_defer(live->worker->loop, live_walk, live);
            return;
        }
        conn->asked = live->round;
        list_del(&conn->live);
        list_add_tail(all, &conn->live);
        live_look(live, conn, asked);
    }
    live_walked(live);
}

void live_recheck(struct live *live, struct snapshot *now)
{
    if (live->now != NULL)
        snapshot_unref(live->now);
    live->now = snapshot_ref(now);
    live->asked = live->ended = live->given_grace = 0;
    live->began_us = clock_mono_us();
    live->judge_from = ++live->round;
    live_begin(live);
}

void live_survey(struct live *live, struct survey_part *part)
{
    struct survey_part **end = &live->surveys;

    while (*end != NULL)
        end = survey_part_next(*end);
    *end = part;
    if (live->surveys != part)
        return; /* its turn comes */
    live->survey_from = ++live->round;
    live_begin(live);
}

bool live_opened(struct live *live, struct conn *conn)
{
    if (live->now == NULL || conn->snapshot->generation >= live->now->generation)
        return true;
    return live_ask(live, conn, true);
}

void live_fini(struct live *live)
{
    if (live->now != NULL)
        snapshot_unref(live->now);
    live->now = NULL;
    while (live->surveys != NULL) {
        struct survey_part *part = live->surveys;

        live->surveys = *survey_part_next(part);
        survey_part_done(part);
    }
}
