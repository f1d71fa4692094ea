/* Who may be at the other end: deny unless a link says yes.
 *
 * Drives: R3, R13, R12, R8, F6 */
#include "proxy/authz.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"

/* A peer as verification would give it. */
struct somebody {
    struct peer peer;
    char *names[2];
};

static const struct peer *somebody(struct somebody *out, const char *id, const char *dns)
{
    static char empty[1];

    memset(out, 0, sizeof(*out));
    refs_init(&out->peer.refs);
    out->peer.serial = empty;
    out->peer.spiffe_id = id != NULL ? (char *)(uintptr_t)id : empty;
    out->names[0] = (char *)(uintptr_t)dns;
    out->peer.dns_names = out->names;
    return &out->peer;
}

static const char *const id_a[] = {"spiffe://mesh.test/ns/x/sa/a"};
static const char *const id_b[] = {"spiffe://mesh.test/ns/x/sa/b",
                                   "spiffe://mesh.test/ns/x/sa/both"};
static const char *const id_c[] = {"spiffe://mesh.test/ns/x/sa/c",
                                   "spiffe://mesh.test/ns/x/sa/both"};

static struct link links[] = {
    {.direction = DIRECTION_INBOUND,
     .index = 0,
     .peers = {.spiffe_ids = id_a, .num_spiffe_ids = 1}},
    {.direction = DIRECTION_INBOUND,
     .index = 1,
     .peers = {.spiffe_ids = id_b, .num_spiffe_ids = 2}},
    {.direction = DIRECTION_INBOUND,
     .index = 2,
     .peers = {.spiffe_ids = id_c, .num_spiffe_ids = 2}},
};
static struct snapshot snapshot = {.inbound = links, .num_inbound = 3};

static void test_the_server_must_be_the_expected_one(void **state)
{
    struct somebody who;

    (void)state;
    assert_true(err_is_ok(authz_server(&snapshot, &links[0], somebody(&who, id_a[0], NULL), 0)));
    assert_true(err_is(authz_server(&snapshot, &links[0], somebody(&who, id_b[0], NULL), 0),
                       E_PEER_IDENTITY));
    assert_true(err_is(authz_server(&snapshot, &links[0], NULL, 0), E_CERT_MISSING));
}

/* Who was not verified is taken where the link asks for no more, and only as nobody: who was
 * verified and is another is refused all the same. */
static void test_the_unverified_are_taken_where_a_link_says_so(void **state)
{
    struct link any = links[0];
    struct snapshot open = {.outbound = &any, .num_outbound = 1, .revoked = snapshot.revoked};
    struct somebody who;
    uint32_t grace_ms = 7;

    (void)state;
    any.name = "l";
    any.direction = DIRECTION_OUTBOUND;
    any.unverified = true;
    assert_true(err_is_ok(authz_server(&open, &any, NULL, 0)));
    assert_true(
        err_is(authz_server(&open, &any, somebody(&who, id_b[0], NULL), 0), E_PEER_IDENTITY));
    assert_true(err_is_ok(authz_live(&open, &any, NULL, 0, &grace_ms)));
    any.unverified = false;
    assert_true(err_is(authz_live(&open, &any, NULL, 0, &grace_ms), E_POLICY_CHANGED));
}

/* Not a prefix, not a suffix, not another case: byte for byte. */
static void test_near_misses_are_misses(void **state)
{
    static const char *const near[] = {
        "spiffe://mesh.test/ns/x/sa/a/",  "spiffe://mesh.test/ns/x/sa/aa",
        "spiffe://mesh.test/ns/x/sa",     "spiffe://mesh.test/ns/x/sa/A",
        "spiffe://mesh-test/ns/x/sa/a",   "spiffe://mesh.test.evil/ns/x/sa/a",
        "spiffe://mesh.test/ns/x/sa/a?b", "",
    };
    struct somebody who;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(near); i++)
        assert_true(err_is(authz_server(&snapshot, &links[0], somebody(&who, near[i], NULL), 0),
                           E_PEER_IDENTITY));
}

