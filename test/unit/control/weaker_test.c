/* What a change weakens: each kind of weakening is told with what was and what would be, and what
 * only looks like one is not. Without it: a slip of the pen opens a link to what was ruled out, and
 * nobody sees it; or a gate that cries at every change, which people learn to step over. Drives:
 * A2, A3, R1. */
#include "control/weaker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "certs/tls_names.h"
#include "control/mesh.h"
#include "lib/rpc/pb.h"
#include "test/unit/control/fixture.h"

#define ENDS "subsystems: [{name: a}, {name: b}, {name: c}]\n"
#define LINK                                                                                   \
    "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: " \
    "cl, server_profile: sv}]\n"
#define CL(more) "{name: cl, role: CLIENT" more "}"
#define SV(more) "{name: sv, role: SERVER" more "}"
#define MESH(client, server) ENDS "profiles: [" client ", " server "]\n" LINK
#define BOTH(more) MESH(CL(more), SV(more))

/* Where a strong link leads, and a weak one. */
#define TWO(strong, weak)                                                                 \
    ENDS "profiles: [" CL(", min_version: TLS1_3") ", " SV(                               \
        "") ", {name: cw, role: CLIENT}]\n"                                               \
            "links:\n"                                                                    \
            "- {name: l, client: a, server: " strong ", client_port: 1, server_port: 2, " \
            "client_profile: cl, server_profile: sv}\n"                                   \
            "- {name: m, client: a, server: " weak ", client_port: 3, server_port: 2, "   \
            "client_profile: cw, server_profile: sv}\n"

#define GOOD_SUITE "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
#define CBC_SUITE "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"

#define OLD ", min_version: TLS1_0, cipher_suites: [" CBC_SUITE "], allow_legacy: true"
#define NEW(client, server, more)                                                   \
    ENDS "profiles: [" client ", " server "]\n"                                     \
         "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, " \
         "client_profile: cl, server_profile: sv" more "}]\n"

