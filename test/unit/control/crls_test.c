/* The lists that our CAs publish: what is in them comes from the deny set, their numbers only go
 * up, and nothing that a process has given out is forgotten by the next. Without it: others are
 * told that a certificate is good which we deny, or take an old list for a new one.
 *
 * Drives: R7, R42 */
#include "control/crls.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "certs/crl_set.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "control/mesh_crls.h"
#include "control/msg.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define ID "spiffe://mesh.test/ns/default/sa/portal"
#define OTHER_ID "spiffe://mesh.test/ns/default/sa/gateway"

struct test {
    struct fixture *fixture;
    struct crls *crls;
};

static void open_crls(struct test *test)
{
    const struct crls_params params = {
        .vault = test->fixture->vault,
        .ca = test->fixture->ca,
        .registry = test->fixture->registry,
        .clock = &test->fixture->clock.clock,
    };

    assert_ok(crls_open(&params, &test->crls));
}

static int setup(void **state)
{
    struct test *test = mem_zalloc(sizeof(*test));

    test->fixture = fixture_new();
    fixture_start(test->fixture);
    open_crls(test);
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    struct test *test = *state;

    crls_free(test->crls);
    fixture_free(test->fixture);
    mem_free(test);
    return 0;
}

/* ---- what there is ---- */

struct seen {
    const Mortise__Control__CrlRecord *issuing, *root;
    unsigned num;
};

static void see(void *arg, const Mortise__Control__CrlRecord *record)
{
    struct seen *seen = arg;

    if (strstr(record->issuer, "Mortise Issuing ") != NULL)
        seen->issuing = record;
    else if (strstr(record->issuer, "Mortise Root ") != NULL)
        seen->root = record;
    seen->num++;
}

static struct seen look(const struct test *test)
{
    struct seen seen = {.num = 0};

    crls_each(test->crls, see, &seen);
    assert_non_null(seen.issuing);
    assert_non_null(seen.root);
    return seen;
}

static bool names(const Mortise__Control__CrlRecord *record, const char *serial)
{
    uint8_t padded[CERT_SERIAL_MAX] = {0};
    size_t len = strlen(serial) / 2;
    struct crl *crl = NULL;
    bool found;

    for (size_t i = 0; i < len; i++) {
        unsigned byte;

        assert_int_equal(sscanf(serial + 2 * i, "%2x", &byte), 1);
        padded[CERT_SERIAL_MAX - len + i] = (uint8_t)byte;
    }
    assert_ok(crl_parse(msg_view(record->der), &crl));
    assert_int_equal(crl->num, record->entries);
    assert_int_equal(crl->next_update, record->next_update);
    found = crl_has(crl, padded);
    crl_unref(crl);
    return found;
}

struct leaf {
    char serial[41];
    char key_sha256[65];
};

static struct leaf issue(struct test *test, const char *id, int64_t ttl_s)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct ca_request request = {
        .spiffe_id = id, .subsystem = "portal", .ttl_s = ttl_s, .reason = "attest"};
    struct ca_cert cert;
    struct leaf leaf;
    uint8_t sha256[32];

    assert_ok(key_generate(&request.public_key));
    assert_ok(key_spki_sha256(request.public_key, sha256));
    bytes_to_hex(bytes_of(sha256, sizeof(sha256)), leaf.key_sha256);
    assert_ok(ca_issue(test->fixture->ca, &request, &batch, &cert));
    memcpy(leaf.serial, cert.leaf.serial, sizeof(leaf.serial));
    ca_cert_fini(&cert);
    EVP_PKEY_free(request.public_key);
    return leaf;
}

enum what { BY_ID, BY_SERIAL, BY_KEY, BY_ISSUER };

static uint64_t revoke(struct test *test, enum what what, const char *value)
{
    Mortise__V1__Revocation revocation = MORTISE__V1__REVOCATION__INIT;
    uint64_t id = 0;

    *(what == BY_ID       ? &revocation.spiffe_id
      : what == BY_SERIAL ? &revocation.serial
      : what == BY_KEY    ? &revocation.key_sha256
                          : &revocation.issuer_key_sha256) = (char *)(uintptr_t)value;
    assert_ok(registry_revoke(test->fixture->registry,
                              &(struct revocations_new){.revocation = &revocation,
                                                        .reason = "test",
                                                        .by = "test",
                                                        .now_s = test->fixture->clock.wall_s},
                              &id));
    crls_tick(test->crls);
    return id;
}

