/* mortisectl delete, clone: things of the mesh, by name or labels. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/apply.h"
#include "control/ctl/mesh_text.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "control/selector.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

static const struct option delete_options[] = {
    CTL_SELECTOR_ROW,
    {.name = "yes",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, yes),
     .def = "false",
     .help = "With --selector: also if it chooses more than one."},
    CTL_DRY_RUN_ROW,
    CTL_WEAKER_ROW,
    CTL_FORCE_STRICT_ROW,
    CTL_WAIT_ROW,
    CTL_ON_NACK_ROW,
    CTL_MESSAGE_ROW,
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

static const struct option clone_options[] = {
    {.name = "client-port",
     .kind = OPTION_INT,
     .offset = offsetof(struct ctl_flags, client_port),
     .def = "0",
     .min = 0,
     .max = 65535,
     .arg = "PORT",
     .help = "Of a link: the loopback port of the client's sidecar, where the first one has "
             "another."},
    {.name = "with-stores",
     .kind = OPTION_BOOL,
     .offset = offsetof(struct ctl_flags, with_stores),
     .help = "Of a profile: its keystore and truststore too, under the new name, which the copy "
             "then refers to."},
    CTL_DRY_RUN_ROW,
    CTL_WEAKER_ROW,
    CTL_FORCE_STRICT_ROW,
    CTL_WAIT_ROW,
    CTL_ON_NACK_ROW,
    CTL_MESSAGE_ROW,
    CTL_TIMEOUT_ROW,
    CTL_CONNECTION_ROWS,
    {.name = NULL},
};

/* "link", "links", "crl"; -1: told. */
int ctl_mesh_kind(const char *word)
{
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err = OK;

    for (int i = 0; i < MESH_KINDS; i++) {
        if (strcmp(word, mesh_kinds[i].word) == 0 || strcmp(word, mesh_kinds[i].many) == 0)
            return i;
    }
    for (int i = 0; i < MESH_KINDS && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? ", " : "", mesh_kinds[i].word);
    CHECK(err_is_ok(err));
    ctl_tell("no kind \"%s\"; there are: %.*s", word, (int)buf_size(&text),
             (const char *)buf_view(&text).ptr);
    return -1;
}

bool ctl_selector(const struct ctl_flags *flags, struct selector **out)
{
    char why[SELECTOR_WHY_MAX];

    *out = NULL;
    if (flags->selector == NULL || err_is_ok(selector_parse(flags->selector, why, out)))
        return true;
    ctl_tell("--selector: %s (such as 'tier=edge,env!=test,zone in (a,b),!old')", why);
    return false;
}

/* Its index; the number of items: there is none of that name. */
static size_t change_find(const Mortise__V1__Mesh *mesh, int kind, const char *name)
{
    size_t num = mesh_num(mesh, &mesh_kinds[kind]), at = 0;

    while (at < num && strcmp(mesh_name(mesh_item(mesh, &mesh_kinds[kind], at)), name) != 0)
        at++;
    return at;
}

static bool change_has(const Mortise__V1__Mesh *mesh, int kind, const char *name)
{
    if (change_find(mesh, kind, name) < mesh_num(mesh, &mesh_kinds[kind]))
        return true;
    ctl_tell("no %s is called \"%s\" (mortisectl get %s)", mesh_kinds[kind].word, name,
             mesh_kinds[kind].many);
    return false;
}

/* What one command does with the mesh in force: fills in `mesh` of the request, and gives the
 * memory that it has made to `*out`. False: told. */
struct change {
    const struct ctl_flags *flags;
    int kind;
    int num_operands;
    char **operands;           /* KIND NAME … */
    struct selector *selector; /* owned; NULL: by name */
    bool (*plan)(const struct change *change, const Mortise__V1__Mesh *now,
                 Mortise__V1__ApplyRequest *request, void **out);
    void (*release)(void *made);
};

static int change_send(struct conn *conn, const struct change *change)
{
    Mortise__V1__ApplyRequest request = MORTISE__V1__APPLY_REQUEST__INIT;
    Mortise__V1__GetMeshResponse *now = mesh_get(conn);
    Mortise__V1__Mesh mesh = MORTISE__V1__MESH__INIT;
    void *made = NULL;
    int status = CTL_FAILED;

    if (now == NULL)
        return CTL_FAILED;
    request.mesh = &mesh;
    request.if_version = now->version; /* of what was judged here */
    if (change->plan(change, now->mesh, &request, &made))
        status = apply_send(conn, change->flags, &request);
    change->release(made);
    pb_free(&now->base);
    return status;
}

