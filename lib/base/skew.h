/* skew compares the clocks of two programs that send each other messages: each says when it sent
 * one, and when it had the other's last one. Of the four times the difference follows, and half of
 * the round trip (without what the other took to answer) is how far it may be wrong. Where a clock
 * was set between, that looks like a long way, or like one that cannot be and is ignored. Pure; all
 * times are Unix milliseconds. Source: RFC 5905 section 8. */
#ifndef MORTISE_LIB_BASE_SKEW_H
#define MORTISE_LIB_BASE_SKEW_H

#include <stdbool.h>
#include <stdint.h>

/* Zeroed memory: nothing was heard yet. */
struct skew {
    int64_t heard_ms;    /* the other's time in its last message; 0: none yet */
    int64_t heard_at_ms; /* when that came, by our clock */
    bool known;
    int64_t ahead_ms; /* the other's clock is so far ahead of ours; negative: behind */
    int64_t error_ms; /* at most so far from the truth */
};

/* What a message says of time. */
struct skew_times {
    int64_t now_ms;      /* it was sent then, by its sender's clock */
    int64_t heard_ms;    /* now_ms of the last message that its sender had; 0: none yet */
    int64_t heard_at_ms; /* which came then, by its sender's clock */
};

/* skew_heard takes the times of a message that came at `now_ms`. Times that cannot be (before 1970,
 * after the year 9999) are ignored. */
void skew_heard(struct skew *skew, const struct skew_times *times, int64_t now_ms);
/* skew_times is what a message says that is sent at `now_ms`. */
struct skew_times skew_times(const struct skew *skew, int64_t now_ms);
/* skew_beyond: the clocks differ by more than `limit_ms` for certain. */
bool skew_beyond(const struct skew *skew, int64_t limit_ms);

#endif
