#include "proxy/live.h"

#include "lib/base/log.h"
#include "proxy/authz.h"
#include "proxy/worker.h"

#define LIVE_LOOK_EVERY 16 /* connections; the clock is looked at between */

/* False: it was closed. `new`: it has just become open, and has no grace to ask for. */
static bool live_ask(struct live *live, struct conn *conn, bool new)
{
    uint32_t grace_ms = 0;
    err_t err = authz_live(live->now, conn->link, conn->peer, &grace_ms);

    if (err_is_ok(err)) {
        conn_end_not(conn, E_PEER_REVOKED); /* it was lifted */
        return true;
    }
    if (grace_ms > 0 && !new) {
        live->given_grace += conn_end_within(conn, grace_ms, err);
        return true;
    }
    live->ended++;
    conn_close(conn, err, RELAY_MESH);
    return false;
}

static bool live_is_open(const struct conn *conn)
{
    return conn->state == CONN_OPEN || conn->state == CONN_DRAINING;
}

static void live_tell(const struct live *live)
{
    if (live->ended + live->given_grace == 0)
        return;
    log_info("live", "rechecked", LOG_UINT("generation", live->now->generation),
             LOG_UINT("worker", live->worker->index), LOG_UINT("connections", live->asked),
             LOG_UINT("ended", live->ended), LOG_UINT("in_grace", live->given_grace),
             LOG_UINT("us", clock_mono_us() - live->began_us));
}

/* One turn. Who was asked goes to the end of the list, with the number of this round, and so do
 * those that begin: the front is what is left. (Not by generations: a connection may begin with a
 * newer one before this worker has heard of it.) One that is in its handshake is asked when it
 * opens. */
static void live_walk(void *arg)
{
    struct live *live = arg;
    uint64_t until_us = clock_mono_us() + LIVE_TURN_US;
    struct list *all = &live->worker->live;

    for (unsigned i = 1; !list_empty(all); i++) {
        struct conn *conn = LIST_ITEM(all->next, struct conn, live);

        if (conn->asked == live->round)
            break;
        if (i % LIVE_LOOK_EVERY == 0 && clock_mono_us() >= until_us) {
            loop_defer(live->worker->loop, live_walk, live);
            return;
        }
        conn->asked = live->round;
        list_del(&conn->live);
        list_add_tail(all, &conn->live);
        live->asked++;
        if (live_is_open(conn))
            (void)live_ask(live, conn, false);
    }
    live->walking = false;
    live_tell(live);
}

void live_recheck(struct live *live, struct snapshot *now)
{
    if (live->now != NULL)
        snapshot_unref(live->now);
    live->now = snapshot_ref(now);
    live->asked = live->ended = live->given_grace = 0;
    live->began_us = clock_mono_us();
    live->round++;
    if (live->walking)
        return; /* it goes on, by the newer one */
    live->walking = true;
    live_walk(live);
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
}
