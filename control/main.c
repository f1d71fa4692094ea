/* mortise-control: the control plane's program. */
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <uv.h>

#include "control/build.h"
#include "control/config.h"
#include "control/plane.h"
#include "control/store_sqlite.h"
#include "lib/base/mem.h"
#include "lib/base/process.h"

#define MAIN_DESCRIPTORS_LEAST 40 /* loop, store, listeners; and some sidecars */

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct main_signals {
    uv_signal_t term;
    uv_signal_t intr;
};

static void main_on_signal(uv_signal_t *handle, int number)
{
    (void)number;
    plane_stop(handle->data);
}

static void main_watch_signal(struct loop *loop, uv_signal_t *handle, int number,
                              struct plane *plane)
{
    int rc = uv_signal_init(loop_uv(loop), handle);

    CHECK(rc == 0);
    handle->data = plane;
    rc = uv_signal_start(handle, main_on_signal, number);
    CHECK(rc == 0);
}

/* No core file, no ptrace by others: the process holds the CA's keys (R22). */
static void main_protect(void)
{
    (void)umask(077);
    process_protect("mortise-control");
    process_ignore_signals();
    (void)signal(SIGHUP, SIG_IGN); /* nothing is read again; a log rotator must not end us */
}

static void main_tell(const struct faults *faults)
{
    CLEANUP(buf_fini) struct buf text = {0};

    faults_text(faults, &text);
    fprintf(stderr, "mortise-control: %s\n%.*s",
            faults->total > 1 ? "these are wrong:" : "this is wrong:", (int)buf_size(&text),
            (const char *)buf_view(&text).ptr);
}

static int main_serve(const struct config *config, const struct seal_keys *keys,
                      struct faults *faults)
{
    char reason[PROCESS_REASON_MAX];
    struct main_signals signals;
    struct plane *plane = NULL;
    struct loop *loop;
    struct bytes bad;
    err_t err;

    if (!process_has_descriptors(MAIN_DESCRIPTORS_LEAST, reason)) {
        fprintf(stderr, "mortise-control: %s\n", reason);
        return EXIT_USAGE;
    }
    loop = loop_new(&clock_system);
    err = log_set_spec(config->log_level, &bad);
    CHECK(err_is_ok(err)); /* config_load has tried it */
    log_set_format((enum log_format)config->log_format);
    err = plane_new(loop, config, keys, faults, &plane);
    if (err_is_ok(err)) {
        main_watch_signal(loop, &signals.term, SIGTERM, plane);
        main_watch_signal(loop, &signals.intr, SIGINT, plane);
        loop_run(loop);
        log_ending();
        (void)uv_signal_stop(&signals.term);
        (void)uv_signal_stop(&signals.intr);
        plane_free(plane);
        log_info("plane", "stopped");
    }
    loop_free(loop);
    if (err_is_ok(err))
        return EXIT_OK;
    main_tell(faults);
    return err_is(err, E_CONFIG_INVALID) ? EXIT_USAGE : EXIT_FAILED;
}

static int main_run(struct config *config, char **environment, struct faults *faults)
{
    struct seal_keys keys;
    int status;

    if (!err_is_ok(config_kek(config, environment, faults, &keys))) {
        main_tell(faults);
        return EXIT_FAILED;
    }
    if (config->check) {
        printf("OK\n");
        status = EXIT_OK;
    } else {
        status = main_serve(config, &keys, faults);
    }
    seal_keys_fini(&keys);
    secrets_end();
    return status;
}

int main(int argc, char **argv)
{
    struct config config = {0};
    struct options_result result;
    struct faults faults = {0};
    int status = EXIT_OK;
    err_t err;

    process_begin();
    main_protect();
    err = config_load(argc, argv, environ, &config, &result, &faults);
    if (!err_is_ok(err)) {
        main_tell(&faults);
        status = EXIT_USAGE;
    } else if (result.help) {
        config_help(result.man, stdout);
    } else if (result.version) {
        build_print("mortise-control", stdout);
        printf("SQLite %s\n", store_sqlite_version());
    } else {
        status = main_run(&config, environ, &faults);
    }
    faults_fini(&faults);
    config_free(&config);
    return process_end("mortise-control", status);
}
