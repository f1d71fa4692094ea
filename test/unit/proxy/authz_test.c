/* Who may be at the other end: deny unless a link says yes.
 *
 * Drives: R3, R13, R12 */
#include "proxy/authz.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

/* A peer as verification would give it. */
struct somebody {
    struct peer peer;
    char *names[2];
};

static const struct peer *somebody(struct somebody *out, const char *id, const char *dns)
{
    static char empty[1];

    memset(out, 0, sizeof(*out));
    refs_init(&out->peer.refs);
    out->peer.spiffe_id = id != NULL ? (char *)(uintptr_t)id : empty;
    out->names[0] = (char *)(uintptr_t)dns;
    out->peer.dns_names = out->names;
    return &out->peer;
}

static const char *const id_a[] = {"spiffe://mesh.test/ns/x/sa/a"};
static const char *const id_b[] = {"spiffe://mesh.test/ns/x/sa/b",
                                   "spiffe://mesh.test/ns/x/sa/both"};
static const char *const id_c[] = {"spiffe://mesh.test/ns/x/sa/c",
                                   "spiffe://mesh.test/ns/x/sa/both"};

static struct link links[] = {
    {.direction = DIRECTION_INBOUND,
     .index = 0,
     .peers = {.spiffe_ids = id_a, .num_spiffe_ids = 1}},
    {.direction = DIRECTION_INBOUND,
     .index = 1,
     .peers = {.spiffe_ids = id_b, .num_spiffe_ids = 2}},
    {.direction = DIRECTION_INBOUND,
     .index = 2,
     .peers = {.spiffe_ids = id_c, .num_spiffe_ids = 2}},
};
static const struct snapshot snapshot = {.inbound = links, .num_inbound = 3};

static void test_the_server_must_be_the_expected_one(void **state)
{
    struct somebody who;

    (void)state;
    assert_true(err_is_ok(authz_server(&links[0], somebody(&who, id_a[0], NULL))));
    assert_true(err_is(authz_server(&links[0], somebody(&who, id_b[0], NULL)), E_PEER_IDENTITY));
    assert_true(err_is(authz_server(&links[0], NULL), E_CERT_MISSING));
}

/* Not a prefix, not a suffix, not another case: byte for byte. */
static void test_near_misses_are_misses(void **state)
{
    static const char *const near[] = {
        "spiffe://mesh.test/ns/x/sa/a/",  "spiffe://mesh.test/ns/x/sa/aa",
        "spiffe://mesh.test/ns/x/sa",     "spiffe://mesh.test/ns/x/sa/A",
        "spiffe://mesh-test/ns/x/sa/a",   "spiffe://mesh.test.evil/ns/x/sa/a",
        "spiffe://mesh.test/ns/x/sa/a?b", "",
    };
    struct somebody who;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(near); i++)
        assert_true(
            err_is(authz_server(&links[0], somebody(&who, near[i], NULL)), E_PEER_IDENTITY));
}

static void test_a_dns_name_is_no_spiffe_id(void **state)
{
    static const char *const dns[] = {"db.example.org"};
    const struct link link = {.peers = {.dns_names = dns, .num_dns_names = 1}};
    struct somebody who;

    (void)state;
    assert_true(err_is_ok(authz_server(&link, somebody(&who, NULL, "DB.example.org"))));
    assert_false(err_is_ok(authz_server(&link, somebody(&who, "db.example.org", NULL))));
    assert_false(err_is_ok(authz_server(&links[0], somebody(&who, NULL, id_a[0]))));
}

static void test_a_chosen_link_admits_its_own_peers_only(void **state)
{
    const struct link *out = NULL;
    struct somebody who;

    (void)state;
    assert_true(err_is_ok(authz_client(&snapshot, 1, somebody(&who, id_b[0], NULL), &out)));
    assert_ptr_equal(out, &links[1]);
    out = NULL;
    assert_true(
        err_is(authz_client(&snapshot, 1, somebody(&who, id_a[0], NULL), &out), E_PEER_DENIED));
    assert_null(out);
}

static void test_without_a_name_the_one_link_that_allows(void **state)
{
    const struct link *out = NULL;
    struct somebody who;

    (void)state;
    assert_true(err_is_ok(authz_client(&snapshot, -1, somebody(&who, id_c[0], NULL), &out)));
    assert_ptr_equal(out, &links[2]);
    out = NULL;
    /* Two allow it: none is guessed. */
    assert_true(err_is(authz_client(&snapshot, -1, somebody(&who, id_b[1], NULL), &out),
                       E_TLS_SNI_UNKNOWN));
    assert_null(out);
    assert_true(
        err_is(authz_client(&snapshot, -1, somebody(&who, "spiffe://mesh.test/z", NULL), &out),
               E_PEER_DENIED));
}

static void test_nobody_is_denied_before_any_rule(void **state)
{
    const struct snapshot none = {.num_inbound = 0};
    const struct link *out = NULL;
    struct somebody who;

    (void)state;
    assert_true(err_is(authz_client(&snapshot, 0, NULL, &out), E_CERT_MISSING));
    assert_true(err_is(authz_client(&snapshot, -1, NULL, &out), E_CERT_MISSING));
    assert_true(
        err_is(authz_client(&none, -1, somebody(&who, id_a[0], NULL), &out), E_PEER_DENIED));
    assert_null(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_server_must_be_the_expected_one),
        cmocka_unit_test(test_near_misses_are_misses),
        cmocka_unit_test(test_a_dns_name_is_no_spiffe_id),
        cmocka_unit_test(test_a_chosen_link_admits_its_own_peers_only),
        cmocka_unit_test(test_without_a_name_the_one_link_that_allows),
        cmocka_unit_test(test_nobody_is_denied_before_any_rule),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
