#include "control/plane.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/acceptor.h"
#include "control/access.h"
#include "control/access_service.h"
#include "control/admins.h"
#include "control/attest.h"
#include "control/audit_call.h"
#include "control/audit_ship.h"
#include "control/caller.h"
#include "control/chronicle.h"
#include "control/conn_log.h"
#include "control/discovery_service.h"
#include "control/identity_service.h"
#include "control/meters.h"
#include "control/msg.h"
#include "control/oidc.h"
#include "control/operator_service.h"
#include "control/pages.h"
#include "control/plaintext_uses.h"
#include "control/plane_store.h"
#include "control/rekey.h"
#include "control/root_rotation.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

#define PLANE_TICK_MS 1000
#define PLANE_MAINTAIN_MS ((uint64_t)3600 * 1000)
#define PLANE_KUBERNETES_REFRESH_MS 300000
#define PLANE_MAINTAIN_MORE_MS 1000 /* at first, and when more was there than one turn takes */
#define PLANE_CHECK_EVERY 24        /* of these: the whole store is read once a day */
#define PLANE_SWEEP_MS 100          /* after a change; a call of who has to go is refused at once */
#define PLANE_STRANGER_MS 30000     /* a connection without a certificate: Attest takes a moment */

struct plane {
    struct loop *loop;
    const struct config *config;
    struct vault *vault;
    struct audit *audit;
    struct audit_ship *ship; /* NULL: no file was asked for */
    struct ca *ca;
    struct registry *registry;
    struct meters *meters;
    struct identity_service *identity;
    struct discovery_service *discovery;
    struct operator_service operators;
    struct conn_log_store *conn_log_store;
    struct conn_log *conn_log;
    struct events *events;
    struct chronicle chronicle;
    struct server_cert *cert;
    struct root_rotation *root_rotation;
    struct crls *crls;
    struct plaintext_uses *plaintext_uses;
    struct rekey *rekey;
    struct admins *admins;
    struct access *access;
    struct access_service access_service;
    struct oidc *oidc;       /* NULL: no token is taken */
    struct oidc *kubernetes; /* likewise, of pods */
    struct elevations elevations;
    struct caller_rules rules;
    char reason[CALLER_REASON_MAX]; /* of the last refusal */
    struct grpc_server *tls_server;
    struct grpc_server *unix_server;
    struct acceptor *tls_acceptor;
    struct acceptor *unix_acceptor;
    struct pages *pages;
    struct registry_observer observer;
    struct timer tick;
    struct timer maintain;
    unsigned maintained; /* times */
    bool purging;        /* the clean-up has not come around yet */
    struct timer drain;
    struct timer sweep;
    bool stopping;
};

/* ----------------------------------------------------------------------- store */

static err_t plane_compare(struct plane *plane, const Mortise__Control__Settings *settings,
                           struct faults *faults)
{
    const char *wanted = plane->config->trust_domain;

    if (wanted == NULL || strcmp(wanted, settings->trust_domain) == 0)
        return OK;
    faults_add(faults, "--trust-domain",
               "trust_domain is %s in this store for good, not %s: every identity is made of it",
               settings->trust_domain, wanted);
    return FAIL(CONFIG_INVALID, 1);
}

/* `*out` is owned (pb_free). */
static err_t plane_settings(struct plane *plane, struct faults *faults,
                            Mortise__Control__Settings **out)
{
    ProtobufCMessage *msg = NULL;
    err_t err = vault_get(plane->vault, VAULT_SETTINGS, &msg, NULL);

    if (!err_is_ok(err))
        return err_is(err, E_NOT_FOUND) ? FAIL(STORE_CORRUPT, 0) : err;
    *out = MSG_AS(Mortise__Control__Settings, mortise__control__settings__descriptor, msg);
    return plane_compare(plane, *out, faults);
}

static void plane_on_issued(void *arg, const char *reason)
{
    struct plane *plane = arg;

    meters_issued(plane->meters, reason);
    chronicle_issued(&plane->chronicle, reason);
}

