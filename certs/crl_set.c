#include "certs/crl_set.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/sha.h>

#include "certs/boring.h"
#include "certs/key.h"
#include "certs/pem.h"

#define CRL_SET_LABEL "X509 CRL"

struct crl_set_maker {
    const struct bundle *bundle;
    int64_t now_s;
    const struct crl_set *before;
    struct crl *lists[CRL_SET_LISTS_MAX];
    size_t num;
};

static void crl_set_maker_fini(struct crl_set_maker *maker)
{
    for (size_t i = 0; i < maker->num; i++)
        crl_unref(maker->lists[i]);
}

static struct crl *crl_set_find(struct crl *const *lists, size_t num, const uint8_t sha256[32])
{
    for (size_t i = 0; i < num; i++) {
        if (memcmp(lists[i]->sha256, sha256, 32) == 0)
            return lists[i];
    }
    return NULL;
}

/* ---- making ---- */

bool crl_set_names(const struct crl *crl, X509 *ca)
{
    const uint8_t *name;
    size_t len;
    uint8_t sha256[32];

    if (!X509_NAME_get0_der(X509_get_subject_name(ca), &name, &len))
        return false;
    SHA256(name, len, sha256);
    return memcmp(sha256, crl->issuer_sha256, sizeof(sha256)) == 0;
}

static bool crl_set_signed_by(const struct crl *crl, X509 *ca)
{
    CLEANUP(boring_key_freep) EVP_PKEY *key = X509_get_pubkey(ca);
    uint8_t sha256[32];

    return (X509_get_key_usage(ca) & X509v3_KU_CRL_SIGN) != 0 && key != NULL &&
           err_is_ok(key_spki_sha256(key, sha256)) && crl_is_signed_by(crl, key, sha256);
}

static err_t crl_set_check_signature(const struct crl *crl, const struct bundle *bundle)
{
    bool named = false;

    for (size_t i = 0; i < bundle->num; i++) {
        if (!crl_set_names(crl, bundle->certs[i]))
            continue;
        if (crl_set_signed_by(crl, bundle->certs[i]))
            return OK;
        named = true;
    }
    return named ? FAIL(CRL_SIGNATURE, 0) : OK;
}

static int crl_set_seconds(int64_t s)
{
    return s < INT32_MAX ? (int)s : INT32_MAX;
}

/* What is only asked of a list that is new. */
static err_t crl_set_check_dates(const struct crl_set_maker *maker, const struct crl *crl)
{
    const struct crl_set *before = maker->before;

    if (crl->this_update > maker->now_s + CRL_SKEW_S)
        return FAIL(CRL_NOT_YET_VALID, crl_set_seconds(crl->this_update - maker->now_s));
    if (maker->now_s < crl->next_update)
        return OK;
    for (size_t i = 0; before != NULL && i < before->num; i++) {
        if (memcmp(before->lists[i]->issuer_sha256, crl->issuer_sha256, 32) == 0 &&
            maker->now_s < before->lists[i]->next_update)
            return FAIL(CRL_STALE, crl_set_seconds(maker->now_s - crl->next_update));
    }
    return OK;
}

static err_t crl_set_add(struct crl_set_maker *maker, struct bytes der)
{
    CLEANUP(crl_unrefp) struct crl *crl = NULL;
    uint8_t sha256[32];

    SHA256(der.ptr, der.len, sha256);
    if (crl_set_find(maker->lists, maker->num, sha256) != NULL)
        return OK;
    if (maker->num == CRL_SET_LISTS_MAX)
        return FAIL(LIMIT, CRL_SET_LISTS_MAX);
    if (maker->before != NULL)
        crl = crl_set_find(maker->before->lists, maker->before->num, sha256);
    if (crl != NULL) {
        crl_ref(crl);
    } else {
        TRY(crl_parse(der, &crl));
        TRY(crl_set_check_dates(maker, crl));
    }
    TRY(crl_set_check_signature(crl, maker->bundle)); /* remembered; the bundle may be another */
    maker->lists[maker->num++] = crl;
    crl = NULL;
    return OK;
}

static err_t crl_set_add_text(struct crl_set_maker *maker, struct bytes text)
{
    CLEANUP(pem_fini) struct pem pem = {.num = 0};
    size_t num = 0;

    if (text.len > 0 && text.ptr[0] == 0x30) /* a SEQUENCE: no PEM begins so */
        return crl_set_add(maker, text);
    TRY(pem_parse_within(text, CRL_SET_TEXT_MAX, &pem));
    for (size_t i = 0; i < pem.num; i++) {
        if (!pem_is(&pem.blocks[i], CRL_SET_LABEL))
            continue;
        TRY(crl_set_add(maker, bytes_of(pem.blocks[i].der, pem.blocks[i].der_len)));
        num++;
    }
    return num > 0 ? OK : FAIL(PEM_EMPTY, 0);
}

