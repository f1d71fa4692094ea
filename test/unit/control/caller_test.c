/* Who may call what: every method of every service has a permission, each permission lets in just
 * whom it names, and each role calls just the methods that it may. Without it: a new method is open
 * to everybody, a sidecar does an operator's work, or a viewer changes the mesh.
 * Drives: D5, R46, R44, R62, R5, R47. */
#include "control/caller.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/access_service.h"
#include "control/discovery_service.h"
#include "control/identity_service.h"
#include "control/operator_service.h"
#include "lib/base/mem.h"
#include "proto/mesh/access.pb-c.h"
#include "proto/mesh/discovery.pb-c.h"
#include "proto/mesh/identity.pb-c.h"
#include "proto/mesh/operator.pb-c.h"

#define TD "mesh.test"
#define WORKLOAD "spiffe://mesh.test/ns/apim/sa/portal"

/* ------------------------------------------------------- every method has a rule */

static const struct grpc_method *find(const struct grpc_method *methods, size_t num,
                                      const char *path)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(methods[i].path, path) == 0)
            return &methods[i];
    }
    return NULL;
}

static void check_service(const ProtobufCServiceDescriptor *service,
                          const struct grpc_method *methods, size_t num)
{
    assert_int_equal(service->n_methods, num);
    for (unsigned i = 0; i < service->n_methods; i++) {
        const ProtobufCMethodDescriptor *method = &service->methods[i];
        const struct grpc_method *ours;
        char path[128];

        (void)snprintf(path, sizeof(path), "/%s/%s", service->name, method->name);
        ours = find(methods, num, path);
        if (ours == NULL)
            fail_msg("%s is in the schema and not in the table of methods", path);
        if (permission_of(path) == PERMISSION(NONE))
            fail_msg("%s has no rule", path);
        assert_ptr_equal(ours->in, method->input);
        assert_ptr_equal(ours->out, method->output);
        assert_non_null(ours->on_message);
        assert_true(ours->max_message > 0);
    }
}

static void test_every_method_of_the_schema_has_a_rule(void **state)
{
    const struct grpc_method *methods;
    size_t num, total = 0;

    (void)state;
    methods = identity_service_methods(&num);
    total += num;
    check_service(&mortise__v1__identity_service__descriptor, methods, num);
    assert_int_equal(permission_of("/mortise.v1.IdentityService/Attest"), PERMISSION(ANYONE));
    assert_int_equal(permission_of("/mortise.v1.IdentityService/Renew"), PERMISSION(WORKLOAD));
    methods = discovery_service_methods(&num);
    total += num;
    check_service(&mortise__v1__discovery_service__descriptor, methods, num);
    for (size_t i = 0; i < num; i++)
        assert_int_equal(permission_of(methods[i].path), PERMISSION(WORKLOAD));
    methods = operator_service_methods(&num);
    total += num;
    check_service(&mortise__v1__operator_service__descriptor, methods, num);
    for (size_t i = 0; i < num; i++)
        assert_true(permission_is_granted_by_roles(permission_of(methods[i].path)));
    methods = access_service_methods(&num);
    total += num;
    check_service(&mortise__v1__access_service__descriptor, methods, num);
    for (size_t i = 0; i < num; i++) {
        bool is_open = strstr(methods[i].path, "/Login") != NULL;

        assert_true((permission_of(methods[i].path) >= PERMISSION(SESSION)) != is_open);
    }
    assert_int_equal(permission_of("/mortise.v1.AccessService/Login"), PERMISSION(ANYONE));
    (void)permission_rows(&num);
    assert_int_equal(num, total); /* nothing in the table that nobody answers */
    assert_int_equal(permission_of("/mortise.v1.OperatorService/Nothing"), PERMISSION(NONE));
    assert_int_equal(permission_of(""), PERMISSION(NONE));
}

static void test_permissions_have_names_of_their_own(void **state)
{
    char name[PERMISSION_NAME_MAX];

    (void)state;
    permission_name(PERMISSION(MESH_READ), name);
    assert_string_equal(name, "mesh.read");
    permission_name((permission_t)63, name);
    assert_string_equal(name, "unknown");
    for (unsigned i = 0; i < PERMISSIONS_MAX; i++) {
        if ((permissions_all() >> i & 1) == 0)
            continue;
        permission_name((permission_t)i, name);
        assert_int_equal(permission_find(name), i);
    }
    /* What no role can have cannot be named in one. */
    assert_int_equal(permission_find("anyone"), PERMISSION(NONE));
    assert_int_equal(permission_find("workload"), PERMISSION(NONE));
    assert_int_equal(permission_find("session"), PERMISSION(NONE));
    assert_int_equal(permission_find("none"), PERMISSION(NONE));
    assert_int_equal(permission_find("MESH_READ"), PERMISSION(NONE));
    assert_int_equal(permission_find("mesh.read "), PERMISSION(NONE));
    assert_int_equal(permission_find(""), PERMISSION(NONE));
}

