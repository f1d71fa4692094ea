/* addr: socket addresses as values: parse, format, compare. IPv4, IPv6 and Unix sockets. */
#ifndef MORTISE_LIB_NET_ADDR_H
#define MORTISE_LIB_NET_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/base/err.h"

struct addr {
    socklen_t len; /* 0: none */
    union {
        struct sockaddr any;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    } sa;
};

#define ADDR_TEXT_MAX 128

/* addr_parse reads "127.0.0.1:80", "[::1]:80" (also with a scope, "[fe80::1%eth0]:80"),
 * "unix:/path". A name is no address here. Errors: ADDR_SYNTAX. */
MUST_CHECK err_t addr_parse(const char *text, struct addr *out);
/* addr_split_host parts "name:port" or any of the above without resolving; host is NUL-ended, at
 * most 255 bytes. Errors: ADDR_SYNTAX. */
MUST_CHECK err_t addr_split_host(const char *text, char host[256], uint16_t *out_port);
/* addr_format writes what addr_parse reads. */
void addr_format(const struct addr *addr, char out[ADDR_TEXT_MAX]);
uint16_t addr_port(const struct addr *addr);
void addr_set_port(struct addr *addr, uint16_t port);
/* addr_is_loopback: 127.0.0.0/8, ::1, ::ffff:127.0.0.0/104, or a Unix socket. */
bool addr_is_loopback(const struct addr *addr);
bool addr_equal(const struct addr *a, const struct addr *b);
/* addr_of_socket: our own (local) or the other end's address of a connected descriptor. */
MUST_CHECK err_t addr_of_local(int fd, struct addr *out);
MUST_CHECK err_t addr_of_peer(int fd, struct addr *out);

#endif
