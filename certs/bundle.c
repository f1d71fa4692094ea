#include "certs/bundle.h"

#include <stdlib.h>

#include <openssl/sha.h>

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/pem.h"

/* A certificate on its way into a bundle. */
struct bundle_item {
    X509 *cert;   /* owned */
    bool outside; /* vouches for names alone */
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

static err_t bundle_add(struct bundle_items *list, struct bytes der, bool outside)
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
    item->outside = outside;
    cert = NULL;
    return OK;
}

static err_t bundle_add_pem(struct bundle_items *list, struct bytes text, bool outside)
{
    CLEANUP(pem_fini) struct pem pem = {0};

    TRY(pem_parse(text, &pem));
    for (size_t i = 0; i < pem.num; i++) {
        if (pem_is(&pem.blocks[i], "CERTIFICATE"))
            TRY(bundle_add(list, bytes_of(pem.blocks[i].der, pem.blocks[i].der_len), outside));
    }
    return OK;
}

static int bundle_compare(const void *a, const void *b)
{
    return memcmp(((const struct bundle_item *)a)->sha256, ((const struct bundle_item *)b)->sha256,
                  SHA256_DIGEST_LENGTH);
}

static size_t bundle_num_outside(const struct bundle_items *list)
{
    size_t num = 0;

    for (size_t i = 0; i < list->num; i++)
        num += list->items[i].outside;
    return num;
}

/* bundle_hash is over lengths too, so that no trust domain can run into the certificates, and over
 * which of them are outside: verdicts are remembered under it. */
static void bundle_hash(const struct bundle_items *list, const char *trust_domain, uint8_t out[32])
{
    size_t num_outside = bundle_num_outside(list);
    SHA256_CTX sha;
    uint8_t len[8];

    SHA256_Init(&sha);
    put_be64(len, strlen(trust_domain));
    SHA256_Update(&sha, len, sizeof len);
    SHA256_Update(&sha, trust_domain, strlen(trust_domain));
    for (size_t i = 0; i < list->num; i++) {
        if (!list->items[i].outside)
            SHA256_Update(&sha, list->items[i].sha256, SHA256_DIGEST_LENGTH);
    }
    put_be64(len, num_outside);
    if (num_outside > 0)
        SHA256_Update(&sha, len, sizeof len);
    for (size_t i = 0; i < list->num; i++) {
        if (list->items[i].outside)
            SHA256_Update(&sha, list->items[i].sha256, SHA256_DIGEST_LENGTH);
    }
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
    if (bundle_num_outside(list) > 0)
        bundle->outside = mem_array(list->num, sizeof *bundle->outside);
    for (size_t i = 0; i < list->num; i++) {
        bundle->certs[i] = list->items[i].cert;
        memcpy(bundle->sha256[i], list->items[i].sha256, SHA256_DIGEST_LENGTH);
        if (bundle->outside != NULL)
            bundle->outside[i] = list->items[i].outside;
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
        TRY(bundle_add(&list, certs[i], false));
    return bundle_new(&list, trust_domain, out);
}

err_t bundle_of_pem(struct bytes text, const char *trust_domain, struct bundle **out)
{
    BORING_SCOPE;
    CLEANUP(bundle_items_fini) struct bundle_items list = {.num = 0};

    TRY(bundle_add_pem(&list, text, false));
    return bundle_new(&list, trust_domain, out);
}

err_t bundle_of_both(const struct bundle *inside, struct bytes outside_pem, struct bundle **out)
{
    BORING_SCOPE;
    CLEANUP(bundle_items_fini) struct bundle_items list = {.num = 0};

    for (size_t i = 0; inside != NULL && i < inside->num; i++) {
        CLEANUP(boring_buffer_freep) CRYPTO_BUFFER *der = NULL;

        TRY(cert_der(inside->certs[i], &der));
        TRY(bundle_add(&list, bytes_of(CRYPTO_BUFFER_data(der), CRYPTO_BUFFER_len(der)), false));
    }
    TRY(bundle_add_pem(&list, outside_pem, true));
    return bundle_new(&list, inside != NULL ? inside->trust_domain : NULL, out);
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

bool bundle_is_outside(const struct bundle *bundle, const uint8_t sha256[32])
{
    const uint8_t(*at)[32] =
        bsearch(sha256, bundle->sha256, bundle->num, sizeof *bundle->sha256, bundle_compare_sha256);

    return at != NULL && bundle->outside != NULL && bundle->outside[at - bundle->sha256];
}

bool bundle_has_inside(const struct bundle *bundle)
{
    size_t at = 0;

    if (bundle->outside == NULL)
        return true;
    while (at < bundle->num && bundle->outside[at])
        at++;
    return at < bundle->num;
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
    mem_free(bundle->outside);
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
