/* What a client offered, in words, and the key by which both ends call a handshake. Without it
 * `why` shows an operator numbers, or what a client made up byte by byte. Drives: F12, R14. */
#include "certs/shown.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static void check_text(const struct shown_hello *hello, const char *wanted)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};

    assert_int_equal(shown_hello_text(hello, &text).code, E_OK);
    CLEANUP(mem_freep) char *got = buf_take_str(&text);
    assert_string_equal(got, wanted);
}

/* As the early callback has it. */
static SSL_CLIENT_HELLO client_hello(const uint8_t *suites, size_t suites_len,
                                     const uint8_t *extensions, size_t extensions_len)
{
    static const uint8_t random[SSL3_RANDOM_SIZE] = {1, 2, 3};

    return (SSL_CLIENT_HELLO){
        .version = TLS1_2_VERSION,
        .random = random,
        .random_len = sizeof(random),
        .cipher_suites = suites,
        .cipher_suites_len = suites_len,
        .extensions = extensions,
        .extensions_len = extensions_len,
    };
}

static void test_a_hello_in_words(void **state)
{
    /* GREASE, TLS_AES_128_GCM_SHA256, an unknown one, the renegotiation signal. */
    static const uint8_t suites[] = {0x1a, 0x1a, 0x13, 0x01, 0x12, 0x34, 0x00, 0xff};
    static const uint8_t extensions[] = {
        0, 10, 0, 8, 0, 6,    0x2a, 0x2a, 0, 29, 0, 23, /* supported_groups */
        0, 43, 0, 7, 6, 0x3a, 0x3a, 3,    4, 3,  3,     /* supported_versions */
    };
    SSL_CLIENT_HELLO hello = client_hello(suites, sizeof(suites), extensions, sizeof(extensions));
    struct shown_hello shown;

    (void)state;
    shown_hello_note(&hello, &shown);
    assert_true(shown.seen);
    check_text(&shown, "TLS1_3, TLS1_2; TLS_AES_128_GCM_SHA256, 0x1234; X25519, P-256");
}

static void test_an_old_hello_has_one_version(void **state)
{
    static const uint8_t suites[] = {0xc0, 0x2b};
    SSL_CLIENT_HELLO hello = client_hello(suites, sizeof(suites), NULL, 0);
    struct shown_hello shown;

    (void)state;
    shown_hello_note(&hello, &shown);
    check_text(&shown, "TLS1_2; TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256; none");
}

/* Lists that are longer than anybody's, or cut off, take no more room. */
static void test_long_and_broken_lists_are_cut(void **state)
{
    static const uint8_t broken[] = {0, 10, 0, 3, 0, 200, 1, 0, 43, 0, 1, 9};
    uint8_t suites[60000];
    SSL_CLIENT_HELLO hello = client_hello(suites, sizeof(suites), broken, sizeof(broken));
    struct shown_hello shown;

    (void)state;
    memset(suites, 0x77, sizeof(suites));
    shown_hello_note(&hello, &shown);
    assert_int_equal(shown.num_suites, SHOWN_SUITES_MAX);
    assert_true(shown.more);
    assert_int_equal(shown.num_groups, 0);
    hello.cipher_suites_len = 1;
    shown_hello_note(&hello, &shown);
    assert_int_equal(shown.num_suites, 0);
}

static void test_keys(void **state)
{
    uint8_t one[SSL3_RANDOM_SIZE] = {1}, other[SSL3_RANDOM_SIZE] = {2};
    char text[SHOWN_KEY_MAX];

    (void)state;
    assert_true(shown_key_number(one) == shown_key_number(one));
    assert_true(shown_key_number(one) != shown_key_number(other));
    shown_key_text(0, text);
    assert_string_equal(text, "");
    shown_key_text(0xabc, text);
    assert_string_equal(text, "0000000000000abc");
    assert_true(shown_key_of(NULL) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_hello_in_words),
        cmocka_unit_test(test_an_old_hello_has_one_version),
        cmocka_unit_test(test_long_and_broken_lists_are_cut),
        cmocka_unit_test(test_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
