#include "proxy/turns.h"

#include "lib/base/map.h"
#include "lib/base/mem.h"

/* One link of which somebody has or awaits a turn. */
struct turns_link {
    struct turns *turns;
    char *name;
    unsigned num;           /* that count */
    struct list waiting;    /* the first to come first */
    struct list connecting; /* that count, the one that began first is first */
    struct timer patience;  /* of the first of these, while others wait */
    bool waking;            /* turns_on_wake will come */
};

struct turns {
    struct loop *loop;
    unsigned max;
    struct map links;
};

struct turns *turns_new(struct loop *loop, unsigned max)
{
    struct turns *turns = mem_zalloc(sizeof(*turns));

    CHECK(max > 0);
    turns->loop = loop;
    turns->max = max;
    return turns;
}

void turns_free(struct turns *turns)
{
    CHECK(map_num(&turns->links) == 0);
    map_fini(&turns->links);
    mem_free(turns);
}

static struct turns_link *turns_link_of(struct turns *turns, const char *name)
{
    struct turns_link *link = map_get(&turns->links, name);

    if (link != NULL)
        return link;
    link = mem_zalloc(sizeof(*link));
    link->turns = turns;
    link->name = mem_strdup(name);
    list_init(&link->waiting);
    list_init(&link->connecting);
    (void)map_put(&turns->links, name, link);
    return link;
}

static void turns_drop_if_idle(struct turns_link *link)
{
    if (link->num > 0 || !list_empty(&link->waiting) || link->waking)
        return;
    timer_stop(link->turns->loop, &link->patience);
    (void)map_del(&link->turns->links, link->name);
    mem_free(link->name);
    mem_free(link);
}

static void turns_on_wake(void *arg);

static void turns_wake(struct turns_link *link)
{
    if (link->waking || list_empty(&link->waiting))
        return;
    /* Not from here: who goes may end at once and come back. */
    link->waking = true;
    loop_defer(link->turns->loop, turns_on_wake, link);
}

/* ---- patience ---- */

static void turns_watch(struct turns_link *link);

static void turns_stop_counting(struct turn *turn)
{
    CHECK(turn->of->num > 0);
    turn->of->num--;
    list_del(&turn->link);
    turn->of = NULL;
    turn->state = TURN_NONE;
}

static void turns_on_patience(void *arg)
{
    struct turns_link *link = arg;
    uint64_t now_ms = loop_now_ms(link->turns->loop);

    while (!list_empty(&link->connecting)) {
        struct turn *turn = LIST_ITEM(link->connecting.next, struct turn, link);

        if (now_ms - turn->since_ms < TURNS_PATIENCE_MS)
            break;
        turns_stop_counting(turn);
    }
    turns_watch(link);
    turns_wake(link);
    turns_drop_if_idle(link);
}

/* Somebody waits: those who connect have that long. */
static void turns_watch(struct turns_link *link)
{
    const struct turn *first = LIST_ITEM(link->connecting.next, struct turn, link);
    uint64_t now_ms = loop_now_ms(link->turns->loop), until_ms;

    if (list_empty(&link->waiting) || list_empty(&link->connecting)) {
        timer_stop(link->turns->loop, &link->patience);
        return;
    }
    until_ms = first->since_ms + TURNS_PATIENCE_MS;
    timer_start(link->turns->loop, &link->patience, until_ms > now_ms ? until_ms - now_ms : 0,
                turns_on_patience, link);
}

/* ---- turns ---- */

static void turns_go(struct turns_link *link, struct turn *turn)
{
    link->num++;
    turn->state = TURN_CONNECTING;
    turn->since_ms = loop_now_ms(link->turns->loop);
    list_add_tail(&link->connecting, &turn->link);
    turn->go(turn->arg);
}

static void turns_on_wake(void *arg)
{
    struct turns_link *link = arg;

    link->waking = false;
    while (link->num < link->turns->max && !list_empty(&link->waiting)) {
        struct turn *turn = LIST_ITEM(link->waiting.next, struct turn, link);

        list_del(&turn->link);
        link->waking = true; /* keeps the link while go may end the last one of it */
        turns_go(link, turn);
        link->waking = false;
    }
    turns_watch(link);
    turns_drop_if_idle(link);
}

void turns_take(struct turns *turns, const char *name, struct turn *turn, void (*go)(void *arg),
                void *arg)
{
    struct turns_link *link = turns_link_of(turns, name);

    CHECK(turn->state == TURN_NONE);
    *turn = (struct turn){.of = link, .go = go, .arg = arg};
    list_init(&turn->link);
    if (link->num < turns->max && list_empty(&link->waiting)) {
        turns_go(link, turn);
        return;
    }
    turn->state = TURN_WAITING;
    list_add_tail(&link->waiting, &turn->link);
    if (!timer_is_on(&link->patience))
        turns_watch(link);
}

void turns_connected(struct turn *turn)
{
    if (turn->state != TURN_CONNECTING)
        return; /* it took too long: it counts no more */
    list_del(&turn->link);
    turn->state = TURN_WORKING;
}

void turns_end(struct turn *turn)
{
    struct turns_link *link = turn->of;

    if (turn->state == TURN_NONE)
        return;
    if (turn->state == TURN_WAITING) {
        list_del(&turn->link);
        turn->of = NULL;
        turn->state = TURN_NONE;
    } else {
        turns_stop_counting(turn);
        turns_wake(link);
    }
    turns_drop_if_idle(link);
}
