/* renew says when a certificate is to be renewed and when it is too late. Pure. */
#ifndef MORTISE_CERTS_RENEW_H
#define MORTISE_CERTS_RENEW_H

#include <stdint.h>

/* renew_at: half of the certificate's life after not_before, plus or minus 10 % of that life chosen
 * by `random`; never after not_after - 60 s, never before now_s. Unix seconds. */
int64_t renew_at(int64_t not_before, int64_t not_after, int64_t now_s, uint32_t random);

#endif
