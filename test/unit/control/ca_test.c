/* The CA: what it signs is what it was asked for and what it has on record, and nothing leaves
 * unrecorded. Without it: a certificate exists that nobody knows of, or one that says more than it
 * should. Drives: R35, R37, R38, R39, R40,
 * R41, F5. */
#include "control/ca.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/sha.h>

#include "certs/key.h"
#include "certs/svid.h"
#include "control/msg.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define ID "spiffe://mesh.test/ns/default/sa/portal"

struct ca_state {
    struct fixture *fixture;
    EVP_PKEY *key;
};

static int setup(void **state)
{
    struct ca_state *test = mem_zalloc(sizeof(*test));

    test->fixture = fixture_new();
    fixture_start(test->fixture);
    assert_ok(key_generate(&test->key));
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    struct ca_state *test = *state;

    fixture_free(test->fixture);
    EVP_PKEY_free(test->key);
    mem_free(test);
    return 0;
}

static err_t issue(struct ca_state *test, int64_t ttl_s, struct ca_cert *out)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const struct ca_request request = {
        .spiffe_id = ID,
        .subsystem = "portal",
        .public_key = test->key,
        .ttl_s = ttl_s,
        .reason = "attest",
        .epoch = 7,
    };

    return ca_issue(test->fixture->ca, &request, &batch, out);
}

static void test_a_certificate_is_good_for_its_key_and_on_record(void **state)
{
    struct ca_state *test = *state;
    const Mortise__Control__Issuance *record;
    struct ca_cert cert;
    struct svid *svid = NULL;
    ProtobufCMessage *msg = NULL;
    char path[VAULT_PATH_MAX];
    uint8_t sha256[SHA256_DIGEST_LENGTH];

    assert_ok(issue(test, 86400, &cert));
    assert_ok(svid_of_der(cert.chain, cert.num_chain, test->key, ca_bundle(test->fixture->ca),
                          FIXTURE_NOW_S, &svid));
    assert_string_equal(svid->spiffe_id, ID);
    assert_int_equal(cert.leaf.not_before, FIXTURE_NOW_S - ISSUE_BACKDATE_S);
    assert_int_equal(cert.leaf.not_after, FIXTURE_NOW_S + 86400);

    vault_path(VAULT_CERTS, cert.leaf.serial, path);
    assert_ok(vault_get(test->fixture->vault, path, &msg, NULL));
    record = MSG_AS(Mortise__Control__Issuance, mortise__control__issuance__descriptor, msg);
    assert_string_equal(record->spiffe_id, ID);
    assert_string_equal(record->reason, "attest");
    assert_int_equal(record->epoch, 7);
    assert_int_equal(record->issued_at, FIXTURE_NOW_S);
    SHA256(cert.leaf.der, cert.leaf.der_len, sha256);
    assert_memory_equal(record->sha256.data, sha256, sizeof(sha256));
    pb_free(msg);
    svid_unref(svid);
    ca_cert_fini(&cert);
}

static void test_no_record_no_certificate(void **state)
{
    struct ca_state *test = *state;
    struct ca_cert cert = {.chain = {{NULL, 0}}};

    store_mem_set_unwritable(test->fixture->store, true);
    assert_code(issue(test, 86400, &cert), STORE_UNWRITABLE);
    assert_null(cert.leaf.der);
    store_mem_set_unwritable(test->fixture->store, false);
    assert_ok(issue(test, 86400, &cert));
    ca_cert_fini(&cert);
}

static void test_what_goes_with_it_happens_with_it_or_not_at_all(void **state)
{
    struct ca_state *test = *state;
    Mortise__Control__Token token = MORTISE__CONTROL__TOKEN__INIT;
    struct vault_batch batch = {0};
    struct ca_request request = {.spiffe_id = ID,
                                 .subsystem = "portal",
                                 .public_key = test->key,
                                 .ttl_s = 3600,
                                 .reason = "attest"};
    struct store_items items;
    struct ca_cert cert;

    /* The token's record has changed meanwhile: neither is it used nor is anything issued. */
    assert_ok(vault_batch_put(test->fixture->vault, &batch, "token/x", &token.base, 12345));
    assert_code(ca_issue(test->fixture->ca, &request, &batch, &cert), STORE_CONFLICT);
    assert_ok(store_list(test->fixture->store, VAULT_CERTS, &items));
    assert_int_equal(items.num, 0);
    store_items_fini(&items);
    vault_batch_fini(&batch);
}

