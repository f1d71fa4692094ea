/* Building a snapshot: all of a configuration or nothing, and every fault with its path.
 *
 * Drives: R9, R10, R13, R18, F2, F3 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "test/unit/proxy/world.h"

static int setup(void **state)
{
    *state = mem_zalloc(sizeof(struct world));
    world_init(*state);
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    mem_free(*state);
    return 0;
}

static void test_a_good_configuration_of_files(void **state)
{
    struct snapshot *snapshot = world_build(*state, world_good_static, false);

    assert_non_null(snapshot);
    assert_int_equal(snapshot->generation, 7);
    assert_int_equal(snapshot->num_outbound, 1);
    assert_int_equal(snapshot->num_inbound, 1);
    assert_non_null(snapshot->outbound[0].tls);
    assert_non_null(snapshot->server);
    assert_string_equal(snapshot->outbound[0].server_name, "portal-db.mortise.internal");
    assert_string_equal(snapshot->inbound[0].server_name, "management-portal.mortise.internal");
    assert_int_equal(addr_port(&snapshot->inbound_listen), 15443);
    assert_int_equal(snapshot->num_trust, 1);
    snapshot_unref(snapshot);
}

static void test_a_good_configuration_of_a_control_plane(void **state)
{
    struct world *world = *state;
    struct snapshot *snapshot = world_build(world, world_good_control, true);

    assert_non_null(snapshot);
    assert_int_equal(snapshot->version, 42);
    /* Where it listens is the sidecar's own affair; the page shows it. */
    assert_string_equal(snapshot->config->inbound->listen, "0.0.0.0:15443");
    assert_memory_equal(snapshot->trust[0].bundle->hash, world->roots->hash, 32);
    snapshot_unref(snapshot);
}

static void test_a_client_only_sidecar_listens_for_nobody(void **state)
{
    struct snapshot *snapshot = world_build(*state,
                                            "truststores: [{name: mesh}]\n"
                                            "inbound: {links: []}\n",
                                            true);

    assert_non_null(snapshot);
    assert_int_equal(snapshot->inbound_listen.len, 0);
    assert_null(snapshot->server);
    snapshot_unref(snapshot);
}

static void test_a_link_may_wait_for_its_endpoints(void **state)
{
    static const char yaml[] = "truststores: [{name: mesh}]\n"
                               "outbound: [{name: a, listen: '127.0.0.1:1', truststore: mesh,\n"
                               "            peers: {spiffe_ids: ['spiffe://mesh.test/x']}}]\n";
    struct world *world = *state;
    struct snapshot *snapshot = world_build(world, yaml, true);

    assert_non_null(snapshot); /* the control plane does not know them yet */
    assert_string_equal(snapshot->outbound[0].profile, "default-tls-client");
    snapshot_unref(snapshot);
    /* In a file it is a mistake. */
    assert_null(world_build(world,
                            "truststores: [{name: mesh, ca_file: root}]\n"
                            "outbound: [{name: a, listen: '127.0.0.1:1', truststore: mesh,\n"
                            "            peers: {spiffe_ids: ['spiffe://mesh.test/x']}}]\n",
                            false));
    assert_true(world_has_fault(world, "outbound[0].endpoints", "is empty"));
}

static void test_endpoints_are_addresses_or_names(void **state)
{
    struct snapshot *snapshot = world_build(
        *state,
        "truststores: [{name: mesh}]\n"
        "outbound: [{name: a, listen: '127.0.0.1:1', truststore: mesh,\n"
        "            endpoints: ['10.0.0.1:1', '[2001:db8::1]:2', 'db.example.org:3'],\n"
        "            peers: {dns_names: [db.example.org]}}]\n",
        true);

    assert_non_null(snapshot);
    assert_int_equal(snapshot->outbound[0].num_endpoints, 3);
    assert_int_not_equal(snapshot->outbound[0].endpoints[0].addr.len, 0);
    assert_int_not_equal(snapshot->outbound[0].endpoints[1].addr.len, 0);
    assert_int_equal(snapshot->outbound[0].endpoints[2].addr.len, 0);
    snapshot_unref(snapshot);
}

/* --- where captured connections go --- */

