/* A CA whose root's key is elsewhere: nothing is signed before the root has, what it has signed is
 * taken whole or not at all, and nobody who was there loses his way when he can be helped.
 * Without it: a mesh signs below a root that nobody has approved, or a key is made for which the
 * certificate that came back was not. Drives: R38, R41, F5. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "certs/csr.h"
#include "certs/key.h"
#include "certs/svid.h"
#include "control/ca.h"
#include "control/msg.h"
#include "control/series.h"
#include "test/unit/control/fixture.h"

#define ID "spiffe://" FIXTURE_TRUST_DOMAIN "/ns/default/sa/portal"

struct place {
    struct fixture *fixture; /* its vault and its clock */
    struct ca *ca;
    EVP_PKEY *key;
};

/* What is kept in a safe. */
struct safe {
    struct issuer root;
    struct issued der;
};

static void safe_make(struct place *place, struct safe *out)
{
    const uint8_t *pos;

    assert_ok(key_generate_p384(&out->root.key));
    assert_ok(issue_root(FIXTURE_TRUST_DOMAIN, out->root.key, place->fixture->clock.wall_s,
                         CA_ROOT_TTL_S, &out->der));
    pos = out->der.der;
    out->root.cert = d2i_X509(NULL, &pos, (long)out->der.der_len);
    assert_non_null(out->root.cert);
}

static void safe_fini(struct safe *safe)
{
    X509_free(safe->root.cert);
    EVP_PKEY_free(safe->root.key);
    issued_fini(&safe->der);
}

static struct bytes safe_der(const struct safe *safe)
{
    return bytes_of(safe->der.der, safe->der.der_len);
}

/* Signs what is pending. */
static void safe_sign(struct place *place, const struct safe *safe, struct issued *out)
{
    struct buf csr = {0};
    EVP_PKEY *key = NULL;

    assert_ok(ca_request(place->ca, false, &csr));
    assert_ok(csr_parse(buf_view(&csr), &key));
    assert_ok(issue_intermediate(&safe->root, FIXTURE_TRUST_DOMAIN, key,
                                 place->fixture->clock.wall_s, CA_ISSUER_TTL_S, out));
    EVP_PKEY_free(key);
    buf_fini(&csr);
}

static err_t import(struct place *place, const struct bytes *certs, size_t num,
                    struct faults *faults, enum ca_import *out)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};

    TRY(ca_prepare_import(place->ca, &batch, certs, num, faults, out));
    assert_ok(vault_commit(place->fixture->vault, &batch, NULL));
    assert_ok(ca_reload(place->ca));
    return OK;
}

/* The whole of it, from the request to what came back. */
static enum ca_import import_of(struct place *place, const struct safe *safe, bool with_root)
{
    struct faults faults = {.num = 0};
    struct issued issuer = {.der = NULL};
    enum ca_import how = CA_IMPORT_FIRST;
    struct bytes certs[2];

    safe_sign(place, safe, &issuer);
    certs[0] = safe_der(safe); /* in any order */
    certs[with_root ? 1 : 0] = bytes_of(issuer.der, issuer.der_len);
    assert_ok(import(place, certs, with_root ? 2 : 1, &faults, &how));
    issued_fini(&issuer);
    faults_fini(&faults);
    return how;
}

static void step(struct place *place, err_t (*what)(struct ca *ca, struct vault_batch *batch))
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};

    assert_ok(what(place->ca, &batch));
    assert_ok(vault_commit(place->fixture->vault, &batch, NULL));
    assert_ok(ca_reload(place->ca));
}

static void restart(struct place *place)
{
    const struct ca_params params = {
        .vault = place->fixture->vault,
        .clock = &place->fixture->clock.clock,
        .trust_domain = FIXTURE_TRUST_DOMAIN,
    };

    ca_free(place->ca);
    place->ca = NULL;
    assert_ok(ca_open(&params, &place->ca));
}