static void test_serials_differ(void **state)
{
    struct ca_state *test = *state;
    char seen[50][41];

    for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
        struct ca_cert cert;

        assert_ok(issue(test, 3600, &cert));
        memcpy(seen[i], cert.leaf.serial, sizeof(seen[i]));
        for (size_t j = 0; j < i; j++)
            assert_string_not_equal(seen[i], seen[j]);
        ca_cert_fini(&cert);
    }
}

static void test_a_clock_that_went_back_issues_nothing(void **state)
{
    struct ca_state *test = *state;
    bool more = false;
    struct ca_cert cert;

    assert_ok(issue(test, 3600, &cert));
    ca_cert_fini(&cert);
    test->fixture->clock.wall_s -= 1;
    assert_code(issue(test, 3600, &cert), CLOCK_BACKWARDS);
    assert_code(ca_state(test->fixture->ca), CLOCK_BACKWARDS);
    assert_code(ca_maintain(test->fixture->ca, &more), CLOCK_BACKWARDS);
    /* A restart does not make it forget. */
    fixture_stop(test->fixture);
    fixture_start(test->fixture);
    assert_code(issue(test, 3600, &cert), CLOCK_BACKWARDS);
    test->fixture->clock.wall_s += 1;
    assert_ok(issue(test, 3600, &cert));
    ca_cert_fini(&cert);
}

static void test_an_issuer_that_is_not_valid_now_signs_nothing(void **state)
{
    struct ca_state *test = *state;
    bool more = false;
    struct ca_cert cert;

    fixture_pass(test->fixture, CA_ISSUER_TTL_S + 1);
    assert_code(issue(test, 3600, &cert), CA_CANNOT_SIGN);
    /* Maintenance makes a new one. */
    assert_ok(ca_maintain(test->fixture->ca, &more));
    assert_ok(issue(test, 3600, &cert));
    ca_cert_fini(&cert);
}

static void test_an_issuer_that_has_ended_is_replaced_under_the_same_root(void **state)
{
    struct ca_state *test = *state;
    bool more = false;
    int64_t before = ca_issuer_not_after(test->fixture->ca);
    struct ca_cert old, new;
    struct svid *svid = NULL;

    assert_ok(issue(test, 604800, &old));
    fixture_pass(test->fixture, CA_ISSUER_TTL_S / 3);
    assert_false(ca_issuer_is_old(test->fixture->ca));
    fixture_pass(test->fixture, CA_ISSUER_TTL_S / 3);
    assert_true(ca_issuer_is_old(test->fixture->ca)); /* root_rotation's to do */
    assert_ok(ca_maintain(test->fixture->ca, &more));
    assert_int_equal(ca_issuer_not_after(test->fixture->ca), before);
    fixture_pass(test->fixture, CA_ISSUER_TTL_S / 3 - 3600);
    assert_ok(ca_maintain(test->fixture->ca, &more));
    assert_int_equal(ca_issuer_not_after(test->fixture->ca), before);
    fixture_pass(test->fixture, 2 * 3600);
    assert_ok(ca_maintain(test->fixture->ca, &more));
    assert_true(ca_issuer_not_after(test->fixture->ca) > before);
    assert_false(ca_issuer_is_old(test->fixture->ca));
    assert_ok(issue(test, 3600, &new));
    assert_ok(svid_of_der(new.chain, new.num_chain, test->key, ca_bundle(test->fixture->ca),
                          test->fixture->clock.wall_s, &svid));
    svid_unref(svid);
    ca_cert_fini(&old);
    ca_cert_fini(&new);
    /* It is the stored one, too. */
    before = ca_issuer_not_after(test->fixture->ca);
    fixture_stop(test->fixture);
    fixture_start(test->fixture);
    assert_int_equal(ca_issuer_not_after(test->fixture->ca), before);
}

static void test_a_leaf_ends_with_its_issuer(void **state)
{
    struct ca_state *test = *state;
    struct ca_cert cert;

    fixture_pass(test->fixture, CA_ISSUER_TTL_S - 3600);
    assert_ok(issue(test, 86400, &cert));
    assert_true(cert.leaf.not_after <= ca_issuer_not_after(test->fixture->ca));
    ca_cert_fini(&cert);
}

static void test_lives_out_of_range_are_refused(void **state)
{
    struct ca_state *test = *state;
    struct ca_cert cert;

    assert_false(err_is_ok(issue(test, 0, &cert)));
    assert_false(err_is_ok(issue(test, -5, &cert)));
    assert_false(err_is_ok(issue(test, ISSUE_TTL_MAX_S + 1, &cert)));
}

