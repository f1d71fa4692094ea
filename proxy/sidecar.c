#include "proxy/sidecar.h"

#include <stdatomic.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/rpc/admin.h"
#include "proxy/access_log.h"
#include "proxy/access_share.h"
#include "proxy/crl_alarm.h"
#include "proxy/pages.h"
#include "proxy/ports.h"

#define SIDECAR_TICK_MS 1000
#define SIDECAR_SAMPLE_TICKS 5 /* metrics of process and live connections */
#define SIDECAR_DRAIN_LOOK_MS 20
#define SIDECAR_DRAIN_GRACE_MS \
    500                  /* the workers cut at the deadline, and say so of each connection */
#define SIDECAR_CROWD 64 /* connections; what fewer leave behind is not worth looking for */

struct sidecar {
    struct sidecar_params params;
    struct loop *loop;
    struct stats *stats;
    struct limits *limits;
    struct worker_shared shared;
    struct surveys *surveys;
    struct admin *admin;
    struct static_mode *static_mode;
    struct control_mode *control_mode;
    struct snapshot *snapshot; /* in force; NULL: none yet */
    uint64_t generation;
    struct timer tick;
    uint64_t tick_due_us;
    unsigned ticks;
    struct crl_alarm crl_alarm;
    struct timer drain;
    uint64_t drain_until_ms;
    unsigned drain_open; /* connections at the last look before that */
    bool ready;          /* as last told */
    bool draining;
};

/* ---- readiness ---- */

enum capture_state sidecar_capture(const struct sidecar *sidecar)
{
    return (enum capture_state)atomic_load_explicit(&sidecar->shared.capture, memory_order_relaxed);
}

static void sidecar_add_capture(const struct sidecar *sidecar, struct faults *reasons)
{
    enum capture_state state = sidecar_capture(sidecar);

    if (state == CAPTURE_UNKNOWN)
        faults_add(reasons, "capture", "not tried yet");
    else if (capture_is_broken(state))
        faults_add(reasons, "capture",
                   "the kernel hands over no connection by %s: run mortise-redirect",
                   capture_where(state));
}

void sidecar_why_not_ready(const struct sidecar *sidecar, struct faults *reasons)
{
    const struct snapshot *snapshot = sidecar->snapshot;
    struct control_mode_facts facts;
    char when[21];

    if (sidecar->draining)
        faults_add(reasons, "draining", "the sidecar is about to end");
    if (snapshot != NULL && snapshot_expired(snapshot, clock_wall_s(sidecar->params.clock))) {
        clock_format_utc(snapshot->svid->not_after, when);
        faults_add(reasons, "certificate", "expired at %s; new connections are refused", when);
    }
    sidecar_add_capture(sidecar, reasons);
    if (snapshot != NULL || sidecar->control_mode == NULL)
        return;
    facts = control_mode_facts(sidecar->control_mode);
    if (!facts.joined)
        faults_add(reasons, "certificate", "none yet%s%s",
                   facts.renewal_error[0] != '\0' ? ": " : "", facts.renewal_error);
    else
        faults_add(reasons, "configuration", "none yet%s%s",
                   facts.connected ? "" : ": not connected to the control plane",
                   facts.rejected != NULL ? " (the one sent was refused)" : "");
}

static void sidecar_tell_ready(const struct sidecar *sidecar, const struct faults *reasons)
{
    if (sidecar->ready) {
        log_info("sidecar", "ready", LOG_UINT("generation", sidecar->snapshot->generation));
        return;
    }
    for (size_t i = 0; i < reasons->num; i++)
        log_event(sidecar->draining ? LOG_INFO : LOG_WARN, "sidecar", "not_ready",
                  (const struct log_field[]){LOG_STR("about", reasons->items[i].path),
                                             LOG_STR("reason", reasons->items[i].message)},
                  2);
}

static void sidecar_look_ready(struct sidecar *sidecar)
{
    CLEANUP(faults_fini) struct faults reasons = {.num = 0};
    bool ready;

    sidecar_why_not_ready(sidecar, &reasons);
    ready = reasons.total == 0 && sidecar->snapshot != NULL;
    if (ready == sidecar->ready)
        return;
    sidecar->ready = ready;
    stats_set(sidecar->stats, STAT_READY, ready);
    sidecar_tell_ready(sidecar, &reasons);
    if (sidecar->control_mode != NULL)
        control_mode_changed(sidecar->control_mode);
}

