/* elevations are rights for a time: what nobody should do by a slip, or with a terminal that was
 * left open, is refused, whatever the role, until its administrator has said for how long and why.
 * An elevation adds nothing to a role; it ends by itself, by hand, and with the process, which is
 * all that remembers it: the record of it is in the audit log. With `approval` it begins when
 * another administrator says so. Pure. Source: reliability R49. */
#ifndef MORTISE_CONTROL_ELEVATIONS_H
#define MORTISE_CONTROL_ELEVATIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/clock.h"
#include "lib/base/err.h"

#define ELEVATION_MIN_S 10
#define ELEVATION_MAX_S 3600
#define ELEVATION_DEFAULT_S 600
#define ELEVATION_PENDING_S 3600 /* one that nobody approves is forgotten */
#define ELEVATION_REASON_MAX 256
#define ELEVATION_SUBJECT_MAX 512
#define ELEVATIONS_MAX 64 /* at once, of everybody */

struct elevation {
    uint64_t id; /* 0: the place is free */
    char subject[ELEVATION_SUBJECT_MAX + 1];
    char reason[ELEVATION_REASON_MAX + 1];
    char approved_by[ELEVATION_SUBJECT_MAX + 1]; /* "" without */
    uint64_t stamp; /* of the roles, when it was asked for (access.h) */
    uint32_t for_s;
    bool pending;     /* waits for approval */
    uint64_t ends_ms; /* of the monotonic clock: of its time, or of its waiting */
};

struct elevations {
    const struct clock *clock;
    bool approval;
    uint64_t last; /* id given out */
    struct elevation items[ELEVATIONS_MAX];
};

/* elevations_ask begins one, or has it wait for approval; one that the subject has or has asked for
 * is replaced. `stamp` is kept for whoever judges who approves. `*out` is borrowed until the next
 * call of any of these. Errors: LIMIT. */
MUST_CHECK err_t elevations_ask(struct elevations *elevations, const char *subject,
                                const char *reason, uint32_t for_s, uint64_t stamp,
                                const struct elevation **out);
/* elevations_approve begins it now, for the time that was asked for; that `by` is another person is
 * judged before (lineage.h). Errors: NOT_FOUND, EXISTS (it waits for nothing), PERMISSION (it is
 * his own). */
MUST_CHECK err_t elevations_approve(struct elevations *elevations, uint64_t id, const char *by,
                                    const struct elevation **out);
/* elevations_end takes away what the subject has or has asked for; false: nothing. */
bool elevations_end(struct elevations *elevations, const char *subject);
/* elevations_of is what the subject has or waits for; NULL: neither. elevations_next goes through
 * all that there are, in the order of their places: `*at` is 0 at first. */
const struct elevation *elevations_of(const struct elevations *elevations, const char *subject);
const struct elevation *elevations_next(const struct elevations *elevations, size_t *at);
/* Seconds until it ends by itself. */
uint32_t elevation_left_s(const struct elevations *elevations, const struct elevation *elevation);

#endif
