#include "certs/web_roots.h"

#include <openssl/bio.h>
#include <openssl/pem.h>

#include "certs/boring.h"
#include "lib/base/buf.h"
#include "lib/base/file.h"

/* Where systems keep theirs: Debian and Alpine; Fedora and its kin. */
static const char *const web_roots_files[] = {"/etc/ssl/certs/ca-certificates.crt",
                                              "/etc/pki/tls/certs/ca-bundle.crt"};

static err_t web_roots_read(const char *file, struct buf *out)
{
    err_t err = FAIL(FILE_OPEN, 0);

    if (file != NULL)
        return file_read(file, WEB_ROOTS_MAX, out);
    for (size_t i = 0; i < ARRAY_LEN(web_roots_files); i++) {
        err = file_read(web_roots_files[i], WEB_ROOTS_MAX, out);
        if (!err_is(err, E_FILE_OPEN))
            return err;
    }
    return err;
}

static err_t web_roots_add(SSL_CTX *ctx, BIO *pem)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    size_t num = 0;
    X509 *cert;

    for (; (cert = PEM_read_bio_X509(pem, NULL, NULL, NULL)) != NULL; num++) {
        int added = X509_STORE_add_cert(store, cert);

        X509_free(cert);
        if (added != 1)
            return FAIL(CERT_SYNTAX, 0);
    }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        return FAIL(CERT_SYNTAX, 0);
    return num > 0 ? OK : FAIL(PEM_EMPTY, 0);
}

err_t web_roots_ctx(const char *file, SSL_CTX **out)
{
    BORING_SCOPE;
    CLEANUP(buf_fini) struct buf text = {0};
    CLEANUP(boring_ctx_freep) SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    BIO *pem;
    err_t err;

    if (ctx == NULL || SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1)
        return FAIL(NO_MEMORY, 0);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    TRY(web_roots_read(file, &text));
    pem = BIO_new_mem_buf(buf_view(&text).ptr, (ossl_ssize_t)buf_size(&text));
    err = pem != NULL ? web_roots_add(ctx, pem) : FAIL(NO_MEMORY, 0);
    BIO_free(pem);
    TRY(err);
    *out = ctx;
    ctx = NULL; /* the caller's now */
    return OK;
}
