/* str: text that people read, made from bytes that anybody may have chosen: UTF-8 checking,
 * escaping, the nearest known name to a misspelt one. */
#ifndef MORTISE_LIB_BASE_STR_H
#define MORTISE_LIB_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/buf.h"

/* str_utf8 decodes the first character of `in` (not empty) and returns its length in bytes, 1 to 4,
 * or 0 if it is not valid UTF-8 (RFC 3629: no overlong forms, no surrogates, at most U+10FFFF). */
size_t str_utf8(struct bytes in, uint32_t *out_char);

/* str_utf8_cut returns the length of the longest part of `in`, at most `max` bytes, that cuts no
 * valid character in two. */
size_t str_utf8_cut(struct bytes in, size_t max);

/* str_is_unsafe is true of control characters, and of format characters that make a line read as
 * what it is not: marks and overrides of direction, separators of lines, the invisible ones. */
bool str_is_unsafe(uint32_t c);

/* str_escape appends `in` at out[*len], always ended by NUL, and moves *len: control characters and
 * those that reorder or hide text on a screen as \n \r \t or \uXXXX, bytes that are no UTF-8 as
 * U+FFFD; with `quoted` also \" and \\, so that the result between quotes is a JSON string.
 * Returns false if `size` was not enough; what is there then are whole characters. */
bool str_escape(char *out, size_t size, size_t *len, struct bytes in, bool quoted);

/* str_is_plain tells whether `in` is not empty and only of printable ASCII characters other than
 * space, quote, equals sign and backslash. */
bool str_is_plain(struct bytes in);

/* str_distance is the number of insertions, deletions, substitutions and swaps of neighbours
 * between two words; words longer than STR_WORD_MAX are as far apart as can be (SIZE_MAX). */
#define STR_WORD_MAX 64
size_t str_distance(const char *a, const char *b);

/* str_nearest returns the index of the name most like `word`, or -1 if none is near enough to be
 * meant: at most a third of its letters wrong. `names` may hold NULL, which is passed over. */
int str_nearest(const char *word, const char *const *names, size_t num);

#endif
