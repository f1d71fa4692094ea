/* A mesh document: every fault is told, at its place, at once; merging changes what it says and
 * nothing else; what a sidecar gets follows from it. Without it: a typing error is half applied, a
 * link has no cipher in common, or a sidecar may do what no link says. Drives: A1, A7, A8, A9, A12,
 * A13, E3, B2, R10, R61, F2, R13. */
#include "control/mesh.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "certs/tls_profile.h"
#include "control/mesh_config.h"
#include "control/mesh_merge.h"
#include "control/mesh_trust.h"
#include "lib/rpc/pb.h"
#include "test/testlib/testca.h"
#include "test/unit/control/fixture.h"

/* ------------------------------------------------------------------------ check */

#define GOOD                                                                             \
    "subsystems: [{name: a}, {name: b}, {name: c, namespace: x, service_account: yy}]\n" \
    "profiles:\n"                                                                        \
    "  - {name: cl, role: CLIENT}\n"                                                     \
    "  - {name: sv, role: SERVER}\n"                                                     \
    "  - {name: new-cl, role: CLIENT, min_version: TLS1_3}\n"                            \
    "  - {name: old-sv, role: SERVER, max_version: TLS1_2}\n"

#define KEY_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define LINK(more)                                                                       \
    "links:\n  - {name: l, client: a, server: b, client_port: 1000, server_port: 2000, " \
    "client_profile: cl, server_profile: sv" more "}\n"

struct row {
    const char *yaml;
    const char *path; /* NULL: no fault at all */
    const char *text;
};

#define ENDS_3 "subsystems: [{name: a}, {name: b}, {name: c}]\n"
#define L(name, client, port)                                             \
    "{name: " name ", client: " client ", server: b, client_port: " #port \
    ", server_port: 2, client_profile: c2, server_profile: s2}"

#define PERMISSIVE(text)                                                                        \
    GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, "             \
         "client_profile: cl, server_profile: sv, permissive: " text "}, "                      \
         "{name: m, client: b, server: c, client_port: 7, server_port: 2, client_profile: cl, " \
         "server_profile: sv}]"

