/* Memory that is refused while something is signed, or a key made, read or written: every
 * allocation of BoringSSL fails once, the first, the second, ... until one comes through in which
 * all of them succeed. Without it: a certificate that lacks its name constraints because one of
 * them could not be allocated, a caller that goes on with half of one, or a control plane that
 * loses a little memory whenever it has none.
 *
 * Drives: R68, R35, R41 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/mem.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/csr.h"
#include "certs/issue.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "test/unit/certs/certgen.h"
#include "test/unit/certs/pki.h"

#define ID "spiffe://" PKI_DOMAIN "/ns/a/sa/b"
#define DAY INT64_C(86400)
#define WALK_MAX 5000 /* no call allocates that often: the walk has an end */

static struct {
    unsigned left; /* until the one that fails; 0: none */
    bool failed;
    long blocks; /* that are not freed */
} memory;

/* ---- BoringSSL's hooks: weak symbols of no header. The size stands before the block. ---- */

void *OPENSSL_memory_alloc(size_t size);
void OPENSSL_memory_free(void *ptr);
size_t OPENSSL_memory_get_size(void *ptr);

#define SIZE_ROOM 16

void *OPENSSL_memory_alloc(size_t size)
{
    uint8_t *block;

    if (memory.left > 0 && --memory.left == 0) {
        memory.failed = true;
        return NULL;
    }
    block = malloc(SIZE_ROOM + size);
    if (block == NULL)
        return NULL;
    memcpy(block, &size, sizeof(size));
    memory.blocks++;
    return block + SIZE_ROOM;
}

size_t OPENSSL_memory_get_size(void *ptr)
{
    size_t size;

    memcpy(&size, (uint8_t *)ptr - SIZE_ROOM, sizeof(size));
    return size;
}

void OPENSSL_memory_free(void *ptr)
{
    mem_wipe(ptr, OPENSSL_memory_get_size(ptr));
    memory.blocks--;
    free((uint8_t *)ptr - SIZE_ROOM);
}

/* ---- the calls ---- */

static struct {
    struct pki pki;
    struct issuer other; /* another root, whose certificate says nothing of its key's name */
    EVP_PKEY *key;
    struct buf pkcs8, sec1, pkcs1; /* PEM */
} world;

/* What a call makes: one of these. */
struct made {
    struct issued issued;
    struct buf der;
    EVP_PKEY *key;
};

static err_t make_root(struct made *out)
{
    return issue_root(PKI_DOMAIN, world.key, PKI_NOW, DAY, &out->issued);
}

static err_t make_intermediate(struct made *out)
{
    return issue_intermediate(&world.pki.root, PKI_DOMAIN, world.key, PKI_NOW, DAY, &out->issued);
}

static err_t make_cross(struct made *out)
{
    return issue_cross(&world.pki.root, world.other.cert, PKI_DOMAIN, PKI_NOW, &out->issued);
}

static err_t leaf_of(const struct issuer *issuer, struct made *out)
{
    static const char *const names[] = {"a.example.org", "b.example.org", NULL};

    return issue_leaf(issuer,
                      &(struct issue_leaf){.spiffe_id = ID,
                                           .dns_names = names,
                                           .public_key = world.key,
                                           .now_s = PKI_NOW,
                                           .ttl_s = DAY},
                      &out->issued);
}

static err_t make_leaf(struct made *out)
{
    return leaf_of(&world.pki.intermediate, out);
}

static err_t make_leaf_of_a_nameless_key(struct made *out)
{
    return leaf_of(&world.other, out);
}

static err_t make_list(struct made *out)
{
    static const struct issue_crl_entry entries[] = {{.serial = "7f01", .revoked_at = PKI_NOW},
                                                     {.serial = "02", .revoked_at = PKI_NOW}};

    return issue_crl(&world.pki.intermediate,
                     &(struct issue_crl){.entries = entries,
                                         .num = ARRAY_LEN(entries),
                                         .number = 7,
                                         .now_s = PKI_NOW,
                                         .ttl_s = DAY},
                     &out->der);
}

static err_t make_ca_request(struct made *out)
{
    return issue_request(PKI_DOMAIN, world.key, &out->der);
}

static err_t make_request(struct made *out)
{
    return csr_build(world.key, ID, &out->der);
}

static err_t make_key(struct made *out)
{
    return key_generate(&out->key);
}

static err_t make_ca_key(struct made *out)
{
    return key_generate_p384(&out->key);
}

static err_t read_pkcs8(struct made *out)
{
    return key_parse(buf_view(&world.pkcs8), &out->key);
}

static err_t read_sec1(struct made *out)
{
    return key_parse(buf_view(&world.sec1), &out->key);
}

static err_t read_pkcs1(struct made *out)
{
    return key_parse(buf_view(&world.pkcs1), &out->key);
}

static err_t write_key(struct made *out)
{
    return key_write_pem(world.key, &out->der);
}

static err_t hash_key(struct made *out)
{
    uint8_t sha256[32];

    TRY(key_spki_sha256(world.key, sha256));
    return buf_add(&out->der, sha256, sizeof(sha256));
}

/* ---- the walk ---- */

