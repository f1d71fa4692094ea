#include "control/series.h"

#include <string.h>

#include "certs/cert.h"
#include "control/discovery_service.h"
#include "control/mesh_trust.h"
#include "lib/base/metrics.h"

#define SERIES_BEFORE "mortise_control_certificate_not_before_timestamp_seconds"
#define SERIES_AFTER "mortise_control_certificate_not_after_timestamp_seconds"

/* A certificate, as both families show it. */
struct series_cert {
    const char *role;
    const char *serial;
    const char *subsystem;
    const char *instance; /* of a sidecar; an administrator's name */
    int64_t not_before;
    int64_t not_after;
};

/* Both families at once: the second one is kept until the first is written. */
struct series_certs {
    struct buf *before;
    struct buf after;
};

static err_t series_add_cert(struct series_certs *certs, const struct series_cert *cert)
{
    const char *const labels[] = {"role",       cert->role,     "serial",
                                  cert->serial, "subsystem",    cert->subsystem,
                                  "instance",   cert->instance, NULL};

    TRY(metrics_write_value(certs->before, SERIES_BEFORE, labels, (double)cert->not_before));
    return metrics_write_value(&certs->after, SERIES_AFTER, labels, (double)cert->not_after);
}

static err_t series_add_x509(struct series_certs *certs, const char *role, const X509 *cert)
{
    CLEANUP(mem_freep) char *serial = NULL;
    struct series_cert item = {.role = role, .subsystem = "", .instance = ""};

    TRY(cert_serial(cert, &serial));
    TRY(cert_times(cert, &item.not_before, &item.not_after));
    item.serial = serial;
    return series_add_cert(certs, &item);
}

static err_t series_add_authorities(struct series_certs *certs, const struct ca *ca)
{
    const struct bundle *roots = ca_bundle(ca);
    struct ca_authority authorities[CA_AUTHORITIES_MAX];
    size_t num = ca_authorities(ca, authorities);

    for (size_t i = 0; roots != NULL && i < roots->num; i++)
        TRY(series_add_x509(certs, "root", roots->certs[i]));
    for (size_t i = 0; i < num; i++) {
        X509 *cert = NULL;
        err_t err;

        if (authorities[i].root == NULL)
            continue; /* a root: above */
        TRY(cert_parse_bytes(authority_der(authorities[i].it), &cert));
        err = series_add_x509(certs, "issuer", cert);
        X509_free(cert);
        TRY(err);
    }
    return OK;
}

static err_t series_add_standing(struct series_certs *certs, const struct ca *ca)
{
    size_t num;
    const struct ca_standing *standing = ca_standing(ca, &num);

    for (size_t i = 0; i < num; i++) {
        const char *name = strrchr(standing[i].spiffe_id, '/');

        TRY(series_add_cert(certs, &(struct series_cert){
                                       .role = standing[i].role,
                                       .serial = standing[i].serial,
                                       .subsystem = "",
                                       .instance = name != NULL ? name + 1 : "",
                                       .not_before = standing[i].not_before,
                                       .not_after = standing[i].not_after,
                                   }));
    }
    return OK;
}

/* ---- sidecars ---- */

struct series_sidecars {
    const struct workload *items[SERIES_SIDECARS_MAX];
    size_t num;
    size_t unlisted;
};

static bool series_is_of_note(const struct workload *workload)
{
    return !xds_stream_in_sync(&workload->xds) ||
           skew_beyond(&workload->skew, DISCOVERY_CLOCK_LIMIT_MS);
}

static void series_choose(struct registry *registry, struct series_sidecars *out)
{
    struct list *pos, *tmp;

    for (int of_note = 1; of_note >= 0; of_note--) {
        LIST_EACH (pos, tmp, registry_workloads(registry)) {
            const struct workload *workload = LIST_ITEM(pos, struct workload, link);

            if (series_is_of_note(workload) != (of_note == 1))
                continue;
            if (out->num < SERIES_SIDECARS_MAX)
                out->items[out->num++] = workload;
            else
                out->unlisted++;
        }
    }
}

static err_t series_add_leaves(struct series_certs *certs, const struct series_sidecars *sidecars)
{
    for (size_t i = 0; i < sidecars->num; i++) {
        const struct workload *workload = sidecars->items[i];
        const Mortise__V1__SidecarStatus *status = workload->status;

        if (status == NULL || status->certificate_serial[0] == '\0')
            continue;
        TRY(series_add_cert(certs, &(struct series_cert){
                                       .role = "leaf",
                                       .serial = status->certificate_serial,
                                       .subsystem = workload->subsystem,
                                       .instance = workload->instance,
                                       .not_before = status->certificate_not_before,
                                       .not_after = status->certificate_not_after,
                                   }));
    }
    return OK;
}

