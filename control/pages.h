/* pages are the control plane's administration pages: readiness with its reasons, metrics, and what
 * is in force. */
#ifndef MORTISE_CONTROL_PAGES_H
#define MORTISE_CONTROL_PAGES_H

#include "control/ca.h"
#include "control/crls.h"
#include "control/meters.h"
#include "control/plaintext_uses.h"
#include "control/registry.h"
#include "control/server_cert.h"
#include "lib/net/loop.h"

struct pages;

struct pages_params {
    struct loop *loop;       /* all borrowed */
    const char *listen;      /* "unix:PATH" or NULL */
    const char *http_listen; /* address or NULL */
    struct meters *meters;
    struct vault *vault;
    struct ca *ca;
    struct registry *registry;
    struct server_cert *cert;
    struct crls *crls;
    const struct plaintext_uses *plaintext_uses;
};

/* pages_new listens where asked. Errors: those of admin_new, with a fault that names the setting.
 */
MUST_CHECK err_t pages_new(const struct pages_params *params, struct faults *faults,
                           struct pages **out);
void pages_free(struct pages *pages);

#endif
