#include "lib/rpc/pb.h"

#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"

/* Bookkeeping of the allocator is charged as well, so that many tiny pieces cost what they cost. */
#define PB_ALLOC_COST 16
#define PB_BUDGET_FACTOR 64
#define PB_BUDGET_BASE ((size_t)64 << 10)
#define PB_FIELDS_MAX 128                 /* of one message type; ours have 12 at most */
#define PB_TAG_MAX ((uint64_t)0xffffffff) /* field number below 2^29, three bits of wire type */

/* The part of the input in hand; `start` is where the whole input begins, for error offsets. */
struct pb_reader {
    const uint8_t *start;
    const uint8_t *at;
    const uint8_t *end;
};

static int32_t pb_offset(const struct pb_reader *reader)
{
    return (int32_t)(reader->at - reader->start);
}

static err_t pb_read_varint(struct pb_reader *reader, uint64_t *out)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 70; shift += 7) {
        uint8_t byte;

        if (reader->at == reader->end)
            break;
        byte = *reader->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0) {
            if (shift == 63 && byte > 1)
                break; /* more than 64 bits */
            *out = value;
            return OK;
        }
    }
    return FAIL(PB_SYNTAX, pb_offset(reader));
}

static err_t pb_skip(struct pb_reader *reader, uint64_t len)
{
    if (len > (uint64_t)(reader->end - reader->at))
        return FAIL(PB_SYNTAX, pb_offset(reader));
    reader->at += len;
    return OK;
}

/* The wire type that one value of `type` has. */
static ProtobufCWireType pb_wire_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return PROTOBUF_C_WIRE_TYPE_32BIT;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return PROTOBUF_C_WIRE_TYPE_64BIT;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_BOOL:
    case PROTOBUF_C_TYPE_ENUM:
        return PROTOBUF_C_WIRE_TYPE_VARINT;
    }
    return PROTOBUF_C_WIRE_TYPE_VARINT;
}

/* One value of wire type `wire`, length-prefixed ones excepted. */
static err_t pb_skip_value(struct pb_reader *reader, ProtobufCWireType wire)
{
    uint64_t ignored;

    switch (wire) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
        return pb_read_varint(reader, &ignored);
    case PROTOBUF_C_WIRE_TYPE_64BIT:
        return pb_skip(reader, 8);
    case PROTOBUF_C_WIRE_TYPE_32BIT:
        return pb_skip(reader, 4);
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
        break;
    }
    return FAIL(PB_SYNTAX, pb_offset(reader)); /* groups are not of proto3 */
}

static err_t pb_check_string(struct pb_reader *reader)
{
    while (reader->at < reader->end) {
        uint32_t character;
        size_t len = str_utf8(bytes_of(reader->at, (size_t)(reader->end - reader->at)), &character);

        /* A C string could not hold what stands behind a NUL: two readers would see two values. */
        if (len == 0 || character == 0)
            return FAIL(PB_SYNTAX, pb_offset(reader));
        reader->at += len;
    }
    return OK;
}

static err_t pb_check(struct pb_reader *reader, const ProtobufCMessageDescriptor *desc,
                      unsigned depth);

/* The inside of a length-prefixed field that the schema knows. */
static err_t pb_check_inside(struct pb_reader *reader, const ProtobufCFieldDescriptor *field,
                             unsigned depth)
{
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return pb_check(reader, field->descriptor, depth + 1);
    if (field->type == PROTOBUF_C_TYPE_STRING)
        return pb_check_string(reader);
    if (field->type == PROTOBUF_C_TYPE_BYTES)
        return OK;
    if (field->label != PROTOBUF_C_LABEL_REPEATED)
        return FAIL(PB_SYNTAX, pb_offset(reader));
    while (reader->at < reader->end) /* packed numbers */
        TRY(pb_skip_value(reader, pb_wire_of(field->type)));
    return OK;
}

/* A message field that is not repeated may come once. protobuf-c would merge a second one into the
 * first, copying all of its lists each time: quadratic in what a peer sends. No encoder does that.
 */
static bool pb_is_second(const ProtobufCMessageDescriptor *desc,
                         const ProtobufCFieldDescriptor *field, uint64_t *seen)
{
    size_t index = (size_t)(field - desc->fields);
    uint64_t bit = (uint64_t)1 << (index % 64);

    if (field->type != PROTOBUF_C_TYPE_MESSAGE || field->label == PROTOBUF_C_LABEL_REPEATED)
        return false;
    if ((seen[index / 64] & bit) != 0)
        return true;
    seen[index / 64] |= bit;
    return false;
}

static err_t pb_check(struct pb_reader *reader, const ProtobufCMessageDescriptor *desc,
                      unsigned depth)
{
    uint64_t seen[PB_FIELDS_MAX / 64] = {0};

    CHECK(desc->n_fields <= PB_FIELDS_MAX);
    if (depth > PB_DEPTH_MAX)
        return FAIL(PB_TOO_DEEP, PB_DEPTH_MAX);

    while (reader->at < reader->end) {
        const ProtobufCFieldDescriptor *field;
        ProtobufCWireType wire;
        uint64_t tag, len;

        TRY(pb_read_varint(reader, &tag));
        if (tag > PB_TAG_MAX || tag >> 3 == 0)
            return FAIL(PB_SYNTAX, pb_offset(reader));
        wire = (ProtobufCWireType)(tag & 7);
        field = protobuf_c_message_descriptor_get_field(desc, (unsigned)(tag >> 3));
        if (field != NULL && pb_is_second(desc, field, seen))
            return FAIL(PB_SYNTAX, pb_offset(reader));

        if (wire != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED) {
            if (field != NULL && pb_wire_of(field->type) != wire)
                return FAIL(PB_SYNTAX, pb_offset(reader));
            TRY(pb_skip_value(reader, wire));
            continue;
        }
        TRY(pb_read_varint(reader, &len));
        if (len > (uint64_t)(reader->end - reader->at))
            return FAIL(PB_SYNTAX, pb_offset(reader));
        if (field != NULL) {
            struct pb_reader inside = {reader->start, reader->at, reader->at + len};

            TRY(pb_check_inside(&inside, field, depth));
        }
        reader->at += len;
    }
    return OK;
}