#define CLIENT(name, port, destinations)                                              \
    "  - {name: " name ", listen: '127.0.0.1:" port "', endpoints: ['10.0.0.1:1'], "  \
    "peers: {spiffe_ids: ['spiffe://mesh.test/x']}, truststore: mesh, destinations: " \
    "[" destinations "]}\n"

static const char *route_of(const struct snapshot *snapshot, const char *text)
{
    const struct link *link;
    struct addr to;

    assert_true(err_is_ok(addr_parse(text, &to)));
    link = snapshot_route(snapshot, &to);
    return link != NULL ? link->name : "";
}

static void test_the_longest_prefix_says_which_link(void **state)
{
    struct snapshot *snapshot = world_build(*state,
                                            "truststores: [{name: mesh}]\noutbound:\n" CLIENT(
                                                "wide", "1", "'10.0.0.0/8:80', '[fd00::/8]:80'")
                                                CLIENT("narrow", "2",
                                                       "'10.1.0.0/16:80', "
                                                       "'10.2.0.7:80', '10.0.0.0/8:81'")
                                                    CLIENT("other", "3", "'[fd00::7]:80'"),
                                            true);

    assert_non_null(snapshot);
    assert_int_equal(snapshot->num_routes, 6);
    assert_string_equal(route_of(snapshot, "10.3.0.1:80"), "wide");
    assert_string_equal(route_of(snapshot, "10.1.0.1:80"), "narrow");
    assert_string_equal(route_of(snapshot, "10.2.0.7:80"), "narrow");
    assert_string_equal(route_of(snapshot, "10.2.0.8:80"), "wide");
    assert_string_equal(route_of(snapshot, "10.2.0.8:81"), "narrow");
    assert_string_equal(route_of(snapshot, "10.2.0.8:82"), "");
    assert_string_equal(route_of(snapshot, "11.0.0.1:80"), "");
    assert_string_equal(route_of(snapshot, "[fd00::7]:80"), "other");
    assert_string_equal(route_of(snapshot, "[fd00::8]:80"), "wide");
    assert_string_equal(route_of(snapshot, "[::ffff:10.1.0.1]:80"), "narrow");
    assert_string_equal(route_of(snapshot, "[fe00::8]:80"), "");
    snapshot_unref(snapshot);
}

static void test_a_destination_is_of_one_link(void **state)
{
    struct world *world = *state;

    assert_null(world_build(world,
                            "truststores: [{name: mesh}]\noutbound:\n" CLIENT(
                                "a", "1", "'10.0.0.7:80'") CLIENT("b", "2", "'10.0.0.7/32:80'"),
                            true));
    assert_true(world_has_fault(world, "outbound[1].destinations",
                                "10.0.0.7/32 port 80 is a destination of outbound[0] (a)"));
}

static void test_policies_are_part_of_a_snapshot(void **state)
{
    static const char yaml[] =
        "truststores: [{name: mesh}]\n"
        "inbound: {links: [{name: l, target: '127.0.0.1:8080',\n"
        "  peers: {spiffe_ids: ['spiffe://mesh.test/x']}, truststore: "
        "mesh}]}\n"
        "policies: [{name: p, action: DENY, peers: ['spiffe://mesh.test/x']},"
        " {name: q, action: ALLOW, links: [l]}]\n";
    struct snapshot *none = world_build(*state, world_good_control, true);
    struct snapshot *snapshot = world_build(*state, yaml, true);

    assert_non_null(none);
    assert_null(none->policies);
    assert_non_null(snapshot); /* an ALLOW of nobody: as a control plane cuts it */
    assert_string_equal(
        policy_find(snapshot->policies, "l", POLICY_CLIENT, "spiffe://mesh.test/x")->name, "p");
    assert_string_equal(
        policy_find(snapshot->policies, "l", POLICY_CLIENT, "spiffe://mesh.test/y")->name, "q");
    snapshot_unref(none);
    snapshot_unref(snapshot);
}

/* --- faults: one line each of what is wrong, where it is told, and a word of what it says --- */

struct fault_case {
    const char *what;
    bool control;
    const char *path, *text;
    const char *yaml;
};

