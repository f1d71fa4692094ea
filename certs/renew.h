/* renew says when a certificate is to be renewed and when it is too late. Pure. */
#ifndef MORTISE_CERTS_RENEW_H
#define MORTISE_CERTS_RENEW_H

#include <stdint.h>

/* renew_at: half of the certificate's life after not_before, plus or minus 10 % of that life chosen
 * by `random`; never after not_after - 60 s, never before now_s. Unix seconds. */
int64_t renew_at(int64_t not_before, int64_t not_after, int64_t now_s, uint32_t random);

/* renew_planned is the time that the control plane has planned, or renew_at when that is none to
 * keep to: not within 30 % and 70 % of the life (0: there is none), past, or within the last
 * minute. */
int64_t renew_planned(int64_t planned, int64_t not_before, int64_t not_after, int64_t now_s,
                      uint32_t random);

/* renew_alarm: of the time that was left when the renewal was due at the latest (60 % of the life),
 * how much is gone, in steps: 0, 50, 75, 90, or 100 (it has expired). 24 hours of life: 19.2, 21.6,
 * 23 and 24 hours. */
unsigned renew_alarm(int64_t not_before, int64_t not_after, int64_t now_s);

#endif
