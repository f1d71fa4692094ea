/* A mesh document: every fault is told, at its place, at once; merging changes what it says and
 * nothing else; what a sidecar gets follows from it. Without it: a typing error is half applied, a
 * link has no cipher in common, or a sidecar may do what no link says. Drives: A1, A8, A9, B2, R10,
 * R61, F2, R13. */
#include "control/mesh.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/mesh_config.h"
#include "control/mesh_merge.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

/* ------------------------------------------------------------------------ check */

#define GOOD                                                                             \
    "subsystems: [{name: a}, {name: b}, {name: c, namespace: x, service_account: yy}]\n" \
    "profiles:\n"                                                                        \
    "  - {name: cl, role: CLIENT}\n"                                                     \
    "  - {name: sv, role: SERVER}\n"                                                     \
    "  - {name: new-cl, role: CLIENT, min_version: TLS1_3}\n"                            \
    "  - {name: old-sv, role: SERVER, max_version: TLS1_2}\n"

#define LINK(more)                                                                       \
    "links:\n  - {name: l, client: a, server: b, client_port: 1000, server_port: 2000, " \
    "client_profile: cl, server_profile: sv" more "}\n"

struct row {
    const char *yaml;
    const char *path; /* NULL: no fault at all */
    const char *text;
};

static const struct row rows[] = {
    {GOOD LINK(""), NULL, NULL},
    {GOOD "settings: {leaf_ttl_s: 300}\n", NULL, NULL},
    {GOOD "settings: {leaf_ttl_s: 604800}\n", NULL, NULL},
    {"{}", NULL, NULL},
    {GOOD "settings: {leaf_ttl_s: 299}\n", "settings.leaf_ttl_s", "299"},
    {GOOD "settings: {leaf_ttl_s: 604801}\n", "settings.leaf_ttl_s", "604801"},
    /* names */
    {"subsystems: [{name: Portal}]", "subsystems[0].name", "\"Portal\" is not a name"},
    {"subsystems: [{name: a}, {name: ''}]", "subsystems[1].name", "is not a name"},
    {"subsystems: [{name: -a}]", "subsystems[0].name", "is not a name"},
    {"subsystems: [{name: a-}]", "subsystems[0].name", "is not a name"},
    {"subsystems: [{name: a.b}]", "subsystems[0].name", "is not a name"},
    {"subsystems: [{name: 'a/../b'}]", "subsystems[0].name", "is not a name"},
    {"subsystems: "
     "[{name: a23456789012345678901234567890123456789012345678901234567890123}]",
     NULL, NULL},
    {"subsystems: "
     "[{name: a234567890123456789012345678901234567890123456789012345678901234}]",
     "subsystems[0].name", "is not a name"},
    {"subsystems: [{name: a}, {name: b}, {name: a}]", "subsystems[2].name",
     "another subsystem \"a\""},
    {"profiles: [{name: p, role: CLIENT}, {name: p, role: SERVER}]", "profiles[1].name",
     "another profile \"p\""},
    {GOOD
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
     "cl, server_profile: sv}, {name: l, client: b, server: c, client_port: 1, server_port: 2, "
     "client_profile: cl, server_profile: sv}]",
     "links[1].name", "another link \"l\""},
    {"subsystems: [{name: a, namespace: X}]", "subsystems[0].namespace", "is not a name"},
    {"subsystems: [{name: a, service_account: 'b c'}]", "subsystems[0].service_account",
     "is not a name"},
    {"subsystems: [{name: a}, {name: b, service_account: a}]", "subsystems[1].service_account",
     "subsystem \"a\" is ns/default/sa/a already"},
    {"subsystems: [{name: a, namespace: x}, {name: b, service_account: a}]", NULL, NULL},
    /* references */
    {GOOD "links: [{name: l, client: z, server: b, client_port: 1, server_port: 2, client_profile: "
          "cl, server_profile: sv}]",
     "links[0].client", "no subsystem \"z\"; there are: a, b, c"},
    {GOOD "links: [{name: l, server: b, client_port: 1, server_port: 2, client_profile: cl, "
          "server_profile: sv}]",
     "links[0].client", "is missing"},
    {GOOD "links: [{name: l, client: a, server: a, client_port: 1, server_port: 2, client_profile: "
          "cl, server_profile: sv}]",
     "links[0].server", "a link joins two"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "zz, server_profile: sv}]",
     "links[0].client_profile", "no profile \"zz\"; there are: cl, new-cl"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "sv, server_profile: sv}]",
     "links[0].client_profile", "\"sv\" is a SERVER profile; of role CLIENT there are: cl, new-cl"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "cl, server_profile: cl}]",
     "links[0].server_profile", "is a CLIENT profile"},
    {"subsystems: [{name: a}, {name: b}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2}]",
     "links[0].client_profile", "no profile \"default-tls-client\"; there are: none"},
    /* TLS 1.2: the client's groups bind the certificate's curve */
    {"subsystems: [{name: a}, {name: b}]\n"
     "profiles: [{name: c2, role: CLIENT, groups: [X25519]}, {name: s2, role: SERVER, max_version: "
     "TLS1_2}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: c2, "
     "server_profile: s2}]",
     "links[0].client_profile", "has no group P-256"},
    {"subsystems: [{name: a}, {name: b}]\n"
     "profiles: [{name: c2, role: CLIENT, groups: [X25519, P-256]}, {name: s2, role: SERVER, "
     "max_version: TLS1_2}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: c2, "
     "server_profile: s2}]",
     NULL, NULL},
    {"subsystems: [{name: a}, {name: b}]\n"
     "profiles: [{name: c2, role: CLIENT, groups: [X25519]}, {name: s2, role: SERVER, max_version: "
     "TLS1_3}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: c2, "
     "server_profile: s2}]",
     NULL, NULL},
    /* ports */
    {GOOD "links: [{name: l, client: a, server: b, server_port: 2, client_profile: cl, "
          "server_profile: sv}]",
     "links[0].client_port", "is missing"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, client_profile: cl, "
          "server_profile: sv}]",
     "links[0].server_port", "is missing"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 65536, server_port: 2, "
          "client_profile: cl, server_profile: sv}]",
     "links[0].client_port", "65536 is not a port"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 65535, server_port: 65535, "
          "client_profile: cl, server_profile: sv}]",
     NULL, NULL},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 15443, server_port: 2, "
          "client_profile: cl, server_profile: sv}]",
     "links[0].client_port", "where every sidecar takes mTLS"},
    {GOOD LINK("") "  - {name: m, client: a, server: c, client_port: 1000, server_port: 2, "
                   "client_profile: cl, server_profile: sv}\n",
     "links[1].client_port", "1000 of \"a\" is taken by link \"l\""},
    {GOOD LINK("") "  - {name: m, client: b, server: c, client_port: 1000, server_port: 2, "
                   "client_profile: cl, server_profile: sv}\n",
     NULL, NULL}, /* another sidecar's loopback */
    {GOOD LINK("") "  - {name: m, client: c, server: b, client_port: 9, server_port: 2000, "
                   "client_profile: cl, server_profile: sv}\n",
     NULL, NULL}, /* two links to one application */
    {GOOD LINK("") "  - {name: m, client: c, server: a, client_port: 9, server_port: 1000, "
                   "client_profile: cl, server_profile: sv}\n",
     "links[1].server_port", "cannot be the application's: link \"l\" has it as client_port"},
    /* profiles */
    {"profiles: [{name: p}]", "profiles[0].role", ""},
    {"profiles: [{name: p, role: CLIENT, min_version: TLS1_0}]", "profiles[0].min_version", ""},
    {"profiles: [{name: p, role: CLIENT, groups: [X25591]}]", "profiles[0].groups[0]", "X25519"},
    {"profiles: [{name: p, role: CLIENT, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]}]",
     "profiles[0].cipher_suites[0]", ""},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "new-cl, server_profile: old-sv}]",
     "links[0]", "TLS1_3"},
};

