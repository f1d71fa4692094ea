#include "control/mesh_merge.h"

#include <stdio.h>
#include <string.h>

#include "control/labels.h"
#include "control/msg.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

struct mesh_merger {
    const Mortise__V1__Mesh *current;
    const Mortise__V1__Mesh *document;
    bool prune;
    struct faults *faults;
    struct mesh_merge *out;
    const ProtobufCMessage **items[MESH_KINDS]; /* the result, borrowed from the two */
    size_t num[MESH_KINDS];
};

void mesh_merge_fini(struct mesh_merge *merge)
{
    if (merge->mesh != NULL)
        pb_free(&merge->mesh->base);
    for (size_t i = 0; i < MESH_KINDS; i++)
        mem_free(merge->origin.index[i]);
    for (size_t i = 0; i < merge->num_changes; i++)
        mem_free(merge->changes[i]);
    mem_free(merge->changes);
    faults_fini(&merge->weaker);
    *merge = (struct mesh_merge){0};
}

/* Takes `text`. */
static void mesh_merge_note(struct mesh_merge *merge, char *text)
{
    merge->changes =
        mem_realloc(merge->changes, (merge->num_changes + 1) * sizeof(*merge->changes));
    merge->changes[merge->num_changes++] = text;
}

static bool mesh_text_equal(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static bool mesh_message_equal(const void *at_a, const void *at_b)
{
    const ProtobufCMessage *a, *b;

    memcpy(&a, at_a, sizeof(ProtobufCMessage *));
    memcpy(&b, at_b, sizeof(ProtobufCMessage *));
    return a == b || (a != NULL && b != NULL && pb_equal(a, b));
}

/* Whether one field of two messages of a type is the same: scalars, lists of strings, single
 * messages and labels, which is all that items of a mesh have. */
static bool mesh_field_equal(const ProtobufCFieldDescriptor *field, const ProtobufCMessage *a,
                             const ProtobufCMessage *b)
{
    const char *at_a = (const char *)a + field->offset;
    const char *at_b = (const char *)b + field->offset;

    if (pb_is_map(field))
        return labels_equal(a, b);
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        size_t num_a, num_b;
        const char *const *list_a;
        const char *const *list_b;

        CHECK(field->type == PROTOBUF_C_TYPE_STRING);
        memcpy(&num_a, (const char *)a + field->quantifier_offset, sizeof(num_a));
        memcpy(&num_b, (const char *)b + field->quantifier_offset, sizeof(num_b));
        memcpy(&list_a, at_a, sizeof(list_a));
        memcpy(&list_b, at_b, sizeof(list_b));
        if (num_a != num_b)
            return false;
        for (size_t i = 0; i < num_a; i++) {
            if (!mesh_text_equal(list_a[i], list_b[i]))
                return false;
        }
        return true;
    }
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        const char *text_a, *text_b;

        memcpy(&text_a, at_a, sizeof(text_a));
        memcpy(&text_b, at_b, sizeof(text_b));
        return mesh_text_equal(text_a, text_b);
    }
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return mesh_message_equal(at_a, at_b);
    if (field->type == PROTOBUF_C_TYPE_BOOL)
        return memcmp(at_a, at_b, sizeof(protobuf_c_boolean)) == 0;
    CHECK(field->type == PROTOBUF_C_TYPE_UINT32 || field->type == PROTOBUF_C_TYPE_ENUM);
    return memcmp(at_a, at_b, sizeof(uint32_t)) == 0;
}

/* Notes "link x: changed a, b" if anything differs. */
static void mesh_note_changes(struct mesh_merge *merge, const char *what, const char *name,
                              const ProtobufCMessage *before, const ProtobufCMessage *after)
{
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err = OK;

    for (unsigned i = 0; i < after->descriptor->n_fields && err_is_ok(err); i++) {
        const ProtobufCFieldDescriptor *field = &after->descriptor->fields[i];

        if (mesh_field_equal(field, before, after))
            continue;
        if (buf_size(&text) == 0)
            err = buf_printf(&text, "%s%s%s: changed %s", what, name[0] != '\0' ? " " : "", name,
                             field->name);
        else
            err = buf_printf(&text, ", %s", field->name);
    }
    CHECK(err_is_ok(err));
    if (buf_size(&text) > 0)
        mesh_merge_note(merge, buf_take_str(&text));
}

static void mesh_merge_add(struct mesh_merger *merger, int kind, const ProtobufCMessage *item,
                           size_t origin)
{
    size_t at = merger->num[kind]++;

    merger->items[kind][at] = item;
    merger->out->origin.index[kind][at] = origin;
}

/* Of a store that an older program let be changed, what is there may stay; nothing else. */
static bool mesh_merge_is_protected(int kind, const ProtobufCMessage *item,
                                    const ProtobufCMessage *before)
{
    return mesh_is_built_in(kind, mesh_name(item)) && !mesh_is_as_built_in(kind, item) &&
           (before == NULL || !pb_equal(before, item));
}

/* An item of the document; false when it is at fault and is left out. */
static bool mesh_merge_admit(struct mesh_merger *merger, int kind, size_t index,
                             const struct map *seen, const ProtobufCMessage *before)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    const ProtobufCMessage *item = mesh_item(merger->document, what, index);
    const char *name = mesh_name(item);
    char path[64];

    (void)snprintf(path, sizeof(path), "%s[%zu].name", what->many, index);
    if (map_get(seen, name) != NULL) {
        faults_add(merger->faults, path, "\"%s\" is in the document twice", name);
        return false;
    }
    if (mesh_merge_is_protected(kind, item, before)) {
        faults_add(merger->faults, path,
                   "\"%s\" is built in and cannot be changed: clone it under another name", name);
        return false;
    }
    return true;
}

