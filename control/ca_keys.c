#include "control/ca_keys.h"

#include <string.h>

#include "control/msg.h"
#include "control/pending_issuer.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

void ca_keys_free(struct ca_keys *keys)
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

/* An issuer must be there, and so must its key. */
static err_t ca_keys_load_issuer(struct vault *vault, const char *path, struct authority *out)
{
    err_t err = authority_load(vault, path, out);

    return err_is(err, E_NOT_FOUND) || (err_is_ok(err) && out->issuer.key == NULL)
               ? FAIL(STORE_CORRUPT, 0)
               : err;
}

/* The issuer must be signed by the root: a record of another mesh's would otherwise go unnoticed
 * until the first handshake. */
static err_t ca_keys_check_pair(const struct authority *root, const struct authority *issuer,
                                const char *path)
{
    if (authority_belongs(root, issuer))
        return OK;
    log_error("ca", "issuer_not_of_root", LOG_STR("path", path));
    return FAIL(STORE_CORRUPT, 0);
}

static err_t ca_keys_load_active(struct vault *vault, struct authority_pair *out)
{
    err_t err = authority_load(vault, VAULT_ROOT, &out->root);

    if (err_is(err, E_NOT_FOUND) && pending_issuer_exists(vault))
        return OK; /* none yet */
    if (err_is(err, E_NOT_FOUND))
        return FAIL(STORE_CORRUPT, 0);
    TRY(err);
    TRY(ca_keys_load_issuer(vault, VAULT_ISSUER, &out->issuer));
    return ca_keys_check_pair(&out->root, &out->issuer, VAULT_ISSUER);
}

static err_t ca_keys_load_other(struct vault *vault, const struct authority *active_root,
                                struct authority_pair *out)
{
    err_t err = authority_load(vault, VAULT_OTHER_ROOT, &out->root);

    if (err_is_ok(err)) {
        TRY(ca_keys_load_issuer(vault, VAULT_OTHER_ISSUER, &out->issuer));
        return ca_keys_check_pair(&out->root, &out->issuer, VAULT_OTHER_ISSUER);
    }
    if (!err_is(err, E_NOT_FOUND))
        return err;
    err = authority_load(vault, VAULT_OTHER_ISSUER, &out->issuer);
    if (err_is(err, E_NOT_FOUND))
        return OK;
    TRY(err);
    if (active_root->der == NULL || out->issuer.issuer.key == NULL)
        return FAIL(STORE_CORRUPT, 0);
    return ca_keys_check_pair(active_root, &out->issuer, VAULT_OTHER_ISSUER);
}

static err_t ca_keys_load_lineage(struct vault *vault, struct ca_keys *keys)
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

size_t ca_keys_num_ancestors(const struct ca_keys *keys)
{
    return keys->lineage != NULL ? keys->lineage->n_ancestors : 0;
}

static int ca_keys_der_cmp(const struct bytes *a, const struct bytes *b)
{
    size_t len = a->len < b->len ? a->len : b->len;
    int order = memcmp(a->ptr, b->ptr, len);

    return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

static err_t ca_keys_make_bundles(struct ca_keys *keys, const char *trust_domain, int64_t now_s)
{
    CLEANUP(buf_fini) struct buf pem = {0};
    struct bytes callers[CA_ROOTS_MAX];
    size_t num = 0;

    if (keys->active.root.der == NULL) { /* nobody is trusted */
        keys->roots_pem = mem_strdup("");
        return OK;
    }
    callers[num++] = keys->roots[0] = authority_der(&keys->active.root);
    if (keys->other.root.der != NULL)
        callers[num++] = keys->roots[1] = authority_der(&keys->other.root);
    keys->num_roots = num;
    if (num == 2 && ca_keys_der_cmp(&keys->roots[0], &keys->roots[1]) > 0) {
        keys->roots[0] = callers[1]; /* a switch alone changes nothing of what is given out */
        keys->roots[1] = callers[0];
    }
    for (size_t i = 0; i < ca_keys_num_ancestors(keys); i++) {
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

static err_t ca_keys_fill(struct ca_keys *keys, struct vault *vault, const char *trust_domain,
                          int64_t now_s)
{
    TRY(ca_keys_load_active(vault, &keys->active));
    TRY(ca_keys_load_other(vault, &keys->active.root, &keys->other));
    TRY(ca_keys_load_lineage(vault, keys));
    return ca_keys_make_bundles(keys, trust_domain, now_s);
}

err_t ca_keys_load(struct vault *vault, const char *trust_domain, int64_t now_s,
                   struct ca_keys **out)
{
    struct ca_keys *keys = mem_zalloc(sizeof(*keys));
    err_t err = ca_keys_fill(keys, vault, trust_domain, now_s);

    if (!err_is_ok(err)) {
        ca_keys_free(keys);
        return err;
    }
    *out = keys;
    return OK;
}
