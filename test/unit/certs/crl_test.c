/* Revocation lists: which are taken, whom they name, which certificates of a path need one, and
 * what a list that is missing, stale, forged or of another kind does. Without it: a certificate
 * that its CA has taken back is let in, or a list that says nothing counts as one that says no.
 *
 * Drives: R7 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "certs/boring.h"
#include "certs/crl_set.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "lib/base/mem.h"
#include "test/unit/certs/crlgen.h"

#define LEAF_SERIAL "\x11\x22\x33\x44"
#define CA_SERIAL "\x55\x66\x77"
#define SIGN (CERTGEN_KU_CERT_SIGN | CERTGEN_KU_CRL_SIGN)

struct world {
    struct certgen *root, *ca, *leaf;
    struct bundle *bundle; /* the root */
    struct peer *peer;     /* leaf, CA, root */
};

static struct peer *peer_of(const struct bundle *bundle, const struct certgen *leaf,
                            const struct certgen *ca)
{
    STACK_OF(CRYPTO_BUFFER) *sent = sk_CRYPTO_BUFFER_new_null();
    struct peer *peer = NULL;

    assert_true(sk_CRYPTO_BUFFER_push(sent, CRYPTO_BUFFER_new(leaf->der, leaf->len, NULL)) != 0);
    if (ca != NULL)
        assert_true(sk_CRYPTO_BUFFER_push(sent, CRYPTO_BUFFER_new(ca->der, ca->len, NULL)) != 0);
    assert_true(
        err_is_ok(verify_chain(sent, bundle, VERIFY_CLIENT_CERT, CERTGEN_NOW, NULL, &peer)));
    sk_CRYPTO_BUFFER_pop_free(sent, CRYPTO_BUFFER_free);
    return peer;
}

static struct bundle *bundle_with(const struct certgen *ca)
{
    struct bytes der = certgen_der(ca);
    struct bundle *bundle = NULL;

    assert_true(err_is_ok(bundle_of_der(&der, 1, NULL, &bundle)));
    return bundle;
}

static int setup(void **state)
{
    struct world *world = mem_zalloc(sizeof(*world));

    world->root = certgen_make(
        NULL, &(struct certgen_params){
                  .ca = true, .subject = "root", .key = CERTGEN_P256_ROOT, .usage_bits = SIGN});
    world->ca = certgen_make(world->root, &(struct certgen_params){.ca = true,
                                                                   .key = CERTGEN_P256_CA,
                                                                   .serial = CA_SERIAL,
                                                                   .serial_len = 3,
                                                                   .usage_bits = SIGN});
    world->leaf =
        certgen_make(world->ca, &(struct certgen_params){.serial = LEAF_SERIAL, .serial_len = 4});
    world->bundle = bundle_with(world->root);
    world->peer = peer_of(world->bundle, world->leaf, world->ca);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;

    peer_unref(world->peer);
    bundle_unref(world->bundle);
    certgen_free(world->leaf);
    certgen_free(world->ca);
    certgen_free(world->root);
    mem_free(world);
    certgen_cleanup();
    return 0;
}

/* ---- one list ---- */

static err_t parse(const struct certgen *issuer, const struct crlgen_params *params,
                   struct crl **out)
{
    struct bytes der = crlgen_make(issuer, params);
    err_t err = crl_parse(der, out);

    crlgen_free(der);
    assert_int_equal(ERR_peek_error(), 0);
    return err;
}

static bool has(const struct crl *crl, const char *serial, size_t len)
{
    uint8_t padded[CERT_SERIAL_MAX] = {0};

    memcpy(padded + sizeof(padded) - len, serial, len);
    return crl_has(crl, padded);
}
#define HAS(crl, literal) has((crl), literal, sizeof(literal) - 1)

static void test_crl_says_what_it_is(void **state)
{
    const struct world *world = *state;
    struct crl *crl = NULL;

    assert_true(err_is_ok(
        parse(world->root,
              &(struct crlgen_params){.serials = {CRLGEN_SERIAL("\x05"), CRLGEN_SERIAL(CA_SERIAL)},
                                      .number = CRLGEN_SERIAL("\x01\x00")},
              &crl)));
    assert_int_equal(crl->this_update, CERTGEN_NOW - 3600);
    assert_int_equal(crl->next_update, CERTGEN_NOW + 86400);
    assert_string_equal(crl->issuer, "CN=root");
    assert_string_equal(crl->number, "0100");
    assert_int_equal(crl->num, 2);
    assert_true(HAS(crl, "\x05"));
    assert_true(HAS(crl, CA_SERIAL));
    assert_false(HAS(crl, "\x04"));
    assert_false(HAS(crl, "\x06"));
    assert_false(HAS(crl, "\x05\x00")); /* not the same bytes further left */
    assert_false(HAS(crl, LEAF_SERIAL));
    crl_unref(crl);
}