/* ---- publishing ---- */

struct sidecar_apply {
    struct snapshot *snapshot;
    struct faults *faults;
    err_t err;
};

static void sidecar_apply_ports(struct worker *worker, void *arg)
{
    struct sidecar_apply *apply = arg;

    apply->err = ports_apply(worker->ports, apply->snapshot, apply->faults);
}

/* A control plane may push it: it does not know how each sidecar was started. */
static void sidecar_tell_uncaptured(const struct snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->num_outbound; i++) {
        if (snapshot->outbound[i].listen.len == 0 && snapshot->tunables.capture_port == 0)
            log_warn("config", "not_captured", LOG_STR("link", snapshot->outbound[i].name),
                     LOG_STR("effect", "nobody can use it here: it has no port of its own, and "
                                       "without --capture-port nothing is captured"));
    }
}

static void sidecar_tell_weak(const struct link *links, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        if (links[i].weak != NULL)
            log_warn("config", "weak_profile",
                     LOG_STR("direction", direction_name(links[i].direction)),
                     LOG_STR("link", links[i].name), LOG_STR("profile", links[i].profile),
                     LOG_STR("weak", links[i].weak),
                     LOG_STR("anonymous", links[i].anonymous ? "may enter" : NULL));
    }
}

static void sidecar_told_snapshot(struct sidecar *sidecar, const struct snapshot *snapshot)
{
    stats_add(sidecar->stats, STAT_CONFIG_APPLIED, 1);
    stats_set(sidecar->stats, STAT_GENERATION, (int64_t)snapshot->generation);
    stats_set(sidecar->stats, STAT_CERT_NOT_BEFORE, snapshot->svid->not_before);
    stats_set(sidecar->stats, STAT_CERT_NOT_AFTER, snapshot->svid->not_after);
    log_info("config", "applied", LOG_UINT("generation", snapshot->generation),
             LOG_UINT("version", snapshot->version), LOG_STR("serial", snapshot->svid->serial),
             LOG_INT("not_after", snapshot->svid->not_after),
             LOG_UINT("outbound", snapshot->num_outbound),
             LOG_UINT("inbound", snapshot->num_inbound));
    sidecar_tell_uncaptured(snapshot);
    sidecar_tell_weak(snapshot->outbound, snapshot->num_outbound);
    sidecar_tell_weak(snapshot->inbound, snapshot->num_inbound);
}

static void sidecar_look_crls(struct sidecar *sidecar)
{
    if (sidecar->snapshot != NULL)
        crl_alarm_look(&sidecar->crl_alarm, sidecar->snapshot, sidecar->stats,
                       clock_wall_s(sidecar->params.clock));
}

static void sidecar_recheck(struct sidecar *sidecar, struct snapshot *snapshot)
{
    for (size_t i = 0; i < sidecar->shared.num_workers; i++)
        worker_recheck(sidecar->shared.workers[i], snapshot);
}

static err_t sidecar_build(struct sidecar *sidecar, struct snapshot_input *in,
                           struct faults *faults, struct snapshot **out)
{
    in->before = sidecar->snapshot;
    in->generation = sidecar->generation + 1;
    in->now_s = clock_wall_s(sidecar->params.clock);
    TRY(snapshot_build(in, faults, out));
    return *out != NULL ? OK : FAIL(SVID_MISSING, 0);
}

/* A snapshot comes into force by worker 0 taking it, because all connections begin there. It binds
 * what is new first, so that this changes everything or nothing. */
static err_t sidecar_put_into_force(struct sidecar *sidecar, struct snapshot_input *in,
                                    struct faults *faults)
{
    CLEANUP(snapshot_unrefp) struct snapshot *snapshot = NULL;
    struct sidecar_apply apply = {.faults = faults, .err = OK};

