#include "lib/net/loop.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lib/base/mem.h"

#define LOOP_EVENTS_MAX 256 /* of one epoll_wait; the others come with the next */

/* glibc raises its mmap threshold after the first large free and then keeps what a burst of stalled
 * connections had: 8.2 against 2.9 MB left behind, measured. */
#define LOOP_MMAP_THRESHOLD (64 << 10)

struct loop_deferred {
    void (*fn)(void *arg);
    void *arg;
};

/* A deadline in the heap. `at_ms` may lie before timer->at_ms: the timer was moved further away
 * since. */
struct loop_deadline {
    uint64_t at_ms;
    struct timer *timer;
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake; /* keeps libuv's loop alive, and lets any thread stop us */
    const struct clock *clock;
    int epoll_fd;
    bool uv_due;   /* libuv has something to register or to close */
    bool in_batch; /* inside loop_run_once */
    atomic_bool stop;
    uint64_t now_ms;
    struct loop_deadline *deadlines; /* binary heap, the earliest first */
    size_t num_deadlines, cap_deadlines;
    struct loop_deferred *deferred;
    size_t num_deferred, cap_deferred;
    struct list again;
    struct epoll_event events[LOOP_EVENTS_MAX]; /* the batch in hand; data.ptr NULL: closed since */
    int num_events, next_event;
    struct loop_bufs bufs;
};

static void loop_limit_heap(void)
{
    (void)mallopt(M_MMAP_THRESHOLD, LOOP_MMAP_THRESHOLD);
}

static void loop_on_wake(uv_async_t *async)
{
    (void)async; /* waking was all */
}

struct loop *loop_new(const struct clock *clock)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct loop *loop = mem_zalloc(sizeof(*loop));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = loop};

    (void)pthread_once(&once, loop_limit_heap);
    loop->clock = clock;
    loop->now_ms = clock_mono_ms(clock);
    list_init(&loop->again);
    atomic_init(&loop->stop, false);
    CHECK(uv_loop_init(&loop->uv) == 0);
    CHECK(uv_async_init(&loop->uv, &loop->wake, loop_on_wake) == 0);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    CHECK(loop->epoll_fd >= 0);
    CHECK(epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, uv_backend_fd(&loop->uv), &event) == 0);
    loop->uv_due = true;
    loop->bufs.rx = mem_alloc(LOOP_RX_SIZE);
    loop->bufs.px = mem_alloc(LOOP_PX_SIZE);
    loop->bufs.tx = mem_alloc(LOOP_TX_SIZE);
    loop->bufs.tx_cap = LOOP_TX_SIZE;
    return loop;
}

static void loop_close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void loop_call_deferred(struct loop *loop);

void loop_free(struct loop *loop)
{
    while (loop->num_deferred > 0)
        loop_call_deferred(loop);
    uv_walk(&loop->uv, loop_close_handle, NULL);
    while (uv_run(&loop->uv, UV_RUN_DEFAULT) != 0)
        continue;
    CHECK(uv_loop_close(&loop->uv) == 0);
    while (loop->num_deferred > 0)
        loop_call_deferred(loop);
    (void)close(loop->epoll_fd);
    mem_wipe(loop->bufs.rx, LOOP_RX_SIZE);
    mem_wipe(loop->bufs.px, LOOP_PX_SIZE);
    mem_free(loop->bufs.rx);
    mem_free(loop->bufs.px);
    mem_free(loop->bufs.tx);
    mem_free(loop->deadlines);
    mem_free(loop->deferred);
    mem_free(loop);
}

uv_loop_t *loop_uv(struct loop *loop)
{
    loop->uv_due = true;
    return &loop->uv;
}

const struct clock *loop_clock(const struct loop *loop)
{
    return loop->clock;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return loop->in_batch ? loop->now_ms : clock_mono_ms(loop->clock);
}

struct loop_bufs *loop_bufs(struct loop *loop)
{
    return &loop->bufs;
}

void loop_stop(struct loop *loop)
{
    atomic_store(&loop->stop, true);
    (void)uv_async_send(&loop->wake);
}

void loop_run(struct loop *loop)
{
    while (!atomic_exchange(&loop->stop, false))
        loop_run_once(loop, true);
}

/* Deferred calls. */

void loop_defer(struct loop *loop, void (*fn)(void *arg), void *arg)
{
    if (loop->num_deferred == loop->cap_deferred) {
        loop->cap_deferred = loop->cap_deferred != 0 ? loop->cap_deferred * 2 : 64;
        loop->deferred =
            mem_realloc(loop->deferred, loop->cap_deferred * sizeof(loop->deferred[0]));
    }
    loop->deferred[loop->num_deferred++] = (struct loop_deferred){fn, arg};
}

