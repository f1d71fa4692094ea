/* The registry: who ought to have what, with a version that is never given out twice, and no
 * endpoint taken away because the control plane saw nobody. Without it: a restart of the control
 * plane stops the mesh. Drives: F2, F3, F5, R10, R39, R42. */
#include "control/registry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "control/msg.h"
#include "control/rotate.h"
#include "control/store_mem.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define ID(name) "spiffe://mesh.test/ns/default/sa/" name

static int setup(void **state)
{
    struct fixture *fixture = fixture_new();

    fixture_start(fixture);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static struct workload *join(struct fixture *fixture, const char *id, const char *instance,
                             const char *address)
{
    const struct registry_join request = {
        .spiffe_id = id, .instance = instance, .build = "test", .address = address};
    struct workload *workload = NULL;

    assert_ok(registry_join(fixture->registry, &request, &workload));
    assert_int_equal(xds_stream_on_request(&workload->xds, 0, "", false), XDS_FIRST);
    return workload;
}

/* The sidecar takes what is due and accepts it. */
static void accept_all(struct workload *workload)
{
    char nonce[XDS_NONCE_MAX];

    while (xds_stream_due(&workload->xds)) {
        xds_stream_sent(&workload->xds, nonce);
        assert_int_equal(
            xds_stream_on_request(&workload->xds, workload->xds.sent_version, nonce, false),
            XDS_ACK);
        registry_report(workload, XDS_ACK, NULL, NULL);
    }
}

static size_t num_endpoints(const struct workload *workload)
{
    return workload->content->config->outbound[0]->n_endpoints;
}

static void apply(struct fixture *fixture, const Mortise__V1__Mesh *mesh, uint64_t *out_version)
{
    assert_ok(registry_apply(fixture->registry, mesh, &fixture_about, out_version));
}

/* The default mesh with another port of one link: a change that concerns portal and management. */
static uint64_t change_port(struct fixture *fixture, uint32_t port)
{
    Mortise__V1__Mesh *mesh = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor,
                                     pb_clone(&registry_mesh(fixture->registry)->base));
    uint64_t version = 0;

    mesh->links[0]->server_port = port;
    apply(fixture, mesh, &version);
    pb_free(&mesh->base);
    return version;
}

/* -------------------------------------------------------------------- contents */

static void test_a_sidecar_gets_its_content_at_once_and_peers_when_they_come(void **state)
{
    struct fixture *fixture = *state;
    struct workload *gateway = join(fixture, ID("gateway"), "g", "10.0.0.1:15443");
    struct workload *analytics;

    assert_non_null(gateway->content);
    assert_true(xds_stream_due(&gateway->xds));
    accept_all(gateway);
    assert_int_equal(num_endpoints(gateway), 0);
    registry_refresh(fixture->registry);
    analytics = join(fixture, ID("analytics"), "a", "10.0.0.2:15443");
    registry_refresh(fixture->registry);
    assert_true(xds_stream_due(&gateway->xds));
    assert_int_equal(num_endpoints(gateway), 1);
    assert_string_equal(gateway->content->config->outbound[0]->endpoints[0], "10.0.0.2:15443");
    registry_leave(gateway);
    registry_leave(analytics);
}

static void test_only_those_concerned_get_a_new_version(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");
    struct workload *analytics = join(fixture, ID("analytics"), "a", "10.0.0.2:15443");
    uint64_t version;

    registry_refresh(fixture->registry);
    accept_all(portal);
    accept_all(analytics);
    version = change_port(fixture, 9999);
    registry_refresh(fixture->registry);
    assert_true(xds_stream_due(&portal->xds));
    assert_int_equal(portal->content->version, version);
    assert_false(xds_stream_due(&analytics->xds));
    assert_true(xds_stream_in_sync(&analytics->xds));
    registry_leave(portal);
    registry_leave(analytics);
}

static void test_changes_that_come_together_are_one_push(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");
    uint64_t last = 0, sent;

    registry_refresh(fixture->registry);
    accept_all(portal);
    sent = portal->xds.num_sent;
    for (uint32_t port = 1; port <= 1000; port++)
        last = change_port(fixture, port);
    registry_refresh(fixture->registry);
    accept_all(portal);
    assert_int_equal(portal->xds.num_sent, sent + 1);
    assert_int_equal(portal->xds.acked_version, last);
    assert_string_equal(portal->content->config->inbound->links[0]->target, "127.0.0.1:1000");
    registry_leave(portal);
}

/* One that joins between a change and its refresh must not have the change's version for other
 * content. */
static void test_a_version_stands_for_one_content(void **state)
{
    struct fixture *fixture = *state;
    struct workload *management, *portal;
    uint64_t first;

    change_port(fixture, 1234);
    management = join(fixture, ID("management"), "m", "10.0.0.1:15443");
    accept_all(management);
    first = management->xds.acked_version;
    portal = join(fixture, ID("portal"), "p", "10.0.0.2:15443"); /* a new endpoint */
    registry_refresh(fixture->registry);
    assert_true(management->content->version > first);
    assert_true(xds_stream_due(&management->xds));
    registry_leave(management);
    registry_leave(portal);
}