#define STORE "truststores: [{name: mesh, ca_file: root, trust_domain: mesh.test}]\n"
#define OUT(fields)                                                                      \
    STORE "outbound:\n  - {name: a, listen: '127.0.0.1:1', endpoints: ['10.0.0.1:1'],\n" \
          "     peers: {spiffe_ids: ['spiffe://mesh.test/x']}, truststore: mesh, " fields "}\n"
#define IN(listen, fields)                                           \
    STORE "inbound:\n  listen: '" listen                             \
          "'\n  links:\n    - {name: l, target: '127.0.0.1:8080',\n" \
          "       peers: {spiffe_ids: ['spiffe://mesh.test/x']}, truststore: mesh, " fields "}\n"

#define PERMISSIVE(text)                                                             \
    STORE "outbound: [{name: a, listen: '127.0.0.1:7'}]\n"                           \
          "inbound: {listen: '0.0.0.0:9', links: [{name: l, target: '127.0.0.1:5', " \
          "permissive: " text "}]}\n"

#define POLICIES(text) IN("0.0.0.0:9", "") "policies: [" text "]\n"
#define PEERS "peers: ['spiffe://mesh.test/x']"

static const struct fault_case fault_cases[] = {
    {"policy without a name", false, "policies[0].name", "is missing",
     POLICIES("{action: DENY, " PEERS "}")},
    {"two policies of a name", false, "policies[1].name", "another policy",
     POLICIES("{name: p, action: DENY, " PEERS "}, {name: p, action: DENY, " PEERS "}")},
    {"policy without an action", false, "policies[0].action", "is missing",
     POLICIES("{name: p, " PEERS "}")},
    {"policy of nobody", false, "policies[0].peers", "is missing",
     POLICIES("{name: p, action: ALLOW}")},
    {"policy of nobody, of a control plane", true, "policies[0].peers", "is missing",
     POLICIES("{name: p, action: DENY}")},
    {"policy of what is no ID", false, "policies[0].peers[0]", "not a SPIFFE ID",
     POLICIES("{name: p, action: DENY, peers: ['spiffe://mesh.test/x/']}")},
    {"policy of a link that is not there", false, "policies[0].links[0]",
     "no link \"ll\" (meant was l?); there are: l",
     POLICIES("{name: p, action: DENY, links: [ll], " PEERS "}")},
    {"identity of a control plane", true, "identity", "static mode only",
     "identity: {cert_file: a, key_file: b}\n"},
    {"an access log for nobody", false, "access_log_permille", "there is none to tell",
     "access_log_permille: 10\n"},
    {"more than all of the access log", true, "access_log_permille", "more than 1000",
     "access_log_permille: 1001\n"},
    {"more than all of a link's", true, "outbound[0].access_log_permille", "more than 1000",
     "outbound: [{name: a, listen: '127.0.0.1:7', access_log_permille: 4294967295}]\n"},
    {"truststore without name", false, "truststores[0].name", "is missing",
     "truststores: [{ca_file: root}]\n"},
    {"truststore with a bad name", false, "truststores[0].name", "is not a name",
     "truststores: [{name: Mesh, ca_file: root}]\n"},
    {"two truststores of a name", false, "truststores[1].name", "another truststore",
     "truststores: [{name: m, ca_file: root}, {name: m, ca_file: root}]\n"},
    {"truststore without certificates", false, "truststores[0].ca_file", "is missing",
     "truststores: [{name: m}]\n"},
    {"truststore with two", false, "truststores[0].pem", "one of the two",
     "truststores: [{name: m, ca_file: root, pem: x}]\n"},
    {"truststore of rubbish", false, "truststores[0].ca_file", "no CA certificate",
     "truststores: [{name: m, ca_file: rubbish}]\n"},
    {"file from a control plane", true, "truststores[0].ca_file", "static mode only",
     "truststores: [{name: m, ca_file: /etc/passwd}]\n"},
    {"rubbish from a control plane", true, "truststores[0].pem", "no CA certificate",
     "truststores: [{name: m, pem: x}]\n"},
    {"bad trust domain", false, "truststores[0].trust_domain", "not a trust domain",
     "truststores: [{name: m, ca_file: root, trust_domain: 'Mesh Test'}]\n"},
    {"our certificate of another CA", false, "identity.cert_file", "no trusted root",
     "truststores: [{name: m, trust_domain: mesh.test, pem: STRANGER}]\n"},
    {"profile without name", false, "profiles[0].name", "is missing",
     "profiles: [{role: CLIENT}]\n"},
    {"two profiles of a name", false, "profiles[1].name", "another profile",
     "profiles: [{name: p, role: CLIENT}, {name: p, role: CLIENT}]\n"},
    {"profile without role", false, "profiles[0].role", "", "profiles: [{name: p}]\n"},
    {"outbound without name", false, "outbound[0].name", "is missing",
     STORE "outbound: [{listen: '127.0.0.1:1'}]\n"},
    {"outbound without listen", false, "outbound[0].listen", "is missing",
     STORE "outbound: [{name: a}]\n"},
    {"destination without port", false, "outbound[0].destinations[1]", "is no destination",
     OUT("destinations: ['10.0.0.7:80', '10.0.0.7']")},
    {"destination with bits behind its prefix", false, "outbound[0].destinations[0]", "are 0",
     OUT("destinations: ['10.0.0.7/8:80']")},
    {"destination on this host", false, "outbound[0].destinations[0]", "loopback",
     OUT("destinations: ['127.0.0.7:80']")},
    {"destination on this host over IPv6", false, "outbound[0].destinations[0]", "loopback",
     OUT("destinations: ['[::1]:80']")},
    {"outbound listens for all", false, "outbound[0].listen", "loopback",
     STORE "outbound: [{name: a, listen: '0.0.0.0:1'}]\n"},
    {"outbound on port 0", false, "outbound[0].listen", "not an address",
     STORE "outbound: [{name: a, listen: '127.0.0.1:0'}]\n"},
    {"outbound on a socket file", false, "outbound[0].listen", "not an address",
     STORE "outbound: [{name: a, listen: 'unix:/tmp/x'}]\n"},
    {"endpoint without port", false, "outbound[0].endpoints[1]", "not address:port",
     STORE "outbound: [{name: a, listen: '127.0.0.1:1', endpoints: ['10.0.0.1:1', db]}]\n"},
    {"nobody expected", false, "outbound[0].peers", "is missing",
     STORE "outbound: [{name: a, listen: '127.0.0.1:1'}]\n"},
    {"nobody in an empty list", false, "outbound[0].peers", "is missing",
     STORE "outbound: [{name: a, listen: '127.0.0.1:1', peers: {}}]\n"},
    {"not a SPIFFE ID", false, "outbound[0].peers.spiffe_ids[0]", "not a SPIFFE ID",
     STORE "outbound: [{name: a, peers: {spiffe_ids: ['spiffe://mesh.test/../x']}}]\n"},
    {"a trust domain is no peer", false, "outbound[0].peers.spiffe_ids[0]", "no peer has",
     STORE "outbound: [{name: a, peers: {spiffe_ids: ['spiffe://mesh.test']}}]\n"},
    {"a peer the truststore cannot vouch for", false, "outbound[0].peers.spiffe_ids[1]",
     "another trust domain",
     STORE "outbound: [{name: a, truststore: mesh,\n"
           "  peers: {spiffe_ids: ['spiffe://mesh.test/x', 'spiffe://other.test/x']}}]\n"},
    {"a wildcard", false, "outbound[0].peers.dns_names[0]", "exact names",
     STORE "outbound: [{name: a, peers: {dns_names: ['*.example.org']}}]\n"},
    {"an address", false, "outbound[0].peers.dns_names[0]", "is an IP address",
     STORE "outbound: [{name: a, peers: {dns_names: [10.0.0.1]}}]\n"},
    {"bad server name", false, "outbound[0].server_name", "not a DNS name",
     OUT("server_name: 'a b'")},
    {"a name that the profile would not send", false, "outbound[0].server_name", "send_sni: OMIT",
     "profiles: [{name: quiet, role: CLIENT, send_sni: OMIT}]\n" OUT(
         "profile: quiet, server_name: a.example")},
    {"a profile that asks for an address", false, "profiles[0].server_name", "not a DNS name",
     "profiles: [{name: p, role: CLIENT, server_name: 10.0.0.1}]\n"},
    {"unknown profile", false, "outbound[0].profile", "there are: default-tls-client",
     OUT("profile: modern")},
    {"a server's profile for a client", false, "outbound[0].profile", "role SERVER",
     OUT("profile: default-tls-server")},
    {"no truststore named", false, "outbound[0].truststore", "there are: mesh",
     STORE "outbound: [{name: a}]\n"},
    {"unknown truststore", false, "outbound[0].truststore", "no truststore \"x\"",
     STORE "outbound: [{name: a, truststore: x}]\n"},
    {"no truststore at all", false, "outbound[0].truststore", "there are none",
     "outbound: [{name: a, truststore: x}]\n"},
    {"two links of a name", false, "outbound[1].name", "another outbound link",
     STORE "outbound: [{name: a}, {name: a}]\n"},
    {"two links on a port", false, "outbound[1].listen", "outbound[0] (a)",
     STORE "outbound: [{name: a, listen: '127.0.0.1:1'}, {name: b, listen: '127.0.0.1:1'}]\n"},
    {"inbound without listen", false, "inbound.listen", "is missing",
     STORE "inbound: {links: [{name: l}]}\n"},
    {"inbound without links", false, "inbound.links", "is empty",
     STORE "inbound: {listen: '127.0.0.1:9'}\n"},
    {"inbound where an outbound link listens", false, "inbound.listen", "outbound[0] (a)",
     STORE "outbound: [{name: a, listen: '127.0.0.1:9'}]\ninbound: {listen: '0.0.0.0:9'}\n"},
    {"target elsewhere", false, "inbound.links[0].target", "loopback",
     STORE "inbound: {listen: '127.0.0.1:9', links: [{name: l, target: '10.0.0.1:80'}]}\n"},
    {"target is ourselves, inbound", false, "inbound.links[0].target", "loop",
     STORE "inbound: {listen: '0.0.0.0:9', links: [{name: l, target: '127.0.0.1:9'}]}\n"},
    {"target is ourselves, outbound", false, "inbound.links[0].target", "itself (a)",
     STORE "outbound: [{name: a, listen: '127.0.0.1:7'}]\n"
           "inbound: {listen: '0.0.0.0:9', links: [{name: l, target: '127.0.0.1:7'}]}\n"},
    {"target is ourselves, by the setting", true, "inbound.links[0].target", "loop",
     "inbound: {links: [{name: l, target: '127.0.0.1:15443'}]}\n"},
    {"a permissive port without an end", false, "inbound.links[0].permissive.until",
     "\"\" is not a time: wanted is 2026-12-31T23:59:59Z", PERMISSIVE("{port: 8}")},
    {"an end in words", false, "inbound.links[0].permissive.until", "is not a time",
     PERMISSIVE("{port: 8, until: tomorrow}")},
    {"an end in a zone", false, "inbound.links[0].permissive.until", "is not a time",
     PERMISSIVE("{port: 8, until: '2026-12-31T23:59:59+01:00'}")},
    {"an end on no day", false, "inbound.links[0].permissive.until", "is not a time",
     PERMISSIVE("{port: 8, until: '2026-02-30T00:00:00Z'}")},
    {"permissive at no port", false, "inbound.links[0].permissive.port",
     "0 is not a port: wanted is 1 to 65535", PERMISSIVE("{until: '2026-12-31T23:59:59Z'}")},
    {"a permissive port too high", false, "inbound.links[0].permissive.port", "65536",
     PERMISSIVE("{port: 65536, until: '2026-12-31T23:59:59Z'}")},
    {"permissive at the inbound port", false, "inbound.links[0].permissive.port",
     "9 is that of inbound.listen", PERMISSIVE("{port: 9, until: '2026-12-31T23:59:59Z'}")},
    {"permissive where the target is", false, "inbound.links[0].permissive.port", "loop",
     PERMISSIVE("{port: 5, until: '2026-12-31T23:59:59Z'}")},
    {"permissive where another link is", false, "inbound.links[0].permissive.port",
     "outbound[0] (a) listens already", PERMISSIVE("{port: 7, until: '2026-12-31T23:59:59Z'}")},
    {"two permissive links at a port", false, "inbound.links[1].permissive.port",
     "inbound.links[0] (l) already",
     STORE "inbound: {listen: '0.0.0.0:9', links: [\n"
           "  {name: l, target: '127.0.0.1:5', permissive: {port: 8}},\n"
           "  {name: m, target: '127.0.0.1:6', permissive: {port: 8}}]}\n"},
    {"a target that is a permissive port", false, "inbound.links[1].target", "itself (l)",
     STORE "inbound: {listen: '0.0.0.0:9', links: [\n"
           "  {name: l, target: '127.0.0.1:5', permissive: {port: 8}},\n"
           "  {name: m, target: '127.0.0.1:8'}]}\n"},
    {"two links of a server name", false, "inbound.links[1].server_name", "inbound.links[0] (l)",
     STORE "inbound: {listen: '127.0.0.1:9', links: [{name: l, server_name: One.example},\n"
           "  {name: m, server_name: oNE.example}]}\n"},
    {"a client's profile for a server", false, "inbound.links[0].profile", "role CLIENT",
     IN("127.0.0.1:9", "profile: default-tls-client")},
    {"nobody verified, and not said that it may be so", false, "profiles[0].insecure_skip_verify",
     "needs allow_insecure: true",
     "profiles: [{name: p, role: CLIENT, insecure_skip_verify: true}]\n"},
    {"likewise from a control plane", true, "profiles[0].insecure_skip_verify",
     "needs allow_insecure: true",
     "profiles: [{name: p, role: CLIENT, insecure_skip_verify: true}]\n"},
    {"a link that lets in whom its profile refuses", false, "inbound.links[0].allow_anonymous",
     "requires a certificate", IN("127.0.0.1:9", "allow_anonymous: true")},
    {"a profile by which nobody comes in", false, "inbound.links[0].profile",
     "nobody could come in",
     "profiles: [{name: open, role: SERVER, client_auth: NONE}]\n" IN("127.0.0.1:9",
                                                                      "profile: open")},
    {"a profile that our key cannot serve", false, "inbound.links[0].profile", "kind of key",
     "profiles: [{name: rsa, role: SERVER, max_version: TLS1_2,\n"
     "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}]\n" IN("127.0.0.1:9",
                                                                       "profile: rsa")},
};

