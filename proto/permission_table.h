/* permission_table makes the table of who may call what from a descriptor set: a line
 * `ROW("/package.Service/Method", NUMBER)` for each RPC, in the order of the schemas. */
#ifndef MORTISE_PROTO_PERMISSION_TABLE_H
#define MORTISE_PROTO_PERMISSION_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* permission_table writes it to `out`. False: `set` is no descriptor set, or has no RPC, or one
 * that does not say who may call it; each of these is told on `err`. */
bool permission_table(const uint8_t *set, size_t len, FILE *out, FILE *err);

#endif
