/* option_value: one row of an options table: its names, what it takes, and a value from text to
 * field. For options.c and options_help.c alone. */
#ifndef MORTISE_LIB_BASE_OPTION_VALUE_H
#define MORTISE_LIB_BASE_OPTION_VALUE_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/base/faults.h"
#include "lib/base/options.h"

#define OPTION_PREFIX "MORTISE_"
#define OPTION_NAME_MAX 64

/* Where a value stands: "--workers", "MORTISE_WORKERS" or "sidecar.yaml:3". */
struct option_place {
    const char *path;
    bool commas; /* a list's items are separated by commas here */
};

static inline bool option_is_heading(const struct option *row)
{
    return row->name[0] == '\0';
}

/* The row's name as a variable, MORTISE_WORKERS, and as a key in a file, both in `out` of
 * OPTION_NAME_MAX bytes. CHECKs that the table's name is in kebab-case. */
void option_env_name(const struct option *row, char *out);
void option_key(const struct option *row, char *out);

/* option_range says what would be right, "1 to 256" or "strict, permissive", "" for any text;
 * owned. */
char *option_range(const struct option *row);
/* option_arg is what stands for the value in help. */
const char *option_arg(const struct option *row);

void *option_field(const struct option *row, void *config);

/* option_set sets the field if the value is right, else adds a fault that says what would be.
 * `append` adds to a list that a flag began. With `config` NULL the value is only judged. */
void option_set(const struct option *row, const struct option_place *place, const char *value,
                bool append, void *config, struct faults *faults);

/* option_clear releases what the field owns. */
void option_clear(const struct option *row, void *config);

#endif
