/* A rotation of the root with a real registry below it: who is waited for, and for how long.
 * Without it: a sidecar whose network is down for ten seconds, or that is called what another
 * subsystem's is called, finds that the root it trusts is gone. Drives: R38, R40, F5. */
#include "control/root_rotation.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "certs/csr.h"
#include "certs/issue.h"
#include "certs/key.h"
#include "control/msg.h"
#include "control/store_mem.h"
#include "test/unit/control/fixture.h"

#define ID(name) "spiffe://mesh.test/ns/default/sa/" name

struct place {
    struct fixture *fixture;
    struct loop *loop;
    struct root_rotation *rotation;
    bool fails;        /* the disk, once a stage was entered */
    unsigned switched; /* how often */
};

static void on_switched(void *arg)
{
    struct place *place = arg;

    place->switched++;
}

static void on_stage(void *arg)
{
    struct place *place = arg;

    store_mem_set_unwritable(place->fixture->store, place->fails);
}

static void open_rotation(struct place *place)
{
    const struct root_rotation_params params = {
        .loop = place->loop,
        .vault = place->fixture->vault,
        .ca = place->fixture->ca,
        .registry = place->fixture->registry,
        .on_switched = on_switched,
        .on_stage = on_stage,
        .arg = place,
    };

    assert_ok(root_rotation_open(&params, &place->rotation));
}

static int setup(void **state)
{
    struct place *place = mem_zalloc(sizeof(*place));

    place->fixture = fixture_new();
    fixture_start(place->fixture);
    place->loop = loop_new(&place->fixture->clock.clock);
    open_rotation(place);
    *state = place;
    return 0;
}

/* As at the end of the process: the streams have ended. */
static void close_rotation(struct place *place)
{
    struct list *pos, *tmp;

    root_rotation_close(place->rotation);
    LIST_EACH (pos, tmp, registry_workloads(place->fixture->registry)) {
        struct workload *workload = LIST_ITEM(pos, struct workload, link);

        if (!workload->lost)
            registry_leave(workload);
    }
}

static int teardown(void **state)
{
    struct place *place = *state;

    close_rotation(place);
    loop_free(place->loop);
    fixture_free(place->fixture);
    mem_free(place);
    return 0;
}

static void accept_all(struct workload *workload, uint64_t epoch)
{
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;
    char nonce[XDS_NONCE_MAX];

    status.certificate_epoch = epoch;
    while (xds_stream_due(&workload->xds)) {
        xds_stream_sent(&workload->xds, nonce);
        assert_int_equal(
            xds_stream_on_request(&workload->xds, workload->xds.sent_version, nonce, false),
            XDS_ACK);
        registry_report(workload, XDS_ACK, &status, NULL);
    }
    registry_report(workload, XDS_STATUS, &status, NULL);
}

static struct workload *join(struct place *place, const char *id, const char *instance)
{
    const struct registry_join request = {
        .spiffe_id = id, .instance = instance, .build = "test", .address = "10.0.0.1:15443"};
    struct workload *workload = NULL;

    assert_ok(registry_join(place->fixture->registry, &request, &workload));
    assert_int_equal(xds_stream_on_request(&workload->xds, 0, "", false), XDS_FIRST);
    registry_refresh(place->fixture->registry);
    accept_all(workload, 0);
    return workload;
}

/* Time goes by, and everybody looks again. */
static void pass(struct place *place, int64_t seconds)
{
    fixture_pass(place->fixture, seconds);
    registry_tick(place->fixture->registry);
    registry_refresh(place->fixture->registry);
    root_rotation_tick(place->rotation);
}

static rotation_stage stage(struct place *place)
{
    return root_rotation_state(place->rotation).stage;
}

static void begin(struct place *place)
{
    assert_ok(root_rotation_begin(place->rotation, ROTATION_OF_ROOT, 0));
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
}

static void test_who_has_just_left_is_waited_for(void **state)
{
    struct place *place = *state;
    struct workload *here = join(place, ID("gateway"), "here");
    struct workload *away = join(place, ID("portal"), "away");

    registry_leave(away);
    pass(place, REGISTRY_LINGER_MS / 1000 + 1); /* the registry has forgotten it */
    assert_null(registry_workload(place->fixture->registry, ID("portal"), "away"));
    begin(place);
    accept_all(here, 0);
    pass(place, 30);
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
    assert_int_equal(root_rotation_state(place->rotation).total, 2);
    away = join(place, ID("portal"), "away"); /* back, and told at once */
    accept_all(here, 0);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    /* And again, but for good. */
    registry_leave(away);
    accept_all(here, root_rotation_state(place->rotation).epoch);
    pass(place, 30);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    pass(place, ROTATION_AWAIT_MS / 1000);
    accept_all(here, root_rotation_state(place->rotation).epoch);
    pass(place, ROTATION_SETTLE_MS / 1000);
    accept_all(here, root_rotation_state(place->rotation).epoch);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_IDLE);
}

