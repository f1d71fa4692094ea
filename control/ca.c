#include "control/ca.h"

#include <string.h>

#include <openssl/sha.h>

#include "certs/key.h"
#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

#define CA_ROOTS_MAX (2 + CA_ANCESTORS_MAX)

struct ca {
    struct vault *vault;
    const struct clock *clock;
    char *trust_domain;
    void (*on_issued)(void *arg, const char *reason);
    void *arg;
    struct ca_keys *keys;
    int64_t last_issued_s;
};

/* All that the store has of keys and roots, loaded as one. */
struct ca_keys {
    struct authority_pair active; /* signs */
    struct authority_pair other;  /* der NULL: there is none */
    Mortise__Control__Lineage *lineage;
    uint64_t lineage_version; /* STORE_ABSENT: no record yet */
    struct bundle *bundle;
    struct bundle *callers;
    struct bytes roots[2];
    size_t num_roots;
    char *roots_pem;
};

static void ca_keys_free(struct ca_keys *keys)
{
    if (keys == NULL)
        return;
    authority_pair_fini(&keys->active);
    authority_pair_fini(&keys->other);
    if (keys->lineage != NULL)
        pb_free(&keys->lineage->base);
    if (keys->bundle != NULL)
        bundle_unref(keys->bundle);
    if (keys->callers != NULL)
        bundle_unref(keys->callers);
    mem_free(keys->roots_pem);
    mem_free(keys);
}

err_t ca_create(struct vault *vault, struct vault_batch *batch, const char *trust_domain,
                int64_t now_s)
{
    struct authority_pair pair;
    err_t err;

    TRY(authority_make_pair(trust_domain, now_s, CA_ROOT_TTL_S, CA_ISSUER_TTL_S, &pair));
    err = authority_save(vault, batch, VAULT_ROOT, &pair.root, STORE_ABSENT);
    if (err_is_ok(err))
        err = authority_save(vault, batch, VAULT_ISSUER, &pair.issuer, STORE_ABSENT);
    authority_pair_fini(&pair);
    return err;
}

/* The issuer must be signed by the root: a record of another mesh's would otherwise go unnoticed
 * until the first handshake. */
static err_t ca_load_pair(struct vault *vault, const char *root_path, const char *issuer_path,
                          struct authority_pair *out)
{
    err_t err = authority_load(vault, root_path, &out->root);

    if (err_is_ok(err)) {
        err = authority_load(vault, issuer_path, &out->issuer);
        if (err_is(err, E_NOT_FOUND))
            err = FAIL(STORE_CORRUPT, 0); /* one without the other */
    }
    TRY(err);
    if (authority_pair_belongs(out))
        return OK;
    log_error("ca", "issuer_not_of_root", LOG_STR("path", issuer_path));
    return FAIL(STORE_CORRUPT, 0);
}

static err_t ca_load_lineage(struct vault *vault, struct ca_keys *keys)
{
    ProtobufCMessage *msg = NULL;
    err_t err = vault_get(vault, VAULT_LINEAGE, &msg, &keys->lineage_version);

    if (err_is(err, E_NOT_FOUND)) {
        keys->lineage_version = STORE_ABSENT;
        return OK;
    }
    TRY(err);
    keys->lineage = MSG_AS(Mortise__Control__Lineage, mortise__control__lineage__descriptor, msg);
    return keys->lineage->n_ancestors <= CA_ANCESTORS_MAX ? OK : FAIL(STORE_CORRUPT, 0);
}

static size_t ca_num_ancestors(const struct ca_keys *keys)
{
    return keys->lineage != NULL ? keys->lineage->n_ancestors : 0;
}

static int ca_der_cmp(const struct bytes *a, const struct bytes *b)
{
    size_t len = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->ptr, b->ptr, len);

    return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

