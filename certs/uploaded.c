#include "certs/uploaded.h"

#include <stdarg.h>
#include <stdio.h>

#include <openssl/pem.h>
#include <openssl/pkcs8.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/derivation.h"
#include "certs/key.h"
#include "certs/pem.h"

/* Where faults are told. */
struct uploaded_judge {
    const char *path;
    struct faults *faults;
    int64_t now_s; /* 0: dates are not asked */
};

static void uploaded_cert_fault(const struct uploaded_judge *judge, size_t number, const X509 *cert,
                                err_t err, const char *why)
{
    CLEANUP(mem_freep) char *subject = cert_subject(cert);

    if (err_is(err, E_CERT_EXPIRED))
        faults_add(judge->faults, judge->path, "certificate %zu \"%s\": expired %d s ago (%s)",
                   number, subject, err.sub, err_name(err.code));
    else if (err_is(err, E_CERT_NOT_YET_VALID))
        faults_add(judge->faults, judge->path,
                   "certificate %zu \"%s\": becomes valid in %d s only (%s)", number, subject,
                   err.sub, err_name(err.code));
    else if (err_is(err, E_KEY_WEAK) && err.sub != 0)
        faults_add(
            judge->faults, judge->path,
            "certificate %zu \"%s\": a key of %d bits or of its kind is too weak: P-256, P-384 "
            "or RSA with 2048 to 8192 bits is wanted (%s)",
            number, subject, err.sub, err_name(err.code));
    else
        faults_add(judge->faults, judge->path, "certificate %zu \"%s\": %s (%s)", number, subject,
                   why != NULL ? why : err_text(err.code), err_name(err.code));
}

/* Dates and strength, each by itself. */
static void uploaded_check_cert(const struct uploaded_judge *judge, size_t number, X509 *cert)
{
    const err_t errs[] = {
        cert_check_key(cert),
        X509_check_issued(cert, cert) == X509_V_OK ? OK : cert_check_signature(cert),
        judge->now_s != 0 ? cert_check_time(cert, judge->now_s) : OK,
    };

    for (size_t i = 0; i < ARRAY_LEN(errs); i++) {
        if (!err_is_ok(errs[i]))
            uploaded_cert_fault(judge, number, cert, errs[i], NULL);
    }
}

static bool uploaded_is_key(const struct pem_block *block)
{
    static const char suffix[] = "PRIVATE KEY";
    size_t len = sizeof suffix - 1;

    return block->label.len >= len &&
           memcmp(block->label.ptr + block->label.len - len, suffix, len) == 0;
}

/* False: told. */
static bool uploaded_parse_pem(const struct uploaded_judge *judge, struct bytes text,
                               struct pem *out)
{
    err_t err = pem_parse_within(text, UPLOADED_BYTES_MAX, out);

    if (err_is_ok(err))
        return true;
    if (err_is(err, E_PEM_SYNTAX))
        faults_add(judge->faults, judge->path, "line %d: %s (%s)", err.sub, err_text(err.code),
                   err_name(err.code));
    else
        faults_add(judge->faults, judge->path, "is larger than %zu bytes or %d blocks (%s)",
                   UPLOADED_BYTES_MAX, PEM_BLOCKS_MAX, err_name(err.code));
    return false;
}

static X509 *uploaded_parse_cert(const struct uploaded_judge *judge, size_t number,
                                 struct bytes der)
{
    X509 *cert = NULL;
    err_t err = cert_parse_bytes(der, &cert);

    if (err_is_ok(err))
        return cert;
    faults_add(judge->faults, judge->path, "certificate %zu: %s (%s)", number, err_text(err.code),
               err_name(err.code));
    return NULL;
}

/* --- CAs --- */

static void uploaded_check_ca(const struct uploaded_judge *judge, size_t number, struct bytes der)
{
    CLEANUP(boring_x509_freep) X509 *cert = uploaded_parse_cert(judge, number, der);
    err_t err;

    if (cert == NULL)
        return;
    err = cert_check_ca(cert);
    if (!err_is_ok(err))
        uploaded_cert_fault(judge, number, cert, err,
                            "is no CA (basicConstraints, keyCertSign): a truststore has CAs, "
                            "those who issue the peers' certificates");
    uploaded_check_cert(judge, number, cert);
}

