/* reply turns errors into gRPC statuses, the same way in every service. */
#ifndef MORTISE_CONTROL_REPLY_H
#define MORTISE_CONTROL_REPLY_H

#include "lib/base/err.h"
#include "lib/base/faults.h"
#include "lib/rpc/grpc_server.h"

/* What fits a status message: grpc_server cuts there. */
#define REPLY_TEXT_MAX 4000

enum grpc_status reply_status(err_t err);

/* reply_code ends a call with the error's stable name and nothing else: for callers that have not
 * proven who they are. */
void reply_code(struct grpc_call *call, err_t err);

/* reply_error ends an operator's call: "store_unwritable: store cannot be written". */
void reply_error(struct grpc_call *call, err_t err);

/* reply_text ends a call with a text of its own. */
void reply_text(struct grpc_call *call, enum grpc_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* reply_faults ends a call with INVALID_ARGUMENT and a line for each fault; those that do not fit
 * are counted in the last line. */
void reply_faults(struct grpc_call *call, const struct faults *faults);

#endif
