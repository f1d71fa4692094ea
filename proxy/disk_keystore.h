/* disk_keystore reads a keystore that lies on this sidecar's own disk: FOLDER/tls.crt,
 * certificates, and FOLDER/tls.key, as a mounted Kubernetes secret has them, in the folder that
 * --keystore-dir names. Which FOLDER, a control plane says: by a plain name, so that it reaches
 * nothing else. */
#ifndef MORTISE_PROXY_DISK_KEYSTORE_H
#define MORTISE_PROXY_DISK_KEYSTORE_H

#include "certs/svid.h"
#include "lib/base/faults.h"
#include "proxy/watch.h"

#define DISK_KEYSTORE_CHAIN "tls.crt"
#define DISK_KEYSTORE_KEY "tls.key"
#define DISK_KEYSTORE_CHAIN_MAX ((size_t)256 << 10)
#define DISK_KEYSTORE_KEY_MAX ((size_t)64 << 10)
#define DISK_KEYSTORE_NAME_MAX 63

/* disk_keystore_name_valid: lower-case letters, digits and inner hyphens; no dot, no slash. */
bool disk_keystore_name_valid(const char *folder);

/* disk_keystore_watch adds both files; before they are read, so that no change is missed. Nothing
 * is added for a name that is none. */
void disk_keystore_watch(const char *dir, const char *folder, struct watch_files *files);

/* disk_keystore_read reads both and judges them as what is uploaded is (certs/uploaded.h): the pair
 * belongs together, strength, usage, names, and, unless now_s is 0, dates. A key that others can
 * read is refused. Each fault is at `path` and names the file. Errors: CONFIG_INVALID. */
MUST_CHECK err_t disk_keystore_read(const char *dir, const char *folder, int64_t now_s,
                                    const char *path, struct faults *faults, struct svid **out);

#endif
