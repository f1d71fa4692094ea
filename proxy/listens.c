#include "proxy/listens.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/mem.h"

#define LISTENS_STATE 0x0a /* TCP_LISTEN */

/* The words of an address as the kernel prints them: each of 32 bits, by the host's order. */
static bool listens_takes(const uint32_t *words, size_t num, const struct addr *addr)
{
    static const uint32_t any[4];
    uint32_t mapped[3] = {0, 0, htonl(0xffff)};
    const struct in6_addr *in6 = &addr->sa.in6.sin6_addr;

    if (memcmp(words, any, num * sizeof(*words)) == 0)
        return num == 4 || addr->sa.any.sa_family == AF_INET; /* [::] takes both, as a rule */
    if (addr->sa.any.sa_family == AF_INET && num == 1)
        return words[0] == addr->sa.in4.sin_addr.s_addr;
    if (addr->sa.any.sa_family == AF_INET)
        return memcmp(words, mapped, sizeof(mapped)) == 0 &&
               words[3] == addr->sa.in4.sin_addr.s_addr;
    return num == 4 && memcmp(words, in6, sizeof(*in6)) == 0;
}

/* Reads hexadecimal digits, just so many. */
static bool listens_hex(const char **at, size_t digits, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < digits; i++, (*at)++) {
        char c = **at;

        if (c >= '0' && c <= '9')
            *out = *out << 4 | (uint32_t)(c - '0');
        else if (c >= 'A' && c <= 'F')
            *out = *out << 4 | (uint32_t)(c - 'A' + 10);
        else
            return false;
    }
    return true;
}

static bool listens_skip(const char **at, const char *until)
{
    *at = strstr(*at, until);
    if (*at == NULL)
        return false;
    *at += strlen(until);
    return true;
}

/* "   0: 0100007F:1F92 00000000:0000 0A …" */
bool listens_line(const char *line, const struct addr *addr)
{
    uint32_t words[4] = {0}, port, state;
    size_t num = 0;

    if (!listens_skip(&line, ": "))
        return false;
    while (num < ARRAY_LEN(words) && *line != ':') {
        if (!listens_hex(&line, 8, &words[num++]))
            return false;
    }
    if ((num != 1 && num != 4) || *line++ != ':' || !listens_hex(&line, 4, &port) ||
        !listens_skip(&line, " ") || !listens_skip(&line, " ") || !listens_hex(&line, 2, &state))
        return false;
    return state == LISTENS_STATE && port == addr_port(addr) && listens_takes(words, num, addr);
}

static enum listens listens_in(const char *path, const struct addr *addr)
{
    FILE *file = fopen(path, "re");
    enum listens found = LISTENS_NO;
    char line[512];

    if (file == NULL)
        return LISTENS_UNKNOWN;
    for (unsigned i = 0; found == LISTENS_NO && fgets(line, sizeof(line), file) != NULL; i++) {
        if (listens_line(line, addr))
            found = LISTENS_YES;
        else if (i == LISTENS_LINES_MAX)
            found = LISTENS_UNKNOWN;
    }
    (void)fclose(file);
    return found;
}

enum listens listens_at(const struct addr *addr)
{
    static const char *const paths[] = {"/proc/self/net/tcp", "/proc/self/net/tcp6"};
    enum listens found = LISTENS_NO;

    for (size_t i = 0; i < ARRAY_LEN(paths) && found != LISTENS_YES; i++) {
        enum listens here = listens_in(paths[i], addr);

        if (here != LISTENS_NO && !(i == 1 && here == LISTENS_UNKNOWN)) /* IPv6 may be off */
            found = here;
    }
    return found;
}