/* ---- lists ---- */

static void test_each_ca_has_an_empty_list_that_it_signed(void **state)
{
    struct test *test = *state;
    struct seen seen = look(test);
    const Mortise__Control__CrlRecord *records[] = {seen.issuing, seen.root};
    struct ca_authority held[CA_AUTHORITIES_MAX];

    assert_int_equal(seen.num, 2);
    assert_int_equal(ca_authorities(test->fixture->ca, held), 2);
    for (size_t i = 0; i < ARRAY_LEN(records); i++) {
        struct crl *crl = NULL;
        size_t signers = 0;

        assert_int_equal(records[i]->entries, 0);
        assert_int_equal(records[i]->next_update, FIXTURE_NOW_S + CRLS_TTL_S);
        assert_ptr_equal(crls_find(test->crls, records[i]->issuer_key_sha256), records[i]);
        assert_ok(crl_parse(msg_view(records[i]->der), &crl));
        for (size_t j = 0; j < 2; j++) {
            CLEANUP(mem_freep) char *hex = mem_zalloc(CRLS_KEY_HEX);
            const uint8_t *sha256 = held[j].it->key_sha256;
            bool mine;

            bytes_to_hex(bytes_of(sha256, 32), hex);
            mine = strcmp(hex, records[i]->issuer_key_sha256) == 0;
            assert_int_equal(crl_is_signed_by(crl, held[j].it->issuer.key, sha256), mine);
            assert_int_equal(crl_set_names(crl, held[j].it->issuer.cert), mine);
            signers += mine;
        }
        assert_int_equal(signers, 1);
        crl_unref(crl);
    }
    assert_null(crls_find(test->crls, "00"));
}

static void test_a_list_names_what_is_denied_and_nothing_else(void **state)
{
    struct test *test = *state;
    struct leaf by_id = issue(test, ID, 3600), also = issue(test, ID, 7200),
                by_serial = issue(test, OTHER_ID, 3600), by_key = issue(test, OTHER_ID, 3600),
                spared = issue(test, OTHER_ID, 3600);
    const Mortise__Control__CrlRecord *list;
    uint64_t id;

    (void)revoke(test, BY_SERIAL, by_serial.serial);
    (void)revoke(test, BY_SERIAL, "0badcafe"); /* of which nothing is known here */
    (void)revoke(test, BY_KEY, by_key.key_sha256);
    id = revoke(test, BY_ID, ID);
    list = look(test).issuing;
    assert_int_equal(list->entries, 5);
    assert_true(names(list, by_id.serial) && names(list, also.serial));
    assert_true(names(list, by_serial.serial) && names(list, by_key.serial));
    assert_true(names(list, "0badcafe"));
    assert_false(names(list, spared.serial));
    assert_int_equal(look(test).root->entries, 0);

    assert_ok(registry_lift(test->fixture->registry, id));
    crls_tick(test->crls);
    list = look(test).issuing;
    assert_int_equal(list->entries, 3);
    assert_false(names(list, by_id.serial));
}

static void test_who_has_expired_leaves_the_list_when_it_is_renewed(void **state)
{
    struct test *test = *state;
    struct leaf brief = issue(test, ID, 3600), longer = issue(test, ID, 86400);
    const Mortise__Control__CrlRecord *list;

    (void)revoke(test, BY_ID, ID);
    assert_int_equal(look(test).issuing->entries, 2);
    fixture_pass(test->fixture, CRLS_TTL_S / 2);
    crls_tick(test->crls);
    list = look(test).issuing;
    assert_false(names(list, brief.serial));
    assert_true(names(list, longer.serial));
}

