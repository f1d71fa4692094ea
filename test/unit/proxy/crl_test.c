/* Revocation lists in a snapshot: from a control plane's text or from files, each fault with its
 * path; shared with the snapshot before; and what they mean for who comes and for who is here.
 *
 * Drives: R7, R8 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "certs/issue.h"
#include "certs/pem.h"
#include "lib/base/mem.h"
#include "lib/rpc/json_pb.h"
#include "lib/rpc/pb.h"
#include "proxy/authz.h"
#include "proxy/crl_alarm.h"
#include "test/unit/certs/pki.h"
#include "test/unit/proxy/world.h"

#define ID "spiffe://example.org/ns/a/sa/b"
#define LINK                                                                                  \
    "{name: l, listen: '127.0.0.1:15101', endpoints: ['10.0.0.7:15443'], truststore: mesh,\n" \
    "  peers: {spiffe_ids: ['" ID "']}}"

struct test {
    struct pki pki;
    struct svid *svid;
    struct peer *peer; /* leaf, intermediate, root */
    struct stats *stats;
    struct faults faults;
    char *root_pem; /* lists that name nobody */
    char *issuing_pem;
};

static char *list_of(const struct issuer *issuer, const char *serial, int64_t from_s, int64_t ttl_s)
{
    CLEANUP(buf_fini) struct buf der = {.data = NULL};
    CLEANUP(buf_fini) struct buf pem = {.data = NULL};
    struct issue_crl_entry entry = {.revoked_at = PKI_NOW};
    struct issue_crl what = {
        .entries = &entry, .number = 1, .now_s = PKI_NOW + from_s, .ttl_s = ttl_s};

    if (serial != NULL) {
        (void)snprintf(entry.serial, sizeof(entry.serial), "%s", serial);
        what.num = 1;
    }
    assert_true(err_is_ok(issue_crl(issuer, &what, &der)));
    assert_true(err_is_ok(pem_write("X509 CRL", buf_view(&der), &pem)));
    return buf_take_str(&pem);
}

static int setup(void **state)
{
    struct test *test = mem_zalloc(sizeof(*test));
    STACK_OF(CRYPTO_BUFFER) *sent = sk_CRYPTO_BUFFER_new_null();

    pki_init(&test->pki);
    test->svid = pki_svid(&test->pki, ID, NULL);
    for (size_t i = 0; i < test->svid->num_chain; i++)
        assert_true(sk_CRYPTO_BUFFER_push(sent, test->svid->chain[i]) != 0);
    assert_true(err_is_ok(
        verify_chain(sent, test->pki.bundle, VERIFY_SERVER_CERT, PKI_NOW, NULL, &test->peer)));
    sk_CRYPTO_BUFFER_free(sent);
    test->stats = stats_new();
    test->root_pem = list_of(&test->pki.root, NULL, 0, 3600);
    test->issuing_pem = list_of(&test->pki.intermediate, NULL, 0, 3600);
    *state = test;
    return 0;
}

static int teardown(void **state)
{
    struct test *test = *state;

    faults_fini(&test->faults);
    mem_free(test->root_pem);
    mem_free(test->issuing_pem);
    stats_free(test->stats);
    peer_unref(test->peer);
    svid_unref(test->svid);
    pki_fini(&test->pki);
    mem_free(test);
    return 0;
}

/* As a control plane sends it; `a` and `b` may be NULL. */
static struct snapshot *build(struct test *test, const char *a, const char *b,
                              const struct snapshot *before)
{
    Mortise__V1__SidecarConfig *config =
        world_config("truststores: [{name: mesh, trust_domain: example.org}]\n"
                     "outbound: [" LINK "]\n");
    Mortise__V1__Truststore *store = config->truststores[0];
    struct snapshot_input in = {
        .config = config,
        .svid = test->svid,
        .roots = test->pki.bundle,
        .before = before,
        .stats = test->stats,
        .generation = before != NULL ? before->generation + 1 : 1,
        .now_s = PKI_NOW,
    };
    struct snapshot *snapshot = NULL;

    if (a != NULL || b != NULL)
        store->crl_pem = mem_printf("%s%s", a != NULL ? a : "", b != NULL ? b : "");
    faults_fini(&test->faults);
    memset(&test->faults, 0, sizeof(test->faults));
    if (!err_is_ok(snapshot_build(&in, &test->faults, &snapshot)))
        snapshot = NULL;
    pb_free(&config->base);
    return snapshot;
}

static bool has_fault(const struct test *test, const char *path, const char *text)
{
    return test->faults.num == 1 && strcmp(test->faults.items[0].path, path) == 0 &&
           strstr(test->faults.items[0].message, text) != NULL;
}

/* What becomes of the peer: when it comes, and when it is here. */
static enum err_code comes(const struct test *test, const struct snapshot *now, int64_t s)
{
    return authz_server(now, &now->outbound[0], test->peer, PKI_NOW + s).code;
}

