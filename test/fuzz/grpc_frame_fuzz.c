/* gRPC framing and texts: the same messages come out however the bytes are cut, and no text of a
 * peer breaks the parsers of timeouts and messages. The first byte says where it is cut. Drives:
 * R75, R76. */
#include "lib/rpc/grpc_frame.h"

#include "lib/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MESSAGE_MAX 4096

/* Decodes `in` in steps of `step` bytes; the messages with their lengths go to `out`. */
static enum err_code decode(struct bytes in, size_t step, struct buf *out)
{
    struct grpc_decoder decoder;
    err_t err = OK;

    grpc_decoder_init(&decoder, MESSAGE_MAX);
    while (in.len != 0 && (err_is_ok(err) || err_is(err, E_AGAIN))) {
        size_t len = in.len < step ? in.len : step;
        struct bytes message;

        err = grpc_decoder_feed(&decoder, bytes_of(in.ptr, len));
        while (err_is_ok(err)) {
            err = grpc_decoder_next(&decoder, &message);
            if (err_is_ok(err)) {
                CHECK(message.len <= MESSAGE_MAX);
                CHECK(err_is_ok(grpc_frame_add(out, message)));
            }
        }
        CHECK(buf_size(&decoder.buf) <= MESSAGE_MAX + 5 + step);
        in.ptr += len;
        in.len -= len;
    }
    grpc_decoder_fini(&decoder);
    return err.code;
}

static void texts(struct bytes in)
{
    struct buf decoded = {NULL, 0, 0, 0, 0}, encoded = {NULL, 0, 0, 0, 0},
               again = {NULL, 0, 0, 0, 0};
    uint64_t ms;
    char text[16], *message;

    if (err_is_ok(grpc_timeout_parse(in, &ms))) {
        uint64_t back;

        grpc_timeout_format(ms, text);
        CHECK(err_is_ok(grpc_timeout_parse(bytes_of_str(text), &back)) && back >= ms);
    }
    CHECK(err_is_ok(grpc_message_decode(in, &decoded)));
    message = buf_take_str(&decoded);
    CHECK(err_is_ok(grpc_message_encode(message, &encoded)));
    CHECK(err_is_ok(grpc_message_decode(buf_view(&encoded), &again)));
    CHECK(bytes_equal_str(buf_view(&again), message));
    mem_free(message);
    buf_fini(&encoded);
    buf_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf whole = {NULL, 0, 0, 0, 0}, cut = {NULL, 0, 0, 0, 0};
    enum err_code one, other;

    if (size == 0)
        return 0;
    one = decode(bytes_of(data + 1, size - 1), size, &whole);
    other = decode(bytes_of(data + 1, size - 1), data[0] % 16 + 1u, &cut);
    CHECK(one == other);
    CHECK(bytes_equal(buf_view(&whole), buf_view(&cut)));
    buf_fini(&whole);
    buf_fini(&cut);
    texts(bytes_of(data + 1, size - 1));
    return 0;
}
