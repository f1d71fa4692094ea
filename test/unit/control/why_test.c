/* What `mortisectl why` says of what is known: each row a set of facts, whether it works, and the
 * first sentence. Without it an operator is told something else than what is wrong, or a script
 * that a link works which does not.
 * Drives: F12. */
#include "control/why.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/why_words.h"
#include "lib/base/mem.h"
#include "lib/rpc/pb.h"

#define NOW INT64_C(1800000000)
#define WORKS MORTISE__V1__WHY_LINK__STATE__WORKS
#define FAILS MORTISE__V1__WHY_LINK__STATE__FAILS
#define UNKNOWN MORTISE__V1__WHY_LINK__STATE__UNKNOWN
#define NOT_LISTENING MORTISE__V1__PROBE_ANSWER__LISTENS__NO

/* What a row changes of a healthy link from portal to gateway. */
struct trial {
    const char *error; /* of the client; "ok": none; NULL: there was no trial */
    int32_t sub;
    const char *seen; /* the server's record of the same connection; NULL: none */
    int32_t seen_sub;
    const char *claims; /* the peer's identity in whichever record counts */
};

struct row {
    const char *because;
    Mortise__V1__WhyLink__State state;
    struct trial trial;
    void (*change)(struct why_facts *facts);
};

static Mortise__V1__FieldFault fault = MORTISE__V1__FIELD_FAULT__INIT;
static Mortise__V1__FieldFault *faults[] = {&fault};
static Mortise__V1__ErrorDetail refused = MORTISE__V1__ERROR_DETAIL__INIT;
static struct why_sidecar sidecars[WHY_SIDES];

static void no_link(struct why_facts *facts)
{
    facts->link = NULL;
}

static void other_way(struct why_facts *facts)
{
    facts->link = NULL;
    facts->reverse = true;
}

static void denied(struct why_facts *facts)
{
    facts->denied = "Policy freeze denies portal (spiffe://mesh.test/ns/apim/sa/portal) on link l.";
}

static void revoked(struct why_facts *facts)
{
    facts->ends[WHY_SERVER].revoked = "its identity spiffe://mesh.test/ns/apim/sa/gateway (stolen, "
                                      "by uid:0)";
}

static void server_never(struct why_facts *facts)
{
    facts->ends[WHY_SERVER].num_sidecars = 0;
    facts->ends[WHY_SERVER].known = false;
}

static void server_away(struct why_facts *facts)
{
    facts->ends[WHY_SERVER].num_sidecars = 0;
}

static void client_away(struct why_facts *facts)
{
    facts->ends[WHY_CLIENT].num_sidecars = 0;
}

static void apart(struct why_facts *facts)
{
    facts->apart = "no TLS version in common";
}

static void expired(struct why_facts *facts)
{
    sidecars[WHY_SERVER].not_after = NOW - 300;
    sidecars[WHY_SERVER].renewal_error = "rejoin_late";
    (void)facts;
}

static void client_refuses(struct why_facts *facts)
{
    sidecars[WHY_CLIENT].refused = &refused;
    sidecars[WHY_CLIENT].refused_version = 7;
    (void)facts;
}

static void server_refuses(struct why_facts *facts)
{
    sidecars[WHY_SERVER].refused = &refused;
    sidecars[WHY_SERVER].refused_version = 7;
    (void)facts;
}

static void clock_ahead(struct why_facts *facts)
{
    sidecars[WHY_CLIENT].clock_off = true;
    sidecars[WHY_CLIENT].ahead_ms = 3600000 * 3;
    (void)facts;
}

static void half_rotated(struct why_facts *facts)
{
    facts->rotation = "of the root (reissue)";
    sidecars[WHY_SERVER].waits = "has not renewed yet";
}

static void behind(struct why_facts *facts)
{
    sidecars[WHY_CLIENT].behind = true;
    (void)facts;
}

static void not_ready(struct why_facts *facts)
{
    sidecars[WHY_SERVER].ready = false;
    (void)facts;
}