/* A handshake that began with the leaf of before is under way when all have said that they have
 * theirs of the new root: the old one goes a while later. */
static void test_a_root_goes_when_handshakes_are_over(void **state)
{
    struct place *place = *state;
    struct workload *here = join(place, ID("gateway"), "here");
    uint64_t epoch;

    begin(place);
    accept_all(here, 0);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    epoch = root_rotation_state(place->rotation).epoch;
    accept_all(here, epoch);
    pass(place, 0);
    pass(place, ROTATION_SETTLE_MS / 1000 - 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    (void)join(place, ID("portal"), "late"); /* it has no such leaf: all of it again */
    pass(place, 2);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    accept_all(registry_workload(place->fixture->registry, ID("portal"), "late"), epoch);
    pass(place, 0);
    pass(place, ROTATION_SETTLE_MS / 1000 - 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_RETIRE);
}

/* Each calls itself what it likes. */
static void test_two_of_one_name_are_two(void **state)
{
    struct place *place = *state;
    struct workload *portal = join(place, ID("portal"), "node-1");
    struct workload *other = join(place, ID("analytics"), "node-1");

    accept_all(portal, 0);
    begin(place);
    assert_int_equal(root_rotation_state(place->rotation).total, 2);
    accept_all(other, 0);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
    assert_int_equal(root_rotation_state(place->rotation).done, 1);
    /* The one that goes takes nobody's place with it. */
    registry_leave(other);
    pass(place, REGISTRY_LINGER_MS / 1000 + 1);
    pass(place, ROTATION_AWAIT_MS / 1000);
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
    assert_int_equal(root_rotation_state(place->rotation).total, 1);
    accept_all(portal, 0);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
}

/* Neither a denied sidecar nor one whose subsystem has left the mesh is waited for. */
static void test_who_may_not_come_back_is_not_waited_for(void **state)
{
    struct place *place = *state;
    Mortise__V1__Revocation revocation = MORTISE__V1__REVOCATION__INIT;
    struct workload *here = join(place, ID("gateway"), "here");
    struct workload *denied = join(place, ID("portal"), "denied");
    uint64_t id = 0;

    revocation.spiffe_id = msg_lend(ID("portal"));
    begin(place);
    assert_ok(registry_revoke(place->fixture->registry,
                              &(struct revocations_new){.revocation = &revocation,
                                                        .reason = "",
                                                        .by = "test",
                                                        .now_s = place->fixture->clock.wall_s},
                              &id));
    registry_leave(denied);
    pass(place, 1);
    assert_int_equal(root_rotation_state(place->rotation).total, 1);
    accept_all(here, 0);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
}

static void test_an_issuer_is_rotated_at_half_of_its_life(void **state)
{
    struct place *place = *state;
    struct workload *portal = join(place, ID("portal"), "a");
    struct ca *ca = place->fixture->ca;
    char before[CA_SHA256_HEX], after[CA_SHA256_HEX];

    ca_issuer_key_sha256(ca, false, before);
    pass(place, CA_ISSUER_TTL_S / 3);
    assert_ok(root_rotation_maintain(place->rotation));
    assert_int_equal(stage(place), ROTATION_IDLE);
    pass(place, CA_ISSUER_TTL_S / 3);
    assert_ok(root_rotation_maintain(place->rotation));
    assert_int_equal(stage(place), ROTATION_REISSUE);
    ca_issuer_key_sha256(ca, true, after);
    assert_string_equal(before, after);                 /* kept until nobody needs it */
    assert_ok(root_rotation_maintain(place->rotation)); /* one is enough */
    assert_int_equal(root_rotation_state(place->rotation).number, 1);
    registry_refresh(place->fixture->registry);
    accept_all(portal, root_rotation_state(place->rotation).epoch);
    for (int i = 0; i < 10 && stage(place) != ROTATION_IDLE; i++)
        pass(place, 1);
    assert_int_equal(stage(place), ROTATION_IDLE);
    assert_false(ca_has_other(ca));
    assert_ok(root_rotation_maintain(place->rotation));
    assert_int_equal(root_rotation_state(place->rotation).number, 1);
    registry_leave(portal);
}

/* It is tried again, and the old one signs until then. */
static void test_an_issuer_that_cannot_be_replaced_stays(void **state)
{
    struct place *place = *state;

    pass(place, CA_ISSUER_TTL_S * 2 / 3);
    store_mem_set_unwritable(place->fixture->store, true);
    assert_true(err_is(root_rotation_maintain(place->rotation), E_STORE_UNWRITABLE));
    assert_int_equal(stage(place), ROTATION_IDLE);
    assert_ok(ca_state(place->fixture->ca));
    store_mem_set_unwritable(place->fixture->store, false);
    assert_ok(root_rotation_maintain(place->rotation));
    assert_int_equal(root_rotation_state(place->rotation).number, 1);
}

/* Those of before a restart are waited for, too. */
static void test_a_restart_knows_who_was_there(void **state)
{
    struct place *place = *state;

    (void)join(place, ID("portal"), "away");
    begin(place);
    close_rotation(place);
    fixture_stop(place->fixture);
    fixture_start(place->fixture);
    open_rotation(place);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
    assert_int_equal(root_rotation_state(place->rotation).total, 1);
    pass(place, ROTATION_AWAIT_MS / 1000);
    assert_int_equal(stage(place), ROTATION_IDLE); /* without anybody it is done */
}

/* A disk that takes the stage and then, for a moment, no number for what it means to sidecars: they
 * are in sync with what was before, and that is no acknowledgement of it. */
static void test_what_could_not_be_given_out_is_not_acknowledged(void **state)
{
    struct place *place = *state;
    struct registry *registry = place->fixture->registry;
    struct workload *gateway = join(place, ID("gateway"), "here");

    store_mem_set_unwritable(place->fixture->store, true);
    for (int i = 0; i < 192; i++) { /* more numbers than were noted in advance */
        registry_set_roots(registry, i % 2 == 0 ? "some" : "others");
        registry_refresh(registry);
        accept_all(gateway, 0);
    }
    assert_true(registry_is_held(registry));
    store_mem_set_unwritable(place->fixture->store, false);
    place->fails = true;
    assert_ok(root_rotation_begin(place->rotation, ROTATION_OF_ROOT, 0));
    place->fails = false;
    store_mem_set_unwritable(place->fixture->store, false);
    root_rotation_tick(place->rotation);
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
    accept_all(gateway, 0);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
}

/* ---- back ---- */

static void test_back_before_anything_was_signed(void **state)
{
    struct place *place = *state;
    struct workload *here = join(place, ID("gateway"), "here");
    struct root_rotation_state told;
    char before[CA_SHA256_HEX], coming[CA_SHA256_HEX], after[CA_SHA256_HEX];

    assert_code(root_rotation_go_back(place->rotation, 0), NOT_FOUND);
    ca_issuer_key_sha256(place->fixture->ca, false, before);
    begin(place);
    ca_issuer_key_sha256(place->fixture->ca, true, coming);
    assert_ok(root_rotation_go_back(place->rotation, 0));
    told = root_rotation_state(place->rotation);
    assert_int_equal(told.stage, ROTATION_RETIRE);
    assert_true(told.going_back);
    assert_string_equal(told.retired_key_sha256, coming);
    assert_int_equal(place->switched, 0);
    ca_issuer_key_sha256(place->fixture->ca, false, after);
    assert_string_equal(after, before);
    assert_false(ca_has_other(place->fixture->ca));
    assert_code(root_rotation_go_back(place->rotation, 0), TOO_LATE);
    accept_all(here, 0);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_IDLE);
}

