/* Who has which role, durably. Without it: a role that was taken away comes back with a restart, a
 * built-in role is changed under everybody's feet, or somebody keeps what he was given for a day.
 * Drives: D5, R46, R48. */
#include "control/access.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test/unit/control/fixture.h"

static const struct access_author author = {"uid:0", FIXTURE_NOW_S};

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

static void on_change(void *arg)
{
    ++*(unsigned *)arg;
}

static const char *role_of(const struct access *access, const char *subject)
{
    static struct role role;

    return access_role_of(access, subject, &role) ? role.name : "none";
}

static void test_a_role_lasts_until_it_is_taken_away(void **state)
{
    struct fixture *fixture = *state;
    struct access *access;
    unsigned changes = 0;

    assert_ok(access_open(fixture->vault, &access));
    access_on_change(access, on_change, &changes);
    assert_string_equal(role_of(access, "alice"), "none");
    assert_ok(access_bind(access, "alice", "viewer", &author, NULL));
    assert_ok(access_bind(access, "uid:1000", "operator", &author, NULL));
    assert_int_equal(changes, 2);
    assert_ok(access_bind(access, "alice", "viewer", &author, NULL)); /* the same again */
    assert_int_equal(changes, 2);
    assert_int_equal(access_record(access)->n_bindings, 2);
    access_free(access);

    assert_ok(access_open(fixture->vault, &access));
    assert_string_equal(role_of(access, "alice"), "viewer");
    assert_string_equal(role_of(access, "uid:1000"), "operator");
    assert_string_equal(role_of(access, "1000"), "none");
    assert_string_equal(role_of(access, ""), "none");
    assert_string_equal(access_record(access)->bindings[0]->by, "uid:0");
    assert_int_equal(access_record(access)->bindings[0]->at, FIXTURE_NOW_S);
    assert_ok(access_bind(access, "alice", "admin", &author, NULL));
    assert_string_equal(role_of(access, "alice"), "admin");
    assert_int_equal(access_record(access)->n_bindings, 2);
    assert_ok(access_bind(access, "alice", NULL, &author, NULL));
    assert_code(access_bind(access, "alice", NULL, &author, NULL), NOT_FOUND);
    assert_code(access_bind(access, "bob", "king", &author, NULL), NOT_FOUND);
    access_free(access);

    assert_ok(access_open(fixture->vault, &access));
    assert_string_equal(role_of(access, "alice"), "none");
    assert_string_equal(role_of(access, "bob"), "none");
    access_free(access);
}

static void test_a_binding_waits_for_its_batch(void **state)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct fixture *fixture = *state;
    struct access *access;

    assert_ok(access_open(fixture->vault, &access));
    assert_ok(access_bind(access, "alice", "viewer", &author, &batch));
    assert_string_equal(role_of(access, "alice"), "none");
    assert_ok(vault_commit(fixture->vault, &batch, NULL));
    assert_ok(access_reload(access));
    assert_string_equal(role_of(access, "alice"), "viewer");
    access_free(access);
}

static void test_roles_of_ones_own(void **state)
{
    static char read[] = "mesh.read", revoke[] = "revocation.write", later[] = "moon.write";
    char *both[] = {read, revoke};
    char *unknown[] = {read, later};
    struct fixture *fixture = *state;
    struct access *access;
    struct role role;

    assert_ok(access_open(fixture->vault, &access));
    assert_code(access_set_role(access, "viewer", both, 2, &author), EXISTS);
    assert_code(access_delete_role(access, "admin"), EXISTS);
    assert_code(access_delete_role(access, "responder"), NOT_FOUND);
    assert_ok(access_set_role(access, "responder", both, 2, &author));
    assert_ok(access_bind(access, "rita", "responder", &author, NULL));
    assert_true(access_role_of(access, "rita", &role));
    assert_true(role_has(&role, PERMISSION(REVOCATION_WRITE)));
    assert_false(role_has(&role, PERMISSION(MESH_WRITE)));
    assert_code(access_delete_role(access, "responder"), EXISTS);

    /* Changed: who has it has less at once. */
    assert_ok(access_set_role(access, "responder", both, 1, &author));
    assert_int_equal(access_record(access)->n_roles, 1);
    assert_true(access_role_of(access, "rita", &role));
    assert_int_equal(role.permissions, permission_bit(PERMISSION(MESH_READ)));

    /* A permission of a later program is none of this one. */
    assert_ok(access_set_role(access, "responder", unknown, 2, &author));
    assert_true(access_role_of(access, "rita", &role));
    assert_int_equal(role.permissions, permission_bit(PERMISSION(MESH_READ)));

    assert_ok(access_bind(access, "rita", NULL, &author, NULL));
    assert_ok(access_delete_role(access, "responder"));
    assert_false(access_find_role(access, "responder", &role));
    access_free(access);
}

