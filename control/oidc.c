#include "control/oidc.h"

#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include <openssl/ssl.h>

#include "certs/web_roots.h"
#include "control/bucket.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/rpc/http1_get.h"

#define OIDC_SOURCES_MAX 4096

/* What tells one state of a file from the next. */
struct oidc_stamp {
    struct timespec changed;
    off_t size;
    ino_t inode;
};

struct oidc {
    struct oidc_params params;
    struct http1_url url;
    struct jwks *keys; /* NULL: none yet */
    int64_t fresh_at;
    struct oidc_stamp stamp;
    struct http1_get *get;  /* under way */
    uint64_t asked_at_ms;   /* began, last */
    bool asked;             /* ever */
    bool failed;            /* the last time */
    struct buckets refused; /* by source */
};

/* ---- keys ---- */

static void oidc_log_keys(const struct oidc *oidc, size_t withdrawn)
{
    log_info("oidc", "keys", LOG_STR("issuer", oidc->params.issuer),
             LOG_UINT("keys", oidc->keys->num), LOG_UINT("left_out", oidc->keys->left_out),
             LOG_UINT("withdrawn", withdrawn));
}

/* Takes `next`. */
static void oidc_use(struct oidc *oidc, struct jwks *next)
{
    struct jwks *before = oidc->keys;
    size_t withdrawn = 0, known = 0;

    for (size_t i = 0; before != NULL && i < before->num; i++) {
        if (jwks_holds(next, before->keys[i].sha256))
            known++;
        else
            withdrawn++;
    }
    oidc->keys = next;
    if (before == NULL || withdrawn > 0 || known != next->num)
        oidc_log_keys(oidc, withdrawn);
    jwks_free(before);
    if (withdrawn > 0 && oidc->params.on_withdrawn != NULL)
        oidc->params.on_withdrawn(oidc->params.arg);
}

/* What was read, or why nothing was. */
static void oidc_refreshed(struct oidc *oidc, err_t err, struct bytes text)
{
    const char *from =
        oidc->params.keys_file != NULL ? oidc->params.keys_file : oidc->params.keys_url;
    struct jwks *next = NULL;

    if (err_is_ok(err))
        err = jwks_parse(text, &next);
    if (err_is_ok(err)) {
        oidc->fresh_at = clock_wall_s(loop_clock(oidc->params.loop));
        oidc_use(oidc, next);
    } else {
        log_warn("oidc", "keys_unavailable", LOG_STR("issuer", oidc->params.issuer),
                 LOG_STR("from", from), LOG_ERR("reason", err),
                 LOG_UINT("keys_in_force", oidc_num_keys(oidc)));
    }
    oidc->failed = !err_is_ok(err);
    if (oidc->params.on_refreshed != NULL)
        oidc->params.on_refreshed(oidc->params.arg, err);
}

/* ---- of a file ---- */

static struct oidc_stamp oidc_look(const struct oidc *oidc)
{
    struct stat st;

    if (stat(oidc->params.keys_file, &st) != 0)
        return (struct oidc_stamp){.size = -1};
    return (struct oidc_stamp){.changed = st.st_ctim, .size = st.st_size, .inode = st.st_ino};
}

static void oidc_read(struct oidc *oidc)
{
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err;

    oidc->asked_at_ms = loop_now_ms(oidc->params.loop);
    oidc->stamp = oidc_look(oidc); /* before: what is changed meanwhile is read again */
    err = file_read(oidc->params.keys_file, JWKS_TEXT_MAX, &text);
    oidc_refreshed(oidc, err, buf_view(&text));
}

static void oidc_tick_file(struct oidc *oidc)
{
    struct oidc_stamp now = oidc_look(oidc);

    if (now.size != oidc->stamp.size || now.inode != oidc->stamp.inode ||
        now.changed.tv_sec != oidc->stamp.changed.tv_sec ||
        now.changed.tv_nsec != oidc->stamp.changed.tv_nsec ||
        (oidc->failed && loop_now_ms(oidc->params.loop) - oidc->asked_at_ms >= OIDC_UNKNOWN_MS))
        oidc_read(oidc);
}

/* ---- of an address ---- */

static void oidc_on_got(void *arg, err_t err, struct bytes body)
{
    struct oidc *oidc = arg;

    oidc->get = NULL;
    oidc_refreshed(oidc, err, body);
}

static void oidc_fetch(struct oidc *oidc)
{
    struct http1_get_params params = {
        .url = &oidc->url,
        .accept = "application/jwk-set+json, application/json",
        .timeout_ms = OIDC_FETCH_MS,
        .body_max = JWKS_TEXT_MAX,
        .cb = oidc_on_got,
        .arg = oidc,
    };
    err_t err;

    oidc->asked = true;
    oidc->asked_at_ms = loop_now_ms(oidc->params.loop);
    err = web_roots_ctx(oidc->params.ca_file, &params.ctx); /* each time: CAs change, too */
    if (!err_is_ok(err)) {
        oidc_refreshed(oidc, err, bytes_of(NULL, 0));
        return;
    }
    oidc->get = http1_get_start(oidc->params.loop, &params);
    SSL_CTX_free(params.ctx);
}

/* How long the next fetch has to wait at least. */
static uint64_t oidc_pause_ms(const struct oidc *oidc)
{
    return oidc->params.refresh_ms < OIDC_UNKNOWN_MS ? oidc->params.refresh_ms : OIDC_UNKNOWN_MS;
}

