/* Without this a rule could be missing from the kernel's table, and an application's connections
 * would leave in plaintext, or a stranger's arrive. Drives: R18, R19 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "proxy/redirect/rules.h"

#define ARGS_MAX 16

/* Splits a command line at its spaces. */
static err_t parse(const char *line, struct rules *rules, struct faults *faults)
{
    CLEANUP(mem_freep) char *words = mem_strdup(line);
    struct options_result result = {.help = false};
    char *argv[ARGS_MAX + 1] = {words};
    int argc = 1;

    for (char *at = strchr(words, ' '); at != NULL; at = strchr(at, ' ')) {
        *at++ = '\0';
        assert_true(argc < ARGS_MAX);
        argv[argc++] = at;
    }
    *rules = (struct rules){.nft = NULL};
    return rules_parse(argc, argv, rules, &result, faults);
}

static char *text_of(const char *line)
{
    struct faults faults = {.num = 0};
    struct rules rules;
    struct buf out = {.data = NULL};

    assert_true(err_is_ok(parse(line, &rules, &faults)));
    rules_text(&rules, &out);
    rules_free(&rules);
    faults_fini(&faults);
    return buf_take_str(&out);
}

static void assert_has(const char *line, const char *wanted)
{
    CLEANUP(mem_freep) char *text = text_of(line);

    if (strstr(text, wanted) == NULL)
        fail_msg("%s gives no \"%s\":\n%s", line, wanted, text);
}

static void assert_lacks(const char *line, const char *unwanted)
{
    CLEANUP(mem_freep) char *text = text_of(line);

    if (strstr(text, unwanted) != NULL)
        fail_msg("%s gives \"%s\":\n%s", line, unwanted, text);
}

static void assert_refused(const char *line, const char *path, const char *words)
{
    struct faults faults = {.num = 0};
    struct rules rules;

    assert_true(err_is(parse(line, &rules, &faults), E_CONFIG_INVALID));
    assert_string_equal(faults.items[0].path, path);
    if (strstr(faults.items[0].message, words) == NULL)
        fail_msg("%s: %s", line, faults.items[0].message);
    rules_free(&rules);
    faults_fini(&faults);
}

/* ---- text ---- */

static void test_the_whole_of_the_default(void **state)
{
    CLEANUP(mem_freep) char *text = text_of("mortise-redirect");
    const char *body = strstr(text, "    chain outbound");

    (void)state;
    assert_memory_equal(text, "table inet mortise { }\ndelete table inet mortise\n", 48);
    assert_non_null(body);
    assert_string_equal(body, "    chain outbound {\n"
                              "        type nat hook output priority -101; policy accept;\n"
                              "        meta skuid { 1337 } ip daddr != 127.0.0.1 return\n"
                              "        meta skuid { 1337 } ip6 daddr != ::1 return\n"
                              "        fib daddr type local tcp dport != 15999 return\n"
                              "        goto captured\n"
                              "    }\n"
                              "    chain captured {\n"
                              "        meta l4proto tcp redirect to :15001\n"
                              "    }\n"
                              "    chain inbound {\n"
                              "        type filter hook input priority 0; policy accept;\n"
                              "        iif \"lo\" accept\n"
                              "        ct state established,related accept\n"
                              "        tcp dport { 15443 } accept\n"
                              "        meta l4proto tcp counter reject with tcp reset\n"
                              "    }\n"
                              "}\n");
}

static void test_what_is_left_alone(void **state)
{
    (void)state;
    assert_has("x --uid 1337 --uid 1338 --gid 7",
               "meta skuid { 1337, 1338 } ip daddr != 127.0.0.1 return\n");
    assert_has("x --gid 7", "meta skgid { 7 } ip6 daddr != ::1 return\n");
    assert_has("x --exclude-port 443 --exclude-port 22 --exclude-port 443",
               "tcp dport { 22, 443 } return\n");
    assert_has("x --exclude-cidr 10.0.0.0/8 --exclude-cidr fd00::/8",
               "        ip daddr { 10.0.0.0/8 } return\n        ip6 daddr { fd00::/8 } return\n");
    assert_has("x --open-port 9100 --inbound-port 15444", "tcp dport { 9100, 15444 } accept\n");
}

/* nft takes no set whose members overlap. */
static void test_ranges_in_ranges_are_left_out(void **state)
{
    (void)state;
    assert_has("x --exclude-cidr 10.1.0.0/16 --exclude-cidr 10.0.0.0/8 --exclude-cidr 10.0.0.0/8 "
               "--exclude-cidr 192.168.0.1",
               "ip daddr { 10.0.0.0/8, 192.168.0.1/32 } return\n");
}

static void test_only_the_mesh_is_captured_where_that_is_said(void **state)
{
    static const char line[] = "x --capture-cidr 10.0.0.0/8 --capture-cidr fd00::/8";

    (void)state;
    assert_has(line, "        ip daddr { 127.0.0.1, 10.0.0.0/8 } goto captured\n"
                     "        ip6 daddr { ::1, fd00::/8 } goto captured\n    }\n");
    assert_lacks(line, "        goto captured\n");
}

static void test_what_is_not_tcp(void **state)
{
    (void)state;
    assert_lacks("x", "chain others");
    assert_has("x --not-tcp dns", "udp dport 53 accept\n        counter reject");
    assert_has("x --not-tcp deny", "chain others_inbound");
    assert_lacks("x --not-tcp deny", "udp dport");
}