static void loop_call_deferred(struct loop *loop)
{
    size_t num = loop->num_deferred;

    /* By index: fn may defer more and so move the array. */
    for (size_t i = 0; i < num; i++) {
        struct loop_deferred deferred = loop->deferred[i];

        deferred.fn(deferred.arg);
    }
    loop->num_deferred -= num;
    for (size_t i = 0; i < loop->num_deferred; i++)
        loop->deferred[i] = loop->deferred[num + i];
}

/* Deadlines. */

static void loop_deadline_put(struct loop *loop, size_t slot, struct loop_deadline deadline)
{
    loop->deadlines[slot] = deadline;
    deadline.timer->slot = slot + 1;
}

static void loop_deadline_up(struct loop *loop, size_t slot, struct loop_deadline deadline)
{
    while (slot > 0 && deadline.at_ms < loop->deadlines[(slot - 1) / 2].at_ms) {
        loop_deadline_put(loop, slot, loop->deadlines[(slot - 1) / 2]);
        slot = (slot - 1) / 2;
    }
    loop_deadline_put(loop, slot, deadline);
}

static void loop_deadline_down(struct loop *loop, size_t slot, struct loop_deadline deadline)
{
    for (;;) {
        size_t child = slot * 2 + 1;

        if (child + 1 < loop->num_deadlines &&
            loop->deadlines[child + 1].at_ms < loop->deadlines[child].at_ms)
            child++;
        if (child >= loop->num_deadlines || loop->deadlines[child].at_ms >= deadline.at_ms)
            break;
        loop_deadline_put(loop, slot, loop->deadlines[child]);
        slot = child;
    }
    loop_deadline_put(loop, slot, deadline);
}

void timer_start(struct loop *loop, struct timer *timer, uint64_t ms, void (*fn)(void *arg),
                 void *arg)
{
    uint64_t now_ms = loop_now_ms(loop);

    timer->fn = fn;
    timer->arg = arg;
    timer->at_ms = ms > UINT64_MAX - now_ms ? UINT64_MAX : now_ms + ms;
    if (timer->slot == 0) {
        if (loop->num_deadlines == loop->cap_deadlines) {
            loop->cap_deadlines = loop->cap_deadlines != 0 ? loop->cap_deadlines * 2 : 64;
            loop->deadlines =
                mem_realloc(loop->deadlines, loop->cap_deadlines * sizeof(loop->deadlines[0]));
        }
        loop_deadline_up(loop, loop->num_deadlines++, (struct loop_deadline){timer->at_ms, timer});
    } else if (timer->at_ms < loop->deadlines[timer->slot - 1].at_ms) {
        loop_deadline_up(loop, timer->slot - 1, (struct loop_deadline){timer->at_ms, timer});
    }
}

void timer_stop(struct loop *loop, struct timer *timer)
{
    size_t slot = timer->slot - 1;
    struct loop_deadline last;

    if (timer->slot == 0)
        return;
    CHECK(slot < loop->num_deadlines && loop->deadlines[slot].timer == timer);
    timer->slot = 0;
    last = loop->deadlines[--loop->num_deadlines];
    if (slot == loop->num_deadlines)
        return;
    if (slot > 0 && last.at_ms < loop->deadlines[(slot - 1) / 2].at_ms)
        loop_deadline_up(loop, slot, last);
    else
        loop_deadline_down(loop, slot, last);
}

static void loop_fire_timers(struct loop *loop)
{
    /* A callback that arms itself for at once again must not hold the loop. */
    size_t budget = loop->num_deadlines;

    while (budget > 0 && loop->num_deadlines > 0 && loop->deadlines[0].at_ms <= loop->now_ms) {
        struct timer *timer = loop->deadlines[0].timer;

        if (timer->at_ms > loop->deadlines[0].at_ms) {
            loop_deadline_down(loop, 0, (struct loop_deadline){timer->at_ms, timer});
            continue;
        }
        budget--;
        timer_stop(loop, timer);
        timer->fn(timer->arg);
    }
}

/* Descriptors. */

static err_t poll_open_err(int value)
{
    if (value == ENOSPC) /* /proc/sys/fs/epoll/max_user_watches */
        return FAIL(FD_EXHAUSTED, value);
    return value == ENOMEM ? FAIL(NO_MEMORY, value) : FAIL(IO, value);
}

err_t poll_open(struct loop *loop, struct poll *poll, int fd, void (*fn)(void *arg, unsigned ready),
                void *arg)
{
    struct epoll_event event = {
        .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET,
        .data.ptr = poll,
    };

    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return poll_open_err(errno);
    poll->fd = fd;
    poll->ready = 0;
    poll->fn = fn;
    poll->arg = arg;
    list_init(&poll->again);
    return OK;
}

