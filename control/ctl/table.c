#include "control/ctl/table.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"

bool table_is_terminal(void)
{
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");

    return isatty(STDOUT_FILENO) == 1 && (no_color == NULL || no_color[0] == '\0') &&
           (term == NULL || strcmp(term, "dumb") != 0);
}

static void table_put(struct table *table, const char *text)
{
    size_t size = strlen(text) * 6 + 2; /* a character becomes six at most */
    char *cell = mem_alloc(size);
    size_t len = 0;

    cell[0] = '\0';
    (void)str_escape(cell, size, &len, bytes_of_str(text[0] != '\0' ? text : "-"), false);
    table->cells = mem_realloc(table->cells, (table->num_cells + 1) * sizeof(*table->cells));
    table->cells[table->num_cells++] = cell;
}

static size_t table_num_heads(const struct table *table)
{
    size_t num = 0;

    while (table->heads[num] != NULL)
        num++;
    return num;
}

void table_add(struct table *table, const char *text)
{
    size_t own = table_num_heads(table);
    size_t before = table->first.head != NULL;
    size_t num = before + own + (table->last.head != NULL);

    if (before != 0 && table->num_cells % num == 0)
        table_put(table, table->first.text);
    table_put(table, text);
    if (table->last.head != NULL && table->num_cells % num == before + own)
        table_put(table, table->last.text);
}

void table_addf(struct table *table, const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    table_add(table, text);
}

size_t table_width(const char *text)
{
    size_t width = 0;

    for (; *text != '\0'; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

/* `red`: the column, from 1, whose cells are, but for empty ones; 0: none. */
static void table_row(const char *const *cells, size_t num, const size_t *widths, size_t red)
{
    for (size_t i = 0; i < num; i++) {
        /* Nothing behind the last: no spaces at the end of a line. */
        int pad = i + 1 < num ? (int)(widths[i] - table_width(cells[i]) + 2) : 0;

        bool is_red = i + 1 == red && strcmp(cells[i], "-") != 0;

        printf("%s%s%s%*s", is_red ? "\033[31m" : "", cells[i], is_red ? "\033[0m" : "", pad, "");
    }
}

/* All heads, in their order; how many there are. */
static size_t table_heads(const struct table *table, const char *heads[TABLE_COLUMNS_MAX])
{
    size_t own = table_num_heads(table), num = 0;

    CHECK(own > 0 && own + 2 <= TABLE_COLUMNS_MAX);
    if (table->first.head != NULL)
        heads[num++] = table->first.head;
    for (size_t i = 0; i < own; i++)
        heads[num++] = table->heads[i];
    if (table->last.head != NULL)
        heads[num++] = table->last.head;
    return num;
}

void table_print(struct table *table)
{
    const char *heads[TABLE_COLUMNS_MAX];
    size_t num = table_heads(table, heads);
    size_t red = table->red != 0 && table->first.head != NULL ? table->red + 1 : table->red;
    bool bold = table_is_terminal();

    CHECK(table->num_cells % num == 0);
    for (size_t i = 0; i < num + table->num_cells; i++) {
        size_t width = table_width(i < num ? heads[i] : table->cells[i - num]);

        if (width > table->widths[i % num])
            table->widths[i % num] = width;
    }
    if (!table->begun) {
        printf("%s", bold ? "\033[1m" : "");
        table_row(heads, num, table->widths, 0);
        printf("%s\n", bold ? "\033[0m" : "");
    }
    table->begun = true;
    for (size_t i = 0; i < table->num_cells; i += num) {
        table_row((const char *const *)&table->cells[i], num, table->widths, bold ? red : 0);
        printf("\n");
    }
    for (size_t i = 0; i < table->num_cells; i++)
        mem_free(table->cells[i]);
    mem_free(table->cells);
    table->cells = NULL;
    table->num_cells = 0;
}

static void table_span(int64_t seconds, char out[32])
{
    if (seconds < 120)
        (void)snprintf(out, 32, "%" PRId64 "s", seconds);
    else if (seconds < 7200)
        (void)snprintf(out, 32, "%" PRId64 "m", seconds / 60);
    else if (seconds < 172800)
        (void)snprintf(out, 32, "%" PRId64 "h", seconds / 3600);
    else
        (void)snprintf(out, 32, "%" PRId64 "d", seconds / 86400);
}

void table_time(int64_t unix_s, int64_t now_s, char out[TABLE_TIME_MAX])
{
    char utc[21];
    char span[32];

    out[0] = '\0';
    if (unix_s == 0)
        return;
    clock_format_utc(unix_s, utc);
    table_span(unix_s >= now_s ? unix_s - now_s : now_s - unix_s, span);
    if (unix_s == now_s)
        (void)snprintf(out, TABLE_TIME_MAX, "%s (just now)", utc);
    else if (unix_s > now_s)
        (void)snprintf(out, TABLE_TIME_MAX, "%s (in %s)", utc, span);
    else
        (void)snprintf(out, TABLE_TIME_MAX, "%s (%s ago)", utc, span);
}
