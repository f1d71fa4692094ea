/* man writes manual pages: man(7), what `man` and mandoc read. Texts are as in --help; what has a
 * meaning to the formatter is escaped here and nowhere else. */
#ifndef MORTISE_LIB_BASE_MAN_H
#define MORTISE_LIB_BASE_MAN_H

#include <stdio.h>

/* man_begin writes the head of NAME(SECTION) and what it is in a line. */
void man_begin(FILE *out, const char *name, int section, const char *summary);
void man_section(FILE *out, const char *title);
void man_subsection(FILE *out, const char *title);
/* man_text writes paragraphs; a newline in the text ends a line, two a paragraph. */
void man_text(FILE *out, const char *text);
/* man_item begins an entry of a list: a head in bold; its text comes by man_text. */
void man_item(FILE *out, const char *head);
/* man_literal writes lines as they are. */
void man_literal(FILE *out, const char *text);

#endif
