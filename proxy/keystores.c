#include "proxy/keystores.h"

#include <string.h>

#include <openssl/sha.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proxy/disk_keystore.h"

void keystores_fini(struct keystores *keystores)
{
    for (size_t i = 0; i < keystores->num; i++) {
        svid_unref(keystores->items[i]);
        mem_free(keystores->wrong[i]);
    }
    mem_free(keystores->items);
    mem_free(keystores->wrong);
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

/* ---- files ---- */

static bool keystores_same(const struct svid *a, const struct svid *b)
{
    if (a->num_chain != b->num_chain)
        return false;
    for (size_t i = 0; i < a->num_chain; i++) {
        if (CRYPTO_BUFFER_len(a->chain[i]) != CRYPTO_BUFFER_len(b->chain[i]) ||
            memcmp(CRYPTO_BUFFER_data(a->chain[i]), CRYPTO_BUFFER_data(b->chain[i]),
                   CRYPTO_BUFFER_len(a->chain[i])) != 0)
            return false;
    }
    return true;
}

/* What is in force of that folder; NULL: nothing. Borrowed. */
static struct svid *keystores_former(const struct keystores_source *source, const char *folder)
{
    for (size_t i = 0; source->config != NULL && i < source->former->num; i++) {
        if (strcmp(source->config->keystores[i]->folder, folder) == 0)
            return source->former->items[i];
    }
    return NULL;
}

static char *keystores_why(const struct faults *faults)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    err_t err = OK;

    for (size_t i = 0; i < faults->num && err_is_ok(err); i++)
        err = buf_printf(&text, "%s%s", i > 0 ? "; " : "", faults->items[i].message);
    CHECK(err_is_ok(err));
    return buf_take_str(&text);
}

static void keystores_add_files(const Mortise__V1__SidecarKeystore *msg,
                                const struct keystores_source *source, const char *path,
                                struct faults *faults, struct svid **out, char **out_wrong)
{
    CLEANUP(faults_fini) struct faults told = {.num = 0};
    struct svid *former = keystores_former(source, msg->folder);
    err_t err;

    if (source->dir == NULL) {
        faults_add(faults, path,
                   "\"%s\" lies on this sidecar's disk, and it reads none from there: start it "
                   "with --keystore-dir, the folder that \"%.64s\" is in",
                   msg->name, msg->folder);
        return;
    }
    err = disk_keystore_read(source->dir, msg->folder, source->now_s, path, &told, out);
    if (err_is_ok(err) && (former == NULL || !keystores_same(*out, former)))
        return;
    if (former != NULL) {
        if (*out != NULL)
            svid_unref(*out);
        *out = svid_ref(former);
        if (!err_is_ok(err))
            *out_wrong = keystores_why(&told);
        return;
    }
    for (size_t i = 0; i < told.num; i++)
        faults_add(faults, told.items[i].path, "%s", told.items[i].message);
}

bool keystores_has_files(const Mortise__V1__SidecarConfig *config)
{
    for (size_t i = 0; i < config->n_keystores; i++) {
        if (config->keystores[i]->folder[0] != '\0')
            return true;
    }
    return false;
}

void keystores_watch(const Mortise__V1__SidecarConfig *config, const char *dir,
                     struct watch_files *files)
{
    for (size_t i = 0; dir != NULL && i < config->n_keystores; i++)
        disk_keystore_watch(dir, config->keystores[i]->folder, files);
}

static void keystores_describe(const struct svid *svid, Mortise__V1__KeystoreStatus *out)
{
    CLEANUP(boring_x509_freep) X509 *leaf = NULL;
    CLEANUP(cert_names_fini) struct cert_names names = {0};
    uint8_t sha256[SHA256_DIGEST_LENGTH];
    char hex[2 * sizeof(sha256) + 1];
    char *subject = NULL;

    if (err_is_ok(cert_parse(svid->chain[0], &leaf))) {
        subject = cert_subject(leaf);
        if (err_is_ok(cert_names_get(leaf, &names)) && names.dns[0] != NULL)
            out->dns_name = mem_strdup(names.dns[0]);
    }
    SHA256(CRYPTO_BUFFER_data(svid->chain[0]), CRYPTO_BUFFER_len(svid->chain[0]), sha256);
    bytes_to_hex(bytes_of(sha256, sizeof(sha256)), hex);
    out->subject = subject != NULL ? subject : mem_strdup("");
    out->sha256 = mem_strdup(hex);
    out->not_after = svid->not_after;
}

