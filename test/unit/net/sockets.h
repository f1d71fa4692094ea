/* sockets: raw descriptors for the other end of what is tested. */
#ifndef MORTISE_TEST_UNIT_NET_SOCKETS_H
#define MORTISE_TEST_UNIT_NET_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/net/addr.h"

/* sockets_listen returns a non-blocking listener on 127.0.0.1 and its address. */
int sockets_listen(int backlog, struct addr *out);
/* sockets_pair connects two TCP sockets over loopback, both non-blocking. */
void sockets_pair(int fd[2]);
/* sockets_set_send_buffer makes the kernel's buffer for sending that small, or as small as it lets.
 */
void sockets_set_send_buffer(int fd, int bytes);
/* sockets_reset closes `fd` with RST. */
void sockets_reset(int fd);
/* sockets_fill writes `len` bytes of the pattern from `offset` on, as far as the kernel takes them.
 */
size_t sockets_fill(int fd, uint64_t offset, size_t len);
/* sockets_drain reads at most `len` bytes and checks the pattern; what was read, 0 at the end,
 * SIZE_MAX when there is nothing now. */
size_t sockets_drain(int fd, uint64_t offset, size_t len);

/* The pattern: byte i of any stream of these tests. */
static inline uint8_t pattern_byte(uint64_t i)
{
    return (uint8_t)(i ^ i >> 8 ^ i >> 16 ^ i >> 24);
}
void pattern_fill(uint8_t *out, uint64_t offset, size_t len);
bool pattern_holds(const uint8_t *data, uint64_t offset, size_t len);

#endif
