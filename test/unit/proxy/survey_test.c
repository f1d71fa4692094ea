/* Surveys of a worker's live connections: all are counted, once, whatever is judged meanwhile, in
 * turns; with a candidate just those that it would end, and none ends. Without it a dry run would
 * name others than the change then ends. The answer goes in parts that a message holds.
 *
 * Drives: F6, R8 */
#include "proxy/survey.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "proxy/question.h"
#include "proxy/worker.h"

#define NUM 4000 /* more than one turn has time for: it has none, so that no clock decides */

static const char *const ids[] = {"spiffe://mesh.test/ns/x/sa/a", "spiffe://mesh.test/ns/x/sa/b"};
static char any[] = "";

struct fixture {
    struct worker_shared shared;
    struct worker *worker;
    struct loop *loop; /* the main thread's */
    struct surveys *surveys;
    struct bundle bundle;
    struct peer peers[2];
    char *no_names[1];
    struct link links[2];
    struct snapshot before, after; /* `after`: the second link names another peer */
    struct link links_after[2];
    struct conn *conns;
    unsigned num_results;
    struct survey_result result; /* the last one's numbers */
    size_t described_revoked;
};

static void link_init(struct fixture *f, struct link *link, const char *name, size_t peer)
{
    *link = (struct link){
        .direction = DIRECTION_INBOUND,
        .name = name,
        .peers = {.spiffe_ids = &ids[peer], .num_spiffe_ids = 1},
        .bundle = &f->bundle,
    };
}

static void snapshot_init(struct snapshot *snapshot, struct link *links, uint64_t generation)
{
    refs_init(&snapshot->refs); /* ours: it is never the last */
    snapshot->generation = generation;
    snapshot->inbound = links;
    snapshot->num_inbound = 2;
    assert_true(err_is_ok(revoke_set_new(NULL, 0, &(struct faults){.num = 0}, &snapshot->revoked)));
}

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));

    f->shared.clock = &clock_system;
    f->shared.num_workers = 1;
    f->shared.workers = &f->worker;
    f->worker = worker_new(&f->shared, 0);
    f->worker->live_check.turn_us = 0;
    f->loop = loop_new(&clock_system);
    f->surveys = surveys_new(f->loop, &f->shared);
    f->bundle.trust_domain = any;
    for (size_t i = 0; i < 2; i++) {
        refs_init(&f->peers[i].refs);
        f->peers[i].spiffe_id = (char *)(uintptr_t)ids[i];
        f->peers[i].serial = any;
        f->peers[i].dns_names = f->no_names;
    }
    link_init(f, &f->links[0], "first", 0);
    link_init(f, &f->links[1], "second", 1);
    link_init(f, &f->links_after[0], "first", 0);
    link_init(f, &f->links_after[1], "second", 0);
    snapshot_init(&f->before, f->links, 1);
    snapshot_init(&f->after, f->links_after, 2);
    f->conns = mem_array(NUM, sizeof(*f->conns));
    for (size_t i = 0; i < NUM; i++) {
        f->conns[i] = (struct conn){
            .worker = f->worker,
            .snapshot = &f->before,
            .link = &f->links[i % 2],
            .peer = &f->peers[i % 2],
            .direction = DIRECTION_INBOUND,
            .state = CONN_OPEN,
        };
        list_add_tail(&f->worker->live, &f->conns[i].live);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    list_init(&f->worker->live); /* nothing of it can be closed */
    worker_run(f->worker);
    worker_free(f->worker);
    surveys_free(f->surveys);
    loop_free(f->loop);
    revoke_set_free(f->before.revoked);
    revoke_set_free(f->after.revoked);
    mem_free(f->conns);
    mem_free(f);
    return 0;
}

static void on_result(void *arg, const struct survey_result *result)
{
    struct fixture *f = arg;

    f->num_results++;
    f->result = *result;
    for (size_t i = 0; i < result->num_connections; i++)
        f->described_revoked += strcmp(result->connections[i]->reason, "policy") == 0;
}

static void pump(struct fixture *f)
{
    loop_run_once(f->worker->loop, false);
    loop_run_once(f->loop, false);
}

static void finish(struct fixture *f, unsigned num)
{
    while (f->num_results < num)
        pump(f);
}

static struct survey_wish wish(const char *link, const char *peer, unsigned limit,
                               struct snapshot *candidate)
{
    return (struct survey_wish){link, peer, limit, candidate};
}

static void start(struct fixture *f, struct survey_wish wanted)
{
    (void)survey_start(f->surveys, &wanted, on_result, f);
}

static void test_all_are_counted_and_the_first_described_in_turns(void **state)
{
    struct fixture *f = *state;
    unsigned turns = 0;

    start(f, wish("", "", 10, NULL));
    for (; f->num_results == 0; turns++)
        pump(f);
    assert_true(turns > 1); /* traffic has its turn */
    assert_int_equal(f->result.total, NUM);
    assert_int_equal(f->result.num_connections, 10);
    start(f, wish("second", "", 2000, NULL));
    start(f, wish("", ids[0], 0, NULL));
    finish(f, 2);
    assert_int_equal(f->result.total, NUM / 2);
    assert_int_equal(f->result.num_connections, SURVEY_DESCRIBED_MAX);
    finish(f, 3);
    assert_int_equal(f->result.total, NUM / 2);
    assert_int_equal(f->result.num_connections, 0);
    start(f, wish("third", "", 10, NULL));
    finish(f, 4);
    assert_int_equal(f->result.total, 0);
}

