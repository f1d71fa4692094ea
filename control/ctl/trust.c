#include "control/ctl/trust.h"

#include <stdio.h>
#include <string.h>

#include "certs/bundle.h"
#include "certs/cert.h"
#include "certs/uploaded.h"
#include "control/ctl/ctl.h"
#include "control/ctl/table.h"
#include "control/mesh.h"
#include "lib/base/buf.h"
#include "lib/base/mem.h"

/* The CAs of others in it; NULL: none, or such as this program does not know. */
static struct bundle *trust_bundle(const Mortise__V1__MeshTruststore *store)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    struct bundle *bundle = NULL;
    err_t err = OK;

    for (size_t i = 0; i < store->n_pem && err_is_ok(err); i++)
        err = buf_printf(&text, "%s\n", store->pem[i]);
    CHECK(err_is_ok(err));
    return err_is_ok(bundle_of_both(NULL, buf_view(&text), &bundle)) ? bundle : NULL;
}

/* Profiles that name it: "a,b". */
static void trust_add_users(struct table *table, const Mortise__V1__Mesh *mesh, bool keystore,
                            const char *store)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    CLEANUP(mem_freep) char *names = NULL;
    err_t err = OK;

    for (size_t i = 0; i < mesh->n_profiles && err_is_ok(err); i++) {
        if (strcmp(keystore ? mesh->profiles[i]->keystore : mesh->profiles[i]->truststore, store) ==
            0)
            err =
                buf_printf(&text, "%s%s", buf_size(&text) > 0 ? "," : "", mesh->profiles[i]->name);
    }
    CHECK(err_is_ok(err));
    names = buf_take_str(&text);
    table_add(table, names);
}

static void trust_add_store(struct table *table, int64_t now_s, const Mortise__V1__Mesh *mesh,
                            const Mortise__V1__MeshTruststore *store)
{
    struct bundle *bundle = trust_bundle(store);
    char text[TABLE_TIME_MAX] = "";

    table_add(table, store->name);
    table_add(table, store->mesh_roots ? "yes" : "no");
    table_addf(table, "%zu", bundle != NULL ? bundle->num : 0);
    if (bundle != NULL)
        table_time(bundle->not_after, now_s, text);
    table_add(table, text);
    table_addf(table, "%zu", store->n_crl_pem);
    trust_add_users(table, mesh, false, store->name);
    table_add(table, mesh_is_built_in(MESH_TRUSTSTORES, store->name) ? "yes" : "");
    bundle_unref(bundle);
}

static void trust_add_cert(struct table *table, int64_t now_s, const char *store,
                           const struct bundle *bundle, size_t at)
{
    CLEANUP(mem_freep) char *subject = cert_subject(bundle->certs[at]);
    char hex[2 * sizeof(bundle->sha256[at]) + 1];
    char text[TABLE_TIME_MAX] = "";
    int64_t not_before, not_after;

    table_add(table, store);
    table_add(table, subject);
    if (err_is_ok(cert_times(bundle->certs[at], &not_before, &not_after)))
        table_time(not_after, now_s, text);
    table_add(table, text);
    bytes_to_hex(bytes_of(bundle->sha256[at], sizeof(bundle->sha256[at])), hex);
    table_add(table, hex);
}

static void trust_add_certs(struct table *table, int64_t now_s,
                            const Mortise__V1__MeshTruststore *store)
{
    struct bundle *bundle = trust_bundle(store);

    if (store->mesh_roots) {
        table_add(table, store->name);
        table_add(table, "the mesh's own CAs (mortisectl roots)");
        table_add(table, "");
        table_add(table, "");
    }
    for (size_t i = 0; bundle != NULL && i < bundle->num; i++)
        trust_add_cert(table, now_s, store->name, bundle, i);
    bundle_unref(bundle);
}

const char *const trust_heads_truststores[] = {"NAME", "MESH ROOTS", "OTHER CAS", "FIRST EXPIRES",
                                               "CRLS", "USED BY",    "BUILT IN",  NULL};
const char *const trust_wide_truststores[] = {"NAME", "SUBJECT", "EXPIRES", "SHA256", NULL};

void trust_row_truststore(bool wide, int64_t now_s, const Mortise__V1__MeshTruststore *store,
                          const Mortise__V1__Mesh *mesh, struct table *table)
{
    if (wide)
        trust_add_certs(table, now_s, store);
    else
        trust_add_store(table, now_s, mesh, store);
}

/* ------------------------------------------------------------------- keystores */

