#include "proxy/identity.h"

#include <stdio.h>
#include <string.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/proof.h"
#include "certs/renew.h"
#include "certs/secrets.h"
#include "certs/spiffe_id.h"
#include "lib/base/backoff.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"

#define IDENTITY_ATTEST "/mortise.v1.IdentityService/Attest"
#define IDENTITY_RENEW "/mortise.v1.IdentityService/Renew"
#define IDENTITY_CALL_MS 15000
#define IDENTITY_BACKOFF_BASE_MS 500
#define IDENTITY_BACKOFF_MAX_MS 60000
#define IDENTITY_LOOK_MS 5000 /* no timer sleeps longer: the wall clock may be set */
#define IDENTITY_TOKEN_MAX 16384
#define IDENTITY_ERROR_MAX 256
#define IDENTITY_ROOTS_MAX 64

enum identity_state {
    IDENTITY_NEW,
    IDENTITY_WAITING, /* the timer says when to try */
    IDENTITY_ASKING,  /* a call is under way */
    IDENTITY_CLOSED,
    IDENTITY_NUM,
};

#define TO(state) (1u << IDENTITY_##state)
static const unsigned identity_next[IDENTITY_NUM] = {
    [IDENTITY_NEW] = TO(WAITING) | TO(CLOSED),
    [IDENTITY_WAITING] = TO(ASKING) | TO(CLOSED),
    [IDENTITY_ASKING] = TO(WAITING) | TO(CLOSED),
    [IDENTITY_CLOSED] = 0,
};

/* How a certificate is asked for. */
enum identity_way {
    IDENTITY_BY_RENEWAL, /* with the one in force */
    IDENTITY_BY_TOKEN,
    IDENTITY_BY_LAST, /* with the one that has expired */
};

struct identity {
    struct identity_params params;
    enum identity_state state;
    struct timer timer;
    int64_t due_s; /* wall clock: when to try; 0: at once when the timer comes */
    struct backoff backoff;
    struct grpc_client_call *call;
    EVP_PKEY *asked_key; /* of the request under way, or of the last that has not succeeded */
    enum identity_way way;
    bool refused;      /* the way tried last, by the control plane: another one may lead there */
    struct svid *svid; /* in force */
    uint64_t epoch;
    uint64_t wanted_epoch;
    uint64_t timed_epoch; /* the timer runs for it already */
    char *token_file;
    char *token;
    char *expect_id;
    char error[IDENTITY_ERROR_MAX];
};

static void identity_try(void *arg);

static void identity_set_state(struct identity *identity, enum identity_state state)
{
    CHECK((identity_next[identity->state] & 1u << state) != 0);
    identity->state = state;
}

static void identity_wipe_token(struct identity *identity)
{
    if (identity->token == NULL)
        return;
    mem_wipe(identity->token, strlen(identity->token));
    mem_free(identity->token);
    identity->token = NULL;
}

/* ---- waiting ---- */

static void identity_on_timer(void *arg);

/* Waits until the wall clock says due_s, looking at it now and then. */
static void identity_wait(struct identity *identity)
{
    int64_t left_s = identity->due_s - clock_wall_s(identity->params.clock);
    uint64_t ms = left_s <= 0 ? 0 : (uint64_t)left_s * 1000;

    timer_start(identity->params.loop, &identity->timer,
                ms < IDENTITY_LOOK_MS ? ms : IDENTITY_LOOK_MS, identity_on_timer, identity);
}

static void identity_on_timer(void *arg)
{
    struct identity *identity = arg;

    if (clock_wall_s(identity->params.clock) < identity->due_s)
        identity_wait(identity);
    else
        identity_try(identity);
}

/* Waits `ms` whatever the wall clock says. */
static void identity_wait_ms(struct identity *identity, uint64_t ms)
{
    identity->due_s = 0;
    timer_start(identity->params.loop, &identity->timer, ms, identity_on_timer, identity);
}