static void test_old_records_go_but_never_the_last(void **state)
{
    struct ca_state *test = *state;
    bool more = false;
    struct store_items items;
    struct ca_cert cert;

    for (int i = 0; i < 3; i++) {
        assert_ok(issue(test, 3600, &cert));
        ca_cert_fini(&cert);
        fixture_pass(test->fixture, 10);
    }
    fixture_pass(test->fixture, 3600 + CA_KEEP_EXPIRED_S);
    assert_ok(ca_maintain(test->fixture->ca, &more));
    assert_false(more);
    assert_ok(store_list(test->fixture->store, VAULT_CERTS, &items));
    assert_int_equal(items.num, 1);
    store_items_fini(&items);
}

static void test_many_old_records_go_in_turns(void **state)
{
    struct ca_state *test = *state;
    struct store_items items;
    struct ca_cert cert;
    bool more = false;
    size_t left, turns = 0;

    for (int i = 0; i < 2100; i++) {
        assert_ok(issue(test, 3600, &cert));
        ca_cert_fini(&cert);
    }
    fixture_pass(test->fixture, 3600 + CA_KEEP_EXPIRED_S);
    assert_ok(issue(test, 3600, &cert));
    ca_cert_fini(&cert);
    fixture_pass(test->fixture, 1);
    left = 2101;
    do {
        assert_ok(ca_maintain(test->fixture->ca, &more));
        assert_ok(store_list(test->fixture->store, VAULT_CERTS, &items));
        assert_true(items.num < left);
        left = items.num;
        store_items_fini(&items);
        turns++;
    } while (more);
    assert_int_equal(left, 1);
    assert_int_equal(turns, 3);
}

/* The root's key under the issuer's path, or another mesh's issuer, must not go unnoticed. */
static void test_records_that_do_not_belong_together_are_refused(void **state)
{
    struct ca_state *test = *state;
    struct fixture *other = fixture_new();
    struct ca_params params = {.vault = test->fixture->vault,
                               .clock = &test->fixture->clock.clock,
                               .trust_domain = FIXTURE_TRUST_DOMAIN};
    struct buf sealed = {0};
    struct ca *ca = NULL;

    fixture_start(other);
    assert_ok(store_get(other->store, VAULT_ISSUER, &sealed, NULL));
    store_mem_poke(test->fixture->store, VAULT_ISSUER, buf_view(&sealed)); /* same key, same path */
    assert_code(ca_open(&params, &ca), STORE_CORRUPT);
    buf_fini(&sealed);
    fixture_free(other);
}

/* --- another root --- */

static void step(struct ca_state *test, err_t (*what)(struct ca *ca, struct vault_batch *batch))
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};

    assert_ok(what(test->fixture->ca, &batch));
    assert_ok(vault_commit(test->fixture->vault, &batch, NULL));
    assert_ok(ca_reload(test->fixture->ca));
}

/* The roots that are given out, which the caller releases. */
static struct bundle *roots_of(struct ca_state *test)
{
    return bundle_ref(ca_bundle(test->fixture->ca));
}

/* What those who trust `roots` make of a leaf that is issued now, and the control plane of it. */
static err_t judge(struct ca_state *test, const struct bundle *roots, const struct ca_cert *cert)
{
    struct svid *svid = NULL;
    err_t err = svid_of_der(cert->chain, cert->num_chain, test->key, roots,
                            test->fixture->clock.wall_s, &svid);

    if (err_is_ok(err))
        svid_unref(svid);
    return err;
}

/* A certificate that outlives the CA's memory of its chain. */
static void keep(struct ca_state *test, int64_t ttl_s, struct ca_cert *out)
{
    assert_ok(issue(test, ttl_s, out));
    for (size_t i = 1; i < out->num_chain; i++)
        out->chain[i].ptr = mem_dup(out->chain[i].ptr, out->chain[i].len);
}

static void drop(struct ca_cert *cert)
{
    for (size_t i = 1; i < ARRAY_LEN(cert->chain); i++)
        mem_free((void *)(uintptr_t)cert->chain[i].ptr);
    ca_cert_fini(cert);
}

static void check_new_leaf(struct ca_state *test, const struct bundle *roots, err_t want)
{
    struct ca_cert cert;

    assert_ok(issue(test, 3600, &cert));
    assert_int_equal(judge(test, roots, &cert).code, want.code);
    ca_cert_fini(&cert);
}

