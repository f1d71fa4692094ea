#include "control/mesh_trust.h"

#include <stdio.h>
#include <string.h>

#include "certs/cert.h"
#include "certs/crl_set.h"
#include "certs/key.h"
#include "certs/tls_profile.h"
#include "certs/uploaded.h"
#include "certs/verify.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

struct mesh_trust {
    const Mortise__V1__Mesh *mesh;
    const Mortise__V1__Mesh *current;
    int64_t now_s;
    struct faults *faults;
    struct fault_path path;
};

static void mesh_trust_at(struct mesh_trust *check, const struct mesh_origin *origin, int kind,
                          size_t index, const char *name)
{
    size_t at = origin != NULL ? origin->index[kind][index] : index;
    char text[MESH_NAME_MAX + 32];

    fault_path_pop(&check->path, 0);
    if (at != MESH_KEPT) {
        (void)fault_path_field(&check->path, mesh_kinds[kind].many);
        (void)fault_path_index(&check->path, at);
        return;
    }
    (void)snprintf(text, sizeof(text), "%s[%.*s]", mesh_kinds[kind].many, MESH_NAME_MAX, name);
    (void)fault_path_field(&check->path, text);
}

/* Whether the mesh in force has it just so. */
static bool mesh_trust_is_known(const struct mesh_trust *check, int kind,
                                const ProtobufCMessage *item)
{
    const struct mesh_kind *what = &mesh_kinds[kind];

    for (size_t i = 0; i < mesh_num(check->current, what); i++) {
        const ProtobufCMessage *known = mesh_item(check->current, what, i);

        if (strcmp(mesh_name(known), mesh_name(item)) == 0)
            return pb_equal(known, item);
    }
    return false;
}

static char *mesh_trust_join(const Mortise__V1__MeshTruststore *store)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    err_t err = OK;

    for (size_t i = 0; i < store->n_pem && err_is_ok(err); i++)
        err = buf_printf(&text, "%s\n", store->pem[i]);
    CHECK(err_is_ok(err));
    return buf_take_str(&text);
}

/* A list of nobody in the truststore would never be asked: told, as it is not what was meant. */
static void mesh_trust_check_crl(struct mesh_trust *check, const char *pem,
                                 const struct bundle *bundle)
{
    struct bytes text = bytes_of_str(pem);
    struct crl_set *set = NULL;
    size_t at;
    err_t err = crl_set_of(&text, 1, bundle, check->now_s, NULL, &set, &at);

    if (!err_is_ok(err)) {
        faults_add(check->faults, check->path.text, "%s (%s)", err_text(err.code),
                   err_name(err.code));
        return;
    }
    for (size_t i = 0; i < set->num; i++) {
        if (check->now_s >= set->lists[i]->next_update)
            faults_add(
                check->faults, check->path.text, "%s %lld s ago: \"%s\"", err_text(E_CRL_STALE),
                (long long)(check->now_s - set->lists[i]->next_update), set->lists[i]->issuer);
    }
    crl_set_unref(set);
}

static void mesh_trust_check_crls(struct mesh_trust *check,
                                  const Mortise__V1__MeshTruststore *store)
{
    CLEANUP(bundle_unrefp) struct bundle *bundle = NULL;
    CLEANUP(mem_freep) char *pem = mesh_trust_join(store);

    if (store->n_crl_pem == 0 || !err_is_ok(bundle_of_both(NULL, bytes_of_str(pem), &bundle)))
        return;
    for (size_t i = 0; i < store->n_crl_pem; i++) {
        size_t mark = fault_path_field(&check->path, "crl_pem");

        (void)fault_path_index(&check->path, i);
        mesh_trust_check_crl(check, store->crl_pem[i], bundle);
        fault_path_pop(&check->path, mark);
    }
}

