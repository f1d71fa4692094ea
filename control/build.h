/* build says what this program is made of. */
#ifndef MORTISE_CONTROL_BUILD_H
#define MORTISE_CONTROL_BUILD_H

#include <stdio.h>

#define BUILD_VERSION "0.1.0"

/* build_print writes the program's version and those of the libraries that are linked in, a line
 * each. */
void build_print(const char *program, FILE *out);

#endif
