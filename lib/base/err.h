/* err is the error value of the whole project: what went wrong, a detail number, and where.
 *
 * `return FAIL(SVID_EXPIRED, seconds);` makes one, `TRY(call)` passes it up; whoever owns the
 * consequence logs it once and counts it. Would-block is AGAIN, which is no error to report. The
 * codes with their texts and who is at fault stand in err_tbl.h. */
#ifndef MORTISE_LIB_BASE_ERR_H
#define MORTISE_LIB_BASE_ERR_H

#include <stdbool.h>
#include <stdint.h>

#define MUST_CHECK __attribute__((warn_unused_result))

/* Who has to act on an error. */
enum err_fault {
    ERR_FAULT_NONE,
    ERR_FAULT_PEER,     /* the other end of a connection */
    ERR_FAULT_OPERATOR, /* configuration, files, arguments */
    ERR_FAULT_SYSTEM,   /* kernel, disk, network, out of a resource */
    ERR_FAULT_BUG,      /* us */
};

enum err_code {
    E_OK = 0,
#define X(code, fault, text) E_##code,
#include "lib/base/err_tbl.h"
#undef X
    E_NUM,
};

/* err_t: `sub` is errno, TLS alert, X509_V_ERR, gRPC status or a number, as the code's row says. */
typedef struct err {
    enum err_code code;
    int32_t sub;
    const char *where; /* static "file:line" */
} err_t;

#define ERR_STR2(x) #x
#define ERR_STR(x) ERR_STR2(x)
#define ERR_WHERE __FILE__ ":" ERR_STR(__LINE__)

#define OK ((err_t){E_OK, 0, NULL})
#define AGAIN ((err_t){E_AGAIN, 0, NULL})
#define FAIL(name, detail) ((err_t){E_##name, (int32_t)(detail), ERR_WHERE})

/* TRY returns the error of `expr` from the calling function, if it is one. */
#define TRY(expr)                  \
    do {                           \
        err_t try_err_ = (expr);   \
        if (try_err_.code != E_OK) \
            return try_err_;       \
    } while (0)

static inline bool err_is_ok(err_t err)
{
    return err.code == E_OK;
}

static inline bool err_is(err_t err, enum err_code code)
{
    return err.code == code;
}

/* err_name returns the stable lower-case name for logs, metrics and the wire: "svid_expired". */
const char *err_name(enum err_code code);

/* err_text returns the sentence for people: "certificate expired". */
const char *err_text(enum err_code code);

enum err_fault err_fault(enum err_code code);

/* err_from_errno maps an errno value of a socket or file call to a code, `sub` = the value. */
err_t err_from_errno(int value, const char *where);
#define FAIL_ERRNO(value) err_from_errno((value), ERR_WHERE)

/* CHECK stops the process with a message when `cond` does not hold: for what only our own bug can
 * break; it stays in release builds. Never for bytes from a peer, a file or the environment. */
#define CHECK(cond)                             \
    do {                                        \
        if (__builtin_expect(!(cond), 0))       \
            err_check_failed(#cond, ERR_WHERE); \
    } while (0)
_Noreturn void err_check_failed(const char *cond, const char *where);

#endif
