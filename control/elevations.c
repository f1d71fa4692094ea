#include "control/elevations.h"

#include <stdio.h>
#include <string.h>

static bool elevation_is_on(const struct elevations *elevations, const struct elevation *elevation)
{
    return elevation->id != 0 && clock_mono_ms(elevations->clock) < elevation->ends_ms;
}

/* Its place among the items; ELEVATIONS_MAX: none. */
static size_t elevations_find(const struct elevations *elevations, const char *subject)
{
    size_t i = 0;

    while (i < ELEVATIONS_MAX && !(elevation_is_on(elevations, &elevations->items[i]) &&
                                   strcmp(elevations->items[i].subject, subject) == 0))
        i++;
    return i;
}

static uint64_t elevations_after(const struct elevations *elevations, uint32_t seconds)
{
    return clock_mono_ms(elevations->clock) + (uint64_t)seconds * 1000;
}

err_t elevations_ask(struct elevations *elevations, const char *subject, const char *reason,
                     uint32_t for_s, uint64_t stamp, const struct elevation **out)
{
    size_t at = elevations_find(elevations, subject);
    struct elevation *elevation;

    if (at == ELEVATIONS_MAX) {
        at = 0;
        while (at < ELEVATIONS_MAX && elevation_is_on(elevations, &elevations->items[at]))
            at++;
    }
    if (at == ELEVATIONS_MAX)
        return FAIL(LIMIT, ELEVATIONS_MAX);
    elevation = &elevations->items[at];
    *elevation = (struct elevation){
        .id = ++elevations->last,
        .stamp = stamp,
        .for_s = for_s,
        .pending = elevations->approval,
        .ends_ms = elevations_after(elevations, elevations->approval ? ELEVATION_PENDING_S : for_s),
    };
    (void)snprintf(elevation->subject, sizeof(elevation->subject), "%s", subject);
    (void)snprintf(elevation->reason, sizeof(elevation->reason), "%s", reason);
    *out = elevation;
    return OK;
}

err_t elevations_approve(struct elevations *elevations, uint64_t id, const char *by,
                         const struct elevation **out)
{
    for (size_t i = 0; i < ELEVATIONS_MAX; i++) {
        struct elevation *elevation = &elevations->items[i];

        if (elevation->id != id || !elevation_is_on(elevations, elevation))
            continue;
        if (!elevation->pending)
            return FAIL(EXISTS, 0);
        if (strcmp(elevation->subject, by) == 0)
            return FAIL(PERMISSION, 0);
        elevation->pending = false;
        elevation->ends_ms = elevations_after(elevations, elevation->for_s);
        (void)snprintf(elevation->approved_by, sizeof(elevation->approved_by), "%s", by);
        *out = elevation;
        return OK;
    }
    return FAIL(NOT_FOUND, 0);
}

bool elevations_end(struct elevations *elevations, const char *subject)
{
    size_t at = elevations_find(elevations, subject);

    if (at == ELEVATIONS_MAX)
        return false;
    elevations->items[at] = (struct elevation){.id = 0};
    return true;
}

const struct elevation *elevations_of(const struct elevations *elevations, const char *subject)
{
    size_t at = elevations_find(elevations, subject);

    return at < ELEVATIONS_MAX ? &elevations->items[at] : NULL;
}

const struct elevation *elevations_next(const struct elevations *elevations, size_t *at)
{
    while (*at < ELEVATIONS_MAX) {
        const struct elevation *elevation = &elevations->items[(*at)++];

        if (elevation_is_on(elevations, elevation))
            return elevation;
    }
    return NULL;
}

uint32_t elevation_left_s(const struct elevations *elevations, const struct elevation *elevation)
{
    uint64_t now_ms = clock_mono_ms(elevations->clock);

    return now_ms < elevation->ends_ms ? (uint32_t)((elevation->ends_ms - now_ms + 999) / 1000) : 0;
}
