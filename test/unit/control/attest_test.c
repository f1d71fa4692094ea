/* Join tokens: one key owns one, for a while.
 * Without it: a token that was seen in a log or a script joins strangers to the mesh.
 * Drives: R36, R50. */
#include "control/attest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

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

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_token_has_the_form_that_is_promised),
        TEST(test_the_store_holds_no_token),
        TEST(test_the_same_key_may_ask_again_and_no_other),
        TEST(test_a_token_ends_for_everybody),
        TEST(test_what_is_no_token_is_unknown),
        TEST(test_old_tokens_go_and_young_ones_stay),
        TEST(test_no_token_is_given_that_was_not_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