static void test_strangers_and_crowds_are_refused(void **state)
{
    struct fixture *fixture = *state;
    struct registry_join request = {
        .spiffe_id = ID("nobody"), .instance = "x", .build = "", .address = "10.0.0.1:1"};
    struct workload *workloads[REGISTRY_INSTANCES_MAX];
    struct workload *more = NULL;
    char instance[16];

    assert_code(registry_join(fixture->registry, &request, &more), PEER_DENIED);
    for (size_t i = 0; i < REGISTRY_INSTANCES_MAX; i++) {
        (void)snprintf(instance, sizeof(instance), "i%zu", i);
        workloads[i] = join(fixture, ID("portal"), instance, "10.0.0.1:15443");
    }
    request.spiffe_id = ID("portal");
    assert_code(registry_join(fixture->registry, &request, &more), LIMIT);
    for (size_t i = 0; i < REGISTRY_INSTANCES_MAX; i++)
        registry_leave(workloads[i]);
}

/* ---------------------------------------------------------------------- totals */

static void check_totals(struct fixture *fixture, unsigned connected, unsigned in_sync,
                         unsigned refused)
{
    struct registry_totals totals = registry_totals(fixture->registry);

    assert_int_equal(totals.connected, connected);
    assert_int_equal(totals.in_sync, in_sync);
    assert_int_equal(totals.refused, refused);
}

/* The sidecar takes what is due and refuses it. */
static void refuse(struct workload *workload)
{
    Mortise__V1__ErrorDetail error = MORTISE__V1__ERROR_DETAIL__INIT;
    char nonce[XDS_NONCE_MAX];

    assert_true(xds_stream_due(&workload->xds));
    xds_stream_sent(&workload->xds, nonce);
    assert_int_equal(
        xds_stream_on_request(&workload->xds, workload->xds.acked_version, nonce, true), XDS_NACK);
    registry_report(workload, XDS_NACK, NULL, &error);
}

static void test_totals_follow_what_sidecars_say(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");
    struct workload *gateway = join(fixture, ID("gateway"), "g", "10.0.0.2:15443");

    check_totals(fixture, 2, 0, 0);
    registry_refresh(fixture->registry);
    accept_all(portal);
    check_totals(fixture, 2, 1, 0);
    accept_all(gateway);
    check_totals(fixture, 2, 2, 0);
    (void)change_port(fixture, 15999); /* concerns the portal alone */
    registry_refresh(fixture->registry);
    check_totals(fixture, 2, 1, 0);
    refuse(portal);
    check_totals(fixture, 2, 1, 1);
    (void)change_port(fixture, 15998);
    registry_refresh(fixture->registry);
    check_totals(fixture, 2, 1, 0);
    accept_all(portal);
    check_totals(fixture, 2, 2, 0);
    /* Lost, and back as the same process: it counts once, and has to say again what it has. */
    registry_leave(gateway);
    check_totals(fixture, 2, 2, 0);
    gateway = join(fixture, ID("gateway"), "g", "10.0.0.2:15443");
    check_totals(fixture, 2, 1, 0);
    registry_leave(gateway);
    registry_leave(portal);
    fixture_pass(fixture, 4);
    registry_tick(fixture->registry);
    check_totals(fixture, 0, 0, 0);
}

/* ------------------------------------------------------------------- endpoints */

static void test_two_sidecars_of_one_identity_are_both_endpoints(void **state)
{
    struct fixture *fixture = *state;
    struct workload *gateway = join(fixture, ID("gateway"), "g", "10.0.0.1:15443");
    struct workload *one = join(fixture, ID("analytics"), "1", "10.0.0.2:15443");
    struct workload *two = join(fixture, ID("analytics"), "2", "10.0.0.3:15443");

    registry_refresh(fixture->registry);
    assert_int_equal(num_endpoints(gateway), 2);
    assert_int_equal(registry_totals(fixture->registry).connected, 3);
    /* One goes for good: the other takes all. */
    registry_leave(two);
    fixture_pass(fixture, 4);
    registry_tick(fixture->registry);
    registry_refresh(fixture->registry);
    assert_int_equal(registry_totals(fixture->registry).connected, 2);
    assert_int_equal(num_endpoints(gateway), 2); /* it may only be reconnecting */
    fixture_pass(fixture, 6);
    registry_tick(fixture->registry);
    registry_refresh(fixture->registry);
    assert_int_equal(num_endpoints(gateway), 1);
    registry_leave(gateway);
    registry_leave(one);
}

static void test_the_last_known_endpoint_stays_for_ever(void **state)
{
    struct fixture *fixture = *state;
    struct workload *gateway = join(fixture, ID("gateway"), "g", "10.0.0.1:15443");
    struct workload *analytics = join(fixture, ID("analytics"), "a", "10.0.0.2:15443");

    registry_refresh(fixture->registry);
    registry_leave(analytics);
    for (int i = 0; i < 10; i++) {
        fixture_pass(fixture, 3600);
        registry_tick(fixture->registry);
        registry_refresh(fixture->registry);
    }
    assert_int_equal(num_endpoints(gateway), 1);
    registry_leave(gateway);
}

