#include "proxy/static_mode.h"

#include <string.h>

#include "certs/tls_profile.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

struct static_mode {
    struct source_params params;
    struct watch_files files;
    struct watch *watch;
    struct timer retry;
    bool failing;        /* the last reading was refused, not yet told */
    uint64_t changed_ms; /* when the change that failed was seen */
    uint8_t digest[32];  /* of what is in force */
    char *rejected;
};

static struct snapshot_input static_input(const struct static_config *loaded)
{
    return (struct snapshot_input){
        .config = loaded->msg,
        .svid = loaded->svid,
        .keystores = loaded->keystores.items,
        .ca_files = loaded->cas,
        .crl_files = loaded->crl_texts,
        .tunables = config_tunables(&loaded->settings),
    };
}

/* Names of profiles that were not taken: the file says that this is no fault. */
static void static_tell_left_out(const struct static_config *loaded)
{
    CLEANUP(faults_fini) struct faults warnings = {.num = 0};
    struct fault_path path = {.len = 0};
    size_t top = fault_path_field(&path, "profiles");

    for (size_t i = 0; i < loaded->msg->n_profiles; i++) {
        size_t mark = fault_path_index(&path, i);

        tls_profile_left_out(loaded->msg->profiles[i], &path, &warnings);
        fault_path_pop(&path, mark);
    }
    fault_path_pop(&path, top);
    for (size_t i = 0; i < warnings.num; i++)
        log_warn("config", "name_left_out", LOG_STR("field", warnings.items[i].path),
                 LOG_STR("reason", warnings.items[i].message));
}

err_t static_mode_check(const struct static_config *loaded, int64_t now_s, struct stats *stats,
                        struct faults *faults)
{
    struct snapshot_input in = static_input(loaded);
    struct snapshot *snapshot = NULL;

    in.stats = stats;
    in.now_s = now_s;
    in.generation = 1;
    TRY(snapshot_build(&in, faults, &snapshot));
    if (snapshot != NULL)
        snapshot_unref(snapshot);
    static_tell_left_out(loaded);
    return OK;
}

static err_t static_publish(struct static_mode *mode, const struct static_config *loaded,
                            struct faults *faults)
{
    struct snapshot_input in = static_input(loaded);

    TRY(mode->params.publish(mode->params.arg, &in, faults));
    memcpy(mode->digest, loaded->digest, sizeof(mode->digest));
    static_tell_left_out(loaded);
    return OK;
}

/* ------------------------------------------------------------------------------------- reading
 * again */

static void static_tell_restart(const struct static_mode *mode, const struct config *settings)
{
    CLEANUP(buf_fini) struct buf names = {.data = NULL};

    if (config_restart_needed(mode->params.settings, settings, &names))
        log_warn("config", "restart_needed", LOG_BYTES("settings", buf_view(&names)));
}

static void static_apply_log_level(const struct config *settings)
{
    struct bytes bad;

    /* Checked before. */
    CHECK(err_is_ok(log_set_spec(settings->log_level, &bad)));
    log_set_format(settings->log_format == 1 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT);
}

static void static_rejected(struct static_mode *mode, const struct faults *faults)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};

    faults_text(faults, &text);
    mem_free(mode->rejected);
    mode->rejected = mem_strndup((const char *)buf_view(&text).ptr, buf_size(&text));
    mode->failing = false;
    for (size_t i = 0; i < faults->num; i++)
        log_warn("config", "reload_refused", LOG_STR("field", faults->items[i].path),
                 LOG_STR("reason", faults->items[i].message));
    stats_add(mode->params.stats, STAT_CONFIG_REJECTED, 1);
}

static void static_on_retry(void *arg);

/* A failure may be one file of a pair that is still to come: it is tried again before it is told.
 */
static void static_failed(struct static_mode *mode, const struct faults *faults, bool at_once)
{
    uint64_t now_ms = loop_now_ms(mode->params.loop);

    if (!mode->failing)
        mode->changed_ms = now_ms;
    mode->failing = true;
    if (at_once || now_ms - mode->changed_ms >= STATIC_MODE_SETTLE_MS) {
        static_rejected(mode, faults);
        return;
    }
    timer_start(mode->params.loop, &mode->retry, STATIC_MODE_SETTLE_MS / 4, static_on_retry, mode);
}

static void static_accepted(struct static_mode *mode)
{
    mode->failing = false;
    mem_free(mode->rejected);
    mode->rejected = NULL;
}

static void static_read_again(struct static_mode *mode, bool at_once)
{
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    CLEANUP(static_config_fini) struct static_config loaded = {.msg = NULL};
    err_t err = static_config_load(mode->params.args, clock_wall_s(mode->params.clock),
                                   &mode->files, &faults, &loaded);

    timer_stop(mode->params.loop, &mode->retry);
    if (err_is_ok(err) && memcmp(loaded.digest, mode->digest, sizeof(mode->digest)) == 0) {
        static_accepted(mode);
        log_info("config", "unchanged");
        return;
    }
    if (err_is_ok(err))
        err = static_publish(mode, &loaded, &faults);
    if (!err_is_ok(err)) {
        static_failed(mode, &faults, at_once);
        return;
    }
    static_accepted(mode);
    static_tell_restart(mode, &loaded.settings);
    static_apply_log_level(&loaded.settings);
}

static void static_on_retry(void *arg)
{
    static_read_again(arg, false);
}

static void static_on_change(void *arg)
{
    static_read_again(arg, false);
}

void static_mode_reload(struct static_mode *mode)
{
    static_read_again(mode, true);
}

/* ---- life cycle ---- */

err_t static_mode_new(const struct source_params *params, const struct static_config *first,
                      struct watch_files *files, struct faults *faults, struct static_mode **out)
{
    struct static_mode *mode = mem_zalloc(sizeof(*mode));
    err_t err;

    mode->params = *params;
    err = static_publish(mode, first, faults);
    if (!err_is_ok(err)) {
        mem_free(mode);
        return err;
    }
    mode->files = *files;
    *files = (struct watch_files){.items = NULL};
    mode->watch = watch_new(params->loop, &mode->files, static_on_change, mode);
    *out = mode;
    return OK;
}

void static_mode_free(struct static_mode *mode)
{
    timer_stop(mode->params.loop, &mode->retry);
    watch_free(mode->watch);
    watch_files_clear(&mode->files);
    mem_free(mode->rejected);
    mem_free(mode);
}

const char *static_mode_rejected(const struct static_mode *mode)
{
    return mode->rejected;
}
