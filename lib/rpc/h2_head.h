/* h2_head: one block of header fields within limits of number and size, kept in one buffer. Pure.
 * Private to lib/rpc. */
#ifndef MORTISE_LIB_RPC_H2_HEAD_H
#define MORTISE_LIB_RPC_H2_HEAD_H

#include "lib/base/buf.h"
#include "lib/rpc/h2.h"

#define H2_HEAD_FIELD_COST 32 /* RFC 9113 section 6.5.2: per field, in a list's size */

/* Zeroed memory with the limits set is an empty block that holds no memory. */
struct h2_head {
    uint32_t max_fields;
    size_t max_size; /* names and values with H2_HEAD_FIELD_COST each */
    struct buf text;
    struct h2_head_field *fields;
    uint32_t num;
    size_t size;
    bool too_large; /* a limit was passed: what came since is not kept */
};

/* h2_head_clear makes it empty and gives its memory back. */
void h2_head_clear(struct h2_head *head);
/* h2_head_add copies a field; beyond a limit it sets too_large. */
void h2_head_add(struct h2_head *head, struct bytes name, struct bytes value);
/* h2_head_list returns the fields in order, as an array to be released with mem_free; the texts are
 * borrowed until the block changes. */
struct h2_header *h2_head_list(const struct h2_head *head);

#endif
