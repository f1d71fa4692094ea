#include <inttypes.h>
#include <math.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/node.h"
#include "lib/rpc/pb.h"

struct json_pb_writer {
    enum json_pb_format format;
    struct buf *out;
};

static err_t json_pb_indent(struct json_pb_writer *writer, unsigned depth)
{
    for (unsigned i = 0; i < depth; i++)
        TRY(buf_add(writer->out, "  ", 2));
    return OK;
}

/* Characters that JSON or YAML want escaped, or that a screen would not show as what they are. */
static bool json_pb_must_escape(uint32_t c)
{
    return c == '"' || c == '\\' || c == 0xfffe || c == 0xffff || str_is_unsafe(c);
}

/* In double quotes both languages agree. */
static err_t json_pb_quoted(struct buf *out, const char *text)
{
    struct bytes left = bytes_of_str(text);

    TRY(buf_add(out, "\"", 1));
    while (left.len != 0) {
        uint32_t c = 0xfffd;
        size_t len = str_utf8(left, &c);

        if (len == 0) { /* only a message made by ourselves can hold that */
            TRY(buf_add_str(out, "\\ufffd"));
            len = 1;
        } else if (c == '"' || c == '\\') {
            TRY(buf_printf(out, "\\%c", (char)c));
        } else if (c == '\n') {
            TRY(buf_add_str(out, "\\n"));
        } else if (json_pb_must_escape(c)) {
            TRY(buf_printf(out, "\\u%04x", (unsigned)c));
        } else {
            TRY(buf_add(out, left.ptr, len));
        }
        left.ptr += len;
        left.len -= len;
    }
    return buf_add(out, "\"", 1);
}

/* May the text stand in YAML without quotes? Words and addresses of names, nothing that any reader
 * could take for another type. */
static bool json_pb_is_plain(const char *text)
{
    size_t len = strlen(text);

    if (len == 0 || node_is_yaml_word(text) || text[len - 1] == ':')
        return false;
    if (!((text[0] >= 'a' && text[0] <= 'z') || (text[0] >= 'A' && text[0] <= 'Z') ||
          text[0] == '/'))
        return false;
    for (const char *c = text; *c != '\0'; c++) {
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ||
              strchr("_-./:@", *c) != NULL))
            return false;
    }
    return true;
}

/* Lines of printable ASCII, ending with just one newline: a PEM block reads well as it is. */
static bool json_pb_is_block(const char *text)
{
    size_t len = strlen(text);

    if (len < 2 || text[len - 1] != '\n' || text[len - 2] == '\n' || text[0] == ' ' ||
        text[0] == '\n')
        return false;
    for (const char *c = text; *c != '\0'; c++) {
        if (*c != '\n' && (*c < 0x20 || *c > 0x7e))
            return false;
    }
    return true;
}

static err_t json_pb_block(struct json_pb_writer *writer, const char *text, unsigned depth)
{
    TRY(buf_add(writer->out, "|", 1));
    while (*text != '\0') {
        size_t len = strcspn(text, "\n");

        TRY(buf_add(writer->out, "\n", 1));
        if (len != 0)
            TRY(json_pb_indent(writer, depth));
        TRY(buf_add(writer->out, text, len));
        text += len + 1;
    }
    return OK;
}

static err_t json_pb_write_string(struct json_pb_writer *writer, const char *text, unsigned depth)
{
    if (text == NULL)
        text = "";
    if (writer->format == JSON_PB_YAML && json_pb_is_plain(text))
        return buf_add_str(writer->out, text);
    if (writer->format == JSON_PB_YAML && json_pb_is_block(text))
        return json_pb_block(writer, text, depth);
    return json_pb_quoted(writer->out, text);
}

static err_t json_pb_write_real(struct buf *out, double value, int digits)
{
    if (isnan(value))
        return buf_add_str(out, "\"NaN\"");
    if (isinf(value))
        return buf_add_str(out, value < 0 ? "\"-Infinity\"" : "\"Infinity\"");
    return buf_printf(out, "%.*g", digits, value);
}

static err_t json_pb_write_bytes(struct buf *out, const ProtobufCBinaryData *data)
{
    char *text = bytes_to_base64(bytes_of(data->data, data->len));
    err_t err = buf_printf(out, "\"%s\"", text);

    mem_free(text);
    return err;
}

