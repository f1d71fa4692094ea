/* Which administrators' certificates count. Without it: a certificate that was stolen from an
 * administrator stays good until it expires, and one that a stolen issuing key has made is never
 * told apart. Drives: F5, R46, R62. */
#include "control/admins.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/sha.h>

#include "certs/key.h"
#include "control/ca.h"
#include "test/unit/control/fixture.h"

#define ALICE "spiffe://" FIXTURE_TRUST_DOMAIN "/mortise/admin/alice"
#define MALLORY "spiffe://" FIXTURE_TRUST_DOMAIN "/mortise/admin/mallory"

struct bearer {
    struct peer peer; /* what verification has made of it */
    char serial[41];
    char id[128];
};

static int setup(void **state)
{
    struct fixture *fixture = fixture_new();

    fixture_start(fixture);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static struct bearer issue(struct fixture *fixture, const char *id, const char *reason,
                           uint64_t epoch)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct bearer bearer = {.peer = {.spiffe_id = NULL}};
    struct ca_request request = {
        .spiffe_id = id,
        .subsystem = "",
        .ttl_s = 3600,
        .reason = reason,
        .epoch = epoch,
    };
    struct ca_cert cert;

    assert_ok(key_generate(&request.public_key));
    assert_ok(ca_issue(fixture->ca, &request, &batch, &cert));
    memcpy(bearer.serial, cert.leaf.serial, sizeof(bearer.serial));
    SHA256(cert.leaf.der, cert.leaf.der_len, bearer.peer.leaf_sha256);
    (void)snprintf(bearer.id, sizeof(bearer.id), "%s", id);
    ca_cert_fini(&cert);
    EVP_PKEY_free(request.public_key);
    return bearer;
}

static bool accepts(const struct admins *admins, struct bearer *bearer)
{
    bearer->peer.serial = bearer->serial;
    bearer->peer.spiffe_id = bearer->id;
    return admins_accepts(admins, &bearer->peer);
}

static void test_all_of_before_are_refused_and_new_ones_are_not(void **state)
{
    struct fixture *fixture = *state;
    struct admins *admins = NULL;
    struct bearer old, new;

    assert_ok(admins_open(fixture->vault, &admins));
    assert_int_equal(admins_epoch(admins), 0);
    old = issue(fixture, ALICE, "admin", admins_epoch(admins));
    assert_true(accepts(admins, &old));
    assert_ok(admins_rotate(admins, 1));
    assert_false(accepts(admins, &old));
    new = issue(fixture, ALICE, "admin", admins_epoch(admins));
    assert_true(accepts(admins, &new));
    /* Also after the next start. */
    admins_free(admins);
    assert_ok(admins_open(fixture->vault, &admins));
    assert_int_equal(admins_epoch(admins), 1);
    assert_true(accepts(admins, &new) && !accepts(admins, &old));
    assert_ok(admins_rotate(admins, 2));
    assert_false(accepts(admins, &new) || accepts(admins, &old));
    admins_free(admins);
}

static void test_what_was_not_issued_here_as_such_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct admins *admins = NULL;
    struct bearer alice, bearer;

    assert_ok(admins_open(fixture->vault, &admins));
    alice = issue(fixture, ALICE, "admin", 0);
    assert_true(accepts(admins, &alice));

    bearer = alice; /* another's record: a stolen issuing key can sign any serial number */
    (void)snprintf(bearer.id, sizeof(bearer.id), "%s", MALLORY);
    assert_false(accepts(admins, &bearer));
    bearer = alice;
    bearer.peer.leaf_sha256[31] ^= 1;
    assert_false(accepts(admins, &bearer));
    bearer = alice;
    bearer.serial[0] = bearer.serial[0] == 'f' ? 'e' : 'f';
    assert_false(accepts(admins, &bearer));
    bearer = alice;
    bearer.serial[0] = '\0';
    assert_false(accepts(admins, &bearer));
    /* On record, but as something else. */
    bearer = issue(fixture, ALICE, "attest", 0);
    assert_false(accepts(admins, &bearer));
    bearer = issue(fixture, ALICE, "admin", 7); /* of an epoch that is still to come */
    assert_false(accepts(admins, &bearer));
    admins_free(admins);
}

static void test_what_is_not_stored_did_not_happen(void **state)
{
    struct fixture *fixture = *state;
    struct admins *admins = NULL;
    struct bearer alice;

    assert_ok(admins_open(fixture->vault, &admins));
    alice = issue(fixture, ALICE, "admin", 0);
    store_mem_set_unwritable(fixture->store, true);
    assert_code(admins_rotate(admins, 1), STORE_UNWRITABLE);
    store_mem_set_unwritable(fixture->store, false);
    assert_int_equal(admins_epoch(admins), 0);
    assert_true(accepts(admins, &alice));
    assert_ok(admins_rotate(admins, 1));
    assert_false(accepts(admins, &alice));
    admins_free(admins);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_all_of_before_are_refused_and_new_ones_are_not),
        TEST(test_what_was_not_issued_here_as_such_is_refused),
        TEST(test_what_is_not_stored_did_not_happen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
