#include "lib/rpc/json_pb.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/node.h"
#include "lib/rpc/pb.h"

#define JSON_PB_FIELDS_MAX 128 /* of one message type, as in pb.c */
#define JSON_PB_QUOTE_MAX 64   /* of a wrong value in a message for people */

struct json_pb_reader {
    struct faults *faults;
    struct fault_path path;
};

/* The start of a wrong value, for people; faults_add escapes it. */
struct json_pb_quote {
    char text[JSON_PB_QUOTE_MAX + 8];
};

static struct json_pb_quote json_pb_quote(struct bytes text)
{
    struct json_pb_quote quote;
    size_t len = str_utf8_cut(text, text.len < JSON_PB_QUOTE_MAX ? text.len : JSON_PB_QUOTE_MAX);

    if (text.len != 0)
        memcpy(quote.text, text.ptr, len);
    memcpy(quote.text + len, len < text.len ? "\xe2\x80\xa6" : "", len < text.len ? 4 : 1);
    return quote;
}

static const char *json_pb_kind_name(const struct node *node)
{
    switch (node->kind) {
    case NODE_NULL:
        return "nothing";
    case NODE_BOOL:
        return "true or false";
    case NODE_NUMBER:
        return "a number";
    case NODE_STRING:
        return "text";
    case NODE_LIST:
        return "a list";
    case NODE_MAP:
        return "a map";
    }
    return "nothing";
}

static void json_pb_wrong_kind(struct json_pb_reader *reader, const struct node *node,
                               const char *expected)
{
    faults_add(reader->faults, reader->path.text, "expected %s, found %s", expected,
               json_pb_kind_name(node));
}

/* A number or a number in quotes, as proto3 JSON has it. */
static bool json_pb_is_numeric(const struct node *node)
{
    return node->kind == NODE_NUMBER || node->kind == NODE_STRING;
}

/* Whole numbers are decimal digits. 1.0 and 1e3 are whole as well (proto3 JSON), up to 2^53. 010
 * and 0x10 are no numbers here: YAML readers differ about them. */
static bool json_pb_whole(const char *text, bool *out_negative, uint64_t *out)
{
    const char *digits = text + (text[0] == '-');
    double real;
    char *end;

    *out_negative = text[0] == '-';
    if (digits[0] < '0' || digits[0] > '9' ||
        (digits[0] == '0' && digits[1] != '\0' && digits[1] != '.' && digits[1] != 'e' &&
         digits[1] != 'E'))
        return false;
    errno = 0;
    *out = strtoull(digits, &end, 10);
    if (*end == '\0')
        return errno == 0;
    if (*end == '.' && (end[1] < '0' || end[1] > '9'))
        return false; /* "5." is C's */
    real = strtod(digits, &end);
    if (*end != '\0' || real != floor(real) || real > 9007199254740992.0)
        return false;
    *out = (uint64_t)real;
    return true;
}

/* The node as an integer from `min` to `max`. */
static bool json_pb_integer(struct json_pb_reader *reader, const struct node *node, int64_t min,
                            uint64_t max, uint64_t *out)
{
    const char *text = (const char *)node->text.ptr;
    bool negative = false;
    uint64_t value = 0;

    if (!json_pb_is_numeric(node)) {
        json_pb_wrong_kind(reader, node, "a whole number");
        return false;
    }
    if (strlen(text) != node->text.len || !json_pb_whole(text, &negative, &value) ||
        (negative ? value > (uint64_t)0 - (uint64_t)min : value > max)) {
        faults_add(reader->faults, reader->path.text,
                   "expected a whole number from %" PRId64 " to %" PRIu64 ", found \"%s\"", min,
                   max, json_pb_quote(node->text).text);
        return false;
    }
    *out = negative ? (uint64_t)0 - value : value;
    return true;
}

static bool json_pb_real(struct json_pb_reader *reader, const struct node *node, double max,
                         double *out)
{
    const char *text = (const char *)node->text.ptr;
    bool special = false;

    if (!json_pb_is_numeric(node)) {
        json_pb_wrong_kind(reader, node, "a number");
        return false;
    }
    if (node->kind == NODE_STRING && strlen(text) == node->text.len)
        special = strcmp(text, "NaN") == 0 || strcmp(text, "Infinity") == 0 ||
                  strcmp(text, "-Infinity") == 0;
    *out = strtod(text, NULL);
    if (special ||
        (strlen(text) == node->text.len && node_is_yaml_number(text) && fabs(*out) <= max))
        return true;
    faults_add(reader->faults, reader->path.text, "expected a number, found \"%s\"",
               json_pb_quote(node->text).text);
    return false;
}

