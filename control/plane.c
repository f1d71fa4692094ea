#include "control/plane.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/acceptor.h"
#include "control/attest.h"
#include "control/caller.h"
#include "control/discovery_service.h"
#include "control/identity_service.h"
#include "control/meters.h"
#include "control/msg.h"
#include "control/operator_service.h"
#include "control/pages.h"
#include "control/root_rotation.h"
#include "control/store_sqlite.h"
#include "lib/base/log.h"
#include "lib/rpc/pb.h"

#define PLANE_TICK_MS 1000
#define PLANE_MAINTAIN_MS ((uint64_t)3600 * 1000)
#define PLANE_CHECK_EVERY 24    /* of these: the whole store is read once a day */
#define PLANE_SWEEP_MS 100      /* after a change; a call of who has to go is refused at once */
#define PLANE_STRANGER_MS 30000 /* a connection without a certificate: Attest takes a moment */

struct plane {
    struct loop *loop;
    const struct config *config;
    struct vault *vault;
    struct ca *ca;
    struct registry *registry;
    struct meters *meters;
    struct identity_service *identity;
    struct discovery_service *discovery;
    struct operator_service operators;
    struct server_cert *cert;
    struct root_rotation *root_rotation;
    struct grpc_server *tls_server;
    struct grpc_server *unix_server;
    struct acceptor *tls_acceptor;
    struct acceptor *unix_acceptor;
    struct pages *pages;
    struct registry_observer observer;
    struct timer tick;
    struct timer maintain;
    unsigned maintained; /* times */
    struct timer drain;
    struct timer sweep;
    bool stopping;
};

/* ----------------------------------------------------------------------- store */

/* The folder is ours alone: it is made, or must be so already. */
static err_t plane_check_folder(const char *path, struct faults *faults)
{
    struct stat st;

    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        faults_add(faults, "--data-dir", "%s: cannot be made: %s", path, strerror(errno));
        return FAIL(FILE_OPEN, errno);
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        faults_add(faults, "--data-dir", "%s: is not a folder", path);
        return FAIL(FILE_OPEN, ENOTDIR);
    }
    if (st.st_uid != geteuid() || (st.st_mode & 077) != 0) {
        faults_add(faults, "--data-dir",
                   "%s: is open to others, or belongs to somebody else: chown and chmod 700 it",
                   path);
        return FAIL(FILE_UNSAFE, st.st_mode & 0777);
    }
    return OK;
}

static const char *plane_store_advice(err_t err)
{
    switch ((int)err.code) {
    case E_STORE_BUSY:
        return "another mortise-control is running on it";
    case E_STORE_CORRUPT:
        return "it is damaged: restore the folder from a backup";
    case E_STORE_SCHEMA:
        return "start the version of the program that wrote it";
    case E_STORE_UNWRITABLE:
        return "is the disk full or read-only?";
    default:
        return "check the folder and its disk";
    }
}

static void plane_store_fault(const char *path, err_t err, struct faults *faults)
{
    faults_add(faults, path, "%s: %s (%d): %s", err_name(err.code), err_text(err.code),
               (int)err.sub, plane_store_advice(err));
}

static err_t plane_open_store(struct plane *plane, const struct seal_key *key,
                              struct faults *faults)
{
    CLEANUP(mem_freep) char *path = mem_printf("%s/store.db", plane->config->data_dir);
    struct store *store;
    err_t err;

    TRY(plane_check_folder(plane->config->data_dir, faults));
    err = store_sqlite_open(path, plane->config->store_max_size, &store);
    if (!err_is_ok(err)) {
        plane_store_fault(path, err, faults);
        return err;
    }
    plane->vault = vault_new(store, key);
    err = vault_verify(plane->vault, faults);
    if (err_is(err, E_KEK_UNAVAILABLE))
        faults_add(faults, "--kek-file", "kek_unavailable: this is not the key of that store");
    else if (!err_is_ok(err))
        plane_store_fault(path, err, faults);
    return err;
}

/* The first start: root, issuer, default mesh, settings, in one transaction. */
static err_t plane_create(struct plane *plane, struct faults *faults)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    Mortise__Control__Settings settings = MORTISE__CONTROL__SETTINGS__INIT;
    int64_t now_s = clock_wall_s(loop_clock(plane->loop));

    if (plane->config->trust_domain == NULL) {
        faults_add(faults, "--trust-domain",
                   "is needed at the first start: the name of the mesh, for example mesh.example");
        return FAIL(CONFIG_INVALID, 1);
    }
    settings.schema = 1;
    settings.trust_domain = plane->config->trust_domain;
    settings.created_at = now_s;
    TRY(vault_batch_put(plane->vault, &batch, VAULT_SETTINGS, &settings.base, STORE_ABSENT));
    TRY(ca_create(plane->vault, &batch, settings.trust_domain, now_s));
    TRY(registry_create(plane->vault, &batch, now_s));
    TRY(vault_commit(plane->vault, &batch, NULL));
    log_info("plane", "created", LOG_STR("trust_domain", settings.trust_domain));
    return OK;
}

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