static void restart(struct ca_state *test)
{
    fixture_stop(test->fixture);
    fixture_start(test->fixture);
}

/* Before, with both, and after: what each believes who has the roots of before, of between and of
 * after. A restart between any two changes nothing. */
static void test_a_new_root_comes_and_the_old_one_goes(void **state)
{
    struct ca_state *test = *state;
    char first[CA_SHA256_HEX], second[CA_SHA256_HEX], text[CA_SHA256_HEX];
    struct bundle *old = roots_of(test);
    struct bundle *both, *new;
    struct ca_cert old_leaf;
    size_t num;

    ca_root_sha256(test->fixture->ca, false, first);
    keep(test, 604800, &old_leaf);
    assert_false(ca_has_other(test->fixture->ca));

    step(test, ca_prepare);
    restart(test);
    assert_true(ca_has_other(test->fixture->ca));
    (void)ca_roots(test->fixture->ca, &num);
    assert_int_equal(num, 2);
    both = roots_of(test);
    ca_root_sha256(test->fixture->ca, false, text);
    assert_string_equal(text, first); /* the old one signs */
    ca_root_sha256(test->fixture->ca, true, second);
    check_new_leaf(test, old, OK);

    step(test, ca_switch);
    restart(test);
    ca_root_sha256(test->fixture->ca, false, text);
    assert_string_equal(text, second);
    assert_memory_equal(ca_bundle(test->fixture->ca)->hash, both->hash, sizeof(both->hash));
    check_new_leaf(test, both, OK);
    check_new_leaf(test, old, OK); /* the old root says so */

    step(test, ca_retire);
    restart(test);
    assert_false(ca_has_other(test->fixture->ca));
    (void)ca_roots(test->fixture->ca, &num);
    assert_int_equal(num, 1);
    new = roots_of(test);
    check_new_leaf(test, new, OK);
    check_new_leaf(test, old, FAIL(CHAIN_UNTRUSTED, 0)); /* a leaf alone does not say it any more */
    assert_code(judge(test, new, &old_leaf), CHAIN_UNTRUSTED);
    assert_ok(judge(test, ca_callers(test->fixture->ca), &old_leaf)); /* it may renew */
    fixture_pass(test->fixture, ISSUE_TTL_MAX_S - 1);
    restart(test);
    assert_ok(judge(test, ca_callers(test->fixture->ca), &old_leaf));
    fixture_pass(test->fixture, 1); /* no leaf of it can be alive */
    restart(test);
    assert_memory_equal(ca_callers(test->fixture->ca)->hash, new->hash, sizeof(new->hash));

    drop(&old_leaf);
    bundle_unref(old);
    bundle_unref(both);
    bundle_unref(new);
}

/* Another issuer below the same root: nobody's roots change, what the old one signed stays good for
 * as long as it lives, and a restart between any two steps changes nothing. */
static void test_a_new_issuer_comes_and_the_old_one_goes(void **state)
{
    struct ca_state *test = *state;
    char root[CA_SHA256_HEX], first[CA_SHA256_HEX], second[CA_SHA256_HEX], text[CA_SHA256_HEX];
    struct bundle *roots = roots_of(test);
    struct ca_cert old_leaf, new_leaf;
    size_t num;

    ca_root_sha256(test->fixture->ca, false, root);
    ca_issuer_key_sha256(test->fixture->ca, false, first);
    keep(test, 604800, &old_leaf);

    step(test, ca_prepare_issuer);
    restart(test);
    assert_true(ca_has_other(test->fixture->ca) && !ca_has_other_root(test->fixture->ca));
    (void)ca_roots(test->fixture->ca, &num);
    assert_int_equal(num, 1);
    ca_issuer_key_sha256(test->fixture->ca, false, text);
    assert_string_equal(text, first); /* the old one signs */
    ca_issuer_key_sha256(test->fixture->ca, true, second);
    assert_string_not_equal(first, second);
    assert_true(ca_has_key(test->fixture->ca, first) && ca_has_key(test->fixture->ca, second));

    step(test, ca_switch);
    restart(test);
    ca_issuer_key_sha256(test->fixture->ca, false, text);
    assert_string_equal(text, second);
    ca_issuer_key_sha256(test->fixture->ca, true, text);
    assert_string_equal(text, first);
    ca_root_sha256(test->fixture->ca, false, text);
    assert_string_equal(text, root);
    check_new_leaf(test, roots, OK);

    step(test, ca_switch); /* back, and on again */
    restart(test);
    ca_issuer_key_sha256(test->fixture->ca, false, text);
    assert_string_equal(text, first);
    step(test, ca_switch);

    step(test, ca_retire);
    restart(test);
    assert_false(ca_has_other(test->fixture->ca));
    assert_true(ca_has_key(test->fixture->ca, second));
    assert_false(ca_has_key(test->fixture->ca, first)); /* it may be revoked now */
    keep(test, 604800, &new_leaf);
    assert_int_equal(new_leaf.num_chain, 2); /* no path is needed to a root that all have */
    assert_ok(judge(test, roots, &new_leaf));
    assert_ok(judge(test, roots, &old_leaf));
    drop(&old_leaf);
    drop(&new_leaf);
    bundle_unref(roots);
}

