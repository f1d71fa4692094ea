#include "lib/base/option_value.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "lib/base/buf.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define OPTION_ECHO_MAX 64 /* bytes of a wrong value that are told */

struct option_unit {
    const char *suffix;
    int64_t factor;
};

/* From the largest, as they are tried for showing a number. */
static const struct option_unit option_size_units[] = {
    {"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10}, {"", 1}};
static const struct option_unit option_ms_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

void option_env_name(const struct option *row, char *out)
{
    size_t at = sizeof(OPTION_PREFIX) - 1;

    CHECK(strlen(row->name) < OPTION_NAME_MAX - at);
    memcpy(out, OPTION_PREFIX, at);
    for (const char *c = row->name; *c != '\0'; c++) {
        CHECK((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '-');
        out[at++] = *c == '-' ? '_' : *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
    }
    out[at] = '\0';
}

void option_key(const struct option *row, char *out)
{
    size_t at = 0;

    CHECK(strlen(row->name) < OPTION_NAME_MAX);
    for (const char *c = row->name; *c != '\0'; c++)
        out[at++] = *c == '-' ? '_' : *c;
    out[at] = '\0';
}

void *option_field(const struct option *row, void *config)
{
    return (char *)config + row->offset;
}

static void option_format_units(const struct option_unit *units, int64_t value, char *out,
                                size_t size)
{
    while (units->factor != 1 && (value == 0 || value % units->factor != 0))
        units++;
    (void)snprintf(out, size, "%" PRId64 "%s", value / units->factor, units->suffix);
}

static void option_format_number(const struct option *row, int64_t value, char *out, size_t size)
{
    if (row->kind == OPTION_SIZE)
        option_format_units(option_size_units, value, out, size);
    else if (row->kind == OPTION_MS)
        option_format_units(option_ms_units, value, out, size);
    else
        (void)snprintf(out, size, "%" PRId64, value);
}

static bool option_is_number(const struct option *row)
{
    return row->kind == OPTION_INT || row->kind == OPTION_SIZE || row->kind == OPTION_MS;
}

char *option_range(const struct option *row)
{
    char least[32], most[32];
    struct buf out = {0};
    err_t err = OK;

    if (option_is_number(row) && (row->min != 0 || row->max != 0)) {
        option_format_number(row, row->min, least, sizeof(least));
        option_format_number(row, row->max, most, sizeof(most));
        if (row->max == INT64_MAX)
            err = buf_printf(&out, "at least %s", least);
        else
            err = buf_printf(&out, "%s to %s", least, most);
    } else if (row->kind == OPTION_ENUM) {
        for (size_t i = 0; row->words[i] != NULL && err_is_ok(err); i++)
            err = buf_printf(&out, "%s%s", i > 0 ? ", " : "", row->words[i]);
    }
    CHECK(err_is_ok(err));
    return buf_take_str(&out);
}

const char *option_arg(const struct option *row)
{
    if (row->arg != NULL)
        return row->arg;
    switch (row->kind) {
    case OPTION_INT:
        return "NUMBER";
    case OPTION_SIZE:
        return "SIZE";
    case OPTION_MS:
        return "DURATION";
    case OPTION_ENUM:
        return "WORD";
    case OPTION_STR:
    case OPTION_BOOL:
    case OPTION_LIST:
        break;
    }
    return "TEXT";
}

/* One fault about a value: `wrong` and what would be `right`. A secret is never repeated. */
static void option_fault(const struct option *row, const struct option_place *place,
                         const char *value, const char *wrong, const char *right,
                         struct faults *faults)
{
    static const char cut[] = "\xe2\x80\xa6";
    char echo[OPTION_ECHO_MAX + sizeof(cut) + 2];
    size_t len = 0;

    if (row->flags & OPTION_FLAG_NO_ARGV) {
        memcpy(echo, "the value", sizeof("the value"));
    } else {
        echo[len++] = '"';
        if (!str_escape(echo, OPTION_ECHO_MAX, &len, bytes_of_str(value), true)) {
            memcpy(echo + len, cut, sizeof(cut) - 1);
            len += sizeof(cut) - 1;
        }
        echo[len++] = '"';
        echo[len] = '\0';
    }
    faults_add(faults, place->path, "%s %s%s%s", echo, wrong, right[0] != '\0' ? "; " : "", right);
}

enum option_number { OPTION_NUMBER_OK, OPTION_NUMBER_SYNTAX, OPTION_NUMBER_RANGE };

/* Decimal digits, perhaps with a minus before them; *out_end is behind them. */
static enum option_number option_digits(const char *text, int64_t *out, const char **out_end)
{
    bool negative = text[0] == '-';
    const char *at = text + negative;
    bool overflow = false;
    int64_t value = 0;

    if (*at < '0' || *at > '9')
        return OPTION_NUMBER_SYNTAX;
    /* Downwards, since there is one more number below 0 than above. */
    for (; *at >= '0' && *at <= '9'; at++)
        overflow = overflow || __builtin_mul_overflow(value, 10, &value) ||
                   __builtin_sub_overflow(value, *at - '0', &value);
    if (!negative)
        overflow = overflow || __builtin_sub_overflow(0, value, &value);
    *out = value;
    *out_end = at;
    return overflow ? OPTION_NUMBER_RANGE : OPTION_NUMBER_OK;
}

static enum option_number option_with_unit(const char *text, const struct option_unit *units,
                                           size_t num_units, int64_t *out)
{
    enum option_number result;
    const char *end = text;
    int64_t value = 0;

    result = option_digits(text, &value, &end);
    if (result == OPTION_NUMBER_SYNTAX)
        return result;
    for (size_t i = 0; i < num_units; i++) {
        /* 64K is what 64k is, but 5M might be months. */
        if ((units == option_size_units ? strcasecmp : strcmp)(end, units[i].suffix) != 0)
            continue;
        if (result == OPTION_NUMBER_RANGE || __builtin_mul_overflow(value, units[i].factor, out))
            return OPTION_NUMBER_RANGE;
        return OPTION_NUMBER_OK;
    }
    return OPTION_NUMBER_SYNTAX;
}

static bool option_parse_number(const struct option *row, const struct option_place *place,
                                const char *value, int64_t *out, struct faults *faults)
{
    CLEANUP(mem_freep) char *range = NULL;
    enum option_number result;
    const char *end = value;
    const char *wrong;
    bool any = row->min == 0 && row->max == 0;

    if (row->kind == OPTION_SIZE) {
        result = option_with_unit(value, option_size_units, ARRAY_LEN(option_size_units), out);
        wrong = "is not a size such as 65536, 64k, 16m or 1g";
    } else if (row->kind == OPTION_MS) {
        result = option_with_unit(value, option_ms_units, ARRAY_LEN(option_ms_units), out);
        wrong = "is not a duration such as 500ms, 10s, 5m, 1h or 1d";
        if (result == OPTION_NUMBER_SYNTAX && value[strspn(value, "0123456789")] == '\0' &&
            value[0] != '\0')
            wrong = "has no unit; write ms, s, m, h or d behind it";
    } else {
        result = option_digits(value, out, &end);
        if (result != OPTION_NUMBER_SYNTAX && *end != '\0')
            result = OPTION_NUMBER_SYNTAX;
        wrong = "is not a number";
    }
    if (result == OPTION_NUMBER_OK &&
        (any ? row->kind != OPTION_INT && *out < 0 : *out < row->min || *out > row->max))
        result = OPTION_NUMBER_RANGE;
    if (result == OPTION_NUMBER_OK)
        return true;
    range = option_range(row);
    option_fault(row, place, value, result == OPTION_NUMBER_RANGE ? "is out of range" : wrong,
                 range, faults);
    return false;
}

static bool option_parse_bool(const struct option *row, const struct option_place *place,
                              const char *value, bool *out, struct faults *faults)
{
    if (strcmp(value, "true") == 0 || strcmp(value, "1") == 0) {
        *out = true;
        return true;
    }
    if (strcmp(value, "false") == 0 || strcmp(value, "0") == 0) {
        *out = false;
        return true;
    }
    option_fault(row, place, value, "is neither true nor false", "", faults);
    return false;
}

static bool option_parse_enum(const struct option *row, const struct option_place *place,
                              const char *value, int *out, struct faults *faults)
{
    CLEANUP(mem_freep) char *range = NULL;
    CLEANUP(mem_freep) char *wrong = NULL;
    CLEANUP(mem_freep) char *hint = NULL;
    size_t num = 0;
    int nearest;

    for (; row->words[num] != NULL; num++) {
        if (strcmp(row->words[num], value) == 0) {
            *out = (int)num;
            return true;
        }
    }
    range = option_range(row);
    wrong = mem_printf("is not one of %s", range);
    nearest = str_nearest(value, row->words, num);
    if (nearest >= 0)
        hint = mem_printf("did you mean %s?", row->words[nearest]);
    option_fault(row, place, value, wrong, hint != NULL ? hint : "", faults);
    return false;
}

static void option_list_clear(struct option_list *list)
{
    for (size_t i = 0; i < list->num; i++)
        mem_free(list->items[i]);
    mem_free(list->items);
    *list = (struct option_list){NULL, 0};
}

static void option_list_add(struct option_list *list, const char *item, size_t len)
{
    list->items = mem_realloc(list->items, (list->num + 1) * sizeof(*list->items));
    list->items[list->num++] = mem_strndup(item, len);
}

/* Items between commas, without the spaces around them. An empty text is an empty list. */
static bool option_parse_commas(const struct option *row, const struct option_place *place,
                                const char *value, struct option_list *out, struct faults *faults)
{
    const char *at = value;

    if (value[strspn(value, " ")] == '\0')
        return true;
    for (;;) {
        size_t len = strcspn(at, ",");
        size_t start = strspn(at, " ");
        size_t end = len;

        while (end > start && at[end - 1] == ' ')
            end--;
        if (start >= end) {
            option_fault(row, place, value, "has an empty item between its commas", "", faults);
            option_list_clear(out);
            return false;
        }
        option_list_add(out, at + start, end - start);
        if (at[len] == '\0')
            return true;
        at += len + 1;
    }
}

void option_clear(const struct option *row, void *config)
{
    if (row->kind == OPTION_STR) {
        char **str = option_field(row, config);

        if (*str != NULL && (row->flags & OPTION_FLAG_NO_ARGV))
            mem_wipe(*str, strlen(*str));
        mem_free(*str);
        *str = NULL;
    } else if (row->kind == OPTION_LIST) {
        option_list_clear(option_field(row, config));
    }
}

/* Sets the field if the value is right; `append` adds to a list that a flag began. With `config`
 * NULL the value is only judged. */
void option_set(const struct option *row, const struct option_place *place, const char *value,
                bool append, void *config, struct faults *faults)
{
    struct option_list list = {NULL, 0};
    int64_t number = 0;
    bool yes = false;
    int word = 0;

    switch (row->kind) {
    case OPTION_STR:
        if (config == NULL)
            return;
        option_clear(row, config);
        if (value[0] != '\0')
            *(char **)option_field(row, config) = mem_strdup(value);
        return;
    case OPTION_BOOL:
        if (option_parse_bool(row, place, value, &yes, faults) && config != NULL)
            *(bool *)option_field(row, config) = yes;
        return;
    case OPTION_INT:
    case OPTION_SIZE:
    case OPTION_MS:
        if (option_parse_number(row, place, value, &number, faults) && config != NULL)
            *(int64_t *)option_field(row, config) = number;
        return;
    case OPTION_ENUM:
        if (option_parse_enum(row, place, value, &word, faults) && config != NULL)
            *(int *)option_field(row, config) = word;
        return;
    case OPTION_LIST:
        if (place->commas && !option_parse_commas(row, place, value, &list, faults))
            return;
        if (config == NULL) {
            option_list_clear(&list);
            return;
        }
        if (!append || value[0] == '\0')
            option_clear(row, config);
        if (place->commas)
            *(struct option_list *)option_field(row, config) = list;
        else if (value[0] != '\0')
            option_list_add(option_field(row, config), value, strlen(value));
        return;
    }
}