static const struct row rows[] = {
    {GOOD LINK(""), NULL, NULL},
    /* truststores */
    {"truststores: [{name: x, mesh_roots: true}]", NULL, NULL},
    {"truststores: [{name: x, pem: [some]}]", NULL, NULL},
    {"truststores: [{name: x}]", "truststores[0].pem", "it trusts nobody"},
    {"truststores: [{name: mesh, mesh_roots: true}]", "truststores[0].name", "own CAs are called"},
    {"truststores: [{name: x, mesh_roots: true, crl_pem: [some]}]", "truststores[0].crl_pem",
     "goes without mesh_roots"},
    {"truststores: [{name: x, mesh_roots: true, pem: [some]}]\ncrls: [{name: c, pem: z}]",
     "truststores[0].pem", "each CA beside mesh_roots would need one"},
    {"keystores: [{name: x}, {name: z, issued: true}]\n"
     "profiles: [{name: p, role: CLIENT, keystore: x}]",
     NULL, NULL},
    {"profiles: [{name: p, role: CLIENT, keystore: x}]", "profiles[0].keystore",
     "no keystore \"x\"; there are: none"},
    {"keystores: [{name: x, chain_pem: some}]", "keystores[0].key_sha256", "is no fingerprint"},
    {"keystores: [{name: x, key_sha256: '" KEY_A "'}]", "keystores[0].chain_pem", "is missing"},
    {"keystores: [{name: x, chain_pem: some, key_sha256: '" KEY_A "', issued: true}]",
     "keystores[0].issued", "it is issued, or it was uploaded"},
    {"keystores: [{name: x, chain_pem: some, key_sha256: '" KEY_A "'}]", NULL, NULL},
    {"keystores: [{name: x, folder: site-2027}]", NULL, NULL},
    {"truststores: [{name: t, pem: [x]}]\n"
     "profiles: [{name: c2, role: CLIENT, truststore: t, peer_names: [a.example, 10.0.0.1]}]",
     "profiles[0].peer_names", "\"10.0.0.1\" is an IP address"},
    {"truststores: [{name: t, pem: [x]}]\n"
     "profiles: [{name: c2, role: CLIENT, truststore: t, peer_names: ['::1']}]",
     "profiles[0].peer_names", "\"::1\" is an IP address"},
    {"truststores: [{name: t, pem: [x]}]\n"
     "profiles: [{name: c2, role: CLIENT, truststore: t, peer_names: [10.0.0.1.example]}]",
     NULL, NULL},
    {"keystores: [{name: x, folder: ../site}]", "keystores[0].folder", "is not a name"},
    {"keystores: [{name: x, folder: site, issued: true}]", "keystores[0].folder", "goes without"},
    {"keystores: [{name: x, folder: site, chain_pem: some}]", "keystores[0].folder",
     "goes without"},
    {"profiles: [{name: p, role: CLIENT, truststore: x}]", "profiles[0].truststore",
     "no truststore \"x\"; there are: none"},
    {"truststores: [{name: x, pem: [some]}]\nprofiles: [{name: p, role: CLIENT, truststore: x}]",
     "profiles[0].peer_names", "is missing: truststore \"x\" has CAs of others"},
    {"truststores: [{name: x, mesh_roots: true}]\n"
     "profiles: [{name: p, role: CLIENT, truststore: x, peer_names: [a.test]}]",
     "profiles[0].peer_names", "goes with a truststore that has CAs of others"},
    {"profiles: [{name: p, role: CLIENT, peer_names: [a.test]}]", "profiles[0].peer_names",
     "goes with a truststore that has CAs of others"},
    {"truststores: [{name: x, pem: [some]}]\n"
     "profiles: [{name: p, role: CLIENT, truststore: x, peer_names: ['*.test']}]",
     "profiles[0].peer_names", "no wildcard"},
    {GOOD "settings: {leaf_ttl_s: 300}\n", NULL, NULL},
    {GOOD "settings: {leaf_ttl_s: 604800}\n", NULL, NULL},
    {"{}", NULL, NULL},
    {GOOD "settings: {leaf_ttl_s: 299}\n", "settings.leaf_ttl_s", "299"},
    {GOOD "settings: {leaf_ttl_s: 604801}\n", "settings.leaf_ttl_s", "604801"},
    {GOOD "settings: {rejoin_s: 1}\n", NULL, NULL},
    {GOOD "settings: {rejoin_s: 604800}\n", NULL, NULL},
    {GOOD "settings: {rejoin_s: 2}\n", "settings.rejoin_s", "between 60 and 604800"},
    {GOOD "settings: {rejoin_s: 604801}\n", "settings.rejoin_s", "604801"},
    /* names */
    {"subsystems: [{name: Portal}]", "subsystems[0].name", "\"Portal\" is not a name"},
    {"subsystems: [{name: a}, {name: ''}]", "subsystems[1].name", "is not a name"},
    {"subsystems: [{name: -a}]", "subsystems[0].name", "is not a name"},
    {"subsystems: [{name: a-}]", "subsystems[0].name", "is not a name"},
    {"subsystems: [{name: a.b}]", "subsystems[0].name", "is not a name"},
    {"subsystems: [{name: 'a/../b'}]", "subsystems[0].name", "is not a name"},
    {"subsystems: "
     "[{name: a23456789012345678901234567890123456789012345678901234567890123}]",
     NULL, NULL},
    {"subsystems: "
     "[{name: a234567890123456789012345678901234567890123456789012345678901234}]",
     "subsystems[0].name", "is not a name"},
    {"subsystems: [{name: a}, {name: b}, {name: a}]", "subsystems[2].name",
     "another subsystem \"a\""},
    {"profiles: [{name: p, role: CLIENT}, {name: p, role: SERVER}]", "profiles[1].name",
     "another profile \"p\""},
    {GOOD
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
     "cl, server_profile: sv}, {name: l, client: b, server: c, client_port: 1, server_port: 2, "
     "client_profile: cl, server_profile: sv}]",
     "links[1].name", "another link \"l\""},
    {"subsystems: [{name: a, namespace: X}]", "subsystems[0].namespace", "is not a name"},
    {"subsystems: [{name: a, service_account: 'b c'}]", "subsystems[0].service_account",
     "is not a name"},
    {"subsystems: [{name: a}, {name: b, service_account: a}]", "subsystems[1].service_account",
     "subsystem \"a\" is ns/default/sa/a already"},
    {"subsystems: [{name: a, namespace: x}, {name: b, service_account: a}]", NULL, NULL},
    {GOOD "settings: {plaintext_quiet_s: 60}\n", NULL, NULL},
    {GOOD "settings: {plaintext_quiet_s: 59}\n", "settings.plaintext_quiet_s",
     "between 60 and 2592000"},
    /* plaintext */
    {PERMISSIVE("{port: 9, until: '2026-12-31T23:59:59Z'}"), NULL, NULL},
    {PERMISSIVE("{port: 9, until: '2001-01-01T00:00:00Z'}"), NULL, NULL}, /* it has ended */
    {PERMISSIVE("{port: 9}"), "links[0].permissive.until",
     "\"\" is not a time: wanted is 2026-12-31T23:59:59Z"},
    {PERMISSIVE("{port: 9, until: soon}"), "links[0].permissive.until", "\"soon\" is not a time"},
    {PERMISSIVE("{until: '2026-12-31T23:59:59Z'}"), "links[0].permissive.port", "1 to 65535"},
    {PERMISSIVE("{port: 65536, until: '2026-12-31T23:59:59Z'}"), "links[0].permissive.port",
     "65536"},
    {PERMISSIVE("{port: 2, until: '2026-12-31T23:59:59Z'}"), "links[0].permissive.port",
     "2 is where the application of \"b\" listens"},
    {PERMISSIVE("{port: 7, until: '2026-12-31T23:59:59Z'}"), "links[1].client_port",
     "7 of \"b\" is taken by link \"l\""},
    /* references */
    {GOOD "links: [{name: l, client: z, server: b, client_port: 1, server_port: 2, client_profile: "
          "cl, server_profile: sv}]",
     "links[0].client", "no subsystem \"z\"; there are: a, b, c"},
    {GOOD "links: [{name: l, server: b, client_port: 1, server_port: 2, client_profile: cl, "
          "server_profile: sv}]",
     "links[0].client", "is missing"},
    {GOOD "links: [{name: l, client: a, server: a, client_port: 1, server_port: 2, client_profile: "
          "cl, server_profile: sv}]",
     "links[0].server", "a link joins two"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "zz, server_profile: sv}]",
     "links[0].client_profile", "no profile \"zz\"; there are: cl, new-cl"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "sv, server_profile: sv}]",
     "links[0].client_profile", "\"sv\" is a SERVER profile; of role CLIENT there are: cl, new-cl"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "cl, server_profile: cl}]",
     "links[0].server_profile", "is a CLIENT profile"},
    {"subsystems: [{name: a}, {name: b}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2}]",
     "links[0].client_profile", "no profile \"default-tls-client\"; there are: none"},
    /* TLS 1.2: the client's groups bind the certificate's curve */
    {"subsystems: [{name: a}, {name: b}]\n"
     "profiles: [{name: c2, role: CLIENT, groups: [X25519]}, {name: s2, role: SERVER, max_version: "
     "TLS1_2}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: c2, "
     "server_profile: s2}]",
     "links[0].client_profile", "add P-256 to the client profile"},
    {"subsystems: [{name: a}, {name: b}]\n"
     "profiles: [{name: c2, role: CLIENT, groups: [X25519, P-256]}, {name: s2, role: SERVER, "
     "max_version: TLS1_2}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: c2, "
     "server_profile: s2}]",
     NULL, NULL},
    {"subsystems: [{name: a}, {name: b}]\n"
     "profiles: [{name: c2, role: CLIENT, groups: [X25519]}, {name: s2, role: SERVER, max_version: "
     "TLS1_3}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: c2, "
     "server_profile: s2}]",
     NULL, NULL},
    /* who may come without a certificate: profile and link say so together */
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT}, {name: s2, role: SERVER}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
     "c2, server_profile: s2, allow_anonymous: true}]",
     "links[0].allow_anonymous", "\"s2\" requires a certificate"},
    {ENDS_3 "profiles: [{name: c2, role: CLIENT}, {name: s2, role: SERVER, client_auth: NONE}]\n"
            "links: [" L("l", "a", 1) "]",
     "links[0].server_profile", "nobody could come in"},
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT}, {name: s2, role: SERVER, client_auth: OPTIONAL}]\n"
     "links: [" L("l", "a", 1) "]",
     NULL, NULL},
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT}, {name: s2, role: SERVER, client_auth: NONE}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
     "c2, server_profile: s2, allow_anonymous: true}]",
     NULL, NULL},
    /* nobody is verified where the mesh has not said that it may be so */
    {"profiles: [{name: c2, role: CLIENT, insecure_skip_verify: true}]",
     "profiles[0].insecure_skip_verify", "needs allow_insecure: true in settings"},
    {"settings: {allow_insecure: true}\n"
     "profiles: [{name: c2, role: CLIENT, insecure_skip_verify: true}]",
     NULL, NULL},
    /* what servers are asked for */
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT, server_name: B.example}, {name: s2, role: SERVER}]\n"
     "links: [" L("l", "a", 1) ", " L("m", "c", 1) "]",
     "links[1].client_profile", "asks \"b\" for \"b.example\", as link \"l\" does"},
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT, server_name: l.mortise.internal}, {name: s2, role: "
     "SERVER}, {name: default-tls-client, role: CLIENT}]\n"
     "links: [{name: l, client: c, server: b, client_port: 1, server_port: 2, server_profile: "
     "s2}, " L("m", "a", 1) "]",
     "links[1].client_profile", "as link \"l\" does"},
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT, server_name: b.example}, {name: s2, role: SERVER}]\n"
     "links: [" L("l", "a", 1) "]",
     NULL, NULL},
    {ENDS_3 "profiles: [{name: c2, role: CLIENT, send_sni: OMIT}, {name: s2, role: SERVER}]\n"
            "links: [" L("l", "a", 1) ", " L("m", "c", 1) "]",
     NULL, NULL},
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT, send_sni: OMIT}, {name: s2, role: SERVER}, {name: "
     "default-tls-client, role: CLIENT}]\n"
     "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, server_profile: "
     "s2}, " L("m", "a", 3) "]",
     "links[1].client_profile", "link \"l\" joins the same two"},
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT, send_sni: OMIT}, {name: s2, role: SERVER}, {name: "
     "s3, role: SERVER, min_version: TLS1_3}, {name: default-tls-client, role: CLIENT}]\n"
     "links: [{name: l, client: c, server: b, client_port: 1, server_port: 2, server_profile: "
     "s3}, " L("m", "a", 3) "]",
     "links[1].client_profile", "needs a server profile like \"s2\", and link \"l\" has \"s3\""},
    {ENDS_3
     "profiles: [{name: c2, role: CLIENT, send_sni: OMIT}, {name: s2, role: SERVER, client_auth: "
     "OPTIONAL}, {name: default-tls-client, role: CLIENT}]\n"
     "links: [{name: l, client: c, server: b, client_port: 1, server_port: 2, server_profile: "
     "s2, allow_anonymous: true}, " L("m", "a", 3) "]",
     "links[1].client_profile",
     "needs a server profile like \"s2\", and link \"l\" has \"s2\" and allow_anonymous"},
    {ENDS_3
     "truststores: [{name: t, pem: [x]}]\n"
     "profiles: [{name: c2, role: CLIENT, send_sni: OMIT}, {name: s2, role: SERVER}, {name: s3, "
     "role: SERVER, truststore: t, peer_names: [p.example]}, {name: default-tls-client, role: "
     "CLIENT}]\n"
     "links: [{name: l, client: c, server: b, client_port: 1, server_port: 2, server_profile: "
     "s3}, " L("m", "a", 3) "]",
     "links[1].client_profile", "needs a server profile like \"s2\", and link \"l\" has \"s3\""},
    /* ports */
    {GOOD "links: [{name: l, client: a, server: b, server_port: 2, client_profile: cl, "
          "server_profile: sv}]",
     "links[0].client_port", "is missing"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, client_profile: cl, "
          "server_profile: sv}]",
     "links[0].server_port", "is missing"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 65536, server_port: 2, "
          "client_profile: cl, server_profile: sv}]",
     "links[0].client_port", "65536 is not a port"},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 65535, server_port: 65535, "
          "client_profile: cl, server_profile: sv}]",
     NULL, NULL},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 15443, server_port: 2, "
          "client_profile: cl, server_profile: sv}]",
     "links[0].client_port", "where every sidecar takes mTLS"},
    {GOOD LINK("") "  - {name: m, client: a, server: c, client_port: 1000, server_port: 2, "
                   "client_profile: cl, server_profile: sv}\n",
     "links[1].client_port", "1000 of \"a\" is taken by link \"l\""},
    {GOOD LINK("") "  - {name: m, client: b, server: c, client_port: 1000, server_port: 2, "
                   "client_profile: cl, server_profile: sv}\n",
     NULL, NULL}, /* another sidecar's loopback */
    {GOOD LINK("") "  - {name: m, client: c, server: b, client_port: 9, server_port: 2000, "
                   "client_profile: cl, server_profile: sv}\n",
     NULL, NULL}, /* two links to one application */
    {GOOD LINK("") "  - {name: m, client: c, server: a, client_port: 9, server_port: 1000, "
                   "client_profile: cl, server_profile: sv}\n",
     "links[1].server_port", "cannot be the application's: link \"l\" has it as client_port"},
    /* profiles */
    {"profiles: [{name: p}]", "profiles[0].role", ""},
    {"profiles: [{name: p, role: CLIENT, min_version: TLS1_0}]", "profiles[0].min_version", ""},
    {"profiles: [{name: p, role: CLIENT, groups: [X25591]}]", "profiles[0].groups[0]", "X25519"},
    {"profiles: [{name: p, role: CLIENT, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]}]",
     "profiles[0].cipher_suites[0]", ""},
    {GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "new-cl, server_profile: old-sv}]",
     "links[0].client_profile",
     "no TLS version in common: let min_version of the one be no higher than max_version of the "
     "other; client profile \"new-cl\" has TLS1_3; server profile \"old-sv\" has TLS1_2"},
    {GOOD "  - {name: rsa-sv, role: SERVER, max_version: TLS1_2, cipher_suites: "
          "[TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}\n"
          "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: "
          "cl, server_profile: rsa-sv}]",
     "links[0].client_profile", "profile \"rsa-sv\" is of no use to the mesh's certificates"},
    {GOOD "  - {name: rsa-sv, role: SERVER, max_version: TLS1_2, cipher_suites: "
          "[TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}\n",
     NULL, NULL}, /* a profile that no link uses may be anything */
};

