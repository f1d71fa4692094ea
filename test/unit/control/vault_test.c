/* Sealed records: only the right key opens them, only at their own path, only unchanged.
 * Without it: whoever can write the store can give the control plane another CA, mesh or token.
 * Drives: R45, R53, D1. */
#include "control/vault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/msg.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

static int setup(void **state)
{
    *state = fixture_new();
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void put_settings(struct fixture *fixture, const char *path, const char *trust_domain)
{
    Mortise__Control__Settings record = MORTISE__CONTROL__SETTINGS__INIT;

    record.trust_domain = msg_lend(trust_domain);
    assert_ok(vault_put(fixture->vault, path, &record.base, STORE_ABSENT, NULL));
}

static void put_token(struct fixture *fixture, const char *path, const char *subsystem)
{
    Mortise__Control__Token record = MORTISE__CONTROL__TOKEN__INIT;

    record.subsystem = msg_lend(subsystem);
    assert_ok(vault_put(fixture->vault, path, &record.base, STORE_ABSENT, NULL));
}

static void test_a_record_comes_back_as_it_was(void **state)
{
    struct fixture *fixture = *state;
    ProtobufCMessage *msg = NULL;

    put_settings(fixture, VAULT_SETTINGS, "mesh.test");
    assert_ok(vault_get(fixture->vault, VAULT_SETTINGS, &msg, NULL));
    assert_string_equal(
        MSG_AS(Mortise__Control__Settings, mortise__control__settings__descriptor, msg)
            ->trust_domain,
        "mesh.test");
    pb_free(msg);
    assert_code(vault_get(fixture->vault, VAULT_MESH, &msg, NULL), NOT_FOUND);
}

static void test_the_store_sees_no_content(void **state)
{
    struct fixture *fixture = *state;
    struct buf raw = {0};

    put_settings(fixture, VAULT_SETTINGS, "a-very-secret-name.test");
    assert_ok(store_get(fixture->store, VAULT_SETTINGS, &raw, NULL));
    assert_null(memmem(buf_view(&raw).ptr, buf_size(&raw), "secret", 6));
    buf_fini(&raw);
}

static void test_every_changed_byte_is_noticed(void **state)
{
    struct fixture *fixture = *state;
    struct buf raw = {0};
    uint8_t *copy;
    size_t len;

    put_settings(fixture, VAULT_SETTINGS, "mesh.test");
    assert_ok(store_get(fixture->store, VAULT_SETTINGS, &raw, NULL));
    len = buf_size(&raw);
    copy = mem_dup(buf_view(&raw).ptr, len);
    for (size_t i = 0; i < len; i++) {
        ProtobufCMessage *msg = NULL;
        err_t err;

        copy[i] ^= 0x10;
        store_mem_poke(fixture->store, VAULT_SETTINGS, bytes_of(copy, len));
        err = vault_get(fixture->vault, VAULT_SETTINGS, &msg, NULL);
        /* The key's own id is in front: a change there reads as another key. */
        assert_true(err_is(err, E_STORE_CORRUPT) || err_is(err, E_KEK_UNAVAILABLE));
        copy[i] ^= 0x10;
    }
    for (size_t cut = 0; cut < len; cut += 5) {
        ProtobufCMessage *msg = NULL;

        store_mem_poke(fixture->store, VAULT_SETTINGS, bytes_of(copy, cut));
        assert_false(err_is_ok(vault_get(fixture->vault, VAULT_SETTINGS, &msg, NULL)));
    }
    mem_free(copy);
    buf_fini(&raw);
}

static void test_two_records_that_change_places_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct faults faults = {0};
    struct buf a = {0}, b = {0};
    ProtobufCMessage *msg = NULL;

    put_token(fixture, "token/aa", "portal");
    put_token(fixture, "token/bb", "management");
    assert_ok(store_get(fixture->store, "token/aa", &a, NULL));
    assert_ok(store_get(fixture->store, "token/bb", &b, NULL));
    store_mem_poke(fixture->store, "token/aa", buf_view(&b));
    store_mem_poke(fixture->store, "token/bb", buf_view(&a));
    assert_code(vault_get(fixture->vault, "token/aa", &msg, NULL), STORE_CORRUPT);
    /* Both are told by path. */
    assert_code(vault_verify(fixture->vault, &faults), STORE_CORRUPT);
    assert_true(fixture_has(&faults, "token/aa", "does not open"));
    assert_true(fixture_has(&faults, "token/bb", "does not open"));
    faults_fini(&faults);
    buf_fini(&a);
    buf_fini(&b);
}

static void test_another_key_is_told_apart_from_damage(void **state)
{
    struct fixture *fixture = *state;
    struct seal_key other = fixture_key(2);
    struct faults faults = {0};
    struct vault *stranger;
    struct buf raw = {0};
    struct store *copy = store_mem_new();
    ProtobufCMessage *msg = NULL;

    put_settings(fixture, VAULT_SETTINGS, "mesh.test");
    assert_ok(store_get(fixture->store, VAULT_SETTINGS, &raw, NULL));
    assert_ok(store_put_if(copy, VAULT_SETTINGS, buf_view(&raw), STORE_ABSENT, NULL));
    stranger = vault_new(copy, &other);
    assert_code(vault_get(stranger, VAULT_SETTINGS, &msg, NULL), KEK_UNAVAILABLE);
    assert_code(vault_verify(stranger, &faults), KEK_UNAVAILABLE);
    assert_ok(vault_verify(fixture->vault, &faults));
    faults_fini(&faults);
    vault_free(stranger);
    buf_fini(&raw);
}