static const struct {
    const char *before;
    const char *after;
    const char *told; /* NULL: nothing is weaker; alone if not */
} rows[] = {
    {BOTH(""), BOTH(""), NULL},
    /* versions */
    {BOTH(", min_version: TLS1_3"), BOTH(""), "min_version TLS1_3 -> TLS1_2"},
    {BOTH(""), BOTH(", min_version: TLS1_3"), NULL},
    {BOTH(", min_version: TLS1_3"), MESH(CL(""), SV(", min_version: TLS1_3")), NULL},
    {MESH(CL(""), SV(", min_version: TLS1_3")), BOTH(""), "min_version TLS1_3 -> TLS1_2"},
    {BOTH(""), MESH(CL(", max_version: TLS1_2"), SV("")), "max_version TLS1_3 -> TLS1_2"},
    {MESH(CL(", max_version: TLS1_2"), SV("")), BOTH(""), NULL},
    {BOTH(", min_version: TLS1_2, cipher_suites: [" CBC_SUITE "]"),
     BOTH(", min_version: TLS1_0, cipher_suites: [" CBC_SUITE "], allow_legacy: true"),
     "min_version TLS1_2 -> TLS1_0"},
    {BOTH(", min_version: TLS1_0, cipher_suites: [" CBC_SUITE "], allow_legacy: true"),
     BOTH(", min_version: TLS1_0, max_version: TLS1_1, cipher_suites: [" CBC_SUITE
          "], allow_legacy: true"),
     "max_version TLS1_3 -> TLS1_1"},
    {BOTH(", min_version: TLS1_0, cipher_suites: [" CBC_SUITE "], allow_legacy: true"),
     BOTH(", min_version: TLS1_1, cipher_suites: [" CBC_SUITE "], allow_legacy: true"), NULL},
    {BOTH(""),
     MESH(CL(", min_version: TLS1_0, cipher_suites: [" CBC_SUITE ", " GOOD_SUITE
             "], allow_legacy: true"),
          SV("")),
     NULL}, /* the other end has none of it */
    /* TLS 1.2 without a suite for the mesh's keys is none: naming one opens it */
    {BOTH(", cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]"),
     BOTH(", cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, " GOOD_SUITE "]"),
     "min_version TLS1_3 -> TLS1_2"},
    /* certificates of clients */
    {BOTH(""), MESH(CL(""), SV(", client_auth: OPTIONAL")), "client_auth REQUIRED -> OPTIONAL"},
    {MESH(CL(""), SV(", client_auth: NONE")), BOTH(""), NULL},
    {MESH(CL(""), SV(", client_auth: OPTIONAL")),
     ENDS "profiles: [" CL("") ", " SV(
         ", client_auth: OPTIONAL") "]\n"
                                    "links: [{name: l, client: a, server: b, client_port: 1, "
                                    "server_port: 2, client_profile: "
                                    "cl, server_profile: sv, allow_anonymous: true}]\n",
     "allow_anonymous false -> true"},
    {BOTH(""),
     "settings: {allow_insecure: true}\n" MESH(CL(", insecure_skip_verify: true"), SV("")),
     "insecure_skip_verify false -> true"},
    {"settings: {allow_insecure: true}\n" MESH(CL(", insecure_skip_verify: true"), SV("")),
     BOTH(""), NULL},
    {BOTH(""), MESH(CL(", renegotiation: ONCE"), SV("")), "renegotiation NEVER -> ONCE"},
    {MESH(CL(", renegotiation: ONCE"), SV("")), MESH(CL(", renegotiation: FREELY"), SV("")),
     "renegotiation ONCE -> FREELY"},
    {BOTH(""), MESH(CL(", renegotiation: NEVER"), SV("")), NULL},
    {MESH(CL(", renegotiation: FREELY"), SV("")), BOTH(""), NULL},
    /* suites */
    {BOTH(", cipher_suites: [" GOOD_SUITE "]"),
     BOTH(", cipher_suites: [" GOOD_SUITE ", " CBC_SUITE "]"),
     "cipher_suites " GOOD_SUITE " -> " GOOD_SUITE ", " CBC_SUITE},
    {BOTH(", cipher_suites: [" GOOD_SUITE "]"),
     MESH(CL(", cipher_suites: [" GOOD_SUITE "]"),
          SV(", cipher_suites: [" GOOD_SUITE ", " CBC_SUITE "]")),
     NULL}, /* the client does not offer it */
    {BOTH(", cipher_suites: [" GOOD_SUITE ", " CBC_SUITE "]"),
     BOTH(", cipher_suites: [" CBC_SUITE ", " GOOD_SUITE "]"), NULL},
    {BOTH(", cipher_suites: [" GOOD_SUITE "]"),
     BOTH(", cipher_suites: [" GOOD_SUITE ", TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]"), NULL},
    {BOTH(", cipher_suites: [" GOOD_SUITE "]"),
     BOTH(", cipher_suites: [" GOOD_SUITE ", TLS_RSA_WITH_AES_128_CBC_SHA]"),
     NULL}, /* there is no certificate for it */
    /* groups */
    {BOTH(", groups: [P-384], min_version: TLS1_3"),
     BOTH(", groups: [P-384, X25519], min_version: TLS1_3"), "groups P-384 -> P-384, X25519"},
    {BOTH(", groups: [P-384], min_version: TLS1_3"),
     MESH(CL(", groups: [P-384], min_version: TLS1_3"),
          SV(", groups: [P-384, X25519], min_version: TLS1_3")),
     NULL},
    {BOTH(", groups: [P-256]"), BOTH(", groups: [X25519, P-256]"), NULL},
    {BOTH(", groups: [X25519, P-384], min_version: TLS1_3"),
     BOTH(", groups: [P-384], min_version: TLS1_3"), NULL},
    /* signature algorithms */
    {BOTH(", max_version: TLS1_2, signature_algorithms: [ecdsa_secp384r1_sha384]"),
     BOTH(", max_version: TLS1_2, signature_algorithms: [ecdsa_secp384r1_sha384, "
          "ecdsa_secp256r1_sha256]"),
     "signature_algorithms ecdsa_secp384r1_sha384 -> ecdsa_secp384r1_sha384, "
     "ecdsa_secp256r1_sha256"},
    {BOTH(", max_version: TLS1_2, signature_algorithms: [ecdsa_secp256r1_sha256]"),
     BOTH(", max_version: TLS1_2, signature_algorithms: [ecdsa_secp384r1_sha384, "
          "ecdsa_secp256r1_sha256]"),
     NULL},
    /* how long connections live */
    {BOTH(""), MESH(CL(", on_expiry: KEEP"), SV("")),
     "on_expiry of the client profile DRAIN -> KEEP"},
    {BOTH(", on_expiry: CLOSE"), MESH(CL(", on_expiry: CLOSE"), SV(", on_expiry: KEEP")),
     "on_expiry of the server profile CLOSE -> KEEP"},
    {BOTH(", on_expiry: KEEP"), BOTH(""), NULL},
    {BOTH(", on_expiry: CLOSE"), BOTH(", on_expiry: DRAIN"), NULL},
    {BOTH(", max_age_s: 60"), BOTH(", max_age_s: 61"), "max_age_s 60 -> 61"},
    {BOTH(", max_age_s: 60"), BOTH(""), "max_age_s 60 -> none"},
    {BOTH(", max_age_s: 60"), MESH(CL(""), SV(", max_age_s: 60")), NULL}, /* that end ends it */
    {BOTH(""), BOTH(", max_age_s: 60"), NULL},
    {BOTH(", max_age_s: 60"), BOTH(", max_age_s: 59"), NULL},
    /* another profile: judged by what it does */
    {ENDS
     "profiles: [" CL("") ", " SV(", min_version: TLS1_3") ", {name: s2, role: SERVER}]\n" LINK,
     ENDS "profiles: [" CL("") ", " SV(
         ", min_version: TLS1_3") ", {name: s2, role: SERVER}]\n"
                                  "links: [{name: l, client: a, server: b, client_port: 1, "
                                  "server_port: 2, client_profile: "
                                  "cl, server_profile: s2}]",
     "min_version TLS1_3 -> TLS1_2"},
    {ENDS "profiles: [" CL("") ", " SV("") ", {name: s2, role: SERVER}]\n" LINK,
     ENDS "profiles: [" CL("") ", " SV("") ", {name: s2, role: SERVER}]\n"
                                           "links: [{name: l, client: a, server: b, client_port: "
                                           "1, server_port: 2, client_profile: "
                                           "cl, server_profile: s2}]",
     NULL},
    /* a profile that no link uses, and a link that is new and ordinary */
    {ENDS "profiles: [" CL(", min_version: TLS1_3") ", " SV("") "]",
     ENDS "profiles: [" CL("") ", " SV("") "]", NULL},
    {ENDS "profiles: [" CL("") ", " SV("") "]", BOTH(""), NULL},
    {ENDS "profiles: [" CL("") ", " SV(", max_version: TLS1_2") "]",
     MESH(CL(", on_expiry: KEEP"), SV(", max_version: TLS1_2")), NULL},
    /* but for what no default has */
    {ENDS, NEW(CL(""), SV(", client_auth: OPTIONAL"), ", allow_anonymous: true"),
     "allow_anonymous none -> true"},
    {ENDS, NEW(CL(""), SV(", client_auth: OPTIONAL"), ""), NULL},
    {ENDS, "settings: {allow_insecure: true}\n" NEW(CL(", insecure_skip_verify: true"), SV(""), ""),
     "insecure_skip_verify none -> true"},
    {ENDS, NEW(CL(OLD), SV(OLD), ""), "min_version none -> TLS1_0"},
    {ENDS, NEW(CL(OLD), SV(", min_version: TLS1_2, cipher_suites: [" CBC_SUITE "]"), ""), NULL},
    /* one of another name in the place of a removed one is not; beside it, or elsewhere, it is */
    {BOTH(", min_version: TLS1_3"),
     ENDS "profiles: [" CL("") ", " SV("") "]\n"
                                           "links: [{name: m, client: a, server: b, client_port: "
                                           "9, server_port: 2, client_profile: "
                                           "cl, server_profile: sv}]",
     "min_version TLS1_3 -> TLS1_2"},
    {BOTH(", min_version: TLS1_3"),
     ENDS "profiles: [" CL("") ", " SV("") "]\n"
                                           "links: [{name: m, client: a, server: c, client_port: "
                                           "9, server_port: 2, client_profile: "
                                           "cl, server_profile: sv}]",
     NULL},
    /* two links that change their ways with each other: each way is held to what it was */
    {TWO("b", "c"), TWO("c", "b"), "min_version TLS1_3 -> TLS1_2"},
    {TWO("b", "c"), TWO("b", "c"), NULL},
    /* a link that could not talk had nothing that could weaken */
    {MESH(CL(", max_version: TLS1_2"), SV(", min_version: TLS1_3")), BOTH(""), NULL},
};

