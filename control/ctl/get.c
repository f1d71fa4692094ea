/* mortisectl get: what is in force and who is there. */
#include "control/ctl/get.h"

#include <stdio.h>
#include <string.h>

#include "control/ctl/show.h"
#include "control/ctl/trust.h"
#include "control/labels.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/clock.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/pb.h"

#define GET_KINDS_MAX 64

static const char *const get_outputs[] = {"table", "wide", "json", "yaml", "pem", NULL};

static const struct option get_options[] = {
    {.name = "output",
     .kind = OPTION_ENUM,
     .offset = offsetof(struct ctl_flags, output),
     .def = "table",
     .words = get_outputs,
     .arg = "FORM",
     .help = "How to show it; pem: the certificates of keystores or truststores; -o for short."},
    CTL_SELECTOR_ROW,
    {.name = "show-labels",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, show_labels),
     .def = "false",
     .help = "A column with the labels; of workloads those of their subsystem."},
    {.name = "watch",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, watch),
     .def = "false",
     .help = "Go on and write a line for each change: ADDED, MODIFIED, DELETED; with -o json an "
             "object with type and object. A control plane that starts again is waited for; -w for "
             "short."},
    {.name = "expired",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, expired),
     .def = "false",
     .help = "Of certificates: also those that have expired."},
    {.name = "expiring",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, expiring_ms),
     .def = "0s",
     .min = 0,
     .max = INT64_C(3660) * 86400 * 1000,
     .arg = "TIME",
     .help = "Of certificates: only those that expire within this time; 0s: all."},
    {.name = "issuer",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, issuer),
     .arg = "KEY",
     .help = "Of crl: only that of the CA with this key (SHA-256, hex)."},
    {.name = "file",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, file),
     .arg = "FILE",
     .help = "Of crl, with --issuer: where to write the list, in DER; what is there is replaced."},
    {.name = "link",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, link),
     .arg = "NAME",
     .help = "Of connections: only those of this link."},
    {.name = "peer",
     .kind = OPTION_STR,
     .offset = offsetof(struct ctl_flags, peer),
     .arg = "ID",
     .help = "Of connections: only those with this peer: its SPIFFE ID or serial number."},
    {.name = "limit",
     .kind = OPTION_INT,
     .offset = offsetof(struct ctl_flags, limit),
     .def = "1000",
     .min = 1,
     .max = 1000,
     .arg = "NUMBER",
     .help = "Of connections: so many of each sidecar are shown; all are counted."},
    {.name = "timeout",
     .kind = OPTION_MS,
     .offset = offsetof(struct ctl_flags, timeout_ms),
     .def = "5s",
     .min = 1000,
     .max = 60000,
     .arg = "TIME",
     .help = "Of connections: how long a sidecar has to answer."},
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* ------------------------------------------------------------------------ lists */

void get_list_fini(struct get_list *list)
{
    pb_free(list->msg);
    pb_free(list->aside);
    mem_free(list->items);
    *list = (struct get_list){.num = 0};
}

static bool get_is_wanted(const struct get *get, const struct get_list *list,
                          const ProtobufCMessage *item)
{
    bool named = get->num_names == 0 || get->kind.name_of == NULL;

    for (int i = 0; i < get->num_names && !named; i++)
        named = strcmp(get->kind.name_of(item), get->names[i]) == 0;
    return named && (get->selector == NULL ||
                     selector_matches(get->selector, get->kind.labelled(list, item)));
}

static bool get_has(const struct get *get, const struct get_list *list, const char *name)
{
    for (size_t i = 0; i < list->num; i++) {
        if (strcmp(get->kind.name_of(list->items[i]), name) == 0)
            return true;
    }
    return false;
}

bool get_list(const struct get *get, struct conn *conn, bool *out_missing, struct get_list *list)
{
    size_t kept = 0;

    *list = (struct get_list){.num = 0};
    if (!get->kind.ask(get, conn, list)) {
        get_list_fini(list);
        return false;
    }
    for (int i = 0; out_missing != NULL && get->kind.name_of != NULL && i < get->num_names; i++) {
        if (get_has(get, list, get->names[i]))
            continue;
        ctl_tell("%s: none is called \"%s\" (mortisectl get %s)", get->kind.name, get->names[i],
                 get->kind.name);
        *out_missing = true;
    }
    for (size_t i = 0; i < list->num; i++) {
        if (get_is_wanted(get, list, list->items[i]))
            list->items[kept++] = list->items[i];
    }
    list->num = kept;
    return true;
}

