/* Sealed records: only the right key opens them, only at their own path, only unchanged; and from
 * one key to another without a moment at which a record cannot be read.
 * Without it: whoever can write the store can give the control plane another CA, mesh or token.
 * Drives: R45, R53, D1. */
#include "control/vault.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
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
    struct seal_keys other = fixture_key(2);
    char name[SEAL_NAME];
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
    /* Which is missing, and which was given. */
    vault_key_name(fixture->vault, name);
    assert_true(fixture_has(&faults, VAULT_SETTINGS, name));
    vault_key_name(stranger, name);
    assert_true(fixture_has(&faults, VAULT_SETTINGS, name));
    assert_ok(vault_verify(fixture->vault, &faults));
    faults_fini(&faults);
    vault_free(stranger);
    buf_fini(&raw);
}

/* ---- from one key to another ---- */

static struct seal_keys both(const struct seal_keys *first, const struct seal_keys *second)
{
    struct seal_keys keys = {.num = 2};

    keys.keys[0] = first->keys[0];
    keys.keys[1] = second->keys[0];
    return keys;
}

static bool opens_with(struct fixture *fixture, const struct seal_keys *keys, const char *path)
{
    CLEANUP(buf_fini) struct buf raw = {0};
    CLEANUP(buf_wipe_fini) struct buf plain = {0};

    assert_ok(store_get(fixture->store, path, &raw, NULL));
    return err_is_ok(seal_open(&keys->keys[0], path, buf_view(&raw), &plain));
}

static void rewrap_all(struct fixture *fixture, size_t at_once)
{
    for (int i = 0; i < 1000 && !vault_is_rewrapped(fixture->vault); i++)
        assert_ok(vault_rewrap(fixture->vault, at_once));
    assert_true(vault_is_rewrapped(fixture->vault));
    assert_int_equal(vault_stale(fixture->vault), 0);
}

static void count_changes(void *arg, const struct store_change *change, uint64_t revision)
{
    (void)change;
    (void)revision;
    (*(int *)arg)++;
}

/* At each step each record can be read, and is written anew as it was; a program that ends in
 * between goes on with both keys, and with either alone says which is missing. */
static void test_another_key_record_by_record(void **state)
{
    struct fixture *fixture = *state;
    struct seal_keys old = fixture->key, new = fixture_key(2), keys = both(&new, &old);
    CLEANUP(faults_fini) struct faults faults = {0};
    struct store_watch watch = {.prefix = "", .fn = count_changes};
    int seen = 0;
    char path[VAULT_PATH_MAX], name[SEAL_NAME], missing[SEAL_NAME];
    uint64_t version;
    ProtobufCMessage *msg = NULL;

    put_settings(fixture, VAULT_SETTINGS, "mesh.test");
    for (int i = 0; i < 20; i++) {
        (void)snprintf(path, sizeof(path), "token/%02d", i);
        put_token(fixture, path, "portal");
    }
    assert_ok(vault_get(fixture->vault, "token/07", &msg, &version));
    pb_free(msg);
    watch.arg = &seen;
    store_watch(fixture->store, &watch);
    assert_ok(vault_rekey(fixture->vault, &keys, &faults));
    assert_int_equal(vault_stale(fixture->vault), 21);
    for (size_t left = 21; left > 0; left = vault_stale(fixture->vault)) {
        assert_ok(vault_rewrap(fixture->vault, 4));
        assert_true(vault_stale(fixture->vault) < left || left == 0);
        assert_ok(vault_verify(fixture->vault, &faults));
        if (vault_stale(fixture->vault) == 0)
            break;
        assert_false(vault_is_rewrapped(fixture->vault));
        /* A process with one of them alone names the other. */
        for (int i = 0; i < 2; i++) {
            struct vault *alone = vault_new(store_mem_new(), i == 0 ? &new : &old);
            struct store_items items;

            assert_ok(store_list(fixture->store, "", &items));
            for (size_t at = 0; at < items.num; at++)
                assert_ok(store_put_if(vault_store(alone), items.items[at].key,
                                       bytes_of(items.items[at].value, items.items[at].len),
                                       STORE_ABSENT, NULL));
            store_items_fini(&items);
            seal_key_name(i == 0 ? &old.keys[0] : &new.keys[0], missing);
            assert_code(vault_verify(alone, &faults), KEK_UNAVAILABLE);
            assert_true(strstr(faults.items[faults.num - 1].message, missing) != NULL);
            vault_free(alone);
            faults_fini(&faults);
            faults = (struct faults){0};
        }
    }
    rewrap_all(fixture, 4);
    for (int i = 0; i < 20; i++) {
        (void)snprintf(path, sizeof(path), "token/%02d", i);
        assert_true(opens_with(fixture, &new, path) && !opens_with(fixture, &old, path));
    }
    /* The content is what it was: whoever has read it may still change it. */
    assert_int_equal(seen, 0);
    store_unwatch(&watch);
    vault_key_name(fixture->vault, name);
    seal_key_name(&new.keys[0], missing);
    assert_string_equal(name, missing);
    {
        Mortise__Control__Token token = MORTISE__CONTROL__TOKEN__INIT;
        uint64_t newer;

        assert_ok(vault_put(fixture->vault, "token/07", &token.base, version, &newer));
        assert_true(newer > version);
    }
}

