#include "lib/net/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/mem.h"

#define ADDR_UNIX "unix:"
#define ADDR_HOST_MAX 255

static err_t addr_parse_port(const char *text, uint16_t *out)
{
    unsigned port = 0;
    size_t len = strlen(text);

    if (len == 0 || len > 5)
        return FAIL(ADDR_SYNTAX, 0);
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return FAIL(ADDR_SYNTAX, 0);
        port = port * 10 + (unsigned)(*text - '0');
    }
    if (port > UINT16_MAX)
        return FAIL(ADDR_SYNTAX, 0);
    *out = (uint16_t)port;
    return OK;
}

static err_t addr_parse_unix(const char *path, struct addr *out)
{
    size_t len = strlen(path);
    struct sockaddr_un *un = &out->sa.un;

    /* '@' stands for the NUL byte that an abstract name begins with. */
    if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(un->sun_path))
        return FAIL(ADDR_SYNTAX, 0);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, len + 1);
    out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    if (path[0] == '@') {
        un->sun_path[0] = '\0';
        out->len--;
    }
    return OK;
}

static err_t addr_parse_scope(const char *scope, uint32_t *out)
{
    uint32_t id = 0;

    if (*scope == '\0')
        return FAIL(ADDR_SYNTAX, 0);
    *out = if_nametoindex(scope);
    if (*out != 0)
        return OK;
    for (; *scope != '\0'; scope++) {
        if (*scope < '0' || *scope > '9' || id > UINT32_MAX / 10 - 1)
            return FAIL(ADDR_SYNTAX, 0);
        id = id * 10 + (uint32_t)(*scope - '0');
    }
    *out = id;
    return OK;
}

static err_t addr_parse_in6(char *host, uint16_t port, struct addr *out)
{
    char *percent = strchr(host, '%');

    if (percent != NULL) {
        *percent = '\0';
        TRY(addr_parse_scope(percent + 1, &out->sa.in6.sin6_scope_id));
    }
    if (inet_pton(AF_INET6, host, &out->sa.in6.sin6_addr) != 1)
        return FAIL(ADDR_SYNTAX, 0);
    out->sa.in6.sin6_family = AF_INET6;
    out->sa.in6.sin6_port = htons(port);
    out->len = sizeof(out->sa.in6);
    return OK;
}

/* Parts "host:port" or "[host]:port" at its last colon. */
static err_t addr_split(const char *text, char host[ADDR_HOST_MAX + 1], uint16_t *out_port,
                        bool *out_bracket)
{
    const char *colon = strrchr(text, ':');
    const char *begin = text;
    const char *end = colon;

    if (colon == NULL)
        return FAIL(ADDR_SYNTAX, 0);
    *out_bracket = text[0] == '[';
    if (*out_bracket) {
        begin++;
        end--;
        if (end <= begin || *end != ']')
            return FAIL(ADDR_SYNTAX, 0);
    }
    if (end == begin || end - begin > ADDR_HOST_MAX)
        return FAIL(ADDR_SYNTAX, 0);
    memcpy(host, begin, (size_t)(end - begin));
    host[end - begin] = '\0';
    if (strpbrk(host, "[]") != NULL || (!*out_bracket && strchr(host, ':') != NULL))
        return FAIL(ADDR_SYNTAX, 0);
    return addr_parse_port(colon + 1, out_port);
}

err_t addr_parse(const char *text, struct addr *out)
{
    char host[ADDR_HOST_MAX + 1];
    struct addr addr;
    uint16_t port = 0;
    bool bracket = false;

    memset(&addr, 0, sizeof(addr));
    if (strncmp(text, ADDR_UNIX, strlen(ADDR_UNIX)) == 0) {
        TRY(addr_parse_unix(text + strlen(ADDR_UNIX), &addr));
    } else {
        TRY(addr_split(text, host, &port, &bracket));
        if (bracket) {
            TRY(addr_parse_in6(host, port, &addr));
        } else {
            if (inet_pton(AF_INET, host, &addr.sa.in4.sin_addr) != 1)
                return FAIL(ADDR_SYNTAX, 0);
            addr.sa.in4.sin_family = AF_INET;
            addr.sa.in4.sin_port = htons(port);
            addr.len = sizeof(addr.sa.in4);
        }
    }
    *out = addr;
    return OK;
}

static bool addr_is_host_name(const char *host)
{
    return host[strspn(host,
                       "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")] ==
               '\0' &&
           host[0] != '.' && host[0] != '-';
}

err_t addr_split_host(const char *text, char host[256], uint16_t *out_port)
{
    struct addr addr;
    bool bracket = false;

    if (strncmp(text, ADDR_UNIX, strlen(ADDR_UNIX)) == 0) {
        TRY(addr_parse_unix(text + strlen(ADDR_UNIX), &addr));
        memcpy(host, text, strlen(text) + 1);
        *out_port = 0;
        return OK;
    }
    TRY(addr_split(text, host, out_port, &bracket));
    if (bracket)
        return addr_parse(text, &addr);
    return addr_is_host_name(host) ? OK : FAIL(ADDR_SYNTAX, 0);
}