static void app_down(struct why_facts *facts)
{
    facts->listens = NOT_LISTENING;
}

static const struct row rows[] = {
    {.because = "portal reaches gateway over portal-gateway: tried now, TLSv1.3 with "
                "TLS_AES_128_GCM_SHA256.",
     .state = WORKS,
     .trial = {.error = "ok"}},
    /* A trial that succeeds is right whatever else is known. */
    {.because = "portal reaches gateway over portal-gateway: tried now, TLSv1.3 with "
                "TLS_AES_128_GCM_SHA256.",
     .state = WORKS,
     .trial = {.error = "ok"},
     .change = client_refuses},
    {.because = "Nothing that is known stands against it, but it was not tried.",
     .state = UNKNOWN,
     .change = NULL},
    {.because = "No link lets portal connect to gateway.", .state = FAILS, .change = no_link},
    {.because = "No link lets portal connect to gateway; there is one the other way only.",
     .state = FAILS,
     .change = other_way},
    {.because = "gateway is revoked: its identity spiffe://mesh.test/ns/apim/sa/gateway (stolen, "
                "by uid:0).",
     .state = FAILS,
     .change = revoked},
    {.because = "gateway is revoked: its identity spiffe://mesh.test/ns/apim/sa/gateway (stolen, "
                "by uid:0).",
     .state = FAILS,
     .trial = {.error = "peer_revoked"},
     .change = revoked},
    {.because = "No sidecar of gateway has ever connected.",
     .state = FAILS,
     .change = server_never},
    {.because = "No sidecar of gateway has ever connected.",
     .state = FAILS,
     .trial = {.error = "none"},
     .change = server_never},
    {.because =
         "The two TLS profiles of the link have nothing in common: no TLS version in common.",
     .state = FAILS,
     .change = apart},
    {.because = "The certificate of gateway (bbbbbbbb) expired 5 min ago, and it cannot renew: "
                "rejoin_late.",
     .state = FAILS,
     .change = expired},
    {.because = "No sidecar of gateway is connected to the control plane.",
     .state = UNKNOWN,
     .change = server_away},
    {.because = "No sidecar of portal is connected to the control plane.",
     .state = UNKNOWN,
     .change = client_away},
    {.because = "No sidecar of gateway is connected to the control plane, and nobody answers at "
                "10.0.0.7:15443.",
     .state = FAILS,
     .trial = {.error = "connect_refused", .sub = 111},
     .change = server_away},
    {.because =
         "The sidecar of portal (aaaaaaaa) refuses configuration 7 and keeps the one before: "
         "outbound[0].listen: address is in use.",
     .state = UNKNOWN,
     .change = client_refuses},
    {.because =
         "The sidecar of portal (aaaaaaaa) refuses configuration 7 and keeps the one before: "
         "outbound[0].listen: address is in use.",
     .state = FAILS,
     .trial = {.error = "refused:not_found"},
     .change = client_refuses},
    {.because =
         "The sidecar of gateway (bbbbbbbb) refuses configuration 7 and keeps the one before: "
         "outbound[0].listen: address is in use.",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 112},
     .change = server_refuses},
    {.because = "The clock of portal (aaaaaaaa) is 3 h ahead of the control plane's.",
     .state = UNKNOWN,
     .change = clock_ahead},
    {.because =
         "The clock of portal (aaaaaaaa) is 3 h ahead of the control plane's: the certificate of "
         "gateway expired 90 s ago by the clock of portal.",
     .state = FAILS,
     .trial = {.error = "cert_expired", .sub = 90},
     .change = clock_ahead},
    {.because =
         "A rotation of the root (reissue) is half done: gateway (bbbbbbbb) has not renewed yet.",
     .state = UNKNOWN,
     .change = half_rotated},
    {.because =
         "A rotation of the root (reissue) is half done: gateway (bbbbbbbb) has not renewed yet.",
     .state = FAILS,
     .trial = {.error = "chain_untrusted", .sub = 20},
     .change = half_rotated},
    {.because = "The sidecar of portal (aaaaaaaa) does not have the newest configuration yet.",
     .state = UNKNOWN,
     .change = behind},
    {.because = "The sidecar of gateway (bbbbbbbb) is not ready.",
     .state = UNKNOWN,
     .change = not_ready},
    {.because = "The application behind gateway does not listen on 127.0.0.1:8082.",
     .state = FAILS,
     .trial = {.error = "ok"},
     .change = app_down},
    /* What the client's sidecar finds. */
    {.because = "Nobody listens at 10.0.0.7:15443, where the sidecar of gateway says it is.",
     .state = FAILS,
     .trial = {.error = "connect_refused", .sub = 111}},
    {.because = "10.0.0.7:15443, where the sidecar of gateway says it is, does not answer.",
     .state = FAILS,
     .trial = {.error = "connect_timeout"}},
    {.because = "10.0.0.7:15443 takes the connection of portal, and then says nothing.",
     .state = FAILS,
     .trial = {.error = "handshake_timeout"}},
    {.because = "What listens at 10.0.0.7:15443 does not speak TLS: it is no sidecar of gateway.",
     .state = FAILS,
     .trial = {.error = "tls_not_tls", .sub = 72}},
    {.because = "The certificate of gateway leads to no root that portal trusts.",
     .state = FAILS,
     .trial = {.error = "chain_untrusted", .sub = 20}},
    {.because = "The certificate of gateway expired 2 h ago by the clock of portal.",
     .state = FAILS,
     .trial = {.error = "cert_expired", .sub = 7201}},
    {.because = "The certificate of gateway is valid only in 60 s by the clock of portal.",
     .state = FAILS,
     .trial = {.error = "cert_not_yet_valid", .sub = 60}},
    {.because =
         "Who answers at 10.0.0.7:15443 is spiffe://mesh.test/ns/apim/sa/other, and not gateway.",
     .state = FAILS,
     .trial = {"peer_identity", .claims = "spiffe://mesh.test/ns/apim/sa/other"}},
    {.because = "The certificate that gateway shows is of another trust domain.",
     .state = FAILS,
     .trial = {.error = "trust_domain"}},
    {.because = "portal has no revocation list of an issuer of gateway's certificate.",
     .state = FAILS,
     .trial = {.error = "crl_missing"}},
    {.because = "The revocation list of an issuer of gateway's certificate is stale at portal.",
     .state = FAILS,
     .trial = {.error = "crl_stale"}},
    {.because = "portal refuses gateway: key is too weak or of a kind not allowed.",
     .state = FAILS,
     .trial = {.error = "key_weak", .sub = 1024}},
    {.because = "gateway allows no TLS version that portal offers (alert protocol_version).",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 70}},
    {.because = "gateway ends the handshake with portal (alert 99).",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 99}},
    {.because = "10.0.0.7:15443 ends the connection of portal without a word.",
     .state = FAILS,
     .trial = {.error = "tls_truncated"}},
    /* What the server's sidecar knows, joined by the connection. */
    {.because = "The certificate of portal leads to no root that gateway trusts.",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 48, .seen = "chain_untrusted", .seen_sub = 20}},
    {.because =
         "gateway lets spiffe://mesh.test/ns/apim/sa/portal not use this link: no link allows it.",
     .state = FAILS,
     .trial = {"tls_alert", 49, "peer_denied", .claims = "spiffe://mesh.test/ns/apim/sa/portal"}},
    {.because =
         "gateway allows nothing of what portal offers: no TLS version, cipher suite or group in "
         "common.",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 40, .seen = "tls_no_shared", .seen_sub = 0}},
    {.because = "Policy freeze denies portal (spiffe://mesh.test/ns/apim/sa/portal) on link l.",
     .state = FAILS,
     .change = denied},
    {.because = "Policy freeze denies portal (spiffe://mesh.test/ns/apim/sa/portal) on link l.",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 49, .seen = "policy_denied"},
     .change = denied},
    {.because = "Policy freeze denies portal (spiffe://mesh.test/ns/apim/sa/portal) on link l.",
     .state = FAILS,
     .trial = {.error = "policy_denied"},
     .change = denied},
    {.because = "Policy freeze denies portal (spiffe://mesh.test/ns/apim/sa/portal) on link l.",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 49},
     .change = denied},
    /* a sidecar that has not heard of its end yet */
    {.because =
         "Policy (unnamed) denies portal, which is somebody: so says the sidecar of gateway.",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 49, .seen = "policy_denied"}},
    {.because = "portal is revoked, and gateway refuses it.",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 44, .seen = "peer_revoked"}},
    {.because = "The sidecar of gateway does not know the link that portal asks for.",
     .state = FAILS,
     .trial = {.error = "tls_alert", .sub = 112, .seen = "tls_sni_unknown"}},
};