static void test_crl_takes_what_is_in_order(void **state)
{
    const struct world *world = *state;
    static const struct {
        const char *what;
        struct crlgen_params params;
        size_t num;
    } good[] = {
        {"nobody", {.version = 0}, 0},
        {"version 1", {.version = 1, .serials = {CRLGEN_SERIAL("\x05")}}, 1},
        {"SHA-384", {.sha384 = true}, 0},
        {"an extension that may be passed over", {.unknown_plain = true}, 0},
        {"the same of an entry",
         {.entry_unknown_plain = true, .serials = {CRLGEN_SERIAL("\x05")}},
         1},
        {"a reason", {.reason = 1, .serials = {CRLGEN_SERIAL("\x05")}}, 1},
        {"on hold", {.reason = 6, .serials = {CRLGEN_SERIAL("\x05")}}, 1},
        {"one twice", {.serials = {CRLGEN_SERIAL("\x05"), CRLGEN_SERIAL("\x05")}}, 1},
        {"20 bytes",
         {.serials = {CRLGEN_SERIAL("\x7f"
                                    "2345678901234567890")}},
         1},
        {"20 bytes that begin with a one",
         {.serials = {CRLGEN_SERIAL("\x00\xff"
                                    "2345678901234567890")}},
         1},
        {"an entry with a date of its own (invalidityDate)",
         {.serials = {CRLGEN_SERIAL("\x05")},
          .raw_entry_extensions = CRLGEN_SERIAL("\x30\x1a\x30\x18\x06\x03\x55\x1d\x18\x04\x11"
                                                "\x18\x0f"
                                                "20260101000000Z")},
         1},
        {"a number with its sign", {.number = CRLGEN_SERIAL("\x00\xff")}, 0},
        {"as many extensions as there may be", {.num_extensions = 31}, 0},
        {"revoked in time to come",
         {.raw_when = "490101000000Z", .serials = {CRLGEN_SERIAL("\x05")}},
         1},
    };

    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        struct crl *crl = NULL;
        err_t err = parse(world->root, &good[i].params, &crl);

        if (!err_is_ok(err))
            fail_msg("%s: %s", good[i].what, err_name(err.code));
        assert_int_equal(crl->num, good[i].num);
        crl_unref(crl);
    }
}

struct bad_list {
    const char *what;
    struct crlgen_params params;
    enum err_code code;
};

static void refuses(const struct world *world, const struct bad_list *bad, size_t num)
{
    for (size_t i = 0; i < num; i++) {
        struct crl *crl = NULL;
        err_t err = parse(world->root, &bad[i].params, &crl);

        if (!err_is(err, bad[i].code))
            fail_msg("%s: %s", bad[i].what, err_name(err.code));
        assert_null(crl);
    }
}

static void test_crl_refuses_what_is_not(void **state)
{
    static const struct bad_list bad[] = {
        {"delta", {.delta = true}, E_CRL_DELTA},
        {"delta entry", {.reason = 8, .serials = {CRLGEN_SERIAL("\x05")}}, E_CRL_DELTA},
        {"indirect", {.indirect = true}, E_CRL_INDIRECT},
        {"indirect entry",
         {.entry_issuer = true, .serials = {CRLGEN_SERIAL("\x05")}},
         E_CRL_INDIRECT},
        {"part", {.partial = true}, E_CRL_PARTIAL},
        {"unknown critical", {.unknown_critical = true}, E_CRL_EXTENSION},
        {"unknown critical of an entry",
         {.entry_unknown_critical = true, .serials = {CRLGEN_SERIAL("\x05")}},
         E_CRL_EXTENSION},
        {"endless", {.no_next = true}, E_CRL_ENDLESS},
        {"SHA-1", {.sha1 = true}, E_CERT_WEAK_SIGNATURE},
        {"negative", {.serials = {CRLGEN_SERIAL("\x85")}}, E_CRL_SERIAL},
        {"zero", {.serials = {CRLGEN_SERIAL("\x00")}}, E_CRL_SERIAL},
        {"21 bytes",
         {.serials = {CRLGEN_SERIAL("\x7f"
                                    "23456789012345678901")}},
         E_CRL_SERIAL},
        {"no digit", {.serials = {CRLGEN_SERIAL("")}}, E_CRL_SYNTAX},
        {"not the shortest form", {.serials = {CRLGEN_SERIAL("\x00\x05")}}, E_CRL_SYNTAX},
        {"one extension twice", {.twice = true}, E_CRL_SYNTAX},
        {"number below zero", {.number = CRLGEN_SERIAL("\xff")}, E_CRL_SYNTAX},
        {"number of 21 bytes",
         {.number = CRLGEN_SERIAL("\x7f"
                                  "23456789012345678901")},
         E_CRL_SYNTAX},
        {"version 3", {.version = 3}, E_CRL_SYNTAX},
        {"version 1 with extensions", {.version = 1, .v1_extended = true}, E_CRL_SYNTAX},
        {"two algorithms", {.inner_differs = true}, E_CRL_SYNTAX},
        {"more behind it", {.trailing = true}, E_CRL_SYNTAX},
        {"ends before it begins", {.next_s = -86400 - 3600}, E_CRL_SYNTAX},
        {"no date", {.raw_this = "26053200000Z"}, E_CRL_SYNTAX},
        {"entry without a date",
         {.raw_when = "never", .serials = {CRLGEN_SERIAL("\x05")}},
         E_CRL_SYNTAX},
    };

    refuses(*state, bad, ARRAY_LEN(bad));
}

