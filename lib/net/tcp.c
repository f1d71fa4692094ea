#include "lib/net/tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/base/mem.h"

#define TCP_MAGIC 0x7c9b10a4u
#define TCP_IOV_MAX 16 /* blocks of the queue in one send: more than a blocked connection has */
/* Of what a peer had sent when we closed. */
#define TCP_IGNORED_MAX ((size_t)64 << 10)
/* Small writes behind a blocked one share blocks of this size. */
#define TCP_PEEK_MAX 8
#define TCP_BLOCK_MIN ((size_t)4 << 10)

/* Bytes taken by write that the kernel has not: data[pos .. len). */
struct tcp_block {
    struct tcp_block *next;
    size_t pos, len, cap;
    uint8_t data[];
};

struct tcp {
    struct stream base;
    unsigned magic;
    struct poll poll;
    struct tcp_block *first, *last; /* the queue; base.queued is its length */
    struct tcp_connect *connect;    /* until connected */
    tcp_peek_cb peek;               /* NULL: nobody waits for the first bytes */
    void *peek_arg;
    size_t read_size;
    err_t broken; /* why, once the kernel or we know; what was received before is read first */
    bool is_unix; /* a short read does not prove its queue empty (passed rights) */
    bool reading;
    bool got_eof;  /* on_eof was called; an error may still come for our own direction */
    bool told_end; /* on_error was called, or a write said it */
    bool shut;     /* stream_shutdown was called */
    bool sent_fin; /* and done */
    bool closed;
};

struct tcp_connect {
    struct tcp *tcp;
    struct loop *loop;
    struct timer timer;
    err_t err;         /* what the kernel said at once */
    tcp_connect_cb cb; /* NULL: called, or cancelled */
    void *arg;
    bool deferred; /* loop_defer will still look at it */
};

static const struct stream_ops tcp_ops;

static struct tcp *tcp_of(struct stream *stream)
{
    CHECK(stream->ops == &tcp_ops);
    return CONTAINER_OF(stream, struct tcp, base);
}

static const struct tcp *tcp_of_const(const struct stream *stream)
{
    CHECK(stream->ops == &tcp_ops);
    return (const struct tcp *)(const void *)stream; /* base is its first member */
}

static struct tcp *tcp_of_arg(void *arg)
{
    struct tcp *tcp = arg;

    CHECK(tcp->magic == TCP_MAGIC);
    return tcp;
}

err_t tcp_err(int value)
{
    /* Which verdicts the network has is not ours to list: ICMP brings most of them, a
     * retransmission without answer ETIMEDOUT. */
    switch (value) {
    case ENOMEM:
    case ENOBUFS:
        return FAIL(NO_MEMORY, value);
    case EBADF: /* these only we can bring about */
    case EFAULT:
    case EINVAL:
    case ENOTSOCK:
        return FAIL(IO, value);
    default:
        return FAIL(PEER_RESET, value);
    }
}

static void tcp_free(void *arg)
{
    struct tcp *tcp = tcp_of_arg(arg);

    tcp->magic = 0;
    mem_free(tcp);
}

static void tcp_drop_queue(struct tcp *tcp)
{
    while (tcp->first != NULL) {
        struct tcp_block *block = tcp->first;

        tcp->first = block->next;
        mem_free(block);
    }
    tcp->last = NULL;
    tcp->base.queued = 0;
}

/* Tells the user, once. */
static void tcp_tell_broken(struct tcp *tcp)
{
    tcp_drop_queue(tcp);
    tcp->reading = false;
    if (tcp->told_end || tcp->base.events == NULL)
        return;
    tcp->told_end = true;
    tcp->base.events->on_error(tcp->base.arg, tcp->broken);
}

static bool tcp_has_input(const struct tcp *tcp)
{
    int num = 0;

    return ioctl(tcp->poll.fd, FIONREAD, &num) == 0 && num > 0;
}

