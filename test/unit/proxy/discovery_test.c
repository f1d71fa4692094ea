/* The answer to a pushed configuration: ACK only for what is in force, NACK with the faults
 * otherwise; and that a store which lacks something that was seen of it is known for what it is.
 *
 * Drives: F2, F18, R10, R42 */
#include "proxy/discovery.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* What is pushed to, and what it says. */
struct target {
    unsigned num; /* times asked */
    bool refuse;
    uint64_t seen;
};

static err_t target_apply(void *arg, const Mortise__V1__DiscoveryResponse *response,
                          struct faults *faults)
{
    struct target *target = arg;

    target->num++;
    target->seen = response->version;
    if (!target->refuse)
        return OK;
    faults_add(faults, "outbound[0].listen", "cannot listen");
    return faults_err(faults);
}

struct pushed {
    Mortise__V1__DiscoveryResponse msg;
    Mortise__V1__SidecarConfig config;
};

static const Mortise__V1__DiscoveryResponse *push(struct pushed *out, uint64_t version,
                                                  const char *nonce, bool config)
{
    mortise__v1__discovery_response__init(&out->msg);
    mortise__v1__sidecar_config__init(&out->config);
    out->msg.version = version;
    out->msg.nonce = (char *)(uintptr_t)nonce;
    out->msg.config = config ? &out->config : NULL;
    return &out->msg;
}

static struct discovery_answer answer(struct discovery_state *state, struct target *target,
                                      const Mortise__V1__DiscoveryResponse *response,
                                      struct faults *faults)
{
    memset(faults, 0, sizeof(*faults));
    return discovery_answer(state, response, target_apply, target, faults);
}

static void test_what_is_applied_is_acknowledged(void **unused)
{
    struct discovery_state state = {.version = 0};
    struct target target = {.num = 0};
    struct discovery_answer got;
    struct pushed pushed;
    struct faults faults;

    (void)unused;
    got = answer(&state, &target, push(&pushed, 5, "n1", true), &faults);
    assert_null(got.code);
    assert_int_equal(got.version, 5);
    assert_int_equal(target.num, 1);
    got = answer(&state, &target, push(&pushed, 6, "n2", true), &faults);
    assert_null(got.code);
    assert_int_equal(got.version, 6);
    /* The same version again, on a new stream. */
    got = answer(&state, &target, push(&pushed, 6, "n3", true), &faults);
    assert_null(got.code);
    assert_int_equal(target.num, 3);
}

static void test_what_is_refused_leaves_the_version_in_force(void **unused)
{
    struct discovery_state state = {.version = 4};
    struct target target = {.refuse = true};
    struct discovery_answer got;
    struct pushed pushed;
    struct faults faults;

    (void)unused;
    got = answer(&state, &target, push(&pushed, 5, "n1", true), &faults);
    assert_string_equal(got.code, "config_invalid");
    assert_int_equal(got.version, 4);
    assert_int_equal(state.version, 4);
    assert_int_equal(faults.num, 1);
    assert_string_equal(faults.items[0].path, "outbound[0].listen");
    faults_fini(&faults);

    target.refuse = false; /* mended, under the same or a new version */
    got = answer(&state, &target, push(&pushed, 6, "n2", true), &faults);
    assert_null(got.code);
    assert_int_equal(state.version, 6);
}

static void test_an_older_version_is_no_answer_to_a_newer_one(void **unused)
{
    struct discovery_state state = {.version = 9};
    struct target target = {.num = 0};
    struct discovery_answer got;
    struct pushed pushed;
    struct faults faults;

    (void)unused;
    got = answer(&state, &target, push(&pushed, 8, "n1", true), &faults);
    assert_string_equal(got.code, "config_rollback");
    assert_int_equal(got.version, 9);
    assert_int_equal(target.num, 0); /* not even looked at */
    assert_string_equal(faults.items[0].path, "version");
    faults_fini(&faults);
}