static void mesh_trust_check_store(struct mesh_trust *check,
                                   const Mortise__V1__MeshTruststore *store)
{
    size_t before = check->faults->total;
    CLEANUP(mem_freep) char *pem = NULL;
    struct bundle *bundle = NULL;
    err_t err;

    for (size_t i = 0; i < store->n_pem; i++) {
        size_t mark = fault_path_field(&check->path, "pem");

        (void)fault_path_index(&check->path, i);
        err = uploaded_cas(bytes_of_str(store->pem[i]), check->now_s, &check->path, check->faults);
        (void)err; /* in the list */
        fault_path_pop(&check->path, mark);
    }
    if (store->n_pem == 0 || check->faults->total != before)
        return;
    /* What sidecars would make of them. */
    pem = mesh_trust_join(store);
    err = bundle_of_both(NULL, bytes_of_str(pem), &bundle);
    if (!err_is_ok(err)) {
        size_t mark = fault_path_field(&check->path, "pem");

        faults_add(check->faults, check->path.text, "%s: at most %d certificates (%s)",
                   err_text(err.code), BUNDLE_CERTS_MAX, err_name(err.code));
        fault_path_pop(&check->path, mark);
        return;
    }
    bundle_unref(bundle);
    mesh_trust_check_crls(check, store);
}

/* ------------------------------------------------------------------- keystores */

/* The key of the first certificate; NULL: it is none, told. */
static EVP_PKEY *mesh_trust_key(const struct uploaded *chain)
{
    X509 *leaf = NULL;
    EVP_PKEY *key = NULL;

    if (chain->num > 0 && err_is_ok(cert_parse(chain->certs[0], &leaf)))
        key = X509_get_pubkey(leaf);
    X509_free(leaf);
    return key;
}

static void mesh_trust_check_keystore(struct mesh_trust *check,
                                      const Mortise__V1__MeshKeystore *keystore)
{
    struct uploaded chain = {.num = 0};
    size_t mark = fault_path_field(&check->path, "chain_pem");
    err_t err = uploaded_chain(bytes_of_str(keystore->chain_pem), check->now_s, &check->path,
                               check->faults, &chain);
    EVP_PKEY *key = mesh_trust_key(&chain);
    uint8_t sha256[32];
    char hex[2 * sizeof(sha256) + 1] = "";

    fault_path_pop(&check->path, mark);
    if (err_is_ok(err) && key != NULL && err_is_ok(key_spki_sha256(key, sha256)))
        bytes_to_hex(bytes_of(sha256, sizeof(sha256)), hex);
    if (err_is_ok(err) && strcmp(hex, keystore->key_sha256) != 0) {
        (void)fault_path_field(&check->path, "key_sha256");
        faults_add(check->faults, check->path.text,
                   "is not of the key of the first certificate in chain_pem, which is %s", hex);
        fault_path_pop(&check->path, mark);
    }
    EVP_PKEY_free(key);
    uploaded_fini(&chain);
}

/* ----------------------------------------------------------------------- links */

/* What one end of a link shows, and the profile of the other end, which judges it. */
struct mesh_shown {
    const Mortise__V1__TlsProfile *by;
    const Mortise__V1__TlsProfile *to;
    const Mortise__V1__MeshKeystore *keystore; /* NULL: issued by the mesh */
    enum verify_role role;
};

static err_t mesh_trust_verify(const struct mesh_trust *check, const struct mesh_shown *shown,
                               const struct uploaded *chain, const struct bundle *bundle)
{
    STACK_OF(CRYPTO_BUFFER) *list = sk_CRYPTO_BUFFER_new_null();
    const struct peer_match names = {
        .dns_names = (const char *const *)shown->to->peer_names,
        .num_dns_names = shown->to->n_peer_names,
    };
    struct peer *peer = NULL;
    err_t err = OK;

    for (size_t i = 0; i < chain->num && err_is_ok(err); i++) {
        if (!sk_CRYPTO_BUFFER_push(list, chain->certs[i]))
            err = FAIL(NO_MEMORY, 0);
    }
    if (err_is_ok(err))
        err = verify_chain(list, bundle, shown->role, check->now_s, NULL, &peer);
    if (err_is_ok(err) && !peer_matches(peer, &names))
        err = FAIL(PEER_IDENTITY, 0);
    peer_unref(peer);
    sk_CRYPTO_BUFFER_free(list);
    return err;
}

/* Whether a profile can be used with a key of that kind; one that does not compile is told
 * elsewhere. */
