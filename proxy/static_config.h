/* static_config: a sidecar configuration read from files, without a control plane: the YAML with
 * its `settings`, and the certificate, key and CA files that it names. All of it is read, or every
 * fault told; nothing is in force by that alone. */
#ifndef MORTISE_PROXY_STATIC_CONFIG_H
#define MORTISE_PROXY_STATIC_CONFIG_H

#include "certs/svid.h"
#include "lib/base/faults.h"
#include "proto/mesh/sidecar.pb-c.h"
#include "proxy/config.h"
#include "proxy/keystores.h"
#include "proxy/snapshot.h"
#include "proxy/watch.h"

#define STATIC_CONFIG_MAX ((size_t)4 << 20)
#define STATIC_CONFIG_KEY_MAX ((size_t)64 << 10)
#define STATIC_CONFIG_CA_MAX ((size_t)1 << 20)
#define STATIC_CONFIG_CRL_MAX CRL_SET_TEXT_MAX
#define STATIC_CONFIG_CRL_FILES_MAX 64 /* of one truststore */
/* A day that ends plaintext may be no further away, as in a mesh (control/permissive.h). */
#define STATIC_CONFIG_PLAINTEXT_AHEAD_S (INT64_C(90) * 86400)

struct static_crls {
    struct buf *files;
    size_t num;
};

/* Zeroed memory is an empty one. */
struct static_config {
    struct config settings; /* flags and variables, and the file's where those are silent */
    Mortise__V1__SidecarConfig *msg;
    struct svid *svid;
    struct keystores keystores; /* of msg->keystores; NULL where it could not be read, told */
    struct buf *ca_files;       /* content of truststores[i].ca_file; empty where there is none */
    struct bytes *cas;          /* views of them, as snapshot_input wants */
    size_t num_cas;
    struct static_crls *crl_files;    /* contents of truststores[i].crl_files */
    struct snapshot_texts *crl_texts; /* views of them */
    uint8_t digest[32];               /* of all that was read */
};

/* static_config_load reads the file that args say (--config, CHECKed) and all that it names.
 * `files` (zeroed, or of an earlier call) becomes the list of what to watch, on error too: a file
 * that is missing now may appear. `out` is released with static_config_fini, on error too. Errors:
 * CONFIG_INVALID. */
MUST_CHECK err_t static_config_load(const struct config_args *args, int64_t now_s,
                                    struct watch_files *files, struct faults *faults,
                                    struct static_config *out);
void static_config_fini(struct static_config *config);

#endif