static void test_every_fault_is_told_at_its_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Mortise__V1__Mesh *mesh = fixture_mesh(rows[i].yaml);
        struct faults faults = {0};
        err_t err = mesh_check(mesh, NULL, &faults);

        if (rows[i].path == NULL) {
            for (size_t j = 0; j < faults.num; j++)
                print_error("%s: %s\n", faults.items[j].path, faults.items[j].message);
            if (!err_is_ok(err))
                fail_msg("refused: %s", rows[i].yaml);
        } else {
            assert_code(err, CONFIG_INVALID);
            if (!fixture_has(&faults, rows[i].path, rows[i].text))
                fail_msg("not at %s: %s", rows[i].path, rows[i].yaml);
        }
        faults_fini(&faults);
        pb_free(&mesh->base);
    }
}

/* A mesh in force that would be refused today: what later programs know better is a warning, all
 * else a fault still. */
static void test_a_stored_mesh_is_judged_more_mildly(void **state)
{
    static const char apart[] =
        GOOD "links: [{name: l, client: a, server: b, client_port: 1, server_port: 2, "
             "client_profile: new-cl, server_profile: old-sv}]";
    static const char lost[] = GOOD "links: [{name: l, client: z, server: b, client_port: 1, "
                                    "server_port: 2, client_profile: cl, server_profile: sv}]";
    Mortise__V1__Mesh *mesh = fixture_mesh(apart);
    struct faults faults = {0}, warnings = {0};

    (void)state;
    assert_ok(mesh_check_stored(mesh, &faults, &warnings));
    assert_int_equal(faults.total, 0);
    assert_int_equal(warnings.total, 1);
    assert_true(fixture_has(&warnings, "links[0].client_profile", "no TLS version in common"));
    pb_free(&mesh->base);
    faults_fini(&warnings);
    mesh = fixture_mesh(lost);
    assert_code(mesh_check_stored(mesh, &faults, &warnings), CONFIG_INVALID);
    assert_int_equal(warnings.total, 0);
    assert_true(fixture_has(&faults, "links[0].client", "no subsystem"));
    pb_free(&mesh->base);
    faults_fini(&faults);
}