/* ------------------------------------------------------------------- the rules */

static bool is_workload(void *arg, const char *spiffe_id)
{
    (void)arg;
    return strcmp(spiffe_id, WORKLOAD) == 0;
}

static bool is_revoked(void *arg, const struct peer *peer)
{
    (void)arg;
    return strstr(peer->spiffe_id, "revoked") != NULL;
}

static bool is_admin(void *arg, const struct peer *peer)
{
    (void)arg;
    return strstr(peer->spiffe_id, "former") == NULL;
}

/* By name: bound to a role of that name; "nobody" and others to none. */
static bool role_of(void *arg, const char *subject, struct role *out)
{
    (void)arg;
    if (strcmp(subject, "alice") == 0)
        return role_built_in("admin", out);
    if (strcmp(subject, "uid:1002") == 0)
        return role_built_in("viewer", out);
    if (strcmp(subject, "clerk") == 0) {
        *out = (struct role){"clerk", permission_bit(PERMISSION(ACCESS_WRITE))};
        return true;
    }
    return role_built_in(subject, out);
}

static const struct caller_rules rules = {
    .trust_domain = TD,
    .uid = 1000,
    .is_workload = is_workload,
    .is_revoked = is_revoked,
    .is_admin = is_admin,
    .role_of = role_of,
};

struct who {
    const char *name;
    const char *spiffe_id; /* NULL: no certificate */
    bool tls;
    uid_t uid;
    /* What each of `asked` says: A allowed, U unauthenticated, D denied. */
    const char *says;
};

static const permission_t asked[] = {
    PERMISSION(NONE),      PERMISSION(ANYONE),     PERMISSION(WORKLOAD), PERMISSION(SESSION),
    PERMISSION(MESH_READ), PERMISSION(MESH_WRITE), PERMISSION(CA_WRITE),
};

static const struct who people[] = {
    {"stranger over TLS", NULL, true, (uid_t)-1, "DAUUUUU"},
    {"sidecar", WORKLOAD, true, (uid_t)-1, "DAADDDD"},
    {"sidecar whose subsystem is gone", "spiffe://mesh.test/ns/apim/sa/gone", true, (uid_t)-1,
     "DADDDDD"},
    {"admin", "spiffe://mesh.test/mortise/admin/alice", true, (uid_t)-1, "DADAAAA"},
    {"operator", "spiffe://mesh.test/mortise/admin/operator", true, (uid_t)-1, "DADAAAD"},
    {"viewer", "spiffe://mesh.test/mortise/admin/viewer", true, (uid_t)-1, "DADAADD"},
    {"role of one's own", "spiffe://mesh.test/mortise/admin/clerk", true, (uid_t)-1, "DADADDD"},
    {"without a role", "spiffe://mesh.test/mortise/admin/nobody", true, (uid_t)-1, "DADDDDD"},
    {"named like a local user", "spiffe://mesh.test/mortise/admin/1002", true, (uid_t)-1,
     "DADDDDD"},
    {"admin who is revoked", "spiffe://mesh.test/mortise/admin/revoked", true, (uid_t)-1,
     "DDDDDDD"},
    {"admin of before a rotation", "spiffe://mesh.test/mortise/admin/former", true, (uid_t)-1,
     "DADDDDD"},
    {"admin of another mesh", "spiffe://other.test/mortise/admin/alice", true, (uid_t)-1,
     "DADDDDD"},
    {"admin without a name", "spiffe://mesh.test/mortise/admin/", true, (uid_t)-1, "DADDDDD"},
    {"admin with a path", "spiffe://mesh.test/mortise/admin/alice/root", true, (uid_t)-1,
     "DADDDDD"},
    {"path that ends in an admin", "spiffe://mesh.test/mortise/admin/x/alice", true, (uid_t)-1,
     "DADDDDD"},
    {"nearly an admin", "spiffe://mesh.test/mortise/administrator", true, (uid_t)-1, "DADDDDD"},
    {"namespace that looks like one", "spiffe://mesh.test/ns/mortise/admin/alice", true, (uid_t)-1,
     "DADDDDD"},
    {"the control plane itself", "spiffe://mesh.test/mortise/control", true, (uid_t)-1, "DADDDDD"},
    {"own user on the socket", NULL, false, 1000, "DAUAAAA"},
    {"root on the socket", NULL, false, 0, "DAUAAAA"},
    {"user with a role on the socket", NULL, false, 1002, "DAUAADD"},
    {"somebody else on the socket", NULL, false, 1001, "DDUDDDD"},
};

static char last_reason[CALLER_REASON_MAX];