static void test_every_fault_is_told_at_its_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Mortise__V1__Mesh *mesh = fixture_mesh(rows[i].yaml);
        struct faults faults = {0};
        err_t err = mesh_check(mesh, NULL, &faults);

        if (rows[i].path == NULL) {
            for (size_t j = 0; j < faults.num; j++)
                print_error("%s: %s\n", faults.items[j].path, faults.items[j].message);
            if (!err_is_ok(err))
                fail_msg("refused: %s", rows[i].yaml);
        } else {
            assert_code(err, CONFIG_INVALID);
            if (!fixture_has(&faults, rows[i].path, rows[i].text))
                fail_msg("not at %s: %s", rows[i].path, rows[i].yaml);
        }
        faults_fini(&faults);
        pb_free(&mesh->base);
    }
}

static void test_all_faults_come_at_once(void **state)
{
    Mortise__V1__Mesh *mesh =
        fixture_mesh("subsystems: [{name: UP}, {name: b}]\n"
                     "profiles: [{name: p}]\n"
                     "links: [{name: l, client: x, server: z, client_port: 0, server_port: 70000, "
                     "client_profile: q, server_profile: r}]\n"
                     "settings: {leaf_ttl_s: 1}\n");
    static const char *const paths[] = {
        "subsystems[0].name",      "profiles[0].role",        "links[0].client",
        "links[0].server",         "links[0].client_port",    "links[0].server_port",
        "links[0].client_profile", "links[0].server_profile", "settings.leaf_ttl_s"};
    struct faults faults = {0};

    (void)state;
    assert_code(mesh_check(mesh, NULL, &faults), CONFIG_INVALID);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        assert_true(fixture_has(&faults, paths[i], ""));
    faults_fini(&faults);
    pb_free(&mesh->base);
}

