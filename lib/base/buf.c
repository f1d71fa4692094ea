#include "lib/base/buf.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>

#include "lib/base/mem.h"

#define BUF_CAP_MIN 64

static size_t buf_max(const struct buf *buf)
{
    return buf->max != 0 ? buf->max : BUF_MAX_DEFAULT;
}

static void buf_compact(struct buf *buf)
{
    size_t size = buf_size(buf);

    if (buf->pos != 0 && size != 0)
        memmove(buf->data, buf->data + buf->pos, size);
    buf->pos = 0;
    buf->len = size;
}

/* The old memory is overwritten, so that a buffer with a key leaves no copy behind as it grows. */
static void buf_move(struct buf *buf, size_t cap)
{
    size_t size = buf_size(buf);
    uint8_t *data = mem_alloc(cap);

    if (size != 0)
        memcpy(data, buf->data + buf->pos, size);
    if (buf->data != NULL) {
        mem_wipe(buf->data, buf->cap);
        mem_free(buf->data);
    }
    buf->data = data;
    buf->pos = 0;
    buf->len = size;
    buf->cap = cap;
}

/* Room for `len` more bytes; `max` bounds what is unread then, and the memory too. */
static void buf_grow(struct buf *buf, size_t len, size_t max)
{
    size_t size = buf_size(buf);
    size_t need = size + len;
    size_t cap;

    if (buf->data != NULL && buf->cap - buf->len >= len)
        return;
    /* Moving down pays when at least as much was read as is moved; at the maximum it must do. */
    if (buf->data != NULL && buf->cap >= need && (buf->pos >= size || buf->cap >= max)) {
        buf_compact(buf);
        return;
    }
    cap = need > max / 2 ? max : need * 2;
    if (cap < BUF_CAP_MIN)
        cap = BUF_CAP_MIN;
    buf_move(buf, cap);
}

static err_t buf_room(struct buf *buf, size_t len)
{
    size_t max = buf_max(buf);

    if (len > max || buf_size(buf) > max - len)
        return FAIL(TOO_LARGE, max > INT32_MAX ? INT32_MAX : max);
    buf_grow(buf, len, max);
    return OK;
}

void buf_init(struct buf *buf, size_t max)
{
    *buf = (struct buf){.max = max};
}

void buf_fini(struct buf *buf)
{
    mem_free(buf->data);
    buf_init(buf, buf->max);
}

void buf_wipe_fini(struct buf *buf)
{
    mem_wipe(buf->data, buf->cap);
    buf_fini(buf);
}

err_t buf_add(struct buf *buf, const void *ptr, size_t len)
{
    if (len == 0)
        return OK;
    TRY(buf_room(buf, len));
    memcpy(buf->data + buf->len, ptr, len);
    buf->len += len;
    return OK;
}

err_t buf_add_str(struct buf *buf, const char *str)
{
    return buf_add(buf, str, strlen(str));
}

err_t buf_printf(struct buf *buf, const char *format, ...)
{
    size_t room = buf->data != NULL ? buf->cap - buf->len : 0;
    size_t max = buf_max(buf);
    va_list args, again;
    err_t err = OK;
    int len;

    va_start(args, format);
    va_copy(again, args);
    /* Most lines fit at once; the bytes behind len are nobody's, so a try may spoil them. */
    len = vsnprintf(room != 0 ? (char *)buf->data + buf->len : NULL, room, format, args);
    va_end(args);
    CHECK(len >= 0);
    if ((size_t)len >= room || buf_size(buf) + (size_t)len > max) {
        err = buf_room(buf, (size_t)len);
        if (err_is_ok(err)) {
            /* The text may have to be without NUL in the last byte that the maximum allows. */
            if (buf->cap - buf->len > (size_t)len) {
                (void)vsnprintf((char *)buf->data + buf->len, (size_t)len + 1, format, again);
            } else {
                char *text = mem_alloc((size_t)len + 1);

                (void)vsnprintf(text, (size_t)len + 1, format, again);
                memcpy(buf->data + buf->len, text, (size_t)len);
                mem_wipe(text, (size_t)len);
                mem_free(text);
            }
        }
    }
    va_end(again);
    if (err_is_ok(err))
        buf->len += (size_t)len;
    return err;
}