static void plane_on_commit(void *arg, uint64_t duration_us)
{
    struct plane *plane = arg;

    meters_committed(plane->meters, duration_us);
}

static err_t plane_load(struct plane *plane, const char *trust_domain, struct faults *faults)
{
    const struct ca_params ca = {
        .vault = plane->vault,
        .clock = loop_clock(plane->loop),
        .trust_domain = trust_domain,
        .on_issued = plane_on_issued,
        .arg = plane,
    };
    const struct audit_params audit = {
        .vault = plane->vault,
        .clock = loop_clock(plane->loop),
        .keep = (uint64_t)plane->config->audit_keep,
        .keep_s = plane->config->audit_keep_ms / 1000,
    };
    struct registry_params registry = {
        .vault = plane->vault,
        .clock = loop_clock(plane->loop),
        .trust_domain = trust_domain,
    };

    vault_on_commit(plane->vault, plane_on_commit, plane);
    TRY(audit_open(&audit, &plane->audit)); /* before anything is changed */
    if (plane->config->audit_file != NULL)
        TRY(audit_ship_open(plane->audit, "--audit-file", plane->config->audit_file, faults,
                            &plane->ship));
    TRY(ca_open(&ca, &plane->ca));
    TRY(admins_open(plane->vault, &plane->admins));
    TRY(access_open(plane->vault, &plane->access));
    registry.roots_pem = ca_roots_pem(plane->ca);
    TRY(registry_open(&registry, faults, &plane->registry));
    return plaintext_uses_open(plane->vault, plane->registry, loop_clock(plane->loop),
                               &plane->plaintext_uses);
}

/* --------------------------------------------------------------- who may be here */

static bool plane_is_workload(void *arg, const char *spiffe_id)
{
    struct plane *plane = arg;

    return registry_subsystem_of(plane->registry, spiffe_id) != NULL;
}

static bool plane_is_revoked(void *arg, const struct peer *peer)
{
    struct plane *plane = arg;

    return registry_is_revoked(plane->registry, peer);
}

static bool plane_is_admin(void *arg, const struct peer *peer)
{
    struct plane *plane = arg;

    return admins_accepts(plane->admins, peer);
}

static bool plane_is_token(void *arg, const struct caller_token *token)
{
    const struct plane *plane = arg;

    return oidc_stands(plane->oidc, token);
}

static bool plane_role_of(void *arg, const char *subject, struct role *out)
{
    const struct plane *plane = arg;

    return access_role_of(plane->access, subject, out);
}

static void plane_make_rules(struct plane *plane)
{
    plane->rules = (struct caller_rules){
        .trust_domain = registry_trust_domain(plane->registry),
        .uid = geteuid(),
        .is_workload = plane_is_workload,
        .is_revoked = plane_is_revoked,
        .is_admin = plane_is_admin,
        .is_token = plane_is_token,
        .role_of = plane_role_of,
        .arg = plane,
    };
}

/* Under which role a person calls is known to the audit log, and his first call on this connection
 * is told of there. */
static void plane_greet(struct plane *plane, const struct grpc_peer *peer,
                        const struct grpc_method *method)
{
    struct caller *caller = peer->identity;
    struct caller *connection = caller->connection != NULL ? caller->connection : caller;
    char reason[CALLER_REASON_MAX];
    struct role role;

    if (permission_of(method->path) < PERMISSION(SESSION) ||
        caller_role(&plane->rules, peer, &role, reason) != GRPC_OK)
        return;
    memcpy(caller->role, role.name, sizeof(caller->role));
    if (caller->token != NULL)
        caller_vouch(caller, loop_now_ms(plane->loop));
    if (connection->greeted)
        return;
    connection->greeted = true;
    audit_call_login(plane->audit, peer);
}

static void plane_on_answer(void *arg, const struct grpc_call *call,
                            const struct grpc_method *method, enum grpc_status status,
                            const char *message, bool rechecked)
{
    struct plane *plane = arg;

    /* One that was ended because its caller may not any more is on record as such. */
    if (!rechecked)
        audit_call_over(plane->audit, call, method->path, status, message);
    audit_forget(plane->audit, call);
}

