/* The CA: what it signs is what it was asked for and what it has on record, and nothing leaves
 * unrecorded. Without it: a certificate exists that nobody knows of, or one that says more than it
 * should. Drives: R35, R37, R39, R40, R41. */
#include "control/ca.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/sha.h>

#include "certs/key.h"
#include "certs/svid.h"
#include "control/msg.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define ID "spiffe://mesh.test/ns/default/sa/portal"

struct ca_state {
    struct fixture *fixture;
    EVP_PKEY *key;
};

static int setup(void **state)
{
    struct ca_state *test = mem_zalloc(sizeof(*test));

    test->fixture = fixture_new();
    fixture_start(test->fixture);
    assert_ok(key_generate(&test->key));
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    struct ca_state *test = *state;

    fixture_free(test->fixture);
    EVP_PKEY_free(test->key);
    mem_free(test);
    return 0;
}

static err_t issue(struct ca_state *test, int64_t ttl_s, struct ca_cert *out)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const struct ca_request request = {
        .spiffe_id = ID,
        .subsystem = "portal",
        .public_key = test->key,
        .ttl_s = ttl_s,
        .reason = "attest",
        .epoch = 7,
    };

    return ca_issue(test->fixture->ca, &request, &batch, out);
}

static void test_a_certificate_is_good_for_its_key_and_on_record(void **state)
{
    struct ca_state *test = *state;
    const Mortise__Control__Issuance *record;
    struct ca_cert cert;
    struct svid *svid = NULL;
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];
    uint8_t sha256[SHA256_DIGEST_LENGTH];

    assert_ok(issue(test, 86400, &cert));
    assert_ok(svid_of_der(cert.chain, cert.num_chain, test->key, ca_bundle(test->fixture->ca),
                          FIXTURE_NOW_S, &svid));
    assert_string_equal(svid->spiffe_id, ID);
    assert_int_equal(cert.leaf.not_before, FIXTURE_NOW_S - ISSUE_BACKDATE_S);
    assert_int_equal(cert.leaf.not_after, FIXTURE_NOW_S + 86400);

    vault_path(VAULT_CERTS, cert.leaf.serial, path);
    assert_ok(vault_get(test->fixture->vault, path, &msg, NULL));
    record = MSG_AS(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    assert_string_equal(record->spiffe_id, ID);
    assert_string_equal(record->reason, "attest");
    assert_int_equal(record->epoch, 7);
    assert_int_equal(record->issued_at, FIXTURE_NOW_S);
    SHA256(cert.leaf.der, cert.leaf.der_len, sha256);
    assert_memory_equal(record->sha256.data, sha256, sizeof(sha256));
    pb_free(msg);
    svid_unref(svid);
    ca_cert_fini(&cert);
}

static void test_no_record_no_certificate(void **state)
{
    struct ca_state *test = *state;
    struct ca_cert cert = {.chain = {{NULL, 0}}};

    store_mem_set_unwritable(test->fixture->store, true);
    assert_code(issue(test, 86400, &cert), STORE_UNWRITABLE);
    assert_null(cert.leaf.der);
    store_mem_set_unwritable(test->fixture->store, false);
    assert_ok(issue(test, 86400, &cert));
    ca_cert_fini(&cert);
}

static void test_what_goes_with_it_happens_with_it_or_not_at_all(void **state)
{
    struct ca_state *test = *state;
    Mortise__Control__Token token = MORTISE__CONTROL__TOKEN__INIT;
    struct vault_batch batch = {0};
    struct ca_request request = {.spiffe_id = ID,
                                 .subsystem = "portal",
                                 .public_key = test->key,
                                 .ttl_s = 3600,
                                 .reason = "attest"};
    struct store_items items;
    struct ca_cert cert;

    /* The token's record has changed meanwhile: neither is it used nor is anything issued. */
    assert_ok(vault_batch_put(test->fixture->vault, &batch, "token/x", &token.base, 12345));
    assert_code(ca_issue(test->fixture->ca, &request, &batch, &cert), STORE_CONFLICT);
    assert_ok(store_list(test->fixture->store, VAULT_CERTS, &items));
    assert_int_equal(items.num, 0);
    store_items_fini(&items);
    vault_batch_fini(&batch);
}

static void test_serials_differ(void **state)
{
    struct ca_state *test = *state;
    char seen[50][41];

    for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
        struct ca_cert cert;

        assert_ok(issue(test, 3600, &cert));
        memcpy(seen[i], cert.leaf.serial, sizeof(seen[i]));
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(seen[i], seen[j]);
        ca_cert_fini(&cert);
    }
}

static void test_a_clock_that_went_back_issues_nothing(void **state)
{
    struct ca_state *test = *state;
    struct ca_cert cert;

    assert_ok(issue(test, 3600, &cert));
    ca_cert_fini(&cert);
    test->fixture->clock.wall_s -= 1;
    assert_code(issue(test, 3600, &cert), CLOCK_BACKWARDS);
    assert_code(ca_state(test->fixture->ca), CLOCK_BACKWARDS);
    assert_code(ca_maintain(test->fixture->ca), CLOCK_BACKWARDS);
    /* A restart does not make it forget. */
    fixture_stop(test->fixture);
    fixture_start(test->fixture);
    assert_code(issue(test, 3600, &cert), CLOCK_BACKWARDS);
    test->fixture->clock.wall_s += 1;
    assert_ok(issue(test, 3600, &cert));
    ca_cert_fini(&cert);
}

