/* config: the settings of mortise-control, from flags, environment and file; all faults at once. */
#ifndef MORTISE_CONTROL_CONFIG_H
#define MORTISE_CONTROL_CONFIG_H

#include <stdio.h>

#include "certs/seal.h"
#include "lib/base/faults.h"
#include "lib/base/log.h"
#include "lib/base/options.h"
#include "lib/net/addr.h"

struct config {
    char *config_file;
    char *data_dir;
    char *kek_file;
    char *kek;
    bool check;
    char *trust_domain;
    char *listen;
    char *operator_socket;
    int64_t store_max_size;
    int64_t max_connections;
    int64_t max_handshakes;
    int64_t max_handshakes_per_source;
    int64_t handshake_timeout_ms;
    int64_t drain_timeout_ms;
    char *admin_listen;
    char *metrics_listen;
    char *log_level;
    int log_format;

    /* Made of the above by config_load. */
    struct addr listen_addr;
    struct addr operator_addr;
};

extern const struct option config_options[];

/* config_load fills the zeroed `*out` and checks all of it; faults name the flag, the variable or
 * the place in the file. With --help or --version in `*out_result` nothing else was looked at.
 * Errors: CONFIG_INVALID. The caller ends it with config_free, on error too. */
MUST_CHECK err_t config_load(int argc, char **argv, char *const *environment, struct config *out,
                             struct options_result *out_result, struct faults *faults);
void config_free(struct config *config);
void config_help(FILE *out);

/* config_kek reads the key-encryption key, then wipes the setting and, of `environment`, the
 * variable's value. Errors: KEK_UNAVAILABLE, with a fault that says what is wrong with it. */
MUST_CHECK err_t config_kek(struct config *config, char **environment, struct faults *faults,
                            struct seal_key *out);

#endif
