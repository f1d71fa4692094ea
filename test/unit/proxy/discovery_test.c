/* The answer to a pushed configuration: ACK only for what is in force, NACK with the faults
 * otherwise.
 *
 * Drives: F2, R10 */
#include "proxy/discovery.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_applied_is_acknowledged),
        cmocka_unit_test(test_what_is_refused_leaves_the_version_in_force),
        cmocka_unit_test(test_an_older_version_is_no_answer_to_a_newer_one),
        cmocka_unit_test(test_what_lacks_a_part_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