err_t uploaded_cas(struct bytes text, int64_t now_s, struct fault_path *path, struct faults *faults)
{
    BORING_SCOPE;
    const struct uploaded_judge judge = {path->text, faults, now_s};
    CLEANUP(pem_fini) struct pem pem = {0};
    size_t before = faults->total, num = 0;

    if (!uploaded_parse_pem(&judge, text, &pem))
        return FAIL(CONFIG_INVALID, 1);
    for (size_t i = 0; i < pem.num; i++) {
        if (pem_is(&pem.blocks[i], "CERTIFICATE"))
            uploaded_check_ca(&judge, ++num, bytes_of(pem.blocks[i].der, pem.blocks[i].der_len));
        else if (uploaded_is_key(&pem.blocks[i]))
            faults_add(faults, path->text,
                       "has a private key: take it out; who is trusted is said by certificates");
    }
    if (num == 0)
        faults_add(faults, path->text, "has no certificate (%s)", err_name(E_PEM_EMPTY));
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

/* --- reading --- */

void uploaded_fini(struct uploaded *uploaded)
{
    for (size_t i = 0; i < uploaded->num; i++)
        CRYPTO_BUFFER_free(uploaded->certs[i]);
    EVP_PKEY_free(uploaded->key);
    *uploaded = (struct uploaded){.num = 0};
}

static void uploaded_add(struct uploaded *out, const char *field, struct bytes der,
                         struct faults *faults)
{
    if (out->num == UPLOADED_CERTS_MAX) {
        faults_add(faults, field, "has more than %d certificates", UPLOADED_CERTS_MAX);
        return;
    }
    out->certs[out->num] = CRYPTO_BUFFER_new(der.ptr, der.len, cert_pool());
    CHECK(out->certs[out->num] != NULL);
    out->num++;
}

static void uploaded_add_pem(struct uploaded *out, const char *field, const struct pem *pem,
                             struct faults *faults)
{
    size_t before = out->num;

    for (size_t i = 0; i < pem->num && out->num <= UPLOADED_CERTS_MAX; i++) {
        if (pem_is(&pem->blocks[i], "CERTIFICATE"))
            uploaded_add(out, field, bytes_of(pem->blocks[i].der, pem->blocks[i].der_len), faults);
    }
    if (out->num == before)
        faults_add(faults, field, "has no certificate (%s)", err_name(E_PEM_EMPTY));
}

static EVP_PKEY *uploaded_decrypt_pkcs8(struct bytes der, const char *password)
{
    CBS cbs;

    CBS_init(&cbs, der.ptr, der.len);
    if (!derivation_pkcs8_bounded(der, DERIVATION_ROUNDS_MAX))
        return NULL;
    return PKCS8_parse_encrypted_private_key(&cbs, password, strlen(password));
}

/* What OpenSSL wrote of old: one round of MD5. */
static EVP_PKEY *uploaded_decrypt_old(struct bytes text, const char *password)
{
    BIO *bio = BIO_new_mem_buf(text.ptr, (ossl_ssize_t)text.len);
    EVP_PKEY *key;

    CHECK(bio != NULL);
    /* Without a function of ours the last argument is the passphrase; it is only read. */
    key = PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)(uintptr_t)password);
    BIO_free(bio);
    return key;
}

static const struct pem_block *uploaded_find_key(const struct pem *pem, struct faults *faults)
{
    const struct pem_block *found = NULL;

    for (size_t i = 0; i < pem->num; i++) {
        if (!uploaded_is_key(&pem->blocks[i]))
            continue;
        if (found != NULL) {
            faults_add(faults, "--private-key", "has two private keys: one is wanted");
            return NULL;
        }
        found = &pem->blocks[i];
    }
    if (found == NULL)
        faults_add(faults, "--private-key", "has no private key (%s)", err_name(E_PEM_EMPTY));
    return found;
}