/* A healthy link. */
static struct why_facts healthy(void)
{
    static const char *const names[] = {"portal", "gateway"};
    static const char *const instances[] = {"aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"};
    struct why_facts facts = {.now_s = NOW,
                              .link = "portal-gateway",
                              .target = "127.0.0.1:8082",
                              .offered = "profile a",
                              .required = "profile b"};

    fault.path = (char *)(uintptr_t) "outbound[0].listen";
    fault.message = (char *)(uintptr_t) "address is in use";
    refused.code = (char *)(uintptr_t) "config_invalid";
    refused.faults = faults;
    refused.n_faults = 1;
    for (unsigned i = 0; i < WHY_SIDES; i++) {
        sidecars[i] = (struct why_sidecar){
            .instance = instances[i], .ready = true, .not_after = NOW + 3600, .renewal_error = ""};
        facts.ends[i] = (struct why_end){
            .subsystem = names[i], .sidecars = &sidecars[i], .num_sidecars = 1, .known = true};
    }
    return facts;
}

static char key[] = "0123456789abcdef";
static char *keys[] = {key};

static Mortise__V1__FailedConnection failure(const char *error, int32_t sub, const char *claims)
{
    Mortise__V1__FailedConnection out = MORTISE__V1__FAILED_CONNECTION__INIT;

    out.error = (char *)(uintptr_t)error;
    out.error_sub = sub;
    out.number = 1;
    out.last_ms = (NOW - 5) * 1000;
    out.peer_id = (char *)(uintptr_t)(claims != NULL ? claims : "");
    out.keys = keys;
    out.n_keys = 1;
    return out;
}