/* Whether it made what it makes with all the memory that it wants. */
static bool is_whole(const struct made *made, const struct made *good)
{
    if (good->key != NULL)
        return made->key != NULL && EVP_PKEY_bits(made->key) == EVP_PKEY_bits(good->key);
    if (good->issued.der == NULL)
        return made->der.len > 0;
    /* Serial number and signature differ, and by a byte or three of length. */
    CLEANUP(boring_x509_freep) X509 *a = pki_x509(bytes_of(made->issued.der, made->issued.der_len));
    CLEANUP(boring_x509_freep) X509 *b = pki_x509(bytes_of(good->issued.der, good->issued.der_len));
    int num = X509_get_ext_count(b);

    if (X509_get_ext_count(a) != num)
        return false;
    for (int i = 0; i < num; i++) {
        if (ASN1_OCTET_STRING_cmp(X509_EXTENSION_get_data(X509_get_ext(a, i)),
                                  X509_EXTENSION_get_data(X509_get_ext(b, i))) != 0)
            return false;
    }
    return X509_NAME_cmp(X509_get_subject_name(a), X509_get_subject_name(b)) == 0;
}

static void made_fini(struct made *made)
{
    issued_fini(&made->issued);
    buf_wipe_fini(&made->der);
    EVP_PKEY_free(made->key);
    *made = (struct made){.key = NULL};
}

static void walk(const char *what, err_t (*make)(struct made *out))
{
    struct made good = {.key = NULL};
    unsigned at = 0, survived = 0;

    assert_true(err_is_ok(make(&good))); /* what is made once for the process is made now */
    do {
        struct made made = {.key = NULL};
        long before = memory.blocks;
        err_t err;

        assert_true(++at < WALK_MAX);
        memory.failed = false;
        memory.left = at;
        err = make(&made);
        memory.left = 0;
        assert_int_equal(ERR_peek_error(), 0);
        if (err_is_ok(err)) {
            survived += memory.failed;
            if (!is_whole(&made, &good))
                fail_msg("%s: half of it, after allocation %u", what, at);
        } else {
            if (!memory.failed)
                fail_msg("%s: %s", what, err_name(err.code));
            if (made.issued.der != NULL || made.der.len > 0 || made.key != NULL)
                fail_msg("%s: an error and a result, after allocation %u", what, at);
        }
        made_fini(&made);
        if (memory.blocks != before)
            fail_msg("%s: %ld blocks lost, after allocation %u", what, memory.blocks - before, at);
    } while (memory.failed);
    print_message("%s: %u allocations, %u of them not needed\n", what, at - 1, survived);
    assert_true(at > 1);
    made_fini(&good);
}

static void test_each_allocation_fails_once(void **state)
{
    static const struct {
        const char *what;
        err_t (*make)(struct made *out);
    } calls[] = {
        {"root", make_root},
        {"intermediate", make_intermediate},
        {"cross", make_cross},
        {"leaf", make_leaf},
        {"leaf of a nameless key", make_leaf_of_a_nameless_key},
        {"list", make_list},
        {"CA's request", make_ca_request},
        {"request", make_request},
        {"key", make_key},
        {"CA's key", make_ca_key},
        {"PKCS#8", read_pkcs8},
        {"SEC1", read_sec1},
        {"PKCS#1", read_pkcs1},
        {"key's PEM", write_key},
        {"key's hash", hash_key},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(calls); i++)
        walk(calls[i].what, calls[i].make);
}

/* ---- the world ---- */

/* A root as other tools make them: without subjectKeyIdentifier. */
static void make_other(void)
{
    struct issued root;
    X509 *cert;
    int at;

    assert_true(err_is_ok(key_generate_p384(&world.other.key)));
    assert_true(err_is_ok(issue_root(PKI_DOMAIN, world.other.key, PKI_NOW, DAY, &root)));
    cert = pki_x509(bytes_of(root.der, root.der_len));
    issued_fini(&root);
    at = X509_get_ext_by_NID(cert, NID_subject_key_identifier, -1);
    X509_EXTENSION_free(X509_delete_ext(cert, at));
    assert_true(X509_sign(cert, world.other.key, EVP_sha384()) > 0);
    world.other.cert = cert;
}

static void write_pem(const char *label, CBB *cbb, struct buf *out)
{
    uint8_t *der;
    size_t len;

    assert_true(CBB_finish(cbb, &der, &len));
    assert_true(err_is_ok(pem_write(label, bytes_of(der, len), out)));
    OPENSSL_free(der);
}

static int setup(void **state)
{
    CBB cbb;

    (void)state;
    pki_init(&world.pki);
    assert_true(err_is_ok(key_generate(&world.key)));
    make_other();
    assert_true(err_is_ok(key_write_pem(world.key, &world.pkcs8)));
    assert_true(CBB_init(&cbb, 64) &&
                EC_KEY_marshal_private_key(&cbb, EVP_PKEY_get0_EC_KEY(world.key), 0));
    write_pem("EC PRIVATE KEY", &cbb, &world.sec1);
    assert_true(CBB_init(&cbb, 64) &&
                RSA_marshal_private_key(&cbb, EVP_PKEY_get0_RSA(certgen_key(CERTGEN_RSA2048))));
    write_pem("RSA PRIVATE KEY", &cbb, &world.pkcs1);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    EVP_PKEY_free(world.key);
    EVP_PKEY_free(world.other.key);
    X509_free(world.other.cert);
    buf_wipe_fini(&world.pkcs8);
    buf_wipe_fini(&world.sec1);
    buf_wipe_fini(&world.pkcs1);
    pki_fini(&world.pki);
    certgen_cleanup();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_allocation_fails_once),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
