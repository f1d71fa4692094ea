#include "proxy/worker.h"

#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "proxy/conn.h"
#include "proxy/inbound.h"
#include "proxy/outbound.h"
#include "proxy/ports.h"

/* Every mail says by itself what is to be done with it; `run` owns it. */
struct worker_mail {
    struct mail mail;
    void (*run)(struct worker *worker, struct worker_mail *mail);
    void (*drop)(struct worker_mail *mail);
};

static void worker_on_mail(void *arg, struct mail *mail)
{
    struct worker_mail *own = CONTAINER_OF(mail, struct worker_mail, mail);

    own->run(arg, own);
}

static void worker_drop_mail(struct mail *mail)
{
    struct worker_mail *own = CONTAINER_OF(mail, struct worker_mail, mail);

    own->drop(own);
}

/* ---- accepted connections ---- */

struct worker_accept_mail {
    struct worker_mail mail;
    struct worker_accepted accepted;
};

static unsigned worker_load(const struct worker *worker)
{
    return atomic_load_explicit(&worker->load, memory_order_relaxed);
}

static void worker_take(struct worker *worker, const struct worker_accepted *accepted)
{
    unsigned load = worker_load(worker);

    if (load > atomic_load_explicit(&worker->crowd, memory_order_relaxed))
        atomic_store_explicit(&worker->crowd, load, memory_order_relaxed);
    if (accepted->captured ||
        (accepted->link != NULL && accepted->link->direction == DIRECTION_OUTBOUND))
        outbound_start(worker, accepted);
    else
        inbound_start(worker, accepted);
    snapshot_unref(accepted->snapshot);
}

static void worker_run_accept(struct worker *worker, struct worker_mail *mail)
{
    struct worker_accept_mail *own = CONTAINER_OF(mail, struct worker_accept_mail, mail);

    worker_take(worker, &own->accepted);
    mem_free(own);
}

static void worker_drop_accept(struct worker_mail *mail)
{
    struct worker_accept_mail *own = CONTAINER_OF(mail, struct worker_accept_mail, mail);

    (void)close(own->accepted.fd);
    snapshot_unref(own->accepted.snapshot);
    mem_free(own);
}

void worker_give(struct worker *worker, const struct worker_accepted *accepted)
{
    struct worker_accept_mail *own;

    atomic_fetch_add_explicit(&worker->load, 1, memory_order_relaxed);
    if (worker->index == 0) { /* the acceptor itself */
        worker_take(worker, accepted);
        return;
    }
    own = mem_zalloc(sizeof(*own));
    own->mail.run = worker_run_accept;
    own->mail.drop = worker_drop_accept;
    own->accepted = *accepted;
    mailbox_post(worker->mailbox, &own->mail.mail);
}

struct worker *worker_least_loaded(const struct worker_shared *shared)
{
    struct worker *best = shared->workers[0];
    unsigned least = worker_load(best);

    for (size_t i = 1; i < shared->num_workers; i++) {
        unsigned load = worker_load(shared->workers[i]);

        if (load < least) {
            best = shared->workers[i];
            least = load;
        }
    }
    return best;
}

void worker_conn_ended(struct worker *worker)
{
    atomic_fetch_sub_explicit(&worker->load, 1, memory_order_relaxed);
}

/* ---- calls ---- */

struct worker_call_mail {
    struct worker_mail mail;
    void (*fn)(struct worker *worker, void *arg);
    void *arg;
    uv_sem_t done;
};

static void worker_run_call(struct worker *worker, struct worker_mail *mail)
{
    struct worker_call_mail *own = CONTAINER_OF(mail, struct worker_call_mail, mail);

    own->fn(worker, own->arg);
    uv_sem_post(&own->done); /* the last touch: it lives on the caller's stack */
}

static void worker_drop_call(struct worker_mail *mail)
{
    struct worker_call_mail *own = CONTAINER_OF(mail, struct worker_call_mail, mail);

    uv_sem_post(&own->done);
}

void worker_call(struct worker *worker, void (*fn)(struct worker *worker, void *arg), void *arg)
{
    struct worker_call_mail own = {
        .mail = {.run = worker_run_call, .drop = worker_drop_call},
        .fn = fn,
        .arg = arg,
    };

    CHECK(uv_sem_init(&own.done, 0) == 0);
    mailbox_post(worker->mailbox, &own.mail.mail);
    uv_sem_wait(&own.done);
    uv_sem_destroy(&own.done);
}

/* ---- duties ---- */

static void worker_on_probe(void *arg)
{
    (void)arg; /* stopped before it could come */
}

/* A deadline at the end of time is the last one of the heap: its place is their number. */
size_t worker_num_timers(struct worker *worker)
{
    struct timer probe = {.slot = 0};
    size_t num;

    timer_start(worker->loop, &probe, UINT64_MAX, worker_on_probe, NULL);
    num = probe.slot - 1;
    timer_stop(worker->loop, &probe);
    return num;
}

struct worker_tick_mail {
    struct worker_mail mail;
    uint64_t posted_us;
};

