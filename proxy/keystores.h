/* keystores: what links show in place of the sidecar's own certificate, as a control plane has it:
 * each chain in the configuration with its key beside that, or a folder on this sidecar's disk. All
 * of them, or every fault. An expired one that was sent is no fault: it must not keep another
 * configuration, or our own renewed certificate, from coming into force; its peers refuse it, and
 * its expiry is a metric. Files that are broken now are no fault where good ones of that folder are
 * in force: those stay. */
#ifndef MORTISE_PROXY_KEYSTORES_H
#define MORTISE_PROXY_KEYSTORES_H

#include "certs/svid.h"
#include "lib/base/faults.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proto/mesh/sidecar.pb-c.h"
#include "proxy/watch.h"

#define KEYSTORES_MAX 100

/* Zeroed memory is none. */
struct keystores {
    struct svid **items; /* of config->keystores; a reference each */
    char **wrong; /* why the files are not taken that there are now; NULL: nothing is wrong */
    size_t num;
};
void keystores_fini(struct keystores *keystores);

/* Where they come from. */
struct keystores_source {
    Mortise__V1__KeystoreKey *const *keys; /* that came beside the configuration */
    size_t num_keys;
    const char *dir; /* --keystore-dir, NULL: no file is read */
    int64_t now_s;   /* 0: of files, dates are not asked */
    /* In force: the same files stay what they are, and the same chain keeps its key. `config` may
     * be NULL. */
    const Mortise__V1__SidecarConfig *config;
    const struct keystores *former; /* of `config` */
};

/* keystores_of makes those of `config`. `out` is to be ended with keystores_fini, on error too.
 * Errors: CONFIG_INVALID. */
MUST_CHECK err_t keystores_of(const Mortise__V1__SidecarConfig *config,
                              const struct keystores_source *source, struct faults *faults,
                              struct keystores *out);

/* keystores_has_files tells whether any is a folder on the disk; keystores_watch adds their files.
 */
bool keystores_has_files(const Mortise__V1__SidecarConfig *config);
void keystores_watch(const Mortise__V1__SidecarConfig *config, const char *dir,
                     struct watch_files *files);
/* keystores_status makes what the control plane is told of files; owned (keystores_status_free). */
Mortise__V1__KeystoreStatus **keystores_status(const struct keystores *keystores,
                                               const Mortise__V1__SidecarConfig *config,
                                               size_t *out_num);
void keystores_status_free(Mortise__V1__KeystoreStatus **list, size_t num);

/* keystores_load makes one of PEM texts whatever the time is. Errors: those of svid_of_pem but for
 * CERT_EXPIRED and CERT_NOT_YET_VALID. */
MUST_CHECK err_t keystores_load(struct bytes chain_pem, struct bytes key_pem, struct svid **out);

/* keystores_keys makes messages of the keys that came, for the cache: those of files stay in the
 * files; keystores_keys_free wipes them. */
Mortise__V1__KeystoreKey **keystores_keys(const struct keystores *keystores,
                                          const Mortise__V1__SidecarConfig *config,
                                          size_t *out_num);
void keystores_keys_free(Mortise__V1__KeystoreKey **keys, size_t num);

#endif
