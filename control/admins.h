/* admins judges the certificates of administrators. They are of the mesh's own CA, and the control
 * plane is the only one that ever judges them: so what counts is its record of their issuance, and
 * the number that is in it. Raising that number cuts all of them off at once, whoever has them,
 * without another CA. One that has no record here was not issued here, whatever has signed it.
 * Source: features F5, reliability R46. */
#ifndef MORTISE_CONTROL_ADMINS_H
#define MORTISE_CONTROL_ADMINS_H

#include "certs/verify.h"
#include "control/vault.h"

struct admins;

/* admins_open loads the number. Errors: STORE_CORRUPT, KEK_UNAVAILABLE, IO. */
MUST_CHECK err_t admins_open(struct vault *vault, struct admins **out);
void admins_free(struct admins *admins);

/* The number that a certificate gets now. */
uint64_t admins_epoch(const struct admins *admins);

/* admins_rotate refuses every certificate that was issued until now, durably. Errors:
 * STORE_UNWRITABLE. */
MUST_CHECK err_t admins_rotate(struct admins *admins, int64_t now_s);

/* admins_accepts tells whether that certificate was issued here, to that administrator, since the
 * last rotation. */
bool admins_accepts(const struct admins *admins, const struct peer *peer);

#endif
