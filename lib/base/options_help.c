#include <stdio.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/option_value.h"
#include "lib/base/options.h"

#define OPTIONS_COLUMNS 90
#define OPTIONS_INDENT 8

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
            (void)fputc('\n', out);
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
            (void)fputc('\n', out);
            column = 0;
        }
        text += *text != '\0';
    }
    if (column != 0)
        (void)fputc('\n', out);
}

static void option_help_head(const struct option *row, FILE *out)
{
    char variable[OPTION_NAME_MAX];

    option_env_name(row, variable);
    if (row->flags & OPTION_FLAG_NO_ARGV)
        (void)fprintf(out, "  %s=%s\n", variable, option_arg(row));
    else if (row->kind == OPTION_BOOL)
        (void)fprintf(out, "  --[no-]%s\n", row->name);
    else
        (void)fprintf(out, "  --%s %s%s\n", row->name, option_arg(row),
                      row->kind == OPTION_LIST ? " …" : "");
}

static void option_help(const struct option *row, FILE *out)
{
    CLEANUP(mem_freep) char *range = option_range(row);
    CLEANUP(mem_freep) char *text = NULL;
    char variable[OPTION_NAME_MAX], key[OPTION_NAME_MAX];
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
    (void)fprintf(out, "Usage: %s\n\n", usage);
    options_wrap(out, about, 0);
    if (table->name != NULL && !option_is_heading(table))
        (void)fprintf(out, "\nOptions:\n");
    for (const struct option *row = table; row->name != NULL; row++) {
        if (option_is_heading(row))
            (void)fprintf(out, "\n%s:\n", row->help);
        else
            option_help(row, out);
    }
    (void)fprintf(out, "\nHelp:\n  --help\n");
    options_wrap(out, "Show this and exit.", OPTIONS_INDENT);
    (void)fprintf(out, "  --version\n");
    options_wrap(out, "Show the version and exit.", OPTIONS_INDENT);
    (void)fprintf(out, "\n");
    options_wrap(out,
                 "A flag wins over its variable, the variable over the file, the file over the "
                 "default. In a file a key is the flag's name with _ for -.",
                 0);
}