static bool identity_is_expired(const struct identity *identity)
{
    return identity->svid == NULL ||
           clock_wall_s(identity->params.clock) >= identity->svid->not_after;
}

/* ---- failing ---- */

static void identity_failed(struct identity *identity, const char *text)
{
    uint32_t delay_ms = backoff_next(&identity->backoff, random_u32());
    bool changed = strncmp(identity->error, text, sizeof(identity->error) - 1) != 0;

    (void)snprintf(identity->error, sizeof(identity->error), "%s", text);
    log_warn("identity", identity->way == IDENTITY_BY_RENEWAL ? "renew_failed" : "attest_failed",
             LOG_STR("reason", identity->error), LOG_UINT("retry_ms", delay_ms));
    stats_add(identity->params.stats, STAT_RENEW_FAILED, 1);
    identity_set_state(identity, IDENTITY_WAITING);
    identity_wait_ms(identity, delay_ms);
    if (changed)
        identity->params.on_error(identity->params.arg);
}

static void identity_failed_err(struct identity *identity, const char *what, err_t err)
{
    char text[IDENTITY_ERROR_MAX];

    (void)snprintf(text, sizeof(text), "%s: %s (%s)", what, err_text(err.code), err_name(err.code));
    identity_failed(identity, text);
}

/* ---- answering ---- */

err_t identity_check_response(const Mortise__V1__CertificateResponse *response, EVP_PKEY *key,
                              const char *trust_domain, const char *same_id, int64_t now_s,
                              struct svid **out_svid, struct bundle **out_roots)
{
    CLEANUP(bundle_unrefp) struct bundle *roots = NULL;
    CLEANUP(svid_unrefp) struct svid *svid = NULL;
    struct bytes chain[SVID_CHAIN_MAX], certs[IDENTITY_ROOTS_MAX];
    struct spiffe_id id;

    if (response->n_chain > SVID_CHAIN_MAX)
        return FAIL(CHAIN_TOO_LONG, response->n_chain);
    if (response->n_trust_roots > IDENTITY_ROOTS_MAX)
        return FAIL(TOO_LARGE, IDENTITY_ROOTS_MAX);
    for (size_t i = 0; i < response->n_chain; i++)
        chain[i] = bytes_of(response->chain[i].data, response->chain[i].len);
    for (size_t i = 0; i < response->n_trust_roots; i++)
        certs[i] = bytes_of(response->trust_roots[i].data, response->trust_roots[i].len);

    TRY(bundle_of_der(certs, response->n_trust_roots, trust_domain, &roots));
    TRY(svid_of_der(chain, response->n_chain, key, roots, now_s, &svid));
    TRY(spiffe_id_parse(bytes_of_str(svid->spiffe_id), &id));
    if (!bytes_equal_str(id.trust_domain, trust_domain))
        return FAIL(TRUST_DOMAIN, 0);
    if (strcmp(svid->spiffe_id, response->spiffe_id) != 0 ||
        (same_id != NULL && strcmp(svid->spiffe_id, same_id) != 0))
        return FAIL(PEER_IDENTITY, 0);

    *out_svid = svid;
    *out_roots = roots;
    svid = NULL; /* the caller's now */
    roots = NULL;
    return OK;
}

static void identity_schedule_renewal(struct identity *identity, int64_t planned_s)
{
    identity->due_s =
        renew_planned(planned_s, identity->svid->not_before, identity->svid->not_after,
                      clock_wall_s(identity->params.clock), random_u32());
    /* Issued for less than a minute or two: not in a tight circle. */
    if (identity->due_s <= clock_wall_s(identity->params.clock))
        identity->due_s = clock_wall_s(identity->params.clock) + 1;
    identity_set_state(identity, IDENTITY_WAITING);
    identity_wait(identity);
}

static const char *const identity_events[] = {
    [IDENTITY_BY_RENEWAL] = "renewed",
    [IDENTITY_BY_TOKEN] = "attested",
    [IDENTITY_BY_LAST] = "rejoined",
};

