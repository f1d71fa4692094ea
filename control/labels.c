#include "control/labels.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"

#define LABELS_FIELD "labels"
#define LABELS_QUOTE_MAX 64 /* of a wrong one in a message for people */

static const ProtobufCFieldDescriptor *labels_field(const ProtobufCMessage *item)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(item->descriptor, LABELS_FIELD);

    return field != NULL && pb_is_map(field) ? field : NULL;
}

static ProtobufCMessage **labels_entries(const ProtobufCMessage *item,
                                         const ProtobufCFieldDescriptor *field)
{
    ProtobufCMessage **entries;

    memcpy(&entries, (const char *)item + field->offset, sizeof(entries));
    return entries;
}

static const char *labels_str(const ProtobufCMessage *entry, unsigned field)
{
    const char *text;

    memcpy(&text, (const char *)entry + entry->descriptor->fields[field].offset, sizeof(text));
    return text;
}

static struct label labels_of(const ProtobufCMessage *entry)
{
    return (struct label){labels_str(entry, 0), labels_str(entry, 1)};
}

size_t labels_num(const ProtobufCMessage *item)
{
    const ProtobufCFieldDescriptor *field = labels_field(item);
    size_t num = 0;

    if (field != NULL)
        memcpy(&num, (const char *)item + field->quantifier_offset, sizeof(num));
    return num;
}

struct label labels_at(const ProtobufCMessage *item, size_t index)
{
    CHECK(index < labels_num(item));
    return labels_of(labels_entries(item, labels_field(item))[index]);
}

const char *labels_get(const ProtobufCMessage *item, const char *key)
{
    size_t num = labels_num(item);

    for (size_t i = 0; i < num; i++) {
        struct label label = labels_at(item, i);

        if (strcmp(label.key, key) == 0)
            return label.value;
    }
    return NULL;
}

static int labels_compare(const void *a, const void *b)
{
    struct label one = labels_of(*(ProtobufCMessage *const *)a);
    struct label two = labels_of(*(ProtobufCMessage *const *)b);
    int order = strcmp(one.key, two.key);

    return order != 0 ? order : strcmp(one.value, two.value);
}

/* The entries in order, in memory of the caller's; there is at least one. */
static ProtobufCMessage **labels_sorted(const ProtobufCMessage *item, size_t num)
{
    ProtobufCMessage **entries =
        mem_dup(labels_entries(item, labels_field(item)), num * sizeof(ProtobufCMessage *));

    qsort(entries, num, sizeof(ProtobufCMessage *), labels_compare);
    return entries;
}

bool labels_equal(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    size_t num = labels_num(a);
    ProtobufCMessage **of_a, **of_b;
    bool equal = true;

    if (labels_num(b) != num)
        return false;
    if (num == 0)
        return true;
    of_a = labels_sorted(a, num);
    of_b = labels_sorted(b, num);
    for (size_t i = 0; i < num && equal; i++)
        equal = labels_compare(&of_a[i], &of_b[i]) == 0;
    mem_free(of_a);
    mem_free(of_b);
    return equal;
}

void labels_sort(ProtobufCMessage *item)
{
    size_t num = labels_num(item);

    if (num > 0)
        qsort(labels_entries(item, labels_field(item)), num, sizeof(ProtobufCMessage *),
              labels_compare);
}

void labels_drop(ProtobufCMessage *item)
{
    const ProtobufCFieldDescriptor *field = labels_field(item);
    size_t num = labels_num(item);
    ProtobufCMessage **entries;

    if (num == 0)
        return;
    entries = labels_entries(item, field);
    for (size_t i = 0; i < num; i++)
        pb_free(entries[i]);
    mem_free(entries);
    memset((char *)item + field->offset, 0, sizeof(entries));
    memset((char *)item + field->quantifier_offset, 0, sizeof(num));
}

/* ---------------------------------------------------------------------- syntax */