static void test_a_restart_takes_no_endpoint_away(void **state)
{
    struct fixture *fixture = *state;
    struct workload *gateway = join(fixture, ID("gateway"), "g", "10.0.0.1:15443");
    struct workload *analytics = join(fixture, ID("analytics"), "a", "10.0.0.2:15443");

    registry_refresh(fixture->registry);
    registry_leave(gateway);
    registry_leave(analytics);
    fixture_stop(fixture);
    fixture_start(fixture);
    /* The gateway is the first to come back. */
    gateway = join(fixture, ID("gateway"), "g", "10.0.0.1:15443");
    assert_int_equal(num_endpoints(gateway), 1);
    registry_leave(gateway);
}

static void test_an_unwritable_store_stops_no_push(void **state)
{
    struct fixture *fixture = *state;
    struct workload *gateway = join(fixture, ID("gateway"), "g", "10.0.0.1:15443");
    struct workload *analytics;
    Mortise__V1__Mesh *mesh = mesh_default();
    uint64_t version;

    registry_refresh(fixture->registry);
    store_mem_set_unwritable(fixture->store, true);
    assert_code(registry_apply(fixture->registry, mesh, &fixture_about, &version),
                STORE_UNWRITABLE);
    analytics = join(fixture, ID("analytics"), "a", "10.0.0.2:15443");
    registry_refresh(fixture->registry);
    assert_int_equal(num_endpoints(gateway), 1);
    /* Once it can be written again it is. */
    store_mem_set_unwritable(fixture->store, false);
    registry_tick(fixture->registry);
    registry_refresh(fixture->registry);
    registry_leave(gateway);
    registry_leave(analytics);
    fixture_stop(fixture);
    fixture_start(fixture);
    gateway = join(fixture, ID("gateway"), "g", "10.0.0.1:15443");
    assert_int_equal(num_endpoints(gateway), 1);
    registry_leave(gateway);
    pb_free(&mesh->base);
}

/* -------------------------------------------------------------------- versions */

static void test_versions_never_repeat_whatever_ends_the_process(void **state)
{
    struct fixture *fixture = *state;
    uint64_t last = registry_version(fixture->registry);

    for (int round = 0; round < 30; round++) {
        struct registry_params params = {.vault = fixture->vault,
                                         .clock = &fixture->clock.clock,
                                         .trust_domain = FIXTURE_TRUST_DOMAIN,
                                         .roots_pem = ca_roots_pem(fixture->ca)};
        struct faults faults = {0};
        struct registry *next = NULL;

        for (int i = 0; i < round * 5; i++) {
            uint64_t version = change_port(fixture, (uint32_t)(100 + round * 100 + i));

            assert_true(version > last);
            last = version;
        }
        if (round % 2 == 0) {
            fixture_stop(fixture); /* in order: no number is skipped */
            fixture_start(fixture);
            assert_int_equal(registry_version(fixture->registry), last + 1);
        } else {
            /* Killed: a second one opens what the first has left behind. */
            assert_ok(registry_open(&params, &faults, &next));
            assert_true(registry_version(next) > last);
            last = registry_version(next);
            registry_close(next);
            store_mem_set_unwritable(fixture->store, true); /* the first one's end is not noted */
            fixture_stop(fixture);
            store_mem_set_unwritable(fixture->store, false);
            fixture_start(fixture);
            assert_true(registry_version(fixture->registry) > last);
        }
        last = registry_version(fixture->registry);
    }
}

/* With a store that cannot be written pushes go on, as long as there are numbers that are ours for
 * sure; then they wait: one that came again would tell two contents by one number. */
static void test_a_version_that_cannot_be_noted_is_not_given_out(void **state)
{
    struct fixture *fixture = *state;
    struct workload *gateway = join(fixture, ID("gateway"), "g", "10.0.0.1:15443");
    struct workload *others[192]; /* more than are ever noted in advance */
    uint64_t first, last;

    registry_refresh(fixture->registry);
    first = gateway->content->version;
    store_mem_set_unwritable(fixture->store, true);
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        char text[32];

        (void)snprintf(text, sizeof(text), "10.1.%zu.%zu:15443", i / 200, i % 200);
        others[i] = join(fixture, ID("analytics"), text, text);
        registry_refresh(fixture->registry);
        registry_tick(fixture->registry);
        registry_refresh(fixture->registry);
    }
    last = gateway->content->version;
    assert_true(last >= first + 64 && last < first + ARRAY_LEN(others));
    assert_true(num_endpoints(gateway) < ARRAY_LEN(others));

    /* When it can be written again they all are told. */
    store_mem_set_unwritable(fixture->store, false);
    registry_tick(fixture->registry);
    registry_refresh(fixture->registry);
    assert_int_equal(num_endpoints(gateway), ARRAY_LEN(others));
    assert_true(gateway->content->version > last);
    last = gateway->content->version;
    registry_leave(gateway);
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        registry_leave(others[i]);

    store_mem_set_unwritable(fixture->store, true); /* killed */
    fixture_stop(fixture);
    store_mem_set_unwritable(fixture->store, false);
    fixture_start(fixture);
    assert_true(registry_version(fixture->registry) > last);
}