    in->stats = sidecar->stats;
    TRY(sidecar_build(sidecar, in, faults, &snapshot));
    if (sidecar->draining) { /* nothing begins any more; what lives is judged all the same */
        sidecar_recheck(sidecar, snapshot);
        return FAIL(DRAINING, 0);
    }
    apply.snapshot = snapshot;
    worker_call(sidecar->shared.workers[0], sidecar_apply_ports, &apply);
    TRY(apply.err);

    sidecar->generation = snapshot->generation;
    if (sidecar->snapshot != NULL)
        snapshot_unref(sidecar->snapshot);
    sidecar->snapshot = snapshot_ref(snapshot);
    sidecar_recheck(sidecar, snapshot);
    sidecar_told_snapshot(sidecar, snapshot);
    sidecar_look_crls(sidecar);
    sidecar_look_ready(sidecar);
    return OK;
}

/* What is no field's fault, as that we are about to end, is told all the same. */
static err_t sidecar_told_why(err_t err, struct faults *faults)
{
    if (!err_is_ok(err) && faults->total == 0)
        faults_add(faults, "", "%s (%s)", err_text(err.code), err_name(err.code));
    return err;
}

static err_t sidecar_publish(void *arg, struct snapshot_input *in, struct faults *faults)
{
    return sidecar_told_why(sidecar_put_into_force(arg, in, faults), faults);
}

static void sidecar_try_ports(struct worker *worker, void *arg)
{
    struct sidecar_apply *apply = arg;

    apply->err = ports_try(worker->ports, apply->snapshot, apply->faults);
}

static err_t sidecar_make_candidate(struct sidecar *sidecar, struct snapshot_input *in,
                                    struct faults *faults, struct snapshot **out)
{
    CLEANUP(snapshot_unrefp) struct snapshot *snapshot = NULL;
    struct sidecar_apply apply = {.faults = faults, .err = OK};

    TRY(sidecar_build(sidecar, in, faults, &snapshot)); /* counts nothing */
    apply.snapshot = snapshot;
    if (!sidecar->draining) /* then what lives is judged by it, and no more */
        worker_call(sidecar->shared.workers[0], sidecar_try_ports, &apply);
    TRY(apply.err);
    *out = snapshot_ref(snapshot);
    return OK;
}

static err_t sidecar_candidate(void *arg, struct snapshot_input *in, struct faults *faults,
                               struct snapshot **out)
{
    return sidecar_told_why(sidecar_make_candidate(arg, in, faults, out), faults);
}

static struct snapshot *sidecar_current(void *arg)
{
    const struct sidecar *sidecar = arg;

    return sidecar->snapshot;
}

static bool sidecar_told_ready(void *arg)
{
    const struct sidecar *sidecar = arg;

    return sidecar->ready;
}

/* -------------------------------------------------------------------------------------------
 * duties */

static unsigned sidecar_open_connections(const struct sidecar *sidecar)
{
    unsigned num = 0;

    for (size_t i = 0; i < sidecar->shared.num_workers; i++)
        num += atomic_load_explicit(&sidecar->shared.workers[i]->load, memory_order_relaxed);
    return num;
}

/* A crowd that has gone leaves holes in the heap, of which the allocator returns only the last one:
 * 10 of the 10 MB that 400 hellos of 15 kB had taken stayed, for good. Giving them back takes the
 * locks of the workers' heaps, one after the other: so only after a crowd, and at a tick. */
static void sidecar_give_memory_back(struct sidecar *sidecar)
{
    const struct worker_shared *shared = &sidecar->shared;
    unsigned crowd = 0;

    for (size_t i = 0; i < shared->num_workers; i++)
        crowd += atomic_load_explicit(&shared->workers[i]->crowd, memory_order_relaxed);
    if (crowd < SIDECAR_CROWD || sidecar_open_connections(sidecar) > crowd / 2)
        return;
    for (size_t i = 0; i < shared->num_workers; i++) {
        struct worker *worker = shared->workers[i];
        unsigned load = atomic_load_explicit(&worker->load, memory_order_relaxed);
        atomic_store_explicit(&worker->crowd, load, memory_order_relaxed);
    }
    mem_trim();
}

