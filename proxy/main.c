/* mortise-proxy: the sidecar program. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <jansson.h>
#include <nghttp2/nghttp2.h>
#include <openssl/crypto.h>
#include <protobuf-c/protobuf-c.h>
#include <uv.h>
#include <yaml.h>

#include "certs/secrets.h"
#include "lib/base/faults.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/process.h"
#include "lib/base/version.h"
#include "lib/net/loop.h"
#include "proxy/access_log.h"
#include "proxy/cache.h"
#include "proxy/config.h"
#include "proxy/control_mode.h"
#include "proxy/sidecar.h"
#include "proxy/static_config.h"
#include "proxy/static_mode.h"

#define MAIN_EXIT_CONFIG 2 /* something is wrong with what we were told */

extern char **environ;

struct program {
    struct config_args args;
    struct config settings;
    struct stats *stats;
    struct loop *loop;
    struct sidecar *sidecar;
    uv_signal_t signals[3];
    unsigned num_stops; /* SIGTERM and SIGINT so far */
};

/* Hands the faults over to an empty list. */
static void main_move_faults(struct faults *to, struct faults *from)
{
    CHECK(to->total == 0);
    *to = *from;
    *from = (struct faults){.num = 0};
}

static void main_print_version(void)
{
    (void)printf(
        "mortise-proxy %s\n"
        "BoringSSL (API %d), libuv %s, nghttp2 %s, protobuf-c %s, jansson %s, libyaml %s\n",
        MORTISE_VERSION, BORINGSSL_API_VERSION, uv_version_string(),
        nghttp2_version(0)->version_str, protobuf_c_version(), jansson_version_str(),
        yaml_get_version_string());
}

static void main_print_faults(const struct faults *faults)
{
    (void)fprintf(stderr, "mortise-proxy: %zu %s:\n", faults->total,
                  faults->total == 1 ? "fault" : "faults");
    for (size_t i = 0; i < faults->num; i++)
        (void)fprintf(stderr, "  %s: %s\n", faults->items[i].path, faults->items[i].message);
    if (faults->total > faults->num)
        (void)fprintf(stderr, "  and %zu more\n", faults->total - faults->num);
}

/* ---- signals ---- */

static void main_on_stop(uv_signal_t *handle, int number)
{
    struct program *program = handle->data;

    if (program->num_stops++ == 0) {
        log_info("main", "signal", LOG_INT("number", number));
        sidecar_drain(program->sidecar);
    } else {
        log_warn("main", "stopped_at_once", LOG_INT("number", number));
        loop_stop(program->loop);
    }
}

static void main_on_reload(uv_signal_t *handle, int number)
{
    struct program *program = handle->data;

    (void)number;
    if (program->num_stops == 0)
        sidecar_reload(program->sidecar);
}

static void main_watch_signals(struct program *program)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        uv_signal_t *handle = &program->signals[i];

        CHECK(uv_signal_init(loop_uv(program->loop), handle) == 0);
        handle->data = program;
        CHECK(uv_signal_start(handle, numbers[i] == SIGHUP ? main_on_reload : main_on_stop,
                              numbers[i]) == 0);
        uv_unref((uv_handle_t *)handle);
    }
}

/* ---- limits ---- */