static err_t json_pb_write_enum(struct buf *out, const ProtobufCEnumDescriptor *desc, int number)
{
    const ProtobufCEnumValue *value = protobuf_c_enum_descriptor_get_value(desc, number);

    if (value == NULL) /* of a newer schema */
        return buf_printf(out, "%d", number);
    if (node_is_yaml_word(value->name))
        return buf_printf(out, "\"%s\"", value->name);
    return buf_printf(out, "%s", value->name);
}

static err_t json_pb_write_fields(struct json_pb_writer *writer, const ProtobufCMessage *msg,
                                  unsigned depth, bool in_item);

/* Writes one value; `depth` is the indentation of what stands inside it. */
static err_t json_pb_write_value(struct json_pb_writer *writer,
                                 const ProtobufCFieldDescriptor *field, const void *from,
                                 unsigned depth)
{
    const char *quote = writer->format == JSON_PB_JSON ? "\"" : "";

    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return buf_printf(writer->out, "%" PRId32, *(const int32_t *)from);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return buf_printf(writer->out, "%s%" PRId64 "%s", quote, *(const int64_t *)from, quote);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return buf_printf(writer->out, "%" PRIu32, *(const uint32_t *)from);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return buf_printf(writer->out, "%s%" PRIu64 "%s", quote, *(const uint64_t *)from, quote);
    case PROTOBUF_C_TYPE_FLOAT:
        return json_pb_write_real(writer->out, (double)*(const float *)from, 9);
    case PROTOBUF_C_TYPE_DOUBLE:
        return json_pb_write_real(writer->out, *(const double *)from, 17);
    case PROTOBUF_C_TYPE_BOOL:
        return buf_add_str(writer->out, *(const protobuf_c_boolean *)from ? "true" : "false");
    case PROTOBUF_C_TYPE_ENUM:
        if (writer->format == JSON_PB_JSON &&
            protobuf_c_enum_descriptor_get_value(field->descriptor, *(const int *)from) != NULL)
            return json_pb_quoted(
                writer->out,
                protobuf_c_enum_descriptor_get_value(field->descriptor, *(const int *)from)->name);
        return json_pb_write_enum(writer->out, field->descriptor, *(const int *)from);
    case PROTOBUF_C_TYPE_STRING:
        return json_pb_write_string(writer, *(char *const *)from, depth);
    case PROTOBUF_C_TYPE_BYTES:
        return json_pb_write_bytes(writer->out, from);
    case PROTOBUF_C_TYPE_MESSAGE:
        return json_pb_write_fields(writer, *(ProtobufCMessage *const *)from, depth, false);
    }
    return OK;
}

static bool json_pb_is_zero(const ProtobufCFieldDescriptor *field, const void *value)
{
    static const char zeros[8];

    if (field->type == PROTOBUF_C_TYPE_STRING)
        return *(char *const *)value == NULL || **(char *const *)value == '\0';
    if (field->type == PROTOBUF_C_TYPE_BYTES)
        return ((const ProtobufCBinaryData *)value)->len == 0;
    return memcmp(value, zeros, pb_size_of(field->type)) == 0;
}

/* Is there something to write? */
static bool json_pb_has(const ProtobufCMessage *msg, const ProtobufCFieldDescriptor *field)
{
    const char *base = (const char *)msg;
    const void *value = base + field->offset;

    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return *(const size_t *)(const void *)(base + field->quantifier_offset) != 0;
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0)
        return *(const uint32_t *)(const void *)(base + field->quantifier_offset) == field->id;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return *(ProtobufCMessage *const *)value != NULL;
    if (field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type != PROTOBUF_C_TYPE_STRING)
        return *(const protobuf_c_boolean *)(const void *)(base + field->quantifier_offset) != 0;
    return !json_pb_is_zero(field, value);
}

static err_t json_pb_write_list(struct json_pb_writer *writer, const ProtobufCMessage *msg,
                                const ProtobufCFieldDescriptor *field, unsigned depth)
{
    const char *base = (const char *)msg;
    size_t num = *(const size_t *)(const void *)(base + field->quantifier_offset);
    const char *items = *(const char *const *)(const void *)(base + field->offset);
    size_t size = pb_size_of(field->type);
    bool json = writer->format == JSON_PB_JSON;

    if (json)
        TRY(buf_add(writer->out, "[", 1));
    for (size_t i = 0; i < num; i++) {
        const void *item = items + i * size;

        TRY(buf_add_str(writer->out, json && i != 0 ? ",\n" : "\n"));
        TRY(json_pb_indent(writer, depth));
        if (!json)
            TRY(buf_add(writer->out, "- ", 2));
        if (!json && field->type == PROTOBUF_C_TYPE_MESSAGE)
            TRY(json_pb_write_fields(writer, *(ProtobufCMessage *const *)item, depth + 1, true));
        else
            TRY(json_pb_write_value(writer, field, item, depth + 1));
    }
    if (!json)
        return OK;
    TRY(buf_add(writer->out, "\n", 1));
    TRY(json_pb_indent(writer, depth - 1));
    return buf_add(writer->out, "]", 1);
}

