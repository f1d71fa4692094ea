#include "lib/base/options.h"

#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "lib/base/buf.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

#define OPTIONS_PREFIX "MORTISE_"
#define OPTIONS_ROWS_MAX 256
#define OPTIONS_NAME_MAX 64
#define OPTIONS_ECHO_MAX 64 /* bytes of a wrong value that are told */
#define OPTIONS_COLUMNS 90
#define OPTIONS_INDENT 8

/* Where a value stands: "--workers", "MORTISE_WORKERS" or "sidecar.yaml:3". */
struct options_place {
    const char *path;
    bool commas; /* a list's items are separated by commas here */
};

struct options_unit {
    const char *suffix;
    int64_t factor;
};

/* From the largest, as they are tried for showing a number. */
static const struct options_unit options_size_units[] = {
    {"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10}, {"", 1}};
static const struct options_unit options_ms_units[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

/* -------------------------------------------------------------------------------------- the table
 */

static bool option_is_heading(const struct option *row)
{
    return row->name[0] == '\0';
}

static size_t options_num(const struct option *table)
{
    size_t num = 0;

    while (table[num].name != NULL)
        num++;
    CHECK(num <= OPTIONS_ROWS_MAX);
    return num;
}

/* A name as the environment or a file has it, in `out` of OPTIONS_NAME_MAX bytes. */
static void option_env_name(const struct option *row, char *out)
{
    size_t at = sizeof(OPTIONS_PREFIX) - 1;

    CHECK(strlen(row->name) < OPTIONS_NAME_MAX - at);
    memcpy(out, OPTIONS_PREFIX, at);
    for (const char *c = row->name; *c != '\0'; c++) {
        CHECK((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '-');
        out[at++] = *c == '-' ? '_' : *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c;
    }
    out[at] = '\0';
}

static void option_key(const struct option *row, char *out)
{
    size_t at = 0;

    CHECK(strlen(row->name) < OPTIONS_NAME_MAX);
    for (const char *c = row->name; *c != '\0'; c++)
        out[at++] = *c == '-' ? '_' : *c;
    out[at] = '\0';
}

static bool options_was_seen(const struct options_seen *seen, size_t i)
{
    return seen != NULL && (seen->bits[i / 64] >> (i % 64) & 1) != 0;
}

static void *option_field(const struct option *row, void *config)
{
    return (char *)config + row->offset;
}

/* -------------------------------------------------------------------------------------- ranges */

static void option_format_units(const struct options_unit *units, int64_t value, char *out,
                                size_t size)
{
    while (units->factor != 1 && (value == 0 || value % units->factor != 0))
        units++;
    (void)snprintf(out, size, "%" PRId64 "%s", value / units->factor, units->suffix);
}

static void option_format_number(const struct option *row, int64_t value, char *out, size_t size)
{
    if (row->kind == OPTION_SIZE)
        option_format_units(options_size_units, value, out, size);
    else if (row->kind == OPTION_MS)
        option_format_units(options_ms_units, value, out, size);
    else
        (void)snprintf(out, size, "%" PRId64, value);
}

static bool option_is_number(const struct option *row)
{
    return row->kind == OPTION_INT || row->kind == OPTION_SIZE || row->kind == OPTION_MS;
}

/* What would be right: "1 to 256", "strict, permissive"; "" for any text. */
static char *option_range(const struct option *row)
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

static const char *option_arg(const struct option *row)
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

/* -------------------------------------------------------------------------------------- values */

/* One fault about a value: `wrong` and what would be `right`. A secret is never repeated. */
static void option_fault(const struct option *row, const struct options_place *place,
                         const char *value, const char *wrong, const char *right,
                         struct faults *faults)
{
    static const char cut[] = "\xe2\x80\xa6";
    char echo[OPTIONS_ECHO_MAX + sizeof(cut) + 2];
    size_t len = 0;

    if (row->flags & OPTION_FLAG_NO_ARGV) {
        memcpy(echo, "the value", sizeof("the value"));
    } else {
        echo[len++] = '"';
        if (!str_escape(echo, OPTIONS_ECHO_MAX, &len, bytes_of_str(value), true)) {
            memcpy(echo + len, cut, sizeof(cut) - 1);
            len += sizeof(cut) - 1;
        }
        echo[len++] = '"';
        echo[len] = '\0';
    }
    faults_add(faults, place->path, "%s %s%s%s", echo, wrong, right[0] != '\0' ? "; " : "", right);
}

enum options_number { OPTIONS_NUMBER_OK, OPTIONS_NUMBER_SYNTAX, OPTIONS_NUMBER_RANGE };

/* Decimal digits, perhaps with a minus before them; *out_end is behind them. */
static enum options_number options_digits(const char *text, int64_t *out, const char **out_end)
{
    bool negative = text[0] == '-';
    const char *at = text + negative;
    bool overflow = false;
    int64_t value = 0;

    if (*at < '0' || *at > '9')
        return OPTIONS_NUMBER_SYNTAX;
    /* Downwards, since there is one more number below 0 than above. */
    for (; *at >= '0' && *at <= '9'; at++)
        overflow = overflow || __builtin_mul_overflow(value, 10, &value) ||
                   __builtin_sub_overflow(value, *at - '0', &value);
    if (!negative)
        overflow = overflow || __builtin_sub_overflow(0, value, &value);
    *out = value;
    *out_end = at;
    return overflow ? OPTIONS_NUMBER_RANGE : OPTIONS_NUMBER_OK;
}

static enum options_number options_with_unit(const char *text, const struct options_unit *units,
                                             size_t num_units, int64_t *out)
{
    enum options_number result;
    const char *end = text;
    int64_t value = 0;

    result = options_digits(text, &value, &end);
    if (result == OPTIONS_NUMBER_SYNTAX)
        return result;
    for (size_t i = 0; i < num_units; i++) {
        /* 64K is what 64k is, but 5M might be months. */
        if ((units == options_size_units ? strcasecmp : strcmp)(end, units[i].suffix) != 0)
            continue;
        if (result == OPTIONS_NUMBER_RANGE || __builtin_mul_overflow(value, units[i].factor, out))
            return OPTIONS_NUMBER_RANGE;
        return OPTIONS_NUMBER_OK;
    }
    return OPTIONS_NUMBER_SYNTAX;
}

static bool option_parse_number(const struct option *row, const struct options_place *place,
                                const char *value, int64_t *out, struct faults *faults)
{
    CLEANUP(mem_freep) char *range = NULL;
    enum options_number result;
    const char *end = value;
    const char *wrong;
    bool any = row->min == 0 && row->max == 0;

    if (row->kind == OPTION_SIZE) {
        result = options_with_unit(value, options_size_units, ARRAY_LEN(options_size_units), out);
        wrong = "is not a size such as 65536, 64k, 16m or 1g";
    } else if (row->kind == OPTION_MS) {
        result = options_with_unit(value, options_ms_units, ARRAY_LEN(options_ms_units), out);
        wrong = "is not a duration such as 500ms, 10s, 5m, 1h or 1d";
        if (result == OPTIONS_NUMBER_SYNTAX && value[strspn(value, "0123456789")] == '\0' &&
            value[0] != '\0')
            wrong = "has no unit; write ms, s, m, h or d behind it";
    } else {
        result = options_digits(value, out, &end);
        if (result != OPTIONS_NUMBER_SYNTAX && *end != '\0')
            result = OPTIONS_NUMBER_SYNTAX;
        wrong = "is not a number";
    }
    if (result == OPTIONS_NUMBER_OK &&
        (any ? row->kind != OPTION_INT && *out < 0 : *out < row->min || *out > row->max))
        result = OPTIONS_NUMBER_RANGE;
    if (result == OPTIONS_NUMBER_OK)
        return true;
    range = option_range(row);
    option_fault(row, place, value, result == OPTIONS_NUMBER_RANGE ? "is out of range" : wrong,
                 range, faults);
    return false;
}

static bool option_parse_bool(const struct option *row, const struct options_place *place,
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

static bool option_parse_enum(const struct option *row, const struct options_place *place,
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
static bool option_parse_commas(const struct option *row, const struct options_place *place,
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

static void option_clear(const struct option *row, void *config)
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
static void option_set(const struct option *row, const struct options_place *place,
                       const char *value, bool append, void *config, struct faults *faults)
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

/* A table that breaks its own rules is a bug, found at the first start. */
static void options_set_defaults(const struct option *table, size_t num, void *config)
{
    struct faults faults = {.num = 0};

    for (size_t i = 0; i < num; i++) {
        const struct option *row = &table[i];
        struct options_place place = {row->name, true};

        if (option_is_heading(row))
            continue;
        for (size_t j = 0; j < i; j++)
            CHECK(strcmp(table[j].name, row->name) != 0);
        CHECK(strncmp(row->name, "no-", 3) != 0);
        CHECK((row->kind == OPTION_ENUM) == (row->words != NULL));
        /* Whether it is there must be seen: no default, and a kind that can be absent. */
        CHECK(!(row->flags & OPTION_FLAG_REQUIRED) ||
              (row->def == NULL && (row->kind == OPTION_STR || row->kind == OPTION_LIST)));
        if (row->def != NULL)
            option_set(row, &place, row->def, false, config, &faults);
    }
    CHECK(faults.total == 0);
}

/* --------------------------------------------------------------------------------------
 * environment */

static bool options_ends_with(const char *text, const char *end)
{
    size_t text_len = strlen(text), end_len = strlen(end);

    return text_len >= end_len && strcmp(text + text_len - end_len, end) == 0;
}

/* Kubernetes puts variables into every container for each Service in its namespace; of a Service
 * "mortise-control" they begin with our prefix: MORTISE_CONTROL_SERVICE_HOST, _SERVICE_PORT,
 * _SERVICE_PORT_<name>, _PORT=tcp://…, _PORT_<number>_TCP and _TCP_ADDR, _PORT, _PROTO. */
static bool options_is_service_link(const char *name, const char *value)
{
    const char *at;

    if (options_ends_with(name, "_SERVICE_HOST"))
        return true;
    at = strstr(name, "_SERVICE_PORT");
    if (at != NULL && (at[13] == '\0' || at[13] == '_'))
        return true;
    if (options_ends_with(name, "_PORT") && strstr(value, "://") != NULL)
        return true;
    at = strstr(name, "_PORT_");
    return at != NULL && at[6] >= '0' && at[6] <= '9' &&
           (strstr(at, "_TCP") != NULL || strstr(at, "_UDP") != NULL ||
            strstr(at, "_SCTP") != NULL);
}

static void options_unknown_variable(const struct option *table, size_t num, const char *name,
                                     struct faults *faults)
{
    CLEANUP(mem_freep) char *texts = mem_array(num, OPTIONS_NAME_MAX);
    const char *names[OPTIONS_ROWS_MAX];
    int nearest;

    for (size_t i = 0; i < num; i++) {
        char *text = texts + i * OPTIONS_NAME_MAX;

        names[i] = NULL;
        if (option_is_heading(&table[i]))
            continue;
        option_env_name(&table[i], text);
        names[i] = text + sizeof(OPTIONS_PREFIX) - 1; /* the prefix is no likeness */
    }
    nearest = str_nearest(name + sizeof(OPTIONS_PREFIX) - 1, names, num);
    if (nearest >= 0)
        faults_add(faults, name, "unknown variable; did you mean " OPTIONS_PREFIX "%s?",
                   names[nearest]);
    else
        faults_add(faults, name, "unknown variable; --help lists those there are");
}

static void options_parse_variable(const struct option *table, size_t num, const char *name,
                                   const char *value, void *config, struct options_seen *seen,
                                   struct faults *faults)
{
    struct options_place place = {name, true};
    char known[OPTIONS_NAME_MAX];

    for (size_t i = 0; i < num; i++) {
        if (option_is_heading(&table[i]))
            continue;
        option_env_name(&table[i], known);
        if (strcmp(known, name) != 0)
            continue;
        /* Empty is as good as absent: container templates cannot always leave one out. */
        if (value[0] != '\0') {
            option_set(&table[i], &place, value, false, config, faults);
            seen->bits[i / 64] |= (uint64_t)1 << (i % 64);
        }
        return;
    }
    if (!options_is_service_link(name, value))
        options_unknown_variable(table, num, name, faults);
}

static void options_parse_environment(const struct option *table, size_t num,
                                      char *const *environment, void *config,
                                      struct options_seen *seen, struct faults *faults)
{
    for (; environment != NULL && *environment != NULL; environment++) {
        CLEANUP(mem_freep) char *name = NULL;
        const char *equals = strchr(*environment, '=');

        if (equals == NULL ||
            strncmp(*environment, OPTIONS_PREFIX, sizeof(OPTIONS_PREFIX) - 1) != 0)
            continue;
        name = mem_strndup(*environment, (size_t)(equals - *environment));
        options_parse_variable(table, num, name, equals + 1, config, seen, faults);
    }
}

/* -------------------------------------------------------------------------------------- flags */

/* What a pass over argv carries along. */
struct options_args {
    const struct option *table;
    size_t num;
    char **argv;
    int argc;
    int at;
    void *config;
    struct options_seen *seen;
    struct options_seen by_flag; /* lists that a flag has begun */
    struct faults *faults;
};

static int options_find(const struct option *table, size_t num, const char *name)
{
    for (size_t i = 0; i < num; i++) {
        if (!option_is_heading(&table[i]) && strcmp(table[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

static void options_unknown_flag(const struct options_args *args, const char *path,
                                 const char *name)
{
    const char *names[OPTIONS_ROWS_MAX + 2];
    size_t num = 0;
    int nearest;

    for (size_t i = 0; i < args->num; i++) {
        if (!option_is_heading(&args->table[i]) && !(args->table[i].flags & OPTION_FLAG_NO_ARGV))
            names[num++] = args->table[i].name;
    }
    names[num++] = "help";
    names[num++] = "version";
    nearest = str_nearest(name, names, num);
    if (nearest >= 0)
        faults_add(args->faults, path, "unknown flag; did you mean --%s?", names[nearest]);
    else
        faults_add(args->faults, path, "unknown flag; --help lists those there are");
}

/* A secret in argv is read by everybody with ps: the flag exists only to say where it belongs. */
static void options_refuse_secret(const struct options_args *args, const struct option *row,
                                  const char *path)
{
    char variable[OPTIONS_NAME_MAX], key[OPTIONS_NAME_MAX];

    option_env_name(row, variable);
    option_key(row, key);
    if (row->flags & OPTION_FLAG_NO_FILE)
        faults_add(args->faults, path,
                   "not taken from the command line, where others can read it; set the variable %s",
                   variable);
    else
        faults_add(args->faults, path,
                   "not taken from the command line, where others can read it; set the variable %s "
                   "or the key %s in the file",
                   variable, key);
}

/* The value behind the flag at args->at, or NULL: what begins with -- is the next flag. */
static const char *options_next_value(struct options_args *args)
{
    if (args->at + 1 >= args->argc || strncmp(args->argv[args->at + 1], "--", 2) == 0)
        return NULL;
    return args->argv[++args->at];
}

static void options_parse_flag(struct options_args *args)
{
    const char *arg = args->argv[args->at];
    const char *equals = strchr(arg, '=');
    const char *value = equals != NULL ? equals + 1 : NULL;
    CLEANUP(mem_freep) char *path = NULL;
    struct options_place place;
    const struct option *row;
    bool is_no = false;
    int found = -1;
    uint64_t bit;

    path = mem_strndup(arg, equals != NULL ? (size_t)(equals - arg) : strlen(arg));
    place = (struct options_place){path, false};
    if (arg[1] == '-')
        found = options_find(args->table, args->num, path + 2);
    if (found < 0 && strncmp(path, "--no-", 5) == 0) {
        found = options_find(args->table, args->num, path + 5);
        is_no = found >= 0 && args->table[found].kind == OPTION_BOOL;
        if (!is_no)
            found = -1;
    }
    if (found < 0) {
        options_unknown_flag(args, path, path + (arg[1] == '-' ? 2 : 1));
        return;
    }

    row = &args->table[found];
    if (row->kind == OPTION_BOOL) {
        if (is_no && value != NULL) {
            faults_add(args->faults, path, "takes no value");
            return;
        }
        if (value == NULL)
            value = is_no ? "false" : "true";
    } else if (value == NULL) {
        value = options_next_value(args);
    }
    if (row->flags & OPTION_FLAG_NO_ARGV) {
        options_refuse_secret(args, row, path);
        return;
    }
    if (value == NULL) {
        CLEANUP(mem_freep) char *range = option_range(row);

        faults_add(args->faults, path, "needs a value: %s %s%s%s", path, option_arg(row),
                   range[0] != '\0' ? "; " : "", range);
        return;
    }
    bit = (uint64_t)1 << (found % 64);
    option_set(row, &place, value, (args->by_flag.bits[found / 64] & bit) != 0, args->config,
               args->faults);
    args->by_flag.bits[found / 64] |= bit;
    args->seen->bits[found / 64] |= bit;
}

/* Takes flags out and puts the operands behind them, in order; returns the first operand's index.
 */
static int options_parse_argv(struct options_args *args)
{
    CLEANUP(mem_freep) char *memory = mem_array((size_t)args->argc + 1, sizeof(char *));
    char **operands = (char **)(void *)memory;
    int num_operands = 0, num_flags = 0;
    bool is_over = false;

    for (args->at = 0; args->at < args->argc; args->at++) {
        int first = args->at;
        char *arg = args->argv[first];

        if (first > 0 && (is_over || arg[0] != '-' || arg[1] == '\0')) {
            operands[num_operands++] = arg;
            continue;
        }
        if (first > 0 && strcmp(arg, "--") == 0)
            is_over = true;
        else if (first > 0)
            options_parse_flag(args);
        for (int i = first; i <= args->at; i++)
            args->argv[num_flags++] = args->argv[i];
    }
    for (int i = 0; i < num_operands; i++)
        args->argv[num_flags + i] = operands[i];
    return num_flags;
}

/* --help and --version count wherever they stand before --, with whatever else is wrong. */
static bool options_asks(const struct option *table, size_t num, int argc, char **argv,
                         struct options_result *result)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            result->help = true;
        if (strcmp(argv[i], "--version") == 0)
            result->version = true;
    }
    CHECK(options_find(table, num, "help") < 0 && options_find(table, num, "version") < 0);
    return result->help || result->version;
}

/* -------------------------------------------------------------------------------------- entry */

static void option_required_fault(const struct option *row, struct faults *faults)
{
    CLEANUP(mem_freep) char *flag = mem_printf("--%s", row->name);
    CLEANUP(mem_freep) char *key_hint = NULL;
    char variable[OPTIONS_NAME_MAX], key[OPTIONS_NAME_MAX];

    option_env_name(row, variable);
    option_key(row, key);
    if (row->flags & OPTION_FLAG_NO_FILE)
        key_hint = mem_strdup("");
    else
        key_hint = mem_printf(" or the key %s in the file", key);
    if (row->flags & OPTION_FLAG_NO_ARGV)
        faults_add(faults, variable, "is required; set this variable%s", key_hint);
    else
        faults_add(faults, flag, "is required; give this flag%s the variable %s%s",
                   row->flags & OPTION_FLAG_NO_FILE ? " or" : ",", variable, key_hint);
}

static void options_check_rows(const struct option *table, void *config, bool in_file,
                               struct faults *faults)
{
    for (const struct option *row = table; row->name != NULL; row++) {
        bool is_set;

        if (!(row->flags & OPTION_FLAG_REQUIRED) ||
            in_file == ((row->flags & OPTION_FLAG_NO_FILE) != 0))
            continue;
        if (row->kind == OPTION_STR)
            is_set = *(char **)option_field(row, config) != NULL;
        else
            is_set = ((struct option_list *)option_field(row, config))->num != 0;
        if (!is_set)
            option_required_fault(row, faults);
    }
}

err_t options_parse(const struct option *table, int argc, char **argv, char *const *environment,
                    void *config, struct options_result *out_result, struct faults *faults)
{
    size_t num = options_num(table);
    struct options_args args = {.table = table,
                                .num = num,
                                .argv = argv,
                                .argc = argc,
                                .config = config,
                                .seen = &out_result->seen,
                                .faults = faults};

    *out_result = (struct options_result){.first_operand = argc};
    options_set_defaults(table, num, config);
    if (options_asks(table, num, argc, argv, out_result))
        return OK;
    options_parse_environment(table, num, environment, config, &out_result->seen, faults);
    out_result->first_operand = options_parse_argv(&args);
    options_check_rows(table, config, false, faults);
    return faults_err(faults);
}

static void option_no_file_fault(const struct option *row, const char *path, struct faults *faults)
{
    char variable[OPTIONS_NAME_MAX];

    option_env_name(row, variable);
    if (row->flags & OPTION_FLAG_NO_ARGV)
        faults_add(faults, path, "cannot be set in a file; set the variable %s", variable);
    else
        faults_add(faults, path, "cannot be set in a file; use the flag --%s", row->name);
}

bool options_set_file(const struct option *table, const char *key, const char *value,
                      const char *path, void *config, const struct options_seen *seen,
                      struct faults *faults)
{
    struct options_place place = {path, true};
    char known[OPTIONS_NAME_MAX];

    for (size_t i = 0; table[i].name != NULL; i++) {
        const struct option *row = &table[i];

        if (option_is_heading(row))
            continue;
        option_key(row, known);
        if (strcmp(known, key) != 0)
            continue;
        if (row->flags & OPTION_FLAG_NO_FILE)
            option_no_file_fault(row, path, faults);
        else
            option_set(row, &place, value, false, options_was_seen(seen, i) ? NULL : config,
                       faults);
        return true;
    }
    return false;
}

void options_check_required(const struct option *table, void *config, struct faults *faults)
{
    options_check_rows(table, config, true, faults);
}

void options_free(const struct option *table, void *config)
{
    for (const struct option *row = table; row->name != NULL; row++) {
        if (!option_is_heading(row))
            option_clear(row, config);
    }
}

/* -------------------------------------------------------------------------------------- help */

static size_t options_width(const char *text, size_t len)
{
    size_t width = 0;

    for (size_t i = 0; i < len; i++)
        width += ((unsigned char)text[i] & 0xc0) != 0x80;
    return width;
}

/* Writes words between `indent` and OPTIONS_COLUMNS; a newline in the text begins a new line. */
static void options_wrap(FILE *out, const char *text, size_t indent)
{
    size_t column = 0;

    while (*text != '\0') {
        size_t len = strcspn(text, " \n");
        size_t width = options_width(text, len);

        if (column != 0 && column + 1 + width > OPTIONS_COLUMNS) {
            fputc('\n', out);
            column = 0;
        }
        if (len != 0) {
            if (column == 0)
                column = (size_t)fprintf(out, "%*s", (int)indent, "");
            else
                column += (size_t)fprintf(out, " ");
            (void)fwrite(text, 1, len, out);
            column += width;
        }
        text += len;
        if (*text == '\n') {
            fputc('\n', out);
            column = 0;
        }
        text += *text != '\0';
    }
    if (column != 0)
        fputc('\n', out);
}

static void option_help_head(const struct option *row, FILE *out)
{
    char variable[OPTIONS_NAME_MAX];

    option_env_name(row, variable);
    if (row->flags & OPTION_FLAG_NO_ARGV)
        fprintf(out, "  %s=%s\n", variable, option_arg(row));
    else if (row->kind == OPTION_BOOL)
        fprintf(out, "  --[no-]%s\n", row->name);
    else
        fprintf(out, "  --%s %s%s\n", row->name, option_arg(row),
                row->kind == OPTION_LIST ? " …" : "");
}

static void option_help(const struct option *row, FILE *out)
{
    CLEANUP(mem_freep) char *range = option_range(row);
    CLEANUP(mem_freep) char *text = NULL;
    char variable[OPTIONS_NAME_MAX], key[OPTIONS_NAME_MAX];
    const char *origin;

    option_help_head(row, out);
    option_env_name(row, variable);
    option_key(row, key);
    if (row->flags & OPTION_FLAG_NO_ARGV)
        origin =
            row->flags & OPTION_FLAG_NO_FILE ? "variable only" : "variable, or key in the file";
    else
        origin = variable;
    text = mem_printf("%s (%s%s%s%s%s%s%s%s)", row->help,
                      row->flags & OPTION_FLAG_REQUIRED ? "required; " : "",
                      row->def != NULL ? "default " : "", row->def != NULL ? row->def : "",
                      row->def != NULL ? "; " : "", row->kind == OPTION_ENUM ? "one of " : "",
                      range, range[0] != '\0' ? "; " : "", origin);
    options_wrap(out, text, OPTIONS_INDENT);
}

void options_help(const struct option *table, const char *usage, const char *about, FILE *out)
{
    fprintf(out, "Usage: %s\n\n", usage);
    options_wrap(out, about, 0);
    if (table->name != NULL && !option_is_heading(table))
        fprintf(out, "\nOptions:\n");
    for (const struct option *row = table; row->name != NULL; row++) {
        if (option_is_heading(row))
            fprintf(out, "\n%s:\n", row->help);
        else
            option_help(row, out);
    }
    fprintf(out, "\nHelp:\n  --help\n");
    options_wrap(out, "Show this and exit.", OPTIONS_INDENT);
    fprintf(out, "  --version\n");
    options_wrap(out, "Show the version and exit.", OPTIONS_INDENT);
    fprintf(out, "\n");
    options_wrap(out,
                 "A flag wins over its variable, the variable over the file, the file over the "
                 "default. In a file a key is the flag's name with _ for -.",
                 0);
}
