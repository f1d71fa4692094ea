#include "proxy/config.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#include <uv.h>

#include "certs/spiffe_id.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/http1.h"
#include "proxy/access_log.h"
#include "proxy/redirect/probe_port.h"

#define CONFIG_TOKEN_VARIABLE "MORTISE_JOIN_TOKEN"

static const char *const config_words_log_format[] = {"text", "json", NULL};
static const char *const config_words_access_log_facility[] = {
    "user",   "daemon", "local0", "local1", "local2", "local3",
    "local4", "local5", "local6", "local7", NULL};
/* In the order of enum tls_records. */
static const char *const config_words_record_layer[] = {"auto", "portable", "library", NULL};

const struct option config_options[] = {
#define HEADING(text) OPTIONS_HEADING(text),
#define ROW(...) OPTIONS_ROW(struct config, config_words, __VA_ARGS__),
#include "proxy/config_tbl.h"
#undef HEADING
#undef ROW
    {.name = NULL},
};

err_t config_parse(const struct config_args *args, struct config *out,
                   struct options_result *out_result, struct faults *faults)
{
    TRY(options_parse(config_options, args->argc, args->argv, args->environment, out, out_result,
                      faults));
    if (out_result->first_operand < args->argc && !out_result->help && !out_result->version)
        faults_add(faults, args->argv[out_result->first_operand],
                   "unexpected; every setting is a flag (see --help)");
    return faults_err(faults);
}

void config_help(bool man, FILE *out)
{
    const struct options_page page = {
        .name = "mortise-proxy",
        .section = 8,
        .summary = "the sidecar of Mortise",
        .usage = "mortise-proxy --config FILE | --control HOST:PORT [SETTING…]",
        .about = "The sidecar of Mortise: carries an application's plaintext connections over "
                 "mutual TLS.",
        .exit_status = "0 ended as it was told to, or --check found nothing; 2 a setting or a "
                       "file that it names is wrong.",
    };

    options_help(config_options, &page, man, out);
}

void config_free(struct config *config)
{
    options_free(config_options, config); /* overwrites the token */
}

struct secret_source config_cache_key(const struct config *config)
{
    return (struct secret_source){.name = "cache-key",
                                  .file = config->cache_key_file,
                                  .value = config->cache_key,
                                  .command = &config->cache_key_command};
}

static struct secret_source config_secrets_source(const struct config *config)
{
    return (struct secret_source){.name = "secrets-key",
                                  .file = config->secrets_key_file,
                                  .value = config->secrets_key,
                                  .command = &config->secrets_key_command};
}

bool config_use_secrets(struct config *config, struct faults *faults)
{
    const struct secret_source source = config_secrets_source(config);

    return secrets_use(&source, faults) &&
           secrets_open_str(&config->join_token, CONFIG_TOKEN_VARIABLE, faults);
}

void config_wipe_secrets(struct config *config, char **environment)
{
    options_forget(config_options, "join-token", config, environment);
    options_forget(config_options, "cache-key", config, environment);
    options_forget(config_options, "secrets-key", config, environment);
}

/* ---- what spans several rows ---- */

static void config_check_addr(const char *flag, const char *text, struct faults *faults)
{
    struct addr addr;

    if (text == NULL)
        return;
    if (!err_is_ok(addr_parse(text, &addr)) || addr.sa.any.sa_family == AF_UNIX)
        faults_add(faults, flag, "\"%s\" is not an address: wanted is IPv4:PORT or [IPv6]:PORT",
                   text);
}

static void config_check_identity(const struct config *config, struct faults *faults)
{
    struct spiffe_id id;

    if (config->identity == NULL)
        return;
    if (!err_is_ok(spiffe_id_parse(bytes_of_str(config->identity), &id)))
        faults_add(faults, "--identity", "\"%s\" is not a SPIFFE ID", config->identity);
    else if (config->trust_domain != NULL &&
             !bytes_equal_str(id.trust_domain, config->trust_domain))
        faults_add(faults, "--identity", "\"%s\" is not of the trust domain %s", config->identity,
                   config->trust_domain);
}