/* EPOLLERR: asks the socket what happened. The answer is given once, so it is kept. */
static void tcp_take_error(struct tcp *tcp)
{
    int value = 0;
    socklen_t len = sizeof(value);

    tcp->poll.ready &= ~(unsigned)POLL_FAILED;
    if (getsockopt(tcp->poll.fd, SOL_SOCKET, SO_ERROR, &value, &len) != 0)
        value = errno;
    if (value == 0 || !err_is_ok(tcp->broken))
        return;
    if (tcp->got_eof && tcp->sent_fin)
        return; /* both directions had ended: nothing is lost */
    tcp->broken = tcp_err(value);
    tcp_drop_queue(tcp);
}

/* After a full read the next one may be twice as large. */
static void tcp_grow_read(struct tcp *tcp)
{
    if (tcp->read_size < LOOP_RX_SIZE)
        tcp->read_size *= 2;
}

static void tcp_read_end(struct tcp *tcp)
{
    if (!err_is_ok(tcp->broken)) {
        tcp_tell_broken(tcp);
        return;
    }
    tcp->got_eof = true;
    tcp->reading = false;
    tcp->poll.ready &= ~(unsigned)(POLL_READABLE | POLL_HANGUP);
    tcp->base.events->on_eof(tcp->base.arg);
}

static void tcp_read(struct tcp *tcp)
{
    struct loop *loop = tcp->base.loop;
    const unsigned to_the_end = POLL_HANGUP | POLL_URGENT;

    for (int budget = TCP_READ_BUDGET; budget > 0; budget--) {
        size_t want = tcp->read_size < tcp->base.read_max ? tcp->read_size : tcp->base.read_max;
        ssize_t got = recv(tcp->poll.fd, loop_bufs(loop)->rx, want, 0);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN) {
            tcp->poll.ready &= ~(unsigned)(POLL_READABLE | to_the_end);
            if (!err_is_ok(tcp->broken))
                tcp_tell_broken(tcp);
            return;
        }
        if (got < 0 && err_is_ok(tcp->broken))
            tcp->broken = tcp_err(errno);
        if (got <= 0) {
            tcp_read_end(tcp);
            return;
        }
        /* A short read has emptied the socket: what comes later is a new edge. Not so when the end,
         * an error or urgent data are known to wait behind it. */
        bool drained = (size_t)got < want && (tcp->poll.ready & to_the_end) == 0 &&
                       err_is_ok(tcp->broken) && !tcp->is_unix;

        if (drained)
            tcp->poll.ready &= ~(unsigned)POLL_READABLE;
        if ((size_t)got == want)
            tcp_grow_read(tcp);
        tcp->base.bytes_read += (uint64_t)got;
        tcp->base.events->on_read(tcp->base.arg, bytes_of(loop_bufs(loop)->rx, (size_t)got));
        if (!tcp->reading || drained) /* closing stops reading, too */
            return;
    }
    poll_again(loop, &tcp->poll);
}

/* What is left in the socket keeps it readable, for who reads next. */
static void tcp_look(struct tcp *tcp)
{
    tcp_peek_cb cb = tcp->peek;
    uint8_t first[TCP_PEEK_MAX];
    ssize_t got;

    do {
        got = recv(tcp->poll.fd, first, sizeof(first), MSG_PEEK);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN)
        return;
    tcp->peek = NULL;
    /* The socket's error was taken already: what it shows then is an end. */
    if (got > 0 || (got == 0 && err_is_ok(tcp->broken))) {
        cb(tcp->peek_arg, bytes_of(first, (size_t)got));
        return;
    }
    if (err_is_ok(tcp->broken))
        tcp->broken = tcp_err(errno);
    tcp_tell_broken(tcp);
}

static void tcp_send_fin(struct tcp *tcp)
{
    tcp->sent_fin = true;
    /* ENOTCONN: reset meanwhile; that comes as an event of its own. */
    (void)shutdown(tcp->poll.fd, SHUT_WR);
}