static void worker_run_tick(struct worker *worker, struct worker_mail *mail)
{
    struct worker_tick_mail *own = CONTAINER_OF(mail, struct worker_tick_mail, mail);
    struct list *pos, *tmp;

    stats_lag(worker->shared->stats, true, clock_mono_us() - own->posted_us);
    mem_free(own);
    LIST_EACH (pos, tmp, &worker->live)
        conn_tell_bytes(LIST_ITEM(pos, struct conn, live));
}

static void worker_drop_tick(struct worker_mail *mail)
{
    mem_free(CONTAINER_OF(mail, struct worker_tick_mail, mail));
}

void worker_tick(struct worker *worker)
{
    struct worker_tick_mail *own = mem_zalloc(sizeof(*own));

    own->mail.run = worker_run_tick;
    own->mail.drop = worker_drop_tick;
    own->posted_us = clock_mono_us();
    mailbox_post(worker->mailbox, &own->mail.mail);
}

struct worker_recheck_mail {
    struct worker_mail mail;
    struct snapshot *now; /* a reference */
};

static void worker_drop_recheck(struct worker_mail *mail)
{
    struct worker_recheck_mail *own = CONTAINER_OF(mail, struct worker_recheck_mail, mail);

    snapshot_unref(own->now);
    mem_free(own);
}

static void worker_run_recheck(struct worker *worker, struct worker_mail *mail)
{
    struct worker_recheck_mail *own = CONTAINER_OF(mail, struct worker_recheck_mail, mail);

    live_recheck(&worker->live_check, own->now);
    worker_drop_recheck(mail);
}

void worker_recheck(struct worker *worker, struct snapshot *now)
{
    struct worker_recheck_mail *own = mem_zalloc(sizeof(*own));

    own->mail.run = worker_run_recheck;
    own->mail.drop = worker_drop_recheck;
    own->now = snapshot_ref(now);
    mailbox_post(worker->mailbox, &own->mail.mail);
}

struct worker_survey_mail {
    struct worker_mail mail;
    struct survey_part *part;
};

static void worker_drop_survey(struct worker_mail *mail)
{
    struct worker_survey_mail *own = CONTAINER_OF(mail, struct worker_survey_mail, mail);

    survey_part_done(own->part);
    mem_free(own);
}

static void worker_run_survey(struct worker *worker, struct worker_mail *mail)
{
    struct worker_survey_mail *own = CONTAINER_OF(mail, struct worker_survey_mail, mail);

    live_survey(&worker->live_check, own->part);
    mem_free(own);
}

void worker_survey(struct worker *worker, struct survey_part *part)
{
    struct worker_survey_mail *own = mem_zalloc(sizeof(*own));

    own->mail.run = worker_run_survey;
    own->mail.drop = worker_drop_survey;
    own->part = part;
    mailbox_post(worker->mailbox, &own->mail.mail);
}

static void worker_begin_drain(struct worker *worker, void *arg)
{
    struct list *pos, *tmp;

    (void)arg;
    worker->draining = true;
    if (worker->ports != NULL)
        ports_close(worker->ports);
    LIST_EACH (pos, tmp, &worker->live)
        conn_drain(LIST_ITEM(pos, struct conn, live));
}

void worker_drain(struct worker *worker)
{
    worker_call(worker, worker_begin_drain, NULL);
}

static void worker_close_all(struct worker *worker, void *arg)
{
    (void)arg;
    worker->draining = true;
    if (worker->ports != NULL)
        ports_close(worker->ports);
    while (!list_empty(&worker->live))
        conn_close(LIST_ITEM(worker->live.next, struct conn, live), FAIL(CANCELLED, 0), RELAY_APP);
    loop_stop(worker->loop);
}

/* ---- life cycle ---- */

static unsigned worker_turns(const struct worker_shared *shared)
{
    unsigned share = (unsigned)(TURNS_MAX / shared->num_workers);

    return share > 0 ? share : 1;
}

struct worker *worker_new(struct worker_shared *shared, unsigned index)
{
    struct worker *worker = mem_zalloc(sizeof(*worker));

    worker->index = index;
    worker->shared = shared;
    worker->loop = loop_new(shared->clock);
    worker->mailbox = mailbox_new(worker->loop, worker_on_mail, worker);
    worker->cache = verify_cache_new(WORKER_VERIFY_CACHE);
    worker->names = names_new(worker->loop);
    worker->turns = turns_new(worker->loop, worker_turns(shared));
    list_init(&worker->live);
    worker->live_check.worker = worker;
    worker->live_check.turn_us = LIVE_TURN_US;
    if (index == 0)
        worker->ports = ports_new(worker);
    return worker;
}

static void worker_thread(void *arg)
{
    struct worker *worker = arg;

    loop_run(worker->loop);
}

void worker_run(struct worker *worker)
{
    CHECK(uv_thread_create(&worker->thread, worker_thread, worker) == 0);
}

void worker_free(struct worker *worker)
{
    worker_call(worker, worker_close_all, NULL);
    CHECK(uv_thread_join(&worker->thread) == 0);

    /* The thread is gone: what is left is ours. */
    if (worker->ports != NULL)
        ports_free(worker->ports);
    mailbox_close(worker->mailbox, worker_drop_mail);
    names_free(worker->names);
    live_fini(&worker->live_check);
    loop_free(worker->loop);
    turns_free(worker->turns); /* what was deferred may have touched it */
    verify_cache_free(worker->cache);
    mem_free(worker);
}
