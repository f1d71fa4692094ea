/* What a mesh takes in plaintext: when it begins, ends or grows, and what nobody has to be asked
 * for. Without it: a link is opened to everybody unseen, or for ever. Drives: F11, R2. */
#include "control/permissive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/clock.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define NOW "2026-11-24T00:00:00Z"
#define PORT "port: 9, "
#define LINK(name, more) "{name: " name ", client: a, server: b, server_port: 2" more "}"
#define LINKS(more) "links: [" LINK("l", more) "]"
#define TAKES(until) LINKS(", permissive: {" PORT "until: '" until "'}")

static const struct {
    const char *before, *after;
    const char *weaker; /* NULL: nothing is */
    const char *fault;  /* NULL: none */
} rows[] = {
    {LINKS(""), LINKS(""), NULL, NULL},
    {LINKS(""), TAKES("2026-12-01T00:00:00Z"),
     "plaintext none -> at port 9 until 2026-12-01T00:00:00Z", NULL},
    {TAKES("2026-12-01T00:00:00Z"), LINKS(""), NULL, NULL},
    {TAKES("2026-12-01T00:00:00Z"), TAKES("2026-12-01T00:00:00Z"), NULL, NULL},
    {TAKES("2026-12-01T00:00:00Z"), TAKES("2026-11-30T00:00:00Z"), NULL, NULL},
    {TAKES("2026-12-01T00:00:00Z"), TAKES("2026-12-01T00:00:01Z"),
     "plaintext until 2026-12-01T00:00:00Z -> at port 9 until 2026-12-01T00:00:01Z", NULL},
    /* what has ended is none, before and after */
    {TAKES("2026-11-24T00:00:00Z"), TAKES("2026-12-01T00:00:00Z"), "plaintext none -> at", NULL},
    {LINKS(""), TAKES("2026-11-24T00:00:00Z"), NULL, NULL},
    {LINKS(""), TAKES("2026-11-24T00:00:01Z"), "plaintext none -> at", NULL},
    /* a new link is asked about like any other */
    {"links: []", TAKES("2026-12-01T00:00:00Z"), "plaintext none -> at", NULL},
    {"links: [" LINK("k", ", permissive: {port: 9, until: '2026-12-01T00:00:00Z'}") "]",
     TAKES("2026-12-01T00:00:00Z"), "plaintext none -> at", NULL},
    /* another port, or another application behind it, is another beginning */
    {TAKES("2026-12-01T00:00:00Z"),
     LINKS(", permissive: {port: 10, until: '2026-12-01T00:00:00Z'}"),
     "plaintext at port 9 to b:2 -> at port 10 to b:2 until 2026-12-01T00:00:00Z", NULL},
    {TAKES("2026-12-01T00:00:00Z"),
     "links: [{name: l, client: a, server: c, server_port: 2, permissive: {" PORT
     "until: '2026-12-01T00:00:00Z'}}]",
     "plaintext at port 9 to b:2 -> at port 9 to c:2", NULL},
    {TAKES("2026-12-01T00:00:00Z"),
     "links: [{name: l, client: a, server: b, server_port: 3, permissive: {" PORT
     "until: '2026-11-30T00:00:00Z'}}]",
     "plaintext at port 9 to b:2 -> at port 9 to b:3 until 2026-11-30", NULL},
    {TAKES("2026-12-01T00:00:00Z"),
     "links: [{name: l, client: c, server: b, server_port: 2, permissive: {" PORT
     "until: '2026-12-01T00:00:00Z'}}]",
     NULL, NULL},
    /* 90 days, to the second; what was let in before stays */
    {LINKS(""), TAKES("2027-02-22T00:00:00Z"), "plaintext none -> at", NULL},
    {LINKS(""), TAKES("2027-02-22T00:00:01Z"), "plaintext none -> at",
     "2027-02-22T00:00:01Z is more than 90 days ahead; wanted is 2027-02-22T00:00:00Z or before"},
    {TAKES("2027-02-22T00:00:01Z"), TAKES("2027-02-22T00:00:01Z"), NULL, NULL},
    {TAKES("2027-02-23T00:00:00Z"), TAKES("2027-02-22T00:00:01Z"), NULL, "more than 90 days"},
};

static void test_what_begins_ends_and_grows(void **state)
{
    int64_t now_s;

    (void)state;
    assert_true(clock_parse_utc(NOW, &now_s));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        Mortise__V1__Mesh *before = fixture_mesh(rows[i].before);
        Mortise__V1__Mesh *after = fixture_mesh(rows[i].after);
        size_t index[1] = {0};
        struct mesh_origin origin = {.index = {[MESH_LINKS] = index}};
        struct faults weaker = {0}, faults = {0};
        err_t err = permissive_check(before, after, &origin, now_s, &faults);

        permissive_weaker(before, after, now_s, &weaker);
        if (weaker.total != (rows[i].weaker != NULL) || faults.total != (rows[i].fault != NULL))
            fail_msg("row %zu: %zu weaker, %zu faults", i, weaker.total, faults.total);
        assert_int_equal(err_is_ok(err), rows[i].fault == NULL);
        if (rows[i].weaker != NULL) {
            assert_string_equal(weaker.items[0].path, "link l");
            assert_non_null(strstr(weaker.items[0].message, rows[i].weaker));
        }
        if (rows[i].fault != NULL) {
            assert_string_equal(faults.items[0].path, "links[0].permissive.until");
            assert_non_null(strstr(faults.items[0].message, rows[i].fault));
        }
        faults_fini(&weaker);
        faults_fini(&faults);
        pb_free(&before->base);
        pb_free(&after->base);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_begins_ends_and_grows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