static bool json_pb_bool(struct json_pb_reader *reader, const struct node *node,
                         protobuf_c_boolean *out)
{
    if (node->kind != NODE_BOOL) {
        json_pb_wrong_kind(reader, node, "true or false");
        return false;
    }
    *out = bytes_equal_str(node->text, "true");
    return true;
}

static bool json_pb_is_unspecified(const char *name)
{
    static const char suffix[] = "_UNSPECIFIED";
    size_t len = strlen(name);

    return len >= sizeof(suffix) - 1 && strcmp(name + len - (sizeof(suffix) - 1), suffix) == 0;
}

static void json_pb_enum_fault(struct json_pb_reader *reader, const ProtobufCEnumDescriptor *desc,
                               const struct node *node)
{
    struct buf names = {NULL, 0, 0, 0, 256};
    char *list;
    err_t err = OK;

    for (unsigned i = 0; i < desc->n_values && err_is_ok(err); i++) {
        if (!json_pb_is_unspecified(desc->values[i].name))
            err =
                buf_printf(&names, "%s%s", buf_size(&names) != 0 ? ", " : "", desc->values[i].name);
    }
    list = buf_take_str(&names);
    faults_add(reader->faults, reader->path.text, "unknown value \"%s\"; there are: %s%s",
               json_pb_quote(node->text).text, list, err_is_ok(err) ? "" : " and more");
    mem_free(list);
}

static bool json_pb_enum(struct json_pb_reader *reader, const struct node *node,
                         const ProtobufCEnumDescriptor *desc, int *out)
{
    const ProtobufCEnumValue *value = NULL;

    if (node->kind != NODE_STRING) {
        json_pb_wrong_kind(reader, node, "a name");
        return false;
    }
    if (strlen((const char *)node->text.ptr) == node->text.len)
        value = protobuf_c_enum_descriptor_get_value_by_name(desc, (const char *)node->text.ptr);
    if (value == NULL) {
        json_pb_enum_fault(reader, desc, node);
        return false;
    }
    *out = value->value;
    return true;
}

static bool json_pb_string(struct json_pb_reader *reader, const struct node *node, char **out)
{
    if (node->kind == NODE_BOOL || node->kind == NODE_NUMBER || node->plain) {
        faults_add(reader->faults, reader->path.text,
                   "expected text, found %s; write \"%s\" in quotes",
                   node->kind == NODE_NUMBER ? "a number" : "true or false",
                   json_pb_quote(node->text).text);
        return false;
    }
    if (node->kind != NODE_STRING) {
        json_pb_wrong_kind(reader, node, "text");
        return false;
    }
    if (strlen((const char *)node->text.ptr) != node->text.len) {
        faults_add(reader->faults, reader->path.text, "a NUL character is not allowed");
        return false;
    }
    *out = mem_strdup((const char *)node->text.ptr);
    return true;
}

static bool json_pb_bytes(struct json_pb_reader *reader, const struct node *node,
                          ProtobufCBinaryData *out)
{
    struct buf data = {NULL, 0, 0, 0, JSON_PB_INPUT_MAX};
    err_t err;

    if (node->kind != NODE_STRING) {
        json_pb_wrong_kind(reader, node, "base64 text");
        return false;
    }
    err = bytes_from_base64((const char *)node->text.ptr, node->text.len, &data);
    if (!err_is_ok(err)) {
        faults_add(reader->faults, reader->path.text, "not base64, from character %d on",
                   (int)err.sub + 1);
        buf_fini(&data);
        return false;
    }
    out->len = buf_size(&data);
    out->data = out->len != 0 ? mem_dup(buf_view(&data).ptr, out->len) : NULL;
    buf_fini(&data);
    return true;
}

static void json_pb_message(struct json_pb_reader *reader, const struct node *node,
                            ProtobufCMessage *msg);

static ProtobufCMessage *json_pb_new(const ProtobufCMessageDescriptor *desc)
{
    ProtobufCMessage *msg = mem_alloc(desc->sizeof_message);

    protobuf_c_message_init(desc, msg);
    return msg;
}