static void test_the_default_mesh_is_the_four_links(void **state)
{
    static const char *const links[][3] = {{"management-portal", "management", "portal"},
                                           {"management-gateway", "management", "gateway"},
                                           {"management-analytics", "management", "analytics"},
                                           {"gateway-analytics", "gateway", "analytics"}};
    Mortise__V1__Mesh *mesh = mesh_default();
    struct faults faults = {0};

    (void)state;
    assert_ok(mesh_check(mesh, NULL, &faults));
    assert_int_equal(mesh->n_subsystems, 4);
    assert_int_equal(mesh->n_links, ARRAY_LEN(links));
    for (size_t i = 0; i < ARRAY_LEN(links); i++) {
        assert_string_equal(mesh->links[i]->name, links[i][0]);
        assert_string_equal(mesh->links[i]->client, links[i][1]);
        assert_string_equal(mesh->links[i]->server, links[i][2]);
    }
    assert_non_null(mesh_profile(mesh, "default-tls-client"));
    assert_non_null(mesh_profile(mesh, "default-tls-server"));
    pb_free(&mesh->base);
}

/* ------------------------------------------------------------------------ merge */

struct merged {
    struct mesh_merge merge;
    struct faults faults;
    err_t err;
};

static struct merged *merge(const char *yaml, bool prune)
{
    struct merged *merged = mem_zalloc(sizeof(*merged));
    Mortise__V1__Mesh *current = mesh_default();
    Mortise__V1__Mesh *document = fixture_mesh(yaml);

    merged->err = mesh_merge(current, document, prune, &merged->faults, &merged->merge);
    /* The result is a value of its own. */
    pb_free(&current->base);
    pb_free(&document->base);
    return merged;
}

static void merged_free(struct merged *merged)
{
    mesh_merge_fini(&merged->merge);
    faults_fini(&merged->faults);
    mem_free(merged);
}

static bool changed(const struct merged *merged, const char *text)
{
    for (size_t i = 0; i < merged->merge.num_changes; i++) {
        if (strcmp(merged->merge.changes[i], text) == 0)
            return true;
    }
    for (size_t i = 0; i < merged->merge.num_changes; i++)
        print_error("there: %s\n", merged->merge.changes[i]);
    return false;
}

static void test_a_document_changes_what_it_names(void **state)
{
    struct merged *merged =
        merge("subsystems: [{name: portal, namespace: apim}, {name: shop}]\n"
              "links: [{name: management-portal, client: management, server: portal, client_port: "
              "15101, server_port: 9999}]\n"
              "settings: {leaf_ttl_s: 3600}\n",
              false);
    const Mortise__V1__Mesh *mesh = merged->merge.mesh;

    (void)state;
    assert_ok(merged->err);
    assert_int_equal(merged->merge.num_changes, 4);
    assert_true(changed(merged, "settings: changed leaf_ttl_s"));
    assert_true(changed(merged, "subsystem portal: changed namespace"));
    assert_true(changed(merged, "subsystem shop: added"));
    assert_true(changed(merged, "link management-portal: changed server_port"));
    assert_int_equal(mesh->n_subsystems, 5);
    assert_int_equal(mesh->n_links, 4);
    assert_string_equal(mesh->subsystems[1]->name, "portal"); /* keeps its place */
    assert_string_equal(mesh->subsystems[1]->namespace_, "apim");
    assert_string_equal(mesh->subsystems[4]->name, "shop");
    assert_int_equal(mesh->links[0]->server_port, 9999);
    assert_int_equal(mesh_leaf_ttl_s(mesh), 3600);
    merged_free(merged);
}