static void test_a_dns_name_is_no_spiffe_id(void **state)
{
    static const char *const dns[] = {"db.example.org"};
    const struct link link = {.peers = {.dns_names = dns, .num_dns_names = 1}};
    struct somebody who;

    (void)state;
    assert_true(
        err_is_ok(authz_server(&snapshot, &link, somebody(&who, NULL, "DB.example.org"), 0)));
    assert_false(
        err_is_ok(authz_server(&snapshot, &link, somebody(&who, "db.example.org", NULL), 0)));
    assert_false(err_is_ok(authz_server(&snapshot, &links[0], somebody(&who, NULL, id_a[0]), 0)));
}

static void test_a_chosen_link_admits_its_own_peers_only(void **state)
{
    const struct link *out = NULL;
    struct somebody who;

    (void)state;
    assert_true(err_is_ok(authz_client(&snapshot, 1, somebody(&who, id_b[0], NULL), 0, &out)));
    assert_ptr_equal(out, &links[1]);
    out = NULL;
    assert_true(
        err_is(authz_client(&snapshot, 1, somebody(&who, id_a[0], NULL), 0, &out), E_PEER_DENIED));
    assert_null(out);
}

static void test_without_a_name_the_one_link_that_allows(void **state)
{
    const struct link *out = NULL;
    struct somebody who;

    (void)state;
    assert_true(err_is_ok(authz_client(&snapshot, -1, somebody(&who, id_c[0], NULL), 0, &out)));
    assert_ptr_equal(out, &links[2]);
    out = NULL;
    /* Two allow it: none is guessed. */
    assert_true(err_is(authz_client(&snapshot, -1, somebody(&who, id_b[1], NULL), 0, &out),
                       E_TLS_SNI_UNKNOWN));
    assert_null(out);
    assert_true(
        err_is(authz_client(&snapshot, -1, somebody(&who, "spiffe://mesh.test/z", NULL), 0, &out),
               E_PEER_DENIED));
}

/* One without a certificate gets where a link says so, and nowhere else; nor does a certificate
 * that no link names get in as if there were none. */
static void test_the_anonymous_enter_where_a_link_says_so(void **state)
{
    struct link some[] = {links[0], links[1], links[2]};
    const struct snapshot open = {.inbound = some, .num_inbound = 3, .revoked = snapshot.revoked};
    const struct link *out = NULL;
    struct somebody who;
    uint32_t grace_ms = 7;

    (void)state;
    some[1].anonymous = true;
    some[1].name = "m";
    assert_true(err_is_ok(authz_client(&open, 1, NULL, 0, &out)));
    assert_ptr_equal(out, &some[1]);
    out = NULL;
    assert_true(err_is(authz_client(&open, 0, NULL, 0, &out), E_CERT_MISSING));
    assert_true(
        err_is(authz_client(&open, 1, somebody(&who, id_a[0], NULL), 0, &out), E_PEER_DENIED));
    assert_null(out);
    assert_true(err_is_ok(authz_client(&open, -1, NULL, 0, &out)));
    assert_ptr_equal(out, &some[1]);
    some[0].name = some[2].name = "l";
    assert_true(err_is_ok(authz_live(&open, &some[1], NULL, 0, &grace_ms)));
    some[2].anonymous = true;
    assert_true(err_is(authz_client(&open, -1, NULL, 0, &out), E_TLS_SNI_UNKNOWN));
    some[1].anonymous = false;
    assert_true(err_is(authz_live(&open, &some[1], NULL, 0, &grace_ms), E_POLICY_CHANGED));
    assert_int_equal(grace_ms, 0);
}