/* A disk that gives back something else than what was written, from then on. */
static void spoil(void *arg, const struct store_change *change, uint64_t revision)
{
    (void)revision;
    store_mem_poke(arg, change->key, bytes_of_str("spoilt"));
}

static void test_what_cannot_be_read_back_is_told_and_not_in_force(void **state)
{
    struct fixture *fixture = *state;
    struct store_watch mesh_watch = {.prefix = VAULT_MESH, .fn = spoil, .arg = fixture->store};
    struct store_watch epochs = {.prefix = VAULT_EPOCHS, .fn = spoil, .arg = fixture->store};
    static const char *const portal[] = {"portal"};
    Mortise__V1__Mesh *mesh = mesh_default();
    uint64_t version, epoch;

    fixture_stop(fixture);
    store_watch(fixture->store, &mesh_watch); /* before the registry's */
    store_watch(fixture->store, &epochs);
    fixture_start(fixture);
    mesh->links[0]->server_port = 9999;
    assert_code(registry_apply(fixture->registry, mesh, &fixture_about, &version), STORE_CORRUPT);
    assert_int_not_equal(registry_mesh(fixture->registry)->links[0]->server_port, 9999);
    assert_code(registry_rotate(fixture->registry, portal, 1, 0, &epoch), STORE_CORRUPT);
    assert_int_equal(registry_epoch(fixture->registry, "portal"), 0);
    store_unwatch(&mesh_watch);
    store_unwatch(&epochs);
    pb_free(&mesh->base);
}

static void test_a_lost_race_is_a_conflict(void **state)
{
    struct fixture *fixture = *state;
    struct registry_params params = {.vault = fixture->vault,
                                     .clock = &fixture->clock.clock,
                                     .trust_domain = FIXTURE_TRUST_DOMAIN,
                                     .roots_pem = ca_roots_pem(fixture->ca)};
    struct vault *blind = vault_new(store_mem_new(), &fixture->key);
    struct store_item *item;
    struct store_items items;
    struct faults faults = {0};
    struct registry *other = NULL;
    Mortise__V1__Mesh *mesh = mesh_default();
    uint64_t version;

    /* Another process on a copy of the store, which has moved on. */
    assert_ok(store_list(fixture->store, "", &items));
    for (item = items.items; item < items.items + items.num; item++)
        assert_ok(store_put_if(vault_store(blind), item->key, bytes_of(item->value, item->len),
                               STORE_ABSENT, NULL));
    params.vault = blind;
    assert_ok(registry_open(&params, &faults, &other));
    assert_ok(store_delete_if(vault_store(blind), "rotation/epochs", STORE_ANY));
    assert_code(registry_rotate(other, (const char *const[]){"portal"}, 1, 0, &version),
                STORE_CONFLICT);
    registry_close(other);
    vault_free(blind);
    store_items_fini(&items);
    pb_free(&mesh->base);
}

/* ------------------------------------------------------------------ membership */

/* A mesh that an older program took in, which would be refused today: it stays in force, and the
 * next change mends it. */
static void test_a_mesh_that_would_be_refused_today_stays_in_force(void **state)
{
    struct fixture *fixture = *state;
    Mortise__V1__Mesh *mesh = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor,
                                     pb_clone(&registry_mesh(fixture->registry)->base));
    struct faults faults = {0};
    uint64_t version = 0;

    for (size_t i = 0; i < mesh->n_profiles; i++) {
        if (strcmp(mesh->profiles[i]->name, mesh_client_profile(mesh->links[0])) == 0)
            mesh->profiles[i]->max_version = MORTISE__V1__TLS_VERSION__TLS1_2;
    }
    mesh->profiles[1]->min_version = MORTISE__V1__TLS_VERSION__TLS1_3;
    assert_code(mesh_check(mesh, NULL, &faults), CONFIG_INVALID);
    apply(fixture, mesh, &version); /* which does not judge */
    assert_int_equal(registry_mesh_version(fixture->registry), version);
    fixture_stop(fixture);
    fixture_start(fixture);
    assert_int_equal(registry_mesh(fixture->registry)->profiles[1]->min_version,
                     MORTISE__V1__TLS_VERSION__TLS1_3);
    mesh->profiles[1]->min_version = MORTISE__V1__TLS_VERSION__TLS1_2;
    apply(fixture, mesh, &version);
    faults_fini(&faults);
    pb_free(&mesh->base);
}

static void test_a_subsystem_that_leaves_takes_its_sidecars_with_it(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");
    Mortise__V1__Mesh *mesh = fixture_mesh("subsystems: [{name: management}, {name: gateway}]");
    struct buf raw = {0};
    uint64_t version;

    registry_refresh(fixture->registry);
    assert_ok(store_get(fixture->store, "endpoints/portal", &raw, NULL));
    apply(fixture, mesh, &version);
    assert_null(portal->content);
    assert_null(registry_subsystem_of(fixture->registry, ID("portal")));
    registry_refresh(fixture->registry);
    buf_clear(&raw);
    assert_code(store_get(fixture->store, "endpoints/portal", &raw, NULL), NOT_FOUND);
    registry_leave(portal);
    assert_int_equal(registry_totals(fixture->registry).connected, 0);
    pb_free(&mesh->base);
    buf_fini(&raw);
}