err_t buf_reserve(struct buf *buf, size_t len, uint8_t **out)
{
    TRY(buf_room(buf, len));
    *out = buf->data + buf->len;
    return OK;
}

void buf_commit(struct buf *buf, size_t len)
{
    CHECK(len <= buf->cap - buf->len);
    buf->len += len;
}

void buf_consume(struct buf *buf, size_t len)
{
    CHECK(len <= buf_size(buf));
    buf->pos += len;
    if (buf->pos == buf->len)
        buf_clear(buf);
}

void buf_clear(struct buf *buf)
{
    buf->pos = 0;
    buf->len = 0;
}

void buf_truncate(struct buf *buf, size_t size)
{
    CHECK(size <= buf_size(buf));
    if (buf->data != NULL) /* to the end: a read that failed may have left bytes behind len */
        mem_wipe(buf->data + buf->pos + size, buf->cap - buf->pos - size);
    buf->len = buf->pos + size;
}

char *buf_take_str(struct buf *buf)
{
    char *str;

    buf_compact(buf);
    if (buf->len == buf->cap)
        buf_move(buf, buf->len + 1); /* the NUL is not content: the maximum does not count it */
    buf->data[buf->len] = '\0';
    str = (char *)buf->data;
    buf_init(buf, buf->max);
    return str;
}

void bytes_to_hex(struct bytes in, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < in.len; i++) {
        *out++ = digits[in.ptr[i] >> 4];
        *out++ = digits[in.ptr[i] & 15];
    }
    *out = '\0';
}

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *bytes_to_base64(struct bytes in)
{
    char *str, *out;

    CHECK(in.len <= BUF_MAX_DEFAULT);
    str = mem_alloc((in.len + 2) / 3 * 4 + 1);
    out = str;
    for (size_t i = 0; i < in.len; i += 3) {
        size_t left = in.len - i;
        uint32_t v = (uint32_t)in.ptr[i] << 16;

        if (left > 1)
            v |= (uint32_t)in.ptr[i + 1] << 8;
        if (left > 2)
            v |= in.ptr[i + 2];
        *out++ = base64_digits[v >> 18];
        *out++ = base64_digits[v >> 12 & 63];
        *out++ = left > 1 ? base64_digits[v >> 6 & 63] : '=';
        *out++ = left > 2 ? base64_digits[v & 63] : '=';
    }
    *out = '\0';
    return str;
}

/* The value of a digit, or -1. */
static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    if (c == '+')
        return 62;
    if (c == '/')
        return 63;
    return -1;
}

err_t bytes_from_base64(const char *in, size_t len, struct buf *out)
{
    size_t digits = len;
    uint32_t bits = 0;
    uint8_t *to;

    /* Padding is right or absent: it may only fill up the last four. */
    while (digits > 0 && len - digits < 2 && in[digits - 1] == '=')
        digits--;
    if (digits % 4 == 1 || (digits != len && len % 4 != 0))
        return FAIL(SYNTAX, digits > INT32_MAX ? INT32_MAX : digits);

    TRY(buf_reserve(out, digits / 4 * 3 + (digits % 4 + 1) / 2, &to));
    for (size_t i = 0; i < digits; i++) {
        int value = base64_value(in[i]);

        if (value < 0)
            return FAIL(SYNTAX, i > INT32_MAX ? INT32_MAX : i);
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 != 0)
            *to++ = (uint8_t)(bits >> (6 - 2 * (i % 4)));
    }
    /* One text for one value: the bits that no byte takes are 0. */
    if ((digits % 4 == 2 && (bits & 15) != 0) || (digits % 4 == 3 && (bits & 3) != 0))
        return FAIL(SYNTAX, digits - 1 > INT32_MAX ? INT32_MAX : digits - 1);
    buf_commit(out, digits * 3 / 4);
    return OK;
}
