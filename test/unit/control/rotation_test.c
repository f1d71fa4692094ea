/* A rotation of the root, played at random: sidecars that acknowledge, refuse, renew, leave, come
 * back and join, a control plane that crashes, an operator who goes back. Without it: a stage that
 * advances too early cuts two sidecars off from each other, and nobody notices until a fleet does
 * it. Drives: F5, R38, R41. */
#include "control/rotation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

#define STEPS 300000
#define SIDECARS 7
#define ANCESTORS 3 /* CA_ANCESTORS_MAX */
#define NONE (-1)

/* The root `by` says that `of` is to be trusted. */
struct vouch {
    int by;
    int of;
};

struct chain {
    int root; /* that the leaf is below of */
    struct vouch vouches[ANCESTORS];
    size_t num;
};

struct car {
    bool running;
    bool connected;
    int64_t away_since_ms;
    int trust[2]; /* roots, or NONE */
    struct chain leaf;
    uint64_t epoch;
    uint64_t acked;
    bool refused;    /* the version that is in force */
    bool lost_touch; /* was away for too long: it has to come back first */
    unsigned away_switches;
};

/* What is on disk. */
struct record {
    rotation_stage stage;
    uint64_t epoch;
    bool going_back;
    int active;
    int other; /* or NONE */
    struct vouch lineage[ANCESTORS];
    size_t num_lineage;
    bool parties[SIDECARS];
};

static struct model {
    uint64_t seed;
    int64_t now_ms;
    int last_root;
    struct record record;
    uint64_t version; /* of what every sidecar ought to have */
    uint64_t epoch;   /* of every subsystem */
    struct car cars[SIDECARS];
    unsigned switches;
    size_t step;
    unsigned finished;
    unsigned crashed;
    unsigned went_back;
} model;

static uint32_t chance(uint32_t below)
{
    model.seed = model.seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(model.seed >> 33) % below;
}

/* --- trust --- */

static bool trusts(const int trust[2], const struct chain *chain)
{
    int root = chain->root;

    for (size_t hop = 0; hop <= chain->num; hop++) {
        int above = NONE;

        if (root == trust[0] || root == trust[1])
            return true;
        for (size_t i = 0; i < chain->num; i++) {
            if (chain->vouches[i].of == root)
                above = chain->vouches[i].by;
        }
        if (above == NONE)
            return false;
        root = above;
    }
    return false;
}

static bool reachable(const struct car *car)
{
    return car->running && !car->lost_touch &&
           (car->connected || model.now_ms - car->away_since_ms < ROTATION_AWAIT_MS);
}

/* Every pair that should be able to connect can. */
static void check_pairs(void)
{
    for (size_t i = 0; i < SIDECARS; i++) {
        for (size_t j = 0; j < SIDECARS; j++) {
            const struct car *a = &model.cars[i];
            const struct car *b = &model.cars[j];

            if (!reachable(a) || !reachable(b) || trusts(a->trust, &b->leaf))
                continue;
            fail_msg("step %zu, stage %s: %zu has roots %d and %d, %zu a leaf of %d", model.step,
                     rotation_name(model.record.stage), i, a->trust[0], a->trust[1], j,
                     b->leaf.root);
        }
    }
}

/* --- the control plane: as ca.c and root_rotation.c do it --- */

static struct chain issue(bool lineage)
{
    const struct record *record = &model.record;
    struct chain chain = {.root = record->active};

    for (size_t i = 0; i < record->num_lineage; i++) {
        if (record->lineage[i].of != NONE && (lineage || record->lineage[i].by == record->other))
            chain.vouches[chain.num++] = record->lineage[i];
    }
    /* One line: each says who is to be trusted that the one before is by (svid.h). */
    for (size_t i = 0; i < chain.num; i++)
        assert_int_equal(chain.vouches[i].of, i == 0 ? chain.root : chain.vouches[i - 1].by);
    return chain;
}

static void swap_roots(void)
{
    struct record *record = &model.record;
    struct vouch lineage[ANCESTORS] = {{record->active, record->other}};
    size_t num = 1;
    int active = record->active;

    for (size_t i = 0; i < record->num_lineage; i++) {
        if (record->lineage[i].by == record->other)
            lineage[0].of = NONE; /* it goes back to an ancestor */
    }
    for (size_t i = 0; i < record->num_lineage && num < ANCESTORS; i++) {
        if (record->lineage[i].by != record->other)
            lineage[num++] = record->lineage[i];
    }
    memcpy(record->lineage, lineage, sizeof(lineage));
    record->num_lineage = num;
    record->active = record->other;
    record->other = active;
    record->epoch = ++model.epoch;
    model.switches++;
}