static bool oidc_is_due(const struct oidc *oidc, uint64_t after_ms)
{
    return oidc->get == NULL &&
           (!oidc->asked || loop_now_ms(oidc->params.loop) - oidc->asked_at_ms >= after_ms);
}

static void oidc_tick_url(struct oidc *oidc)
{
    /* Without keys, or after a failure, as often as it may be. */
    bool soon = oidc->keys == NULL || oidc->failed;

    if (oidc_is_due(oidc, soon ? oidc_pause_ms(oidc) : oidc->params.refresh_ms))
        oidc_fetch(oidc);
}

/* ---- tokens ---- */

/* What stands behind "Bearer " (RFC 6750 section 2.1). */
static err_t oidc_bearer(struct bytes credentials, struct bytes *out)
{
    static const char scheme[] = "Bearer ";
    size_t len = sizeof(scheme) - 1;

    if (credentials.len <= len || strncasecmp((const char *)credentials.ptr, scheme, len) != 0)
        return FAIL(JWT_SYNTAX, 0);
    *out = bytes_of(credentials.ptr + len, credentials.len - len);
    return OK;
}

err_t oidc_check(struct oidc *oidc, struct bytes token, struct jwt *out)
{
    struct jwt_rules rules;
    err_t err;

    if (oidc == NULL)
        return FAIL(JWT_UNWANTED, 0);
    rules = (struct jwt_rules){
        .issuer = oidc->params.issuer,
        .audience = oidc->params.audience,
        .groups_claim = oidc->params.groups_claim,
        .claims = oidc->params.claims,
        .now_s = clock_wall_s(loop_clock(oidc->params.loop)),
    };
    err =
        oidc->keys != NULL ? jwt_verify(token, oidc->keys, &rules, out) : FAIL(JWT_KEY_UNKNOWN, 0);
    if (err_is(err, E_JWT_KEY_UNKNOWN) && oidc->params.keys_url != NULL &&
        oidc_is_due(oidc, oidc_pause_ms(oidc)))
        oidc_fetch(oidc);
    return err;
}

static err_t oidc_verify(struct oidc *oidc, struct bytes credentials, struct jwt *out)
{
    struct bytes token;

    TRY(oidc_bearer(credentials, &token));
    return oidc_check(oidc, token, out);
}

static err_t oidc_judge(struct oidc *oidc, const struct grpc_peer *peer, struct bytes credentials,
                        struct jwt *out)
{
    struct caller *connection = peer->identity;
    uint64_t now_ms;
    char source[ADDR_TEXT_MAX];
    err_t err;

    if (oidc == NULL || !peer->tls || connection->peer != NULL)
        return FAIL(JWT_UNWANTED, 0);
    now_ms = loop_now_ms(oidc->params.loop);
    caller_source(&peer->addr, source);
    if (!buckets_has(&oidc->refused, source, now_ms))
        return FAIL(RATE_LIMITED, 0);
    err = oidc_verify(oidc, credentials, out);
    if (!err_is_ok(err))
        (void)buckets_take(&oidc->refused, source, now_ms);
    return err;
}

enum grpc_status oidc_identify(struct oidc *oidc, const struct grpc_peer *peer,
                               struct bytes credentials, struct caller **out, err_t *out_err)
{
    CLEANUP(jwt_fini) struct jwt jwt = {.subject = NULL};

    *out_err = oidc_judge(oidc, peer, credentials, &jwt);
    if (!err_is_ok(*out_err))
        return err_is(*out_err, E_RATE_LIMITED) ? GRPC_RESOURCE_EXHAUSTED : GRPC_UNAUTHENTICATED;
    *out = caller_of_token(peer->identity, oidc->params.issuer, &jwt);
    return GRPC_OK;
}

bool oidc_stands(const struct oidc *oidc, const struct caller_token *token)
{
    return oidc != NULL && oidc->keys != NULL && jwks_holds(oidc->keys, token->key_sha256) &&
           clock_wall_s(loop_clock(oidc->params.loop)) < token->expires_at;
}

/* ---- the whole ---- */

struct oidc *oidc_new(const struct oidc_params *params)
{
    struct oidc *oidc = mem_zalloc(sizeof(*oidc));

    oidc->params = *params;
    buckets_init(&oidc->refused, OIDC_SOURCE_BURST, OIDC_SOURCE_PER_MINUTE, OIDC_SOURCES_MAX);
    if (params->keys_file != NULL) {
        oidc_read(oidc);
    } else {
        err_t err = http1_url_parse(params->keys_url, &oidc->url);

        CHECK(err_is_ok(err)); /* config has judged it */
        oidc_fetch(oidc);
    }
    return oidc;
}

void oidc_free(struct oidc *oidc)
{
    if (oidc == NULL)
        return;
    if (oidc->get != NULL)
        http1_get_cancel(oidc->get);
    jwks_free(oidc->keys);
    buckets_fini(&oidc->refused);
    mem_free(oidc);
}

void oidc_tick(struct oidc *oidc)
{
    if (oidc == NULL)
        return;
    if (oidc->params.keys_file != NULL)
        oidc_tick_file(oidc);
    else
        oidc_tick_url(oidc);
}

size_t oidc_num_keys(const struct oidc *oidc)
{
    return oidc != NULL && oidc->keys != NULL ? oidc->keys->num : 0;
}

int64_t oidc_fresh_at(const struct oidc *oidc)
{
    return oidc != NULL ? oidc->fresh_at : 0;
}
