/* Whom policies keep out of links: DENY before everything, an ALLOW for its link's clients alone,
 * and every name byte by byte. Without it: a peer whose name looks like a denied one's, or begins
 * like an allowed one's, is taken for it, and one rule cancels another out. Drives: F19, R13 */
#include "certs/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "certs/spiffe_id.h"
#include "lib/base/map.h"
#include "lib/base/mem.h"
#include "lib/base/random.h"

#define ID(path) "spiffe://mesh.test/" path
#define PORTAL ID("ns/default/sa/portal")

#define LIST_MAX 8

/* A policy as a row of literals. */
struct row {
    const char *name;
    Mortise__V1__Policy__Action action;
    const char *links[LIST_MAX];
    const char *peers[LIST_MAX];
};
#define ALLOW MORTISE__V1__POLICY__ACTION__ALLOW
#define DENY MORTISE__V1__POLICY__ACTION__DENY

struct policies {
    Mortise__V1__Policy msgs[LIST_MAX];
    Mortise__V1__Policy *list[LIST_MAX];
};

static size_t count(const char *const *list)
{
    size_t num = 0;

    while (num < LIST_MAX && list[num] != NULL)
        num++;
    return num;
}

static struct policy_set *set_of(const struct row *rows, size_t num, struct policies *out)
{
    struct faults faults = {.num = 0};

    for (size_t i = 0; i < num; i++) {
        struct fault_path path = {.len = 0};
        Mortise__V1__Policy *msg = &out->msgs[i];

        mortise__v1__policy__init(msg);
        msg->name = (char *)(uintptr_t)rows[i].name;
        msg->action = rows[i].action;
        msg->links = (char **)(uintptr_t)rows[i].links;
        msg->n_links = count(rows[i].links);
        msg->peers = (char **)(uintptr_t)rows[i].peers;
        msg->n_peers = count(rows[i].peers);
        assert_true(err_is_ok(policy_check(msg, false, &path, &faults)));
        out->list[i] = msg;
    }
    return policy_set_new(out->list, num);
}

/* The name of the policy that keeps it out, or "". */
static const char *keeps(const struct policy_set *set, const char *link, enum policy_peer what,
                         const char *id)
{
    const Mortise__V1__Policy *policy = policy_find(set, link, what, id);

    return policy != NULL ? policy->name : "";
}

static void test_nobody_is_kept_out_without_a_policy(void **state)
{
    struct policy_set *none = policy_set_new(NULL, 0);

    (void)state;
    assert_null(policy_find(NULL, "l", POLICY_CLIENT, PORTAL));
    assert_null(policy_find(none, "l", POLICY_CLIENT, ""));
    policy_set_free(none);
    policy_set_free(NULL);
}

static void test_a_deny_holds_for_its_links_and_for_either_end(void **state)
{
    const struct row rows[] = {
        {"some", DENY, {"a", "b"}, {PORTAL}},
        {"all", DENY, {NULL}, {ID("ns/default/sa/gone")}},
    };
    struct policies policies;
    struct policy_set *set = set_of(rows, 2, &policies);

    (void)state;
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, PORTAL), "some");
    assert_string_equal(keeps(set, "b", POLICY_SERVER, PORTAL), "some");
    assert_string_equal(keeps(set, "c", POLICY_CLIENT, PORTAL), "");
    assert_string_equal(keeps(set, "c", POLICY_CLIENT, ID("ns/default/sa/gone")), "all");
    assert_string_equal(keeps(set, "whatever", POLICY_SERVER, ID("ns/default/sa/gone")), "all");
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ""), ""); /* nobody is named so */
    policy_set_free(set);
}

