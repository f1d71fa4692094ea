#include "control/mesh_own.h"

#include <stdio.h>
#include <string.h>

#include "certs/boring.h"
#include "certs/bundle.h"
#include "certs/cert.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

/* One whose key is elsewhere, too. */
static bool mesh_own_is_root(const struct ca *ca, const EVP_PKEY *key)
{
    const struct bundle *roots = ca_bundle(ca);

    for (size_t i = 0; roots != NULL && i < roots->num; i++) {
        CLEANUP(boring_key_freep) EVP_PKEY *own = X509_get_pubkey(roots->certs[i]);

        if (own != NULL && EVP_PKEY_cmp(own, key) == 1)
            return true;
    }
    return false;
}

static bool mesh_own_has(const struct ca *ca, const struct pem_block *block)
{
    CLEANUP(boring_x509_freep) X509 *cert = NULL;
    CLEANUP(boring_key_freep) EVP_PKEY *key = NULL;
    uint8_t sha256[32];
    char hex[2 * sizeof(sha256) + 1];

    if (!pem_is(block, "CERTIFICATE") ||
        !err_is_ok(cert_parse_bytes(bytes_of(block->der, block->der_len), &cert)))
        return false; /* told elsewhere */
    key = X509_get_pubkey(cert);
    if (key == NULL || !err_is_ok(key_spki_sha256(key, sha256)))
        return false;
    bytes_to_hex(bytes_of(sha256, sizeof(sha256)), hex);
    return ca_has_key(ca, hex) || mesh_own_is_root(ca, key);
}

static void mesh_own_check_text(const struct ca *ca, const char *text, const char *path,
                                struct faults *faults)
{
    CLEANUP(pem_fini) struct pem pem = {0};
    size_t number = 0;

    if (!err_is_ok(pem_parse_within(bytes_of_str(text), MESH_TRUST_BYTES_MAX, &pem)))
        return;
    for (size_t i = 0; i < pem.num; i++) {
        number += pem_is(&pem.blocks[i], "CERTIFICATE");
        if (mesh_own_has(ca, &pem.blocks[i]))
            faults_add(faults, path,
                       "certificate %zu is a CA of this mesh: take it out and say mesh_roots: "
                       "true, which is all of them, through a rotation too",
                       number);
    }
}

static bool mesh_own_is_known(const Mortise__V1__Mesh *current,
                              const Mortise__V1__MeshTruststore *store)
{
    for (size_t i = 0; i < current->n_truststores; i++) {
        if (strcmp(current->truststores[i]->name, store->name) == 0)
            return pb_equal(&current->truststores[i]->base, &store->base);
    }
    return false;
}

err_t mesh_own_check(const Mortise__V1__Mesh *mesh, const Mortise__V1__Mesh *current,
                     const struct mesh_origin *origin, const struct ca *ca, struct faults *faults)
{
    size_t before = faults->total;

    for (size_t i = 0; i < mesh->n_truststores; i++) {
        const Mortise__V1__MeshTruststore *store = mesh->truststores[i];
        size_t at = origin != NULL ? origin->index[MESH_TRUSTSTORES][i] : i;

        if (mesh_own_is_known(current, store))
            continue;
        for (size_t j = 0; j < store->n_pem; j++) {
            CLEANUP(mem_freep)
            char *path = at != MESH_KEPT ? mem_printf("truststores[%zu].pem[%zu]", at, j)
                                         : mem_printf("truststores[%.*s].pem[%zu]", MESH_NAME_MAX,
                                                      store->name, j);

            mesh_own_check_text(ca, store->pem[j], path, faults);
        }
    }
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}
