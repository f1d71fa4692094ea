/* store_mem is the store in memory, for tests: the same rules, nothing kept. */
#ifndef MORTISE_CONTROL_STORE_MEM_H
#define MORTISE_CONTROL_STORE_MEM_H

#include "control/store.h"

/* store_mem_new returns an owned empty store (store_free). */
struct store *store_mem_new(void);
/* store_mem_set_unwritable makes each commit fail with STORE_UNWRITABLE, or work again. */
void store_mem_set_unwritable(struct store *store, bool unwritable);
/* store_mem_poke overwrites an item's bytes behind the versions' back, as a broken disk would. */
void store_mem_poke(struct store *store, const char *key, struct bytes value);

#endif
