/* Certificate requests from whoever asks for an identity. What is accepted has a strong key, and
 * OpenSSL's kind of parser agrees that the key signed it. Drives: R75, R36. */
#include "certs/csr.h"

#include <openssl/err.h>
#include <openssl/x509.h>

#include "certs/key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *p = data;
    EVP_PKEY *key = NULL;

    if (!err_is_ok(csr_parse(bytes_of(data, size), &key))) {
        CHECK(key == NULL && ERR_peek_error() == 0);
        return 0;
    }
    CHECK(size <= CSR_MAX);
    CHECK(err_is_ok(key_check_strength(key)));
    /* It reads attributes, which we do not, and may refuse those. */
    X509_REQ *req = d2i_X509_REQ(NULL, &p, (long)size);
    if (req != NULL)
        CHECK(X509_REQ_verify(req, key) == 1);
    X509_REQ_free(req);
    ERR_clear_error();
    EVP_PKEY_free(key);
    return 0;
}
