/* What is told once and then counted. Without it: of callers beyond those that are told apart the
 * first is on record twice, or not at all. Drives: R51. */
#include "control/audit_counts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/msg.h"

#define AT_MS INT64_C(1800000000000)

static void add(struct audit_counts *counts, unsigned source, bool stranger, int64_t at_ms)
{
    Mortise__V1__AuditRecord record = MORTISE__V1__AUDIT_RECORD__INIT;
    char host[32];

    (void)snprintf(host, sizeof(host), "192.0.%u.%u", source / 250, source % 250);
    record.who = msg_lend(stranger ? AUDIT_STRANGER : "alice");
    record.source = host;
    record.action = msg_lend("mesh.apply");
    record.reason = msg_lend("no");
    record.at_ms = at_ms;
    audit_counts_add(counts, &record, stranger, 1);
}

static const Mortise__V1__AuditRecord *find(Mortise__V1__AuditRecord **list, size_t num,
                                            const char *source)
{
    for (size_t i = 0; i < num; i++) {
        if (strcmp(list[i]->source, source) == 0)
            return list[i];
    }
    return NULL;
}

static void check_several(bool stranger, unsigned max)
{
    Mortise__V1__AuditRecord *due[AUDIT_COUNTS_MAX];
    const Mortise__V1__AuditRecord *several;
    struct audit_counts counts;
    size_t num;

    audit_counts_init(&counts);
    for (unsigned i = 0; i < max; i++)
        add(&counts, i, stranger, AT_MS);
    num = audit_counts_due(&counts, 1, false, due);
    assert_int_equal(num, max);
    assert_null(find(due, num, "several"));

    /* The first of them is told by the record itself: nobody comes after it. */
    add(&counts, max, stranger, AT_MS + 5);
    num = audit_counts_due(&counts, 1, false, due);
    several = find(due, num, "several");
    assert_int_equal(num, max + 1);
    assert_non_null(several);
    assert_int_equal(several->count, 0);
    assert_int_equal(several->since_ms, 0);
    assert_int_equal(several->at_ms, AT_MS + 5);
    assert_null(find(due, num, "192.0.9.9"));

    /* Two more, of two hosts more, are two. */
    add(&counts, max + 1, stranger, AT_MS + 6);
    add(&counts, max + 2, stranger, AT_MS + 7);
    num = audit_counts_due(&counts, 1, false, due);
    several = find(due, num, "several");
    assert_non_null(several);
    assert_int_equal(several->count, 2);
    assert_int_equal(several->since_ms, AT_MS + 6);
    audit_counts_written(&counts, 1);

    /* And those after that was written. */
    add(&counts, max + 3, stranger, AT_MS + 8);
    assert_int_equal(audit_counts_due(&counts, 2, false, due), 0);
    num = audit_counts_due(&counts, 2, true, due);
    assert_int_equal(num, 1);
    assert_int_equal(due[0]->count, 1);
    assert_int_equal(due[0]->since_ms, AT_MS + 8);
    audit_counts_fini(&counts);
}

static void test_the_first_of_several_is_counted_once(void **state)
{
    (void)state;
    check_several(true, AUDIT_STRANGERS_MAX);
    check_several(false, AUDIT_KNOWN_MAX);
}

/* A flood of strangers takes no place of whom we know. */
static void test_strangers_and_known_are_apart(void **state)
{
    Mortise__V1__AuditRecord *due[AUDIT_COUNTS_MAX];
    struct audit_counts counts;

    (void)state;
    audit_counts_init(&counts);
    for (unsigned i = 0; i < 2 * AUDIT_STRANGERS_MAX; i++)
        add(&counts, i, true, AT_MS);
    add(&counts, 1, false, AT_MS);
    assert_int_equal(audit_counts_due(&counts, 1, false, due), AUDIT_STRANGERS_MAX + 2);
    assert_string_equal(due[AUDIT_STRANGERS_MAX + 1]->who, "alice");
    assert_int_equal(due[AUDIT_STRANGERS_MAX]->count, AUDIT_STRANGERS_MAX - 1);
    audit_counts_fini(&counts);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_first_of_several_is_counted_once),
        cmocka_unit_test(test_strangers_and_known_are_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
