/* clock gives time to everything that judges it, so that tests can drive it. */
#ifndef MORTISE_LIB_BASE_CLOCK_H
#define MORTISE_LIB_BASE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

/* clock is borrowed by its users and outlives them. mono_ms never goes back; wall_s is Unix time.
 */
struct clock {
    uint64_t (*mono_ms)(const struct clock *clock);
    int64_t (*wall_s)(const struct clock *clock);
};

/* clock_system is the kernel's CLOCK_MONOTONIC and CLOCK_REALTIME. */
extern const struct clock clock_system;

static inline uint64_t clock_mono_ms(const struct clock *clock)
{
    return clock->mono_ms(clock);
}

static inline int64_t clock_wall_s(const struct clock *clock)
{
    return clock->wall_s(clock);
}

/* clock_wall_us is microseconds since 1970 for log lines and measurements only. */
int64_t clock_wall_us(void);
uint64_t clock_mono_us(void);

/* clock_format_utc writes "2026-11-23T01:35:24Z" (21 bytes with NUL) for `unix_s`. */
void clock_format_utc(int64_t unix_s, char out[21]);
/* clock_parse_utc reads just that form (RFC 3339 with "Z", whole seconds, year 1 to 9999). */
bool clock_parse_utc(const char *text, int64_t *out_unix_s);

#endif