static void uploaded_weak_key(const char *field, err_t err, struct faults *faults)
{
    faults_add(
        faults, field,
        "%d bits or its kind: too weak; P-256, P-384 or RSA with 2048 to 8192 bits is wanted "
        "(%s)",
        err.sub, err_name(err.code));
}

/* Takes `key`; NULL: it was not decrypted. */
static void uploaded_take_key(struct uploaded *out, EVP_PKEY *key, const char *password,
                              struct faults *faults)
{
    err_t err;

    if (key == NULL && password == NULL) {
        faults_add(faults, "--private-key", "is encrypted: say with --password-file what with (%s)",
                   err_name(E_KEY_ENCRYPTED));
        return;
    }
    if (key == NULL) {
        faults_add(
            faults, "--password-file",
            "does not open the private key in --private-key, or that is broken or takes more than "
            "%d rounds",
            DERIVATION_ROUNDS_MAX);
        return;
    }
    out->key = key;
    err = key_check_strength(key);
    if (!err_is_ok(err))
        uploaded_weak_key("--private-key", err, faults);
}

static void uploaded_read_key(struct bytes text, const char *password, struct faults *faults,
                              struct uploaded *out)
{
    const struct uploaded_judge judge = {"--private-key", faults, 0};
    CLEANUP(pem_fini) struct pem pem = {0};
    const struct pem_block *block;
    EVP_PKEY *key = NULL;
    err_t err;

    if (!uploaded_parse_pem(&judge, text, &pem))
        return;
    block = uploaded_find_key(&pem, faults);
    if (block == NULL)
        return;
    if (block->encrypted || pem_is(block, "ENCRYPTED PRIVATE KEY")) {
        if (password != NULL)
            key = block->encrypted
                      ? uploaded_decrypt_old(text, password)
                      : uploaded_decrypt_pkcs8(bytes_of(block->der, block->der_len), password);
        uploaded_take_key(out, key, password, faults);
        return;
    }
    err = key_parse(text, &key);
    if (err_is_ok(err))
        uploaded_take_key(out, key, password, faults);
    else if (err_is(err, E_KEY_WEAK))
        uploaded_weak_key("--private-key", err, faults);
    else
        faults_add(faults, "--private-key", "%s (%s)", err_text(err.code), err_name(err.code));
}

err_t uploaded_pem(struct bytes certs, struct bytes key, const char *password,
                   struct faults *faults, struct uploaded *out)
{
    BORING_SCOPE;
    const struct uploaded_judge judge = {"--chain", faults, 0};
    CLEANUP(pem_fini) struct pem pem = {0};
    size_t before = faults->total;

    *out = (struct uploaded){.num = 0};
    if (uploaded_parse_pem(&judge, certs, &pem))
        uploaded_add_pem(out, "--chain", &pem, faults);
    uploaded_read_key(key, password, faults, out);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

static void uploaded_take_pkcs12(STACK_OF(X509) * certs, struct faults *faults,
                                 struct uploaded *out)
{
    for (size_t i = 0; i < sk_X509_num(certs) && out->num <= UPLOADED_CERTS_MAX; i++) {
        CLEANUP(boring_bytes_freep) uint8_t *der = NULL;
        int len = i2d_X509(sk_X509_value(certs, i), &der);

        CHECK(len > 0); /* it was parsed from DER */
        uploaded_add(out, "--pkcs12", bytes_of(der, (size_t)len), faults);
    }
    if (out->num == 0)
        faults_add(faults, "--pkcs12", "has no certificate");
    if (out->key == NULL)
        faults_add(faults, "--pkcs12", "has no private key");
}

err_t uploaded_pkcs12(struct bytes file, const char *password, struct faults *faults,
                      struct uploaded *out)
{
    BORING_SCOPE;
    CLEANUP(boring_x509s_freep) STACK_OF(X509) *certs = sk_X509_new_null();
    size_t before = faults->total;
    CBS cbs;

