/* What mortisectl prints: columns that line up, times that people read, and nothing that a terminal
 * obeys. Without it: a sidecar's name moves the operator's cursor, or scripts find columns shifted.
 * Drives: R63, R61, D7. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "control/ctl/table.h"

#define NOW INT64_C(1800000000)

static void check_time(int64_t unix_s, const char *text)
{
    char got[TABLE_TIME_MAX];

    table_time(unix_s, NOW, got);
    assert_string_equal(got, text);
}

static void test_times(void **state)
{
    (void)state;
    check_time(0, "");
    check_time(NOW, "2027-01-15T08:00:00Z (just now)");
    check_time(NOW + 119, "2027-01-15T08:01:59Z (in 119s)");
    check_time(NOW + 3600, "2027-01-15T09:00:00Z (in 60m)");
    check_time(NOW - 7200, "2027-01-15T06:00:00Z (2h ago)");
    check_time(NOW + 10 * 86400, "2027-01-25T08:00:00Z (in 10d)");
}

/* Prints the table into a file instead of standard output and returns what came. */
static void print_into(struct table *table, char *out, size_t size)
{
    char path[] = "/tmp/mortise-table-XXXXXX";
    int fd = mkstemp(path);
    int before = dup(STDOUT_FILENO);
    ssize_t len;

    assert_true(fd >= 0 && before >= 0);
    (void)fflush(stdout);
    assert_true(dup2(fd, STDOUT_FILENO) >= 0);
    table_print(table);
    (void)fflush(stdout);
    assert_true(dup2(before, STDOUT_FILENO) >= 0);
    len = pread(fd, out, size - 1, 0);
    assert_true(len >= 0);
    out[len] = '\0';
    (void)close(fd);
    (void)close(before);
    (void)unlink(path);
}

static void test_columns_line_up_and_lines_end_without_spaces(void **state)
{
    static const char *const heads[] = {"NAME", "STATE", NULL};
    struct table table = {.heads = heads};
    char got[512];

    (void)state;
    table_add(&table, "portal");
    table_add(&table, "ready");
    table_add(&table, "b\xc3\xbc"
                      "cher"); /* seven bytes, six columns */
    table_addf(&table, "refuses %d", 7);
    table_add(&table, "");
    table_add(&table, "x");
    print_into(&table, got, sizeof(got));
    assert_string_equal(got, "NAME    STATE\n"
                             "portal  ready\n"
                             "b\xc3\xbc"
                             "cher  refuses 7\n"
                             "-       x\n");
}

static void test_what_a_terminal_would_obey_is_written_out(void **state)
{
    static const char *const heads[] = {"A", NULL};
    struct table table = {.heads = heads};
    char got[512];

    (void)state;
    table_add(&table, "\x1b[2J\r\n\x07"
                      "gone");
    print_into(&table, got, sizeof(got));
    assert_null(strchr(got, '\x1b'));
    assert_null(strchr(got, '\r'));
    assert_null(strchr(got, '\x07'));
    assert_non_null(strstr(got, "gone"));
}

/* What a watch writes: a column before and one behind those of the rows, which come one by one. */
static void test_a_table_goes_on_below_itself(void **state)
{
    static const char *const heads[] = {"A", "B", NULL};
    struct table table = {.heads = heads, .first = {"HOW", "new"}, .last = {"MORE", ""}};
    char got[512];

    (void)state;
    table_add(&table, "longer than that");
    table.last.text = "x=y";
    table_add(&table, "1");
    print_into(&table, got, sizeof(got));
    assert_string_equal(got, "HOW  A                 B  MORE\n"
                             "new  longer than that  1  x=y\n");
    table.first.text = "old";
    table_add(&table, "a");
    table_add(&table, "2");
    table_add(&table, "b");
    table_add(&table, "3");
    print_into(&table, got, sizeof(got));
    assert_string_equal(got, "old  a                 2  x=y\n"
                             "old  b                 3  x=y\n");
    print_into(&table, got, sizeof(got));
    assert_string_equal(got, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_columns_line_up_and_lines_end_without_spaces),
        cmocka_unit_test(test_a_table_goes_on_below_itself),
        cmocka_unit_test(test_what_a_terminal_would_obey_is_written_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