static void test_there_is_an_end_to_them(void **state)
{
    static char read[] = "mesh.read";
    char *one[] = {read};
    struct fixture *fixture = *state;
    struct access *access;
    char name[32];

    assert_ok(access_open(fixture->vault, &access));
    for (unsigned i = 0; i < ACCESS_ROLES_MAX; i++) {
        (void)snprintf(name, sizeof(name), "role-%u", i);
        assert_ok(access_set_role(access, name, one, 1, &author));
    }
    assert_code(access_set_role(access, "one-more", one, 1, &author), LIMIT);
    assert_ok(access_set_role(access, "role-3", one, 1, &author)); /* one that is there */
    for (unsigned i = 0; i < ACCESS_BINDINGS_MAX; i++) {
        (void)snprintf(name, sizeof(name), "uid:%u", i);
        assert_ok(access_bind(access, name, "viewer", &author, NULL));
    }
    assert_code(access_bind(access, "one-more", "viewer", &author, NULL), LIMIT);
    assert_ok(access_bind(access, "uid:3", "admin", &author, NULL));
    access_free(access);
}

static void test_what_can_be_bound(void **state)
{
    static const char *const good[] = {"alice",
                                       "a.b-c_D9",
                                       "uid:0",
                                       "uid:1000",
                                       "uid:4294967294",
                                       "oidc:https://id.example#4711",
                                       "oidc:https://id.example/realms/x#auth0|5f7c#8",
                                       "oidc-group:https://id.example#/admins",
                                       "oidc-group:https://id.example:8443#Domain Admins"};
    static const char *const bad[] = {"",
                                      "uid:",
                                      "uid:x",
                                      "uid:01",
                                      "uid:-1",
                                      "uid:1 ",
                                      "a b",
                                      "a/b",
                                      ".",
                                      "..",
                                      "alice\n",
                                      "group:x",
                                      "uid:99999999999",
                                      "uid:4294967295",
                                      "uid:4294967296",
                                      "oidc:",
                                      "oidc:alice",
                                      "oidc:#alice",
                                      "oidc:https://id.example",
                                      "oidc:https://id.example#",
                                      "oidc:http://id.example#alice",
                                      "oidc:https://id.example#al ice",
                                      "oidc:https://id.example#alice\n",
                                      "oidc:https://id example#alice",
                                      "oidc-group:https://id.example# ops",
                                      "oidc-group:https://id.example#ops\t",
                                      "OIDC:https://id.example#alice",
                                      "spiffe://mesh.test/mortise/admin/alice"};
    char longest[ACCESS_ADMIN_NAME_MAX + 2];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_true(access_subject_valid(good[i]));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (access_subject_valid(bad[i]))
            fail_msg("%s was taken", bad[i]);
    }
    memset(longest, 'a', sizeof(longest));
    longest[ACCESS_ADMIN_NAME_MAX + 1] = '\0';
    assert_false(access_subject_valid(longest));
    longest[ACCESS_ADMIN_NAME_MAX] = '\0';
    assert_true(access_subject_valid(longest));
    assert_true(access_role_name_valid("on-call"));
    assert_false(access_role_name_valid("on call"));
    assert_false(access_role_name_valid(""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_role_lasts_until_it_is_taken_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_binding_waits_for_its_batch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_roles_of_ones_own, setup, teardown),
        cmocka_unit_test_setup_teardown(test_there_is_an_end_to_them, setup, teardown),
        cmocka_unit_test(test_what_can_be_bound),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
