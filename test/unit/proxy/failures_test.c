/* What a sidecar remembers of connections that failed: kinds, counted; bounded whoever fails
 * however often; told once, and again when they go on. Without it a flood of failures fills a
 * sidecar's memory or its control channel, or the one failure that matters is not told. And who
 * listens at a local address, as the kernel lists it. Drives: F12, R14. */
#include "proxy/failures.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "proxy/listens.h"

#define NOW_MS INT64_C(1800000000000)

static struct failures_new failure(const char *link, err_t err)
{
    return (struct failures_new){
        .direction = DIRECTION_INBOUND,
        .link = link,
        .reason = CLOSE_PEER_CERTIFICATE,
        .err = err,
        .now_ms = NOW_MS,
    };
}

/* All that is due, as one text: "link error number; …". */
static const char *due(struct failures *failures, bool all, uint64_t now_ms)
{
    static char text[4096];
    Mortise__V1__FailedConnection *list[FAILURES_MAX];
    size_t num = failures_due(failures, all, now_ms, FAILURES_MAX, list), len = 0;

    text[0] = '\0';
    for (size_t i = 0; i < num; i++) {
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s %s %llu", i > 0 ? "; " : "",
                                list[i]->link, list[i]->error, (unsigned long long)list[i]->number);
        pb_free(&list[i]->base);
    }
    return text;
}

static void test_the_same_kind_is_counted(void **state)
{
    struct failures *failures = failures_new();
    struct failures_new add = failure("a", FAIL(CERT_EXPIRED, 10));

    (void)state;
    failures_note(failures, &add);
    add.err = FAIL(CERT_EXPIRED, 11); /* a second later */
    failures_note(failures, &add);
    add = failure("a", FAIL(CERT_MISSING, 0));
    failures_note(failures, &add);
    add = failure(NULL, FAIL(CERT_MISSING, 0));
    failures_note(failures, &add);
    add.direction = DIRECTION_OUTBOUND;
    failures_note(failures, &add);
    assert_string_equal(due(failures, false, 1000),
                        "a cert_expired 2; a cert_missing 1;  cert_missing 1;  cert_missing 1");
    failures_free(failures);
}

static void test_alerts_are_kinds_of_their_own(void **state)
{
    struct failures *failures = failures_new();
    struct failures_new add = failure("a", FAIL(TLS_ALERT, 48));

    (void)state;
    failures_note(failures, &add);
    add.err = FAIL(TLS_ALERT, 49);
    failures_note(failures, &add);
    assert_string_equal(due(failures, false, 1000), "a tls_alert 1; a tls_alert 1");
    failures_free(failures);
}

static void test_what_goes_on_is_told_again_after_a_while(void **state)
{
    struct failures *failures = failures_new();
    struct failures_new add = failure("a", FAIL(CERT_MISSING, 0));

    (void)state;
    failures_note(failures, &add);
    assert_string_equal(due(failures, false, 1000), "a cert_missing 1");
    assert_string_equal(due(failures, false, 1000), "");
    failures_note(failures, &add);
    assert_string_equal(due(failures, false, 1000 + FAILURES_AGAIN_MS - 1), "");
    assert_string_equal(due(failures, true, 2000), "a cert_missing 2");
    failures_note(failures, &add);
    assert_string_equal(due(failures, false, 2000 + FAILURES_AGAIN_MS), "a cert_missing 3");
    assert_string_equal(due(failures, true, UINT64_MAX), "");
    failures_untold(failures);
    assert_string_equal(due(failures, false, 3000), "a cert_missing 3");
    failures_free(failures);
}

static void test_a_link_has_no_more_than_its_share(void **state)
{
    struct failures *failures = failures_new();
    struct failures_new quiet = failure("quiet", FAIL(CERT_MISSING, 0)), add;
    Mortise__V1__FailedConnection *list[FAILURES_MAX];
    size_t num;

    (void)state;
    failures_note(failures, &quiet);
    for (int i = 0; i < 10000; i++) {
        char id[64];

        (void)snprintf(id, sizeof(id), "spiffe://mesh.test/ns/apim/sa/number-%d", i);
        add = failure("loud", FAIL(PEER_DENIED, 0));
        add.peer_id = id;
        add.now_ms += i;
        failures_note(failures, &add);
    }
    num = failures_due(failures, false, 1000, FAILURES_MAX, list);
    assert_int_equal(num, 1 + FAILURES_EACH_MAX);
    for (size_t i = 0; i < num;
         i++) { /* the quiet one has not gone, and of the loud the last stay */
        assert_true(strcmp(list[i]->link, "quiet") == 0 || list[i]->last_ms > NOW_MS + 9990);
        pb_free(&list[i]->base);
    }
    failures_free(failures);
}

