/* trust shows what vouches for whom: the tables of truststores and keystores. */
#ifndef MORTISE_CONTROL_CTL_TRUST_H
#define MORTISE_CONTROL_CTL_TRUST_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/mesh/operator.pb-c.h"

/* trust_table_truststores prints a line for each truststore of `shown`, with who of `whole` uses
 * it; wide: a line for each certificate in them. */
void trust_table_truststores(bool wide, int64_t now_s, const Mortise__V1__Mesh *shown,
                             const Mortise__V1__Mesh *whole);

/* trust_table_keystores likewise prints what links may show; `sidecars` say what they have on their
 * disks, NULL: nobody was asked. */
void trust_table_keystores(bool wide, int64_t now_s, const Mortise__V1__Mesh *shown,
                           const Mortise__V1__Mesh *whole,
                           const Mortise__V1__ListWorkloadsResponse *sidecars);
/* trust_print_pem writes the certificates of the keystores, or of the truststores. False: one has
 * none of its own, told. */
bool trust_print_pem(bool keystores, const Mortise__V1__Mesh *shown);

#endif