static err_t main_set_limits(const struct config *settings, struct faults *faults)
{
    char reason[PROCESS_REASON_MAX];
    struct rlimit files;
    unsigned most;

    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return OK;
    if (files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    if (!process_has_descriptors(config_descriptors_least(settings), reason)) {
        faults_add(faults, "--workers", "%zu: %s", config_num_workers(settings), reason);
        return faults_err(faults);
    }
    if (files.rlim_max == RLIM_INFINITY)
        return OK;
    most = config_set_descriptors(settings, files.rlim_max);
    if (most < (uint64_t)settings->max_connections)
        log_info("main", "few_descriptors", LOG_UINT("limit", files.rlim_max),
                 LOG_INT("max_connections", settings->max_connections),
                 LOG_UINT("lowered_to", most));
    return OK;
}

static err_t main_set_logs(const struct config *settings, struct faults *faults)
{
    struct bytes bad = {NULL, 0};
    err_t err;

    CHECK(err_is_ok(log_set_spec(settings->log_level, &bad))); /* config_check has looked */
    log_set_format(settings->log_format == 1 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT);
    err = access_log_open(settings->access_log, config_facility(settings));
    if (!err_is_ok(err))
        faults_add(faults, "--access-log", "%s: %s: %s", settings->access_log, err_text(err.code),
                   access_log_reason(err));
    return faults_err(faults);
}

/* ---- running ---- */

static err_t main_run(struct program *program, struct sidecar_params *params, struct faults *faults)
{
    err_t err;

    program->loop = loop_new(&clock_system);
    main_watch_signals(program);
    params->loop = program->loop;
    params->clock = &clock_system;
    params->args = &program->args;
    params->settings = &program->settings;
    params->stats = program->stats;
    err = sidecar_new(params, faults, &program->sidecar);
    config_wipe_secrets(&program->settings, program->args.environment);
    if (err_is_ok(err)) {
        log_info(
            "main", "started", LOG_STR("version", MORTISE_VERSION),
            LOG_STR("mode", config_is_static(&program->settings) ? "static" : "control"),
            LOG_STR("records", tls_records_engine(config_tunables(&program->settings).records)));
        loop_run(program->loop);
        log_ending();
        sidecar_free(program->sidecar);
        log_info("main", "ended");
    }
    loop_free(program->loop);
    return err;
}

static err_t main_static(struct program *program, struct faults *faults)
{
    CLEANUP(static_config_fini) struct static_config loaded = {.msg = NULL};
    struct watch_files files = {.items = NULL};
    struct sidecar_params params = {.first = &loaded, .files = &files};
    int64_t now_s = clock_wall_s(&clock_system);
    err_t err = static_config_load(&program->args, now_s, &files, faults, &loaded);

    /* What can be checked of the rest is told as well. */
    if (loaded.msg != NULL && loaded.cas != NULL && !err_is_ok(err))
        (void)static_mode_check(&loaded, now_s, program->stats, faults);
    if (err_is_ok(err)) {
        config_free(&program->settings);
        program->settings = loaded.settings; /* with those of the file */
        loaded.settings = (struct config){.config_file = NULL};
        err = program->settings.check ? static_mode_check(&loaded, now_s, program->stats, faults)
                                      : main_set_logs(&program->settings, faults);
    }
    if (err_is_ok(err) && !program->settings.check)
        err = main_set_limits(&program->settings, faults);
    if (err_is_ok(err) && !program->settings.check) {
        loaded.settings = program->settings; /* lent, for the deadlines in it */
        err = main_run(program, &params, faults);
        loaded.settings = (struct config){.config_file = NULL};
    }
    watch_files_clear(&files);
    return err;
}

static err_t main_control(struct program *program, struct faults *faults)
{
    CLEANUP(bundle_unrefp) struct bundle *roots = NULL;
    struct sidecar_params params = {.first = NULL};
    const struct cache_params cache = {
        .dir = program->settings.cache_dir,
        .key = config_cache_key(&program->settings),
        .trust_domain = program->settings.trust_domain,
    };
    err_t err;

    (void)config_check(&program->settings, faults);
    if (program->settings.control != NULL && program->settings.trust_bundle != NULL)
        (void)control_mode_read_roots(&program->settings, faults, &roots);
    (void)config_use_secrets(&program->settings, faults);
    /* What a command prints is read once: when the cache is opened. */
    if (program->settings.cache_dir != NULL && secret_source_is_given(&cache.key) &&
        (program->settings.check || program->settings.cache_key_command.num == 0))
        (void)cache_check(&cache, faults);
    TRY(faults_err(faults));
    if (program->settings.check)
        return OK;
    TRY(main_set_logs(&program->settings, faults));
    TRY(main_set_limits(&program->settings, faults));
    if (program->settings.cache_dir != NULL)
        TRY(cache_open(&cache, faults, &params.cache));
    params.roots = roots;
    err = main_run(program, &params, faults);
    cache_close(params.cache);
    return err;
}

static err_t main_program(struct program *program, struct faults *faults)
{
    CLEANUP(faults_fini) struct faults of_flags = {.num = 0};
    struct options_result result;

    /* For static mode the flags are read again, together with the file. */
    (void)config_parse(&program->args, &program->settings, &result, &of_flags);
    if (result.help || result.version) {
        if (result.help)
            config_help(result.man, stdout);
        else
            main_print_version();
        return OK;
    }
    if (program->settings.config_file != NULL && program->settings.control == NULL) {
        TRY(main_static(program, faults));
    } else {
        main_move_faults(faults, &of_flags);
        TRY(main_control(program, faults));
    }
    if (program->settings.check)
        (void)printf("OK\n");
    return OK;
}

int main(int argc, char **argv)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct program program = {.args = {.argc = argc, .argv = argv, .environment = environ}};
    err_t err;

    process_begin();
    process_protect("mortise-proxy");
    process_ignore_signals();
    (void)signal(SIGHUP, SIG_IGN); /* until main_watch_signals: a log rotator must not end us */
    program.stats = stats_new();
    err = main_program(&program, &faults);
    access_log_close();
    stats_free(program.stats);
    secrets_end();
    config_free(&program.settings);
    if (err_is_ok(err))
        return process_end("mortise-proxy", EXIT_SUCCESS);
    if (faults.total == 0)
        (void)fprintf(stderr, "mortise-proxy: %s (%s)\n", err_text(err.code), err_name(err.code));
    else
        main_print_faults(&faults);
    return MAIN_EXIT_CONFIG;
}