static void test_back_after_the_switch_has_everybody_renew_again(void **state)
{
    struct place *place = *state;
    struct workload *here = join(place, ID("gateway"), "here");
    uint64_t first;
    char before[CA_SHA256_HEX], after[CA_SHA256_HEX];

    ca_issuer_key_sha256(place->fixture->ca, false, before);
    begin(place);
    accept_all(here, 0);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    assert_int_equal(place->switched, 1);
    first = root_rotation_state(place->rotation).epoch;
    assert_ok(root_rotation_go_back(place->rotation, 0));
    assert_int_equal(place->switched, 2);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    assert_true(root_rotation_state(place->rotation).epoch > first);
    ca_issuer_key_sha256(place->fixture->ca, false, after);
    assert_string_equal(after, before);
    assert_code(root_rotation_go_back(place->rotation, 0), TOO_LATE); /* it does already */
    /* A leaf of the switch is not enough, and who has none of the old issuer is waited for. */
    accept_all(here, first);
    pass(place, 10);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    accept_all(here, root_rotation_state(place->rotation).epoch);
    pass(place, 0);
    pass(place, ROTATION_SETTLE_MS / 1000);
    assert_int_equal(stage(place), ROTATION_RETIRE);
    assert_code(root_rotation_go_back(place->rotation, 0), TOO_LATE);
    ca_issuer_key_sha256(place->fixture->ca, false, after);
    assert_string_equal(after, before);
}

