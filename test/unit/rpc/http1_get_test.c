/* Where a document is fetched from is said by one address in one form. Without it: a slip sends the
 * question in plaintext, to another port, or with a name and a password in the log. What is
 * answered there is tried in test/e2e/oidc.py.
 *
 * Drives: R64, R36 */
#include "lib/rpc/http1_get.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

static void check(const char *url, const char *host, unsigned port, const char *path, bool address)
{
    struct http1_url got;

    assert_int_equal(http1_url_parse(url, &got).code, E_OK);
    assert_string_equal(got.host, host);
    assert_int_equal(got.port, port);
    assert_string_equal(got.path, path);
    assert_int_equal(got.is_address, address);
}

static void test_the_parts_of_an_address(void **state)
{
    (void)state;
    check("https://id.example", "id.example", 443, "/", false);
    check("https://id.example/", "id.example", 443, "/", false);
    check("https://id.example:8443/a/b.json?x=1&y", "id.example", 8443, "/a/b.json?x=1&y", false);
    check("https://192.0.2.1/keys", "192.0.2.1", 443, "/keys", true);
    check("https://[2001:db8::1]:444/keys", "2001:db8::1", 444, "/keys", true);
}

static void test_everything_else_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "id.example/keys",
        "http://id.example/keys",
        "HTTPS://id.example/keys",
        "https:/id.example/keys",
        "https:///keys",
        "https://",
        "https://user@id.example/keys",
        "https://user:word@id.example/keys",
        "https://id.example/keys#first",
        "https://id.example#first",
        "https://id.example?x=1",
        "https://id.example:0/keys",
        "https://id.example:65536/keys",
        "https://id.example:x/keys",
        "https://id.example/a b",
        "https://id.example/keys\r\nHost: other",
        "https://id.example/\x7f",
        "https://id.ex\xc3\xa4mple/",
        "file:///etc/passwd",
    };
    struct http1_url got;
    char long_url[HTTP1_URL_MAX + 2];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (err_is_ok(http1_url_parse(bad[i], &got)))
            fail_msg("%s was taken", bad[i]);
    }
    memset(long_url, 'a', sizeof(long_url));
    memcpy(long_url, "https://id.example/", 19);
    long_url[HTTP1_URL_MAX + 1] = '\0';
    assert_int_equal(http1_url_parse(long_url, &got).code, E_SYNTAX);
    long_url[HTTP1_URL_MAX] = '\0';
    assert_int_equal(http1_url_parse(long_url, &got).code, E_OK);
    long_url[HTTP1_HOST_MAX + 9] = '\0';
    memset(long_url + 8, 'a', HTTP1_HOST_MAX + 1);
    assert_int_equal(http1_url_parse(long_url, &got).code, E_SYNTAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_parts_of_an_address),
        cmocka_unit_test(test_everything_else_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
