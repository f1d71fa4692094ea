#include "control/ca.h"

#include <string.h>

#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/x509.h>

#include "certs/key.h"
#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

/* One signing certificate with its key. */
struct ca_slot {
    struct issuer issuer;
    uint8_t *der;
    size_t der_len;
    int64_t not_before;
    int64_t not_after;
    uint64_t version; /* of its record */
};

struct ca {
    struct vault *vault;
    const struct clock *clock;
    char *trust_domain;
    void (*on_issued)(void *arg, const char *reason);
    void *arg;
    struct ca_slot root;
    struct ca_slot slot; /* the issuing one */
    struct bundle *bundle;
    struct bytes root_der;
    char *roots_pem;
    int64_t last_issued_s;
};

static void ca_slot_fini(struct ca_slot *slot)
{
    X509_free(slot->issuer.cert);
    EVP_PKEY_free(slot->issuer.key);
    mem_free(slot->der);
    *slot = (struct ca_slot){0};
}

static err_t ca_unix_time(const ASN1_TIME *time, int64_t *out)
{
    return ASN1_TIME_to_posix(time, out) == 1 ? OK : FAIL(STORE_CORRUPT, 0);
}

static err_t ca_slot_fill(struct ca_slot *slot, struct bytes der, struct bytes key)
{
    const uint8_t *pos = der.ptr;

    slot->der = mem_dup(der.ptr, der.len);
    slot->der_len = der.len;
    slot->issuer.cert = d2i_X509(NULL, &pos, (long)der.len);
    if (slot->issuer.cert == NULL)
        return FAIL(STORE_CORRUPT, 0);
    TRY(key_from_der(key, &slot->issuer.key));
    if (X509_check_private_key(slot->issuer.cert, slot->issuer.key) != 1)
        return FAIL(STORE_CORRUPT, 0);
    TRY(ca_unix_time(X509_get0_notBefore(slot->issuer.cert), &slot->not_before));
    return ca_unix_time(X509_get0_notAfter(slot->issuer.cert), &slot->not_after);
}

/* Fills `*slot`, or leaves it empty. */
static err_t ca_slot_init(struct ca_slot *slot, struct bytes der, struct bytes key)
{
    err_t err;

    *slot = (struct ca_slot){0};
    err = ca_slot_fill(slot, der, key);
    ERR_clear_error();
    if (!err_is_ok(err))
        ca_slot_fini(slot);
    return err;
}

static err_t ca_slot_load(struct vault *vault, const char *path, struct ca_slot *slot)
{
    ProtobufCMessage *msg = NULL;
    const Mortise__Control__Authority *record;
    uint64_t version;
    err_t err;

    err = vault_get(vault, path, &msg, &version);
    if (!err_is_ok(err))
        return err_is(err, E_NOT_FOUND) ? FAIL(STORE_CORRUPT, 0) : err;
    record = MSG_AS(Mortise__Control__Authority, mortise__control__authority__descriptor, msg);
    err = ca_slot_init(slot, msg_view(record->certificate), msg_view(record->key));
    mem_wipe(record->key.data, record->key.len);
    pb_free(msg);
    slot->version = version;
    if (err_is_ok(err))
        return OK;
    log_error("ca", "record_refused", LOG_STR("path", path), LOG_ERR("error", err));
    return FAIL(STORE_CORRUPT, 0);
}

static err_t ca_slot_save(struct vault *vault, struct vault_batch *batch, const char *path,
                          const struct issued *issued, const EVP_PKEY *key, uint64_t expect)
{
    CLEANUP(buf_wipe_fini) struct buf key_der_buf = {0};
    Mortise__Control__Authority record = MORTISE__CONTROL__AUTHORITY__INIT;

    TRY(key_der(key, &key_der_buf));
    record.certificate = msg_bytes(bytes_of(issued->der, issued->der_len));
    record.key = msg_bytes(buf_view(&key_der_buf));
    return vault_batch_put(vault, batch, path, &record.base, expect);
}

/* A new issuing key and certificate, P-256: peers verify its signatures at each handshake. */
static err_t ca_make_issuer(struct vault *vault, struct vault_batch *batch,
                            const struct issuer *root, const char *trust_domain, int64_t now_s,
                            uint64_t expect, struct issued *out)
{
    EVP_PKEY *key = NULL;
    err_t err = key_generate(&key);

    if (err_is_ok(err))
        err = issue_intermediate(root, trust_domain, key, now_s, CA_ISSUER_TTL_S, out);
    if (err_is_ok(err))
        err = ca_slot_save(vault, batch, VAULT_ISSUER, out, key, expect);
    EVP_PKEY_free(key);
    return err;
}

static err_t ca_make_root(struct vault *vault, struct vault_batch *batch, const char *trust_domain,
                          int64_t now_s, EVP_PKEY *key, struct issued *root,
                          struct issued *intermediate)
{
    const uint8_t *pos;
    struct issuer issuer = {.key = key};
    err_t err;

    TRY(issue_root(trust_domain, key, now_s, CA_ROOT_TTL_S, root));
    TRY(ca_slot_save(vault, batch, VAULT_ROOT, root, key, STORE_ABSENT));
    pos = root->der;
    issuer.cert = d2i_X509(NULL, &pos, (long)root->der_len);
    CHECK(issuer.cert != NULL); /* we have just written it */
    err = ca_make_issuer(vault, batch, &issuer, trust_domain, now_s, STORE_ABSENT, intermediate);
    X509_free(issuer.cert);
    return err;
}

