/* permission_table: a descriptor set on standard input, the table on standard output. */
#include <stdlib.h>

#include "proto/permission_table.h"

#define SET_MAX ((size_t)4 << 20)

int main(void)
{
    uint8_t *set = malloc(SET_MAX);
    size_t len = set != NULL ? fread(set, 1, SET_MAX, stdin) : 0;
    bool made = len < SET_MAX && permission_table(set, len, stdout, stderr);

    free(set);
    return made && fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
