/* node: a JSON or YAML text as a tree, before anybody knows what it means. Private to json_pb.
 *
 * The two parsers (jansson, libyaml) end here, so that everything after them is written once. A
 * tree is at most JSON_PB_DEPTH_MAX deep and has at most NODE_NUM_MAX nodes. Source: RFC 8259;
 * YAML 1.1, of which plain scalars, quoted ones, lists and maps are taken, and nothing else. */
#ifndef MORTISE_LIB_RPC_NODE_H
#define MORTISE_LIB_RPC_NODE_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/faults.h"

#define NODE_NUM_MAX ((size_t)1 << 20) /* 10,000 links with all their fields are a fifth of it */

enum node_kind { NODE_NULL, NODE_BOOL, NODE_NUMBER, NODE_STRING, NODE_LIST, NODE_MAP };

struct node {
    enum node_kind kind;
    bool plain;        /* a YAML string without quotes that YAML 1.1 would read as a boolean */
    struct bytes key;  /* of a member of a map; NUL-ended; may hold NUL */
    struct bytes text; /* string, number, true or false; NUL-ended; a string may hold NUL */
    struct node *next; /* in its list or map */
    struct node *first;
    struct node *last;
    size_t num; /* members */
};

struct node_tree {
    struct node_block *blocks;
    struct node *root;
    size_t num;
};

/* node_parse_json and node_parse_yaml read all of `text`; the tree is released with node_tree_fini,
 * on error too. A fault goes to `faults` with the path "name:line:column". Errors: JSON_SYNTAX,
 * YAML_SYNTAX, TOO_LARGE. */
MUST_CHECK err_t node_parse_json(const char *name, struct bytes text, struct faults *faults,
                                 struct node_tree *out);
MUST_CHECK err_t node_parse_yaml(const char *name, struct bytes text, struct faults *faults,
                                 struct node_tree *out);
void node_tree_fini(struct node_tree *tree);

/* node_is_yaml_word tells whether a reader of YAML would take these letters for null or a boolean.
 */
bool node_is_yaml_word(const char *text);
/* node_is_yaml_number likewise for a number. */
bool node_is_yaml_number(const char *text);

#endif
