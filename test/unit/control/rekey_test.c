/* The store goes over to another key while all else goes on: a little at a time, once more when the
 * disk will not, and from where it was when the process was another one. Without it: a store half
 * of whose records are under a key that the operator has thrown away because he was told "done".
 *
 * Drives: R45, D1 */
#include "control/rekey.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "test/unit/control/fixture.h"

#define NUM 40 /* records: more than two transactions */

struct place {
    struct fixture *fixture;
    struct loop *loop;
    struct rekey *rekey;
    struct seal_keys old, new;
    struct seal_keys given; /* what the operator's file has; none: it cannot be read */
    struct faults faults;
    unsigned told_begun, told_goes_on, told_done, told_failing;
};

static void on_line(void *arg, const char *line, size_t len)
{
    struct place *place = arg;

    place->told_begun += memmem(line, len, "event=begun", 11) != NULL;
    place->told_goes_on += memmem(line, len, "event=goes_on", 13) != NULL;
    place->told_done += memmem(line, len, "event=done", 10) != NULL;
    place->told_failing += memmem(line, len, "event=cannot_go_on", 18) != NULL;
}

static err_t read_keys(void *arg, struct faults *faults, struct seal_keys *out)
{
    const struct place *place = arg;

    if (place->given.num == 0) {
        faults_add(faults, "--kek-file", "is gone");
        return FAIL(KEK_UNAVAILABLE, 0);
    }
    *out = place->given;
    return OK;
}

static void give(struct place *place, const struct seal_keys *first, const struct seal_keys *second)
{
    place->given = *first;
    if (second == NULL)
        return;
    place->given.num = 2;
    place->given.keys[1] = second->keys[0];
}

static void open_rekey(struct place *place)
{
    place->rekey = rekey_new(&(struct rekey_params){
        .loop = place->loop, .vault = place->fixture->vault, .read_keys = read_keys, .arg = place});
}

static int setup(void **state)
{
    struct place *place = mem_zalloc(sizeof(*place));
    Mortise__Control__Token token = MORTISE__CONTROL__TOKEN__INIT;
    char path[VAULT_PATH_MAX];

    place->fixture = fixture_new();
    place->loop = loop_new(&place->fixture->clock.clock);
    place->old = place->fixture->key;
    place->new = fixture_key(2);
    for (int i = 0; i < NUM; i++) {
        (void)snprintf(path, sizeof(path), VAULT_TOKENS "%02d", i);
        assert_ok(vault_put(place->fixture->vault, path, &token.base, STORE_ABSENT, NULL));
    }
    log_set_sink(on_line, place);
    open_rekey(place);
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;

    log_set_sink(NULL, NULL);
    rekey_free(place->rekey);
    loop_free(place->loop);
    fixture_free(place->fixture);
    faults_fini(&place->faults);
    mem_free(place);
    return 0;
}

/* So much time goes by, and what it sets off is done. */
static void pass(struct place *place, uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i++) {
        place->fixture->clock.mono_ms++;
        loop_run_once(place->loop, false);
    }
}

/* How many of the store's records that key opens. */
static size_t opened_by(const struct place *place, const struct seal_keys *keys)
{
    struct store_items items;
    size_t num = 0;

    assert_ok(store_list(place->fixture->store, "", &items));
    assert_int_equal(items.num, NUM);
    for (size_t i = 0; i < items.num; i++) {
        CLEANUP(buf_wipe_fini) struct buf plain = {0};

        num += err_is_ok(seal_open(&keys->keys[0], items.items[i].key,
                                   bytes_of(items.items[i].value, items.items[i].len), &plain));
    }
    store_items_fini(&items);
    return num;
}

