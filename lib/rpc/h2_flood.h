/* h2_flood counts what a peer may send for nothing: frames that cost us work or memory and carry
 * none of its own. Pure. Private to lib/rpc. Source: CVE-2023-44487, CVE-2019-9512 to -9518,
 * CVE-2025-8671. */
#ifndef MORTISE_LIB_RPC_H2_FLOOD_H
#define MORTISE_LIB_RPC_H2_FLOOD_H

#include <stdbool.h>
#include <stdint.h>

#include <nghttp2/nghttp2.h>

/* PRIORITY, WINDOW_UPDATE, empty DATA and their like, a second: beyond any need. */
#define H2_FLOOD_SMALL_PER_S 1000
#define H2_FLOOD_WINDOW_CREDIT 4 /* WINDOW_UPDATE that go with one frame of ours */
/* Answers of many streams leave in one write: their WINDOW_UPDATE come back together. */
#define H2_FLOOD_WINDOW_CREDIT_MAX 2048

/* Events in a window of a second. */
struct h2_flood_rate {
    uint64_t since_ms;
    uint32_t num;
};

/* Zeroed memory with the two limits set. */
struct h2_flood {
    uint32_t resets_per_s;
    uint32_t pings_per_s;
    struct h2_flood_rate resets, pings, small;
    bool ping_credit; /* HEADERS or DATA went out since the peer's last PING */
    unsigned window_credit;
};

/* h2_flood_received tells whether this frame is one too many. `live`: its stream is not over;
 * `asked`: a PING of ours waits for its answer. */
bool h2_flood_received(struct h2_flood *flood, uint64_t now_ms, const nghttp2_frame_hd *hd,
                       bool live, bool asked);
/* h2_flood_reset counts a stream that we had to reset for the peer's fault. */
bool h2_flood_reset(struct h2_flood *flood, uint64_t now_ms);
/* h2_flood_answered: HEADERS or DATA of ours went out. */
void h2_flood_answered(struct h2_flood *flood);

#endif
