/* An issuer past half of its life, with nobody at the keyboard. Without it: the next issuer signs
 * before a sidecar has its revocation list, which refuses its peers then, at a time that nobody
 * chose; or an operator who turns the rotation back has it back an hour later, again and again.
 * Drives: R38, R7, F5. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/crls.h"
#include "control/msg.h"
#include "control/root_rotation.h"
#include "test/unit/control/fixture.h"

#define ID "spiffe://mesh.test/ns/default/sa/portal"
#define DAY_S INT64_C(86400)

struct place {
    struct fixture *fixture;
    struct loop *loop;
    struct crls *crls;
    struct root_rotation *rotation;
    struct workload *portal;
};

static void ignore(void *arg)
{
    (void)arg;
}

static void on_keys(void *arg)
{
    struct place *place = arg;

    crls_keys_changed(place->crls);
}

static void acknowledge(struct place *place, uint64_t epoch)
{
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;
    struct xds_stream *xds = &place->portal->xds;
    char nonce[XDS_NONCE_MAX];

    status.certificate_epoch = epoch;
    registry_refresh(place->fixture->registry);
    while (xds_stream_due(xds)) {
        xds_stream_sent(xds, nonce);
        assert_int_equal(xds_stream_on_request(xds, xds->sent_version, nonce, false), XDS_ACK);
        registry_report(place->portal, XDS_ACK, &status, NULL);
    }
    registry_report(place->portal, XDS_STATUS, &status, NULL);
    root_rotation_tick(place->rotation);
}

/* A mesh with lists: each issuer needs one. */
static void apply_list(struct place *place)
{
    Mortise__V1__RevocationList list = MORTISE__V1__REVOCATION_LIST__INIT, *lists[] = {&list};
    Mortise__V1__Mesh mesh = *registry_mesh(place->fixture->registry);
    uint64_t version;

    list.name = msg_lend("root");
    mesh.crls = lists;
    mesh.n_crls = 1;
    assert_ok(registry_apply(place->fixture->registry, &mesh, &fixture_about, &version));
}

static int setup(void **state)
{
    const struct registry_join portal = {
        .spiffe_id = ID, .instance = "a", .build = "test", .address = "10.0.0.1:15443"};
    struct place *place = mem_zalloc(sizeof(*place));
    struct fixture *fixture = place->fixture = fixture_new();

    fixture_start(fixture);
    place->loop = loop_new(&fixture->clock.clock);
    assert_ok(crls_open(&(struct crls_params){.vault = fixture->vault,
                                              .ca = fixture->ca,
                                              .registry = fixture->registry,
                                              .clock = &fixture->clock.clock},
                        &place->crls));
    ca_on_keys(fixture->ca, on_keys, place);
    assert_ok(root_rotation_open(&(struct root_rotation_params){.loop = place->loop,
                                                                .vault = fixture->vault,
                                                                .ca = fixture->ca,
                                                                .registry = fixture->registry,
                                                                .on_switched = ignore,
                                                                .on_stage = ignore},
                                 &place->rotation));
    assert_ok(registry_join(fixture->registry, &portal, &place->portal));
    assert_int_equal(xds_stream_on_request(&place->portal->xds, 0, "", false), XDS_FIRST);
    apply_list(place);
    fixture_pass(fixture, CA_ISSUER_TTL_S * 2 / 3);
    crls_tick(place->crls);
    acknowledge(place, 0);
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    struct place *place = *state;

    root_rotation_close(place->rotation);
    registry_leave(place->portal);
    crls_free(place->crls);
    loop_free(place->loop);
    fixture_free(place->fixture);
    mem_free(place);
    return 0;
}

static rotation_stage stage(const struct place *place)
{
    return root_rotation_state(place->rotation).stage;
}

static void maintain(struct place *place)
{
    assert_ok(root_rotation_maintain(place->rotation));
}

static void test_it_signs_when_its_list_has_been_acknowledged(void **state)
{
    struct place *place = *state;
    char before[CA_SHA256_HEX], now[CA_SHA256_HEX];

    ca_issuer_key_sha256(place->fixture->ca, false, before);
    maintain(place);
    assert_int_equal(stage(place), ROTATION_PREPARE);
    fixture_pass(place->fixture, DAY_S); /* it waits for as long as it takes */
    root_rotation_tick(place->rotation);
    assert_int_equal(stage(place), ROTATION_PREPARE);
    ca_issuer_key_sha256(place->fixture->ca, false, now);
    assert_string_equal(before, now);
    acknowledge(place, 0);
    assert_int_equal(stage(place), ROTATION_REISSUE);
    ca_issuer_key_sha256(place->fixture->ca, false, now);
    assert_string_not_equal(before, now);
    acknowledge(place, root_rotation_state(place->rotation).epoch);
    acknowledge(place, root_rotation_state(place->rotation).epoch);
    assert_int_equal(stage(place), ROTATION_IDLE);
    assert_false(ca_issuer_is_old(place->fixture->ca));
}

static void test_one_that_was_turned_back_begins_again_a_day_later(void **state)
{
    struct place *place = *state;

    maintain(place);
    assert_ok(root_rotation_go_back(place->rotation, 0));
    acknowledge(place, 0);
    assert_int_equal(stage(place), ROTATION_IDLE);
    maintain(place);
    fixture_pass(place->fixture, DAY_S - 1);
    maintain(place);
    assert_int_equal(stage(place), ROTATION_IDLE);
    fixture_pass(place->fixture, 1);
    maintain(place);
    assert_int_equal(stage(place), ROTATION_PREPARE);
    assert_int_equal(root_rotation_state(place->rotation).number, 2);
}

/* What an operator has begun goes first, whatever it is. */
static void test_one_at_a_time(void **state)
{
    struct place *place = *state;

    assert_ok(root_rotation_begin(place->rotation, ROTATION_OF_ROOT, 0));
    maintain(place);
    assert_int_equal(root_rotation_state(place->rotation).kind, ROTATION_OF_ROOT);
    assert_ok(root_rotation_go_back(place->rotation, 0));
    acknowledge(place, 0);
    fixture_pass(place->fixture, DAY_S);
    maintain(place);
    assert_code(root_rotation_begin(place->rotation, ROTATION_OF_ROOT, 0), EXISTS);
    assert_int_equal(root_rotation_state(place->rotation).kind, ROTATION_OF_ISSUER);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_it_signs_when_its_list_has_been_acknowledged),
        TEST(test_one_that_was_turned_back_begins_again_a_day_later),
        TEST(test_one_at_a_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
