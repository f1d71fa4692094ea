/* testtls: TLS contexts of test certificates, as plain as can be: the X509 API, chain checked
 * against one root, no names, no tickets. */
#ifndef MORTISE_TEST_TESTLIB_TESTTLS_H
#define MORTISE_TEST_TESTLIB_TESTTLS_H

#include <stdbool.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "test/testlib/testca.h"

struct testtls_params {
    const struct testca *cert; /* own certificate; NULL: none */
    const struct testca *root; /* the peer must chain to it; NULL: any peer will do */
    bool need_cert;            /* server: refuse a client without one */
    uint16_t min_version;      /* 0: TLS 1.2 */
    uint16_t max_version;      /* 0: TLS 1.3 */
    bool buffers;              /* TLS_with_buffers_method: no X509 objects, root not looked at */
};

/* testtls_ctx returns a context, owned by the caller (SSL_CTX_free). It stops the test on failure.
 */
SSL_CTX *testtls_ctx(const struct testtls_params *params);

#endif