static void test_nobody_is_denied_before_any_rule(void **state)
{
    const struct snapshot none = {.num_inbound = 0, .revoked = snapshot.revoked};
    const struct link *out = NULL;
    struct somebody who;

    (void)state;
    assert_true(err_is(authz_client(&snapshot, 0, NULL, 0, &out), E_CERT_MISSING));
    assert_true(err_is(authz_client(&snapshot, -1, NULL, 0, &out), E_CERT_MISSING));
    assert_true(
        err_is(authz_client(&none, -1, somebody(&who, id_a[0], NULL), 0, &out), E_PEER_DENIED));
    assert_null(out);
}

/* ---- revocation, and connections that live ---- */

static struct revoke_set *denied(const char *spiffe_id, uint32_t grace_ms)
{
    Mortise__V1__Revocation entry = MORTISE__V1__REVOCATION__INIT, *list[] = {&entry};
    struct faults faults = {.num = 0};
    struct revoke_set *set;

    entry.spiffe_id = (char *)(uintptr_t)spiffe_id;
    entry.grace_ms = grace_ms;
    assert_true(err_is_ok(revoke_set_new(list, spiffe_id != NULL, &faults, &set)));
    return set;
}

/* Denied comes before every rule: with a name, without, as client and as server. */
static void test_who_is_revoked_is_denied_whatever_links_say(void **state)
{
    struct snapshot now = snapshot;
    const struct link *out = NULL;
    struct somebody who;

    (void)state;
    now.revoked = denied(id_a[0], 0);
    assert_true(
        err_is(authz_server(&now, &links[0], somebody(&who, id_a[0], NULL), 0), E_PEER_REVOKED));
    assert_true(
        err_is(authz_client(&now, 0, somebody(&who, id_a[0], NULL), 0, &out), E_PEER_REVOKED));
    assert_true(
        err_is(authz_client(&now, -1, somebody(&who, id_a[0], NULL), 0, &out), E_PEER_REVOKED));
    assert_null(out);
    assert_true(err_is_ok(authz_client(&now, 1, somebody(&who, id_b[0], NULL), 0, &out)));
    revoke_set_free(now.revoked);
}

static struct bundle bundle_of_one(uint8_t sha256[1][32], char *trust_domain)
{
    return (struct bundle){.num = 1, .sha256 = sha256, .trust_domain = trust_domain};
}

/* Who came in plaintext may stay while the link is permissive. */
static void test_plaintext_is_let_in_by_a_permissive_link_only(void **state)
{
    static char name[] = "a-link";
    struct link link = {.direction = DIRECTION_INBOUND, .name = name, .anonymous = true};
    struct snapshot now = {.inbound = &link, .num_inbound = 1};

    (void)state;
    assert_true(err_is(authz_plain(&now, &link, 99), E_POLICY_CHANGED));
    link.permissive_until = 100;
    assert_true(err_is(authz_plain(&now, &link, 99), E_POLICY_CHANGED));
    link.permissive_listen.len = sizeof(struct sockaddr_in);
    assert_true(err_is_ok(authz_plain(&now, &link, 99)));
    assert_true(err_is(authz_plain(&now, &link, 100), E_POLICY_CHANGED));
    now.num_inbound = 0;
    assert_true(err_is(authz_plain(&now, &link, 99), E_POLICY_CHANGED));
}

/* ---- policies ---- */

static char policy_links[][8] = {"a", "b", "out"};
static char *of_a[] = {policy_links[0]}, *of_out[] = {policy_links[2]};

/* One policy of one peer; `of` NULL: of all links. */
static struct policy_set *policy_of(Mortise__V1__Policy *msg, const char *name,
                                    Mortise__V1__Policy__Action action, char **of,
                                    const char *const *peer)
{
    mortise__v1__policy__init(msg);
    msg->name = (char *)(uintptr_t)name;
    msg->action = action;
    msg->links = of;
    msg->n_links = of != NULL ? 1 : 0;
    msg->peers = (char **)(uintptr_t)peer;
    msg->n_peers = 1;
    return policy_set_new(&msg, 1);
}

