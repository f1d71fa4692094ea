/* The ring of what happened, and its readers. Without it: one who watches and does not read makes
 * the control plane larger, or is not told that he missed something.
 *
 * Drives: F13 */
#include "control/events.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

struct watcher {
    struct events_reader reader;
    unsigned told;
};

static void on_event(struct events_reader *reader)
{
    CONTAINER_OF(reader, struct watcher, reader)->told++;
}

static struct watcher watcher(void)
{
    return (struct watcher){.reader = {.fn = on_event}};
}

static void add(struct events *events, unsigned num, int64_t at_ms)
{
    for (unsigned i = 0; i < num; i++)
        events_add(events, &(struct event){.kind = "sidecar_joined", .number = i}, at_ms);
}

static int setup(void **state)
{
    *state = events_new();
    return 0;
}

static int teardown(void **state)
{
    events_free(*state);
    return 0;
}

/* How many the reader gets, in order and without a gap but for what it is told to have missed. */
static uint64_t read_all(const struct events *events, struct watcher *watcher, uint64_t *out_missed)
{
    Mortise__V1__Event *event;
    uint64_t num = 0, missed, last = 0;

    *out_missed = 0;
    while ((event = events_next(events, &watcher->reader, &missed)) != NULL) {
        assert_true(last == 0 || event->seq == last + 1 + missed);
        last = event->seq;
        pb_free(&event->base);
        *out_missed += missed;
        num++;
    }
    return num;
}

static void test_from_now_on_each_in_order(void **state)
{
    struct events *events = *state;
    struct watcher a = watcher(), b = watcher();
    uint64_t missed;

    add(events, 5, 1000);
    events_join(events, &a.reader, 0);
    assert_int_equal(read_all(events, &a, &missed), 0);
    add(events, 3, 2000);
    assert_int_equal(a.told, 3);
    events_join(events, &b.reader, 0);
    add(events, 2, 3000);
    assert_int_equal(read_all(events, &a, &missed), 5);
    assert_int_equal(read_all(events, &b, &missed), 2);
    assert_int_equal(missed, 0);
    events_leave(&a.reader);
    add(events, 1, 3000);
    assert_int_equal(a.told, 5);
    assert_int_equal(b.told, 3);
    events_leave(&b.reader);
}

static void test_since_a_time_as_far_as_it_is_kept(void **state)
{
    struct events *events = *state;
    struct watcher a = watcher(), b = watcher(), c = watcher();
    uint64_t missed;

    add(events, 5, 1000);
    add(events, 7, 2000);
    events_join(events, &a.reader, 2000);
    assert_int_equal(read_all(events, &a, &missed), 7);
    events_join(events, &b.reader, 1);
    assert_int_equal(read_all(events, &b, &missed), 12);
    add(events, EVENTS_KEPT, 3000);
    events_join(events, &c.reader, 1);
    assert_int_equal(read_all(events, &c, &missed), EVENTS_KEPT);
    assert_int_equal(missed, 0); /* what was before him he did not ask for */
    events_leave(&a.reader);
    events_leave(&b.reader);
    events_leave(&c.reader);
}

static void test_a_slow_reader_is_told_how_many_he_missed(void **state)
{
    struct events *events = *state;
    struct watcher slow = watcher();
    uint64_t missed;

    events_join(events, &slow.reader, 0);
    add(events, 10, 1000);
    assert_int_equal(read_all(events, &slow, &missed), 10);
    add(events, EVENTS_KEPT + 23, 2000);
    assert_int_equal(read_all(events, &slow, &missed), EVENTS_KEPT);
    assert_int_equal(missed, 23);
    add(events, 1, 2000);
    assert_int_equal(read_all(events, &slow, &missed), 1);
    assert_int_equal(missed, 0);
    events_leave(&slow.reader);
}

static void test_texts_are_bounded_and_cut_between_characters(void **state)
{
    struct events *events = *state;
    struct watcher a = watcher();
    char text[2 * EVENTS_TEXT_MAX + 2] = "x"; /* so that a character lies across the limit */
    Mortise__V1__Event *event;
    uint64_t missed;

    for (size_t i = 1; i + 2 < sizeof(text); i += 2)
        memcpy(text + i, "\xc3\xa4", 2);
    events_join(events, &a.reader, 0);
    events_add(events, &(struct event){.kind = "k", .detail = text}, 1000);
    event = events_next(events, &a.reader, &missed);
    assert_non_null(event);
    assert_int_equal(strlen(event->detail), EVENTS_TEXT_MAX - 1);
    assert_string_equal(event->subsystem, "");
    pb_free(&event->base);
    /* Half of a character, and what moves a cursor: a message holds neither. */
    events_add(events, &(struct event){.kind = "k", .detail = "a\xc3", .id = "b\x1b[2J"}, 1000);
    event = events_next(events, &a.reader, &missed);
    assert_string_equal(event->detail, "a\xef\xbf\xbd");
    assert_string_equal(event->id, "b\\u001b[2J");
    pb_free(&event->base);
    events_add(NULL, &(struct event){.kind = "k"}, 1000); /* nobody is interested */
    events_leave(&a.reader);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_from_now_on_each_in_order),
        TEST(test_since_a_time_as_far_as_it_is_kept),
        TEST(test_a_slow_reader_is_told_how_many_he_missed),
        TEST(test_texts_are_bounded_and_cut_between_characters),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
