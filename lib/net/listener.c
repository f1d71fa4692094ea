#include "lib/net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"

#define LISTENER_BACKLOG \
    4096 /* a burst; the kernel cuts it to net.core.somaxconn, by default the same */
#define LISTENER_BATCH 64    /* accepted an event; then the others have their turn */
#define LISTENER_REST_MS 100 /* without descriptors: until the next try */

struct listener {
    struct loop *loop;
    struct poll poll;
    struct timer rest;
    struct addr addr;
    listener_accept_cb on_accept;
    void (*on_turned_away)(void *arg);
    void *arg;
    int reserve_fd; /* given up for a moment to accept and close when there is no other */
    dev_t unix_dev; /* which file is ours */
    ino_t unix_ino;
    bool started;
    bool closed;
};

static void listener_rest(struct listener *listener);

/* Nothing is left to accept with: with the descriptor kept for this, one peer is told by a reset
 * instead of waiting; the others stay in the kernel's queue until some are free again. */
static void listener_turn_away(struct listener *listener, int value)
{
    static const struct linger abort_it = {.l_onoff = 1, .l_linger = 0};
    const struct log_field fields[] = {LOG_ERR("error", FAIL_ERRNO(value))};
    int fd;

    if (listener->reserve_fd >= 0) {
        (void)close(listener->reserve_fd);
        fd = accept4(listener->poll.fd, NULL, NULL, SOCK_CLOEXEC);
        /* accept looks for a descriptor before it looks for a connection: there was none. */
        if (fd < 0 && errno == EAGAIN)
            listener->poll.ready = 0;
        if (fd >= 0) {
            (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it));
            (void)close(fd);
        }
        listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && listener->on_turned_away != NULL)
            listener->on_turned_away(listener->arg);
    }
    if (listener->poll.ready == 0)
        return;
    log_limited(LOG_WARN, "listener", "accept_failed", fields, ARRAY_LEN(fields));
    listener_rest(listener);
}

/* Accepts one. False: no more now. */
static bool listener_accept_one(struct listener *listener)
{
    struct addr peer;
    int fd;

    peer.len = sizeof(peer.sa);
    fd = accept4(listener->poll.fd, &peer.sa.any, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        listener->on_accept(listener->arg, fd, &peer);
        return true;
    }
    if (errno == EAGAIN) {
        listener->poll.ready = 0;
        return false;
    }
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        listener_turn_away(listener, errno);
        return false;
    }
    return true; /* that connection was gone before we came to it (accept(2), "Error handling") */
}

static void listener_on_ready(void *arg, unsigned ready)
{
    struct listener *listener = arg;

    (void)ready;
    for (int i = 0; i < LISTENER_BATCH; i++) {
        if (!listener->started || listener->closed || timer_is_on(&listener->rest))
            return;
        if (!listener_accept_one(listener))
            return;
    }
    if (!listener->closed)
        poll_again(listener->loop, &listener->poll);
}

static void listener_on_rested(void *arg)
{
    struct listener *listener = arg;

    if (listener->reserve_fd < 0)
        listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    poll_again(listener->loop, &listener->poll);
}

static void listener_rest(struct listener *listener)
{
    timer_start(listener->loop, &listener->rest, LISTENER_REST_MS, listener_on_rested, listener);
}

static bool listener_is_file(const struct addr *addr)
{
    return addr->sa.any.sa_family == AF_UNIX && addr->sa.un.sun_path[0] != '\0';
}