static void test_what_lacks_a_part_is_refused(void **unused)
{
    static const struct {
        uint64_t version;
        const char *nonce;
        bool config;
        const char *path;
    } rows[] = {
        {0, "n", true, "version"},
        {1, "", true, "nonce"},
        {1, "n", false, "config"},
    };
    struct discovery_state state = {.version = 0};
    struct target target = {.num = 0};

    (void)unused;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct pushed pushed;
        struct faults faults;
        struct discovery_answer got =
            answer(&state, &target, push(&pushed, rows[i].version, rows[i].nonce, rows[i].config),
                   &faults);

        assert_string_equal(got.code, "config_invalid");
        assert_int_equal(got.version, 0);
        assert_string_equal(faults.items[0].path, rows[i].path);
        faults_fini(&faults);
    }
    assert_int_equal(target.num, 0);
}

/* ---- a store that was put back ---- */

enum { ACCEPT, REFUSE };

struct story {
    const char *what;
    struct discovery_point seen;
    uint64_t version; /* in force */
    struct discovery_point point;
    uint64_t pushed; /* version */
    uint64_t until;  /* how far `seen` is the store's past */
    int outcome;
};

static void test_a_store_that_lacks_what_was_seen_is_refused(void **unused)
{
    static const struct story stories[] = {
        {"nothing seen", {0, 0, 0}, 0, {1, 7, 5}, 3, 0, ACCEPT},
        {"the same run goes on", {1, 7, 5}, 3, {1, 7, 9}, 4, 9, ACCEPT},
        {"the same again", {1, 7, 5}, 3, {1, 7, 5}, 3, 5, ACCEPT},
        {"a restart", {1, 7, 5}, 3, {1, 8, 6}, 4, 5, ACCEPT},
        {"a restart, the version not noted", {1, 7, 5}, 3, {1, 8, 6}, 2, 5, ACCEPT},
        {"a backup of later than that", {1, 7, 5}, 3, {1, 8, 20}, 90, 19, ACCEPT},
        {"a backup of before it", {1, 7, 5}, 3, {1, 8, 6}, 90, 4, REFUSE},
        {"the same, long after", {1, 7, 5}, 3, {1, 8, 6000}, 9000, 4, REFUSE},
        {"a store that never had that run", {1, 7, 5}, 3, {1, 9, 60}, 90, 0, REFUSE},
        {"the same run, gone back", {1, 7, 5}, 3, {1, 7, 4}, 4, 4, REFUSE},
        {"the same run, an older version", {1, 7, 5}, 3, {1, 7, 5}, 2, 5, REFUSE},
        {"confirmed", {1, 7, 5}, 30, {2, 9, 3}, 2, 0, ACCEPT},
        {"confirmed, but put back again", {2, 7, 5}, 3, {1, 9, 60}, 90, 5, REFUSE},
        {"no word of where it is", {1, 7, 5}, 3, {0, 0, 0}, 90, 9, REFUSE},
        {"never a word", {0, 0, 0}, 3, {0, 0, 0}, 4, 0, ACCEPT},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(stories) / sizeof(stories[0]); i++) {
        const struct story *story = &stories[i];
        struct discovery_state state = {.version = story->version, .seen = story->seen};
        Mortise__V1__Point point = MORTISE__V1__POINT__INIT;
        struct target target = {.num = 0};
        struct discovery_answer got;
        struct pushed pushed;
        struct faults faults;

        print_message("%s\n", story->what);
        (void)push(&pushed, story->pushed, "n", true);
        point.era = story->point.era;
        point.run = story->point.run;
        point.revision = story->point.revision;
        pushed.msg.point = point.run != 0 ? &point : NULL;
        pushed.msg.seen_until = story->until;
        got = answer(&state, &target, &pushed.msg, &faults);
        if (story->outcome == ACCEPT) {
            assert_null(got.code);
            assert_int_equal(got.version, story->pushed);
            assert_int_equal(state.seen.run, story->point.run);
            assert_int_equal(state.seen.revision, story->point.revision);
            assert_int_equal(state.seen.era, story->point.era);
        } else {
            assert_string_equal(got.code, "config_rollback");
            assert_int_equal(got.version, story->version);
            assert_int_equal(target.num, 0);
            assert_int_equal(state.seen.run, story->seen.run);
            assert_int_equal(state.seen.revision, story->seen.revision);
        }
        faults_fini(&faults);
    }
}

