/* table writes aligned columns, and times and other values the way people read them. */
#ifndef MORTISE_CONTROL_CTL_TABLE_H
#define MORTISE_CONTROL_CTL_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TABLE_COLUMNS_MAX 20

/* A column that all rows have beside their own cells, each with the text that is there when the row
 * is begun (`first`) or full (`last`); without a head there is none. Both borrowed. */
struct table_side {
    const char *head;
    const char *text;
};

/* Zeroed memory with `heads` set is an empty table. */
struct table {
    const char *const *heads; /* borrowed; NULL-ended */
    struct table_side first;
    struct table_side last;
    char **cells; /* num_cells, row by row */
    size_t num_cells;
    size_t red; /* the column, from 1, whose cells are red on a terminal; 0: none */
    size_t widths[TABLE_COLUMNS_MAX];
    bool begun; /* its heads are printed */
};

/* table_add adds the next cell, a row is full when it has a cell for each head; `text` is copied
 * with control characters escaped, "" is shown as "-". */
void table_add(struct table *table, const char *text);
void table_addf(struct table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* table_print writes it to standard output, heads bold on a terminal, and releases the rows. What
 * is added after that and printed again has no heads, and is not narrower. */
void table_print(struct table *table);

/* table_time writes "2026-11-24T01:00:00Z (in 23h)"; "" for 0. */
#define TABLE_TIME_MAX 64
void table_time(int64_t unix_s, int64_t now_s, char out[TABLE_TIME_MAX]);

/* table_width is the number of columns of a text without control characters: characters, not bytes.
 */
size_t table_width(const char *text);

/* table_is_terminal: whether standard output is one that shows colours (and NO_COLOR is not set).
 */
bool table_is_terminal(void);

#endif
