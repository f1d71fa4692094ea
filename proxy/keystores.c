#include "proxy/keystores.h"

#include <string.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

void keystores_fini(struct keystores *keystores)
{
    for (size_t i = 0; i < keystores->num; i++)
        svid_unref(keystores->items[i]);
    mem_free(keystores->items);
    *keystores = (struct keystores){.num = 0};
}

/* A moment at which all of the chain is valid, if there is one. */
static int64_t keystores_moment(const struct pem *pem)
{
    int64_t latest = 0;

    for (size_t i = 0; i < pem->num; i++) {
        CLEANUP(boring_x509_freep) X509 *cert = NULL;
        int64_t not_before, not_after;

        if (pem_is(&pem->blocks[i], "CERTIFICATE") &&
            err_is_ok(
                cert_parse_bytes(bytes_of(pem->blocks[i].der, pem->blocks[i].der_len), &cert)) &&
            err_is_ok(cert_times(cert, &not_before, &not_after)) && not_before > latest)
            latest = not_before;
    }
    return latest;
}

err_t keystores_load(struct bytes chain_pem, struct bytes key_pem, struct svid **out)
{
    CLEANUP(pem_fini) struct pem pem = {0};

    TRY(pem_parse(chain_pem, &pem));
    return svid_of_pem(chain_pem, key_pem, NULL, keystores_moment(&pem), out);
}

static const Mortise__V1__KeystoreKey *keystores_find(Mortise__V1__KeystoreKey *const *keys,
                                                      size_t num, const char *sha256)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(keys[i]->key_sha256, sha256) == 0)
            return keys[i];
    }
    return NULL;
}

static err_t keystores_make(const Mortise__V1__SidecarKeystore *msg,
                            const Mortise__V1__KeystoreKey *key, struct svid **out)
{
    CLEANUP(boring_key_freep) EVP_PKEY *parsed = NULL;
    CLEANUP(buf_wipe_fini) struct buf pem = {.data = NULL};

    TRY(key_from_der(bytes_of(key->key.data, key->key.len), &parsed));
    TRY(key_write_pem(parsed, &pem));
    return keystores_load(bytes_of_str(msg->chain_pem), buf_view(&pem), out);
}

static void keystores_add(const Mortise__V1__SidecarKeystore *msg,
                          const Mortise__V1__KeystoreKey *key, size_t index, struct faults *faults,
                          struct svid **out)
{
    struct fault_path path = {.len = 0};
    err_t err;

    (void)fault_path_field(&path, "keystores");
    (void)fault_path_index(&path, index);
    if (msg->cert_file[0] != '\0' || msg->key_file[0] != '\0') {
        (void)fault_path_field(&path, "cert_file");
        faults_add(faults, path.text, "is for static mode only");
        return;
    }
    if (key == NULL) {
        (void)fault_path_field(&path, "key_sha256");
        faults_add(faults, path.text, "the key of \"%s\" did not come", msg->name);
        return;
    }
    err = keystores_make(msg, key, out);
    if (!err_is_ok(err))
        faults_add(faults, path.text, "\"%s\": %s (%s)", msg->name, err_text(err.code),
                   err_name(err.code));
}

err_t keystores_of(const Mortise__V1__SidecarConfig *config, Mortise__V1__KeystoreKey *const *keys,
                   size_t num_keys, struct faults *faults, struct keystores *out)
{
    size_t before = faults->total;

    *out = (struct keystores){.num = 0};
    if (config->n_keystores > KEYSTORES_MAX) {
        faults_add(faults, "keystores", "has %zu members; at most %d", config->n_keystores,
                   KEYSTORES_MAX);
        return FAIL(CONFIG_INVALID, 1);
    }
    out->num = config->n_keystores;
    out->items = mem_array(out->num, sizeof(*out->items));
    for (size_t i = 0; i < out->num; i++) {
        const Mortise__V1__SidecarKeystore *msg = config->keystores[i];

        keystores_add(msg, keystores_find(keys, num_keys, msg->key_sha256), i, faults,
                      &out->items[i]);
    }
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

Mortise__V1__KeystoreKey **keystores_keys(const struct keystores *keystores,
                                          const Mortise__V1__SidecarConfig *config)
{
    Mortise__V1__KeystoreKey **keys = mem_array(keystores->num, sizeof(*keys));

    for (size_t i = 0; i < keystores->num; i++) {
        Mortise__V1__KeystoreKey key = MORTISE__V1__KEYSTORE_KEY__INIT;
        struct buf der = {.data = NULL};

        CHECK(err_is_ok(key_der(keystores->items[i]->key, &der)));
        key.key_sha256 = mem_strdup(config->keystores[i]->key_sha256);
        key.key = (ProtobufCBinaryData){.data = mem_dup(buf_view(&der).ptr, buf_view(&der).len),
                                        .len = buf_view(&der).len};
        keys[i] = mem_dup(&key, sizeof(key));
        buf_wipe_fini(&der);
    }
    return keys;
}

void keystores_keys_free(Mortise__V1__KeystoreKey **keys, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        mem_wipe(keys[i]->key.data, keys[i]->key.len);
        mem_free(keys[i]->key.data);
        mem_free(keys[i]->key_sha256);
        mem_free(keys[i]);
    }
    mem_free(keys);
}
