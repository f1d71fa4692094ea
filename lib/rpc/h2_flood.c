#include "lib/rpc/h2_flood.h"

#define H2_FLOOD_WINDOW_MS 1000

static bool h2_flood_count(struct h2_flood_rate *rate, uint64_t now_ms, uint32_t limit)
{
    if (now_ms - rate->since_ms >= H2_FLOOD_WINDOW_MS) {
        rate->since_ms = now_ms;
        rate->num = 0;
    }
    return ++rate->num > limit;
}

static bool h2_flood_small(struct h2_flood *flood, uint64_t now_ms)
{
    return h2_flood_count(&flood->small, now_ms, H2_FLOOD_SMALL_PER_S);
}

bool h2_flood_reset(struct h2_flood *flood, uint64_t now_ms)
{
    return h2_flood_count(&flood->resets, now_ms, flood->resets_per_s);
}

void h2_flood_answered(struct h2_flood *flood)
{
    flood->ping_credit = true;
    flood->window_credit += H2_FLOOD_WINDOW_CREDIT;
    if (flood->window_credit > H2_FLOOD_WINDOW_CREDIT_MAX)
        flood->window_credit = H2_FLOOD_WINDOW_CREDIT_MAX;
}

/* gRPC peers measure the path with a PING for what they receive: one for each answer of ours is
 * free, as in gRPC's own "ping strikes". An answer to a PING of ours is free as well. */
static bool h2_flood_ping(struct h2_flood *flood, uint64_t now_ms, bool ack, bool asked)
{
    if (ack && asked)
        return false;
    if (!ack && flood->ping_credit) {
        flood->ping_credit = false;
        return false;
    }
    return h2_flood_count(&flood->pings, now_ms, flood->pings_per_s);
}

bool h2_flood_received(struct h2_flood *flood, uint64_t now_ms, const nghttp2_frame_hd *hd,
                       bool live, bool asked)
{
    bool ack = (hd->flags & NGHTTP2_FLAG_ACK) != 0;

    switch (hd->type) {
    case NGHTTP2_HEADERS:
        return false; /* a request; its reset is counted */
    case NGHTTP2_DATA:
        return hd->length == 0 && (hd->flags & NGHTTP2_FLAG_END_STREAM) == 0 &&
               h2_flood_small(flood, now_ms);
    case NGHTTP2_RST_STREAM:
        /* Of a stream that is over it ended no work of ours: the two ends crossed. */
        return live ? h2_flood_reset(flood, now_ms) : h2_flood_small(flood, now_ms);
    case NGHTTP2_SETTINGS:
        return !ack && h2_flood_count(&flood->pings, now_ms, flood->pings_per_s);
    case NGHTTP2_PING:
        return h2_flood_ping(flood, now_ms, ack, asked);
    case NGHTTP2_WINDOW_UPDATE:
        if (flood->window_credit == 0)
            return h2_flood_small(flood, now_ms);
        flood->window_credit--;
        return false;
    default: /* PRIORITY, CONTINUATION (nghttp2 takes 8 a block); unknown ones do not come here */
        return h2_flood_small(flood, now_ms);
    }
}
