/* pb unpacks protobuf messages of peers under limits: protobuf-c itself recurses without limit and
 * allocates what the bytes say. Source: protobuf encoding specification. */
#ifndef MORTISE_LIB_RPC_PB_H
#define MORTISE_LIB_RPC_PB_H

#include <protobuf-c/protobuf-c.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"

#define PB_DEPTH_MAX 16 /* our deepest message nests 6 */

/* pb_unpack checks `in` against the descriptor without allocating (size, depth, lengths, wire
 * types; strings are UTF-8 without NUL; a message field that is not repeated comes once), then
 * unpacks it with an allocator that has a budget of `in.len * 64 + 64 KiB`. The owned message is
 * released with pb_free. Errors: TOO_LARGE, PB_TOO_DEEP, PB_SYNTAX. */
MUST_CHECK err_t pb_unpack(const ProtobufCMessageDescriptor *desc, struct bytes in, size_t max,
                           ProtobufCMessage **out);
void pb_free(ProtobufCMessage *msg);
/* pb_pack appends the encoding. Errors: TOO_LARGE (of the buffer). */
MUST_CHECK err_t pb_pack(const ProtobufCMessage *msg, struct buf *out);
/* pb_clone returns an owned deep copy; pb_equal compares by encoding. */
ProtobufCMessage *pb_clone(const ProtobufCMessage *msg);
bool pb_equal(const ProtobufCMessage *a, const ProtobufCMessage *b);
/* pb_size_of is what one value of the type takes in memory, as in the array of a repeated field. */
size_t pb_size_of(ProtobufCType type);
/* pb_is_map tells whether a field is a map<string, …>: protobuf-c has it as a list of its entries
 * (FieldEntry), which have the fields `key` and `value`. Source: protobuf encoding specification,
 * "Maps". */
bool pb_is_map(const ProtobufCFieldDescriptor *field);

#endif