static void test_an_issuer_that_is_not_valid_now_signs_nothing(void **state)
{
    struct ca_state *test = *state;
    struct ca_cert cert;

    fixture_pass(test->fixture, CA_ISSUER_TTL_S + 1);
    assert_code(issue(test, 3600, &cert), CA_CANNOT_SIGN);
    /* Maintenance makes a new one. */
    assert_ok(ca_maintain(test->fixture->ca));
    assert_ok(issue(test, 3600, &cert));
    ca_cert_fini(&cert);
}

static void test_the_issuer_is_renewed_at_half_its_life_under_the_same_root(void **state)
{
    struct ca_state *test = *state;
    int64_t before = ca_issuer_not_after(test->fixture->ca);
    struct ca_cert old, new;
    struct svid *svid = NULL;

    assert_ok(issue(test, 604800, &old));
    fixture_pass(test->fixture, CA_ISSUER_TTL_S / 3);
    assert_ok(ca_maintain(test->fixture->ca));
    assert_int_equal(ca_issuer_not_after(test->fixture->ca), before);
    fixture_pass(test->fixture, CA_ISSUER_TTL_S / 3);
    assert_ok(ca_maintain(test->fixture->ca));
    assert_true(ca_issuer_not_after(test->fixture->ca) > before);
    assert_ok(issue(test, 3600, &new));
    assert_ok(svid_of_der(new.chain, new.num_chain, test->key, ca_bundle(test->fixture->ca),
                          test->fixture->clock.wall_s, &svid));
    svid_unref(svid);
    ca_cert_fini(&old);
    ca_cert_fini(&new);
    /* It is the stored one, too. */
    before = ca_issuer_not_after(test->fixture->ca);
    fixture_stop(test->fixture);
    fixture_start(test->fixture);
    assert_int_equal(ca_issuer_not_after(test->fixture->ca), before);
}

static void test_a_leaf_ends_with_its_issuer(void **state)
{
    struct ca_state *test = *state;
    struct ca_cert cert;

    fixture_pass(test->fixture, CA_ISSUER_TTL_S - 3600);
    assert_ok(issue(test, 86400, &cert));
    assert_true(cert.leaf.not_after <= ca_issuer_not_after(test->fixture->ca));
    ca_cert_fini(&cert);
}

static void test_lives_out_of_range_are_refused(void **state)
{
    struct ca_state *test = *state;
    struct ca_cert cert;

    assert_false(err_is_ok(issue(test, 0, &cert)));
    assert_false(err_is_ok(issue(test, -5, &cert)));
    assert_false(err_is_ok(issue(test, ISSUE_TTL_MAX_S + 1, &cert)));
}

static void test_old_records_go_but_never_the_last(void **state)
{
    struct ca_state *test = *state;
    struct store_items items;
    struct ca_cert cert;

    for (int i = 0; i < 3; i++) {
        assert_ok(issue(test, 3600, &cert));
        ca_cert_fini(&cert);
        fixture_pass(test->fixture, 10);
    }
    fixture_pass(test->fixture, 3600 + CA_KEEP_EXPIRED_S);
    assert_ok(ca_maintain(test->fixture->ca));
    assert_ok(store_list(test->fixture->store, VAULT_CERTS, &items));
    assert_int_equal(items.num, 1);
    store_items_fini(&items);
}

/* The root's key under the issuer's path, or another mesh's issuer, must not go unnoticed. */
static void test_records_that_do_not_belong_together_are_refused(void **state)
{
    struct ca_state *test = *state;
    struct fixture *other = fixture_new();
    struct ca_params params = {.vault = test->fixture->vault,
                               .clock = &test->fixture->clock.clock,
                               .trust_domain = FIXTURE_TRUST_DOMAIN};
    struct buf sealed = {0};
    struct ca *ca = NULL;

    fixture_start(other);
    assert_ok(store_get(other->store, VAULT_ISSUER, &sealed, NULL));
    store_mem_poke(test->fixture->store, VAULT_ISSUER, buf_view(&sealed)); /* same key, same path */
    assert_code(ca_open(&params, &ca), STORE_CORRUPT);
    buf_fini(&sealed);
    fixture_free(other);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_certificate_is_good_for_its_key_and_on_record),
        TEST(test_no_record_no_certificate),
        TEST(test_what_goes_with_it_happens_with_it_or_not_at_all),
        TEST(test_serials_differ),
        TEST(test_a_clock_that_went_back_issues_nothing),
        TEST(test_an_issuer_that_is_not_valid_now_signs_nothing),
        TEST(test_the_issuer_is_renewed_at_half_its_life_under_the_same_root),
        TEST(test_a_leaf_ends_with_its_issuer),
        TEST(test_lives_out_of_range_are_refused),
        TEST(test_old_records_go_but_never_the_last),
        TEST(test_records_that_do_not_belong_together_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