static char *with_stranger(const char *yaml)
{
    const char *at = strstr(yaml, "STRANGER");
    struct testca *stranger;
    char *json, *out;
    size_t len = 0;

    if (at == NULL)
        return mem_strdup(yaml);
    stranger = testca_new(&(struct testca_params){.name = "stranger"});
    json = mem_zalloc(strlen(stranger->cert_pem) * 2 + 3);
    json[len++] = '"';
    for (const char *c = stranger->cert_pem; *c != '\0'; c++) {
        if (*c == '\n') {
            json[len++] = '\\';
            json[len++] = 'n';
        } else {
            json[len++] = *c;
        }
    }
    json[len] = '"';
    out = mem_printf("%.*s%s%s", (int)(at - yaml), yaml, json, at + strlen("STRANGER"));
    mem_free(json);
    testca_free(stranger);
    return out;
}

static void test_every_fault_is_told_with_its_path(void **state)
{
    struct world *world = *state;

    for (size_t i = 0; i < ARRAY_LEN(fault_cases); i++) {
        const struct fault_case *row = &fault_cases[i];
        char *yaml = with_stranger(row->yaml);

        print_message("%s\n", row->what);
        assert_null(world_build(world, yaml, row->control));
        assert_true(world_has_fault(world, row->path, row->text));
        mem_free(yaml);
    }
}

