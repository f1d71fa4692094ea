/* PEM as people's tools write it is read; what only looks like it is told with the line.
 * Drives: R14. */
#include "certs/pem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

#define BEGIN(label) "-----BEGIN " label "-----\n"
#define END(label) "-----END " label "-----\n"
#define ABC BEGIN("X") "YWJj\n" END("X") /* "abc" */

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)

static void test_what_is_read(void **state)
{
    static const struct {
        const char *text;
        size_t num;
        const char *first; /* content */
    } cases[] = {
        {"", 0, NULL},
        {"no PEM here\n", 0, NULL},
        {ABC, 1, "abc"},
        {ABC ABC, 2, "abc"},
        {"-----BEGIN X-----\r\nYWJj\r\n-----END X-----\r\n", 1, "abc"},
        {"-----BEGIN X-----\nYWJj\n-----END X-----", 1, "abc"},
        {"-----BEGIN X-----  \n  YW Jj\t\n-----END X-----\t\n", 1, "abc"},
        {"-----BEGIN X-----\nY\nW\nJ\nj\n-----END X-----\n", 1, "abc"},
        {"-----BEGIN X-----\n\nYWJj\n\n-----END X-----\n", 1, "abc"},
        {"-----BEGIN X-----\nYWI=\n-----END X-----\n", 1, "ab"},
        {"-----BEGIN X-----\nYQ==\n-----END X-----\n", 1, "a"},
        {"\xef\xbb\xbf" ABC, 1, "abc"},
        {"subject=CN = x\nissuer: y\n" ABC "\ntail ---- text\n", 1, "abc"},
        {"    0 s:CN=x\n" ABC, 1, "abc"},
        {"-----BEGIN X-----\nComment: y\nOther: z\n\nYWJj\n-----END X-----\n", 1, "abc"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct pem pem = {0};
        assert_ok(pem_parse(bytes_of_str(cases[i].text), &pem));
        assert_int_equal(pem.num, cases[i].num);
        if (cases[i].first != NULL) {
            assert_int_equal(pem.blocks[0].der_len, strlen(cases[i].first));
            assert_memory_equal(pem.blocks[0].der, cases[i].first, strlen(cases[i].first));
            assert_true(pem_is(&pem.blocks[0], "X"));
            assert_false(pem.blocks[0].encrypted);
        }
        pem_fini(&pem);
    }
}

static void test_what_is_refused_with_the_line(void **state)
{
    static const struct {
        const char *text;
        int line;
    } cases[] = {
        {"-----BEGIN X-----\nYWJj\n", 1},
        {"-----BEGIN X-----", 1},
        {"-----BEGIN X-----\n", 1},
        {"-----BEGIN X-----\n-----END X-----\n", 1},
        {"-----BEGIN X-----\n\n-----END X-----\n", 1},
        {"-----BEGIN X-----\nYWJj\n-----END Y-----\n", 3},
        {"-----BEGIN X-----\nYWJj\n-----END X----\n", 3},
        {"-----BEGIN X-----\nYWJj\n-----BEGIN X-----\n", 3},
        {"-----BEGIN X----\nYWJj\n-----END X-----\n", 1},
        {"-----BEGIN -----\nYWJj\n-----END -----\n", 1},
        {"-----BEGIN X\x01-----\nYWJj\n-----END X\x01-----\n", 1},
        {"-----END X-----\n", 1},
        {"\n\n-----BEGIN X-----\nYW!j\n-----END X-----\n", 4},
        {"-----BEGIN X-----\nYWJ\n-----END X-----\n", 1},
        {"-----BEGIN X-----\nYQ=\n-----END X-----\n", 1},
        {"-----BEGIN X-----\n=YWJ\n-----END X-----\n", 1},
        {"-----BEGIN X-----\nYW==YWJj\n-----END X-----\n", 1},
        {"-----BEGIN X-----\nYW_-\n-----END X-----\n", 2},
        {"-----BEGIN X-----\nA: b\nYWJj\n-----END X-----\n", 3},
        {"-----BEGIN X-----\nA: b\n", 2},
        {ABC "-----BEGIN X-----\nYWJj\n", 4},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct pem pem = {.num = 77};
        err_t err = pem_parse(bytes_of_str(cases[i].text), &pem);
        if (err.code != E_PEM_SYNTAX || err.sub != cases[i].line)
            print_error("case %zu: %s %d\n", i, err_name(err.code), err.sub);
        assert_int_equal(err.code, E_PEM_SYNTAX);
        assert_int_equal(err.sub, cases[i].line);
        assert_int_equal(pem.num, 77); /* untouched */
    }
}

static void test_nul_is_no_base64(void **state)
{
    static const char text[] = "-----BEGIN X-----\nYW\0Jj\n-----END X-----\n";
    struct pem pem;
    err_t err = pem_parse(bytes_of(text, sizeof text - 1), &pem);

    (void)state;
    assert_int_equal(err.code, E_PEM_SYNTAX);
    assert_int_equal(err.sub, 2);
}

static void test_old_encryption_is_marked(void **state)
{
    static const char text[] = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
                               "DEK-Info: AES-128-CBC,00\n\nYWJj\n-----END RSA PRIVATE KEY-----\n";
    struct pem pem;

    (void)state;
    assert_ok(pem_parse(bytes_of_str(text), &pem));
    assert_true(pem.blocks[0].encrypted);
    pem_fini(&pem);
}

static void test_limits(void **state)
{
    struct buf text = {0};
    struct pem pem;
    uint8_t *large = mem_zalloc(PEM_INPUT_MAX + 1);

    (void)state;
    memset(large, 'x', PEM_INPUT_MAX + 1);
    assert_ok(pem_parse(bytes_of(large, PEM_INPUT_MAX), &pem));
    pem_fini(&pem);
    assert_int_equal(pem_parse(bytes_of(large, PEM_INPUT_MAX + 1), &pem).code, E_TOO_LARGE);
    mem_free(large);
    for (size_t i = 0; i < PEM_BLOCKS_MAX; i++)
        assert_ok(buf_add_str(&text, ABC));
    assert_ok(pem_parse(buf_view(&text), &pem));
    assert_int_equal(pem.num, PEM_BLOCKS_MAX);
    pem_fini(&pem);
    assert_ok(buf_add_str(&text, ABC));
    assert_int_equal(pem_parse(buf_view(&text), &pem).code, E_TOO_LARGE);
    buf_fini(&text);
}

static void test_written_is_read(void **state)
{
    uint8_t data[300];

    (void)state;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    for (size_t len = 1; len <= sizeof data; len++) {
        struct buf text = {0};
        struct pem pem;
        assert_ok(pem_write("CERTIFICATE", bytes_of(data, len), &text));
        assert_ok(pem_parse(buf_view(&text), &pem));
        assert_int_equal(pem.num, 1);
        assert_int_equal(pem.blocks[0].der_len, len);
        assert_memory_equal(pem.blocks[0].der, data, len);
        pem_fini(&pem);
        for (size_t i = 0, column = 0; i < text.len; i++) {
            column = text.data[i] == '\n' ? 0 : column + 1;
            assert_true(column <= 64);
        }
        buf_fini(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_read),
        cmocka_unit_test(test_what_is_refused_with_the_line),
        cmocka_unit_test(test_nul_is_no_base64),
        cmocka_unit_test(test_old_encryption_is_marked),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_written_is_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
