#include "lib/net/cidr.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#define CIDR_BITS(family) ((family) == AF_INET ? 32U : 128U)

/* The first `bits` bits of both are the same. */
static bool cidr_same(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    uint8_t mask = (uint8_t)(0xff00U >> rest);

    if (memcmp(a, b, whole) != 0)
        return false;
    return rest == 0 || ((a[whole] ^ b[whole]) & mask) == 0;
}

static bool cidr_is_mapped(const uint8_t in6[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    return memcmp(in6, mapped, sizeof(mapped)) == 0;
}

/* Decimal digits without a leading zero, 0 to `max`. */
static err_t cidr_parse_prefix(const char *text, unsigned max, uint8_t *out)
{
    unsigned value = 0;

    if (text[0] == '\0' || (text[0] == '0' && text[1] != '\0'))
        return FAIL(ADDR_SYNTAX, 0);
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return FAIL(ADDR_SYNTAX, 0);
        value = value * 10 + (unsigned)(*text - '0');
        if (value > max)
            return FAIL(ADDR_SYNTAX, 0);
    }
    *out = (uint8_t)value;
    return OK;
}

err_t cidr_parse(const char *text, struct cidr *out)
{
    static const uint8_t zero[16];
    struct cidr cidr = {.family = strchr(text, ':') == NULL ? AF_INET : AF_INET6};
    const unsigned bits = CIDR_BITS(cidr.family);
    const char *slash = strchr(text, '/');
    const size_t len = slash == NULL ? strlen(text) : (size_t)(slash - text);
    char host[INET6_ADDRSTRLEN];
    struct cidr ends;

    if (len >= sizeof(host))
        return FAIL(ADDR_SYNTAX, 0);
    memcpy(host, text, len);
    host[len] = '\0';
    if (inet_pton(cidr.family, host, cidr.bytes) != 1)
        return FAIL(ADDR_SYNTAX, 0);
    cidr.prefix = (uint8_t)bits;
    if (slash != NULL)
        TRY(cidr_parse_prefix(slash + 1, bits, &cidr.prefix));
    if (cidr.family == AF_INET6 && cidr.prefix >= 96 && cidr_is_mapped(cidr.bytes))
        return FAIL(ADDR_SYNTAX, 0);
    ends = cidr;
    for (unsigned bit = 0; bit < cidr.prefix; bit++)
        ends.bytes[bit / 8] &= (uint8_t) ~(0x80U >> (bit % 8));
    if (memcmp(ends.bytes, zero, sizeof(zero)) != 0)
        return FAIL(ADDR_SYNTAX, 0);
    *out = cidr;
    return OK;
}

err_t cidr_parse_port(const char *text, struct cidr *out, uint16_t *out_port)
{
    const bool bracket = text[0] == '[';
    const char *begin = bracket ? text + 1 : text;
    const char *end = strchr(begin, bracket ? ']' : ':');
    char range[CIDR_TEXT_MAX];
    char port_text[16];
    struct cidr cidr;
    struct addr port;

    if (end == NULL || (size_t)(end - begin) >= sizeof(range) || (bracket && end[1] != ':'))
        return FAIL(ADDR_SYNTAX, 0);
    memcpy(range, begin, (size_t)(end - begin));
    range[end - begin] = '\0';
    /* The port is read as an address's is. */
    if (snprintf(port_text, sizeof(port_text), "0.0.0.0%s", bracket ? end + 1 : end) >=
        (int)sizeof(port_text))
        return FAIL(ADDR_SYNTAX, 0);
    TRY(cidr_parse(range, &cidr));
    TRY(addr_parse(port_text, &port));
    if (addr_port(&port) == 0 || (cidr.family == AF_INET6) != bracket)
        return FAIL(ADDR_SYNTAX, 0);
    *out = cidr;
    *out_port = addr_port(&port);
    return OK;
}

void cidr_format(const struct cidr *cidr, char out[CIDR_TEXT_MAX])
{
    char host[INET6_ADDRSTRLEN] = "";

    (void)inet_ntop(cidr->family, cidr->bytes, host, sizeof(host));
    (void)snprintf(out, CIDR_TEXT_MAX, "%s/%u", host, cidr->prefix);
}

bool cidr_holds_addr(const struct cidr *cidr, const struct addr *addr)
{
    const uint8_t *in6 = addr->sa.in6.sin6_addr.s6_addr;
    uint8_t in4[4];

    if (addr->len == 0)
        return false;
    if (addr->sa.any.sa_family == AF_INET)
        memcpy(in4, &addr->sa.in4.sin_addr, sizeof(in4));
    else if (addr->sa.any.sa_family == AF_INET6 && cidr_is_mapped(in6))
        memcpy(in4, in6 + 12, sizeof(in4));
    else
        return addr->sa.any.sa_family == AF_INET6 && cidr->family == AF_INET6 &&
               cidr_same(cidr->bytes, in6, cidr->prefix);
    return cidr->family == AF_INET && cidr_same(cidr->bytes, in4, cidr->prefix);
}

static const struct cidr cidr_loopback4 = {.family = AF_INET, .prefix = 8, .bytes = {127}};
static const struct cidr cidr_loopback6 = {.family = AF_INET6, .prefix = 128, .bytes = {[15] = 1}};

bool cidr_meets_loopback(const struct cidr *cidr)
{
    const struct cidr *loopback = cidr->family == AF_INET ? &cidr_loopback4 : &cidr_loopback6;

    return cidr_holds(loopback, cidr) || cidr_holds(cidr, loopback);
}

bool cidr_is_on_link(const struct cidr *cidr)
{
    static const struct cidr local4 = {.family = AF_INET, .prefix = 16, .bytes = {169, 254}};
    static const struct cidr local6 = {.family = AF_INET6, .prefix = 10, .bytes = {0xfe, 0x80}};

    return cidr_holds(&cidr_loopback4, cidr) || cidr_holds(&cidr_loopback6, cidr) ||
           cidr_holds(&local4, cidr) || cidr_holds(&local6, cidr);
}

bool cidr_holds(const struct cidr *outer, const struct cidr *inner)
{
    return outer->family == inner->family && outer->prefix <= inner->prefix &&
           cidr_same(outer->bytes, inner->bytes, outer->prefix);
}