/* The document's items by name, those at fault left out: values are indices plus one. */
static void mesh_merge_index(struct mesh_merger *merger, int kind, const struct map *current,
                             struct map *out)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    size_t num = mesh_num(merger->document, what);

    for (size_t i = 0; i < num; i++) {
        const char *name = mesh_name(mesh_item(merger->document, what, i));

        if (mesh_merge_admit(merger, kind, i, out, map_get(current, name)))
            map_put(out, name, (void *)(uintptr_t)(i + 1));
    }
}

/* What was there keeps its place; what is new comes behind it. */
static void mesh_merge_kind(struct mesh_merger *merger, int kind)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    size_t num_current = mesh_num(merger->current, what);
    size_t num_document = mesh_num(merger->document, what);
    struct map current = {0}, document = {0};

    merger->items[kind] = mem_array(num_current + num_document, sizeof(**merger->items));
    merger->out->origin.index[kind] = mem_array(num_current + num_document, sizeof(size_t));
    for (size_t i = 0; i < num_current; i++) {
        const ProtobufCMessage *item = mesh_item(merger->current, what, i);

        map_put(&current, mesh_name(item), (void *)(uintptr_t)item);
    }
    mesh_merge_index(merger, kind, &current, &document);
    for (size_t i = 0; i < num_current; i++) {
        const ProtobufCMessage *before = mesh_item(merger->current, what, i);
        const char *name = mesh_name(before);
        size_t index = (uintptr_t)map_get(&document, name);

        if (index > 0) {
            const ProtobufCMessage *after = mesh_item(merger->document, what, index - 1);

            mesh_merge_add(merger, kind, after, index - 1);
            mesh_note_changes(merger->out, what->one, name, before, after);
        } else if (merger->prune && !mesh_is_built_in(kind, name)) {
            mesh_merge_note(merger->out, mem_printf("%s %s: removed", what->one, name));
        } else {
            mesh_merge_add(merger, kind, before, MESH_KEPT);
        }
    }
    for (size_t i = 0; i < num_document; i++) {
        const ProtobufCMessage *item = mesh_item(merger->document, what, i);
        const char *name = mesh_name(item);

        if (map_get(&current, name) != NULL || (uintptr_t)map_get(&document, name) != i + 1)
            continue;
        mesh_merge_add(merger, kind, item, i);
        mesh_merge_note(merger->out, mem_printf("%s %s: added", what->one, name));
    }
    map_fini(&current);
    map_fini(&document);
}

static const Mortise__V1__MeshSettings *mesh_merge_settings(struct mesh_merger *merger)
{
    static const Mortise__V1__MeshSettings none = MORTISE__V1__MESH_SETTINGS__INIT;
    const Mortise__V1__MeshSettings *before = merger->current->settings;
    const Mortise__V1__MeshSettings *after = merger->document->settings;

    if (after == NULL)
        return before;
    mesh_note_changes(merger->out, "settings", "", before != NULL ? &before->base : &none.base,
                      &after->base);
    return after;
}

/* Labels have no order: the same mesh is the same message. */
static void mesh_merge_sort_labels(Mortise__V1__Mesh *mesh)
{
    for (int kind = 0; kind < MESH_KINDS; kind++) {
        for (size_t i = 0; i < mesh_num(mesh, &mesh_kinds[kind]); i++)
            labels_sort(
                (ProtobufCMessage *)(uintptr_t)mesh_item(mesh, &mesh_kinds[kind], i)); /* ours */
    }
}

/* The result as one message of its own. */
static Mortise__V1__Mesh *mesh_merge_build(const struct mesh_merger *merger,
                                           const Mortise__V1__MeshSettings *settings)
{
    Mortise__V1__Mesh mesh = MORTISE__V1__MESH__INIT;
    Mortise__V1__Mesh *merged;

    mesh.settings = (Mortise__V1__MeshSettings *)(uintptr_t)settings;
    for (int kind = 0; kind < MESH_KINDS; kind++) {
        const struct mesh_kind *what = &mesh_kinds[kind];

        memcpy((char *)&mesh + what->num_at, &merger->num[kind], sizeof(merger->num[kind]));
        memcpy((char *)&mesh + what->items_at, &merger->items[kind], sizeof(merger->items[kind]));
    }
    merged = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor, pb_clone(&mesh.base));
    mesh_merge_sort_labels(merged);
    return merged;
}

err_t mesh_merge(const Mortise__V1__Mesh *current, const Mortise__V1__Mesh *document, bool prune,
                 struct faults *faults, struct mesh_merge *out)
{
    size_t before = faults->total;
    const Mortise__V1__MeshSettings *settings;
    struct mesh_merger merger = {
        .current = current,
        .document = document,
        .prune = prune,
        .faults = faults,
        .out = out,
    };

    *out = (struct mesh_merge){0};
    settings = mesh_merge_settings(&merger);
    for (int kind = 0; kind < MESH_KINDS; kind++)
        mesh_merge_kind(&merger, kind);
    out->mesh = mesh_merge_build(&merger, settings);
    for (int kind = 0; kind < MESH_KINDS; kind++)
        mem_free(merger.items[kind]);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}