static void test_all_faults_come_at_once(void **state)
{
    Mortise__V1__Mesh *mesh =
        fixture_mesh("subsystems: [{name: UP}, {name: b}]\n"
                     "profiles: [{name: p}]\n"
                     "links: [{name: l, client: x, server: z, client_port: 0, server_port: 70000, "
                     "client_profile: q, server_profile: r}]\n"
                     "settings: {leaf_ttl_s: 1}\n");
    static const char *const paths[] = {
        "subsystems[0].name",      "profiles[0].role",        "links[0].client",
        "links[0].server",         "links[0].client_port",    "links[0].server_port",
        "links[0].client_profile", "links[0].server_profile", "settings.leaf_ttl_s"};
    struct faults faults = {0};

    (void)state;
    assert_code(mesh_check(mesh, NULL, &faults), CONFIG_INVALID);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        assert_true(fixture_has(&faults, paths[i], ""));
    faults_fini(&faults);
    pb_free(&mesh->base);
}

static void test_the_default_mesh_is_the_four_links(void **state)
{
    static const char *const links[][6] = {
        {"management-portal", "management", "portal", "portal-director-client", "portal-director",
         "portal-director"},
        {"management-gateway", "management", "gateway", "gateway-management-client",
         "gateway-management", "gateway-management-client"},
        {"management-analytics", "management", "analytics", "analytics-ingestion-client",
         "analytics-ingestion", "analytics-ingestion"},
        {"gateway-analytics", "gateway", "analytics", "analytics-ingestion-client",
         "analytics-ingestion", "analytics-ingestion"}};
    Mortise__V1__Mesh *mesh = mesh_default();
    const Mortise__V1__TlsProfile *profile;
    struct faults faults = {0};

    (void)state;
    assert_ok(mesh_check(mesh, NULL, &faults));
    assert_int_equal(mesh->n_subsystems, 4);
    assert_int_equal(mesh->n_links, ARRAY_LEN(links));
    for (size_t i = 0; i < ARRAY_LEN(links); i++) {
        assert_string_equal(mesh->links[i]->name, links[i][0]);
        assert_string_equal(mesh->links[i]->client, links[i][1]);
        assert_string_equal(mesh->links[i]->server, links[i][2]);
        assert_string_equal(mesh->links[i]->client_profile, links[i][3]);
        profile = mesh_profile(mesh, links[i][3]);
        assert_non_null(profile);
        assert_string_equal(profile->keystore, links[i][4]);
        assert_string_equal(profile->truststore, links[i][5]);
        assert_null(mesh_keystore(mesh, profile)); /* issued */
        assert_true(mesh_trusts_mesh(mesh_truststore(mesh, profile)));
        assert_false(mesh_trusts_others(mesh_truststore(mesh, profile)));
        assert_true(mesh_is_built_in(MESH_PROFILES, links[i][3]));
        assert_true(mesh_is_built_in(MESH_KEYSTORES, links[i][4]));
        assert_true(mesh_is_built_in(MESH_TRUSTSTORES, links[i][5]));
    }
    assert_non_null(mesh_profile(mesh, "default-tls-client"));
    assert_non_null(mesh_profile(mesh, "default-tls-server"));
    pb_free(&mesh->base);
}

/* What is built in takes nobody's place: a full mesh of an older program is still a good one. */
static void test_the_limit_of_profiles_is_on_ones_own(void **state)
{
    (void)state;
    for (size_t own = MESH_PROFILES_MAX; own <= MESH_PROFILES_MAX + 1; own++) {
        struct buf yaml = {0};
        struct faults faults = {0};

        assert_ok(buf_add_str(&yaml, "profiles:\n"));
        for (size_t i = 0; i < own; i++)
            assert_ok(buf_printf(&yaml, "  - {name: own-%zu, role: CLIENT}\n", i));
        CLEANUP(mem_freep) char *text = buf_take_str(&yaml);
        Mortise__V1__Mesh *mesh = fixture_mesh(text);

        mesh_complete(mesh);
        assert_int_equal(mesh->n_profiles, own + TLS_PROFILE_DEFAULTS);
        assert_int_equal(err_is_ok(mesh_check(mesh, NULL, &faults)), own == MESH_PROFILES_MAX);
        if (own > MESH_PROFILES_MAX)
            assert_true(fixture_has(&faults, "profiles", "501 are too many: at most 500"));
        faults_fini(&faults);
        pb_free(&mesh->base);
    }
}

/* ------------------------------------------------------------------------ merge */

struct merged {
    struct mesh_merge merge;
    struct faults faults;
    err_t err;
};

static struct merged *merge(const char *yaml, bool prune)
{
    struct merged *merged = mem_zalloc(sizeof(*merged));
    Mortise__V1__Mesh *current = mesh_default();
    Mortise__V1__Mesh *document = fixture_mesh(yaml);

    merged->err = mesh_merge(current, document, prune, &merged->faults, &merged->merge);
    /* The result is a value of its own. */
    pb_free(&current->base);
    pb_free(&document->base);
    return merged;
}