/* ---- orders that cannot be, and disks ---- */

static void test_one_at_a_time(void **state)
{
    struct place *place = *state;
    struct faults faults = {.num = 0};

    (void)join(place, ID("gateway"), "here");
    /* Nobody has asked a root elsewhere for anything. */
    assert_code(root_rotation_import(place->rotation, NULL, 0, 0, &faults), NOT_FOUND);
    assert_int_equal(root_rotation_state(place->rotation).number, 0);
    begin(place);
    assert_code(root_rotation_begin(place->rotation, ROTATION_OF_ISSUER, 0), EXISTS);
    assert_code(root_rotation_import(place->rotation, NULL, 0, 0, &faults), EXISTS);
    assert_int_equal(root_rotation_state(place->rotation).number, 1);
    faults_fini(&faults);
}

static void test_a_disk_that_takes_no_stage_is_asked_again(void **state)
{
    struct place *place = *state;
    struct workload *here = join(place, ID("gateway"), "here");
    uint64_t number = root_rotation_state(place->rotation).number;

    store_mem_set_unwritable(place->fixture->store, true);
    assert_code(root_rotation_begin(place->rotation, ROTATION_OF_ROOT, 0), STORE_UNWRITABLE);
    assert_int_equal(stage(place), ROTATION_IDLE);
    assert_false(ca_has_other(place->fixture->ca));
    assert_int_equal(root_rotation_state(place->rotation).number, number);
    store_mem_set_unwritable(place->fixture->store, false);
    begin(place);
    accept_all(here, 0);
    store_mem_set_unwritable(place->fixture->store, true);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
    assert_int_equal(place->switched, 0); /* what signs is what the store says */
    store_mem_set_unwritable(place->fixture->store, false);
    pass(place, 1);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    assert_int_equal(place->switched, 1);
}

/* ---- who is waited for, and is told of ---- */

struct waiting {
    unsigned num;
    char text[256];
};

static void on_waiting(void *arg, const char *subsystem, const char *instance, const char *why)
{
    struct waiting *waiting = arg;

    waiting->num++;
    (void)snprintf(waiting->text, sizeof(waiting->text), "%s %s: %s", subsystem, instance, why);
}

static struct waiting waiting_of(struct place *place)
{
    struct waiting waiting = {.num = 0};

    root_rotation_each_waiting(place->rotation, on_waiting, &waiting);
    return waiting;
}

static void test_who_holds_it_up_is_named(void **state)
{
    struct place *place = *state;
    struct workload *here = join(place, ID("gateway"), "here");

    (void)join(place, ID("portal"), "slow");
    assert_int_equal(waiting_of(place).num, 0); /* idle */
    begin(place);
    assert_int_equal(waiting_of(place).num, 2);
    accept_all(here, 0);
    assert_int_equal(waiting_of(place).num, 1);
    assert_non_null(strstr(waiting_of(place).text, "portal slow: "));
}

/* What happens is looked at when it happens: the stage does not wait for the next tick. */
static void test_the_last_one_moves_it_on(void **state)
{
    struct place *place = *state;
    struct workload *here = join(place, ID("gateway"), "here");

    loop_run_once(place->loop, false);
    begin(place);
    accept_all(here, 0);
    loop_run_once(place->loop, false);
    assert_int_equal(stage(place), ROTATION_REISSUE);
}

/* Newcomers are in the store a moment later, and not only when a stage is: after a restart a
 * rotation that was begun at once waits for them. */
static void test_newcomers_are_noted_in_time(void **state)
{
    struct place *place = *state;

    (void)join(place, ID("portal"), "first");
    store_mem_set_unwritable(place->fixture->store, true);
    fixture_pass(place->fixture, 1);
    loop_run_once(place->loop, false); /* it cannot be noted now; nothing is lost by that */
    store_mem_set_unwritable(place->fixture->store, false);
    (void)join(place, ID("analytics"), "second");
    fixture_pass(place->fixture, 1);
    loop_run_once(place->loop, false);
    close_rotation(place);
    fixture_stop(place->fixture);
    fixture_start(place->fixture);
    open_rotation(place);
    begin(place);
    assert_int_equal(root_rotation_state(place->rotation).total, 2);
}

/* ---- a root elsewhere ---- */

static err_t import(struct place *place, const struct issuer *safe, const struct issued *root,
                    struct faults *faults)
{
    struct buf csr = {.data = NULL};
    struct issued issuer;
    EVP_PKEY *key = NULL;
    err_t err;

