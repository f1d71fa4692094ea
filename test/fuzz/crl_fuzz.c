/* Revocation lists, in DER or PEM. Whatever is accepted BoringSSL's parser must accept, too, and
 * the dates and serial numbers must be those that it finds. Drives: R75, R7. */
#include "certs/crl.h"

#include <string.h>

#include <openssl/err.h>
#include <openssl/x509.h>

#include "certs/crl_set.h"
#include "test/unit/certs/certgen.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bundle *crl_bundle;

static void crl_setup(void)
{
    struct certgen *root;
    struct bytes der;

    if (crl_bundle != NULL)
        return;
    root = certgen_make(NULL, &(struct certgen_params){.ca = true, .subject = "root"});
    der = certgen_der(root);
    CHECK(err_is_ok(bundle_of_der(&der, 1, NULL, &crl_bundle)));
    certgen_free(root);
}

static void crl_check_serial(const struct crl *crl, const X509_REVOKED *revoked)
{
    const ASN1_INTEGER *serial = X509_REVOKED_get0_serialNumber(revoked);
    size_t len = (size_t)ASN1_STRING_length(serial);
    uint8_t padded[CERT_SERIAL_MAX] = {0};

    CHECK(ASN1_STRING_type(serial) == V_ASN1_INTEGER && len <= sizeof(padded));
    memcpy(padded + sizeof(padded) - len, ASN1_STRING_get0_data(serial), len);
    CHECK(crl_has(crl, padded));
}

static void crl_compare(const struct crl *crl, const uint8_t *data, size_t size)
{
    const uint8_t *at = data;
    X509_CRL *other = d2i_X509_CRL(NULL, &at, (long)size);
    int64_t from, to;

    CHECK(other != NULL && at == data + size);
    STACK_OF(X509_REVOKED) *list = X509_CRL_get_REVOKED(other);
    CHECK(crl->num <= sk_X509_REVOKED_num(list));
    CHECK((crl->num == 0) == (sk_X509_REVOKED_num(list) == 0));
    for (size_t i = 0; i < sk_X509_REVOKED_num(list); i++)
        crl_check_serial(crl, sk_X509_REVOKED_value(list, i));
    CHECK(ASN1_TIME_to_posix(X509_CRL_get0_lastUpdate(other), &from) && from == crl->this_update);
    CHECK(ASN1_TIME_to_posix(X509_CRL_get0_nextUpdate(other), &to) && to == crl->next_update);
    CHECK(crl->next_update > crl->this_update);
    X509_CRL_free(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes text = bytes_of(data, size);
    struct crl *crl = NULL;
    struct crl_set *set = NULL, *again = NULL;
    size_t which;
    err_t err;

    crl_setup();
    CHECK(err_is_ok(crl_parse(text, &crl)) == (crl != NULL));
    CHECK(ERR_peek_error() == 0);
    if (crl != NULL)
        crl_compare(crl, data, size);
    crl_unref(crl);
    ERR_clear_error();

    err = crl_set_of(&text, 1, crl_bundle, CERTGEN_NOW, NULL, &set, &which);
    CHECK(err_is_ok(err) == (set != NULL));
    CHECK(ERR_peek_error() == 0);
    if (set != NULL) { /* the same again is the same */
        CHECK(err_is_ok(crl_set_of(&text, 1, crl_bundle, CERTGEN_NOW, set, &again, &which)));
        CHECK(again->num == set->num && memcmp(again->hash, set->hash, sizeof(set->hash)) == 0);
        CHECK(again->lists[0] == set->lists[0]);
    }
    crl_set_unref(again);
    crl_set_unref(set);
    return 0;
}
