#include "control/selector.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "control/labels.h"
#include "lib/base/str.h"

#define SELECTOR_QUOTE_MAX 64

enum selector_op { SELECTOR_IN, SELECTOR_NOT_IN, SELECTOR_HAS, SELECTOR_HAS_NOT };

/* "=" is SELECTOR_IN of one value, "!=" SELECTOR_NOT_IN. */
struct selector_term {
    enum selector_op op;
    char *key;
    char **values;
    size_t num_values;
};

struct selector {
    struct selector_term *terms;
    size_t num;
};

/* A word, or one sign; at the end an empty one. */
struct selector_token {
    const char *at;
    size_t len;
    bool word;
};

struct selector_reader {
    const char *text;
    struct selector_token token; /* the one in hand */
    char *why;
    err_t err;
};

void selector_free(struct selector *selector)
{
    for (size_t i = 0; i < selector->num; i++) {
        struct selector_term *term = &selector->terms[i];

        mem_free(term->key);
        for (size_t j = 0; j < term->num_values; j++)
            mem_free(term->values[j]);
        mem_free(term->values);
    }
    mem_free(selector->terms);
    mem_free(selector);
}

/* ------------------------------------------------------------------------ words */

static bool selector_is_sign(char c)
{
    return strchr("=!,()<>", c) != NULL; /* also NUL */
}

static bool selector_is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void selector_next(struct selector_reader *reader)
{
    const char *at = reader->token.at + reader->token.len;
    size_t len = 0;

    while (selector_is_space(*at))
        at++;
    while (!selector_is_sign(at[len]) && !selector_is_space(at[len]))
        len++;
    reader->token = (struct selector_token){at, len, len > 0};
    if (len == 0 && *at != '\0')
        reader->token.len = (*at == '!' || *at == '=') && at[1] == '=' ? 2 : 1;
}

static bool selector_is(const struct selector_reader *reader, const char *what)
{
    return bytes_equal_str(bytes_of(reader->token.at, reader->token.len), what);
}

/* The first fault is the one that is told. */
__attribute__((format(printf, 2, 3))) static void selector_fault(struct selector_reader *reader,
                                                                 const char *format, ...)
{
    size_t place = 1;
    va_list args;
    int len;

    if (!err_is_ok(reader->err))
        return;
    for (const char *at = reader->text; at < reader->token.at; at++)
        place += ((unsigned char)*at & 0xc0) != 0x80;
    reader->err = FAIL(CONFIG_INVALID, place);
    len = snprintf(reader->why, SELECTOR_WHY_MAX, "at character %zu: ", place);
    va_start(args, format);
    (void)vsnprintf(reader->why + len, SELECTOR_WHY_MAX - (size_t)len, format, args);
    va_end(args);
}

/* What was found instead of `wanted`. */
static void selector_unexpected(struct selector_reader *reader, const char *wanted)
{
    char quoted[SELECTOR_QUOTE_MAX * 6 + 1];
    size_t cut = str_utf8_cut(bytes_of(reader->token.at, reader->token.len), SELECTOR_QUOTE_MAX);
    size_t len = 0;

    if (reader->token.len == 0) {
        selector_fault(reader, "wanted is %s, and it ends there", wanted);
        return;
    }
    (void)str_escape(quoted, sizeof(quoted), &len, bytes_of(reader->token.at, cut), false);
    selector_fault(reader, "wanted is %s, found \"%.64s\"", wanted, quoted);
}

/* ------------------------------------------------------------------------ terms */

static void selector_add_value(struct selector_reader *reader, struct selector_term *term,
                               struct bytes value)
{
    const char *fault = labels_value_fault(value);

    if (fault != NULL) {
        selector_fault(reader, "%s", fault);
        return;
    }
    term->values = mem_realloc(term->values, (term->num_values + 1) * sizeof(*term->values));
    term->values[term->num_values++] = mem_strndup((const char *)value.ptr, value.len);
}

/* Behind "=": a word, or nothing, which is the empty value. */
static void selector_read_value(struct selector_reader *reader, struct selector_term *term)
{
    selector_next(reader);
    if (reader->token.word) {
        selector_add_value(reader, term, bytes_of(reader->token.at, reader->token.len));
        selector_next(reader);
    } else if (reader->token.len == 0 || selector_is(reader, ",")) {
        selector_add_value(reader, term, bytes_of("", 0));
    } else {
        selector_unexpected(reader, "a value");
    }
}

