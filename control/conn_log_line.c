#include "control/conn_log_line.h"

#include <inttypes.h>

#include "lib/base/str.h"

static err_t conn_log_key(const char *name, size_t begin, struct buf *out)
{
    return buf_printf(out, "%s\"%s\":", buf_size(out) > begin ? "," : "", name);
}

static err_t conn_log_text(const char *name, const char *text, size_t begin, struct buf *out)
{
    char escaped[CONN_LOG_TEXT_MAX * 6 + 1];
    size_t len = 0;

    if (text[0] == '\0')
        return OK;
    TRY(conn_log_key(name, begin, out));
    (void)str_escape(escaped, sizeof(escaped), &len, bytes_of_str(text), true);
    return buf_printf(out, "\"%s\"", escaped);
}

static err_t conn_log_number(const char *name, int64_t value, size_t begin, struct buf *out)
{
    if (value == 0)
        return OK;
    TRY(conn_log_key(name, begin, out));
    return buf_printf(out, "%" PRId64, value);
}

err_t conn_log_line(const Mortise__V1__AccessLogEntry *entry, struct buf *out)
{
    const ProtobufCMessageDescriptor *desc = &mortise__v1__access_log_entry__descriptor;
    size_t begin;

    TRY(buf_add_str(out, "{"));
    begin = buf_size(out);
    for (unsigned i = 0; i < desc->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &desc->fields[i];
        const void *at = (const uint8_t *)entry + field->offset;

        if (field->type == PROTOBUF_C_TYPE_STRING)
            TRY(conn_log_text(field->name, *(char *const *)at, begin, out));
        else if (field->type == PROTOBUF_C_TYPE_SINT32)
            TRY(conn_log_number(field->name, *(const int32_t *)at, begin, out));
        else /* int64, uint64 */
            TRY(conn_log_number(field->name, *(const int64_t *)at, begin, out));
    }
    return buf_add_str(out, "}\n");
}
