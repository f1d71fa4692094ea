#include "lib/rpc/node.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include <jansson.h>
#include <yaml.h>

#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"

#define NODE_BLOCK_SIZE ((size_t)64 << 10)

/* Nodes and texts live in blocks that go all at once. */
struct node_block {
    struct node_block *next;
    size_t used;
    size_t size;
    max_align_t data[];
};

static void *node_alloc(struct node_tree *tree, size_t len)
{
    struct node_block *block = tree->blocks;
    size_t size = (len + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    void *out;

    if (block == NULL || block->size - block->used < size) {
        size_t room = size > NODE_BLOCK_SIZE ? size : NODE_BLOCK_SIZE;

        block = mem_alloc(sizeof(*block) + room);
        block->next = tree->blocks;
        block->used = 0;
        block->size = room;
        tree->blocks = block;
    }
    out = (char *)block->data + block->used;
    block->used += size;
    return out;
}

static struct bytes node_copy(struct node_tree *tree, struct bytes text)
{
    char *copy = node_alloc(tree, text.len + 1);

    if (text.len != 0)
        memcpy(copy, text.ptr, text.len);
    copy[text.len] = '\0';
    return bytes_of(copy, text.len);
}

void node_tree_fini(struct node_tree *tree)
{
    while (tree->blocks != NULL) {
        struct node_block *block = tree->blocks;

        tree->blocks = block->next;
        mem_free(block);
    }
    tree->root = NULL;
    tree->num = 0;
}

/* NULL when the tree is full. */
static struct node *node_new(struct node_tree *tree, enum node_kind kind, struct bytes text)
{
    struct node *node;

    if (tree->num == NODE_NUM_MAX)
        return NULL;
    tree->num++;
    node = node_alloc(tree, sizeof(*node));
    *node = (struct node){.kind = kind, .text = node_copy(tree, text)};
    return node;
}

static void node_add(struct node *parent, struct node *child)
{
    if (parent->last != NULL)
        parent->last->next = child;
    else
        parent->first = child;
    parent->last = child;
    parent->num++;
}

/* What a parser found wrong at a place in the text. */
struct node_reader {
    struct node_tree *tree;
    struct faults *faults;
    const char *name;
};

static void node_fault(struct node_reader *reader, size_t line, size_t column, const char *what)
{
    char *path = mem_printf("%s:%zu:%zu", reader->name, line, column);

    faults_add(reader->faults, path, "%s", what);
    mem_free(path);
}

/* The tree's own limits have no place in the text. */
static err_t node_too_large(struct node_reader *reader)
{
    faults_add(reader->faults, reader->name, "more than %zu values", NODE_NUM_MAX);
    return FAIL(TOO_LARGE, NODE_NUM_MAX);
}

/* ---- JSON ---- */

static err_t node_from_json(struct node_reader *reader, const json_t *json, unsigned depth,
                            struct node **out);

static err_t node_json_members(struct node_reader *reader, const json_t *json, unsigned depth,
                               struct node *node)
{
    struct node *child;

    if (node->kind == NODE_LIST) {
        for (size_t i = 0; i < json_array_size(json); i++) {
            TRY(node_from_json(reader, json_array_get(json, i), depth + 1, &child));
            node_add(node, child);
        }
        return OK;
    }
    /* jansson's iterator takes a pointer to non-const though it changes nothing. */
    for (void *iter = json_object_iter((json_t *)(uintptr_t)json); iter != NULL;
         iter = json_object_iter_next((json_t *)(uintptr_t)json, iter)) {
        TRY(node_from_json(reader, json_object_iter_value(iter), depth + 1, &child));
        child->key = node_copy(
            reader->tree, bytes_of(json_object_iter_key(iter), json_object_iter_key_len(iter)));
        node_add(node, child);
    }
    return OK;
}

static err_t node_from_json(struct node_reader *reader, const json_t *json, unsigned depth,
                            struct node **out)
{
    enum node_kind kind = NODE_NULL;
    struct bytes text = {NULL, 0};
    char number[64];

    if (depth > JSON_PB_DEPTH_MAX) {
        faults_add(reader->faults, reader->name, "nested more than %d deep", JSON_PB_DEPTH_MAX);
        return FAIL(TOO_LARGE, JSON_PB_DEPTH_MAX);
    }
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        kind = NODE_MAP;
        break;
    case JSON_ARRAY:
        kind = NODE_LIST;
        break;
    case JSON_STRING:
        kind = NODE_STRING;
        text = bytes_of(json_string_value(json), json_string_length(json));
        break;
    case JSON_INTEGER:
        kind = NODE_NUMBER;
        (void)snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(json));
        text = bytes_of_str(number);
        break;
    case JSON_REAL:
        kind = NODE_NUMBER;
        (void)snprintf(number, sizeof(number), "%.17g", json_real_value(json));
        text = bytes_of_str(number);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        kind = NODE_BOOL;
        text = bytes_of_str(json_is_true(json) ? "true" : "false");
        break;
    case JSON_NULL:
        break;
    }
    *out = node_new(reader->tree, kind, text);
    if (*out == NULL)
        return node_too_large(reader);
    if (kind == NODE_MAP || kind == NODE_LIST)
        return node_json_members(reader, json, depth, *out);
    return OK;
}