static void trust_add_leaf(struct table *table, bool wide, int64_t now_s,
                           const struct uploaded *chain)
{
    CLEANUP(cert_names_fini) struct cert_names names = {0};
    CLEANUP(mem_freep) char *subject = NULL;
    char text[TABLE_TIME_MAX] = "";
    int64_t not_before, not_after;
    X509 *leaf = NULL;

    if (chain->num > 0 && err_is_ok(cert_parse(chain->certs[0], &leaf)) &&
        err_is_ok(cert_times(leaf, &not_before, &not_after)))
        table_time(not_after, now_s, text);
    if (leaf != NULL)
        subject = cert_subject(leaf);
    table_add(table, subject != NULL ? subject : "");
    table_add(table, leaf != NULL && err_is_ok(cert_names_get(leaf, &names)) && names.dns[0] != NULL
                         ? names.dns[0]
                         : "");
    table_add(table, text);
    if (wide)
        table_addf(table, "%zu", chain->num);
    X509_free(leaf);
}

/* What sidecars have on their disks is as they say: of several the first to expire is shown. */
static void trust_add_files(struct table *table, bool wide, int64_t now_s, const char *name,
                            const Mortise__V1__ListWorkloadsResponse *sidecars)
{
    const Mortise__V1__KeystoreStatus *first = NULL;
    char text[TABLE_TIME_MAX] = "";
    size_t num = 0, refused = 0;

    for (size_t i = 0; sidecars != NULL && i < sidecars->n_workloads; i++) {
        const Mortise__V1__SidecarStatus *status = sidecars->workloads[i]->status;

        for (size_t j = 0; status != NULL && j < status->n_keystores; j++) {
            const Mortise__V1__KeystoreStatus *said = status->keystores[j];

            if (strcmp(said->name, name) != 0)
                continue;
            num++;
            refused += said->refused[0] != '\0';
            if (first == NULL || said->not_after < first->not_after)
                first = said;
        }
    }
    if (first != NULL)
        table_time(first->not_after, now_s, text);
    if (refused > 0)
        table_addf(table, "files, refused by %zu of %zu", refused, num);
    else
        table_add(table, "files");
    table_add(table, first != NULL ? first->subject : "");
    table_add(table, first != NULL ? first->dns_name : "");
    table_add(table, text);
    if (wide)
        table_add(table, "");
}

const char *const trust_heads_keystores[] = {"NAME",    "KIND",    "SUBJECT",  "DNS NAME",
                                             "EXPIRES", "USED BY", "BUILT IN", NULL};
const char *const trust_wide_keystores[] = {"NAME",       "KIND",         "SUBJECT", "DNS NAME",
                                            "EXPIRES",    "CERTIFICATES", "USED BY", "BUILT IN",
                                            "KEY SHA256", "DESCRIPTION",  NULL};

void trust_row_keystore(bool wide, int64_t now_s, const Mortise__V1__MeshKeystore *keystore,
                        const Mortise__V1__Mesh *mesh,
                        const Mortise__V1__ListWorkloadsResponse *sidecars, struct table *table)
{
    struct fault_path path = {.len = 0};
    struct faults faults = {.num = 0};
    struct uploaded chain = {.num = 0};
    err_t err = OK;

    if (mesh_is_uploaded(keystore))
        err = uploaded_chain(bytes_of_str(keystore->chain_pem), 0, &path, &faults, &chain);
    (void)err; /* what can be read of it is shown */
    faults_fini(&faults);
    table_add(table, keystore->name);
    if (mesh_is_on_disk(keystore)) {
        trust_add_files(table, wide, now_s, keystore->name, sidecars);
    } else {
        table_add(table, mesh_is_uploaded(keystore) ? "uploaded" : "issued");
        trust_add_leaf(table, wide, now_s, &chain);
    }
    trust_add_users(table, mesh, true, keystore->name);
    table_add(table, mesh_is_built_in(MESH_KEYSTORES, keystore->name) ? "yes" : "");
    if (wide) {
        table_add(table, keystore->key_sha256);
        table_add(table, keystore->description);
    }
    uploaded_fini(&chain);
}

bool trust_print_pem(bool keystores, const Mortise__V1__Mesh *shown)
{
    bool all = true;

    for (size_t i = 0; keystores && i < shown->n_keystores; i++) {
        if (mesh_is_uploaded(shown->keystores[i])) {
            fputs(shown->keystores[i]->chain_pem, stdout);
            continue;
        }
        if (mesh_is_on_disk(shown->keystores[i])) {
            ctl_tell("keystore %s: files on its sidecars' disks, which do not come here",
                     shown->keystores[i]->name);
            all = false;
            continue;
        }
        ctl_tell("keystore %s: what the mesh issues; each sidecar has its own (mortisectl get "
                 "certificates; their roots: mortisectl roots)",
                 shown->keystores[i]->name);
        all = false;
    }
    for (size_t i = 0; !keystores && i < shown->n_truststores; i++) {
        if (shown->truststores[i]->mesh_roots)
            ctl_tell("truststore %s: the mesh's own CAs are in mortisectl roots",
                     shown->truststores[i]->name);
        for (size_t j = 0; j < shown->truststores[i]->n_pem; j++)
            fputs(shown->truststores[i]->pem[j], stdout);
    }
    return all;
}