static err_t ca_make_bundles(struct ca_keys *keys, const char *trust_domain, int64_t now_s)
{
    CLEANUP(buf_fini) struct buf pem = {0};
    struct bytes callers[CA_ROOTS_MAX];
    size_t num = 0;

    callers[num++] = keys->roots[0] = authority_der(&keys->active.root);
    if (keys->other.root.der != NULL)
        callers[num++] = keys->roots[1] = authority_der(&keys->other.root);
    keys->num_roots = num;
    if (num == 2 && ca_der_cmp(&keys->roots[0], &keys->roots[1]) > 0) {
        keys->roots[0] = callers[1]; /* a switch alone changes nothing of what is given out */
        keys->roots[1] = callers[0];
    }
    for (size_t i = 0; i < ca_num_ancestors(keys); i++) {
        const Mortise__Control__Ancestor *ancestor = keys->lineage->ancestors[i];

        if (ancestor->leaves_until > now_s)
            callers[num++] = msg_view(ancestor->root);
    }
    TRY(bundle_of_der(keys->roots, keys->num_roots, trust_domain, &keys->bundle));
    TRY(bundle_of_der(callers, num, trust_domain, &keys->callers));
    TRY(bundle_write_pem(keys->bundle, &pem));
    keys->roots_pem = buf_take_str(&pem);
    return OK;
}

static err_t ca_load_keys(const struct ca *ca, struct ca_keys *keys)
{
    err_t err = ca_load_pair(ca->vault, VAULT_ROOT, VAULT_ISSUER, &keys->active);

    if (err_is(err, E_NOT_FOUND))
        err = FAIL(STORE_CORRUPT, 0);
    TRY(err);
    err = ca_load_pair(ca->vault, VAULT_OTHER_ROOT, VAULT_OTHER_ISSUER, &keys->other);
    if (!err_is(err, E_NOT_FOUND))
        TRY(err);
    TRY(ca_load_lineage(ca->vault, keys));
    return ca_make_bundles(keys, ca->trust_domain, clock_wall_s(ca->clock));
}

err_t ca_reload(struct ca *ca)
{
    struct ca_keys *keys = mem_zalloc(sizeof(*keys));
    err_t err = ca_load_keys(ca, keys);

    if (!err_is_ok(err)) {
        ca_keys_free(keys);
        return err;
    }
    ca_keys_free(ca->keys);
    ca->keys = keys;
    return OK;
}

