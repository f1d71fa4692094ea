/* history: what commands share that take the number of a revision. */
#ifndef MORTISE_CONTROL_CTL_HISTORY_H
#define MORTISE_CONTROL_CTL_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

/* history_number reads a revision's number. False: told. */
bool history_number(const char *text, uint64_t *out);

#endif
