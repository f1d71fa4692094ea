/* Who calls by a token: what is bound to himself, else to his groups, and nothing that a
 * certificate opens. Without it: a group that may look takes over the mesh, a token that has
 * expired goes on, or a stranger's connection stays because somebody else was let in on it.
 *
 * Drives: D5, R46, R48 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/caller.h"
#include "lib/base/mem.h"

#define ISSUER "https://id.example"
#define SELF "oidc:" ISSUER "#"
#define GROUP "oidc-group:" ISSUER "#"

static bool stands = true;

static bool nobody(void *arg, const char *spiffe_id)
{
    (void)arg;
    (void)spiffe_id;
    return false;
}

static bool none(void *arg, const struct peer *peer)
{
    (void)arg;
    (void)peer;
    return false;
}

static bool is_token(void *arg, const struct caller_token *token)
{
    (void)arg;
    (void)token;
    return stands;
}

static bool role_of(void *arg, const char *subject, struct role *out)
{
    static const char *const bound[][2] = {
        {SELF "vera", "viewer"},   {SELF "root", "admin"},       {GROUP "look", "viewer"},
        {GROUP "ops", "operator"}, {GROUP "look too", "viewer"}, {"mallory", "admin"},
        {"uid:0", "admin"},
    };

    (void)arg;
    for (size_t i = 0; i < ARRAY_LEN(bound); i++) {
        if (strcmp(bound[i][0], subject) == 0)
            return role_built_in(bound[i][1], out);
    }
    return false;
}

static struct caller_rules rules = {
    .trust_domain = "mesh.test",
    .uid = 1000,
    .is_workload = nobody,
    .is_revoked = none,
    .is_admin = none,
    .is_token = is_token,
    .role_of = role_of,
};

static char reason[CALLER_REASON_MAX];

/* The role of `subject` with these groups (NULL-ended); "" when he is refused. */
static void role_with(const char *subject, const char *const *groups, char out[ROLE_NAME_MAX + 1])
{
    struct caller connection = {.peer = NULL};
    struct jwt jwt = {.subject = mem_strdup(subject), .groups = mem_array(8, sizeof(char *))};
    struct grpc_peer peer = {.tls = true, .uid = (uid_t)-1};
    struct role role = {.permissions = 0};
    struct caller *caller;

    while (groups != NULL && groups[jwt.num_groups] != NULL) {
        jwt.groups[jwt.num_groups] = mem_strdup(groups[jwt.num_groups]);
        jwt.num_groups++;
    }
    caller = caller_of_token(&connection, ISSUER, &jwt);
    assert_null(jwt.subject);
    peer.identity = caller;
    out[0] = '\0';
    reason[0] = '\0';
    if (caller_role(&rules, &peer, &role, reason) == GRPC_OK)
        (void)snprintf(out, ROLE_NAME_MAX + 1, "%s", role.name);
    caller_free(caller);
}

#define GROUPS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_himself_comes_before_his_groups(void **state)
{
    char role[ROLE_NAME_MAX + 1];

    (void)state;
    role_with("vera", NULL, role);
    assert_string_equal(role, "viewer");
    role_with("vera", GROUPS("ops"), role);
    assert_string_equal(role, "viewer");
    role_with("bob", GROUPS("look", "ops", "look too"), role);
    assert_string_equal(role, "operator");
    role_with("bob", GROUPS("nothing", "look too"), role);
    assert_string_equal(role, "viewer");
    /* A name is of one kind. */
    role_with("look", NULL, role);
    assert_string_equal(role, "");
    role_with("bob", GROUPS("vera", "root"), role);
    assert_string_equal(role, "");
    role_with("mallory", GROUPS("mallory"), role);
    assert_string_equal(role, "");
    assert_non_null(strstr(reason, SELF "mallory has no role"));
    role_with("uid:0", NULL, role);
    assert_string_equal(role, "");
}

static void test_a_token_that_does_not_stand_is_none(void **state)
{
    char role[ROLE_NAME_MAX + 1];

    (void)state;
    stands = false;
    role_with("root", NULL, role);
    assert_string_equal(role, "");
    stands = true;
    rules.is_token = NULL;
    role_with("root", NULL, role);
    assert_string_equal(role, "");
    rules.is_token = is_token;
    role_with("root", NULL, role);
    assert_string_equal(role, "admin");
}

static void test_it_opens_what_roles_are_made_of_and_no_more(void **state)
{
    struct caller connection = {.peer = NULL};
    struct jwt jwt = {.subject = mem_strdup("root")};
    struct caller *caller = caller_of_token(&connection, ISSUER, &jwt);
    struct grpc_peer peer = {.tls = true, .uid = (uid_t)-1, .identity = caller};
    char name[CALLER_NAME_MAX], subject[CALLER_SUBJECT_MAX];

    (void)state;
    caller_name(&peer, name);
    caller_subject(&rules, &peer, subject);
    assert_string_equal(name, SELF "root");
    assert_string_equal(subject, SELF "root");
    assert_int_equal(caller_permits(&rules, &peer, PERMISSION(CA_WRITE), reason), GRPC_OK);
    assert_int_equal(caller_permits(&rules, &peer, PERMISSION(WORKLOAD), reason),
                     GRPC_UNAUTHENTICATED);
    assert_int_equal(caller_permits(&rules, &peer, PERMISSION(NONE), reason),
                     GRPC_PERMISSION_DENIED);
    /* The connection is nobody's still. */
    peer.identity = &connection;
    assert_int_equal(caller_permits(&rules, &peer, PERMISSION(MESH_READ), reason),
                     GRPC_UNAUTHENTICATED);
    caller_free(caller);
}

static void test_a_connection_is_known_once_a_call_was_let_in(void **state)
{
    struct caller connection = {.since_ms = 10};
    struct jwt first = {.subject = mem_strdup("vera")}, second = {.subject = mem_strdup("root")};
    struct caller *vera = caller_of_token(&connection, ISSUER, &first);
    struct caller *root = caller_of_token(&connection, ISSUER, &second);

    (void)state;
    assert_true(caller_is_stranger(&connection));
    assert_false(caller_is_stranger(vera));
    connection.greeted = true;
    caller_vouch(vera, 500);
    assert_false(caller_is_stranger(&connection));
    assert_int_equal(connection.since_ms, 500);
    assert_false(connection.greeted); /* his first call is on record, too */
    connection.greeted = true;
    caller_vouch(vera, 600);
    assert_true(connection.greeted);
    caller_vouch(root, 700);
    assert_false(connection.greeted);
    caller_free(vera);
    caller_free(root);
    mem_free(connection.vouched);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_himself_comes_before_his_groups),
        cmocka_unit_test(test_a_token_that_does_not_stand_is_none),
        cmocka_unit_test(test_it_opens_what_roles_are_made_of_and_no_more),
        cmocka_unit_test(test_a_connection_is_known_once_a_call_was_let_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