static void merged_free(struct merged *merged)
{
    mesh_merge_fini(&merged->merge);
    faults_fini(&merged->faults);
    mem_free(merged);
}

static bool changed(const struct merged *merged, const char *text)
{
    for (size_t i = 0; i < merged->merge.num_changes; i++) {
        if (strcmp(merged->merge.changes[i], text) == 0)
            return true;
    }
    for (size_t i = 0; i < merged->merge.num_changes; i++)
        print_error("there: %s\n", merged->merge.changes[i]);
    return false;
}

static void test_a_document_changes_what_it_names(void **state)
{
    struct merged *merged =
        merge("subsystems: [{name: portal, namespace: apim}, {name: shop}]\n"
              "links: [{name: management-portal, client: management, server: portal, client_port: "
              "15101, server_port: 9999, client_profile: portal-director-client}]\n"
              "settings: {leaf_ttl_s: 3600}\n",
              false);
    const Mortise__V1__Mesh *mesh = merged->merge.mesh;

    (void)state;
    assert_ok(merged->err);
    assert_int_equal(merged->merge.num_changes, 4);
    assert_true(changed(merged, "settings: changed leaf_ttl_s"));
    assert_true(changed(merged, "subsystem portal: changed namespace"));
    assert_true(changed(merged, "subsystem shop: added"));
    assert_true(changed(merged, "link management-portal: changed server_port"));
    assert_int_equal(mesh->n_subsystems, 5);
    assert_int_equal(mesh->n_links, 4);
    assert_string_equal(mesh->subsystems[1]->name, "portal"); /* keeps its place */
    assert_string_equal(mesh->subsystems[1]->namespace_, "apim");
    assert_string_equal(mesh->subsystems[4]->name, "shop");
    assert_int_equal(mesh->links[0]->server_port, 9999);
    assert_int_equal(mesh_leaf_ttl_s(mesh), 3600);
    merged_free(merged);
}

static void test_an_equal_document_changes_nothing(void **state)
{
    struct merged *merged = merge("subsystems: [{name: portal}, {name: gateway}]", false);

    (void)state;
    assert_ok(merged->err);
    assert_int_equal(merged->merge.num_changes, 0);
    merged_free(merged);
}

static void test_prune_removes_the_rest_but_built_in_profiles(void **state)
{
    struct merged *merged = merge("subsystems: [{name: portal}]", true);

    (void)state;
    assert_ok(merged->err);
    assert_int_equal(merged->merge.mesh->n_subsystems, 1);
    assert_int_equal(merged->merge.mesh->n_links, 0);
    assert_int_equal(merged->merge.mesh->n_profiles, TLS_PROFILE_DEFAULTS);
    assert_true(changed(merged, "link gateway-analytics: removed"));
    assert_true(changed(merged, "subsystem gateway: removed"));
    merged_free(merged);
}

static void test_a_name_twice_in_the_document_is_a_fault(void **state)
{
    struct merged *merged = merge("subsystems: [{name: x}, {name: z}, {name: x}]", false);

    (void)state;
    assert_code(merged->err, CONFIG_INVALID);
    assert_true(fixture_has(&merged->faults, "subsystems[2].name", "twice"));
    merged_free(merged);
}

#define AS_BUILT_IN                                                                           \
    "profiles: [{name: default-tls-client, description: 'TLS 1.2 and 1.3, ECDHE with AEAD', " \
    "role: CLIENT, min_version: TLS1_2, max_version: TLS1_3}]"

static void test_built_in_profiles_are_not_for_changing(void **state)
{
    struct merged *merged =
        merge("profiles: [{name: default-tls-client, role: CLIENT, min_version: TLS1_3}]", false);
    struct merged *same = merge(AS_BUILT_IN, false);
    struct merged *clone =
        merge("profiles: [{name: mine, role: CLIENT, min_version: TLS1_3}]", false);

    (void)state;
    assert_code(merged->err, CONFIG_INVALID);
    assert_true(fixture_has(&merged->faults, "profiles[0].name",
                            "\"default-tls-client\" is built in and cannot be changed: clone it "
                            "under another name"));
    assert_ok(same->err); /* what get printed can be applied */
    assert_ok(clone->err);
    assert_false(mesh_is_built_in(MESH_PROFILES, "mine"));
    merged_free(merged);
    merged_free(same);
    merged_free(clone);
}

/* A store of an older program: what it lacks is added, what was changed may stay or become again
 * what is built in, and nothing else. */
static void test_a_mesh_of_an_older_program_is_completed(void **state)
{
    static const struct {
        const char *yaml;
        bool good;
    } cases[] = {
        {"profiles: [{name: default-tls-client, role: CLIENT, min_version: TLS1_3}]", true},
        {AS_BUILT_IN, true},
        {"profiles: [{name: default-tls-client, role: CLIENT}]", false},
        {"subsystems: [{name: x}]", true},
    };
    Mortise__V1__Mesh *old = fixture_mesh(cases[0].yaml);

    (void)state;
    assert_int_equal(old->n_profiles, 1);
    mesh_complete(old);
    assert_int_equal(old->n_profiles, TLS_PROFILE_DEFAULTS);
    assert_true(mesh_is_built_in(MESH_PROFILES, "default-tls-client"));
    assert_false(
        mesh_is_as_built_in(MESH_PROFILES, &mesh_profile(old, "default-tls-client")->base));
    assert_true(mesh_is_as_built_in(MESH_PROFILES, &mesh_profile(old, "default-tls-server")->base));
    mesh_complete(old); /* once is enough */
    assert_int_equal(old->n_profiles, TLS_PROFILE_DEFAULTS);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        Mortise__V1__Mesh *document = fixture_mesh(cases[i].yaml);
        struct mesh_merge merge = {.mesh = NULL};
        struct faults faults = {.num = 0};

        assert_int_equal(err_is_ok(mesh_merge(old, document, true, &faults, &merge)),
                         cases[i].good);
        assert_non_null(mesh_profile(merge.mesh, "default-tls-server")); /* pruned or not */
        mesh_merge_fini(&merge);
        faults_fini(&faults);
        pb_free(&document->base);
    }
    pb_free(&old->base);
}

/* A fault in what the document does not name has a name for its place, else the document's index.
 */