static void enter(rotation_stage stage)
{
    struct record *record = &model.record;

    record->stage = stage;
    model.version++;
    for (size_t i = 0; i < SIDECARS; i++) {
        record->parties[i] =
            model.cars[i].connected || (record->parties[i] && model.cars[i].running);
        model.cars[i].refused = false;
    }
}

static void begin(void)
{
    if (model.record.stage != ROTATION_IDLE)
        return;
    model.record.other = ++model.last_root;
    model.record.going_back = false;
    enter(ROTATION_DISTRIBUTE);
}

static void go_back(void)
{
    struct record *record = &model.record;

    if (!rotation_can_go_back(record->stage) || record->going_back)
        return;
    model.went_back++;
    record->going_back = true;
    if (record->stage == ROTATION_DISTRIBUTE) {
        record->other = NONE;
        enter(ROTATION_RETIRE);
    } else {
        swap_roots();
        enter(ROTATION_REISSUE);
    }
}

static struct rotation_party party_of(const struct car *car)
{
    return (struct rotation_party){
        .connected = car->connected,
        .away_ms = (uint64_t)(model.now_ms - car->away_since_ms),
        .in_sync = car->acked == model.version,
        .refused = car->refused,
        .epoch = car->epoch,
        .trouble = "",
    };
}

static void tick(void)
{
    struct record *record = &model.record;
    rotation_stage next;

    if (record->stage == ROTATION_IDLE)
        return;
    for (size_t i = 0; i < SIDECARS; i++) {
        struct rotation_party party = party_of(&model.cars[i]);

        if (record->parties[i] && rotation_waits(record->stage, record->epoch, &party) != NULL)
            return;
    }
    next = rotation_next(record->stage);
    if (next == ROTATION_REISSUE)
        swap_roots();
    else if (next == ROTATION_RETIRE)
        record->other = NONE;
    else
        model.finished++;
    enter(next);
}

static void crash(void)
{
    model.crashed++;
    model.version++; /* a new process's contents are new ones */
    for (size_t i = 0; i < SIDECARS; i++) {
        model.cars[i].connected = false;
        model.cars[i].refused = false;
        model.cars[i].away_since_ms = model.now_ms; /* it knows no better */
    }
}

/* --- sidecars --- */

static void take_roots(struct car *car)
{
    car->trust[0] = model.record.active;
    car->trust[1] = model.record.other;
}

/* A new process, by a token. */
static void join(size_t i)
{
    model.cars[i] = (struct car){
        .running = true,
        .connected = true,
        .leaf = issue(false),
        .epoch = model.epoch,
    };
    take_roots(&model.cars[i]);
    model.record.parties[i] = true;
}

static void leave(struct car *car)
{
    if (!car->connected)
        return;
    car->connected = false;
    car->away_since_ms = model.now_ms;
    car->away_switches = model.switches;
}

static void come_back(size_t i)
{
    struct car *car = &model.cars[i];
    struct chain control = issue(true);

    if (!car->running || car->connected)
        return;
    /* Who was away for so many changes that no path is left has to join anew. */
    if (!trusts(car->trust, &control)) {
        assert_true(model.switches - car->away_switches > ANCESTORS);
        join(i);
        return;
    }
    car->connected = true;
    model.record.parties[i] = true;
}

static void take_push(struct car *car)
{
    if (!car->connected || car->acked == model.version)
        return;
    take_roots(car);
    car->acked = model.version;
    car->refused = false;
}

static void refuse_push(struct car *car)
{
    if (car->connected && car->acked != model.version)
        car->refused = true;
}

static void renew(struct car *car)
{
    if (!car->connected)
        return;
    car->leaf = issue(false);
    car->epoch = model.epoch;
    if (car->acked == model.version)
        car->lost_touch = false;
}