static void test_an_allow_is_for_its_clients_alone(void **state)
{
    const struct row rows[] = {
        {"first", ALLOW, {"a"}, {PORTAL}},
        {"second", ALLOW, {"a", "b"}, {ID("ns/x/*")}},
    };
    struct policies policies;
    struct policy_set *set = set_of(rows, 2, &policies);

    (void)state;
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, PORTAL), "");
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ID("ns/x/sa/y")), "");
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ID("ns/y/sa/y")), "first");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, PORTAL), "second");
    assert_string_equal(keeps(set, "c", POLICY_CLIENT, ID("ns/y/sa/y")), ""); /* it has none */
    /* who has no ID: anonymous, plaintext, a DNS name */
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ""), "first");
    assert_string_equal(keeps(set, "c", POLICY_CLIENT, ""), "");
    /* servers are not what it is about */
    assert_string_equal(keeps(set, "a", POLICY_SERVER, ID("ns/y/sa/y")), "");
    policy_set_free(set);
}

static void test_a_deny_wins_wherever_it_stands(void **state)
{
    const struct row rows[] = {
        {"allow", ALLOW, {NULL}, {ID("*")}},
        {"deny", DENY, {"a"}, {ID("ns/default/*")}},
        {"exact", ALLOW, {"a"}, {PORTAL}},
        {"again", DENY, {NULL}, {PORTAL}},
    };
    struct policies policies;
    struct policy_set *set = set_of(rows, 4, &policies);

    (void)state;
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, PORTAL), "deny");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, PORTAL), "again");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, ID("ns/default/sa/other")), "");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, "spiffe://other.test/ns/x"), "allow");
    policy_set_free(set);
}

/* What looks like a name that is denied, or allowed, is another. */
static void test_names_are_compared_byte_by_byte(void **state)
{
    static const char *const others[] = {
        ID("ns/default/sa/portal2"),
        ID("ns/default/sa/porta"),
        ID("ns/default/sa/Portal"),
        ID("ns/default/sa/portal/x"),
        ID("ns/default/sa/portal/"),
        ID("ns/default/sa/%70ortal"),
        ID("ns//default/sa/portal"),
        ID("ns/default/./sa/portal"),
        ID("ns/default/sa"),
        "spiffe://Mesh.test/ns/default/sa/portal",
        "spiffe://mesh.test.evil/ns/default/sa/portal",
        "spiffe://emesh.test/ns/default/sa/portal",
        "SPIFFE://mesh.test/ns/default/sa/portal",
        "spiffe://mesh.test",
        "portal",
        "*",
    };
    const struct row rows[] = {{"deny", DENY, {"a"}, {PORTAL}}, {"allow", ALLOW, {"b"}, {PORTAL}}};
    struct policies policies;
    struct policy_set *set = set_of(rows, 2, &policies);

    (void)state;
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, PORTAL), "deny");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, PORTAL), "");
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        assert_string_equal(keeps(set, "a", POLICY_CLIENT, others[i]), "");
        assert_string_equal(keeps(set, "b", POLICY_CLIENT, others[i]), "allow");
    }
    policy_set_free(set);
}

static void test_a_path_names_all_below_it_and_not_itself(void **state)
{
    const struct row rows[] = {{"below", DENY, {"a"}, {ID("ns/x/*")}},
                               {"domain", DENY, {"b"}, {ID("*")}}};
    struct policies policies;
    struct policy_set *set = set_of(rows, 2, &policies);

    (void)state;
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ID("ns/x/sa/y")), "below");
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ID("ns/x/y")), "below");
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ID("ns/x")), "");
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ID("ns/xy/sa/y")), "");
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, ID("ns/X/sa/y")), "");
    assert_string_equal(keeps(set, "a", POLICY_CLIENT, "spiffe://mesh.tes/t/ns/x/sa/y"), "");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, PORTAL), "domain");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, "spiffe://mesh.test"), "");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, "spiffe://mesh.test2/ns/x"), "");
    assert_string_equal(keeps(set, "b", POLICY_CLIENT, "spiffe://sub.mesh.test/ns/x"), "");
    policy_set_free(set);
}