static void test_faults_of_what_was_there_are_told_by_name(void **state)
{
    struct merged *merged = merge("subsystems: [{name: management}, {name: portal}, {name: "
                                  "analytics}]\n"
                                  "links: [{name: management-portal, client: management, server: "
                                  "portal, client_port: 1, server_port: 0}]\n",
                                  false);
    Mortise__V1__Mesh *mesh = merged->merge.mesh;
    struct faults faults = {0};

    (void)state;
    assert_ok(merged->err);
    /* As if the gateway had gone. */
    for (size_t i = 0; i < mesh->n_subsystems; i++) {
        if (strcmp(mesh->subsystems[i]->name, "gateway") == 0)
            mesh->subsystems[i]->name[0] = 'x';
    }
    assert_code(mesh_check(mesh, &merged->merge.origin, &faults), CONFIG_INVALID);
    assert_true(fixture_has(&faults, "links[0].server_port", "missing"));
    assert_true(fixture_has(&faults, "links[gateway-analytics].client", "no subsystem"));
    faults_fini(&faults);
    merged_free(merged);
}

/* ----------------------------------------------------------------------- config */

static const char *const *endpoints(void *arg, const char *subsystem, size_t *out_num)
{
    static const char *const two[] = {"10.0.0.1:15443", "10.0.0.2:15443"};

    (void)arg;
    *out_num = strcmp(subsystem, "analytics") == 0 ? 2 : 0;
    return two;
}

static Mortise__V1__SidecarConfig *config_of(const Mortise__V1__Mesh *mesh, const char *subsystem)
{
    const struct mesh_view view = {
        .mesh = mesh, .trust_domain = "mesh.test", .roots_pem = "PEM", .endpoints = endpoints};

    return mesh_config(&view, subsystem);
}

static void test_a_client_gets_its_links_and_no_others(void **state)
{
    Mortise__V1__Mesh *mesh = mesh_default();
    Mortise__V1__SidecarConfig *config = config_of(mesh, "gateway");
    const Mortise__V1__Outbound *out;
    const Mortise__V1__InboundLink *in;

    (void)state;
    assert_null(config->identity); /* never on the control channel */
    assert_int_equal(config->n_outbound, 1);
    out = config->outbound[0];
    assert_string_equal(out->name, "gateway-analytics");
    assert_string_equal(out->listen, "127.0.0.1:15104");
    assert_int_equal(out->n_endpoints, 2);
    assert_string_equal(out->endpoints[1], "10.0.0.2:15443");
    assert_int_equal(out->peers->n_spiffe_ids, 1);
    assert_string_equal(out->peers->spiffe_ids[0], "spiffe://mesh.test/ns/default/sa/analytics");
    assert_int_equal(out->peers->n_dns_names, 0);
    assert_string_equal(out->server_name, "gateway-analytics.mortise.internal");
    assert_string_equal(out->profile, "analytics-ingestion-client");
    assert_string_equal(out->truststore, "mesh");
    assert_string_equal(out->keystore, "");

    assert_int_equal(config->inbound->n_links, 1);
    in = config->inbound->links[0];
    assert_string_equal(in->name, "management-gateway");
    assert_string_equal(in->target, "127.0.0.1:8082");
    assert_string_equal(in->peers->spiffe_ids[0], "spiffe://mesh.test/ns/default/sa/management");
    assert_string_equal(in->profile, "default-tls-server");
    assert_int_equal(config->n_profiles, 2);
    assert_int_equal(config->n_truststores, 1);
    assert_string_equal(config->truststores[0]->pem, "PEM");
    assert_string_equal(config->truststores[0]->trust_domain, "mesh.test");
    pb_free(&config->base);
    pb_free(&mesh->base);
}

static void test_a_pure_client_takes_nothing_and_a_pure_server_opens_nothing(void **state)
{
    Mortise__V1__Mesh *mesh = mesh_default();
    Mortise__V1__SidecarConfig *client = config_of(mesh, "management");
    Mortise__V1__SidecarConfig *server = config_of(mesh, "portal");

    (void)state;
    assert_int_equal(client->n_outbound, 3);
    assert_null(client->inbound);
    assert_int_equal(client->n_profiles, 3);
    assert_int_equal(client->outbound[0]->n_endpoints, 0); /* nobody is there yet */
    assert_int_equal(server->n_outbound, 0);
    assert_int_equal(server->inbound->n_links, 1);
    pb_free(&client->base);
    pb_free(&server->base);
    pb_free(&mesh->base);
}

static void test_a_stranger_to_the_mesh_may_do_nothing(void **state)
{
    Mortise__V1__Mesh *mesh = mesh_default();
    Mortise__V1__SidecarConfig *config = config_of(mesh, "nobody");

    (void)state;
    assert_int_equal(config->n_outbound, 0);
    assert_null(config->inbound);
    assert_int_equal(config->n_profiles, 0);
    pb_free(&config->base);
    pb_free(&mesh->base);
}

static void test_the_same_mesh_gives_the_same_bytes(void **state)
{
    Mortise__V1__Mesh *mesh = mesh_default();
    Mortise__V1__SidecarConfig *one = config_of(mesh, "management");
    Mortise__V1__SidecarConfig *two = config_of(mesh, "management");

    (void)state;
    assert_true(pb_equal(&one->base, &two->base));
    pb_free(&one->base);
    pb_free(&two->base);
    pb_free(&mesh->base);
}

/* ------------------------------------------------------------------ truststores */

#define TRUST                                                                         \
    "subsystems: [{name: a}, {name: b}]\n"                                            \
    "truststores:\n"                                                                  \
    "  - {name: partner, pem: [PARTNER]}\n"                                           \
    "  - {name: both, mesh_roots: true, pem: [PARTNER]}\n"                            \
    "  - {name: ours, mesh_roots: true}\n"                                            \
    "profiles:\n"                                                                     \
    "  - {name: cl, role: CLIENT, truststore: ours}\n"                                \
    "  - {name: sv, role: SERVER, truststore: partner, peer_names: [p.test]}\n"       \
    "  - {name: sv2, role: SERVER, truststore: both, peer_names: [p.test, q.test]}\n" \
    "links:\n"                                                                        \
    "  - {name: l, client: a, server: b, client_port: 1, server_port: 2, "            \
    "client_profile: cl, server_profile: sv}\n"                                       \
    "  - {name: m, client: a, server: b, client_port: 2, server_port: 2, "            \
    "client_profile: cl, server_profile: sv2}\n"

/* Below CAs of others no identity of the mesh is even expected; names only there; and what only the
 * mesh's own CAs is in is the one truststore that every sidecar has. */
