/* Join tokens: one key owns one, for a while. Expired certificates: who had one may come back with
 * it, for a while, unless he was revoked.
 * Without it: a token that was seen in a log or a script joins strangers to the mesh, or an outage
 * that lasted longer than certificates live would need a token for each sidecar.
 * Drives: R36, R50, F18. */
#include "control/attest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "certs/key.h"
#include "certs/proof.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

static const uint8_t key_a[32] = {1};
static const uint8_t key_b[32] = {2};

static int setup(void **state)
{
    *state = fixture_new();
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static char *make(struct fixture *fixture, int64_t ttl_s)
{
    char *token = NULL;

    assert_ok(attest_token_new(fixture->vault, "portal", fixture->clock.wall_s, ttl_s, &token));
    return token;
}

/* What Attest does with a token: find, bind, commit. */
static err_t use(struct fixture *fixture, const char *token, const uint8_t key[32])
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct attest_grant grant = {.token = NULL};
    err_t err = attest_find(fixture->vault, token, fixture->clock.wall_s, &grant);

    if (err_is_ok(err)) {
        assert_string_equal(grant.token->subsystem, "portal");
        err = attest_bind(fixture->vault, &grant, key, fixture->clock.wall_s, &batch);
    }
    attest_grant_fini(&grant);
    return err_is_ok(err) ? vault_commit(fixture->vault, &batch, NULL) : err;
}

static void test_a_token_has_the_form_that_is_promised(void **state)
{
    struct fixture *fixture = *state;
    char *token = make(fixture, 60);
    char *other = make(fixture, 60);

    assert_int_equal(strlen(token), 48);
    assert_memory_equal(token, "mjt1.", 5);
    assert_int_equal(strspn(token + 5, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                       "0123456789-_"),
                     43);
    assert_string_not_equal(token, other);
    mem_free(token);
    mem_free(other);
}

static void test_the_store_holds_no_token(void **state)
{
    struct fixture *fixture = *state;
    struct store_items items;
    char *token = make(fixture, 60);

    assert_ok(store_list(fixture->store, VAULT_TOKENS, &items));
    assert_int_equal(items.num, 1);
    assert_null(strstr(items.items[0].key, token + 5));
    assert_null(memmem(items.items[0].value, items.items[0].len, token + 5, 10));
    store_items_fini(&items);
    mem_free(token);
}

static void test_the_same_key_may_ask_again_and_no_other(void **state)
{
    struct fixture *fixture = *state;
    char *token = make(fixture, 60);

    assert_ok(use(fixture, token, key_a));
    assert_ok(use(fixture, token, key_a)); /* the answer was lost */
    assert_code(use(fixture, token, key_b), TOKEN_USED);
    assert_ok(use(fixture, token, key_a));
    mem_free(token);
}

static void test_a_token_ends_for_everybody(void **state)
{
    struct fixture *fixture = *state;
    char *token = make(fixture, 60);

    assert_ok(use(fixture, token, key_a));
    fixture_pass(fixture, 59);
    assert_ok(use(fixture, token, key_a));
    fixture_pass(fixture, 1);
    assert_code(use(fixture, token, key_a), TOKEN_EXPIRED);
    assert_code(use(fixture, token, key_b), TOKEN_EXPIRED);
    mem_free(token);
}

static void test_what_is_no_token_is_unknown(void **state)
{
    static const char *const texts[] = {
        "",
        "mjt1.",
        "mjt1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "mjt2.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "mjt1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "mjt1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/A",
        "../ca/root",
    };
    struct fixture *fixture = *state;
    char *token = make(fixture, 60);

    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        assert_code(use(fixture, texts[i], key_a), TOKEN_UNKNOWN);
    token[20] = token[20] == 'A' ? 'B' : 'A';
    assert_code(use(fixture, token, key_a), TOKEN_UNKNOWN);
    mem_free(token);
}

static void test_old_tokens_go_and_young_ones_stay(void **state)
{
    struct fixture *fixture = *state;
    char *old = make(fixture, 10);
    char *young;

    fixture_pass(fixture, 10 + ATTEST_KEEP_S);
    assert_ok(attest_purge(fixture->vault, fixture->clock.wall_s));
    assert_code(use(fixture, old, key_a), TOKEN_EXPIRED); /* told for a day */
    young = make(fixture, 10);
    fixture_pass(fixture, 1);
    assert_ok(attest_purge(fixture->vault, fixture->clock.wall_s));
    assert_code(use(fixture, old, key_a), TOKEN_UNKNOWN);
    assert_ok(use(fixture, young, key_a));
    mem_free(old);
    mem_free(young);
}

static void test_no_token_is_given_that_was_not_kept(void **state)
{
    struct fixture *fixture = *state;
    char *token = NULL;

    store_mem_set_unwritable(fixture->store, true);
    assert_code(attest_token_new(fixture->vault, "portal", FIXTURE_NOW_S, 60, &token),
                STORE_UNWRITABLE);
    assert_null(token);
}

