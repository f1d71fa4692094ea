#include "control/config.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "certs/spiffe_id.h"
#include "control/subject.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/http1_get.h"
#include "lib/rpc/json_pb.h"

#define CONFIG_FILE_MAX 65536
#define CONFIG_KEK_VARIABLE "MORTISE_KEK"

static const char *const config_words_operator_socket_access[] = {"owner", "everyone", NULL};
static const char *const config_words_log_format[] = {"text", "json", NULL};

const struct option config_options[] = {
#define HEADING(text) OPTIONS_HEADING(text),
#define ROW(...) OPTIONS_ROW(struct config, config_words, __VA_ARGS__),
#include "control/config_tbl.h"
#undef HEADING
#undef ROW
    {.name = NULL},
};

/* ----------------------------------------------------------------------- file */

struct config_reader {
    struct config *config;
    const struct options_result *flags;
    struct faults *faults;
};

/* Names of files and folders in the file are relative to it. */
static char *config_file_value(const struct config_reader *reader, const char *key,
                               const char *value)
{
    static const char *const paths[] = {
        "data_dir",           "kek_file",       "secrets_key_file", "operator_socket",
        "audit_file",         "oidc_keys_file", "oidc_ca_file",     "kubernetes_keys_file",
        "kubernetes_ca_file", "access_log_dir"};
    const char *file = reader->config->config_file;
    const char *slash = strrchr(file, '/');

    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        if (strcmp(key, paths[i]) != 0 || value[0] == '\0' || value[0] == '/' || slash == NULL)
            continue;
        if (strcmp(value, ".") == 0 && slash != file)
            return mem_strndup(file, (size_t)(slash - file));
        return mem_printf("%.*s%s", (int)(slash - file + 1), file, value);
    }
    return mem_strdup(value);
}

static void config_on_member(void *arg, const char *key, const char *value)
{
    struct config_reader *reader = arg;
    CLEANUP(mem_freep) char *path = mem_printf("%s: %s", reader->config->config_file, key);
    CLEANUP(mem_freep) char *text = config_file_value(reader, key, value);
    CLEANUP(mem_freep) char *nearest = NULL;

    if (strcmp(key, "kek") == 0 && !secrets_is_encrypted(bytes_of_str(value))) {
        faults_add(reader->faults, path,
                   "may stand here only encrypted (mortisectl encrypt); in the clear it belongs "
                   "into a file of its own (kek_file)");
        return;
    }
    if (options_set_file(config_options, key, text, path, reader->config, &reader->flags->seen,
                         reader->faults)) {
        if (strcmp(key, "kek") == 0)
            reader->config->kek_in_file =
                reader->config->kek != NULL && strcmp(reader->config->kek, text) == 0;
        return;
    }
    nearest = options_nearest_key(config_options, key);
    if (nearest != NULL)
        faults_add(reader->faults, path, "no such setting; meant was %s?", nearest);
    else
        faults_add(reader->faults, path, "no such setting (see --help)");
}

static void config_read_file(struct config *config, const struct options_result *flags,
                             struct faults *faults)
{
    struct config_reader reader = {config, flags, faults};
    const struct json_pb_aside aside = {.on_member = config_on_member, .arg = &reader};
    CLEANUP(buf_fini) struct buf text = {0};
    err_t err = file_read(config->config_file, CONFIG_FILE_MAX, &text);

    if (!err_is_ok(err))
        faults_add(faults, "--config", "%s: %s%s%s", config->config_file, err_text(err.code),
                   err_is(err, E_TOO_LARGE) ? "" : ": ",
                   err_is(err, E_TOO_LARGE) ? "" : strerror(err.sub));
    else if (!err_is_ok(json_pb_parse_map(JSON_PB_YAML, config->config_file, buf_view(&text),
                                          &aside, faults)))
        return; /* told */
}

/* --------------------------------------------------------------------- checks */

