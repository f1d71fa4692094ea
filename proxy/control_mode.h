/* control_mode: a sidecar with a control plane: joins, keeps its certificate fresh, takes its
 * configuration from the discovery stream, and tells what is in force. */
#ifndef MORTISE_PROXY_CONTROL_MODE_H
#define MORTISE_PROXY_CONTROL_MODE_H

#include "certs/bundle.h"
#include "proxy/source.h"

struct control_mode;
/* control_mode_read_roots reads the file of --trust-bundle; the faults say all. */
err_t control_mode_read_roots(const struct config *settings, struct faults *faults,
                              struct bundle **out);
/* control_mode_new begins to join. The join token is copied. Shares `roots`. */
struct control_mode *control_mode_new(const struct source_params *params, struct bundle *roots);
void control_mode_free(struct control_mode *mode);

/* control_mode_changed tells the control plane that readiness changed. */
void control_mode_changed(struct control_mode *mode);

/* For /readyz and /config. */
struct control_mode_facts {
    bool joined;    /* has a certificate, or had one */
    bool connected; /* the discovery stream is open */
    uint64_t version;
    uint64_t certificate_epoch;
    const char *renewal_error; /* "" : none */
    const char *rejected;      /* the last response that was refused; NULL: none since */
};
struct control_mode_facts control_mode_facts(const struct control_mode *mode);

#endif
