/* rules: what mortise-redirect has the kernel do, as text for nft(8). Pure.
 *
 * One table, `inet mortise`, for IPv4 and IPv6 alike, replaced as a whole or not at all:
 *
 * - `outbound`: the sidecar's own connections, those to this host and what is excluded return; all
 *   other TCP goes on to `captured`, which redirects to the sidecar's capture port. One connection
 *   to this host goes on as well, by the very rules of all others: to REDIRECT_PROBE_PORT on
 *   loopback, where nobody listens. So the sidecar, which may not ask the kernel for its rules,
 * sees that capture works, and when it no longer does.
 * - `taken`: what others send to an application's port goes where --take-port says.
 * - `inbound`: of TCP from other hosts, what is for the sidecar's ports passes and no other.
 * - `others`, `others_inbound`: what is not TCP, by --not-tcp.
 */
#ifndef MORTISE_PROXY_REDIRECT_RULES_H
#define MORTISE_PROXY_REDIRECT_RULES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/base/buf.h"
#include "lib/base/faults.h"
#include "lib/base/options.h"

#define RULES_TABLE "inet mortise"
#define RULES_LIST_MAX 512 /* entries of one list */

#define RULES_TYPE_STR char *
#define RULES_TYPE_BOOL bool
#define RULES_TYPE_INT int64_t
#define RULES_TYPE_ENUM int
#define RULES_TYPE_LIST struct option_list

/* Released by rules_free. */
struct rules {
#define HEADING(text)
#define ROW(flag, kind, field, def, min, max, flags, arg, help) RULES_TYPE_##kind field;
#include "proxy/redirect/rules_tbl.h"
#undef HEADING
#undef ROW
};

/* rules_parse reads flags into `out` (zeroed; to be released even on error) and
 * checks them. Errors: CONFIG_INVALID. */
err_t rules_parse(int argc, char **argv, struct rules *out, struct options_result *out_result,
                  struct faults *faults);
void rules_free(struct rules *rules);
void rules_help(bool man, FILE *out);

/* rules_shown writes what of the settings decides who is let through, for people. */
void rules_shown(const struct rules *rules, struct buf *out);

/* rules_text appends the whole table with what replaces the one before. The same settings give the
 * same bytes. */
void rules_text(const struct rules *rules, struct buf *out);
/* rules_removal appends what takes the table away, there or not. */
void rules_removal(struct buf *out);

/* rules_seal appends the command that leaves a mark in the table: a name made of the kernel's
 * listing of it (nft -n -s list table), by which rules_judge sees a later change. It finds
 * accidents, not whoever may write rules: he may seal as well. */
void rules_seal(struct bytes listing, struct buf *out);

enum rules_state {
    RULES_IN_FORCE,
    RULES_OTHER_SETTINGS,
    RULES_CHANGED,  /* since they were sealed */
    RULES_UNSEALED, /* whoever put them in force did not come to the end */
};

/* rules_judge compares a listing with the settings. */
enum rules_state rules_judge(const struct rules *rules, struct bytes listing);

#endif
