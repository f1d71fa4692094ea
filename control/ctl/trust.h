/* trust shows what vouches for whom: the tables of truststores and keystores. */
#ifndef MORTISE_CONTROL_CTL_TRUST_H
#define MORTISE_CONTROL_CTL_TRUST_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/mesh/operator.pb-c.h"

/* The columns of truststores and keystores; wide ones of truststores have a line for each
 * certificate. */
extern const char *const trust_heads_truststores[];
extern const char *const trust_wide_truststores[];
extern const char *const trust_heads_keystores[];
extern const char *const trust_wide_keystores[];

/* trust_row_truststore and trust_row_keystore add the lines of one, with who of `mesh` uses it;
 * `sidecars` say what they have on their disks, NULL: nobody was asked. */
struct table;
void trust_row_truststore(bool wide, int64_t now_s, const Mortise__V1__MeshTruststore *store,
                          const Mortise__V1__Mesh *mesh, struct table *table);
void trust_row_keystore(bool wide, int64_t now_s, const Mortise__V1__MeshKeystore *keystore,
                        const Mortise__V1__Mesh *mesh,
                        const Mortise__V1__ListWorkloadsResponse *sidecars, struct table *table);
/* trust_print_pem writes the certificates of the keystores, or of the truststores. False: one has
 * none of its own, told. */
bool trust_print_pem(bool keystores, const Mortise__V1__Mesh *shown);

#endif