/* ---------------------------------------------------------------------- writing */

struct table get_table(const struct get *get)
{
    return (struct table){
        .heads = get->flags->output == CTL_WIDE ? get->kind.wide : get->kind.heads,
        .last = {.head = get->flags->show_labels ? "LABELS" : NULL},
        .red = get->kind.red,
    };
}

void get_add_row(const struct get *get, const struct get_list *list, const ProtobufCMessage *item,
                 struct table *table)
{
    const ProtobufCMessage *labelled =
        get->flags->show_labels ? get->kind.labelled(list, item) : NULL;
    struct buf text = {0};
    CLEANUP(mem_freep) char *labels = NULL;

    if (labelled != NULL)
        CHECK(err_is_ok(labels_text(labelled, &text))); /* they are bounded */
    labels = buf_take_str(&text);
    table->last.text = labels;
    get->kind.row(get, list, item, table);
}

static void get_write_table(const struct get *get, const struct get_list *list)
{
    struct table table = get_table(get);

    for (size_t i = 0; i < list->num; i++)
        get_add_row(get, list, list->items[i], &table);
    table_print(&table);
}

/* The list alone as a message, lent from it: what `apply` takes, where it is one of a mesh. In
 * memory of the caller's. */
static ProtobufCMessage *get_message(const struct get *get, const struct get_list *list)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(get->kind.desc, get->kind.field);
    ProtobufCMessage *msg = mem_alloc(get->kind.desc->sizeof_message);

    CHECK(field != NULL && field->label == PROTOBUF_C_LABEL_REPEATED);
    protobuf_c_message_init(get->kind.desc, msg);
    memcpy((char *)msg + field->quantifier_offset, &list->num, sizeof(list->num));
    memcpy((char *)msg + field->offset, &list->items, sizeof(list->items));
    return msg;
}

static int get_write(const struct get *get, const struct get_list *list)
{
    ProtobufCMessage *msg;
    bool all = true;

    if (get->flags->output == CTL_TABLE || get->flags->output == CTL_WIDE) {
        get_write_table(get, list);
        return CTL_OK;
    }
    msg = get_message(get, list);
    if (get->flags->output == CTL_PEM)
        all = trust_print_pem(get->kind.mesh == MESH_KEYSTORES,
                              MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor, msg));
    else
        show_message(get->flags->output, msg);
    mem_free(msg);
    return all ? CTL_OK : CTL_FAILED;
}

static int get_once(const struct get *get)
{
    struct conn *conn = conn_open(get->flags);
    struct get_list list = {.num = 0};
    bool missing = false;
    int status = CTL_FAILED;

    if (conn == NULL)
        return CTL_FAILED;
    if (get->kind.show != NULL)
        status = get->kind.show(get, conn);
    else if (get_list(get, conn, &missing, &list))
        status = get_write(get, &list);
    get_list_fini(&list);
    conn_close(conn);
    return missing ? CTL_FAILED : status;
}

/* ------------------------------------------------------------------------ whole */

void ctl_get_kinds(void (*fn)(void *arg, const char *name), void *arg)
{
    for (size_t i = 0; get_own_kinds[i].name != NULL; i++)
        fn(arg, get_own_kinds[i].name);
    for (int i = 0; i < MESH_KINDS; i++)
        fn(arg, mesh_kinds[i].many);
}

struct get_names {
    const char *items[GET_KINDS_MAX];
    size_t num;
};

static void get_add_name(void *arg, const char *name)
{
    struct get_names *names = arg;

    CHECK(names->num < GET_KINDS_MAX);
    names->items[names->num++] = name;
}