static err_t ca_see_issuance(void *arg, const char *path, uint64_t version,
                             const ProtobufCMessage *msg)
{
    const Mortise__Control__Issuance *record =
        MSG_AS_CONST(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    struct ca *ca = arg;

    (void)path;
    (void)version;
    if (record->issued_at > ca->last_issued_s)
        ca->last_issued_s = record->issued_at;
    return OK;
}

err_t ca_open(const struct ca_params *params, struct ca **out)
{
    struct ca *ca = mem_zalloc(sizeof(*ca));
    err_t err;

    ca->vault = params->vault;
    ca->clock = params->clock;
    ca->trust_domain = mem_strdup(params->trust_domain);
    ca->on_issued = params->on_issued;
    ca->arg = params->arg;
    err = ca_reload(ca);
    if (err_is_ok(err))
        err = vault_each(ca->vault, VAULT_CERTS, ca_see_issuance, ca);
    if (!err_is_ok(err)) {
        ca_free(ca);
        return err;
    }
    *out = ca;
    return OK;
}

void ca_free(struct ca *ca)
{
    if (ca == NULL)
        return;
    ca_keys_free(ca->keys);
    mem_free(ca->trust_domain);
    mem_free(ca);
}

err_t ca_state(const struct ca *ca)
{
    const struct authority_pair *active = &ca->keys->active;
    int64_t now_s = clock_wall_s(ca->clock);

    if (now_s < ca->last_issued_s)
        return FAIL(CLOCK_BACKWARDS,
                    ca->last_issued_s - now_s > INT32_MAX ? INT32_MAX : ca->last_issued_s - now_s);
    if (now_s < active->issuer.not_before || now_s >= active->issuer.not_after ||
        now_s >= active->root.not_after)
        return FAIL(CA_CANNOT_SIGN, 0);
    return OK;
}

static err_t ca_record(struct ca *ca, const struct ca_request *request, const struct issued *issued,
                       int64_t now_s, struct vault_batch *batch)
{
    Mortise__Control__Issuance record = MORTISE__CONTROL__ISSUANCE__INIT;
    uint8_t sha256[SHA256_DIGEST_LENGTH];
    uint8_t key_sha256[32];
    char path[VAULT_PATH_MAX];

    TRY(key_spki_sha256(request->public_key, key_sha256));
    SHA256(issued->der, issued->der_len, sha256);
    record.serial = msg_lend(issued->serial);
    record.spiffe_id = msg_lend(request->spiffe_id);
    record.subsystem = msg_lend(request->subsystem);
    record.reason = msg_lend(request->reason);
    record.not_before = issued->not_before;
    record.not_after = issued->not_after;
    record.issued_at = now_s;
    record.sha256 = msg_bytes(bytes_of(sha256, sizeof(sha256)));
    record.key_sha256 = msg_bytes(bytes_of(key_sha256, sizeof(key_sha256)));
    record.epoch = request->epoch;
    vault_path(VAULT_CERTS, issued->serial, path);
    return vault_batch_put(ca->vault, batch, path, &record.base, STORE_ABSENT);
}

/* Whether leaves come with what the ancestor says of its successor: while both are trusted. */
static bool ca_vouches(const struct ca_keys *keys, const Mortise__Control__Ancestor *ancestor,
                       bool lineage)
{
    if (ancestor->cross.len == 0)
        return false;
    return lineage || (keys->other.root.der != NULL &&
                       bytes_equal(authority_der(&keys->other.root), msg_view(ancestor->root)));
}

static void ca_fill_chain(const struct ca_keys *keys, bool lineage, struct ca_cert *out)
{
    out->chain[out->num_chain++] = bytes_of(out->leaf.der, out->leaf.der_len);
    out->chain[out->num_chain++] = authority_der(&keys->active.issuer);
    for (size_t i = 0; i < ca_num_ancestors(keys); i++) {
        const Mortise__Control__Ancestor *ancestor = keys->lineage->ancestors[i];

        if (ca_vouches(keys, ancestor, lineage))
            out->chain[out->num_chain++] = msg_view(ancestor->cross);
    }
}

static err_t ca_sign_leaf(struct ca *ca, const struct ca_request *request, int64_t now_s,
                          struct vault_batch *batch, struct issued *out)
{
    struct issue_leaf leaf = {
        .spiffe_id = request->spiffe_id,
        .public_key = request->public_key,
        .now_s = now_s,
        .ttl_s = request->ttl_s,
    };

    TRY(issue_leaf(&ca->keys->active.issuer.issuer, &leaf, out));
    return ca_record(ca, request, out, now_s, batch);
}

err_t ca_sign(struct ca *ca, const struct ca_request *request, struct vault_batch *batch,
              struct ca_cert *out)
{
    int64_t now_s = clock_wall_s(ca->clock);
    struct issued issued = {0};
    err_t err;

    TRY(ca_state(ca));
    err = ca_sign_leaf(ca, request, now_s, batch, &issued);
    if (!err_is_ok(err)) {
        issued_fini(&issued);
        return err;
    }
    *out = (struct ca_cert){.leaf = issued};
    ca_fill_chain(ca->keys, request->lineage, out);
    return OK;
}

void ca_issued(struct ca *ca, const struct ca_request *request, const struct issued *leaf)
{
    int64_t now_s = clock_wall_s(ca->clock);

    if (now_s > ca->last_issued_s)
        ca->last_issued_s = now_s;
    log_info("ca", "issued", LOG_STR("id", request->spiffe_id), LOG_STR("serial", leaf->serial),
             LOG_STR("reason", request->reason), LOG_INT("not_after", leaf->not_after),
             LOG_UINT("epoch", request->epoch));
    if (ca->on_issued != NULL)
        ca->on_issued(ca->arg, request->reason);
}

err_t ca_issue(struct ca *ca, const struct ca_request *request, struct vault_batch *batch,
               struct ca_cert *out)
{
    struct ca_cert cert;
    err_t err;

    TRY(ca_sign(ca, request, batch, &cert));
    err = vault_commit(ca->vault, batch, NULL);
    if (!err_is_ok(err)) {
        ca_cert_fini(&cert);
        return err;
    }
    ca_issued(ca, request, &cert.leaf);
    *out = cert;
    return OK;
}

void ca_cert_fini(struct ca_cert *cert)
{
    issued_fini(&cert->leaf);
    *cert = (struct ca_cert){0};
}

static err_t ca_renew_issuer(struct ca *ca, int64_t now_s)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const struct authority_pair *active = &ca->keys->active;
    struct authority issuer;
    err_t err;

    TRY(authority_make_issuer(&active->root.issuer, ca->trust_domain, now_s, CA_ISSUER_TTL_S,
                              &issuer));
    err = authority_save(ca->vault, &batch, VAULT_ISSUER, &issuer, active->issuer.version);
    authority_fini(&issuer);
    if (err_is_ok(err))
        err = vault_commit(ca->vault, &batch, NULL);
    TRY(err);
    TRY(ca_reload(ca));
    log_info("ca", "issuer_renewed", LOG_INT("not_after", ca_issuer_not_after(ca)));
    return OK;
}

