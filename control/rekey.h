/* rekey has the store sealed anew under another key-encryption key, a few records at a time, while
 * all else goes on. It has no record of its own: each record of the store says under which key it
 * is, so that a process that is killed at any point goes on at its next start, as long as it is
 * given both keys. Source: reliability R45, F41. */
#ifndef MORTISE_CONTROL_REKEY_H
#define MORTISE_CONTROL_REKEY_H

#include "control/vault.h"
#include "lib/net/loop.h"

struct rekey;

struct rekey_params {
    struct loop *loop; /* borrowed, as all here */
    struct vault *vault;
    /* Gives the keys of now; the first is the one that is to seal. Errors: KEK_UNAVAILABLE, with a
     * fault that says why. */
    err_t (*read_keys)(void *arg, struct faults *faults, struct seal_keys *out);
    void *arg;
};

/* rekey_new goes on at once when the vault, which was verified, has several keys. */
struct rekey *rekey_new(const struct rekey_params *params);
void rekey_free(struct rekey *rekey);

/* rekey_begin reads the keys and begins. How far it is: vault_stale, vault_is_rewrapped. Errors:
 * EXISTS (the first of them seals already, and all of the store), KEK_UNAVAILABLE (with a fault:
 * the file, or a key of a record is not among them), IO. */
MUST_CHECK err_t rekey_begin(struct rekey *rekey, struct faults *faults);

#endif
