/* question answers what the control plane asks (proto/mesh/discovery.proto): about live connections
 * it makes the survey, with a candidate snapshot when it asks what a change would end, and sends
 * the answer in parts that a message holds; or it tries a link. */
#ifndef MORTISE_PROXY_QUESTION_H
#define MORTISE_PROXY_QUESTION_H

#include "lib/base/faults.h"
#include "proxy/probe.h"
#include "proxy/survey.h"

#define QUESTIONS_MAX 4                 /* at once; more are not answered */
#define QUESTION_PART_MAX (48 << 10)    /* bytes of a message; the control plane takes 64 KiB */
#define QUESTION_ANSWER_MAX (512 << 10) /* of all; what does not fit is counted */

struct questions_params {
    struct surveys *surveys;
    struct probes *probes;
    /* What is in force, borrowed; NULL: nothing yet. */
    struct snapshot *(*current)(void *arg);
    /* Sends the failures that are not told yet: what a trial has brought about goes before its
     * answer.
     */
    void (*send_failures)(void *arg);
    /* Makes what would come into force by a response, or adds the faults that it would be refused
     * for. */
    err_t (*candidate)(void *arg, const Mortise__V1__DiscoveryResponse *response,
                       struct faults *faults, struct snapshot **out);
    void (*send)(void *arg, const Mortise__V1__Answer *answer);
    void *arg;
};

struct questions;
struct questions *questions_new(const struct questions_params *params);
void questions_free(struct questions *questions);

/* questions_take answers, now or later. Borrows `question` for the call. */
void questions_take(struct questions *questions, const Mortise__V1__Question *question);

/* question_parts gives an answer's connections to `send` in parts of at most QUESTION_PART_MAX
 * bytes, QUESTION_ANSWER_MAX together; the last one is `answer` itself. Pure but for send. */
void question_parts(const Mortise__V1__Answer *answer,
                    void (*send)(void *arg, const Mortise__V1__Answer *part), void *arg);

#endif