    *out = (struct uploaded){.num = 0};
    CHECK(certs != NULL);
    CBS_init(&cbs, file.ptr, file.len);
    if (file.len > UPLOADED_BYTES_MAX)
        faults_add(faults, "--pkcs12", "is larger than %zu bytes", UPLOADED_BYTES_MAX);
    else if (!derivation_pkcs12_bounded(file, DERIVATION_ROUNDS_MAX))
        faults_add(faults, "--pkcs12",
                   "is no PKCS#12 with a MAC by a password, or one that wants more than %d rounds "
                   "of key derivation, or more than %d derivations",
                   DERIVATION_ROUNDS_MAX, DERIVATION_NUM_MAX);
    else if (!PKCS12_get_key_and_certs(&out->key, certs, &cbs, password != NULL ? password : ""))
        faults_add(faults,
                   ERR_GET_REASON(ERR_peek_error()) == PKCS8_R_INCORRECT_PASSWORD
                       ? "--password-file"
                       : "--pkcs12",
                   "cannot be opened: %s",
                   ERR_GET_REASON(ERR_peek_error()) == PKCS8_R_INCORRECT_PASSWORD
                       ? "the password is another one"
                       : "it is broken, or of a kind that is not known");
    else
        uploaded_take_pkcs12(certs, faults, out);
    if (out->key != NULL && !err_is_ok(key_check_strength(out->key)))
        uploaded_weak_key("--pkcs12", key_check_strength(out->key), faults);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

/* --- judging --- */

static void uploaded_check_leaf(const struct uploaded_judge *judge, X509 *leaf)
{
    CLEANUP(cert_names_fini) struct cert_names names = {0};
    err_t err = cert_check_leaf(leaf);

    if (!err_is_ok(err))
        uploaded_cert_fault(judge, 1, leaf, err,
                            err_is(err, E_CHAIN_INVALID)
                                ? "is a CA's: a keystore has the certificate of an end"
                                : "KeyUsage: digitalSignature is wanted, and no keyCertSign");
    if (!cert_has_eku(leaf, XKU_SSL_SERVER) && !cert_has_eku(leaf, XKU_SSL_CLIENT))
        uploaded_cert_fault(judge, 1, leaf, FAIL(CERT_USAGE, 0),
                            "ExtendedKeyUsage: serverAuth, clientAuth or both are wanted");
    err = cert_names_get(leaf, &names);
    if (!err_is_ok(err))
        uploaded_cert_fault(judge, 1, leaf, err,
                            err_is(err, E_SAN_NONE)
                                ? "has no DNS name (subjectAltName): peers know it by that"
                                : "subjectAltName: DNS names are wanted, without a wildcard");
    else if (names.uri[0] != '\0')
        uploaded_cert_fault(judge, 1, leaf, FAIL(TRUST_DOMAIN, 0),
                            "has a SPIFFE ID, and such certificates the mesh issues itself: "
                            "peers know an uploaded one by its DNS names");
}

/* Every certificate by itself. */
static void uploaded_check_all(const struct uploaded_judge *judge, const struct uploaded *uploaded)
{
    for (size_t i = 0; i < uploaded->num; i++) {
        CLEANUP(boring_x509_freep)
        X509 *cert = uploaded_parse_cert(judge, i + 1,
                                         bytes_of(CRYPTO_BUFFER_data(uploaded->certs[i]),
                                                  CRYPTO_BUFFER_len(uploaded->certs[i])));

        if (cert != NULL)
            uploaded_check_cert(judge, i + 1, cert);
    }
}

/* The certificate of the key; NULL: there is none, told. */
static X509 *uploaded_leaf(const struct uploaded *uploaded, struct faults *faults)
{
    CLEANUP(mem_freep) char *subject = NULL;

    for (size_t i = 0; i < uploaded->num; i++) {
        CLEANUP(boring_x509_freep) X509 *cert = NULL;

        if (!err_is_ok(cert_parse(uploaded->certs[i], &cert)))
            continue;
        if (X509_check_private_key(cert, uploaded->key)) {
            X509_up_ref(cert);
            return cert;
        }
        if (subject == NULL)
            subject = cert_subject(cert);
    }
    faults_add(faults, "key", "belongs to none of the %zu certificates, as to \"%s\" (%s)",
               uploaded->num, subject != NULL ? subject : "", err_name(E_SVID_KEY_MISMATCH));
    return NULL;
}

static void uploaded_order(const struct uploaded *uploaded, int64_t now_s, struct faults *faults,
                           struct svid **out)
{
    struct bytes ders[UPLOADED_CERTS_MAX];
    err_t err;

