/* Whose answer belongs to what was asked. Without it: a hostile sidecar answers for another, holds
 * an operator's call for ever, or fills the control plane's memory with answers to nothing.
 *
 * Drives: F6 */
#include "control/questions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

struct asked {
    struct question question;
    unsigned parts, ends;
    enum questions_end end;
    struct questions *cancel_in; /* within on_part */
};

static void on_part(struct question *question, const Mortise__V1__Answer *answer)
{
    struct asked *asked = CONTAINER_OF(question, struct asked, question);

    (void)answer;
    assert_int_equal(asked->ends, 0);
    asked->parts++;
    if (asked->cancel_in != NULL)
        questions_cancel(asked->cancel_in, question);
}

static void on_end(struct question *question, enum questions_end end)
{
    struct asked *asked = CONTAINER_OF(question, struct asked, question);

    asked->ends++;
    asked->end = end;
}

static struct asked nobody(size_t limit)
{
    return (struct asked){.question = {.limit = limit, .on_part = on_part, .on_end = on_end}};
}

static Mortise__V1__Answer answer_of(uint64_t id, bool more, size_t num)
{
    Mortise__V1__Answer answer = MORTISE__V1__ANSWER__INIT;

    answer.id = id;
    answer.more = more;
    answer.n_connections = num; /* the list itself is not looked at */
    return answer;
}

static bool take(struct questions *questions, const void *target, uint64_t id, bool more,
                 size_t num)
{
    Mortise__V1__Answer answer = answer_of(id, more, num);

    return questions_take(questions, target, &answer);
}

static int setup(void **state)
{
    struct questions *questions = mem_zalloc(sizeof(*questions));

    questions_init(questions);
    *state = questions;
    return 0;
}

static int teardown(void **state)
{
    mem_free(*state);
    return 0;
}

static const char one[] = "one", two[] = "two"; /* sidecars */

static void test_an_answer_in_parts_goes_to_who_asked(void **state)
{
    struct questions *questions = *state;
    struct asked a = nobody(10), b = nobody(10);

    assert_true(err_is_ok(questions_add(questions, &a.question, one, 100)));
    assert_true(err_is_ok(questions_add(questions, &b.question, two, 100)));
    assert_int_not_equal(a.question.id, b.question.id);
    assert_int_not_equal(a.question.id, 0);
    assert_true(take(questions, one, a.question.id, true, 5));
    assert_int_equal(a.ends, 0);
    assert_true(take(questions, one, a.question.id, false, 5));
    assert_int_equal(a.parts, 2);
    assert_int_equal(a.ends, 1);
    assert_int_equal(a.end, QUESTIONS_ANSWERED);
    assert_int_equal(b.parts, 0);
    assert_int_equal(questions->num, 1);
    questions_cancel(questions, &b.question);
    assert_int_equal(questions->num, 0);
}

static void test_what_is_no_answer_is_ignored(void **state)
{
    struct questions *questions = *state;
    struct asked a = nobody(10);
    uint64_t id;

    assert_false(take(questions, one, 0, false, 0));
    assert_false(take(questions, one, 1, false, 0)); /* nothing was asked yet */
    assert_true(err_is_ok(questions_add(questions, &a.question, one, 100)));
    id = a.question.id;
    assert_false(take(questions, two, id, false, 0)); /* another's */
    assert_false(take(questions, one, id + 1, false, 0));
    assert_false(take(questions, one, UINT64_MAX, false, 0));
    assert_int_equal(a.parts, 0);
    assert_true(take(questions, one, id, false, 0));
    assert_false(take(questions, one, id, false, 0)); /* twice */
    assert_int_equal(a.ends, 1);
    assert_int_equal(questions->num_ignored, 6);
}

static void test_a_late_answer_is_none(void **state)
{
    struct questions *questions = *state;
    struct asked a = nobody(10), b = nobody(10);

    assert_true(err_is_ok(questions_add(questions, &a.question, one, 100)));
    assert_true(err_is_ok(questions_add(questions, &b.question, one, 200)));
    questions_expire(questions, 99);
    assert_int_equal(a.ends, 0);
    questions_expire(questions, 100);
    assert_int_equal(a.ends, 1);
    assert_int_equal(a.end, QUESTIONS_TIMEOUT);
    assert_int_equal(b.ends, 0);
    assert_false(take(questions, one, a.question.id, false, 0));
    questions_cancel(questions, &b.question);
}

