#include "control/pages.h"

#include <inttypes.h>
#include <string.h>

#include "control/build.h"
#include "control/health.h"
#include "control/msg.h"
#include "control/series.h"
#include "lib/rpc/admin.h"
#include "lib/rpc/json_pb.h"
#include "proto/mesh/operator.pb-c.h"

#define PAGES_CRL "/crl/"

struct pages {
    struct pages_params params;
    struct admin *admin;
};

static void pages_ready(void *arg, struct faults *reasons)
{
    const struct pages *pages = arg;

    health_faults(pages->params.ca, pages->params.vault, pages->params.cert, reasons);
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

/* /crl/<SHA-256 of the issuer's key>.crl, in DER (RFC 5280 section 4.2.1.13). */
static void pages_crl(void *arg, const struct http1_request *request,
                      struct http1_response *response)
{
    const struct pages *pages = arg;
    const char *name = request->path + strlen(PAGES_CRL);
    const Mortise__Control__CrlRecord *record = NULL;
    char key[CRLS_KEY_HEX];

    if (strlen(name) == CRLS_KEY_HEX - 1 + strlen(".crl") &&
        strcmp(name + CRLS_KEY_HEX - 1, ".crl") == 0) {
        memcpy(key, name, sizeof(key) - 1);
        key[sizeof(key) - 1] = '\0';
        record = crls_find(pages->params.crls, key);
    }
    if (record == NULL) {
        response->status = 404;
        return;
    }
    response->content_type = "application/pkix-crl";
    if (!err_is_ok(buf_add(&response->body, record->der.data, record->der.len)))
        response->status = 500;
}

static err_t pages_series(void *arg, struct buf *out)
{
    const struct pages *pages = arg;

    TRY(series_write(pages->params.ca, pages->params.registry, out));
    return plaintext_uses_write(pages->params.plaintext_uses, out);
}

static const struct admin_page pages_table[] = {
    {.path = PAGES_CRL,
     .public = true,
     .handle = pages_crl,
     .help = "KEY.crl: the revocation list of the CA with that key (SHA-256, hex), DER"},
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
        .more_metrics = pages_series,
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
