#include "control/ca.h"

#include <stdio.h>
#include <string.h>

#include <openssl/sha.h>

#include "certs/key.h"
#include "control/ca_keys.h"
#include "control/msg.h"
#include "control/pending_issuer.h"
#include "control/successors.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

#define CA_PURGE_PAGE 1000 /* records that ca_maintain looks at: about 30 ms */
_Static_assert(CA_PURGE_PAGE <= STORE_CHANGES_MAX, "what is removed is one transaction");

struct ca {
    struct vault *vault;
    const struct clock *clock;
    char *trust_domain;
    void (*on_issued)(void *arg, const char *reason);
    void *arg;
    void (*on_keys)(void *arg); /* may be NULL */
    void *on_keys_arg;
    struct ca_keys *keys;
    int64_t last_issued_s;
    struct successors successors;
    struct ca_standing standing[CA_STANDING_MAX];
    size_t num_standing;
    char *purged; /* how far the walk through the records has come; NULL: none is under way */
};

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

err_t ca_create_without(struct vault *vault, struct vault_batch *batch, const char *trust_domain,
                        int64_t now_s)
{
    return pending_issuer_create(vault, batch, trust_domain, now_s, STORE_ABSENT);
}

err_t ca_reload(struct ca *ca)
{
    struct ca_keys *keys;

    TRY(ca_keys_load(ca->vault, ca->trust_domain, clock_wall_s(ca->clock), &keys));
    ca_keys_free(ca->keys);
    ca->keys = keys;
    if (ca->on_keys != NULL)
        ca->on_keys(ca->on_keys_arg);
    return OK;
}

void ca_on_keys(struct ca *ca, void (*fn)(void *arg), void *arg)
{
    ca->on_keys = fn;
    ca->on_keys_arg = arg;
}

size_t ca_authorities(const struct ca *ca, struct ca_authority out[CA_AUTHORITIES_MAX])
{
    const struct authority_pair *active = &ca->keys->active, *other = &ca->keys->other;
    const struct authority *other_root = other->root.der != NULL ? &other->root : &active->root;
    size_t num = 0;

    if (active->root.issuer.key != NULL)
        out[num++] = (struct ca_authority){&active->root, NULL};
    if (active->issuer.der != NULL)
        out[num++] = (struct ca_authority){&active->issuer, &active->root};
    if (other->root.der != NULL && other->root.issuer.key != NULL)
        out[num++] = (struct ca_authority){&other->root, NULL};
    if (other->issuer.der != NULL)
        out[num++] = (struct ca_authority){&other->issuer, other_root};
    return num;
}

/* ---- what is issued to nobody's sidecar ---- */

/* The place for another one: of the same that it replaces, of one that has expired, a free one, or
 * of the one that expires first; NULL: all others outlast it. */
static struct ca_standing *ca_standing_place(struct ca *ca, const char *role, int64_t not_after)
{
    struct ca_standing *first = NULL;
    int64_t now_s = clock_wall_s(ca->clock);

    for (size_t i = 0; i < ca->num_standing; i++) {
        struct ca_standing *it = &ca->standing[i];

        if (strcmp(role, "control") == 0 && strcmp(it->role, role) == 0)
            return it->not_after <= not_after ? it : NULL;
        if (first == NULL || it->not_after < first->not_after)
            first = it;
    }
    if (first != NULL && first->not_after <= now_s)
        return first;
    if (ca->num_standing < CA_STANDING_MAX) {
        ca->standing[ca->num_standing] = (struct ca_standing){.role = ""};
        return &ca->standing[ca->num_standing++];
    }
    return first->not_after < not_after ? first : NULL;
}

static void ca_note_standing(struct ca *ca, const char *reason, const char *serial,
                             const char *spiffe_id, int64_t not_before, int64_t not_after)
{
    const char *role = strcmp(reason, "control") == 0 ? "control" : "admin";
    struct ca_standing *place;

    if (strcmp(reason, role) != 0 || not_after <= clock_wall_s(ca->clock))
        return;
    place = ca_standing_place(ca, role, not_after);
    if (place == NULL)
        return;
    mem_free(place->spiffe_id);
    *place = (struct ca_standing){.role = role,
                                  .spiffe_id = mem_strdup(spiffe_id),
                                  .not_before = not_before,
                                  .not_after = not_after};
    (void)snprintf(place->serial, sizeof(place->serial), "%s", serial);
}

