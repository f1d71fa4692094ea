#include "control/pending_issuer.h"

#include "certs/cert.h"
#include "certs/issuing.h"
#include "certs/key.h"
#include "control/msg.h"
#include "lib/rpc/pb.h"

err_t pending_issuer_create(struct vault *vault, struct vault_batch *batch,
                            const char *trust_domain, int64_t now_s, uint64_t expect)
{
    Mortise__Control__PendingIssuer record = MORTISE__CONTROL__PENDING_ISSUER__INIT;
    CLEANUP(buf_wipe_fini) struct buf der = {0};
    CLEANUP(buf_fini) struct buf csr = {0};
    EVP_PKEY *key = NULL;
    err_t err = key_generate(&key);

    if (err_is_ok(err))
        err = key_der(key, &der);
    if (err_is_ok(err))
        err = issue_request(trust_domain, key, &csr);
    EVP_PKEY_free(key);
    TRY(err);
    record.key = msg_bytes(buf_view(&der));
    record.request = msg_bytes(buf_view(&csr));
    record.asked_at = now_s;
    return vault_batch_put(vault, batch, VAULT_PENDING_ISSUER, &record.base, expect);
}

static void pending_issuer_free(Mortise__Control__PendingIssuer *record)
{
    if (record == NULL)
        return;
    mem_wipe(record->key.data, record->key.len);
    pb_free(&record->base);
}

/* `*out` is owned: pending_issuer_free. Errors: those of vault_get. */
static err_t pending_issuer_load(struct vault *vault, Mortise__Control__PendingIssuer **out,
                                 uint64_t *out_version)
{
    ProtobufCMessage *msg = NULL;

    TRY(vault_get(vault, VAULT_PENDING_ISSUER, &msg, out_version));
    *out =
        MSG_AS(Mortise__Control__PendingIssuer, mortise__control__pending_issuer__descriptor, msg);
    return OK;
}

bool pending_issuer_exists(struct vault *vault)
{
    Mortise__Control__PendingIssuer *record = NULL;
    err_t err = pending_issuer_load(vault, &record, NULL);

    pending_issuer_free(record);
    return err_is_ok(err);
}

err_t pending_issuer_request(struct vault *vault, const char *trust_domain, int64_t now_s,
                             bool fresh, struct buf *out_csr)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    Mortise__Control__PendingIssuer *record = NULL;
    uint64_t version = STORE_ABSENT;
    err_t err = pending_issuer_load(vault, &record, &version);

    if (!err_is(err, E_NOT_FOUND))
        TRY(err);
    if (record == NULL || fresh) {
        pending_issuer_free(record);
        record = NULL;
        TRY(pending_issuer_create(vault, &batch, trust_domain, now_s, version));
        TRY(vault_commit(vault, &batch, NULL));
        TRY(pending_issuer_load(vault, &record, &version));
    }
    err = buf_add(out_csr, record->request.data, record->request.len);
    pending_issuer_free(record);
    return err;
}

/* ---- what came back ---- */

#define PENDING_CERTS_MAX 2

struct pending_chain {
    X509 *certs[PENDING_CERTS_MAX + 1]; /* owned; room for the root that is trusted already */
    size_t num;
};

static void pending_chain_fini(struct pending_chain *chain)
{
    for (size_t i = 0; i < chain->num; i++)
        X509_free(chain->certs[i]);
}

static err_t pending_parse(struct bytes der, size_t number, struct faults *faults,
                           struct pending_chain *chain)
{
    CLEANUP(mem_freep) char *path = mem_printf("chain[%zu]", number);
    err_t err = cert_parse_bytes(der, &chain->certs[chain->num]);

    if (!err_is_ok(err)) {
        faults_add(faults, path, "is no certificate: %s", err_text(err.code));
        return FAIL(CONFIG_INVALID, 1);
    }
    chain->num++;
    return OK;
}

