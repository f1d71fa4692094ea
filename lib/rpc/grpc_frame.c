#include "lib/rpc/grpc_frame.h"

#include <inttypes.h>
#include <stdio.h>

#include "lib/base/mem.h"

#define GRPC_PREFIX_LEN 5 /* compressed flag, four bytes of length */
/* Bytes that may lie in a decoder beyond the message in hand: one feed of many small messages. */
#define GRPC_FEED_MAX ((size_t)1 << 20)
#define GRPC_TIMEOUT_DIGITS 8

static const char *const grpc_status_names[] = {
    [GRPC_OK] = "OK",
    [GRPC_CANCELLED] = "CANCELLED",
    [GRPC_UNKNOWN] = "UNKNOWN",
    [GRPC_INVALID_ARGUMENT] = "INVALID_ARGUMENT",
    [GRPC_DEADLINE_EXCEEDED] = "DEADLINE_EXCEEDED",
    [GRPC_NOT_FOUND] = "NOT_FOUND",
    [GRPC_ALREADY_EXISTS] = "ALREADY_EXISTS",
    [GRPC_PERMISSION_DENIED] = "PERMISSION_DENIED",
    [GRPC_RESOURCE_EXHAUSTED] = "RESOURCE_EXHAUSTED",
    [GRPC_FAILED_PRECONDITION] = "FAILED_PRECONDITION",
    [GRPC_ABORTED] = "ABORTED",
    [GRPC_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [GRPC_UNIMPLEMENTED] = "UNIMPLEMENTED",
    [GRPC_INTERNAL] = "INTERNAL",
    [GRPC_UNAVAILABLE] = "UNAVAILABLE",
    [GRPC_DATA_LOSS] = "DATA_LOSS",
    [GRPC_UNAUTHENTICATED] = "UNAUTHENTICATED",
};

const char *grpc_status_name(enum grpc_status status)
{
    size_t index = (size_t)status;

    if (index >= sizeof(grpc_status_names) / sizeof(grpc_status_names[0]))
        index = GRPC_UNKNOWN;
    return grpc_status_names[index];
}

/* Source: http-grpc-status-mapping. */
enum grpc_status grpc_status_of_http(int http_status)
{
    switch (http_status) {
    case 400:
    case 431:
        return GRPC_INTERNAL;
    case 401:
        return GRPC_UNAUTHENTICATED;
    case 403:
        return GRPC_PERMISSION_DENIED;
    case 404:
        return GRPC_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return GRPC_UNAVAILABLE;
    default:
        return GRPC_UNKNOWN;
    }
}

/* Source: PROTOCOL-HTTP2, "Errors". */
enum grpc_status grpc_status_of_rst(uint32_t h2_error)
{
    switch (h2_error) {
    case 0x7: /* REFUSED_STREAM: nothing was processed */
        return GRPC_UNAVAILABLE;
    case 0x8: /* CANCEL */
        return GRPC_CANCELLED;
    case 0xb: /* ENHANCE_YOUR_CALM */
        return GRPC_RESOURCE_EXHAUSTED;
    case 0xc: /* INADEQUATE_SECURITY */
        return GRPC_PERMISSION_DENIED;
    default:
        return GRPC_INTERNAL;
    }
}

void grpc_decoder_init(struct grpc_decoder *decoder, size_t max)
{
    if (max > BUF_MAX_DEFAULT)
        max = BUF_MAX_DEFAULT;
    *decoder = (struct grpc_decoder){.max = max};
    buf_init(&decoder->buf, max + GRPC_PREFIX_LEN + GRPC_FEED_MAX);
}

void grpc_decoder_fini(struct grpc_decoder *decoder)
{
    buf_wipe_fini(&decoder->buf);
    decoder->taken = 0;
}

/* Lets go of the message that the last grpc_decoder_next lent out, which may have had a key. */
static void grpc_decoder_drop(struct grpc_decoder *decoder)
{
    if (decoder->taken != 0)
        mem_wipe(decoder->buf.data + decoder->buf.pos, decoder->taken);
    buf_consume(&decoder->buf, decoder->taken);
    decoder->taken = 0;
}

/* Judges a whole prefix. */
static err_t grpc_decoder_prefix(const struct grpc_decoder *decoder, const uint8_t *prefix,
                                 size_t *out_len)
{
    size_t len = get_be32(prefix + 1);

    if (prefix[0] != 0) /* we never announce a compression, so nobody may use one */
        return FAIL(GRPC_FRAME, prefix[0]);
    if (len > decoder->max)
        return FAIL(TOO_LARGE, decoder->max);
    *out_len = len;
    return OK;
}

err_t grpc_decoder_feed(struct grpc_decoder *decoder, struct bytes data)
{
    uint8_t prefix[GRPC_PREFIX_LEN];
    struct bytes have;
    size_t len;

    grpc_decoder_drop(decoder);
    have = buf_view(&decoder->buf);
    /* The first prefix is judged before its message is kept. */
    if (have.len < GRPC_PREFIX_LEN && have.len + data.len >= GRPC_PREFIX_LEN) {
        if (have.len != 0)
            memcpy(prefix, have.ptr, have.len);
        memcpy(prefix + have.len, data.ptr, GRPC_PREFIX_LEN - have.len);
        TRY(grpc_decoder_prefix(decoder, prefix, &len));
    }
    return buf_add(&decoder->buf, data.ptr, data.len);
}

err_t grpc_decoder_next(struct grpc_decoder *decoder, struct bytes *out)
{
    struct bytes have;
    size_t len;

    grpc_decoder_drop(decoder);
    have = buf_view(&decoder->buf);
    if (have.len < GRPC_PREFIX_LEN)
        return AGAIN;
    TRY(grpc_decoder_prefix(decoder, have.ptr, &len));
    if (have.len - GRPC_PREFIX_LEN < len)
        return AGAIN;
    *out = bytes_of(have.ptr + GRPC_PREFIX_LEN, len);
    decoder->taken = GRPC_PREFIX_LEN + len;
    return OK;
}

bool grpc_decoder_idle(const struct grpc_decoder *decoder)
{
    return buf_size(&decoder->buf) == decoder->taken;
}

err_t grpc_frame_add(struct buf *out, struct bytes message)
{
    uint8_t *to;

    if (message.len > UINT32_MAX)
        return FAIL(TOO_LARGE, INT32_MAX);
    TRY(buf_reserve(out, GRPC_PREFIX_LEN + message.len, &to));
    to[0] = 0;
    put_be32(to + 1, (uint32_t)message.len);
    if (message.len != 0)
        memcpy(to + GRPC_PREFIX_LEN, message.ptr, message.len);
    buf_commit(out, GRPC_PREFIX_LEN + message.len);
    return OK;
}

err_t grpc_timeout_parse(struct bytes text, uint64_t *out_ms)
{
    uint64_t value = 0;

    if (text.len < 2 || text.len > GRPC_TIMEOUT_DIGITS + 1)
        return FAIL(SYNTAX, 0);
    for (size_t i = 0; i < text.len - 1; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return FAIL(SYNTAX, i);
        value = value * 10 + (uint64_t)(text.ptr[i] - '0');
    }
    /* Eight digits of hours are 3.6e14 ms: nothing overflows. Parts of a millisecond round up. */
    switch (text.ptr[text.len - 1]) {
    case 'H':
        value *= 3600000;
        break;
    case 'M':
        value *= 60000;
        break;
    case 'S':
        value *= 1000;
        break;
    case 'm':
        break;
    case 'u':
        value = (value + 999) / 1000;
        break;
    case 'n':
        value = (value + 999999) / 1000000;
        break;
    default:
        return FAIL(SYNTAX, text.len - 1);
    }
    *out_ms = value;
    return OK;
}

void grpc_timeout_format(uint64_t ms, char out[16])
{
    static const struct {
        uint64_t ms;
        char name;
    } units[] = {{1, 'm'}, {1000, 'S'}, {60000, 'M'}, {3600000, 'H'}};
    uint64_t value = 99999999;
    char unit = 'H';

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        /* Rounded up: the other end must not give up before we do. */
        uint64_t in_unit = ms / units[i].ms + (ms % units[i].ms != 0);

        if (in_unit <= 99999999) {
            value = in_unit;
            unit = units[i].name;
            break;
        }
    }
    (void)snprintf(out, 16, "%" PRIu64 "%c", value, unit);
}

static int grpc_hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

err_t grpc_message_encode(const char *text, struct buf *out)
{
    static const char digits[] = "0123456789ABCDEF";

    for (; *text != '\0'; text++) {
        uint8_t c = (uint8_t)*text;
        char escape[3] = {'%', digits[c >> 4], digits[c & 15]};

        if (c >= 0x20 && c <= 0x7e && c != '%')
            TRY(buf_add(out, &c, 1));
        else
            TRY(buf_add(out, escape, sizeof(escape)));
    }
    return OK;
}

err_t grpc_message_decode(struct bytes text, struct buf *out)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.ptr[i];

        if (c == '%' && text.len - i > 2) {
            int high = grpc_hex_value(text.ptr[i + 1]), low = grpc_hex_value(text.ptr[i + 2]);

            if (high >= 0 && low >= 0) {
                c = (uint8_t)(high << 4 | low);
                i += 2;
            }
        }
        TRY(buf_add(out, &c, 1));
    }
    return OK;
}