static int change_run(struct change *change, const struct ctl_flags *flags, int num,
                      char **operands)
{
    struct conn *conn;
    int status = CTL_FAILED;

    change->flags = flags;
    change->operands = operands;
    change->num_operands = num;
    change->kind = ctl_mesh_kind(operands[0]);
    if (change->kind < 0 || !ctl_selector(flags, &change->selector))
        return CTL_USAGE;
    conn = conn_open(flags);
    if (conn != NULL)
        status = change_send(conn, change);
    conn_close(conn);
    if (change->selector != NULL)
        selector_free(change->selector);
    return status;
}

/* ---------------------------------------------------------------------- delete */

static size_t delete_tell(size_t told, const char *kind, const char *name, const char *who,
                          const char *its_name, const char *field)
{
    if (told == 0)
        ctl_tell("%s %s is in use: delete or change that first", kind, name);
    fprintf(stderr, "  %s %s: %s\n", who, its_name, field);
    return told + 1;
}

/* Profiles that refer to it. */
static size_t delete_tell_profiles(const Mortise__V1__Mesh *mesh, int kind, const char *name)
{
    size_t told = 0;

    for (size_t i = 0; i < mesh->n_profiles; i++) {
        const Mortise__V1__TlsProfile *profile = mesh->profiles[i];

        if (kind == MESH_TRUSTSTORES && strcmp(profile->truststore, name) == 0)
            told = delete_tell(told, mesh_kinds[kind].one, name, "profile", profile->name,
                               "truststore");
        if (kind == MESH_KEYSTORES && strcmp(profile->keystore, name) == 0)
            told =
                delete_tell(told, mesh_kinds[kind].one, name, "profile", profile->name, "keystore");
    }
    return told;
}

/* Policies that name a link. */
static size_t delete_tell_policies(const Mortise__V1__Mesh *mesh, int kind, const char *name)
{
    size_t told = 0;

    for (size_t i = 0; kind == MESH_LINKS && i < mesh->n_policies; i++) {
        const Mortise__V1__Policy *policy = mesh->policies[i];

        for (size_t j = 0; j < policy->n_links; j++) {
            if (strcmp(policy->links[j], name) == 0)
                told =
                    delete_tell(told, mesh_kinds[kind].one, name, "policy", policy->name, "links");
        }
    }
    return told;
}

/* Tells who refers to it; true when nobody does. */
static bool delete_is_free(const Mortise__V1__Mesh *mesh, int kind, const char *name)
{
    size_t told = delete_tell_profiles(mesh, kind, name) + delete_tell_policies(mesh, kind, name);

    for (size_t i = 0; i < mesh->n_links; i++) {
        const Mortise__V1__Link *link = mesh->links[i];
        const struct {
            int kind;
            const char *field;
            const char *refers;
        } rows[] = {
            {MESH_SUBSYSTEMS, "client", link->client},
            {MESH_SUBSYSTEMS, "server", link->server},
            {MESH_PROFILES, "client_profile", mesh_client_profile(link)},
            {MESH_PROFILES, "server_profile", mesh_server_profile(link)},
        };

        for (size_t j = 0; j < ARRAY_LEN(rows); j++) {
            if (rows[j].kind == kind && strcmp(rows[j].refers, name) == 0)
                told = delete_tell(told, mesh_kinds[kind].one, name, "link", link->name,
                                   rows[j].field);
        }
    }
    return told == 0;
}

/* Whether that one may go; else told. */
static bool delete_may(const Mortise__V1__Mesh *now, int kind, const char *name)
{
    if (!change_has(now, kind, name))
        return false;
    if (mesh_is_built_in(kind, name)) {
        ctl_tell(
            "%s %s is built in and stays; to have it otherwise, clone it: mortisectl clone %s %s "
            "NEW_NAME",
            mesh_kinds[kind].one, name, mesh_kinds[kind].word, name);
        return false;
    }
    return delete_is_free(now, kind, name);
}

