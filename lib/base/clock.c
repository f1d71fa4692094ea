#include "lib/base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lib/base/err.h"

#define CLOCK_YEAR_0 (-62167219200) /* 0000-01-01T00:00:00Z */
#define CLOCK_YEAR_9999_END                                              \
    253402300799 /* the last second that four digits (and X.509) can say \
                  */

static struct timespec clock_read(clockid_t id)
{
    struct timespec now;

    CHECK(clock_gettime(id, &now) == 0);
    return now;
}

static uint64_t clock_system_mono_ms(const struct clock *clock)
{
    (void)clock;
    return clock_mono_us() / 1000;
}

static int64_t clock_system_wall_s(const struct clock *clock)
{
    (void)clock;
    return clock_read(CLOCK_REALTIME).tv_sec;
}

const struct clock clock_system = {
    .mono_ms = clock_system_mono_ms,
    .wall_s = clock_system_wall_s,
};

int64_t clock_wall_us(void)
{
    struct timespec now = clock_read(CLOCK_REALTIME);

    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

uint64_t clock_mono_us(void)
{
    struct timespec now = clock_read(CLOCK_MONOTONIC);

    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

void clock_format_utc(int64_t unix_s, char out[21])
{
    time_t time = unix_s;
    struct tm tm;

    if (unix_s < CLOCK_YEAR_0)
        time = CLOCK_YEAR_0;
    if (unix_s > CLOCK_YEAR_9999_END)
        time = CLOCK_YEAR_9999_END;
    CHECK(gmtime_r(&time, &tm) != NULL);
    CHECK(tm.tm_year >= -1900 && tm.tm_year <= 8099);
    /* The masks are for the compiler, which cannot know the ranges. */
    (void)snprintf(out, 21, "%04u-%02u-%02uT%02u:%02u:%02uZ", (unsigned)(tm.tm_year + 1900) % 10000,
                   (unsigned)(tm.tm_mon + 1) % 100, (unsigned)tm.tm_mday % 100,
                   (unsigned)tm.tm_hour % 100, (unsigned)tm.tm_min % 100,
                   (unsigned)tm.tm_sec % 100);
}

bool clock_parse_utc(const char *text, int64_t *out_unix_s)
{
    struct tm tm = {.tm_sec = 0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    char again[21];

    if (end == NULL || *end != '\0')
        return false;
    *out_unix_s = timegm(&tm);
    /* The library takes February 30th, and fewer digits. */
    clock_format_utc(*out_unix_s, again);
    return strcmp(again, text) == 0;
}
