/* vault is what the control plane knows of its store: protobuf messages, each sealed under the
 * key-encryption key with its own path authenticated, so that the store can neither read, change
 * nor swap them. The message type follows from the path (vault_types in vault.c). Source:
 * reliability R45, R53, F38, F41. */
#ifndef MORTISE_CONTROL_VAULT_H
#define MORTISE_CONTROL_VAULT_H

#include <protobuf-c/protobuf-c.h>

#include "certs/seal.h"
#include "control/store.h"
#include "lib/base/faults.h"
#include "proto/control/state.pb-c.h"

#define VAULT_SETTINGS "meta/settings"
#define VAULT_VERSION "meta/version"
#define VAULT_ROOT "ca/root"
#define VAULT_ISSUER "ca/issuer"
#define VAULT_OTHER_ROOT "ca/other-root"
#define VAULT_OTHER_ISSUER "ca/other-issuer"
#define VAULT_LINEAGE "ca/lineage"
#define VAULT_MESH "mesh/current"
#define VAULT_EPOCHS "rotation/epochs"
#define VAULT_ROOT_ROTATION "rotation/root"
#define VAULT_REVOCATIONS "revoke/current"
#define VAULT_TOKENS "token/"        /* + hash of the token */
#define VAULT_CERTS "cert/"          /* + serial */
#define VAULT_ENDPOINTS "endpoints/" /* + subsystem */

#define VAULT_PATH_MAX 128
/* vault_path writes prefix and name; CHECKs that they fit: names are bounded where they come in. */
void vault_path(const char *prefix, const char *name, char out[VAULT_PATH_MAX]);

struct vault;

/* vault_new takes `store` and a copy of `key`; vault_free closes the one and wipes the other. */
struct vault *vault_new(struct store *store, const struct seal_key *key);
void vault_free(struct vault *vault);
struct store *vault_store(struct vault *vault);

/* vault_verify opens every record, so that a wrong key or a broken record is known before anything
 * is served; each fault names its path. Errors: KEK_UNAVAILABLE, STORE_CORRUPT, IO. */
MUST_CHECK err_t vault_verify(struct vault *vault, struct faults *faults);

/* vault_get returns an owned message (pb_free). `out_version` may be NULL.
 * Errors: NOT_FOUND, STORE_CORRUPT, KEK_UNAVAILABLE, IO. A broken record is logged with its path.
 */
MUST_CHECK err_t vault_get(struct vault *vault, const char *path, ProtobufCMessage **out,
                           uint64_t *out_version);

/* vault_each calls fn for each record under `prefix`, by path; the message is borrowed. An error of
 * fn ends it. Errors: those of vault_get. */
typedef err_t (*vault_each_fn)(void *arg, const char *path, uint64_t version,
                               const ProtobufCMessage *msg);
MUST_CHECK err_t vault_each(struct vault *vault, const char *prefix, vault_each_fn fn, void *arg);

/* vault_batch is a transaction being put together. Zeroed memory is an empty one. */
struct vault_change;
struct vault_batch {
    struct vault_change *changes;
    size_t num;
    size_t cap;
};
void vault_batch_fini(struct vault_batch *batch);
/* `expect` as in store.h. The message is sealed at once; nothing of it is borrowed afterwards. */
MUST_CHECK err_t vault_batch_put(struct vault *vault, struct vault_batch *batch, const char *path,
                                 const ProtobufCMessage *msg, uint64_t expect);
void vault_batch_delete(struct vault_batch *batch, const char *path, uint64_t expect);
/* vault_commit makes the batch durable, or nothing of it. An empty batch is done at once. Errors:
 * those of store_commit. */
MUST_CHECK err_t vault_commit(struct vault *vault, const struct vault_batch *batch,
                              uint64_t *out_revision);
/* vault_commit_all makes several batches durable in one transaction, or nothing of any of them; no
 * two of them change the same record. Errors: those of vault_commit; a STORE_CONFLICT of one is one
 * of all. */
MUST_CHECK err_t vault_commit_all(struct vault *vault, const struct vault_batch *const *batches,
                                  size_t num);
/* vault_batch_has tells whether the batch changes the record. */
bool vault_batch_has(const struct vault_batch *batch, const char *path);
/* vault_put is a batch of one. */
MUST_CHECK err_t vault_put(struct vault *vault, const char *path, const ProtobufCMessage *msg,
                           uint64_t expect, uint64_t *out_version);

/* vault_check judges the store's structure, now and then. Errors: STORE_CORRUPT, IO. */
MUST_CHECK err_t vault_check(struct vault *vault);

/* What commits and checks have met: for readiness and metrics. */
struct vault_health {
    bool corrupt;     /* vault_check found damage */
    bool unwritable;  /* the last commit failed with STORE_UNWRITABLE */
    uint64_t commits; /* that went well */
    uint64_t failed;  /* STORE_UNWRITABLE */
};
const struct vault_health *vault_health(const struct vault *vault);
/* vault_on_commit has `fn` told of each commit's duration, for a histogram. */
void vault_on_commit(struct vault *vault, void (*fn)(void *arg, uint64_t duration_us), void *arg);

#endif