static int crl_set_compare(const void *a, const void *b)
{
    const struct crl *const *x = a;
    const struct crl *const *y = b;

    return memcmp((*x)->sha256, (*y)->sha256, sizeof((*x)->sha256));
}

static struct crl_set *crl_set_new(struct crl_set_maker *maker)
{
    struct crl_set *set = mem_zalloc(sizeof(*set));
    SHA256_CTX sha;

    refs_init(&set->refs);
    qsort(maker->lists, maker->num, sizeof(maker->lists[0]), crl_set_compare);
    set->num = maker->num;
    set->lists = mem_dup(maker->lists, maker->num * sizeof(maker->lists[0]));
    maker->num = 0; /* the set's now */
    SHA256_Init(&sha);
    for (size_t i = 0; i < set->num; i++)
        SHA256_Update(&sha, set->lists[i]->sha256, sizeof(set->lists[i]->sha256));
    SHA256_Final(set->hash, &sha);
    return set;
}

err_t crl_set_of(const struct bytes *texts, size_t num, const struct bundle *bundle, int64_t now_s,
                 const struct crl_set *before, struct crl_set **out, size_t *out_text)
{
    BORING_SCOPE;
    CLEANUP(crl_set_maker_fini)
    struct crl_set_maker maker = {.bundle = bundle, .now_s = now_s, .before = before};

    CHECK(num > 0);
    for (size_t i = 0; i < num; i++) {
        *out_text = i;
        TRY(crl_set_add_text(&maker, texts[i]));
    }
    *out = crl_set_new(&maker);
    return OK;
}

struct crl_set *crl_set_ref(struct crl_set *set)
{
    refs_take(&set->refs);
    return set;
}

void crl_set_unref(struct crl_set *set)
{
    if (set == NULL || !refs_drop(&set->refs))
        return;
    for (size_t i = 0; i < set->num; i++)
        crl_unref(set->lists[i]);
    mem_free(set->lists);
    mem_free(set);
}

/* ---- asking ---- */

static bool crl_set_digit(char c, uint8_t *out)
{
    *out = (uint8_t)(c >= 'a' ? c - 'a' + 10 : c - '0');
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

/* The peer's serial, which is in lower-case hex of whole bytes. */
static void crl_set_leaf_serial(const struct peer *peer, uint8_t out[CERT_SERIAL_MAX])
{
    size_t len = strlen(peer->serial) / 2;

    CHECK(len <= CERT_SERIAL_MAX);
    memset(out, 0, CERT_SERIAL_MAX);
    for (size_t i = 0; i < len; i++) {
        uint8_t high = 0, low = 0;

        CHECK(crl_set_digit(peer->serial[2 * i], &high) &&
              crl_set_digit(peer->serial[2 * i + 1], &low));
        out[CERT_SERIAL_MAX - len + i] = (uint8_t)(high << 4 | low);
    }
}

/* What the lists of issuers[i] say of a certificate of it. */
static err_t crl_set_ask(const struct crl_set *set, const struct peer *peer, size_t i,
                         const uint8_t serial[CERT_SERIAL_MAX], int64_t now_s)
{
    const struct peer_issuer *issuer = &peer->issuers[i];
    bool any = false, fresh = false;

    for (size_t j = 0; issuer->signs_crls && j < set->num; j++) {
        const struct crl *crl = set->lists[j];

        if (memcmp(crl->issuer_sha256, issuer->subject_sha256, 32) != 0 ||
            !crl_is_signed_by(crl, peer_issuer_key(peer, i), issuer->key_sha256))
            continue;
        if (crl_has(crl, serial))
            return FAIL(PEER_REVOKED, 0);
        any = true;
        fresh = fresh || now_s < crl->next_update;
    }
    if (!any)
        return FAIL(CRL_MISSING, (int)i);
    return fresh ? OK : FAIL(CRL_STALE, (int)i);
}

err_t crl_set_check(const struct crl_set *set, const struct peer *peer, int64_t now_s)
{
    uint8_t leaf[CERT_SERIAL_MAX];
    err_t found = OK;

    if (set == NULL)
        return OK;
    crl_set_leaf_serial(peer, leaf);
    for (size_t i = 0; i < peer->num_issuers; i++) {
        err_t err = crl_set_ask(set, peer, i, i == 0 ? leaf : peer->issuers[i - 1].serial, now_s);

        if (err_is(err, E_PEER_REVOKED))
            return err;
        if (err_is_ok(found))
            found = err;
    }
    return found;
}

int64_t crl_set_next_update(const struct crl_set *set)
{
    int64_t earliest = INT64_MAX;

    for (size_t i = 0; i < set->num; i++) {
        if (set->lists[i]->next_update < earliest)
            earliest = set->lists[i]->next_update;
    }
    return earliest;
}

int64_t crl_set_this_update(const struct crl_set *set)
{
    int64_t earliest = INT64_MAX;

    for (size_t i = 0; i < set->num; i++) {
        if (set->lists[i]->this_update < earliest)
            earliest = set->lists[i]->this_update;
    }
    return earliest;
}