/* ---- who comes back ---- */

#define REJOIN_S 1000
#define TTL_S 3600
static const char csr_text[] = "the next request", other_csr_text[] = "somebody else's request";
#define CSR bytes_of_str(csr_text)

/* Somebody who has a certificate. */
struct member {
    EVP_PKEY *key;
    uint8_t *der;
    size_t len;
    struct buf signature; /* over CSR */
};

static void member_make(struct fixture *fixture, const char *subsystem, struct member *out)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct ca_request request = {
        .spiffe_id = "spiffe://mesh.test/ns/apim/sa/portal",
        .subsystem = subsystem,
        .ttl_s = TTL_S,
        .reason = "attest",
    };
    struct ca_cert cert;

    *out = (struct member){.key = NULL};
    assert_ok(key_generate(&out->key));
    request.public_key = out->key;
    assert_ok(ca_issue(fixture->ca, &request, &batch, &cert));
    out->der = mem_alloc(cert.leaf.der_len);
    memcpy(out->der, cert.leaf.der, cert.leaf.der_len);
    out->len = cert.leaf.der_len;
    ca_cert_fini(&cert);
    assert_ok(proof_sign(out->key, bytes_of(out->der, out->len), CSR, &out->signature));
}

static void member_fini(struct member *member)
{
    EVP_PKEY_free(member->key);
    mem_free(member->der);
    buf_fini(&member->signature);
}

static err_t come_back(struct fixture *fixture, const struct member *member, struct bytes signature,
                       struct bytes csr, uint32_t rejoin_s)
{
    Mortise__V1__LastCertificate last = MORTISE__V1__LAST_CERTIFICATE__INIT;
    Mortise__Control__Issuance *record = NULL;
    err_t err;

    last.certificate = (ProtobufCBinaryData){member->len, member->der};
    last.signature = (ProtobufCBinaryData){signature.len, (uint8_t *)(uintptr_t)signature.ptr};
    err = attest_last(fixture->vault, &last, csr, fixture->clock.wall_s, rejoin_s, &record);
    if (!err_is_ok(err)) {
        assert_null(record);
        return err;
    }
    assert_string_equal(record->subsystem, "portal");
    /* Nobody, its identity, its serial, its key, its issuer, the root: */
    if (registry_issued_is_revoked(fixture->registry, record))
        err = FAIL(PEER_REVOKED, 0);
    pb_free(&record->base);
    return err;
}

static void test_who_had_a_certificate_comes_back_for_a_while(void **state)
{
    struct fixture *fixture = *state;
    struct member member;

    fixture_start(fixture);
    member_make(fixture, "portal", &member);
    /* Not expired by our clock, perhaps by his. */
    assert_ok(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S));
    fixture_pass(fixture, TTL_S);
    assert_ok(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S));
    assert_code(come_back(fixture, &member, buf_view(&member.signature), CSR, 0), REJOIN_LATE);
    fixture_pass(fixture, REJOIN_S - 61);
    assert_ok(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S));
    fixture_pass(fixture, 61);
    assert_code(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S),
                REJOIN_LATE);
    member_fini(&member);
}

static void test_nobody_comes_back_as_somebody_else(void **state)
{
    struct fixture *fixture = *state;
    struct member member, other, admin;
    uint8_t *byte;

    fixture_start(fixture);
    member_make(fixture, "portal", &member);
    member_make(fixture, "portal", &other);
    member_make(fixture, "", &admin); /* of the control plane itself, or an administrator's */
    fixture_pass(fixture, TTL_S);
    /* Another one's certificate, with one's own key; a proof for another request. */
    assert_code(come_back(fixture, &member, buf_view(&other.signature), CSR, REJOIN_S),
                PROOF_INVALID);
    assert_code(come_back(fixture, &member, buf_view(&member.signature),
                          bytes_of_str(other_csr_text), REJOIN_S),
                PROOF_INVALID);
    assert_code(come_back(fixture, &member, bytes_of(NULL, 0), CSR, REJOIN_S), PROOF_INVALID);
    assert_code(come_back(fixture, &admin, buf_view(&admin.signature), CSR, REJOIN_S),
                REJOIN_UNKNOWN);
    /* One bit of it is another: the same serial, and not what we have issued. */
    byte = &member.der[member.len - 1];
    *byte ^= 1;
    assert_code(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S),
                REJOIN_UNKNOWN);
    *byte ^= 1;
    assert_ok(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S));
    member_fini(&member);
    member_fini(&other);
    member_fini(&admin);
}

static void test_one_that_is_not_on_record_is_of_no_use(void **state)
{
    struct fixture *fixture = *state;
    struct fixture *elsewhere = fixture_new();
    struct member member;

    fixture_start(fixture);
    fixture_start(elsewhere); /* another mesh of the same name */
    member_make(elsewhere, "portal", &member);
    assert_code(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S),
                REJOIN_UNKNOWN);
    assert_ok(come_back(elsewhere, &member, buf_view(&member.signature), CSR, REJOIN_S));
    member_fini(&member);
    fixture_free(elsewhere);
}