/* Behind "in": "(a, b)". */
static void selector_read_set(struct selector_reader *reader, struct selector_term *term)
{
    selector_next(reader);
    if (!selector_is(reader, "(")) {
        selector_unexpected(reader, "( and values");
        return;
    }
    do {
        selector_next(reader);
        if (!reader->token.word) {
            selector_unexpected(reader, "a value");
            return;
        }
        selector_add_value(reader, term, bytes_of(reader->token.at, reader->token.len));
        selector_next(reader);
    } while (selector_is(reader, ",") && err_is_ok(reader->err));
    if (!selector_is(reader, ")"))
        selector_unexpected(reader, ", or )");
    else
        selector_next(reader);
}

static void selector_read_key(struct selector_reader *reader, struct selector_term *term)
{
    struct bytes key = bytes_of(reader->token.at, reader->token.len);
    const char *fault;

    if (!reader->token.word) {
        selector_unexpected(reader, "a key");
        return;
    }
    fault = labels_key_fault(key);
    if (fault != NULL) {
        selector_fault(reader, "%s", fault);
        return;
    }
    term->key = mem_strndup((const char *)key.ptr, key.len);
    selector_next(reader);
}

static void selector_read_rest(struct selector_reader *reader, struct selector_term *term)
{
    term->op = SELECTOR_HAS;
    if (selector_is(reader, "=") || selector_is(reader, "==")) {
        term->op = SELECTOR_IN;
        selector_read_value(reader, term);
    } else if (selector_is(reader, "!=")) {
        term->op = SELECTOR_NOT_IN;
        selector_read_value(reader, term);
    } else if (selector_is(reader, "in")) {
        term->op = SELECTOR_IN;
        selector_read_set(reader, term);
    } else if (selector_is(reader, "notin")) {
        term->op = SELECTOR_NOT_IN;
        selector_read_set(reader, term);
    } else if (reader->token.len != 0 && !selector_is(reader, ",")) {
        selector_unexpected(reader, "=, !=, in, notin, or a comma");
    }
}

static void selector_read_term(struct selector_reader *reader, struct selector_term *term)
{
    bool not = selector_is(reader, "!");

    if (not )
        selector_next(reader);
    selector_read_key(reader, term);
    if (!err_is_ok(reader->err))
        return;
    if (!not ) {
        selector_read_rest(reader, term);
        return;
    }
    term->op = SELECTOR_HAS_NOT;
    if (reader->token.len != 0 && !selector_is(reader, ","))
        selector_unexpected(reader, "a comma (! is of a key alone; != of a value)");
}

static void selector_read(struct selector_reader *reader, struct selector *selector)
{
    bool more = true;

    selector_next(reader);
    while (more && err_is_ok(reader->err)) {
        selector->terms =
            mem_realloc(selector->terms, (selector->num + 1) * sizeof(*selector->terms));
        selector->terms[selector->num] = (struct selector_term){.key = NULL};
        selector_read_term(reader, &selector->terms[selector->num++]);
        more = selector_is(reader, ",");
        if (more)
            selector_next(reader);
    }
    if (reader->token.len != 0)
        selector_unexpected(reader, "a comma");
}

err_t selector_parse(const char *text, char why[SELECTOR_WHY_MAX], struct selector **out)
{
    CLEANUP(selector_freep) struct selector *selector = mem_zalloc(sizeof(*selector));
    struct selector_reader reader = {.text = text, .token = {.at = text}, .why = why, .err = OK};

    if (strlen(text) > SELECTOR_TEXT_MAX) {
        (void)snprintf(why, SELECTOR_WHY_MAX, "is longer than %d bytes", SELECTOR_TEXT_MAX);
        return FAIL(CONFIG_INVALID, SELECTOR_TEXT_MAX);
    }
    selector_read(&reader, selector);
    TRY(reader.err);
    *out = selector;
    selector = NULL; /* the caller's now */
    return OK;
}

/* --------------------------------------------------------------------- matching */

static bool selector_holds(const struct selector_term *term, const char *value)
{
    bool found = false;

    switch (term->op) {
    case SELECTOR_HAS:
        return value != NULL;
    case SELECTOR_HAS_NOT:
        return value == NULL;
    case SELECTOR_IN:
    case SELECTOR_NOT_IN:
        break;
    }
    for (size_t i = 0; value != NULL && i < term->num_values && !found; i++)
        found = strcmp(term->values[i], value) == 0;
    return found == (term->op == SELECTOR_IN);
}

bool selector_matches(const struct selector *selector, const ProtobufCMessage *item)
{
    for (size_t i = 0; selector != NULL && i < selector->num; i++) {
        const struct selector_term *term = &selector->terms[i];

        if (!selector_holds(term, item != NULL ? labels_get(item, term->key) : NULL))
            return false;
    }
    return true;
}