static bool mesh_trust_serves(const Mortise__V1__TlsProfile *profile, const EVP_PKEY *key)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct fault_path path = {.len = 0};
    struct tls_profile *compiled = NULL;
    bool serves;

    if (!err_is_ok(tls_profile_compile(profile, &path, &faults, &compiled)))
        return true;
    serves = tls_profile_serves(compiled, key);
    tls_profile_unref(compiled);
    return serves;
}

/* An uploaded chain under the truststore of the other end. What has expired is told by itself. */
static void mesh_trust_check_chain(struct mesh_trust *check, const struct mesh_shown *shown,
                                   const Mortise__V1__MeshTruststore *store)
{
    CLEANUP(bundle_unrefp) struct bundle *bundle = NULL;
    CLEANUP(faults_fini) struct faults told = {.num = 0};
    CLEANUP(mem_freep) char *pem = mesh_trust_join(store);
    struct fault_path path = {.len = 0};
    struct uploaded chain = {.num = 0};
    EVP_PKEY *key;
    err_t err = uploaded_chain(bytes_of_str(shown->keystore->chain_pem), 0, &path, &told, &chain);

    if (err_is_ok(err) && err_is_ok(bundle_of_both(NULL, bytes_of_str(pem), &bundle))) {
        err = mesh_trust_verify(check, shown, &chain, bundle);
        if (err_is(err, E_PEER_IDENTITY))
            faults_add(check->faults, check->path.text,
                       "the certificate of keystore \"%s\" has none of the names that profile "
                       "\"%s\" expects (peer_names)",
                       shown->keystore->name, shown->to->name);
        else if (!err_is_ok(err) && !err_is(err, E_CERT_EXPIRED) &&
                 !err_is(err, E_CERT_NOT_YET_VALID))
            faults_add(check->faults, check->path.text,
                       "keystore \"%s\" would be refused by profile \"%s\" (truststore \"%s\"): "
                       "%s (%s)",
                       shown->keystore->name, shown->to->name, store->name, err_text(err.code),
                       err_name(err.code));
    }
    key = mesh_trust_key(&chain);
    if (key != NULL && (!mesh_trust_serves(shown->by, key) || !mesh_trust_serves(shown->to, key)))
        faults_add(check->faults, check->path.text,
                   "the key of keystore \"%s\" is of a kind that profiles \"%s\" and \"%s\" have "
                   "no suite or signature algorithm for",
                   shown->keystore->name, shown->by->name, shown->to->name);
    EVP_PKEY_free(key);
    uploaded_fini(&chain);
}

static void mesh_trust_check_shown(struct mesh_trust *check, const struct mesh_shown *shown,
                                   const char *field)
{
    const Mortise__V1__MeshTruststore *store = mesh_truststore(check->mesh, shown->to);
    size_t mark = fault_path_field(&check->path, field);

    if (shown->keystore != NULL && mesh_trusts_others(store)) {
        if (mesh_is_uploaded(shown->keystore)) /* what is on a sidecar's disk only that can tell */
            mesh_trust_check_chain(check, shown, store);
    } else if (shown->keystore != NULL) {
        faults_add(
            check->faults, check->path.text,
            "shows keystore \"%s\", which CAs of others vouch for; profile \"%s\" at the other "
            "end trusts the mesh's own alone: give it a truststore with them, and peer_names",
            shown->keystore->name, shown->to->name);
    } else if (!mesh_trusts_mesh(store) && shown->role == VERIFY_SERVER_CERT) {
        faults_add(check->faults, check->path.text,
                   "shows the certificate that the mesh issues, and truststore \"%s\" of profile "
                   "\"%s\" at the other end has not the mesh's CAs (mesh_roots)",
                   store->name, shown->to->name);
    }
    fault_path_pop(&check->path, mark);
}

/* Whether each end would let the other in. Who comes to a server from outside of the mesh shows
 * what nobody here knows. */
