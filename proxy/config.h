/* config: the settings of mortise-proxy: flag > environment > file > default.
 *
 * What a sidecar enforces (links, profiles, trust) is not here: that is a SidecarConfig message,
 * see snapshot.h. */
#ifndef MORTISE_PROXY_CONFIG_H
#define MORTISE_PROXY_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "certs/secrets.h"
#include "lib/base/err.h"
#include "lib/base/faults.h"
#include "lib/base/options.h"
#include "lib/net/addr.h"
#include "lib/net/tls.h"

#define CONFIG_TYPE_STR char *
#define CONFIG_TYPE_BOOL bool
#define CONFIG_TYPE_INT int64_t
#define CONFIG_TYPE_MS int64_t
#define CONFIG_TYPE_ENUM int
#define CONFIG_TYPE_LIST struct option_list

/* Strings are owned; NULL when unset. Released by config_free. */
struct config {
#define HEADING(text)
#define ROW(flag, kind, field, def, min, max, flags, arg, help) CONFIG_TYPE_##kind field;
#include "proxy/config_tbl.h"
#undef HEADING
#undef ROW
};

/* tunables are the settings that each connection obeys; they come with its snapshot, so that a
 * change of the file reaches new connections at once. Milliseconds and numbers. */
struct tunables {
    uint64_t handshake_ms;
    uint64_t connect_ms;
    uint64_t idle_ms;
    uint64_t stall_ms;
    uint64_t drain_ms;
    enum tls_records records;
    unsigned max_connections;
    unsigned max_handshakes;
    unsigned max_handshakes_per_source;
    uint16_t capture_port; /* 0: nothing is captured */
};

extern const struct option config_options[];

/* What the process was started with; kept to read the settings again. */
struct config_args {
    int argc;
    char **argv;
    char **environment;
};

/* config_parse reads flags and environment into `out` (zeroed by the caller; to be released with
 * config_free even on error). Faults are told, all of them; the error says no more than they do.
 * Errors: CONFIG_INVALID. */
err_t config_parse(const struct config_args *args, struct config *out,
                   struct options_result *out_result, struct faults *faults);

/* config_check looks at what no single row can: which mode it is, what that mode needs, addresses.
 * Call it when the file's settings are in. Errors: CONFIG_INVALID. */
err_t config_check(const struct config *config, struct faults *faults);

/* config_is_static tells the mode: a file, or else a control plane. */
static inline bool config_is_static(const struct config *config)
{
    return config->config_file != NULL;
}

void config_free(struct config *config);
/* config_facility is the number of the access log's syslog facility. */
unsigned config_facility(const struct config *config);
/* config_cache_key is where the key of --cache-dir comes from; borrows. */
struct secret_source config_cache_key(const struct config *config);
/* config_use_secrets has encrypted values opened from now on (certs/secrets.h) and opens those of
 * the settings. False: a fault is told. */
bool config_use_secrets(struct config *config, struct faults *faults);
/* config_wipe_secrets overwrites the settings that are secrets here and where the environment holds
 * them. */
void config_wipe_secrets(struct config *config, char **environment);
void config_help(bool man, FILE *out);
/* config_tunables: what connections obey. max_connections is no more than config_set_descriptors
 * left room for: listeners, logs and the control channel must not run out of descriptors because
 * connections have them all. */
struct tunables config_tunables(const struct config *config);
/* config_num_workers is --workers, or what this machine has use for where that is 0. */
size_t config_num_workers(const struct config *config);
/* config_descriptors_least is how many descriptors must be free at the start, without a single
 * connection. */
size_t config_descriptors_least(const struct config *config);
/* config_set_descriptors notes the limit of descriptors of this process, once, before any thread
 * runs; returns how many connections that allows at most (two each). */
unsigned config_set_descriptors(const struct config *config, uint64_t limit);

/* config_restart_needed adds, to `out`, the flags whose values differ between the two and cannot
 * change while the program runs, separated by commas; false when there are none. */
bool config_restart_needed(const struct config *old, const struct config *new, struct buf *out);

#endif