/* Who a call is by its token. What is refused is told by its code. */
static enum grpc_status plane_identify(void *arg, const struct grpc_peer *peer,
                                       struct bytes credentials, void **out_identity,
                                       const char **out_reason)
{
    struct plane *plane = arg;
    struct caller *caller = NULL;
    err_t err = OK;
    enum grpc_status status = oidc_identify(plane->oidc, peer, credentials, &caller, &err);
    char name[CALLER_NAME_MAX];

    *out_identity = caller;
    if (status == GRPC_OK)
        return GRPC_OK;
    *out_reason = err_name(err.code);
    caller_name(peer, name);
    audit_call_no_login(plane->audit, peer, *out_reason);
    log_limited(LOG_WARN, "plane", "token_refused",
                (const struct log_field[]){LOG_STR("peer", name), LOG_ERR("reason", err)}, 2);
    meters_refused(plane->meters, err.code);
    return status;
}

static enum grpc_status plane_authorize(void *arg, const struct grpc_peer *peer,
                                        const struct grpc_method *method, const char **out_reason)
{
    struct plane *plane = arg;
    enum grpc_status status =
        caller_permits(&plane->rules, peer, permission_of(method->path), plane->reason);
    char name[CALLER_NAME_MAX];

    *out_reason = plane->reason;
    if (status == GRPC_OK) {
        plane_greet(plane, peer, method);
        return GRPC_OK;
    }
    caller_name(peer, name);
    audit_call_denied(plane->audit, peer, method->path, *out_reason);
    log_limited(LOG_WARN, "plane", "call_denied",
                (const struct log_field[]){LOG_STR("peer", name), LOG_STR("method", method->path),
                                           LOG_STR("reason", *out_reason)},
                3);
    meters_refused(plane->meters, E_PERMISSION);
    return status;
}

/* Whether a local user has any business at the operator socket. */
static bool plane_admits(void *arg, uid_t uid)
{
    const struct plane *plane = arg;
    const struct grpc_peer peer = {.uid = uid};
    char reason[CALLER_REASON_MAX];
    struct role role;

    return caller_role(&plane->rules, &peer, &role, reason) == GRPC_OK;
}

/* Connections that may not go on: of an expired certificate, of an identity that has left the mesh,
 * of strangers who joined nothing, of whom no call by token is open any more, of local users
 * without a role. */
static bool plane_is_unwelcome(void *arg, const struct grpc_peer *peer)
{
    struct plane *plane = arg;
    const struct caller *caller = peer->identity;
    const struct clock *clock = loop_clock(plane->loop);

    if (!peer->tls)
        return !plane_admits(plane, peer->uid);
    if (caller->peer == NULL)
        return clock_mono_ms(clock) - caller->since_ms > PLANE_STRANGER_MS;
    if (clock_wall_s(clock) >= caller->peer->not_after ||
        registry_is_revoked(plane->registry, caller->peer))
        return true;
    return !plane_is_workload(plane, caller->peer->spiffe_id) &&
           !(caller_is_admin(registry_trust_domain(plane->registry), caller->peer->spiffe_id) &&
             plane_is_admin(plane, caller->peer));
}

/* Whoever may not stay goes, and of those who may the calls that they may not make any more. */
static void plane_recheck(struct plane *plane)
{
    grpc_server_close_if(plane->tls_server, plane_is_unwelcome, plane);
    grpc_server_recheck(plane->tls_server);
    /* The other way round here: a local user is told why before he goes. Over TLS nothing is told
     * to a certificate that counts no more. */
    grpc_server_recheck(plane->unix_server);
    grpc_server_close_if(plane->unix_server, plane_is_unwelcome, plane);
}

static void plane_on_sweep(void *arg)
{
    struct plane *plane = arg;

    plane_recheck(plane);
}

