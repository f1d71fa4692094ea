#include "control/reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/mem.h"

enum grpc_status reply_status(err_t err)
{
    /* Every other code is a fault of ours. */
    switch ((int)err.code) {
    case E_OK:
        return GRPC_OK;
    case E_TOKEN_UNKNOWN:
    case E_TOKEN_EXPIRED:
    case E_TOKEN_USED:
    case E_TOKEN_UNBOUND:
    case E_JWT_SYNTAX:
    case E_JWT_ALGORITHM:
    case E_JWT_CRITICAL:
    case E_JWT_TYPE:
    case E_JWT_KEY_UNKNOWN:
    case E_JWT_SIGNATURE:
    case E_JWT_CLAIM:
    case E_JWT_ISSUER:
    case E_JWT_AUDIENCE:
    case E_JWT_EXPIRED:
    case E_JWT_NOT_YET_VALID:
    case E_JWT_UNWANTED:
    case E_PEER_DENIED:
    case E_PEER_REVOKED:
    case E_PERMISSION:
    case E_CERT_EXPIRED:
    case E_REJOIN_UNKNOWN:
    case E_REJOIN_LATE:
    case E_REJOIN_REPLACED:
    case E_PROOF_INVALID:
        return GRPC_PERMISSION_DENIED;
    case E_RATE_LIMITED:
    case E_LIMIT:
        return GRPC_RESOURCE_EXHAUSTED;
    case E_CSR_SYNTAX:
    case E_CSR_SIGNATURE:
    case E_CERT_SYNTAX:
    case E_KEY_WEAK:
    case E_KEY_REUSED:
    case E_TOO_LARGE:
    case E_CONFIG_INVALID:
    case E_SPIFFE_SYNTAX:
    case E_ADDR_SYNTAX:
    case E_SYNTAX:
        return GRPC_INVALID_ARGUMENT;
    case E_STORE_UNWRITABLE:
    case E_CA_CANNOT_SIGN:
    case E_CLOCK_BACKWARDS:
    case E_TOO_LATE:
        return GRPC_FAILED_PRECONDITION;
    case E_STORE_CONFLICT:
        return GRPC_ABORTED;
    case E_NOT_FOUND:
        return GRPC_NOT_FOUND;
    case E_EXISTS:
        return GRPC_ALREADY_EXISTS;
    case E_TIMEOUT:
        return GRPC_DEADLINE_EXCEEDED;
    default:
        return GRPC_INTERNAL;
    }
}

void reply_code(struct grpc_call *call, err_t err)
{
    grpc_call_finish(call, reply_status(err), err_name(err.code));
}

void reply_error(struct grpc_call *call, err_t err)
{
    reply_text(call, reply_status(err), "%s: %s", err_name(err.code), err_text(err.code));
}

void reply_text(struct grpc_call *call, enum grpc_status status, const char *format, ...)
{
    char text[REPLY_TEXT_MAX + 1];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    grpc_call_finish(call, status, text);
}

void reply_faults(struct grpc_call *call, const struct faults *faults)
{
    char text[REPLY_TEXT_MAX + 1];
    size_t len = 0, told = 0;

    for (; told < faults->num; told++) {
        const struct fault *fault = &faults->items[told];
        /* Room is kept for the last line. */
        int more = snprintf(text + len, sizeof(text) - 32 - len, "%s%s: %s", told > 0 ? "\n" : "",
                            fault->path, fault->message);

        CHECK(more > 0);
        if ((size_t)more >= sizeof(text) - 32 - len) {
            text[len] = '\0';
            break;
        }
        len += (size_t)more;
    }
    if (told < faults->total)
        (void)snprintf(text + len, sizeof(text) - len, "\nand %zu more", faults->total - told);
    grpc_call_finish(call, GRPC_INVALID_ARGUMENT, text);
}