static bool plane_is_new(struct plane *plane)
{
    struct store_items items;
    bool is_new;

    if (!err_is_ok(store_list(vault_store(plane->vault), "", &items)))
        return false;
    is_new = items.num == 0;
    store_items_fini(&items);
    return is_new;
}

/* Loads the settings, after making them if there is nothing yet; `*out` is owned (pb_free). */
static err_t plane_settings(struct plane *plane, struct faults *faults,
                            Mortise__Control__Settings **out)
{
    ProtobufCMessage *msg = NULL;
    err_t err;

    if (plane_is_new(plane))
        TRY(plane_create(plane, faults));
    err = vault_get(plane->vault, VAULT_SETTINGS, &msg, NULL);
    if (!err_is_ok(err))
        return err_is(err, E_NOT_FOUND) ? FAIL(STORE_CORRUPT, 0) : err;
    *out = MSG_AS(Mortise__Control__Settings, mortise__control__settings__descriptor, msg);
    return plane_compare(plane, *out, faults);
}

static void plane_on_issued(void *arg, const char *reason)
{
    struct plane *plane = arg;

    meters_issued(plane->meters, reason);
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
    struct registry_params registry = {
        .vault = plane->vault,
        .clock = loop_clock(plane->loop),
        .trust_domain = trust_domain,
    };

    vault_on_commit(plane->vault, plane_on_commit, plane);
    TRY(ca_open(&ca, &plane->ca));
    registry.roots_pem = ca_roots_pem(plane->ca);
    return registry_open(&registry, faults, &plane->registry);
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

static enum grpc_status plane_authorize(void *arg, const struct grpc_peer *peer,
                                        const struct grpc_method *method, const char **out_reason)
{
    struct plane *plane = arg;
    const struct caller_rules rules = {
        .trust_domain = registry_trust_domain(plane->registry),
        .uid = geteuid(),
        .is_workload = plane_is_workload,
        .is_revoked = plane_is_revoked,
        .arg = plane,
    };
    enum grpc_status status = caller_permits(&rules, peer, method->permission, out_reason);
    char name[CALLER_NAME_MAX];

    if (status == GRPC_OK)
        return GRPC_OK;
    caller_name(peer, name);
    log_limited(LOG_WARN, "plane", "call_denied",
                (const struct log_field[]){LOG_STR("peer", name), LOG_STR("method", method->path),
                                           LOG_STR("reason", *out_reason)},
                3);
    meters_refused(plane->meters, E_PERMISSION);
    return status;
}

/* Connections that may not go on: of an expired certificate, of an identity that has left the mesh,
 * and of strangers who joined nothing. */
static bool plane_is_unwelcome(void *arg, const struct grpc_peer *peer)
{
    struct plane *plane = arg;
    const struct caller *caller = peer->identity;
    const struct clock *clock = loop_clock(plane->loop);

    if (caller->peer == NULL)
        return clock_mono_ms(clock) - caller->since_ms > PLANE_STRANGER_MS;
    if (clock_wall_s(clock) >= caller->peer->not_after ||
        registry_is_revoked(plane->registry, caller->peer))
        return true;
    return !plane_is_workload(plane, caller->peer->spiffe_id) &&
           !caller_is_admin(registry_trust_domain(plane->registry), caller->peer->spiffe_id);
}

static void plane_on_sweep(void *arg)
{
    struct plane *plane = arg;

    grpc_server_close_if(plane->tls_server, plane_is_unwelcome, plane);
}

static void plane_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    struct plane *plane = arg;

    (void)workload;
    /* Not from within the call that changed it: the caller himself may have to go, but for his
     * answer. */
    if (event == REGISTRY_MESH && !plane->stopping)
        timer_start(plane->loop, &plane->sweep, PLANE_SWEEP_MS, plane_on_sweep, plane);
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
    meters_set(meters, METERS_VERSION, (int64_t)registry_version(plane->registry));
    meters_set(meters, METERS_MESH_VERSION, (int64_t)registry_mesh_version(plane->registry));
    meters_set(meters, METERS_CONNECTIONS, (int64_t)grpc_server_num_connections(plane->tls_server));
    meters_set(meters, METERS_STORE_WRITABLE, !vault_health(plane->vault)->unwritable);
    meters_set(meters, METERS_ROOT_NOT_AFTER, ca_root_not_after(plane->ca));
    meters_set(meters, METERS_ISSUER_NOT_AFTER, ca_issuer_not_after(plane->ca));
    meters_set(meters, METERS_CONTROL_NOT_AFTER, server_cert_not_after(plane->cert));
    meters_set(meters, METERS_ROTATION_STAGE, (int64_t)rotation.stage);
    meters_set(meters, METERS_ROTATION_SINCE, rotation.stage_since);
}