static void tcp_consume(struct tcp *tcp, size_t sent)
{
    tcp->base.queued -= sent;
    while (sent > 0) {
        struct tcp_block *block = tcp->first;
        size_t num;

        CHECK(block != NULL);
        num = sent < block->len - block->pos ? sent : block->len - block->pos;
        block->pos += num;
        sent -= num;
        if (block->pos < block->len)
            return;
        tcp->first = block->next;
        if (tcp->first == NULL)
            tcp->last = NULL;
        mem_free(block);
    }
}

/* Sends from the queue. False: the kernel takes no more now, or the connection broke. */
static bool tcp_flush_some(struct tcp *tcp)
{
    struct iovec iov[TCP_IOV_MAX];
    struct msghdr msg = {.msg_iov = iov};
    size_t total = 0;
    ssize_t sent;

    for (struct tcp_block *block = tcp->first; block != NULL && msg.msg_iovlen < TCP_IOV_MAX;
         block = block->next) {
        iov[msg.msg_iovlen].iov_base = block->data + block->pos;
        iov[msg.msg_iovlen].iov_len = block->len - block->pos;
        total += block->len - block->pos;
        msg.msg_iovlen++;
    }
    sent = sendmsg(tcp->poll.fd, &msg, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            tcp->broken = tcp_err(errno);
            tcp_drop_queue(tcp);
        }
        return false;
    }
    tcp_consume(tcp, (size_t)sent);
    return (size_t)sent == total;
}

static void tcp_flush(struct tcp *tcp)
{
    while (tcp->first != NULL && tcp_flush_some(tcp))
        continue;
    if (tcp->first != NULL || !err_is_ok(tcp->broken))
        return;
    if (tcp->shut)
        tcp_send_fin(tcp);
    if (tcp->base.events != NULL && tcp->base.events->on_drained != NULL)
        tcp->base.events->on_drained(tcp->base.arg);
}

static void tcp_on_ready(void *arg, unsigned ready)
{
    struct tcp *tcp = tcp_of_arg(arg);

    if ((ready & POLL_FAILED) != 0)
        tcp_take_error(tcp);
    if ((ready & POLL_WRITABLE) != 0) {
        tcp->poll.ready &= ~(unsigned)POLL_WRITABLE;
        if (tcp->first != NULL)
            tcp_flush(tcp);
    }
    if (tcp->closed)
        return;
    if (tcp->reading)
        tcp_read(tcp);
    else if (tcp->peek != NULL)
        tcp_look(tcp);
    else if (!err_is_ok(tcp->broken) && (tcp->got_eof || !tcp_has_input(tcp)))
        tcp_tell_broken(tcp);
}

void tcp_peek(struct stream *stream, tcp_peek_cb cb, void *arg)
{
    struct tcp *tcp = tcp_of(stream);

    CHECK(!tcp->reading && !tcp->closed && tcp->peek == NULL);
    tcp->peek = cb;
    tcp->peek_arg = arg;
    if (tcp->poll.ready != 0 || !err_is_ok(tcp->broken))
        poll_again(tcp->base.loop, &tcp->poll);
}

void tcp_peek_cancel(struct stream *stream)
{
    tcp_of(stream)->peek = NULL;
}

static void tcp_op_read_start(struct stream *stream)
{
    struct tcp *tcp = tcp_of(stream);

    CHECK(tcp->base.events != NULL && !tcp->closed);
    if (tcp->reading || tcp->got_eof || tcp->told_end)
        return;
    tcp->reading = true;
    if (tcp->poll.ready != 0 || !err_is_ok(tcp->broken))
        poll_again(tcp->base.loop, &tcp->poll);
}

static void tcp_op_read_stop(struct stream *stream)
{
    struct tcp *tcp = tcp_of(stream);

    tcp->reading = false;
    tcp->read_size = TCP_READ_MIN;
}

