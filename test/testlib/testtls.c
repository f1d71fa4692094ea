#include "test/testlib/testtls.h"

#include <openssl/pool.h>

#include "lib/base/err.h"

#define TESTTLS_CHAIN_MAX 8

static void testtls_set_cert_x509(SSL_CTX *ctx, const struct testca *cert)
{
    CHECK(SSL_CTX_use_certificate(ctx, cert->cert) == 1);
    CHECK(SSL_CTX_use_PrivateKey(ctx, cert->key) == 1);
    for (const struct testca *ca = cert->issuer; ca != NULL && ca->issuer != NULL; ca = ca->issuer)
        CHECK(SSL_CTX_add1_chain_cert(ctx, ca->cert) == 1);
}

static void testtls_set_cert_buffers(SSL_CTX *ctx, const struct testca *cert)
{
    struct bytes ders[TESTTLS_CHAIN_MAX];
    CRYPTO_BUFFER *chain[TESTTLS_CHAIN_MAX];
    size_t num = testca_chain(cert, ders, TESTTLS_CHAIN_MAX);

    for (size_t i = 0; i < num; i++) {
        chain[i] = CRYPTO_BUFFER_new(ders[i].ptr, ders[i].len, NULL);
        CHECK(chain[i] != NULL);
    }
    CHECK(SSL_CTX_set_chain_and_key(ctx, chain, num, cert->key, NULL) == 1);
    for (size_t i = 0; i < num; i++)
        CRYPTO_BUFFER_free(chain[i]);
}

static enum ssl_verify_result_t testtls_verify_any(SSL *ssl, uint8_t *out_alert)
{
    (void)ssl;
    (void)out_alert;
    return ssl_verify_ok;
}

static void testtls_set_verify(SSL_CTX *ctx, const struct testtls_params *params)
{
    int mode = SSL_VERIFY_PEER | (params->need_cert ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);

    if (params->buffers || (params->root == NULL && params->need_cert)) {
        SSL_CTX_set_custom_verify(ctx, mode, testtls_verify_any);
    } else if (params->root != NULL) {
        CHECK(X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), params->root->cert) == 1);
        SSL_CTX_set_verify(ctx, mode, NULL);
    } else {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
    }
}

SSL_CTX *testtls_ctx(const struct testtls_params *params)
{
    SSL_CTX *ctx = SSL_CTX_new(params->buffers ? TLS_with_buffers_method() : TLS_method());

    CHECK(ctx != NULL);
    CHECK(SSL_CTX_set_min_proto_version(ctx, params->min_version != 0 ? params->min_version
                                                                      : TLS1_2_VERSION) == 1);
    CHECK(SSL_CTX_set_max_proto_version(ctx, params->max_version != 0 ? params->max_version
                                                                      : TLS1_3_VERSION) == 1);
    if (params->cert != NULL) {
        if (params->buffers)
            testtls_set_cert_buffers(ctx, params->cert);
        else
            testtls_set_cert_x509(ctx, params->cert);
    }
    testtls_set_verify(ctx, params);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    return ctx;
}