/* Reads one value of the field's type to `to`; on a fault `to` is as it was. */
static bool json_pb_value(struct json_pb_reader *reader, const struct node *node,
                          const ProtobufCFieldDescriptor *field, void *to)
{
    uint64_t integer;
    double real;

    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        if (!json_pb_integer(reader, node, INT32_MIN, INT32_MAX, &integer))
            return false;
        *(int32_t *)to = (int32_t)(int64_t)integer;
        return true;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        if (!json_pb_integer(reader, node, INT64_MIN, INT64_MAX, &integer))
            return false;
        *(int64_t *)to = (int64_t)integer;
        return true;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        if (!json_pb_integer(reader, node, 0, UINT32_MAX, &integer))
            return false;
        *(uint32_t *)to = (uint32_t)integer;
        return true;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return json_pb_integer(reader, node, 0, UINT64_MAX, to);
    case PROTOBUF_C_TYPE_FLOAT:
        if (!json_pb_real(reader, node, (double)3.4028235e38F, &real))
            return false;
        *(float *)to = (float)real;
        return true;
    case PROTOBUF_C_TYPE_DOUBLE:
        return json_pb_real(reader, node, 1.7976931348623157e308, to);
    case PROTOBUF_C_TYPE_BOOL:
        return json_pb_bool(reader, node, to);
    case PROTOBUF_C_TYPE_ENUM:
        return json_pb_enum(reader, node, field->descriptor, to);
    case PROTOBUF_C_TYPE_STRING:
        return json_pb_string(reader, node, to);
    case PROTOBUF_C_TYPE_BYTES:
        return json_pb_bytes(reader, node, to);
    case PROTOBUF_C_TYPE_MESSAGE: {
        ProtobufCMessage *msg;

        if (node->kind != NODE_MAP) {
            json_pb_wrong_kind(reader, node, "a map");
            return false;
        }
        msg = json_pb_new(field->descriptor);
        json_pb_message(reader, node, msg);
        *(ProtobufCMessage **)to = msg;
        return true;
    }
    }
    return false;
}

static void *json_pb_at(ProtobufCMessage *msg, unsigned offset)
{
    return (char *)msg + offset;
}

static void json_pb_list(struct json_pb_reader *reader, const struct node *node,
                         const ProtobufCFieldDescriptor *field, ProtobufCMessage *msg)
{
    size_t size = pb_size_of(field->type);
    size_t *num = json_pb_at(msg, field->quantifier_offset);
    size_t index = 0;
    char *items;

    if (node->kind != NODE_LIST) {
        json_pb_wrong_kind(reader, node, "a list");
        return;
    }
    if (node->num == 0)
        return;
    items = mem_array(node->num, size);
    *(void **)json_pb_at(msg, field->offset) = items;
    for (const struct node *item = node->first; item != NULL; item = item->next, index++) {
        size_t mark = fault_path_index(&reader->path, index);

        /* Only what was read counts, so that the message can be freed at any time. */
        if (json_pb_value(reader, item, field, items + *num * size))
            ++*num;
        fault_path_pop(&reader->path, mark);
    }
}

static const char *json_pb_key(const ProtobufCMessage *entry)
{
    return *(char *const *)(const void *)((const char *)entry +
                                          entry->descriptor->fields[0].offset);
}

static int json_pb_compare_keys(const void *a, const void *b)
{
    return strcmp(json_pb_key(*(ProtobufCMessage *const *)a),
                  json_pb_key(*(ProtobufCMessage *const *)b));
}

/* One member of a map as an entry; NULL: told. */
static ProtobufCMessage *json_pb_entry(struct json_pb_reader *reader, const struct node *member,
                                       const ProtobufCMessageDescriptor *desc)
{
    ProtobufCMessage *entry = json_pb_new(desc);

    if (strlen((const char *)member->key.ptr) != member->key.len) {
        faults_add(reader->faults, reader->path.text, "a NUL character is not allowed");
    } else if (json_pb_value(reader, member, &desc->fields[1],
                             (char *)entry + desc->fields[1].offset)) {
        *(char **)(void *)((char *)entry + desc->fields[0].offset) =
            mem_strdup((const char *)member->key.ptr);
        return entry;
    }
    pb_free(entry);
    return NULL;
}

/* A key that is there twice was found by the parser. */
static void json_pb_map(struct json_pb_reader *reader, const struct node *node,
                        const ProtobufCFieldDescriptor *field, ProtobufCMessage *msg)
{
    size_t *num = json_pb_at(msg, field->quantifier_offset);
    ProtobufCMessage **entries;

    if (node->kind != NODE_MAP) {
        json_pb_wrong_kind(reader, node, "a map");
        return;
    }
    if (node->num == 0)
        return;
    entries = mem_array(node->num, sizeof(ProtobufCMessage *));
    *(ProtobufCMessage ***)json_pb_at(msg, field->offset) = entries;
    for (const struct node *member = node->first; member != NULL; member = member->next) {
        size_t mark = fault_path_field(&reader->path, json_pb_quote(member->key).text);
        ProtobufCMessage *entry = json_pb_entry(reader, member, field->descriptor);

        if (entry != NULL)
            entries[(*num)++] = entry;
        fault_path_pop(&reader->path, mark);
    }
    if (*num > 0)
        qsort(entries, *num, sizeof(ProtobufCMessage *), json_pb_compare_keys);
}