static void test_a_changed_identity_is_another_subsystem(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");
    Mortise__V1__Mesh *mesh = fixture_mesh("subsystems: [{name: portal, namespace: other}]");
    uint64_t version;

    apply(fixture, mesh, &version);
    assert_null(portal->content);
    assert_null(registry_subsystem_of(fixture->registry, ID("portal")));
    assert_string_equal(
        registry_subsystem_of(fixture->registry, "spiffe://mesh.test/ns/other/sa/portal"),
        "portal");
    registry_leave(portal);
    pb_free(&mesh->base);
}

static void test_a_sidecar_that_comes_back_was_never_away(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");

    registry_leave(portal);
    assert_int_equal(registry_totals(fixture->registry).connected, 1);
    fixture_pass(fixture, 2);
    registry_tick(fixture->registry);
    portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");
    assert_int_equal(registry_totals(fixture->registry).connected, 1);
    registry_leave(portal);
    fixture_pass(fixture, 4);
    registry_tick(fixture->registry);
    assert_int_equal(registry_totals(fixture->registry).connected, 0);
}

/* -------------------------------------------------------------------- rotation */

static void report_epoch(struct workload *workload, uint64_t epoch, const char *error)
{
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;

    status.certificate_epoch = epoch;
    status.renewal_error = msg_lend(error);
    registry_report(workload, XDS_STATUS, &status, NULL);
}

static void test_a_rotation_reaches_whom_it_names_and_survives_a_restart(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");
    struct workload *gateway = join(fixture, ID("gateway"), "g", "10.0.0.2:15443");
    uint64_t first, second;

    registry_refresh(fixture->registry);
    accept_all(portal);
    accept_all(gateway);
    assert_ok(registry_rotate(fixture->registry, (const char *const[]){"portal"}, 1, 500, &first));
    registry_refresh(fixture->registry);
    assert_true(xds_stream_due(&portal->xds));
    assert_int_equal(portal->content->epoch, first);
    assert_int_equal(portal->content->spread_ms, 500);
    assert_false(xds_stream_due(&gateway->xds));
    assert_ok(registry_rotate(fixture->registry, (const char *const[]){"portal", "gateway"}, 2, 0,
                              &second));
    assert_true(second > first);
    registry_leave(portal);
    registry_leave(gateway);
    fixture_stop(fixture);
    fixture_start(fixture);
    assert_int_equal(registry_epoch(fixture->registry, "portal"), second);
    assert_int_equal(registry_epoch(fixture->registry, "gateway"), second);
    assert_int_equal(registry_epoch(fixture->registry, "analytics"), 0);
}

static void test_a_rotation_is_done_when_everybody_has_said_so(void **state)
{
    struct fixture *fixture = *state;
    struct workload *one = join(fixture, ID("portal"), "one-instance", "10.0.0.1:15443");
    struct workload *two = join(fixture, ID("portal"), "two-instance", "10.0.0.2:15443");
    struct workload *other = join(fixture, ID("gateway"), "g", "10.0.0.3:15443");
    const char *const names[] = {"portal"};
    struct rotate rotate;
    struct buf text = {0};
    char *missing;

    rotate_begin(&rotate, 5, registry_workloads(fixture->registry), names, 1);
    assert_int_equal(rotate.num, 2);
    assert_false(rotate_see(&rotate, one)); /* nothing reported */
    report_epoch(one, 4, "rate_limited");
    assert_false(rotate_see(&rotate, one)); /* an older epoch */
    report_epoch(other, 9, "");
    assert_false(rotate_see(&rotate, other)); /* not asked */
    rotate_lost(&rotate, two);
    assert_ok(rotate_missing(&rotate, &text));
    missing = buf_take_str(&text);
    assert_string_equal(missing,
                        "portal (one-inst): rate_limited; portal (two-inst): disconnected");
    mem_free(missing);

    report_epoch(one, 5, "");
    assert_true(rotate_see(&rotate, one));
    assert_false(rotate_see(&rotate, one)); /* counts once */
    assert_false(rotate_is_done(&rotate));
    /* The other comes back by a new stream, with a later epoch. */
    registry_leave(two);
    two = join(fixture, ID("portal"), "two-instance", "10.0.0.2:15443");
    report_epoch(two, 6, "");
    assert_true(rotate_see(&rotate, two));
    assert_true(rotate_is_done(&rotate));
    assert_ok(rotate_missing(&rotate, &text));
    assert_int_equal(buf_size(&text), 0);
    rotate_fini(&rotate);
    buf_fini(&text);
    registry_leave(one);
    registry_leave(two);
    registry_leave(other);
}

static void test_a_rotation_of_nobody_is_done(void **state)
{
    struct fixture *fixture = *state;
    const char *const names[] = {"portal"};
    struct rotate rotate;

    rotate_begin(&rotate, 1, registry_workloads(fixture->registry), names, 1);
    assert_true(rotate_is_done(&rotate));
    rotate_fini(&rotate);
}