static void test_crl_refuses_what_is_none(void **state)
{
    static const struct bad_list bad[] = {
        {"too many extensions", {.num_extensions = 32}, E_TOO_LARGE},
        {"a name that is none", {.raw_name = CRLGEN_SERIAL("\x30\x02\x05\x00")}, E_CRL_SYNTAX},
        {"a name that is a number", {.raw_name = CRLGEN_SERIAL("\x02\x01\x05")}, E_CRL_SYNTAX},
        {"an issuer without a name", {.raw_name = CRLGEN_SERIAL("\x30\x00")}, E_CRL_SYNTAX},
        {"an algorithm with a number",
         {.raw_parameters = CRLGEN_SERIAL("\x02\x01\x05")},
         E_CRL_SYNTAX},
        {"an algorithm with a NULL that is none",
         {.raw_parameters = CRLGEN_SERIAL("\x05\x01\x05")},
         E_CRL_SYNTAX},
        {"entries that are numbers",
         {.raw_revoked = CRLGEN_SERIAL("\x30\x03\x02\x01\x05")},
         E_CRL_SYNTAX},
        {"entries that go on behind their end",
         {.raw_revoked = CRLGEN_SERIAL("\x30\x84\x7f\xff\xff\xff")},
         E_CRL_SYNTAX},
        {"an entry's serial number alone",
         {.raw_revoked = CRLGEN_SERIAL("\x30\x05\x30\x03\x02\x01\x05")},
         E_CRL_SYNTAX},
        {"an entry with a number behind its date",
         {.serials = {CRLGEN_SERIAL("\x05")},
          .raw_entry_extensions = CRLGEN_SERIAL("\x02\x01\x05")},
         E_CRL_SYNTAX},
        {"an entry with an empty list of extensions",
         {.serials = {CRLGEN_SERIAL("\x05")}, .raw_entry_extensions = CRLGEN_SERIAL("\x30\x00")},
         E_CRL_SYNTAX},
        {"a reason of two bytes",
         {.serials = {CRLGEN_SERIAL("\x05")},
          .raw_entry_extensions = CRLGEN_SERIAL("\x30\x0d\x30\x0b\x06\x03\x55\x1d\x15\x04\x04"
                                                "\x0a\x02\x00\x08")},
         E_CRL_SYNTAX},
        {"a list of no extensions", {.raw_extensions = CRLGEN_SERIAL("")}, E_CRL_SYNTAX},
        {"an extension without a name",
         {.raw_extensions = CRLGEN_SERIAL("\x30\x05\x04\x03\x02\x01\x01")},
         E_CRL_SYNTAX},
        {"an extension with a name not in its shortest form",
         {.raw_extensions = CRLGEN_SERIAL("\x30\x08\x06\x02\x80\x01\x04\x02\x05\x00")},
         E_CRL_SYNTAX},
        {"an extension that says that it is not critical",
         {.raw_extensions =
              CRLGEN_SERIAL("\x30\x0d\x06\x03\x55\x1d\x14\x01\x01\x00\x04\x03\x02\x01\x01")},
         E_CRL_SYNTAX},
        {"an extension of a number",
         {.raw_extensions = CRLGEN_SERIAL("\x30\x08\x06\x03\x55\x1d\x14\x02\x01\x01")},
         E_CRL_SYNTAX},
        {"a part that is a number",
         {.raw_extensions = CRLGEN_SERIAL("\x30\x0a\x06\x03\x55\x1d\x1c\x04\x03\x02\x01\x01")},
         E_CRL_SYNTAX},
        {"a part that ends too early",
         {.raw_extensions = CRLGEN_SERIAL("\x30\x0b\x06\x03\x55\x1d\x1c\x04\x04\x30\x02\x81\x01")},
         E_CRL_SYNTAX},
        {"an authority key identifier that is a number",
         {.raw_extensions = CRLGEN_SERIAL("\x30\x0a\x06\x03\x55\x1d\x23\x04\x03\x02\x01\x01")},
         E_CRL_SYNTAX},
    };

    refuses(*state, bad, ARRAY_LEN(bad));
}