    assert_ok(ca_request(place->fixture->ca, false, &csr));
    assert_ok(csr_parse(buf_view(&csr), &key));
    assert_ok(issue_intermediate(safe, FIXTURE_TRUST_DOMAIN, key, place->fixture->clock.wall_s,
                                 CA_ISSUER_TTL_S, &issuer));
    err = root_rotation_import(
        place->rotation,
        (struct bytes[]){bytes_of(root->der, root->der_len), bytes_of(issuer.der, issuer.der_len)},
        2, 0, faults);
    issued_fini(&issuer);
    EVP_PKEY_free(key);
    buf_fini(&csr);
    return err;
}

/* Another root is given out before anything is signed below it; another issuer of the root that all
 * trust has nothing to wait for. */
static void test_what_a_root_elsewhere_signed_goes_the_same_way(void **state)
{
    struct place *place = *state;
    struct workload *here = join(place, ID("gateway"), "here");
    struct faults faults = {.num = 0};
    struct issuer safe = {.cert = NULL};
    struct issued root;
    const uint8_t *at;

    assert_ok(key_generate_p384(&safe.key));
    assert_ok(issue_root(FIXTURE_TRUST_DOMAIN, safe.key, place->fixture->clock.wall_s,
                         CA_ROOT_TTL_S, &root));
    at = root.der;
    safe.cert = d2i_X509(NULL, &at, (long)root.der_len);
    assert_ok(import(place, &safe, &root, &faults));
    assert_int_equal(root_rotation_state(place->rotation).kind, ROTATION_OF_ROOT);
    assert_int_equal(stage(place), ROTATION_DISTRIBUTE);
    while (stage(place) != ROTATION_IDLE) {
        accept_all(here, root_rotation_state(place->rotation).epoch);
        pass(place, 1 + ROTATION_SETTLE_MS / 1000);
    }
    assert_int_equal(place->switched, 1);
    accept_all(here, root_rotation_state(place->rotation).epoch);
    assert_ok(import(place, &safe, &root, &faults));
    assert_int_equal(root_rotation_state(place->rotation).kind, ROTATION_OF_ISSUER);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    assert_int_equal(place->switched, 2);
    assert_int_equal(root_rotation_state(place->rotation).number, 2);
    X509_free(safe.cert);
    EVP_PKEY_free(safe.key);
    issued_fini(&root);
    faults_fini(&faults);
}

/* A record of one file and authorities of another, as a backup of parts would leave them. */
static void test_a_record_that_does_not_match_the_ca_is_refused(void **state)
{
    struct place *place = *state;
    Mortise__Control__RootRotation record = MORTISE__CONTROL__ROOT_ROTATION__INIT;
    struct root_rotation *other = NULL;
    const struct root_rotation_params params = {
        .loop = place->loop,
        .vault = place->fixture->vault,
        .ca = place->fixture->ca,
        .registry = place->fixture->registry,
    };

    record.stage = ROTATION_REISSUE;
    assert_ok(
        vault_put(place->fixture->vault, VAULT_ROOT_ROTATION, &record.base, STORE_ABSENT, NULL));
    assert_code(root_rotation_open(&params, &other), STORE_CORRUPT);
    assert_null(other);
    store_mem_poke(place->fixture->store, VAULT_ROOT_ROTATION, bytes_of_str("garbage"));
    assert_false(err_is_ok(root_rotation_open(&params, &other)));
    assert_null(other);
    root_rotation_close(other); /* as the end of a start that failed does */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_who_has_just_left_is_waited_for),
        TEST(test_a_root_goes_when_handshakes_are_over),
        TEST(test_two_of_one_name_are_two),
        TEST(test_who_may_not_come_back_is_not_waited_for),
        TEST(test_an_issuer_is_rotated_at_half_of_its_life),
        TEST(test_an_issuer_that_cannot_be_replaced_stays),
        TEST(test_a_restart_knows_who_was_there),
        TEST(test_what_could_not_be_given_out_is_not_acknowledged),
        TEST(test_back_before_anything_was_signed),
        TEST(test_back_after_the_switch_has_everybody_renew_again),
        TEST(test_one_at_a_time),
        TEST(test_a_disk_that_takes_no_stage_is_asked_again),
        TEST(test_who_holds_it_up_is_named),
        TEST(test_the_last_one_moves_it_on),
        TEST(test_newcomers_are_noted_in_time),
        TEST(test_what_a_root_elsewhere_signed_goes_the_same_way),
        TEST(test_a_record_that_does_not_match_the_ca_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