static void test_each_weakening_is_told_and_nothing_else(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Mortise__V1__Mesh *before = fixture_mesh(rows[i].before);
        Mortise__V1__Mesh *after = fixture_mesh(rows[i].after);
        struct faults told = {.num = 0};

        weaker_find(before, after, &told);
        if (told.num != (rows[i].told != NULL ? 1 : 0)) {
            for (size_t j = 0; j < told.num; j++)
                print_error("%s: %s\n", told.items[j].path, told.items[j].message);
            fail_msg("row %zu: %zu told", i, told.num);
        }
        if (rows[i].told != NULL) {
            assert_string_equal(told.items[0].message, rows[i].told);
            assert_memory_equal(told.items[0].path, "link ", 5);
        }
        faults_fini(&told);
        pb_free(&before->base);
        pb_free(&after->base);
    }
}

/* Every link that the profile is used by, and every kind, at once. */
static void test_all_weakenings_are_told(void **state)
{
    Mortise__V1__Mesh *before =
        fixture_mesh(ENDS "profiles: [" CL(", min_version: TLS1_3, max_age_s: 60") ", " SV(
            "") "]\n"
                "links:\n"
                "- {name: l, client: a, server: b, client_port: 1, server_port: 2, "
                "client_profile: cl, server_profile: sv}\n"
                "- {name: m, client: a, server: c, client_port: 3, server_port: 2, "
                "client_profile: cl, server_profile: sv}\n");
    Mortise__V1__Mesh *after = fixture_mesh(
        ENDS "profiles: [" CL(", on_expiry: KEEP, cipher_suites: [" CBC_SUITE "]") ", " SV(
            ", cipher_suites: [" CBC_SUITE "]") "]\n"
                                                "links:\n"
                                                "- {name: l, client: a, server: b, client_port: 1, "
                                                "server_port: 2, client_profile: cl, "
                                                "server_profile: sv}\n"
                                                "- {name: m, client: a, server: c, client_port: 3, "
                                                "server_port: 2, client_profile: cl, "
                                                "server_profile: sv}\n");
    static const char *const told[] = {
        "min_version TLS1_3 -> TLS1_2", ("cipher_suites none of TLS 1.2 -> " CBC_SUITE),
        "on_expiry of the client profile DRAIN -> KEEP", "max_age_s 60 -> none"};
    struct faults faults = {.num = 0};

    (void)state;
    weaker_find(before, after, &faults);
    assert_int_equal(faults.total, 2 * ARRAY_LEN(told));
    for (size_t i = 0; i < ARRAY_LEN(told); i++) {
        assert_true(fixture_has(&faults, "link l", told[i]));
        assert_true(fixture_has(&faults, "link m", told[i]));
    }
    faults_fini(&faults);
    pb_free(&before->base);
    pb_free(&after->base);
}

/* Where the library has a group that a quantum computer does not break, losing it is a weakening.
 */
static void test_the_post_quantum_group_does_not_go_unseen(void **state)
{
    Mortise__V1__Mesh *all = fixture_mesh(BOTH(""));
    Mortise__V1__Mesh *some = fixture_mesh(BOTH(", groups: [X25519, P-256, P-384]"));
    struct faults faults = {.num = 0};

    (void)state;
    weaker_find(all, some, &faults);
    assert_int_equal(faults.num, tls_group_available(&tls_groups[0]) ? 1 : 0);
    weaker_find(some, all, &faults);
    assert_int_equal(faults.num, tls_group_available(&tls_groups[0]) ? 1 : 0);
    faults_fini(&faults);
    pb_free(&all->base);
    pb_free(&some->base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_weakening_is_told_and_nothing_else),
        cmocka_unit_test(test_all_weakenings_are_told),
        cmocka_unit_test(test_the_post_quantum_group_does_not_go_unseen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
