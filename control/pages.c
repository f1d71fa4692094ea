#include "control/pages.h"

#include <inttypes.h>

#include "control/build.h"
#include "control/msg.h"
#include "lib/rpc/admin.h"
#include "lib/rpc/json_pb.h"
#include "proto/mesh/operator.pb-c.h"

struct pages {
    struct pages_params params;
    struct admin *admin;
};

static void pages_ready(void *arg, struct faults *reasons)
{
    struct pages *pages = arg;
    err_t err = ca_state(pages->params.ca);

    if (!err_is_ok(err))
        faults_add(reasons, "ca", "%s: %s", err_name(err.code), err_text(err.code));
    if (vault_health(pages->params.vault)->unwritable)
        faults_add(reasons, "store", "%s: nothing can be issued or changed",
                   err_text(E_STORE_UNWRITABLE));
    if (vault_health(pages->params.vault)->corrupt)
        faults_add(reasons, "store", "%s: restore it from a backup", err_text(E_STORE_CORRUPT));
    if (server_cert_tls(pages->params.cert) == NULL)
        faults_add(reasons, "certificate", "our own certificate has expired");
}

/* The mesh in force, as `mortisectl get mesh -o json` shows it, and how many have it. */
static err_t pages_write_config(struct pages *pages, struct buf *out)
{
    struct registry *registry = pages->params.registry;
    struct registry_totals totals = registry_totals(registry);
    Mortise__V1__GetMeshResponse mesh = MORTISE__V1__GET_MESH_RESPONSE__INIT;

    mesh.version = registry_mesh_version(registry);
    mesh.mesh = (Mortise__V1__Mesh *)(uintptr_t)registry_mesh(registry); /* only read */
    TRY(buf_printf(
        out,
        "{\"build\": \"" BUILD_VERSION "\", \"trust_domain\": \"%s\", \"connected\": %u, "
        "\"in_sync\": %u, \"refusing\": %u, \"root_not_after\": %" PRId64
        ", \"issuer_not_after\": %" PRId64 ", \"certificate_not_after\": %" PRId64
        ",\n\"in_force\": ",
        registry_trust_domain(registry), totals.connected, totals.in_sync, totals.refused,
        ca_root_not_after(pages->params.ca), ca_issuer_not_after(pages->params.ca),
        server_cert_not_after(pages->params.cert)));
    TRY(json_pb_write(JSON_PB_JSON, &mesh.base, out));
    return buf_add_str(out, "}\n");
}

static void pages_config(void *arg, const struct http1_request *request,
                         struct http1_response *response)
{
    (void)request;
    response->content_type = "application/json";
    if (err_is_ok(pages_write_config(arg, &response->body)))
        return;
    buf_clear(&response->body);
    response->status = 500;
}

static const struct admin_page pages_table[] = {
    {.path = "/config", .handle = pages_config, .help = "the mesh in force, as JSON"},
    {.path = NULL},
};

err_t pages_new(const struct pages_params *params, struct faults *faults, struct pages **out)
{
    struct pages *pages = mem_zalloc(sizeof(*pages));
    const struct admin_params admin = {
        .listen = params->listen,
        .http_listen = params->http_listen,
        .metrics = params->meters->metrics,
        .ready = pages_ready,
        .pages = pages_table,
        .arg = pages,
    };
    err_t err;

    pages->params = *params;
    err = admin_new(params->loop, &admin, faults, &pages->admin);
    if (!err_is_ok(err)) {
        mem_free(pages);
        return err;
    }
    *out = pages;
    return OK;
}

void pages_free(struct pages *pages)
{
    if (pages == NULL)
        return;
    admin_free(pages->admin);
    mem_free(pages);
}