/* ---- another pair ---- */

static err_t ca_save_pair(struct ca *ca, struct vault_batch *batch, const char *root_path,
                          const char *issuer_path, const struct authority_pair *pair,
                          const struct authority_pair *instead_of)
{
    TRY(authority_save(ca->vault, batch, root_path, &pair->root, instead_of->root.version));
    return authority_save(ca->vault, batch, issuer_path, &pair->issuer, instead_of->issuer.version);
}

err_t ca_prepare(struct ca *ca, struct vault_batch *batch)
{
    struct authority_pair pair;
    err_t err;

    CHECK(!ca_has_other(ca));
    TRY(authority_make_pair(ca->trust_domain, clock_wall_s(ca->clock), CA_ROOT_TTL_S,
                            CA_ISSUER_TTL_S, &pair));
    /* The versions of a pair that is not there are 0, which is STORE_ABSENT. */
    err = ca_save_pair(ca, batch, VAULT_OTHER_ROOT, VAULT_OTHER_ISSUER, &pair, &ca->keys->other);
    authority_pair_fini(&pair);
    return err;
}

static bool ca_is_ancestor(const struct ca_keys *keys, struct bytes root)
{
    for (size_t i = 0; i < ca_num_ancestors(keys); i++) {
        if (bytes_equal(msg_view(keys->lineage->ancestors[i]->root), root))
            return true;
    }
    return false;
}

/* The lineage with the active root in front, which gives way to the other. `cross` is what it says
 * of that one; nothing when the mesh goes back to it, which is no ancestor any more then: what is
 * left is one line. */
static err_t ca_put_lineage(struct ca *ca, struct vault_batch *batch, struct bytes cross,
                            int64_t now_s)
{
    const struct ca_keys *keys = ca->keys;
    Mortise__Control__Ancestor *ancestors[CA_ANCESTORS_MAX];
    Mortise__Control__Lineage record = MORTISE__CONTROL__LINEAGE__INIT;
    Mortise__Control__Ancestor first = MORTISE__CONTROL__ANCESTOR__INIT;

    first.root = msg_bytes(authority_der(&keys->active.root));
    first.cross = msg_bytes(cross);
    first.leaves_until = now_s + ISSUE_TTL_MAX_S;
    record.ancestors = ancestors;
    ancestors[record.n_ancestors++] = &first;
    for (size_t i = 0; i < ca_num_ancestors(keys); i++) {
        Mortise__Control__Ancestor *ancestor = keys->lineage->ancestors[i];

        if (record.n_ancestors < CA_ANCESTORS_MAX &&
            !bytes_equal(msg_view(ancestor->root), authority_der(&keys->other.root)))
            ancestors[record.n_ancestors++] = ancestor;
    }
    return vault_batch_put(ca->vault, batch, VAULT_LINEAGE, &record.base, keys->lineage_version);
}

err_t ca_switch(struct ca *ca, struct vault_batch *batch)
{
    const struct ca_keys *keys = ca->keys;
    int64_t now_s = clock_wall_s(ca->clock);
    struct issued cross = {.der = NULL};
    err_t err;

    CHECK(ca_has_other(ca));
    if (!ca_is_ancestor(keys, authority_der(&keys->other.root)))
        TRY(issue_cross(&keys->active.root.issuer, keys->other.root.issuer.cert, ca->trust_domain,
                        now_s, &cross));
    err = ca_put_lineage(ca, batch, bytes_of(cross.der, cross.der_len), now_s);
    issued_fini(&cross);
    TRY(err);
    TRY(ca_save_pair(ca, batch, VAULT_ROOT, VAULT_ISSUER, &keys->other, &keys->active));
    return ca_save_pair(ca, batch, VAULT_OTHER_ROOT, VAULT_OTHER_ISSUER, &keys->active,
                        &keys->other);
}

