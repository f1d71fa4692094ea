/* The settings: their table, what spans several rows, and that all faults come at once.
 *
 * Drives: R14, R15, B6, R61 */
#include "proxy/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"

struct parsed {
    struct config config;
    struct options_result result;
    struct faults faults;
};

static void parse(struct parsed *out, char **environment, char **argv)
{
    struct config_args args = {.argv = argv, .environment = environment};

    memset(out, 0, sizeof(*out));
    while (argv[args.argc] != NULL)
        args.argc++;
    config_parse(&args, &out->config, &out->result, &out->faults);
    config_check(&out->config, &out->faults);
}

static void parsed_fini(struct parsed *parsed)
{
    config_free(&parsed->config);
    faults_fini(&parsed->faults);
}

#define ARGV(...) ((char *[]){(char[]){"mortise-proxy"}, __VA_ARGS__, NULL})
#define ARG(text) ((char[]){text})
static char *const nothing[] = {NULL};
#define NOTHING ((char **)(uintptr_t)nothing)

static bool has_fault(const struct parsed *parsed, const char *path, const char *text)
{
    for (size_t i = 0; i < parsed->faults.num; i++) {
        if (strcmp(parsed->faults.items[i].path, path) == 0 &&
            strstr(parsed->faults.items[i].message, text) != NULL)
            return true;
    }
    return false;
}

static void test_defaults_are_safe(void **state)
{
    struct parsed parsed;
    struct tunables tunables;

    (void)state;
    parse(&parsed, NOTHING, ARGV(ARG("--config"), ARG("x.yaml")));
    assert_int_equal(parsed.faults.total, 0);
    tunables = config_tunables(&parsed.config);
    assert_int_equal(tunables.handshake_ms, 10000);
    assert_int_equal(tunables.connect_ms, 5000);
    assert_int_equal(tunables.idle_ms, 3600000);
    assert_int_equal(tunables.stall_ms, 30000);
    assert_int_equal(tunables.drain_ms, 30000);
    assert_true(tunables.max_connections > 0 && tunables.max_handshakes > 0);
    assert_null(parsed.config.admin_listen); /* nothing that administers is open by itself */
    assert_null(parsed.config.metrics_listen);
    assert_true(config_is_static(&parsed.config));
    parsed_fini(&parsed);
}

static void test_a_control_plane_needs_all_that_identifies_it(void **state)
{
    struct parsed parsed;

    (void)state;
    parse(&parsed, NOTHING, ARGV(ARG("--control"), ARG("control:15010")));
    assert_true(has_fault(&parsed, "--trust-domain", "is needed"));
    assert_true(has_fault(&parsed, "--trust-bundle", "is needed"));
    assert_true(has_fault(&parsed, "--join-token-file", "MORTISE_JOIN_TOKEN"));
    assert_int_equal(parsed.faults.total, 3);
    parsed_fini(&parsed);

    parse(&parsed, (char *[]){ARG("MORTISE_JOIN_TOKEN=mjt1.abc"), NULL},
          ARGV(ARG("--control"), ARG("control:15010"), ARG("--trust-domain"), ARG("mesh.test"),
               ARG("--trust-bundle"), ARG("roots.pem")));
    assert_int_equal(parsed.faults.total, 0);
    assert_false(config_is_static(&parsed.config));
    assert_string_equal(parsed.config.join_token, "mjt1.abc");
    parsed_fini(&parsed);
}

static void test_a_cache_needs_its_key_and_an_identity_its_trust_domain(void **state)
{
#define BASE                                                                         \
    ARG("--control"), ARG("control:15010"), ARG("--trust-domain"), ARG("mesh.test"), \
        ARG("--trust-bundle"), ARG("roots.pem")
    struct parsed parsed;

    (void)state;
    /* With a cache there may be nothing to join with. */
    parse(&parsed, NOTHING,
          ARGV(BASE, ARG("--cache-dir"), ARG("cache"), ARG("--cache-key-file"), ARG("key"),
               ARG("--identity"), ARG("spiffe://mesh.test/ns/apim/sa/portal")));
    assert_int_equal(parsed.faults.total, 0);
    parsed_fini(&parsed);
    parse(&parsed, NOTHING, ARGV(BASE, ARG("--cache-dir"), ARG("cache")));
    assert_true(has_fault(&parsed, "--cache-key-file", "is missing"));
    assert_int_equal(parsed.faults.total, 1);
    parsed_fini(&parsed);
    parse(&parsed, NOTHING,
          ARGV(BASE, ARG("--cache-key-file"), ARG("key"), ARG("--identity"),
               ARG("spiffe://other.test/ns/apim/sa/portal")));
    assert_true(has_fault(&parsed, "--cache-dir", "is missing"));
    assert_true(has_fault(&parsed, "--join-token-file", "MORTISE_JOIN_TOKEN"));
    assert_true(has_fault(&parsed, "--identity", "mesh.test"));
    parsed_fini(&parsed);
    parse(&parsed, NOTHING, ARGV(BASE, ARG("--identity"), ARG("portal")));
    assert_true(has_fault(&parsed, "--identity", "not a SPIFFE ID"));
    parsed_fini(&parsed);
    parse(&parsed, NOTHING, ARGV(ARG("--config"), ARG("x.yaml"), ARG("--cache-dir"), ARG("cache")));
    assert_true(has_fault(&parsed, "--cache-dir", "no meaning"));
    parsed_fini(&parsed);
#undef BASE
}