/* What is built in is nobody's to choose: it has no labels, and "!old" would be true of it. */
static bool delete_is_chosen(const struct change *change, const ProtobufCMessage *item)
{
    for (int i = 1; i < change->num_operands; i++) {
        if (strcmp(change->operands[i], mesh_name(item)) == 0)
            return true;
    }
    return change->selector != NULL && !mesh_is_built_in(change->kind, mesh_name(item)) &&
           selector_matches(change->selector, item);
}

/* With a selector: shows whom it chooses, and stops before more than one that nobody has said yes
 * to. */
static bool delete_may_chosen(const struct change *change, const Mortise__V1__Mesh *now)
{
    const struct mesh_kind *kind = &mesh_kinds[change->kind];
    size_t chosen = 0;
    bool may = true;

    for (size_t i = 0; i < mesh_num(now, kind); i++) {
        const ProtobufCMessage *item = mesh_item(now, kind, i);

        if (!delete_is_chosen(change, item))
            continue;
        printf("%s %s\n", kind->one, mesh_name(item));
        chosen++;
    }
    (void)fflush(stdout);
    if (chosen == 0) {
        ctl_tell("no %s is such (mortisectl get %s --show-labels)", kind->word, kind->many);
        return false;
    }
    if (chosen > 1 && !change->flags->yes && !change->flags->dry_run) {
        ctl_tell("these are %zu, and all would be deleted: say --yes, or --dry-run to see what "
                 "that does; nothing was changed",
                 chosen);
        return false;
    }
    for (size_t i = 0; i < mesh_num(now, kind); i++) {
        const ProtobufCMessage *item = mesh_item(now, kind, i);

        if (delete_is_chosen(change, item))
            may = delete_is_free(now, change->kind, mesh_name(item)) && may;
    }
    return may;
}

static bool delete_plan(const struct change *change, const Mortise__V1__Mesh *now,
                        Mortise__V1__ApplyRequest *request, void **out)
{
    const struct mesh_kind *kind = &mesh_kinds[change->kind];
    size_t num = mesh_num(now, kind), kept = 0;
    const ProtobufCMessage **items;
    bool may = change->selector == NULL || delete_may_chosen(change, now);

    for (int i = 1; i < change->num_operands; i++)
        may = delete_may(now, change->kind, change->operands[i]) && may;
    if (!may)
        return false;
    items = mem_array(num, sizeof(*items));
    for (size_t i = 0; i < num; i++) {
        if (!delete_is_chosen(change, mesh_item(now, kind, i)))
            items[kept++] = mesh_item(now, kind, i);
    }
    *request->mesh = *now;
    memcpy((char *)request->mesh + kind->num_at, &kept, sizeof(kept));
    memcpy((char *)request->mesh + kind->items_at, &items, sizeof(items));
    request->prune = true;
    *out = items;
    return true;
}

static int delete_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct change change = {.plan = delete_plan, .release = mem_free};

    if ((num > 1) == (flags->selector != NULL)) {
        ctl_tell("delete what? mortisectl delete %s NAME…, or -l SELECTOR", operands[0]);
        return CTL_USAGE;
    }
    return change_run(&change, flags, num, operands);
}

const struct ctl_command ctl_delete = {
    .name = "delete",
    .operands = "KIND [NAME…]",
    .summary = "remove things of the mesh: links, subsystems, profiles and more",
    .about = "Removes things of one kind, by name or by their labels, all of them or none: KIND is "
             "subsystem, profile, link, crl, truststore, keystore or policy. Refused while "
             "something refers to one, with what. A policy that kept somebody out goes with "
             "--allow-weaker only. A selector's choice is shown, never has what is built in, "
             "and wants --yes when it is more than one. Sidecars of a subsystem that is removed "
             "are in the mesh no longer; its certificates are not revoked (mortisectl revoke).\n\n"
             "Example: mortisectl delete link management-portal --dry-run\n"
             "         mortisectl delete links -l 'team=billing,old' --yes",
    .options = delete_options,
    .min_operands = 1,
    .max_operands = -1,
    .run = delete_run,
};

/* ----------------------------------------------------------------------- clone */

static void clone_release(void *made)
{
    if (made != NULL)
        pb_free(made);
}

static void clone_set(char **field, const char *text)
{
    if (*field != protobuf_c_empty_string)
        mem_free(*field);
    *field = mem_strdup(text);
}

static void clone_rename(ProtobufCMessage *item, const char *name)
{
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(item->descriptor, "name");

    clone_set((char **)(void *)((char *)item + field->offset), name);
}

