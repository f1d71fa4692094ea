/* The table of who may call what is made of the schemas, and none is made while an RPC does not
 * say. Without it: a new RPC is open, or closed, to whom nobody has thought about. Drives: R46. */
#include "proto/permission_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct made {
    bool ok;
    char *out;
    char *err;
    size_t out_len, err_len;
};

static struct made make(const uint8_t *set, size_t len)
{
    struct made made = {.ok = false};
    FILE *out = open_memstream(&made.out, &made.out_len);
    FILE *err = open_memstream(&made.err, &made.err_len);

    assert_non_null(out);
    assert_non_null(err);
    made.ok = permission_table(set, len, out, err);
    fclose(out);
    fclose(err);
    return made;
}

static void made_free(struct made *made)
{
    free(made->out);
    free(made->err);
}

static size_t read_set(const char *path, uint8_t *out, size_t max)
{
    FILE *file = fopen(path, "rb");
    size_t len;

    assert_non_null(file);
    len = fread(out, 1, max, file);
    fclose(file);
    assert_true(len > 0 && len < max);
    return len;
}

static void test_each_rpc_is_a_row(void **state)
{
    static uint8_t set[16384];
    size_t len = read_set("test/unit/proto/closed.ds", set, sizeof(set));
    struct made made = make(set, len);

    (void)state;
    assert_true(made.ok);
    assert_non_null(strstr(made.out, "ROW(\"/mortise.test.Closed/Look\", 10)\n"
                                     "ROW(\"/mortise.test.Closed/Change\", 15)\n"));
    assert_int_equal(made.err_len, 0);
    made_free(&made);
}

static void test_an_rpc_without_a_permission_breaks_the_build(void **state)
{
    static uint8_t set[16384];
    size_t len = read_set("test/unit/proto/forgotten.ds", set, sizeof(set));
    struct made made = make(set, len);

    (void)state;
    assert_false(made.ok);
    assert_non_null(strstr(made.err, "forgotten.proto: rpc Forgotten.Change: does not say"));
    assert_non_null(strstr(made.err, "rpc Forgotten.Nobody: does not say"));
    assert_null(strstr(made.err, "Forgotten.Look"));
    made_free(&made);
}

static void test_what_is_no_set_makes_no_table(void **state)
{
    static const uint8_t noise[] = {0x0a, 0x7f, 0x01};
    struct made made = make(noise, sizeof(noise));

    (void)state;
    assert_false(made.ok);
    made_free(&made);
    made = make(noise, 0); /* of no schemas */
    assert_false(made.ok);
    assert_non_null(strstr(made.err, "no rpc"));
    made_free(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_rpc_is_a_row),
        cmocka_unit_test(test_an_rpc_without_a_permission_breaks_the_build),
        cmocka_unit_test(test_what_is_no_set_makes_no_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
