/* buf: a borrowed view of bytes, and a growable buffer with a read cursor and a maximum. */
#ifndef MORTISE_LIB_BASE_BUF_H
#define MORTISE_LIB_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "lib/base/err.h"

/* bytes borrows `len` bytes; ptr may be NULL when len is 0. */
struct bytes {
    const uint8_t *ptr;
    size_t len;
};

static inline struct bytes bytes_of(const void *ptr, size_t len)
{
    return (struct bytes){(const uint8_t *)ptr, len};
}

static inline struct bytes bytes_of_str(const char *str)
{
    return bytes_of(str, strlen(str));
}

static inline bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

static inline bool bytes_equal_str(struct bytes a, const char *str)
{
    return bytes_equal(a, bytes_of_str(str));
}

/* buf holds bytes [pos, len) of data that are not yet read. Zeroed memory is an empty buffer with
 * no maximum of its own (BUF_MAX_DEFAULT then holds). */
struct buf {
    uint8_t *data;
    size_t pos;
    size_t len;
    size_t cap;
    size_t max;
};

#define BUF_MAX_DEFAULT ((size_t)64 << 20) /* no buffer of ours is ever near this */

void buf_init(struct buf *buf, size_t max);
/* buf_fini releases the memory; buf_wipe_fini overwrites it first. The buffer is empty afterwards.
 */
void buf_fini(struct buf *buf);
void buf_wipe_fini(struct buf *buf);

/* buf_add appends a copy. Errors: TOO_LARGE beyond the maximum; the buffer is then unchanged. */
MUST_CHECK err_t buf_add(struct buf *buf, const void *ptr, size_t len);
MUST_CHECK err_t buf_add_str(struct buf *buf, const char *str);
MUST_CHECK err_t buf_printf(struct buf *buf, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* buf_reserve makes room for `len` more bytes and returns where they go; buf_commit says how many
 * were written. Errors: TOO_LARGE. */
MUST_CHECK err_t buf_reserve(struct buf *buf, size_t len, uint8_t **out);
void buf_commit(struct buf *buf, size_t len);

/* buf_view is what is not yet read; buf_consume reads `len` of it. */
static inline struct bytes buf_view(const struct buf *buf)
{
    return bytes_of(buf->data != NULL ? buf->data + buf->pos : NULL, buf->len - buf->pos);
}
void buf_consume(struct buf *buf, size_t len);
static inline size_t buf_size(const struct buf *buf)
{
    return buf->len - buf->pos;
}
void buf_clear(struct buf *buf);
/* buf_truncate takes back what was appended beyond the first `size` unread bytes, and overwrites
 * it. */
void buf_truncate(struct buf *buf, size_t size);

/* buf_take_str ends the content with NUL and hands the memory to the caller; the buffer is empty.
 */
char *buf_take_str(struct buf *buf);

/* Big-endian integers. */
static inline uint32_t get_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline void put_be32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}
static inline void put_be64(uint8_t *p, uint64_t v)
{
    put_be32(p, (uint32_t)(v >> 32));
    put_be32(p + 4, (uint32_t)v);
}

/* hex writes 2*len lower-case digits and NUL to `out`. */
void bytes_to_hex(struct bytes in, char *out);
/* base64 (RFC 4648 section 4) with padding; owned string. decode accepts with or without padding.
 * Errors: SYNTAX. */
char *bytes_to_base64(struct bytes in);
MUST_CHECK err_t bytes_from_base64(const char *in, size_t len, struct buf *out);

#endif