static err_t json_pb_write_map(struct json_pb_writer *writer, const ProtobufCMessage *msg,
                               const ProtobufCFieldDescriptor *field, unsigned depth)
{
    const ProtobufCMessageDescriptor *desc = field->descriptor;
    const char *base = (const char *)msg;
    size_t num = *(const size_t *)(const void *)(base + field->quantifier_offset);
    ProtobufCMessage *const *entries =
        *(ProtobufCMessage *const *const *)(const void *)(base + field->offset);
    bool json = writer->format == JSON_PB_JSON;
    bool nested = desc->fields[1].type == PROTOBUF_C_TYPE_MESSAGE;

    if (json)
        TRY(buf_add(writer->out, "{", 1));
    for (size_t i = 0; i < num; i++) {
        const char *entry = (const char *)entries[i];
        const char *key = *(char *const *)(const void *)(entry + desc->fields[0].offset);

        TRY(buf_add_str(writer->out, json && i != 0 ? ",\n" : "\n"));
        TRY(json_pb_indent(writer, depth));
        if (!json && json_pb_is_plain(key))
            TRY(buf_add_str(writer->out, key));
        else
            TRY(json_pb_quoted(writer->out, key));
        TRY(buf_add_str(writer->out, json || !nested ? ": " : ":"));
        TRY(json_pb_write_value(writer, &desc->fields[1], entry + desc->fields[1].offset,
                                depth + 1));
    }
    if (!json)
        return OK;
    TRY(buf_add(writer->out, "\n", 1));
    TRY(json_pb_indent(writer, depth - 1));
    return buf_add(writer->out, "}", 1);
}

/* Writes the fields of a message at `depth`. In YAML they begin on a line of their own, but for the
 * first one of a list's item (`in_item`), which stands behind the dash. */
static err_t json_pb_write_fields(struct json_pb_writer *writer, const ProtobufCMessage *msg,
                                  unsigned depth, bool in_item)
{
    const ProtobufCMessageDescriptor *desc = msg->descriptor;
    bool json = writer->format == JSON_PB_JSON;
    bool any = false;

    if (json)
        TRY(buf_add(writer->out, "{", 1));
    for (unsigned i = 0; i < desc->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &desc->fields[i];
        bool nested = field->type == PROTOBUF_C_TYPE_MESSAGE;

        if (!json_pb_has(msg, field))
            continue;
        if (json)
            TRY(buf_add_str(writer->out, any ? ",\n" : "\n"));
        else if (any || !in_item)
            TRY(buf_add(writer->out, "\n", depth != 0 || any ? 1 : 0));
        if (json || any || !in_item)
            TRY(json_pb_indent(writer, depth));
        any = true;
        TRY(buf_printf(writer->out, json ? "\"%s\": " : "%s:", field->name));
        if (pb_is_map(field)) {
            TRY(json_pb_write_map(writer, msg, field, depth + 1));
            continue;
        }
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            TRY(json_pb_write_list(writer, msg, field, depth + 1));
            continue;
        }
        if (!json && !nested)
            TRY(buf_add(writer->out, " ", 1));
        TRY(json_pb_write_value(writer, field, (const char *)msg + field->offset, depth + 1));
    }
    if (!json && !any) /* behind a colon, behind a dash, or all there is */
        return buf_add_str(writer->out, in_item || depth == 0 ? "{}" : " {}");
    if (!json)
        return OK;
    if (any) {
        TRY(buf_add(writer->out, "\n", 1));
        TRY(json_pb_indent(writer, depth - 1));
    }
    return buf_add(writer->out, "}", 1);
}

err_t json_pb_write(enum json_pb_format format, const ProtobufCMessage *msg, struct buf *out)
{
    struct json_pb_writer writer = {format, out};

    if (format == JSON_PB_JSON)
        return json_pb_write_fields(&writer, msg, 1, false);
    TRY(json_pb_write_fields(&writer, msg, 0, false));
    return buf_add(out, "\n", 1);
}
