/* failures keeps what sidecars tell of connections that failed (FailedConnection): of each sidecar
 * the newest kinds, also when it has gone. A sidecar that tells too much, or nonsense, is not
 * heard; whoever floods sidecars cannot make it grow. Pure but for memory. Source: features F12. */
#ifndef MORTISE_CONTROL_FAILURES_H
#define MORTISE_CONTROL_FAILURES_H

#include "proto/mesh/why.pb-c.h"

#define FAILURES_SIDECARS_MAX \
    4096                      /* that have told of any; the one that is silent for longest goes */
#define FAILURES_EACH_MAX 128 /* kinds of one: as many as it keeps itself */
#define FAILURES_BYTES_MAX 65536 /* of one's kinds, as sent */
#define FAILURES_ONE_MAX 4096    /* bytes of a kind: honest ones have less than 2 KiB */
/* Kinds that a sidecar may tell of: so many at once, and so many a second. */
#define FAILURES_BURST 256
#define FAILURES_PER_S 32

struct failures;
struct failures *failures_new(void);
void failures_free(struct failures *failures);

/* Who tells; texts are copied. */
struct failures_from {
    const char *subsystem;
    const char *instance;
    int64_t ahead_ms; /* its clock is so far ahead of ours */
};
/* failures_take keeps what a sidecar tells at `now_ms` (Unix milliseconds), with times by our
 * clock. Returns how many of them were new kinds. */
size_t failures_take(struct failures *failures, const struct failures_from *from,
                     Mortise__V1__FailedConnection *const *list, size_t num, int64_t now_ms);
size_t failures_dropped(const struct failures *failures); /* not kept, ever */

/* failures_of gives those of a subsystem's sidecars on one side of a link, newest first, at most
 * `max`: of `direction`, and of `link` or (NULL) of none that was found. Borrowed until the next
 * failures_take. */
size_t failures_of(const struct failures *failures, const char *subsystem, const char *direction,
                   const char *link, size_t max, const Mortise__V1__FailedConnection **out);

#endif