static void judge(const struct row *row, struct why_facts *facts, Mortise__V1__WhyLink *out)
{
    const struct trial *trial = &row->trial;
    Mortise__V1__FailedConnection found, seen;
    const Mortise__V1__FailedConnection *list[] = {&seen};
    Mortise__V1__ProbeResult result = MORTISE__V1__PROBE_RESULT__INIT, *results[] = {&result};
    Mortise__V1__ProbeAnswer answer = MORTISE__V1__PROBE_ANSWER__INIT;
    struct why_probe probe = {.instance = "aaaaaaaaaaaaaaaa", .answer = &answer};

    result.address = (char *)(uintptr_t) "10.0.0.7:15443";
    result.tls_version = (char *)(uintptr_t) "TLSv1.3";
    result.cipher = (char *)(uintptr_t) "TLS_AES_128_GCM_SHA256";
    answer.results = results;
    answer.n_results = 1;
    if (trial->error != NULL) {
        facts->probes = &probe;
        facts->num_probes = 1;
        if (strncmp(trial->error, "refused:", 8) == 0) {
            answer.n_results = 0;
            answer.error = (char *)(uintptr_t)(trial->error + 8);
        } else if (strcmp(trial->error, "none") == 0) {
            answer.n_results = 0;
        } else if (strcmp(trial->error, "ok") != 0) {
            found = failure(trial->error, trial->sub, trial->claims);
            result.failure = &found;
        }
    }
    if (trial->seen != NULL) {
        seen = failure(trial->seen, trial->seen_sub, trial->claims);
        facts->ends[WHY_SERVER].failures = list;
        facts->ends[WHY_SERVER].num_failures = 1;
    }
    why_judge(facts, out);
}

