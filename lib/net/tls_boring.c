#include "lib/net/tls_boring.h"

#include <pthread.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/err.h>

#include "lib/base/mem.h"
#include "third_party/boringssl_secrets/boringssl_secrets.h"

struct tls_kept *tls_keep(const void *ptr, size_t len)
{
    struct tls_kept *kept = mem_try_alloc(sizeof(*kept) + len);

    if (kept == NULL)
        return NULL;
    kept->len = len;
    memcpy(kept->data, ptr, len);
    return kept;
}

/* ---- the BIO ---- */

uint8_t *tls_io_reserve(struct tls_io *io, size_t len)
{
    struct loop_bufs *bufs = loop_bufs(io->loop);
    struct tls_kept *cork = io->cork;
    size_t need = bufs->tx_len + len + (cork != NULL ? cork->len : 0);

    if (bufs->tx_cap < need) {
        while (bufs->tx_cap < need)
            bufs->tx_cap *= 2;
        bufs->tx = mem_realloc(bufs->tx, bufs->tx_cap);
    }
    if (cork != NULL) {
        io->cork = NULL;
        memcpy(bufs->tx + bufs->tx_len, cork->data, cork->len);
        bufs->tx_len += cork->len;
        mem_free(cork);
    }
    return bufs->tx + bufs->tx_len;
}

void tls_io_commit(struct tls_io *io, size_t len)
{
    loop_bufs(io->loop)->tx_len += len;
}

static int tls_bio_read(BIO *bio, char *out, int len)
{
    struct tls_io *io = BIO_get_data(bio);
    size_t num = io->in.len < (size_t)len ? io->in.len : (size_t)len;

    BIO_clear_retry_flags(bio);
    if (num == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(out, io->in.ptr, num);
    io->in.ptr += num;
    io->in.len -= num;
    return (int)num;
}

static int tls_bio_write(BIO *bio, const char *ptr, int len)
{
    struct tls_io *io = BIO_get_data(bio);

    BIO_clear_retry_flags(bio);
    memcpy(tls_io_reserve(io, (size_t)len), ptr, (size_t)len);
    tls_io_commit(io, (size_t)len);
    return len;
}

static long tls_bio_ctrl(BIO *bio, int command, long num, void *ptr)
{
    (void)bio;
    (void)num;
    (void)ptr;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *tls_bio_method;

static void tls_bio_make_method(void)
{
    tls_bio_method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "mortise");
    CHECK(tls_bio_method != NULL && BIO_meth_set_read(tls_bio_method, tls_bio_read) == 1 &&
          BIO_meth_set_write(tls_bio_method, tls_bio_write) == 1 &&
          BIO_meth_set_ctrl(tls_bio_method, tls_bio_ctrl) == 1);
}

BIO *tls_bio_new(struct tls_io *io)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    BIO *bio;

    (void)pthread_once(&once, tls_bio_make_method);
    bio = BIO_new(tls_bio_method);
    if (bio == NULL) {
        ERR_clear_error();
        return NULL;
    }
    BIO_set_data(bio, io);
    BIO_set_init(bio, 1);
    return bio;
}

/* ---- errors: BoringSSL's queue belongs to the thread ---- */

static err_t tls_err_of_reason(int reason)
{
    if (reason >= SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256)
        return FAIL(TLS_ALERT, reason - SSL_AD_REASON_OFFSET);
    switch (reason) {
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
        return FAIL(TLS_NOT_TLS, 0);
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SHARED_GROUP:
    case SSL_R_NO_COMMON_SIGNATURE_ALGORITHMS:
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_BAD_ECC_CERT: /* TLS 1.2: groups are also the curves of the server's certificate */
        return FAIL(TLS_NO_SHARED, reason);
    case SSL_R_NO_SUPPORTED_VERSIONS_ENABLED:
    case SSL_R_NO_CERTIFICATE_SET:
    case SSL_R_NO_CIPHERS_AVAILABLE:
        return FAIL(TLS_CONFIG, reason);
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return FAIL(CERT_MISSING, 0);
    case SSL_R_KEY_USAGE_BIT_INCORRECT: /* found before the chain is looked at */
        return FAIL(CERT_USAGE, reason);
    case SSL_R_CANNOT_PARSE_LEAF_CERT: /* as are a leaf's form and its key */
    case SSL_R_CERT_LENGTH_MISMATCH:
        return FAIL(CERT_SYNTAX, reason);
    case SSL_R_TOO_MANY_KEY_UPDATES:
        return FAIL(TLS_KEY_UPDATES, 0);
    default:
        return FAIL(TLS_PROTOCOL, reason);
    }
}

