/* config: the settings of mortise-control, from flags, environment and file; all faults at once. */
#ifndef MORTISE_CONTROL_CONFIG_H
#define MORTISE_CONTROL_CONFIG_H

#include <stdio.h>

#include "certs/seal.h"
#include "certs/secrets.h"
#include "lib/base/faults.h"
#include "lib/base/log.h"
#include "lib/base/options.h"
#include "lib/net/addr.h"

enum config_access { CONFIG_ACCESS_OWNER, CONFIG_ACCESS_EVERYONE };

struct config {
    char *config_file;
    char *data_dir;
    char *kek_file;
    char *kek;
    struct option_list kek_command;
    char *secrets_key_file;
    char *secrets_key;
    struct option_list secrets_key_command;
    bool check;
    char *trust_domain;
    bool external_root;
    char *listen;
    char *operator_socket;
    int operator_socket_access; /* enum config_access */
    bool elevation_approval;
    char *oidc_issuer;
    char *oidc_audience;
    char *oidc_keys_file;
    char *oidc_keys_url;
    char *oidc_ca_file;
    int64_t oidc_refresh_ms;
    char *oidc_groups_claim;
    char *kubernetes_issuer;
    char *kubernetes_audience;
    struct option_list kubernetes_namespace;
    char *kubernetes_keys_file;
    char *kubernetes_keys_url;
    char *kubernetes_ca_file;
    int64_t store_max_size;
    char *audit_file;
    int64_t audit_keep;
    int64_t audit_keep_ms;
    int64_t max_connections;
    int64_t max_handshakes;
    int64_t max_handshakes_per_source;
    int64_t handshake_timeout_ms;
    int64_t drain_timeout_ms;
    char *access_log_dir;
    int64_t access_log_max_size;
    int64_t access_log_rate;
    char *admin_listen;
    char *metrics_listen;
    char *log_level;
    int log_format;

    /* Made of the above by config_load. */
    struct addr listen_addr;
    struct addr operator_addr;
    bool kek_in_file; /* `kek` is the file's, and no variable's */
};

extern const struct option config_options[];

/* config_load fills the zeroed `*out` and checks all of it; faults name the flag, the variable or
 * the place in the file. With --help or --version in `*out_result` nothing else was looked at.
 * Errors: CONFIG_INVALID. The caller ends it with config_free, on error too. */
MUST_CHECK err_t config_load(int argc, char **argv, char *const *environment, struct config *out,
                             struct options_result *out_result, struct faults *faults);
void config_free(struct config *config);
void config_help(bool man, FILE *out);

/* config_kek reads the key-encryption keys, then wipes the settings that are keys and, of
 * `environment`, the variables' values; from then on encrypted values are opened (certs/secrets.h;
 * the caller ends with secrets_end). config_kek_again reads the file again; keys of the variable
 * are gone, and a command is not run again. Errors: KEK_UNAVAILABLE, with a fault that says what is
 * wrong with it. */
MUST_CHECK err_t config_kek(struct config *config, char **environment, struct faults *faults,
                            struct seal_keys *out);
MUST_CHECK err_t config_kek_again(const struct config *config, struct faults *faults,
                                  struct seal_keys *out);

#endif