static void json_pb_field(struct json_pb_reader *reader, const struct node *node,
                          const ProtobufCFieldDescriptor *field, ProtobufCMessage *msg)
{
    void *quantifier = json_pb_at(msg, field->quantifier_offset);

    if (node->kind == NODE_NULL)
        return; /* proto3 JSON: as if it were not there */
    if (pb_is_map(field)) {
        json_pb_map(reader, node, field, msg);
        return;
    }
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        json_pb_list(reader, node, field, msg);
        return;
    }
    if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0) {
        const ProtobufCFieldDescriptor *other;

        if (*(uint32_t *)quantifier != 0) {
            other =
                protobuf_c_message_descriptor_get_field(msg->descriptor, *(uint32_t *)quantifier);
            faults_add(reader->faults, reader->path.text, "\"%s\" is set already; only one may be",
                       other->name);
        } else if (json_pb_value(reader, node, field, json_pb_at(msg, field->offset))) {
            *(uint32_t *)quantifier = field->id;
        }
        return;
    }
    if (json_pb_value(reader, node, field, json_pb_at(msg, field->offset)) &&
        field->label == PROTOBUF_C_LABEL_OPTIONAL && field->type != PROTOBUF_C_TYPE_STRING &&
        field->type != PROTOBUF_C_TYPE_MESSAGE)
        *(protobuf_c_boolean *)quantifier = 1;
}

/* Is `key` the lowerCamelCase form of the field's name? */
static bool json_pb_is_camel(const char *name, const char *key)
{
    for (; *name != '\0'; name++, key++) {
        char expected = *name;

        if (expected == '_' && name[1] >= 'a' && name[1] <= 'z')
            expected = (char)(*++name - 'a' + 'A');
        else if (expected == '_')
            expected = *++name;
        if (*key != expected)
            return false;
    }
    return *key == '\0';
}

static const ProtobufCFieldDescriptor *json_pb_find(const ProtobufCMessageDescriptor *desc,
                                                    struct bytes key)
{
    const char *name = (const char *)key.ptr;

    if (strlen(name) != key.len)
        return NULL;
    for (unsigned i = 0; i < desc->n_fields; i++) {
        if (strcmp(desc->fields[i].name, name) == 0 || json_pb_is_camel(desc->fields[i].name, name))
            return &desc->fields[i];
    }
    return NULL;
}

static void json_pb_unknown(struct json_pb_reader *reader, const ProtobufCMessageDescriptor *desc,
                            struct bytes key)
{
    const char *names[JSON_PB_FIELDS_MAX];
    size_t mark = fault_path_field(&reader->path, json_pb_quote(key).text);
    int nearest = -1;

    for (unsigned i = 0; i < desc->n_fields; i++)
        names[i] = desc->fields[i].name;
    if (reader->faults->num < FAULTS_MAX) /* beyond them nobody will read it */
        nearest = str_nearest((const char *)key.ptr, names, desc->n_fields);
    if (nearest >= 0)
        faults_add(reader->faults, reader->path.text, "unknown field; did you mean \"%s\"?",
                   names[nearest]);
    else
        faults_add(reader->faults, reader->path.text, "unknown field");
    fault_path_pop(&reader->path, mark);
}

/* Reads a map into an initialised message. */
static void json_pb_message(struct json_pb_reader *reader, const struct node *node,
                            ProtobufCMessage *msg)
{
    const ProtobufCMessageDescriptor *desc = msg->descriptor;
    bool seen[JSON_PB_FIELDS_MAX] = {false};

    CHECK(desc->n_fields <= JSON_PB_FIELDS_MAX);
    for (const struct node *member = node->first; member != NULL; member = member->next) {
        const ProtobufCFieldDescriptor *field = json_pb_find(desc, member->key);
        size_t mark, index;

        if (field == NULL) {
            json_pb_unknown(reader, desc, member->key);
            continue;
        }
        mark = fault_path_field(&reader->path, field->name);
        index = (size_t)(field - desc->fields);
        if (seen[index]) /* by its other name: the same one is found by the parser */
            faults_add(reader->faults, reader->path.text, "given twice");
        else
            json_pb_field(reader, member, field, msg);
        seen[index] = true;
        fault_path_pop(&reader->path, mark);
    }
}

