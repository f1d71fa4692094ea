/* Labels of what is in a mesh, and choosing by them. Without it: a selector takes what it does not
 * name, and `delete -l` removes it; or a label is a new configuration for every sidecar. Drives:
 * D7, A1, A9 */
#include "control/labels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/mesh.h"
#include "control/mesh_config.h"
#include "control/mesh_merge.h"
#include "control/selector.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define TEN "0123456789"
#define NAME_63 TEN TEN TEN TEN TEN TEN "012"
#define PART_50 TEN TEN TEN TEN "012345678."
#define PREFIX_253 PART_50 PART_50 PART_50 PART_50 PART_50 "012"

/* ---------------------------------------------------------------------- syntax */

static void test_keys_and_values_are_those_of_kubernetes(void **state)
{
    static const char *const keys[] = {"a",        "A",     "tier",  "app.kubernetes.io/name",
                                       "a-b_c.d",  "x/Y_z", NAME_63, PREFIX_253 "/" NAME_63,
                                       "a.b-c.d/e"};
    static const char *const bad_keys[] = {"",           "-a",    "a-",        "_a",
                                           "a.",         "a b",   "/a",        "a/",
                                           "a/b/c",      "A.b/c", "a..b/c",    "-a.b/c",
                                           "a-.b/c",     "a_b/c", NAME_63 "3", PREFIX_253 "4/a",
                                           "\xc3\xa4",   "a=b",   ".",         "./a",
                                           NAME_63 "3/a"};
    static const char *const values[] = {"", "a", "Edge-1_2.3", NAME_63};
    static const char *const bad_values[] = {"-a",        "a-",       "a b", "a/b",
                                             NAME_63 "3", "\xc3\xa4", "a,b"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        assert_null(labels_key_fault(bytes_of_str(keys[i])));
    for (size_t i = 0; i < ARRAY_LEN(bad_keys); i++)
        assert_non_null(labels_key_fault(bytes_of_str(bad_keys[i])));
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        assert_null(labels_value_fault(bytes_of_str(values[i])));
    for (size_t i = 0; i < ARRAY_LEN(bad_values); i++)
        assert_non_null(labels_value_fault(bytes_of_str(bad_values[i])));
}

/* Of a subsystem with that many labels. */
static Mortise__V1__Mesh *labelled(size_t num)
{
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(mem_freep) char *yaml = NULL;

    assert_ok(buf_add_str(&text, "subsystems: [{name: a, labels: {"));
    for (size_t i = 0; i < num; i++)
        assert_ok(buf_printf(&text, "%sk%zu: v", i > 0 ? ", " : "", i));
    assert_ok(buf_add_str(&text, "}}]"));
    yaml = buf_take_str(&text);
    return fixture_mesh(yaml);
}

static void check_faults_of(Mortise__V1__Mesh *mesh, const char *path, const char *text)
{
    struct faults faults = {0};
    err_t err = mesh_check(mesh, NULL, &faults);

    assert_int_equal(err_is_ok(err), path == NULL);
    if (path != NULL)
        assert_true(fixture_has(&faults, path, text));
    faults_fini(&faults);
    pb_free(&mesh->base);
}

static void test_an_item_has_at_most_64(void **state)
{
    (void)state;
    check_faults_of(labelled(64), NULL, NULL);
    check_faults_of(labelled(65), "subsystems[0].labels", "are 65; at most 64");
}

/* On every list of a mesh, also one that somebody adds. */
static void test_labels_of_every_kind_are_judged(void **state)
{
    (void)state;
    for (int kind = 0; kind < MESH_KINDS; kind++) {
        char yaml[128], path[64];

        (void)snprintf(yaml, sizeof(yaml), "%s: [{name: a, labels: {ok: \"1\", -x: v}}]",
                       mesh_kinds[kind].many);
        (void)snprintf(path, sizeof(path), "%s[0].labels", mesh_kinds[kind].many);
        check_faults_of(fixture_mesh(yaml), path, "\"-x\": a key is");
    }
    check_faults_of(fixture_mesh("subsystems: [{name: a, labels: {x: a b}}]"),
                    "subsystems[0].labels", "\"a b\": a value is");
}

/* No document can say it, a call can. */
static void test_a_key_twice_is_refused(void **state)
{
    Mortise__V1__Mesh *mesh = fixture_mesh("subsystems: [{name: a, labels: {x: \"1\", y: \"2\"}}]");
    char *key = mesh->subsystems[0]->labels[1]->key;

    (void)state;
    key[0] = 'x';
    check_faults_of(mesh, "subsystems[0].labels", "\"x\": is there twice");
}

/* --------------------------------------------------------------------- changes */

static void check_merge(const char *before, const char *after, const char *change)
{
    Mortise__V1__Mesh *current = fixture_mesh(before), *document = fixture_mesh(after);
    struct mesh_merge merge = {.mesh = NULL};
    struct faults faults = {0};

    assert_ok(mesh_merge(current, document, false, &faults, &merge));
    assert_int_equal(merge.num_changes, change != NULL ? 1 : 0);
    if (change != NULL)
        assert_string_equal(merge.changes[0], change);
    faults_fini(&faults);
    mesh_merge_fini(&merge);
    pb_free(&current->base);
    pb_free(&document->base);
}

static void test_a_changed_label_is_a_change(void **state)
{
    (void)state;
    check_merge("subsystems: [{name: a}]", "subsystems: [{name: a, labels: {x: v}}]",
                "subsystem a: changed labels");
    check_merge("subsystems: [{name: a, labels: {x: v}}]", "subsystems: [{name: a}]",
                "subsystem a: changed labels");
    check_merge("subsystems: [{name: a, labels: {x: v}}]",
                "subsystems: [{name: a, labels: {x: z}}]", "subsystem a: changed labels");
    check_merge("subsystems: [{name: a, labels: {x: v}}]",
                "subsystems: [{name: a, labels: {z: v}}]", "subsystem a: changed labels");
    check_merge("subsystems: [{name: a, labels: {x: v}}]",
                "subsystems: [{name: a, labels: {x: v}}]", NULL);
}

static void swap_labels(const Mortise__V1__Mesh *mesh)
{
    Mortise__V1__Subsystem__LabelsEntry **labels = mesh->subsystems[0]->labels, *first = labels[0];

    labels[0] = labels[1];
    labels[1] = first;
}

/* Another client than ours may send them as it likes. */
static void test_labels_have_no_order(void **state)
{
    static const char yaml[] = "subsystems: [{name: a, labels: {x: \"1\", y: \"2\"}}]";
    Mortise__V1__Mesh *current = fixture_mesh(yaml), *document = fixture_mesh(yaml);
    struct mesh_merge merge = {.mesh = NULL};
    struct faults faults = {0};

    (void)state;
    swap_labels(document);
    assert_true(labels_equal(&current->subsystems[0]->base, &document->subsystems[0]->base));
    assert_ok(mesh_merge(current, document, false, &faults, &merge));
    assert_int_equal(merge.num_changes, 0);
    assert_true(pb_equal(&merge.mesh->base, &current->base));
    mesh_merge_fini(&merge);
    faults_fini(&faults);
    pb_free(&current->base);
    pb_free(&document->base);
}

static const char *const *nobody(void *arg, const char *subsystem, size_t *out_num)
{
    (void)arg;
    (void)subsystem;
    *out_num = 0;
    return NULL;
}

static void check_config_is(const char *one, const char *other, bool same)
{
    Mortise__V1__Mesh *meshes[2] = {fixture_mesh(one), fixture_mesh(other)};
    Mortise__V1__SidecarConfig *configs[2];

    for (size_t i = 0; i < 2; i++) {
        const struct mesh_view view = {.mesh = meshes[i],
                                       .trust_domain = "mesh.test",
                                       .roots_pem = "PEM",
                                       .endpoints = nobody};

        configs[i] = mesh_config(&view, "a");
    }
    assert_int_equal(pb_equal(&configs[0]->base, &configs[1]->base), same);
    for (size_t i = 0; i < 2; i++) {
        pb_free(&configs[i]->base);
        pb_free(&meshes[i]->base);
    }
}

#define MESH_OF(subsystem, profile, link)                                                      \
    "subsystems: [{name: a" subsystem "}, {name: b}]\n"                                        \
    "profiles: [{name: cl, role: CLIENT" profile "}, {name: sv, role: SERVER}]\n"              \
    "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: " \
    "cl, server_profile: sv" link "}]\n"

static void test_no_sidecar_hears_of_labels(void **state)
{
    (void)state;
    check_config_is(MESH_OF("", "", ""),
                    MESH_OF(", labels: {x: v}", ", labels: {x: v, z: v}", ", labels: {x: v}"),
                    true);
    check_config_is(MESH_OF("", "", ""), MESH_OF("", ", max_age_s: 99", ""), false);
}

/* ------------------------------------------------------------------- selectors */

static bool chosen(const char *text, const char *labels)
{
    CLEANUP(mem_freep) char *yaml = mem_printf("subsystems: [{name: a, labels: {%s}}]", labels);
    CLEANUP(selector_freep) struct selector *selector = NULL;
    Mortise__V1__Mesh *mesh = fixture_mesh(yaml);
    char why[SELECTOR_WHY_MAX] = "";
    bool matches;

    assert_ok(selector_parse(text, why, &selector));
    assert_string_equal(why, "");
    matches = selector_matches(selector, &mesh->subsystems[0]->base);
    pb_free(&mesh->base);
    return matches;
}

static void test_a_selector_chooses_what_it_says(void **state)
{
    static const struct {
        const char *selector;
        const char *labels;
        bool matches;
    } table[] = {
        {"tier=edge", "tier: edge", true},
        {"tier=edge", "tier: core", false},
        {"tier=edge", "tier: edges", false},
        {"tier=edge", "tier: Edge", false},
        {"tier=edge", "tie: edge", false},
        {"tier=edge", "", false},
        {"tier==edge", "tier: edge", true},
        {" tier = edge ", "tier: edge", true},
        {"tier=", "tier: \"\"", true},
        {"tier=", "", false},
        {"tier=", "tier: edge", false},
        {"tier=,env", "tier: \"\", env: x", true},
        {"env!=test", "env: test", false},
        {"env!=test", "env: live", true},
        {"env!=test", "", true},
        {"env!=", "env: \"\"", false},
        {"old", "old: \"\"", true},
        {"old", "", false},
        {"!old", "old: x", false},
        {"!old", "", true},
        {"! old", "older: x", true},
        {"zone in (a,b)", "zone: a", true},
        {"zone in (a,b)", "zone: b", true},
        {"zone in ( a , b )", "zone: b", true},
        {"zone in (a,b)", "zone: c", false},
        {"zone in (a,b)", "", false},
        {"zone in(a)", "zone: a", true},
        {"zone notin (a,b)", "zone: a", false},
        {"zone notin (a,b)", "zone: c", true},
        {"zone notin (a,b)", "", true},
        {"in in (in)", "in: in", true},
        {"notin", "notin: x", true},
        {"in", "in: x", true},
        {"tier=edge,env!=test,!old,zone in (a,b)", "tier: edge, zone: a", true},
        {"tier=edge,env!=test,!old,zone in (a,b)", "tier: edge, zone: a, old: x", false},
        {"tier=edge,env!=test,!old,zone in (a,b)", "tier: edge, zone: a, env: test", false},
        {"tier=edge,env!=test,!old,zone in (a,b)", "tier: edge, zone: c", false},
        {"tier=edge,env!=test,!old,zone in (a,b)", "zone: a", false},
        {"a.example/x=1", "a.example/x: \"1\"", true},
        {"a.example/x=1", "x: \"1\"", false},
        {"x=1,x=2", "x: \"1\"", false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (chosen(table[i].selector, table[i].labels) != table[i].matches)
            fail_msg("%s of {%s}", table[i].selector, table[i].labels);
    }
}

/* Of a subsystem that is in no mesh any more. */
static void test_what_has_no_labels_lacks_every_one(void **state)
{
    CLEANUP(selector_freep) struct selector *has = NULL;
    CLEANUP(selector_freep) struct selector *lacks = NULL;
    char why[SELECTOR_WHY_MAX];

    (void)state;
    assert_ok(selector_parse("a", why, &has));
    assert_ok(selector_parse("!a,b!=c,d notin (e)", why, &lacks));
    assert_false(selector_matches(has, NULL));
    assert_true(selector_matches(lacks, NULL));
    assert_true(selector_matches(NULL, NULL));
}

static void test_what_is_no_selector_is_told_with_its_place(void **state)
{
    static const struct {
        const char *selector;
        int place;
        const char *why;
    } table[] = {
        {"", 1, "at character 1: wanted is a key, and it ends there"},
        {"   ", 4, "at character 4: wanted is a key, and it ends there"},
        {"a,", 3, "at character 3: wanted is a key, and it ends there"},
        {"a,,b", 3, "at character 3: wanted is a key, found \",\""},
        {",a", 1, "at character 1: wanted is a key, found \",\""},
        {"=a", 1, "at character 1: wanted is a key, found \"=\""},
        {"a b", 3, "at character 3: wanted is =, !=, in, notin, or a comma, found \"b\""},
        {"a=b c", 5, "at character 5: wanted is a comma, found \"c\""},
        {"a=b=c", 4, "at character 4: wanted is a comma, found \"=\""},
        {"a===b", 4, "at character 4: wanted is a value, found \"=\""},
        {"a!b", 2, "at character 2: wanted is =, !=, in, notin, or a comma, found \"!\""},
        {"a=!b", 3, "at character 3: wanted is a value, found \"!\""},
        {"!a=b", 3,
         "at character 3: wanted is a comma (! is of a key alone; != of a value), found "
         "\"=\""},
        {"!!a", 2, "at character 2: wanted is a key, found \"!\""},
        {"a in b", 6, "at character 6: wanted is ( and values, found \"b\""},
        {"a in ()", 7, "at character 7: wanted is a value, found \")\""},
        {"a in (b", 8, "at character 8: wanted is , or ), and it ends there"},
        {"a in (b,)", 9, "at character 9: wanted is a value, found \")\""},
        {"a in (b c)", 9, "at character 9: wanted is , or ), found \"c\""},
        {"a in (b))", 9, "at character 9: wanted is a comma, found \")\""},
        {"a>1", 2, "at character 2: wanted is =, !=, in, notin, or a comma, found \">\""},
        {"a=b/c", 3, "at character 3: a value is empty"},
        {"-a=b", 1, "at character 1: a key is"},
        {"x=\xc3\xa4\xc3\xa4 b", 3, "at character 3: a value is empty"},
        {"\xc3\xa4", 1, "at character 1: a key is"},
        {"a=b,c d\x1b[1m", 7,
         "at character 7: wanted is =, !=, in, notin, or a comma, found "
         "\"d\\u001b[1m\""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct selector *selector = NULL;
        char why[SELECTOR_WHY_MAX] = "";
        err_t err = selector_parse(table[i].selector, why, &selector);

        assert_null(selector);
        assert_code(err, CONFIG_INVALID);
        if (err.sub != table[i].place || strncmp(why, table[i].why, strlen(table[i].why)) != 0)
            fail_msg("%s: %s", table[i].selector, why);
    }
}

static void test_a_selector_has_a_limit(void **state)
{
    char text[SELECTOR_TEXT_MAX + 2], why[SELECTOR_WHY_MAX];
    struct selector *selector = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = i % 2 == 0 ? 'a' : ',';
    text[SELECTOR_TEXT_MAX + 1] = '\0';
    assert_code(selector_parse(text, why, &selector), CONFIG_INVALID);
    assert_non_null(strstr(why, "longer than 4096 bytes"));
    text[SELECTOR_TEXT_MAX - 1] = '\0';
    assert_ok(selector_parse(text, why, &selector));
    selector_free(selector);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_and_values_are_those_of_kubernetes),
        cmocka_unit_test(test_an_item_has_at_most_64),
        cmocka_unit_test(test_labels_of_every_kind_are_judged),
        cmocka_unit_test(test_a_key_twice_is_refused),
        cmocka_unit_test(test_a_changed_label_is_a_change),
        cmocka_unit_test(test_labels_have_no_order),
        cmocka_unit_test(test_no_sidecar_hears_of_labels),
        cmocka_unit_test(test_a_selector_chooses_what_it_says),
        cmocka_unit_test(test_what_has_no_labels_lacks_every_one),
        cmocka_unit_test(test_what_is_no_selector_is_told_with_its_place),
        cmocka_unit_test(test_a_selector_has_a_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