err_t ca_create(struct vault *vault, struct vault_batch *batch, const char *trust_domain,
                int64_t now_s)
{
    struct issued root = {0};
    struct issued intermediate = {0};
    EVP_PKEY *key = NULL;
    err_t err = key_generate_p384(&key);

    if (err_is_ok(err))
        err = ca_make_root(vault, batch, trust_domain, now_s, key, &root, &intermediate);
    issued_fini(&root);
    issued_fini(&intermediate);
    EVP_PKEY_free(key);
    return err;
}

/* The issuer must be signed by the root: a record of another mesh's would otherwise go unnoticed
 * until the first handshake. */
static err_t ca_check_chain(const struct ca *ca)
{
    EVP_PKEY *key = X509_get_pubkey(ca->root.issuer.cert);
    bool signed_by_root = key != NULL && X509_verify(ca->slot.issuer.cert, key) == 1;

    EVP_PKEY_free(key);
    ERR_clear_error();
    if (signed_by_root)
        return OK;
    log_error("ca", "issuer_not_of_root", LOG_STR("path", VAULT_ISSUER));
    return FAIL(STORE_CORRUPT, 0);
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

static err_t ca_load(struct ca *ca)
{
    CLEANUP(buf_fini) struct buf pem = {0};

    TRY(ca_slot_load(ca->vault, VAULT_ROOT, &ca->root));
    TRY(ca_slot_load(ca->vault, VAULT_ISSUER, &ca->slot));
    TRY(ca_check_chain(ca));
    ca->root_der = bytes_of(ca->root.der, ca->root.der_len);
    TRY(bundle_of_der(&ca->root_der, 1, ca->trust_domain, &ca->bundle));
    TRY(bundle_write_pem(ca->bundle, &pem));
    ca->roots_pem = buf_take_str(&pem);
    return vault_each(ca->vault, VAULT_CERTS, ca_see_issuance, ca);
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
    err = ca_load(ca);
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
    ca_slot_fini(&ca->root);
    ca_slot_fini(&ca->slot);
    if (ca->bundle != NULL)
        bundle_unref(ca->bundle);
    mem_free(ca->trust_domain);
    mem_free(ca->roots_pem);
    mem_free(ca);
}

err_t ca_state(const struct ca *ca)
{
    int64_t now_s = clock_wall_s(ca->clock);

    if (now_s < ca->last_issued_s)
        return FAIL(CLOCK_BACKWARDS,
                    ca->last_issued_s - now_s > INT32_MAX ? INT32_MAX : ca->last_issued_s - now_s);
    if (now_s < ca->slot.not_before || now_s >= ca->slot.not_after || now_s >= ca->root.not_after)
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

static err_t ca_sign(struct ca *ca, const struct ca_request *request, int64_t now_s,
                     struct vault_batch *batch, struct issued *out)
{
    struct issue_leaf leaf = {
        .spiffe_id = request->spiffe_id,
        .public_key = request->public_key,
        .now_s = now_s,
        .ttl_s = request->ttl_s,
    };

    TRY(issue_leaf(&ca->slot.issuer, &leaf, out));
    TRY(ca_record(ca, request, out, now_s, batch));
    return vault_commit(ca->vault, batch, NULL);
}

err_t ca_issue(struct ca *ca, const struct ca_request *request, struct vault_batch *batch,
               struct ca_cert *out)
{
    int64_t now_s = clock_wall_s(ca->clock);
    struct issued issued = {0};
    err_t err;

    TRY(ca_state(ca));
    err = ca_sign(ca, request, now_s, batch, &issued);
    if (!err_is_ok(err)) {
        issued_fini(&issued);
        return err;
    }
    ca->last_issued_s = now_s;
    *out = (struct ca_cert){.leaf = issued};
    out->chain[0] = bytes_of(issued.der, issued.der_len);
    out->chain[1] = bytes_of(ca->slot.der, ca->slot.der_len);
    log_info("ca", "issued", LOG_STR("id", request->spiffe_id), LOG_STR("serial", issued.serial),
             LOG_STR("reason", request->reason), LOG_INT("not_after", issued.not_after),
             LOG_UINT("epoch", request->epoch));
    if (ca->on_issued != NULL)
        ca->on_issued(ca->arg, request->reason);
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
    struct issued issued = {0};
    struct ca_slot slot;
    err_t err;

    err = ca_make_issuer(ca->vault, &batch, &ca->root.issuer, ca->trust_domain, now_s,
                         ca->slot.version, &issued);
    if (err_is_ok(err))
        err = vault_commit(ca->vault, &batch, NULL);
    issued_fini(&issued);
    TRY(err);
    TRY(ca_slot_load(ca->vault, VAULT_ISSUER, &slot));
    ca_slot_fini(&ca->slot);
    ca->slot = slot;
    log_info("ca", "issuer_renewed", LOG_INT("not_after", slot.not_after));
    return OK;
}

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
    int64_t now_s = clock_wall_s(ca->clock);

    if (now_s < ca->last_issued_s)
        return FAIL(CLOCK_BACKWARDS, 0); /* judge nothing by a clock that went back */
    TRY(ca_purge(ca, now_s));            /* first: it makes room in a store that is full */
    if (now_s - ca->slot.not_before > (ca->slot.not_after - ca->slot.not_before) / 2)
        TRY(ca_renew_issuer(ca, now_s));
    return OK;
}

struct bundle *ca_bundle(const struct ca *ca)
{
    return ca->bundle;
}

const struct bytes *ca_roots(const struct ca *ca, size_t *out_num)
{
    *out_num = 1;
    return &ca->root_der;
}

const char *ca_roots_pem(const struct ca *ca)
{
    return ca->roots_pem;
}

int64_t ca_root_not_after(const struct ca *ca)
{
    return ca->root.not_after;
}

int64_t ca_issuer_not_after(const struct ca *ca)
{
    return ca->slot.not_after;
}