static void test_all_faults_are_told_at_once(void **state)
{
    struct world *world = *state;

    assert_null(world_build(world,
                            "truststores: [{name: t}]\n"
                            "profiles: [{name: p}]\n"
                            "outbound: [{name: a, listen: nowhere, profile: q, truststore: u}]\n"
                            "inbound: {listen: x, links: [{name: L, target: '10.0.0.1:1'}]}\n",
                            false));
    assert_true(world_has_fault(world, "truststores[0].ca_file", ""));
    assert_true(world_has_fault(world, "profiles[0].role", ""));
    assert_true(world_has_fault(world, "outbound[0].listen", ""));
    assert_true(world_has_fault(world, "outbound[0].endpoints", ""));
    assert_true(world_has_fault(world, "outbound[0].peers", ""));
    assert_true(world_has_fault(world, "outbound[0].profile", ""));
    assert_true(world_has_fault(world, "outbound[0].truststore", ""));
    assert_true(world_has_fault(world, "inbound.listen", ""));
    assert_true(world_has_fault(world, "inbound.links[0].name", ""));
    assert_true(world_has_fault(world, "inbound.links[0].target", ""));
}

static void test_the_profile_of_the_file_hides_the_built_in_one(void **state)
{
    struct snapshot *snapshot = world_build(
        *state,
        "profiles: [{name: default-tls-client, role: CLIENT, min_version: TLS1_3}]\n" OUT(""),
        false);

    assert_non_null(snapshot);
    snapshot_unref(snapshot);
}