static void test_a_candidate_names_those_that_it_would_end_and_ends_none(void **state)
{
    struct fixture *f = *state;

    start(f, wish("", "", 5, &f->after));
    finish(f, 1);
    assert_int_equal(f->result.total, NUM / 2);
    assert_int_equal(f->result.ends[SURVEY_POLICY], NUM / 2);
    assert_int_equal(f->result.ends[SURVEY_TRUST] + f->result.ends[SURVEY_REVOKED], 0);
    assert_int_equal(f->described_revoked, 5);
    for (size_t i = 0; i < NUM; i++)
        assert_int_equal(f->conns[i].state, CONN_OPEN);
    start(f, wish("", "", 5, &f->before));
    finish(f, 2);
    assert_int_equal(f->result.total, 0);
}

/* Both are one walk: nobody is left out of either, nor counted twice. */
static void test_a_judgement_meanwhile_changes_no_number(void **state)
{
    struct fixture *f = *state;
    struct live *live = &f->worker->live_check;

    start(f, wish("", "", 0, NULL));
    while (!live->walking)
        loop_run_once(f->worker->loop, true);
    live_recheck(live, &f->before);
    loop_run_once(f->worker->loop, false);
    live_recheck(live, &f->before);
    start(f, wish("first", "", 0, NULL));
    finish(f, 1);
    assert_int_equal(f->result.total, NUM);
    for (size_t i = 0; i < NUM; i++)
        assert_true(f->conns[i].asked >= live->judge_from);
    finish(f, 2);
    assert_int_equal(f->result.total, NUM / 2);
}

static void test_one_that_begins_during_a_judgement_is_counted_once(void **state)
{
    struct fixture *f = *state;
    struct live *live = &f->worker->live_check;

    live_recheck(live, &f->before);
    assert_true(live->walking);
    start(f, wish("", "", 0, NULL));
    finish(f, 1);
    assert_int_equal(f->result.total, NUM);
    assert_false(live->walking);
}

static void test_a_cancelled_one_says_nothing(void **state)
{
    struct fixture *f = *state;
    struct survey_wish all = wish("", "", 100, &f->after);

    survey_cancel(survey_start(f->surveys, &all, on_result, f));
    start(f, wish("", "", 0, NULL));
    finish(f, 1);
    assert_int_equal(f->result.total, NUM);
    /* And one that is under way when the worker ends is released with it (a leak otherwise). */
    start(f, wish("", "", 100, &f->after));
    start(f, wish("", "", 100, &f->after));
    while (!f->worker->live_check.walking)
        loop_run_once(f->worker->loop, true);
    assert_int_equal(f->num_results, 1);
}

/* ---- parts ---- */

struct sent {
    size_t parts, connections, biggest, lasts;
};

static void on_part(void *arg, const Mortise__V1__Answer *part)
{
    struct sent *sent = arg;
    size_t size = protobuf_c_message_get_packed_size(&part->base);

    assert_int_equal(sent->lasts, 0);
    assert_int_equal(part->id, 7);
    sent->parts++;
    sent->connections += part->n_connections;
    sent->lasts += !part->more;
    assert_int_equal(part->total, part->more ? 0 : 5000);
    if (size > sent->biggest)
        sent->biggest = size;
}

static struct sent parts_of(size_t num, size_t name_len)
{
    Mortise__V1__Answer answer = MORTISE__V1__ANSWER__INIT;
    Mortise__V1__LiveConnection one = MORTISE__V1__LIVE_CONNECTION__INIT;
    struct sent sent = {.parts = 0};

    one.peer_id = mem_zalloc(name_len + 1);
    memset(one.peer_id, 'x', name_len);
    answer.id = 7;
    answer.total = 5000;
    answer.connections = mem_array(num, sizeof(*answer.connections));
    for (size_t i = 0; i < num; i++)
        answer.connections[i] = &one;
    answer.n_connections = num;
    question_parts(&answer, on_part, &sent);
    assert_int_equal(sent.lasts, 1);
    assert_true(sent.biggest < QUESTION_PART_MAX + 64);
    mem_free(answer.connections);
    mem_free(one.peer_id);
    return sent;
}

static void test_an_answer_goes_in_parts_that_a_message_holds(void **state)
{
    struct sent sent = parts_of(0, 0);

    (void)state;
    assert_int_equal(sent.parts, 1);
    sent = parts_of(10, 100);
    assert_int_equal(sent.parts, 1);
    assert_int_equal(sent.connections, 10);
    sent = parts_of(1000, 300);
    assert_true(sent.parts > 5);
    assert_int_equal(sent.connections, 1000);
    sent = parts_of(1000, 2000); /* too much of it: the rest is counted */
    assert_in_range(sent.connections, 200, 300);
    sent = parts_of(3, QUESTION_PART_MAX + 1);
    assert_int_equal(sent.parts, 1);
    assert_int_equal(sent.connections, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_all_are_counted_and_the_first_described_in_turns),
        TEST(test_a_candidate_names_those_that_it_would_end_and_ends_none),
        TEST(test_a_judgement_meanwhile_changes_no_number),
        TEST(test_one_that_begins_during_a_judgement_is_counted_once),
        TEST(test_a_cancelled_one_says_nothing),
        cmocka_unit_test(test_an_answer_goes_in_parts_that_a_message_holds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