/* -------------------------------------------------------------------- observers */

struct watcher {
    struct registry_observer observer;
    struct registry *registry;
    struct watcher *kill; /* takes this one out when it hears something */
    unsigned num;
};

static void watcher_on_event(void *arg, enum registry_event event, struct workload *workload)
{
    struct watcher *watcher = arg;

    (void)event;
    (void)workload;
    watcher->num++;
    if (watcher->kill != NULL)
        registry_unobserve(watcher->registry, &watcher->kill->observer);
    watcher->kill = NULL;
}

static void test_observers_may_take_each_other_out(void **state)
{
    struct fixture *fixture = *state;
    struct watcher watchers[3];
    struct workload *portal;

    for (size_t i = 0; i < ARRAY_LEN(watchers); i++) {
        watchers[i] = (struct watcher){
            .observer = {.fn = watcher_on_event, .arg = &watchers[i]},
            .registry = fixture->registry,
        };
        registry_observe(fixture->registry, &watchers[i].observer);
    }
    watchers[0].kill = &watchers[1]; /* the next one */
    watchers[2].kill = &watchers[2]; /* itself */
    portal = join(fixture, ID("portal"), "p", "10.0.0.1:15443");
    assert_true(watchers[0].num > 0);
    assert_int_equal(watchers[1].num, 0);
    assert_int_equal(watchers[2].num, 1);
    registry_unobserve(fixture->registry, &watchers[0].observer);
    registry_leave(portal);
}

/* ------------------------------------------------------------------- revocation */

static err_t revoke(struct fixture *fixture, const char *id, const char *serial, int64_t until_s,
                    uint64_t *out_id)
{
    Mortise__V1__Revocation revocation = MORTISE__V1__REVOCATION__INIT;

    if (id != NULL)
        revocation.spiffe_id = (char *)(uintptr_t)id;
    if (serial != NULL)
        revocation.serial = (char *)(uintptr_t)serial;
    return registry_revoke(fixture->registry,
                           &(struct revocations_new){.revocation = &revocation,
                                                     .reason = "test",
                                                     .by = "uid:0",
                                                     .now_s = 1,
                                                     .until_s = until_s},
                           out_id);
}

static bool is_revoked(struct fixture *fixture, const char *id)
{
    static const uint8_t key[32] = {1};

    return err_is(registry_may_issue(fixture->registry, id, key), E_PEER_REVOKED);
}

/* Everybody is told, in a version of its own, and it is undone as completely. */
static void test_a_revocation_reaches_every_sidecar(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "1", "10.0.0.1:15443");
    struct workload *management = join(fixture, ID("management"), "2", "10.0.0.2:15443");
    uint64_t id = 0, before;

    registry_refresh(fixture->registry);
    accept_all(portal);
    accept_all(management);
    before = management->content->version;
    assert_ok(revoke(fixture, ID("portal"), NULL, 0, &id));
    assert_true(is_revoked(fixture, ID("portal")));
    assert_false(is_revoked(fixture, ID("management")));
    registry_refresh(fixture->registry);
    assert_true(management->content->version > before);
    assert_int_equal(management->content->config->n_revocations, 1);
    assert_string_equal(management->content->config->revocations[0]->spiffe_id, ID("portal"));
    assert_false(xds_stream_in_sync(&management->xds));
    accept_all(management);
    assert_true(xds_stream_in_sync(&management->xds));

    before = management->content->version;
    assert_ok(registry_lift(fixture->registry, id));
    assert_false(is_revoked(fixture, ID("portal")));
    registry_refresh(fixture->registry);
    assert_int_equal(management->content->config->n_revocations, 0);
    assert_true(management->content->version > before);
    assert_code(registry_lift(fixture->registry, id), NOT_FOUND);
    accept_all(portal);
    accept_all(management);
    registry_leave(portal);
    registry_leave(management);
}

/* The same again changes nothing; with another grace it takes the place of the first. */
static void test_who_is_revoked_twice_is_revoked_once(void **state)
{
    struct fixture *fixture = *state;
    uint64_t first = 0, again = 0;

    assert_ok(revoke(fixture, ID("portal"), NULL, 0, &first));
    assert_code(revoke(fixture, ID("portal"), NULL, 0, &again), EXISTS);
    assert_int_equal(again, first);
    assert_int_equal(registry_revocations(fixture->registry)->record->n_entries, 1);
    assert_ok(registry_lift(fixture->registry, first));
}

static void test_a_revocation_ends_with_what_it_denies(void **state)
{
    struct fixture *fixture = *state;
    const int64_t now_s = clock_wall_s(&fixture->clock.clock);
    uint64_t id = 0;

    assert_ok(revoke(fixture, NULL, "0a", now_s + 10, &id));
    assert_ok(revoke(fixture, ID("portal"), NULL, 0, &id));
    registry_tick(fixture->registry);
    assert_int_equal(registry_revocations(fixture->registry)->record->n_entries, 2);
    fixture_pass(fixture, 11); /* for a sidecar whose clock lags it is still valid */
    registry_tick(fixture->registry);
    assert_int_equal(registry_revocations(fixture->registry)->record->n_entries, 2);
    fixture_pass(fixture, REVOCATIONS_SKEW_S);
    registry_tick(fixture->registry);
    assert_int_equal(registry_revocations(fixture->registry)->record->n_entries, 1);
    assert_true(is_revoked(fixture, ID("portal")));
    assert_ok(registry_lift(fixture->registry, id));
}