static void json_pb_aside_members(struct json_pb_reader *reader, const struct node *node,
                                  const struct json_pb_aside *aside)
{
    if (node->kind == NODE_NULL)
        return;
    if (node->kind != NODE_MAP) {
        json_pb_wrong_kind(reader, node, "a map");
        return;
    }
    for (const struct node *member = node->first; member != NULL; member = member->next) {
        size_t mark = fault_path_field(&reader->path, (const char *)member->key.ptr);

        if (memchr(member->key.ptr, '\0', member->key.len) != NULL)
            faults_add(reader->faults, reader->path.text, "NUL is not allowed");
        else if (member->kind == NODE_LIST || member->kind == NODE_MAP || member->kind == NODE_NULL)
            json_pb_wrong_kind(reader, member, "a text, a number or a boolean");
        else if (memchr(member->text.ptr, '\0', member->text.len) != NULL)
            faults_add(reader->faults, reader->path.text, "NUL is not allowed");
        else
            aside->on_member(aside->arg, (const char *)member->key.ptr,
                             (const char *)member->text.ptr);
        fault_path_pop(&reader->path, mark);
    }
}

/* Takes the map out of the tree, so that the message does not meet it. */
static void json_pb_take_aside(struct json_pb_reader *reader, struct node *root,
                               const struct json_pb_aside *aside)
{
    struct node **link = &root->first, *before = NULL;

    while (*link != NULL) {
        struct node *node = *link;

        size_t mark;

        if (!bytes_equal_str(node->key, aside->key)) {
            before = node;
            link = &node->next;
            continue;
        }
        mark = fault_path_field(&reader->path, aside->key);
        json_pb_aside_members(reader, node, aside);
        fault_path_pop(&reader->path, mark);
        *link = node->next;
        root->num--;
        if (root->last == node)
            root->last = before;
    }
}

/* The text as a tree whose root is a map; the tree is to be released in any case. */
static err_t json_pb_read(enum json_pb_format format, const char *name, struct bytes text,
                          struct faults *faults, struct node_tree *out)
{
    if (text.len > JSON_PB_INPUT_MAX) {
        faults_add(faults, name, "larger than %zu bytes", JSON_PB_INPUT_MAX);
        return FAIL(TOO_LARGE, JSON_PB_INPUT_MAX);
    }
    if (format == JSON_PB_JSON)
        TRY(node_parse_json(name, text, faults, out));
    else
        TRY(node_parse_yaml(name, text, faults, out));
    if (out->root->kind == NODE_MAP)
        return OK;
    faults_add(faults, name, "expected a map, found %s", json_pb_kind_name(out->root));
    return faults_err(faults);
}

err_t json_pb_parse_aside(enum json_pb_format format, const char *name, struct bytes text,
                          const ProtobufCMessageDescriptor *desc, const struct json_pb_aside *aside,
                          struct faults *faults, ProtobufCMessage **out)
{
    struct json_pb_reader reader = {.faults = faults};
    CLEANUP(node_tree_fini) struct node_tree tree = {.blocks = NULL};
    size_t total = faults->total;
    ProtobufCMessage *msg;

    TRY(json_pb_read(format, name, text, faults, &tree));
    if (aside != NULL)
        json_pb_take_aside(&reader, tree.root, aside);
    msg = json_pb_new(desc);
    json_pb_message(&reader, tree.root, msg);
    if (faults->total != total) {
        pb_free(msg);
        return faults_err(faults);
    }
    *out = msg;
    return OK;
}

err_t json_pb_parse_map(enum json_pb_format format, const char *name, struct bytes text,
                        const struct json_pb_aside *aside, struct faults *faults)
{
    struct json_pb_reader reader = {.faults = faults};
    CLEANUP(node_tree_fini) struct node_tree tree = {.blocks = NULL};

    TRY(json_pb_read(format, name, text, faults, &tree));
    json_pb_aside_members(&reader, tree.root, aside);
    return faults_err(faults);
}

err_t json_pb_keys(enum json_pb_format format, const char *name, struct bytes text,
                   void (*on_key)(void *arg, const char *key), void *arg, struct faults *faults)
{
    CLEANUP(node_tree_fini) struct node_tree tree = {.blocks = NULL};

    TRY(json_pb_read(format, name, text, faults, &tree));
    for (const struct node *member = tree.root->first; member != NULL; member = member->next) {
        if (strlen((const char *)member->key.ptr) == member->key.len)
            on_key(arg, (const char *)member->key.ptr);
    }
    return OK;
}

err_t json_pb_parse(enum json_pb_format format, const char *name, struct bytes text,
                    const ProtobufCMessageDescriptor *desc, struct faults *faults,
                    ProtobufCMessage **out)
{
    return json_pb_parse_aside(format, name, text, desc, NULL, faults, out);
}
