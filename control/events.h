/* events is what happened in the mesh lately: a ring of the newest ones, each with a number. Who
 * watches has a place in it and reads on from there; one that is too slow finds that the ring has
 * gone past him and is told how many he missed. So no reader, however many and slow, makes it
 * larger. Knows no loop. */
#ifndef MORTISE_CONTROL_EVENTS_H
#define MORTISE_CONTROL_EVENTS_H

#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/list.h"
#include "proto/mesh/operator.pb-c.h"

#define EVENTS_KEPT 4096
#define EVENTS_TEXT_MAX \
    512 /* bytes of each text; longer ones are cut, control characters escaped */

/* What happened. NULL and 0: does not apply. All borrowed. */
struct event {
    const char *kind; /* a constant: sidecar_joined */
    const char *subsystem;
    const char *instance;
    const char *id; /* of whom it is about, or who did it */
    const char *detail;
    const char *serial; /* of a certificate */
    uint64_t version;
    uint64_t number; /* of what is counted: connections */
};

/* Told that there is a new one; reads it by events_next. */
struct events_reader {
    struct list link;
    void (*fn)(struct events_reader *reader);
    uint64_t next; /* number of the event that it reads next */
};

struct events;
struct events *events_new(void);
void events_free(struct events *events);

/* events_add notes one that happens at `now_ms` (Unix milliseconds), and tells the readers, which
 * may leave, and add none. `events` may be NULL: nobody is interested. */
void events_add(struct events *events, const struct event *event, int64_t now_ms);

/* events_join adds a reader that begins with what comes, or with what is kept and not older than
 * `since_ms` (Unix milliseconds; 0: nothing). */
void events_join(struct events *events, struct events_reader *reader, int64_t since_ms);
void events_leave(struct events_reader *reader);
/* events_next returns the reader's next event, owned (pb_free), and moves it on; NULL: it has read
 * all. `*out_missed` is how many were lost to it before that one. */
MUST_CHECK Mortise__V1__Event *events_next(const struct events *events,
                                           struct events_reader *reader, uint64_t *out_missed);

#endif