/* ---- against a second evaluator, which only knows the sentence ---- */

static bool names(const char *entry, const char *id)
{
    size_t len = strlen(entry);

    if (len < 2 || strcmp(entry + len - 2, "/*") != 0)
        return strcmp(entry, id) == 0;
    return strncmp(entry, id, len - 1) == 0 && id[len - 1] != '\0';
}

static bool is_in(const char *const *list, const char *word)
{
    for (size_t i = 0; i < LIST_MAX && list[i] != NULL; i++) {
        if (strcmp(list[i], word) == 0)
            return true;
    }
    return false;
}

static bool reference(const struct row *rows, size_t num, const char *link, enum policy_peer what,
                      const char *id)
{
    bool has_allow = false, allowed = false;

    for (size_t i = 0; i < num; i++) {
        bool named = false;

        if (rows[i].links[0] != NULL && !is_in(rows[i].links, link))
            continue;
        for (size_t j = 0; j < LIST_MAX && rows[i].peers[j] != NULL; j++)
            named = named || names(rows[i].peers[j], id);
        if (rows[i].action == DENY && named)
            return false;
        has_allow = has_allow || (rows[i].action == ALLOW && what == POLICY_CLIENT);
        allowed = allowed || (rows[i].action == ALLOW && named);
    }
    return !has_allow || allowed;
}

static void test_it_judges_as_the_sentence_does(void **state)
{
    static const char *const link_names[] = {"a", "b", "c"};
    static const char *const entries[] = {ID("x"),   ID("x/y"),  ID("x/*"),          ID("*"),
                                          ID("z/*"), ID("x/y2"), "spiffe://o.test/*"};
    static const char *const ids[] = {ID("x"), ID("x/y"), ID("x/y2"), ID("x/y/z"),
                                      ID("z"), ID("z/x"), "",         "spiffe://o.test/x"};
    size_t denied = 0, total = 0;

    (void)state;
    for (unsigned round = 0; round < 3000; round++) {
        struct row rows[4] = {{.name = "p0"}, {.name = "p1"}, {.name = "p2"}, {.name = "p3"}};
        size_t num = 1 + random_u32() % 4;
        struct policies policies;
        struct policy_set *set;

        for (size_t i = 0; i < num; i++) {
            rows[i].action = random_u32() % 2 == 0 ? ALLOW : DENY;
            for (size_t j = 0, n = 0; j < 3; j++) {
                if (random_u32() % 2 == 0)
                    rows[i].links[n++] = link_names[j];
            }
            rows[i].peers[0] = entries[random_u32() % 7];
            rows[i].peers[1] = entries[random_u32() % 7];
            if (strcmp(rows[i].peers[0], rows[i].peers[1]) == 0)
                rows[i].peers[1] = NULL;
        }
        set = set_of(rows, num, &policies);
        for (size_t i = 0; i < 8 * 3 * 2; i++) {
            const char *id = ids[i % 8], *link = link_names[i / 8 % 3];
            enum policy_peer what = i / 24 == 0 ? POLICY_CLIENT : POLICY_SERVER;
            bool passes = policy_find(set, link, what, id) == NULL;

            assert_int_equal(passes, reference(rows, num, link, what, id));
            denied += !passes;
            total++;
        }
        policy_set_free(set);
    }
    assert_true(denied > total / 10 && denied < total * 9 / 10); /* both were seen */
}

/* ---- what decides ---- */

struct deciding {
    char text[256];
};

static void note(void *arg, size_t index, const char *entry)
{
    struct deciding *deciding = arg;
    size_t len = strlen(deciding->text);

    (void)snprintf(deciding->text + len, sizeof(deciding->text) - len, "%zu:%s ", index,
                   entry != NULL ? entry : "none");
}