static void test_all_together_are_bounded(void **state)
{
    struct failures *failures = failures_new();
    Mortise__V1__FailedConnection *list[FAILURES_MAX + 1];
    size_t num;

    (void)state;
    for (int i = 0; i < 2 * FAILURES_MAX; i++) {
        char link[64];
        struct failures_new add;

        (void)snprintf(link, sizeof(link), "link-%d", i);
        add = failure(link, FAIL(CERT_MISSING, 0));
        add.now_ms += i;
        failures_note(failures, &add);
    }
    num = failures_due(failures, false, 1000, FAILURES_MAX + 1, list);
    assert_int_equal(num, FAILURES_MAX);
    for (size_t i = 0; i < num; i++) {
        assert_true(list[i]->last_ms >= NOW_MS + FAILURES_MAX);
        pb_free(&list[i]->base);
    }
    failures_free(failures);
}

/* Texts of strangers are cut, and a message has room for FAILURES_SEND_MAX of the longest. */
static void test_long_texts_are_cut(void **state)
{
    struct failures *failures = failures_new();
    struct shown_hello hello = {.seen = true, .more = true};
    struct failures_new add = failure("a", FAIL(PEER_DENIED, 0));
    Mortise__V1__FailedConnection *list[1];
    char id[4000];

    (void)state;
    memset(id, 'x', sizeof(id) - 1);
    id[sizeof(id) - 1] = '\0';
    hello.num_versions = SHOWN_VERSIONS_MAX;
    hello.num_suites = SHOWN_SUITES_MAX;
    hello.num_groups = SHOWN_GROUPS_MAX;
    for (size_t i = 0; i < SHOWN_SUITES_MAX; i++)
        hello.suites[i] = 0xcca9; /* one of the longest names */
    add.peer_id = id;
    add.hello = &hello;
    for (uint64_t key = 1; key < 10; key++) {
        add.key = key;
        failures_note(failures, &add);
    }
    assert_int_equal(failures_due(failures, false, 1000, 1, list), 1);
    assert_true(protobuf_c_message_get_packed_size(&list[0]->base) <
                65536 / FAILURES_SEND_MAX - 64);
    assert_int_equal(list[0]->n_keys, FAILURES_KEYS);
    assert_string_equal(list[0]->keys[0], "0000000000000009");
    assert_int_equal(list[0]->number, 9);
    pb_free(&list[0]->base);
    failures_free(failures);
}

static void test_nobody_to_tell_is_fine(void **state)
{
    struct failures_new add = failure("a", FAIL(PEER_DENIED, 0));

    (void)state;
    failures_note(NULL, &add);
}

/* ---- listens ---- */

static bool listens(const char *line, const char *text)
{
    struct addr addr;

    assert_int_equal(addr_parse(text, &addr).code, E_OK);
    return listens_line(line, &addr);
}

#define V4(local, state) "   0: " local " 00000000:0000 " state " 00000000:00000000 00:00000000 0"
#define V6(local, state) \
    "   0: " local " 00000000000000000000000000000000:0000 " state " 00000000:00000000 00:0 0"

static void test_a_listener_is_found_by_address_and_port(void **state)
{
    (void)state;
    assert_true(listens(V4("0100007F:1F91", "0A"), "127.0.0.1:8081"));
    assert_true(listens(V4("00000000:1F91", "0A"), "127.0.0.1:8081"));
    assert_false(listens(V4("0100007F:1F92", "0A"), "127.0.0.1:8081"));
    assert_false(listens(V4("0200007F:1F91", "0A"), "127.0.0.1:8081"));
    assert_false(listens(V4("0100007F:1F91", "01"), "127.0.0.1:8081")); /* a connection */
    assert_false(listens(V4("00000000:1F91", "0A"), "[::1]:8081"));
    assert_true(listens(V6("00000000000000000000000001000000:1F91", "0A"), "[::1]:8081"));
    assert_true(listens(V6("00000000000000000000000000000000:1F91", "0A"), "127.0.0.1:8081"));
    assert_true(listens(V6("0000000000000000FFFF00000100007F:1F91", "0A"), "127.0.0.1:8081"));
    assert_false(listens(V6("0000000000000000FFFF00000200007F:1F91", "0A"), "127.0.0.1:8081"));
    assert_false(listens("  sl  local_address rem_address   st tx_queue rx_queue", "127.0.0.1:1"));
    assert_false(listens("", "127.0.0.1:8081"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_kind_is_counted),
        cmocka_unit_test(test_alerts_are_kinds_of_their_own),
        cmocka_unit_test(test_what_goes_on_is_told_again_after_a_while),
        cmocka_unit_test(test_a_link_has_no_more_than_its_share),
        cmocka_unit_test(test_all_together_are_bounded),
        cmocka_unit_test(test_long_texts_are_cut),
        cmocka_unit_test(test_nobody_to_tell_is_fine),
        cmocka_unit_test(test_a_listener_is_found_by_address_and_port),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
