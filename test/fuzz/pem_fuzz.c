/* PEM and what is made of it: keys, bundles, identities. What is read is written and read again the
 * same. Drives: R75. */
#include "certs/pem.h"

#include <openssl/err.h>
#include <openssl/evp.h>

#include "certs/bundle.h"
#include "certs/key.h"
#include "certs/svid.h"
#include "lib/base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void pem_again(const struct pem *pem)
{
    struct buf text = {0};
    struct pem again;

    for (size_t i = 0; i < pem->num; i++) {
        char *label = mem_strndup((const char *)pem->blocks[i].label.ptr, pem->blocks[i].label.len);
        CHECK(err_is_ok(
            pem_write(label, bytes_of(pem->blocks[i].der, pem->blocks[i].der_len), &text)));
        mem_free(label);
    }
    CHECK(err_is_ok(pem_parse(buf_view(&text), &again)));
    CHECK(again.num == pem->num);
    for (size_t i = 0; i < pem->num; i++) {
        CHECK(bytes_equal(again.blocks[i].label, pem->blocks[i].label));
        CHECK(again.blocks[i].der_len == pem->blocks[i].der_len);
        CHECK(memcmp(again.blocks[i].der, pem->blocks[i].der, pem->blocks[i].der_len) == 0);
    }
    pem_fini(&again);
    buf_fini(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes text = bytes_of(data, size);
    struct bundle *bundle = NULL;
    struct svid *svid = NULL;
    EVP_PKEY *key = NULL;
    struct pem pem;

    if (err_is_ok(pem_parse(text, &pem))) {
        CHECK(pem.num <= PEM_BLOCKS_MAX);
        pem_again(&pem);
        pem_fini(&pem);
    }
    CHECK(err_is_ok(key_parse(text, &key)) == (key != NULL));
    CHECK(err_is_ok(bundle_of_pem(text, NULL, &bundle)) == (bundle != NULL));
    CHECK(err_is_ok(svid_of_pem(text, text, NULL, 1780000000, &svid)) == (svid != NULL));
    CHECK(ERR_peek_error() == 0);
    EVP_PKEY_free(key);
    bundle_unref(bundle);
    svid_unref(svid);
    return 0;
}
