#include "test/unit/net/sockets.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/mem.h"

#define SOCKETS_CHUNK 65536

int sockets_listen(int backlog, struct addr *out)
{
    struct addr any;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    err_t err = addr_parse("127.0.0.1:0", &any);

    CHECK(fd >= 0 && err_is_ok(err));
    CHECK(bind(fd, &any.sa.any, any.len) == 0 && listen(fd, backlog) == 0);
    err = addr_of_local(fd, out);
    CHECK(err_is_ok(err));
    return fd;
}

void sockets_pair(int fd[2])
{
    struct addr addr;
    int listener = sockets_listen(1, &addr);

    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd[0] >= 0);
    CHECK(connect(fd[0], &addr.sa.any, addr.len) == 0 || errno == EINPROGRESS);
    do {
        fd[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd[1] < 0 && errno == EAGAIN);
    CHECK(fd[1] >= 0);
    (void)close(listener);
}

void sockets_set_send_buffer(int fd, int bytes)
{
    CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)) == 0);
}

void sockets_reset(int fd)
{
    static const struct linger linger = {.l_onoff = 1, .l_linger = 0};

    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
    (void)close(fd);
}

void pattern_fill(uint8_t *out, uint64_t offset, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = pattern_byte(offset + i);
}

bool pattern_holds(const uint8_t *data, uint64_t offset, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (data[i] != pattern_byte(offset + i))
            return false;
    return true;
}

size_t sockets_fill(int fd, uint64_t offset, size_t len)
{
    uint8_t chunk[SOCKETS_CHUNK];
    size_t total = 0;

    while (total < len) {
        size_t num = len - total < sizeof(chunk) ? len - total : sizeof(chunk);
        ssize_t sent;

        pattern_fill(chunk, offset + total, num);
        sent = send(fd, chunk, num, MSG_NOSIGNAL);
        if (sent < 0) {
            CHECK(errno == EAGAIN);
            break;
        }
        total += (size_t)sent;
    }
    return total;
}

size_t sockets_drain(int fd, uint64_t offset, size_t len)
{
    uint8_t chunk[SOCKETS_CHUNK];
    ssize_t got = recv(fd, chunk, len < sizeof(chunk) ? len : sizeof(chunk), 0);

    if (got < 0) {
        CHECK(errno == EAGAIN);
        return SIZE_MAX;
    }
    CHECK(pattern_holds(chunk, offset, (size_t)got));
    return (size_t)got;
}
