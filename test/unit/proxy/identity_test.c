/* What a sidecar accepts as its own certificate: our key, the mesh's CA, the identity we had.
 *
 * Drives: F4, R9, R11, R35 */
#include "proxy/identity.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "test/unit/proxy/world.h"

struct answer {
    Mortise__V1__CertificateResponse msg;
    ProtobufCBinaryData chain[8];
    ProtobufCBinaryData roots[2];
};

static void answer_init(struct answer *out, const struct testca *leaf, const struct testca *root,
                        const char *id)
{
    mortise__v1__certificate_response__init(&out->msg);
    out->chain[0] = (ProtobufCBinaryData){leaf->der_len, leaf->der};
    out->roots[0] = (ProtobufCBinaryData){root->der_len, root->der};
    out->msg.chain = out->chain;
    out->msg.n_chain = 1;
    out->msg.trust_roots = out->roots;
    out->msg.n_trust_roots = 1;
    out->msg.spiffe_id = (char *)(uintptr_t)id;
}

static int setup(void **state)
{
    *state = mem_zalloc(sizeof(struct world));
    world_init(*state);
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    mem_free(*state);
    return 0;
}

static err_t check(const struct world *world, const struct answer *answer, EVP_PKEY *key,
                   const char *same_id)
{
    struct svid *svid = NULL;
    struct bundle *roots = NULL;
    err_t err = identity_check_response(&answer->msg, key, WORLD_DOMAIN, same_id, world->now_s,
                                        &svid, &roots);

    if (err_is_ok(err)) {
        assert_string_equal(svid->spiffe_id, answer->msg.spiffe_id);
        svid_unref(svid);
        bundle_unref(roots);
    } else {
        assert_null(svid);
        assert_null(roots);
    }
    return err;
}

static void test_a_good_answer(void **state)
{
    struct world *world = *state;
    struct answer answer;

    answer_init(&answer, world->leaf, world->root, WORLD_ID);
    assert_true(err_is_ok(check(world, &answer, world->leaf->key, NULL)));
    assert_true(err_is_ok(check(world, &answer, world->leaf->key, WORLD_ID)));
}

static void test_a_certificate_for_another_key(void **state)
{
    struct world *world = *state;
    struct answer answer;

    answer_init(&answer, world->leaf, world->root, WORLD_ID);
    assert_true(err_is(check(world, &answer, world->client->key, NULL), E_SVID_KEY_MISMATCH));
}

static void test_another_identity_than_before_or_than_said(void **state)
{
    struct world *world = *state;
    struct answer answer;

    answer_init(&answer, world->leaf, world->root, WORLD_ID);
    assert_true(err_is(check(world, &answer, world->leaf->key, WORLD_CLIENT_ID), E_PEER_IDENTITY));
    answer.msg.spiffe_id = (char *)(uintptr_t)WORLD_CLIENT_ID;
    assert_true(err_is(check(world, &answer, world->leaf->key, NULL), E_PEER_IDENTITY));
}

static void test_roots_that_do_not_vouch_for_it(void **state)
{
    struct world *world = *state;
    struct testca *stranger = testca_new(&(struct testca_params){.name = "stranger"});
    struct answer answer;

    answer_init(&answer, world->leaf, stranger, WORLD_ID);
    assert_false(err_is_ok(check(world, &answer, world->leaf->key, NULL)));
    testca_free(stranger);
}

static void test_another_trust_domain(void **state)
{
    static const char id[] = "spiffe://other.test/ns/apim/sa/portal";
    struct world *world = *state;
    struct testca *leaf =
        testca_issue(world->root, &(struct testca_params){.uri_sans = TESTCA_LIST(id)});
    struct answer answer;

    answer_init(&answer, leaf, world->root, id);
    assert_true(err_is(check(world, &answer, leaf->key, NULL), E_TRUST_DOMAIN));
    testca_free(leaf);
}

static void test_one_that_has_expired(void **state)
{
    struct world *world = *state;
    struct testca *leaf =
        testca_issue(world->root, &(struct testca_params){.uri_sans = TESTCA_LIST(WORLD_ID),
                                                          .not_before = world->now_s - 7200,
                                                          .not_after = world->now_s - 60});
    struct answer answer;

    answer_init(&answer, leaf, world->root, WORLD_ID);
    assert_true(err_is(check(world, &answer, leaf->key, NULL), E_CERT_EXPIRED));
    testca_free(leaf);
}

static void test_what_is_empty_or_too_long(void **state)
{
    struct world *world = *state;
    struct answer answer;

    answer_init(&answer, world->leaf, world->root, WORLD_ID);
    answer.msg.n_chain = 0;
    assert_false(err_is_ok(check(world, &answer, world->leaf->key, NULL)));
    answer.msg.n_chain = 1;
    answer.msg.n_trust_roots = 0;
    assert_true(err_is(check(world, &answer, world->leaf->key, NULL), E_BUNDLE_EMPTY));
    answer.msg.n_trust_roots = 1;
    for (size_t i = 0; i < ARRAY_LEN(answer.chain); i++)
        answer.chain[i] = answer.chain[0];
    answer.msg.n_chain = ARRAY_LEN(answer.chain);
    assert_true(err_is(check(world, &answer, world->leaf->key, NULL), E_CHAIN_TOO_LONG));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_good_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_certificate_for_another_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_identity_than_before_or_than_said, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_roots_that_do_not_vouch_for_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_trust_domain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_that_has_expired, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_empty_or_too_long, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