static char judge(const struct who *who, permission_t permission)
{
    static char nothing[] = "";
    char id[128] = "";
    char *no_names[] = {NULL};
    struct peer certificate = {.spiffe_id = id, .dns_names = no_names, .serial = nothing};
    struct caller caller = {.peer = who->spiffe_id != NULL ? &certificate : NULL};
    struct grpc_peer peer = {
        .tls = who->tls,
        .uid = who->uid,
        .identity = &caller,
    };
    enum grpc_status status;

    last_reason[0] = '\0';
    if (who->spiffe_id != NULL)
        (void)snprintf(id, sizeof(id), "%s", who->spiffe_id);
    status = caller_permits(&rules, &peer, permission, last_reason);
    if (status != GRPC_OK) {
        assert_string_not_equal(last_reason, "");
        assert_null(strstr(last_reason, "spiffe:")); /* tells the rule, not who else there is */
    }
    switch ((int)status) {
    case GRPC_OK:
        return 'A';
    case GRPC_UNAUTHENTICATED:
        return 'U';
    case GRPC_PERMISSION_DENIED:
        return 'D';
    default:
        return '?';
    }
}

static void test_each_rule_lets_in_just_whom_it_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(people); i++) {
        assert_int_equal(strlen(people[i].says), ARRAY_LEN(asked));
        for (size_t j = 0; j < ARRAY_LEN(asked); j++) {
            char said = judge(&people[i], asked[j]);

            if (said != people[i].says[j])
                fail_msg("%s, permission %d: %c", people[i].name, (int)asked[j], said);
        }
    }
}

static void test_a_permission_that_is_none_lets_nobody_in(void **state)
{
    static const int odd[] = {-1, 0, 4, 9, 63, 64, 99};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(people); i++) {
        for (size_t j = 0; j < ARRAY_LEN(odd); j++)
            assert_int_equal(judge(&people[i], (permission_t)odd[j]), 'D');
    }
}

/* ------------------------------------------------------- each role x each method */

/* What only looks, by its name: this and the permissions are written down by different hands. */
static bool only_looks(const char *path)
{
    static const char *const words[] = {"Get",   "List",    "Logs", "Watch",  "Status",
                                        "Check", "Preview", "Why",  "WhoAmI", "EndElevation"};
    const char *name = strrchr(path, '/') + 1;

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strncmp(name, words[i], strlen(words[i])) == 0)
            return true;
    }
    return false;
}

/* What an operator may not: an administrator's, and what is said about others. */
static bool is_for_admins(const char *path)
{
    static const char *const names[] = {
        "Elevate",     "ApproveElevation", "CreateLogin",     "IssueAdmin",   "PurgeAudit",
        "RotateAdmin", "RotateRoot",       "CreateCsr",       "ImportIssuer", "ImportKeystore",
        "RotateKey",   "Backup",           "ConfirmRollback", "Bind",         "Unbind",
        "SetRole",     "DeleteRole"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(strrchr(path, '/') + 1, names[i]) == 0)
            return true;
    }
    return false;
}

static bool may_call(const char *role, const char *path)
{
    if (strcmp(role, "admin") == 0)
        return true;
    if (strcmp(role, "operator") == 0)
        return !is_for_admins(path);
    return only_looks(path) && strstr(path, "ListAccess") == NULL &&
           strstr(path, "ListElevations") == NULL && strstr(path, "Audit") == NULL;
}

static void test_each_role_calls_just_the_methods_that_it_may(void **state)
{
    const struct permission_row *rows;
    unsigned refused = 0;
    size_t num;

    (void)state;
    rows = permission_rows(&num);
    for (size_t i = 0; i < num; i++) {
        if (rows[i].permission < PERMISSION(SESSION))
            continue;
        for (size_t j = 0; j < ROLES_BUILT_IN; j++) {
            char id[128], name[PERMISSION_NAME_MAX];
            struct who who = {role_names[j], id, true, (uid_t)-1, NULL};
            bool allowed;

            (void)snprintf(id, sizeof(id), "spiffe://mesh.test/mortise/admin/%s", role_names[j]);
            allowed = judge(&who, rows[i].permission) == 'A';
            if (allowed != may_call(role_names[j], rows[i].path))
                fail_msg("%s %s %s", role_names[j], allowed ? "may call" : "may not call",
                         rows[i].path);
            if (allowed)
                continue;
            refused++;
            permission_name(rows[i].permission, name);
            assert_non_null(strstr(last_reason, name));
            assert_non_null(strstr(last_reason, role_names[j]));
        }
    }
    assert_true(refused > 20);
}

static bool may_grant(const char *subject, const struct role *role)
{
    char id[128];
    static char nothing[] = "";
    char *no_names[] = {NULL};
    struct peer certificate = {.spiffe_id = id, .dns_names = no_names, .serial = nothing};
    struct caller caller = {.peer = &certificate};
    struct grpc_peer peer = {.tls = true, .uid = (uid_t)-1, .identity = &caller};

    (void)snprintf(id, sizeof(id), "spiffe://mesh.test/mortise/admin/%s", subject);
    return caller_may_grant(&rules, &peer, role, last_reason);
}

