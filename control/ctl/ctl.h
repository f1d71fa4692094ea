/* ctl is what the commands of mortisectl share: the flags, the list of commands, telling what is
 * wrong. Exit codes: CTL_OK, CTL_FAILED (asked and refused, or not reached), CTL_USAGE (nothing was
 * asked). */
#ifndef MORTISE_CONTROL_CTL_CTL_H
#define MORTISE_CONTROL_CTL_CTL_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/faults.h"
#include "lib/base/options.h"

enum { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

#define CTL_SOCKET_DEFAULT "/run/mortise/operator.sock"

enum ctl_output { CTL_TABLE, CTL_WIDE, CTL_JSON, CTL_YAML };

/* The flags of all commands; each command's table has the rows that it knows. */
struct ctl_flags {
    char *socket;
    char *server;
    char *cert;
    char *key;
    char *roots;
    char *trust_domain;
    char *file;
    char *token_file;
    char *out;
    int output;
    bool abort;
    bool all;
    bool dry_run;
    bool expired;
    bool force;
    bool prune;
    bool wait;
    char *reason;
    int64_t expiring_ms;
    int64_t grace_ms;
    int64_t spread_ms;
    int64_t timeout_ms;
    int64_t ttl_ms;
};

/* How to reach the control plane: at the end of the table of every command that asks it. */
#define CTL_CONNECTION_ROWS                                                                     \
    {.name = "", .help = "Which control plane"},                                                \
        {.name = "socket",                                                                      \
         .kind = OPTION_STR,                                                                    \
         .offset = offsetof(struct ctl_flags, socket),                                          \
         .def = CTL_SOCKET_DEFAULT,                                                             \
         .arg = "PATH",                                                                         \
         .help = "Its operator socket, on the same machine."},                                  \
        {.name = "server",                                                                      \
         .kind = OPTION_STR,                                                                    \
         .offset = offsetof(struct ctl_flags, server),                                          \
         .arg = "HOST:PORT",                                                                    \
         .help = "Its address, over mutual TLS with an administrator's certificate "            \
                 "(mortisectl admin create)."},                                                 \
        {.name = "cert",                                                                        \
         .kind = OPTION_STR,                                                                    \
         .offset = offsetof(struct ctl_flags, cert),                                            \
         .arg = "FILE",                                                                         \
         .help = "With --server: the administrator's certificate chain."},                      \
        {.name = "key",                                                                         \
         .kind = OPTION_STR,                                                                    \
         .offset = offsetof(struct ctl_flags, key),                                             \
         .arg = "FILE",                                                                         \
         .help = "With --server: its private key."},                                            \
        {.name = "roots",                                                                       \
         .kind = OPTION_STR,                                                                    \
         .offset = offsetof(struct ctl_flags, roots),                                           \
         .arg = "FILE",                                                                         \
         .help = "With --server: the mesh's root certificates (mortisectl roots)."},            \
    {                                                                                           \
        .name = "trust-domain", .kind = OPTION_STR,                                             \
        .offset = offsetof(struct ctl_flags, trust_domain), .arg = "NAME",                      \
        .help = "With --server: the mesh's trust domain; the server must be its control plane." \
    }

#define CTL_OUTPUT_ROW                                                                       \
    {                                                                                        \
        .name = "output", .kind = OPTION_ENUM, .offset = offsetof(struct ctl_flags, output), \
        .def = "table", .words = ctl_outputs, .arg = "FORM",                                 \
        .help = "How to show it; -o for short."                                              \
    }

#define CTL_TIMEOUT_ROW                                                                         \
    {                                                                                           \
        .name = "timeout", .kind = OPTION_MS, .offset = offsetof(struct ctl_flags, timeout_ms), \
        .def = "60s", .min = 1000, .max = 3600000, .arg = "TIME",                               \
        .help = "With --wait: how long to wait for the sidecars."                               \
    }

#define CTL_SPREAD_ROW                                                                           \
    {                                                                                            \
        .name = "spread", .kind = OPTION_MS, .offset = offsetof(struct ctl_flags, spread_ms),    \
        .def = "0s", .min = 0, .max = 3600000, .arg = "TIME",                                    \
        .help = "Each sidecar renews after a random part of this time, so that hundreds do not " \
                "at once."                                                                       \
    }

extern const char *const ctl_outputs[];

struct ctl_command {
    const char *name;     /* "token create" */
    const char *operands; /* "SUBSYSTEM", "" */
    const char *summary;  /* for the list of commands */
    const char *about;    /* for its help, with an example */
    const struct option *options;
    int min_operands;
    int max_operands; /* -1: any number */
    int (*run)(const struct ctl_flags *flags, int num, char **operands);
};

extern const struct ctl_command ctl_admin;
extern const struct ctl_command ctl_apply;
extern const struct ctl_command ctl_certificate;
extern const struct ctl_command ctl_completion;
extern const struct ctl_command ctl_get;
extern const struct ctl_command ctl_init;
extern const struct ctl_command ctl_lift;
extern const struct ctl_command ctl_revoke;
extern const struct ctl_command ctl_roots;
extern const struct ctl_command ctl_backup;
extern const struct ctl_command ctl_restore;
extern const struct ctl_command ctl_rotate;
extern const struct ctl_command ctl_rotate_root;
extern const struct ctl_command ctl_rotate_status;
extern const struct ctl_command ctl_status;
extern const struct ctl_command ctl_token;
extern const struct ctl_command ctl_version;
/* All of them, in the order of --help; NULL ends it. */
extern const struct ctl_command *const ctl_commands[];

/* What `get` shows; NULL ends it. */
extern const char *const ctl_kinds[];

/* ctl_tell writes "mortisectl: …" to standard error. */
void ctl_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* ctl_tell_faults writes a line for each. */
void ctl_tell_faults(const struct faults *faults);

/* ctl_read reads a file for the flag `flag` ("-": standard input), or tells why not. */
struct buf;
bool ctl_read(const char *flag, const char *path, bool private, struct buf *out);

#endif