/* What those who have `root` alone make of a leaf, or of the control plane's own certificate. */
static err_t believed(struct place *place, const struct safe *root, bool lineage)
{
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    const struct ca_request request = {
        .spiffe_id = ID,
        .subsystem = "portal",
        .public_key = place->key,
        .ttl_s = 3600,
        .reason = "attest",
        .lineage = lineage,
    };
    struct bytes der = safe_der(root);
    struct bundle *bundle = NULL;
    struct svid *svid = NULL;
    struct ca_cert cert;
    err_t err;

    assert_ok(bundle_of_der(&der, 1, FIXTURE_TRUST_DOMAIN, &bundle));
    assert_ok(ca_issue(place->ca, &request, &batch, &cert));
    err = svid_of_der(cert.chain, cert.num_chain, place->key, bundle, place->fixture->clock.wall_s,
                      &svid);
    svid_unref(svid);
    bundle_unref(bundle);
    ca_cert_fini(&cert);
    return err;
}

static int setup_with(void **state, err_t (*create)(struct vault *vault, struct vault_batch *batch,
                                                    const char *trust_domain, int64_t now_s))
{
    struct place *place = mem_zalloc(sizeof(*place));
    struct vault_batch batch = {0};

    place->fixture = fixture_new();
    assert_ok(
        create(place->fixture->vault, &batch, FIXTURE_TRUST_DOMAIN, place->fixture->clock.wall_s));
    assert_ok(vault_commit(place->fixture->vault, &batch, NULL));
    vault_batch_fini(&batch);
    assert_ok(key_generate(&place->key));
    restart(place);
    *state = place;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, ca_create_without);
}

static int setup_own(void **state)
{
    return setup_with(state, ca_create);
}

static int teardown(void **state)
{
    struct place *place = *state;

    ca_free(place->ca);
    fixture_free(place->fixture);
    EVP_PKEY_free(place->key);
    mem_free(place);
    return 0;
}

static void test_nothing_is_signed_before_the_root_has(void **state)
{
    struct place *place = *state;
    struct vault_batch batch = {0};
    struct ca_cert cert;
    struct safe safe = {.root = {.cert = NULL}};
    char hex[CA_SHA256_HEX];
    bool more = false;
    size_t num = 1;
    struct buf first = {0}, again = {0}, fresh = {0};

    assert_true(ca_is_empty(place->ca) && ca_is_external(place->ca));
    assert_code(ca_state(place->ca), CA_CANNOT_SIGN);
    assert_code(ca_issue(place->ca, &(struct ca_request){.public_key = place->key}, &batch, &cert),
                CA_CANNOT_SIGN);
    assert_code(ca_prepare(place->ca, &batch), ROOT_ELSEWHERE);
    assert_code(ca_prepare_issuer(place->ca, &batch), ROOT_ELSEWHERE);
    assert_ok(ca_maintain(place->ca, &more));
    (void)ca_roots(place->ca, &num);
    assert_int_equal(num, 0);
    assert_string_equal(ca_roots_pem(place->ca), "");
    ca_root_sha256(place->ca, false, hex);
    assert_string_equal(hex, "");
    /* The same request, until a new one is wanted or its answer came. */
    assert_ok(ca_request(place->ca, false, &first));
    restart(place);
    assert_ok(ca_request(place->ca, false, &again));
    assert_true(bytes_equal(buf_view(&first), buf_view(&again)));
    assert_ok(ca_request(place->ca, true, &fresh));
    assert_false(bytes_equal(buf_view(&first), buf_view(&fresh)));

    safe_make(place, &safe);
    assert_int_equal(import_of(place, &safe, true), CA_IMPORT_FIRST);
    restart(place);
    assert_false(ca_is_empty(place->ca));
    assert_true(ca_is_external(place->ca) && !ca_has_other(place->ca));
    assert_ok(believed(place, &safe, false));
    assert_code(ca_prepare(place->ca, &batch), ROOT_ELSEWHERE);
    buf_clear(&again);
    assert_ok(ca_request(place->ca, false, &again));
    assert_false(bytes_equal(buf_view(&fresh), buf_view(&again)));
    safe_fini(&safe);
    buf_fini(&first);
    buf_fini(&again);
    buf_fini(&fresh);
}

