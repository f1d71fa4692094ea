/* Error values: each has a stable name, a text and somebody who is at fault; system errors keep
 * their number.
 *
 * Drives: R62. */
#include "lib/base/err.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/base/death.h"

static void test_names_are_unique_lower_case_words(void **state)
{
    (void)state;
    for (unsigned i = 0; i < E_NUM; i++) {
        const char *name = err_name((enum err_code)i);

        assert_true(strlen(name) > 0);
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(name));
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(name, err_name((enum err_code)j));
    }
}

static void test_names_texts_and_faults_are_those_of_the_table(void **state)
{
    (void)state;
    assert_string_equal(err_name(E_OK), "ok");
    assert_string_equal(err_name(E_AGAIN), "again");
    assert_string_equal(err_name(E_SVID_KEY_MISMATCH), "svid_key_mismatch");
    assert_string_equal(err_name(E_HTTP1_HEAD_TOO_LARGE), "http1_head_too_large");
    assert_string_equal(err_text(E_CERT_EXPIRED), "certificate expired");
    assert_int_equal(err_fault(E_CERT_EXPIRED), ERR_FAULT_PEER);
    assert_int_equal(err_fault(E_FILE_UNSAFE), ERR_FAULT_OPERATOR);
    assert_int_equal(err_fault(E_BUG), ERR_FAULT_BUG);
    assert_int_equal(err_fault(E_AGAIN), ERR_FAULT_NONE);
}

static void test_texts_are_there_for_all(void **state)
{
    (void)state;
    for (unsigned i = 0; i < E_NUM; i++) {
        assert_non_null(err_text((enum err_code)i));
        assert_true(strlen(err_text((enum err_code)i)) > 0);
    }
}

static void test_a_code_out_of_range_is_unknown_and_ours(void **state)
{
    (void)state;
    assert_string_equal(err_name((enum err_code)E_NUM), "unknown");
    assert_string_equal(err_text((enum err_code)E_NUM), "unknown error");
    assert_int_equal(err_fault((enum err_code)E_NUM), ERR_FAULT_BUG);
    assert_string_equal(err_name((enum err_code)0xffffffff), "unknown");
}

static err_t fails_with(int32_t sub)
{
    return FAIL(TLS_ALERT, sub);
}

static err_t tries(int32_t sub, bool *reached)
{
    TRY(OK);
    TRY(fails_with(sub));
    *reached = true;
    return OK;
}

static void test_try_passes_code_sub_and_place_up(void **state)
{
    bool reached = false;
    err_t err = tries(-42, &reached);

    (void)state;
    assert_false(reached);
    assert_true(err_is(err, E_TLS_ALERT));
    assert_false(err_is_ok(err));
    assert_int_equal(err.sub, -42);
    assert_non_null(strstr(err.where, "err_test.c:"));
    assert_true(err_is_ok(OK));
    assert_null(OK.where);
}

static void test_errno_keeps_its_number_and_finds_its_code(void **state)
{
    static const struct {
        int value;
        enum err_code code;
    } rows[] = {
        {EAGAIN, E_AGAIN},
        {ENOMEM, E_NO_MEMORY},
        {ENOENT, E_NOT_FOUND},
        {EEXIST, E_EXISTS},
        {EACCES, E_PERMISSION},
        {EPERM, E_PERMISSION},
        {EMFILE, E_FD_EXHAUSTED},
        {ENFILE, E_FD_EXHAUSTED},
        {EADDRINUSE, E_ADDR_IN_USE},
        {ECONNREFUSED, E_CONNECT_REFUSED},
        {ETIMEDOUT, E_TIMEOUT},
        {ENETUNREACH, E_CONNECT_FAILED},
        {EHOSTUNREACH, E_CONNECT_FAILED},
        {ECONNRESET, E_PEER_RESET},
        {EPIPE, E_PEER_RESET},
        {ENOSPC, E_IO},
        {EIO, E_IO},
        {0, E_IO},
        {99999, E_IO},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        err_t err = FAIL_ERRNO(rows[i].value);

        assert_int_equal(err.code, rows[i].code);
        assert_int_equal(err.sub, rows[i].value);
        assert_non_null(strstr(err.where, "err_test.c:"));
    }
}

static void check_it(void *arg)
{
    CHECK(*(const int *)arg == 1);
}

static void test_check_stops_the_process_only_when_it_does_not_hold(void **state)
{
    int good = 1, bad = 2;

    (void)state;
    assert_false(death_aborts(check_it, &good));
    assert_true(death_aborts(check_it, &bad));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_are_unique_lower_case_words),
        cmocka_unit_test(test_names_texts_and_faults_are_those_of_the_table),
        cmocka_unit_test(test_texts_are_there_for_all),
        cmocka_unit_test(test_a_code_out_of_range_is_unknown_and_ours),
        cmocka_unit_test(test_try_passes_code_sub_and_place_up),
        cmocka_unit_test(test_errno_keeps_its_number_and_finds_its_code),
        cmocka_unit_test(test_check_stops_the_process_only_when_it_does_not_hold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
