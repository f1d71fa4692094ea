/* Rotations of the root, of the issuer alone, and to roots whose keys are elsewhere, played at
 * random: sidecars that acknowledge, refuse, renew, leave, come back and join, a control plane that
 * crashes, an operator who goes back. Without it: a stage that advances too early cuts two sidecars
 * off from each other, and nobody notices until a fleet does it. Drives: F5, R38, R41. */
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
    int issuer;
    struct vouch vouches[ANCESTORS];
    size_t num;
};

struct car {
    bool running;
    bool connected;
    int64_t away_since_ms;
    int trust[2]; /* roots, or NONE */
    int lists;    /* it has those of all issuers up to this one: crls gives former ones on */
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
    rotation_kind kind;
    uint64_t epoch;
    bool going_back;
    int active;
    int other;            /* or NONE: it is the same */
    bool active_external; /* the root's key is elsewhere: it vouches for nobody */
    bool other_external;
    int issuer;
    int other_issuer; /* or NONE */
    struct vouch lineage[ANCESTORS];
    size_t num_lineage;
    bool parties[SIDECARS];
};

static struct model {
    uint64_t seed;
    int64_t now_ms;
    int last_root;
    int last_issuer;
    struct record record;
    uint64_t version; /* of what every sidecar ought to have */
    uint64_t epoch;   /* of every subsystem */
    struct car cars[SIDECARS];
    unsigned switches; /* of roots */
    unsigned cut;      /* the last of these that left no path */
    size_t step;
    unsigned finished[2]; /* by kind */
    unsigned external;
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

/* Every pair that should be able to connect can, also where revocation lists are asked for. */
static void check_pairs(void)
{
    for (size_t i = 0; i < SIDECARS; i++) {
        for (size_t j = 0; j < SIDECARS; j++) {
            const struct car *a = &model.cars[i];
            const struct car *b = &model.cars[j];

            if (!reachable(a) || !reachable(b))
                continue;
            if (a->lists < b->leaf.issuer)
                fail_msg("step %zu, stage %s: %zu has no list of issuer %d, %zu a leaf of it",
                         model.step, rotation_name(model.record.stage), i, b->leaf.issuer, j);
            if (trusts(a->trust, &b->leaf))
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
    struct chain chain = {.root = record->active, .issuer = record->issuer};

    for (size_t i = 0; i < record->num_lineage; i++) {
        if (record->lineage[i].of != NONE && (lineage || record->lineage[i].by == record->other))
            chain.vouches[chain.num++] = record->lineage[i];
    }
    /* One line: each says who is to be trusted that the one before is by (svid.h). */
    for (size_t i = 0; i < chain.num; i++)
        assert_int_equal(chain.vouches[i].of, i == 0 ? chain.root : chain.vouches[i - 1].by);
    return chain;
}

static void swap_ints(int *a, int *b)
{
    int was = *a;

    *a = *b;
    *b = was;
}

static void swap_roots(void)
{
    struct record *record = &model.record;
    struct vouch lineage[ANCESTORS] = {{record->active, record->other}};
    bool goes_back = false, was_external = record->active_external;
    size_t num = 1;

    for (size_t i = 0; i < record->num_lineage; i++)
        goes_back =
            goes_back || (record->lineage[i].by == record->other && record->lineage[i].of != NONE);
    if (goes_back || was_external)
        lineage[0].of = NONE;
    for (size_t i = 0; i < record->num_lineage && num < ANCESTORS; i++) {
        if (record->lineage[i].by != record->other)
            lineage[num++] = record->lineage[i];
    }
    model.switches++;
    if (was_external && !goes_back) {
        for (size_t i = 1; i < num; i++)
            lineage[i].of = NONE; /* what is vouched for has no successor */
    }
    if (was_external)
        model.cut = model.switches;
    memcpy(record->lineage, lineage, sizeof(lineage));
    record->num_lineage = num;
    swap_ints(&record->active, &record->other);
    record->active_external = record->other_external;
    record->other_external = was_external;
}

static void switch_issuers(void)
{
    struct record *record = &model.record;

    if (record->other != NONE)
        swap_roots();
    swap_ints(&record->issuer, &record->other_issuer);
    record->epoch = ++model.epoch;
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

/* What is retired signs for nobody who is there: revoking it then cuts nobody off. */
static void retire(void)
{
    struct record *record = &model.record;

    for (size_t i = 0; i < SIDECARS; i++) {
        const struct car *car = &model.cars[i];

        if (!rotation_has_switched(record->stage) || !reachable(car) || !record->parties[i] ||
            car->leaf.issuer == record->issuer)
            continue;
        fail_msg("step %zu: issuer %d is retired, and %zu has a leaf of it", model.step,
                 car->leaf.issuer, i);
    }
    record->other = NONE;
    record->other_issuer = NONE;
    enter(ROTATION_RETIRE);
}

static void begin(rotation_kind kind, bool external)
{
    struct record *record = &model.record;

    /* Below a root whose key is elsewhere nothing is made here. */
    if (record->stage != ROTATION_IDLE || (record->active_external && !external))
        return;
    record->kind = kind;
    record->other_issuer = ++model.last_issuer;
    if (kind == ROTATION_OF_ROOT) {
        record->other = ++model.last_root;
        record->other_external = external;
    }
    model.external += external;
    record->going_back = false;
    enter(rotation_next(kind, ROTATION_IDLE));
}

static void go_back(void)
{
    struct record *record = &model.record;

    if (!rotation_can_go_back(record->stage) || record->going_back)
        return;
    model.went_back++;
    record->going_back = true;
    if (!rotation_has_switched(record->stage)) {
        retire();
    } else {
        switch_issuers();
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
    next = rotation_next(record->kind, record->stage);
    if (next == ROTATION_RETIRE) {
        retire();
        return;
    }
    if (next == ROTATION_REISSUE)
        switch_issuers();
    else
        model.finished[record->kind]++;
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

static void take_config(struct car *car)
{
    car->lists = model.last_issuer;
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
    take_config(&model.cars[i]);
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
        assert_true(model.switches - car->away_switches > ANCESTORS ||
                    car->away_switches < model.cut);
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
    take_config(car);
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
        begin(chance(3) == 0 ? ROTATION_OF_ISSUER : ROTATION_OF_ROOT, chance(4) == 0);
        /* A mesh whose root is elsewhere stays so. Another one, to play the rest. */
        if (model.record.active_external && model.record.stage == ROTATION_IDLE && chance(4) == 0) {
            model.record.active_external = false;
        }
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
    model = (struct model){
        .seed = seed,
        .record = {.other = NONE, .other_issuer = NONE},
        .version = 1,
    };
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
    print_message(
        "    %u rotations of the root finished, %u of the issuer, %u to a root elsewhere; "
        "%u crashes, %u went back\n",
        model.finished[ROTATION_OF_ROOT], model.finished[ROTATION_OF_ISSUER], model.external,
        model.crashed, model.went_back);
    assert_true(model.finished[ROTATION_OF_ROOT] > 100 &&
                model.finished[ROTATION_OF_ISSUER] > 100 && model.external > 100 &&
                model.crashed > 100 && model.went_back > 10);
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
    assert_string_equal(rotation_waits(ROTATION_PREPARE, 6, &party), "refused what it was sent");
    party = good;
    assert_null(rotation_waits(ROTATION_PREPARE, 6, &party)); /* the old issuer signs still */
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
    static const rotation_stage order[][5] = {
        [ROTATION_OF_ROOT] = {ROTATION_IDLE, ROTATION_DISTRIBUTE, ROTATION_REISSUE, ROTATION_RETIRE,
                              ROTATION_IDLE},
        [ROTATION_OF_ISSUER] = {ROTATION_IDLE, ROTATION_PREPARE, ROTATION_REISSUE, ROTATION_RETIRE,
                                ROTATION_IDLE},
    };

    (void)state;
    for (size_t kind = 0; kind < ARRAY_LEN(order); kind++) {
        assert_true(strlen(rotation_kind_name((rotation_kind)kind)) > 0);
        for (size_t i = 0; i + 1 < ARRAY_LEN(order[0]); i++) {
            assert_int_equal(rotation_next((rotation_kind)kind, order[kind][i]),
                             order[kind][i + 1]);
            assert_true(strlen(rotation_name(order[kind][i])) > 0);
            assert_true(strlen(rotation_says(order[kind][i])) > 10);
        }
    }
}

static void test_where_it_can_go_back(void **state)
{
    (void)state;
    assert_true(rotation_can_go_back(ROTATION_DISTRIBUTE));
    assert_true(rotation_can_go_back(ROTATION_PREPARE));
    assert_true(rotation_can_go_back(ROTATION_REISSUE));
    assert_false(rotation_can_go_back(ROTATION_RETIRE)); /* somebody has lost a root already */
    assert_false(rotation_can_go_back(ROTATION_IDLE));
    assert_true(rotation_has_two(ROTATION_PREPARE) && rotation_has_two(ROTATION_DISTRIBUTE));
    assert_true(rotation_has_two(ROTATION_REISSUE) && rotation_has_switched(ROTATION_REISSUE));
    assert_false(rotation_has_two(ROTATION_RETIRE) || rotation_has_two(ROTATION_IDLE));
    assert_false(rotation_has_switched(ROTATION_PREPARE) ||
                 rotation_has_switched(ROTATION_DISTRIBUTE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pair_can_connect_at_every_moment),
        cmocka_unit_test(test_each_stage_waits_for_what_it_says),
        cmocka_unit_test(test_who_left_is_waited_for_for_a_while),
        cmocka_unit_test(test_the_order_of_stages),
        cmocka_unit_test(test_where_it_can_go_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