/* What operators have brought, by its name: the first of each to expire. */
static err_t series_add_brought(struct series_certs *certs, struct registry *registry)
{
    const Mortise__V1__Mesh *mesh = registry_mesh(registry);

    for (size_t i = 0; i < mesh->n_keystores; i++) {
        int64_t expires = registry_keystore_expires(registry, mesh->keystores[i]);

        if (expires != 0)
            TRY(series_add_cert(certs, &(struct series_cert){.role = "keystore",
                                                             .serial = "",
                                                             .subsystem = "",
                                                             .instance = mesh->keystores[i]->name,
                                                             .not_after = expires}));
    }
    for (size_t i = 0; i < mesh->n_truststores; i++) {
        int64_t expires = mesh_truststore_expires(mesh->truststores[i]);

        if (expires != 0)
            TRY(series_add_cert(certs, &(struct series_cert){.role = "truststore",
                                                             .serial = "",
                                                             .subsystem = "",
                                                             .instance = mesh->truststores[i]->name,
                                                             .not_after = expires}));
    }
    return OK;
}

static err_t series_write_certs(const struct ca *ca, const struct series_sidecars *sidecars,
                                struct registry *registry, struct buf *out)
{
    struct series_certs certs = {.before = out};
    err_t err;

    TRY(metrics_write_gauge(out, SERIES_BEFORE,
                            "When a certificate begins to be valid: of roots, issuers, the control "
                            "plane, administrators, and the leaf that each sidecar uses."));
    err = series_add_authorities(&certs, ca);
    if (err_is_ok(err))
        err = series_add_standing(&certs, ca);
    if (err_is_ok(err))
        err = series_add_leaves(&certs, sidecars);
    if (err_is_ok(err))
        err = series_add_brought(&certs, registry);
    if (err_is_ok(err))
        err = metrics_write_gauge(out, SERIES_AFTER, "When it expires.");
    if (err_is_ok(err))
        err = buf_add(out, buf_view(&certs.after).ptr, buf_size(&certs.after));
    buf_fini(&certs.after);
    return err;
}

static double series_version(const struct workload *workload)
{
    return (double)workload->xds.acked_version;
}

static double series_wanted(const struct workload *workload)
{
    return (double)workload->xds.wanted_version;
}

static double series_generation(const struct workload *workload)
{
    return workload->status != NULL ? (double)workload->status->generation : 0;
}

static double series_ahead(const struct workload *workload)
{
    return (double)workload->skew.ahead_ms / 1000;
}

static double series_error(const struct workload *workload)
{
    return (double)workload->skew.error_ms / 1000;
}

static const struct {
    const char *family;
    const char *help;
    double (*value)(const struct workload *workload);
} series_table[] = {
    {"mortise_control_sidecar_version", "Version that the sidecar has acknowledged.",
     series_version},
    {"mortise_control_sidecar_wanted_version", "Version that it ought to have.", series_wanted},
    {"mortise_control_sidecar_generation", "Generation that it has in force, as it says.",
     series_generation},
    {"mortise_control_sidecar_clock_ahead_seconds", "How far its clock is ahead of ours.",
     series_ahead},
    {"mortise_control_sidecar_clock_error_seconds",
     "How far that may be from the truth; 0: never measured.", series_error},
};

static err_t series_write_sidecars(const struct series_sidecars *sidecars, struct buf *out)
{
    static const char *const none[] = {NULL};

    for (size_t i = 0; i < ARRAY_LEN(series_table); i++) {
        TRY(metrics_write_gauge(out, series_table[i].family, series_table[i].help));
        for (size_t j = 0; j < sidecars->num; j++) {
            const struct workload *workload = sidecars->items[j];
            const char *const labels[] = {"subsystem", workload->subsystem, "instance",
                                          workload->instance, NULL};

            TRY(metrics_write_value(out, series_table[i].family, labels,
                                    series_table[i].value(workload)));
        }
    }
    TRY(metrics_write_gauge(out, "mortise_control_sidecars_unlisted",
                            "Sidecars that are too many for these families."));
    return metrics_write_value(out, "mortise_control_sidecars_unlisted", none,
                               (double)sidecars->unlisted);
}

err_t series_write(const struct ca *ca, struct registry *registry, struct buf *out)
{
    struct series_sidecars sidecars = {.num = 0};

    series_choose(registry, &sidecars);
    TRY(series_write_certs(ca, &sidecars, registry, out));
    return series_write_sidecars(&sidecars, out);
}
