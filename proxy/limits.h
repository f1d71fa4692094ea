/* limits: how much of what peers can cause happens at once: connections, inbound handshakes,
 * inbound handshakes of one source. Shared by all workers; counts are relaxed atomics. R14. */
#ifndef MORTISE_PROXY_LIMITS_H
#define MORTISE_PROXY_LIMITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/net/addr.h"
#include "proxy/config.h"
#include "proxy/stats.h"

/* Sources are counted in buckets by a keyed hash of their address: bounded memory, and nobody can
 * choose whose bucket to share. */
#define LIMITS_SOURCES 4096

struct limits {
    atomic_uint connections;
    atomic_uint handshakes;
    atomic_uint sources[LIMITS_SOURCES];
    uint64_t seed[2];
};

struct limits *limits_new(void);
void limits_free(struct limits *limits);

/* limits_connection_begin counts one more connection, or says no. */
bool limits_connection_begin(struct limits *limits, const struct tunables *tunables);
void limits_connection_end(struct limits *limits);

/* limits_handshake_begin counts one more inbound handshake of `source`, or says which limit it met.
 * On success `*out_source` is to be given back to limits_handshake_end. */
bool limits_handshake_begin(struct limits *limits, const struct tunables *tunables,
                            const struct addr *source, uint16_t *out_source, enum shed *out_shed);
void limits_handshake_end(struct limits *limits, uint16_t source);

#endif