static void test_crl_refuses_each_part_of_itself(void **state)
{
    const struct world *world = *state;
    struct bytes der = crlgen_make(
        world->root, &(struct crlgen_params){.serials = {CRLGEN_SERIAL("\x05")}, .reason = 1});
    struct crl *crl = NULL;

    for (size_t len = 0; len < der.len; len++) {
        uint8_t *part = mem_dup(der.ptr, len + 1); /* its end is where memory ends */

        assert_true(err_is(crl_parse(bytes_of(part, len), &crl), E_CRL_SYNTAX));
        mem_free(part);
    }
    assert_true(err_is_ok(crl_parse(der, &crl)));
    crl_unref(crl);
    crlgen_free(der);
}

/* Looking one up must not be a walk: with a hundred thousand entries it would be seen in every
 * handshake. */
static void test_crl_with_100000_entries_is_asked_fast(void **state)
{
    const struct world *world = *state;
    struct crl *crl = NULL;
    clock_t began;
    size_t found = 0;

    assert_true(err_is_ok(parse(world->root, &(struct crlgen_params){.many = 100000}, &crl)));
    assert_int_equal(crl->num, 100000);
    began = clock();
    for (uint32_t i = 0; i < 700000; i++) {
        uint32_t number = 0x10000000u + i;
        char serial[4] = {(char)(number >> 24), (char)(number >> 16), (char)(number >> 8),
                          (char)number};

        found += has(crl, serial, 4);
    }
    assert_int_equal(found, 100000);                    /* each seventh, and no other */
    assert_true(clock() - began < 10 * CLOCKS_PER_SEC); /* takes 0.1 s; a walk would take hours */
    crl_unref(crl);
}

static void test_crl_has_bounds(void **state)
{
    const struct world *world = *state;
    struct crl *crl = NULL;
    uint8_t *huge = mem_zalloc(CRL_BYTES_MAX + 1);

    assert_true(err_is(crl_parse(bytes_of(huge, CRL_BYTES_MAX + 1), &crl), E_TOO_LARGE));
    assert_true(err_is(crl_parse(bytes_of(huge, CRL_BYTES_MAX), &crl), E_CRL_SYNTAX));
    mem_free(huge);
    assert_true(
        err_is(parse(world->root, &(struct crlgen_params){.many = CRL_ENTRIES_MAX + 1}, &crl),
               E_TOO_LARGE));
    assert_true(
        err_is_ok(parse(world->root, &(struct crlgen_params){.many = CRL_ENTRIES_MAX}, &crl)));
    crl_unref(crl);
}

/* ---- signatures ---- */

static bool signed_by(const struct crl *crl, EVP_PKEY *key)
{
    uint8_t sha256[32];
    bool first, again;

    assert_true(err_is_ok(key_spki_sha256(key, sha256)));
    first = crl_is_signed_by(crl, key, sha256);
    again = crl_is_signed_by(crl, key, sha256); /* from memory */
    assert_int_equal(first, again);
    return first;
}

static void test_crl_knows_its_signer_among_many_keys(void **state)
{
    static const enum certgen_key others[] = {CERTGEN_P256, CERTGEN_P256_CA, CERTGEN_P384,
                                              CERTGEN_RSA2048, CERTGEN_P256_OTHER};
    const struct world *world = *state;
    struct crl *crl = NULL;

    assert_true(err_is_ok(parse(world->root, &(struct crlgen_params){.version = 0}, &crl)));
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        assert_false(signed_by(crl, certgen_key(others[i])));
    assert_true(signed_by(crl, world->root->key)); /* there is no room to remember it any more */
    crl_unref(crl);
    assert_true(
        err_is_ok(parse(world->root, &(struct crlgen_params){.bad_signature = true}, &crl)));
    assert_false(signed_by(crl, world->root->key));
    crl_unref(crl);
}

static void test_crl_of_each_kind_of_key(void **state)
{
    static const enum certgen_key kinds[] = {CERTGEN_P256, CERTGEN_P384, CERTGEN_RSA2048};
    const struct world *world = *state;

    for (size_t i = 0; i < 2 * ARRAY_LEN(kinds); i++) {
        EVP_PKEY *key = certgen_key(kinds[i / 2]);
        struct crlgen_params params = {.key = key, .sha384 = i % 2 != 0};
        struct crl *crl = NULL;

        assert_true(err_is_ok(parse(world->root, &params, &crl)));
        assert_true(signed_by(crl, key));
        assert_false(signed_by(crl, world->root->key));
        crl_unref(crl);
    }
}

