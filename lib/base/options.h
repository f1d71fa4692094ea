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

/* A secret's value appears in no fault. */
enum option_flags {
    OPTION_FLAG_NO_ARGV = 1, /* secret: refused as a flag with a hint at the variable */
    OPTION_FLAG_NO_FILE = 2, /* e.g. --config itself */
    OPTION_FLAG_REQUIRED = 4,
    OPTION_FLAG_NO_ENV = 8, /* of a program that takes no variables; it passes options_parse none */
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

/* OPTIONS_ROW makes a row from a line of a table that several places include: `type` is the end of
 * an option_kind; the words of an OPTION_ENUM row are the array words_prefix##_##field. */
#define OPTIONS_ROW(structure, words_prefix, flag, type, field, default_text, least, most, \
                    row_flags, argument, text)                                             \
    {                                                                                      \
        .name = (flag), .kind = OPTION_##type, .offset = offsetof(structure, field),       \
        .def = (default_text), .min = (least), .max = (most),                              \
        .words = OPTIONS_WORDS_##type(words_prefix, field), .flags = (row_flags),          \
        .arg = (argument), .help = (text)                                                  \
    }
#define OPTIONS_WORDS_STR(prefix, field) NULL
#define OPTIONS_WORDS_BOOL(prefix, field) NULL
#define OPTIONS_WORDS_INT(prefix, field) NULL
#define OPTIONS_WORDS_SIZE(prefix, field) NULL
#define OPTIONS_WORDS_MS(prefix, field) NULL
#define OPTIONS_WORDS_LIST(prefix, field) NULL
#define OPTIONS_WORDS_ENUM(prefix, field) prefix##_##field
#define OPTIONS_HEADING(text)      \
    {                              \
        .name = "", .help = (text) \
    }

/* options_seen remembers which rows a flag or variable set (bit = row index). */
struct options_seen {
    uint64_t bits[4]; /* at most 256 rows */
};

struct options_result {
    struct options_seen seen;
    bool help;         /* --help was given */
    bool man;          /* as --help=man: the same as a manual page */
    bool version;      /* --version was given */
    int first_operand; /* index in argv of the first operand, argc when none */
};

/* options_parse fills `*config` (zeroed by the caller) from argv and `environ`; every option gets
 * at least its default. Flags may come before and after operands, which are moved behind them; "--"
 * ends them. Of a flag given twice the last counts, a list's flags add up and replace what the
 * variable or the default said. An unknown flag is told with the nearest known name; of the
 * environment only names that begin with MORTISE_ and are nearly a row's are told (the others are
 * another program's, or what Kubernetes makes of a Service called mortise-…), and an empty variable
 * counts as absent. An empty text unsets a string or a list. The file's keys are set afterwards
 * through options_set_file, which never overrides what a flag or variable set; then
 * options_check_required says what is missing still. With --help or --version the rest is not
 * looked at, and the return is OK. Faults go to `faults`; the return is faults_err. A table that
 * contradicts itself (a default out of its range) is CHECKed. */
MUST_CHECK err_t options_parse(const struct option *table, int argc, char **argv,
                               char *const *environment, void *config,
                               struct options_result *out_result, struct faults *faults);

/* options_set_file sets one key (snake_case) from a file, unless a flag or variable has: then it is
 * judged all the same. A list's items stand between commas. `path` is where it stands, for the
 * fault. Returns false when no row has that key. */
bool options_set_file(const struct option *table, const char *key, const char *value,
                      const char *path, void *config, const struct options_seen *seen,
                      struct faults *faults);

/* options_nearest_key returns the file key most like `key`, owned, or NULL: for the fault when
 * options_set_file knows none. */
char *options_nearest_key(const struct option *table, const char *key);

/* options_forget overwrites and unsets the string of the row `name`, and overwrites its variable's
 * value in `environment`, where the kernel shows it to our user: for a secret that was used. */
void options_forget(const struct option *table, const char *name, void *config,
                    char *const *environment);

/* options_check_required adds a fault for each OPTION_FLAG_REQUIRED row, a string or list, that is
 * not set: called once when all sources are read, also by a program without a file. (Rows with
 * OPTION_FLAG_NO_FILE are judged by options_parse already.) */
void options_check_required(const struct option *table, void *config, struct faults *faults);

/* options_free releases what the struct owns; secrets are overwritten first. */
void options_free(const struct option *table, void *config);
/* What --help says beside the rows. `about` may end with "\n\nExample: " and examples, a line each,
 * those behind the first indented as deep. */
struct options_page {
    const char *name; /* mortise-proxy; of a command mortisectl-apply */
    int section;      /* of the manual */
    const char *summary;
    const char *usage;
    const char *about;
    const char *exit_status; /* for the manual; NULL: none */
};

/* options_help writes the usage line, `about`, then each row under its heading with default, range
 * and variable, wrapped at 90 columns; with `man` the same as a manual page. */
void options_help(const struct option *table, const struct options_page *page, bool man, FILE *out);

#endif
