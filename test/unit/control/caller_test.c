/* Who may call what: every method of every service has a rule, and each rule lets in just whom it
 * names. Without it: a new method is open to everybody, or a sidecar does an operator's work.
 * Drives: R46, R44, R62, R5, R47. */
#include "control/caller.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/discovery_service.h"
#include "control/identity_service.h"
#include "control/operator_service.h"
#include "lib/base/mem.h"
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
        if (ours->permission <= PERMISSION_NONE || ours->permission >= PERMISSION_NUM)
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
    size_t num;

    (void)state;
    methods = identity_service_methods(&num);
    check_service(&mortise__v1__identity_service__descriptor, methods, num);
    assert_int_equal(find(methods, num, "/mortise.v1.IdentityService/Attest")->permission,
                     PERMISSION_ANYONE);
    assert_int_equal(find(methods, num, "/mortise.v1.IdentityService/Renew")->permission,
                     PERMISSION_WORKLOAD);
    methods = discovery_service_methods(&num);
    check_service(&mortise__v1__discovery_service__descriptor, methods, num);
    for (size_t i = 0; i < num; i++)
        assert_int_equal(methods[i].permission, PERMISSION_WORKLOAD);
    methods = operator_service_methods(&num);
    check_service(&mortise__v1__operator_service__descriptor, methods, num);
    for (size_t i = 0; i < num; i++)
        assert_int_equal(methods[i].permission, PERMISSION_OPERATOR);
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

static const struct caller_rules rules = {
    .trust_domain = TD, .uid = 1000, .is_workload = is_workload, .is_revoked = is_revoked};

struct who {
    const char *name;
    const char *spiffe_id; /* NULL: no certificate */
    bool tls;
    uid_t uid;
    /* What each permission says: A allowed, U unauthenticated, D denied; NONE first. */
    const char *says;
};

static const struct who people[] = {
    {"stranger over TLS", NULL, true, (uid_t)-1, "DAUU"},
    {"sidecar", WORKLOAD, true, (uid_t)-1, "DAAD"},
    {"sidecar whose subsystem is gone", "spiffe://mesh.test/ns/apim/sa/gone", true, (uid_t)-1,
     "DADD"},
    {"admin", "spiffe://mesh.test/mortise/admin/alice", true, (uid_t)-1, "DADA"},
    {"admin who is revoked", "spiffe://mesh.test/mortise/admin/revoked", true, (uid_t)-1, "DDDD"},
    {"admin of another mesh", "spiffe://other.test/mortise/admin/alice", true, (uid_t)-1, "DADD"},
    {"admin without a name", "spiffe://mesh.test/mortise/admin/", true, (uid_t)-1, "DADD"},
    {"admin with a path", "spiffe://mesh.test/mortise/admin/alice/root", true, (uid_t)-1, "DADD"},
    {"nearly an admin", "spiffe://mesh.test/mortise/administrator", true, (uid_t)-1, "DADD"},
    {"namespace that looks like one", "spiffe://mesh.test/ns/mortise/admin/alice", true, (uid_t)-1,
     "DADD"},
    {"the control plane itself", "spiffe://mesh.test/mortise/control", true, (uid_t)-1, "DADD"},
    {"own user on the socket", NULL, false, 1000, "DAUA"},
    {"root on the socket", NULL, false, 0, "DAUA"},
    {"somebody else on the socket", NULL, false, 1001, "DDUD"},
};

static char judge(const struct who *who, int permission)
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
    const char *reason = NULL;
    enum grpc_status status;

    if (who->spiffe_id != NULL)
        (void)snprintf(id, sizeof(id), "%s", who->spiffe_id);
    status = caller_permits(&rules, &peer, permission, &reason);
    if (status != GRPC_OK) {
        assert_non_null(reason);
        assert_null(strstr(reason, "spiffe:")); /* tells the rule, not who else there is */
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
        for (int permission = 0; permission < PERMISSION_NUM; permission++) {
            char said = judge(&people[i], permission);

            if (said != people[i].says[permission])
                fail_msg("%s, permission %d: %c", people[i].name, permission, said);
        }
    }
}

static void test_a_permission_that_is_none_lets_nobody_in(void **state)
{
    static const int odd[] = {-1, PERMISSION_NONE, PERMISSION_NUM, 99};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(people); i++) {
        for (size_t j = 0; j < ARRAY_LEN(odd); j++)
            assert_int_equal(judge(&people[i], odd[j]), 'D');
    }
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
        cmocka_unit_test(test_each_rule_lets_in_just_whom_it_names),
        cmocka_unit_test(test_a_permission_that_is_none_lets_nobody_in),
        cmocka_unit_test(test_a_source_is_a_host_whatever_port_and_interface),
        cmocka_unit_test(test_what_a_sidecar_may_advertise),
        cmocka_unit_test(test_a_crowds_news_are_told_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