static void mesh_trust_check_link(struct mesh_trust *check, const Mortise__V1__Link *link)
{
    const Mortise__V1__TlsProfile *client = mesh_profile(check->mesh, mesh_client_profile(link));
    const Mortise__V1__TlsProfile *server = mesh_profile(check->mesh, mesh_server_profile(link));
    struct mesh_shown shown;

    if (client == NULL || server == NULL)
        return; /* told */
    shown = (struct mesh_shown){.by = server,
                                .to = client,
                                .keystore = mesh_keystore(check->mesh, server),
                                .role = VERIFY_SERVER_CERT};
    if (!client->insecure_skip_verify)
        mesh_trust_check_shown(check, &shown, "server_profile");
    shown = (struct mesh_shown){.by = client,
                                .to = server,
                                .keystore = mesh_keystore(check->mesh, client),
                                .role = VERIFY_CLIENT_CERT};
    if (server->client_auth != MORTISE__V1__TLS_PROFILE__CLIENT_AUTH__NONE)
        mesh_trust_check_shown(check, &shown, "client_profile");
}

static size_t mesh_trust_size(const Mortise__V1__MeshTruststore *store)
{
    size_t size = 0;

    for (size_t i = 0; i < store->n_pem; i++)
        size += strlen(store->pem[i]);
    for (size_t i = 0; i < store->n_crl_pem; i++)
        size += strlen(store->crl_pem[i]);
    return size;
}

err_t mesh_trust_check(const Mortise__V1__Mesh *mesh, const Mortise__V1__Mesh *current,
                       const struct mesh_origin *origin, int64_t now_s, struct faults *faults)
{
    struct mesh_trust check = {.mesh = mesh, .current = current, .now_s = now_s, .faults = faults};
    size_t before = faults->total, size = 0;

    for (size_t i = 0; i < mesh->n_truststores; i++) {
        const Mortise__V1__MeshTruststore *store = mesh->truststores[i];

        size += mesh_trust_size(store);
        mesh_trust_at(&check, origin, MESH_TRUSTSTORES, i, store->name);
        if (!mesh_trust_is_known(&check, MESH_TRUSTSTORES, &store->base))
            mesh_trust_check_store(&check, store);
    }
    for (size_t i = 0; i < mesh->n_keystores; i++) {
        const Mortise__V1__MeshKeystore *keystore = mesh->keystores[i];

        size += strlen(keystore->chain_pem);
        mesh_trust_at(&check, origin, MESH_KEYSTORES, i, keystore->name);
        if (mesh_is_uploaded(keystore) &&
            !mesh_trust_is_known(&check, MESH_KEYSTORES, &keystore->base))
            mesh_trust_check_keystore(&check, keystore);
    }
    for (size_t i = 0; i < mesh->n_links && faults->total == before; i++) {
        mesh_trust_at(&check, origin, MESH_LINKS, i, mesh->links[i]->name);
        mesh_trust_check_link(&check, mesh->links[i]);
    }
    if (size > MESH_TRUST_BYTES_MAX)
        faults_add(faults, "truststores",
                   "%zu bytes, with keystores, are too many: at most %zu together", size,
                   MESH_TRUST_BYTES_MAX);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

int64_t mesh_keystore_expires(const Mortise__V1__MeshKeystore *keystore)
{
    CLEANUP(faults_fini) struct faults told = {.num = 0};
    struct fault_path path = {.len = 0};
    struct uploaded chain = {.num = 0};
    int64_t first = 0;
    err_t err;

    if (!mesh_is_uploaded(keystore))
        return 0;
    err = uploaded_chain(bytes_of_str(keystore->chain_pem), 0, &path, &told, &chain);
    for (size_t i = 0; err_is_ok(err) && i < chain.num; i++) {
        int64_t not_before, not_after;
        X509 *cert = NULL;

        if (err_is_ok(cert_parse(chain.certs[i], &cert)) &&
            err_is_ok(cert_times(cert, &not_before, &not_after)) &&
            (first == 0 || not_after < first))
            first = not_after;
        X509_free(cert);
    }
    uploaded_fini(&chain);
    return first;
}

int64_t mesh_truststore_expires(const Mortise__V1__MeshTruststore *store)
{
    CLEANUP(bundle_unrefp) struct bundle *bundle = NULL;
    CLEANUP(mem_freep) char *pem = mesh_trust_join(store);

    if (!mesh_trusts_others(store) || !err_is_ok(bundle_of_both(NULL, bytes_of_str(pem), &bundle)))
        return 0;
    return bundle->not_after;
}
