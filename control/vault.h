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
#include "proto/mesh/audit.pb-c.h"

#define VAULT_SETTINGS "meta/settings"
#define VAULT_VERSION "meta/version"
#define VAULT_HISTORY "meta/history"
#define VAULT_ROOT "ca/root"
#define VAULT_ISSUER "ca/issuer"
#define VAULT_OTHER_ROOT "ca/other-root"
#define VAULT_OTHER_ISSUER "ca/other-issuer"
#define VAULT_AUDIT "audit/" /* + number */
#define VAULT_AUDIT_HEAD "meta/audit"
#define VAULT_AUDIT_KEY "meta/audit-key"
#define VAULT_LINEAGE "ca/lineage"
#define VAULT_PENDING_ISSUER "ca/pending-issuer"
#define VAULT_MESH "mesh/current"
#define VAULT_REVISIONS "revision/"            /* + version */
#define VAULT_REVISION_MESHES "revision-mesh/" /* likewise */
#define VAULT_EPOCHS "rotation/epochs"
#define VAULT_ROOT_ROTATION "rotation/root"
#define VAULT_ADMINS "rotation/admins"
#define VAULT_ACCESS "access/current"
#define VAULT_REVOCATIONS "revoke/current"
#define VAULT_CRLS "crl/"            /* + SHA-256 of the issuer's key */
#define VAULT_KEYSTORES "keystore/"  /* + SHA-256 of the key */
#define VAULT_TOKENS "token/"        /* + hash of the token */
#define VAULT_CERTS "cert/"          /* + serial */
#define VAULT_ENDPOINTS "endpoints/" /* + subsystem */
#define VAULT_PLAINTEXT "plaintext/" /* + link */

#define VAULT_PATH_MAX 128
/* vault_path writes prefix and name; CHECKs that they fit: names are bounded where they come in. */
void vault_path(const char *prefix, const char *name, char out[VAULT_PATH_MAX]);

struct vault;

/* vault_new takes `store` and a copy of `keys`; vault_free closes the one and wipes the others. */
struct vault *vault_new(struct store *store, const struct seal_keys *keys);
void vault_free(struct vault *vault);
struct store *vault_store(struct vault *vault);

/* vault_verify opens every record, so that a wrong key or a broken record is known before anything
 * is served; each fault names its path, and of keys their names. Errors: KEK_UNAVAILABLE,
 * STORE_CORRUPT, IO. */
MUST_CHECK err_t vault_verify(struct vault *vault, struct faults *faults);

/* Other keys for the same store. vault_rekey takes a copy of `keys`: from now on the first one
 * seals; all that seal a record now must be among them. vault_rewrap then seals anew, in one
 * transaction, what it finds under another key among the next `max` records; when it has come
 * around and found none, the first key is the only one that is kept. A process that ends in between
 * goes on when it is given all of the keys again. Versions stay, and nobody who watches is told:
 * only the form has changed. Errors: KEK_UNAVAILABLE (a fault names the key that is missing),
 * STORE_*, IO. */
MUST_CHECK err_t vault_rekey(struct vault *vault, const struct seal_keys *keys,
                             struct faults *faults);
MUST_CHECK err_t vault_rewrap(struct vault *vault, size_t max);
/* vault_stale is how many records are under another key than the first, as vault_verify or
 * vault_rekey has counted and vault_rewrap has left; vault_is_rewrapped: none is, and no other key
 * is kept. */
size_t vault_stale(const struct vault *vault);
bool vault_is_rewrapped(const struct vault *vault);
/* vault_key_name is the first key's. */
void vault_key_name(const struct vault *vault, char out[SEAL_NAME]);

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
/* vault_each_page does so for at most `max` of them, those behind *io_after (owned; NULL: from the
 * first), which it moves on; NULL again when there are no more. */
MUST_CHECK err_t vault_each_page(struct vault *vault, const char *prefix, size_t max,
                                 char **io_after, vault_each_fn fn, void *arg);

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
/* vault_batch_each calls fn for each change of the batch. `fresh`: it is put where nothing may be;
 * `same`: its content stays (vault_rewrap). */
struct vault_batch_item {
    const char *path;
    bool remove;
    bool fresh;
    bool same;
};
void vault_batch_each(const struct vault_batch *batch,
                      void (*fn)(void *arg, const struct vault_batch_item *item), void *arg);
/* vault_put is a batch of one. */
MUST_CHECK err_t vault_put(struct vault *vault, const char *path, const ProtobufCMessage *msg,
                           uint64_t expect, uint64_t *out_version);

/* vault_journal is asked before each transaction, also one of no changes, what is to be written
 * with it: `add` puts that into `out`, which comes first in the transaction, so that who watches
 * its paths hears of it before all others; an error of it is the commit's. `done` is called after
 * the commit, if `add` went well. One at a time; borrowed, NULL: none. */
struct vault_journal {
    err_t (*add)(void *arg, const struct vault_batch *const *batches, size_t num,
                 struct vault_batch *out);
    void (*done)(void *arg, err_t err);
    void *arg;
};
void vault_set_journal(struct vault *vault, const struct vault_journal *journal);

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