static void test_a_root_names_the_issuers_that_are_denied(void **state)
{
    struct test *test = *state;
    struct ca_authority held[CA_AUTHORITIES_MAX];
    CLEANUP(mem_freep) char *serial = NULL;
    char key[CRLS_KEY_HEX];
    uint8_t sha256[32];

    assert_int_equal(ca_authorities(test->fixture->ca, held), 2);
    assert_null(held[0].root);
    assert_ptr_equal(held[1].root, held[0].it);
    assert_ok(cert_serial(held[1].it->issuer.cert, &serial));
    memcpy(sha256, (held[1].it)->key_sha256, sizeof(sha256));
    bytes_to_hex(bytes_of(sha256, sizeof(sha256)), key);
    (void)revoke(test, BY_ISSUER, key);
    assert_int_equal(look(test).root->entries, 1);
    assert_true(names(look(test).root, serial));
    assert_int_equal(look(test).issuing->entries, 0);
}

/* ---- numbers ---- */

static void test_numbers_go_up_and_never_back(void **state)
{
    struct test *test = *state;
    uint64_t first = look(test).issuing->number, second;

    crls_tick(test->crls);
    assert_int_equal(look(test).issuing->number, first); /* nothing to say: no new list */
    (void)revoke(test, BY_SERIAL, "01");
    second = look(test).issuing->number;
    assert_true(second > first);

    /* Another process goes on there, and says what was said. */
    crls_free(test->crls);
    open_crls(test);
    assert_int_equal(look(test).issuing->number, second);
    assert_true(names(look(test).issuing, "01"));

    /* At two fifths of its life, and not before. */
    fixture_pass(test->fixture, CRLS_TTL_S * 2 / 5 - 400);
    crls_tick(test->crls);
    assert_int_equal(look(test).issuing->number, second);
    fixture_pass(test->fixture, 400);
    crls_tick(test->crls);
    assert_true(look(test).issuing->number > second);
    assert_int_equal(look(test).issuing->next_update, test->fixture->clock.wall_s + CRLS_TTL_S);
    assert_int_equal(crls_next_update(test->crls), test->fixture->clock.wall_s + CRLS_TTL_S);
    second = look(test).issuing->number;

    /* Nor when the clock goes back. */
    fixture_pass(test->fixture, -3600);
    crls_tick(test->crls);
    (void)revoke(test, BY_SERIAL, "02");
    assert_true(look(test).issuing->number > second);
}

/* A restart must not forget for a moment who is denied by identity. */
static void test_a_restart_says_at_once_who_is_denied(void **state)
{
    struct test *test = *state;
    struct leaf leaf = issue(test, ID, 3600);
    uint64_t number;

    (void)revoke(test, BY_ID, ID);
    number = look(test).issuing->number;
    crls_free(test->crls);
    open_crls(test);
    assert_true(names(look(test).issuing, leaf.serial));
    assert_int_equal(look(test).issuing->number, number);
}

/* Another mesh, which denies nobody. */
static void change_mesh(struct test *test, uint32_t port)
{
    Mortise__V1__Mesh *mesh = MSG_AS(Mortise__V1__Mesh, mortise__v1__mesh__descriptor,
                                     pb_clone(&registry_mesh(test->fixture->registry)->base));
    uint64_t version = 0;

    mesh->links[0]->server_port = port;
    assert_ok(registry_apply(test->fixture->registry, mesh, &fixture_about, &version));
    pb_free(&mesh->base);
}

static void test_many_certificates_are_looked_through_page_by_page(void **state)
{
    struct test *test = *state;

    for (int i = 0; i < CRLS_PAGE + 10; i++)
        (void)issue(test, ID, 3600);
    (void)revoke(test, BY_ID, ID);
    assert_int_equal(look(test).issuing->entries, 0); /* the first page alone says nothing yet */
    change_mesh(test, 7001);                          /* and does not begin again */
    crls_tick(test->crls);
    assert_int_equal(look(test).issuing->entries, CRLS_PAGE + 10);
}

/* ---- keys ---- */

static void on_keys(void *arg)
{
    struct test *test = arg;

    crls_keys_changed(test->crls);
}