err_t node_parse_json(const char *name, struct bytes text, struct faults *faults,
                      struct node_tree *out)
{
    struct node_reader reader = {out, faults, name};
    json_error_t error;
    json_t *json;
    err_t err;

    *out = (struct node_tree){.blocks = NULL};
    json = json_loadb(text.len != 0 ? (const char *)text.ptr : "", text.len, JSON_REJECT_DUPLICATES,
                      &error);
    if (json == NULL) {
        node_fault(&reader, error.line > 0 ? (size_t)error.line : 1,
                   error.column > 0 ? (size_t)error.column : 1, error.text);
        return FAIL(JSON_SYNTAX, error.position);
    }
    err = node_from_json(&reader, json, 1, &out->root);
    json_decref(json);
    return err;
}

/* ---- YAML ---- */

static bool node_is_one_of(const char *text, const char *const *words, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        if (strcasecmp(text, words[i]) == 0)
            return true;
    }
    return false;
}

static bool node_is_null_word(const char *text)
{
    static const char *const words[] = {"", "~", "null"};

    return node_is_one_of(text, words, ARRAY_LEN(words));
}

static bool node_is_bool_word(const char *text)
{
    static const char *const words[] = {"true", "false"};

    return node_is_one_of(text, words, ARRAY_LEN(words));
}

/* Booleans of YAML 1.1 that later versions gave up: nobody can tell what is meant. */
static bool node_is_old_bool_word(const char *text)
{
    static const char *const words[] = {"yes", "no", "on", "off", "y", "n"};

    return node_is_one_of(text, words, ARRAY_LEN(words));
}

bool node_is_yaml_word(const char *text)
{
    return node_is_null_word(text) || node_is_bool_word(text) || node_is_old_bool_word(text);
}

bool node_is_yaml_number(const char *text)
{
    const char *digits = text + (text[0] == '+' || text[0] == '-');
    char *end;

    if (digits[0] == '.')
        digits++;
    if (digits[0] < '0' || digits[0] > '9')
        return false; /* strtod would also take inf and nan */
    (void)strtod(text, &end);
    return *end == '\0';
}

static err_t node_yaml_fault(struct node_reader *reader, yaml_mark_t mark, const char *what)
{
    node_fault(reader, mark.line + 1, mark.column + 1, what);
    return FAIL(YAML_SYNTAX, mark.index > INT32_MAX ? INT32_MAX : mark.index);
}

