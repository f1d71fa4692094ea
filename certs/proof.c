#include "certs/proof.h"

#include <openssl/sha.h>
#include <openssl/x509.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/key.h"
#include "lib/base/mem.h"

/* What is signed: text with its NUL, SHA-256 of the certificate, SHA-256 of the request. */
#define PROOF_TEXT "mortise-rejoin/1"
#define PROOF_LEN (sizeof(PROOF_TEXT) + 2 * SHA256_DIGEST_LENGTH)

static void proof_message(const uint8_t cert_sha256[32], struct bytes csr, uint8_t out[PROOF_LEN])
{
    memcpy(out, PROOF_TEXT, sizeof(PROOF_TEXT));
    memcpy(out + sizeof(PROOF_TEXT), cert_sha256, SHA256_DIGEST_LENGTH);
    SHA256(csr.ptr, csr.len, out + sizeof(PROOF_TEXT) + SHA256_DIGEST_LENGTH);
}

err_t proof_sign(EVP_PKEY *key, struct bytes certificate, struct bytes csr, struct buf *out)
{
    BORING_SCOPE;
    uint8_t sha256[SHA256_DIGEST_LENGTH], message[PROOF_LEN], *room = NULL;
    EVP_MD_CTX ctx;
    size_t len = PROOF_SIGNATURE_MAX;
    bool done;

    SHA256(certificate.ptr, certificate.len, sha256);
    proof_message(sha256, csr, message);
    TRY(buf_reserve(out, PROOF_SIGNATURE_MAX, &room));
    EVP_MD_CTX_init(&ctx);
    done = EVP_DigestSignInit(&ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
           EVP_DigestSign(&ctx, room, &len, message, sizeof(message)) == 1;
    EVP_MD_CTX_cleanup(&ctx);
    if (!done)
        return FAIL(KEY_SYNTAX, 0);
    buf_commit(out, len);
    return OK;
}

void proof_subject_fini(struct proof_subject *subject)
{
    mem_free(subject->serial);
    EVP_PKEY_free(subject->key);
    *subject = (struct proof_subject){.serial = NULL};
}

static err_t proof_read_cert(X509 *cert, struct proof_subject *out)
{
    TRY(cert_serial(cert, &out->serial));
    out->key = X509_get_pubkey(cert);
    if (out->key == NULL)
        return FAIL(CERT_SYNTAX, 0);
    TRY(key_check_strength(out->key));
    return key_spki_sha256(out->key, out->key_sha256);
}

err_t proof_read(struct bytes certificate, struct proof_subject *out)
{
    BORING_SCOPE;
    CLEANUP(proof_subject_fini) struct proof_subject subject = {.serial = NULL};
    X509 *cert = NULL;
    err_t err;

    if (certificate.len > PROOF_CERT_MAX)
        return FAIL(TOO_LARGE, PROOF_CERT_MAX);
    TRY(cert_parse_bytes(certificate, &cert));
    err = proof_read_cert(cert, &subject);
    X509_free(cert);
    TRY(err);
    SHA256(certificate.ptr, certificate.len, subject.sha256);
    *out = subject;
    subject = (struct proof_subject){.serial = NULL}; /* the caller's now */
    return OK;
}

err_t proof_check(const struct proof_subject *subject, struct bytes csr, struct bytes signature)
{
    BORING_SCOPE;
    uint8_t message[PROOF_LEN];
    EVP_MD_CTX ctx;
    bool done;

    if (signature.len == 0 || signature.len > PROOF_SIGNATURE_MAX)
        return FAIL(PROOF_INVALID, 0);
    proof_message(subject->sha256, csr, message);
    EVP_MD_CTX_init(&ctx);
    done = EVP_DigestVerifyInit(&ctx, NULL, EVP_sha256(), NULL, subject->key) == 1 &&
           EVP_DigestVerify(&ctx, signature.ptr, signature.len, message, sizeof(message)) == 1;
    EVP_MD_CTX_cleanup(&ctx);
    return done ? OK : FAIL(PROOF_INVALID, 0);
}