static void commit(struct test *test, err_t (*step)(struct ca *ca, struct vault_batch *batch))
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};

    assert_ok(step(test->fixture->ca, &batch));
    assert_ok(vault_commit(test->fixture->vault, &batch, NULL));
    assert_ok(ca_reload(test->fixture->ca));
}

static unsigned count(const struct test *test)
{
    struct seen seen = {.num = 0};

    crls_each(test->crls, see, &seen);
    return seen.num;
}

/* During a rotation there are the lists of both pairs from the moment on that there are both; the
 * last one of a key that is gone is given out until it is stale. */
static void test_lists_follow_the_keys(void **state)
{
    struct test *test = *state;

    ca_on_keys(test->fixture->ca, on_keys, test);
    commit(test, ca_prepare);
    assert_int_equal(count(test), 4);
    commit(test, ca_switch);
    commit(test, ca_retire);
    assert_int_equal(count(test), 4);
    fixture_pass(test->fixture, CRLS_TTL_S - 1);
    crls_tick(test->crls);
    assert_int_equal(count(test), 4);
    fixture_pass(test->fixture, CRLS_TTL_S / 2);
    crls_tick(test->crls);
    assert_int_equal(count(test), 2);
    crls_free(test->crls);
    open_crls(test);
    assert_int_equal(count(test), 2); /* in the store, too */
}

static char *pem_of(const Mortise__Control__CrlRecord *record)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};

    assert_ok(pem_write("X509 CRL", msg_view(record->der), &text));
    return buf_take_str(&text);
}

/* Whether sidecars are given that list, where the mesh has lists. */
static bool is_given(const struct test *test, const char *pem)
{
    Mortise__V1__RevocationList list = MORTISE__V1__REVOCATION_LIST__INIT, *lists[] = {&list};
    struct registry *registry = test->fixture->registry;
    Mortise__V1__Mesh mesh = *registry_mesh(registry);
    Mortise__V1__SidecarConfig *config;
    bool given;

    list.name = msg_lend("root");
    mesh.crls = lists;
    mesh.n_crls = 1;
    config = registry_candidate(registry, "portal", &mesh, registry_policies(registry), NULL);
    given = strstr(config->truststores[0]->crl_pem, pem) != NULL;
    pb_free(&config->base);
    return given;
}

/* Sidecars have certificates of it until they have renewed: without its list each would be refused,
 * all over the mesh, when an issuer makes way. */
static void test_the_list_of_an_issuer_that_made_way_is_given_on(void **state)
{
    struct test *test = *state;
    CLEANUP(mem_freep) char *old = NULL;
    CLEANUP(mem_freep) char *root = NULL;
    bool more = false;

    ca_on_keys(test->fixture->ca, on_keys, test);
    fixture_pass(test->fixture, CA_ISSUER_TTL_S - 3600);
    crls_tick(test->crls);
    old = pem_of(look(test).issuing);
    assert_true(is_given(test, old));
    fixture_pass(test->fixture, 2 * 3600);
    assert_ok(ca_maintain(test->fixture->ca, &more)); /* replaces the issuer */
    assert_int_equal(count(test), 3);
    assert_true(is_given(test, old));
    fixture_pass(test->fixture, CRLS_TTL_S);
    crls_tick(test->crls);
    assert_false(is_given(test, old));
    /* That of a root that was replaced is asked for by nobody. */
    root = pem_of(look(test).root);
    assert_true(is_given(test, root));
    commit(test, ca_prepare);
    commit(test, ca_switch);
    assert_true(is_given(test, root));
    commit(test, ca_retire);
    assert_false(is_given(test, root));
}

/* So many issuers in a day that sidecars would refuse the number of lists. */
static void test_lists_of_before_are_not_given_without_end(void **state)
{
    struct test *test = *state;
    CLEANUP(mem_freep) char *first = pem_of(look(test).issuing);

    ca_on_keys(test->fixture->ca, on_keys, test);
    for (int i = 0; i < 8; i++) {
        commit(test, ca_prepare_issuer);
        commit(test, ca_switch);
        commit(test, ca_retire);
        assert_true(is_given(test, first));
    }
    commit(test, ca_prepare_issuer);
    commit(test, ca_switch);
    commit(test, ca_retire);
    assert_false(is_given(test, first));
}

