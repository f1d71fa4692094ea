/* Text: only well-formed UTF-8 passes, nothing that steers a terminal or reorders a line survives,
 * and a misspelt word finds the one that was meant but no word that was not.
 *
 * Drives: R63. */
#include "lib/base/str.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static size_t decode(const char *text, uint32_t *out)
{
    return str_utf8(bytes_of_str(text), out);
}

static void test_utf8_at_the_edges_of_each_length(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        uint32_t value;
    } rows[] = {
        {"a", 1, 'a'},
        {"\x7f", 1, 0x7f},
        {"\xc2\x80", 2, 0x80},
        {"\xdf\xbf", 2, 0x7ff},
        {"\xe0\xa0\x80", 3, 0x800},
        {"\xed\x9f\xbf", 3, 0xd7ff},
        {"\xee\x80\x80", 3, 0xe000},
        {"\xef\xbf\xbf", 3, 0xffff},
        {"\xf0\x90\x80\x80", 4, 0x10000},
        {"\xf4\x8f\xbf\xbf", 4, 0x10ffff},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint32_t value = 0;

        assert_int_equal(decode(rows[i].text, &value), rows[i].len);
        assert_int_equal(value, rows[i].value);
        /* The same, cut short by a byte, is none. */
        if (rows[i].len > 1)
            assert_int_equal(str_utf8(bytes_of(rows[i].text, rows[i].len - 1), &value), 0);
    }
}

static void test_utf8_refuses_overlong_surrogate_and_beyond(void **state)
{
    static const char *const bad[] = {"\x80",
                                      "\xbf",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xe0\x80\x80",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xed\xbf\xbf",
                                      "\xf0\x80\x80\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xf8\x88\x80\x80\x80",
                                      "\xff",
                                      "\xfe",
                                      "\xc3\x28",
                                      "\xe2\x28\xa1",
                                      "\xe2\x82\x28",
                                      "\xf0\x28\x8c\xbc",
                                      "\xc3"};
    uint32_t value;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(decode(bad[i], &value), 0);
}

static void test_cut_never_halves_a_character(void **state)
{
    const char *text = "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80z"; /* 1 + 2 + 3 + 4 + 1 */
    static const size_t want[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11, 11};

    (void)state;
    for (size_t max = 0; max < ARRAY_LEN(want); max++)
        assert_int_equal(str_utf8_cut(bytes_of_str(text), max), want[max]);
    /* Bytes that are no characters are cut anywhere. */
    assert_int_equal(str_utf8_cut(bytes_of_str("\x80\x80\x80\x80\x80"), 3), 3);
    assert_int_equal(str_utf8_cut(bytes_of_str("\xff\xff\xff"), 2), 2);
    assert_int_equal(str_utf8_cut(bytes_of(NULL, 0), 5), 0);
}

static void assert_escapes(const char *in, size_t in_len, bool quoted, const char *want)
{
    char out[256];
    size_t len = 0;

    assert_true(str_escape(out, sizeof(out), &len, bytes_of(in, in_len), quoted));
    assert_string_equal(out, want);
    assert_int_equal(len, strlen(want));
}

