/* mortisectl delete, clone: one thing of the mesh, by its name. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/apply.h"
#include "control/ctl/mesh_text.h"
#include "control/mesh.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

const char *const ctl_mesh_kinds[] = {"subsystem",  "profile",  "link", "crl",
                                      "truststore", "keystore", NULL};

static const struct option delete_options[] = {
    CTL_DRY_RUN_ROW, CTL_FORCE_STRICT_ROW, CTL_WAIT_ROW,        CTL_ON_NACK_ROW,
    CTL_MESSAGE_ROW, CTL_TIMEOUT_ROW,      CTL_CONNECTION_ROWS, {.name = NULL},
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
    for (int i = 0; i < MESH_KINDS; i++) {
        if (strcmp(word, ctl_mesh_kinds[i]) == 0 || strcmp(word, mesh_kinds[i].many) == 0)
            return i;
    }
    ctl_tell("no kind \"%s\"; there are: subsystem, profile, link, crl, truststore, keystore",
             word);
    return -1;
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
    if (kind == MESH_CRLS)
        ctl_tell("no crl is called \"%s\" (mortisectl export shows them)", name);
    else
        ctl_tell("no %s is called \"%s\" (mortisectl get %s)", mesh_kinds[kind].one, name,
                 mesh_kinds[kind].many);
    return false;
}

/* What one command does with the mesh in force: fills in `mesh` of the request, and gives the
 * memory that it has made to `*out`. False: told. */
struct change {
    const struct ctl_flags *flags;
    int kind;
    char **operands; /* KIND NAME … */
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

static int change_run(struct change *change, const struct ctl_flags *flags, char **operands)
{
    struct conn *conn;
    int status = CTL_FAILED;

    change->flags = flags;
    change->operands = operands;
    change->kind = ctl_mesh_kind(operands[0]);
    if (change->kind < 0)
        return CTL_USAGE;
    conn = conn_open(flags);
    if (conn != NULL)
        status = change_send(conn, change);
    conn_close(conn);
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

/* Tells who refers to it; true when nobody does. */
static bool delete_is_free(const Mortise__V1__Mesh *mesh, int kind, const char *name)
{
    size_t told = delete_tell_profiles(mesh, kind, name);

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

static bool delete_plan(const struct change *change, const Mortise__V1__Mesh *now,
                        Mortise__V1__ApplyRequest *request, void **out)
{
    const struct mesh_kind *kind = &mesh_kinds[change->kind];
    const char *name = change->operands[1];
    size_t num = mesh_num(now, kind), at = change_find(now, change->kind, name), kept = 0;
    const ProtobufCMessage **items;

    if (!change_has(now, change->kind, name))
        return false;
    if (mesh_is_built_in(change->kind, name)) {
        ctl_tell(
            "%s %s is built in and stays; to have it otherwise, clone it: mortisectl clone %s %s "
            "NEW_NAME",
            kind->one, name, ctl_mesh_kinds[change->kind], name);
        return false;
    }
    if (!delete_is_free(now, change->kind, name))
        return false;
    items = mem_array(num, sizeof(*items));
    for (size_t i = 0; i < num; i++) {
        if (i != at)
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

    (void)num;
    return change_run(&change, flags, operands);
}

const struct ctl_command ctl_delete = {
    .name = "delete",
    .operands = "KIND NAME",
    .summary =
        "remove a subsystem, a profile, a link, a revocation list, a truststore or a keystore",
    .about = "Removes one thing of the mesh: KIND is subsystem, profile, link, crl or truststore. "
             "Refused "
             "while something refers to it, with what. Sidecars of a subsystem that is removed are "
             "in the "
             "mesh no longer; its certificates are not revoked (mortisectl revoke).\n\n"
             "Example: mortisectl delete link management-portal --dry-run",
    .options = delete_options,
    .min_operands = 2,
    .max_operands = 2,
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
    ctl_tell("there is a %s \"%s\" already", ctl_mesh_kinds[kind], new_name);
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

    (void)num;
    return change_run(&change, flags, operands);
}

const struct ctl_command ctl_clone = {
    .name = "clone",
    .operands = "KIND NAME NEW_NAME",
    .summary = "a copy under another name: of a built-in profile, to change it",
    .about =
        "Makes a copy of a subsystem, profile, link, crl, truststore or keystore, which is "
        "nobody's until "
        "something names it. What is built in cannot be changed, its copy can. A link's copy needs "
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
