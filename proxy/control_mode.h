/* control_mode: a sidecar with a control plane: joins, keeps its certificate fresh, takes its
 * configuration from the discovery stream, and tells what is in force. */
#ifndef MORTISE_PROXY_CONTROL_MODE_H
#define MORTISE_PROXY_CONTROL_MODE_H

#include "certs/bundle.h"
#include "lib/base/skew.h"
#include "proxy/cache.h"
#include "proxy/source.h"

struct control_mode;
/* control_mode_read_roots reads the file of --trust-bundle; the faults say all. */
err_t control_mode_read_roots(const struct config *settings, struct faults *faults,
                              struct bundle **out);
/* control_mode_new begins with what is in `cache` (borrowed; NULL: none), if that is good, and to
 * join or renew. The join token is copied. Shares `roots`. */
struct control_mode *control_mode_new(const struct source_params *params, struct bundle *roots,
                                      struct cache *cache);
void control_mode_free(struct control_mode *mode);

/* control_mode_changed tells the control plane that readiness changed. */
void control_mode_changed(struct control_mode *mode);

/* control_mode_tick is called every second: it raises the alarm when the certificate is not
 * renewed, and tells the control plane what re-checks have ended. */
void control_mode_tick(struct control_mode *mode);

/* For /readyz and /config. */
struct control_mode_facts {
    bool joined;    /* has a certificate, or had one */
    bool connected; /* the discovery stream is open */
    uint64_t version;
    int64_t cached_at; /* what is in force is from the cache of then; 0: it is not */
    uint64_t certificate_epoch;
    const char *renewal_error; /* "" : none */
    const char *rejected;      /* the last response that was refused; NULL: none since */
    struct skew skew;          /* the control plane's clock against ours */
};
struct control_mode_facts control_mode_facts(const struct control_mode *mode);

#endif