/* False: no memory. */
static bool tcp_queue_add(struct tcp *tcp, const uint8_t *ptr, size_t len)
{
    struct tcp_block *last = tcp->last;
    struct tcp_block *block;
    size_t cap;

    tcp->base.queued += len;
    if (last != NULL) {
        size_t fits = last->cap - last->len < len ? last->cap - last->len : len;

        memcpy(last->data + last->len, ptr, fits);
        last->len += fits;
        ptr += fits;
        len -= fits;
        if (len == 0)
            return true;
    }
    /* The first is what one send left: exact. One that comes behind it will not stay alone. */
    cap = last != NULL && len < TCP_BLOCK_MIN ? TCP_BLOCK_MIN : len;
    block = mem_try_alloc(sizeof(*block) + cap);
    if (block == NULL)
        return false;
    block->next = NULL;
    block->pos = 0;
    block->len = len;
    block->cap = cap;
    memcpy(block->data, ptr, len);
    if (last != NULL)
        last->next = block;
    else
        tcp->first = block;
    tcp->last = block;
    return true;
}

static err_t tcp_write_failed(struct tcp *tcp, int value)
{
    tcp->broken = tcp_err(value);
    tcp_drop_queue(tcp);
    if (!tcp->reading || tcp->got_eof) {
        tcp->told_end = true;
        return tcp->broken;
    }
    /* The peer's reason (a TLS alert, a last reply) may wait in our socket: it is read first, then
     * on_error tells what happened here. */
    tcp->poll.ready |= POLL_READABLE;
    poll_again(tcp->base.loop, &tcp->poll);
    return OK;
}

static err_t tcp_op_write(struct stream *stream, struct bytes data)
{
    struct tcp *tcp = tcp_of(stream);
    ssize_t sent = 0;

    if (tcp->closed || tcp->shut)
        return FAIL(BUG, 0);
    if (!err_is_ok(tcp->broken)) {
        if (tcp->reading && !tcp->got_eof)
            return OK; /* on_error is on its way, see tcp_write_failed */
        tcp->told_end = true;
        return tcp->broken;
    }
    tcp->base.bytes_written += data.len;
    if (data.len == 0)
        return OK;
    if (tcp->first == NULL) {
        do {
            sent = send(tcp->poll.fd, data.ptr, data.len, MSG_NOSIGNAL);
        } while (sent < 0 && errno == EINTR);
        if (sent < 0 && errno != EAGAIN)
            return tcp_write_failed(tcp, errno);
        if (sent < 0)
            sent = 0;
    }
    if ((size_t)sent < data.len && !tcp_queue_add(tcp, data.ptr + sent, data.len - (size_t)sent))
        return tcp_write_failed(tcp, ENOMEM);
    return OK;
}

static err_t tcp_op_shutdown(struct stream *stream)
{
    struct tcp *tcp = tcp_of(stream);

    if (tcp->closed)
        return FAIL(BUG, 0);
    if (tcp->shut)
        return OK;
    tcp->shut = true;
    if (tcp->first == NULL)
        tcp_send_fin(tcp);
    return OK;
}

static void tcp_op_close(struct stream *stream, bool reset)
{
    static const struct linger abort_it = {.l_onoff = 1, .l_linger = 0};
    struct tcp *tcp = tcp_of(stream);

    CHECK(!tcp->closed);
    tcp->closed = true;
    tcp->reading = false;
    tcp->peek = NULL;
    if (reset)
        (void)setsockopt(tcp->poll.fd, SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it));
    else if ((tcp->poll.ready & POLL_READABLE) != 0) /* unread, it would make a reset of our end */
        (void)recv(tcp->poll.fd, NULL, TCP_IGNORED_MAX, MSG_TRUNC);
    poll_close(tcp->base.loop, &tcp->poll);
    tcp_drop_queue(tcp);
    loop_defer(tcp->base.loop, tcp_free, tcp);
}

/* The kernel counts what it has queued with its own overhead, which errs on the right side. */
static size_t tcp_op_room(const struct stream *stream)
{
    uint32_t info[SK_MEMINFO_VARS];
    socklen_t len = sizeof(info);

    if (getsockopt(tcp_of_const(stream)->poll.fd, SOL_SOCKET, SO_MEMINFO, info, &len) != 0 ||
        len < sizeof(info) || info[SK_MEMINFO_WMEM_QUEUED] >= info[SK_MEMINFO_SNDBUF])
        return 0;
    return info[SK_MEMINFO_SNDBUF] - info[SK_MEMINFO_WMEM_QUEUED];
}