static void test_nobody_gives_more_than_he_has(void **state)
{
    struct role viewer, admin, clerk = {"clerk", permission_bit(PERMISSION(ACCESS_WRITE))};
    struct role nothing = {.permissions = 0};

    (void)state;
    assert_true(role_built_in("viewer", &viewer));
    assert_true(role_built_in("admin", &admin));
    assert_true(may_grant("alice", &admin));
    assert_true(may_grant("alice", &viewer));
    assert_true(may_grant("clerk", &clerk));
    assert_true(may_grant("clerk", &nothing));
    assert_false(may_grant("clerk", &viewer));
    assert_non_null(strstr(last_reason, "mesh.read"));
    assert_false(may_grant("clerk", &admin));
    assert_false(may_grant("operator", &admin));
    assert_false(may_grant("nobody", &nothing)); /* has no role at all */
    assert_false(may_grant("former", &nothing));
}

/* --------------------------------------------------------------------- sources */

static void check_source(const char *address, const char *source)
{
    char got[ADDR_TEXT_MAX];
    struct addr addr;

    assert_int_equal(addr_parse(address, &addr).code, E_OK);
    caller_source(&addr, got);
    assert_string_equal(got, source);
}

static void test_a_source_is_a_host_whatever_port_and_interface(void **state)
{
    (void)state;
    check_source("10.0.0.7:1234", "10.0.0.7");
    check_source("[::ffff:10.0.0.7]:1234", "10.0.0.7");
    check_source("[2001:db8:1:2:3:4:5:6]:1", "2001:db8:1:2::");
    check_source("[2001:db8:1:2:ffff::1]:2", "2001:db8:1:2::");
    check_source("unix:/run/x", "unix");
}

/* ---------------------------------------------------------------- where it listens */

static void test_what_a_sidecar_may_advertise(void **state)
{
    static const char *const good[] = {"10.0.0.7:15443", "[fd00::1]:443", "portal.example:15443",
                                       "127.0.0.1:1"};
    static const char *const bad[] = {"10.0.0.7",       "10.0.0.7:0", "0.0.0.0:15443",
                                      "[::]:15443",     "unix:/x",    ":15443",
                                      "10.0.0.7:99999", "x y:1",      "host:port"};
    struct addr from;
    char *address = NULL;

    (void)state;
    assert_int_equal(addr_parse("192.0.2.9:40000", &from).code, E_OK);
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        assert_int_equal(discovery_address(good[i], &from, &address).code, E_OK);
        assert_string_equal(address, good[i]);
        mem_free(address);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (err_is_ok(discovery_address(bad[i], &from, &address)))
            fail_msg("%s was taken", bad[i]);
    }
    assert_int_equal(discovery_address("", &from, &address).code, E_OK);
    assert_string_equal(address, "192.0.2.9:15443");
    mem_free(address);
}

static void test_a_crowds_news_are_told_together(void **state)
{
    (void)state;
    /* Few sidecars, or none told lately: only what comes together anyway is waited for. */
    assert_int_equal(discovery_delay_ms(0, 0), DISCOVERY_COALESCE_MS);
    assert_int_equal(discovery_delay_ms(50, 0), DISCOVERY_COALESCE_MS);
    assert_int_equal(discovery_delay_ms(10000, 60000), DISCOVERY_COALESCE_MS);
    assert_int_equal(discovery_delay_ms(10000, UINT64_MAX / 2), DISCOVERY_COALESCE_MS);
    /* Many: the rest of the rest. */
    assert_int_equal(discovery_delay_ms(1000, 0), 200);
    assert_int_equal(discovery_delay_ms(1000, 150), 50);
    assert_int_equal(discovery_delay_ms(1000, 195), DISCOVERY_COALESCE_MS);
    assert_int_equal(discovery_delay_ms(10000, 500), 1500);
    assert_int_equal(discovery_delay_ms(1000000, 0), DISCOVERY_REST_MAX_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_method_of_the_schema_has_a_rule),
        cmocka_unit_test(test_permissions_have_names_of_their_own),
        cmocka_unit_test(test_each_rule_lets_in_just_whom_it_names),
        cmocka_unit_test(test_each_role_calls_just_the_methods_that_it_may),
        cmocka_unit_test(test_nobody_gives_more_than_he_has),
        cmocka_unit_test(test_a_permission_that_is_none_lets_nobody_in),
        cmocka_unit_test(test_a_source_is_a_host_whatever_port_and_interface),
        cmocka_unit_test(test_what_a_sidecar_may_advertise),
        cmocka_unit_test(test_a_crowds_news_are_told_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
