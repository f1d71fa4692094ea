/* Revisions of the mesh: written with it or not at all, the newest is what is in force, and they
 * neither grow without end nor come back after they have gone.
 * Drives: D7, R53 */
#include "control/revisions.h"

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

static const struct revisions *revisions_of(const struct fixture *fixture)
{
    return registry_revisions(fixture->registry);
}

/* The mesh with another port of its first link, and `size` bytes of a revocation list. */
static err_t change(struct fixture *fixture, uint32_t port, size_t size,
                    const struct revisions_new *about, uint64_t *out_version)
{
    Mortise__V1__Mesh *mesh = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor,
                                     pb_clone(&registry_mesh(fixture->registry)->base));
    Mortise__V1__RevocationList list = MORTISE__V1__REVOCATION_LIST__INIT, *lists[] = {&list};
    Mortise__V1__Mesh changed = *mesh;
    char *pem = mem_zalloc(size + 1);
    err_t err;

    mesh->links[0]->server_port = port;
    if (size > 0) {
        memset(pem, 'x', size);
        list.name = msg_lend("large");
        list.pem = pem;
        changed.crls = lists;
        changed.n_crls = 1;
    }
    err = registry_apply(fixture->registry, &changed, about, out_version);
    pb_free(&mesh->base);
    mem_free(pem);
    return err;
}

static uint64_t change_port(struct fixture *fixture, uint32_t port)
{
    uint64_t version = 0;

    assert_ok(change(fixture, port, 0, &fixture_about, &version));
    return version;
}

static void assert_newest_is_in_force(const struct fixture *fixture)
{
    Mortise__Control__MeshRecord *record = NULL;
    uint64_t version = registry_mesh_version(fixture->registry);

    assert_int_equal(revisions_newest(revisions_of(fixture)), version);
    assert_ok(revisions_mesh(revisions_of(fixture), version, &record));
    assert_int_equal(record->version, version);
    assert_true(pb_equal(&record->mesh->base, &registry_mesh(fixture->registry)->base));
    pb_free(&record->base);
}

static void assert_as_after_a_restart(struct fixture *fixture)
{
    uint64_t before[REVISIONS_KEPT], num = revisions_of(fixture)->num;

    for (size_t i = 0; i < num; i++)
        before[i] = revisions_of(fixture)->items[i]->version;
    fixture_stop(fixture);
    fixture_start(fixture);
    assert_int_equal(revisions_of(fixture)->num, num);
    for (size_t i = 0; i < num; i++)
        assert_int_equal(revisions_of(fixture)->items[i]->version, before[i]);
    assert_newest_is_in_force(fixture);
}

static size_t count_records(struct fixture *fixture, const char *prefix)
{
    struct store_items items;
    size_t num;

    assert_ok(store_list(fixture->store, prefix, &items));
    num = items.num;
    store_items_fini(&items);
    return num;
}

static void test_the_first_mesh_is_a_revision(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(revisions_of(fixture)->num, 1);
    assert_string_equal(revisions_of(fixture)->items[0]->author, "mortise-control");
    assert_int_equal(revisions_of(fixture)->items[0]->changed_at, FIXTURE_NOW_S);
    assert_newest_is_in_force(fixture);
    assert_as_after_a_restart(fixture); /* and no second one */
}

static void test_a_change_is_kept_with_who_and_why(void **state)
{
    struct fixture *fixture = *state;
    static char first[] = "link a: added", second[] = "profile b: removed";
    char *const changes[] = {first, second};
    const struct revisions_new about = {
        .author = "uid:7", .message = "für alle", .changes = changes, .num_changes = 2};
    uint64_t before = registry_mesh_version(fixture->registry), version;
    const Mortise__Control__Revision *item;
    Mortise__Control__MeshRecord *record = NULL;

    fixture_pass(fixture, 60);
    assert_ok(change(fixture, 9999, 0, &about, &version));
    fixture_stop(fixture);
    fixture_start(fixture);
    item = revisions_find(revisions_of(fixture), version);
    assert_non_null(item);
    assert_int_equal(item->changed_at, FIXTURE_NOW_S + 60);
    assert_string_equal(item->author, "uid:7");
    assert_string_equal(item->message, "für alle");
    assert_int_equal(item->num_changes, 2);
    assert_string_equal(item->changes[1], second);
    assert_newest_is_in_force(fixture);

    /* And the one before is what it was. */
    assert_ok(revisions_mesh(revisions_of(fixture), before, &record));
    assert_int_not_equal(record->mesh->links[0]->server_port, 9999);
    pb_free(&record->base);
    assert_null(revisions_find(revisions_of(fixture), version + 1));
    assert_code(revisions_mesh(revisions_of(fixture), version + 1, &record), NOT_FOUND);
}

