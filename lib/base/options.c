#include "lib/base/options.h"

#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/option_value.h"
#include "lib/base/str.h"

#define OPTIONS_ROWS_MAX 256 /* as many as options_seen has bits */

static size_t options_num(const struct option *table)
{
    size_t num = 0;

    while (table[num].name != NULL)
        num++;
    CHECK(num <= OPTIONS_ROWS_MAX);
    return num;
}

static bool options_was_seen(const struct options_seen *seen, size_t i)
{
    return seen != NULL && (seen->bits[i / 64] >> (i % 64) & 1) != 0;
}

/* A table that breaks its own rules is a bug, found at the first start. */
static void options_set_defaults(const struct option *table, size_t num, void *config)
{
    struct faults faults = {.num = 0};

    for (size_t i = 0; i < num; i++) {
        const struct option *row = &table[i];
        struct option_place place = {row->name, true};

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

/* ---- environment ---- */

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

/* A name that is like none of ours is another program's of the family: who exports MORTISE_SOCKET
 * for mortisectl starts sidecars from the same shell. */
static void options_unknown_variable(const struct option *table, size_t num, const char *name,
                                     struct faults *faults)
{
    CLEANUP(mem_freep) char *texts = mem_array(num, OPTION_NAME_MAX);
    const char *names[OPTIONS_ROWS_MAX];
    int nearest;

    for (size_t i = 0; i < num; i++) {
        char *text = texts + i * OPTION_NAME_MAX;

        names[i] = NULL;
        if (option_is_heading(&table[i]))
            continue;
        option_env_name(&table[i], text);
        names[i] = text + sizeof(OPTION_PREFIX) - 1; /* the prefix is no likeness */
    }
    nearest = str_nearest(name + sizeof(OPTION_PREFIX) - 1, names, num);
    if (nearest >= 0)
        faults_add(faults, name, "unknown variable; did you mean " OPTION_PREFIX "%s?",
                   names[nearest]);
}

static void options_parse_variable(const struct option *table, size_t num, const char *name,
                                   const char *value, void *config, struct options_seen *seen,
                                   struct faults *faults)
{
    struct option_place place = {name, true};
    char known[OPTION_NAME_MAX];

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

        if (equals == NULL || strncmp(*environment, OPTION_PREFIX, sizeof(OPTION_PREFIX) - 1) != 0)
            continue;
        name = mem_strndup(*environment, (size_t)(equals - *environment));
        options_parse_variable(table, num, name, equals + 1, config, seen, faults);
    }
}

/* ---- flags ---- */

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
    char variable[OPTION_NAME_MAX], key[OPTION_NAME_MAX];

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
    struct option_place place;
    const struct option *row;
    bool is_no = false;
    int found = -1;
    uint64_t bit;

    path = mem_strndup(arg, equals != NULL ? (size_t)(equals - arg) : strlen(arg));
    place = (struct option_place){path, false};
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
        if (strcmp(argv[i], "--help=man") == 0)
            result->help = result->man = true;
        if (strcmp(argv[i], "--version") == 0)
            result->version = true;
    }
    CHECK(options_find(table, num, "help") < 0 && options_find(table, num, "version") < 0);
    return result->help || result->version;
}

/* ---- entry ---- */

static void option_required_fault(const struct option *row, struct faults *faults)
{
    CLEANUP(mem_freep) char *flag = mem_printf("--%s", row->name);
    CLEANUP(mem_freep) char *key_hint = NULL;
    char variable[OPTION_NAME_MAX], key[OPTION_NAME_MAX];

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
    char variable[OPTION_NAME_MAX];

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
    struct option_place place = {path, true};
    char known[OPTION_NAME_MAX];

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

char *options_nearest_key(const struct option *table, const char *key)
{
    char keys[OPTIONS_ROWS_MAX][OPTION_NAME_MAX];
    const char *names[OPTIONS_ROWS_MAX];
    size_t num = 0;
    int nearest;

    for (const struct option *row = table; row->name != NULL; row++) {
        if (option_is_heading(row) || (row->flags & OPTION_FLAG_NO_FILE) != 0)
            continue;
        option_key(row, keys[num]);
        names[num] = keys[num];
        num++;
    }
    nearest = str_nearest(key, names, num);
    return nearest >= 0 ? mem_strdup(names[nearest]) : NULL;
}

void options_forget(const struct option *table, const char *name, void *config,
                    char *const *environment)
{
    char variable[OPTION_NAME_MAX];
    const struct option *row = table;
    size_t len;

    while (row->name != NULL && strcmp(row->name, name) != 0)
        row++;
    CHECK(row->name != NULL && row->kind == OPTION_STR && (row->flags & OPTION_FLAG_NO_ARGV) != 0);
    option_clear(row, config);
    option_env_name(row, variable);
    len = strlen(variable);
    for (; *environment != NULL; environment++) {
        char *value = *environment + len + 1;

        if (strncmp(*environment, variable, len) == 0 && (*environment)[len] == '=')
            mem_wipe(value, strlen(value));
    }
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
