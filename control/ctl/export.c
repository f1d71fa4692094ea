/* mortisectl export: the mesh in force as a document. */
#include <stdio.h>

#include "control/ctl/mesh_text.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

static const struct option export_options[] = {CTL_OUTPUT_ROW, CTL_CONNECTION_ROWS, {.name = NULL}};

static int export_run(const struct ctl_flags *flags, int num, char **operands)
{
    CLEANUP(buf_fini) struct buf text = {0};
    Mortise__V1__GetMeshResponse *now = NULL;
    struct conn *conn = conn_open(flags);

    (void)num;
    (void)operands;
    if (conn != NULL)
        now = mesh_get(conn);
    conn_close(conn);
    if (now == NULL)
        return CTL_FAILED;
    mesh_write(flags->output, now->mesh, &text);
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
             "refused when somebody else was faster.\n\n"
             "Example: mortisectl export >mesh.yaml\n"
             "         mortisectl apply -f mesh.yaml --prune",
    .options = export_options,
    .run = export_run,
};
