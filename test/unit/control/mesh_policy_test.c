/* Policies in the mesh: what is refused of them, what of them a sidecar gets, whom they keep apart,
 * and which changes let in somebody who was kept out. Without it: a misspelt link makes a rule that
 * holds nowhere, a sidecar lacks the one that concerns it, or a rule that kept somebody out goes
 * unseen. Drives: F19, F6, R13 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "certs/policy.h"
#include "control/mesh.h"
#include "control/mesh_config.h"
#include "control/weaker.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define ID(name) "'spiffe://mesh.test/ns/default/sa/" name "'"
#define ENDS "subsystems: [{name: a}, {name: b}, {name: c}, {name: d}]\n"
#define PROFILES                                                                             \
    "profiles: [{name: default-tls-client, role: CLIENT}, {name: default-tls-server, role: " \
    "SERVER}]\n"
#define LINK(name, client, server, port)                                            \
    "- {name: " name ", client: " client ", server: " server ", client_port: " port \
    ", server_port: 2}\n"
#define LINKS                                                                        \
    ENDS PROFILES "links:\n" LINK("a-b", "a", "b", "11") LINK("a-c", "a", "c", "12") \
        LINK("c-b", "c", "b", "13")
#define DENY(name, links, peers) \
    "- {name: " name ", action: DENY, links: [" links "], peers: [" peers "]}\n"
#define ALLOW(name, links, peers) \
    "- {name: " name ", action: ALLOW, links: [" links "], peers: [" peers "]}\n"
#define MESH(policies) LINKS "policies:\n" policies

#define OPEN                                                                                     \
    LINKS "- {name: o, client: d, server: b, client_port: 14, server_port: 2, allow_anonymous: " \
          "true}\npolicies:\n"

#define SKIPS                                                                                  \
    ENDS "profiles: [{name: default-tls-client, role: CLIENT}, {name: default-tls-server, "    \
         "role: SERVER}, {name: blind, role: CLIENT, insecure_skip_verify: true}]\nlinks:\n"   \
         "- {name: o, client: d, server: b, client_port: 14, server_port: 2, client_profile: " \
         "blind}\npolicies:\n"

/* ---- what is refused ---- */

