#include "control/questions.h"

void questions_init(struct questions *questions)
{
    list_init(&questions->list);
}

static size_t questions_of(const struct questions *questions, const void *target)
{
    size_t num = 0;

    for (struct list *pos = questions->list.next; pos != &questions->list; pos = pos->next)
        num += LIST_ITEM(pos, struct question, link)->target == target;
    return num;
}

err_t questions_add(struct questions *questions, struct question *question, const void *target,
                    uint64_t until_ms)
{
    if (questions->num >= QUESTIONS_OPEN_MAX)
        return FAIL(LIMIT, QUESTIONS_OPEN_MAX);
    if (questions_of(questions, target) >= QUESTIONS_EACH_MAX)
        return FAIL(LIMIT, QUESTIONS_EACH_MAX);
    question->id = ++questions->last_id;
    question->target = target;
    question->until_ms = until_ms;
    list_add_tail(&questions->list, &question->link);
    questions->num++;
    return OK;
}

void questions_cancel(struct questions *questions, struct question *question)
{
    list_del(&question->link);
    questions->num--;
}

static void questions_finish(struct questions *questions, struct question *question,
                             enum questions_end end)
{
    questions_cancel(questions, question);
    question->on_end(question, end);
}

static struct question *questions_find(const struct questions *questions, const void *target,
                                       uint64_t id)
{
    for (struct list *pos = questions->list.next; pos != &questions->list; pos = pos->next) {
        struct question *question = LIST_ITEM(pos, struct question, link);

        if (question->id == id && question->target == target)
            return question;
    }
    return NULL;
}

bool questions_take(struct questions *questions, const void *target,
                    const Mortise__V1__Answer *answer)
{
    struct question *question = questions_find(questions, target, answer->id);
    uint64_t id = answer->id;

    if (question == NULL) {
        questions->num_ignored++;
        return false;
    }
    question->parts++;
    question->described += answer->n_connections;
    if (question->described > question->limit ||
        (answer->more && question->parts >= QUESTIONS_PARTS_MAX)) {
        questions_finish(questions, question, QUESTIONS_GARBAGE);
        return true;
    }
    question->on_part(question, answer);
    /* Whoever asked may have lost interest in it. */
    if (!answer->more && questions_find(questions, target, id) == question)
        questions_finish(questions, question, QUESTIONS_ANSWERED);
    return true;
}

/* The first one that `is` is true of. */
static struct question *
questions_first(const struct questions *questions,
                bool (*is)(const struct question *question, const void *arg), const void *arg)
{
    for (struct list *pos = questions->list.next; pos != &questions->list; pos = pos->next) {
        struct question *question = LIST_ITEM(pos, struct question, link);

        if (is(question, arg))
            return question;
    }
    return NULL;
}

static bool questions_is_late(const struct question *question, const void *arg)
{
    return *(const uint64_t *)arg >= question->until_ms;
}

static bool questions_is_to(const struct question *question, const void *arg)
{
    return question->target == arg;
}

void questions_expire(struct questions *questions, uint64_t now_ms)
{
    struct question *question;

    while ((question = questions_first(questions, questions_is_late, &now_ms)) != NULL)
        questions_finish(questions, question, QUESTIONS_TIMEOUT);
}

void questions_leave(struct questions *questions, const void *target)
{
    struct question *question;

    while ((question = questions_first(questions, questions_is_to, target)) != NULL)
        questions_finish(questions, question, QUESTIONS_LEFT);
}
