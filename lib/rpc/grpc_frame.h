/* grpc_frame: gRPC's length-prefixed messages, status and timeout texts. Pure.
 * Source: gRPC over HTTP/2 (PROTOCOL-HTTP2), statuscodes. */
#ifndef MORTISE_LIB_RPC_GRPC_FRAME_H
#define MORTISE_LIB_RPC_GRPC_FRAME_H

#include "lib/base/buf.h"
#include "lib/base/err.h"

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_ABORTED = 10,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_DATA_LOSS = 15,
    GRPC_UNAUTHENTICATED = 16,
};

/* grpc_status_name: "NOT_FOUND"; "UNKNOWN" for a number that is none. */
const char *grpc_status_name(enum grpc_status status);
enum grpc_status grpc_status_of_http(int http_status);
enum grpc_status grpc_status_of_rst(uint32_t h2_error);

/* grpc_decoder cuts DATA bytes into messages of at most `max` bytes. */
struct grpc_decoder {
    struct buf buf;
    size_t max;
    size_t taken; /* bytes of the message lent out, gone with the next call */
};
void grpc_decoder_init(struct grpc_decoder *decoder, size_t max);
void grpc_decoder_fini(struct grpc_decoder *decoder);
/* grpc_decoder_feed takes bytes; grpc_decoder_next gives the next whole message (borrowed until the
 * next call of either) or AGAIN. Errors: TOO_LARGE (the announced length, before anything is kept),
 * GRPC_FRAME (compressed flag). */
MUST_CHECK err_t grpc_decoder_feed(struct grpc_decoder *decoder, struct bytes data);
MUST_CHECK err_t grpc_decoder_next(struct grpc_decoder *decoder, struct bytes *out);
/* True when no half message is waiting. */
bool grpc_decoder_idle(const struct grpc_decoder *decoder);

MUST_CHECK err_t grpc_frame_add(struct buf *out, struct bytes message);

/* grpc-timeout: at most 8 digits and H M S m u n; saturates. Errors: SYNTAX. */
MUST_CHECK err_t grpc_timeout_parse(struct bytes text, uint64_t *out_ms);
void grpc_timeout_format(uint64_t ms, char out[16]);
/* grpc-message: percent-encoding. decode never fails: bad escapes stay as they are. */
MUST_CHECK err_t grpc_message_encode(const char *text, struct buf *out);
MUST_CHECK err_t grpc_message_decode(struct bytes text, struct buf *out);

#endif
