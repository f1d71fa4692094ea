/* ctl is what the commands of mortisectl share: the flags, the list of commands, telling what is
 * wrong. Exit codes: CTL_OK, CTL_FAILED (asked and refused, or not reached), CTL_USAGE (nothing was
 * asked). */
#ifndef MORTISE_CONTROL_CTL_CTL_H
#define MORTISE_CONTROL_CTL_CTL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/base/faults.h"
#include "lib/base/options.h"

enum { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

#define CTL_SOCKET_DEFAULT "/run/mortise/operator.sock"

enum ctl_output { CTL_TABLE, CTL_WIDE, CTL_JSON, CTL_YAML, CTL_PEM };

/* The flags of all commands; each command's table has the rows that it knows. */
struct ctl_flags {
    char *socket;
    char *server;
    char *cert;
    char *key;
    char *oidc_token_file;
    char *roots;
    char *trust_domain;
    char *secrets_key_file;
    char *secrets_key;
    struct option_list secrets_key_command;
    char *rotate;
    char *base;
    char *file;
    char *token_file;
    char *out;
    int output;
    bool abort;
    bool confirm;
    bool keep_revocations;
    bool drop_revocations;
    bool all;
    bool dry_run;
    bool end;
    bool expired;
    bool external_root;
    bool force;
    bool fresh;
    bool probe;
    bool prune;
    bool allow_weaker;
    bool wait;
    bool rollback_on_nack;
    char *role;
    char *permissions;
    char *reason;
    char *message;
    char *issuer;
    char *link;
    char *peer;
    char *who;
    char *action;
    char *object;
    char *outcome;
    char *since;
    char *until;
    char *audit_key;
    bool follow;
    bool join;
    char *connection;
    bool open;
    bool watch;
    bool yes;
    bool show_labels;
    int document_kind;
    char *selector;
    int64_t up_to;
    char *chain;
    char *private_key;
    char *pkcs12;
    char *password_file;
    char *description;
    bool replace;
    int64_t client_port;
    bool with_stores;
    int64_t limit;
    int64_t since_ms;
    int64_t expiring_ms;
    int64_t grace_ms;
    int64_t spread_ms;
    int64_t timeout_ms;
    int64_t ttl_ms;
    int64_t for_ms;
};

/* What opens files that are secrets and were encrypted; main.c has it used. */
#define CTL_SECRETS_ROWS                                                                         \
    {.name = "", .help = "Encrypted values (enc:, mortisectl encrypt)"},                         \
        {.name = "secrets-key-file",                                                             \
         .kind = OPTION_STR,                                                                     \
         .offset = offsetof(struct ctl_flags, secrets_key_file),                                 \
         .arg = "FILE",                                                                          \
         .help = "Their keys, a key a line: 32 bytes as 64 hexadecimal digits or base64; "       \
                 "readable by its owner only. The first closes, all open."},                     \
        {.name = "secrets-key",                                                                  \
         .kind = OPTION_STR,                                                                     \
         .offset = offsetof(struct ctl_flags, secrets_key),                                      \
         .flags = OPTION_FLAG_NO_ARGV | OPTION_FLAG_NO_FILE,                                     \
         .arg = "KEY",                                                                           \
         .help = "The same keys instead of their file."},                                        \
    {                                                                                            \
        .name = "secrets-key-command", .kind = OPTION_LIST,                                      \
        .offset = offsetof(struct ctl_flags, secrets_key_command), .flags = OPTION_FLAG_NO_FILE, \
        .arg = "WORD",                                                                           \
        .help = "The same keys as a program prints them, of a key-management service for one: "  \
                "its path, then its arguments, each with the flag again. Without a shell, "      \
                "within 10 s; what it prints is shown to nobody."                                \
    }

/* How to reach the control plane: at the end of the table of every command that asks it. */
#define CTL_CONNECTION_ROWS                                                                        \
    {.name = "", .help = "Which control plane"},                                                   \
        {.name = "socket",                                                                         \
         .kind = OPTION_STR,                                                                       \
         .offset = offsetof(struct ctl_flags, socket),                                             \
         .def = CTL_SOCKET_DEFAULT,                                                                \
         .arg = "PATH",                                                                            \
         .help = "Its operator socket, on the same machine."},                                     \
        {.name = "server",                                                                         \
         .kind = OPTION_STR,                                                                       \
         .offset = offsetof(struct ctl_flags, server),                                             \
         .arg = "HOST:PORT",                                                                       \
         .help = "Its address, over TLS: with an administrator's certificate (mortisectl admin "   \
                 "create), or a token."},                                                          \
        {.name = "cert",                                                                           \
         .kind = OPTION_STR,                                                                       \
         .offset = offsetof(struct ctl_flags, cert),                                               \
         .arg = "FILE",                                                                            \
         .help = "With --server: the administrator's certificate chain."},                         \
        {.name = "key",                                                                            \
         .kind = OPTION_STR,                                                                       \
         .offset = offsetof(struct ctl_flags, key),                                                \
         .arg = "FILE",                                                                            \
         .help = "With --server: its private key."},                                               \
        {.name = "oidc-token-file",                                                                \
         .kind = OPTION_STR,                                                                       \
         .offset = offsetof(struct ctl_flags, oidc_token_file),                                    \
         .arg = "FILE",                                                                            \
         .help = "With --server, instead of --cert and --key: a token of the issuer that the "     \
                 "control plane knows (mortise-control --oidc-issuer), readable by you alone."},   \
        {.name = "roots",                                                                          \
         .kind = OPTION_STR,                                                                       \
         .offset = offsetof(struct ctl_flags, roots),                                              \
         .arg = "FILE",                                                                            \
         .help = "With --server: the mesh's root certificates (mortisectl roots)."},               \
        {.name = "trust-domain",                                                                   \
         .kind = OPTION_STR,                                                                       \
         .offset = offsetof(struct ctl_flags, trust_domain),                                       \
         .arg = "NAME",                                                                            \
         .help = "With --server: the mesh's trust domain; the server must be its control plane."}, \
        CTL_SECRETS_ROWS

#define CTL_OUTPUT_ROW                                                                       \
    {                                                                                        \
        .name = "output", .kind = OPTION_ENUM, .offset = offsetof(struct ctl_flags, output), \
        .def = "table", .words = ctl_outputs, .arg = "FORM",                                 \
        .help = "How to show it; -o for short."                                              \
    }

/* ctl_selector reads it. */
#define CTL_SELECTOR_ROW                                                                        \
    {                                                                                           \
        .name = "selector", .kind = OPTION_STR, .offset = offsetof(struct ctl_flags, selector), \
        .flags = OPTION_FLAG_NO_FILE, .arg = "SELECTOR",                                        \
        .help = "Only what has such labels: 'tier=edge,env!=test,zone in (a,b),!old'; -l for "  \
                "short."                                                                        \
    }

#define CTL_WEAKER_ROW                                                                  \
    {                                                                                   \
        .name = "allow-weaker", .kind = OPTION_BOOL,                                    \
        .offset = offsetof(struct ctl_flags, allow_weaker), .def = "false",             \
        .help = "Also if it lets a link negotiate what is weaker than before, keep "    \
                "connections longer, or lets in whom a policy kept out; what, is told " \
                "and logged."                                                           \
    }

#define CTL_FORCE_STRICT_ROW                                                               \
    {                                                                                      \
        .name = "force", .kind = OPTION_BOOL, .offset = offsetof(struct ctl_flags, force), \
        .def = "false",                                                                    \
        .help = "Also if it ends plaintext that somebody still uses; that is logged."      \
    }

/* Of every command that changes the mesh (apply.h). */
#define CTL_DOCUMENT_ROW                                                                         \
    {                                                                                            \
        .name = "file", .kind = OPTION_STR, .offset = offsetof(struct ctl_flags, file),          \
        .flags = OPTION_FLAG_REQUIRED | OPTION_FLAG_NO_FILE, .arg = "FILE",                      \
        .help = "The document, YAML or JSON, or several with --- between them; a folder is all " \
                "that is in it; - is standard input; -f for short."                              \
    }

#define CTL_DRY_RUN_ROW                                                                        \
    {                                                                                          \
        .name = "dry-run", .kind = OPTION_BOOL, .offset = offsetof(struct ctl_flags, dry_run), \
        .def = "false",                                                                        \
        .help = "Check it and tell what would change, and which live connections would end; "  \
                "fails if a sidecar would refuse it."                                          \
    }

#define CTL_WAIT_ROW                                                                        \
    {                                                                                       \
        .name = "wait", .kind = OPTION_BOOL, .offset = offsetof(struct ctl_flags, wait),    \
        .def = "false",                                                                     \
        .help = "Wait until every connected sidecar has accepted it; fails if one refuses." \
    }

#define CTL_ON_NACK_ROW                                                                   \
    {                                                                                     \
        .name = "rollback-on-nack", .kind = OPTION_BOOL,                                  \
        .offset = offsetof(struct ctl_flags, rollback_on_nack), .def = "false",           \
        .help = "Wait likewise; if a sidecar refuses it, go back to the revision before." \
    }

#define CTL_MESSAGE_ROW                                                                       \
    {                                                                                         \
        .name = "message", .kind = OPTION_STR, .offset = offsetof(struct ctl_flags, message), \
        .arg = "TEXT", .help = "Why, for mortisectl history: one line; -m for short."         \
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
extern const struct ctl_command ctl_admin_bind;
extern const struct ctl_command ctl_admin_invite;
extern const struct ctl_command ctl_admin_list;
extern const struct ctl_command ctl_admin_unbind;
extern const struct ctl_command ctl_apply;
extern const struct ctl_command ctl_ca_csr;
extern const struct ctl_command ctl_ca_import;
extern const struct ctl_command ctl_certificate;
extern const struct ctl_command ctl_check;
extern const struct ctl_command ctl_completion;
extern const struct ctl_command ctl_clone;
extern const struct ctl_command ctl_delete;
extern const struct ctl_command ctl_describe;
extern const struct ctl_command ctl_diff;
extern const struct ctl_command ctl_edit;
extern const struct ctl_command ctl_encrypt;
extern const struct ctl_command ctl_elevate;
extern const struct ctl_command ctl_elevate_approve;
extern const struct ctl_command ctl_elevate_list;
extern const struct ctl_command ctl_export;
extern const struct ctl_command ctl_get;
extern const struct ctl_command ctl_history;
extern const struct ctl_command ctl_import_keystore;
extern const struct ctl_command ctl_init;
extern const struct ctl_command ctl_lift;
extern const struct ctl_command ctl_login;
extern const struct ctl_command ctl_revoke;
extern const struct ctl_command ctl_roots;
extern const struct ctl_command ctl_audit_export;
extern const struct ctl_command ctl_audit_key;
extern const struct ctl_command ctl_audit_purge;
extern const struct ctl_command ctl_audit_search;
extern const struct ctl_command ctl_audit_tail;
extern const struct ctl_command ctl_audit_verify;
extern const struct ctl_command ctl_backup;
extern const struct ctl_command ctl_restore;
extern const struct ctl_command ctl_accept_restore;
extern const struct ctl_command ctl_role_delete;
extern const struct ctl_command ctl_role_list;
extern const struct ctl_command ctl_role_set;
extern const struct ctl_command ctl_rollback;
extern const struct ctl_command ctl_rotate;
extern const struct ctl_command ctl_rotate_admin;
extern const struct ctl_command ctl_rotate_control;
extern const struct ctl_command ctl_rotate_issuer;
extern const struct ctl_command ctl_rotate_key;
extern const struct ctl_command ctl_rotate_root;
extern const struct ctl_command ctl_rotate_status;
extern const struct ctl_command ctl_status;
extern const struct ctl_command ctl_token;
extern const struct ctl_command ctl_validate;
extern const struct ctl_command ctl_version;
extern const struct ctl_command ctl_watch;
extern const struct ctl_command ctl_logs;
extern const struct ctl_command ctl_whoami;
extern const struct ctl_command ctl_why;
/* All of them, in the order of --help; NULL ends it. */
extern const struct ctl_command *const ctl_commands[];

/* ctl_get_kinds tells what `get` shows. */
void ctl_get_kinds(void (*fn)(void *arg, const char *name), void *arg);
/* ctl_mesh_kind is the index (MESH_LINKS) of "link" or "links"; -1: told. */
int ctl_mesh_kind(const char *word);
/* ctl_selector reads the flag --selector into an owned selector (control/selector.h); NULL when it
 * is not given. False: told. */
struct selector;
bool ctl_selector(const struct ctl_flags *flags, struct selector **out);

/* ctl_tell writes "mortisectl: …" to standard error, escaped as ctl_print_lines does. */
void ctl_tell(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* ctl_print writes what a stranger said, or named, escaped: nothing in it ends the line or moves
 * the cursor. ctl_print_lines leaves the ends of lines. */
void ctl_print(FILE *to, const char *text);
void ctl_print_lines(FILE *to, const char *text);
/* ctl_tell_faults writes a line for each. */
void ctl_tell_faults(const struct faults *faults);

/* ctl_read reads a file for the flag `flag` ("-": standard input), or tells why not. A private one
 * that is encrypted (certs/secrets.h) is opened. */
struct buf;
bool ctl_read(const char *flag, const char *path, bool private, struct buf *out);

#endif