static err_t node_yaml_parse_error(struct node_reader *reader, const yaml_parser_t *parser)
{
    char what[256];

    if (parser->error == YAML_READER_ERROR) {
        /* Bytes that are no text have an offset and no line. */
        (void)snprintf(what, sizeof(what), "byte %zu: %s", parser->problem_offset, parser->problem);
        faults_add(reader->faults, reader->name, "%s", what);
        return FAIL(YAML_SYNTAX,
                    parser->problem_offset > INT32_MAX ? INT32_MAX : parser->problem_offset);
    }
    if (parser->problem == NULL)
        return FAIL(NO_MEMORY, 0);
    (void)snprintf(what, sizeof(what), "%s%s%s", parser->problem,
                   parser->context != NULL ? " " : "",
                   parser->context != NULL ? parser->context : "");
    return node_yaml_fault(reader, parser->problem_mark, what);
}

static err_t node_yaml_next(struct node_reader *reader, yaml_parser_t *parser, yaml_event_t *event)
{
    if (!yaml_parser_parse(parser, event))
        return node_yaml_parse_error(reader, parser);
    return OK;
}

static err_t node_yaml_scalar(struct node_reader *reader, const yaml_event_t *event,
                              struct node **out)
{
    const char *value = (const char *)event->data.scalar.value;
    struct bytes text = bytes_of(value, event->data.scalar.length);
    bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    enum node_kind kind = NODE_STRING;

    if (plain && node_is_null_word(value))
        kind = NODE_NULL;
    else if (plain && node_is_bool_word(value))
        kind = NODE_BOOL;
    else if (plain && node_is_yaml_number(value))
        kind = NODE_NUMBER;
    if (kind == NODE_BOOL) /* True and TRUE are true */
        text = bytes_of_str(value[0] == 't' || value[0] == 'T' ? "true" : "false");
    *out = node_new(reader->tree, kind, text);
    if (*out == NULL)
        return node_too_large(reader);
    (*out)->plain = plain && node_is_old_bool_word(value);
    return OK;
}

static bool node_has_key(const struct node *map, struct bytes key)
{
    for (const struct node *child = map->first; child != NULL; child = child->next) {
        if (bytes_equal(child->key, key))
            return true;
    }
    return false;
}

/* Our messages have few fields: a map with more keys is wrong anyhow, and checking each key against
 * all before it stays cheap. */
#define NODE_MAP_MAX 1024

static err_t node_yaml_key(struct node_reader *reader, const struct node *map,
                           const yaml_event_t *event, struct bytes *out)
{
    if (event->type != YAML_SCALAR_EVENT)
        return node_yaml_fault(reader, event->start_mark, "a key must be a word");
    if (event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL)
        return node_yaml_fault(reader, event->start_mark, "anchors and tags are not supported");
    *out = bytes_of(event->data.scalar.value, event->data.scalar.length);
    if (map->num == NODE_MAP_MAX)
        return node_yaml_fault(reader, event->start_mark, "too many keys");
    if (node_has_key(map, *out))
        return node_yaml_fault(reader, event->start_mark, "duplicate key");
    *out = node_copy(reader->tree, *out);
    return OK;
}

static err_t node_from_event(struct node_reader *reader, yaml_parser_t *parser,
                             const yaml_event_t *event, unsigned depth, struct node **out);

/* The members of a list or map whose start event was seen, to its end event. */
static err_t node_yaml_members(struct node_reader *reader, yaml_parser_t *parser, unsigned depth,
                               struct node *node)
{
    yaml_event_type_t end =
        node->kind == NODE_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;

    for (;;) {
        struct bytes key = {NULL, 0};
        struct node *child;
        yaml_event_t event;
        bool ended;
        err_t err = OK;

        TRY(node_yaml_next(reader, parser, &event));
        ended = event.type == end;
        if (!ended && node->kind == NODE_MAP) {
            err = node_yaml_key(reader, node, &event, &key);
            yaml_event_delete(&event);
            TRY(err);
            TRY(node_yaml_next(reader, parser, &event));
        }
        if (!ended)
            err = node_from_event(reader, parser, &event, depth + 1, &child);
        yaml_event_delete(&event);
        TRY(err);
        if (ended)
            return OK;
        child->key = key;
        node_add(node, child);
    }
}