/* Whether a copy under that name can be made; else told. */
static bool clone_may(const Mortise__V1__Mesh *now, int kind, const char *name,
                      const char *new_name)
{
    if (!change_has(now, kind, name))
        return false;
    if (change_find(now, kind, new_name) == mesh_num(now, &mesh_kinds[kind]))
        return true;
    ctl_tell("there is a %s \"%s\" already", mesh_kinds[kind].word, new_name);
    return false;
}

/* Adds a copy to `document`, which has none of that kind. */
static void clone_add(const Mortise__V1__Mesh *now, int kind, const char *name,
                      const char *new_name, Mortise__V1__Mesh *document)
{
    const struct mesh_kind *what = &mesh_kinds[kind];
    const size_t num = 1;
    ProtobufCMessage **items = mem_array(num, sizeof(ProtobufCMessage *));

    items[0] = pb_clone(mesh_item(now, what, change_find(now, kind, name)));
    clone_rename(items[0], new_name);
    memcpy((char *)document + what->num_at, &num, sizeof(num));
    memcpy((char *)document + what->items_at, &items, sizeof(items));
}

/* What the copy of a profile refers to becomes its own. */
static bool clone_stores(const Mortise__V1__Mesh *now, const char *name, const char *new_name,
                         Mortise__V1__Mesh *document)
{
    Mortise__V1__TlsProfile *profile = document->profiles[0];
    const struct {
        int kind;
        char **field;
    } rows[] = {{MESH_KEYSTORES, &profile->keystore}, {MESH_TRUSTSTORES, &profile->truststore}};

    if (profile->keystore[0] == '\0' && profile->truststore[0] == '\0') {
        ctl_tell("profile %s names neither a keystore nor a truststore: leave out --with-stores",
                 name);
        return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if ((*rows[i].field)[0] == '\0')
            continue;
        if (!clone_may(now, rows[i].kind, *rows[i].field, new_name))
            return false;
        clone_add(now, rows[i].kind, *rows[i].field, new_name, document);
        clone_set(rows[i].field, new_name);
    }
    return true;
}

/* A document of the copy, and of what it refers to where that is asked for. */
static bool clone_plan(const struct change *change, const Mortise__V1__Mesh *now,
                       Mortise__V1__ApplyRequest *request, void **out)
{
    const char *name = change->operands[1], *new_name = change->operands[2];
    const Mortise__V1__Mesh none = MORTISE__V1__MESH__INIT;
    Mortise__V1__Mesh *made;

    if (change->flags->with_stores && change->kind != MESH_PROFILES) {
        ctl_tell("--with-stores is for profiles");
        return false;
    }
    if (!clone_may(now, change->kind, name, new_name))
        return false;
    if (change->kind == MESH_LINKS && change->flags->client_port == 0) {
        ctl_tell("link %s: give it a port of its own: --client-port PORT", new_name);
        return false;
    }
    made = mem_dup(&none, sizeof(none));
    *out = &made->base;
    clone_add(now, change->kind, name, new_name, made);
    if (change->kind == MESH_LINKS && change->flags->client_port != 0)
        made->links[0]->client_port = (uint32_t)change->flags->client_port;
    if (change->flags->with_stores && !clone_stores(now, name, new_name, made))
        return false;
    request->mesh = made;
    return true;
}

static int clone_run(const struct ctl_flags *flags, int num, char **operands)
{
    struct change change = {.plan = clone_plan, .release = clone_release};

    return change_run(&change, flags, num, operands);
}

const struct ctl_command ctl_clone = {
    .name = "clone",
    .operands = "KIND NAME NEW_NAME",
    .summary = "a copy under another name: of a built-in profile, to change it",
    .about =
        "Makes a copy of a subsystem, profile, link, crl, truststore, keystore or policy, which is "
        "nobody's until "
        "something names it (but a policy's, which holds at once). What is built in cannot be "
        "changed, its copy can. A link's copy needs "
        "a "
        "port of its own. A subsystem's copy that has the same service_account would be the "
        "same identity and is refused: apply a document instead. A profile's copy shares the "
        "keystore and the truststore, unless --with-stores copies them with it.\n\n"
        "Example: mortisectl clone profile default-tls-server strict-server\n"
        "Example: mortisectl clone profile portal-director-client director --with-stores",
    .options = clone_options,
    .min_operands = 3,
    .max_operands = 3,
    .run = clone_run,
};