/* ---- what an operator hands in ---- */

static struct faults judge(struct test *test, const char *pem, const Mortise__V1__Mesh *current,
                           int64_t now_s)
{
    Mortise__V1__RevocationList list = MORTISE__V1__REVOCATION_LIST__INIT, *lists[] = {&list};
    Mortise__V1__Mesh mesh = MORTISE__V1__MESH__INIT;
    struct faults faults = {.num = 0};
    err_t err;

    list.name = msg_lend("root");
    list.pem = (char *)(uintptr_t)pem;
    mesh.crls = lists;
    mesh.n_crls = 1;
    err = mesh_crls_check(&mesh, current, NULL, test->fixture->ca, now_s, &faults);
    assert_int_equal(err_is_ok(err), faults.total == 0);
    return faults;
}

static void test_an_operators_list_is_judged_by_field(void **state)
{
    static const Mortise__V1__Mesh none = MORTISE__V1__MESH__INIT;
    struct test *test = *state;
    int64_t now_s = FIXTURE_NOW_S;
    CLEANUP(mem_freep) char *pem = pem_of(look(test).root);
    CLEANUP(mem_freep) char *broken = mem_strdup(pem);
    CLEANUP(mem_freep) char *huge = mem_zalloc(MESH_CRLS_BYTES_MAX + 2);
    struct test stranger = {.fixture = fixture_new()};
    Mortise__V1__RevocationList known = MORTISE__V1__REVOCATION_LIST__INIT, *lists[] = {&known};
    Mortise__V1__Mesh current = MORTISE__V1__MESH__INIT;
    struct faults faults = judge(test, pem, &none, now_s);

    assert_int_equal(faults.total, 0);
    faults_fini(&faults);
    fixture_start(stranger.fixture);
    faults = judge(&stranger, pem, &none, now_s);
    assert_true(fixture_has(&faults, "crls[0].pem", "unknown issuer"));
    faults_fini(&faults);
    fixture_free(stranger.fixture);

    faults = judge(test, pem, &none, now_s + CRLS_TTL_S);
    assert_true(fixture_has(&faults, "crls[0].pem", "stale"));
    faults_fini(&faults);
    faults = judge(test, pem, &none, now_s - 3600);
    assert_true(fixture_has(&faults, "crls[0].pem", "crl_not_yet_valid"));
    faults_fini(&faults);
    /* What is in force already does not stand in the way of other changes. */
    known.name = msg_lend("root");
    known.pem = pem;
    current.crls = lists;
    current.n_crls = 1;
    faults = judge(test, pem, &current, now_s + CRLS_TTL_S);
    assert_int_equal(faults.total, 0);
    faults_fini(&faults);

    broken[strlen(broken) / 2] = broken[strlen(broken) / 2] == 'A' ? 'B' : 'A';
    faults = judge(test, broken, &none, now_s);
    assert_int_equal(faults.total, 1);
    assert_string_equal(faults.items[0].path, "crls[0].pem");
    faults_fini(&faults);
    faults = judge(test, "", &none, now_s);
    assert_true(fixture_has(&faults, "crls[0].pem", "pem_empty"));
    faults_fini(&faults);
    memset(huge, '\n', MESH_CRLS_BYTES_MAX + 1);
    memcpy(huge, pem, strlen(pem));
    faults = judge(test, huge, &none, now_s);
    assert_true(fixture_has(&faults, "crls", "too many"));
    faults_fini(&faults);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_each_ca_has_an_empty_list_that_it_signed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_list_names_what_is_denied_and_nothing_else, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_who_has_expired_leaves_the_list_when_it_is_renewed,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_root_names_the_issuers_that_are_denied, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_numbers_go_up_and_never_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_restart_says_at_once_who_is_denied, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_certificates_are_looked_through_page_by_page,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_lists_follow_the_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_list_of_an_issuer_that_made_way_is_given_on, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_lists_of_before_are_not_given_without_end, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_an_operators_list_is_judged_by_field, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