/* What apply refuses was not seen. */
static void test_a_refused_response_is_not_seen(void **unused)
{
    struct discovery_state state = {.version = 3, .seen = {1, 7, 5}};
    Mortise__V1__Point point = MORTISE__V1__POINT__INIT;
    struct target target = {.refuse = true};
    struct pushed pushed;
    struct faults faults;

    (void)unused;
    (void)push(&pushed, 4, "n", true);
    point.era = 1;
    point.run = 7;
    point.revision = 6;
    pushed.msg.point = &point;
    assert_string_equal(answer(&state, &target, &pushed.msg, &faults).code, "config_invalid");
    assert_int_equal(state.seen.revision, 5);
    faults_fini(&faults);
}

#define KEPT_NUM 5

static void test_what_would_be_let_in_again_is_told(void **unused)
{
    Mortise__V1__Revocation items[KEPT_NUM], *list[KEPT_NUM], *kept[KEPT_NUM];
    Mortise__V1__Revocation other_grace, *offered_list[1] = {&other_grace};
    Mortise__V1__SidecarConfig in_force = MORTISE__V1__SIDECAR_CONFIG__INIT;
    Mortise__V1__SidecarConfig offered = MORTISE__V1__SIDECAR_CONFIG__INIT;
    char ids[KEPT_NUM][40];
    size_t num = 99;

    (void)unused;
    for (size_t i = 0; i < KEPT_NUM; i++) {
        mortise__v1__revocation__init(&items[i]);
        (void)snprintf(ids[i], sizeof(ids[i]), "spiffe://mesh.test/ns/a/sa/%zu", i);
        items[i].spiffe_id = ids[i];
        list[i] = &items[i];
    }
    assert_int_equal(discovery_kept(NULL, &offered, KEPT_NUM, 9999, kept, &num), 0);
    assert_int_equal(num, 0);
    in_force.revocations = list;
    in_force.n_revocations = KEPT_NUM;
    assert_int_equal(discovery_kept(&in_force, &in_force, KEPT_NUM, 9999, kept, &num), 0);
    assert_int_equal(num, 0);

    other_grace = items[2]; /* the same, but for its grace: it stays denied */
    other_grace.grace_ms = 5000;
    offered.revocations = offered_list;
    offered.n_revocations = 1;
    assert_int_equal(discovery_kept(&in_force, &offered, KEPT_NUM, 9999, kept, &num), 4);
    assert_int_equal(num, 4);
    assert_ptr_equal(kept[0], &items[0]);
    assert_ptr_equal(kept[2], &items[3]);
    /* All are counted, also those there is no room for. */
    assert_int_equal(discovery_kept(&in_force, &offered, 3, 9999, kept, &num), 4);
    assert_int_equal(num, 3);
    assert_int_equal(discovery_kept(&in_force, &offered, KEPT_NUM, 80, kept, &num), 4);
    assert_int_equal(num, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_applied_is_acknowledged),
        cmocka_unit_test(test_what_is_refused_leaves_the_version_in_force),
        cmocka_unit_test(test_an_older_version_is_no_answer_to_a_newer_one),
        cmocka_unit_test(test_what_lacks_a_part_is_refused),
        cmocka_unit_test(test_a_store_that_lacks_what_was_seen_is_refused),
        cmocka_unit_test(test_a_refused_response_is_not_seen),
        cmocka_unit_test(test_what_would_be_let_in_again_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
