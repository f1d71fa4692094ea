#include "control/health.h"

void health_faults(const struct ca *ca, const struct vault *vault, struct server_cert *cert,
                   struct faults *reasons)
{
    err_t err = ca_state(ca);

    if (ca_is_empty(ca))
        faults_add(reasons, "ca", "%s: there is no issuing certificate yet: mortisectl ca csr",
                   err_name(err.code));
    else if (!err_is_ok(err))
        faults_add(reasons, "ca", "%s: %s", err_name(err.code), err_text(err.code));
    if (vault_health(vault)->unwritable)
        faults_add(reasons, "store", "%s: nothing can be issued or changed",
                   err_text(E_STORE_UNWRITABLE));
    if (vault_health(vault)->corrupt)
        faults_add(reasons, "store", "%s: restore it from a backup", err_text(E_STORE_CORRUPT));
    if (server_cert_tls(cert) == NULL && !ca_is_empty(ca))
        faults_add(reasons, "certificate", "our own certificate has expired");
}