static void test_a_token_is_no_flag(void **state)
{
    struct parsed parsed;

    (void)state;
    parse(&parsed, NOTHING, ARGV(ARG("--join-token"), ARG("mjt1.secret")));
    assert_true(has_fault(&parsed, "--join-token", "MORTISE_JOIN_TOKEN"));
    for (size_t i = 0; i < parsed.faults.num; i++)
        assert_null(strstr(parsed.faults.items[i].message, "secret"));
    assert_null(parsed.config.join_token);
    parsed_fini(&parsed);
}

static void test_a_used_token_is_wiped_everywhere(void **state)
{
    char variable[] = "MORTISE_JOIN_TOKEN=mjt1.secret", other[] = "PATH=/bin";
    char *environment[] = {other, variable, NULL};
    struct parsed parsed;

    (void)state;
    parse(&parsed, environment, ARGV(ARG("--check")));
    assert_string_equal(parsed.config.join_token, "mjt1.secret");
    config_wipe_secrets(&parsed.config, environment);
    assert_null(parsed.config.join_token);
    assert_null(memmem(variable, sizeof(variable), "secret", 6));
    assert_string_equal(other, "PATH=/bin");
    parsed_fini(&parsed);
}

static void test_all_faults_at_once(void **state)
{
    struct parsed parsed;

    (void)state;
    parse(&parsed, NOTHING,
          ARGV(ARG("--config"), ARG("x"), ARG("--control"), ARG("y:1"), ARG("--workers=300"),
               ARG("--idle-timeout=10"), ARG("--admin-listen=127.0.0.1:1"),
               ARG("--metrics-listen=here"), ARG("--log-level=info,tls=lots"), ARG("--log-frmat=x"),
               ARG("operand")));
    assert_true(has_fault(&parsed, "--config", "one of the two"));
    assert_true(has_fault(&parsed, "--workers", "0 to 256"));
    assert_true(has_fault(&parsed, "--idle-timeout", ""));
    assert_true(has_fault(&parsed, "--admin-listen", "unix:PATH"));
    assert_true(has_fault(&parsed, "--metrics-listen", "not an address"));
    assert_true(has_fault(&parsed, "--log-level", "tls=lots"));
    assert_true(has_fault(&parsed, "--log-frmat", "--log-format"));
    parsed_fini(&parsed);
}

static void test_what_belongs_to_the_other_mode_is_told(void **state)
{
    struct parsed parsed;

    (void)state;
    parse(&parsed, NOTHING,
          ARGV(ARG("--config"), ARG("x"), ARG("--trust-domain=a"), ARG("--advertise=1.2.3.4:5")));
    assert_true(has_fault(&parsed, "--trust-domain", "no meaning"));
    assert_true(has_fault(&parsed, "--advertise", "no meaning"));
    parsed_fini(&parsed);
}

static void test_judging_a_log_level_does_not_set_it(void **state)
{
    char before[LOG_SPEC_MAX], after[LOG_SPEC_MAX];
    struct parsed parsed;

    (void)state;
    log_spec(before, sizeof(before));
    parse(&parsed, NOTHING, ARGV(ARG("--config=x"), ARG("--log-level=debug")));
    assert_int_equal(parsed.faults.total, 0);
    log_spec(after, sizeof(after));
    assert_string_equal(before, after);
    parsed_fini(&parsed);
}

static void test_keys_of_a_file_are_suggested(void **state)
{
    char *key;

    (void)state;
    key = options_nearest_key(config_options, "idle_timout");
    assert_string_equal(key, "idle_timeout");
    mem_free(key);
    assert_null(options_nearest_key(config_options, "zzzzzzzzzz"));
    assert_null(
        options_nearest_key(config_options, "join_token")); /* not from a file: not suggested */
}

static void test_what_only_a_restart_changes_is_named(void **state)
{
    struct parsed old, new;
    struct buf names = {.data = NULL};

    (void)state;
    parse(&old, NOTHING, ARGV(ARG("--config=x"), ARG("--workers=1")));
    parse(&new, NOTHING,
          ARGV(ARG("--config=x"), ARG("--workers=2"), ARG("--idle-timeout=5m"),
               ARG("--metrics-listen=127.0.0.1:1")));
    assert_false(config_restart_needed(&old.config, &old.config, &names));
    assert_true(config_restart_needed(&old.config, &new.config, &names));
    assert_true(bytes_equal_str(buf_view(&names), "workers,metrics-listen"));
    buf_fini(&names);
    parsed_fini(&old);
    parsed_fini(&new);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_safe),
        cmocka_unit_test(test_a_control_plane_needs_all_that_identifies_it),
        cmocka_unit_test(test_a_cache_needs_its_key_and_an_identity_its_trust_domain),
        cmocka_unit_test(test_a_token_is_no_flag),
        cmocka_unit_test(test_a_used_token_is_wiped_everywhere),
        cmocka_unit_test(test_all_faults_at_once),
        cmocka_unit_test(test_what_belongs_to_the_other_mode_is_told),
        cmocka_unit_test(test_judging_a_log_level_does_not_set_it),
        cmocka_unit_test(test_keys_of_a_file_are_suggested),
        cmocka_unit_test(test_what_only_a_restart_changes_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
