#include "lib/base/str.h"

#include <stdio.h>
#include <string.h>

static bool str_is_continuation(struct bytes in, size_t i)
{
    return i < in.len && (in.ptr[i] & 0xc0) == 0x80;
}

size_t str_utf8(struct bytes in, uint32_t *out_char)
{
    uint8_t first = in.ptr[0];
    uint32_t value, least;
    size_t len;

    if (first < 0x80) {
        *out_char = first;
        return 1;
    }
    if ((first & 0xe0) == 0xc0) {
        len = 2;
        least = 0x80;
        value = first & 0x1f;
    } else if ((first & 0xf0) == 0xe0) {
        len = 3;
        least = 0x800;
        value = first & 0x0f;
    } else if ((first & 0xf8) == 0xf0) {
        len = 4;
        least = 0x10000;
        value = first & 0x07;
    } else {
        return 0;
    }
    for (size_t i = 1; i < len; i++) {
        if (!str_is_continuation(in, i))
            return 0;
        value = value << 6 | (in.ptr[i] & 0x3f);
    }
    if (value < least || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
        return 0;
    *out_char = value;
    return len;
}

size_t str_utf8_cut(struct bytes in, size_t max)
{
    uint32_t unused;

    if (in.len <= max)
        return in.len;
    for (size_t back = 1; back <= 3 && back <= max; back++) {
        size_t start = max - back;
        size_t len = str_utf8(bytes_of(in.ptr + start, in.len - start), &unused);

        if (len > back)
            return start;
        if (len != 0)
            break;
    }
    return max;
}

/* Source: Unicode UTR 36. */
bool str_is_unsafe(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0xad || c == 0x061c ||
           (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb);
}

/* One character as it is to be written; returns how many bytes of `in` it was. */
static size_t str_escape_char(struct bytes in, bool quoted, char text[8])
{
    uint32_t c;
    size_t len = str_utf8(in, &c);

    if (len == 0) {
        memcpy(text, "\xef\xbf\xbd", 4);
        return 1;
    }
    if (c == '\n' || c == '\r' || c == '\t') {
        text[0] = '\\';
        text[1] = c == '\n' ? 'n' : c == '\r' ? 'r' : 't';
        text[2] = '\0';
    } else if (str_is_unsafe(c)) {
        (void)snprintf(text, 8, "\\u%04x", (unsigned)c & 0xffff);
    } else if (quoted && (c == '"' || c == '\\')) {
        text[0] = '\\';
        text[1] = (char)c;
        text[2] = '\0';
    } else {
        memcpy(text, in.ptr, len);
        text[len] = '\0';
    }
    return len;
}

bool str_escape(char *out, size_t size, size_t *len, struct bytes in, bool quoted)
{
    char text[8];

    if (*len >= size)
        return false;
    while (in.len > 0) {
        size_t used = str_escape_char(in, quoted, text);
        size_t text_len = strlen(text);

        if (text_len >= size - *len)
            break;
        memcpy(out + *len, text, text_len);
        *len += text_len;
        in.ptr += used;
        in.len -= used;
    }
    out[*len] = '\0';
    return in.len == 0;
}

bool str_is_plain(struct bytes in)
{
    for (size_t i = 0; i < in.len; i++) {
        uint8_t c = in.ptr[i];

        if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
            return false;
    }
    return in.len != 0;
}

static size_t str_min3(size_t a, size_t b, size_t c)
{
    size_t ab = a < b ? a : b;

    return ab < c ? ab : c;
}

/* Optimal string alignment: three rows of the table of distances between prefixes. */
size_t str_distance(const char *a, const char *b)
{
    size_t a_len = strlen(a), b_len = strlen(b);
    size_t rows[3][STR_WORD_MAX + 1];

    if (a_len > STR_WORD_MAX || b_len > STR_WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= b_len; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a_len; i++) {
        size_t *row = rows[i % 3];
        const size_t *before = rows[(i + 2) % 3];
        const size_t *two_before = rows[(i + 1) % 3];

        row[0] = i;
        for (size_t j = 1; j <= b_len; j++) {
            row[j] =
                str_min3(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two_before[j - 2] + 1 < row[j])
                row[j] = two_before[j - 2] + 1;
        }
    }
    return rows[a_len % 3][b_len];
}

int str_nearest(const char *word, const char *const *names, size_t num)
{
    size_t word_len = strlen(word);
    size_t best = SIZE_MAX;
    int found = -1;

    for (size_t i = 0; i < num; i++) {
        size_t distance;

        if (names[i] == NULL)
            continue;
        distance = str_distance(word, names[i]);
        if (distance < best && distance <= (word_len + 2) / 3 && distance < word_len) {
            best = distance;
            found = (int)i;
        }
    }
    return found;
}
