/* ca_keys is all that the store has of the CA's keys and roots, loaded and checked as one. Private
 * to ca.c. */
#ifndef MORTISE_CONTROL_CA_KEYS_H
#define MORTISE_CONTROL_CA_KEYS_H

#include "certs/bundle.h"
#include "control/authority.h"
#include "control/ca.h"

#define CA_ROOTS_MAX (2 + CA_ANCESTORS_MAX)

struct ca_keys {
    struct authority_pair active; /* signs */
    struct authority_pair other;  /* issuer's der NULL: there is none; root's: it is the same */
    Mortise__Control__Lineage *lineage;
    uint64_t lineage_version; /* STORE_ABSENT: no record yet */
    struct bundle *bundle;
    struct bundle *callers;
    struct bytes roots[2];
    size_t num_roots;
    char *roots_pem;
};

/* ca_keys_load reads what is there and checks that it belongs together. Errors: STORE_CORRUPT,
 * KEK_UNAVAILABLE, IO. */
MUST_CHECK err_t ca_keys_load(struct vault *vault, const char *trust_domain, int64_t now_s,
                              struct ca_keys **out);
void ca_keys_free(struct ca_keys *keys);
size_t ca_keys_num_ancestors(const struct ca_keys *keys);

#endif
