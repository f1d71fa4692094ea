/* The deny set: what each kind of entry denies and what it leaves alone, and every entry that is
 * none. Without it: a revocation that misses, or one that hits the wrong peer.
 *
 * Drives: R42 */
#include "certs/revoke.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "certs/boring.h"
#include "lib/base/mem.h"
#include "test/unit/certs/certgen.h"

#define MAX 8

/* Entries as they stand in a configuration; ends with one that has no field. */
struct entry {
    const char *spiffe_id, *serial, *issuer, *key;
    uint32_t grace_ms;
};

static err_t set_of(const struct entry *entries, size_t num, struct faults *faults,
                    struct revoke_set **out)
{
    static char none[] = "";
    Mortise__V1__Revocation messages[MAX], *list[MAX];

    assert_true(num <= MAX);
    for (size_t i = 0; i < num; i++) {
        mortise__v1__revocation__init(&messages[i]);
        messages[i].spiffe_id =
            entries[i].spiffe_id ? (char *)(uintptr_t)entries[i].spiffe_id : none;
        messages[i].serial = entries[i].serial ? (char *)(uintptr_t)entries[i].serial : none;
        messages[i].issuer_key_sha256 =
            entries[i].issuer ? (char *)(uintptr_t)entries[i].issuer : none;
        messages[i].key_sha256 = entries[i].key ? (char *)(uintptr_t)entries[i].key : none;
        messages[i].grace_ms = entries[i].grace_ms;
        list[i] = &messages[i];
    }
    return revoke_set_new(list, num, faults, out);
}

/* A verified peer: leaf, issuing CA, root. */
struct chain {
    struct certgen *root, *ca, *leaf;
    struct peer *peer;
};

static CRYPTO_BUFFER *buffer_of(const struct certgen *cert)
{
    struct bytes der = certgen_der(cert);

    return CRYPTO_BUFFER_new(der.ptr, der.len, NULL);
}

static int make_chain(void **state)
{
    struct chain *chain = mem_zalloc(sizeof(*chain));
    STACK_OF(CRYPTO_BUFFER) *sent = sk_CRYPTO_BUFFER_new_null();
    struct bytes root;
    struct bundle *bundle;

    chain->root =
        certgen_make(NULL, &(struct certgen_params){.ca = true, .key = CERTGEN_P256_ROOT});
    chain->ca =
        certgen_make(chain->root, &(struct certgen_params){.ca = true, .key = CERTGEN_P256_CA});
    chain->leaf =
        certgen_make(chain->ca, &(struct certgen_params){.sans = {CERTGEN_URI(CERTGEN_ID)}});
    root = certgen_der(chain->root);
    assert_true(err_is_ok(bundle_of_der(&root, 1, NULL, &bundle)));
    assert_true(sk_CRYPTO_BUFFER_push(sent, buffer_of(chain->leaf)));
    assert_true(sk_CRYPTO_BUFFER_push(sent, buffer_of(chain->ca)));
    assert_true(
        err_is_ok(verify_chain(sent, bundle, VERIFY_CLIENT_CERT, CERTGEN_NOW, NULL, &chain->peer)));
    sk_CRYPTO_BUFFER_pop_free(sent, CRYPTO_BUFFER_free);
    bundle_unref(bundle);
    *state = chain;
    return 0;
}

static int free_chain(void **state)
{
    struct chain *chain = *state;

    peer_unref(chain->peer);
    certgen_free(chain->leaf);
    certgen_free(chain->ca);
    certgen_free(chain->root);
    mem_free(chain);
    return 0;
}

static bool denies(const struct peer *peer, const struct entry *entries, size_t num,
                   uint32_t *grace_ms)
{
    struct faults faults = {.num = 0};
    struct revoke_set *set;
    bool found;

    assert_true(err_is_ok(set_of(entries, num, &faults, &set)));
    found = revoke_find(set, peer, grace_ms);
    revoke_set_free(set);
    return found;
}

static void hex(const uint8_t sha256[32], char out[65])
{
    bytes_to_hex(bytes_of(sha256, 32), out);
}

static void test_each_kind_denies_what_it_names(void **state)
{
    const struct chain *chain = *state;
    const struct peer *peer = chain->peer;
    char key[65], issuer[65], root[65];
    uint32_t grace_ms;

    assert_int_equal(peer->num_issuers, 2);
    hex(peer->key_sha256, key);
    hex(peer->issuers[0].key_sha256, issuer);
    hex(peer->issuers[1].key_sha256, root);
    assert_false(denies(peer, NULL, 0, &grace_ms));
    assert_true(denies(peer, &(struct entry){.spiffe_id = CERTGEN_ID}, 1, &grace_ms));
    assert_true(denies(peer, &(struct entry){.serial = peer->serial}, 1, &grace_ms));
    assert_true(denies(peer, &(struct entry){.key = key}, 1, &grace_ms));
    assert_true(denies(peer, &(struct entry){.issuer = issuer}, 1, &grace_ms));
    assert_true(denies(peer, &(struct entry){.issuer = root}, 1, &grace_ms));
    /* The key of a leaf is no issuer's, and the other way round. */
    assert_false(denies(peer, &(struct entry){.issuer = key}, 1, &grace_ms));
    assert_false(denies(peer, &(struct entry){.key = issuer}, 1, &grace_ms));
}