Mortise__V1__KeystoreStatus **keystores_status(const struct keystores *keystores,
                                               const Mortise__V1__SidecarConfig *config,
                                               size_t *out_num)
{
    Mortise__V1__KeystoreStatus **list = mem_array(keystores->num, sizeof(*list));

    *out_num = 0;
    for (size_t i = 0; i < keystores->num; i++) {
        Mortise__V1__KeystoreStatus status = MORTISE__V1__KEYSTORE_STATUS__INIT;

        if (config->keystores[i]->folder[0] == '\0')
            continue;
        status.name = mem_strdup(config->keystores[i]->name);
        if (keystores->wrong[i] != NULL)
            status.refused = mem_strdup(keystores->wrong[i]);
        keystores_describe(keystores->items[i], &status);
        list[(*out_num)++] = mem_dup(&status, sizeof(status));
    }
    return list;
}

void keystores_status_free(Mortise__V1__KeystoreStatus **list, size_t num)
{
    for (size_t i = 0; i < num; i++)
        pb_free(&list[i]->base);
    mem_free(list);
}

/* ---- what was sent ---- */

/* The same chain with its key, as it is in force; NULL: it is not. Borrowed. */
static struct svid *keystores_known(const struct keystores_source *source,
                                    const Mortise__V1__SidecarKeystore *msg)
{
    for (size_t i = 0; source->config != NULL && i < source->former->num; i++) {
        const Mortise__V1__SidecarKeystore *known = source->config->keystores[i];

        if (known->folder[0] == '\0' && strcmp(known->key_sha256, msg->key_sha256) == 0 &&
            strcmp(known->chain_pem, msg->chain_pem) == 0)
            return source->former->items[i];
    }
    return NULL;
}

static void keystores_add(const Mortise__V1__SidecarKeystore *msg,
                          const struct keystores_source *source, size_t index,
                          struct faults *faults, struct keystores *out)
{
    const Mortise__V1__KeystoreKey *key =
        keystores_find(source->keys, source->num_keys, msg->key_sha256);
    struct fault_path path = {.len = 0};
    struct svid *former;
    err_t err;

    (void)fault_path_field(&path, "keystores");
    (void)fault_path_index(&path, index);
    if (msg->cert_file[0] != '\0' || msg->key_file[0] != '\0') {
        (void)fault_path_field(&path, "cert_file");
        faults_add(faults, path.text, "is for static mode only");
        return;
    }
    if (msg->folder[0] != '\0') {
        (void)fault_path_field(&path, "folder");
        keystores_add_files(msg, source, path.text, faults, &out->items[index], &out->wrong[index]);
        return;
    }
    former = key == NULL ? keystores_known(source, msg) : NULL;
    if (former != NULL) {
        out->items[index] = svid_ref(former);
        return;
    }
    if (key == NULL) {
        (void)fault_path_field(&path, "key_sha256");
        faults_add(faults, path.text, "the key of \"%s\" did not come", msg->name);
        return;
    }
    err = keystores_make(msg, key, &out->items[index]);
    if (!err_is_ok(err))
        faults_add(faults, path.text, "\"%s\": %s (%s)", msg->name, err_text(err.code),
                   err_name(err.code));
}

err_t keystores_of(const Mortise__V1__SidecarConfig *config, const struct keystores_source *source,
                   struct faults *faults, struct keystores *out)
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
    out->wrong = mem_array(out->num, sizeof(*out->wrong));
    for (size_t i = 0; i < out->num; i++)
        keystores_add(config->keystores[i], source, i, faults, out);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

Mortise__V1__KeystoreKey **keystores_keys(const struct keystores *keystores,
                                          const Mortise__V1__SidecarConfig *config, size_t *out_num)
{
    Mortise__V1__KeystoreKey **keys = mem_array(keystores->num, sizeof(*keys));

    *out_num = 0;
    for (size_t i = 0; i < keystores->num; i++) {
        Mortise__V1__KeystoreKey key = MORTISE__V1__KEYSTORE_KEY__INIT;
        struct buf der = {.data = NULL};

        if (config->keystores[i]->folder[0] != '\0')
            continue;
        CHECK(err_is_ok(key_der(keystores->items[i]->key, &der)));
        key.key_sha256 = mem_strdup(config->keystores[i]->key_sha256);
        key.key = (ProtobufCBinaryData){.data = mem_dup(buf_view(&der).ptr, buf_view(&der).len),
                                        .len = buf_view(&der).len};
        keys[(*out_num)++] = mem_dup(&key, sizeof(key));
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
