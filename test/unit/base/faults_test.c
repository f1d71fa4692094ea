/* Faults: all are counted, the first sixty-four kept; each is one line whatever the input was;
 * paths survive any depth.
 *
 * Drives: B6, R14, R63. */
#include "lib/base/faults.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static char *text_of(const struct faults *faults)
{
    struct buf buf = {0};

    faults_text(faults, &buf);
    return buf_take_str(&buf);
}

static void test_none_is_ok(void **state)
{
    struct faults faults = {.num = 0};
    char *text = text_of(&faults);

    (void)state;
    assert_int_equal(faults_err(&faults).code, E_OK);
    assert_string_equal(text, "");
    mem_free(text);
    faults_fini(&faults);
}

static void test_each_is_a_line_with_its_path(void **state)
{
    struct faults faults = {.num = 0};
    char path[] = "links[2].profile";
    char *text;

    (void)state;
    faults_add(&faults, path, "no profile \"%s\"; there are: %s", "x", "modern");
    path[0] = 'X'; /* copied */
    faults_add(&faults, "", "file is empty");
    text = text_of(&faults);
    assert_string_equal(text, "links[2].profile: no profile \"x\"; there are: modern\n"
                              "file is empty\n");
    mem_free(text);
    assert_int_equal(faults_err(&faults).code, E_CONFIG_INVALID);
    assert_int_equal(faults_err(&faults).sub, 2);
    faults_fini(&faults);
    assert_int_equal(faults_err(&faults).code, E_OK);
    faults_fini(&faults);
}

static void test_more_than_the_limit_are_counted(void **state)
{
    for (size_t num = FAULTS_MAX - 1; num <= FAULTS_MAX + 1; num++) {
        struct faults faults = {.num = 0};
        char *text;

        for (size_t i = 0; i < num; i++)
            faults_add(&faults, "p", "m");
        assert_int_equal(faults.num, num < FAULTS_MAX ? num : FAULTS_MAX);
        assert_int_equal(faults.total, num);
        assert_int_equal(faults_err(&faults).sub, num);
        text = text_of(&faults);
        if (num > FAULTS_MAX)
            assert_string_equal(text + FAULTS_MAX * 5, "and 1 more\n");
        else
            assert_int_equal(strlen(text), num * 5);
        mem_free(text);
        faults_fini(&faults);
    }
    (void)state;
}

static void test_messages_are_cut_at_512_bytes_between_characters(void **state)
{
    for (size_t len = 500; len < 1100; len++) {
        struct faults faults = {.num = 0};
        char message[1101];
        const char *kept;

        memset(message, 'a', len);
        memcpy(message + len - len % 2, "", 1);
        for (size_t i = 0; i + 1 < len; i += 2)
            memcpy(message + i, "\xc3\xa4", 2);
        faults_add(&faults, message, "%s", message);
        kept = faults.items[0].message;
        assert_true(strlen(kept) < 512);
        assert_int_equal(strstr(kept, "\xe2\x80\xa6") != NULL, strlen(message) > 509);
        assert_null(strstr(kept, "\xef\xbf\xbd"));
        assert_true(strlen(faults.items[0].path) < 512);
        assert_null(strstr(faults.items[0].path, "\xef\xbf\xbd"));
        faults_fini(&faults);
    }
    (void)state;
}

static void test_hostile_text_stays_on_its_line(void **state)
{
    struct faults faults = {.num = 0};
    char *text;

    (void)state;
    faults_add(&faults, "links[0].na\nme", "no profile \"%s\"", "x\n\x1b[2J\xff--ok");
    text = text_of(&faults);
    assert_string_equal(text, "links[0].na\\nme: no profile \"x\\n\\u001b[2J\xef\xbf\xbd--ok\"\n");
    mem_free(text);
    faults_fini(&faults);
}

static void test_a_small_buffer_gets_the_first_lines_whole(void **state)
{
    struct faults faults = {.num = 0};
    struct buf buf;

    (void)state;
    faults_add(&faults, "a", "one");
    faults_add(&faults, "b", "two");
    buf_init(&buf, 10);
    faults_text(&faults, &buf);
    assert_true(bytes_equal_str(buf_view(&buf), "a: one\n"));
    buf_fini(&buf);
    faults_fini(&faults);
}

static void test_paths_push_and_pop(void **state)
{
    struct fault_path path = {.len = 0};
    size_t links, index, field;

    (void)state;
    links = fault_path_field(&path, "links");
    index = fault_path_index(&path, 2);
    field = fault_path_field(&path, "profile");
    assert_string_equal(path.text, "links[2].profile");
    fault_path_pop(&path, field);
    assert_string_equal(path.text, "links[2]");
    fault_path_pop(&path, index);
    assert_string_equal(path.text, "links");
    fault_path_pop(&path, links);
    assert_string_equal(path.text, "");
    assert_int_equal(fault_path_index(&path, SIZE_MAX), 0);
    assert_string_equal(path.text, "[18446744073709551615]");
}

static void test_a_path_too_deep_is_cut_and_comes_back(void **state)
{
    struct fault_path path = {.len = 0};
    size_t marks[300];
    char at_10[sizeof(path.text)] = "";

    (void)state;
    for (int i = 0; i < 300; i++) {
        if (i == 10)
            memcpy(at_10, path.text, sizeof(at_10));
        marks[i] = i % 2 == 0 ? fault_path_field(&path, "f\xc3\xa4ld")
                              : fault_path_index(&path, (size_t)i);
        assert_true(path.len < sizeof(path.text));
        assert_int_equal(strlen(path.text), path.len);
    }
    assert_true(path.len > sizeof(path.text) - 10);
    for (int i = 299; i >= 10; i--)
        fault_path_pop(&path, marks[i]);
    assert_string_equal(path.text, at_10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none_is_ok),
        cmocka_unit_test(test_each_is_a_line_with_its_path),
        cmocka_unit_test(test_more_than_the_limit_are_counted),
        cmocka_unit_test(test_messages_are_cut_at_512_bytes_between_characters),
        cmocka_unit_test(test_hostile_text_stays_on_its_line),
        cmocka_unit_test(test_a_small_buffer_gets_the_first_lines_whole),
        cmocka_unit_test(test_paths_push_and_pop),
        cmocka_unit_test(test_a_path_too_deep_is_cut_and_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