static void identity_accept(struct identity *identity, struct svid *svid, struct bundle *roots,
                            uint64_t epoch, int64_t renew_s)
{
    bool had_error = identity->error[0] != '\0';

    if (identity->svid != NULL)
        svid_unref(identity->svid);
    identity->svid = svid_ref(svid);
    identity->epoch = epoch;
    identity->error[0] = '\0';
    identity->refused = false;
    backoff_reset(&identity->backoff);
    identity_wipe_token(identity); /* used, and of no use to anybody else */
    log_info("identity", identity_events[identity->way], LOG_STR("id", svid->spiffe_id),
             LOG_STR("serial", svid->serial), LOG_INT("not_before", svid->not_before),
             LOG_INT("not_after", svid->not_after), LOG_UINT("epoch", epoch));
    stats_add(identity->params.stats, STAT_RENEWED, 1);
    identity_schedule_renewal(identity, renew_s);
    if (identity->wanted_epoch >
        epoch) /* raised while we asked, or not satisfied: no tight circle */
        identity_wait_ms(identity, IDENTITY_BACKOFF_BASE_MS);
    identity->params.on_svid(identity->params.arg, svid, roots);
    if (had_error)
        identity->params.on_error(identity->params.arg);
}

static void identity_on_reply(void *arg, const struct grpc_result *result,
                              const ProtobufCMessage *reply)
{
    struct identity *identity = arg;
    const Mortise__V1__CertificateResponse *response =
        (const Mortise__V1__CertificateResponse *)(const void *)reply;
    CLEANUP(svid_unrefp) struct svid *svid = NULL;
    CLEANUP(bundle_unrefp) struct bundle *roots = NULL;
    EVP_PKEY *key = identity->asked_key;
    char text[IDENTITY_ERROR_MAX];
    err_t err;

    identity->call = NULL;
    if (result->status != GRPC_OK) {
        identity->refused =
            result->status == GRPC_PERMISSION_DENIED || result->status == GRPC_INVALID_ARGUMENT;
        (void)snprintf(text, sizeof(text), "%s: %s", grpc_status_name(result->status),
                       result->message[0] != '\0' ? result->message : err_text(result->err.code));
        identity_failed(identity, text);
        return;
    }
    err = identity_check_response(response, key, uplink_trust_domain(identity->params.uplink),
                                  identity->svid != NULL ? identity->svid->spiffe_id
                                                         : identity->expect_id,
                                  clock_wall_s(identity->params.clock), &svid, &roots);
    if (!err_is_ok(err)) {
        identity_failed_err(identity, "the control plane's certificate is refused", err);
        return;
    }
    identity->asked_key = NULL;
    EVP_PKEY_free(key); /* the svid has its own reference */
    identity_accept(identity, svid, roots, response->certificate_epoch, response->renew_at);
}

/* ---- asking ---- */

/* The token, without the newline of a file. Errors: those of secrets_read_file, NOT_FOUND. */
static err_t identity_read_token(const struct identity *identity, struct buf *out)
{
    char why[SECRETS_WHY_MAX] = "";
    struct bytes view;
    err_t err;

    if (identity->token != NULL)
        return buf_add_str(out, identity->token);
    if (identity->token_file == NULL)
        return FAIL(NOT_FOUND, 0);
    err = identity->params.token_is_platforms
              ? file_read(identity->token_file, IDENTITY_TOKEN_MAX, out)
              : secrets_read_file(identity->token_file, IDENTITY_TOKEN_MAX, out, why);
    if (!err_is_ok(err) && why[0] != '\0')
        log_warn("identity", "token_not_opened", LOG_STR("file", identity->token_file),
                 LOG_STR("reason", why));
    TRY(err);
    view = buf_view(out);
    while (view.len > 0 && (view.ptr[view.len - 1] == '\n' || view.ptr[view.len - 1] == '\r' ||
                            view.ptr[view.len - 1] == ' '))
        view.len--;
    out->len = out->pos + view.len;
    return OK;
}