static void sidecar_tell_access_log(const struct sidecar *sidecar, err_t err)
{
    if (!err_is_ok(err))
        log_error("sidecar", "access_log_failed",
                  LOG_STR("path", sidecar->params.settings->access_log),
                  LOG_STR("reason", access_log_reason(err)), LOG_ERR("error", err));
}

static void sidecar_on_tick(void *arg)
{
    struct sidecar *sidecar = arg;
    const struct config *settings = sidecar->params.settings;
    uint64_t now_us = clock_mono_us();

    if (now_us > sidecar->tick_due_us)
        stats_lag(sidecar->stats, false, now_us - sidecar->tick_due_us);
    sidecar->tick_due_us = now_us + SIDECAR_TICK_MS * 1000;
    timer_start(sidecar->loop, &sidecar->tick, SIDECAR_TICK_MS, sidecar_on_tick, sidecar);
    stats_set(sidecar->stats, STAT_CAPTURE_BROKEN, capture_is_broken(sidecar_capture(sidecar)));
    sidecar_look_ready(sidecar); /* the certificate may have expired */
    sidecar_look_crls(sidecar);
    sidecar_tell_access_log(sidecar,
                            access_log_follow(settings->access_log, config_facility(settings)));
    if (sidecar->control_mode != NULL)
        control_mode_tick(sidecar->control_mode);
    sidecar_give_memory_back(sidecar);
    if (sidecar->ticks++ % SIDECAR_SAMPLE_TICKS != 0)
        return;
    stats_sample(sidecar->stats);
    for (size_t i = 0; i < sidecar->shared.num_workers; i++)
        worker_tick(sidecar->shared.workers[i]);
}

void sidecar_reload(struct sidecar *sidecar)
{
    const struct config *settings = sidecar->params.settings;

    sidecar_tell_access_log(sidecar,
                            access_log_open(settings->access_log, config_facility(settings)));
    if (sidecar->static_mode != NULL)
        static_mode_reload(sidecar->static_mode);
}

static void sidecar_on_drain(void *arg)
{
    struct sidecar *sidecar = arg;
    unsigned open = sidecar_open_connections(sidecar);
    uint64_t now_ms = loop_now_ms(sidecar->loop);
    bool late = now_ms >= sidecar->drain_until_ms;

    if (!late)
        sidecar->drain_open = open;
    if (open == 0 || now_ms >= sidecar->drain_until_ms + SIDECAR_DRAIN_GRACE_MS) {
        log_info("sidecar", "drained", LOG_UINT("cut_off", late ? sidecar->drain_open : 0));
        loop_stop(sidecar->loop);
        return;
    }
    timer_start(sidecar->loop, &sidecar->drain, SIDECAR_DRAIN_LOOK_MS, sidecar_on_drain, sidecar);
}

void sidecar_drain(struct sidecar *sidecar)
{
    uint64_t drain_ms = sidecar->snapshot != NULL
                            ? sidecar->snapshot->tunables.drain_ms
                            : (uint64_t)sidecar->params.settings->drain_timeout_ms;

    CHECK(!sidecar->draining);
    sidecar->draining = true;
    sidecar_look_ready(sidecar);
    sidecar->drain_open = sidecar_open_connections(sidecar);
    log_info("sidecar", "draining", LOG_UINT("connections", sidecar->drain_open),
             LOG_UINT("timeout_ms", drain_ms));
    for (size_t i = 0; i < sidecar->shared.num_workers; i++)
        worker_drain(sidecar->shared.workers[i]);
    sidecar->drain_until_ms = loop_now_ms(sidecar->loop) + drain_ms;
    sidecar_on_drain(sidecar);
}

/* ---- life cycle ---- */

static void sidecar_start_workers(struct sidecar *sidecar)
{
    struct worker_shared *shared = &sidecar->shared;

    shared->stats = sidecar->stats;
    shared->limits = sidecar->limits;
    shared->clock = sidecar->params.clock;
    if (!config_is_static(sidecar->params.settings)) {
        shared->failures = failures_new();
        shared->access_share = access_share_new();
    }
    shared->num_workers = config_num_workers(sidecar->params.settings);
    shared->workers = mem_array(shared->num_workers, sizeof(struct worker *));
    for (size_t i = 0; i < shared->num_workers; i++)
        shared->workers[i] = worker_new(shared, (unsigned)i);
    for (size_t i = 0; i < shared->num_workers; i++)
        worker_run(shared->workers[i]);
    sidecar->surveys = surveys_new(sidecar->loop, shared);
}