/* Who asks for metrics is no operator, and may be there first. */
static void test_metrics_of_a_ca_that_is_empty(void **state)
{
    struct place *place = *state;
    struct fixture *fixture = place->fixture;
    const struct registry_params params = {
        .vault = fixture->vault,
        .clock = &fixture->clock.clock,
        .trust_domain = FIXTURE_TRUST_DOMAIN,
        .roots_pem = ca_roots_pem(place->ca),
    };
    CLEANUP(vault_batch_fini) struct vault_batch batch = {0};
    CLEANUP(faults_fini) struct faults faults = {.num = 0};
    CLEANUP(buf_fini) struct buf text = {0};
    struct registry *registry = NULL;

    assert_ok(registry_create(fixture->vault, &batch, fixture->clock.wall_s));
    assert_ok(vault_commit(fixture->vault, &batch, NULL));
    assert_ok(registry_open(&params, &faults, &registry));
    assert_ok(series_write(place->ca, registry, &text));
    assert_null(memmem(buf_view(&text).ptr, buf_size(&text), "role=", strlen("role=")));
    registry_close(registry);
}

/* It cannot be renewed here: it goes on to its end, and warns. */
static void test_an_issuer_past_half_of_its_life_is_not_renewed_here(void **state)
{
    struct place *place = *state;
    struct safe safe = {.root = {.cert = NULL}};
    char before[CA_SHA256_HEX], after[CA_SHA256_HEX];
    bool more = false;

    safe_make(place, &safe);
    (void)import_of(place, &safe, true);
    ca_issuer_key_sha256(place->ca, false, before);
    fixture_pass(place->fixture, CA_ISSUER_TTL_S * 3 / 4);
    assert_false(ca_issuer_is_old(place->ca)); /* nothing that could be done about it here */
    assert_ok(ca_maintain(place->ca, &more));
    ca_issuer_key_sha256(place->ca, false, after);
    assert_string_equal(before, after);
    assert_ok(ca_state(place->ca));
    assert_int_equal(import_of(place, &safe, false), CA_IMPORT_SAME_ROOT);
    assert_true(ca_has_other(place->ca) && !ca_has_other_root(place->ca));
    step(place, ca_switch);
    step(place, ca_retire);
    restart(place);
    ca_issuer_key_sha256(place->ca, false, after);
    assert_string_not_equal(before, after);
    assert_ok(believed(place, &safe, false));
    safe_fini(&safe);
}

/* Who has only the root of before: our own root has vouched for the next one; one whose key is
 * elsewhere has not, and what led to it leads nowhere. */
static void test_who_was_away(void **state)
{
    struct place *place = *state;
    struct safe own = {.root = {.cert = NULL}}, first = {.root = {.cert = NULL}},
                second = {.root = {.cert = NULL}};
    size_t num;

    own.der.der = mem_dup(ca_roots(place->ca, &num)[0].ptr, ca_roots(place->ca, &num)[0].len);
    own.der.der_len = ca_roots(place->ca, &num)[0].len;
    safe_make(place, &first);
    safe_make(place, &second);
    assert_false(ca_is_external(place->ca));
    assert_int_equal(import_of(place, &first, true), CA_IMPORT_NEW_ROOT);
    restart(place);
    (void)ca_roots(place->ca, &num);
    assert_int_equal(num, 2);
    assert_ok(believed(place, &own, false)); /* it signs still */
    step(place, ca_switch);
    restart(place);
    assert_ok(believed(place, &first, false));
    assert_ok(believed(place, &own, false));
    step(place, ca_switch); /* back: its key is here until it is retired */
    restart(place);
    assert_false(ca_is_external(place->ca));
    assert_ok(believed(place, &own, false));
    step(place, ca_switch);
    step(place, ca_retire);
    restart(place);
    assert_true(ca_is_external(place->ca));
    assert_ok(believed(place, &own, true));

    assert_int_equal(import_of(place, &second, true), CA_IMPORT_NEW_ROOT);
    step(place, ca_switch);
    restart(place);
    assert_ok(believed(place, &second, true));
    step(place, ca_switch); /* back */
    step(place, ca_switch);
    step(place, ca_retire);
    restart(place);
    assert_ok(believed(place, &second, true));
    assert_code(believed(place, &first, true), CHAIN_UNTRUSTED);
    assert_code(believed(place, &own, true), CHAIN_UNTRUSTED);
    safe_fini(&own);
    safe_fini(&first);
    safe_fini(&second);
}

