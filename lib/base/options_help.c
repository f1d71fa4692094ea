#include <stdio.h>
#include <string.h>

#include "lib/base/man.h"
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

/* The flag, or the variable of what has none; owned. */
static char *option_help_head(const struct option *row)
{
    char variable[OPTION_NAME_MAX];

    option_env_name(row, variable);
    if (row->flags & OPTION_FLAG_NO_ARGV)
        return mem_printf("%s=%s", variable, option_arg(row));
    if (row->kind == OPTION_BOOL)
        return mem_printf("--[no-]%s", row->name);
    return mem_printf("--%s %s%s", row->name, option_arg(row),
                      row->kind == OPTION_LIST ? " …" : "");
}

/* What it is for, its default, its range, and where it may come from; owned. */
static char *option_help_text(const struct option *row)
{
    CLEANUP(mem_freep) char *range = option_range(row);
    char variable[OPTION_NAME_MAX], key[OPTION_NAME_MAX];
    const char *origin;

    option_env_name(row, variable);
    option_key(row, key);
    if (row->flags & OPTION_FLAG_NO_ARGV)
        origin =
            row->flags & OPTION_FLAG_NO_FILE ? "variable only" : "variable, or key in the file";
    else if (row->flags & OPTION_FLAG_NO_ENV)
        origin = "flag only";
    else
        origin = variable;
    return mem_printf("%s (%s%s%s%s%s%s%s%s)", row->help,
                      row->flags & OPTION_FLAG_REQUIRED ? "required; " : "",
                      row->def != NULL ? "default " : "", row->def != NULL ? row->def : "",
                      row->def != NULL ? "; " : "", row->kind == OPTION_ENUM ? "one of " : "",
                      range, range[0] != '\0' ? "; " : "", origin);
}

static const char options_precedence[] =
    "A flag wins over its variable, the variable over the file, the file over the "
    "default. In a file a key is the flag's name with _ for -.";

static const char *options_where(const struct option *table)
{
    for (const struct option *row = table; row->name != NULL; row++) {
        if (!option_is_heading(row) && !(row->flags & OPTION_FLAG_NO_ENV))
            return options_precedence;
    }
    return "Settings are flags alone: there is no variable and no file.";
}

static void options_help_text(const struct option *table, const struct options_page *page,
                              FILE *out)
{
    (void)fprintf(out, "Usage: %s\n\n", page->usage);
    options_wrap(out, page->about, 0);
    if (table->name != NULL && !option_is_heading(table))
        (void)fprintf(out, "\nOptions:\n");
    for (const struct option *row = table; row->name != NULL; row++) {
        CLEANUP(mem_freep) char *head = NULL;
        CLEANUP(mem_freep) char *text = NULL;

        if (option_is_heading(row)) {
            (void)fprintf(out, "\n%s:\n", row->help);
            continue;
        }
        head = option_help_head(row);
        text = option_help_text(row);
        (void)fprintf(out, "  %s\n", head);
        options_wrap(out, text, OPTIONS_INDENT);
    }
    (void)fprintf(out, "\nHelp:\n  --help\n");
    options_wrap(out, "Show this and exit; --help=man as a manual page.", OPTIONS_INDENT);
    (void)fprintf(out, "  --version\n");
    options_wrap(out, "Show the version and exit.", OPTIONS_INDENT);
    (void)fprintf(out, "\n");
    options_wrap(out, options_where(table), 0);
}

/* ---- manual page ---- */

#define OPTIONS_EXAMPLE "\n\nExample: "
#define OPTIONS_EXAMPLE_INDENT 9 /* of "Example: " */

static void options_man_example(const char *text, FILE *out)
{
    CLEANUP(mem_freep) char *lines = mem_strdup(text);
    size_t to = 0;

    for (const char *at = text; *at != '\0';) {
        size_t indent = strspn(at, " ");

        if (at != text)
            at += indent < OPTIONS_EXAMPLE_INDENT ? indent : OPTIONS_EXAMPLE_INDENT;
        while (*at != '\0' && *at != '\n')
            lines[to++] = *at++;
        if (*at == '\n')
            lines[to++] = *at++;
    }
    lines[to] = '\0';
    man_section(out, "EXAMPLES");
    man_literal(out, lines);
}

static void options_man(const struct option *table, const struct options_page *page, FILE *out)
{
    const char *example = strstr(page->about, OPTIONS_EXAMPLE);
    CLEANUP(mem_freep)
    char *about = example != NULL ? mem_strndup(page->about, (size_t)(example - page->about))
                                  : mem_strdup(page->about);

    man_begin(out, page->name, page->section, page->summary);
    man_section(out, "SYNOPSIS");
    man_text(out, page->usage);
    man_section(out, "DESCRIPTION");
    man_text(out, about);
    man_section(out, "OPTIONS");
    for (const struct option *row = table; row->name != NULL; row++) {
        CLEANUP(mem_freep) char *head = NULL;
        CLEANUP(mem_freep) char *text = NULL;

        if (option_is_heading(row)) {
            man_subsection(out, row->help);
            continue;
        }
        head = option_help_head(row);
        text = option_help_text(row);
        man_item(out, head);
        man_text(out, text);
    }
    man_subsection(out, "Help");
    man_item(out, "--help");
    man_text(out, "Show the options and exit; --help=man shows this page.");
    man_item(out, "--version");
    man_text(out, "Show the version and exit.");
    man_section(out, "ENVIRONMENT");
    man_text(out, options_where(table));
    if (page->exit_status != NULL) {
        man_section(out, "EXIT STATUS");
        man_text(out, page->exit_status);
    }
    if (example != NULL)
        options_man_example(example + sizeof(OPTIONS_EXAMPLE) - 1, out);
}

void options_help(const struct option *table, const struct options_page *page, bool man, FILE *out)
{
    if (man)
        options_man(table, page, out);
    else
        options_help_text(table, page, out);
}
