/* plane_store finds the control plane's records: the folder, the store in it, that every record
 * opens. At the first start it makes them: root, issuer, default mesh, settings. Nothing else ever
 * does: a store that is there and has nothing in it, or has lost its file and kept its journal, was
 * lost, and a new mesh in its place would cut off every sidecar of the old one. */
#ifndef MORTISE_CONTROL_PLANE_STORE_H
#define MORTISE_CONTROL_PLANE_STORE_H

#include "control/config.h"
#include "control/vault.h"
#include "lib/base/clock.h"

/* plane_store_open borrows all; `*out` is the caller's (vault_free), also when an error is
 * returned, unless it is NULL, which it has to be before. Errors: FILE_OPEN, FILE_UNSAFE, STORE_*,
 * KEK_UNAVAILABLE, CONFIG_INVALID (a first start without a trust domain), IO, those of issue.h.
 * What is wrong, and what to do, is in `faults`. */
MUST_CHECK err_t plane_store_open(const struct config *config, const struct clock *clock,
                                  const struct seal_keys *keys, struct faults *faults,
                                  struct vault **out);

/* plane_store_fault tells what is wrong with the store at `path`. */
void plane_store_fault(const char *path, err_t err, struct faults *faults);

/* The administrator whose token the first start leaves in this file (owned path), readable by its
 * owner alone: good once, and for ATTEST_TTL_DEFAULT_S. */
#define PLANE_STORE_FIRST_ADMIN "admin"
char *plane_store_login_path(const struct config *config);

#endif