static void test_an_equal_document_changes_nothing(void **state)
{
    struct merged *merged = merge("subsystems: [{name: portal}, {name: gateway}]", false);

    (void)state;
    assert_ok(merged->err);
    assert_int_equal(merged->merge.num_changes, 0);
    merged_free(merged);
}

static void test_prune_removes_the_rest_but_built_in_profiles(void **state)
{
    struct merged *merged = merge("subsystems: [{name: portal}]", true);

    (void)state;
    assert_ok(merged->err);
    assert_int_equal(merged->merge.mesh->n_subsystems, 1);
    assert_int_equal(merged->merge.mesh->n_links, 0);
    assert_int_equal(merged->merge.mesh->n_profiles, 2);
    assert_true(changed(merged, "link gateway-analytics: removed"));
    assert_true(changed(merged, "subsystem gateway: removed"));
    merged_free(merged);
}

static void test_a_name_twice_in_the_document_is_a_fault(void **state)
{
    struct merged *merged = merge("subsystems: [{name: x}, {name: z}, {name: x}]", false);

    (void)state;
    assert_code(merged->err, CONFIG_INVALID);
    assert_true(fixture_has(&merged->faults, "subsystems[2].name", "twice"));
    merged_free(merged);
}

static void test_built_in_profiles_are_not_for_changing(void **state)
{
    struct merged *merged =
        merge("profiles: [{name: default-tls-client, role: CLIENT, min_version: TLS1_3}]", false);
    struct merged *same =
        merge("profiles: [{name: default-tls-client, description: 'TLS 1.2 and 1.3, ECDHE with "
              "AEAD', role: CLIENT, min_version: TLS1_2, max_version: TLS1_3}]",
              false);

    (void)state;
    assert_code(merged->err, CONFIG_INVALID);
    assert_true(fixture_has(&merged->faults, "profiles[0].name", "built in"));
    assert_ok(same->err); /* what get printed can be applied */
    merged_free(merged);
    merged_free(same);
}

/* A fault in what the document does not name has a name for its place, else the document's index.
 */
static void test_faults_of_what_was_there_are_told_by_name(void **state)
{
    struct merged *merged = merge("subsystems: [{name: management}, {name: portal}, {name: "
                                  "analytics}]\n"
                                  "links: [{name: management-portal, client: management, server: "
                                  "portal, client_port: 1, server_port: 0}]\n",
                                  false);
    Mortise__V1__Mesh *mesh = merged->merge.mesh;
    struct faults faults = {0};

    (void)state;
    assert_ok(merged->err);
    /* As if the gateway had gone. */
    for (size_t i = 0; i < mesh->n_subsystems; i++) {
        if (strcmp(mesh->subsystems[i]->name, "gateway") == 0)
            mesh->subsystems[i]->name[0] = 'x';
    }
    assert_code(mesh_check(mesh, &merged->merge.origin, &faults), CONFIG_INVALID);
    assert_true(fixture_has(&faults, "links[0].server_port", "missing"));
    assert_true(fixture_has(&faults, "links[gateway-analytics].client", "no subsystem"));
    faults_fini(&faults);
    merged_free(merged);
}

/* ----------------------------------------------------------------------- config */

static const char *const *endpoints(void *arg, const char *subsystem, size_t *out_num)
{
    static const char *const two[] = {"10.0.0.1:15443", "10.0.0.2:15443"};

    (void)arg;
    *out_num = strcmp(subsystem, "analytics") == 0 ? 2 : 0;
    return two;
}

static Mortise__V1__SidecarConfig *config_of(const Mortise__V1__Mesh *mesh, const char *subsystem)
{
    const struct mesh_view view = {
        .mesh = mesh, .trust_domain = "mesh.test", .roots_pem = "PEM", .endpoints = endpoints};

    return mesh_config(&view, subsystem);
}