/* A Unix socket counts buffers there, not bytes. */
static struct stream_sent tcp_op_sent(const struct stream *stream)
{
    const struct tcp *tcp = tcp_of_const(stream);
    uint64_t taken = stream->bytes_written - stream->queued;
    int unacked = 0;

    if (!tcp->is_unix && ioctl(tcp->poll.fd, SIOCOUTQ, &unacked) != 0)
        unacked = 0;
    /* A FIN counts as one. */
    return (struct stream_sent){
        .total = stream->bytes_written,
        .acked = taken > (uint64_t)unacked ? taken - (uint64_t)unacked : 0,
    };
}

static void tcp_op_retry(struct stream *stream)
{
    struct tcp *tcp = tcp_of(stream);

    if (tcp->first == NULL)
        return;
    tcp->poll.ready |= POLL_WRITABLE;
    poll_again(tcp->base.loop, &tcp->poll);
}

static const struct stream_ops tcp_ops = {
    .read_start = tcp_op_read_start,
    .read_stop = tcp_op_read_stop,
    .write = tcp_op_write,
    .shutdown = tcp_op_shutdown,
    .close = tcp_op_close,
    .room = tcp_op_room,
    .sent = tcp_op_sent,
    .retry = tcp_op_retry,
};

static struct tcp *tcp_alloc(struct loop *loop)
{
    struct tcp *tcp = mem_try(sizeof(*tcp));

    if (tcp == NULL)
        return NULL;
    tcp->magic = TCP_MAGIC;
    tcp->base.ops = &tcp_ops;
    tcp->base.loop = loop;
    tcp->base.read_max = STREAM_READ_SMALL;
    tcp->read_size = TCP_READ_MIN;
    tcp->poll.fd = -1;
    return tcp;
}

static void tcp_set_nodelay(struct tcp *tcp, int fd)
{
    static const int on = 1;

    /* What is not TCP is a Unix socket. */
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0)
        tcp->is_unix = true;
}

static err_t tcp_set_flags(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || ((flags & O_NONBLOCK) == 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0))
        return FAIL(IO, errno);
    flags = fcntl(fd, F_GETFD);
    if (flags < 0 || ((flags & FD_CLOEXEC) == 0 && fcntl(fd, F_SETFD, flags | FD_CLOEXEC) != 0))
        return FAIL(IO, errno);
    return OK;
}

static err_t tcp_open(struct tcp *tcp, int fd)
{
    TRY(tcp_set_flags(fd));
    tcp_set_nodelay(tcp, fd);
    return poll_open(tcp->base.loop, &tcp->poll, fd, tcp_on_ready, tcp);
}

err_t tcp_new(struct loop *loop, int fd, struct stream **out)
{
    struct tcp *tcp = tcp_alloc(loop);
    err_t err = tcp != NULL ? tcp_open(tcp, fd) : FAIL(NO_MEMORY, 0);

    if (!err_is_ok(err)) {
        (void)close(fd);
        mem_free(tcp);
        return err;
    }
    *out = &tcp->base;
    return OK;
}

int tcp_fd(const struct stream *stream)
{
    return tcp_of_const(stream)->poll.fd;
}

/* Connecting. The stream exists from the start, so that its descriptor is registered once. */

static err_t tcp_connect_err(int value)
{
    switch (value) {
    case ECONNREFUSED:
        return FAIL(CONNECT_REFUSED, value);
    case ETIMEDOUT:
        return FAIL(CONNECT_TIMEOUT, value);
    case EMFILE:
    case ENFILE:
        return FAIL(FD_EXHAUSTED, value);
    case ENOMEM:
    case ENOBUFS:
        return FAIL(NO_MEMORY, value);
    default:
        return FAIL(CONNECT_FAILED, value);
    }
}

static void tcp_connect_release(struct tcp_connect *attempt)
{
    timer_stop(attempt->loop, &attempt->timer);
    attempt->cb = NULL;
    attempt->tcp->connect = NULL;
    attempt->tcp = NULL;
    if (!attempt->deferred)
        mem_free(attempt);
}

