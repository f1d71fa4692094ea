/* static_mode: a sidecar without a control plane. Its configuration, certificate, key and CA files
 * are read again when one of them changes, and on SIGHUP; what is whole and right is swapped in
 * live, what is not (a pair replaced by half) is refused with the reason, and what was in force
 * stays. */
#ifndef MORTISE_PROXY_STATIC_MODE_H
#define MORTISE_PROXY_STATIC_MODE_H

#include "proxy/source.h"
#include "proxy/static_config.h"

/* Files are written one after the other: a fault that is gone within this time is not told. */
#define STATIC_MODE_SETTLE_MS 2000

struct static_mode;
/* static_mode_new publishes `first`, as static_config_load gave it with `files` (both borrowed; the
 * files are taken over). Errors: CONFIG_INVALID with the faults. */
MUST_CHECK err_t static_mode_new(const struct source_params *params,
                                 const struct static_config *first, struct watch_files *files,
                                 struct faults *faults, struct static_mode **out);
/* static_mode_reload reads everything again, now (SIGHUP). */
void static_mode_reload(struct static_mode *mode);
void static_mode_free(struct static_mode *mode);
/* Why what the files say is not in force; NULL: it is. */
const char *static_mode_rejected(const struct static_mode *mode);

/* static_mode_check builds what `loaded` describes without putting it into force; the faults say
 * all. */
err_t static_mode_check(const struct static_config *loaded, int64_t now_s, struct stats *stats,
                        struct faults *faults);

#endif
