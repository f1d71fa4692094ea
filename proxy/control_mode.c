#include "proxy/control_mode.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"
#include "lib/net/resolve.h"
#include "lib/rpc/pb.h"
#include "proxy/discovery.h"
#include "proxy/identity.h"
#include "proxy/uplink.h"

#define CONTROL_ROOTS_MAX ((size_t)1 << 20)
#define CONTROL_RESOLVE_MS 5000
#define CONTROL_RESPONSE_ROOTS_MAX 64

struct control_mode {
    struct source_params params;
    struct uplink *uplink;
    struct identity *identity;
    struct discovery *discovery; /* once there is a certificate */
    struct addr inbound_listen;
    struct resolve *resolving; /* of the address to advertise */
    char *instance;
    char *advertise; /* "" : unknown */
    struct svid *svid;
    struct bundle *roots;               /* the mesh's, as told last */
    Mortise__V1__SidecarConfig *config; /* in force, or NULL */
    uint64_t version;
    char *rejected;
};

err_t control_mode_read_roots(const struct config *settings, struct faults *faults,
                              struct bundle **out)
{
    CLEANUP(buf_fini) struct buf pem = {.data = NULL};
    err_t err = file_read(settings->trust_bundle, CONTROL_ROOTS_MAX, &pem);

    if (!err_is_ok(err)) {
        faults_add(faults, "--trust-bundle", "%s: %s: %s", settings->trust_bundle,
                   err_text(err.code), strerror(err.sub));
        return faults_err(faults);
    }
    err = bundle_of_pem(buf_view(&pem), settings->trust_domain, out);
    if (!err_is_ok(err)) {
        faults_add(faults, "--trust-bundle", "%s: %s (%s)", settings->trust_bundle,
                   err_text(err.code), err_name(err.code));
        return faults_err(faults);
    }
    return OK;
}

/* ---- publishing ---- */

/* Puts `config` with the certificate and roots given into force; nothing is remembered here. */
static err_t control_publish(struct control_mode *mode, const Mortise__V1__SidecarConfig *config,
                             struct svid *svid, struct bundle *roots, uint64_t version,
                             struct faults *faults)
{
    struct snapshot_input in = {
        .config = config,
        .svid = svid,
        .roots = roots,
        .inbound_listen = &mode->inbound_listen,
        .tunables = config_tunables(mode->params.settings),
        .version = version,
    };

    return mode->params.publish(mode->params.arg, &in, faults);
}

static err_t control_roots_of(struct control_mode *mode,
                              const Mortise__V1__DiscoveryResponse *response, struct faults *faults,
                              struct bundle **out)
{
    struct bytes certs[CONTROL_RESPONSE_ROOTS_MAX];
    err_t err;

    if (response->n_trust_roots == 0) {
        *out = bundle_ref(mode->roots);
        return OK;
    }
    if (response->n_trust_roots > ARRAY_LEN(certs)) {
        faults_add(faults, "trust_roots", "has %zu members; at most %zu", response->n_trust_roots,
                   ARRAY_LEN(certs));
        return faults_err(faults);
    }
    for (size_t i = 0; i < response->n_trust_roots; i++)
        certs[i] = bytes_of(response->trust_roots[i].data, response->trust_roots[i].len);
    err = bundle_of_der(certs, response->n_trust_roots, mode->params.settings->trust_domain, out);
    if (!err_is_ok(err))
        faults_add(faults, "trust_roots", "%s (%s)", err_text(err.code), err_name(err.code));
    return faults_err(faults);
}

static void control_keep(struct control_mode *mode, const Mortise__V1__DiscoveryResponse *response,
                         struct bundle *roots)
{
    if (mode->config != NULL)
        pb_free(&mode->config->base);
    mode->config = (Mortise__V1__SidecarConfig *)pb_clone(&response->config->base);
    bundle_unref(mode->roots);
    mode->roots = bundle_ref(roots);
    uplink_set_roots(mode->uplink, roots);
    mode->version = response->version;
    mem_free(mode->rejected);
    mode->rejected = NULL;
}