static void test_a_port_may_be_taken(void **state)
{
    static const char line[] = "x --take-port 8080:15080 --take-port 8081:15081";

    (void)state;
    assert_lacks("x", "chain taken");
    assert_has(line, "        fib daddr type local tcp dport 8080 redirect to :15080\n"
                     "        fib daddr type local tcp dport 8081 redirect to :15081\n    }\n");
    assert_has(line, "        tcp dport 15081 ct status dnat accept\n        meta l4proto tcp");
    assert_lacks("x --inbound open --take-port 8080:15080", "ct status");
}

static void test_what_arrives_may_be_left_open(void **state)
{
    (void)state;
    assert_lacks("x --inbound open", "chain inbound");
}

static void test_other_settings_have_another_comment(void **state)
{
    CLEANUP(mem_freep)
    char *one = text_of("x"), *same = text_of("x --uid 1337"), *other = text_of("x --uid 1338");

    (void)state;
    assert_string_equal(one, same);
    assert_string_not_equal(strndupa(strstr(one, "comment"), 40),
                            strndupa(strstr(other, "comment"), 40));
}

/* ---- faults ---- */

static void test_what_is_wrong_is_named(void **state)
{
    (void)state;
    assert_refused("x --uid root", "--uid", "\"root\" is no number from 0 to 4294967294");
    assert_refused("x --uid 4294967295", "--uid", "no number");
    assert_refused("x --uid 007", "--uid", "no number");
    assert_refused("x --uid=", "--uid", "would be captured");
    assert_refused("x --exclude-port 0", "--exclude-port", "from 1 to 65535");
    assert_refused("x --exclude-port 65536", "--exclude-port", "from 1 to 65535");
    assert_refused("x --exclude-port 1;drop", "--exclude-port", "no number");
    assert_refused("x --exclude-cidr 10.0.0.1/8", "--exclude-cidr", "bits behind the prefix");
    assert_refused("x --capture-cidr 10.0.0.0/8}accept", "--capture-cidr", "no range");
    assert_refused("x --take-port 8080", "--take-port", "is not PORT:PORT");
    assert_refused("x --take-port 8080:0", "--take-port", "is not PORT:PORT");
    assert_refused("x --take-port 8080:8080", "--take-port", "leads to where it comes from");
    assert_refused("x --take-port 1:2 --take-port 1:3", "--take-port", "by \"1:2\" already");
    assert_refused("x --exclude-cidr 127.0.0.0/8", "--exclude-cidr", "has loopback in it");
    assert_refused("x --exclude-cidr ::/64", "--exclude-cidr", "has loopback in it");
    assert_refused("x --exclude-port 15999", "--exclude-port", "tries the capture");
    assert_refused("x --capture-port 15999", "--capture-port", "tries the capture");
    assert_refused("x --open-port 15001", "--capture-port", "is open to others");
    assert_refused("x --check --remove", "--check", "one of");
    assert_refused("x --nft nft", "--nft", "full path");
    assert_refused("x please", "please", "unexpected");
    assert_refused("x --capture-port 0", "--capture-port", "0");
}

/* ---- judging ---- */

/* As nft lists it; what the chains hold is its affair. */
static char *listing_of(const char *comment, const char *chains, const char *seal)
{
    return mem_printf("table inet mortise {\n\tcomment \"%s\"\n%s%s}\n", comment, chains, seal);
}

static enum rules_state judge(const char *line, const char *listing)
{
    struct faults faults = {.num = 0};
    struct rules rules;
    enum rules_state state;

    assert_true(err_is_ok(parse(line, &rules, &faults)));
    state = rules_judge(&rules, bytes_of_str(listing));
    rules_free(&rules);
    return state;
}

static void test_a_listing_is_judged(void **state)
{
    static const char chains[] = "\tchain outbound {\n\t\tgoto captured\n\t}\n";
    CLEANUP(mem_freep) char *text = text_of("x");
    const char *comment = strndupa(strstr(text, "mortise-redirect"), 33);
    CLEANUP(mem_freep) char *listing = listing_of(comment, chains, "");
    CLEANUP(mem_freep) char *seal = NULL, *sealed = NULL, *changed = NULL, *more = NULL;
    struct buf command = {.data = NULL};

    (void)state;
    rules_seal(bytes_of_str(listing), &command);
    CHECK(err_is_ok(buf_add(&command, "", 1)));
    seal = mem_printf("\n\tchain %.21s {\n\t}\n", strstr((char *)command.data, "seal_"));
    buf_fini(&command);
    sealed = listing_of(comment, chains, seal);
    changed = listing_of(comment, "\tchain outbound {\n\t}\n", seal);
    more = mem_printf("%.*s\n\tchain mine {\n\t}\n}\n", (int)strlen(sealed) - 2, sealed);
    assert_int_equal(judge("x", sealed), RULES_IN_FORCE);
    assert_int_equal(judge("x --uid 7", sealed), RULES_OTHER_SETTINGS);
    assert_int_equal(judge("x", listing), RULES_UNSEALED);
    assert_int_equal(judge("x", changed), RULES_CHANGED);
    assert_int_equal(judge("x", more), RULES_CHANGED);
    assert_int_equal(judge("x", ""), RULES_OTHER_SETTINGS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_whole_of_the_default),
        cmocka_unit_test(test_what_is_left_alone),
        cmocka_unit_test(test_ranges_in_ranges_are_left_out),
        cmocka_unit_test(test_only_the_mesh_is_captured_where_that_is_said),
        cmocka_unit_test(test_what_is_not_tcp),
        cmocka_unit_test(test_a_port_may_be_taken),
        cmocka_unit_test(test_what_arrives_may_be_left_open),
        cmocka_unit_test(test_other_settings_have_another_comment),
        cmocka_unit_test(test_what_is_wrong_is_named),
        cmocka_unit_test(test_a_listing_is_judged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