/* Soon. Not from within the call that changed it: the caller himself may have to go, but for his
 * answer. */
static void plane_sweep_soon(void *arg)
{
    struct plane *plane = arg;

    if (!plane->stopping)
        timer_start(plane->loop, &plane->sweep, PLANE_SWEEP_MS, plane_on_sweep, plane);
}

static void plane_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    (void)workload;
    if (event == REGISTRY_MESH)
        plane_sweep_soon(arg);
}

static void plane_free_identity(void *arg, void *identity)
{
    struct plane *plane = arg;

    caller_free(identity);
    /* The last connection is gone: nothing is left to wait for. */
    if (plane->stopping && grpc_server_num_connections(plane->tls_server) == 0 &&
        grpc_server_num_connections(plane->unix_server) == 0)
        loop_stop(plane->loop);
}

static void plane_on_finished(void *arg, const struct grpc_peer *peer, const char *path,
                              enum grpc_status status, uint64_t duration_us)
{
    struct plane *plane = arg;

    (void)peer;
    meters_called(plane->meters, path, status, duration_us);
}

static void plane_on_handshake(void *arg, err_t err)
{
    struct plane *plane = arg;

    meters_handshake(plane->meters, err);
}

/* ------------------------------------------------------------------------ timers */

static void plane_measure(struct plane *plane)
{
    struct registry_totals totals = registry_totals(plane->registry);
    struct root_rotation_state rotation = root_rotation_state(plane->root_rotation);
    struct meters *meters = plane->meters;

    meters_set(meters, METERS_CONNECTED, totals.connected);
    meters_set(meters, METERS_IN_SYNC, totals.in_sync);
    meters_set(meters, METERS_REFUSING, totals.refused);
    meters_set(meters, METERS_ROLLED_BACK, totals.rolled_back);
    meters_set(meters, METERS_VERSION, (int64_t)registry_version(plane->registry));
    meters_set(meters, METERS_MESH_VERSION, (int64_t)registry_mesh_version(plane->registry));
    meters_set(meters, METERS_CONNECTIONS, (int64_t)grpc_server_num_connections(plane->tls_server));
    meters_set(meters, METERS_STORE_WRITABLE, !vault_health(plane->vault)->unwritable);
    meters_set(meters, METERS_ROOT_NOT_AFTER, ca_root_not_after(plane->ca));
    meters_set(meters, METERS_ISSUER_NOT_AFTER, ca_issuer_not_after(plane->ca));
    meters_set(meters, METERS_CONTROL_NOT_AFTER, server_cert_not_after(plane->cert));
    meters_set(meters, METERS_ROTATION_STAGE, (int64_t)rotation.stage);
    meters_set(meters, METERS_ROTATION_SINCE, rotation.stage_since);
    meters_set(meters, METERS_CRL_NEXT_UPDATE, crls_next_update(plane->crls));
    meters_set(meters, METERS_AUDIT_RECORDS, (int64_t)audit_head(plane->audit)->seq);
    meters_set(meters, METERS_AUDIT_UNSHIPPED, (int64_t)audit_unshipped(plane->audit));
    meters_set(meters, METERS_AUDIT_BROKEN, audit_is_broken(plane->audit));
    meters_set(meters, METERS_STALE_RECORDS, (int64_t)vault_stale(plane->vault));
    meters_set(meters, METERS_KUBERNETES_KEYS, (int64_t)oidc_num_keys(plane->kubernetes));
    meters_set(meters, METERS_OIDC_KEYS, (int64_t)oidc_num_keys(plane->oidc));
    meters_set(meters, METERS_OIDC_FRESH, oidc_fresh_at(plane->oidc));
}

/* The file of the first start's token has done its work, or its time is over. */
static void plane_remove_login(struct plane *plane, bool used)
{
    CLEANUP(mem_freep) char *path = plane_store_login_path(plane->config);
    struct stat st;

    if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) &&
        (used || clock_wall_s(loop_clock(plane->loop)) - st.st_mtime >= ATTEST_TTL_DEFAULT_S))
        (void)unlink(path);
}