static void test_who_is_expected_follows_from_who_vouches(void **state)
{
    Mortise__V1__Mesh *mesh = fixture_mesh(TRUST);
    Mortise__V1__SidecarConfig *server = config_of(mesh, "b");
    Mortise__V1__SidecarConfig *client = config_of(mesh, "a");
    struct faults faults = {0};

    (void)state;
    assert_ok(mesh_check(mesh, NULL, &faults));
    assert_int_equal(server->n_truststores, 3);
    assert_string_equal(server->inbound->links[0]->truststore, "partner");
    assert_int_equal(server->inbound->links[0]->peers->n_spiffe_ids, 0);
    assert_int_equal(server->inbound->links[0]->peers->n_dns_names, 1);
    assert_string_equal(server->inbound->links[0]->peers->dns_names[0], "p.test");
    assert_string_equal(server->inbound->links[1]->truststore, "both");
    assert_int_equal(server->inbound->links[1]->peers->n_spiffe_ids, 1);
    assert_int_equal(server->inbound->links[1]->peers->n_dns_names, 2);
    for (size_t i = 1; i < 3; i++)
        assert_string_equal(server->truststores[i]->outside_pem, "PARTNER\n");
    assert_string_equal(server->truststores[1]->pem, ""); /* not even our roots */
    assert_string_equal(server->truststores[2]->pem, "PEM");
    assert_string_equal(server->truststores[1]->trust_domain, "mesh.test");

    assert_int_equal(client->n_truststores, 1); /* it has no use for the others */
    assert_string_equal(client->outbound[0]->truststore, "mesh");
    assert_int_equal(client->outbound[0]->peers->n_spiffe_ids, 1);
    assert_int_equal(client->outbound[0]->peers->n_dns_names, 0);
    pb_free(&server->base);
    pb_free(&client->base);
    pb_free(&mesh->base);
}

/* A keystore goes to who shows it, and to nobody else; what is issued is nothing to send. */
static void test_a_keystore_goes_to_those_who_show_it(void **state)
{
    Mortise__V1__Mesh *mesh = fixture_mesh(
        "subsystems: [{name: a}, {name: b}]\n"
        "keystores:\n"
        "  - {name: site, chain_pem: CHAIN, key_sha256: '" KEY_A "'}\n"
        "  - {name: unused, chain_pem: CHAIN, key_sha256: '" KEY_A "'}\n"
        "  - {name: own, issued: true}\n"
        "profiles:\n"
        "  - {name: cl, role: CLIENT, keystore: own}\n"
        "  - {name: sv, role: SERVER, keystore: site}\n"
        "links:\n"
        "  - {name: l, client: a, server: b, client_port: 1, server_port: 2, client_profile: cl, "
        "server_profile: sv}\n");
    Mortise__V1__SidecarConfig *server = config_of(mesh, "b");
    Mortise__V1__SidecarConfig *client = config_of(mesh, "a");
    struct faults faults = {0};

    (void)state;
    assert_ok(mesh_check(mesh, NULL, &faults));
    assert_int_equal(server->n_keystores, 1);
    assert_string_equal(server->keystores[0]->name, "site");
    assert_string_equal(server->keystores[0]->chain_pem, "CHAIN");
    assert_string_equal(server->keystores[0]->key_sha256, KEY_A);
    assert_string_equal(server->inbound->links[0]->keystore, "site");
    assert_int_equal(client->n_keystores, 0);
    assert_string_equal(client->outbound[0]->keystore, "");
    pb_free(&server->base);
    pb_free(&client->base);
    pb_free(&mesh->base);
}

static void test_built_in_truststores_are_there_and_stay(void **state)
{
    static const char *const names[] = {"analytics-ingestion", "portal-director",
                                        "gateway-management-client"};
    struct merged *pruned = merge("subsystems: [{name: portal}]", true);
    struct merged *changed_one = merge("truststores: [{name: portal-director, pem: [X]}]", false);
    Mortise__V1__Mesh *mesh = mesh_default();

    (void)state;
    assert_int_equal(mesh->n_truststores, ARRAY_LEN(names));
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        assert_string_equal(mesh->truststores[i]->name, names[i]);
        assert_true(mesh->truststores[i]->mesh_roots);
        assert_true(mesh_is_built_in(MESH_TRUSTSTORES, names[i]));
    }
    assert_false(mesh_is_built_in(MESH_PROFILES, "portal-director"));
    assert_int_equal(mesh->n_keystores, 4);
    for (size_t i = 0; i < mesh->n_keystores; i++)
        assert_true(mesh->keystores[i]->issued &&
                    mesh_is_built_in(MESH_KEYSTORES, mesh->keystores[i]->name));
    assert_int_equal(pruned->merge.mesh->n_truststores, ARRAY_LEN(names));
    assert_code(changed_one->err, CONFIG_INVALID);
    assert_true(fixture_has(&changed_one->faults, "truststores[0].name", "clone it"));
    pb_free(&mesh->base);
    merged_free(pruned);
    merged_free(changed_one);
}

/* What has expired since it came does not stand in the way of another change; a new one does. */
static void test_certificates_are_judged_when_they_come(void **state)
{
    struct testca *old = testca_new(&(struct testca_params){
        .name = "old", .not_before = FIXTURE_NOW_S - 100, .not_after = FIXTURE_NOW_S + 100});
    Mortise__V1__Mesh *none = fixture_mesh("{}"), *some = fixture_mesh("{}");
    Mortise__V1__MeshTruststore store = MORTISE__V1__MESH_TRUSTSTORE__INIT, *list = &store;
    char name[] = "partner", *pem = old->cert_pem;
    struct faults faults = {0};

    (void)state;
    store.name = name;
    store.pem = &pem;
    store.n_pem = 1;
    some->truststores = &list;
    some->n_truststores = 1;
    assert_ok(mesh_trust_check(some, none, NULL, FIXTURE_NOW_S, &faults));
    assert_ok(mesh_trust_check(some, some, NULL, FIXTURE_NOW_S + 200, &faults));
    assert_code(mesh_trust_check(some, none, NULL, FIXTURE_NOW_S + 200, &faults), CONFIG_INVALID);
    assert_true(fixture_has(&faults, "truststores[0].pem[0]", "\"CN=old\": expired 100 s ago"));
    some->n_truststores = 0;
    some->truststores = NULL;
    pb_free(&some->base);
    pb_free(&none->base);
    faults_fini(&faults);
    testca_free(old);
}

