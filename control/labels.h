/* labels are what people find the items of a mesh by: a map from keys to values on each subsystem,
 * profile, link and so on, with the syntax that Kubernetes has. They mean nothing to what the mesh
 * lets in. Pure. Source: Kubernetes, "Labels and Selectors", "Syntax and character set". */
#ifndef MORTISE_CONTROL_LABELS_H
#define MORTISE_CONTROL_LABELS_H

#include <protobuf-c/protobuf-c.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/faults.h"

#define LABELS_MAX 64         /* of one item */
#define LABELS_NAME_MAX 63    /* of a key, behind its prefix; and of a value */
#define LABELS_PREFIX_MAX 253 /* "example.com" of example.com/tier */

struct label {
    const char *key;
    const char *value;
};

/* labels_num and labels_at give the labels of any item of a mesh, borrowed; one that has no field
 * for them has none. labels_get is the value of a key, or NULL. */
size_t labels_num(const ProtobufCMessage *item);
struct label labels_at(const ProtobufCMessage *item, size_t index);
const char *labels_get(const ProtobufCMessage *item, const char *key);

/* labels_equal compares those of two items of a type, in whatever order. */
bool labels_equal(const ProtobufCMessage *a, const ProtobufCMessage *b);

/* labels_sort puts them into the order of their keys; labels_drop releases them. The item is owned,
 * as if unpacked. */
void labels_sort(ProtobufCMessage *item);
void labels_drop(ProtobufCMessage *item);

/* labels_check adds every fault of an item's labels, at `path` of the item. */
void labels_check(const ProtobufCMessage *item, struct fault_path *path, struct faults *faults);

/* labels_key_fault and labels_value_fault say what is wrong with one; NULL: nothing. */
const char *labels_key_fault(struct bytes key);
const char *labels_value_fault(struct bytes value);

/* labels_text appends "env=test,tier=edge"; nothing where there are none. */
MUST_CHECK err_t labels_text(const ProtobufCMessage *item, struct buf *out);

#endif
