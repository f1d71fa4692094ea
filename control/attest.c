#include "control/attest.h"

#include <string.h>

#include <openssl/sha.h>

#include "certs/proof.h"
#include "control/msg.h"
#include "lib/base/random.h"
#include "lib/rpc/pb.h"

#define ATTEST_PREFIX "mjt1."
#define ATTEST_LOGIN_PREFIX "mlt1." /* as long */
#define ATTEST_SECRET_LEN 32
#define ATTEST_TEXT_LEN 43 /* of 32 bytes in base64 without padding */

static void attest_path(const char *token, char out[VAULT_PATH_MAX])
{
    uint8_t hash[SHA256_DIGEST_LENGTH];
    char hex[2 * SHA256_DIGEST_LENGTH + 1];

    SHA256((const uint8_t *)token, strlen(token), hash);
    bytes_to_hex(bytes_of(hash, sizeof(hash)), hex);
    vault_path(VAULT_TOKENS, hex, out);
}

/* The text of a new token, owned. */
static char *attest_text(const char *prefix)
{
    uint8_t secret[ATTEST_SECRET_LEN];
    char *base64;
    char *text;

    random_fill(secret, sizeof(secret));
    base64 = bytes_to_base64(bytes_of(secret, sizeof(secret)));
    for (char *pos = base64; *pos != '\0'; pos++) {
        if (*pos == '+')
            *pos = '-';
        else if (*pos == '/')
            *pos = '_';
    }
    text = mem_printf("%s%.*s", prefix, ATTEST_TEXT_LEN, base64);
    mem_wipe(secret, sizeof(secret));
    mem_wipe(base64, strlen(base64));
    mem_free(base64);
    return text;
}

err_t attest_token_new(struct vault *vault, const char *subsystem, int64_t now_s, int64_t ttl_s,
                       char **out_token)
{
    Mortise__Control__Token record = MORTISE__CONTROL__TOKEN__INIT;
    char path[VAULT_PATH_MAX];
    char *text = attest_text(ATTEST_PREFIX);
    err_t err;

    record.subsystem = msg_lend(subsystem);
    record.created_at = now_s;
    record.expires_at = now_s + ttl_s;
    attest_path(text, path);
    err = vault_put(vault, path, &record.base, STORE_ABSENT, NULL);
    if (!err_is_ok(err)) {
        mem_wipe(text, strlen(text));
        mem_free(text);
        return err;
    }
    *out_token = text;
    return OK;
}

err_t attest_login_new(struct vault *vault, struct vault_batch *batch, const char *admin,
                       uint64_t epoch, int64_t now_s, int64_t ttl_s, char **out_token)
{
    Mortise__Control__Token record = MORTISE__CONTROL__TOKEN__INIT;
    char path[VAULT_PATH_MAX];
    char *text = attest_text(ATTEST_LOGIN_PREFIX);
    err_t err;

    record.admin = msg_lend(admin);
    record.epoch = epoch;
    record.created_at = now_s;
    record.expires_at = now_s + ttl_s;
    attest_path(text, path);
    err = vault_batch_put(vault, batch, path, &record.base, STORE_ABSENT);
    if (!err_is_ok(err)) {
        mem_wipe(text, strlen(text));
        mem_free(text);
        return err;
    }
    *out_token = text;
    return OK;
}

static bool attest_text_valid(const char *token, const char *prefix)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t len = strlen(prefix);

    return strncmp(token, prefix, len) == 0 && strlen(token) == len + ATTEST_TEXT_LEN &&
           strspn(token + len, digits) == ATTEST_TEXT_LEN;
}

static err_t attest_look_up(struct vault *vault, const char *prefix, const char *token,
                            int64_t now_s, struct attest_grant *out)
{
    struct attest_grant grant = {0};
    ProtobufCMessage *msg = NULL;
    err_t err;

    if (!attest_text_valid(token, prefix))
        return FAIL(TOKEN_UNKNOWN, 0);
    attest_path(token, grant.path);
    err = vault_get(vault, grant.path, &msg, &grant.version);
    if (!err_is_ok(err))
        return err_is(err, E_NOT_FOUND) ? FAIL(TOKEN_UNKNOWN, 0) : err;
    grant.token = MSG_AS(Mortise__Control__Token, mortise__control__token__descriptor, msg);
    if (now_s >= grant.token->expires_at) {
        attest_grant_fini(&grant);
        return FAIL(TOKEN_EXPIRED, 0);
    }
    *out = grant;
    return OK;
}