static void plane_on_tick(void *arg)
{
    struct plane *plane = arg;

    registry_tick(plane->registry);
    plaintext_uses_tick(plane->plaintext_uses);
    crls_tick(plane->crls);
    root_rotation_tick(plane->root_rotation);
    audit_tick(plane->audit);
    audit_ship_tick(plane->ship);
    oidc_tick(plane->oidc);
    oidc_tick(plane->kubernetes);
    plane_remove_login(plane, false);
    plane_recheck(plane);
    plane_measure(plane);
    timer_start(plane->loop, &plane->tick, PLANE_TICK_MS, plane_on_tick, plane);
}

static void plane_on_maintain(void *arg)
{
    struct plane *plane = arg;
    err_t err = OK;
    bool more = false;

    if (!plane->purging) /* it looks at all tokens: once an hour */
        err = attest_purge(plane->vault, clock_wall_s(loop_clock(plane->loop)));
    if (err_is_ok(err))
        err = ca_maintain(plane->ca, &more);
    if (err_is_ok(err))
        err = root_rotation_maintain(plane->root_rotation);
    if (err_is_ok(err) && !more && ++plane->maintained % PLANE_CHECK_EVERY == 0)
        err = vault_check(plane->vault);
    if (!err_is_ok(err))
        log_error("plane", "maintenance_failed", LOG_ERR("error", err));
    plane->purging = more;
    timer_start(plane->loop, &plane->maintain, more ? PLANE_MAINTAIN_MORE_MS : PLANE_MAINTAIN_MS,
                plane_on_maintain, plane);
}

/* ---------------------------------------------------------------------- services */

static void plane_add_services(struct plane *plane, struct grpc_server *server)
{
    const struct grpc_method *methods;
    size_t num;

    methods = identity_service_methods(&num);
    grpc_server_add(server, methods, num, plane->identity);
    methods = discovery_service_methods(&num);
    grpc_server_add(server, methods, num, plane->discovery);
    methods = operator_service_methods(&num);
    grpc_server_add(server, methods, num, &plane->operators);
    methods = access_service_methods(&num);
    grpc_server_add(server, methods, num, &plane->access_service);
}

static void plane_on_login(void *arg, const char *admin)
{
    if (strcmp(admin, PLANE_STORE_FIRST_ADMIN) == 0)
        plane_remove_login(arg, true);
}

static void plane_make_services(struct plane *plane)
{
    const struct identity_service_params identity = {
        .events = plane->events,
        .loop = plane->loop,
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .meters = plane->meters,
        .clock = loop_clock(plane->loop),
        .audit = plane->audit,
        .kubernetes = plane->kubernetes,
        .kubernetes_namespaces = &plane->config->kubernetes_namespace,
    };
    const struct discovery_service_params discovery = {
        .events = plane->events,
        .loop = plane->loop,
        .ca = plane->ca,
        .registry = plane->registry,
        .meters = plane->meters,
        .conn_log = plane->conn_log,
    };
    struct grpc_server_params server = {
        .max_connections = (unsigned)plane->config->max_connections,
        .identify = plane_identify,
        .authorize = plane_authorize,
        .free_identity = plane_free_identity,
        .on_answer = plane_on_answer,
        .on_finished = plane_on_finished,
        .arg = plane,
    };

    chronicle_start(&plane->chronicle, plane->events, plane->registry);
    plane->identity = identity_service_new(&identity);
    plane->discovery = discovery_service_new(&discovery);
    plane->operators = (struct operator_service){
        .loop = plane->loop,
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .root_rotation = plane->root_rotation,
        .crls = plane->crls,
        .discovery = plane->discovery,
        .rekey = plane->rekey,
        .admins = plane->admins,
        .access = plane->access,
        .rules = &plane->rules,
        .plaintext_uses = plane->plaintext_uses,
        .elevations = &plane->elevations,
        .cert = plane->cert,
        .events = plane->events,
        .audit = plane->audit,
        .conn_log = plane->conn_log,
        .clock = loop_clock(plane->loop),
    };
    operator_service_init(&plane->operators);
    plane->elevations.clock = loop_clock(plane->loop);
    plane->elevations.approval = plane->config->elevation_approval;
    plane->access_service = (struct access_service){
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .admins = plane->admins,
        .on_login = plane_on_login,
        .arg = plane,
        .elevations = &plane->elevations,
        .access = plane->access,
        .rules = &plane->rules,
        .clock = loop_clock(plane->loop),
        .events = plane->events,
        .audit = plane->audit,
    };
    access_service_init(&plane->access_service);
    access_on_change(plane->access, plane_sweep_soon, plane);
    plane->tls_server = grpc_server_new(plane->loop, &server);
    /* A server of its own: strangers on TCP cannot take the operator's places. */
    server.max_connections = 0;
    plane->unix_server = grpc_server_new(plane->loop, &server);
    plane_add_services(plane, plane->tls_server);
    plane_add_services(plane, plane->unix_server);
    plane->observer = (struct registry_observer){.fn = plane_on_event, .arg = plane};
    registry_observe(plane->registry, &plane->observer);
}