void poll_again(struct loop *loop, struct poll *poll)
{
    if (poll->fd >= 0 && list_empty(&poll->again))
        list_add_tail(&loop->again, &poll->again);
}

/* Takes `poll` out of everything that could still call it. Returns its descriptor, -1 if closed. */
static int poll_forget(struct loop *loop, struct poll *poll)
{
    int fd = poll->fd;

    if (fd < 0)
        return -1;
    poll->fd = -1;
    poll->ready = 0;
    list_del(&poll->again);
    for (int i = loop->next_event; i < loop->num_events; i++)
        if (loop->events[i].data.ptr == poll)
            loop->events[i].data.ptr = NULL;
    return fd;
}

void poll_close(struct loop *loop, struct poll *poll)
{
    int fd = poll_forget(loop, poll);

    if (fd >= 0)
        (void)close(fd); /* epoll forgets it by itself */
}

int poll_release(struct loop *loop, struct poll *poll)
{
    int fd = poll_forget(loop, poll);

    if (fd >= 0)
        (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    return fd;
}

static unsigned loop_ready_of(uint32_t events)
{
    unsigned ready = 0;

    if ((events & EPOLLIN) != 0)
        ready |= POLL_READABLE;
    if ((events & EPOLLOUT) != 0)
        ready |= POLL_WRITABLE;
    if ((events & EPOLLERR) != 0)
        ready |= POLL_FAILED;
    if ((events & (EPOLLRDHUP | EPOLLHUP)) != 0)
        ready |= POLL_HANGUP;
    if ((events & EPOLLPRI) != 0)
        ready |= POLL_URGENT;
    return ready;
}

static void loop_call_again(struct loop *loop)
{
    struct list now;

    if (list_empty(&loop->again))
        return;
    /* What asks again from here on has its turn in the next round. */
    list_init(&now);
    list_add_tail(&loop->again, &now);
    list_del(&loop->again);
    while (!list_empty(&now)) {
        struct poll *poll = LIST_ITEM(now.next, struct poll, again);

        list_del(&poll->again);
        poll->fn(poll->arg, poll->ready);
    }
}

/* libuv's next deadline, -1 for none, 0 when it wants to run. */
static int loop_uv_timeout_ms(struct loop *loop)
{
    int timeout_ms = uv_backend_timeout(&loop->uv);

    if (timeout_ms <= 0)
        return timeout_ms;
    uv_update_time(&loop->uv);
    return uv_backend_timeout(&loop->uv);
}

static int loop_timeout_ms(struct loop *loop, bool block)
{
    int timeout_ms;
    uint64_t now_ms;

    if (!block || loop->uv_due || loop->num_deferred > 0 || !list_empty(&loop->again) ||
        atomic_load_explicit(&loop->stop, memory_order_relaxed))
        return 0;
    timeout_ms = loop_uv_timeout_ms(loop);
    if (timeout_ms == 0 || loop->num_deadlines == 0)
        return timeout_ms;
    now_ms = clock_mono_ms(loop->clock);
    if (loop->deadlines[0].at_ms <= now_ms)
        return 0;
    if (loop->deadlines[0].at_ms - now_ms < (uint64_t)(timeout_ms < 0 ? INT_MAX : timeout_ms))
        timeout_ms = (int)(loop->deadlines[0].at_ms - now_ms);
    return timeout_ms;
}

void loop_run_once(struct loop *loop, bool block)
{
    int timeout_ms = loop_timeout_ms(loop, block);
    bool uv_ready = loop->uv_due;

    CHECK(!loop->in_batch);
    loop->num_events = epoll_wait(loop->epoll_fd, loop->events, LOOP_EVENTS_MAX, timeout_ms);
    loop->now_ms = clock_mono_ms(loop->clock);
    loop->in_batch = true;
    for (loop->next_event = 0; loop->next_event < loop->num_events;) {
        struct epoll_event *event = &loop->events[loop->next_event++];
        struct poll *poll = event->data.ptr;

        if (event->data.ptr == loop) {
            uv_ready = true;
        } else if (poll != NULL) {
            poll->ready |= loop_ready_of(event->events);
            poll->fn(poll->arg, poll->ready);
        }
    }
    loop->next_event = loop->num_events = 0;
    if (uv_ready || loop->uv_due || loop_uv_timeout_ms(loop) == 0) {
        loop->uv_due = false;
        (void)uv_run(&loop->uv, UV_RUN_NOWAIT);
    }
    loop_fire_timers(loop);
    /* Before the deferred calls: what is read now may still join output that waits for them. */
    loop_call_again(loop);
    loop_call_deferred(loop);
    loop->in_batch = false;
}
