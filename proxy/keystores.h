/* keystores: what links show in place of the sidecar's own certificate, as a control plane sends
 * it: each chain in the configuration, its key beside that. All of them, or every fault. An expired
 * one is no fault: it must not keep another configuration, or our own renewed certificate, from
 * coming into force; its peers refuse it, and its expiry is a metric. */
#ifndef MORTISE_PROXY_KEYSTORES_H
#define MORTISE_PROXY_KEYSTORES_H

#include "certs/svid.h"
#include "lib/base/faults.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proto/mesh/sidecar.pb-c.h"

#define KEYSTORES_MAX 100

/* Zeroed memory is none. */
struct keystores {
    struct svid **items; /* of config->keystores; a reference each */
    size_t num;
};
void keystores_fini(struct keystores *keystores);

/* keystores_of puts each chain of `config` together with its key out of `keys`. `out` is to be
 * ended with keystores_fini, on error too. Errors: CONFIG_INVALID. */
MUST_CHECK err_t keystores_of(const Mortise__V1__SidecarConfig *config,
                              Mortise__V1__KeystoreKey *const *keys, size_t num_keys,
                              struct faults *faults, struct keystores *out);

/* keystores_load makes one of PEM texts whatever the time is. Errors: those of svid_of_pem but for
 * CERT_EXPIRED and CERT_NOT_YET_VALID. */
MUST_CHECK err_t keystores_load(struct bytes chain_pem, struct bytes key_pem, struct svid **out);

/* keystores_keys makes messages of the keys, for the cache; keystores_keys_free wipes them. */
Mortise__V1__KeystoreKey **keystores_keys(const struct keystores *keystores,
                                          const Mortise__V1__SidecarConfig *config);
void keystores_keys_free(Mortise__V1__KeystoreKey **keys, size_t num);

#endif