err_t attest_find(struct vault *vault, const char *token, int64_t now_s, struct attest_grant *out)
{
    return attest_look_up(vault, ATTEST_PREFIX, token, now_s, out);
}

err_t attest_login_find(struct vault *vault, const char *token, uint64_t epoch, int64_t now_s,
                        struct attest_grant *out)
{
    TRY(attest_look_up(vault, ATTEST_LOGIN_PREFIX, token, now_s, out));
    if (out->token->epoch == epoch)
        return OK;
    attest_grant_fini(out);
    return FAIL(TOKEN_EXPIRED, 0);
}

void attest_grant_fini(struct attest_grant *grant)
{
    if (grant->token != NULL)
        pb_free(&grant->token->base);
    grant->token = NULL;
}

err_t attest_bind(struct vault *vault, const struct attest_grant *grant,
                  const uint8_t key_sha256[32], int64_t now_s, struct vault_batch *batch)
{
    Mortise__Control__Token record = *grant->token;

    if (record.key_sha256.len != 0)
        return bytes_equal(msg_view(record.key_sha256), bytes_of(key_sha256, 32))
                   ? OK
                   : FAIL(TOKEN_USED, 0);
    record.key_sha256 = msg_bytes(bytes_of(key_sha256, 32));
    record.used_at = now_s;
    return vault_batch_put(vault, batch, grant->path, &record.base, grant->version);
}

/* The record of just that certificate, of a sidecar. */
static err_t attest_record(struct vault *vault, const struct proof_subject *subject,
                           Mortise__Control__Issuance **out)
{
    ProtobufCMessage *msg = NULL;
    Mortise__Control__Issuance *record;
    char path[VAULT_PATH_MAX];
    err_t err;

    vault_path(VAULT_CERTS, subject->serial, path);
    err = vault_get(vault, path, &msg, NULL);
    if (!err_is_ok(err))
        return err_is(err, E_NOT_FOUND) ? FAIL(REJOIN_UNKNOWN, 0) : err;
    record = MSG_AS(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    if (record->subsystem[0] == '\0' ||
        !bytes_equal(msg_view(record->sha256), bytes_of(subject->sha256, 32))) {
        pb_free(msg);
        return FAIL(REJOIN_UNKNOWN, 0);
    }
    *out = record;
    return OK;
}

err_t attest_last(struct vault *vault, const Mortise__V1__LastCertificate *last, struct bytes csr,
                  int64_t now_s, uint32_t rejoin_s, Mortise__Control__Issuance **out)
{
    CLEANUP(proof_subject_fini) struct proof_subject subject = {.serial = NULL};
    Mortise__Control__Issuance *record = NULL;
    err_t err = OK;

    TRY(proof_read(msg_view(last->certificate), &subject));
    TRY(attest_record(vault, &subject, &record));
    /* Their clock may be ahead of ours: one that is still valid is as good. */
    if (rejoin_s == 0 || now_s - record->not_after >= (int64_t)rejoin_s)
        err = FAIL(REJOIN_LATE, rejoin_s == 0 ? 0 : now_s - record->not_after);
    if (err_is_ok(err))
        err = proof_check(&subject, csr, msg_view(last->signature));
    if (!err_is_ok(err)) {
        pb_free(&record->base);
        return err;
    }
    *out = record;
    return OK;
}

struct attest_purge {
    struct vault_batch batch;
    int64_t before_s;
};

static err_t attest_purge_one(void *arg, const char *path, uint64_t version,
                              const ProtobufCMessage *msg)
{
    const Mortise__Control__Token *record =
        MSG_AS_CONST(Mortise__Control__Token, mortise__control__token__descriptor, msg);
    struct attest_purge *purge = arg;

    if (record->expires_at < purge->before_s && purge->batch.num < STORE_CHANGES_MAX)
        vault_batch_delete(&purge->batch, path, version);
    return OK;
}

err_t attest_purge(struct vault *vault, int64_t now_s)
{
    struct attest_purge purge = {.before_s = now_s - ATTEST_KEEP_S};
    err_t err = vault_each(vault, VAULT_TOKENS, attest_purge_one, &purge);

    if (err_is_ok(err))
        err = vault_commit(vault, &purge.batch, NULL);
    vault_batch_fini(&purge.batch);
    return err;
}
