/* document reads what operators write: a mesh document, YAML or JSON (proto/mesh/resource.proto).
 */
#ifndef MORTISE_CONTROL_CTL_DOCUMENT_H
#define MORTISE_CONTROL_CTL_DOCUMENT_H

#include "control/ctl/ctl.h"
#include "proto/mesh/resource.pb-c.h"

/* Zeroed memory is none. */
struct document {
    Mortise__V1__Mesh *mesh; /* borrowed from `whole` */
    uint64_t version; /* that it was taken at, which must be in force still; 0: it does not say */
    ProtobufCMessage *whole; /* owned */
};

/* document_read reads the file at `path` ("-": standard input; a folder: its .yaml, .yml and .json
 * by name), which the option `flag` names. It is a mesh, or several with "---" between them, which
 * are one with the lists of all; or what `get mesh` writes: a mesh and its version. False: every
 * fault is told, and `*out` is none. */
bool document_read(const char *flag, const char *path, struct document *out);
void document_fini(struct document *document);

#endif
