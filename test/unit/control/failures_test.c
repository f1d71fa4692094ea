/* What the control plane keeps of what sidecars tell of failed connections: bounded, whatever a
 * sidecar sends, with times by our clock. Without it one that is broken, or flooded, fills the
 * control plane's memory or hides what the others tell.
 * Drives: F12, R14. */
#include "control/failures.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

#define NOW INT64_C(1800000000000)

static const struct failures_from portal = {"portal", "aaaa", 0};

static char link_name[] = "management-portal", inbound[] = "inbound", error[] = "cert_missing";

static Mortise__V1__FailedConnection kind(uint64_t id, int64_t last_ms)
{
    Mortise__V1__FailedConnection out = MORTISE__V1__FAILED_CONNECTION__INIT;

    out.id = id;
    out.link = link_name;
    out.direction = inbound;
    out.error = error;
    out.number = 1;
    out.first_ms = out.last_ms = last_ms;
    return out;
}

static size_t take(struct failures *failures, const struct failures_from *from,
                   Mortise__V1__FailedConnection *told, int64_t now_ms)
{
    return failures_take(failures, from, &told, 1, now_ms);
}

static size_t of_portal(const struct failures *failures, const Mortise__V1__FailedConnection **out)
{
    return failures_of(failures, "portal", "inbound", link_name, 256, out);
}

static void test_the_newest_come_first_by_our_clock(void **state)
{
    struct failures *failures = failures_new();
    const struct failures_from late = {"portal", "bbbb", -3600000};
    Mortise__V1__FailedConnection a = kind(1, NOW - 1000), b = kind(1, NOW - 3600000 - 500);
    Mortise__V1__FailedConnection ahead = kind(7, NOW + 3600000);
    const Mortise__V1__FailedConnection *list[256];

    (void)state;
    assert_int_equal(take(failures, &portal, &a, NOW), 1);
    assert_int_equal(take(failures, &late, &b, NOW), 1);
    assert_int_equal(of_portal(failures, list), 2);
    assert_int_equal(list[0]->last_ms, NOW - 500); /* that of the clock that is an hour late */
    assert_int_equal(list[1]->last_ms, NOW - 1000);
    assert_int_equal(take(failures, &portal, &ahead, NOW), 1);
    assert_int_equal(of_portal(failures, list), 3);
    assert_int_equal(list[0]->last_ms, NOW); /* nothing failed in the future */
    assert_int_equal(failures_of(failures, "portal", "outbound", link_name, 256, list), 0);
    assert_int_equal(failures_of(failures, "portal", "inbound", NULL, 256, list), 0);
    assert_int_equal(failures_of(failures, "gateway", "inbound", link_name, 256, list), 0);
    assert_int_equal(failures_of(failures, "portal", "inbound", link_name, 1, list), 1);
    assert_int_equal(list[0]->last_ms, NOW);
    failures_free(failures);
}

static void test_the_same_kind_again_replaces_it(void **state)
{
    struct failures *failures = failures_new();
    Mortise__V1__FailedConnection a = kind(1, NOW - 1000), again = kind(1, NOW);
    const Mortise__V1__FailedConnection *list[256];

    (void)state;
    again.number = 5;
    assert_int_equal(take(failures, &portal, &a, NOW), 1);
    assert_int_equal(take(failures, &portal, &again, NOW), 0);
    assert_int_equal(of_portal(failures, list), 1);
    assert_int_equal(list[0]->number, 5);
    failures_free(failures);
}

static void test_who_tells_too_much_is_not_heard(void **state)
{
    struct failures *failures = failures_new();
    const struct failures_from quiet = {"gateway", "cccc", 0};
    const Mortise__V1__FailedConnection *list[256];
    Mortise__V1__FailedConnection one = kind(1, NOW);

    (void)state;
    for (uint64_t id = 1; id <= 1000; id++) {
        Mortise__V1__FailedConnection told = kind(id, NOW + (int64_t)id);

        (void)take(failures, &portal, &told, NOW);
    }
    assert_int_equal(failures_dropped(failures), 1000 - FAILURES_BURST);
    assert_int_equal(of_portal(failures, list), FAILURES_EACH_MAX);
    assert_int_equal(take(failures, &quiet, &one, NOW), 1); /* others are */
    one.id = 2000;
    assert_int_equal(take(failures, &portal, &one, NOW + 500), 1); /* and it, a moment later */
    failures_free(failures);
}

static void test_nonsense_is_dropped(void **state)
{
    struct failures *failures = failures_new();
    Mortise__V1__FailedConnection told = kind(0, NOW);
    char long_text[FAILURES_ONE_MAX + 1];
    char *keys[] = {error, error, error, error, error, error, error, error, error};

    (void)state;
    assert_int_equal(take(failures, &portal, &told, NOW), 0);
    told = kind(1, -1);
    assert_int_equal(take(failures, &portal, &told, NOW), 0);
    told = kind(1, INT64_MAX);
    assert_int_equal(take(failures, &portal, &told, NOW), 0);
    told = kind(1, NOW);
    told.keys = keys;
    told.n_keys = 9;
    assert_int_equal(take(failures, &portal, &told, NOW), 0);
    told = kind(1, NOW);
    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    told.peer_id = long_text;
    assert_int_equal(take(failures, &portal, &told, NOW), 0);
    assert_int_equal(failures_dropped(failures), 5);
    failures_free(failures);
}

/* The bytes of one sidecar's kinds, and how many sidecars, are bounded. */
static void test_memory_is_bounded(void **state)
{
    struct failures *failures = failures_new();
    const Mortise__V1__FailedConnection *list[256];
    char long_text[3000];
    size_t bytes = 0, num;

    (void)state;
    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    for (uint64_t id = 1; id <= 100; id++) {
        Mortise__V1__FailedConnection told = kind(id, NOW + (int64_t)id - 200);

        told.peer_id = long_text;
        assert_int_equal(take(failures, &portal, &told, NOW), 1);
    }
    num = of_portal(failures, list);
    for (size_t i = 0; i < num; i++)
        bytes += protobuf_c_message_get_packed_size(&list[i]->base);
    assert_true(bytes <= FAILURES_BYTES_MAX && num > 10);
    assert_int_equal(list[0]->last_ms, NOW - 100); /* the newest has stayed */

    for (int i = 0; i < FAILURES_SIDECARS_MAX; i++) {
        char instance[32];
        const struct failures_from from = {"gateway", instance, 0};
        Mortise__V1__FailedConnection told = kind(1, NOW);

        (void)snprintf(instance, sizeof(instance), "%d", i);
        assert_int_equal(take(failures, &from, &told, NOW), 1);
    }
    assert_int_equal(of_portal(failures, list), 0); /* the one that was silent for longest went */
    failures_free(failures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_newest_come_first_by_our_clock),
        cmocka_unit_test(test_the_same_kind_again_replaces_it),
        cmocka_unit_test(test_who_tells_too_much_is_not_heard),
        cmocka_unit_test(test_nonsense_is_dropped),
        cmocka_unit_test(test_memory_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