static err_t plane_listen(struct plane *plane, struct faults *faults)
{
    struct acceptor_params params = {
        .addr = plane->config->listen_addr,
        .cert = plane->cert,
        .server = plane->tls_server,
        .max_handshakes = (unsigned)plane->config->max_handshakes,
        .max_per_source = (unsigned)plane->config->max_handshakes_per_source,
        .handshake_ms = (uint64_t)plane->config->handshake_timeout_ms,
        .on_handshake = plane_on_handshake,
        .arg = plane,
    };
    char text[ADDR_TEXT_MAX];
    err_t err = acceptor_new(plane->loop, &params, &plane->tls_acceptor);

    if (!err_is_ok(err)) {
        faults_add(faults, "--listen", "%s: %s", plane->config->listen, err_text(err.code));
        return err;
    }
    params.addr = plane->config->operator_addr;
    params.server = plane->unix_server;
    params.admits = plane_admits;
    params.everyone = plane->config->operator_socket_access == CONFIG_ACCESS_EVERYONE;
    err = acceptor_new(plane->loop, &params, &plane->unix_acceptor);
    if (!err_is_ok(err)) {
        faults_add(faults, "--operator-socket", "%s: %s", plane->config->operator_socket,
                   err_text(err.code));
        return err;
    }
    addr_format(acceptor_addr(plane->tls_acceptor), text);
    log_info("plane", "listening", LOG_STR("address", text),
             LOG_STR("operator_socket", plane->config->operator_socket));
    return OK;
}

static err_t plane_make_pages(struct plane *plane, struct faults *faults)
{
    const struct pages_params params = {
        .loop = plane->loop,
        .listen = plane->config->admin_listen,
        .http_listen = plane->config->metrics_listen,
        .meters = plane->meters,
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .cert = plane->cert,
        .crls = plane->crls,
        .plaintext_uses = plane->plaintext_uses,
    };

    return pages_new(&params, faults, &plane->pages);
}

static void plane_on_switched(void *arg)
{
    struct plane *plane = arg;

    server_cert_reissue(plane->cert);
}

static void plane_on_stage(void *arg)
{
    struct plane *plane = arg;
    struct root_rotation_state state = root_rotation_state(plane->root_rotation);

    chronicle_stage(&plane->chronicle, &state);
}

static err_t plane_open_rotation(struct plane *plane)
{
    const struct root_rotation_params params = {
        .loop = plane->loop,
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .on_switched = plane_on_switched,
        .on_stage = plane_on_stage,
        .arg = plane,
    };

    return root_rotation_open(&params, &plane->root_rotation);
}

static void plane_on_keys(void *arg)
{
    struct plane *plane = arg;

    crls_keys_changed(plane->crls);
}

