/* live: trust is a property of a live connection. When a snapshot comes into force, each worker
 * asks of each connection that it carries whether that one would let its peer in, and ends those
 * that no longer qualify: at once, or after the grace time of a revocation. Who only asks
 * (survey.h) has the same walk. Source: reliability R7, R8. */
#ifndef MORTISE_PROXY_LIVE_H
#define MORTISE_PROXY_LIVE_H

#include "proxy/conn.h"
#include "proxy/snapshot.h"
#include "proxy/survey.h"

/* All connections of a worker are asked in turns of at most so long, traffic in between. */
#define LIVE_TURN_US 1000

/* A worker's. Zeroed memory is none in force yet. */
struct live {
    struct worker *worker;
    uint64_t turn_us;            /* LIVE_TURN_US; 0: a turn is as short as can be */
    struct snapshot *now;        /* in force, as far as this worker has heard; NULL: none */
    struct survey_part *surveys; /* to be done, one after the other */
    bool walking;
    uint64_t round; /* counts what walks were begun for; a connection keeps that of its last look */
    uint64_t judge_from;                /* one with a lower number was not yet judged by `now` */
    uint64_t survey_from;               /* likewise: not yet seen for the first survey */
    unsigned asked, ended, given_grace; /* by the walk in hand */
    uint64_t began_us;
};

/* live_recheck takes a reference to `now` and begins, from the front if it was under way. On the
 * worker's thread. */
void live_recheck(struct live *live, struct snapshot *now);
/* live_survey has a part of a survey done; takes it. Together with a judgement that is under way it
 * is one walk. On the worker's thread. */
void live_survey(struct live *live, struct survey_part *part);
/* live_opened asks about one that has just become open: what came into force during its handshake.
 * False: it was closed. */
bool live_opened(struct live *live, struct conn *conn);
void live_fini(struct live *live);

#endif