static void test_only_what_names_the_peer_decides(void **state)
{
    const struct row rows[] = {
        {"d", DENY, {NULL}, {ID("x/*"), ID("y")}},
        {"a", ALLOW, {"l"}, {ID("z")}},
        {"b", ALLOW, {NULL}, {ID("x/y")}},
    };
    struct policies policies;
    struct policy_set *set = set_of(rows, 3, &policies);
    struct deciding deciding = {""};

    (void)state;
    policy_each(set, "l", POLICY_CLIENT, ID("x/y"), note, &deciding);
    assert_string_equal(deciding.text, "2:" ID("x/y") " 0:" ID("x/*") " ");
    deciding.text[0] = '\0';
    policy_each(set, "l", POLICY_SERVER, ID("x/y"), note, &deciding);
    assert_string_equal(deciding.text, "0:" ID("x/*") " ");
    deciding.text[0] = '\0';
    policy_each(set, "l", POLICY_CLIENT, ID("q"), note, &deciding);
    assert_string_equal(deciding.text, "1:none ");
    deciding.text[0] = '\0';
    policy_each(set, "m", POLICY_CLIENT, ID("q"), note, &deciding);
    assert_string_equal(deciding.text, "2:none ");
    policy_set_free(set);
}

/* ---- faults ---- */

