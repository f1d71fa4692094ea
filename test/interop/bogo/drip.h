/* drip: a stream that hands on what the stream below it receives one byte a callback, so that what
 * stands above it meets every possible cut of its input. Writes pass through as they are. */
#ifndef MORTISE_TEST_INTEROP_BOGO_DRIP_H
#define MORTISE_TEST_INTEROP_BOGO_DRIP_H

#include "lib/net/stream.h"

/* drip_new takes `lower`, reading stopped, and returns an owned stream. */
struct stream *drip_new(struct stream *lower);

#endif
