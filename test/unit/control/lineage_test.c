/* Whether who approves is another person than who asks. Without it: one administrator invites a
 * second name of his own, and approves as that. Drives: R49. */
#include "control/lineage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/control/fixture.h"

#define OWN 990
#define SOCKET "uid:0"
#define OURSELVES "mortise-control"
#define BY(name) "spiffe://mesh.test/mortise/admin/" name

struct test {
    struct fixture *fixture;
    struct access *access;
    char reason[LINEAGE_REASON_MAX];
};

static int setup(void **state)
{
    struct test *test = mem_zalloc(sizeof(*test));

    test->fixture = fixture_new();
    assert_ok(access_open(test->fixture->vault, &test->access));
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    struct test *test = *state;

    access_free(test->access);
    fixture_free(test->fixture);
    mem_free(test);
    return 0;
}

static void bind(struct test *test, const char *subject, const char *role, const char *by)
{
    const struct access_author author = {by, FIXTURE_NOW_S};

    assert_ok(access_bind(test->access, subject, role, &author, NULL));
}

static bool apart_since(struct test *test, const char *asker, const char *approver, uint64_t stamp)
{
    return lineage_apart(test->access, OWN, asker, approver, stamp, test->reason);
}

/* Asked now. */
static bool apart(struct test *test, const char *asker, const char *approver)
{
    return apart_since(test, asker, approver, access_stamp(test->access));
}

static void test_who_was_invited_by_the_other_is_not_another(void **state)
{
    struct test *test = *state;

    bind(test, "alice", "admin", SOCKET);
    bind(test, "bob", "admin", SOCKET);
    bind(test, "second", "admin", BY("alice"));
    bind(test, "third", "admin", BY("second"));
    bind(test, "fourth", "viewer", BY("alice"));
    assert_true(apart(test, "alice", "bob"));
    assert_true(apart(test, "second", "bob"));
    assert_true(apart(test, "bob", "third"));

    assert_false(apart(test, "alice", "second"));
    assert_non_null(strstr(test->reason, "alice and second may be one person: alice has given"));
    assert_non_null(strstr(test->reason, "at the operator socket"));
    assert_false(apart(test, "alice", "third"));  /* by way of a third name */
    assert_false(apart(test, "second", "alice")); /* the other way round: he has both keys */
    assert_false(apart(test, "third", "fourth")); /* or asks by one, approves by another */
    assert_false(apart(test, "bob", "bob"));
}

static void test_who_vouches_last_counts(void **state)
{
    struct test *test = *state;

    bind(test, "alice", "admin", SOCKET);
    bind(test, "bob", "admin", SOCKET);
    /* A certificate, or an invitation, of another's name: the role is the same, the hands are not.
     */
    bind(test, "bob", "admin", BY("alice"));
    assert_false(apart(test, "alice", "bob"));
    bind(test, "bob", "admin", SOCKET);
    assert_true(apart(test, "alice", "bob"));
    /* His own name one vouches for by nothing: neither does that cut the line, nor make one. */
    bind(test, "second", "admin", BY("alice"));
    bind(test, "second", "operator", BY("second"));
    assert_false(apart(test, "alice", "second"));
    bind(test, "bob", "operator", BY("bob"));
    assert_true(apart(test, "alice", "bob"));
}

static void test_a_line_that_cannot_be_followed_is_none(void **state)
{
    struct test *test = *state;

    bind(test, "alice", "admin", SOCKET);
    bind(test, "mallory", "admin", SOCKET);
    bind(test, "second", "admin", BY("mallory"));
    bind(test, "third", "admin", BY("second"));
    /* The name between is taken away. */
    bind(test, "second", NULL, SOCKET);
    assert_false(apart(test, "mallory", "third"));
    assert_non_null(strstr(test->reason, "who gave third its role cannot be traced"));
    assert_false(apart(test, "third", "alice"));
    /* Two names that vouch for each other. */
    bind(test, "second", "admin", BY("third"));
    assert_false(apart(test, "alice", "third"));
    assert_false(apart(test, "alice", "nobody"));
    /* A name that reads like where lines begin. */
    bind(test, OURSELVES, "admin", BY("mallory"));
    bind(test, "fifth", "admin", BY(OURSELVES));
    assert_false(apart(test, "mallory", "fifth"));
}

static void test_the_host_is_one_person_with_whom_it_made(void **state)
{
    struct test *test = *state;

    bind(test, "admin", "admin", OURSELVES);
    bind(test, "alice", "admin", SOCKET);
    bind(test, "bob", "admin", "uid:990");
    bind(test, "uid:1000", "admin", SOCKET);
    assert_true(apart(test, "admin", "alice"));
    assert_true(apart(test, "alice", "bob"));
    assert_true(apart(test, "uid:1000", "bob"));
    assert_true(apart(test, "uid:0", "admin"));
    assert_false(apart(test, "uid:0", "alice"));
    assert_false(apart(test, "uid:0", "bob"));
    assert_false(apart(test, "alice", "uid:990"));
    assert_false(apart(test, "uid:0", "uid:990"));
}

static void test_a_role_that_is_newer_than_the_request_is_none(void **state)
{
    struct test *test = *state;
    uint64_t asked;

    bind(test, "alice", "admin", SOCKET);
    bind(test, "bob", "viewer", SOCKET);
    bind(test, "carol", "admin", SOCKET);
    asked = access_stamp(test->access);
    assert_true(apart_since(test, "alice", "bob", asked));
    bind(test, "bob", "admin", SOCKET); /* in the same second */
    bind(test, "dave", "admin", SOCKET);
    assert_false(apart_since(test, "alice", "bob", asked));
    assert_non_null(strstr(test->reason, "newer than the request"));
    assert_false(apart_since(test, "alice", "dave", asked));
    assert_true(apart_since(test, "alice", "carol", asked));
    bind(test, "carol", "admin", SOCKET); /* the same again is no change */
    assert_true(apart_since(test, "alice", "carol", asked));
    assert_true(apart(test, "alice", "bob"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_who_was_invited_by_the_other_is_not_another),
        TEST(test_who_vouches_last_counts),
        TEST(test_a_line_that_cannot_be_followed_is_none),
        TEST(test_the_host_is_one_person_with_whom_it_made),
        TEST(test_a_role_that_is_newer_than_the_request_is_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