static void test_who_was_revoked_does_not_come_back(void **state)
{
    struct fixture *fixture = *state;
    Mortise__V1__Revocation revocations[4];
    struct member member;
    char *serial, key[65], issuer[65];
    Mortise__Control__Issuance *record = NULL;
    ProtobufCMessage *msg = NULL;
    struct store_items items;
    uint64_t id;

    fixture_start(fixture);
    member_make(fixture, "portal", &member);
    assert_ok(store_list(fixture->store, VAULT_CERTS, &items));
    assert_int_equal(items.num, 1);
    assert_ok(vault_get(fixture->vault, items.items[0].key, &msg, NULL));
    store_items_fini(&items);
    record = (Mortise__Control__Issuance *)(void *)msg;
    assert_int_equal(record->n_issuer_keys_sha256, 2);
    serial = record->serial;
    bytes_to_hex(bytes_of(record->key_sha256.data, 32), key);
    bytes_to_hex(bytes_of(record->issuer_keys_sha256[0].data, 32), issuer);
    for (size_t i = 0; i < 4; i++)
        mortise__v1__revocation__init(&revocations[i]);
    revocations[0].spiffe_id = record->spiffe_id;
    revocations[1].serial = serial;
    revocations[2].key_sha256 = key;
    revocations[3].issuer_key_sha256 = issuer;
    fixture_pass(fixture, TTL_S);
    for (size_t i = 0; i < 4; i++) {
        const struct revocations_new add = {
            .revocation = &revocations[i], .reason = "", .by = "", .now_s = FIXTURE_NOW_S};

        assert_ok(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S));
        assert_ok(registry_revoke(fixture->registry, &add, &id));
        assert_code(come_back(fixture, &member, buf_view(&member.signature), CSR, REJOIN_S),
                    PEER_REVOKED);
        assert_ok(registry_lift(fixture->registry, id));
    }
    pb_free(msg);
    member_fini(&member);
}

/* A token is for what it was made for. */
static void test_a_login_is_no_join_and_the_other_way_round(void **state)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    struct fixture *fixture = *state;
    struct attest_grant grant;
    char *login, *join;

    assert_ok(attest_login_new(fixture->vault, &batch, "alice", 3, FIXTURE_NOW_S, 900, &login));
    assert_code(attest_login_find(fixture->vault, login, 3, FIXTURE_NOW_S, &grant), TOKEN_UNKNOWN);
    assert_ok(vault_commit(fixture->vault, &batch, NULL));
    assert_ok(attest_token_new(fixture->vault, "portal", FIXTURE_NOW_S, 900, &join));
    assert_int_equal(strncmp(login, "mlt1.", 5), 0);

    assert_ok(attest_login_find(fixture->vault, login, 3, FIXTURE_NOW_S, &grant));
    assert_string_equal(grant.token->admin, "alice");
    assert_string_equal(grant.token->subsystem, "");
    attest_grant_fini(&grant);
    assert_code(attest_find(fixture->vault, login, FIXTURE_NOW_S, &grant), TOKEN_UNKNOWN);
    assert_code(attest_login_find(fixture->vault, join, 3, FIXTURE_NOW_S, &grant), TOKEN_UNKNOWN);
    login[1] = 'j'; /* "mjt1." before the same secret */
    assert_code(attest_find(fixture->vault, login, FIXTURE_NOW_S, &grant), TOKEN_UNKNOWN);
    login[1] = 'l';
    assert_code(attest_login_find(fixture->vault, login, 3, FIXTURE_NOW_S + 900, &grant),
                TOKEN_EXPIRED);
    /* All certificates of before were refused: it leads to none. */
    assert_code(attest_login_find(fixture->vault, login, 4, FIXTURE_NOW_S, &grant), TOKEN_EXPIRED);
    assert_code(attest_login_find(fixture->vault, "", 3, FIXTURE_NOW_S, &grant), TOKEN_UNKNOWN);
    assert_code(attest_login_find(fixture->vault, "mlt1.", 3, FIXTURE_NOW_S, &grant),
                TOKEN_UNKNOWN);
    mem_free(login);
    mem_free(join);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_login_is_no_join_and_the_other_way_round),
        TEST(test_a_token_has_the_form_that_is_promised),
        TEST(test_the_store_holds_no_token),
        TEST(test_the_same_key_may_ask_again_and_no_other),
        TEST(test_a_token_ends_for_everybody),
        TEST(test_what_is_no_token_is_unknown),
        TEST(test_old_tokens_go_and_young_ones_stay),
        TEST(test_no_token_is_given_that_was_not_kept),
        TEST(test_who_had_a_certificate_comes_back_for_a_while),
        TEST(test_nobody_comes_back_as_somebody_else),
        TEST(test_one_that_is_not_on_record_is_of_no_use),
        TEST(test_who_was_revoked_does_not_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