/* Who gets a key that he has not: whichever end, whichever way it comes about. */
static void test_a_key_that_goes_elsewhere_is_noticed(void **state)
{
#define K1 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define K2 "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define SHOW_AS(account, key, client, server, profiles)                                    \
    "subsystems: [{name: a}, {name: b, service_account: " account "}, {name: z}]\n"        \
    "keystores: [{name: k, chain_pem: x, key_sha256: " key "}, {name: i, issued: true}]\n" \
    "profiles: [{name: c, role: CLIENT}, {name: s, role: SERVER}, "                        \
    "{name: kc, role: CLIENT, keystore: k}, {name: ks, role: SERVER, keystore: k}, "       \
    "{name: is, role: SERVER, keystore: i}]\n"                                             \
    "links: [{name: l, client: " client ", server: " server ", " profiles "}]"
#define SHOW(key, client, server, profiles) SHOW_AS("b", key, client, server, profiles)
    static const struct {
        const char *before, *after, *subsystem;
    } moves[] = {
        {"links: []", SHOW(K1, "a", "b", "client_profile: c, server_profile: s"), NULL},
        {"links: []", SHOW(K1, "a", "b", "client_profile: c, server_profile: is"), NULL},
        {"links: []", SHOW(K1, "a", "b", "client_profile: c, server_profile: ks"), "b"},
        {"links: []", SHOW(K1, "a", "b", "client_profile: kc, server_profile: s"), "a"},
        {SHOW(K1, "a", "b", "client_profile: c, server_profile: ks"),
         SHOW(K1, "a", "b", "client_profile: c, server_profile: ks, description: x"), NULL},
        {SHOW(K1, "a", "b", "client_profile: c, server_profile: ks"),
         SHOW(K1, "b", "a", "client_profile: kc, server_profile: s"), NULL},
        {SHOW(K1, "a", "b", "client_profile: c, server_profile: ks"),
         SHOW(K1, "a", "z", "client_profile: c, server_profile: ks"), "z"},
        {SHOW(K1, "a", "b", "client_profile: c, server_profile: ks"),
         SHOW(K2, "a", "b", "client_profile: c, server_profile: ks"), "b"},
        {SHOW(K1, "a", "b", "client_profile: c, server_profile: ks"), "links: []", NULL},
        /* another identity takes the name */
        {SHOW(K1, "a", "b", "client_profile: c, server_profile: ks"),
         SHOW_AS("thief", K1, "a", "b", "client_profile: c, server_profile: ks"), "b"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(moves) / sizeof(moves[0]); i++) {
        Mortise__V1__Mesh *before = fixture_mesh(moves[i].before);
        Mortise__V1__Mesh *after = fixture_mesh(moves[i].after);
        const char *keystore = NULL, *subsystem = NULL;

        if (mesh_shows_anew(before, after, &keystore, &subsystem) != (moves[i].subsystem != NULL))
            fail_msg("row %zu", i);
        if (moves[i].subsystem != NULL) {
            assert_string_equal(subsystem, moves[i].subsystem);
            assert_string_equal(keystore, "k");
        }
        pb_free(&before->base);
        pb_free(&after->base);
    }
}

/* Links that send no server name are judged against one another: of as many as one server may have
 * the one that is odd is found, and told at each. */
static void test_many_links_without_a_server_name(void **state)
{
    CLEANUP(buf_fini) struct buf text = {.data = NULL};
    CLEANUP(mem_freep) char *yaml = NULL;
    struct faults faults = {.num = 0};
    Mortise__V1__Mesh *mesh;

    (void)state;
    assert_ok(buf_add_str(&text, "subsystems:\n- {name: s}\n"));
    for (unsigned i = 0; i < MESH_SUBSYSTEMS_MAX - 1; i++)
        assert_ok(buf_printf(&text, "- {name: c%u}\n", i));
    assert_ok(buf_add_str(&text, "profiles:\n- {name: c, role: CLIENT, send_sni: OMIT}\n"
                                 "- {name: s, role: SERVER}\n"
                                 "- {name: t, role: SERVER, min_version: TLS1_3}\nlinks:\n"));
    for (unsigned i = 0; i < MESH_SUBSYSTEMS_MAX - 1; i++)
        assert_ok(buf_printf(&text,
                             "- {name: l%u, client: c%u, server: s, client_port: 1000, "
                             "server_port: 1, client_profile: c, server_profile: s}\n",
                             i, i));
    yaml = buf_take_str(&text);
    mesh = fixture_mesh(yaml);
    assert_ok(mesh_check(mesh, NULL, &faults));
    mem_free(mesh->links[7]->server_profile);
    mesh->links[7]->server_profile = mem_strdup("t");
    assert_code(mesh_check(mesh, NULL, &faults), CONFIG_INVALID);
    assert_int_equal(faults.total, MESH_SUBSYSTEMS_MAX - 1);
    assert_true(fixture_has(&faults, "links[0].client_profile", "link \"l7\" has \"t\""));
    assert_true(fixture_has(&faults, "links[7].client_profile", "link \"l0\" has \"s\""));
    faults_fini(&faults);
    pb_free(&mesh->base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_who_is_expected_follows_from_who_vouches),
        cmocka_unit_test(test_a_keystore_goes_to_those_who_show_it),
        cmocka_unit_test(test_built_in_truststores_are_there_and_stay),
        cmocka_unit_test(test_certificates_are_judged_when_they_come),
        cmocka_unit_test(test_every_fault_is_told_at_its_place),
        cmocka_unit_test(test_a_stored_mesh_is_judged_more_mildly),
        cmocka_unit_test(test_all_faults_come_at_once),
        cmocka_unit_test(test_the_default_mesh_is_the_four_links),
        cmocka_unit_test(test_the_limit_of_profiles_is_on_ones_own),
        cmocka_unit_test(test_a_document_changes_what_it_names),
        cmocka_unit_test(test_an_equal_document_changes_nothing),
        cmocka_unit_test(test_prune_removes_the_rest_but_built_in_profiles),
        cmocka_unit_test(test_a_name_twice_in_the_document_is_a_fault),
        cmocka_unit_test(test_built_in_profiles_are_not_for_changing),
        cmocka_unit_test(test_a_mesh_of_an_older_program_is_completed),
        cmocka_unit_test(test_faults_of_what_was_there_are_told_by_name),
        cmocka_unit_test(test_a_client_gets_its_links_and_no_others),
        cmocka_unit_test(test_a_pure_client_takes_nothing_and_a_pure_server_opens_nothing),
        cmocka_unit_test(test_a_stranger_to_the_mesh_may_do_nothing),
        cmocka_unit_test(test_a_key_that_goes_elsewhere_is_noticed),
        cmocka_unit_test(test_many_links_without_a_server_name),
        cmocka_unit_test(test_the_same_mesh_gives_the_same_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
