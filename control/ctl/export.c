/* mortisectl export: the mesh in force as a document. */
#include <stdio.h>
#include <string.h>

#include "control/ctl/mesh_text.h"
#include "control/mesh.h"
#include "control/selector.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

static const struct option export_options[] = {
    CTL_OUTPUT_ROW, CTL_SELECTOR_ROW, CTL_CONNECTION_ROWS, {.name = NULL}};

/* Takes out of every list what the selector does not choose, and the settings, which have no
 * labels. The lists are those that mesh_sort made. */
static void export_choose(const struct selector *selector, Mortise__V1__Mesh *mesh)
{
    mesh->settings = NULL;
    for (int kind = 0; kind < MESH_KINDS; kind++) {
        const ProtobufCMessage **items;
        size_t num = 0;

        memcpy(&items, (char *)mesh + mesh_kinds[kind].items_at, sizeof(items));
        for (size_t i = 0; i < mesh_num(mesh, &mesh_kinds[kind]); i++) {
            const ProtobufCMessage *item = mesh_item(mesh, &mesh_kinds[kind], i);

            if (!mesh_is_built_in(kind, mesh_name(item)) && selector_matches(selector, item))
                items[num++] = item;
        }
        memcpy((char *)mesh + mesh_kinds[kind].num_at, &num, sizeof(num));
    }
}

static int export_run(const struct ctl_flags *flags, int num, char **operands)
{
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(selector_freep) struct selector *selector = NULL;
    Mortise__V1__GetMeshResponse *now = NULL;
    Mortise__V1__Mesh shown;
    struct conn *conn;

    (void)num;
    (void)operands;
    if (!ctl_selector(flags, &selector))
        return CTL_USAGE;
    conn = conn_open(flags);
    if (conn != NULL)
        now = mesh_get(conn);
    conn_close(conn);
    if (now == NULL)
        return CTL_FAILED;
    mesh_sort(now->mesh, &shown);
    if (selector != NULL)
        export_choose(selector, &shown);
    mesh_write(flags->output, &shown, &text);
    mesh_sort_fini(&shown);
    printf("%.*s", (int)buf_size(&text), (const char *)buf_view(&text).ptr);
    pb_free(&now->base);
    return CTL_OK;
}

const struct ctl_command ctl_export = {
    .name = "export",
    .operands = "",
    .summary = "the mesh in force as a document for apply",
    .about = "Writes it to standard output, YAML or (-o json) JSON, each list by name: for a "
             "repository, or for another mesh. It has no version: applied, it takes the place of "
             "what is there then. `mortisectl get mesh -o yaml` writes the version, too, and is "
             "refused when somebody else was faster. With a selector it is what has such labels, "
             "without what is built in and without settings: to be applied, never with --prune.\n\n"
             "Example: mortisectl export >mesh.yaml\n"
             "         mortisectl export -l team=billing >billing.yaml\n"
             "         mortisectl apply -f mesh.yaml --prune",
    .options = export_options,
    .run = export_run,
};