    for (size_t i = 0; i < uploaded->num; i++)
        ders[i] =
            bytes_of(CRYPTO_BUFFER_data(uploaded->certs[i]), CRYPTO_BUFFER_len(uploaded->certs[i]));
    err = svid_of_der(ders, uploaded->num, uploaded->key, NULL, now_s, out);
    if (err_is(err, E_CHAIN_INVALID))
        faults_add(faults, "chain",
                   "has a certificate that belongs to no chain from that of the key: each one's "
                   "issuer, and nothing else (%s)",
                   err_name(err.code));
    else if (err_is(err, E_CHAIN_TOO_LONG))
        faults_add(faults, "chain", "is longer than %d certificates (%s)", SVID_CHAIN_MAX,
                   err_name(err.code));
    else if (!err_is_ok(err))
        faults_add(faults, "chain", "%s (%s)", err_text(err.code), err_name(err.code));
}

err_t uploaded_keystore(const struct uploaded *uploaded, int64_t now_s, struct faults *faults,
                        struct svid **out)
{
    BORING_SCOPE;
    const struct uploaded_judge judge = {"chain", faults, now_s};
    CLEANUP(boring_x509_freep) X509 *leaf = NULL;
    size_t before = faults->total;

    if (uploaded->num == 0)
        faults_add(faults, "chain", "has no certificate");
    if (uploaded->key == NULL)
        faults_add(faults, "key", "is missing");
    if (faults->total == before) {
        uploaded_check_all(&judge, uploaded);
        leaf = uploaded_leaf(uploaded, faults);
    }
    if (leaf != NULL)
        uploaded_check_leaf(&judge, leaf);
    if (faults->total == before)
        uploaded_order(uploaded, now_s, faults, out);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}

/* Each certificate was issued by the next. */
static void uploaded_check_links(const struct uploaded_judge *judge,
                                 const struct uploaded *uploaded)
{
    for (size_t i = 0; i + 1 < uploaded->num; i++) {
        CLEANUP(boring_x509_freep) X509 *cert = NULL, *issuer = NULL;

        if (err_is_ok(cert_parse(uploaded->certs[i], &cert)) &&
            err_is_ok(cert_parse(uploaded->certs[i + 1], &issuer)) &&
            X509_check_issued(issuer, cert) != X509_V_OK)
            uploaded_cert_fault(judge, i + 1, cert,
                                FAIL(CHAIN_INVALID, X509_V_ERR_SUBJECT_ISSUER_MISMATCH),
                                "the one that follows is not its issuer's");
    }
}

err_t uploaded_chain(struct bytes text, int64_t now_s, struct fault_path *path,
                     struct faults *faults, struct uploaded *out)
{
    BORING_SCOPE;
    const struct uploaded_judge judge = {path->text, faults, now_s};
    struct uploaded chain = {.num = 0};
    CLEANUP(pem_fini) struct pem pem = {0};
    CLEANUP(boring_x509_freep) X509 *leaf = NULL;
    size_t before = faults->total;

    if (uploaded_parse_pem(&judge, text, &pem))
        uploaded_add_pem(&chain, path->text, &pem, faults);
    for (size_t i = 0; i < pem.num; i++) {
        if (uploaded_is_key(&pem.blocks[i]))
            faults_add(faults, path->text,
                       "has a private key, which no document may: mortisectl import keystore");
    }
    if (faults->total == before)
        uploaded_check_all(&judge, &chain);
    if (chain.num > 0 && err_is_ok(cert_parse(chain.certs[0], &leaf))) {
        uploaded_check_leaf(&judge, leaf);
        uploaded_check_links(&judge, &chain);
    }
    if (out != NULL)
        *out = chain;
    else
        uploaded_fini(&chain);
    return faults->total == before ? OK : FAIL(CONFIG_INVALID, faults->total - before);
}
