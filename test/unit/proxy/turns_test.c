/* Turns of connections being opened: first come first served, and nobody is held up for ever.
 *
 * Drives: R14 */
#include "proxy/turns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/testlib/recorder.h"

#define AT_ONCE 3

struct user {
    struct turn turn;
    unsigned went; /* how many had gone before, plus one; 0: not yet */
    bool give_up;  /* ends its turn at once */
};

static unsigned num_went;

static void user_go(void *arg)
{
    struct user *user = arg;

    user->went = ++num_went;
    if (user->give_up)
        turns_end(&user->turn);
}

static int setup(void **state)
{
    *state = loop_new(&clock_system);
    num_went = 0;
    return 0;
}

static int teardown(void **state)
{
    loop_free(*state);
    return 0;
}

static void take(struct turns *turns, struct user *user)
{
    turns_take(turns, "link", &user->turn, user_go, user);
}

static void test_those_beyond_the_limit_wait_in_order(void **state)
{
    struct turns *turns = turns_new(*state, AT_ONCE);
    struct user users[AT_ONCE + 3] = {{.went = 0}};

    for (size_t i = 0; i < ARRAY_LEN(users); i++)
        take(turns, &users[i]);
    for (size_t i = 0; i < ARRAY_LEN(users); i++)
        assert_int_equal(users[i].went, i < AT_ONCE ? i + 1 : 0);
    turns_connected(&users[0].turn);
    turns_end(&users[0].turn);
    LOOP_UNTIL(*state, users[AT_ONCE].went == AT_ONCE + 1);
    assert_int_equal(users[AT_ONCE + 1].went, 0);
    turns_end(&users[1].turn); /* never connected: gone all the same */
    turns_end(&users[2].turn);
    LOOP_UNTIL(*state, users[AT_ONCE + 2].went == AT_ONCE + 3);
    assert_int_equal(users[AT_ONCE + 1].went, AT_ONCE + 2);
    for (size_t i = 0; i < ARRAY_LEN(users); i++)
        turns_end(&users[i].turn); /* again, for some: allowed */
    looptest_settle(*state);
    turns_free(turns);
}

static void test_links_do_not_wait_for_each_other(void **state)
{
    struct turns *turns = turns_new(*state, 1);
    struct user first = {.went = 0}, second = {.went = 0}, other = {.went = 0};

    take(turns, &first);
    take(turns, &second);
    turns_take(turns, "other", &other.turn, user_go, &other);
    assert_int_equal(second.went, 0);
    assert_int_equal(other.went, 2);
    turns_end(&second.turn);
    turns_end(&first.turn);
    turns_end(&other.turn);
    looptest_settle(*state);
    turns_free(turns);
}

static void test_who_leaves_the_queue_is_not_called(void **state)
{
    struct turns *turns = turns_new(*state, 1);
    struct user first = {.went = 0}, gone = {.went = 0}, last = {.went = 0};

    take(turns, &first);
    take(turns, &gone);
    take(turns, &last);
    turns_end(&gone.turn);
    turns_end(&first.turn);
    LOOP_UNTIL(*state, last.went > 0);
    assert_int_equal(gone.went, 0);
    turns_end(&last.turn);
    looptest_settle(*state);
    turns_free(turns);
}

/* A thousand that fail as soon as they begin: no recursion a thousand deep, and nobody forgotten.
 */
static void test_many_that_end_at_once(void **state)
{
    static struct user users[1000];
    struct turns *turns = turns_new(*state, 1);
    struct user first = {.went = 0};

    memset(users, 0, sizeof(users));
    take(turns, &first);
    for (size_t i = 0; i < ARRAY_LEN(users); i++) {
        users[i].give_up = true;
        take(turns, &users[i]);
    }
    turns_end(&first.turn);
    LOOP_UNTIL(*state, num_went == 1001);
    looptest_settle(*state);
    turns_free(turns);
}

/* An endpoint that answers no SYN holds turns for TURNS_PATIENCE_MS, not for its whole deadline;
 * one that is in its handshake keeps them. */
static void test_a_silent_network_does_not_hold_others_up(void **state)
{
    struct turns *turns = turns_new(*state, 2);
    struct user silent = {.went = 0}, busy = {.went = 0}, next = {.went = 0}, after = {.went = 0};
    uint64_t from_ms = loop_now_ms(*state);

    take(turns, &silent);
    take(turns, &busy);
    turns_connected(&busy.turn);
    take(turns, &next);
    take(turns, &after);
    assert_int_equal(next.went, 0);
    LOOP_UNTIL(*state, next.went > 0);
    assert_true(loop_now_ms(*state) - from_ms >= TURNS_PATIENCE_MS);
    turns_connected(&next.turn);
    looptest_settle(*state);
    assert_int_equal(after.went, 0); /* `busy` and `next` work */
    turns_connected(&silent.turn);   /* at last: it counts no more */
    turns_end(&silent.turn);
    looptest_settle(*state);
    assert_int_equal(after.went, 0);
    turns_end(&busy.turn);
    LOOP_UNTIL(*state, after.went > 0);
    turns_end(&next.turn);
    turns_end(&after.turn);
    looptest_settle(*state);
    turns_free(turns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_those_beyond_the_limit_wait_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links_do_not_wait_for_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_leaves_the_queue_is_not_called, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_that_end_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_silent_network_does_not_hold_others_up, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