static void config_check_control(const struct config *config, struct faults *faults)
{
    const struct secret_source cache_key = config_cache_key(config);
    char host[256];
    uint16_t port;

    if (!err_is_ok(addr_split_host(config->control, host, &port)))
        faults_add(faults, "--control", "\"%s\" is not HOST:PORT", config->control);
    if (config->trust_domain == NULL)
        faults_add(faults, "--trust-domain", "is needed with --control");
    else if (!spiffe_trust_domain_valid(bytes_of_str(config->trust_domain)))
        faults_add(faults, "--trust-domain",
                   "\"%s\" is not a trust domain: lower-case letters, digits, '.', '-' and '_'",
                   config->trust_domain);
    if (config->trust_bundle == NULL)
        faults_add(faults, "--trust-bundle", "is needed with --control");
    if (config->join_token == NULL && config->join_token_file == NULL &&
        config->service_account_token_file == NULL && config->cache_dir == NULL)
        faults_add(faults, "--join-token-file",
                   "is needed with --control (or the variable " CONFIG_TOKEN_VARIABLE
                   ", or --service-account-token-file)");
    if (config->join_token != NULL && config->join_token_file != NULL)
        faults_add(faults, "--join-token-file", "and " CONFIG_TOKEN_VARIABLE " are both given");
    if (config->service_account_token_file != NULL &&
        (config->join_token != NULL || config->join_token_file != NULL))
        faults_add(faults, "--service-account-token-file", "and a join token are both given");
    (void)secret_source_check(&cache_key, faults);
    if ((config->cache_dir != NULL) != secret_source_is_given(&cache_key))
        faults_add(faults, config->cache_dir == NULL ? "--cache-dir" : "--cache-key-file",
                   "is missing: nothing is cached without a sealing key");
    config_check_identity(config, faults);
    config_check_addr("--advertise", config->advertise, faults);
    config_check_addr("--inbound-listen", config->inbound_listen, faults);
}

static void config_check_capture(const struct config *config, struct faults *faults)
{
    if (config->capture_port == REDIRECT_PROBE_PORT)
        faults_add(faults, "--capture-port", "%d is where the capture is tried; take another",
                   REDIRECT_PROBE_PORT);
}

static void config_check_static(const struct config *config, struct faults *faults)
{
    const struct {
        const char *flag;
        const char *value;
    } control_only[] = {
        {"--trust-domain", config->trust_domain},
        {"--trust-bundle", config->trust_bundle},
        {"--join-token-file", config->join_token_file},
        {"--join-token", config->join_token},
        {"--service-account-token-file", config->service_account_token_file},
        {"--advertise", config->advertise},
        {"--identity", config->identity},
        {"--keystore-dir", config->keystore_dir},
        {"--cache-dir", config->cache_dir},
        {"--cache-key-file", config->cache_key_file},
        {"--cache-key", config->cache_key},
    };

    for (size_t i = 0; i < ARRAY_LEN(control_only); i++) {
        if (control_only[i].value != NULL)
            faults_add(faults, control_only[i].flag, "has no meaning with --config");
    }
    if (config->cache_key_command.num > 0)
        faults_add(faults, "--cache-key-command", "has no meaning with --config");
}

/* The check must not change what is in force: --check and a bad reload rely on it. */
static void config_check_log_level(const struct config *config, struct faults *faults)
{
    char before[LOG_SPEC_MAX];
    struct bytes bad = {NULL, 0};

    log_spec(before, sizeof(before));
    if (!err_is_ok(log_set_spec(config->log_level, &bad))) {
        faults_add(faults, "--log-level",
                   "\"%.*s\" is not a level: wanted is error, warn, info, debug or COMPONENT=LEVEL",
                   (int)bad.len, (const char *)bad.ptr);
        return;
    }
    CHECK(err_is_ok(log_set_spec(before, &bad)));
}