static void test_a_client_gets_its_links_and_no_others(void **state)
{
    Mortise__V1__Mesh *mesh = mesh_default();
    Mortise__V1__SidecarConfig *config = config_of(mesh, "gateway");
    const Mortise__V1__Outbound *out;
    const Mortise__V1__InboundLink *in;

    (void)state;
    assert_null(config->identity); /* never on the control channel */
    assert_int_equal(config->n_outbound, 1);
    out = config->outbound[0];
    assert_string_equal(out->name, "gateway-analytics");
    assert_string_equal(out->listen, "127.0.0.1:15104");
    assert_int_equal(out->n_endpoints, 2);
    assert_string_equal(out->endpoints[1], "10.0.0.2:15443");
    assert_int_equal(out->peers->n_spiffe_ids, 1);
    assert_string_equal(out->peers->spiffe_ids[0], "spiffe://mesh.test/ns/default/sa/analytics");
    assert_int_equal(out->peers->n_dns_names, 0);
    assert_string_equal(out->server_name, "gateway-analytics.mortise.internal");
    assert_string_equal(out->profile, "default-tls-client");
    assert_string_equal(out->truststore, "mesh");

    assert_int_equal(config->inbound->n_links, 1);
    in = config->inbound->links[0];
    assert_string_equal(in->name, "management-gateway");
    assert_string_equal(in->target, "127.0.0.1:8082");
    assert_string_equal(in->peers->spiffe_ids[0], "spiffe://mesh.test/ns/default/sa/management");
    assert_string_equal(in->profile, "default-tls-server");
    assert_int_equal(config->n_profiles, 2);
    assert_int_equal(config->n_truststores, 1);
    assert_string_equal(config->truststores[0]->pem, "PEM");
    assert_string_equal(config->truststores[0]->trust_domain, "mesh.test");
    pb_free(&config->base);
    pb_free(&mesh->base);
}

static void test_a_pure_client_takes_nothing_and_a_pure_server_opens_nothing(void **state)
{
    Mortise__V1__Mesh *mesh = mesh_default();
    Mortise__V1__SidecarConfig *client = config_of(mesh, "management");
    Mortise__V1__SidecarConfig *server = config_of(mesh, "portal");

    (void)state;
    assert_int_equal(client->n_outbound, 3);
    assert_null(client->inbound);
    assert_int_equal(client->n_profiles, 1);
    assert_int_equal(client->outbound[0]->n_endpoints, 0); /* nobody is there yet */
    assert_int_equal(server->n_outbound, 0);
    assert_int_equal(server->inbound->n_links, 1);
    pb_free(&client->base);
    pb_free(&server->base);
    pb_free(&mesh->base);
}

static void test_a_stranger_to_the_mesh_may_do_nothing(void **state)
{
    Mortise__V1__Mesh *mesh = mesh_default();
    Mortise__V1__SidecarConfig *config = config_of(mesh, "nobody");

    (void)state;
    assert_int_equal(config->n_outbound, 0);
    assert_null(config->inbound);
    assert_int_equal(config->n_profiles, 0);
    pb_free(&config->base);
    pb_free(&mesh->base);
}

static void test_the_same_mesh_gives_the_same_bytes(void **state)
{
    Mortise__V1__Mesh *mesh = mesh_default();
    Mortise__V1__SidecarConfig *one = config_of(mesh, "management");
    Mortise__V1__SidecarConfig *two = config_of(mesh, "management");

    (void)state;
    assert_true(pb_equal(&one->base, &two->base));
    pb_free(&one->base);
    pb_free(&two->base);
    pb_free(&mesh->base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_fault_is_told_at_its_place),
        cmocka_unit_test(test_all_faults_come_at_once),
        cmocka_unit_test(test_the_default_mesh_is_the_four_links),
        cmocka_unit_test(test_a_document_changes_what_it_names),
        cmocka_unit_test(test_an_equal_document_changes_nothing),
        cmocka_unit_test(test_prune_removes_the_rest_but_built_in_profiles),
        cmocka_unit_test(test_a_name_twice_in_the_document_is_a_fault),
        cmocka_unit_test(test_built_in_profiles_are_not_for_changing),
        cmocka_unit_test(test_faults_of_what_was_there_are_told_by_name),
        cmocka_unit_test(test_a_client_gets_its_links_and_no_others),
        cmocka_unit_test(test_a_pure_client_takes_nothing_and_a_pure_server_opens_nothing),
        cmocka_unit_test(test_a_stranger_to_the_mesh_may_do_nothing),
        cmocka_unit_test(test_the_same_mesh_gives_the_same_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