static enum err_code stays(const struct test *test, const struct snapshot *now, int64_t s)
{
    uint32_t grace_ms = 7;
    err_t err = authz_live(now, &now->outbound[0], test->peer, PKI_NOW + s, &grace_ms);

    assert_int_equal(grace_ms, 0);
    return err.code;
}

static void test_without_lists_nothing_is_asked(void **state)
{
    struct test *test = *state;
    struct snapshot *snapshot = build(test, NULL, NULL, NULL);

    assert_null(snapshot->outbound[0].crls);
    assert_int_equal(comes(test, snapshot, 0), E_OK);
    snapshot_unref(snapshot);
}

static void test_who_comes_and_who_stays(void **state)
{
    struct test *test = *state;
    CLEANUP(mem_freep) char *naming = list_of(&test->pki.intermediate, test->peer->serial, 0, 3600);
    struct snapshot *good = build(test, test->root_pem, test->issuing_pem, NULL),
                    *part = build(test, test->root_pem, NULL, good),
                    *revoked = build(test, test->root_pem, naming, good);

    assert_int_equal(comes(test, good, 0), E_OK);
    assert_int_equal(stays(test, good, 0), E_OK);
    assert_int_equal(comes(test, good, 3599), E_OK);
    assert_int_equal(comes(test, good, 3600), E_CRL_STALE);
    assert_int_equal(stays(test, good, 3600), E_OK); /* it says nothing new */
    assert_int_equal(comes(test, part, 0), E_CRL_MISSING);
    assert_int_equal(stays(test, part, 0), E_OK);
    assert_int_equal(comes(test, revoked, 0), E_PEER_REVOKED);
    assert_int_equal(stays(test, revoked, 0), E_PEER_REVOKED);
    assert_int_equal(stays(test, revoked, 7200), E_PEER_REVOKED); /* a stale list denies, too */
    snapshot_unref(revoked);
    snapshot_unref(part);
    snapshot_unref(good);
}

static void test_a_client_is_asked_after_its_link(void **state)
{
    static char name[] = "l";
    struct test *test = *state;
    struct snapshot *with = build(test, test->root_pem, NULL, NULL);
    const char *const other[] = {"spiffe://example.org/ns/a/sa/other"}, *const right[] = {ID};
    struct link link = {.direction = DIRECTION_INBOUND, .name = name, .crls = with->trust[0].crls};
    struct snapshot now = {.inbound = &link, .num_inbound = 1, .revoked = with->revoked};
    const struct link *out = NULL;

    link.peers = (struct peer_match){.spiffe_ids = other, .num_spiffe_ids = 1};
    assert_true(err_is(authz_client(&now, 0, test->peer, PKI_NOW, &out), E_PEER_DENIED));
    link.peers.spiffe_ids = right;
    assert_true(err_is(authz_client(&now, 0, test->peer, PKI_NOW, &out), E_CRL_MISSING));
    assert_true(err_is(authz_client(&now, -1, test->peer, PKI_NOW, &out), E_CRL_MISSING));
    assert_null(out);
    link.crls = NULL;
    assert_true(err_is_ok(authz_client(&now, -1, test->peer, PKI_NOW, &out)));
    assert_ptr_equal(out, &link);
    snapshot_unref(with);
}

static void test_lists_that_have_not_changed_are_shared(void **state)
{
    struct test *test = *state;
    CLEANUP(mem_freep) char *newer = list_of(&test->pki.intermediate, NULL, 60, 3600);
    struct snapshot *first = build(test, test->root_pem, test->issuing_pem, NULL),
                    *second = build(test, test->root_pem, newer, first);
    const struct crl_set *a = first->trust[0].crls, *b = second->trust[0].crls;
    unsigned shared = 0;

    for (size_t i = 0; i < a->num; i++) {
        for (size_t j = 0; j < b->num; j++)
            shared += a->lists[i] == b->lists[j];
    }
    assert_int_equal(shared, 1);
    assert_ptr_equal(second->outbound[0].crls, b);
    /* The text is of no more use, and may be long. */
    assert_string_equal(second->config->truststores[0]->crl_pem, "");
    snapshot_unref(first);
    assert_int_equal(comes(test, second, 0), E_OK);
    snapshot_unref(second);
}

static void test_what_is_no_list_is_told_with_its_path(void **state)
{
    struct test *test = *state;
    CLEANUP(mem_freep) char *stale = list_of(&test->pki.root, NULL, -7200, 3600);
    CLEANUP(mem_freep) char *future = list_of(&test->pki.root, NULL, 7200, 3600);
    struct snapshot *good = build(test, test->root_pem, test->issuing_pem, NULL), *snapshot;

    assert_null(build(test, "nothing", NULL, good));
    assert_true(has_fault(test, "truststores[0].crl_pem", "pem_empty"));
    assert_null(build(test, future, NULL, good));
    assert_true(has_fault(test, "truststores[0].crl_pem", "crl_not_yet_valid"));
    assert_null(build(test, stale, NULL, good));
    assert_true(has_fault(test, "truststores[0].crl_pem", "crl_stale, by 3600 s"));
    snapshot = build(test, stale, test->issuing_pem, NULL); /* at a start there is no better one */
    assert_int_equal(comes(test, snapshot, 0), E_CRL_STALE);
    snapshot_unref(snapshot);
    snapshot_unref(good);
}

