/* testca: certificates for tests: good ones, and any kind of bad one on request.
 *
 *   struct testca *root = testca_new(&(struct testca_params){.name = "root"});
 *   struct testca *leaf = testca_issue(root, &(struct testca_params){
 *       .uri_sans = TESTCA_LIST("spiffe://example.org/ns/a/sa/b")});
 *   ... leaf->key, leaf->cert, leaf->cert_pem ...
 *   testca_free(leaf);
 *   testca_free(root);
 *
 * Zeroed parameters mean an ordinary certificate: P-256, SHA-256, valid from an hour ago for a day,
 * a root with CA:true and keyCertSign, a leaf with CA:false, digitalSignature, serverAuth and
 * clientAuth. What cannot be made stops the test. */
#ifndef MORTISE_TEST_TESTLIB_TESTCA_H
#define MORTISE_TEST_TESTLIB_TESTCA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "lib/base/buf.h"

enum testca_key {
    TESTCA_P256,
    TESTCA_P384,
    TESTCA_P521,
    TESTCA_P224,
    TESTCA_RSA1024,
    TESTCA_RSA2048,
    TESTCA_RSA3072,
    TESTCA_ED25519,
};

enum testca_hash { TESTCA_SHA256, TESTCA_SHA384, TESTCA_SHA1 };

/* Extended key usages; 0 means server and client. */
enum { TESTCA_EKU_SERVER = 1, TESTCA_EKU_CLIENT = 2, TESTCA_EKU_EMAIL = 4, TESTCA_EKU_ANY = 8 };
#define TESTCA_EKU_NONE 0x100u /* no such extension */

/* Key usages are the bits of X509v3_KU_*; 0 means what fits. */
#define TESTCA_KU_NONE 0x10000u /* no such extension */

#define TESTCA_LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

struct testca_params {
    const char *name;            /* subject CN; NULL: none for a leaf with SANs, else "test" */
    const char *const *uri_sans; /* NULL-ended lists or NULL; written as they are */
    const char *const *dns_sans;
    const char *const *email_sans;
    const char *const *ip_sans; /* "10.0.0.1", "::1" */
    bool san_critical;
    int64_t not_before; /* Unix seconds; 0: an hour ago */
    int64_t not_after;  /* 0: in a day */
    enum testca_key key;
    EVP_PKEY *use_key;     /* shared instead of a new one; may be only a public key */
    enum testca_hash hash; /* ignored with an Ed25519 issuer */
    bool is_ca;
    bool no_basic_constraints;
    int path_len; /* n > 0: pathLenConstraint n - 1 */
    unsigned key_usage;
    unsigned eku;
    const char *permit_uri; /* name constraint: permitted URI host, e.g. "example.org" */
    const char *permit_dns;
    bool unknown_critical; /* an extension nobody knows, critical */
    bool bad_signature;    /* its last bit is turned */
    uint64_t serial;       /* 0: the next one */
    long version;          /* 0: v3; 1: v1 without extensions */
};

struct testca {
    X509 *cert;
    EVP_PKEY *key; /* NULL when use_key was given */
    uint8_t *der;
    size_t der_len;
    char *cert_pem;
    char *key_pem;               /* PKCS#8; NULL when use_key was given */
    char *chain_pem;             /* this and the intermediates above, without the root */
    const struct testca *issuer; /* NULL: self-signed */
};

/* testca_new makes a self-signed certificate, a CA unless `leaf` says otherwise. NULL: all
 * defaults. */
struct testca *testca_new(const struct testca_params *params);
struct testca *testca_new_self_signed_leaf(const struct testca_params *params);
/* testca_issue makes one signed by `issuer`, which must outlive it. */
struct testca *testca_issue(const struct testca *issuer, const struct testca_params *params);
void testca_free(struct testca *cert);

/* testca_chain fills out[] with the DER of this and the intermediates above (no root); returns how
 * many. */
size_t testca_chain(const struct testca *cert, struct bytes *out, size_t max);

static inline struct bytes testca_der(const struct testca *cert)
{
    return bytes_of(cert->der, cert->der_len);
}

#endif