/* Ends the attempt: the user gets the stream, or the reason why not. */
static void tcp_connect_done(struct tcp_connect *attempt, err_t err)
{
    struct tcp *tcp = attempt->tcp;
    tcp_connect_cb cb = attempt->cb;
    void *arg = attempt->arg;

    tcp_connect_release(attempt);
    if (err_is_ok(err)) {
        tcp->poll.fn = tcp_on_ready;
        cb(arg, OK, &tcp->base);
    } else {
        stream_close(&tcp->base);
        cb(arg, err, NULL);
    }
}

static void tcp_connect_on_timeout(void *arg)
{
    struct tcp_connect *attempt = arg;

    tcp_connect_done(attempt, FAIL(CONNECT_TIMEOUT, 0));
}

static void tcp_connect_on_ready(void *arg, unsigned ready)
{
    struct tcp *tcp = tcp_of_arg(arg);
    int value = 0;
    socklen_t len = sizeof(value);

    /* Without these two there is nothing to ask the socket: one system call less a connection. */
    if ((ready & (POLL_FAILED | POLL_HANGUP)) != 0 &&
        getsockopt(tcp->poll.fd, SOL_SOCKET, SO_ERROR, &value, &len) != 0)
        value = errno;
    if (value != 0) {
        tcp_connect_done(tcp->connect, tcp_connect_err(value));
    } else if ((ready & POLL_WRITABLE) != 0) {
        tcp->poll.ready &= ~(unsigned)(POLL_WRITABLE | POLL_FAILED);
        tcp_connect_done(tcp->connect, OK);
    }
}

static void tcp_connect_on_deferred(void *arg)
{
    struct tcp_connect *attempt = arg;

    attempt->deferred = false;
    if (attempt->cb == NULL)
        mem_free(attempt);
    else
        tcp_connect_done(attempt, attempt->err);
}

static err_t tcp_connect_begin(struct tcp_connect *attempt, const struct addr *to)
{
    struct tcp *tcp = attempt->tcp;
    int fd = socket(to->sa.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    err_t err;

    if (fd < 0) /* the family is not there: CONNECT_FAILED */
        return tcp_connect_err(errno);
    tcp_set_nodelay(tcp, fd);
    if (connect(fd, &to->sa.any, to->len) != 0 && errno != EINPROGRESS) {
        /* The kernel said no at once; the user hears of it from the loop. */
        attempt->err = tcp_connect_err(errno);
        (void)close(fd);
        attempt->deferred = true;
        loop_defer(attempt->loop, tcp_connect_on_deferred, attempt);
        return OK;
    }
    err = poll_open(tcp->base.loop, &tcp->poll, fd, tcp_connect_on_ready, tcp);
    if (!err_is_ok(err))
        (void)close(fd);
    return err;
}

err_t tcp_connect(struct loop *loop, const struct addr *to, uint64_t timeout_ms, tcp_connect_cb cb,
                  void *arg, struct tcp_connect **out)
{
    struct tcp_connect *attempt = mem_try(sizeof(*attempt));
    struct tcp *tcp = tcp_alloc(loop);
    err_t err = FAIL(NO_MEMORY, 0);

    if (attempt != NULL && tcp != NULL) {
        *attempt = (struct tcp_connect){.tcp = tcp, .loop = loop, .cb = cb, .arg = arg};
        tcp->connect = attempt;
        err = tcp_connect_begin(attempt, to);
    }
    if (!err_is_ok(err)) {
        mem_free(tcp);
        mem_free(attempt);
        return err;
    }
    if (timeout_ms != 0)
        timer_start(loop, &attempt->timer, timeout_ms, tcp_connect_on_timeout, attempt);
    *out = attempt;
    return OK;
}

void tcp_connect_cancel(struct tcp_connect *attempt)
{
    struct tcp *tcp = attempt->tcp;

    tcp_connect_release(attempt);
    stream_close(&tcp->base);
}