static struct snapshot *build_files(struct test *test, const char *yaml, const struct bytes *ca,
                                    struct bytes *files)
{
    Mortise__V1__SidecarConfig *config = world_config(yaml);
    struct snapshot_texts texts = {files, 2};
    struct snapshot_input in = {
        .config = config,
        .roots = test->pki.bundle,
        .stats = test->stats,
        .generation = 1,
        .now_s = PKI_NOW,
        .ca_files = ca,
        .crl_files = files != NULL ? &texts : NULL,
    };
    struct snapshot *snapshot = NULL;

    faults_fini(&test->faults);
    memset(&test->faults, 0, sizeof(test->faults));
    if (!err_is_ok(snapshot_build(&in, &test->faults, &snapshot)))
        snapshot = NULL;
    pb_free(&config->base);
    return snapshot;
}

static void test_files_are_static_modes_alone(void **state)
{
    struct test *test = *state;
    static const char two[] =
        "truststores: [{name: mesh, ca_file: roots.pem, crl_files: [a.crl, b.crl]}]\n";
    CLEANUP(buf_fini) struct buf roots = {.data = NULL};
    struct bytes ca, files[2] = {bytes_of_str(test->root_pem), bytes_of_str("rubbish")};

    assert_null(build_files(test, "truststores: [{name: mesh, crl_files: [a.crl]}]\n", NULL, NULL));
    assert_true(has_fault(test, "truststores[0].crl_files", "static mode only"));
    assert_true(err_is_ok(bundle_write_pem(test->pki.bundle, &roots)));
    ca = buf_view(&roots);
    assert_null(build_files(test, two, &ca, files));
    assert_true(has_fault(test, "truststores[0].crl_files[1]", "pem_empty"));
    files[1] = bytes_of_str(test->issuing_pem);
    assert_null(build_files(test, two, &ca, files)); /* checked only: no certificate of our own */
    assert_int_equal(test->faults.total, 0);
    files[0].ptr = NULL; /* could not be read, and was told */
    assert_null(build_files(test, two, &ca, files));
    assert_int_equal(test->faults.total, 0);
}

/* ---- the alarm ---- */

static char *metrics_of(struct test *test)
{
    CLEANUP(buf_fini) struct buf out = {.data = NULL};

    assert_true(err_is_ok(metrics_write(stats_metrics(test->stats), &out)));
    return buf_take_str(&out);
}

static void test_gauges_follow_the_lists(void **state)
{
    struct test *test = *state;
    struct snapshot *with = build(test, test->root_pem, test->issuing_pem, NULL),
                    *without = build(test, NULL, NULL, with);
    struct crl_alarm alarm = {.told = {.num = 0}};
    CLEANUP(mem_freep) char *before = NULL;
    CLEANUP(mem_freep) char *text = NULL;
    CLEANUP(mem_freep) char *after = NULL;

    crl_alarm_look(&alarm, without, test->stats, PKI_NOW);
    before = metrics_of(test);
    assert_null(strstr(before, "mortise_crl_next_update_timestamp_seconds{"));
    crl_alarm_look(&alarm, with, test->stats, PKI_NOW);
    text = metrics_of(test);
    assert_non_null(
        strstr(text, "mortise_crl_next_update_timestamp_seconds{truststore=\"mesh\"} 1780003600"));
    assert_non_null(
        strstr(text, "mortise_crl_this_update_timestamp_seconds{truststore=\"mesh\"} 1779999700"));
    assert_int_equal(map_num(&alarm.told), 0);
    crl_alarm_look(&alarm, with, test->stats, PKI_NOW + 1650 - 1);
    assert_int_equal(map_num(&alarm.told), 0);
    crl_alarm_look(&alarm, with, test->stats, PKI_NOW + 1650); /* half of its life is over */
    assert_int_equal(map_num(&alarm.told), 2);
    crl_alarm_look(&alarm, without, test->stats, PKI_NOW);
    after = metrics_of(test);
    assert_non_null(
        strstr(after, "mortise_crl_next_update_timestamp_seconds{truststore=\"mesh\"} 0\n"));
    crl_alarm_fini(&alarm);
    snapshot_unref(without);
    snapshot_unref(with);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_without_lists_nothing_is_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_comes_and_who_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_client_is_asked_after_its_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lists_that_have_not_changed_are_shared, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_list_is_told_with_its_path, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_files_are_static_modes_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gauges_follow_the_lists, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