/* Byte for byte: what is near is somebody else. */
static void test_near_misses_are_misses(void **state)
{
    const struct chain *chain = *state;
    char key[65];
    uint32_t grace_ms;

    hex(chain->peer->key_sha256, key);
    key[0] = key[0] == '0' ? '1' : '0';
    assert_false(denies(chain->peer, &(struct entry){.spiffe_id = CERTGEN_ID "b"}, 1, &grace_ms));
    assert_false(denies(chain->peer, &(struct entry){.spiffe_id = "spiffe://example.org/ns/a"}, 1,
                        &grace_ms));
    assert_false(denies(chain->peer, &(struct entry){.serial = "0a"}, 1, &grace_ms));
    assert_false(denies(chain->peer, &(struct entry){.key = key}, 1, &grace_ms));
}

static void test_the_shortest_grace_counts(void **state)
{
    const struct chain *chain = *state;
    const struct entry entries[] = {
        {.spiffe_id = CERTGEN_ID, .grace_ms = 5000},
        {.serial = chain->peer->serial, .grace_ms = 300},
        {.spiffe_id = CERTGEN_ID, .grace_ms = 4000},
        {.spiffe_id = "spiffe://example.org/other", .grace_ms = 0},
    };
    uint32_t grace_ms = 0;

    assert_true(denies(chain->peer, entries, 3, &grace_ms));
    assert_int_equal(grace_ms, 300);
    assert_true(denies(chain->peer, &entries[2], 2, &grace_ms));
    assert_int_equal(grace_ms, 4000);
}

/* A peer without a SPIFFE ID is not denied by an empty one. */
static void test_nobody_is_nobody(void **state)
{
    char none[] = "";
    const struct peer peer = {.spiffe_id = none, .serial = none};
    uint32_t grace_ms;

    (void)state;
    assert_false(denies(&peer, &(struct entry){.spiffe_id = CERTGEN_ID}, 1, &grace_ms));
}

static void test_entries_that_are_none(void **state)
{
#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    static const struct {
        struct entry entry;
        const char *path, *says;
    } cases[] = {
        {{.grace_ms = 1}, "revocations[0]", "has 0 of"},
        {{.spiffe_id = CERTGEN_ID, .serial = "01"}, "revocations[0]", "has 2 of"},
        {{.spiffe_id = "portal"}, "revocations[0].spiffe_id", "not a SPIFFE ID"},
        {{.spiffe_id = "spiffe://example.org"}, "revocations[0].spiffe_id", "not a SPIFFE ID"},
        {{.serial = "0"}, "revocations[0].serial", "not a serial number"},
        {{.serial = "AB"}, "revocations[0].serial", "not a serial number"},
        {{.serial = "0x01"}, "revocations[0].serial", "not a serial number"},
        {{.serial = "00ab"}, "revocations[0].serial", "without leading zeros"},
        {{.serial = HEX64}, "revocations[0].serial", "not a serial number"},
        {{.key = "01"}, "revocations[0].key_sha256", "64 lower-case hex digits"},
        {{.issuer = HEX64 "00"}, "revocations[0].issuer_key_sha256", "64 lower-case hex digits"},
        {{.key = HEX64, .grace_ms = 86400001}, "revocations[0].grace_ms", "at most 86400000"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct faults faults = {.num = 0};
        struct revoke_set *set = NULL;

        assert_true(err_is(set_of(&cases[i].entry, 1, &faults, &set), E_CONFIG_INVALID));
        assert_null(set);
        assert_int_equal(faults.num, 1);
        assert_string_equal(faults.items[0].path, cases[i].path);
        assert_non_null(strstr(faults.items[0].message, cases[i].says));
        faults_fini(&faults);
    }
}

/* All faults are told at once, and one wrong entry spoils the set: nothing is half denied. */
static void test_one_wrong_entry_spoils_all(void **state)
{
    const struct entry entries[] = {{.serial = "x"}, {.spiffe_id = CERTGEN_ID}, {.key = "y"}};
    struct faults faults = {.num = 0};
    struct revoke_set *set = NULL;

    (void)state;
    assert_true(err_is(set_of(entries, 3, &faults, &set), E_CONFIG_INVALID));
    assert_null(set);
    assert_int_equal(faults.num, 2);
    assert_string_equal(faults.items[1].path, "revocations[2].key_sha256");
    faults_fini(&faults);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_denies_what_it_names),
        cmocka_unit_test(test_near_misses_are_misses),
        cmocka_unit_test(test_the_shortest_grace_counts),
        cmocka_unit_test(test_nobody_is_nobody),
        cmocka_unit_test(test_entries_that_are_none),
        cmocka_unit_test(test_one_wrong_entry_spoils_all),
    };

    return cmocka_run_group_tests(tests, make_chain, free_chain);
}
