/* The proof of the last certificate's key: it is for one certificate and one request, and nobody
 * else can make it.
 *
 * Drives: R36, F18 */
#include "certs/proof.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "certs/key.h"
#include "lib/base/mem.h"
#include "test/unit/certs/pki.h"

#define assert_ok(expr) assert_int_equal((expr).code, E_OK)
#define assert_code(expr, name) assert_int_equal((expr).code, E_##name)

struct set {
    struct pki pki;
    struct svid *svid, *other;
};

static int setup(void **state)
{
    struct set *set = mem_zalloc(sizeof(*set));

    pki_init(&set->pki);
    set->svid = pki_svid(&set->pki, "spiffe://example.org/ns/a/sa/one", NULL);
    set->other = pki_svid(&set->pki, "spiffe://example.org/ns/a/sa/two", NULL);
    *state = set;
    return 0;
}

static int teardown(void **state)
{
    struct set *set = *state;

    svid_unref(set->svid);
    svid_unref(set->other);
    pki_fini(&set->pki);
    mem_free(set);
    return 0;
}

static struct bytes leaf(const struct svid *svid)
{
    return bytes_of(CRYPTO_BUFFER_data(svid->chain[0]), CRYPTO_BUFFER_len(svid->chain[0]));
}

static const char csr_text[] = "a request", other_text[] = "another request";
#define CSR bytes_of_str(csr_text)
#define OTHER_CSR bytes_of_str(other_text)

/* Signed by `by` as for `of`'s certificate, then checked against `at`'s with `csr`. */
static err_t checked(const struct svid *by, const struct svid *of, const struct svid *at,
                     struct bytes csr)
{
    CLEANUP(proof_subject_fini) struct proof_subject subject = {.serial = NULL};
    CLEANUP(buf_fini) struct buf signature = {.data = NULL};

    assert_ok(proof_sign(by->key, leaf(of), CSR, &signature));
    assert_ok(proof_read(leaf(at), &subject));
    assert_string_equal(subject.serial, at->serial);
    return proof_check(&subject, csr, buf_view(&signature));
}

static void test_a_proof_is_for_one_certificate_and_one_request(void **state)
{
    const struct set *set = *state;

    assert_ok(checked(set->svid, set->svid, set->svid, CSR));
    assert_code(checked(set->svid, set->svid, set->svid, OTHER_CSR), PROOF_INVALID);
    assert_code(checked(set->svid, set->svid, set->other, CSR), PROOF_INVALID);
    assert_code(checked(set->other, set->svid, set->svid, CSR), PROOF_INVALID);
    assert_code(checked(set->svid, set->other, set->svid, CSR), PROOF_INVALID);
}

static void test_every_bit_of_it_counts(void **state)
{
    const struct set *set = *state;
    CLEANUP(proof_subject_fini) struct proof_subject subject = {.serial = NULL};
    CLEANUP(buf_fini) struct buf signature = {.data = NULL};
    struct bytes view;
    uint8_t sha256[32];

    assert_ok(proof_sign(set->svid->key, leaf(set->svid), CSR, &signature));
    assert_ok(proof_read(leaf(set->svid), &subject));
    assert_ok(key_spki_sha256(set->svid->key, sha256));
    assert_memory_equal(subject.key_sha256, sha256, sizeof(sha256));
    view = buf_view(&signature);
    assert_ok(proof_check(&subject, CSR, view));
    for (size_t i = 0; i < view.len; i++) {
        signature.data[signature.pos + i] ^= 4;
        assert_code(proof_check(&subject, CSR, view), PROOF_INVALID);
        signature.data[signature.pos + i] ^= 4;
        assert_code(proof_check(&subject, CSR, bytes_of(view.ptr, i)), PROOF_INVALID);
    }
    assert_ok(proof_check(&subject, CSR, view));
}

static void test_what_is_no_certificate_or_no_signature(void **state)
{
    const struct set *set = *state;
    CLEANUP(proof_subject_fini) struct proof_subject subject = {.serial = NULL};
    static const uint8_t much[PROOF_CERT_MAX + 1];

    assert_code(proof_read(bytes_of(NULL, 0), &subject), CERT_SYNTAX);
    assert_code(proof_read(bytes_of(much, 10), &subject), CERT_SYNTAX);
    assert_code(proof_read(bytes_of(much, sizeof(much)), &subject), TOO_LARGE);
    assert_code(proof_read(bytes_of(leaf(set->svid).ptr, leaf(set->svid).len - 1), &subject),
                CERT_SYNTAX);
    assert_null(subject.serial);
    assert_ok(proof_read(leaf(set->svid), &subject));
    assert_code(proof_check(&subject, CSR, bytes_of(NULL, 0)), PROOF_INVALID);
    assert_code(proof_check(&subject, CSR, bytes_of(much, 64)), PROOF_INVALID);
    assert_code(proof_check(&subject, CSR, bytes_of(much, sizeof(much))), PROOF_INVALID);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_proof_is_for_one_certificate_and_one_request),
        TEST(test_every_bit_of_it_counts),
        TEST(test_what_is_no_certificate_or_no_signature),
    };
#undef TEST

    return cmocka_run_group_tests(tests, NULL, NULL);
}
