/* survey goes over the live connections of all workers, counts those that are asked about and
 * describes the first of them. With a candidate these are the ones that would end if that snapshot
 * came into force: they are judged by what would judge them then (authz_live), and stay. The walk
 * is live.h's: in its turns, traffic in between. */
#ifndef MORTISE_PROXY_SURVEY_H
#define MORTISE_PROXY_SURVEY_H

#include "lib/net/mailbox.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proxy/snapshot.h"

#define SURVEY_DESCRIBED_MAX 1000

struct conn;
struct survey;
struct surveys;
struct worker_shared;

enum survey_end { SURVEY_POLICY, SURVEY_TRUST, SURVEY_REVOKED, SURVEY_NUM_ENDS };
enum close_reason survey_end_reason(enum survey_end end);
const char *survey_end_name(enum survey_end end); /* as in the access log */

struct survey_wish {
    const char *link;           /* "": any; copied, as is peer */
    const char *peer;           /* SPIFFE ID or serial number; "": any */
    unsigned limit;             /* described at most; SURVEY_DESCRIBED_MAX is the most */
    struct snapshot *candidate; /* NULL: all that match, else those that it would end; shared */
};

struct survey_result {
    uint64_t total;
    uint64_t ends[SURVEY_NUM_ENDS]; /* with a candidate */
    Mortise__V1__LiveConnection **connections;
    size_t num_connections;
};
typedef void (*survey_cb)(void *arg, const struct survey_result *result);

/* surveys_new makes what surveys of these workers need. Main thread, as all here but for
 * survey_see and survey_part_done. surveys_free is called when no worker runs any more. */
struct surveys *surveys_new(struct loop *loop, const struct worker_shared *workers);
void surveys_free(struct surveys *surveys);

/* survey_start begins one; cb comes once from the loop, the result is borrowed for it.
 * survey_cancel: it does not come. */
struct survey *survey_start(struct surveys *surveys, const struct survey_wish *wish, survey_cb cb,
                            void *arg);
void survey_cancel(struct survey *survey);

/* What one worker has to do for a survey; live.c has a row of them. */
struct survey_part;
struct survey_part **survey_part_next(struct survey_part *part);
/* survey_see looks at an open connection; survey_part_done gives the part back: it was done, or
 * the worker ends. */
void survey_see(struct survey_part *part, const struct conn *conn);
void survey_part_done(struct survey_part *part);

#endif