static void check_refused(struct place *place, const struct bytes *certs, size_t num,
                          const char *path, const char *text)
{
    struct faults faults = {.num = 0};
    enum ca_import how;

    assert_code(import(place, certs, num, &faults, &how), CONFIG_INVALID);
    assert_true(fixture_has(&faults, path, text));
    faults_fini(&faults);
    assert_true(ca_is_empty(place->ca));
}

static void test_what_is_no_answer_changes_nothing(void **state)
{
    struct place *place = *state;
    struct safe safe = {.root = {.cert = NULL}}, other = {.root = {.cert = NULL}};
    struct issued issuer = {.der = NULL};
    struct faults faults = {.num = 0};
    struct bytes certs[3];
    enum ca_import how;
    struct buf csr = {0};

    safe_make(place, &safe);
    safe_make(place, &other);
    safe_sign(place, &safe, &issuer);
    certs[0] = bytes_of(issuer.der, issuer.der_len);
    certs[1] = safe_der(&safe);
    certs[2] = certs[1];
    check_refused(place, certs, 0, "chain", "has 0 certificates");
    check_refused(place, certs, 3, "chain", "has 3 certificates");
    check_refused(place, certs, 1, "chain", "root's certificate is missing");
    check_refused(place, &certs[1], 2, "issuer.subjectPublicKey", "pending request");
    certs[1] = safe_der(&other);
    check_refused(place, certs, 2, "issuer.issuer", "another root");
    certs[1] = bytes_of_str("nothing");
    check_refused(place, certs, 2, "chain[1]", "is no certificate");
    /* One that was asked for with a key that is gone. */
    certs[1] = safe_der(&safe);
    assert_ok(ca_request(place->ca, true, &csr));
    check_refused(place, certs, 2, "issuer.subjectPublicKey", "pending request");
    /* Taken once. */
    assert_int_equal(import_of(place, &safe, true), CA_IMPORT_FIRST);
    assert_code(import(place, certs, 2, &faults, &how), NOT_FOUND);
    issued_fini(&issuer);
    safe_fini(&safe);
    safe_fini(&other);
    buf_fini(&csr);
}

/* A store without CA and without request is damage, not a mesh that waits; so is an issuer without
 * its key. */
static void test_damage_is_told_apart(void **state)
{
    struct place *place = *state;
    struct vault_batch batch = {0};
    Mortise__Control__Authority record = MORTISE__CONTROL__AUTHORITY__INIT;
    struct safe safe = {.root = {.cert = NULL}};
    struct issued issuer = {.der = NULL};

    safe_make(place, &safe);
    safe_sign(place, &safe, &issuer);
    vault_batch_delete(&batch, VAULT_PENDING_ISSUER, STORE_ANY);
    assert_ok(vault_commit(place->fixture->vault, &batch, NULL));
    vault_batch_fini(&batch);
    assert_code(ca_reload(place->ca), STORE_CORRUPT);
    record.certificate = msg_bytes(safe_der(&safe));
    assert_ok(vault_put(place->fixture->vault, VAULT_ROOT, &record.base, STORE_ABSENT, NULL));
    record.certificate = msg_bytes(bytes_of(issuer.der, issuer.der_len));
    assert_ok(vault_put(place->fixture->vault, VAULT_ISSUER, &record.base, STORE_ABSENT, NULL));
    assert_code(ca_reload(place->ca), STORE_CORRUPT);
    issued_fini(&issuer);
    safe_fini(&safe);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_is_signed_before_the_root_has),
        TEST(test_metrics_of_a_ca_that_is_empty),
        TEST(test_an_issuer_past_half_of_its_life_is_not_renewed_here),
        cmocka_unit_test_setup_teardown(test_who_was_away, setup_own, teardown),
        TEST(test_what_is_no_answer_changes_nothing),
        TEST(test_damage_is_told_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
