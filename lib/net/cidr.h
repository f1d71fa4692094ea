/* cidr: ranges of IP addresses as values (RFC 4632, RFC 4291 section 2.3). */
#ifndef MORTISE_LIB_NET_CIDR_H
#define MORTISE_LIB_NET_CIDR_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/net/addr.h"

struct cidr {
    uint8_t family; /* AF_INET or AF_INET6 */
    uint8_t prefix; /* bits */
    uint8_t bytes[16];
};

#define CIDR_TEXT_MAX 64

/* cidr_parse reads "10.0.0.0/8", "fd00::/8", or one address without a prefix. Bits behind the
 * prefix must be 0: "10.0.0.7/8" is as likely meant to be 10.0.0.7 as 10.0.0.0/8. An IPv4 address
 * in IPv6's clothes (::ffff:10.0.0.7) is refused for the same reason. Errors: ADDR_SYNTAX. */
MUST_CHECK err_t cidr_parse(const char *text, struct cidr *out);

/* cidr_parse_port reads one with a port behind it, 1 to 65535: "10.0.0.7:8080", "10.1.0.0/16:8080",
 * "[fd00::7]:8080", "[fd00::/64]:8080". Errors: ADDR_SYNTAX. */
MUST_CHECK err_t cidr_parse_port(const char *text, struct cidr *out, uint16_t *out_port);

/* cidr_format writes what cidr_parse reads, always with the prefix. */
void cidr_format(const struct cidr *cidr, char out[CIDR_TEXT_MAX]);

/* cidr_holds_addr: the address is in the range, whatever its port and scope; ::ffff:10.0.0.7 counts
 * as 10.0.0.7. */
bool cidr_holds_addr(const struct cidr *cidr, const struct addr *addr);

/* cidr_meets_loopback: some of 127.0.0.0/8 or ::1 is in it. cidr_is_on_link: all of it is loopback,
 * or link-local (fe80::/10, 169.254.0.0/16). */
bool cidr_meets_loopback(const struct cidr *cidr);
bool cidr_is_on_link(const struct cidr *cidr);

/* cidr_holds: all of `inner` is in `outer`. */
bool cidr_holds(const struct cidr *outer, const struct cidr *inner);

#endif