static void config_check_addr(const char *flag, const char *text, struct addr *out,
                              struct faults *faults)
{
    if (!err_is_ok(addr_parse(text, out)) || out->sa.any.sa_family == AF_UNIX)
        faults_add(faults, flag, "\"%s\" is not an address: wanted is IPv4:PORT or [IPv6]:PORT",
                   text);
}

/* Makes the path at `*path` (owned) an absolute one. */
static void config_make_absolute(char **path)
{
    char folder[PATH_MAX];
    const char *rest = *path;
    char *absolute;

    if (rest[0] == '/' || getcwd(folder, sizeof(folder)) == NULL)
        return;
    while (strncmp(rest, "./", 2) == 0)
        rest += 2;
    absolute = mem_printf("%s/%s", folder, rest);
    mem_free(*path);
    *path = absolute;
}

static void config_check_socket(struct config *config, struct faults *faults)
{
    CLEANUP(mem_freep) char *text = NULL;

    if (config->operator_socket == NULL && config->data_dir != NULL)
        config->operator_socket = mem_printf("%s/operator.sock", config->data_dir);
    if (config->operator_socket == NULL)
        return; /* the data folder is missing: told */
    config_make_absolute(&config->operator_socket);
    text = mem_printf("unix:%s", config->operator_socket);
    if (!err_is_ok(addr_parse(text, &config->operator_addr)))
        faults_add(faults, "--operator-socket",
                   "%s is too long for a Unix socket (107 bytes): give a shorter one",
                   config->operator_socket);
}

/* The check must not change what is in force: --check relies on it. */
static void config_check_log_level(const struct config *config, struct faults *faults)
{
    char before[LOG_SPEC_MAX];
    struct bytes bad = {NULL, 0};
    const char *spec = config->log_level != NULL ? config->log_level : "";
    err_t err;

    log_spec(before, sizeof(before));
    if (!err_is_ok(log_set_spec(spec, &bad))) {
        faults_add(faults, "--log-level",
                   "\"%.*s\" is not a level: wanted is error, warn, info, debug or COMPONENT=LEVEL",
                   (int)bad.len, (const char *)bad.ptr);
        return;
    }
    err = log_set_spec(before, &bad);
    CHECK(err_is_ok(err));
}

static struct secret_source config_kek_source(const struct config *config)
{
    return (struct secret_source){.name = "kek",
                                  .file = config->kek_file,
                                  .value = config->kek,
                                  .command = &config->kek_command};
}

static struct secret_source config_secrets_source(const struct config *config)
{
    return (struct secret_source){.name = "secrets-key",
                                  .file = config->secrets_key_file,
                                  .value = config->secrets_key,
                                  .command = &config->secrets_key_command};
}

/* An https URL without a query (OpenID Connect Discovery section 3). */
static bool config_is_issuer(const char *issuer)
{
    struct http1_url url;

    return strlen(issuer) <= SUBJECT_ISSUER_MAX && strchr(issuer, '?') == NULL &&
           err_is_ok(http1_url_parse(issuer, &url));
}

/* An issuer of tokens; its flags are --NAME-issuer and so on. */
struct config_issuer {
    const char *name;
    const char *issuer, *audience, *keys_file, *keys_url, *ca_file;
};

#define ISSUER_FAULT(flag, ...)                                                       \
    do {                                                                              \
        CLEANUP(mem_freep) char *path_ = mem_printf("--%s-%s", issuer->name, (flag)); \
        faults_add(faults, path_, __VA_ARGS__);                                       \
    } while (0)

static void config_check_keys(const struct config_issuer *issuer, struct faults *faults)
{
    struct http1_url url;

    if ((issuer->keys_file == NULL) == (issuer->keys_url == NULL))
        ISSUER_FAULT("keys-file",
                     "with --%s-issuer, either the file of its keys is needed or --%s-keys-url",
                     issuer->name, issuer->name);
    else if (issuer->keys_url != NULL && !err_is_ok(http1_url_parse(issuer->keys_url, &url)))
        ISSUER_FAULT("keys-url", "\"%s\" is not an address: wanted is https://HOST[:PORT]/PATH",
                     issuer->keys_url);
    if (issuer->ca_file != NULL && issuer->keys_url == NULL)
        ISSUER_FAULT("ca-file", "is for --%s-keys-url, which is not given", issuer->name);
}