static void *pb_alloc(void *arg, size_t size)
{
    size_t *left = arg;

    if (size > *left || *left - size < PB_ALLOC_COST)
        return NULL;
    *left -= size + PB_ALLOC_COST;
    return mem_alloc(size);
}

static void pb_release(void *arg, void *ptr)
{
    (void)arg;
    mem_wipe_free(ptr); /* some messages have keys and tokens: all are treated alike */
}

static ProtobufCMessage *pb_unpack_within(const ProtobufCMessageDescriptor *desc, struct bytes in,
                                          size_t budget)
{
    ProtobufCAllocator allocator = {pb_alloc, pb_release, &budget};

    return protobuf_c_message_unpack(desc, &allocator, in.len, in.ptr);
}

err_t pb_unpack(const ProtobufCMessageDescriptor *desc, struct bytes in, size_t max,
                ProtobufCMessage **out)
{
    ProtobufCMessage *msg;

    if (in.len > max || in.len > BUF_MAX_DEFAULT)
        return FAIL(TOO_LARGE, max > INT32_MAX ? INT32_MAX : max);
    if (in.len != 0) {
        struct pb_reader reader = {in.ptr, in.ptr, in.ptr + in.len};

        TRY(pb_check(&reader, desc, 1));
    }
    msg = pb_unpack_within(desc, in, in.len * PB_BUDGET_FACTOR + PB_BUDGET_BASE);
    if (msg == NULL)
        return FAIL(TOO_LARGE, in.len); /* the encoding is sound, so it was the budget */

    *out = msg;
    return OK;
}

void pb_free(ProtobufCMessage *msg)
{
    size_t none = 0;
    ProtobufCAllocator allocator = {pb_alloc, pb_release, &none};

    if (msg != NULL)
        protobuf_c_message_free_unpacked(msg, &allocator);
}

err_t pb_pack(const ProtobufCMessage *msg, struct buf *out)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t *to;

    if (len == 0)
        return OK;
    TRY(buf_reserve(out, len, &to));
    CHECK(protobuf_c_message_pack(msg, to) == len);
    buf_commit(out, len);
    return OK;
}

/* The encoding in memory of its own; released with mem_free. */
static uint8_t *pb_packed(const ProtobufCMessage *msg, size_t *out_len)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t *data = mem_alloc(len);

    CHECK(protobuf_c_message_pack(msg, data) == len);
    *out_len = len;
    return data;
}

ProtobufCMessage *pb_clone(const ProtobufCMessage *msg)
{
    size_t len;
    uint8_t *data = pb_packed(msg, &len);
    ProtobufCMessage *clone = pb_unpack_within(msg->descriptor, bytes_of(data, len), SIZE_MAX);

    CHECK(clone != NULL); /* what we packed ourselves unpacks */
    mem_wipe_free(data);
    return clone;
}

bool pb_equal(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    uint8_t *data_a, *data_b;
    size_t len_a, len_b;
    bool equal;

    if (a->descriptor != b->descriptor)
        return false;
    data_a = pb_packed(a, &len_a);
    data_b = pb_packed(b, &len_b);
    equal = bytes_equal(bytes_of(data_a, len_a), bytes_of(data_b, len_b));
    mem_wipe_free(data_a);
    mem_wipe_free(data_b);
    return equal;
}

size_t pb_size_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return 4;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_ENUM:
        return sizeof(int);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    }
    return 0;
}

/* The schema's compiler names the entries of `peer_names` PeerNamesEntry, and refuses a message
 * that somebody else has called so. */
static bool pb_is_entry_name(const char *name, const char *field)
{
    bool upper = true;

    for (; *field != '\0'; field++) {
        if (*field == '_') {
            upper = true;
            continue;
        }
        if (*name++ != (upper && *field >= 'a' && *field <= 'z' ? *field - 'a' + 'A' : *field))
            return false;
        upper = false;
    }
    return strcmp(name, "Entry") == 0;
}

bool pb_is_map(const ProtobufCFieldDescriptor *field)
{
    const ProtobufCMessageDescriptor *entry;

    if (field->label != PROTOBUF_C_LABEL_REPEATED || field->type != PROTOBUF_C_TYPE_MESSAGE)
        return false;
    entry = field->descriptor;
    return entry->n_fields == 2 && entry->fields[0].id == 1 && entry->fields[1].id == 2 &&
           entry->fields[0].type == PROTOBUF_C_TYPE_STRING &&
           strcmp(entry->fields[0].name, "key") == 0 &&
           strcmp(entry->fields[1].name, "value") == 0 &&
           pb_is_entry_name(entry->short_name, field->name);
}