static void get_tell_kinds(const char *word)
{
    CLEANUP(buf_fini) struct buf text = {0};
    struct get_names names = {.num = 0};
    err_t err = OK;
    int nearest;

    ctl_get_kinds(get_add_name, &names);
    for (size_t i = 0; i < names.num && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? ", " : "", names.items[i]);
    CHECK(err_is_ok(err));
    nearest = str_nearest(word, names.items, names.num);
    ctl_tell("get: no \"%s\"; there are: %.*s%s%s%s", word, (int)buf_size(&text),
             (const char *)buf_view(&text).ptr, nearest >= 0 ? " (meant was " : "",
             nearest >= 0 ? names.items[nearest] : "", nearest >= 0 ? "?)" : "");
}

/* "links", or "link" as other commands say; crl is what this mesh's CAs publish, crls what was
 * uploaded. */
static bool get_find_kind(const char *word, struct get_kind *out)
{
    for (size_t i = 0; get_own_kinds[i].name != NULL; i++) {
        if (strcmp(get_own_kinds[i].name, word) == 0) {
            *out = get_own_kinds[i];
            return true;
        }
    }
    for (int i = 0; i < MESH_KINDS; i++) {
        if (strcmp(mesh_kinds[i].many, word) == 0 || strcmp(mesh_kinds[i].word, word) == 0) {
            *out = get_mesh_kind(i);
            return true;
        }
    }
    get_tell_kinds(word);
    return false;
}

/* What the kind does not have; false: told. */
static bool get_check_flags(const struct get *get)
{
    const struct ctl_flags *flags = get->flags;
    const struct get_kind *kind = &get->kind;
    bool pem = flags->output == CTL_PEM;

    if (pem && kind->mesh != MESH_KEYSTORES && kind->mesh != MESH_TRUSTSTORES)
        ctl_tell("--output: pem is for keystores and truststores");
    else if (kind->labelled == NULL && (flags->selector != NULL || flags->show_labels))
        ctl_tell("%s: %s has no labels; what is in a mesh document has, and workloads by their "
                 "subsystem",
                 flags->selector != NULL ? "--selector" : "--show-labels", kind->name);
    else if (flags->watch && kind->show != NULL)
        ctl_tell("--watch: %s cannot be watched here; mortisectl watch tells what happens",
                 kind->name);
    else if (flags->watch && (pem || flags->output == CTL_YAML))
        ctl_tell("--watch: lines (table, wide), or JSON lines (json)");
    else if (kind->show == NULL && kind->name_of == NULL && get->num_names > 1)
        ctl_tell("%s: of one subsystem at a time, or of all", kind->name);
    else
        return true;
    return false;
}

static int get_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct get get = {.flags = flags,
                      .num_names = num - 1,
                      .names = operands + 1,
                      .now_s = clock_wall_s(&clock_system)};
    int status = CTL_USAGE;

    if (get_find_kind(operands[0], &get.kind) && get_check_flags(&get) &&
        ctl_selector(flags, &get.selector))
        status = flags->watch ? get_watch(&get) : get_once(&get);
    if (get.selector != NULL)
        selector_free(get.selector);
    return status;
}

const struct ctl_command ctl_get = {
    .name = "get",
    .operands = "KIND [NAME…]",
    .summary = "mesh, links, workloads, certificates, connections and more",
    .about =
        "Shows what is in force and who is connected. KIND is a list of the mesh: subsystems, "
        "links, profiles, crls (revocation lists that were uploaded), truststores (who vouches "
        "for peers; wide: a line for each certificate), keystores (what links show), policies "
        "(whom they keep out); or mesh (all "
        "of them), workloads (sidecars; by subsystem), certificates (issued ones, newest first; "
        "of one subsystem), revocations, crl (the revocation lists of this mesh's CAs), or "
        "connections (live ones of one subsystem: each of its sidecars is asked now).\n\n"
        "-o yaml and -o json write a list of the mesh as a document that apply takes again.\n\n"
        "A selector is Kubernetes': key=value, key!=value, key in (a,b), key notin (a,b), key, "
        "!key, with commas between what must all hold.\n\n"
        "Example: mortisectl get links -o wide\n"
        "         mortisectl get subsystems -l 'tier=edge,env!=test' --show-labels\n"
        "         mortisectl get workloads --watch",
    .options = get_options,
    .min_operands = 1,
    .max_operands = -1,
    .run = get_run,
};
