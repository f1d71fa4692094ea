/* Who uses a permissive port: counted when he comes, and there until he goes, however long that is.
 *
 * Drives: F11 */
#include "proxy/plaintext.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const struct addr from = {.len = 0};

/* What a status would tell of the only link. */
static void check(struct plaintext *plaintext, int64_t now_s, uint64_t connections, int64_t last_at)
{
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;

    plaintext_fill(plaintext, now_s, &status);
    assert_int_equal(status.n_plaintext, 1);
    assert_string_equal(status.plaintext[0]->link, "a");
    assert_int_equal(status.plaintext[0]->connections, connections);
    assert_int_equal(status.plaintext[0]->last_at, last_at);
    plaintext_release(&status);
}

static void test_one_that_stays_is_a_use_at_every_moment(void **state)
{
    struct plaintext *plaintext = plaintext_new();

    (void)state;
    plaintext_note(plaintext, "a", 100, &from);
    plaintext_note(plaintext, "a", 110, &from);
    check(plaintext, 100000, 2, 100000);
    plaintext_end(plaintext, "a", 100010);
    assert_true(plaintext_is_open(plaintext));
    check(plaintext, 100020, 2, 100020);
    plaintext_end(plaintext, "a", 100030);
    assert_false(plaintext_is_open(plaintext));
    check(plaintext, 200000, 2, 100030);
    assert_int_equal(plaintext_total(plaintext), 4);
    plaintext_free(plaintext);
}

/* The port is closed and opened again: those of before end when it has begun anew. */
static void test_an_end_of_before_takes_nobody_away(void **state)
{
    struct plaintext *plaintext = plaintext_new();

    (void)state;
    plaintext_note(plaintext, "a", 100, &from);
    plaintext_forget(plaintext, "a");
    assert_false(plaintext_is_open(plaintext));
    plaintext_end(plaintext, "a", 110);
    assert_false(plaintext_is_open(plaintext));
    plaintext_note(plaintext, "a", 120, &from);
    check(plaintext, 300, 1, 300);
    plaintext_end(plaintext, "a", 310);
    plaintext_end(plaintext, "a", 320);
    plaintext_end(plaintext, "b", 330);
    check(plaintext, 400, 1, 310);
    plaintext_free(plaintext);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_that_stays_is_a_use_at_every_moment),
        cmocka_unit_test(test_an_end_of_before_takes_nobody_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