static void test_a_path_that_nobody_knows_is_no_record(void **state)
{
    struct fixture *fixture = *state;
    struct faults faults = {0};

    assert_ok(store_put_if(fixture->store, "surprise", bytes_of_str("x"), STORE_ABSENT, NULL));
    assert_code(vault_verify(fixture->vault, &faults), STORE_CORRUPT);
    assert_true(fixture_has(&faults, "surprise", "does not open"));
    faults_fini(&faults);
}

static void test_a_batch_is_one_transaction(void **state)
{
    struct fixture *fixture = *state;
    Mortise__Control__Token token = MORTISE__CONTROL__TOKEN__INIT;
    struct vault_batch batch = {0};
    ProtobufCMessage *msg = NULL;

    put_token(fixture, "token/old", "x");
    assert_ok(vault_batch_put(fixture->vault, &batch, "token/new", &token.base, STORE_ABSENT));
    vault_batch_delete(&batch, "token/old", 999); /* not its version */
    assert_code(vault_commit(fixture->vault, &batch, NULL), STORE_CONFLICT);
    assert_code(vault_get(fixture->vault, "token/new", &msg, NULL), NOT_FOUND);
    vault_batch_fini(&batch);
    assert_ok(vault_commit(fixture->vault, &batch, NULL)); /* empty: nothing to do */
}

static void test_an_unwritable_store_is_noticed_and_so_is_its_recovery(void **state)
{
    struct fixture *fixture = *state;
    Mortise__Control__Token token = MORTISE__CONTROL__TOKEN__INIT;

    store_mem_set_unwritable(fixture->store, true);
    assert_code(vault_put(fixture->vault, "token/a", &token.base, STORE_ABSENT, NULL),
                STORE_UNWRITABLE);
    assert_true(vault_health(fixture->vault)->unwritable);
    store_mem_set_unwritable(fixture->store, false);
    assert_ok(vault_put(fixture->vault, "token/a", &token.base, STORE_ABSENT, NULL));
    assert_false(vault_health(fixture->vault)->unwritable);
}

static void test_batches_are_committed_together_or_not_at_all(void **state)
{
    struct fixture *fixture = *state;
    Mortise__Control__Token token = MORTISE__CONTROL__TOKEN__INIT;
    struct vault_batch one = {0}, two = {0}, none = {0}, stale = {0};
    const struct vault_batch *good[] = {&one, &none, &two};
    const struct vault_batch *bad[] = {&one, &stale};
    uint64_t version_a = 0, version_c = 0;
    ProtobufCMessage *msg = NULL;

    assert_ok(vault_batch_put(fixture->vault, &one, "token/a", &token.base, STORE_ABSENT));
    assert_ok(vault_batch_put(fixture->vault, &one, "token/b", &token.base, STORE_ABSENT));
    assert_ok(vault_batch_put(fixture->vault, &two, "token/c", &token.base, STORE_ABSENT));
    assert_ok(vault_batch_put(fixture->vault, &stale, "token/d", &token.base, 12345));
    assert_true(vault_batch_has(&one, "token/b"));
    assert_false(vault_batch_has(&one, "token/c"));

    assert_code(vault_commit_all(fixture->vault, bad, ARRAY_LEN(bad)), STORE_CONFLICT);
    assert_code(vault_get(fixture->vault, "token/a", &msg, NULL), NOT_FOUND);
    assert_ok(vault_commit_all(fixture->vault, &good[1], 1));
    assert_int_equal(vault_health(fixture->vault)->commits, 0); /* there was nothing to do */

    assert_ok(vault_commit_all(fixture->vault, good, ARRAY_LEN(good)));
    assert_int_equal(vault_health(fixture->vault)->commits, 1);
    assert_ok(vault_get(fixture->vault, "token/a", &msg, &version_a));
    pb_free(msg);
    assert_ok(vault_get(fixture->vault, "token/c", &msg, &version_c));
    pb_free(msg);
    assert_int_equal(version_a, version_c);
    vault_batch_fini(&one);
    vault_batch_fini(&two);
    vault_batch_fini(&stale);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_record_comes_back_as_it_was),
        TEST(test_the_store_sees_no_content),
        TEST(test_every_changed_byte_is_noticed),
        TEST(test_two_records_that_change_places_are_refused),
        TEST(test_another_key_is_told_apart_from_damage),
        TEST(test_a_path_that_nobody_knows_is_no_record),
        TEST(test_a_batch_is_one_transaction),
        TEST(test_batches_are_committed_together_or_not_at_all),
        TEST(test_an_unwritable_store_is_noticed_and_so_is_its_recovery),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
