/* get is what the parts of `mortisectl get` share: a row for each kind of thing (get_kinds), which
 * says how its list is got and what a line of its table is; listing, choosing, writing and watching
 * are written once for all of them. */
#ifndef MORTISE_CONTROL_CTL_GET_H
#define MORTISE_CONTROL_CTL_GET_H

#include "control/ctl/conn.h"
#include "control/ctl/table.h"
#include "control/selector.h"
#include "proto/mesh/resource.pb-c.h"

struct get;

/* What a control plane has of a kind, as it was at one time. Zeroed memory is an empty one. */
struct get_list {
    ProtobufCMessage *msg;          /* the reply, owned: it holds the items */
    ProtobufCMessage *aside;        /* likewise, what was asked for beside it; may be NULL */
    const Mortise__V1__Mesh *mesh;  /* the whole one, borrowed of one of the two; may be NULL */
    const ProtobufCMessage **items; /* those that are wanted; the array is owned */
    size_t num;
};

struct get_kind {
    const char *name; /* "links" */
    int mesh;         /* which list of a mesh, or MESH_KINDS: it is none */

    /* What is no list: shown by this alone; the rest is not used then. An exit code. */
    int (*show)(const struct get *get, struct conn *conn);

    const ProtobufCMessageDescriptor *desc; /* of what is written as JSON or YAML: holds a list */
    const char *field;                      /* of that list in it */
    const char *const *heads;               /* of the table */
    const char *const *wide;                /* of the wide one */
    size_t red;                             /* as in struct table */
    /* Asks for all that there is; false: told. */
    bool (*ask)(const struct get *get, struct conn *conn, struct get_list *list);
    void (*row)(const struct get *get, const struct get_list *list, const ProtobufCMessage *item,
                struct table *table);
    const char *(*name_of)(const ProtobufCMessage *item); /* NULL: names were for ask alone */
    char *(*key_of)(const ProtobufCMessage *item);        /* tells it from all others; owned */
    /* Whose labels count for it, or NULL; a NULL function: it has none. */
    const ProtobufCMessage *(*labelled)(const struct get_list *list, const ProtobufCMessage *item);
    /* What of it changes all the time and is no news, taken out; may be NULL. */
    void (*settle)(ProtobufCMessage *item);
    const char *const *events; /* kinds of events with which the list may be another one */
    int64_t (*changes_at)(
        const ProtobufCMessage *item); /* Unix seconds, without any event; or NULL */
};

struct get {
    const struct ctl_flags *flags;
    struct get_kind kind;
    int num_names;
    char **names;
    struct selector *selector; /* NULL: all */
    int64_t now_s;
};

/* The kinds that are no list of a mesh; `name` NULL ends it. */
extern const struct get_kind get_own_kinds[];
/* get_mesh_kind is that of one list of a mesh. */
struct get_kind get_mesh_kind(int mesh);

/* get_list asks and keeps what is wanted; with `names` each that is missing is told, and
 * `*out_missing` set. False: told, and the list is empty. get_list_fini releases it. */
bool get_list(const struct get *get, struct conn *conn, bool *out_missing, struct get_list *list);
void get_list_fini(struct get_list *list);

/* get_table is an empty one for that kind; get_add_row adds the lines of an item. */
struct table get_table(const struct get *get);
void get_add_row(const struct get *get, const struct get_list *list, const ProtobufCMessage *item,
                 struct table *table);

/* get_watch shows the list, and then every change of it until it is interrupted or may not any
 * more; an exit code. */
int get_watch(struct get *get);

#endif
