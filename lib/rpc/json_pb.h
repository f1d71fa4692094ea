/* json_pb maps JSON and YAML to protobuf messages and back by walking descriptors.
 *
 * Field names are the proto's own (snake_case); JSON names (lowerCamelCase) are read as well. Enums
 * by name, bytes as base64, 64-bit integers as strings in JSON output and as numbers or strings in
 * input; a map<string, …> is a map, and is kept in the order of its keys. Refused with the path of
 * the field: unknown fields (with the nearest known name), wrong types, duplicate keys, two members
 * of one oneof, numbers out of range, unknown enum names (with the known ones), YAML aliases,
 * anchors and tags, several documents. Source: proto3 JSON mapping; YAML 1.1 core. */
#ifndef MORTISE_LIB_RPC_JSON_PB_H
#define MORTISE_LIB_RPC_JSON_PB_H

#include <protobuf-c/protobuf-c.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/faults.h"

enum json_pb_format { JSON_PB_JSON, JSON_PB_YAML };

#define JSON_PB_INPUT_MAX ((size_t)4 << 20)
#define JSON_PB_DEPTH_MAX 32

/* json_pb_parse returns an owned message (pb_free) or all faults. Fault paths begin with `name`
 * and ":line:column" for syntax errors ("mesh.yaml:12:3"), and are field paths ("links[2].profile")
 * otherwise. YAML also reads JSON. Errors: CONFIG_INVALID, JSON_SYNTAX, YAML_SYNTAX, TOO_LARGE. */
MUST_CHECK err_t json_pb_parse(enum json_pb_format format, const char *name, struct bytes text,
                               const ProtobufCMessageDescriptor *desc, struct faults *faults,
                               ProtobufCMessage **out);

/* json_pb_aside is a top-level map that is not part of the message: on_member hears of each of its
 * members as text (borrowed); whatever is no scalar there is a fault. */
struct json_pb_aside {
    const char *key;
    void (*on_member)(void *arg, const char *member, const char *value);
    void *arg;
};
/* json_pb_parse_aside is json_pb_parse of a text that may have such a map beside the message's
 * fields. */
MUST_CHECK err_t json_pb_parse_aside(enum json_pb_format format, const char *name,
                                     struct bytes text, const ProtobufCMessageDescriptor *desc,
                                     const struct json_pb_aside *aside, struct faults *faults,
                                     ProtobufCMessage **out);

/* json_pb_parse_map reads a text that is one such map and nothing else (`key` is not used): a
 * program's settings. Errors: as json_pb_parse. */
MUST_CHECK err_t json_pb_parse_map(enum json_pb_format format, const char *name, struct bytes text,
                                   const struct json_pb_aside *aside, struct faults *faults);

/* json_pb_keys tells on_key each key of a text that is a map (borrowed; what holds a NUL is left
 * out): to find out what it is a document of. Errors: as json_pb_parse. */
MUST_CHECK err_t json_pb_keys(enum json_pb_format format, const char *name, struct bytes text,
                              void (*on_key)(void *arg, const char *key), void *arg,
                              struct faults *faults);

/* json_pb_write appends the message: fields with their default value are left out; two-space
 * indentation. JSON ends without, YAML with a newline. */
MUST_CHECK err_t json_pb_write(enum json_pb_format format, const ProtobufCMessage *msg,
                               struct buf *out);

#endif
