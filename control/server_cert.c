#include "control/server_cert.h"

#include <string.h>

#include "certs/key.h"
#include "certs/renew.h"
#include "certs/spiffe_id.h"
#include "lib/base/log.h"
#include "lib/base/random.h"

#define SERVER_CERT_TIMER_MAX_MS \
    ((uint64_t)3600 * 1000) /* looks at the wall clock at least so often */

struct server_cert {
    struct loop *loop;
    struct ca *ca;
    char *spiffe_id;
    struct tls_profile *profile;
    struct tls_ctx *tls;
    char serial[41];
    int64_t not_after;
    int64_t renew_at;
    struct timer timer;
};

static void server_cert_on_timer(void *arg);

static struct tls_profile *server_cert_profile(void)
{
    Mortise__V1__TlsProfile msg = MORTISE__V1__TLS_PROFILE__INIT;
    struct tls_profile *profile = NULL;
    struct fault_path path = {.len = 0};
    struct faults faults = {.num = 0};
    char name[] = "control";
    err_t err;

    msg.name = name;
    msg.role = MORTISE__V1__TLS_PROFILE__ROLE__SERVER;
    msg.min_version = MORTISE__V1__TLS_VERSION__TLS1_3;
    err = tls_profile_compile(&msg, &path, &faults, &profile);
    CHECK(err_is_ok(err));
    return profile;
}

static int64_t server_cert_now_s(const struct server_cert *cert)
{
    return clock_wall_s(loop_clock(cert->loop));
}

/* A context of a certificate that was just issued for `key`. */
static err_t server_cert_build(struct server_cert *cert, const struct ca_cert *issued,
                               EVP_PKEY *key, struct tls_ctx **out)
{
    const struct tls_ctx_entry entry = {
        .profile = cert->profile,
        .bundle = ca_callers(cert->ca),
        .client_auth = TLS_CLIENT_OPTIONAL, /* who joins has none yet */
    };
    CLEANUP(tls_ctx_unrefp) struct tls_ctx *tls = NULL;
    CLEANUP(svid_unrefp) struct svid *svid = NULL;

    TRY(svid_of_der(issued->chain, issued->num_chain, key, ca_bundle(cert->ca),
                    server_cert_now_s(cert), &svid));
    TRY(tls_ctx_server(svid, &entry, 1, &tls));
    TRY(tls_ctx_set_alpn(tls, "h2"));
    *out = tls;
    tls = NULL;
    return OK;
}

static err_t server_cert_issue(struct server_cert *cert, EVP_PKEY *key)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const struct ca_request request = {
        .spiffe_id = cert->spiffe_id,
        .subsystem = "",
        .public_key = key,
        .ttl_s = CA_LEAF_TTL_S,
        .reason = "control",
        .lineage = true,
    };
    struct tls_ctx *tls = NULL;
    struct ca_cert issued;
    err_t err;

    TRY(ca_issue(cert->ca, &request, &batch, &issued));
    err = server_cert_build(cert, &issued, key, &tls);
    if (err_is_ok(err)) {
        if (cert->tls != NULL)
            tls_ctx_unref(cert->tls);
        cert->tls = tls;
        memcpy(cert->serial, issued.leaf.serial, sizeof(cert->serial));
        cert->not_after = issued.leaf.not_after;
        cert->renew_at = renew_at(issued.leaf.not_before, issued.leaf.not_after,
                                  server_cert_now_s(cert), random_u32());
    }
    ca_cert_fini(&issued);
    return err;
}

static err_t server_cert_renew(struct server_cert *cert)
{
    EVP_PKEY *key = NULL;
    err_t err = key_generate(&key);

    if (err_is_ok(err))
        err = server_cert_issue(cert, key);
    EVP_PKEY_free(key);
    return err;
}

static void server_cert_arm(struct server_cert *cert)
{
    int64_t wait_s = cert->renew_at - server_cert_now_s(cert);
    uint64_t ms = wait_s > 0 ? (uint64_t)wait_s * 1000 : 1;

    if (ms > SERVER_CERT_TIMER_MAX_MS)
        ms = SERVER_CERT_TIMER_MAX_MS;
    timer_start(cert->loop, &cert->timer, ms, server_cert_on_timer, cert);
}

static void server_cert_on_timer(void *arg)
{
    struct server_cert *cert = arg;
    err_t err;

    if (server_cert_now_s(cert) < cert->renew_at) {
        server_cert_arm(cert);
        return;
    }
    err = server_cert_renew(cert);
    if (err_is_ok(err)) {
        log_info("server_cert", "renewed", LOG_INT("not_after", cert->not_after));
        server_cert_arm(cert);
        return;
    }
    log_error("server_cert", "renewal_failed", LOG_ERR("error", err),
              LOG_INT("not_after", cert->not_after));
    timer_start(cert->loop, &cert->timer, SERVER_CERT_RETRY_MS, server_cert_on_timer, cert);
}

err_t server_cert_rotate(struct server_cert *cert)
{
    TRY(server_cert_renew(cert));
    log_info("server_cert", "rotated", LOG_STR("serial", cert->serial),
             LOG_INT("not_after", cert->not_after));
    server_cert_arm(cert);
    return OK;
}

const char *server_cert_serial(const struct server_cert *cert)
{
    return cert->serial;
}

void server_cert_reissue(struct server_cert *cert)
{
    cert->renew_at = 0;
    server_cert_on_timer(cert);
}

err_t server_cert_new(struct loop *loop, struct ca *ca, const char *trust_domain,
                      struct server_cert **out)
{
    struct server_cert *cert = mem_zalloc(sizeof(*cert));
    err_t err;

    cert->loop = loop;
    cert->ca = ca;
    cert->spiffe_id = spiffe_id_of_control(trust_domain);
    cert->profile = server_cert_profile();
    err = ca_is_empty(ca) ? OK : server_cert_renew(cert);
    if (!err_is_ok(err)) {
        server_cert_free(cert);
        return err;
    }
    if (cert->tls != NULL)
        server_cert_arm(cert);
    *out = cert;
    return OK;
}

void server_cert_free(struct server_cert *cert)
{
    if (cert == NULL)
        return;
    timer_stop(cert->loop, &cert->timer);
    if (cert->tls != NULL)
        tls_ctx_unref(cert->tls);
    tls_profile_unref(cert->profile);
    mem_free(cert->spiffe_id);
    mem_free(cert);
}

struct tls_ctx *server_cert_tls(struct server_cert *cert)
{
    return server_cert_now_s(cert) < cert->not_after ? cert->tls : NULL;
}

int64_t server_cert_not_after(const struct server_cert *cert)
{
    return cert->not_after;
}