static void test_more_than_was_asked_for_is_garbage(void **state)
{
    struct questions *questions = *state;
    struct asked a = nobody(10), b = nobody(1000);

    assert_true(err_is_ok(questions_add(questions, &a.question, one, 100)));
    assert_true(take(questions, one, a.question.id, true, 10));
    assert_true(take(questions, one, a.question.id, true, 1));
    assert_int_equal(a.parts, 1); /* it is not handed on */
    assert_int_equal(a.end, QUESTIONS_GARBAGE);
    /* Empty parts without end. */
    assert_true(err_is_ok(questions_add(questions, &b.question, one, 100)));
    for (unsigned i = 0; i < QUESTIONS_PARTS_MAX; i++)
        assert_true(take(questions, one, b.question.id, true, 0));
    assert_int_equal(b.ends, 1);
    assert_int_equal(b.end, QUESTIONS_GARBAGE);
    assert_int_equal(questions->num, 0);
}

static void test_who_leaves_answers_no_more(void **state)
{
    struct questions *questions = *state;
    struct asked a = nobody(10), b = nobody(10), c = nobody(10);

    assert_true(err_is_ok(questions_add(questions, &a.question, one, 100)));
    assert_true(err_is_ok(questions_add(questions, &b.question, two, 100)));
    assert_true(err_is_ok(questions_add(questions, &c.question, one, 100)));
    questions_leave(questions, one);
    assert_int_equal(a.end, QUESTIONS_LEFT);
    assert_int_equal(c.end, QUESTIONS_LEFT);
    assert_int_equal(b.ends, 0);
    assert_false(take(questions, one, a.question.id, false, 0));
    questions_cancel(questions, &b.question);
}

static void test_no_more_are_open_than_may_be(void **state)
{
    struct questions *questions = *state;
    struct asked *asked = mem_array(QUESTIONS_OPEN_MAX + 1, sizeof(*asked));
    const char *targets = mem_array(QUESTIONS_OPEN_MAX + 1, 1);
    size_t num = 0;

    for (; num < QUESTIONS_EACH_MAX; num++) {
        asked[num] = nobody(1);
        assert_true(err_is_ok(questions_add(questions, &asked[num].question, targets, 100)));
    }
    asked[num] = nobody(1);
    assert_true(err_is(questions_add(questions, &asked[num].question, targets, 100), E_LIMIT));
    for (; num < QUESTIONS_OPEN_MAX; num++) {
        asked[num] = nobody(1);
        assert_true(err_is_ok(questions_add(questions, &asked[num].question, targets + num, 100)));
    }
    asked[num] = nobody(1);
    assert_true(
        err_is(questions_add(questions, &asked[num].question, targets + num, 100), E_LIMIT));
    questions_expire(questions, 100);
    assert_int_equal(questions->num, 0);
    for (size_t i = 0; i < num; i++)
        assert_int_equal(asked[i].ends, 1);
    mem_free((void *)(uintptr_t)targets);
    mem_free(asked);
}

static void test_who_asked_may_lose_interest_in_the_middle(void **state)
{
    struct questions *questions = *state;
    struct asked a = nobody(10);

    a.cancel_in = questions;
    assert_true(err_is_ok(questions_add(questions, &a.question, one, 100)));
    assert_true(take(questions, one, a.question.id, false, 1));
    assert_int_equal(a.parts, 1);
    assert_int_equal(a.ends, 0); /* he was told that none comes */
    assert_int_equal(questions->num, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_an_answer_in_parts_goes_to_who_asked),
        TEST(test_what_is_no_answer_is_ignored),
        TEST(test_a_late_answer_is_none),
        TEST(test_more_than_was_asked_for_is_garbage),
        TEST(test_who_leaves_answers_no_more),
        TEST(test_no_more_are_open_than_may_be),
        TEST(test_who_asked_may_lose_interest_in_the_middle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