/* An issuer of another mesh in the place of the coming one is damage. */
static void test_another_issuer_that_is_not_of_the_root_is_refused(void **state)
{
    struct ca_state *test = *state;
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct authority_pair pair;
    int64_t now_s = clock_wall_s(&test->fixture->clock.clock);

    assert_ok(authority_make_pair("other.example", now_s, CA_ROOT_TTL_S, CA_ISSUER_TTL_S, &pair));
    assert_ok(authority_save(test->fixture->vault, &batch, VAULT_OTHER_ISSUER, &pair.issuer,
                             STORE_ABSENT));
    authority_pair_fini(&pair);
    assert_ok(vault_commit(test->fixture->vault, &batch, NULL));
    assert_code(ca_reload(test->fixture->ca), STORE_CORRUPT);
    assert_false(ca_has_other(test->fixture->ca));
}

/* The control plane's own certificate leads back to the three roots before, not to a fourth. */
static void test_the_lineage_reaches_three_roots_back(void **state)
{
    struct ca_state *test = *state;
    struct bundle *roots[CA_ANCESTORS_MAX + 2];
    struct ca_cert cert;

    for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
        roots[i] = roots_of(test);
        if (i + 1 == ARRAY_LEN(roots))
            break;
        step(test, ca_prepare);
        step(test, ca_switch);
        step(test, ca_retire);
    }
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const struct ca_request request = {.spiffe_id = ID,
                                       .subsystem = "",
                                       .public_key = test->key,
                                       .ttl_s = 3600,
                                       .reason = "control",
                                       .lineage = true};
    assert_ok(ca_issue(test->fixture->ca, &request, &batch, &cert));
    assert_code(judge(test, roots[0], &cert), CHAIN_UNTRUSTED);
    for (size_t i = 1; i < ARRAY_LEN(roots); i++)
        assert_ok(judge(test, roots[i], &cert));
    ca_cert_fini(&cert);
    for (size_t i = 0; i < ARRAY_LEN(roots); i++)
        bundle_unref(roots[i]);
}

/* Back before the new root has signed, and back after it has: then its leaves may still renew. */
static void test_going_back(void **state)
{
    struct ca_state *test = *state;
    char first[CA_SHA256_HEX], text[CA_SHA256_HEX];
    struct bundle *old = roots_of(test);
    struct ca_cert leaf;

    ca_root_sha256(test->fixture->ca, false, first);
    step(test, ca_prepare);
    step(test, ca_retire);
    restart(test);
    check_new_leaf(test, old, OK);

    step(test, ca_prepare);
    step(test, ca_switch);
    keep(test, 604800, &leaf);
    step(test, ca_switch);
    restart(test);
    ca_root_sha256(test->fixture->ca, false, text);
    assert_string_equal(text, first);
    check_new_leaf(test, old, OK);
    step(test, ca_retire);
    restart(test);
    check_new_leaf(test, old, OK);
    assert_ok(judge(test, ca_callers(test->fixture->ca), &leaf));
    leaf.num_chain = 2; /* without what the old root had said */
    assert_code(judge(test, old, &leaf), CHAIN_UNTRUSTED);
    assert_ok(judge(test, ca_callers(test->fixture->ca), &leaf));
    drop(&leaf);
    bundle_unref(old);
    /* And on: the line is one. */
    step(test, ca_prepare);
    step(test, ca_switch);
    step(test, ca_retire);
    restart(test);
}

