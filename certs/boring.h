/* boring: release functions of BoringSSL's types for CLEANUP, and its error queue.
 *
 * The queue is one per thread, shared by everything that runs on it: a function that calls
 * BoringSSL begins with BORING_SCOPE, so that nothing stays in the queue when it returns, whichever
 * way. */
#ifndef MORTISE_CERTS_BORING_H
#define MORTISE_CERTS_BORING_H

#include <openssl/aead.h>
#include <openssl/bn.h>
#include <openssl/bytestring.h>
#include <openssl/ec_key.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pool.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "lib/base/mem.h"

MEM_CLEANUP_FN(boring_x509_freep, X509, X509_free)
MEM_CLEANUP_FN(boring_req_freep, X509_REQ, X509_REQ_free)
MEM_CLEANUP_FN(boring_key_freep, EVP_PKEY, EVP_PKEY_free)
MEM_CLEANUP_FN(boring_key_ctx_freep, EVP_PKEY_CTX, EVP_PKEY_CTX_free)
MEM_CLEANUP_FN(boring_ec_freep, EC_KEY, EC_KEY_free)
MEM_CLEANUP_FN(boring_rsa_freep, RSA, RSA_free)
MEM_CLEANUP_FN(boring_bn_freep, BIGNUM, BN_free)
MEM_CLEANUP_FN(boring_buffer_freep, CRYPTO_BUFFER, CRYPTO_BUFFER_free)
MEM_CLEANUP_FN(boring_ctx_freep, SSL_CTX, SSL_CTX_free)
MEM_CLEANUP_FN(boring_store_freep, X509_STORE, X509_STORE_free)
MEM_CLEANUP_FN(boring_store_ctx_freep, X509_STORE_CTX, X509_STORE_CTX_free)

static inline void boring_x509s_freep(STACK_OF(X509) * *certs)
{
    if (*certs != NULL)
        sk_X509_pop_free(*certs, X509_free);
}

/* OPENSSL_free of what a d2i or i2d function or a CBB made; wiped by it. */
static inline void boring_bytes_freep(uint8_t **ptr)
{
    OPENSSL_free(*ptr);
}

static inline void boring_queue_clear(const int *unused)
{
    (void)unused;
    ERR_clear_error();
}
#define BORING_SCOPE CLEANUP(boring_queue_clear) __attribute__((unused)) const int boring_scope_ = 0

#endif