static bool control_is_in_force(const struct control_mode *mode,
                                const Mortise__V1__DiscoveryResponse *response,
                                const struct bundle *roots)
{
    const struct snapshot *current = mode->params.current(mode->params.arg);

    return current != NULL && mode->config != NULL && response->version == mode->version &&
           current->svid == mode->svid &&
           memcmp(roots->hash, mode->roots->hash, sizeof(roots->hash)) == 0 &&
           pb_equal(&response->config->base, &mode->config->base);
}

static void control_rejected(struct control_mode *mode, const struct faults *faults)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};

    faults_text(faults, &text);
    mem_free(mode->rejected);
    mode->rejected = mem_strndup((const char *)buf_view(&text).ptr, buf_size(&text));
    for (size_t i = 0; i < faults->num; i++)
        log_warn("config", "push_refused", LOG_STR("field", faults->items[i].path),
                 LOG_STR("reason", faults->items[i].message));
    stats_add(mode->params.stats, STAT_CONFIG_REJECTED, 1);
}

static err_t control_apply(void *arg, const Mortise__V1__DiscoveryResponse *response,
                           struct faults *faults)
{
    struct control_mode *mode = arg;
    CLEANUP(bundle_unrefp) struct bundle *roots = NULL;
    err_t err = control_roots_of(mode, response, faults, &roots);

    if (err_is_ok(err) && control_is_in_force(mode, response, roots))
        return OK; /* the stream was opened again and nothing had changed */
    if (err_is_ok(err))
        err = control_publish(mode, response->config, mode->svid, roots, response->version, faults);
    if (!err_is_ok(err)) {
        control_rejected(mode, faults);
        return err;
    }
    control_keep(mode, response, roots);
    return OK;
}

/* ---- telling ---- */

static void control_status(void *arg, Mortise__V1__SidecarStatus *out)
{
    struct control_mode *mode = arg;
    const struct snapshot *current = mode->params.current(mode->params.arg);
    const struct svid *svid;

    out->ready = mode->params.ready(mode->params.arg);
    out->generation = current != NULL ? current->generation : 0;
    svid = current != NULL ? current->svid : mode->svid; /* the one that peers see */
    if (svid != NULL) {
        out->certificate_serial = svid->serial;
        out->certificate_not_after = svid->not_after;
    }
    out->certificate_epoch = identity_epoch(mode->identity);
    out->renewal_error = (char *)(uintptr_t)identity_error(mode->identity); /* read only */
}

void control_mode_changed(struct control_mode *mode)
{
    if (mode->discovery != NULL)
        discovery_send_status(mode->discovery);
}

static void control_on_epoch(void *arg, uint64_t epoch, uint32_t spread_ms)
{
    struct control_mode *mode = arg;

    identity_renew(mode->identity, epoch, spread_ms);
}

static void control_on_error(void *arg)
{
    control_mode_changed(arg);
}

/* ---------------------------------------------------------------------------------------
 * advertising */

static void control_start_discovery(struct control_mode *mode)
{
    const struct discovery_params params = {
        .loop = mode->params.loop,
        .uplink = mode->uplink,
        .stats = mode->params.stats,
        .instance = mode->instance,
        .advertise = mode->advertise,
        .apply = control_apply,
        .status = control_status,
        .on_epoch = control_on_epoch,
        .arg = mode,
    };

    mode->discovery = discovery_new(&params);
    discovery_start(mode->discovery);
}

/* Our address on the way to `to`: what the kernel would send from. No packet leaves. */
static bool control_address_towards(const struct addr *to, struct addr *out)
{
    int fd = socket(to->sa.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool found;

    if (fd < 0)
        return false;
    found = connect(fd, &to->sa.any, to->len) == 0 && err_is_ok(addr_of_local(fd, out));
    (void)close(fd);
    return found;
}

static void control_on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct control_mode *mode = arg;
    struct addr own;
    char text[ADDR_TEXT_MAX];

    mode->resolving = NULL;
    if (err_is_ok(err) && num > 0 && control_address_towards(&addrs[0], &own)) {
        addr_set_port(&own, addr_port(&mode->inbound_listen));
        addr_format(&own, text);
        mem_free(mode->advertise);
        mode->advertise = mem_strdup(text);
        log_info("discovery", "advertise", LOG_STR("address", text));
    } else {
        log_warn("discovery", "advertise_unknown", LOG_ERR("error", err));
    }
    control_start_discovery(mode);
}

