/* When certificates are renewed: those of one storm flatly over a fifth of their life, those of
 * several storms as well, never too early or too late.
 * Without it: ten thousand sidecars that joined in one minute come back in one half a life later.
 * Drives: F18, R36. */
#include "control/slots.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/mem.h"

#define NOW INT64_C(1800000000)
#define DAY 86400
#define BACKDATE 300
#define NUM 10000
#define PARTS 50

static uint32_t seed = 12345;

static uint32_t chance(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed ^ seed >> 13;
}

static int setup(void **state)
{
    *state = mem_zalloc(sizeof(struct slots));
    return 0;
}

static int teardown(void **state)
{
    mem_free(*state);
    return 0;
}

static int64_t pick(struct slots *slots, int64_t now_s, int64_t ttl_s)
{
    int64_t life_s = ttl_s + BACKDATE, before_s = now_s - BACKDATE;
    int64_t at = slots_pick(slots, before_s, now_s + ttl_s, now_s, chance());

    assert_true(at > now_s && at <= now_s + ttl_s - 60);
    assert_true(at >= before_s + life_s / 10 * 4 && at < before_s + life_s / 10 * 6);
    return at;
}

/* How many renewals are in each of PARTS equal parts of [from, until). */
static void count(unsigned parts[PARTS], int64_t at, int64_t from, int64_t until)
{
    if (at >= from && at < until)
        parts[(at - from) * PARTS / (until - from)]++;
}

static void flat(const unsigned parts[PARTS], unsigned mean, unsigned percent)
{
    for (unsigned i = 0; i < PARTS; i++)
        assert_in_range(parts[i], mean - mean * percent / 100, mean + mean * percent / 100);
}

static void test_one_storm_is_spread_flatly(void **state)
{
    int64_t life_s = DAY + BACKDATE, from = NOW - BACKDATE + life_s / 10 * 4;
    unsigned parts[PARTS] = {0};

    for (unsigned i = 0; i < NUM; i++)
        count(parts, pick(*state, NOW + i / 1000, DAY), from, from + life_s / 5);
    flat(parts, NUM / PARTS, 8);
}

/* By chance alone, as each sidecar would for itself, it is not. */
static void test_chance_alone_is_not_as_flat(void **state)
{
    int64_t life_s = DAY + BACKDATE, from = NOW - BACKDATE + life_s / 10 * 4;
    unsigned parts[PARTS] = {0}, most = 0;

    (void)state;
    for (unsigned i = 0; i < NUM; i++)
        count(parts, from + chance() % (life_s / 5), from, from + life_s / 5);
    for (unsigned i = 0; i < PARTS; i++)
        most = parts[i] > most ? parts[i] : most;
    assert_true(most > NUM / PARTS * 108 / 100);
}

/* A second storm an hour later fills what the first left: where the windows overlap both together
 * are as flat. */
static void test_storms_make_room_for_each_other(void **state)
{
    int64_t life_s = DAY + BACKDATE, from = NOW - BACKDATE + life_s / 10 * 4;
    unsigned parts[PARTS] = {0};

    for (unsigned i = 0; i < NUM; i++)
        count(parts, pick(*state, NOW, DAY), from + 3600, from + life_s / 5);
    for (unsigned i = 0; i < NUM; i++)
        count(parts, pick(*state, NOW + 3600, DAY), from + 3600, from + life_s / 5);
    for (unsigned i = 1; i < PARTS - 1; i++) { /* the slots at the ends are cut */
        unsigned mean = parts[PARTS / 2];

        assert_in_range(parts[i], mean - mean * 8 / 100, mean + mean * 8 / 100);
    }
}

/* Renewals that are planned, done and planned again, for weeks. */
static void test_it_stays_flat(void **state)
{
    enum { SIDECARS = 1000 };
    int64_t due[SIDECARS], now_s = NOW;
    unsigned hours[24] = {0}, total = 0;

    for (unsigned i = 0; i < SIDECARS; i++)
        due[i] = pick(*state, NOW, DAY);
    for (int64_t end = NOW + 40 * DAY; now_s < end; now_s += 300) {
        for (unsigned i = 0; i < SIDECARS; i++) {
            if (due[i] > now_s)
                continue;
            due[i] = pick(*state, now_s, DAY);
            if (now_s < NOW + 20 * DAY)
                continue;
            hours[(now_s - NOW) / 3600 % 24]++;
            total++;
        }
    }
    for (unsigned i = 0; i < 24; i++)
        assert_in_range(hours[i], total / 24 * 90 / 100, total / 24 * 110 / 100);
}

static void test_short_and_long_lives(void **state)
{
    static const int64_t lives[] = {300, 600, 3600, DAY, 7 * DAY};

    for (size_t i = 0; i < sizeof(lives) / sizeof(lives[0]); i++) {
        for (unsigned j = 0; j < 3000; j++)
            (void)pick(*state, NOW + j, lives[i]);
    }
}

static void test_no_time_is_left(void **state)
{
    assert_int_equal(slots_pick(*state, NOW, NOW + 100, NOW + 70, 5), 0);
    assert_int_equal(slots_pick(*state, NOW, NOW, NOW, 5), 0);
    assert_int_equal(slots_pick(*state, NOW, NOW - 10, NOW, 5), 0);
    assert_int_equal(slots_pick(*state, -DAY, 0, -DAY, 5), 0);
    assert_int_equal(slots_pick(*state, NOW, NOW + DAY, NOW + DAY * 6 / 10, 5), 0);
    /* The last second that there is. */
    assert_int_equal(slots_pick(*state, NOW, NOW + DAY, NOW + DAY * 6 / 10 - 2, 5),
                     NOW + DAY * 6 / 10 - 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_one_storm_is_spread_flatly),
        TEST(test_chance_alone_is_not_as_flat),
        TEST(test_storms_make_room_for_each_other),
        TEST(test_it_stays_flat),
        TEST(test_short_and_long_lives),
        TEST(test_no_time_is_left),
    };
#undef TEST

    return cmocka_run_group_tests(tests, NULL, NULL);
}
