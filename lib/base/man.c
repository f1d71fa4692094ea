#include "lib/base/man.h"

#include <stdbool.h>
#include <string.h>

#include "lib/base/version.h"

/* One line, without its end. */
static void man_line(FILE *out, const char *text, size_t len)
{
    if (len > 0 && (text[0] == '.' || text[0] == '\''))
        (void)fputs("\\&", out);
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\\')
            (void)fputs("\\e", out);
        else if (text[i] == '-')
            (void)fputs("\\-", out);
        else
            (void)fputc(text[i], out);
    }
}

/* As an argument of a macro. */
static void man_quoted(FILE *out, const char *text)
{
    (void)fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"')
            (void)fputs("\\(dq", out);
        else
            man_line(out, text, 1);
    }
    (void)fputc('"', out);
}

static void man_upper(FILE *out, const char *text)
{
    for (; *text != '\0'; text++)
        (void)fputc(*text >= 'a' && *text <= 'z' ? *text - 'a' + 'A' : *text, out);
}

void man_begin(FILE *out, const char *name, int section, const char *summary)
{
    (void)fputs(".TH ", out);
    man_upper(out, name);
    (void)fprintf(out, " %d %s \"Mortise %s\" Mortise\n.SH NAME\n", section, MORTISE_DATE,
                  MORTISE_VERSION);
    man_line(out, name, strlen(name));
    (void)fputs(" \\- ", out);
    man_line(out, summary, strlen(summary));
    (void)fputc('\n', out);
}

void man_section(FILE *out, const char *title)
{
    (void)fprintf(out, ".SH %s\n", title);
}

void man_subsection(FILE *out, const char *title)
{
    (void)fputs(".SS ", out);
    man_quoted(out, title);
    (void)fputc('\n', out);
}

void man_text(FILE *out, const char *text)
{
    bool first = true;

    while (*text != '\0') {
        size_t len = strcspn(text, "\n");

        if (len == 0) {
            (void)fputs(".PP\n", out);
            first = true;
        } else {
            if (!first)
                (void)fputs(".br\n", out);
            man_line(out, text, len);
            (void)fputc('\n', out);
            first = false;
        }
        text += len + (text[len] == '\n');
    }
}

void man_item(FILE *out, const char *head)
{
    (void)fputs(".TP\n.B ", out);
    man_quoted(out, head);
    (void)fputc('\n', out);
}

void man_literal(FILE *out, const char *text)
{
    (void)fputs(".nf\n", out);
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");

        man_line(out, text, len);
        (void)fputc('\n', out);
        text += len + (text[len] == '\n');
    }
    (void)fputs(".fi\n", out);
}
