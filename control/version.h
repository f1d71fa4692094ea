/* version counts versions: a 64-bit number that is never given out twice, whatever stops the
 * process. The store holds a number up to which all may have been given out; it is raised in
 * blocks, before they are. */
#ifndef MORTISE_CONTROL_VERSION_H
#define MORTISE_CONTROL_VERSION_H

#include "control/vault.h"

#define VERSION_BLOCK 128
#define VERSION_AHEAD 64 /* so many are ours at least, in case that the store cannot be written */

struct version {
    struct vault *vault;
    uint64_t value;    /* the last one given out */
    uint64_t reserved; /* durably ours up to here */
    uint64_t pending;  /* reserved, once the batch in hand is committed */
};

/* version_create adds the record of a counter whose last number is `value`. */
MUST_CHECK err_t version_create(struct vault *vault, struct vault_batch *batch, uint64_t value);
/* version_open loads it. Errors: NOT_FOUND, STORE_CORRUPT, KEK_UNAVAILABLE, IO. */
MUST_CHECK err_t version_open(struct version *version, struct vault *vault);

/* version_prepare adds to `batch` what makes the next numbers ours, if few are; version_prepared is
 * called when the batch is durable. When it cannot be made so, version_has_next tells whether there
 * still is a number that may be given out. */
MUST_CHECK err_t version_prepare(struct version *version, struct vault_batch *batch);
void version_prepared(struct version *version);
bool version_has_next(const struct version *version);

/* version_close notes the exact number, so that the next start does not skip the rest of a block.
 */
void version_close(struct version *version);

#endif
