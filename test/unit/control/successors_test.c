/* Without it a key that was replaced long ago would bring its bearer back in, or a sidecar whose
 * answer was lost would stay outside. Drives: F18 */
#include "control/successors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const uint8_t key_a[32] = {1}, key_b[32] = {2}, key_c[32] = {3};

static void test_nothing_has_followed(void **state)
{
    struct successors none = {0};

    (void)state;
    assert_true(successors_allow(&none, "0a", key_a));
    successors_forget(&none, "0a");
    successors_fini(&none);
}

static void test_the_same_key_may_follow_again(void **state)
{
    struct successors known = {0};

    (void)state;
    successors_note(&known, "0a", key_a, 100);
    assert_true(successors_allow(&known, "0a", key_a));
    assert_false(successors_allow(&known, "0a", key_b));
    assert_true(successors_allow(&known, "0b", key_b));
    successors_fini(&known);
}

/* At a start the records come in no order of time. */
static void test_the_latest_counts(void **state)
{
    struct successors known = {0};

    (void)state;
    successors_note(&known, "0a", key_b, 200);
    successors_note(&known, "0a", key_a, 100);
    assert_true(successors_allow(&known, "0a", key_b));
    assert_false(successors_allow(&known, "0a", key_a));
    successors_note(&known, "0a", key_c, 200); /* within a second: what was noted last */
    assert_true(successors_allow(&known, "0a", key_c));
    successors_fini(&known);
}

static void test_what_is_forgotten_is_as_if_it_had_not_been(void **state)
{
    struct successors known = {0};

    (void)state;
    successors_note(&known, "0a", key_a, 100);
    successors_note(&known, "0b", key_b, 100);
    successors_forget(&known, "0a");
    assert_true(successors_allow(&known, "0a", key_c));
    assert_false(successors_allow(&known, "0b", key_c));
    successors_fini(&known);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_has_followed),
        cmocka_unit_test(test_the_same_key_may_follow_again),
        cmocka_unit_test(test_the_latest_counts),
        cmocka_unit_test(test_what_is_forgotten_is_as_if_it_had_not_been),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