static err_t node_from_event(struct node_reader *reader, yaml_parser_t *parser,
                             const yaml_event_t *event, unsigned depth, struct node **out)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;
    enum node_kind kind = NODE_LIST;

    if (event->type == YAML_ALIAS_EVENT)
        return node_yaml_fault(reader, event->start_mark, "aliases are not supported");
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else {
        CHECK(event->type == YAML_MAPPING_START_EVENT); /* the parser's grammar leaves no other */
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
        kind = NODE_MAP;
    }
    if (anchor != NULL)
        return node_yaml_fault(reader, event->start_mark, "anchors are not supported");
    if (tag != NULL)
        return node_yaml_fault(reader, event->start_mark, "tags are not supported");
    if (depth > JSON_PB_DEPTH_MAX)
        return node_yaml_fault(reader, event->start_mark, "nested too deeply");
    if (event->type == YAML_SCALAR_EVENT)
        return node_yaml_scalar(reader, event, out);

    *out = node_new(reader->tree, kind, bytes_of(NULL, 0));
    if (*out == NULL)
        return node_too_large(reader);
    return node_yaml_members(reader, parser, depth, *out);
}

/* One document and no second one. An empty text is an empty map. */
static err_t node_yaml_document(struct node_reader *reader, yaml_parser_t *parser)
{
    bool seen = false;

    for (;;) {
        yaml_event_t event;
        yaml_event_type_t type;
        err_t err = OK;

        TRY(node_yaml_next(reader, parser, &event));
        type = event.type;
        switch (type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
        case YAML_STREAM_END_EVENT:
        case YAML_NO_EVENT:
            break;
        case YAML_DOCUMENT_START_EVENT:
            if (seen)
                err = node_yaml_fault(reader, event.start_mark, "only one document is allowed");
            seen = true;
            break;
        case YAML_ALIAS_EVENT:
        case YAML_SCALAR_EVENT:
        case YAML_SEQUENCE_START_EVENT:
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_START_EVENT:
        case YAML_MAPPING_END_EVENT:
            err = node_from_event(reader, parser, &event, 1, &reader->tree->root);
            break;
        }
        yaml_event_delete(&event);
        TRY(err);
        if (type == YAML_STREAM_END_EVENT || type == YAML_NO_EVENT)
            break;
    }
    if (reader->tree->root == NULL || reader->tree->root->kind == NODE_NULL)
        reader->tree->root = node_new(reader->tree, NODE_MAP, bytes_of(NULL, 0));
    return reader->tree->root != NULL ? OK : node_too_large(reader);
}

/* libyaml would count it as a column, and know no mark of a document behind it. */
static struct bytes node_behind_bom(struct bytes text)
{
    if (text.len >= 3 && memcmp(text.ptr, "\xef\xbb\xbf", 3) == 0)
        return bytes_of(text.ptr + 3, text.len - 3);
    return text;
}

err_t node_parse_yaml(const char *name, struct bytes text, struct faults *faults,
                      struct node_tree *out)
{
    struct node_reader reader = {out, faults, name};
    yaml_parser_t parser;
    err_t err;

    *out = (struct node_tree){.blocks = NULL};
    text = node_behind_bom(text);
    if (!yaml_parser_initialize(&parser))
        return FAIL(NO_MEMORY, 0);
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING); /* else a BOM would choose UTF-16 */
    yaml_parser_set_input_string(&parser, text.len != 0 ? text.ptr : (const uint8_t *)"", text.len);
    err = node_yaml_document(&reader, &parser);
    yaml_parser_delete(&parser);
    return err;
}