/* Two links to one application: of a alone, and of b and both. */
struct policed {
    struct link in[2], out;
    struct snapshot snapshot;
    Mortise__V1__Policy msg;
};

static void policed_init(struct policed *test)
{
    *test = (struct policed){.msg = {.name = NULL}};
    test->in[0] = (struct link){.direction = DIRECTION_INBOUND,
                                .name = policy_links[0],
                                .peers = {.spiffe_ids = id_a, .num_spiffe_ids = 1}};
    test->in[1] = (struct link){.direction = DIRECTION_INBOUND,
                                .name = policy_links[1],
                                .peers = {.spiffe_ids = id_b, .num_spiffe_ids = 2}};
    test->out = (struct link){.direction = DIRECTION_OUTBOUND,
                              .name = policy_links[2],
                              .peers = {.spiffe_ids = id_a, .num_spiffe_ids = 1}};
    test->snapshot = (struct snapshot){
        .inbound = test->in,
        .num_inbound = 2,
        .outbound = &test->out,
        .num_outbound = 1,
        .revoked = denied(NULL, 0),
    };
}

static void policed_fini(struct policed *test)
{
    policy_set_free(test->snapshot.policies);
    revoke_set_free(test->snapshot.revoked);
}

static void policed_set(struct policed *test, struct policy_set *set)
{
    policy_set_free(test->snapshot.policies);
    test->snapshot.policies = set;
}

static void test_a_deny_keeps_out_clients_and_servers(void **state)
{
    struct policed test;
    struct somebody who;
    const struct link *out = NULL;

    (void)state;
    policed_init(&test);
    policed_set(&test, policy_of(&test.msg, "no-a", MORTISE__V1__POLICY__ACTION__DENY, NULL, id_a));
    assert_true(err_is(authz_client(&test.snapshot, 0, somebody(&who, id_a[0], NULL), 0, &out),
                       E_POLICY_DENIED));
    assert_ptr_equal(out, &test.in[0]); /* for the log */
    assert_string_equal(authz_policy(&test.snapshot, out, &who.peer), "no-a");
    assert_true(err_is(authz_client(&test.snapshot, -1, &who.peer, 0, &out), E_POLICY_DENIED));
    assert_true(err_is(authz_server(&test.snapshot, &test.out, &who.peer, 0), E_POLICY_DENIED));
    /* others are what they were, also those whom no link knows */
    assert_true(err_is_ok(authz_client(&test.snapshot, 1, somebody(&who, id_b[0], NULL), 0, &out)));
    assert_true(err_is(authz_client(&test.snapshot, 1, somebody(&who, id_a[0], NULL), 0, &out),
                       E_PEER_DENIED));

    policed_set(&test,
                policy_of(&test.msg, "out", MORTISE__V1__POLICY__ACTION__DENY, of_out, id_a));
    assert_true(err_is_ok(authz_client(&test.snapshot, 0, &who.peer, 0, &out)));
    assert_true(err_is(authz_server(&test.snapshot, &test.out, &who.peer, 0), E_POLICY_DENIED));
    policed_set(&test, NULL);
    assert_true(err_is_ok(authz_server(&test.snapshot, &test.out, &who.peer, 0)));
    policed_fini(&test);
}

