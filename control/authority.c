#include "control/authority.h"

#include <openssl/asn1.h>
#include <openssl/err.h>
#include <openssl/x509.h>

#include "certs/key.h"
#include "control/msg.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

void authority_fini(struct authority *authority)
{
    X509_free(authority->issuer.cert);
    EVP_PKEY_free(authority->issuer.key);
    mem_free(authority->der);
    *authority = (struct authority){0};
}

struct bytes authority_der(const struct authority *authority)
{
    return bytes_of(authority->der, authority->der_len);
}

static err_t authority_unix_time(const ASN1_TIME *time, int64_t *out)
{
    return ASN1_TIME_to_posix(time, out) == 1 ? OK : FAIL(STORE_CORRUPT, 0);
}

/* That is hashed for each certificate that it signs: once is enough. */
static err_t authority_hash_key(struct authority *authority)
{
    EVP_PKEY *key = X509_get_pubkey(authority->issuer.cert);
    err_t err = key != NULL ? key_spki_sha256(key, authority->key_sha256) : FAIL(STORE_CORRUPT, 0);

    EVP_PKEY_free(key);
    return err;
}

/* Takes the certificate; the key is set by the caller. */
static err_t authority_take_cert(struct authority *authority, struct bytes der)
{
    const uint8_t *pos = der.ptr;

    authority->der = mem_dup(der.ptr, der.len);
    authority->der_len = der.len;
    authority->issuer.cert = d2i_X509(NULL, &pos, (long)der.len);
    if (authority->issuer.cert == NULL)
        return FAIL(STORE_CORRUPT, 0);
    TRY(authority_hash_key(authority));
    TRY(authority_unix_time(X509_get0_notBefore(authority->issuer.cert), &authority->not_before));
    return authority_unix_time(X509_get0_notAfter(authority->issuer.cert), &authority->not_after);
}

static err_t authority_fill(struct authority *authority, const Mortise__Control__Authority *record)
{
    TRY(authority_take_cert(authority, msg_view(record->certificate)));
    if (record->key.len == 0)
        return OK; /* elsewhere */
    TRY(key_from_der(msg_view(record->key), &authority->issuer.key));
    return X509_check_private_key(authority->issuer.cert, authority->issuer.key) == 1
               ? OK
               : FAIL(STORE_CORRUPT, 0);
}

err_t authority_load(struct vault *vault, const char *path, struct authority *out)
{
    ProtobufCMessage *msg = NULL;
    const Mortise__Control__Authority *record;
    uint64_t version;
    err_t err;

    *out = (struct authority){0};
    TRY(vault_get(vault, path, &msg, &version));
    record = MSG_AS(Mortise__Control__Authority, mortise__control__authority__descriptor, msg);
    err = authority_fill(out, record);
    ERR_clear_error();
    mem_wipe(record->key.data, record->key.len);
    pb_free(msg);
    out->version = version;
    if (err_is_ok(err))
        return OK;
    authority_fini(out);
    log_error("ca", "record_refused", LOG_STR("path", path), LOG_ERR("error", err));
    return FAIL(STORE_CORRUPT, 0);
}

err_t authority_save(struct vault *vault, struct vault_batch *batch, const char *path,
                     const struct authority *authority, uint64_t expect)
{
    CLEANUP(buf_wipe_fini) struct buf der = {0};
    Mortise__Control__Authority record = MORTISE__CONTROL__AUTHORITY__INIT;

    if (authority->issuer.key != NULL)
        TRY(key_der(authority->issuer.key, &der));
    record.certificate = msg_bytes(authority_der(authority));
    record.key = msg_bytes(buf_view(&der));
    return vault_batch_put(vault, batch, path, &record.base, expect);
}

err_t authority_make(struct bytes der, EVP_PKEY *key, struct authority *out)
{
    *out = (struct authority){0};
    if (!err_is_ok(authority_take_cert(out, der))) {
        authority_fini(out);
        ERR_clear_error();
        return FAIL(CERT_SYNTAX, 0);
    }
    if (key != NULL)
        EVP_PKEY_up_ref(key);
    out->issuer.key = key;
    return OK;
}

/* What was just issued for `key`, which it takes a reference of. */
static void authority_of_issued(const struct issued *issued, EVP_PKEY *key, struct authority *out)
{
    CHECK(err_is_ok(authority_make(bytes_of(issued->der, issued->der_len), key, out)));
}

err_t authority_make_issuer(const struct issuer *root, const char *trust_domain, int64_t now_s,
                            int64_t ttl_s, struct authority *out)
{
    struct issued issued = {0};
    EVP_PKEY *key = NULL;
    err_t err = key_generate(&key);

    if (err_is_ok(err))
        err = issue_intermediate(root, trust_domain, key, now_s, ttl_s, &issued);
    if (err_is_ok(err))
        authority_of_issued(&issued, key, out);
    issued_fini(&issued);
    EVP_PKEY_free(key);
    return err;
}

static err_t authority_make_root(const char *trust_domain, int64_t now_s, int64_t ttl_s,
                                 struct authority *out)
{
    struct issued issued = {0};
    EVP_PKEY *key = NULL;
    err_t err = key_generate_p384(&key);

    if (err_is_ok(err))
        err = issue_root(trust_domain, key, now_s, ttl_s, &issued);
    if (err_is_ok(err))
        authority_of_issued(&issued, key, out);
    issued_fini(&issued);
    EVP_PKEY_free(key);
    return err;
}

err_t authority_make_pair(const char *trust_domain, int64_t now_s, int64_t ttl_s,
                          int64_t issuer_ttl_s, struct authority_pair *out)
{
    err_t err;

    *out = (struct authority_pair){.root = {.der = NULL}};
    TRY(authority_make_root(trust_domain, now_s, ttl_s, &out->root));
    err = authority_make_issuer(&out->root.issuer, trust_domain, now_s, issuer_ttl_s, &out->issuer);
    if (!err_is_ok(err))
        authority_pair_fini(out);
    return err;
}

bool authority_belongs(const struct authority *root, const struct authority *issuer)
{
    EVP_PKEY *key = X509_get_pubkey(root->issuer.cert);
    bool signed_by_root = key != NULL && X509_verify(issuer->issuer.cert, key) == 1;

    EVP_PKEY_free(key);
    ERR_clear_error();
    return signed_by_root;
}

void authority_pair_fini(struct authority_pair *pair)
{
    authority_fini(&pair->root);
    authority_fini(&pair->issuer);
}