static void config_check_issuer(const struct config_issuer *issuer, bool more,
                                struct faults *faults)
{
    if (issuer->issuer == NULL) {
        if (more || issuer->keys_file != NULL || issuer->keys_url != NULL ||
            issuer->ca_file != NULL)
            ISSUER_FAULT("issuer", "is needed with what else is given of --%s-…", issuer->name);
        return;
    }
    if (!config_is_issuer(issuer->issuer))
        ISSUER_FAULT("issuer",
                     "\"%s\" is not an issuer: wanted is https://HOST[:PORT][/PATH] as in the iss "
                     "of its tokens, at most %d bytes",
                     issuer->issuer, SUBJECT_ISSUER_MAX);
    if (issuer->audience == NULL)
        ISSUER_FAULT("audience",
                     "is needed with --%s-issuer: tokens for others are signed by it, too",
                     issuer->name);
    config_check_keys(issuer, faults);
}

static void config_check_issuers(const struct config *config, struct faults *faults)
{
    const struct config_issuer oidc = {"oidc",
                                       config->oidc_issuer,
                                       config->oidc_audience,
                                       config->oidc_keys_file,
                                       config->oidc_keys_url,
                                       config->oidc_ca_file};
    const struct config_issuer kubernetes = {"kubernetes",
                                             config->kubernetes_issuer,
                                             config->kubernetes_audience,
                                             config->kubernetes_keys_file,
                                             config->kubernetes_keys_url,
                                             config->kubernetes_ca_file};

    config_check_issuer(&oidc, config->oidc_audience != NULL, faults);
    config_check_issuer(&kubernetes, config->kubernetes_namespace.num > 0, faults);
    if (config->kubernetes_issuer == NULL)
        return;
    if (config->kubernetes_namespace.num == 0)
        faults_add(faults, "--kubernetes-namespace",
                   "is needed with --kubernetes-issuer: whose pods may be subsystems");
    if (config->oidc_issuer != NULL && config->oidc_audience != NULL &&
        config->kubernetes_audience != NULL &&
        strcmp(config->oidc_issuer, config->kubernetes_issuer) == 0 &&
        strcmp(config->oidc_audience, config->kubernetes_audience) == 0)
        faults_add(faults, "--kubernetes-audience",
                   "\"%s\" of the same issuer is --oidc-audience: a pod's token would be an "
                   "administrator's",
                   config->kubernetes_audience);
}

static void config_check(struct config *config, struct faults *faults)
{
    const struct secret_source kek = config_kek_source(config);
    const struct secret_source secrets = config_secrets_source(config);
    struct addr addr;

    if (config->trust_domain != NULL &&
        !spiffe_trust_domain_valid(bytes_of_str(config->trust_domain)))
        faults_add(faults, "--trust-domain",
                   "\"%s\" is not a trust domain: lower-case letters, digits, '.', '-' and '_'",
                   config->trust_domain);
    if (config->listen != NULL)
        config_check_addr("--listen", config->listen, &config->listen_addr, faults);
    else
        faults_add(faults, "--listen", "is empty: wanted is IPv4:PORT or [IPv6]:PORT");
    config_check_socket(config, faults);
    if (!secret_source_is_given(&kek))
        faults_add(
            faults, "--kek-file",
            "kek_unavailable: the key-encryption key is missing: give its file, or the key in "
            "the variable " CONFIG_KEK_VARIABLE ", or --kek-command");
    (void)secret_source_check(&kek, faults);
    (void)secret_source_check(&secrets, faults);
    if (config->admin_listen != NULL && strncmp(config->admin_listen, "unix:", 5) != 0)
        faults_add(faults, "--admin-listen",
                   "\"%s\" is not a Unix socket: wanted is unix:PATH; over TCP there is "
                   "--metrics-listen",
                   config->admin_listen);
    if (config->metrics_listen != NULL)
        config_check_addr("--metrics-listen", config->metrics_listen, &addr, faults);
    config_check_issuers(config, faults);
    config_check_log_level(config, faults);
}

