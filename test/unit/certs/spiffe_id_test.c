/* The grammar of SPIFFE IDs, byte by byte, and the forms that are issued.
 * Without it: two texts that one end takes for one identity and the other for two.
 * Drives: R5. */
#include "certs/spiffe_id.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static void test_parts(void **state)
{
    static const struct {
        const char *text;
        const char *domain;
        const char *path;
    } cases[] = {
        {"spiffe://example.org", "example.org", ""},
        {"spiffe://example.org/a", "example.org", "/a"},
        {"spiffe://a_b-c.0/ns/X/sa/y.z", "a_b-c.0", "/ns/X/sa/y.z"},
        {"spiffe://x/...", "x", "/..."},
        {"spiffe://x/.a/a.", "x", "/.a/a."},
        {"spiffe://-/-", "-", "/-"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct spiffe_id id;
        assert_int_equal(spiffe_id_parse(bytes_of_str(cases[i].text), &id).code, E_OK);
        assert_true(bytes_equal_str(id.text, cases[i].text));
        assert_true(bytes_equal_str(id.trust_domain, cases[i].domain));
        assert_true(bytes_equal_str(id.path, cases[i].path));
    }
}

static void test_wrong_ones_with_the_place(void **state)
{
    static const struct {
        const char *text;
        int at;
    } cases[] = {
        {"", 0},
        {"spiffe", 6},
        {"spiffe:/", 8},
        {"spiffe://", 9},
        {"SPIFFE://a", 0},
        {"Spiffe://a", 0},
        {" spiffe://a", 0},
        {"https://a/b", 0},
        {"spiffe:///a", 9},
        {"spiffe://A/b", 9},
        {"spiffe://a:1/b", 10},
        {"spiffe://u@a/b", 10},
        {"spiffe://a?b", 10},
        {"spiffe://a/b?c", 12},
        {"spiffe://a/b#c", 12},
        {"spiffe://a/%62", 11},
        {"spiffe://a/", 10},
        {"spiffe://a//", 11},
        {"spiffe://a//b", 11},
        {"spiffe://a/b/", 12},
        {"spiffe://a/.", 11},
        {"spiffe://a/..", 11},
        {"spiffe://a/./b", 11},
        {"spiffe://a/b/../c", 13},
        {"spiffe://a/b c", 12},
        {"spiffe://a/b~c", 12},
        {"spiffe://a/*", 11},
        {"spiffe://*/a", 9},
        {"spiffe://[::1]/a", 9},
        {"spiffe://\xc3\xa4/a", 9},
        {"spiffe://a/b\n", 12},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct spiffe_id id = {.path = {NULL, 7}};
        err_t err = spiffe_id_parse(bytes_of_str(cases[i].text), &id);
        if (err.code != E_SPIFFE_SYNTAX || err.sub != cases[i].at)
            print_error("%s: %s %d\n", cases[i].text, err_name(err.code), err.sub);
        assert_int_equal(err.code, E_SPIFFE_SYNTAX);
        assert_int_equal(err.sub, cases[i].at);
        assert_int_equal(id.path.len, 7); /* untouched */
    }
}

/* Every byte at every place: only the grammar's own pass. */
static void test_alphabet_is_exactly_this(void **state)
{
    static const char domain[] = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
    static const char path[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

    (void)state;
    for (int c = 0; c < 256; c++) {
        struct spiffe_id id;
        char text[] = "spiffe://aXb/cYd";
        text[10] = (char)c;
        text[14] = 'y';
        bool good = err_is_ok(spiffe_id_parse(bytes_of(text, sizeof text - 1), &id));
        bool slash = c == '/';
        assert_int_equal(good, slash || (c != 0 && strchr(domain, c) != NULL));
        text[10] = 'x';
        text[14] = (char)c;
        good = err_is_ok(spiffe_id_parse(bytes_of(text, sizeof text - 1), &id));
        assert_int_equal(good, slash || (c != 0 && strchr(path, c) != NULL));
    }
}

static void test_lengths_at_the_limit(void **state)
{
    char text[SPIFFE_ID_MAX + 2];
    struct spiffe_id id;
    err_t err;

    (void)state;
    memset(text, 'a', sizeof text);
    memcpy(text, "spiffe://", 9);
    text[9 + 255] = '/';
    assert_true(err_is_ok(spiffe_id_parse(bytes_of(text, SPIFFE_ID_MAX), &id)));
    assert_int_equal(id.trust_domain.len, 255);
    err = spiffe_id_parse(bytes_of(text, SPIFFE_ID_MAX + 1), &id);
    assert_int_equal(err.code, E_SPIFFE_SYNTAX);
    assert_int_equal(err.sub, SPIFFE_ID_MAX);
    text[9 + 255] = 'a';
    text[9 + 256] = '/';
    err = spiffe_id_parse(bytes_of(text, 1000), &id);
    assert_int_equal(err.sub, 9 + 255);
    assert_true(spiffe_trust_domain_valid(bytes_of(text + 9, 255)));
    assert_false(spiffe_trust_domain_valid(bytes_of(text + 9, 256)));
    assert_false(spiffe_trust_domain_valid(bytes_of(text, 0)));
    assert_false(spiffe_trust_domain_valid(bytes_of_str("Example.org")));
    assert_false(spiffe_trust_domain_valid(bytes_of_str("a/b")));
}

static void test_segments(void **state)
{
    (void)state;
    assert_true(spiffe_segment_valid(bytes_of_str("a-B_9.x")));
    assert_true(spiffe_segment_valid(bytes_of_str("...")));
    assert_false(spiffe_segment_valid(bytes_of_str("")));
    assert_false(spiffe_segment_valid(bytes_of_str(".")));
    assert_false(spiffe_segment_valid(bytes_of_str("..")));
    assert_false(spiffe_segment_valid(bytes_of_str("a/b")));
    assert_false(spiffe_segment_valid(bytes_of("a\0b", 3)));
}

static void test_issued_forms_parse(void **state)
{
    char *ids[] = {spiffe_id_of_workload("example.org", "apim", "portal"),
                   spiffe_id_of_control("example.org"), spiffe_id_of_admin("example.org", "eve")};
    static const char *const want[] = {"spiffe://example.org/ns/apim/sa/portal",
                                       "spiffe://example.org/mortise/control",
                                       "spiffe://example.org/mortise/admin/eve"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        struct spiffe_id id;
        assert_string_equal(ids[i], want[i]);
        assert_true(err_is_ok(spiffe_id_parse(bytes_of_str(ids[i]), &id)));
        mem_free(ids[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_wrong_ones_with_the_place),
        cmocka_unit_test(test_alphabet_is_exactly_this),
        cmocka_unit_test(test_lengths_at_the_limit),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_issued_forms_parse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