/* ---- sets ---- */

struct made {
    const struct certgen *issuer;
    struct crlgen_params params;
};

static err_t try_set(const struct bundle *bundle, const struct made *lists, size_t num,
                     const struct crl_set *before, struct crl_set **out)
{
    struct bytes texts[8];
    size_t at = SIZE_MAX;
    err_t err;

    assert_true(num <= ARRAY_LEN(texts));
    for (size_t i = 0; i < num; i++)
        texts[i] = crlgen_make(lists[i].issuer, &lists[i].params);
    err = crl_set_of(texts, num, bundle, CERTGEN_NOW, before, out, &at);
    if (!err_is_ok(err))
        assert_true(at < num);
    for (size_t i = 0; i < num; i++)
        crlgen_free(texts[i]);
    return err;
}

static struct crl_set *set_of(const struct world *world, const struct made *lists, size_t num)
{
    struct crl_set *set = NULL;
    err_t err = try_set(world->bundle, lists, num, NULL, &set);

    if (!err_is_ok(err))
        fail_msg("%s", err_name(err.code));
    return set;
}
#define SET(world, ...)                                 \
    set_of((world), (const struct made[]){__VA_ARGS__}, \
           sizeof((const struct made[]){__VA_ARGS__}) / sizeof(struct made))

/* What the set says of the world's peer; the set is gone then. */
static err_t ask(const struct world *world, struct crl_set *set, int64_t now_s)
{
    err_t err = crl_set_check(set, world->peer, now_s);

    crl_set_unref(set);
    return err;
}

static void test_every_issuer_of_the_path_needs_a_list(void **state)
{
    const struct world *world = *state;
    const struct made root = {world->root, {.version = 0}}, ca = {world->ca, {.version = 0}};
    err_t err;

    assert_true(err_is_ok(crl_set_check(NULL, world->peer, CERTGEN_NOW)));
    assert_true(err_is_ok(ask(world, SET(world, root, ca), CERTGEN_NOW)));
    assert_true(err_is_ok(ask(world, SET(world, ca, root), CERTGEN_NOW)));
    err = ask(world, SET(world, root), CERTGEN_NOW);
    assert_true(err_is(err, E_CRL_MISSING) && err.sub == 0); /* the leaf's */
    err = ask(world, SET(world, ca), CERTGEN_NOW);
    assert_true(err_is(err, E_CRL_MISSING) && err.sub == 1);
}

static void test_a_list_denies_whom_it_names(void **state)
{
    const struct world *world = *state;
    const struct made root = {world->root, {.serials = {CRLGEN_SERIAL("\x05")}}},
                      ca = {world->ca, {.serials = {CRLGEN_SERIAL("\x05")}}},
                      no_leaf = {world->ca,
                                 {.serials = {CRLGEN_SERIAL("\x05"), CRLGEN_SERIAL(LEAF_SERIAL)}}},
                      no_ca = {world->root, {.serials = {CRLGEN_SERIAL(CA_SERIAL)}}};

    assert_true(err_is_ok(ask(world, SET(world, root, ca), CERTGEN_NOW)));
    assert_true(err_is(ask(world, SET(world, root, no_leaf), CERTGEN_NOW), E_PEER_REVOKED));
    assert_true(err_is(ask(world, SET(world, no_ca, ca), CERTGEN_NOW), E_PEER_REVOKED));
}

/* A serial number is one of an issuer's: the same number of another is another certificate. */
static void test_a_list_speaks_for_its_issuer_alone(void **state)
{
    const struct world *world = *state;
    const struct made root = {world->root, {.serials = {CRLGEN_SERIAL(LEAF_SERIAL)}}},
                      ca = {world->ca, {.serials = {CRLGEN_SERIAL(CA_SERIAL)}}};

    assert_true(err_is_ok(ask(world, SET(world, root, ca), CERTGEN_NOW)));
}

static void test_a_list_is_stale_from_its_next_update_on(void **state)
{
    const struct world *world = *state;
    const struct made root = {world->root, {.version = 0}}, ca = {world->ca, {.next_s = -3600}};
    int64_t end = CERTGEN_NOW + 86400 - 3600;
    err_t err;

    assert_true(err_is_ok(ask(world, SET(world, root, ca), end - 1)));
    err = ask(world, SET(world, root, ca), end);
    assert_true(err_is(err, E_CRL_STALE) && err.sub == 0);
    err = ask(world, SET(world, root, ca), CERTGEN_NOW + 86400); /* both */
    assert_true(err_is(err, E_CRL_STALE) && err.sub == 0);
}

