#include "certs/svid.h"

#include "certs/boring.h"
#include "certs/cert.h"
#include "certs/key.h"
#include "certs/pem.h"
#include "certs/spiffe_id.h"
#include "certs/verify.h"

/* Certificates on their way into a chain, in the order in which they came. */
struct svid_certs {
    X509 *certs[PEM_BLOCKS_MAX];        /* owned; NULL: taken, or left out as a duplicate */
    CRYPTO_BUFFER *der[PEM_BLOCKS_MAX]; /* owned */
    size_t num;
};

static void svid_certs_fini(struct svid_certs *list)
{
    for (size_t i = 0; i < list->num; i++) {
        X509_free(list->certs[i]);
        CRYPTO_BUFFER_free(list->der[i]);
    }
}

static err_t svid_certs_add(struct svid_certs *list, struct bytes der)
{
    if (list->num == ARRAY_LEN(list->certs))
        return FAIL(CHAIN_TOO_LONG, list->num);
    CLEANUP(boring_buffer_freep)
    CRYPTO_BUFFER *buffer = CRYPTO_BUFFER_new(der.ptr, der.len, cert_pool());
    if (buffer == NULL)
        return FAIL(NO_MEMORY, 0);
    for (size_t i = 0; i < list->num; i++) {
        if (list->der[i] == buffer) /* the pool keeps equal ones once */
            return OK;
    }
    CLEANUP(boring_x509_freep) X509 *cert = NULL;
    TRY(cert_parse(buffer, &cert));
    list->certs[list->num] = cert;
    list->der[list->num++] = buffer;
    cert = NULL;
    buffer = NULL;
    return OK;
}

/* svid_take moves one certificate to the end of the chain. */
static err_t svid_take(struct svid *svid, struct svid_certs *list, size_t at, X509 **out)
{
    if (svid->num_chain == SVID_CHAIN_MAX)
        return FAIL(CHAIN_TOO_LONG, list->num);
    svid->chain[svid->num_chain++] = list->der[at];
    *out = list->certs[at]; /* the caller's now */
    list->der[at] = NULL;
    list->certs[at] = NULL;
    return OK;
}

static bool svid_is_self_signed(X509 *cert)
{
    return X509_check_issued(cert, cert) == X509_V_OK;
}

/* svid_find_issuer returns the index of the certificate that issued `cert`, or the number of all.
 */
static size_t svid_find_issuer(const struct svid_certs *list, X509 *cert)
{
    for (size_t i = 0; i < list->num; i++) {
        if (list->certs[i] != NULL && X509_check_issued(list->certs[i], cert) == X509_V_OK)
            return i;
    }
    return list->num;
}

/* svid_order makes the chain: the certificate of the key, then each one's issuer. A self-signed
 * root above the leaf is left out: peers have it, or it would not help. What then remains belongs
 * to no chain and is told, not sent. */
static err_t svid_order(struct svid *svid, struct svid_certs *list, EVP_PKEY *key, X509 **out_leaf)
{
    size_t at = 0;

    while (at < list->num && !X509_check_private_key(list->certs[at], key))
        at++;
    if (at == list->num)
        return FAIL(SVID_KEY_MISMATCH, 0);
    TRY(svid_take(svid, list, at, out_leaf));

    CLEANUP(boring_x509_freep) X509 *last = *out_leaf;
    X509_up_ref(last);
    while ((at = svid_find_issuer(list, last)) < list->num &&
           !svid_is_self_signed(list->certs[at])) {
        X509_free(last);
        last = NULL;
        TRY(svid_take(svid, list, at, &last));
    }
    for (size_t i = 0; i < list->num; i++) {
        if (list->certs[i] != NULL && !svid_is_self_signed(list->certs[i]))
            return FAIL(CHAIN_INVALID, X509_V_ERR_SUBJECT_ISSUER_MISMATCH);
    }
    return OK;
}

/* svid_check_alone judges what can be judged without roots: dates and strength of all, and the
 * shape of the leaf. */
static err_t svid_check_alone(struct svid *svid, X509 *leaf, int64_t now_s)
{
    CLEANUP(cert_names_fini) struct cert_names names = {0};
    struct spiffe_id id;
    int64_t not_after = 0;

    TRY(cert_times(leaf, &svid->not_before, &svid->not_after));
    for (size_t i = 0; i < svid->num_chain; i++) {
        CLEANUP(boring_x509_freep) X509 *cert = NULL;
        int64_t not_before = 0;

        TRY(cert_parse(svid->chain[i], &cert));
        TRY(cert_check_key(cert));
        TRY(cert_check_signature(cert));
        TRY(cert_check_serial(cert));
        TRY(cert_check_time(cert, now_s));
        TRY(cert_times(cert, &not_before, &not_after));
        if (not_after < svid->not_after)
            svid->not_after = not_after;
    }
    TRY(cert_check_leaf(leaf));
    TRY(cert_names_get(leaf, &names));
    if (names.uri[0] != '\0') {
        TRY(spiffe_id_parse(bytes_of_str(names.uri), &id));
        if (id.path.len == 0)
            return FAIL(SAN_SYNTAX, id.text.len);
        /* An identity of the mesh connects and is connected to. */
        if (!cert_has_eku(leaf, XKU_SSL_SERVER | XKU_SSL_CLIENT))
            return FAIL(CERT_USAGE, 0);
    } else if (!cert_has_eku(leaf, XKU_SSL_SERVER) && !cert_has_eku(leaf, XKU_SSL_CLIENT)) {
        return FAIL(CERT_USAGE, 0);
    }
    TRY(cert_serial(leaf, &svid->serial));
    svid->spiffe_id = names.uri;
    names.uri = NULL;
    return OK;
}