static void test_links_alike_share_a_context(void **state)
{
    struct snapshot *snapshot = world_build(
        *state,
        "truststores: [{name: mesh}]\n"
        "profiles: [{name: other, role: CLIENT}]\n"
        "outbound:\n"
        "  - {name: a, listen: '127.0.0.1:1', truststore: mesh, peers: {dns_names: [one]}}\n"
        "  - {name: b, listen: '127.0.0.1:2', truststore: mesh, peers: {dns_names: [two]}}\n"
        "  - {name: c, listen: '127.0.0.1:3', truststore: mesh, profile: other,\n"
        "     peers: {dns_names: [two]}}\n",
        true);

    assert_non_null(snapshot);
    assert_ptr_equal(tls_ctx_ssl(snapshot->outbound[0].tls),
                     tls_ctx_ssl(snapshot->outbound[1].tls));
    assert_ptr_not_equal(tls_ctx_ssl(snapshot->outbound[0].tls),
                         tls_ctx_ssl(snapshot->outbound[2].tls));
    snapshot_unref(snapshot);
}

static void test_expiry_is_of_the_certificate(void **state)
{
    struct world *world = *state;
    struct snapshot *snapshot = world_build(world, world_good_static, false);

    assert_false(snapshot_expired(snapshot, world->svid->not_after - 1));
    assert_true(snapshot_expired(snapshot, world->svid->not_after));
    snapshot_unref(snapshot);
}

