/* cache: the last good material of a sidecar (key, chain, roots, configuration) in a file, so that
 * it can begin with it after a restart while the control plane is away. R24.
 *
 * Sealed with AES-256-GCM (certs/seal.h) under a key that lies elsewhere; format, trust domain and
 * file name are authenticated with it. The folder is ours alone (0700), one sidecar at a time; the
 * files are 0600 and are replaced whole, so that whatever stops the process leaves the old one or
 * the new one. A second, sealed file has the number of the newest cache, and is written first: a
 * copy from before is told from it, but for the one just before it, which may be what an
 * interrupted write has left, and for a copy of both files. Everything here blocks for a sync of
 * the disk. */
#ifndef MORTISE_PROXY_CACHE_H
#define MORTISE_PROXY_CACHE_H

#include "certs/bundle.h"
#include "certs/secrets.h"
#include "certs/svid.h"
#include "lib/base/faults.h"
#include "proto/mesh/cache.pb-c.h"

#define CACHE_FILE "sidecar.cache"
#define CACHE_MARK_FILE "sidecar.mark"
#define CACHE_MAX ((size_t)8 << 20) /* a configuration is at most 4 MiB on the wire */

struct cache;

struct cache_params {
    const char *dir;          /* made if it is not there */
    struct secret_source key; /* 32 bytes as certs/seal.h reads them */
    const char *trust_domain; /* all copied */
};

/* cache_check judges the key, which is read, and the folder; the faults say all. Changes nothing.
 * Errors: CONFIG_INVALID. */
err_t cache_check(const struct cache_params *params, struct faults *faults);
/* cache_open does that, takes the folder for this process, and removes what an interrupted write
 * has left. Errors: CONFIG_INVALID. */
err_t cache_open(const struct cache_params *params, struct faults *faults, struct cache **out);
void cache_close(struct cache *cache);

/* What was in it, checked like an answer of the control plane. */
struct cache_content {
    struct svid *svid;
    bool expired; /* its certificate; everything else about it is right */
    struct bundle *roots;
    Mortise__V1__SidecarCache *msg; /* without the key */
};
void cache_content_fini(struct cache_content *content);

/* cache_load reads it. `expected_id` (NULL: any) is who it must be of. On error `out` is untouched.
 * Errors: NOT_FOUND (there is none), FILE_OPEN (a symbolic link: sub ELOOP), FILE_UNSAFE,
 * KEK_UNAVAILABLE (sealed with another key), SEAL_BROKEN, PB_SYNTAX, TRUST_DOMAIN, PEER_IDENTITY,
 * CACHE_STALE, and those of svid_of_der but for CERT_EXPIRED. */
MUST_CHECK err_t cache_load(struct cache *cache, const char *expected_id, int64_t now_s,
                            struct cache_content *out);

/* cache_save writes it; of `msg` all but number and private_key is the caller's. Borrows. Errors:
 * TOO_LARGE, FILE_OPEN, IO; what was there is there then. */
MUST_CHECK err_t cache_save(struct cache *cache, const struct svid *svid,
                            const Mortise__V1__SidecarCache *msg);

#endif