static void test_an_allow_keeps_out_the_other_clients(void **state)
{
    struct policed test;
    struct somebody who;
    const struct link *out = NULL;

    (void)state;
    policed_init(&test);
    policed_set(&test,
                policy_of(&test.msg, "only", MORTISE__V1__POLICY__ACTION__ALLOW, NULL, &id_b[1]));
    assert_true(err_is_ok(authz_client(&test.snapshot, 1, somebody(&who, id_b[1], NULL), 0, &out)));
    assert_true(err_is(authz_client(&test.snapshot, 1, somebody(&who, id_b[0], NULL), 0, &out),
                       E_POLICY_DENIED));
    assert_string_equal(authz_policy(&test.snapshot, &test.in[1], &who.peer), "only");
    /* it lets nobody in where the link does not */
    assert_true(err_is(authz_client(&test.snapshot, 0, somebody(&who, id_b[1], NULL), 0, &out),
                       E_PEER_DENIED));
    /* servers are not what it is about */
    assert_true(
        err_is_ok(authz_server(&test.snapshot, &test.out, somebody(&who, id_a[0], NULL), 0)));
    policed_fini(&test);
}

/* Without an ID nobody is named: an ALLOW is none of theirs, a DENY does not meet them. */
static void test_who_has_no_id_is_not_allowed(void **state)
{
    struct policed test;
    struct somebody who;
    const struct link *out = NULL;
    uint32_t grace_ms = 0;

    (void)state;
    policed_init(&test);
    test.in[0].anonymous = true;
    test.in[0].permissive_until = 100;
    test.in[0].permissive_listen.len = sizeof(struct sockaddr_in);
    test.out.unverified = true;
    assert_true(err_is_ok(authz_client(&test.snapshot, 0, NULL, 0, &out)));
    policed_set(&test, policy_of(&test.msg, "no-a", MORTISE__V1__POLICY__ACTION__DENY, NULL, id_a));
    assert_true(err_is_ok(authz_client(&test.snapshot, 0, NULL, 0, &out)));
    assert_true(err_is_ok(authz_plain(&test.snapshot, &test.in[0], 0)));

    policed_set(&test,
                policy_of(&test.msg, "only", MORTISE__V1__POLICY__ACTION__ALLOW, of_a, id_a));
    assert_true(err_is(authz_client(&test.snapshot, 0, NULL, 0, &out), E_POLICY_DENIED));
    assert_string_equal(authz_policy(&test.snapshot, out, NULL), "only");
    assert_true(
        err_is(authz_live(&test.snapshot, &test.in[0], NULL, 0, &grace_ms), E_POLICY_DENIED));
    assert_true(err_is(authz_plain(&test.snapshot, &test.in[0], 0), E_POLICY_DENIED));
    assert_true(err_is_ok(authz_live(&test.snapshot, &test.out, NULL, 0, &grace_ms)));
    /* a name of a CA of others */
    test.in[0].peers = (struct peer_match){.dns_names = (const char *const[]){"db.example.org"},
                                           .num_dns_names = 1};
    assert_true(
        err_is(authz_client(&test.snapshot, 0, somebody(&who, NULL, "db.example.org"), 0, &out),
               E_POLICY_DENIED));
    policed_fini(&test);
}

static void test_a_live_connection_ends_by_a_policy(void **state)
{
    static char domain[] = "mesh.test";
    uint8_t ours[1][32] = {{1}};
    struct bundle bundle = bundle_of_one(ours, domain);
    struct peer_issuer issuer = {.cert_sha256 = {1}};
    struct policed test;
    struct somebody who;
    uint32_t grace_ms = 7;

    (void)state;
    policed_init(&test);
    test.in[0].bundle = &bundle;
    test.in[0].own_trust = true;
    (void)somebody(&who, id_a[0], NULL);
    who.peer.issuers = &issuer;
    who.peer.num_issuers = 1;
    assert_true(err_is_ok(authz_live(&test.snapshot, &test.in[0], &who.peer, 0, &grace_ms)));
    policed_set(&test, policy_of(&test.msg, "no-a", MORTISE__V1__POLICY__ACTION__DENY, of_a, id_a));
    assert_true(
        err_is(authz_live(&test.snapshot, &test.in[0], &who.peer, 0, &grace_ms), E_POLICY_DENIED));
    assert_int_equal(grace_ms, 0);
    assert_string_equal(authz_policy(&test.snapshot, &test.in[0], &who.peer), "no-a");
    /* also where a revocation would let it go on for a while */
    revoke_set_free(test.snapshot.revoked);
    test.snapshot.revoked = denied(id_a[0], 10000);
    assert_true(
        err_is(authz_live(&test.snapshot, &test.in[0], &who.peer, 0, &grace_ms), E_POLICY_DENIED));
    assert_int_equal(grace_ms, 0);
    revoke_set_free(test.snapshot.revoked);
    test.snapshot.revoked = denied(NULL, 0);
    policed_set(&test,
                policy_of(&test.msg, "no-a", MORTISE__V1__POLICY__ACTION__DENY, of_out, id_a));
    assert_true(err_is_ok(authz_live(&test.snapshot, &test.in[0], &who.peer, 0, &grace_ms)));
    policed_fini(&test);
}

