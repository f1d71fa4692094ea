#include "proxy/uplink.h"

#include <string.h>

#include "certs/spiffe_id.h"
#include "certs/tls_ctx.h"
#include "certs/tls_profile.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

struct uplink {
    const struct clock *clock;
    char *trust_domain;
    char *control_id; /* spiffe://<trust domain>/mortise/control */
    struct tls_profile *profile;
    struct bundle *roots;
    struct svid *svid; /* NULL: none yet */
    bool (*is_revoked)(void *arg, const struct peer *peer);
    void *arg;
    struct grpc_channel *channel;
    struct tls_check check; /* of the one handshake that can be under way */
    bool checking;
    enum err_code told; /* the last failure that was logged, so that each is told once */
};

static struct tls_profile *uplink_profile(void)
{
    Mortise__V1__TlsProfile *msg = tls_profile_builtin("default-tls-client");
    struct tls_profile *profile = NULL;
    struct fault_path path = {.len = 0};
    struct faults faults = {.num = 0};

    CHECK(err_is_ok(tls_profile_compile(msg, &path, &faults, &profile)));
    mortise__v1__tls_profile__free_unpacked(msg, NULL);
    return profile;
}

static SSL_CTX *uplink_tls(void *arg)
{
    struct uplink *uplink = arg;
    CLEANUP(tls_ctx_unrefp) struct tls_ctx *tls = NULL;
    SSL_CTX *ssl;
    err_t err = tls_ctx_client(uplink->svid, uplink->roots, uplink->profile, &tls);

    if (err_is_ok(err))
        err = tls_ctx_set_alpn(tls, "h2");
    if (!err_is_ok(err)) {
        log_error("uplink", "tls_context_failed", LOG_ERR("error", err));
        return NULL;
    }
    ssl = tls_ctx_ssl(tls);
    SSL_CTX_up_ref(ssl);
    return ssl;
}

static err_t uplink_authorize(void *arg, int entry, const struct peer *peer)
{
    const struct uplink *uplink = arg;

    (void)entry;
    if (strcmp(peer->spiffe_id, uplink->control_id) != 0)
        return FAIL(PEER_IDENTITY, 0);
    if (uplink->is_revoked != NULL && uplink->is_revoked(uplink->arg, peer))
        return FAIL(PEER_REVOKED, 0);
    return OK;
}

static void uplink_drop_check(struct uplink *uplink)
{
    if (uplink->checking)
        tls_check_fini(&uplink->check);
    uplink->checking = false;
}

static void uplink_configure(void *arg, SSL *ssl)
{
    struct uplink *uplink = arg;

    uplink_drop_check(uplink);
    uplink->checking = true;
    tls_check_init(&uplink->check, uplink->clock, NULL);
    uplink->check.authorize = uplink_authorize;
    uplink->check.arg = uplink;
    tls_check_attach(&uplink->check, ssl);
}

static err_t uplink_handshake_done(void *arg, SSL *ssl, err_t err)
{
    struct uplink *uplink = arg;

    if (!uplink->checking)
        return err_is_ok(err) ? FAIL(BUG, 0) : err; /* nobody verified: closed */
    if (!err_is_ok(uplink->check.err))
        err = uplink->check.err;
    if (err_is_ok(err))
        err = tls_check_finish(&uplink->check, ssl);
    uplink_drop_check(uplink);
    return err;
}

static void uplink_on_state(void *arg, bool connected, err_t err, uint32_t retry_ms)
{
    struct uplink *uplink = arg;

    if (connected) {
        uplink->told = E_OK;
        log_info("uplink", "connected");
        return;
    }
    if (uplink->told == err.code) {
        log_debug("uplink", "connect_failed", LOG_ERR("error", err),
                  LOG_UINT("retry_ms", retry_ms));
        return;
    }
    uplink->told = err.code;
    log_warn("uplink", "connect_failed", LOG_ERR("error", err), LOG_UINT("retry_ms", retry_ms));
}

struct uplink *uplink_new(const struct uplink_params *params)
{
    struct uplink *uplink = mem_zalloc(sizeof(*uplink));
    const struct grpc_channel_params channel = {
        .target = params->target,
        .tls = uplink_tls,
        .configure = uplink_configure,
        .handshake_done = uplink_handshake_done,
        .on_state = uplink_on_state,
        .arg = uplink,
    };

    uplink->clock = params->clock;
    uplink->trust_domain = mem_strdup(params->trust_domain);
    uplink->control_id = spiffe_id_of_control(params->trust_domain);
    uplink->profile = uplink_profile();
    uplink->roots = bundle_ref(params->roots);
    uplink->is_revoked = params->is_revoked;
    uplink->arg = params->arg;
    uplink->channel = grpc_channel_new(params->loop, &channel);
    return uplink;
}

void uplink_free(struct uplink *uplink)
{
    grpc_channel_close(uplink->channel);
    uplink_drop_check(uplink);
    if (uplink->svid != NULL)
        svid_unref(uplink->svid);
    bundle_unref(uplink->roots);
    tls_profile_unref(uplink->profile);
    mem_free(uplink->control_id);
    mem_free(uplink->trust_domain);
    mem_free(uplink);
}

struct grpc_channel *uplink_channel(struct uplink *uplink)
{
    return uplink->channel;
}

void uplink_set_svid(struct uplink *uplink, struct svid *svid)
{
    if (uplink->svid != NULL)
        svid_unref(uplink->svid);
    uplink->svid = svid != NULL ? svid_ref(svid) : NULL;
}

void uplink_reconnect(struct uplink *uplink)
{
    grpc_channel_reconnect(uplink->channel);
}

void uplink_set_roots(struct uplink *uplink, struct bundle *roots)
{
    bundle_unref(uplink->roots);
    uplink->roots = bundle_ref(roots);
}

struct bundle *uplink_roots(struct uplink *uplink)
{
    return uplink->roots;
}

const char *uplink_trust_domain(const struct uplink *uplink)
{
    return uplink->trust_domain;
}