static void identity_call_attest(struct identity *identity, Mortise__V1__AttestRequest *request,
                                 struct bytes csr)
{
    request->csr.data = (uint8_t *)(uintptr_t)csr.ptr; /* only read */
    request->csr.len = csr.len;
    identity->call = grpc_unary(uplink_channel(identity->params.uplink), IDENTITY_ATTEST,
                                &request->base, &mortise__v1__certificate_response__descriptor,
                                IDENTITY_CALL_MS, identity_on_reply, identity);
}

static err_t identity_ask_by_token(struct identity *identity, struct bytes csr, struct buf *token)
{
    Mortise__V1__AttestRequest request = MORTISE__V1__ATTEST_REQUEST__INIT;

    TRY(buf_add(token, "", 1)); /* NUL */
    request.credential_case = MORTISE__V1__ATTEST_REQUEST__CREDENTIAL_JOIN_TOKEN;
    request.join_token = (char *)token->data + token->pos;
    identity_call_attest(identity, &request, csr);
    return OK;
}

static err_t identity_ask_by_last(struct identity *identity, struct bytes csr)
{
    Mortise__V1__AttestRequest request = MORTISE__V1__ATTEST_REQUEST__INIT;
    Mortise__V1__LastCertificate last = MORTISE__V1__LAST_CERTIFICATE__INIT;
    CLEANUP(buf_fini) struct buf signature = {.data = NULL};
    CRYPTO_BUFFER *leaf = identity->svid->chain[0];

    last.certificate.data = (uint8_t *)(uintptr_t)CRYPTO_BUFFER_data(leaf); /* only read */
    last.certificate.len = CRYPTO_BUFFER_len(leaf);
    TRY(proof_sign(identity->svid->key, bytes_of(last.certificate.data, last.certificate.len), csr,
                   &signature));
    last.signature.data = signature.data + signature.pos;
    last.signature.len = buf_size(&signature);
    request.credential_case = MORTISE__V1__ATTEST_REQUEST__CREDENTIAL_LAST_CERTIFICATE;
    request.last_certificate = &last;
    identity_call_attest(identity, &request, csr);
    return OK;
}

static void identity_ask_renew(struct identity *identity, struct bytes csr)
{
    Mortise__V1__RenewRequest request = MORTISE__V1__RENEW_REQUEST__INIT;

    request.csr.data = (uint8_t *)(uintptr_t)csr.ptr; /* only read */
    request.csr.len = csr.len;
    request.certificate_epoch =
        identity->wanted_epoch > identity->epoch ? identity->wanted_epoch : 0;
    identity->call = grpc_unary(uplink_channel(identity->params.uplink), IDENTITY_RENEW,
                                &request.base, &mortise__v1__certificate_response__descriptor,
                                IDENTITY_CALL_MS, identity_on_reply, identity);
}

/* A key of its own for each certificate, kept until there is one: an answer may have been lost, and
 * a token, or a certificate that is followed, belongs to the first key that comes with it. */
static err_t identity_make_key(struct identity *identity)
{
    return identity->asked_key != NULL ? OK : key_generate(&identity->asked_key);
}

/* The way to try now. Who has had a certificate comes back with it; refused, with a token if there
 * is one (somebody may have put a new one there), and so on in turn. Of a token, `token` has it. */
static err_t identity_choose(struct identity *identity, struct buf *token, enum identity_way *out)
{
    bool had = identity->svid != NULL;
    err_t err;

    if (!identity_is_expired(identity)) {
        *out = IDENTITY_BY_RENEWAL;
        return OK;
    }
    *out = had ? IDENTITY_BY_LAST : IDENTITY_BY_TOKEN;
    /* The way stays until it is refused: a token whose answer was lost belongs to this key. */
    if (had && identity->refused == (identity->way == IDENTITY_BY_TOKEN))
        return OK;
    err = identity_read_token(identity, token);
    if (err_is_ok(err))
        *out = IDENTITY_BY_TOKEN;
    return had ? OK : err;
}