/* There is an end to what every sidecar is sent; nothing of what is over it is half stored. */
static void test_there_are_not_too_many_revocations(void **state)
{
    struct fixture *fixture = *state;
    char serial[8];
    uint64_t id = 0;

    for (unsigned i = 0; i < REVOCATIONS_MAX; i++) {
        (void)snprintf(serial, sizeof(serial), "%04x", 0x1000 + i);
        assert_ok(revoke(fixture, NULL, serial, 0, &id));
    }
    assert_code(revoke(fixture, NULL, "ffff", 0, &id), LIMIT);
    assert_int_equal(registry_revocations(fixture->registry)->record->n_entries, REVOCATIONS_MAX);
}

/* Several at once are one change, or none. */
static void test_revocations_come_together_or_not_at_all(void **state)
{
    struct fixture *fixture = *state;
    const struct revocations *denied = registry_revocations(fixture->registry);
    Mortise__V1__Revocation revocations[REVOCATIONS_MAX];
    struct revocations_new adds[REVOCATIONS_MAX];
    char serials[REVOCATIONS_MAX][8];
    uint64_t id = 0, first = 0;

    for (unsigned i = 0; i < REVOCATIONS_MAX; i++) {
        (void)snprintf(serials[i], sizeof(serials[i]), "%04x", 0x1000 + i);
        mortise__v1__revocation__init(&revocations[i]);
        revocations[i].serial = serials[i];
        adds[i] = (struct revocations_new){
            .revocation = &revocations[i], .reason = "test", .by = "uid:0", .now_s = 1};
    }
    assert_ok(revoke(fixture, ID("portal"), NULL, 0, &id));
    assert_code(registry_revoke_all(fixture->registry, adds, REVOCATIONS_MAX, &first), LIMIT);
    assert_int_equal(denied->record->n_entries, 1);
    assert_ok(registry_revoke_all(fixture->registry, adds, REVOCATIONS_MAX - 1, &first));
    assert_int_equal(first, id + 1);
    assert_int_equal(denied->record->n_entries, REVOCATIONS_MAX);
    assert_int_equal(denied->record->entries[REVOCATIONS_MAX - 1]->id, first + REVOCATIONS_MAX - 2);
    assert_string_equal(denied->record->entries[1]->revocation->serial, "1000");
    assert_true(is_revoked(fixture, ID("portal")));
    assert_code(registry_revoke_all(fixture->registry, adds, 1, &first), LIMIT);
}

/* What a sidecar says of epochs that were given out does not bring them to their end. */
static void test_epochs_are_reserved_within_reason(void **state)
{
    struct fixture *fixture = *state;
    const char *portal[] = {"portal"};
    uint64_t epoch = 0, before;

    assert_ok(registry_reserve_epochs(fixture->registry, 5000));
    assert_ok(registry_rotate(fixture->registry, portal, 1, 0, &before));
    assert_int_equal(before, 5001);
    assert_ok(registry_reserve_epochs(fixture->registry, UINT64_MAX));
    assert_ok(registry_rotate(fixture->registry, portal, 1, 0, &epoch));
    assert_in_range(epoch, before + 1000, before + 2000000); /* a million rotations are enough */
}

/* None says so much of itself that a list of all cannot be sent. */
/* Of files on sidecars' disks that of the first to expire counts; a name that is none of ours does
 * not. */
static void test_files_of_sidecars_expire_as_they_say(void **state)
{
    struct fixture *fixture = *state;
    struct workload *workloads[] = {
        join(fixture, ID("portal"), "1", "10.0.0.1:15443"),
        join(fixture, ID("portal"), "2", "10.0.0.2:15443"),
    };
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;
    Mortise__V1__KeystoreStatus said = MORTISE__V1__KEYSTORE_STATUS__INIT, *list[200];
    Mortise__V1__MeshKeystore keystore = MORTISE__V1__MESH_KEYSTORE__INIT;
    char site[] = "site", bad[] = "\x1b[2J";

    for (size_t i = 0; i < 200; i++)
        list[i] = &said;
    keystore.name = keystore.folder = said.name = site;
    said.refused = said.subject = said.dns_name = said.sha256 = bad;
    status.keystores = list;
    status.n_keystores = 200;
    assert_int_equal(registry_keystore_expires(fixture->registry, &keystore), 0);
    for (size_t i = 0; i < ARRAY_LEN(workloads); i++) {
        said.not_after = 2000 - (int64_t)i;
        registry_report(workloads[i], XDS_STATUS, &status, NULL);
    }
    assert_int_equal(registry_keystore_expires(fixture->registry, &keystore), 1999);
    assert_int_equal(workloads[0]->status->n_keystores, MESH_KEYSTORES_MAX);
    assert_string_equal(workloads[0]->status->keystores[0]->refused, "?[2J");
    assert_string_equal(workloads[0]->status->keystores[0]->subject, "?[2J");
    keystore.name = bad;
    assert_int_equal(registry_keystore_expires(fixture->registry, &keystore), 0);
    for (size_t i = 0; i < ARRAY_LEN(workloads); i++)
        registry_leave(workloads[i]);
}