static void test_a_step_that_is_not_stored_did_not_happen(void **state)
{
    struct ca_state *test = *state;
    struct vault_batch batch = {0};
    size_t num;

    assert_ok(ca_prepare(test->fixture->ca, &batch));
    store_mem_set_unwritable(test->fixture->store, true);
    assert_code(vault_commit(test->fixture->vault, &batch, NULL), STORE_UNWRITABLE);
    store_mem_set_unwritable(test->fixture->store, false);
    vault_batch_fini(&batch);
    assert_ok(ca_reload(test->fixture->ca));
    (void)ca_roots(test->fixture->ca, &num);
    assert_int_equal(num, 1);
    assert_false(ca_has_other(test->fixture->ca));
    /* One record of a pair without the other is damage, not a state. */
    step(test, ca_prepare);
    batch = (struct vault_batch){0};
    vault_batch_delete(&batch, VAULT_OTHER_ISSUER, STORE_ANY);
    assert_ok(vault_commit(test->fixture->vault, &batch, NULL));
    vault_batch_fini(&batch);
    assert_code(ca_reload(test->fixture->ca), STORE_CORRUPT);
    assert_true(ca_has_other(test->fixture->ca)); /* memory is as it was */
}

static void issue_to_admin(struct ca_state *test, const char *id, int64_t ttl_s)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const struct ca_request request = {
        .spiffe_id = id,
        .subsystem = "",
        .public_key = test->key,
        .ttl_s = ttl_s,
        .reason = strcmp(id, "spiffe://mesh.test/mortise/control") == 0 ? "control" : "admin",
    };
    struct ca_cert cert;

    assert_ok(ca_issue(test->fixture->ca, &request, &batch, &cert));
    ca_cert_fini(&cert);
}

/* Administrators' certificates and the control plane's newest one, also after a restart; of
 * sidecars none; bounded. */
static void test_what_stands_beside_the_sidecars_is_known(void **state)
{
    struct ca_state *test = *state;
    const struct ca_standing *standing;
    struct ca_cert leaf;
    size_t num;
    char last[41];

    assert_ok(issue(test, 3600, &leaf));
    ca_cert_fini(&leaf);
    issue_to_admin(test, "spiffe://mesh.test/mortise/admin/a", 3600);
    issue_to_admin(test, "spiffe://mesh.test/mortise/control", 3600);
    issue_to_admin(test, "spiffe://mesh.test/mortise/control", 7200);
    fixture_stop(test->fixture);
    fixture_start(test->fixture);
    standing = ca_standing(test->fixture->ca, &num);
    assert_int_equal(num, 2);
    for (size_t i = 0; i < num; i++) {
        assert_true(standing[i].not_before < standing[i].not_after);
        assert_int_equal(strlen(standing[i].serial), 40);
        if (strcmp(standing[i].role, "control") == 0)
            assert_true(standing[i].not_after - standing[i].not_before > 7200);
    }
    for (size_t i = 0; i < CA_STANDING_MAX + 5; i++)
        issue_to_admin(test, "spiffe://mesh.test/mortise/admin/b", 4000 + (int64_t)i);
    standing = ca_standing(test->fixture->ca, &num);
    assert_int_equal(num, CA_STANDING_MAX);
    (void)snprintf(last, sizeof(last), "%s", standing[0].serial);
    issue_to_admin(test, "spiffe://mesh.test/mortise/admin/short", 600); /* all others outlast it */
    standing = ca_standing(test->fixture->ca, &num);
    for (size_t i = 0; i < num; i++)
        assert_null(strstr(standing[i].spiffe_id, "short"));
    assert_string_equal(standing[0].serial, last);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_certificate_is_good_for_its_key_and_on_record),
        TEST(test_no_record_no_certificate),
        TEST(test_what_stands_beside_the_sidecars_is_known),
        TEST(test_what_goes_with_it_happens_with_it_or_not_at_all),
        TEST(test_serials_differ),
        TEST(test_a_clock_that_went_back_issues_nothing),
        TEST(test_an_issuer_that_is_not_valid_now_signs_nothing),
        TEST(test_an_issuer_that_has_ended_is_replaced_under_the_same_root),
        TEST(test_a_leaf_ends_with_its_issuer),
        TEST(test_lives_out_of_range_are_refused),
        TEST(test_old_records_go_but_never_the_last),
        TEST(test_many_old_records_go_in_turns),
        TEST(test_records_that_do_not_belong_together_are_refused),
        TEST(test_a_new_root_comes_and_the_old_one_goes),
        TEST(test_a_new_issuer_comes_and_the_old_one_goes),
        TEST(test_another_issuer_that_is_not_of_the_root_is_refused),
        TEST(test_the_lineage_reaches_three_roots_back),
        TEST(test_going_back),
        TEST(test_a_step_that_is_not_stored_did_not_happen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