const struct ca_standing *ca_standing(const struct ca *ca, size_t *out_num)
{
    *out_num = ca->num_standing;
    return ca->standing;
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
    ca_note_standing(ca, record->reason, record->serial, record->spiffe_id, record->not_before,
                     record->not_after);
    if (record->renews[0] != '\0' && record->key_sha256.len == 32)
        successors_note(&ca->successors, record->renews, record->key_sha256.data,
                        record->issued_at);
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
    mem_free(ca->purged);
    successors_fini(&ca->successors);
    for (size_t i = 0; i < ca->num_standing; i++)
        mem_free(ca->standing[i].spiffe_id);
    mem_free(ca);
}

err_t ca_state(const struct ca *ca)
{
    const struct authority_pair *active = &ca->keys->active;
    int64_t now_s = clock_wall_s(ca->clock);

    if (now_s < ca->last_issued_s)
        return FAIL(CLOCK_BACKWARDS,
                    ca->last_issued_s - now_s > INT32_MAX ? INT32_MAX : ca->last_issued_s - now_s);
    if (ca_is_empty(ca) || now_s < active->issuer.not_before || now_s >= active->issuer.not_after ||
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
    ProtobufCBinaryData issuers[] = {
        msg_bytes(bytes_of(ca->keys->active.issuer.key_sha256, 32)),
        msg_bytes(bytes_of(ca->keys->active.root.key_sha256, 32)),
    };
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
    record.issuer_keys_sha256 = issuers;
    record.n_issuer_keys_sha256 = ARRAY_LEN(issuers);
    if (request->renews != NULL)
        record.renews = msg_lend(request->renews);
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
    for (size_t i = 0; i < ca_keys_num_ancestors(keys); i++) {
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
    ca_note_standing(ca, request->reason, leaf->serial, request->spiffe_id, leaf->not_before,
                     leaf->not_after);
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

/* Where the records of a pair are. */
struct ca_place {
    const char *root;
    const char *issuer;
};
static const struct ca_place ca_active_place = {VAULT_ROOT, VAULT_ISSUER};
static const struct ca_place ca_other_place = {VAULT_OTHER_ROOT, VAULT_OTHER_ISSUER};

/* A root that is not in the pair is the one that is there already. */
static err_t ca_save_pair(struct ca *ca, struct vault_batch *batch, const struct ca_place *place,
                          const struct authority_pair *pair,
                          const struct authority_pair *instead_of)
{
    if (pair->root.der != NULL)
        TRY(authority_save(ca->vault, batch, place->root, &pair->root, instead_of->root.version));
    return authority_save(ca->vault, batch, place->issuer, &pair->issuer,
                          instead_of->issuer.version);
}

err_t ca_prepare(struct ca *ca, struct vault_batch *batch)
{
    struct authority_pair pair;
    err_t err;

    CHECK(!ca_has_other(ca));
    if (ca_is_external(ca))
        return FAIL(ROOT_ELSEWHERE, 0);
    TRY(authority_make_pair(ca->trust_domain, clock_wall_s(ca->clock), CA_ROOT_TTL_S,
                            CA_ISSUER_TTL_S, &pair));
    /* The versions of a pair that is not there are 0, which is STORE_ABSENT. */
    err = ca_save_pair(ca, batch, &ca_other_place, &pair, &ca->keys->other);
    authority_pair_fini(&pair);
    return err;
}

err_t ca_prepare_issuer(struct ca *ca, struct vault_batch *batch)
{
    struct authority_pair pair = {.root = {.der = NULL}};
    err_t err;

    CHECK(!ca_has_other(ca));
    if (ca_is_external(ca))
        return FAIL(ROOT_ELSEWHERE, 0);
    TRY(authority_make_issuer(&ca->keys->active.root.issuer, ca->trust_domain,
                              clock_wall_s(ca->clock), CA_ISSUER_TTL_S, &pair.issuer));
    err = ca_save_pair(ca, batch, &ca_other_place, &pair, &ca->keys->other);
    authority_pair_fini(&pair);
    return err;
}

err_t ca_prepare_import(struct ca *ca, struct vault_batch *batch, const struct bytes *certs,
                        size_t num, struct faults *faults, enum ca_import *out)
{
    const struct ca_keys *keys = ca->keys;
    struct authority_pair pair;
    bool first = ca_is_empty(ca);
    err_t err;

    CHECK(!ca_has_other(ca));
    TRY(pending_issuer_take(ca->vault, batch,
                            &(struct pending_issuer_reply){
                                .certs = certs,
                                .num = num,
                                .root = authority_der(&keys->active.root),
                                .trust_domain = ca->trust_domain,
                                .now_s = clock_wall_s(ca->clock),
                            },
                            faults, &pair));
    err = first ? ca_save_pair(ca, batch, &ca_active_place, &pair, &keys->active)
                : ca_save_pair(ca, batch, &ca_other_place, &pair, &keys->other);
    *out = first                   ? CA_IMPORT_FIRST
           : pair.root.der == NULL ? CA_IMPORT_SAME_ROOT
                                   : CA_IMPORT_NEW_ROOT;
    authority_pair_fini(&pair);
    return err;
}

err_t ca_request(struct ca *ca, bool fresh, struct buf *out)
{
    return pending_issuer_request(ca->vault, ca->trust_domain, clock_wall_s(ca->clock), fresh, out);
}

/* Whether the root is one of those before that have vouched for their successor: the mesh goes back
 * to it, then. */
static bool ca_is_ancestor(const struct ca_keys *keys, struct bytes root)
{
    for (size_t i = 0; i < ca_keys_num_ancestors(keys); i++) {
        const Mortise__Control__Ancestor *ancestor = keys->lineage->ancestors[i];

        if (ancestor->cross.len > 0 && bytes_equal(msg_view(ancestor->root), root))
            return true;
    }
    return false;
}

/* The lineage with the active root in front, which gives way to the other. `cross` is what it says
 * of that one; nothing when the mesh goes back to it, which is no ancestor any more then: what is
 * left is one line. A root whose key is elsewhere says nothing of its successor: what was said of
 * it leads nowhere, and is forgotten. */
static err_t ca_put_lineage(struct ca *ca, struct vault_batch *batch, struct bytes cross,
                            int64_t now_s)
{
    const struct ca_keys *keys = ca->keys;
    bool cut = ca_is_external(ca) && !ca_is_ancestor(keys, authority_der(&keys->other.root));
    Mortise__Control__Ancestor copies[CA_ANCESTORS_MAX];
    Mortise__Control__Ancestor *ancestors[CA_ANCESTORS_MAX];
    Mortise__Control__Lineage record = MORTISE__CONTROL__LINEAGE__INIT;
    Mortise__Control__Ancestor first = MORTISE__CONTROL__ANCESTOR__INIT;

    first.root = msg_bytes(authority_der(&keys->active.root));
    first.cross = msg_bytes(cross);
    first.leaves_until = now_s + ISSUE_TTL_MAX_S;
    record.ancestors = ancestors;
    ancestors[record.n_ancestors++] = &first;
    for (size_t i = 0; i < ca_keys_num_ancestors(keys); i++) {
        Mortise__Control__Ancestor *copy = &copies[record.n_ancestors];

        if (record.n_ancestors == CA_ANCESTORS_MAX ||
            bytes_equal(msg_view(keys->lineage->ancestors[i]->root),
                        authority_der(&keys->other.root)))
            continue;
        *copy = *keys->lineage->ancestors[i];
        if (cut)
            copy->cross = msg_bytes(bytes_of(NULL, 0));
        ancestors[record.n_ancestors++] = copy;
    }
    return vault_batch_put(ca->vault, batch, VAULT_LINEAGE, &record.base, keys->lineage_version);
}

/* The other root comes to the front: what the active one says of it is added to `batch`. */
static err_t ca_switch_roots(struct ca *ca, struct vault_batch *batch)
{
    const struct ca_keys *keys = ca->keys;
    int64_t now_s = clock_wall_s(ca->clock);
    struct issued cross = {.der = NULL};
    err_t err;

    if (!ca_is_external(ca) && !ca_is_ancestor(keys, authority_der(&keys->other.root)))
        TRY(issue_cross(&keys->active.root.issuer, keys->other.root.issuer.cert, ca->trust_domain,
                        now_s, &cross));
    err = ca_put_lineage(ca, batch, bytes_of(cross.der, cross.der_len), now_s);
    issued_fini(&cross);
    return err;
}

err_t ca_switch(struct ca *ca, struct vault_batch *batch)
{
    const struct ca_keys *keys = ca->keys;
    struct authority_pair leaving = keys->active; /* borrowed */

    CHECK(ca_has_other(ca));
    if (ca_has_other_root(ca))
        TRY(ca_switch_roots(ca, batch));
    else
        leaving.root = (struct authority){.der = NULL}; /* it stays */
    TRY(ca_save_pair(ca, batch, &ca_active_place, &keys->other, &keys->active));
    return ca_save_pair(ca, batch, &ca_other_place, &leaving, &keys->other);
}

err_t ca_retire(struct ca *ca, struct vault_batch *batch)
{
    CHECK(ca_has_other(ca));
    if (ca_has_other_root(ca))
        vault_batch_delete(batch, VAULT_OTHER_ROOT, ca->keys->other.root.version);
    vault_batch_delete(batch, VAULT_OTHER_ISSUER, ca->keys->other.issuer.version);
    return OK;
}

/* In hex; "" of one that is not there. */
static void ca_key_hex(const struct authority *authority, char out[CA_SHA256_HEX])
{
    out[0] = '\0';
    if (authority->der != NULL)
        bytes_to_hex(bytes_of(authority->key_sha256, sizeof(authority->key_sha256)), out);
}

static bool ca_is_key(const struct authority *authority, const char *key_sha256)
{
    char hex[CA_SHA256_HEX];

    ca_key_hex(authority, hex);
    return hex[0] != '\0' && strcmp(hex, key_sha256) == 0;
}

bool ca_has_key(const struct ca *ca, const char *key_sha256)
{
    const struct ca_keys *keys = ca->keys;

    return ca_is_key(&keys->active.root, key_sha256) ||
           ca_is_key(&keys->active.issuer, key_sha256) ||
           ca_is_key(&keys->other.root, key_sha256) || ca_is_key(&keys->other.issuer, key_sha256);
}

bool ca_is_empty(const struct ca *ca)
{
    return ca->keys->active.issuer.der == NULL;
}

bool ca_is_external(const struct ca *ca)
{
    return ca->keys->active.root.issuer.key == NULL;
}

bool ca_has_other(const struct ca *ca)
{
    return ca->keys->other.issuer.der != NULL;
}

bool ca_has_other_root(const struct ca *ca)
{
    return ca->keys->other.root.der != NULL;
}

void ca_issuer_key_sha256(const struct ca *ca, bool other, char out[CA_SHA256_HEX])
{
    ca_key_hex(other ? &ca->keys->other.issuer : &ca->keys->active.issuer, out);
}

void ca_root_sha256(const struct ca *ca, bool other, char out[CA_SHA256_HEX])
{
    const struct authority_pair *pair = other ? &ca->keys->other : &ca->keys->active;
    uint8_t sha256[SHA256_DIGEST_LENGTH];

    out[0] = '\0';
    if (pair->root.der == NULL)
        return;
    SHA256(pair->root.der, pair->root.der_len, sha256);
    bytes_to_hex(bytes_of(sha256, sizeof(sha256)), out);
}

/* ---- successors ---- */

void ca_note_renewal(struct ca *ca, const char *renews, const uint8_t key_sha256[32])
{
    successors_note(&ca->successors, renews, key_sha256, clock_wall_s(ca->clock));
}

bool ca_may_follow(const struct ca *ca, const char *serial, const uint8_t key_sha256[32])
{
    return successors_allow(&ca->successors, serial, key_sha256);
}

/* ---- maintenance ---- */

struct ca_purge {
    struct ca *ca;
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

    if (record->not_after < purge->before_s && record->issued_at < purge->last_issued_s) {
        vault_batch_delete(&purge->batch, path, version);
        if (record->renews[0] != '\0') /* which expired before this one did */
            successors_forget(&purge->ca->successors, record->renews);
    }
    return OK;
}

static err_t ca_purge(struct ca *ca, int64_t now_s)
{
    struct ca_purge purge = {
        .ca = ca,
        .before_s = now_s - CA_KEEP_EXPIRED_S,
        .last_issued_s = ca->last_issued_s,
    };
    err_t err =
        vault_each_page(ca->vault, VAULT_CERTS, CA_PURGE_PAGE, &ca->purged, ca_purge_one, &purge);

    if (err_is_ok(err))
        err = vault_commit(ca->vault, &purge.batch, NULL);
    vault_batch_fini(&purge.batch);
    return err;
}

static bool ca_is_past_half(const struct ca *ca)
{
    const struct authority *issuer = &ca->keys->active.issuer;

    return !ca_is_empty(ca) && clock_wall_s(ca->clock) - issuer->not_before >
                                   (issuer->not_after - issuer->not_before) / 2;
}

bool ca_issuer_is_old(const struct ca *ca)
{
    return ca_is_past_half(ca) && !ca_is_external(ca) &&
           ca_root_not_after(ca) > ca_issuer_not_after(ca);
}

err_t ca_maintain(struct ca *ca, bool *out_more)
{
    int64_t now_s = clock_wall_s(ca->clock);

    if (now_s < ca->last_issued_s)
        return FAIL(CLOCK_BACKWARDS, 0); /* judge nothing by a clock that went back */
    TRY(ca_purge(ca, now_s));            /* first: it makes room in a store that is full */
    *out_more = ca->purged != NULL;
    if (!ca_is_past_half(ca))
        return OK;
    if (!ca_is_external(ca))
        return now_s < ca_issuer_not_after(ca) ? OK : ca_renew_issuer(ca, now_s);
    if (!*out_more)
        log_warn("ca", "issuer_wants_renewal", LOG_INT("not_after", ca_issuer_not_after(ca)),
                 LOG_STR("advice", "mortisectl ca csr, have it signed by the root, ca import"));
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