static err_t sidecar_start_admin(struct sidecar *sidecar, struct faults *faults)
{
    const struct config *settings = sidecar->params.settings;
    const struct admin_params params = {
        .listen = settings->admin_listen,
        .http_listen = settings->metrics_listen,
        .metrics = stats_metrics(sidecar->stats),
        .more_metrics = pages_series,
        .ready = pages_ready,
        .pages = pages,
        .arg = sidecar,
    };

    if (settings->admin_listen == NULL && settings->metrics_listen == NULL)
        return OK;
    return admin_new(sidecar->loop, &params, faults, &sidecar->admin);
}

static err_t sidecar_start_source(struct sidecar *sidecar, struct faults *faults)
{
    const struct source_params params = {
        .loop = sidecar->loop,
        .clock = sidecar->params.clock,
        .stats = sidecar->stats,
        .args = sidecar->params.args,
        .settings = sidecar->params.settings,
        .publish = sidecar_publish,
        .candidate = sidecar_candidate,
        .surveys = sidecar->surveys,
        .failures = sidecar->shared.failures,
        .access_share = sidecar->shared.access_share,
        .current = sidecar_current,
        .ready = sidecar_told_ready,
        .arg = sidecar,
    };

    if (config_is_static(params.settings))
        return static_mode_new(&params, sidecar->params.first, sidecar->params.files, faults,
                               &sidecar->static_mode);
    sidecar->control_mode = control_mode_new(&params, sidecar->params.roots, sidecar->params.cache);
    return OK;
}

err_t sidecar_new(const struct sidecar_params *params, struct faults *faults, struct sidecar **out)
{
    struct sidecar *sidecar = mem_zalloc(sizeof(*sidecar));
    err_t err;

    sidecar->params = *params;
    sidecar->loop = params->loop;
    sidecar->stats = params->stats;
    sidecar->limits = limits_new();
    sidecar_start_workers(sidecar);
    err = sidecar_start_admin(sidecar, faults);
    if (err_is_ok(err))
        err = sidecar_start_source(sidecar, faults);
    if (!err_is_ok(err)) {
        sidecar_free(sidecar);
        return err;
    }
    sidecar->tick_due_us = clock_mono_us();
    sidecar_on_tick(sidecar);
    *out = sidecar;
    return OK;
}

void sidecar_free(struct sidecar *sidecar)
{
    timer_stop(sidecar->loop, &sidecar->tick);
    timer_stop(sidecar->loop, &sidecar->drain);
    if (sidecar->static_mode != NULL)
        static_mode_free(sidecar->static_mode);
    if (sidecar->control_mode != NULL)
        control_mode_free(sidecar->control_mode);
    if (sidecar->admin != NULL)
        admin_free(sidecar->admin);
    for (size_t i = 0; i < sidecar->shared.num_workers; i++)
        worker_free(sidecar->shared.workers[i]);
    surveys_free(sidecar->surveys);
    if (sidecar->shared.failures != NULL)
        failures_free(sidecar->shared.failures);
    access_share_free(sidecar->shared.access_share);
    if (sidecar->snapshot != NULL)
        snapshot_unref(sidecar->snapshot);
    crl_alarm_fini(&sidecar->crl_alarm);
    limits_free(sidecar->limits);
    mem_free(sidecar->shared.workers);
    mem_free(sidecar);
}

const struct snapshot *sidecar_snapshot(const struct sidecar *sidecar)
{
    return sidecar->snapshot;
}

const struct worker_shared *sidecar_workers(const struct sidecar *sidecar)
{
    return &sidecar->shared;
}

const struct control_mode *sidecar_control(const struct sidecar *sidecar)
{
    return sidecar->control_mode;
}

const char *sidecar_rejected(const struct sidecar *sidecar)
{
    if (sidecar->static_mode != NULL)
        return static_mode_rejected(sidecar->static_mode);
    return control_mode_facts(sidecar->control_mode).rejected;
}
