#include "certs/bundle.h"

#include <stdlib.h>

#include <openssl/sha.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/pem.h"

/* A certificate on its way into a bundle. */
struct bundle_item {
    X509 *cert; /* owned */
    uint8_t sha256[SHA256_DIGEST_LENGTH];
};

struct bundle_items {
    struct bundle_item items[BUNDLE_CERTS_MAX];
    size_t num;
};

static void bundle_items_fini(struct bundle_items *list)
{
    for (size_t i = 0; i < list->num; i++)
        X509_free(list->items[i].cert);
}

static bool bundle_items_has(const struct bundle_items *list, const uint8_t *sha256)
{
    for (size_t i = 0; i < list->num; i++) {
        if (memcmp(list->items[i].sha256, sha256, SHA256_DIGEST_LENGTH) == 0)
            return true;
    }
    return false;
}

static err_t bundle_add(struct bundle_items *list, struct bytes der)
{
    uint8_t sha256[SHA256_DIGEST_LENGTH];

    SHA256(der.ptr, der.len, sha256);
    if (bundle_items_has(list, sha256))
        return OK;
    if (list->num == BUNDLE_CERTS_MAX)
        return FAIL(TOO_LARGE, BUNDLE_CERTS_MAX);
    CLEANUP(boring_x509_freep) X509 *cert = NULL;
    TRY(cert_parse_bytes(der, &cert));
    TRY(cert_check_ca(cert));
    TRY(cert_check_key(cert));

    struct bundle_item *item = &list->items[list->num++];
    memcpy(item->sha256, sha256, sizeof sha256);
    item->cert = cert;
    cert = NULL;
    return OK;
}

static int bundle_compare(const void *a, const void *b)
{
    return memcmp(((const struct bundle_item *)a)->sha256, ((const struct bundle_item *)b)->sha256,
                  SHA256_DIGEST_LENGTH);
}

/* bundle_hash is over lengths too, so that no trust domain can run into the certificates. */
static void bundle_hash(const struct bundle_items *list, const char *trust_domain, uint8_t out[32])
{
    SHA256_CTX sha;
    uint8_t len[8];

    SHA256_Init(&sha);
    put_be64(len, strlen(trust_domain));
    SHA256_Update(&sha, len, sizeof len);
    SHA256_Update(&sha, trust_domain, strlen(trust_domain));
    for (size_t i = 0; i < list->num; i++)
        SHA256_Update(&sha, list->items[i].sha256, SHA256_DIGEST_LENGTH);
    SHA256_Final(out, &sha);
}

static err_t bundle_new(struct bundle_items *list, const char *trust_domain, struct bundle **out)
{
    CLEANUP(boring_store_freep) X509_STORE *store = X509_STORE_new();
    int64_t earliest = INT64_MAX;

    if (list->num == 0)
        return FAIL(BUNDLE_EMPTY, 0);
    if (store == NULL)
        return FAIL(NO_MEMORY, 0);
    for (size_t i = 0; i < list->num; i++) {
        int64_t before = 0;
        int64_t after = 0;
        TRY(cert_times(list->items[i].cert, &before, &after));
        if (after < earliest)
            earliest = after;
        if (!X509_STORE_add_cert(store, list->items[i].cert))
            return FAIL(NO_MEMORY, 0);
    }
    qsort(list->items, list->num, sizeof list->items[0], bundle_compare);

    struct bundle *bundle = mem_zalloc(sizeof *bundle);
    refs_init(&bundle->refs);
    bundle->num = list->num;
    bundle->certs = mem_array(list->num, sizeof(X509 *));
    bundle->sha256 = mem_array(list->num, sizeof *bundle->sha256);
    for (size_t i = 0; i < list->num; i++) {
        bundle->certs[i] = list->items[i].cert;
        memcpy(bundle->sha256[i], list->items[i].sha256, SHA256_DIGEST_LENGTH);
    }
    bundle->trust_domain = mem_strdup(trust_domain != NULL ? trust_domain : "");
    bundle_hash(list, bundle->trust_domain, bundle->hash);
    bundle->not_after = earliest;
    bundle->store = store;
    store = NULL;
    list->num = 0; /* the bundle's now */
    *out = bundle;
    return OK;
}

err_t bundle_of_der(const struct bytes *certs, size_t num, const char *trust_domain,
                    struct bundle **out)
{
    BORING_SCOPE;
    CLEANUP(bundle_items_fini) struct bundle_items list = {.num = 0};

    for (size_t i = 0; i < num; i++)
        TRY(bundle_add(&list, certs[i]));
    return bundle_new(&list, trust_domain, out);
}

err_t bundle_of_pem(struct bytes text, const char *trust_domain, struct bundle **out)
{
    BORING_SCOPE;
    CLEANUP(bundle_items_fini) struct bundle_items list = {.num = 0};
    CLEANUP(pem_fini) struct pem pem = {0};

    TRY(pem_parse(text, &pem));
    for (size_t i = 0; i < pem.num; i++) {
        if (pem_is(&pem.blocks[i], "CERTIFICATE"))
            TRY(bundle_add(&list, bytes_of(pem.blocks[i].der, pem.blocks[i].der_len)));
    }
    return bundle_new(&list, trust_domain, out);
}

static int bundle_compare_sha256(const void *a, const void *b)
{
    return memcmp(a, b, SHA256_DIGEST_LENGTH);
}

bool bundle_has(const struct bundle *bundle, const uint8_t sha256[32])
{
    return bsearch(sha256, bundle->sha256, bundle->num, sizeof *bundle->sha256,
                   bundle_compare_sha256) != NULL;
}

struct bundle *bundle_ref(struct bundle *bundle)
{
    refs_take(&bundle->refs);
    return bundle;
}

void bundle_unref(struct bundle *bundle)
{
    if (bundle == NULL || !refs_drop(&bundle->refs))
        return;
    for (size_t i = 0; i < bundle->num; i++)
        X509_free(bundle->certs[i]);
    mem_free(bundle->certs);
    mem_free(bundle->sha256);
    X509_STORE_free(bundle->store);
    mem_free(bundle->trust_domain);
    mem_free(bundle);
}

err_t bundle_write_pem(const struct bundle *bundle, struct buf *out)
{
    for (size_t i = 0; i < bundle->num; i++) {
        CLEANUP(boring_buffer_freep) CRYPTO_BUFFER *der = NULL;
        TRY(cert_der(bundle->certs[i], &der));
        TRY(pem_write("CERTIFICATE", bytes_of(CRYPTO_BUFFER_data(der), CRYPTO_BUFFER_len(der)),
                      out));
    }
    return OK;
}