static void test_one_of_two_lists_that_is_not_stale_suffices(void **state)
{
    const struct world *world = *state;
    const struct made root = {world->root, {.version = 0}},
                      old = {world->ca, {.serials = {CRLGEN_SERIAL("\x05")}, .next_s = -87000}},
                      fresh = {world->ca, {.version = 0}},
                      naming = {world->ca,
                                {.serials = {CRLGEN_SERIAL(LEAF_SERIAL)}, .next_s = -87000}};

    assert_true(err_is(ask(world, SET(world, root, old), CERTGEN_NOW), E_CRL_STALE));
    assert_true(err_is_ok(ask(world, SET(world, root, old, fresh), CERTGEN_NOW)));
    assert_true(err_is(ask(world, SET(world, root, naming, fresh), CERTGEN_NOW), E_PEER_REVOKED));
}

static void test_revoked_comes_before_missing_and_stale(void **state)
{
    const struct world *world = *state;
    const struct made no_ca = {world->root, {.serials = {CRLGEN_SERIAL(CA_SERIAL)}}},
                      stale = {world->ca, {.next_s = -87000}},
                      stale_no_leaf = {world->ca,
                                       {.serials = {CRLGEN_SERIAL(LEAF_SERIAL)}, .next_s = -87000}};

    assert_true(err_is(ask(world, SET(world, no_ca), CERTGEN_NOW), E_PEER_REVOKED));
    assert_true(err_is(ask(world, SET(world, no_ca, stale), CERTGEN_NOW), E_PEER_REVOKED));
    assert_true(err_is(ask(world, SET(world, stale_no_leaf), CERTGEN_NOW), E_PEER_REVOKED));
}

/* Where the issuer is in the truststore a wrong signature is found when the list is read; that of
 * an intermediate's when a peer comes with it. */
static void test_a_list_must_be_signed_by_the_issuer_it_names(void **state)
{
    const struct world *world = *state;
    EVP_PKEY *other = certgen_key(CERTGEN_P256_OTHER);
    const struct made root = {world->root, {.version = 0}}, ca = {world->ca, {.version = 0}},
                      forged_root = {world->root, {.key = other}},
                      broken_root = {world->root, {.bad_signature = true}},
                      forged_ca = {world->ca, {.key = other}},
                      renamed_ca = {world->ca, {.issuer_name = "somebody"}},
                      renamed_root = {world->root, {.issuer_name = "somebody"}},
                      roots_for_ca = {world->root, {.issuer_name = "ca"}};
    struct crl_set *set = NULL;
    struct made two[2] = {forged_root, ca};

    assert_true(err_is(try_set(world->bundle, two, 2, NULL, &set), E_CRL_SIGNATURE));
    two[0] = broken_root;
    assert_true(err_is(try_set(world->bundle, two, 2, NULL, &set), E_CRL_SIGNATURE));
    assert_true(err_is(ask(world, SET(world, root, forged_ca), CERTGEN_NOW), E_CRL_MISSING));
    assert_true(err_is(ask(world, SET(world, root, renamed_ca), CERTGEN_NOW), E_CRL_MISSING));
    assert_true(err_is(ask(world, SET(world, renamed_root, ca), CERTGEN_NOW), E_CRL_MISSING));
    assert_true(err_is(ask(world, SET(world, root, roots_for_ca), CERTGEN_NOW), E_CRL_MISSING));
    assert_true(err_is_ok(ask(world, SET(world, root, forged_ca, ca), CERTGEN_NOW)));
}

static void test_an_issuer_whose_key_usage_forbids_it_has_no_list(void **state)
{
    const struct world *world = *state;
    struct certgen *root = certgen_make(
        NULL, &(struct certgen_params){
                  .ca = true, .key = CERTGEN_P256_ROOT, .usage_bits = CERTGEN_KU_CERT_SIGN});
    struct certgen *ca = certgen_make(
        world->root, &(struct certgen_params){
                         .ca = true, .key = CERTGEN_P256_CA, .usage_bits = CERTGEN_KU_CERT_SIGN});
    struct certgen *leaf = certgen_make(ca, &(struct certgen_params){.version = 0});
    struct bundle *bundle = bundle_with(root);
    struct peer *peer = peer_of(world->bundle, leaf, ca);
    const struct made of_root = {root, {.version = 0}};
    struct crl_set *set = NULL;

    assert_true(err_is(try_set(bundle, &of_root, 1, NULL, &set), E_CRL_SIGNATURE));
    set = SET(world, {world->root, {.version = 0}}, {ca, {.version = 0}});
    assert_true(err_is(crl_set_check(set, peer, CERTGEN_NOW), E_CRL_MISSING));
    assert_true(err_is_ok(crl_set_check(set, world->peer, CERTGEN_NOW))); /* who may, same key */
    crl_set_unref(set);
    peer_unref(peer);
    bundle_unref(bundle);
    certgen_free(leaf);
    certgen_free(ca);
    certgen_free(root);
}

