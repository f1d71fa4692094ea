/* What nobody may do without a reason and a time. Without it: a terminal that was left open rotates
 * the root, one person alone does what takes two, or a right that was given for ten minutes stays.
 * Drives: R49. */
#include "control/elevations.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

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

static bool is_elevated(const struct elevations *elevations, const char *subject)
{
    const struct elevation *elevation = elevations_of(elevations, subject);

    return elevation != NULL && !elevation->pending;
}

static void test_it_ends_by_itself_and_is_nobody_elses(void **state)
{
    struct fixture *fixture = *state;
    struct elevations elevations = {.clock = &fixture->clock.clock};
    const struct elevation *made;

    assert_false(is_elevated(&elevations, "alice"));
    assert_false(elevations_end(&elevations, "alice"));
    assert_ok(elevations_ask(&elevations, "alice", "due", 600, 0, &made));
    assert_int_equal(made->id, 1);
    assert_string_equal(made->reason, "due");
    assert_true(is_elevated(&elevations, "alice"));
    assert_false(is_elevated(&elevations, "bob"));
    assert_false(is_elevated(&elevations, "alic"));
    assert_false(is_elevated(&elevations, ""));
    fixture_pass(fixture, 599);
    assert_true(is_elevated(&elevations, "alice"));
    assert_int_equal(elevation_left_s(&elevations, made), 1);
    fixture_pass(fixture, 1);
    assert_false(is_elevated(&elevations, "alice"));
    assert_int_equal(elevation_left_s(&elevations, made), 0);

    /* The wall clock has no say in it. */
    assert_ok(elevations_ask(&elevations, "alice", "due", 600, 0, &made));
    fixture->clock.wall_s -= 86400;
    fixture->clock.mono_ms += 600 * 1000;
    assert_false(is_elevated(&elevations, "alice"));
}

static void test_it_is_ended_and_replaced(void **state)
{
    struct fixture *fixture = *state;
    struct elevations elevations = {.clock = &fixture->clock.clock};
    const struct elevation *made;
    size_t at = 0;

    assert_ok(elevations_ask(&elevations, "alice", "first", 3600, 0, &made));
    assert_ok(elevations_ask(&elevations, "bob", "his", 3600, 0, &made));
    assert_ok(elevations_ask(&elevations, "alice", "second", 60, 0, &made)); /* not both */
    assert_string_equal(elevations_next(&elevations, &at)->reason, "second");
    assert_string_equal(elevations_next(&elevations, &at)->subject, "bob");
    assert_null(elevations_next(&elevations, &at));
    assert_true(elevations_end(&elevations, "alice"));
    assert_false(is_elevated(&elevations, "alice"));
    assert_true(is_elevated(&elevations, "bob"));
    fixture_pass(fixture, 61);
    assert_false(is_elevated(&elevations, "alice"));
}

static void test_it_takes_two_where_that_is_asked_for(void **state)
{
    struct fixture *fixture = *state;
    struct elevations elevations = {.clock = &fixture->clock.clock, .approval = true};
    const struct elevation *made;
    uint64_t id;

    assert_ok(elevations_ask(&elevations, "alice", "due", 600, 0, &made));
    id = made->id;
    assert_false(is_elevated(&elevations, "alice"));
    assert_code(elevations_approve(&elevations, id, "alice", &made), PERMISSION);
    assert_code(elevations_approve(&elevations, id + 1, "bob", &made), NOT_FOUND);
    assert_code(elevations_approve(&elevations, 0, "bob", &made), NOT_FOUND);
    assert_false(is_elevated(&elevations, "alice"));
    fixture_pass(fixture, 1800); /* its time begins with the approval */
    assert_ok(elevations_approve(&elevations, id, "bob", &made));
    assert_string_equal(made->approved_by, "bob");
    assert_true(is_elevated(&elevations, "alice"));
    assert_false(is_elevated(&elevations, "bob"));
    assert_code(elevations_approve(&elevations, id, "bob", &made), EXISTS);
    fixture_pass(fixture, 600);
    assert_false(is_elevated(&elevations, "alice"));
    assert_code(elevations_approve(&elevations, id, "bob", &made), NOT_FOUND);

    /* An approval does not wait for a question that is asked later. */
    assert_ok(elevations_ask(&elevations, "alice", "due", 600, 0, &made));
    id = made->id;
    assert_ok(elevations_ask(&elevations, "alice", "something else", 3600, 0, &made));
    assert_code(elevations_approve(&elevations, id, "bob", &made), NOT_FOUND);
    fixture_pass(fixture, ELEVATION_PENDING_S);
    assert_code(elevations_approve(&elevations, id + 1, "bob", &made), NOT_FOUND);
    assert_null(elevations_of(&elevations, "alice"));
}

static void test_there_is_an_end_to_them(void **state)
{
    struct fixture *fixture = *state;
    struct elevations elevations = {.clock = &fixture->clock.clock};
    const struct elevation *made;
    char name[32];

    for (unsigned i = 0; i < ELEVATIONS_MAX; i++) {
        (void)snprintf(name, sizeof(name), "uid:%u", i);
        assert_ok(elevations_ask(&elevations, name, "x", i == 7 ? 60 : 600, 0, &made));
    }
    assert_code(elevations_ask(&elevations, "alice", "x", 60, 0, &made), LIMIT);
    assert_ok(elevations_ask(&elevations, "uid:3", "x", 600, 0, &made)); /* in its own place */
    fixture_pass(fixture, 60);
    assert_ok(elevations_ask(&elevations, "alice", "x", 60, 0, &made));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_it_ends_by_itself_and_is_nobody_elses, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_it_is_ended_and_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(test_it_takes_two_where_that_is_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_there_is_an_end_to_them, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