static void play_one(void)
{
    size_t i = chance(SIDECARS);
    struct car *car = &model.cars[i];

    switch (chance(40)) {
    case 0:
        begin();
        break;
    case 1:
        if (chance(20) == 0)
            go_back();
        break;
    case 2:
        if (chance(10) == 0)
            crash();
        break;
    case 3:
        leave(car);
        break;
    case 4:
        if (chance(4) == 0) {
            leave(car);
            car->running = false;
        }
        break;
    case 5:
        if (chance(4) == 0)
            join(i);
        break;
    case 6:
        if (chance(4) == 0)
            refuse_push(car);
        break;
    case 7:
        model.now_ms += chance(20) == 0 ? ROTATION_AWAIT_MS : 1;
        break;
    case 8:
    case 9:
    case 10:
    case 11:
        come_back(i);
        break;
    case 12:
    case 13:
    case 14:
    case 15:
    case 16:
    case 17:
        renew(car);
        break;
    case 18:
    case 19:
    case 20:
    case 21:
        tick();
        break;
    case 22:
        model.now_ms += chance(3000);
        break;
    default:
        take_push(car);
        break;
    }
    for (size_t j = 0; j < SIDECARS; j++) {
        if (model.cars[j].running && !model.cars[j].connected &&
            model.now_ms - model.cars[j].away_since_ms >= ROTATION_AWAIT_MS)
            model.cars[j].lost_touch = true;
    }
}

static void play(uint64_t seed, size_t steps)
{
    model = (struct model){.seed = seed, .record = {.other = NONE}, .version = 1};
    for (size_t i = 0; i < SIDECARS; i++)
        join(i);
    for (model.step = 0; model.step < steps; model.step++) {
        play_one();
        check_pairs();
    }
}

static void test_every_pair_can_connect_at_every_moment(void **state)
{
    const char *given = getenv("MORTISE_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : 1;

    (void)state;
    print_message("    seed %llu (MORTISE_SEED)\n", (unsigned long long)seed);
    play(seed, STEPS);
    print_message("    %u rotations finished, %u crashes, %u went back\n", model.finished,
                  model.crashed, model.went_back);
    assert_true(model.finished > 100 && model.crashed > 100 && model.went_back > 10);
}

/* --- what holds a stage up --- */

static const struct rotation_party good = {
    .connected = true, .in_sync = true, .epoch = 5, .trouble = ""};

static void test_each_stage_waits_for_what_it_says(void **state)
{
    struct rotation_party party = good;

    (void)state;
    assert_null(rotation_waits(ROTATION_DISTRIBUTE, 6, &party));
    assert_string_equal(rotation_waits(ROTATION_REISSUE, 6, &party), "has not renewed yet");
    party.trouble = "rate_limited";
    assert_string_equal(rotation_waits(ROTATION_REISSUE, 6, &party), "rate_limited");
    assert_null(rotation_waits(ROTATION_REISSUE, 5, &party));
    assert_null(rotation_waits(ROTATION_RETIRE, 6, &party));
    party.in_sync = false;
    assert_string_equal(rotation_waits(ROTATION_RETIRE, 5, &party), "has not acknowledged yet");
    party.refused = true;
    assert_string_equal(rotation_waits(ROTATION_DISTRIBUTE, 5, &party), "refused what it was sent");
    assert_null(rotation_waits(ROTATION_IDLE, 5, &party));
}

static void test_who_left_is_waited_for_for_a_while(void **state)
{
    struct rotation_party party = good;

    (void)state;
    party.connected = false;
    party.away_ms = ROTATION_AWAIT_MS - 1;
    assert_string_equal(rotation_waits(ROTATION_REISSUE, 5, &party), "disconnected, awaited");
    party.away_ms++;
    assert_null(rotation_waits(ROTATION_REISSUE, 5, &party));
}

static void test_the_order_of_stages(void **state)
{
    static const rotation_stage order[] = {ROTATION_IDLE, ROTATION_DISTRIBUTE, ROTATION_REISSUE,
                                           ROTATION_RETIRE, ROTATION_IDLE};

    (void)state;
    for (size_t i = 0; i + 1 < ARRAY_LEN(order); i++)
        assert_int_equal(rotation_next(order[i]), order[i + 1]);
    assert_true(rotation_can_go_back(ROTATION_DISTRIBUTE));
    assert_true(rotation_can_go_back(ROTATION_REISSUE));
    assert_false(rotation_can_go_back(ROTATION_RETIRE)); /* somebody has lost a root already */
    assert_false(rotation_can_go_back(ROTATION_IDLE));
    for (size_t i = 0; i + 1 < ARRAY_LEN(order); i++) {
        assert_true(strlen(rotation_name(order[i])) > 0);
        assert_true(strlen(rotation_says(order[i])) > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pair_can_connect_at_every_moment),
        cmocka_unit_test(test_each_stage_waits_for_what_it_says),
        cmocka_unit_test(test_who_left_is_waited_for_for_a_while),
        cmocka_unit_test(test_the_order_of_stages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
