/* options reads a program's settings from one table: flag > environment > file > default.
 *
 * A row `{"handshake-timeout", OPTION_MS, offsetof(struct config, handshake_timeout_ms), …}` gives
 * the flag --handshake-timeout, the variable MORTISE_HANDSHAKE_TIMEOUT and the file key
 * handshake_timeout. All faults are found in one go. Secrets are OPTION_FLAG_NO_ARGV: only file or
 * environment. */
#ifndef MORTISE_LIB_BASE_OPTIONS_H
#define MORTISE_LIB_BASE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/base/err.h"
#include "lib/base/faults.h"

enum option_kind {
    OPTION_STR,  /* char *, owned by the struct, NULL when unset */
    OPTION_BOOL, /* bool; --name, --name=true|false, --no-name */
    OPTION_INT,  /* int64_t within [min, max] */
    OPTION_SIZE, /* int64_t bytes: 65536, 64k, 16m, 1g (binary) */
    OPTION_MS,   /* int64_t milliseconds: 500ms, 10s, 5m, 1h, 1d; a bare number is refused */
    OPTION_ENUM, /* int; value = index in `words` */
    OPTION_LIST, /* struct option_list: repeated flag, comma-separated in environment */
};

struct option_list {
    char **items;
    size_t num;
};

enum option_flags {
    OPTION_FLAG_NO_ARGV = 1, /* secret: refused as a flag with a hint at the variable */
    OPTION_FLAG_NO_FILE = 2, /* e.g. --config itself */
    OPTION_FLAG_REQUIRED = 4,
};

struct option {
    const char *name; /* kebab-case; NULL ends the table; a row with name "" is a heading in help */
    enum option_kind kind;
    size_t offset;
    const char *def;          /* as text; NULL: none */
    int64_t min, max;         /* OPTION_INT, _SIZE, _MS; both 0: any */
    const char *const *words; /* OPTION_ENUM, NULL-ended */
    unsigned flags;
    const char *arg;  /* placeholder in help: FILE, ADDR:PORT … */
    const char *help; /* one or two sentences */
};

/* options_seen remembers which rows a flag or variable set (bit = row index). */
struct options_seen {
    uint64_t bits[4]; /* at most 256 rows */
};

struct options_result {
    struct options_seen seen;
    bool help;         /* --help was given */
    bool version;      /* --version was given */
    int first_operand; /* index in argv of the first operand, argc when none */
};

/* options_parse fills `*config` (zeroed by the caller) from argv and `environ`; every option gets
 * at least its default. Flags may come before and after operands; "--" ends them. An unknown flag
 * is told with the nearest known name; of the environment only names that begin with MORTISE_ and
 * match no row are told. File keys are set before or after through options_set_file, which never
 * overrides what a flag or variable set. `prefix` is "MORTISE_". Faults go to `faults`; the return
 * is faults_err. */
MUST_CHECK err_t options_parse(const struct option *table, int argc, char **argv,
                               char *const *environment, void *config,
                               struct options_result *out_result, struct faults *faults);

/* options_set_file sets one key (snake_case) from a file, unless a flag or variable has. `path` is
 * where it stands, for the fault. Returns false when no row has that key. */
bool options_set_file(const struct option *table, const char *key, const char *value,
                      const char *path, void *config, const struct options_seen *seen,
                      struct faults *faults);

void options_free(const struct option *table, void *config);
void options_help(const struct option *table, const char *usage, const char *about, FILE *out);

#endif
