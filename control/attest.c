#include "control/attest.h"

#include <string.h>

#include <openssl/sha.h>

#include "control/msg.h"
#include "lib/base/random.h"
#include "lib/rpc/pb.h"

#define ATTEST_PREFIX "mjt1."
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
static char *attest_text(void)
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
    text = mem_printf(ATTEST_PREFIX "%.*s", ATTEST_TEXT_LEN, base64);
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
    char *text = attest_text();
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

static bool attest_text_valid(const char *token)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    size_t prefix = sizeof(ATTEST_PREFIX) - 1;

    return strncmp(token, ATTEST_PREFIX, prefix) == 0 &&
           strlen(token) == prefix + ATTEST_TEXT_LEN &&
           strspn(token + prefix, digits) == ATTEST_TEXT_LEN;
}

err_t attest_find(struct vault *vault, const char *token, int64_t now_s, struct attest_grant *out)
{
    struct attest_grant grant = {0};
    ProtobufCMessage *msg = NULL;
    err_t err;

    if (!attest_text_valid(token))
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