err_t tls_err(SSL *ssl, int ret)
{
    int kind = SSL_get_error(ssl, ret);
    int reason = 0;
    bool key = false;    /* something is wrong with one */
    bool memory = false; /* there was none for something, said by whichever library wanted it */
    uint32_t entry;

    if (kind == SSL_ERROR_WANT_READ)
        return AGAIN;
    if (kind == SSL_ERROR_ZERO_RETURN)
        return FAIL(CLOSED, 0);
    /* A callback of the context may have left entries of its own before BoringSSL's. */
    while ((entry = ERR_get_error()) != 0) {
        if (reason == 0 && ERR_GET_LIB(entry) == ERR_LIB_SSL)
            reason = ERR_GET_REASON(entry);
        memory |= ERR_GET_REASON(entry) == ERR_R_MALLOC_FAILURE;
        key |= ERR_GET_LIB(entry) == ERR_LIB_EVP || ERR_GET_LIB(entry) == ERR_LIB_EC;
    }
    if (memory)
        return FAIL(NO_MEMORY, 0);
    /* A leaf's key that cannot be read (its kind, its curve, no point on it) leaves no entry of its
     * own in TLS 1.2, and one that says too little in 1.3. */
    if (key && (reason == 0 || reason == SSL_R_DECODE_ERROR))
        return FAIL(KEY_WEAK, 0);
    return tls_err_of_reason(reason);
}

/* ---- our record layer ---- */

static bool tls_cipher_of(const SSL_CIPHER *cipher, enum record_cipher *out)
{
    switch (SSL_CIPHER_get_protocol_id(cipher)) {
    case TLS1_3_CK_AES_128_GCM_SHA256 & 0xffff:
        *out = RECORD_AES_128_GCM;
        return true;
    case TLS1_3_CK_AES_256_GCM_SHA384 & 0xffff:
        *out = RECORD_AES_256_GCM;
        return true;
    case TLS1_3_CK_CHACHA20_POLY1305_SHA256 & 0xffff:
        *out = RECORD_CHACHA20_POLY1305;
        return true;
    default:
        return false;
    }
}

struct record *tls_record_of(const SSL *ssl, bool fast, uint64_t key_update_records,
                             unsigned key_updates_per_s)
{
    struct record_params params = {
        .read_seq = SSL_get_read_sequence(ssl),
        .write_seq = SSL_get_write_sequence(ssl),
        .server = SSL_is_server(ssl) == 1,
        .key_update_records = key_update_records,
        .key_updates_per_s = key_updates_per_s,
    };
    struct record *record;
    enum record_cipher cipher;
    size_t len;

    if (SSL_version(ssl) != TLS1_3_VERSION || params.read_seq != 0 || params.write_seq != 0 ||
        SSL_has_pending(ssl) == 1 || !tls_cipher_of(SSL_get_current_cipher(ssl), &cipher) ||
        !boringssl_secrets(ssl, &params.read_secret.ptr, &params.write_secret.ptr, &len))
        return NULL;
    params.aead = fast ? record_aead_fast(cipher) : record_aead_portable(cipher);
    params.read_secret.len = params.write_secret.len = len;
    return err_is_ok(record_new(&params, &record)) ? record : NULL;
}