static err_t plane_open_crls(struct plane *plane)
{
    const struct crls_params params = {
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .clock = loop_clock(plane->loop),
    };

    TRY(crls_open(&params, &plane->crls));
    ca_on_keys(plane->ca, plane_on_keys, plane);
    return OK;
}

static err_t plane_open(struct plane *plane, const struct seal_keys *keys, struct faults *faults)
{
    Mortise__Control__Settings *settings = NULL;
    size_t told = faults->total;
    bool more = false; /* records to clean up: the timer goes on there */
    err_t err;

    TRY(plane_store_open(plane->config, loop_clock(plane->loop), keys, faults, &plane->vault));
    err = plane_settings(plane, faults, &settings);
    if (err_is_ok(err)) {
        err = plane_load(plane, settings->trust_domain, faults);
        if (err_is_ok(err))
            err = ca_maintain(plane->ca, &more); /* an issuer past its time first of all */
        if (err_is_ok(err))
            err = server_cert_new(plane->loop, plane->ca, settings->trust_domain, &plane->cert);
        if (err_is_ok(err))
            err = plane_open_crls(plane);
        if (err_is_ok(err))
            err = plane_open_rotation(plane);
    }
    if (!err_is_ok(err) && (faults->total == told || err_is(err, E_STORE_CORRUPT)))
        plane_store_fault(plane->config->data_dir, err, faults);
    if (settings != NULL)
        pb_free(&settings->base);
    return err;
}

static err_t plane_read_keys(void *arg, struct faults *faults, struct seal_keys *out)
{
    struct plane *plane = arg;

    return config_kek_again(plane->config, faults, out);
}

static void plane_on_refreshed(void *arg, err_t err)
{
    struct plane *plane = arg;

    meters_refreshed(plane->meters, err);
}

static void plane_make_oidc(struct plane *plane)
{
    const struct config *config = plane->config;
    const struct oidc_params params = {
        .loop = plane->loop,
        .issuer = config->oidc_issuer,
        .audience = config->oidc_audience,
        .groups_claim = config->oidc_groups_claim,
        .keys_file = config->oidc_keys_file,
        .keys_url = config->oidc_keys_url,
        .ca_file = config->oidc_ca_file,
        .refresh_ms = (uint64_t)config->oidc_refresh_ms,
        .on_withdrawn = plane_sweep_soon,
        .on_refreshed = plane_on_refreshed,
        .arg = plane,
    };

    if (config->oidc_issuer != NULL)
        plane->oidc = oidc_new(&params);
}

static void plane_make_kubernetes(struct plane *plane)
{
    const struct config *config = plane->config;
    const struct oidc_params params = {
        .loop = plane->loop,
        .issuer = config->kubernetes_issuer,
        .audience = config->kubernetes_audience,
        .keys_file = config->kubernetes_keys_file,
        .keys_url = config->kubernetes_keys_url,
        .ca_file = config->kubernetes_ca_file,
        .refresh_ms = PLANE_KUBERNETES_REFRESH_MS,
        .claims = true,
        .on_refreshed = plane_on_refreshed,
        .arg = plane,
    };

    if (config->kubernetes_issuer != NULL)
        plane->kubernetes = oidc_new(&params);
}

static err_t plane_begin(struct plane *plane, const struct seal_keys *keys, struct faults *faults)
{
    TRY(plane_open(plane, keys, faults));
    plane->rekey = rekey_new(&(struct rekey_params){
        .loop = plane->loop,
        .vault = plane->vault,
        .read_keys = plane_read_keys,
        .arg = plane,
    });
    plane_make_rules(plane);
    plane_make_kubernetes(plane);
    plane_make_services(plane);
    plane_make_oidc(plane);
    TRY(plane_make_pages(plane, faults));
    TRY(plane_listen(plane, faults));
    plane_on_tick(plane);
    /* Soon: an issuer may have grown old while we were away. */
    timer_start(plane->loop, &plane->maintain, PLANE_MAINTAIN_MORE_MS, plane_on_maintain, plane);
    return OK;
}

