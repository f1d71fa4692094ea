#include "control/config.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "certs/spiffe_id.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/rpc/json_pb.h"

#define CONFIG_FILE_MAX 65536
#define CONFIG_KEK_MAX 4096
#define CONFIG_KEK_VARIABLE "MORTISE_KEK"

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
    static const char *const paths[] = {"data_dir", "kek_file", "operator_socket"};
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

    if (options_set_file(config_options, key, text, path, reader->config, &reader->flags->seen,
                         reader->faults))
        return;
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

static void config_check(struct config *config, struct faults *faults)
{
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
    if (config->kek == NULL && config->kek_file == NULL)
        faults_add(
            faults, "--kek-file",
            "kek_unavailable: the key-encryption key is missing: give its file, or the key in "
            "the variable " CONFIG_KEK_VARIABLE);
    if (config->kek != NULL && config->kek_file != NULL)
        faults_add(faults, "--kek-file", "and " CONFIG_KEK_VARIABLE " are both given: one of them");
    if (config->admin_listen != NULL && strncmp(config->admin_listen, "unix:", 5) != 0)
        faults_add(faults, "--admin-listen",
                   "\"%s\" is not a Unix socket: wanted is unix:PATH; over TCP there is "
                   "--metrics-listen",
                   config->admin_listen);
    if (config->metrics_listen != NULL)
        config_check_addr("--metrics-listen", config->metrics_listen, &addr, faults);
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

void config_help(FILE *out)
{
    options_help(
        config_options, "mortise-control --config FILE | --data-dir DIR [SETTING…]",
        "The control plane of Mortise: certificates, links and TLS profiles for the sidecars "
        "of a mesh. `mortisectl init DIR --trust-domain NAME` makes a folder to start with.",
        out);
}

/* ------------------------------------------------------------------------- key */

static err_t config_parse_kek(const char *path, struct bytes text, struct faults *faults,
                              struct seal_key *out)
{
    err_t err = seal_key_parse(text, out);

    if (!err_is_ok(err))
        faults_add(
            faults, path,
            "kek_unavailable: not a key-encryption key: wanted are 32 bytes as 64 hexadecimal "
            "digits or base64");
    return err;
}

err_t config_kek(struct config *config, char **environment, struct faults *faults,
                 struct seal_key *out)
{
    CLEANUP(buf_wipe_fini) struct buf text = {0};
    err_t err;

    if (config->kek != NULL) {
        err = config_parse_kek(CONFIG_KEK_VARIABLE, bytes_of_str(config->kek), faults, out);
        options_forget(config_options, "kek", config, environment);
        return err;
    }
    err = file_read_private(config->kek_file, CONFIG_KEK_MAX, &text);
    if (err_is_ok(err))
        return config_parse_kek(config->kek_file, buf_view(&text), faults, out);
    if (err_is(err, E_FILE_UNSAFE))
        faults_add(
            faults, config->kek_file,
            "kek_unavailable: may be read or changed by others, or is not ours: chmod 600 it");
    else if (err_is(err, E_TOO_LARGE))
        faults_add(faults, config->kek_file, "kek_unavailable: larger than %d bytes",
                   CONFIG_KEK_MAX);
    else
        faults_add(faults, config->kek_file, "kek_unavailable: %s: %s", err_text(err.code),
                   strerror(err.sub));
    return FAIL(KEK_UNAVAILABLE, 0);
}