/* svid_check_roots verifies as a peer would, in the role or roles that the leaf is for. */
static err_t svid_check_roots(struct svid *svid, X509 *leaf, const struct bundle *roots,
                              int64_t now_s)
{
    static const struct {
        enum verify_role role;
        uint32_t xku;
    } roles[] = {{VERIFY_SERVER_CERT, XKU_SSL_SERVER}, {VERIFY_CLIENT_CERT, XKU_SSL_CLIENT}};
    STACK_OF(CRYPTO_BUFFER) *chain = sk_CRYPTO_BUFFER_new_null();
    err_t err = OK;

    for (size_t i = 0; chain != NULL && i < svid->num_chain; i++) {
        if (!sk_CRYPTO_BUFFER_push(chain, svid->chain[i]))
            err = FAIL(NO_MEMORY, 0);
    }
    for (size_t i = 0; err_is_ok(err) && i < ARRAY_LEN(roles); i++) {
        struct peer *peer = NULL;

        if (!cert_has_eku(leaf, roles[i].xku))
            continue;
        err = verify_chain(chain, roots, roles[i].role, now_s, NULL, &peer);
        if (err_is_ok(err) && peer->not_after < svid->not_after)
            svid->not_after = peer->not_after; /* the root ends earlier */
        peer_unref(peer);
    }
    sk_CRYPTO_BUFFER_free(chain);
    return err;
}

static err_t svid_make(struct svid_certs *list, EVP_PKEY *key, const struct bundle *roots,
                       int64_t now_s, struct svid **out)
{
    CLEANUP(svid_unrefp) struct svid *svid = mem_zalloc(sizeof *svid);
    CLEANUP(boring_x509_freep) X509 *leaf = NULL;

    refs_init(&svid->refs);
    if (list->num == 0)
        return FAIL(PEM_EMPTY, 0);
    TRY(key_check_strength(key));
    TRY(svid_order(svid, list, key, &leaf));
    TRY(svid_check_alone(svid, leaf, now_s));
    if (roots != NULL)
        TRY(svid_check_roots(svid, leaf, roots, now_s));
    EVP_PKEY_up_ref(key);
    svid->key = key;

    *out = svid;
    svid = NULL;
    return OK;
}

err_t svid_of_der(const struct bytes *certs, size_t num, EVP_PKEY *key, const struct bundle *roots,
                  int64_t now_s, struct svid **out)
{
    BORING_SCOPE;
    CLEANUP(svid_certs_fini) struct svid_certs list = {.num = 0};

    for (size_t i = 0; i < num; i++)
        TRY(svid_certs_add(&list, certs[i]));
    return svid_make(&list, key, roots, now_s, out);
}

err_t svid_of_pem(struct bytes cert_pem, struct bytes key_pem, const struct bundle *roots,
                  int64_t now_s, struct svid **out)
{
    BORING_SCOPE;
    CLEANUP(svid_certs_fini) struct svid_certs list = {.num = 0};
    CLEANUP(pem_fini) struct pem pem = {0};
    CLEANUP(boring_key_freep) EVP_PKEY *key = NULL;

    TRY(pem_parse(cert_pem, &pem));
    for (size_t i = 0; i < pem.num; i++) {
        if (pem_is(&pem.blocks[i], "CERTIFICATE"))
            TRY(svid_certs_add(&list, bytes_of(pem.blocks[i].der, pem.blocks[i].der_len)));
    }
    if (list.num == 0)
        return FAIL(PEM_EMPTY, 0);
    TRY(key_parse(key_pem, &key));
    return svid_make(&list, key, roots, now_s, out);
}

struct svid *svid_ref(struct svid *svid)
{
    refs_take(&svid->refs);
    return svid;
}

void svid_unref(struct svid *svid)
{
    if (svid == NULL || !refs_drop(&svid->refs))
        return;
    for (size_t i = 0; i < svid->num_chain; i++)
        CRYPTO_BUFFER_free(svid->chain[i]);
    EVP_PKEY_free(svid->key);
    mem_free(svid->spiffe_id);
    mem_free(svid->serial);
    mem_free(svid);
}

err_t svid_write_pem(const struct svid *svid, struct buf *out)
{
    for (size_t i = 0; i < svid->num_chain; i++)
        TRY(pem_write(
            "CERTIFICATE",
            bytes_of(CRYPTO_BUFFER_data(svid->chain[i]), CRYPTO_BUFFER_len(svid->chain[i])), out));
    return OK;
}