static void plane_make_conn_log(struct plane *plane)
{
    const struct config *config = plane->config;
    CLEANUP(mem_freep)
    char *folder = config->access_log_dir != NULL ? mem_strdup(config->access_log_dir)
                                                  : mem_printf("%s/access-log", config->data_dir);

    plane->conn_log_store = conn_log_store_new(folder, (uint64_t)config->access_log_max_size);
    plane->conn_log =
        conn_log_new(plane->conn_log_store, plane->meters, (uint64_t)config->access_log_rate);
}

err_t plane_new(struct loop *loop, const struct config *config, const struct seal_keys *keys,
                struct faults *faults, struct plane **out)
{
    struct plane *plane = mem_zalloc(sizeof(*plane));
    err_t err;

    plane->loop = loop;
    plane->config = config;
    plane->meters = meters_new();
    plane->events = events_new();
    plane_make_conn_log(plane);
    err = plane_begin(plane, keys, faults);
    if (!err_is_ok(err)) {
        plane_free(plane);
        return err;
    }
    *out = plane;
    return OK;
}

const struct addr *plane_addr(const struct plane *plane)
{
    return acceptor_addr(plane->tls_acceptor);
}

/* ----------------------------------------------------------------------- the end */

static void plane_on_drained(void *arg)
{
    struct plane *plane = arg;

    log_warn("plane", "drain_timeout",
             LOG_UINT("connections", grpc_server_num_connections(plane->tls_server)));
    loop_stop(plane->loop);
}

void plane_stop(struct plane *plane)
{
    if (plane->stopping) {
        loop_stop(plane->loop); /* asked twice: at once */
        return;
    }
    log_info("plane", "stopping");
    plane->stopping = true;
    timer_start(plane->loop, &plane->drain, (uint64_t)plane->config->drain_timeout_ms,
                plane_on_drained, plane);
    acceptor_close(plane->tls_acceptor);
    acceptor_close(plane->unix_acceptor);
    plane->tls_acceptor = NULL;
    plane->unix_acceptor = NULL;
    discovery_service_stop(plane->discovery);
    operator_service_stop(&plane->operators);
    grpc_server_drain(plane->tls_server);
    grpc_server_drain(plane->unix_server);
    if (grpc_server_num_connections(plane->tls_server) == 0 &&
        grpc_server_num_connections(plane->unix_server) == 0)
        loop_stop(plane->loop);
}

void plane_free(struct plane *plane)
{
    if (plane == NULL)
        return;
    plane->stopping = false; /* nobody waits for the last connection any more */
    timer_stop(plane->loop, &plane->tick);
    timer_stop(plane->loop, &plane->maintain);
    timer_stop(plane->loop, &plane->drain);
    timer_stop(plane->loop, &plane->sweep);
    pages_free(plane->pages);
    acceptor_close(plane->tls_acceptor);
    acceptor_close(plane->unix_acceptor);
    if (plane->tls_server != NULL) {
        /* Each call's on_done comes now, while the services are there. */
        grpc_server_free(plane->tls_server);
        grpc_server_free(plane->unix_server);
        registry_unobserve(plane->registry, &plane->observer);
    }
    discovery_service_free(plane->discovery);
    identity_service_free(plane->identity);
    root_rotation_close(plane->root_rotation);
    crls_free(plane->crls);
    rekey_free(plane->rekey);
    admins_free(plane->admins);
    access_service_fini(&plane->access_service);
    oidc_free(plane->oidc);
    oidc_free(plane->kubernetes);
    access_free(plane->access);
    server_cert_free(plane->cert);
    chronicle_stop(&plane->chronicle);
    plaintext_uses_free(plane->plaintext_uses);
    registry_close(plane->registry);
    ca_free(plane->ca);
    audit_ship_tick(plane->ship);
    audit_ship_close(plane->ship);
    audit_close(plane->audit);
    vault_free(plane->vault);
    events_free(plane->events);
    conn_log_free(plane->conn_log);
    conn_log_store_free(plane->conn_log_store);
    meters_free(plane->meters);
    mem_free(plane);
}
