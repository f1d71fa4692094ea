/* store keeps the control plane's state: bytes under a key, each with a version, changed in
 * transactions that happen whole or not at all.
 *
 * An item's version is the store's revision when it was last changed; revisions only grow, so that
 * a version never comes back, not even after an item was removed and made again. A transaction
 * names the version that each of its items must have; when one differs nothing happens
 * (STORE_CONFLICT). That is all the locking there is: read, compute, commit with the version read.
 *
 * The store is trusted with availability only: what it holds is sealed before it comes here
 * (vault.h). Implementations: store_sqlite.h (one file, one writer) and store_mem.h (tests). */
#ifndef MORTISE_CONTROL_STORE_H
#define MORTISE_CONTROL_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"

#define STORE_KEY_MAX 512                 /* bytes of a key: [!-~]+ */
#define STORE_VALUE_MAX ((size_t)8 << 20) /* a mesh of a thousand links is < 1 MiB */
#define STORE_CHANGES_MAX 4096            /* of one transaction */

#define STORE_ANY UINT64_MAX /* whatever version, if any */
#define STORE_ABSENT 0       /* must not exist */

struct store_change {
    const char *key;
    bool remove;
    struct bytes value; /* when not removed */
    uint64_t expect;    /* version, STORE_ANY or STORE_ABSENT */
    /* The same content in another form: it keeps the version that is expected, and watchers hear
     * nothing of it. */
    bool same;
};

struct store_item {
    char *key;
    uint64_t version;
    uint8_t *value;
    size_t len;
};

struct store_items {
    struct store_item *items; /* by key, ascending */
    size_t num;
};
void store_items_fini(struct store_items *items);

struct store;

struct store_ops {
    err_t (*get)(struct store *store, const char *key, struct buf *out, uint64_t *out_version);
    err_t (*commit)(struct store *store, const struct store_change *changes, size_t num,
                    uint64_t *out_revision);
    err_t (*list)(struct store *store, const char *prefix, const char *after, size_t max,
                  struct store_items *out);
    err_t (*revision)(struct store *store, uint64_t *out);
    err_t (*check)(struct store *store);
    err_t (*backup)(struct store *store, struct buf *out); /* NULL: there is no file */
    void (*free)(struct store *store);
};

/* The beginning of every implementation. */
struct store {
    const struct store_ops *ops;
    struct list watches;
};
/* store_init is for implementations. */
void store_init(struct store *store, const struct store_ops *ops);

/* store_get appends the value to `out`. `out_version` may be NULL. Errors: NOT_FOUND,
 * STORE_CORRUPT, STORE_UNWRITABLE (a commit failed half way, and its disk does not even take it
 * back), IO. Those of store_list, store_check and store_backup are such, too. */
MUST_CHECK err_t store_get(struct store *store, const char *key, struct buf *out,
                           uint64_t *out_version);

/* store_revision is that of the last transaction; 0: there was none. Errors: STORE_CORRUPT, IO. */
MUST_CHECK err_t store_revision(struct store *store, uint64_t *out);

/* store_commit makes all of `changes` (each key once) durable, or none. After OK they survive a
 * power cut; watchers have been told. `out_revision` (may be NULL) is the version of what was put.
 * Errors: STORE_CONFLICT (sub: index of the change), STORE_UNWRITABLE (sub: the implementation's
 * reason; disk full, read-only, failed sync), STORE_CORRUPT, TOO_LARGE. */
MUST_CHECK err_t store_commit(struct store *store, const struct store_change *changes, size_t num,
                              uint64_t *out_revision);

/* store_put_if and store_delete_if are transactions of one change. */
MUST_CHECK err_t store_put_if(struct store *store, const char *key, struct bytes value,
                              uint64_t expect, uint64_t *out_version);
MUST_CHECK err_t store_delete_if(struct store *store, const char *key, uint64_t expect);

/* store_list gives every item whose key begins with `prefix`, as of one moment; the caller ends it
 * with store_items_fini. Errors: STORE_CORRUPT, IO. */
MUST_CHECK err_t store_list(struct store *store, const char *prefix, struct store_items *out);
/* store_list_page gives at most `max` of them, those behind the key `after` ("": from the first).
 */
MUST_CHECK err_t store_list_page(struct store *store, const char *prefix, const char *after,
                                 size_t max, struct store_items *out);

/* store_check reads all of the store and judges its structure. Errors: STORE_CORRUPT, IO. */
MUST_CHECK err_t store_check(struct store *store);

/* store_backup appends the store as it is now, as the file that the same implementation opens.
 * Errors: NOT_FOUND (it is in memory only), NO_MEMORY, TOO_LARGE (of `out`), IO. */
MUST_CHECK err_t store_backup(struct store *store, struct buf *out);

/* store_watch calls fn for every change under `prefix` that is durable, in order, from this process
 * or another. `change` is borrowed. The watch is embedded in its user; it must not be in use
 * already. */
struct store_watch {
    struct list link;
    const char *prefix; /* borrowed */
    void (*fn)(void *arg, const struct store_change *change, uint64_t revision);
    void *arg;
};
void store_watch(struct store *store, struct store_watch *watch);
void store_unwatch(struct store_watch *watch);

/* store_free closes the store; watches that are left hear nothing any more. */
void store_free(struct store *store);

#endif
