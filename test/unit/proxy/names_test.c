/* The cache of resolved names: one query for many, answers that hold, failures that do not take
 * away what is known.
 *
 * Drives: R71 */
#include "proxy/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/testlib/recorder.h"

struct asked {
    struct names_wait wait;
    unsigned num;
    err_t err;
    size_t num_addrs;
    uint16_t port;
};

static void asked_cb(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct asked *asked = arg;

    asked->num++;
    asked->err = err;
    asked->num_addrs = num;
    asked->port = num > 0 ? addr_port(&addrs[0]) : 0;
}

static int setup(void **state)
{
    *state = loop_new(&clock_system);
    return 0;
}

static int teardown(void **state)
{
    loop_free(*state);
    return 0;
}

static void test_a_name_is_resolved_once_for_all_who_wait(void **state)
{
    struct loop *loop = *state;
    struct names *names = names_new(loop);
    struct asked asked[3] = {{.num = 0}}, later = {.num = 0};

    for (size_t i = 0; i < ARRAY_LEN(asked); i++)
        names_get(names, "localhost:8080", 5000, &asked[i].wait, asked_cb, &asked[i]);
    for (size_t i = 0; i < ARRAY_LEN(asked); i++)
        assert_int_equal(asked[i].num, 0);
    LOOP_UNTIL(loop, asked[0].num == 1 && asked[1].num == 1 && asked[2].num == 1);
    assert_true(err_is_ok(asked[2].err));
    assert_true(asked[2].num_addrs > 0);
    assert_int_equal(asked[2].port, 8080);

    names_get(names, "localhost:8080", 5000, &later.wait, asked_cb, &later);
    assert_int_equal(later.num, 1); /* known: at once */
    names_free(names);
}

static void test_a_cancelled_wait_is_not_called(void **state)
{
    struct loop *loop = *state;
    struct names *names = names_new(loop);
    struct asked gone = {.num = 0}, stays = {.num = 0}, never = {.num = 0};

    names_get(names, "localhost:80", 5000, &gone.wait, asked_cb, &gone);
    names_get(names, "localhost:80", 5000, &stays.wait, asked_cb, &stays);
    names_cancel(&gone.wait);
    LOOP_UNTIL(loop, stays.num == 1);
    assert_int_equal(gone.num, 0);
    names_cancel(&stays.wait); /* called already: allowed */
    names_cancel(&never.wait); /* never asked */
    names_free(names);
}

struct chain {
    struct asked victim;
    struct asked first;
    struct names *names;
};

static void chain_cb(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct chain *chain = arg;

    asked_cb(&chain->first, err, addrs, num);
    names_cancel(&chain->victim.wait);
}

static void test_a_callback_may_cancel_the_next_one(void **state)
{
    struct loop *loop = *state;
    struct chain chain = {.names = names_new(loop)};

    names_get(chain.names, "localhost:80", 5000, &chain.first.wait, chain_cb, &chain);
    names_get(chain.names, "localhost:80", 5000, &chain.victim.wait, asked_cb, &chain.victim);
    LOOP_UNTIL(loop, chain.first.num == 1);
    looptest_settle(loop);
    assert_int_equal(chain.victim.num, 0);
    names_free(chain.names);
}

struct crowd {
    struct asked own;
    struct names *names;
    struct asked others[NAMES_MAX];
};

static void crowd_cb(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct crowd *crowd = arg;

    asked_cb(&crowd->own, err, addrs, num);
    for (size_t i = 0; i < NAMES_MAX; i++) {
        char target[32];

        (void)snprintf(target, sizeof(target), "localhost:%zu", 1000 + i);
        names_get(crowd->names, target, 5000, &crowd->others[i].wait, asked_cb, &crowd->others[i]);
    }
}

/* An endpoint that fails makes its connection ask for the next one: the cache may become full while
 * the others who waited for the first are still to be told. */
static void test_an_answer_stays_while_it_is_told(void **state)
{
    static struct crowd crowd;
    struct loop *loop = *state;
    struct asked second = {.num = 0};

    crowd = (struct crowd){.names = names_new(loop)};
    names_get(crowd.names, "localhost:80", 5000, &crowd.own.wait, crowd_cb, &crowd);
    names_get(crowd.names, "localhost:80", 5000, &second.wait, asked_cb, &second);
    LOOP_UNTIL(loop, crowd.own.num == 1 && second.num == 1);
    assert_true(err_is_ok(second.err));
    assert_int_equal(second.port, 80);
    for (size_t i = 0; i < NAMES_MAX; i++)
        names_cancel(&crowd.others[i].wait);
    names_free(crowd.names);
}

static void test_what_is_no_name_is_told(void **state)
{
    struct loop *loop = *state;
    struct names *names = names_new(loop);
    struct asked asked = {.num = 0}, again = {.num = 0};

    /* .invalid never resolves (RFC 2606). */
    names_get(names, "nowhere.invalid:80", 10000, &asked.wait, asked_cb, &asked);
    LOOP_UNTIL(loop, asked.num == 1);
    assert_false(err_is_ok(asked.err));
    names_get(names, "nowhere.invalid:80", 10000, &again.wait, asked_cb, &again);
    assert_int_equal(again.num, 1); /* the failure holds for a moment: no storm of queries */
    assert_false(err_is_ok(again.err));
    names_free(names);
}

static void test_free_ends_a_query_under_way(void **state)
{
    struct names *names = names_new(*state);
    struct asked asked = {.num = 0};

    names_get(names, "localhost:80", 5000, &asked.wait, asked_cb, &asked);
    names_cancel(&asked.wait);
    names_free(names);
    looptest_settle(*state);
    assert_int_equal(asked.num, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_name_is_resolved_once_for_all_who_wait, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_cancelled_wait_is_not_called, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_callback_may_cancel_the_next_one, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_answer_stays_while_it_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_name_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_free_ends_a_query_under_way, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