static void test_many_changes_are_counted_and_the_first_are_told(void **state)
{
    struct fixture *fixture = *state;
    static char text[] = "link a: added";
    char *changes[REVISIONS_CHANGES_MAX + 9];
    struct revisions_new about = {.author = "uid:7", .message = "", .changes = changes};
    uint64_t version;

    for (size_t i = 0; i < ARRAY_LEN(changes); i++)
        changes[i] = text;
    about.num_changes = ARRAY_LEN(changes);
    assert_ok(change(fixture, 9999, 0, &about, &version));
    assert_int_equal(revisions_find(revisions_of(fixture), version)->n_changes,
                     REVISIONS_CHANGES_MAX);
    assert_int_equal(revisions_find(revisions_of(fixture), version)->num_changes,
                     ARRAY_LEN(changes));
}

static void test_what_was_not_written_is_no_revision(void **state)
{
    struct fixture *fixture = *state;
    uint64_t version;

    store_mem_set_unwritable(fixture->store, true);
    assert_code(change(fixture, 9999, 0, &fixture_about, &version), STORE_UNWRITABLE);
    store_mem_set_unwritable(fixture->store, false);
    assert_int_equal(revisions_of(fixture)->num, 1);
    assert_newest_is_in_force(fixture);
    assert_int_equal(count_records(fixture, VAULT_REVISION_MESHES), 1);
}

static void test_the_oldest_go_when_they_are_many(void **state)
{
    struct fixture *fixture = *state;
    uint64_t first = revisions_newest(revisions_of(fixture)), second = change_port(fixture, 1000);

    for (uint32_t i = 0; i < REVISIONS_KEPT - 2; i++)
        (void)change_port(fixture, 2000 + i);
    assert_int_equal(revisions_of(fixture)->num, REVISIONS_KEPT);
    assert_non_null(revisions_find(revisions_of(fixture), first));
    (void)change_port(fixture, 1001);
    assert_int_equal(revisions_of(fixture)->num, REVISIONS_KEPT);
    assert_null(revisions_find(revisions_of(fixture), first));
    assert_non_null(revisions_find(revisions_of(fixture), second));
    assert_int_equal(count_records(fixture, VAULT_REVISIONS), REVISIONS_KEPT);
    assert_int_equal(count_records(fixture, VAULT_REVISION_MESHES), REVISIONS_KEPT);
    assert_as_after_a_restart(fixture);
}

static void test_the_oldest_go_when_they_are_large(void **state)
{
    struct fixture *fixture = *state;
    size_t mib = (size_t)1 << 20, fit = REVISIONS_BYTES_MAX / (4 * mib);
    uint64_t version = 0;

    for (uint32_t i = 0; i < fit; i++)
        assert_ok(change(fixture, 1000 + i, 4 * mib, &fixture_about, &version));
    /* Each is a bit more than 4 MiB. */
    assert_int_equal(revisions_of(fixture)->num, fit - 1);
    assert_int_equal(count_records(fixture, VAULT_REVISION_MESHES), fit - 1);
    assert_as_after_a_restart(fixture);
}

/* A store from before there were revisions. */
static void test_a_mesh_without_a_revision_is_given_one(void **state)
{
    struct fixture *fixture = *state;
    uint64_t version = change_port(fixture, 9999);
    struct store_items items;

    fixture_stop(fixture);
    assert_ok(store_list(fixture->store, "revision", &items));
    assert_int_equal(items.num, 4);
    for (size_t i = 0; i < items.num; i++)
        assert_ok(store_delete_if(fixture->store, items.items[i].key, STORE_ANY));
    store_items_fini(&items);
    fixture_start(fixture);
    assert_int_equal(revisions_of(fixture)->num, 1);
    assert_int_equal(revisions_newest(revisions_of(fixture)), version);
    assert_newest_is_in_force(fixture);
}

static void test_one_that_is_damaged_is_told(void **state)
{
    struct fixture *fixture = *state;
    uint64_t before = registry_mesh_version(fixture->registry);
    Mortise__Control__MeshRecord *record = NULL;
    struct store_items items;

    (void)change_port(fixture, 9999);
    assert_ok(store_list(fixture->store, VAULT_REVISION_MESHES, &items));
    /* The store swaps two: each still opens by itself, but not at the other's place. */
    store_mem_poke(fixture->store, items.items[0].key,
                   bytes_of(items.items[1].value, items.items[1].len));
    assert_code(revisions_mesh(revisions_of(fixture), before, &record), STORE_CORRUPT);
    store_items_fini(&items);
    assert_newest_is_in_force(fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_first_mesh_is_a_revision, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_change_is_kept_with_who_and_why, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_changes_are_counted_and_the_first_are_told, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_was_not_written_is_no_revision, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_oldest_go_when_they_are_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_oldest_go_when_they_are_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_mesh_without_a_revision_is_given_one, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_one_that_is_damaged_is_told, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
