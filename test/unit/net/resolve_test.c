/* Names become addresses without blocking; addresses stay what they are; every query ends exactly
 * once. Drives: R14, R15 */
#include "lib/net/resolve.h"

#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "test/testlib/recorder.h"

struct answer {
    unsigned num_calls;
    err_t err;
    size_t num;
    struct addr addrs[RESOLVE_MAX];
};

static void on_resolved(void *arg, err_t err, const struct addr *addrs, size_t num)
{
    struct answer *answer = arg;

    answer->num_calls++;
    answer->err = err;
    answer->num = num;
    for (size_t i = 0; i < num; i++)
        answer->addrs[i] = addrs[i];
}

static void test_addresses_answer_from_the_next_round(void **state)
{
    static const char *const cases[] = {"127.0.0.1:80", "[::1]:443", "unix:/run/x"};
    struct loop *loop = loop_new(&clock_system);

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct answer answer = {0};
        char text[ADDR_TEXT_MAX];

        resolve_start(loop, cases[i], 5000, on_resolved, &answer);
        assert_int_equal(answer.num_calls, 0);
        loop_run_once(loop, true);
        assert_int_equal(answer.num_calls, 1);
        assert_int_equal(answer.err.code, E_OK);
        assert_int_equal(answer.num, 1);
        addr_format(&answer.addrs[0], text);
        assert_string_equal(text, cases[i]);
    }
    loop_free(loop);
}

static void test_a_name_gives_addresses_with_the_port(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct answer answer = {0};

    (void)state;
    resolve_start(loop, "localhost:8443", 10000, on_resolved, &answer);
    LOOP_UNTIL(loop, answer.num_calls > 0);
    assert_int_equal(answer.err.code, E_OK);
    assert_in_range(answer.num, 1, RESOLVE_MAX);
    for (size_t i = 0; i < answer.num; i++) {
        assert_true(addr_is_loopback(&answer.addrs[i]));
        assert_int_equal(addr_port(&answer.addrs[i]), 8443);
    }
    loop_free(loop);
}

static void test_what_is_no_target_and_no_name_fails(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct answer syntax = {0}, unknown = {0}, label = {0};
    char long_label[128];

    (void)state;
    resolve_start(loop, "no port", 1000, on_resolved, &syntax);
    LOOP_UNTIL(loop, syntax.num_calls > 0);
    assert_int_equal(syntax.err.code, E_ADDR_SYNTAX);
    /* RFC 6761: never exists. Where there is no name server, the resolver says so after a while. */
    resolve_start(loop, "name.invalid:1", 15000, on_resolved, &unknown);
    LOOP_UNTIL(loop, unknown.num_calls > 0);
    assert_true(unknown.err.code == E_RESOLVE_FAILED || unknown.err.code == E_TIMEOUT);
    memset(long_label, 'a', 100);
    memcpy(long_label + 100, ":1", 3);
    resolve_start(loop, long_label, 15000, on_resolved, &label);
    LOOP_UNTIL(loop, label.num_calls > 0);
    assert_int_equal(label.err.code, E_RESOLVE_FAILED);
    assert_int_equal(label.num, 0);
    loop_free(loop);
    assert_int_equal(syntax.num_calls + unknown.num_calls + label.num_calls, 3);
}

static void test_cancelled_ones_are_silent(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct answer answer = {0};

    (void)state;
    resolve_cancel(resolve_start(loop, "127.0.0.1:1", 1000, on_resolved, &answer));
    resolve_cancel(resolve_start(loop, "localhost:1", 1000, on_resolved, &answer));
    resolve_cancel(resolve_start(loop, "bad", 1000, on_resolved, &answer));
    looptest_settle(loop);
    loop_free(loop); /* waits for what the pool had begun */
    assert_int_equal(answer.num_calls, 0);
}

#define POOL_THREADS 4 /* libuv's default */

struct pool_block {
    uv_work_t work;
    uv_sem_t *started, *over;
};

static void wait_in_pool(uv_work_t *work)
{
    struct pool_block *block = work->data;

    uv_sem_post(block->started);
    uv_sem_wait(block->over);
}

static void test_a_deadline_ends_the_wait(void **state)
{
    struct loop *loop = loop_new(&clock_system);
    struct pool_block blocks[POOL_THREADS];
    struct answer late = {0}, cancelled = {0};
    struct resolve *resolve;
    uv_sem_t started, over;

    (void)state;
    /* All threads of the pool are busy until we say so: as if name servers did not answer. */
    assert_int_equal(uv_sem_init(&started, 0), 0);
    assert_int_equal(uv_sem_init(&over, 0), 0);
    for (size_t i = 0; i < POOL_THREADS; i++) {
        blocks[i].work.data = &blocks[i];
        blocks[i].started = &started;
        blocks[i].over = &over;
        assert_int_equal(uv_queue_work(loop_uv(loop), &blocks[i].work, wait_in_pool, NULL), 0);
    }
    for (size_t i = 0; i < POOL_THREADS; i++)
        uv_sem_wait(&started);
    resolve_start(loop, "localhost:1", 20, on_resolved, &late);
    resolve = resolve_start(loop, "localhost:1", 20, on_resolved, &cancelled);
    resolve_cancel(resolve);
    LOOP_UNTIL(loop, late.num_calls > 0);
    assert_int_equal(late.err.code, E_TIMEOUT);
    for (size_t i = 0; i < POOL_THREADS; i++)
        uv_sem_post(&over);
    loop_free(loop);
    uv_sem_destroy(&over);
    uv_sem_destroy(&started);
    assert_int_equal(late.num_calls, 1);
    assert_int_equal(cancelled.num_calls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses_answer_from_the_next_round),
        cmocka_unit_test(test_a_name_gives_addresses_with_the_port),
        cmocka_unit_test(test_what_is_no_target_and_no_name_fails),
        cmocka_unit_test(test_cancelled_ones_are_silent),
        cmocka_unit_test(test_a_deadline_ends_the_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
