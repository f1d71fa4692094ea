/* What callers are told: a status for each kind of error, and of strangers' errors the name alone.
 * Without it: a sidecar retries for ever what can never succeed, or a stranger learns of the
 * inside. Drives: R62. */
#include "control/reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_statuses(void **state)
{
    static const struct {
        err_t err;
        enum grpc_status status;
    } rows[] = {
        {{E_OK, 0, ""}, GRPC_OK},
        {{E_TOKEN_UNKNOWN, 0, ""}, GRPC_PERMISSION_DENIED},
        {{E_TOKEN_EXPIRED, 0, ""}, GRPC_PERMISSION_DENIED},
        {{E_TOKEN_USED, 0, ""}, GRPC_PERMISSION_DENIED},
        {{E_PEER_DENIED, 0, ""}, GRPC_PERMISSION_DENIED},
        {{E_RATE_LIMITED, 0, ""}, GRPC_RESOURCE_EXHAUSTED},
        {{E_CSR_SIGNATURE, 0, ""}, GRPC_INVALID_ARGUMENT},
        {{E_KEY_WEAK, 0, ""}, GRPC_INVALID_ARGUMENT},
        {{E_KEY_REUSED, 0, ""}, GRPC_INVALID_ARGUMENT},
        {{E_STORE_UNWRITABLE, 0, ""}, GRPC_FAILED_PRECONDITION},
        {{E_CLOCK_BACKWARDS, 0, ""}, GRPC_FAILED_PRECONDITION},
        {{E_CA_CANNOT_SIGN, 0, ""}, GRPC_FAILED_PRECONDITION},
        {{E_STORE_CONFLICT, 0, ""}, GRPC_ABORTED},
        {{E_NOT_FOUND, 0, ""}, GRPC_NOT_FOUND},
        {{E_TIMEOUT, 0, ""}, GRPC_DEADLINE_EXCEEDED},
        {{E_BUG, 0, ""}, GRPC_INTERNAL},
        {{E_STORE_CORRUPT, 0, ""}, GRPC_INTERNAL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(reply_status(rows[i].err), rows[i].status);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
