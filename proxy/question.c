#include "proxy/question.h"

#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"

#define QUESTION_PEER_MAX 4096 /* a SPIFFE ID has at most 2,048 */

struct question {
    struct questions *questions;
    struct survey *survey; /* one of the two; both NULL: free */
    struct probe *probe;
    uint64_t id;
    bool judges; /* it has a candidate */
};

struct questions {
    struct questions_params params;
    struct question open[QUESTIONS_MAX];
};

/* ---- sending ---- */

static size_t question_size(const Mortise__V1__LiveConnection *connection)
{
    return protobuf_c_message_get_packed_size(&connection->base) + 8; /* tag and length */
}

void question_parts(const Mortise__V1__Answer *answer,
                    void (*send)(void *arg, const Mortise__V1__Answer *part), void *arg)
{
    Mortise__V1__Answer last = *answer;
    size_t from = 0, size = 0, sum = 0;

    for (size_t i = 0; i < answer->n_connections; i++) {
        size_t own = question_size(answer->connections[i]);

        if (sum + own > QUESTION_ANSWER_MAX || own > QUESTION_PART_MAX) {
            last.n_connections = i; /* the rest is counted */
            break;
        }
        if (size + own > QUESTION_PART_MAX) {
            Mortise__V1__Answer part = MORTISE__V1__ANSWER__INIT;

            part.id = answer->id;
            part.more = true;
            part.connections = answer->connections + from;
            part.n_connections = i - from;
            send(arg, &part);
            from = i;
            size = 0;
        }
        size += own;
        sum += own;
    }
    last.connections = answer->connections + from;
    last.n_connections -= from;
    send(arg, &last);
}

static void question_answer(const struct question *question, const struct survey_result *result)
{
    const struct questions_params *params = &question->questions->params;
    Mortise__V1__Answer answer = MORTISE__V1__ANSWER__INIT;
    Mortise__V1__ReasonCount counts[SURVEY_NUM_ENDS], *list[SURVEY_NUM_ENDS];
    size_t num = 0;

    answer.id = question->id;
    answer.total = result->total;
    answer.connections = result->connections;
    answer.n_connections = result->num_connections;
    for (unsigned i = 0; i < SURVEY_NUM_ENDS && question->judges; i++) {
        if (result->ends[i] == 0)
            continue;
        mortise__v1__reason_count__init(&counts[num]);
        counts[num].reason = (char *)(uintptr_t)survey_end_name((enum survey_end)i); /* read only */
        counts[num].number = result->ends[i];
        list[num] = &counts[num];
        num++;
    }
    answer.would_end = list;
    answer.n_would_end = num;
    question_parts(&answer, params->send, params->arg);
}

static void question_refuse(const struct questions_params *params, uint64_t id,
                            const struct faults *faults)
{
    Mortise__V1__Answer answer = MORTISE__V1__ANSWER__INIT;
    Mortise__V1__ErrorDetail refused = MORTISE__V1__ERROR_DETAIL__INIT;
    Mortise__V1__FieldFault fault[FAULTS_MAX], *list[FAULTS_MAX];
    char code[] = "config_invalid";

    refused.code = code;
    refused.faults = list;
    refused.n_faults = faults->num;
    for (size_t i = 0; i < faults->num; i++) {
        mortise__v1__field_fault__init(&fault[i]);
        fault[i].path = faults->items[i].path;
        fault[i].message = faults->items[i].message;
        list[i] = &fault[i];
    }
    answer.id = id;
    answer.refused = &refused;
    params->send(params->arg, &answer);
}

/* ---- asking ---- */

static void question_on_result(void *arg, const struct survey_result *result)
{
    struct question *question = arg;

    question->survey = NULL;
    question_answer(question, result);
}

static void question_on_probe(void *arg, const Mortise__V1__ProbeAnswer *probed)
{
    struct question *question = arg;
    const struct questions_params *params = &question->questions->params;
    Mortise__V1__Answer answer = MORTISE__V1__ANSWER__INIT;

    question->probe = NULL;
    answer.id = question->id;
    answer.probe = (Mortise__V1__ProbeAnswer *)(uintptr_t)probed; /* read only */
    params->send_failures(params->arg);
    params->send(params->arg, &answer);
}

static void question_probe(struct question *open, const Mortise__V1__Question *question)
{
    const struct questions_params *params = &open->questions->params;

    open->id = question->id;
    open->probe = probe_start(params->probes, params->current(params->arg), question->probe,
                              question_on_probe, open);
}

static struct question *questions_find_free(struct questions *questions)
{
    for (size_t i = 0; i < QUESTIONS_MAX; i++) {
        if (questions->open[i].survey == NULL && questions->open[i].probe == NULL)
            return &questions->open[i];
    }
    return NULL;
}

void questions_take(struct questions *questions, const Mortise__V1__Question *question)
{
    struct question *open = questions_find_free(questions);
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    struct survey_wish wish = {
        .link = question->link, .peer = question->peer, .limit = question->limit};

    if (open == NULL || question->id == 0 || strlen(question->link) > QUESTION_PEER_MAX ||
        strlen(question->peer) > QUESTION_PEER_MAX ||
        (question->probe != NULL && strlen(question->probe->link) > QUESTION_PEER_MAX)) {
        log_limited(LOG_WARN, "question", "not_answered",
                    (const struct log_field[]){LOG_UINT("id", question->id)}, 1);
        return;
    }
    open->questions = questions;
    if (question->probe != NULL) {
        question_probe(open, question);
        return;
    }
    if (question->candidate != NULL &&
        !err_is_ok(questions->params.candidate(questions->params.arg, question->candidate, &faults,
                                               &wish.candidate))) {
        question_refuse(&questions->params, question->id, &faults);
        return;
    }
    open->id = question->id;
    open->judges = wish.candidate != NULL;
    open->survey = survey_start(questions->params.surveys, &wish, question_on_result, open);
    if (wish.candidate != NULL)
        snapshot_unref(wish.candidate);
}

struct questions *questions_new(const struct questions_params *params)
{
    struct questions *questions = mem_zalloc(sizeof(*questions));

    questions->params = *params;
    return questions;
}

void questions_free(struct questions *questions)
{
    for (size_t i = 0; i < QUESTIONS_MAX; i++) {
        if (questions->open[i].survey != NULL)
            survey_cancel(questions->open[i].survey);
        if (questions->open[i].probe != NULL)
            probe_cancel(questions->open[i].probe);
    }
    mem_free(questions);
}
