/* What differs between two texts. Without it: `mortisectl diff` leaves out a line that changes, and
 * somebody applies it.
 * Drives: D7 */
#include "control/ctl/text_diff.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static char *diff(const char *a, const char *b)
{
    struct buf out = {0};

    assert_ok(text_diff("a", bytes_of_str(a), "b", bytes_of_str(b), &out));
    return buf_take_str(&out);
}

static void check(const char *a, const char *b, const char *expected)
{
    CLEANUP(mem_freep) char *got = diff(a, b);

    assert_string_equal(got, expected);
}

static void test_the_same_differ_in_nothing(void **state)
{
    (void)state;
    check("", "", "");
    check("one\ntwo\n", "one\ntwo\n", "");
}

static void test_one_side_may_be_empty(void **state)
{
    (void)state;
    check("", "one\ntwo\n", "--- a\n+++ b\n@@ -0,0 +1,2 @@\n+one\n+two\n");
    check("one\n", "", "--- a\n+++ b\n@@ -1,1 +0,0 @@\n-one\n");
}

static void test_three_lines_stand_around_a_change(void **state)
{
    (void)state;
    check("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n",
          "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
    check("1\n2\n", "1\n2\n3\n", "--- a\n+++ b\n@@ -1,2 +1,3 @@\n 1\n 2\n+3\n");
}

/* Six lines between two changes: one hunk; seven: two. */
static void test_near_changes_are_told_together(void **state)
{
    (void)state;
    check("a\n1\n2\n3\n4\n5\n6\nb\n", "A\n1\n2\n3\n4\n5\n6\nB\n",
          "--- a\n+++ b\n@@ -1,8 +1,8 @@\n-a\n+A\n 1\n 2\n 3\n 4\n 5\n 6\n-b\n+B\n");
    check("a\n1\n2\n3\n4\n5\n6\n7\nb\n", "A\n1\n2\n3\n4\n5\n6\n7\nB\n",
          "--- a\n+++ b\n@@ -1,4 +1,4 @@\n-a\n+A\n 1\n 2\n 3\n"
          "@@ -6,4 +6,4 @@\n 5\n 6\n 7\n-b\n+B\n");
}

static void test_the_shortest_is_found(void **state)
{
    (void)state;
    /* The example of the paper: five differences. */
    check("a\nb\nc\na\nb\nb\na\n", "c\nb\na\nb\na\nc\n",
          "--- a\n+++ b\n@@ -1,7 +1,6 @@\n-a\n-b\n c\n+b\n a\n b\n-b\n a\n+c\n");
}

/* ------------------------------------------------------------ it can be applied */

static const char *next_line(const char *at)
{
    return strchr(at, '\n') + 1;
}

/* What `patch` does, which trusts the numbers: context and what goes must be there. Owned. */
static char *apply(const char *a, const char *patch)
{
    struct buf out = {0};
    size_t line = 1;

    if (*patch != '\0')
        patch = next_line(next_line(patch));
    while (*patch != '\0') {
        size_t begins = 0, num = 0;

        if (*patch == '@') {
            assert_int_equal(sscanf(patch, "@@ -%zu,%zu ", &begins, &num), 2);
            begins += num == 0;
            for (; line < begins; line++, a = next_line(a))
                assert_ok(buf_add(&out, a, (size_t)(next_line(a) - a)));
            assert_int_equal(line, begins);
        } else {
            size_t len = (size_t)(next_line(patch) - patch) - 1;

            if (*patch != '+') {
                assert_memory_equal(patch + 1, a, len);
                a = next_line(a);
                line++;
            }
            if (*patch != '-')
                assert_ok(buf_add(&out, patch + 1, len));
        }
        patch = next_line(patch);
    }
    assert_ok(buf_add_str(&out, a));
    return buf_take_str(&out);
}

static uint32_t random_state = 1;

static uint32_t draw(uint32_t below)
{
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % below;
}

/* Lines of few kinds, so that many are alike. Owned. */
static char *random_text(uint32_t lines, uint32_t kinds)
{
    struct buf out = {0};

    assert_ok(buf_add_str(&out, ""));
    for (uint32_t i = 0; i < lines; i++)
        assert_ok(buf_printf(&out, "%u\n", draw(kinds)));
    return buf_take_str(&out);
}

static void check_applies(const char *a, const char *b)
{
    CLEANUP(mem_freep) char *patch = diff(a, b);
    CLEANUP(mem_freep) char *got = apply(a, patch);

    assert_string_equal(got, b);
}

static void test_it_leads_from_one_to_the_other(void **state)
{
    (void)state;
    for (int round = 0; round < 2000; round++) {
        uint32_t kinds = 1 + draw(6);
        CLEANUP(mem_freep) char *a = random_text(draw(40), kinds);
        CLEANUP(mem_freep) char *b = random_text(draw(40), kinds);

        check_applies(a, b);
    }
}

/* More than TEXT_DIFF_MAX lines differ. */
static void test_what_differs_too_much_is_all_gone_and_all_new(void **state)
{
    CLEANUP(mem_freep) char *a = random_text(3000, 1000000);
    CLEANUP(mem_freep) char *b = random_text(3000, 1000000);

    (void)state;
    check_applies(a, b);
    check_applies(a, a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_differ_in_nothing),
        cmocka_unit_test(test_one_side_may_be_empty),
        cmocka_unit_test(test_three_lines_stand_around_a_change),
        cmocka_unit_test(test_near_changes_are_told_together),
        cmocka_unit_test(test_the_shortest_is_found),
        cmocka_unit_test(test_it_leads_from_one_to_the_other),
        cmocka_unit_test(test_what_differs_too_much_is_all_gone_and_all_new),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