/* The path ends at a certificate of the truststore: what is above that one is nobody's affair. */
static void test_nothing_is_asked_at_the_anchor_and_above(void **state)
{
    const struct world *world = *state;
    struct bundle *issuing = bundle_with(world->ca);
    struct peer *peer = peer_of(issuing, world->leaf, world->ca);
    const struct made ca = {world->ca, {.version = 0}},
                      no_ca = {world->root, {.serials = {CRLGEN_SERIAL(CA_SERIAL)}}};
    struct made two[2] = {ca, no_ca};
    struct crl_set *set = NULL;

    assert_true(err_is_ok(try_set(issuing, two, 2, NULL, &set)));
    assert_int_equal(peer->num_issuers, 1);
    assert_true(err_is_ok(crl_set_check(set, peer, CERTGEN_NOW)));
    crl_set_unref(set);
    assert_true(err_is_ok(try_set(issuing, &no_ca, 1, NULL, &set)));
    assert_true(err_is(crl_set_check(set, peer, CERTGEN_NOW), E_CRL_MISSING));
    crl_set_unref(set);
    peer_unref(peer);
    bundle_unref(issuing);
}

static void test_a_list_of_the_future_is_refused(void **state)
{
    const struct world *world = *state;
    struct made root = {world->root, {.this_s = 3600 + CRL_SKEW_S}};
    struct crl_set *set = NULL;
    err_t err;

    assert_true(err_is_ok(try_set(world->bundle, &root, 1, NULL, &set)));
    crl_set_unref(set);
    root.params.this_s++;
    err = try_set(world->bundle, &root, 1, NULL, &set);
    assert_true(err_is(err, E_CRL_NOT_YET_VALID) && err.sub == CRL_SKEW_S + 1);
}

static void test_a_stale_list_does_not_take_the_place_of_a_good_one(void **state)
{
    const struct world *world = *state;
    const struct made good = {world->root, {.version = 0}},
                      stale = {world->root, {.next_s = -86400 - 60}},
                      other = {world->ca, {.next_s = -86400 - 60}};
    struct crl_set *before = SET(world, good), *set = NULL;
    err_t err = try_set(world->bundle, &stale, 1, before, &set);

    assert_true(err_is(err, E_CRL_STALE) && err.sub == 60);
    /* Where nothing better is in force it is taken, and handshakes say why they fail. */
    assert_true(err_is_ok(try_set(world->bundle, &other, 1, before, &set)));
    crl_set_unref(before);
    before = set;
    assert_true(err_is_ok(try_set(world->bundle, &stale, 1, before, &set)));
    assert_int_equal(crl_set_next_update(set), CERTGEN_NOW - 60);
    crl_set_unref(before);
    crl_set_unref(set);
}

/* ---- texts ---- */

static void add_pem(struct buf *out, const char *label, const struct made *list)
{
    struct bytes der = crlgen_make(list->issuer, &list->params);

    assert_true(err_is_ok(pem_write(label, der, out)));
    crlgen_free(der);
}

static err_t set_of_text(const struct world *world, struct bytes text, const struct crl_set *before,
                         struct crl_set **out)
{
    size_t at;

    return crl_set_of(&text, 1, world->bundle, CERTGEN_NOW, before, out, &at);
}

static void test_a_text_holds_any_number_of_lists(void **state)
{
    const struct world *world = *state;
    const struct made root = {world->root, {.version = 0}}, ca = {world->ca, {.version = 0}};
    struct buf text = {.data = NULL};
    struct crl_set *set = NULL, *again = NULL;

    assert_true(err_is_ok(buf_add_str(&text, "# lists\n")));
    add_pem(&text, "X509 CRL", &root);
    assert_true(
        err_is_ok(pem_write("CERTIFICATE", certgen_der(world->root), &text))); /* passed over */
    add_pem(&text, "X509 CRL", &ca);
    assert_true(err_is_ok(set_of_text(world, buf_view(&text), NULL, &set)));
    assert_int_equal(set->num, 2);
    assert_true(err_is_ok(crl_set_check(set, world->peer, CERTGEN_NOW)));

    /* What has not changed is the same in memory, and the hash says so. */
    assert_true(err_is_ok(set_of_text(world, buf_view(&text), set, &again)));
    assert_ptr_equal(set->lists[0], again->lists[0]);
    assert_ptr_equal(set->lists[1], again->lists[1]);
    assert_memory_equal(set->hash, again->hash, sizeof(set->hash));
    crl_set_unref(again);

    add_pem(&text, "X509 CRL", &(struct made){world->ca, {.serials = {CRLGEN_SERIAL("\x05")}}});
    assert_true(err_is_ok(set_of_text(world, buf_view(&text), set, &again)));
    assert_int_equal(again->num, 3);
    assert_true(memcmp(set->hash, again->hash, sizeof(set->hash)) != 0);
    crl_set_unref(again);
    crl_set_unref(set);
    buf_fini(&text);
}

