/* The store's history: a restart goes on with it, an older copy of the store is told apart, however
 * much happens on it afterwards.
 * Without it: a control plane that is started on yesterday's store lets in again who was revoked
 * today.
 * Drives: R10, R56, F18. */
#include "control/history.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/unit/control/fixture.h"

static int setup(void **state)
{
    *state = fixture_new();
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

/* A start of the control plane on the store. */
static void begin(struct history *history, struct vault *vault)
{
    *history = (struct history){.vault = vault};
    assert_ok(history_open(history));
}

static void decide(struct fixture *fixture, const char *path)
{
    Mortise__Control__Epochs record = MORTISE__CONTROL__EPOCHS__INIT;

    assert_ok(vault_put(fixture->vault, path, &record.base, STORE_ANY, NULL));
}

static void happen(struct fixture *fixture)
{
    Mortise__Control__Endpoints record = MORTISE__CONTROL__ENDPOINTS__INIT;

    assert_ok(vault_put(fixture->vault, VAULT_ENDPOINTS "portal", &record.base, STORE_ANY, NULL));
}

static void test_decisions_count_and_other_records_do_not(void **state)
{
    struct fixture *fixture = *state;
    struct history history;
    Mortise__Control__PlaintextUse use = MORTISE__CONTROL__PLAINTEXT_USE__INIT;
    uint64_t at, revision;

    begin(&history, fixture->vault);
    at = history.decided;

    assert_int_equal(history_era(&history), 1);
    assert_true(history_run(&history) != 0);
    assert_ok(store_revision(fixture->store, &revision));
    assert_int_equal(at, revision);
    happen(fixture);
    assert_int_equal(history.decided, at);
    assert_ok(vault_put(fixture->vault, VAULT_PLAINTEXT "l", &use.base, STORE_ANY, NULL));
    assert_int_equal(history.decided, at); /* somebody came: nobody has decided that */
    decide(fixture, VAULT_EPOCHS);
    assert_int_equal(history.decided, at + 3);
    assert_int_equal(history_until(&history, history_run(&history)), at + 3);
    assert_int_equal(history_until(&history, history_run(&history) + 1), 0);
    history_close(&history);
}

static void test_a_restart_has_all_of_the_past(void **state)
{
    struct fixture *fixture = *state;
    struct history history;
    uint64_t runs[5], seen[5];

    begin(&history, fixture->vault);
    for (size_t i = 0; i < 5; i++) {
        runs[i] = history_run(&history);
        decide(fixture, VAULT_EPOCHS);
        happen(fixture);
        seen[i] = history.decided;
        history_close(&history);
        begin(&history, fixture->vault);
        for (size_t j = 0; j <= i; j++) {
            assert_int_not_equal(history_run(&history), runs[j]);
            assert_true(history_until(&history, runs[j]) >= seen[j]);
        }
    }
    history_close(&history);
}

/* Two copies of one store go on: neither has the other's past beyond where they parted. */
static void test_a_copy_is_another_future(void **state)
{
    struct fixture *fixture = *state;
    struct fixture *copy = fixture_new();
    struct history history, other;
    uint64_t run, parted, seen;
    struct store_items items;

    begin(&history, fixture->vault);
    run = history_run(&history);
    decide(fixture, VAULT_EPOCHS);
    parted = history.decided;
    /* The copy: as many transactions as the original had, then its records. */
    assert_ok(store_list(fixture->store, "", &items));
    for (uint64_t revision = 0; revision + 1 < parted; revision++)
        happen(copy);
    for (size_t i = 0; i < items.num; i++)
        assert_ok(store_put_if(copy->store, items.items[i].key,
                               bytes_of(items.items[i].value, items.items[i].len), STORE_ANY,
                               NULL));
    store_items_fini(&items);
    assert_ok(store_revision(copy->store, &parted));
    while (history.decided < parted) /* the same number of decisions in both */
        decide(fixture, VAULT_EPOCHS);

    decide(fixture, VAULT_EPOCHS); /* that is lost when the copy takes over */
    seen = history.decided;
    begin(&other, copy->vault);
    for (int i = 0; i < 100; i++)
        decide(copy, VAULT_EPOCHS);
    assert_true(other.decided > seen);
    assert_true(history_until(&other, run) < seen);
    assert_true(history_until(&other, run) >= parted);
    assert_int_equal(history_until(&history, history_run(&other)), 0);
    history_close(&history);
    history_close(&other);
    fixture_free(copy);
}

static void test_an_era_is_above_all_before(void **state)
{
    struct fixture *fixture = *state;
    struct history history;
    uint64_t run;

    begin(&history, fixture->vault);
    run = history_run(&history);
    assert_ok(history_raise_era(&history, 1000));
    assert_int_equal(history_era(&history), 1000);
    assert_ok(history_raise_era(&history, 1000));
    assert_int_equal(history_era(&history), 1001);
    assert_ok(history_raise_era(&history, -5)); /* a clock that is wrong */
    assert_int_equal(history_era(&history), 1002);
    assert_int_equal(history_run(&history), run);
    history_close(&history);
    begin(&history, fixture->vault);
    assert_int_equal(history_era(&history), 1002);
    history_close(&history);
}

static void test_the_record_does_not_grow_without_end(void **state)
{
    struct fixture *fixture = *state;
    Mortise__Control__History record = MORTISE__CONTROL__HISTORY__INIT;
    Mortise__Control__Run *runs = mem_array(HISTORY_RUNS_MAX, sizeof(*runs));
    struct history history;

    record.runs = mem_array(HISTORY_RUNS_MAX, sizeof(*record.runs));
    for (size_t i = 0; i < HISTORY_RUNS_MAX; i++) {
        mortise__control__run__init(&runs[i]);
        runs[i].id = 1000 + i;
        runs[i].until = i + 1 < HISTORY_RUNS_MAX ? 1 + i : 0;
        record.runs[record.n_runs++] = &runs[i];
    }
    assert_ok(vault_put(fixture->vault, VAULT_HISTORY, &record.base, STORE_ABSENT, NULL));
    begin(&history, fixture->vault);
    assert_int_equal(history.record->n_runs, HISTORY_RUNS_MAX);
    assert_int_equal(history_until(&history, 1000), 0); /* forgotten */
    assert_int_equal(history_until(&history, 1001), 2);
    assert_true(history_until(&history, 1000 + HISTORY_RUNS_MAX - 1) > 0);
    history_close(&history);
    mem_free(record.runs);
    mem_free(runs);
}

static void test_a_store_that_cannot_be_written_begins_nothing(void **state)
{
    struct fixture *fixture = *state;
    struct history history = {.vault = fixture->vault};

    store_mem_set_unwritable(fixture->store, true);
    assert_code(history_open(&history), STORE_UNWRITABLE);
    history_close(&history);
    store_mem_set_unwritable(fixture->store, false);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_decisions_count_and_other_records_do_not),
        TEST(test_a_restart_has_all_of_the_past),
        TEST(test_a_copy_is_another_future),
        TEST(test_an_era_is_above_all_before),
        TEST(test_the_record_does_not_grow_without_end),
        TEST(test_a_store_that_cannot_be_written_begins_nothing),
    };
#undef TEST

    return cmocka_run_group_tests(tests, NULL, NULL);
}