/* A socket file whose owner is gone refuses connections. */
static bool listener_is_stale(const struct addr *addr)
{
    struct stat st;
    bool stale;
    int fd;

    if (lstat(addr->sa.un.sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    stale = connect(fd, &addr->sa.any, addr->len) != 0 && errno == ECONNREFUSED;
    (void)close(fd);
    return stale;
}

static err_t listener_err(int value)
{
    switch (value) {
    case EADDRINUSE:
        return FAIL(ADDR_IN_USE, value);
    case EACCES:
    case EPERM:
        return FAIL(PERMISSION, value);
    default:
        return FAIL(IO, value);
    }
}

static err_t listener_bind_file(int fd, const struct addr *addr, unsigned mode,
                                struct listener *listener)
{
    struct stat st;

    /* The mode of the descriptor becomes that of the file: there is no moment when it is wider. */
    if (fchmod(fd, mode) != 0)
        return listener_err(errno);
    if (bind(fd, &addr->sa.any, addr->len) != 0) {
        if (errno != EADDRINUSE || !listener_is_stale(addr))
            return listener_err(errno);
        if (unlink(addr->sa.un.sun_path) != 0 || bind(fd, &addr->sa.any, addr->len) != 0)
            return listener_err(errno);
    }
    if (chmod(addr->sa.un.sun_path, mode) != 0 || lstat(addr->sa.un.sun_path, &st) != 0)
        return listener_err(errno);
    listener->unix_dev = st.st_dev;
    listener->unix_ino = st.st_ino;
    return OK;
}

static err_t listener_bind(int fd, const struct listener_params *params, struct listener *listener)
{
    static const int on = 1;
    const struct addr *addr = &params->addr;

    if (listener_is_file(addr))
        return listener_bind_file(fd, addr, params->unix_mode != 0 ? params->unix_mode : 0600,
                                  listener);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
        bind(fd, &addr->sa.any, addr->len) != 0)
        return listener_err(errno);
    return OK;
}

static err_t listener_open(struct listener *listener, const struct listener_params *params, int fd)
{
    TRY(listener_bind(fd, params, listener));
    if (listen(fd, params->backlog != 0 ? params->backlog : LISTENER_BACKLOG) != 0)
        return listener_err(errno);
    TRY(addr_of_local(fd, &listener->addr));
    listener->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (listener->reserve_fd < 0)
        return FAIL(IO, errno);
    return poll_open(listener->loop, &listener->poll, fd, listener_on_ready, listener);
}

err_t listener_new(struct loop *loop, const struct listener_params *params, struct listener **out)
{
    struct listener *listener = mem_zalloc(sizeof(*listener));
    int fd = socket(params->addr.sa.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    err_t err;

    listener->loop = loop;
    listener->on_accept = params->on_accept;
    listener->on_turned_away = params->on_turned_away;
    listener->arg = params->arg;
    listener->reserve_fd = -1;
    err = fd >= 0 ? listener_open(listener, params, fd) : FAIL(IO, errno);
    if (!err_is_ok(err)) {
        if (listener->reserve_fd >= 0)
            (void)close(listener->reserve_fd);
        if (fd >= 0)
            (void)close(fd);
        mem_free(listener);
        return err;
    }
    *out = listener;
    return OK;
}

void listener_start(struct listener *listener)
{
    listener->started = true;
    poll_again(listener->loop, &listener->poll);
}

void listener_pause(struct listener *listener)
{
    listener->started = false;
}

static void listener_remove_file(const struct listener *listener)
{
    const char *path = listener->addr.sa.un.sun_path;
    struct stat st;

    /* Not the one of a successor. */
    if (lstat(path, &st) == 0 && st.st_dev == listener->unix_dev && st.st_ino == listener->unix_ino)
        (void)unlink(path);
}

void listener_close(struct listener *listener)
{
    CHECK(!listener->closed);
    listener->closed = true;
    timer_stop(listener->loop, &listener->rest);
    if (listener_is_file(&listener->addr))
        listener_remove_file(listener);
    poll_close(listener->loop, &listener->poll);
    if (listener->reserve_fd >= 0)
        (void)close(listener->reserve_fd);
    loop_defer(listener->loop, mem_free, listener);
}

const struct addr *listener_addr(const struct listener *listener)
{
    return &listener->addr;
}