static void test_what_sidecars_say_is_cut(void **state)
{
    struct fixture *fixture = *state;
    struct workload *portal = join(fixture, ID("portal"), "1", "10.0.0.1:15443");
    Mortise__V1__SidecarStatus status = MORTISE__V1__SIDECAR_STATUS__INIT;
    Mortise__V1__ErrorDetail error = MORTISE__V1__ERROR_DETAIL__INIT;
    Mortise__V1__ReasonCount reason = MORTISE__V1__REASON_COUNT__INIT, *reasons[100];
    Mortise__V1__FieldFault fault = MORTISE__V1__FIELD_FAULT__INIT, *faults[100];
    char text[4001], nonce[XDS_NONCE_MAX];

    for (size_t i = 0; i < sizeof(text) - 1; i += 2)
        memcpy(text + i, "\xc3\xa9", 2); /* one character */
    text[sizeof(text) - 1] = '\0';
    text[0] = 'a';
    text[1] = 'b';
    text[2] = 'c'; /* half of a character is where it is cut */
    memmove(text + 3, text + 4, sizeof(text) - 4);
    reason.reason = fault.path = fault.message = text;
    for (size_t i = 0; i < 100; i++) {
        reasons[i] = &reason;
        faults[i] = &fault;
    }
    status.renewal_error = status.certificate_serial = error.code = text;
    status.ended = reasons;
    error.faults = faults;
    status.n_ended = error.n_faults = 100;
    xds_stream_sent(&portal->xds, nonce);
    assert_int_equal(xds_stream_on_request(&portal->xds, 0, nonce, true), XDS_NACK);
    registry_report(portal, XDS_NACK, &status, &error);
    assert_int_equal(strlen(portal->status->renewal_error), REGISTRY_SAID_MAX - 1);
    assert_int_equal(portal->status->n_ended, REGISTRY_REASONS_MAX);
    assert_int_equal(portal->refused->n_faults, REGISTRY_FAULTS_MAX);
    assert_true(protobuf_c_message_get_packed_size(&portal->status->base) < 8192);
    assert_true(protobuf_c_message_get_packed_size(&portal->refused->base) < 16384);
    status.renewal_error = text + sizeof(text) - 4;
    registry_report(portal, XDS_STATUS, &status, NULL);
    assert_string_equal(portal->status->renewal_error, text + sizeof(text) - 4);
    (void)snprintf(text, sizeof(text), "%s", "\x1b[2J\nno\x7f\xc2\x9bm, caf\xc3\xa9");
    status.renewal_error = text;
    registry_report(portal, XDS_STATUS, &status, NULL);
    assert_string_equal(portal->status->renewal_error, "?[2J?no???m, caf\xc3\xa9");
    registry_leave(portal);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_sidecar_gets_its_content_at_once_and_peers_when_they_come),
        TEST(test_only_those_concerned_get_a_new_version),
        TEST(test_changes_that_come_together_are_one_push),
        TEST(test_a_version_stands_for_one_content),
        TEST(test_strangers_and_crowds_are_refused),
        TEST(test_totals_follow_what_sidecars_say),
        TEST(test_two_sidecars_of_one_identity_are_both_endpoints),
        TEST(test_the_last_known_endpoint_stays_for_ever),
        TEST(test_a_restart_takes_no_endpoint_away),
        TEST(test_an_unwritable_store_stops_no_push),
        TEST(test_versions_never_repeat_whatever_ends_the_process),
        TEST(test_a_version_that_cannot_be_noted_is_not_given_out),
        TEST(test_what_cannot_be_read_back_is_told_and_not_in_force),
        TEST(test_a_lost_race_is_a_conflict),
        TEST(test_a_mesh_that_would_be_refused_today_stays_in_force),
        TEST(test_a_subsystem_that_leaves_takes_its_sidecars_with_it),
        TEST(test_a_changed_identity_is_another_subsystem),
        TEST(test_a_sidecar_that_comes_back_was_never_away),
        TEST(test_a_rotation_reaches_whom_it_names_and_survives_a_restart),
        TEST(test_a_rotation_is_done_when_everybody_has_said_so),
        TEST(test_a_rotation_of_nobody_is_done),
        TEST(test_a_revocation_reaches_every_sidecar),
        TEST(test_who_is_revoked_twice_is_revoked_once),
        TEST(test_a_revocation_ends_with_what_it_denies),
        TEST(test_there_are_not_too_many_revocations),
        TEST(test_revocations_come_together_or_not_at_all),
        TEST(test_epochs_are_reserved_within_reason),
        TEST(test_files_of_sidecars_expire_as_they_say),
        TEST(test_what_sidecars_say_is_cut),
        TEST(test_observers_may_take_each_other_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