static void plane_on_tick(void *arg)
{
    struct plane *plane = arg;

    registry_tick(plane->registry);
    root_rotation_tick(plane->root_rotation);
    grpc_server_close_if(plane->tls_server, plane_is_unwelcome, plane);
    plane_measure(plane);
    timer_start(plane->loop, &plane->tick, PLANE_TICK_MS, plane_on_tick, plane);
}

static void plane_on_maintain(void *arg)
{
    struct plane *plane = arg;
    err_t err = attest_purge(plane->vault, clock_wall_s(loop_clock(plane->loop)));

    if (err_is_ok(err))
        err = ca_maintain(plane->ca);
    if (err_is_ok(err) && ++plane->maintained % PLANE_CHECK_EVERY == 0)
        err = vault_check(plane->vault);
    if (!err_is_ok(err))
        log_error("plane", "maintenance_failed", LOG_ERR("error", err));
    timer_start(plane->loop, &plane->maintain, PLANE_MAINTAIN_MS, plane_on_maintain, plane);
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
}

static void plane_make_services(struct plane *plane)
{
    const struct identity_service_params identity = {
        .loop = plane->loop,
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .meters = plane->meters,
        .clock = loop_clock(plane->loop),
    };
    const struct discovery_service_params discovery = {
        .loop = plane->loop,
        .ca = plane->ca,
        .registry = plane->registry,
        .meters = plane->meters,
    };
    struct grpc_server_params server = {
        .max_connections = (unsigned)plane->config->max_connections,
        .authorize = plane_authorize,
        .free_identity = plane_free_identity,
        .on_finished = plane_on_finished,
        .arg = plane,
    };

    plane->identity = identity_service_new(&identity);
    plane->discovery = discovery_service_new(&discovery);
    plane->operators = (struct operator_service){
        .loop = plane->loop,
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .root_rotation = plane->root_rotation,
        .clock = loop_clock(plane->loop),
    };
    operator_service_init(&plane->operators);
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
    };

    return pages_new(&params, faults, &plane->pages);
}

static void plane_on_switched(void *arg)
{
    struct plane *plane = arg;

    server_cert_reissue(plane->cert);
}

static err_t plane_open_rotation(struct plane *plane)
{
    const struct root_rotation_params params = {
        .loop = plane->loop,
        .vault = plane->vault,
        .ca = plane->ca,
        .registry = plane->registry,
        .on_switched = plane_on_switched,
        .arg = plane,
    };

    return root_rotation_open(&params, &plane->root_rotation);
}

static err_t plane_open(struct plane *plane, const struct seal_key *key, struct faults *faults)
{
    Mortise__Control__Settings *settings = NULL;
    size_t told = faults->total;
    err_t err;

    TRY(plane_open_store(plane, key, faults));
    err = plane_settings(plane, faults, &settings);
    if (err_is_ok(err)) {
        err = plane_load(plane, settings->trust_domain, faults);
        if (err_is_ok(err))
            err = ca_maintain(plane->ca); /* an issuer past its time first of all */
        if (err_is_ok(err))
            err = server_cert_new(plane->loop, plane->ca, settings->trust_domain, &plane->cert);
        if (err_is_ok(err))
            err = plane_open_rotation(plane);
    }
    if (!err_is_ok(err) && (faults->total == told || err_is(err, E_STORE_CORRUPT)))
        plane_store_fault(plane->config->data_dir, err, faults);
    if (settings != NULL)
        pb_free(&settings->base);
    return err;
}

static err_t plane_begin(struct plane *plane, const struct seal_key *key, struct faults *faults)
{
    TRY(plane_open(plane, key, faults));
    plane_make_services(plane);
    TRY(plane_make_pages(plane, faults));
    TRY(plane_listen(plane, faults));
    plane_on_tick(plane);
    timer_start(plane->loop, &plane->maintain, PLANE_MAINTAIN_MS, plane_on_maintain, plane);
    return OK;
}

err_t plane_new(struct loop *loop, const struct config *config, const struct seal_key *key,
                struct faults *faults, struct plane **out)
{
    struct plane *plane = mem_zalloc(sizeof(*plane));
    err_t err;

    plane->loop = loop;
    plane->config = config;
    plane->meters = meters_new();
    err = plane_begin(plane, key, faults);
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
    server_cert_free(plane->cert);
    registry_close(plane->registry);
    ca_free(plane->ca);
    vault_free(plane->vault);
    meters_free(plane->meters);
    mem_free(plane);
}