/* What may have become of a link while its connection lived, one thing at a time. */
static void test_a_live_connection_is_judged_by_what_is_in_force(void **state)
{
    static char name[] = "a-link", domain[] = "mesh.test", other_domain[] = "other.test";
    uint8_t ours[1][32] = {{1}}, strange[1][32] = {{2}};
    struct bundle bundle = bundle_of_one(ours, domain), removed = bundle_of_one(strange, domain),
                  moved = bundle_of_one(ours, other_domain);
    struct peer_issuer issuer = {.cert_sha256 = {1}};
    struct link was = {.direction = DIRECTION_INBOUND,
                       .name = name,
                       .bundle = &bundle,
                       .own_trust = true,
                       .peers = {.spiffe_ids = id_a, .num_spiffe_ids = 1}};
    struct link link = was;
    struct snapshot now = {.inbound = &link, .num_inbound = 1, .revoked = denied(NULL, 0)};
    struct somebody who;
    uint32_t grace_ms = 7;

    (void)state;
    (void)somebody(&who, id_a[0], NULL);
    who.peer.issuers = &issuer;
    who.peer.num_issuers = 1;
    assert_true(err_is_ok(authz_live(&now, &was, &who.peer, 0, &grace_ms)));

    link.peers = (struct peer_match){.spiffe_ids = id_b, .num_spiffe_ids = 2};
    assert_true(err_is(authz_live(&now, &was, &who.peer, 0, &grace_ms), E_POLICY_CHANGED));
    link.peers = was.peers;
    now.num_inbound = 0;
    assert_true(err_is(authz_live(&now, &was, &who.peer, 0, &grace_ms), E_POLICY_CHANGED));
    now.num_inbound = 1;
    was.direction = DIRECTION_OUTBOUND; /* one of that name the other way round is another link */
    assert_true(err_is(authz_live(&now, &was, &who.peer, 0, &grace_ms), E_POLICY_CHANGED));
    was.direction = DIRECTION_INBOUND;

    link.bundle = &removed;
    assert_true(err_is(authz_live(&now, &was, &who.peer, 0, &grace_ms), E_TRUST_CHANGED));
    link.own_trust = false; /* a rotation of the mesh's roots */
    assert_true(err_is_ok(authz_live(&now, &was, &who.peer, 0, &grace_ms)));
    link.bundle = &moved;
    assert_true(err_is(authz_live(&now, &was, &who.peer, 0, &grace_ms), E_TRUST_CHANGED));
    link.bundle = &bundle;
    assert_int_equal(grace_ms, 0);

    revoke_set_free(now.revoked);
    now.revoked = denied(id_a[0], 10000);
    assert_true(err_is(authz_live(&now, &was, &who.peer, 0, &grace_ms), E_PEER_REVOKED));
    assert_int_equal(grace_ms, 10000);
    revoke_set_free(now.revoked);
}

/* A control plane's truststore with CAs of others: their peers end with their CA, the mesh's with
 * its place in the truststore, and not with a rotation. */
