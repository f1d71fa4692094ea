/* Keys of uploaded keystores in the store: each comes and goes in the transaction of the mesh that
 * names it. Without it: a deleted key is still there, a mesh is in force whose key is nowhere, two
 * keystores of one key lose it together. Drives: C1, R21, R45. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/registry.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define WITH(name, key) "{name: " name ", chain_pem: some, key_sha256: " key "}"

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

static void apply(struct fixture *fixture, const char *keystores, const char *sha256)
{
    CLEANUP(mem_freep) char *yaml = mem_printf("keystores: [%s]", keystores);
    struct registry_key key = {.sha256 = sha256, .pkcs8 = bytes_of_str("secret"), .by = "tester"};
    Mortise__V1__Mesh *mesh = fixture_mesh(yaml);
    uint64_t version;

    assert_ok(registry_apply_with_key(fixture->registry, mesh, &fixture_about,
                                      sha256 != NULL ? &key : NULL, &version));
    pb_free(&mesh->base);
}

static bool has(struct fixture *fixture, const char *sha256)
{
    Mortise__Control__KeystoreRecord *record = NULL;
    err_t err = registry_keystore_key(fixture->registry, sha256, &record);

    if (err_is(err, E_NOT_FOUND))
        return false;
    assert_ok(err);
    assert_memory_equal(record->key.data, "secret", record->key.len);
    assert_string_equal(record->by, "tester");
    registry_keystore_free(record);
    return true;
}

static void test_a_key_goes_with_the_last_keystore_that_has_it(void **state)
{
    struct fixture *fixture = *state;

    assert_false(has(fixture, A));
    apply(fixture, WITH("one", A), A);
    assert_true(has(fixture, A));
    apply(fixture, WITH("one", A) ", " WITH("two", A), NULL); /* a clone */
    apply(fixture, WITH("two", A), NULL);
    assert_true(has(fixture, A));
    apply(fixture, WITH("two", B), B); /* replaced */
    assert_false(has(fixture, A));
    assert_true(has(fixture, B));
    fixture_stop(fixture);
    fixture_start(fixture);
    assert_true(has(fixture, B)); /* of the store, not of the process */
    apply(fixture, "", NULL);
    assert_false(has(fixture, B));
}

/* What cannot be stored leaves mesh and keys as they were. */
static void test_mesh_and_key_come_together_or_not_at_all(void **state)
{
    struct fixture *fixture = *state;
    struct registry_key key = {.sha256 = B, .pkcs8 = bytes_of_str("secret"), .by = "tester"};
    Mortise__V1__Mesh *mesh = fixture_mesh("keystores: [" WITH("two", B) "]");
    uint64_t version = 0;

    apply(fixture, WITH("one", A), A);
    store_mem_set_unwritable(fixture->store, true);
    assert_false(err_is_ok(
        registry_apply_with_key(fixture->registry, mesh, &fixture_about, &key, &version)));
    store_mem_set_unwritable(fixture->store, false);
    assert_true(has(fixture, A));
    assert_false(has(fixture, B));
    assert_string_equal(registry_mesh(fixture->registry)->keystores[0]->name, "one");
    pb_free(&mesh->base);
}

static void test_what_is_no_fingerprint_names_nothing(void **state)
{
    static const char *const words[] = {"", "a", "../ca/issuer", "current"};
    struct fixture *fixture = *state;

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        assert_false(has(fixture, words[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_key_goes_with_the_last_keystore_that_has_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_mesh_and_key_come_together_or_not_at_all, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_fingerprint_names_nothing, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