static void test_own_listeners_are_known(void **state)
{
    struct snapshot *snapshot = world_build(*state, world_good_control, true);
    struct addr addr;

    assert_true(err_is_ok(addr_parse("127.0.0.1:15101", &addr)));
    assert_string_equal(snapshot_own_listener(snapshot, &addr), "portal-db");
    assert_true(err_is_ok(addr_parse("127.0.0.2:15443", &addr)));
    assert_string_equal(snapshot_own_listener(snapshot, &addr), "inbound"); /* any address */
    assert_true(err_is_ok(addr_parse("127.0.0.2:15101", &addr)));
    assert_null(snapshot_own_listener(snapshot, &addr));
    assert_true(err_is_ok(addr_parse("10.0.0.1:15443", &addr)));
    assert_null(snapshot_own_listener(snapshot, &addr)); /* may be another host's */
    snapshot_unref(snapshot);
}

static void test_no_private_key_is_in_what_is_shown(void **state)
{
    struct snapshot *snapshot = world_build(*state, world_good_static, false);
    struct buf out = {.data = NULL};
    char *text;

    assert_true(err_is_ok(json_pb_write(JSON_PB_JSON, &snapshot->config->base, &out)));
    text = buf_take_str(&out);
    assert_null(strstr(text, "PRIVATE"));
    mem_free(text);
    snapshot_unref(snapshot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_good_configuration_of_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_good_configuration_of_a_control_plane, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_client_only_sidecar_listens_for_nobody, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_link_may_wait_for_its_endpoints, setup, teardown),
        cmocka_unit_test_setup_teardown(test_endpoints_are_addresses_or_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_longest_prefix_says_which_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_destination_is_of_one_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_policies_are_part_of_a_snapshot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_fault_is_told_with_its_path, setup, teardown),
        cmocka_unit_test_setup_teardown(test_all_faults_are_told_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_profile_of_the_file_hides_the_built_in_one, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_links_alike_share_a_context, setup, teardown),
        cmocka_unit_test_setup_teardown(test_expiry_is_of_the_certificate, setup, teardown),
        cmocka_unit_test_setup_teardown(test_own_listeners_are_known, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_private_key_is_in_what_is_shown, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