/* A batch that was sealed before and is committed after brings no record under the old key. */
static void test_what_was_sealed_before_is_sealed_anew_at_its_commit(void **state)
{
    struct fixture *fixture = *state;
    struct seal_keys old = fixture->key, new = fixture_key(2), keys = both(&new, &old);
    CLEANUP(faults_fini) struct faults faults = {0};
    CLEANUP(vault_batch_fini) struct vault_batch early = {0}, late = {0};
    Mortise__Control__Token token = MORTISE__CONTROL__TOKEN__INIT;

    put_settings(fixture, VAULT_SETTINGS, "mesh.test");
    assert_ok(vault_batch_put(fixture->vault, &early, "token/a", &token.base, STORE_ABSENT));
    assert_ok(vault_batch_put(fixture->vault, &late, "token/b", &token.base, STORE_ABSENT));
    assert_ok(vault_rekey(fixture->vault, &keys, &faults));
    assert_ok(vault_commit(fixture->vault, &early, NULL));
    assert_true(opens_with(fixture, &new, "token/a"));
    rewrap_all(fixture, 1);
    /* The old key is gone by now: then nothing is better than a record that nobody can read. */
    assert_code(vault_commit(fixture->vault, &late, NULL), KEK_UNAVAILABLE);
    assert_ok(vault_verify(fixture->vault, &faults));
}

static void test_keys_that_cannot_be_are_refused_and_nothing_changes(void **state)
{
    struct fixture *fixture = *state;
    struct seal_keys old = fixture->key, new = fixture_key(2), third = fixture_key(3);
    struct seal_keys without = both(&new, &third), keys = both(&new, &old);
    CLEANUP(faults_fini) struct faults faults = {0};
    char name[SEAL_NAME];
    ProtobufCMessage *msg = NULL;

    put_settings(fixture, VAULT_SETTINGS, "mesh.test");
    assert_code(vault_rekey(fixture->vault, &without, &faults), KEK_UNAVAILABLE);
    seal_key_name(&old.keys[0], name);
    assert_true(fixture_has(&faults, VAULT_SETTINGS, name));
    assert_ok(vault_get(fixture->vault, VAULT_SETTINGS, &msg, NULL));
    pb_free(msg);
    assert_true(vault_is_rewrapped(fixture->vault));
    /* A disk that is full stops it; it goes on when there is room. */
    assert_ok(vault_rekey(fixture->vault, &keys, &faults));
    store_mem_set_unwritable(fixture->store, true);
    assert_code(vault_rewrap(fixture->vault, 10), STORE_UNWRITABLE);
    assert_int_equal(vault_stale(fixture->vault), 1);
    assert_ok(vault_get(fixture->vault, VAULT_SETTINGS, &msg, NULL));
    pb_free(msg);
    store_mem_set_unwritable(fixture->store, false);
    rewrap_all(fixture, 10);
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
        TEST(test_another_key_record_by_record),
        TEST(test_what_was_sealed_before_is_sealed_anew_at_its_commit),
        TEST(test_keys_that_cannot_be_are_refused_and_nothing_changes),
        TEST(test_a_path_that_nobody_knows_is_no_record),
        TEST(test_a_batch_is_one_transaction),
        TEST(test_batches_are_committed_together_or_not_at_all),
        TEST(test_an_unwritable_store_is_noticed_and_so_is_its_recovery),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