static err_t pending_parse_all(const struct pending_issuer_reply *reply, struct faults *faults,
                               struct pending_chain *chain)
{
    if (reply->num == 0 || reply->num > PENDING_CERTS_MAX) {
        faults_add(faults, "chain",
                   "has %zu certificates: wanted are the issuing certificate and the root that "
                   "signed it, with no other between them",
                   reply->num);
        return FAIL(CONFIG_INVALID, 1);
    }
    for (size_t i = 0; i < reply->num; i++)
        TRY(pending_parse(reply->certs[i], i, faults, chain));
    if (reply->num == 1 && reply->root.len > 0)
        return pending_parse(reply->root, 1, faults, chain);
    if (reply->num == 1) {
        faults_add(faults, "chain", "the root's certificate is missing: no root is trusted yet");
        return FAIL(CONFIG_INVALID, 1);
    }
    return OK;
}

static bool pending_is_key(X509 *cert, EVP_PKEY *key)
{
    EVP_PKEY *public_key = X509_get_pubkey(cert);
    bool same = public_key != NULL && EVP_PKEY_cmp(public_key, key) == 1;

    EVP_PKEY_free(public_key);
    return same;
}

/* Which is which: the one with the pending key comes first. */
static err_t pending_judge(const struct pending_issuer_reply *reply, EVP_PKEY *key,
                           struct pending_chain *chain, struct faults *faults)
{
    X509 *first = chain->certs[0];

    if (!pending_is_key(first, key) && pending_is_key(chain->certs[1], key)) {
        chain->certs[0] = chain->certs[1];
        chain->certs[1] = first;
    }
    return issuing_check(
        &(struct issuing){
            .cert = chain->certs[0],
            .root = chain->certs[1],
            .key = key,
            .trust_domain = reply->trust_domain,
            .now_s = reply->now_s,
        },
        faults);
}

static err_t pending_fill(const struct pending_issuer_reply *reply, EVP_PKEY *key,
                          const struct pending_chain *chain, struct authority_pair *out)
{
    CRYPTO_BUFFER *cert = NULL, *root = NULL;
    struct bytes root_der;
    err_t err = cert_der(chain->certs[0], &cert);

    *out = (struct authority_pair){.root = {.der = NULL}};
    if (err_is_ok(err))
        err = cert_der(chain->certs[1], &root);
    if (err_is_ok(err))
        err = authority_make(bytes_of(CRYPTO_BUFFER_data(cert), CRYPTO_BUFFER_len(cert)), key,
                             &out->issuer);
    if (err_is_ok(err)) {
        root_der = bytes_of(CRYPTO_BUFFER_data(root), CRYPTO_BUFFER_len(root));
        if (!bytes_equal(root_der, reply->root))
            err = authority_make(root_der, NULL, &out->root);
    }
    CRYPTO_BUFFER_free(cert);
    CRYPTO_BUFFER_free(root);
    if (!err_is_ok(err))
        authority_pair_fini(out);
    return err;
}

err_t pending_issuer_take(struct vault *vault, struct vault_batch *batch,
                          const struct pending_issuer_reply *reply, struct faults *faults,
                          struct authority_pair *out)
{
    CLEANUP(pending_chain_fini) struct pending_chain chain = {.num = 0};
    Mortise__Control__PendingIssuer *record = NULL;
    EVP_PKEY *key = NULL;
    uint64_t version = 0;
    err_t err;

    TRY(pending_issuer_load(vault, &record, &version));
    err = key_from_der(msg_view(record->key), &key);
    pending_issuer_free(record);
    TRY(err);
    err = pending_parse_all(reply, faults, &chain);
    if (err_is_ok(err))
        err = pending_judge(reply, key, &chain, faults);
    if (err_is_ok(err))
        err = pending_fill(reply, key, &chain, out);
    EVP_PKEY_free(key);
    TRY(err);
    vault_batch_delete(batch, VAULT_PENDING_ISSUER, version);
    return OK;
}