static err_t identity_ask(struct identity *identity, struct buf *token)
{
    CLEANUP(buf_fini) struct buf csr = {.data = NULL};

    TRY(identity_make_key(identity));
    TRY(csr_build(identity->asked_key, NULL, &csr));
    if (identity->way != IDENTITY_BY_RENEWAL && identity->svid != NULL) {
        uplink_set_svid(identity->params.uplink, NULL); /* an expired one opens no door */
        uplink_reconnect(identity->params.uplink);
    }
    if (identity->way == IDENTITY_BY_TOKEN)
        return identity_ask_by_token(identity, buf_view(&csr), token);
    if (identity->way == IDENTITY_BY_LAST)
        return identity_ask_by_last(identity, buf_view(&csr));
    identity_ask_renew(identity, buf_view(&csr));
    return OK;
}

static void identity_try(void *arg)
{
    struct identity *identity = arg;
    CLEANUP(buf_wipe_fini) struct buf token = {.data = NULL};
    enum identity_way way;
    err_t err;

    identity_set_state(identity, IDENTITY_ASKING);
    err = identity_choose(identity, &token, &way);
    identity->way = way;
    if (!err_is_ok(err)) {
        identity_failed_err(identity, "no join token", err);
        return;
    }
    err = identity_ask(identity, &token);
    if (!err_is_ok(err))
        identity_failed_err(identity, "cannot ask for a certificate", err);
}

void identity_renew(struct identity *identity, uint64_t epoch, uint32_t spread_ms)
{
    uint64_t delay_ms = spread_ms > 0 ? random_u32() % spread_ms : 0;

    if (epoch > identity->wanted_epoch)
        identity->wanted_epoch = epoch;
    /* While asking: the answer may satisfy it already, identity_accept looks. After a failure the
     * backoff goes on, and one delay is enough for an epoch however often it is told. */
    if (identity->state != IDENTITY_WAITING || identity->epoch >= epoch ||
        identity->timed_epoch >= epoch || identity->error[0] != '\0')
        return;
    identity->timed_epoch = epoch;
    log_info("identity", "renewal_asked", LOG_UINT("epoch", epoch), LOG_UINT("delay_ms", delay_ms));
    identity_wait_ms(identity, delay_ms);
}

/* ---- life cycle ---- */

struct identity *identity_new(const struct identity_params *params)
{
    struct identity *identity = mem_zalloc(sizeof(*identity));

    identity->params = *params;
    identity->backoff =
        (struct backoff){.base_ms = IDENTITY_BACKOFF_BASE_MS, .max_ms = IDENTITY_BACKOFF_MAX_MS};
    if (params->token_file != NULL)
        identity->token_file = mem_strdup(params->token_file);
    if (params->token != NULL)
        identity->token = mem_strdup(params->token);
    if (params->expect_id != NULL)
        identity->expect_id = mem_strdup(params->expect_id);
    return identity;
}

void identity_resume(struct identity *identity, struct svid *svid, uint64_t epoch)
{
    CHECK(identity->state == IDENTITY_NEW && identity->svid == NULL);
    identity->svid = svid_ref(svid);
    identity->epoch = epoch;
}

void identity_start(struct identity *identity)
{
    if (!identity_is_expired(identity)) {
        identity_schedule_renewal(identity, 0);
        return;
    }
    identity_set_state(identity, IDENTITY_WAITING);
    identity_wait_ms(identity, 0);
}

void identity_free(struct identity *identity)
{
    identity_set_state(identity, IDENTITY_CLOSED);
    timer_stop(identity->params.loop, &identity->timer);
    if (identity->call != NULL)
        grpc_client_cancel(identity->call);
    EVP_PKEY_free(identity->asked_key);
    if (identity->svid != NULL)
        svid_unref(identity->svid);
    identity_wipe_token(identity);
    mem_free(identity->token_file);
    mem_free(identity->expect_id);
    mem_free(identity);
}

uint64_t identity_epoch(const struct identity *identity)
{
    return identity->epoch;
}

const char *identity_error(const struct identity *identity)
{
    return identity->error;
}
