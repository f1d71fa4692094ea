#include "control/mesh_crls.h"

#include <stdio.h>
#include <string.h>

#include "certs/cert.h"
#include "certs/crl_set.h"
#include "lib/base/mem.h"

struct mesh_crls {
    const Mortise__V1__Mesh *current;
    const struct bundle *cas;
    int64_t now_s;
    struct faults *faults;
    bool covered[BUNDLE_CERTS_MAX]; /* cas->certs[i] has a list */
    char path[MESH_NAME_MAX + 32];  /* of the text in hand */
};

static bool mesh_crls_is_known(const struct mesh_crls *check,
                               const Mortise__V1__RevocationList *list)
{
    for (size_t i = 0; i < check->current->n_crls; i++) {
        const Mortise__V1__RevocationList *known = check->current->crls[i];

        if (strcmp(known->name, list->name) == 0 && strcmp(known->pem, list->pem) == 0)
            return true;
    }
    return false;
}

/* Whose list it is; false: of nobody here. */
static bool mesh_crls_cover(struct mesh_crls *check, const struct crl *crl)
{
    bool known = false;

    for (size_t i = 0; i < check->cas->num; i++) {
        if (!crl_set_names(crl, check->cas->certs[i]))
            continue;
        known = true;
        check->covered[i] = true;
    }
    return known;
}

static void mesh_crls_check_one(struct mesh_crls *check, const struct crl *crl)
{
    if (!mesh_crls_cover(check, crl))
        faults_add(check->faults, check->path,
                   "%s: \"%s\", which is no CA of this mesh; they are in mortisectl get crl",
                   err_text(E_CRL_ISSUER), crl->issuer);
    if (check->now_s >= crl->next_update)
        faults_add(check->faults, check->path, "%s %lld s ago: \"%s\"", err_text(E_CRL_STALE),
                   (long long)(check->now_s - crl->next_update), crl->issuer);
}

static void mesh_crls_check_text(struct mesh_crls *check, const char *pem, bool known)
{
    struct bytes text = bytes_of_str(pem);
    struct crl_set *set = NULL;
    size_t at;
    err_t err = crl_set_of(&text, 1, check->cas, check->now_s, NULL, &set, &at);

    if (!err_is_ok(err)) {
        if (!known)
            faults_add(check->faults, check->path, "%s (%s)", err_text(err.code),
                       err_name(err.code));
        return;
    }
    for (size_t i = 0; i < set->num; i++) {
        if (known)
            (void)mesh_crls_cover(check, set->lists[i]);
        else
            mesh_crls_check_one(check, set->lists[i]);
    }
    crl_set_unref(set);
}

static void mesh_crls_check_all(struct mesh_crls *check, const Mortise__V1__Mesh *mesh,
                                const struct mesh_origin *origin)
{
    size_t total = 0;

    for (size_t i = 0; i < mesh->n_crls; i++) {
        const Mortise__V1__RevocationList *list = mesh->crls[i];
        size_t at = origin != NULL ? origin->index[MESH_CRLS][i] : i;

        total += strlen(list->pem);
        if (at != MESH_KEPT)
            (void)snprintf(check->path, sizeof(check->path), "crls[%zu].pem", at);
        else
            (void)snprintf(check->path, sizeof(check->path), "crls[%.*s].pem", MESH_NAME_MAX,
                           list->name);
        mesh_crls_check_text(check, list->pem, mesh_crls_is_known(check, list));
    }
    if (total > MESH_CRLS_BYTES_MAX)
        faults_add(check->faults, "crls", "%zu bytes are too many: at most %d together", total,
                   MESH_CRLS_BYTES_MAX);
}

/* A root whose key is elsewhere has no list but an operator's; without one nobody would be let in.
 */
static void mesh_crls_check_roots(struct mesh_crls *check, const struct ca *ca)
{
    struct ca_authority held[CA_AUTHORITIES_MAX];
    size_t num_held = ca_authorities(ca, held);

    for (size_t i = 0; i < check->cas->num; i++) {
        X509 *cert = check->cas->certs[i];
        CLEANUP(mem_freep) char *name = NULL;
        bool needed = !check->covered[i];

        for (size_t j = 0; j < num_held; j++)
            needed = needed && X509_cmp(cert, held[j].it->issuer.cert) != 0;
        if (!needed)
            continue;
        name = cert_issuer_cn(cert); /* a root's is its own */
        faults_add(check->faults, "crls",
                   "of \"CN=%s\" there is no list, and its key is not here: every handshake would "
                   "be refused (crl_missing)",
                   name);
    }
}

/* All that may sign certificates in this mesh. */
static err_t mesh_crls_cas(const struct ca *ca, struct bundle **out)
{
    struct ca_authority held[CA_AUTHORITIES_MAX];
    struct bytes ders[2 * CA_AUTHORITIES_MAX];
    size_t num_held = ca_authorities(ca, held), num_roots, num = 0;
    const struct bytes *roots = ca_roots(ca, &num_roots);

    for (size_t i = 0; i < num_held; i++)
        ders[num++] = authority_der(held[i].it);
    for (size_t i = 0; i < num_roots && num < ARRAY_LEN(ders); i++)
        ders[num++] = roots[i];
    return bundle_of_der(ders, num, NULL, out);
}

err_t mesh_crls_check(const Mortise__V1__Mesh *mesh, const Mortise__V1__Mesh *current,
                      const struct mesh_origin *origin, const struct ca *ca, int64_t now_s,
                      struct faults *faults)
{
    CLEANUP(bundle_unrefp) struct bundle *cas = NULL;
    struct mesh_crls check = {.current = current, .now_s = now_s, .faults = faults};
    size_t before = faults->total;

    if (mesh->n_crls == 0)
        return OK;
    TRY(mesh_crls_cas(ca, &cas));
    check.cas = cas;
    mesh_crls_check_all(&check, mesh, origin);
    if (faults->total == before)
        mesh_crls_check_roots(&check, ca);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}