err_t ca_retire(struct ca *ca, struct vault_batch *batch)
{
    CHECK(ca_has_other(ca));
    vault_batch_delete(batch, VAULT_OTHER_ROOT, ca->keys->other.root.version);
    vault_batch_delete(batch, VAULT_OTHER_ISSUER, ca->keys->other.issuer.version);
    return OK;
}

static bool ca_is_key(const struct authority *authority, const char *key_sha256)
{
    uint8_t sha256[32];
    char hex[CA_SHA256_HEX];

    if (authority->der == NULL || !err_is_ok(key_spki_sha256(authority->issuer.key, sha256)))
        return false;
    bytes_to_hex(bytes_of(sha256, sizeof(sha256)), hex);
    return strcmp(hex, key_sha256) == 0;
}

bool ca_has_key(const struct ca *ca, const char *key_sha256)
{
    const struct ca_keys *keys = ca->keys;

    return ca_is_key(&keys->active.root, key_sha256) ||
           ca_is_key(&keys->active.issuer, key_sha256) ||
           ca_is_key(&keys->other.root, key_sha256) || ca_is_key(&keys->other.issuer, key_sha256);
}

bool ca_has_other(const struct ca *ca)
{
    return ca->keys->other.root.der != NULL;
}

void ca_root_sha256(const struct ca *ca, bool other, char out[CA_SHA256_HEX])
{
    const struct authority_pair *pair = other ? &ca->keys->other : &ca->keys->active;
    uint8_t sha256[SHA256_DIGEST_LENGTH];

    SHA256(pair->root.der, pair->root.der_len, sha256);
    bytes_to_hex(bytes_of(sha256, sizeof(sha256)), out);
}

/* ---- maintenance ---- */

struct ca_purge {
    struct vault_batch batch;
    int64_t before_s;      /* remove what expired before */
    int64_t last_issued_s; /* keep what was issued then */
};

static err_t ca_purge_one(void *arg, const char *path, uint64_t version,
                          const ProtobufCMessage *msg)
{
    const Mortise__Control__Issuance *record =
        MSG_AS_CONST(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    struct ca_purge *purge = arg;

    if (record->not_after < purge->before_s && record->issued_at < purge->last_issued_s &&
        purge->batch.num < STORE_CHANGES_MAX)
        vault_batch_delete(&purge->batch, path, version);
    return OK;
}

static err_t ca_purge(struct ca *ca, int64_t now_s)
{
    struct ca_purge purge = {
        .before_s = now_s - CA_KEEP_EXPIRED_S,
        .last_issued_s = ca->last_issued_s,
    };
    err_t err = vault_each(ca->vault, VAULT_CERTS, ca_purge_one, &purge);

    if (err_is_ok(err))
        err = vault_commit(ca->vault, &purge.batch, NULL);
    vault_batch_fini(&purge.batch);
    return err;
}

err_t ca_maintain(struct ca *ca)
{
    const struct authority *issuer;
    int64_t now_s = clock_wall_s(ca->clock);

    if (now_s < ca->last_issued_s)
        return FAIL(CLOCK_BACKWARDS, 0); /* judge nothing by a clock that went back */
    TRY(ca_purge(ca, now_s));            /* first: it makes room in a store that is full */
    issuer = &ca->keys->active.issuer;
    if (now_s - issuer->not_before > (issuer->not_after - issuer->not_before) / 2)
        TRY(ca_renew_issuer(ca, now_s));
    return OK;
}

struct bundle *ca_bundle(const struct ca *ca)
{
    return ca->keys->bundle;
}

struct bundle *ca_callers(const struct ca *ca)
{
    return ca->keys->callers;
}

const struct bytes *ca_roots(const struct ca *ca, size_t *out_num)
{
    *out_num = ca->keys->num_roots;
    return ca->keys->roots;
}

const char *ca_roots_pem(const struct ca *ca)
{
    return ca->keys->roots_pem;
}

int64_t ca_root_not_after(const struct ca *ca)
{
    return ca->keys->active.root.not_after;
}

int64_t ca_issuer_not_after(const struct ca *ca)
{
    return ca->keys->active.issuer.not_after;
}