static void test_all_of_it_goes_over_some_at_a_time(void **state)
{
    struct place *place = *state;

    pass(place, 1000);
    assert_int_equal(place->told_goes_on + place->told_done, 0); /* nobody has asked for it */
    give(place, &place->new, &place->old);
    assert_ok(rekey_begin(place->rekey, &place->faults));
    assert_int_equal(vault_stale(place->fixture->vault), NUM);
    assert_int_equal(opened_by(place, &place->old), NUM); /* the caller does not wait for it */
    pass(place, 2);
    assert_in_range(opened_by(place, &place->new), 1, NUM / 2);
    assert_int_equal(opened_by(place, &place->new) + opened_by(place, &place->old), NUM);
    assert_false(vault_is_rewrapped(place->fixture->vault));
    pass(place, 1000);
    assert_int_equal(opened_by(place, &place->new), NUM);
    assert_true(vault_is_rewrapped(place->fixture->vault));
    assert_int_equal(place->told_begun, 1);
    assert_int_equal(place->told_done, 1);

    /* There is nothing to do a second time, and the way back is another one. */
    assert_code(rekey_begin(place->rekey, &place->faults), EXISTS);
    assert_int_equal(place->told_begun, 1);
    give(place, &place->old, &place->new);
    assert_ok(rekey_begin(place->rekey, &place->faults));
    pass(place, 1000);
    assert_int_equal(opened_by(place, &place->old), NUM);
    assert_int_equal(place->told_done, 2);
}

static void test_keys_that_will_not_do_change_nothing(void **state)
{
    struct place *place = *state;
    struct seal_keys third = fixture_key(3);

    assert_code(rekey_begin(place->rekey, &place->faults), KEK_UNAVAILABLE);
    assert_true(fixture_has(&place->faults, "--kek-file", "is gone"));
    give(place, &place->new, &third); /* not the one that all of it is under */
    assert_code(rekey_begin(place->rekey, &place->faults), KEK_UNAVAILABLE);
    give(place, &place->old, &place->new); /* the new one has to be the first */
    assert_code(rekey_begin(place->rekey, &place->faults), EXISTS);
    pass(place, 1000);
    assert_int_equal(opened_by(place, &place->old), NUM);
    assert_true(vault_is_rewrapped(place->fixture->vault));
    assert_int_equal(place->told_begun + place->told_done, 0);
    /* Half-way the old one must not be gone, either. */
    give(place, &place->new, &place->old);
    assert_ok(rekey_begin(place->rekey, &place->faults));
    pass(place, 2);
    give(place, &place->new, NULL);
    assert_code(rekey_begin(place->rekey, &place->faults), KEK_UNAVAILABLE);
    pass(place, 1000);
    assert_int_equal(opened_by(place, &place->new), NUM);
    assert_int_equal(place->told_done, 1);
}

/* It is told once, tried again without haste, and goes on where it was. */
static void test_a_full_disk_stops_it_for_a_while(void **state)
{
    struct place *place = *state;
    size_t before;

    give(place, &place->new, &place->old);
    assert_ok(rekey_begin(place->rekey, &place->faults));
    pass(place, 2);
    before = opened_by(place, &place->new);
    store_mem_set_unwritable(place->fixture->store, true);
    pass(place, 5000);
    assert_int_equal(opened_by(place, &place->new), before);
    assert_int_equal(place->told_failing, 1);
    assert_in_range(vault_health(place->fixture->vault)->failed, 4, 6); /* one a second */
    store_mem_set_unwritable(place->fixture->store, false);
    pass(place, 2000);
    assert_int_equal(opened_by(place, &place->new), NUM);
    assert_int_equal(place->told_done, 1);
    assert_int_equal(place->told_failing, 1);
}

/* The process ends in between; the next one is given both keys and nobody has to ask again. */
static void test_the_next_process_goes_on(void **state)
{
    struct place *place = *state;
    size_t before;

    give(place, &place->new, &place->old);
    assert_ok(rekey_begin(place->rekey, &place->faults));
    pass(place, 2);
    before = opened_by(place, &place->new);
    rekey_free(place->rekey);
    place->rekey = NULL;
    rekey_free(NULL); /* of a process that came to no more */
    pass(place, 1000);
    assert_int_equal(opened_by(place, &place->new), before);
    assert_ok(vault_verify(place->fixture->vault, &place->faults));
    open_rekey(place);
    assert_int_equal(place->told_goes_on, 1);
    pass(place, 1000);
    assert_int_equal(opened_by(place, &place->new), NUM);
    assert_int_equal(place->told_done, 1);
    assert_int_equal(place->told_begun, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_all_of_it_goes_over_some_at_a_time),
        TEST(test_keys_that_will_not_do_change_nothing),
        TEST(test_a_full_disk_stops_it_for_a_while),
        TEST(test_the_next_process_goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