static void addr_format_unix(const struct addr *addr, char out[ADDR_TEXT_MAX])
{
    const struct sockaddr_un *un = &addr->sa.un;
    size_t offset = offsetof(struct sockaddr_un, sun_path);
    int len = addr->len > offset ? (int)(addr->len - offset) : 0;

    /* An abstract name may hold any byte; what follows another NUL is not shown. */
    if (len > 1 && un->sun_path[0] == '\0')
        (void)snprintf(out, ADDR_TEXT_MAX, ADDR_UNIX "@%.*s", len - 1, un->sun_path + 1);
    else
        (void)snprintf(out, ADDR_TEXT_MAX, ADDR_UNIX "%.*s", len, un->sun_path);
}

static void addr_format_in6(const struct addr *addr, char out[ADDR_TEXT_MAX])
{
    const struct sockaddr_in6 *in6 = &addr->sa.in6;
    char host[INET6_ADDRSTRLEN] = "";
    char scope[IF_NAMESIZE + 1] = "";

    (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
    if (in6->sin6_scope_id != 0) {
        scope[0] = '%';
        if (if_indextoname(in6->sin6_scope_id, scope + 1) == NULL)
            (void)snprintf(scope, sizeof(scope), "%%%u", in6->sin6_scope_id);
    }
    (void)snprintf(out, ADDR_TEXT_MAX, "[%s%s]:%u", host, scope, ntohs(in6->sin6_port));
}

void addr_format(const struct addr *addr, char out[ADDR_TEXT_MAX])
{
    char host[INET_ADDRSTRLEN] = "";

    if (addr->len == 0) {
        (void)snprintf(out, ADDR_TEXT_MAX, "none");
    } else if (addr->sa.any.sa_family == AF_UNIX) {
        addr_format_unix(addr, out);
    } else if (addr->sa.any.sa_family == AF_INET6) {
        addr_format_in6(addr, out);
    } else {
        (void)inet_ntop(AF_INET, &addr->sa.in4.sin_addr, host, sizeof(host));
        (void)snprintf(out, ADDR_TEXT_MAX, "%s:%u", host, ntohs(addr->sa.in4.sin_port));
    }
}

uint16_t addr_port(const struct addr *addr)
{
    if (addr->len == 0)
        return 0;
    if (addr->sa.any.sa_family == AF_INET)
        return ntohs(addr->sa.in4.sin_port);
    if (addr->sa.any.sa_family == AF_INET6)
        return ntohs(addr->sa.in6.sin6_port);
    return 0;
}

void addr_set_port(struct addr *addr, uint16_t port)
{
    if (addr->sa.any.sa_family == AF_INET)
        addr->sa.in4.sin_port = htons(port);
    else if (addr->sa.any.sa_family == AF_INET6)
        addr->sa.in6.sin6_port = htons(port);
}

bool addr_is_loopback(const struct addr *addr)
{
    const struct in6_addr *in6 = &addr->sa.in6.sin6_addr;

    if (addr->len == 0)
        return false;
    if (addr->sa.any.sa_family == AF_UNIX)
        return true;
    if (addr->sa.any.sa_family == AF_INET)
        return (ntohl(addr->sa.in4.sin_addr.s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
}

bool addr_equal(const struct addr *a, const struct addr *b)
{
    if (a->len == 0 || b->len == 0)
        return a->len == b->len;
    if (a->sa.any.sa_family != b->sa.any.sa_family)
        return false;
    if (a->sa.any.sa_family == AF_INET)
        return a->sa.in4.sin_port == b->sa.in4.sin_port &&
               a->sa.in4.sin_addr.s_addr == b->sa.in4.sin_addr.s_addr;
    if (a->sa.any.sa_family == AF_INET6)
        return a->sa.in6.sin6_port == b->sa.in6.sin6_port &&
               a->sa.in6.sin6_scope_id == b->sa.in6.sin6_scope_id &&
               memcmp(&a->sa.in6.sin6_addr, &b->sa.in6.sin6_addr, sizeof(struct in6_addr)) == 0;
    return a->len == b->len && memcmp(&a->sa.un, &b->sa.un, a->len) == 0;
}

err_t addr_of_local(int fd, struct addr *out)
{
    struct addr addr;

    memset(&addr, 0, sizeof(addr));
    addr.len = sizeof(addr.sa);
    if (getsockname(fd, &addr.sa.any, &addr.len) != 0)
        return FAIL(IO, errno);
    *out = addr;
    return OK;
}

err_t addr_of_peer(int fd, struct addr *out)
{
    struct addr addr;

    memset(&addr, 0, sizeof(addr));
    addr.len = sizeof(addr.sa);
    if (getpeername(fd, &addr.sa.any, &addr.len) != 0)
        return FAIL(IO, errno);
    *out = addr;
    return OK;
}