static void test_escape_makes_every_control_visible(void **state)
{
    (void)state;
    assert_escapes("plain text", 10, true, "plain text");
    assert_escapes("a\nb\rc\td", 7, true, "a\\nb\\rc\\td");
    assert_escapes("\0\x01\x1b[31m\x7f", 8, true, "\\u0000\\u0001\\u001b[31m\\u007f");
    assert_escapes("say \"hi\" \\", 10, true, "say \\\"hi\\\" \\\\");
    assert_escapes("say \"hi\" \\", 10, false, "say \"hi\" \\");
    assert_escapes("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 9, true,
                   "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
    /* C1 controls, right-to-left override, line separator, zero width space, byte order mark */
    assert_escapes("\xc2\x9b", 2, true, "\\u009b");
    assert_escapes("\xe2\x80\xae\xe2\x80\xa8\xe2\x80\x8b\xef\xbb\xbf", 12, false,
                   "\\u202e\\u2028\\u200b\\ufeff");
    assert_escapes("a\xff\xc3z\xe2\x82", 6, true,
                   "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbd");
}

static void test_escape_stops_at_whole_characters(void **state)
{
    char out[32];

    (void)state;
    for (size_t size = 1; size < 16; size++) {
        size_t len = 0;
        bool whole;

        memset(out, '#', sizeof(out));
        whole = str_escape(out, size, &len, bytes_of("\n\x01\xc3\xa4", 4), true);
        assert_int_equal(whole, size >= 2 + 6 + 2 + 1);
        assert_true(len < size);
        assert_int_equal(out[len], '\0');
        assert_int_equal(out[size], '#');
        assert_true(len == 0 || len == 2 || len == 8 || len == 10);
    }
}

static void test_escape_appends_and_refuses_a_full_buffer(void **state)
{
    char out[8] = "ab";
    size_t len = 2;

    (void)state;
    assert_true(str_escape(out, sizeof(out), &len, bytes_of("cd", 2), false));
    assert_string_equal(out, "abcd");
    len = sizeof(out);
    assert_false(str_escape(out, sizeof(out), &len, bytes_of("x", 1), false));
    assert_int_equal(len, sizeof(out));
}

static void test_plain_is_one_printable_word(void **state)
{
    (void)state;
    assert_true(str_is_plain(bytes_of_str("spiffe://mesh/ns/a/sa/b?x#1")));
    assert_true(str_is_plain(bytes_of_str("~")));
    assert_false(str_is_plain(bytes_of_str("")));
    assert_false(str_is_plain(bytes_of_str("a b")));
    assert_false(str_is_plain(bytes_of_str("a=b")));
    assert_false(str_is_plain(bytes_of_str("\"")));
    assert_false(str_is_plain(bytes_of_str("\\")));
    assert_false(str_is_plain(bytes_of_str("\x7f")));
    assert_false(str_is_plain(bytes_of_str("\xc3\xa4")));
    assert_false(str_is_plain(bytes_of("a\0b", 3)));
}

static void test_distance(void **state)
{
    char at_limit[STR_WORD_MAX + 2];

    (void)state;
    assert_int_equal(str_distance("", ""), 0);
    assert_int_equal(str_distance("", "abc"), 3);
    assert_int_equal(str_distance("abc", ""), 3);
    assert_int_equal(str_distance("workers", "workers"), 0);
    assert_int_equal(str_distance("wrokers", "workers"), 1);
    assert_int_equal(str_distance("worker", "workers"), 1);
    assert_int_equal(str_distance("wxrkers", "workers"), 1);
    assert_int_equal(str_distance("kitten", "sitting"), 3);
    assert_int_equal(str_distance("ab", "ba"), 1);
    assert_int_equal(str_distance("abcd", "badc"), 2);

    memset(at_limit, 'a', sizeof(at_limit));
    at_limit[STR_WORD_MAX] = '\0';
    assert_int_equal(str_distance(at_limit, at_limit), 0);
    assert_int_equal(str_distance(at_limit, ""), STR_WORD_MAX);
    at_limit[STR_WORD_MAX] = 'a';
    at_limit[STR_WORD_MAX + 1] = '\0';
    assert_int_equal(str_distance(at_limit, at_limit), SIZE_MAX);
    assert_int_equal(str_distance("a", at_limit), SIZE_MAX);
}

static void test_nearest_finds_what_was_meant_and_nothing_else(void **state)
{
    static const char *const names[] = {"config", NULL, "workers", "worker-name", "log", "ca"};

    (void)state;
    assert_int_equal(str_nearest("wrokers", names, 6), 2);
    assert_int_equal(str_nearest("worker", names, 6), 2);
    assert_int_equal(str_nearest("worker-nam", names, 6), 3);
    assert_int_equal(str_nearest("conifg", names, 6), 0);
    assert_int_equal(str_nearest("lgo", names, 6), 4);
    assert_int_equal(str_nearest("banana", names, 6), -1);
    assert_int_equal(str_nearest("", names, 6), -1);
    assert_int_equal(str_nearest("x", names, 6), -1);
    assert_int_equal(str_nearest("config", names, 0), -1);
    assert_int_equal(str_nearest("ca", names, 6), 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_at_the_edges_of_each_length),
        cmocka_unit_test(test_utf8_refuses_overlong_surrogate_and_beyond),
        cmocka_unit_test(test_cut_never_halves_a_character),
        cmocka_unit_test(test_escape_makes_every_control_visible),
        cmocka_unit_test(test_escape_stops_at_whole_characters),
        cmocka_unit_test(test_escape_appends_and_refuses_a_full_buffer),
        cmocka_unit_test(test_plain_is_one_printable_word),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_nearest_finds_what_was_meant_and_nothing_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
