/* The walk over a worker's connections: in turns, none left out, whatever comes or is asked
 * meanwhile. Without it: a revoked peer's connection that nobody looks at. What is judged is in
 * authz_test.c; the connections here are in their handshake, so that each is passed and none is
 * ended.
 *
 * Drives: R8, R42 */
#include "proxy/live.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "proxy/worker.h"

#define NUM 2000 /* more than one turn has time for: it has none, so that no clock decides */

struct fixture {
    struct worker worker;
    struct conn *conns;
    struct snapshot snapshots[3];
};

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));

    f->worker.loop = loop_new(&clock_system);
    f->worker.live_check.worker = &f->worker;
    list_init(&f->worker.live);
    f->conns = mem_array(NUM, sizeof(*f->conns));
    for (size_t i = 0; i < NUM; i++) {
        f->conns[i].state = CONN_HANDSHAKE;
        list_add_tail(&f->worker.live, &f->conns[i].live);
    }
    for (size_t i = 0; i < ARRAY_LEN(f->snapshots); i++) {
        refs_init(&f->snapshots[i].refs); /* ours: it is never the last */
        f->snapshots[i].generation = i + 1;
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    live_fini(&f->worker.live_check);
    loop_free(f->worker.loop);
    mem_free(f->conns);
    mem_free(f);
    return 0;
}

static size_t num_asked(const struct fixture *f)
{
    size_t num = 0;

    for (size_t i = 0; i < NUM; i++)
        num += f->conns[i].asked == f->worker.live_check.round;
    return num;
}

static void finish(struct fixture *f)
{
    while (f->worker.live_check.walking)
        loop_run_once(f->worker.loop, false);
}

static void test_it_takes_turns_and_asks_everybody(void **state)
{
    struct fixture *f = *state;

    live_recheck(&f->worker.live_check, &f->snapshots[0]);
    assert_true(f->worker.live_check.walking);
    assert_in_range(num_asked(f), 1, NUM - 1); /* traffic has its turn */
    finish(f);
    assert_int_equal(num_asked(f), NUM);
}

/* One that begins in the middle of a walk stands behind those who were asked, and hides none of
 * them from the next walk. */
static void test_newcomers_hide_nobody(void **state)
{
    struct fixture *f = *state;
    struct live *live = &f->worker.live_check;
    struct conn *newcomer = &f->conns[0];

    live_recheck(live, &f->snapshots[0]);
    list_del(&newcomer->live); /* as if it had just begun */
    newcomer->asked = live->round;
    list_add_tail(&f->worker.live, &newcomer->live);
    assert_true(live->walking);
    live_recheck(live, &f->snapshots[1]);
    assert_true(live->now == &f->snapshots[1]);
    finish(f);
    assert_int_equal(num_asked(f), NUM);
}

static void test_a_newer_one_takes_over_a_walk_under_way(void **state)
{
    struct fixture *f = *state;
    struct live *live = &f->worker.live_check;

    live_recheck(live, &f->snapshots[0]);
    live_recheck(live, &f->snapshots[1]);
    loop_run_once(f->worker.loop, false);
    live_recheck(live, &f->snapshots[2]);
    finish(f);
    assert_int_equal(num_asked(f), NUM);
    assert_int_equal(live->round, 3);
    assert_true(live->now == &f->snapshots[2]);
}

static void test_of_nobody_nobody_is_asked(void **state)
{
    struct fixture *f = *state;

    list_init(&f->worker.live);
    live_recheck(&f->worker.live_check, &f->snapshots[0]);
    assert_false(f->worker.live_check.walking);
    assert_int_equal(f->worker.live_check.asked, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_it_takes_turns_and_asks_everybody),
        TEST(test_newcomers_hide_nobody),
        TEST(test_a_newer_one_takes_over_a_walk_under_way),
        TEST(test_of_nobody_nobody_is_asked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
