/* successors knows which certificates have been renewed, and for which key. Who was away until his
 * certificate expired may come back with it only while nothing has followed it: a key that leaked
 * long ago and was replaced since opens no door. The same key may ask again, because an answer may
 * have been lost. Pure. */
#ifndef MORTISE_CONTROL_SUCCESSORS_H
#define MORTISE_CONTROL_SUCCESSORS_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/map.h"

/* Zeroed memory knows none. */
struct successors {
    struct map by_serial; /* of the certificate that was renewed */
};
void successors_fini(struct successors *successors);

/* successors_note: at that time (Unix seconds) the certificate with `serial` was renewed for that
 * key; of several the latest counts. */
void successors_note(struct successors *successors, const char *serial,
                     const uint8_t key_sha256[32], int64_t at_s);
/* successors_allow: nothing has followed that certificate, or just one of that key. */
bool successors_allow(const struct successors *successors, const char *serial,
                      const uint8_t key_sha256[32]);
/* successors_forget: it expired so long ago that nobody asks any more. */
void successors_forget(struct successors *successors, const char *serial);

#endif