static void test_a_text_without_a_list_is_a_fault(void **state)
{
    const struct world *world = *state;
    const struct made bad = {world->root, {.delta = true}}, good = {world->root, {.version = 0}};
    struct buf text = {.data = NULL};
    struct crl_set *set = NULL;

    assert_true(err_is(set_of_text(world, bytes_of("", 0), NULL, &set), E_PEM_EMPTY));
    assert_true(err_is(set_of_text(world, bytes_of_str("none\n"), NULL, &set), E_PEM_EMPTY));
    assert_true(err_is(set_of_text(world, bytes_of_str("-----BEGIN X509 CRL-----\n"), NULL, &set),
                       E_PEM_SYNTAX));
    assert_true(err_is_ok(pem_write("CERTIFICATE", certgen_der(world->root), &text)));
    assert_true(err_is(set_of_text(world, buf_view(&text), NULL, &set), E_PEM_EMPTY));
    add_pem(&text, "X509 CRL", &good);
    add_pem(&text, "X509 CRL", &bad); /* one bad list spoils all */
    assert_true(err_is(set_of_text(world, buf_view(&text), NULL, &set), E_CRL_DELTA));
    buf_fini(&text);
}

static void test_a_set_has_a_bounded_number_of_lists(void **state)
{
    const struct world *world = *state;
    struct buf text = {.data = NULL};
    struct crl_set *set = NULL;

    for (int i = 0; i < CRL_SET_LISTS_MAX; i++)
        add_pem(&text, "X509 CRL", &(struct made){world->ca, {.next_s = i}});
    assert_true(err_is_ok(set_of_text(world, buf_view(&text), NULL, &set)));
    assert_int_equal(set->num, CRL_SET_LISTS_MAX);
    assert_int_equal(crl_set_next_update(set), CERTGEN_NOW + 86400);
    assert_int_equal(crl_set_this_update(set), CERTGEN_NOW - 3600);
    crl_set_unref(set);
    add_pem(&text, "X509 CRL", &(struct made){world->ca, {.next_s = -1}});
    assert_true(err_is(set_of_text(world, buf_view(&text), NULL, &set), E_LIMIT));
    buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crl_says_what_it_is),
        cmocka_unit_test(test_crl_takes_what_is_in_order),
        cmocka_unit_test(test_crl_refuses_what_is_not),
        cmocka_unit_test(test_crl_refuses_what_is_none),
        cmocka_unit_test(test_crl_refuses_each_part_of_itself),
        cmocka_unit_test(test_crl_with_100000_entries_is_asked_fast),
        cmocka_unit_test(test_crl_has_bounds),
        cmocka_unit_test(test_crl_knows_its_signer_among_many_keys),
        cmocka_unit_test(test_crl_of_each_kind_of_key),
        cmocka_unit_test(test_every_issuer_of_the_path_needs_a_list),
        cmocka_unit_test(test_a_list_denies_whom_it_names),
        cmocka_unit_test(test_a_list_speaks_for_its_issuer_alone),
        cmocka_unit_test(test_a_list_is_stale_from_its_next_update_on),
        cmocka_unit_test(test_one_of_two_lists_that_is_not_stale_suffices),
        cmocka_unit_test(test_revoked_comes_before_missing_and_stale),
        cmocka_unit_test(test_a_list_must_be_signed_by_the_issuer_it_names),
        cmocka_unit_test(test_an_issuer_whose_key_usage_forbids_it_has_no_list),
        cmocka_unit_test(test_nothing_is_asked_at_the_anchor_and_above),
        cmocka_unit_test(test_a_list_of_the_future_is_refused),
        cmocka_unit_test(test_a_stale_list_does_not_take_the_place_of_a_good_one),
        cmocka_unit_test(test_a_text_holds_any_number_of_lists),
        cmocka_unit_test(test_a_text_without_a_list_is_a_fault),
        cmocka_unit_test(test_a_set_has_a_bounded_number_of_lists),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