static bool labels_is_alnum(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static bool labels_is_name(struct bytes text)
{
    if (text.len == 0 || text.len > LABELS_NAME_MAX || !labels_is_alnum(text.ptr[0]) ||
        !labels_is_alnum(text.ptr[text.len - 1]))
        return false;
    for (size_t i = 0; i < text.len; i++) {
        if (!labels_is_alnum(text.ptr[i]) && memchr("-_.", text.ptr[i], 3) == NULL)
            return false;
    }
    return true;
}

/* A DNS name in lower case (RFC 1123). */
static bool labels_is_prefix(struct bytes text)
{
    size_t start = 0;

    if (text.len == 0 || text.len > LABELS_PREFIX_MAX)
        return false;
    for (size_t i = 0; i <= text.len; i++) {
        uint8_t c = i < text.len ? text.ptr[i] : '.';

        if (c == '.') {
            if (i == start || i - start > LABELS_NAME_MAX || text.ptr[start] == '-' ||
                text.ptr[i - 1] == '-')
                return false;
            start = i + 1;
        } else if (!labels_is_alnum(c) && c != '-') {
            return false;
        } else if (c >= 'A' && c <= 'Z') {
            return false;
        }
    }
    return true;
}

const char *labels_key_fault(struct bytes key)
{
    const uint8_t *slash = key.len > 0 ? memchr(key.ptr, '/', key.len) : NULL;
    struct bytes name = key;

    if (slash != NULL) {
        size_t len = (size_t)(slash - key.ptr);

        if (!labels_is_prefix(bytes_of(key.ptr, len)))
            return "the part before / is a DNS name in lower case, at most 253 characters";
        name = bytes_of(slash + 1, key.len - len - 1);
    }
    if (!labels_is_name(name))
        return "a key is 1 to 63 letters, digits, '-', '_' and '.', and begins and ends with a "
               "letter or digit; before it may stand a DNS name and /";
    return NULL;
}

const char *labels_value_fault(struct bytes value)
{
    if (value.len > 0 && !labels_is_name(value))
        return "a value is empty or 1 to 63 letters, digits, '-', '_' and '.', and begins and ends "
               "with a letter or digit";
    return NULL;
}

static void labels_fault(struct faults *faults, const struct fault_path *path, const char *text,
                         const char *why)
{
    size_t len = strlen(text);
    size_t cut = str_utf8_cut(bytes_of_str(text), len < LABELS_QUOTE_MAX ? len : LABELS_QUOTE_MAX);

    faults_add(faults, path->text, "\"%.*s%s\": %s", (int)cut, text,
               cut < len ? "\xe2\x80\xa6" : "", why);
}

void labels_check(const ProtobufCMessage *item, struct fault_path *path, struct faults *faults)
{
    size_t num = labels_num(item);
    size_t mark = fault_path_field(path, LABELS_FIELD);
    ProtobufCMessage **sorted;

    if (num > LABELS_MAX)
        faults_add(faults, path->text, "are %zu; at most %d", num, LABELS_MAX);
    sorted = num > 0 && num <= LABELS_MAX ? labels_sorted(item, num) : NULL;
    for (size_t i = 0; sorted != NULL && i < num; i++) {
        struct label label = labels_of(sorted[i]);
        const char *key_fault = labels_key_fault(bytes_of_str(label.key));
        const char *value_fault = labels_value_fault(bytes_of_str(label.value));

        if (key_fault != NULL)
            labels_fault(faults, path, label.key, key_fault);
        if (value_fault != NULL)
            labels_fault(faults, path, label.value, value_fault);
        if (i > 0 && strcmp(labels_of(sorted[i - 1]).key, label.key) == 0)
            labels_fault(faults, path, label.key, "is there twice"); /* no document can say that */
    }
    mem_free(sorted);
    fault_path_pop(path, mark);
}

err_t labels_text(const ProtobufCMessage *item, struct buf *out)
{
    size_t num = labels_num(item);

    for (size_t i = 0; i < num; i++) {
        struct label label = labels_at(item, i);

        TRY(buf_printf(out, "%s%s=%s", i > 0 ? "," : "", label.key, label.value));
    }
    return OK;
}
