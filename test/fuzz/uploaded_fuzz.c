/* What an operator brings: PEM of a chain and its key, plain or encrypted, and PKCS#12, in DER and
 * BER, all with one password. What is taken is in order and belongs together; how much work a file
 * may ask for is known before. Drives: R75. */
#include "certs/uploaded.h"

#include <openssl/err.h>

#include "certs/derivation.h"
#include "certs/pem.h"
#include "lib/base/mem.h"

#define FUZZ_NOW_S 1780000000
#define FUZZ_ROUNDS 4096 /* more are for the unit test: here each input has a moment */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Whether an encrypted key wants more than a moment. */
static bool fuzz_is_slow(struct bytes text)
{
    struct pem pem = {0};
    bool slow = false;

    if (!err_is_ok(pem_parse_within(text, UPLOADED_BYTES_MAX, &pem)))
        return false;
    for (size_t i = 0; i < pem.num; i++) {
        struct bytes der = bytes_of(pem.blocks[i].der, pem.blocks[i].der_len);

        if (pem_is(&pem.blocks[i], "ENCRYPTED PRIVATE KEY"))
            slow = slow || (derivation_pkcs8_bounded(der, DERIVATION_ROUNDS_MAX) &&
                            !derivation_pkcs8_bounded(der, FUZZ_ROUNDS));
    }
    pem_fini(&pem);
    return slow;
}

/* Judged with its own time, and at none. */
static void fuzz_judge(struct uploaded *uploaded, err_t err, struct faults *faults)
{
    struct svid *svid = NULL;

    CHECK(err_is_ok(err) == (faults->total == 0));
    CHECK(uploaded->num <= UPLOADED_CERTS_MAX);
    if (err_is_ok(err)) {
        err = uploaded_keystore(uploaded, FUZZ_NOW_S, faults, &svid);
        CHECK(err_is_ok(err) == (svid != NULL));
        CHECK(err_is_ok(err) == (faults->total == 0));
    }
    if (svid != NULL)
        svid_unref(svid);
    uploaded_fini(uploaded);
    faults_fini(faults);
    CHECK(ERR_peek_error() == 0);
}

static void fuzz_pem(struct bytes text)
{
    struct fault_path path = {.len = 0};
    struct uploaded uploaded, chain;
    struct faults faults = {.num = 0};
    err_t err;

    err = uploaded_pem(text, text, NULL, &faults, &uploaded);
    fuzz_judge(&uploaded, err, &faults);
    if (!fuzz_is_slow(text)) {
        err = uploaded_pem(text, text, "right", &faults, &uploaded);
        fuzz_judge(&uploaded, err, &faults);
    }
    err = uploaded_cas(text, FUZZ_NOW_S, &path, &faults);
    CHECK(err_is_ok(err) == (faults.total == 0));
    faults_fini(&faults);
    err = uploaded_chain(text, 0, &path, &faults, &chain);
    CHECK(err_is_ok(err) == (faults.total == 0));
    uploaded_fini(&chain);
    faults_fini(&faults);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes file = bytes_of(data, size);
    struct faults faults = {.num = 0};
    struct uploaded uploaded;
    bool quick = derivation_pkcs12_bounded(file, FUZZ_ROUNDS);
    err_t err;

    CHECK(!quick || derivation_pkcs12_bounded(file, DERIVATION_ROUNDS_MAX));
    fuzz_pem(file);
    if (!quick && derivation_pkcs12_bounded(file, DERIVATION_ROUNDS_MAX))
        return 0;
    err = uploaded_pkcs12(file, "right", &faults, &uploaded);
    CHECK(quick || !err_is_ok(err)); /* what was not seen through is not opened */
    fuzz_judge(&uploaded, err, &faults);
    return 0;
}