static void test_what_is_no_policy_is_told(void **state)
{
    static const struct {
        struct row row;
        bool cut;
        const char *path, *says; /* NULL: nothing */
    } tries[] = {
        {{"p", DENY, {NULL}, {PORTAL, ID("*"), ID("ns/*")}}, false, NULL, NULL},
        {{"p", 0, {NULL}, {PORTAL}}, false, "action", "ALLOW"},
        {{"p", 7, {NULL}, {PORTAL}}, false, "action", "ALLOW"},
        {{"p", DENY, {NULL}, {NULL}}, false, "peers", "is missing"},
        {{"p", ALLOW, {NULL}, {NULL}}, false, "peers", "is missing"},
        {{"p", ALLOW, {NULL}, {NULL}}, true, NULL, NULL},
        {{"p", DENY, {NULL}, {NULL}}, true, "peers", "is missing"},
        {{"p", DENY, {NULL}, {PORTAL, PORTAL}}, false, "peers[1]", "there twice"},
        {{"p", DENY, {"a", "b", "a"}, {PORTAL}}, false, "links[2]", "there twice"},
        {{"p", DENY, {NULL}, {"spiffe://mesh.test"}}, false, "peers[0]", "no peer has"},
        {{"p", DENY, {NULL}, {PORTAL "/"}}, false, "peers[0]", "not a SPIFFE ID (byte 40)"},
        {{"p", DENY, {NULL}, {ID("ns/%64efault/sa/x")}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {"spiffe://Mesh.test/x"}}, false, "peers[0]", "byte 10"},
        {{"p", DENY, {NULL}, {"SPIFFE://mesh.test/x"}}, false, "peers[0]", "byte 1)"},
        {{"p", DENY, {NULL}, {ID("ns/../x")}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {ID("ns//x")}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {ID("ns/x*")}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {ID("ns/*/sa")}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {ID("*/*")}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {"spiffe:///*"}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {"/*"}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {"*"}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {""}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {"portal"}}, false, "peers[0]", "not a SPIFFE ID"},
        {{"p", DENY, {NULL}, {PORTAL "?x=1"}}, false, "peers[0]", "not a SPIFFE ID"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        const struct row *row = &tries[i].row;
        struct fault_path path = {.len = 0};
        struct faults faults = {.num = 0};
        Mortise__V1__Policy msg = MORTISE__V1__POLICY__INIT;

        msg.action = row->action;
        msg.links = (char **)(uintptr_t)row->links;
        msg.n_links = count(row->links);
        msg.peers = (char **)(uintptr_t)row->peers;
        msg.n_peers = count(row->peers);
        if (err_is_ok(policy_check(&msg, tries[i].cut, &path, &faults))) {
            assert_null(tries[i].path);
        } else {
            assert_non_null(tries[i].path);
            assert_string_equal(faults.items[0].path, tries[i].path);
            assert_non_null(strstr(faults.items[0].message, tries[i].says));
        }
        assert_int_equal(path.len, 0);
        faults_fini(&faults);
    }
}

static void test_more_peers_than_the_limit_are_refused(void **state)
{
    struct fault_path path = {.len = 0};
    struct faults faults = {.num = 0};
    Mortise__V1__Policy msg = MORTISE__V1__POLICY__INIT;
    char *peers[POLICY_PEERS_MAX + 1];

    (void)state;
    for (size_t i = 0; i < POLICY_PEERS_MAX + 1; i++)
        peers[i] = mem_printf("spiffe://mesh.test/ns/x/sa/%zu", i);
    msg.action = DENY;
    msg.peers = peers;
    msg.n_peers = POLICY_PEERS_MAX;
    assert_true(err_is_ok(policy_check(&msg, false, &path, &faults)));
    msg.n_peers++;
    assert_true(err_is(policy_check(&msg, false, &path, &faults), E_CONFIG_INVALID));
    assert_string_equal(faults.items[0].message, "1001 are too many: at most 1000");
    for (size_t i = 0; i < POLICY_PEERS_MAX + 1; i++)
        mem_free(peers[i]);
    faults_fini(&faults);
}

static void test_an_entry_covers_another(void **state)
{
    struct map entries = {.num = 0};
    int one;

    (void)state;
    (void)map_put(&entries, ID("ns/x/*"), &one);
    (void)map_put(&entries, PORTAL, &one);
    assert_true(policy_covers(&entries, PORTAL));
    assert_true(policy_covers(&entries, ID("ns/x/*")));
    assert_true(policy_covers(&entries, ID("ns/x/sa/*")));
    assert_true(policy_covers(&entries, ID("ns/x/sa/y")));
    assert_false(policy_covers(&entries, ID("ns/*")));
    assert_false(policy_covers(&entries, ID("ns/x")));
    assert_false(policy_covers(&entries, ID("*")));
    assert_false(policy_covers(&entries, ID("ns/default/sa/portal2")));
    map_fini(&entries);
}

/* The longest that a certificate may have, and longer: no byte is written behind a buffer's end. */
static void test_long_names_are_judged_as_short_ones(void **state)
{
    const struct row rows[] = {{"p", DENY, {NULL}, {ID("*")}}};
    struct policies policies;
    struct policy_set *set = set_of(rows, 1, &policies);
    char id[SPIFFE_ID_MAX + 64];

    (void)state;
    for (size_t len = SPIFFE_ID_MAX - 2; len <= SPIFFE_ID_MAX; len++) {
        memset(id, 'x', sizeof(id));
        memcpy(id, ID(""), strlen(ID("")));
        id[len - 1] = '/';
        id[len] = '\0';
        assert_string_equal(keeps(set, "l", POLICY_CLIENT, id), "p");
    }
    policy_set_free(set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_is_kept_out_without_a_policy),
        cmocka_unit_test(test_a_deny_holds_for_its_links_and_for_either_end),
        cmocka_unit_test(test_an_allow_is_for_its_clients_alone),
        cmocka_unit_test(test_a_deny_wins_wherever_it_stands),
        cmocka_unit_test(test_names_are_compared_byte_by_byte),
        cmocka_unit_test(test_a_path_names_all_below_it_and_not_itself),
        cmocka_unit_test(test_it_judges_as_the_sentence_does),
        cmocka_unit_test(test_only_what_names_the_peer_decides),
        cmocka_unit_test(test_what_is_no_policy_is_told),
        cmocka_unit_test(test_more_peers_than_the_limit_are_refused),
        cmocka_unit_test(test_an_entry_covers_another),
        cmocka_unit_test(test_long_names_are_judged_as_short_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
