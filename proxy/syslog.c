#include "proxy/syslog.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/mem.h"

#define SYSLOG_PREFIX "syslog:"
#define SYSLOG_UDP "udp://"
#define SYSLOG_HOST_MAX 256 /* RFC 5424 section 6: 255 characters */

struct syslog_sender {
    pthread_mutex_t lock;
    struct addr to;
    unsigned facility;
    int fd; /* -1: none now */
    uint64_t tried_us;
    char host[SYSLOG_HOST_MAX];
    unsigned pid;
};

err_t syslog_target(const char *text, struct addr *out)
{
    if (strcmp(text, "syslog") == 0)
        return addr_parse("unix:" SYSLOG_SOCKET, out);
    if (strncmp(text, SYSLOG_PREFIX, sizeof(SYSLOG_PREFIX) - 1) != 0)
        return FAIL(ADDR_SYNTAX, 0);
    text += sizeof(SYSLOG_PREFIX) - 1;
    if (strncmp(text, "unix:", 5) == 0)
        return addr_parse(text, out);
    if (strncmp(text, SYSLOG_UDP, sizeof(SYSLOG_UDP) - 1) != 0)
        return FAIL(ADDR_SYNTAX, 0);
    TRY(addr_parse(text + sizeof(SYSLOG_UDP) - 1, out));
    return out->sa.any.sa_family != AF_UNIX && addr_port(out) != 0 ? OK : FAIL(ADDR_SYNTAX, 0);
}

/* PRINTUSASCII, or "-" where there is nothing to say. */
static void syslog_set_host(char host[SYSLOG_HOST_MAX])
{
    if (gethostname(host, SYSLOG_HOST_MAX) != 0)
        host[0] = '\0';
    host[SYSLOG_HOST_MAX - 1] = '\0';
    for (char *c = host; *c != '\0'; c++) {
        if (*c <= ' ' || *c > '~')
            *c = '?';
    }
    if (host[0] == '\0')
        (void)snprintf(host, SYSLOG_HOST_MAX, "-");
}

static void syslog_close(struct syslog_sender *sender)
{
    if (sender->fd >= 0)
        (void)close(sender->fd);
    sender->fd = -1;
}

void syslog_free(struct syslog_sender *sender)
{
    if (sender == NULL)
        return;
    syslog_close(sender);
    CHECK(pthread_mutex_destroy(&sender->lock) == 0);
    mem_free(sender);
}

size_t syslog_head(unsigned priority, int64_t now_us, const char *host, unsigned pid,
                   const char *kind, char out[SYSLOG_HEAD_MAX])
{
    char when[21];
    int len;

    clock_format_utc(now_us / 1000000, when);
    len = snprintf(out, SYSLOG_HEAD_MAX, "<%u>1 %.19s.%06uZ %s mortise-proxy %u %.32s - ", priority,
                   when, (unsigned)(now_us % 1000000), host, pid, kind);
    CHECK(len > 0 && len < SYSLOG_HEAD_MAX); /* all parts are bounded */
    return (size_t)len;
}

/* Connecting a datagram socket waits for nobody. */
static bool syslog_connect(struct syslog_sender *sender)
{
    uint64_t now_us = clock_mono_us();

    if (sender->fd >= 0)
        return true;
    if (sender->tried_us != 0 && now_us - sender->tried_us < SYSLOG_AGAIN_US)
        return false;
    sender->tried_us = now_us;
    sender->fd = socket(sender->to.sa.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sender->fd >= 0 && connect(sender->fd, &sender->to.sa.any, sender->to.len) != 0)
        syslog_close(sender);
    return sender->fd >= 0;
}

struct syslog_sender *syslog_new(const struct addr *to, unsigned facility)
{
    struct syslog_sender *sender = mem_zalloc(sizeof(*sender));

    CHECK(pthread_mutex_init(&sender->lock, NULL) == 0);
    sender->to = *to;
    sender->facility = facility;
    sender->fd = -1;
    sender->pid = (unsigned)getpid();
    syslog_set_host(sender->host);
    (void)syslog_connect(sender);
    return sender;
}

static bool syslog_try(struct syslog_sender *sender, const struct msghdr *msg)
{
    if (!syslog_connect(sender))
        return false;
    if (sendmsg(sender->fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return true;
    /* Its buffer is full, or the line too long for it: it is there. */
    if (errno == EAGAIN || errno == ENOBUFS || errno == EMSGSIZE || errno == EINTR)
        return false;
    if (errno == ECONNREFUSED && sender->to.sa.any.sa_family != AF_UNIX)
        return false; /* what ICMP said of a datagram before */
    syslog_close(sender);
    return false;
}

bool syslog_send(struct syslog_sender *sender, enum syslog_severity severity, const char *kind,
                 const char *text, size_t len)
{
    char head[SYSLOG_HEAD_MAX];
    struct iovec parts[2];
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = 2};
    bool had, sent;

    parts[0].iov_base = head;
    parts[0].iov_len = syslog_head(sender->facility << 3 | (unsigned)severity, clock_wall_us(),
                                   sender->host, sender->pid, kind, head);
    parts[1].iov_base = (void *)(uintptr_t)text; /* only read */
    parts[1].iov_len = len;
    CHECK(pthread_mutex_lock(&sender->lock) == 0);
    had = sender->fd >= 0;
    sent = syslog_try(sender, &msg);
    /* A receiver that was started anew has another socket under the same name. */
    if (!sent && had && sender->fd < 0)
        sent = syslog_try(sender, &msg);
    CHECK(pthread_mutex_unlock(&sender->lock) == 0);
    return sent;
}
