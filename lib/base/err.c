#include "lib/base/err.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define ERR_NAME_MAX 32

static const struct {
    const char *code;
    const char *text;
    enum err_fault fault;
} err_rows[E_NUM] = {
    [E_OK] = {"OK", "no error", ERR_FAULT_NONE},
#define X(code, fault, text) [E_##code] = {#code, text, ERR_FAULT_##fault},
#include "lib/base/err_tbl.h"
#undef X
};

static char err_names[E_NUM][ERR_NAME_MAX];

/* Before main, so that err_name needs neither a lock nor a second column in the table. */
__attribute__((constructor)) static void err_fill_names(void)
{
    for (unsigned i = 0; i < E_NUM; i++) {
        const char *code = err_rows[i].code;
        size_t len = 0;

        for (; code[len] != '\0'; len++) {
            CHECK(len + 1 < ERR_NAME_MAX);
            err_names[i][len] = (char)tolower((unsigned char)code[len]);
        }
        err_names[i][len] = '\0';
    }
}

const char *err_name(enum err_code code)
{
    return (unsigned)code < E_NUM ? err_names[code] : "unknown";
}

const char *err_text(enum err_code code)
{
    return (unsigned)code < E_NUM ? err_rows[code].text : "unknown error";
}

enum err_fault err_fault(enum err_code code)
{
    return (unsigned)code < E_NUM ? err_rows[code].fault : ERR_FAULT_BUG;
}

static enum err_code err_code_of_errno(int value)
{
    switch (value) {
    case EAGAIN:
#if EWOULDBLOCK != EAGAIN
    case EWOULDBLOCK:
#endif
        return E_AGAIN;
    case ENOMEM:
    case ENOBUFS:
        return E_NO_MEMORY;
    case ECANCELED:
        return E_CANCELLED;
    case ENOENT:
        return E_NOT_FOUND;
    case EEXIST:
        return E_EXISTS;
    case EACCES:
    case EPERM:
        return E_PERMISSION;
    case EMFILE:
    case ENFILE:
        return E_FD_EXHAUSTED;
    case EADDRINUSE:
        return E_ADDR_IN_USE;
    case ECONNREFUSED:
        return E_CONNECT_REFUSED;
    case ETIMEDOUT:
        return E_TIMEOUT;
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETDOWN:
    case EADDRNOTAVAIL:
        return E_CONNECT_FAILED;
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
        return E_PEER_RESET;
    default:
        return E_IO;
    }
}

err_t err_from_errno(int value, const char *where)
{
    return (err_t){err_code_of_errno(value), value, where};
}

void err_check_failed(const char *cond, const char *where)
{
    (void)fprintf(stderr, "mortise: bug: %s does not hold at %s\n", cond, where);
    abort();
}