static void test_peers_of_others_end_with_their_ca(void **state)
{
    static char name[] = "a-link", domain[] = "mesh.test";
    static const char *const names[] = {"partner.test"};
    uint8_t both[2][32] = {{1}, {2}}, ours[1][32] = {{1}}, theirs[1][32] = {{2}};
    bool one_is[] = {false, true}, none_is[] = {false}, all_are[] = {true};
    struct bundle mixed = {.num = 2, .sha256 = both, .outside = one_is, .trust_domain = domain},
                  inside = {.num = 1, .sha256 = ours, .outside = none_is, .trust_domain = domain},
                  outside = {
                      .num = 1, .sha256 = theirs, .outside = all_are, .trust_domain = domain};
    struct peer_issuer of_ours = {.cert_sha256 = {1}}, of_theirs = {.cert_sha256 = {2}};
    struct link link = {
        .direction = DIRECTION_INBOUND,
        .name = name,
        .bundle = &mixed,
        .peers = {.spiffe_ids = id_a, .num_spiffe_ids = 1, .dns_names = names, .num_dns_names = 1}};
    struct snapshot now = {.inbound = &link, .num_inbound = 1, .revoked = denied(NULL, 0)};
    struct somebody member, partner;
    uint32_t grace_ms;

    (void)state;
    (void)somebody(&member, id_a[0], NULL);
    member.peer.issuers = &of_ours;
    member.peer.num_issuers = 1;
    (void)somebody(&partner, NULL, names[0]);
    partner.peer.issuers = &of_theirs;
    partner.peer.num_issuers = 1;
    assert_true(err_is_ok(authz_live(&now, &link, &member.peer, 0, &grace_ms)));
    assert_true(err_is_ok(authz_live(&now, &link, &partner.peer, 0, &grace_ms)));
    link.bundle = &inside;
    assert_true(err_is_ok(authz_live(&now, &link, &member.peer, 0, &grace_ms)));
    assert_true(err_is(authz_live(&now, &link, &partner.peer, 0, &grace_ms), E_TRUST_CHANGED));
    link.bundle = &outside;
    assert_true(err_is(authz_live(&now, &link, &member.peer, 0, &grace_ms), E_TRUST_CHANGED));
    assert_true(err_is_ok(authz_live(&now, &link, &partner.peer, 0, &grace_ms)));
    revoke_set_free(now.revoked);
}

static int make_snapshot(void **state)
{
    (void)state;
    snapshot.revoked = denied(NULL, 0);
    return 0;
}

static int free_snapshot(void **state)
{
    (void)state;
    revoke_set_free(snapshot.revoked);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plaintext_is_let_in_by_a_permissive_link_only),
        cmocka_unit_test(test_the_server_must_be_the_expected_one),
        cmocka_unit_test(test_near_misses_are_misses),
        cmocka_unit_test(test_a_dns_name_is_no_spiffe_id),
        cmocka_unit_test(test_a_chosen_link_admits_its_own_peers_only),
        cmocka_unit_test(test_without_a_name_the_one_link_that_allows),
        cmocka_unit_test(test_the_unverified_are_taken_where_a_link_says_so),
        cmocka_unit_test(test_the_anonymous_enter_where_a_link_says_so),
        cmocka_unit_test(test_nobody_is_denied_before_any_rule),
        cmocka_unit_test(test_who_is_revoked_is_denied_whatever_links_say),
        cmocka_unit_test(test_a_live_connection_is_judged_by_what_is_in_force),
        cmocka_unit_test(test_peers_of_others_end_with_their_ca),
        cmocka_unit_test(test_a_deny_keeps_out_clients_and_servers),
        cmocka_unit_test(test_an_allow_keeps_out_the_other_clients),
        cmocka_unit_test(test_who_has_no_id_is_not_allowed),
        cmocka_unit_test(test_a_live_connection_ends_by_a_policy),
    };

    return cmocka_run_group_tests(tests, make_snapshot, free_snapshot);
}