static bool control_is_any(const struct addr *addr)
{
    if (addr->sa.any.sa_family == AF_INET)
        return addr->sa.in4.sin_addr.s_addr == htonl(INADDR_ANY);
    return IN6_IS_ADDR_UNSPECIFIED(&addr->sa.in6.sin6_addr);
}

/* The first certificate is there. */
static void control_begin_discovery(struct control_mode *mode)
{
    const struct config *settings = mode->params.settings;

    if (settings->advertise == NULL && control_is_any(&mode->inbound_listen)) {
        mode->resolving = resolve_start(mode->params.loop, settings->control, CONTROL_RESOLVE_MS,
                                        control_on_resolved, mode);
        return;
    }
    mem_free(mode->advertise);
    mode->advertise =
        mem_strdup(settings->advertise != NULL ? settings->advertise : settings->inbound_listen);
    control_start_discovery(mode);
}

static void control_on_svid(void *arg, struct svid *svid, struct bundle *roots)
{
    struct control_mode *mode = arg;
    CLEANUP(faults_fini) struct faults faults = {.num = 0};

    if (mode->svid != NULL)
        svid_unref(mode->svid);
    mode->svid = svid_ref(svid);
    bundle_unref(mode->roots);
    mode->roots = bundle_ref(roots);
    uplink_set_roots(mode->uplink, roots);
    if (mode->config != NULL &&
        !err_is_ok(control_publish(mode, mode->config, svid, roots, mode->version, &faults)))
        control_rejected(mode, &faults); /* the old certificate goes on to its end */

    if (mode->discovery == NULL && mode->resolving == NULL) {
        uplink_set_svid(mode->uplink, svid);
        control_begin_discovery(mode);
        return;
    }
    /* The stream in use tells it first; then one under the new certificate takes over. */
    control_mode_changed(mode);
    uplink_set_svid(mode->uplink, svid);
    if (mode->discovery != NULL)
        discovery_reopen(mode->discovery);
}

/* ---- life cycle ---- */

static char *control_new_instance(void)
{
    uint8_t bytes[8];
    char hex[2 * sizeof(bytes) + 1];

    random_fill(bytes, sizeof(bytes));
    bytes_to_hex(bytes_of(bytes, sizeof(bytes)), hex);
    return mem_strdup(hex);
}

struct control_mode *control_mode_new(const struct source_params *params, struct bundle *roots)
{
    const struct config *settings = params->settings;
    struct control_mode *mode = mem_zalloc(sizeof(*mode));

    mode->params = *params;
    mode->instance = control_new_instance();
    mode->advertise = mem_strdup("");
    mode->roots = bundle_ref(roots);
    CHECK(err_is_ok(addr_parse(settings->inbound_listen, &mode->inbound_listen)));
    mode->uplink = uplink_new(&(struct uplink_params){
        .loop = params->loop,
        .clock = params->clock,
        .target = settings->control,
        .trust_domain = settings->trust_domain,
        .roots = roots,
    });
    mode->identity = identity_new(&(struct identity_params){
        .loop = params->loop,
        .clock = params->clock,
        .uplink = mode->uplink,
        .stats = params->stats,
        .token_file = settings->join_token_file,
        .token = settings->join_token,
        .on_svid = control_on_svid,
        .on_error = control_on_error,
        .arg = mode,
    });
    identity_start(mode->identity);
    return mode;
}

void control_mode_free(struct control_mode *mode)
{
    if (mode->resolving != NULL)
        resolve_cancel(mode->resolving);
    if (mode->discovery != NULL)
        discovery_free(mode->discovery);
    identity_free(mode->identity);
    uplink_free(mode->uplink);
    if (mode->svid != NULL)
        svid_unref(mode->svid);
    bundle_unref(mode->roots);
    if (mode->config != NULL)
        pb_free(&mode->config->base);
    mem_free(mode->instance);
    mem_free(mode->advertise);
    mem_free(mode->rejected);
    mem_free(mode);
}

struct control_mode_facts control_mode_facts(const struct control_mode *mode)
{
    return (struct control_mode_facts){
        .joined = mode->svid != NULL,
        .connected = mode->discovery != NULL && discovery_is_connected(mode->discovery),
        .version = mode->version,
        .certificate_epoch = identity_epoch(mode->identity),
        .renewal_error = identity_error(mode->identity),
        .rejected = mode->rejected,
    };
}