err_t config_check(const struct config *config, struct faults *faults)
{
    if (config->config_file != NULL && config->control != NULL)
        faults_add(faults, "--config", "and --control are both given: one of the two");
    else if (config->config_file == NULL && config->control == NULL)
        faults_add(faults, "--config", "or --control is needed (see --help)");
    else if (config->control != NULL)
        config_check_control(config, faults);
    else
        config_check_static(config, faults);

    config_check_capture(config, faults);
    if (config->admin_listen != NULL && strncmp(config->admin_listen, "unix:", 5) != 0)
        faults_add(faults, "--admin-listen",
                   "\"%s\" is not a Unix socket: wanted is unix:PATH; over TCP there is "
                   "--metrics-listen",
                   config->admin_listen);
    config_check_addr("--metrics-listen", config->metrics_listen, faults);
    config_check_log_level(config, faults);
    access_log_check("--access-log", config->access_log, faults);
    return faults_err(faults);
}

#define CONFIG_FDS_SPARE 40                          /* listeners, logs, control channel */
#define CONFIG_FDS_ADMIN (2 * HTTP1_CONNECTIONS_MAX) /* both doors of the administration */
#define CONFIG_FDS_PER_WORKER 8                      /* of its loop */
#define CONFIG_WORKERS_MAX 256

static unsigned config_connections_max = UINT_MAX;

size_t config_num_workers(const struct config *config)
{
    unsigned cores = uv_available_parallelism();

    if (config->workers > 0)
        return (size_t)config->workers;
    if (cores <= 2)
        return 1;
    return cores < CONFIG_WORKERS_MAX ? cores : CONFIG_WORKERS_MAX;
}

size_t config_descriptors_least(const struct config *config)
{
    return CONFIG_FDS_SPARE + CONFIG_FDS_PER_WORKER * (config_num_workers(config) + 1);
}

unsigned config_set_descriptors(const struct config *config, uint64_t limit)
{
    uint64_t spare = config_descriptors_least(config) + CONFIG_FDS_ADMIN;
    uint64_t most = limit > spare + 2 ? (limit - spare) / 2 : 1;

    config_connections_max = most < UINT_MAX ? (unsigned)most : UINT_MAX;
    return config_connections_max;
}

struct tunables config_tunables(const struct config *config)
{
    unsigned max_connections = (unsigned)config->max_connections;

    if (max_connections > config_connections_max)
        max_connections = config_connections_max;
    return (struct tunables){
        .handshake_ms = (uint64_t)config->handshake_timeout_ms,
        .connect_ms = (uint64_t)config->connect_timeout_ms,
        .idle_ms = (uint64_t)config->idle_timeout_ms,
        .stall_ms = (uint64_t)config->stall_timeout_ms,
        .drain_ms = (uint64_t)config->drain_timeout_ms,
        .records = (enum tls_records)config->record_layer,
        .max_connections = max_connections,
        .max_handshakes = (unsigned)config->max_handshakes,
        .max_handshakes_per_source = (unsigned)config->max_handshakes_per_source,
        .capture_port = (uint16_t)config->capture_port,
    };
}

static bool config_str_differs(const char *a, const char *b)
{
    if (a == NULL || b == NULL)
        return a != b;
    return strcmp(a, b) != 0;
}

/* Numbers of RFC 5424, section 6.2.1, in the order of the words. */
unsigned config_facility(const struct config *config)
{
    static const unsigned numbers[] = {1, 3, 16, 17, 18, 19, 20, 21, 22, 23};

    return numbers[config->access_log_facility];
}

bool config_restart_needed(const struct config *old, const struct config *new, struct buf *out)
{
    const struct {
        const char *flag;
        bool differs;
    } rows[] = {
        {"workers", old->workers != new->workers},
        {"admin-listen", config_str_differs(old->admin_listen, new->admin_listen)},
        {"metrics-listen", config_str_differs(old->metrics_listen, new->metrics_listen)},
        {"access-log", config_str_differs(old->access_log, new->access_log)},
        {"access-log-facility", old->access_log_facility != new->access_log_facility},
    };
    bool any = false;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (!rows[i].differs)
            continue;
        CHECK(err_is_ok(buf_printf(out, "%s%s", any ? "," : "", rows[i].flag)));
        any = true;
    }
    return any;
}