/* ----------------------------------------------------------------------- whole */

err_t config_load(int argc, char **argv, char *const *environment, struct config *out,
                  struct options_result *out_result, struct faults *faults)
{
    err_t err = options_parse(config_options, argc, argv, environment, out, out_result, faults);

    if (err_is_ok(err) && (out_result->help || out_result->version))
        return OK;
    if (err_is_ok(err) && out_result->first_operand < argc)
        faults_add(faults, argv[out_result->first_operand],
                   "unexpected; every setting is a flag (see --help)");
    if (out->config_file != NULL)
        config_read_file(out, out_result, faults);
    options_check_required(config_options, out, faults);
    config_check(out, faults);
    return faults_err(faults);
}

void config_free(struct config *config)
{
    options_free(config_options, config); /* overwrites the key */
}

void config_help(bool man, FILE *out)
{
    const struct options_page page = {
        .name = "mortise-control",
        .section = 8,
        .summary = "the control plane of Mortise",
        .usage = "mortise-control --config FILE | --data-dir DIR [SETTING…]",
        .about = "The control plane of Mortise: certificates, links and TLS profiles for the "
                 "sidecars of a mesh. `mortisectl init DIR --trust-domain NAME` makes a folder to "
                 "start with.",
        .exit_status = "0 ended as it was told to, or --check found nothing; 1 the store, its key "
                       "or a port cannot be used; 2 a setting is wrong.",
    };

    options_help(config_options, &page, man, out);
}

/* ------------------------------------------------------------------------- key */

/* Where the key is, if it is no file and no command; owned. */
static char *config_kek_place(const struct config *config)
{
    return config->kek_in_file ? mem_printf("%s: kek", config->config_file)
                               : mem_strdup(CONFIG_KEK_VARIABLE);
}

static err_t config_read_kek(const struct config *config, struct faults *faults,
                             struct seal_keys *out)
{
    const struct secret_source source = config_kek_source(config);
    CLEANUP(mem_freep) char *place = config_kek_place(config);
    char why[SECRETS_WHY_MAX];
    err_t err = secret_source_keys(&source, out, why);
    char *colon;

    if (err_is_ok(err))
        return OK;
    /* "NAME: what is wrong": the name is the fault's place. */
    colon = strstr(why, ": ");
    if (colon != NULL)
        *colon = '\0';
    faults_add(faults, colon == NULL || source.value != NULL ? place : why, "kek_unavailable: %s",
               colon != NULL ? colon + 2 : why);
    return FAIL(KEK_UNAVAILABLE, 0);
}

err_t config_kek(struct config *config, char **environment, struct faults *faults,
                 struct seal_keys *out)
{
    const struct secret_source secrets = config_secrets_source(config);
    err_t err =
        secrets_use(&secrets, faults) ? config_read_kek(config, faults, out) : faults_err(faults);

    options_forget(config_options, "secrets-key", config, environment);
    options_forget(config_options, "kek", config, environment);
    return err;
}

err_t config_kek_again(const struct config *config, struct faults *faults, struct seal_keys *out)
{
    const bool by_command = config->kek_command.num > 0;
    CLEANUP(mem_freep) char *place = config_kek_place(config);

    if (config->kek_file != NULL)
        return config_read_kek(config, faults, out);
    faults_add(faults, by_command ? "--kek-command" : place,
               "the key was given %s: give both there, the new one first, and start "
               "mortise-control again; it goes on by itself",
               by_command            ? "by this command"
               : config->kek_in_file ? "in this setting"
                                     : "in this variable");
    return FAIL(KEK_UNAVAILABLE, 0);
}