static void test_first_sentences(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Mortise__V1__WhyLink *out = mem_alloc(sizeof(*out));
        struct why_facts facts = healthy();

        mortise__v1__why_link__init(out);
        if (rows[i].change != NULL)
            rows[i].change(&facts);
        judge(&rows[i], &facts, out);
        assert_string_equal(out->because, rows[i].because);
        assert_int_equal(out->state, rows[i].state);
        if (out->state == FAILS)
            assert_true(out->hint[0] != '\0');
        pb_free(&out->base);
    }
}

/* Only records of one connection are joined: another client's failure explains nothing. */
static void test_another_connection_is_not_joined(void **state)
{
    struct why_facts facts = healthy();
    Mortise__V1__FailedConnection seen = failure("chain_untrusted", 20, "");
    Mortise__V1__FailedConnection found = failure("tls_alert", 48, "");
    const Mortise__V1__FailedConnection *of_server[] = {&seen}, *of_client[] = {&found};
    Mortise__V1__WhyLink *out = mem_alloc(sizeof(*out));
    char other[] = "fedcba9876543210", *others[] = {other};

    (void)state;
    mortise__v1__why_link__init(out);
    seen.keys = others;
    found.last_ms++;
    facts.ends[WHY_CLIENT].failures = of_client;
    facts.ends[WHY_CLIENT].num_failures = 1;
    facts.ends[WHY_SERVER].failures = of_server;
    facts.ends[WHY_SERVER].num_failures = 1;
    why_judge(&facts, out);
    assert_string_equal(out->because, "It failed 5 s ago: gateway does not trust the CA of the "
                                      "certificate of portal (alert unknown_ca).");
    assert_int_equal(out->state, UNKNOWN);
    assert_int_equal(out->n_client_failures, 1);
    assert_int_equal(out->n_server_failures, 1);
    pb_free(&out->base);
}

/* A stranger's texts, however long, are cut and not formatted. */
static void test_long_texts_are_cut(void **state)
{
    struct why_facts facts = healthy();
    char claims[5000];
    const struct row row = {.trial = {"peer_identity", .claims = claims}};
    Mortise__V1__WhyLink *out = mem_alloc(sizeof(*out));

    (void)state;
    memset(claims, '%', sizeof(claims) - 1);
    claims[sizeof(claims) - 1] = '\0';
    memcpy(claims, "${1}%s%n", 8);
    mortise__v1__why_link__init(out);
    judge(&row, &facts, out);
    assert_int_equal(strncmp(out->because, "Who answers at 10.0.0.7:15443 is ${1}%s%n%%", 43), 0);
    assert_true(strlen(out->because) < 1024);
    pb_free(&out->base);
}

/* What a sidecar says of a certificate's time may be any number. */
static void test_any_two_times_have_a_span(void **state)
{
    char span[WHY_SPAN_MAX];

    (void)state;
    assert_true(why_between(NOW, NOW + 90) == 90);
    assert_true(why_between(NOW, NOW - 90) == -90);
    assert_true(why_between(NOW, INT64_MAX) == INT64_MAX - NOW);
    assert_true(why_between(NOW, INT64_MIN) == -INT64_MAX);
    assert_true(why_between(-NOW, INT64_MAX) == INT64_MAX);
    assert_true(why_between(0, INT64_MIN) == -INT64_MAX);
    why_span(why_between(NOW, INT64_MIN), span);
    assert_string_equal(span, "106751991167300 days");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_sentences),
        cmocka_unit_test(test_another_connection_is_not_joined),
        cmocka_unit_test(test_long_texts_are_cut),
        cmocka_unit_test(test_any_two_times_have_a_span),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