static void test_what_is_wrong_with_a_policy_is_told(void **state)
{
    static const struct {
        const char *yaml, *path, *says;
    } rows[] = {
        {MESH("- {name: x, peers: [" ID("a") "]}\n"), "policies[0].action", "ALLOW"},
        {MESH("- {name: X, action: DENY, peers: [" ID("a") "]}\n"), "policies[0].name",
         "is not a name"},
        {MESH(DENY("x", "", ID("a")) DENY("x", "", ID("b"))), "policies[1].name",
         "there is another policy"},
        {MESH(DENY("x", "", "")), "policies[0].peers", "is missing"},
        {MESH(DENY("x", "", "portal")), "policies[0].peers[0]", "not a SPIFFE ID"},
        {MESH(DENY("x", "a-b, a-d", ID("a"))), "policies[0].links[1]",
         "no link \"a-d\" (meant was a-b?); there are: a-b, a-c, c-b"},
        {MESH(DENY("x", "nothing-alike", ID("a"))), "policies[0].links[0]",
         "no link \"nothing-alike\"; there are: a-b"},
        {MESH(DENY("x", "a-b, a-b", ID("a"))), "policies[0].links[1]", "there twice"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        Mortise__V1__Mesh *mesh = fixture_mesh(rows[i].yaml);
        struct faults faults = {.num = 0};

        assert_true(err_is(mesh_check(mesh, NULL, &faults), E_CONFIG_INVALID));
        assert_true(fixture_has(&faults, rows[i].path, rows[i].says));
        assert_int_equal(faults.total, 1);
        faults_fini(&faults);
        pb_free(&mesh->base);
    }
}

/* It holds, but not for whom it seems to. */
static void test_a_deny_that_can_be_gone_around_is_warned_of(void **state)
{
    static const struct {
        const char *yaml;
        size_t warnings;
    } rows[] = {
        {MESH(DENY("x", "", ID("a"))), 0},  {OPEN DENY("x", "", ID("a")), 1},
        {OPEN DENY("x", "o", ID("a")), 1},  {OPEN DENY("x", "a-c", ID("a")), 0},
        {OPEN ALLOW("x", "o", ID("a")), 0}, {SKIPS DENY("x", "", ID("a")), 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        Mortise__V1__Mesh *mesh = fixture_mesh(rows[i].yaml);
        struct faults faults = {.num = 0};
        size_t of_document[8] = {0}, kept[8];
        struct mesh_origin origin;

        memset(kept, 0xff, sizeof(kept));
        for (int kind = 0; kind < MESH_KINDS; kind++)
            origin.index[kind] = of_document;
        mesh_warn(mesh, &origin, &faults);
        assert_int_equal(faults.total, rows[i].warnings);
        if (faults.total > 0)
            assert_true(fixture_has(&faults, "policies[0].action", "link \"o\" "));
        faults_fini(&faults);
        origin.index[MESH_POLICIES] = kept; /* a link that is opened later is told of as well */
        mesh_warn(mesh, &origin, &faults);
        assert_int_equal(faults.total, rows[i].warnings);
        faults_fini(&faults);
        origin.index[MESH_LINKS] = kept; /* of what was there nobody is told again */
        mesh_warn(mesh, &origin, &faults);
        assert_int_equal(faults.total, 0);
        pb_free(&mesh->base);
    }
}

/* The most that a mesh may have of links, and policies that name them all: in seconds it would hold
 * up everything else. */
static void test_many_links_and_policies_are_judged_soon(void **state)
{
    const size_t num_links = 10000, num_policies = POLICY_MAX;
    struct buf text = {.data = NULL};
    CLEANUP(mem_freep) char *yaml = NULL;
    struct faults faults = {.num = 0};
    struct policy_set *set;
    Mortise__V1__Mesh *mesh;
    const char *denied;
    uint64_t began_us, bare_us, us;
    size_t num;

    (void)state;
    assert_ok(buf_add_str(&text, ENDS PROFILES "links:\n"));
    for (size_t i = 0; i < num_links; i++)
        assert_ok(buf_printf(&text,
                             "- {name: l%zu, client: a, server: b, client_port: %zu, server_port: "
                             "2}\n",
                             i, i + 20000));
    assert_ok(buf_add_str(&text, "policies:\n"));
    for (size_t i = 0; i < num_policies; i++)
        assert_ok(buf_printf(
            &text, "- {name: p%zu, action: %s, links: [l%zu, l%zu], peers: [" ID("a") "]}\n", i,
            i % 2 == 0 ? "DENY" : "ALLOW", 2 * i, 2 * i + 1));
    yaml = buf_take_str(&text);
    mesh = fixture_mesh(yaml);
    num = mesh->n_policies;
    mesh->n_policies = 0;
    began_us = clock_mono_us();
    assert_ok(mesh_check(mesh, NULL, &faults));
    bare_us = clock_mono_us() - began_us;
    mesh->n_policies = num;
    began_us = clock_mono_us();
    assert_ok(mesh_check(mesh, NULL, &faults));
    print_message("check: %llu us without, %llu us with them\n", (unsigned long long)bare_us,
                  (unsigned long long)(clock_mono_us() - began_us));
    began_us = clock_mono_us();
    set = policy_set_new(mesh->policies, mesh->n_policies);
    for (size_t i = 0; i < mesh->n_links; i++) {
        const Mortise__V1__Policy *policy =
            mesh_denies(mesh, set, "mesh.test", mesh->links[i], &denied);

        assert_int_equal(policy != NULL, i < 2 * num_policies && i / 2 % 2 == 0);
    }
    us = clock_mono_us() - began_us;
    print_message("%zu links, %zu policies: judged in %llu us\n", num_links, num_policies,
                  (unsigned long long)us);
    assert_true(us < 5000000); /* milliseconds; a product of the two would take minutes */
    policy_set_free(set);
    faults_fini(&faults);
    pb_free(&mesh->base);
}

/* ---- what a sidecar gets ---- */

static const char *const *endpoints(void *arg, const char *subsystem, size_t *out_num)
{
    (void)arg;
    (void)subsystem;
    *out_num = 0;
    return NULL;
}

/* "x DENY a-b,a-c: id id; …" */
static void given(const char *yaml, const char *subsystem, char out[1024])
{
    Mortise__V1__Mesh *mesh = fixture_mesh(yaml);
    struct policy_set *set = policy_set_new(mesh->policies, mesh->n_policies);
    const struct mesh_view view = {.mesh = mesh,
                                   .policies = set,
                                   .trust_domain = "mesh.test",
                                   .roots_pem = "PEM",
                                   .endpoints = endpoints};
    Mortise__V1__SidecarConfig *config = mesh_config(&view, subsystem);
    size_t len = 0;

    out[0] = '\0';
    for (size_t i = 0; i < config->n_policies; i++) {
        const Mortise__V1__Policy *policy = config->policies[i];

        len += (size_t)snprintf(out + len, 1024 - len, "%s%s %s", i > 0 ? "; " : "", policy->name,
                                policy->action == MORTISE__V1__POLICY__ACTION__DENY ? "DENY"
                                                                                    : "ALLOW");
        for (size_t j = 0; j < policy->n_links; j++)
            len += (size_t)snprintf(out + len, 1024 - len, "%s%s", j > 0 ? "," : " ",
                                    policy->links[j]);
        for (size_t j = 0; j < policy->n_peers; j++)
            len += (size_t)snprintf(out + len, 1024 - len, " %s",
                                    policy->peers[j] + strlen("spiffe://mesh.test/"));
    }
    pb_free(&config->base);
    policy_set_free(set);
    pb_free(&mesh->base);
}

static void test_a_sidecar_gets_what_decides_of_its_links(void **state)
{
    static const struct {
        const char *yaml, *subsystem, *given;
    } rows[] = {
        {LINKS, "b", ""},
        {MESH(DENY("x", "", ID("a") ", " ID("d"))), "b", "x DENY a-b ns/default/sa/a"},
        {MESH(DENY("x", "", ID("a"))), "c", "x DENY a-c ns/default/sa/a"},
        {MESH(DENY("x", "", ID("a"))), "a", ""}, /* it does not meet itself */
        {MESH(DENY("x", "", ID("a"))), "d", ""}, /* it has no link */
        {MESH(DENY("x", "a-c", ID("a"))), "b", ""},
        {MESH(DENY("x", "", ID("b"))), "a", "x DENY a-b ns/default/sa/b"}, /* the server */
        {MESH(DENY("x", "", "'spiffe://mesh.test/ns/*'")), "b", "x DENY a-b,c-b ns/*"},
        {MESH(DENY("x", "", "'spiffe://mesh.test/*', " ID("a"))), "b",
         "x DENY a-b,c-b ns/default/sa/a *"},
        /* whom an ALLOW lets in, and, where it lets in nobody, that it does */
        {MESH(ALLOW("x", "a-b", ID("a") ", " ID("d"))), "b", "x ALLOW a-b ns/default/sa/a"},
        {MESH(ALLOW("x", "", ID("a"))), "b", "x ALLOW a-b,c-b ns/default/sa/a"},
        {MESH(ALLOW("x", "", ID("d"))), "b", "x ALLOW a-b,c-b"},
        {MESH(ALLOW("x", "", ID("d"))), "a", ""}, /* servers are not what it is about */
        {MESH(ALLOW("x", "a-b", ID("d")) ALLOW("w", "a-b", ID("d"))), "b", "x ALLOW a-b"},
        {MESH(ALLOW("x", "a-b", ID("d")) ALLOW("w", "a-b", ID("a"))), "b",
         "w ALLOW a-b ns/default/sa/a"},
        {MESH(DENY("z", "", ID("c")) ALLOW("w", "c-b", ID("c")) DENY("x", "a-b", ID("a"))), "b",
         "z DENY c-b ns/default/sa/c; w ALLOW c-b ns/default/sa/c; x DENY a-b ns/default/sa/a"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[1024];

        given(rows[i].yaml, rows[i].subsystem, text);
        assert_string_equal(text, rows[i].given);
    }
}

static void test_it_is_known_whom_a_policy_keeps_apart(void **state)
{
    Mortise__V1__Mesh *mesh =
        fixture_mesh(MESH(DENY("no-b", "a-b", ID("b")) ALLOW("only-d", "a-c", ID("d"))));
    struct policy_set *set = policy_set_new(mesh->policies, mesh->n_policies);
    const char *denied;

    (void)state;
    assert_string_equal(mesh_denies(mesh, set, "mesh.test", mesh->links[0], &denied)->name, "no-b");
    assert_string_equal(denied, "b");
    assert_string_equal(mesh_denies(mesh, set, "mesh.test", mesh->links[1], &denied)->name,
                        "only-d");
    assert_string_equal(denied, "a");
    assert_null(mesh_denies(mesh, set, "mesh.test", mesh->links[2], &denied));
    assert_null(mesh_denies(mesh, set, "other.test", mesh->links[0], &denied));
    policy_set_free(set);
    pb_free(&mesh->base);
}

/* ---- what is weaker ---- */

#define X_DENY DENY("x", "a-b, a-c", ID("a") ", " ID("c"))
#define X_ALLOW ALLOW("x", "a-b", ID("a"))

static const struct {
    const char *before, *after;
    const char *told; /* NULL: nothing is weaker; alone if not */
} rows[] = {
    {LINKS, MESH(X_DENY X_ALLOW), NULL},
    {MESH(X_DENY), MESH(X_DENY), NULL},
    /* DENY */
    {MESH(X_DENY), LINKS, "DENY removed"},
    {MESH(X_DENY), MESH(DENY("w", "a-b, a-c", ID("a") ", " ID("c"))), NULL}, /* another name */
    {MESH(X_DENY), MESH(DENY("w", "a-b", ID("a") ", " ID("c"))), "DENY removed"},
    {MESH(X_DENY), MESH(ALLOW("x", "a-b, a-c", ID("a") ", " ID("c"))), "DENY removed"},
    {MESH(X_DENY), MESH(DENY("x", "a-b", ID("a") ", " ID("c"))), "DENY no longer on link a-c"},
    {MESH(X_DENY), MESH(DENY("x", "", ID("a") ", " ID("c"))), NULL},
    {MESH(DENY("x", "", ID("a"))), MESH(DENY("x", "a-b, a-c, c-b", ID("a"))),
     "DENY on every link -> on some"}, /* those to come */
    {MESH(X_DENY), MESH(DENY("x", "a-b, a-c", ID("a"))),
     "DENY no longer of spiffe://mesh.test/ns/default/sa/c"},
    {MESH(X_DENY), MESH(DENY("x", "a-b, a-c", ID("a") ", " ID("c") ", " ID("d"))), NULL},
    {MESH(X_DENY), MESH(DENY("x", "a-b, a-c", "'spiffe://mesh.test/ns/*'")), NULL},
    {MESH(DENY("x", "", "'spiffe://mesh.test/ns/*'")), MESH(DENY("x", "", ID("a"))),
     "DENY no longer of spiffe://mesh.test/ns/*"},
    /* ALLOW */
    {MESH(X_ALLOW), LINKS, "ALLOW no longer on link a-b"},
    {MESH(X_ALLOW), MESH(ALLOW("w", "a-b", ID("a"))), NULL}, /* another name */
    {MESH(X_ALLOW), MESH(DENY("x", "a-b", ID("a"))), "ALLOW no longer on link a-b"},
    {MESH(X_ALLOW), MESH(ALLOW("x", "a-b", ID("a") ", " ID("c"))),
     "ALLOW also of spiffe://mesh.test/ns/default/sa/c"},
    {MESH(ALLOW("x", "a-b", ID("a") ", " ID("c"))), MESH(X_ALLOW), NULL},
    {MESH(ALLOW("x", "a-b", "'spiffe://mesh.test/ns/*'")), MESH(X_ALLOW), NULL},
    {MESH(X_ALLOW), MESH(ALLOW("x", "a-b", "'spiffe://mesh.test/ns/*'")),
     "ALLOW also of spiffe://mesh.test/ns/*"},
    {MESH(X_ALLOW), MESH(ALLOW("x", "a-b, a-c", ID("a"))), NULL}, /* a-c had none: fewer get in */
    {MESH(X_ALLOW), MESH(ALLOW("x", "", ID("a"))), NULL},
    {MESH(ALLOW("x", "", ID("a"))), MESH(X_ALLOW), "ALLOW on every link -> on some, or none"},
    {MESH(X_ALLOW), MESH(X_ALLOW ALLOW("w", "a-b", ID("c"))),
     "ALLOW added to links that others were allowed on alone"},
    {MESH(X_ALLOW), MESH(X_ALLOW ALLOW("w", "a-c", ID("c"))), NULL},
    {MESH(X_ALLOW), MESH(X_ALLOW ALLOW("w", "", ID("c"))),
     "ALLOW added to links that others were allowed on alone"},
    {MESH(X_ALLOW ALLOW("w", "a-c", ID("d"))), MESH(X_ALLOW ALLOW("w", "a-c, a-b", ID("d"))),
     "ALLOW also on link a-b, beside others"},
    {MESH(X_ALLOW ALLOW("w", "a-b", ID("c"))), MESH(X_ALLOW), NULL}, /* the other one is there */
    /* what was removed with its link, and a link that takes another's place */
    {MESH(DENY("x", "c-b", ID("c"))),
     ENDS PROFILES "links:\n" LINK("a-b", "a", "b", "11") LINK("a-c", "a", "c", "12"),
     "DENY removed"},
    {MESH(DENY("x", "a-b, c-b", ID("c"))),
     ENDS PROFILES "links:\n" LINK("a-b", "a", "b", "11") "policies:\n" DENY("x", "a-b", ID("c")),
     NULL},
    {MESH(DENY("x", "a-b, c-b", ID("c"))),
     ENDS PROFILES "links:\n" LINK("a-b", "a", "b", "11")
         LINK("c-b2", "c", "b", "13") "policies:\n" DENY("x", "a-b", ID("c")),
     "DENY no longer on link c-b"},
};

static void test_each_weakening_is_told_and_nothing_else(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        Mortise__V1__Mesh *before, *after;
        struct faults told = {.num = 0};

        before = fixture_mesh(rows[i].before);
        after = fixture_mesh(rows[i].after);
        weaker_policies(before, after, &told);
        if (rows[i].told == NULL) {
            if (told.total != 0)
                fail_msg("row %zu: %s: %s", i, told.items[0].path, told.items[0].message);
        } else {
            if (told.total == 0)
                fail_msg("row %zu: nothing; wanted: %s", i, rows[i].told);
            assert_string_equal(told.items[0].message, rows[i].told);
            assert_memory_equal(told.items[0].path, "policy ", 7);
            assert_int_equal(told.total, 1);
        }
        faults_fini(&told);
        pb_free(&before->base);
        pb_free(&after->base);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_wrong_with_a_policy_is_told),
        cmocka_unit_test(test_a_deny_that_can_be_gone_around_is_warned_of),
        cmocka_unit_test(test_many_links_and_policies_are_judged_soon),
        cmocka_unit_test(test_a_sidecar_gets_what_decides_of_its_links),
        cmocka_unit_test(test_it_is_known_whom_a_policy_keeps_apart),
        cmocka_unit_test(test_each_weakening_is_told_and_nothing_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
