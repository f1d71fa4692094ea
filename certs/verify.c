#include "certs/verify.h"

#include <openssl/sha.h>

#include "certs/boring.h"
#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "lib/base/list.h"
#include "lib/base/map.h"

#define VERIFY_KEY_HEX (2 * SHA256_DIGEST_LENGTH + 1)

/* What X509_verify_cert may build: what the peer sent and as much again of the bundle. */
#define VERIFY_DEPTH (2 * VERIFY_CHAIN_MAX)

/* --- peer --- */

/* The issuers of many peers are the same: they are kept once. */
struct peer_lineage {
    struct refs refs;
    size_t num;
    struct peer_issuer issuers[];
};

static void verify_lineage_unref(struct peer_lineage *lineage)
{
    if (lineage != NULL && refs_drop(&lineage->refs))
        mem_free(lineage);
}

MEM_CLEANUP_FN(verify_lineage_unrefp, struct peer_lineage, verify_lineage_unref)

struct peer *peer_ref(struct peer *peer)
{
    refs_take(&peer->refs);
    return peer;
}

void peer_unref(struct peer *peer)
{
    if (peer == NULL || !refs_drop(&peer->refs))
        return;
    for (char **name = peer->dns_names; name != NULL && *name != NULL; name++)
        mem_free(*name);
    mem_free(peer->dns_names);
    mem_free(peer->spiffe_id);
    mem_free(peer->serial);
    mem_free(peer->issuer_cn);
    verify_lineage_unref(peer->lineage);
    mem_free(peer);
}

static bool verify_dns_equal(const char *a, const char *b)
{
    for (; *a != '\0' && *b != '\0'; a++, b++) {
        char x = *a >= 'A' && *a <= 'Z' ? (char)(*a - 'A' + 'a') : *a;
        char y = *b >= 'A' && *b <= 'Z' ? (char)(*b - 'A' + 'a') : *b;
        if (x != y)
            return false;
    }
    return *a == *b;
}

bool peer_matches(const struct peer *peer, const struct peer_match *match)
{
    /* No identity matches nothing, whatever is expected. */
    for (size_t i = 0; peer->spiffe_id[0] != '\0' && i < match->num_spiffe_ids; i++) {
        if (strcmp(peer->spiffe_id, match->spiffe_ids[i]) == 0)
            return true;
    }
    for (size_t i = 0; i < match->num_dns_names; i++) {
        for (char **name = peer->dns_names; *name != NULL; name++) {
            if (verify_dns_equal(*name, match->dns_names[i]))
                return true;
        }
    }
    return false;
}

/* --- cache --- */

struct verify_entry {
    struct list link; /* in cache->recent */
    char key[VERIFY_KEY_HEX];
    struct peer *peer;
    int64_t valid_from; /* the latest notBefore of the chain: clocks are set back, too */
};

struct verify_cache {
    struct map by_key;
    struct list recent;           /* the most recently used first */
    struct peer_lineage *lineage; /* of the last peer that was verified, or NULL */
    size_t max;
    size_t hits;
};

struct verify_cache *verify_cache_new(size_t max_entries)
{
    CHECK(max_entries > 0);
    struct verify_cache *cache = mem_zalloc(sizeof *cache);
    list_init(&cache->recent);
    cache->max = max_entries;
    return cache;
}

static void verify_cache_drop(struct verify_cache *cache, struct verify_entry *entry)
{
    CHECK(map_del(&cache->by_key, entry->key) == entry);
    list_del(&entry->link);
    peer_unref(entry->peer);
    mem_free(entry);
}

void verify_cache_free(struct verify_cache *cache)
{
    struct list *pos;
    struct list *tmp;

    if (cache == NULL)
        return;
    LIST_EACH (pos, tmp, &cache->recent)
        verify_cache_drop(cache, LIST_ITEM(pos, struct verify_entry, link));
    map_fini(&cache->by_key);
    verify_lineage_unref(cache->lineage);
    mem_free(cache);
}

size_t verify_cache_hits(const struct verify_cache *cache)
{
    return cache->hits;
}

/* verify_cache_get returns a peer that is valid at now_s, borrowed, or NULL. */
static struct peer *verify_cache_get(struct verify_cache *cache, const char *key, int64_t now_s)
{
    struct verify_entry *entry = map_get(&cache->by_key, key);

    if (entry == NULL)
        return NULL;
    if (now_s >= entry->peer->not_after || now_s < entry->valid_from) {
        verify_cache_drop(cache, entry);
        return NULL;
    }
    list_del(&entry->link);
    list_add_head(&cache->recent, &entry->link);
    cache->hits++;
    return entry->peer;
}

static void verify_cache_put(struct verify_cache *cache, const char *key, struct peer *peer,
                             int64_t valid_from)
{
    struct verify_entry *entry = mem_zalloc(sizeof *entry);

    if (map_num(&cache->by_key) == cache->max)
        verify_cache_drop(cache, LIST_ITEM(cache->recent.prev, struct verify_entry, link));
    memcpy(entry->key, key, sizeof entry->key);
    entry->peer = peer_ref(peer);
    entry->valid_from = valid_from;
    list_init(&entry->link);
    list_add_head(&cache->recent, &entry->link);
    CHECK(map_put(&cache->by_key, entry->key, entry) == NULL);
}

/* verify_key is over everything that the verdict depends on, but for the time: role, bundle, and
 * each certificate with its length, so that no two chains are one string. */
static void verify_key(const STACK_OF(CRYPTO_BUFFER) * chain, const struct bundle *bundle,
                       enum verify_role role, char out[VERIFY_KEY_HEX])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    uint8_t number[8];
    SHA256_CTX sha;

    SHA256_Init(&sha);
    put_be64(number, (uint64_t)role);
    SHA256_Update(&sha, number, sizeof number);
    SHA256_Update(&sha, bundle->hash, sizeof bundle->hash);
    for (size_t i = 0; i < sk_CRYPTO_BUFFER_num(chain); i++) {
        const CRYPTO_BUFFER *cert = sk_CRYPTO_BUFFER_value(chain, i);
        put_be64(number, CRYPTO_BUFFER_len(cert));
        SHA256_Update(&sha, number, sizeof number);
        SHA256_Update(&sha, CRYPTO_BUFFER_data(cert), CRYPTO_BUFFER_len(cert));
    }
    SHA256_Final(digest, &sha);
    bytes_to_hex(bytes_of(digest, sizeof digest), out);
}

/* --- chain --- */

static err_t verify_check_size(const STACK_OF(CRYPTO_BUFFER) * chain)
{
    size_t num = chain != NULL ? sk_CRYPTO_BUFFER_num(chain) : 0;
    size_t total = 0;

    if (num == 0)
        return FAIL(CERT_MISSING, 0);
    if (num > VERIFY_CHAIN_MAX)
        return FAIL(CHAIN_TOO_LONG, num);
    for (size_t i = 0; i < num; i++)
        total += CRYPTO_BUFFER_len(sk_CRYPTO_BUFFER_value(chain, i));
    if (total > VERIFY_CHAIN_BYTES_MAX)
        return FAIL(CHAIN_TOO_LONG, total);
    return OK;
}

static err_t verify_parse(const STACK_OF(CRYPTO_BUFFER) * chain, STACK_OF(X509) * *out)
{
    CLEANUP(boring_x509s_freep) STACK_OF(X509) *certs = sk_X509_new_null();

    if (certs == NULL)
        return FAIL(NO_MEMORY, 0);
    for (size_t i = 0; i < sk_CRYPTO_BUFFER_num(chain); i++) {
        CLEANUP(boring_x509_freep) X509 *cert = NULL;
        TRY(cert_parse(sk_CRYPTO_BUFFER_value(chain, i), &cert));
        if (!sk_X509_push(certs, cert))
            return FAIL(NO_MEMORY, 0);
        cert = NULL;
    }
    *out = certs;
    certs = NULL;
    return OK;
}

/* verify_no_issuer tells a chain whose next certificate was sent but may sign nothing from one
 * whose next certificate nobody has. */
static err_t verify_no_issuer(int error, X509 *at, STACK_OF(X509) * certs)
{
    for (size_t i = 1; at != NULL && i < sk_X509_num(certs); i++) {
        if (X509_check_issued(sk_X509_value(certs, i), at) == X509_V_ERR_KEYUSAGE_NO_CERTSIGN)
            return FAIL(CHAIN_INVALID, X509_V_ERR_INVALID_CA);
    }
    return FAIL(CHAIN_UNTRUSTED, error);
}

/* verify_bad_signature: where the signing key or the algorithm of `at` is of a kind that is not
 * allowed, that is the reason; the library cannot even try some of them. */
static err_t verify_bad_signature(int error, X509 *at, STACK_OF(X509) * path)
{
    for (size_t i = 1; path != NULL && i < sk_X509_num(path); i++)
        TRY(cert_check_key(sk_X509_value(path, i)));
    if (at != NULL)
        TRY(cert_check_signature(at));
    return FAIL(CHAIN_INVALID, error);
}

/* verify_error makes ours of X509_V_ERR_*. */
static err_t verify_error(X509_STORE_CTX *ctx, STACK_OF(X509) * certs, int64_t now_s)
{
    int error = X509_STORE_CTX_get_error(ctx);
    X509 *at = X509_STORE_CTX_get_current_cert(ctx); /* that it is about; may be NULL */

    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
        if (at != NULL)
            TRY(cert_check_time(at, now_s)); /* the same, with the seconds */
        return FAIL(CHAIN_INVALID, error);
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_CERT_UNTRUSTED:
        return verify_no_issuer(error, at, certs);
    case X509_V_ERR_CERT_CHAIN_TOO_LONG:
        return FAIL(CHAIN_TOO_LONG, 0);
    case X509_V_ERR_INVALID_PURPOSE:
        if (at == sk_X509_value(certs, 0))
            TRY(cert_check_leaf(at)); /* tells a CA from a leaf for another purpose */
        return FAIL(CERT_USAGE, error);
    case X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION:
        return FAIL(CERT_USAGE, error);
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    case X509_V_ERR_UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY:
        return verify_bad_signature(error, at, X509_STORE_CTX_get0_chain(ctx));
    case X509_V_ERR_OUT_OF_MEM:
        return FAIL(NO_MEMORY, 0);
    default:
        return FAIL(CHAIN_INVALID, error);
    }
}

/* verify_build finds a path from the leaf to a certificate of the bundle and checks it as RFC 5280
 * section 6 says. Returns the path, leaf first, owned. */
static err_t verify_build(STACK_OF(X509) * certs, const struct bundle *bundle,
                          enum verify_role role, int64_t now_s, STACK_OF(X509) * *out)
{
    CLEANUP(boring_store_ctx_freep) X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    X509 *leaf = sk_X509_value(certs, 0);

    if (ctx == NULL || !X509_STORE_CTX_init(ctx, bundle->store, leaf, certs))
        return FAIL(NO_MEMORY, 0);
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
    /* A context of our own has no purpose, no time and no trust set: all of it is said here. */
    if (!X509_VERIFY_PARAM_set_purpose(param, role == VERIFY_CLIENT_CERT ? X509_PURPOSE_SSL_CLIENT
                                                                         : X509_PURPOSE_SSL_SERVER))
        return FAIL(BUG, 0);
    X509_VERIFY_PARAM_set_time_posix(param, now_s);
    X509_VERIFY_PARAM_set_depth(param, VERIFY_DEPTH);
    /* Each certificate of a bundle vouches by itself, self-signed or not; the store comes first, so
     * that what a peer sends beside its own chain changes nothing. */
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);

    if (X509_verify_cert(ctx) != 1)
        return verify_error(ctx, certs, now_s);
    *out = X509_STORE_CTX_get1_chain(ctx);
    return *out != NULL ? OK : FAIL(NO_MEMORY, 0);
}

/* verify_path_lengths: RFC 5280 section 6.1.4 (l) and (m), for the anchor too, which BoringSSL
 * leaves out when it is self-signed. */
static err_t verify_path_lengths(STACK_OF(X509) * path)
{
    long below = 0; /* CAs between this one and the leaf that are not self-issued */

    for (size_t i = 1; i < sk_X509_num(path); i++) {
        X509 *ca = sk_X509_value(path, i);
        long max = X509_get_pathlen(ca);

        if (max >= 0 && below > max)
            return FAIL(CHAIN_INVALID, X509_V_ERR_PATH_LENGTH_EXCEEDED);
        below += X509_NAME_cmp(X509_get_subject_name(ca), X509_get_issuer_name(ca)) != 0;
    }
    return OK;
}

/* verify_strength: every key, and of what was relied upon, which the anchor's own is not, every
 * signature and serial number.
 */
static err_t verify_strength(STACK_OF(X509) * path)
{
    size_t num = sk_X509_num(path);

    for (size_t i = 0; i < num; i++)
        TRY(cert_check_key(sk_X509_value(path, i)));
    for (size_t i = 0; i + 1 < num; i++) {
        TRY(cert_check_signature(sk_X509_value(path, i)));
        TRY(cert_check_serial(sk_X509_value(path, i)));
    }
    return OK;
}

/* verify_identity reads the names and judges the SPIFFE ID, if there is one. */
static err_t verify_identity(X509 *leaf, const struct bundle *bundle, struct cert_names *names)
{
    struct spiffe_id id;

    TRY(cert_names_get(leaf, names));
    if (names->uri[0] == '\0')
        return OK;
    TRY(spiffe_id_parse(bytes_of_str(names->uri), &id));
    if (id.path.len == 0)
        return FAIL(SAN_SYNTAX, id.text.len);
    if (bundle->trust_domain[0] != '\0' && !bytes_equal_str(id.trust_domain, bundle->trust_domain))
        return FAIL(TRUST_DOMAIN, 0);
    return OK;
}

static err_t verify_dates(STACK_OF(X509) * path, int64_t *out_latest_before,
                          int64_t *out_earliest_after)
{
    *out_latest_before = INT64_MIN;
    *out_earliest_after = INT64_MAX;
    for (size_t i = 0; i < sk_X509_num(path); i++) {
        int64_t before = 0;
        int64_t after = 0;
        TRY(cert_times(sk_X509_value(path, i), &before, &after));
        if (before > *out_latest_before)
            *out_latest_before = before;
        if (after < *out_earliest_after)
            *out_earliest_after = after;
    }
    return OK;
}

/* Of a key that was judged already: only memory can be missing. */
static err_t verify_key_sha256(X509 *cert, uint8_t out[32])
{
    CLEANUP(boring_key_freep) EVP_PKEY *key = X509_get_pubkey(cert);

    return key != NULL && err_is_ok(key_spki_sha256(key, out)) ? OK : FAIL(NO_MEMORY, 0);
}

static err_t verify_lineage_of(STACK_OF(X509) * path, struct peer_lineage **out)
{
    size_t num = sk_X509_num(path) - 1; /* of the CAs */
    CLEANUP(verify_lineage_unrefp)
    struct peer_lineage *lineage = mem_zalloc(sizeof *lineage + num * sizeof lineage->issuers[0]);

    refs_init(&lineage->refs);
    lineage->num = num;
    for (size_t i = 0; i < num; i++) {
        struct peer_issuer *issuer = &lineage->issuers[i];
        CLEANUP(boring_buffer_freep) CRYPTO_BUFFER *der = NULL;

        TRY(verify_key_sha256(sk_X509_value(path, i + 1), issuer->key_sha256));
        TRY(cert_der(sk_X509_value(path, i + 1), &der));
        SHA256(CRYPTO_BUFFER_data(der), CRYPTO_BUFFER_len(der), issuer->cert_sha256);
    }
    *out = lineage;
    lineage = NULL;
    return OK;
}

/* The one that was met before, if it is the same; takes `lineage` and returns a reference. */
static struct peer_lineage *verify_lineage_share(struct verify_cache *cache,
                                                 struct peer_lineage *lineage)
{
    struct peer_lineage *known = cache->lineage;

    if (known == NULL || known->num != lineage->num ||
        memcmp(known->issuers, lineage->issuers, known->num * sizeof known->issuers[0]) != 0) {
        verify_lineage_unref(known);
        cache->lineage = known = lineage;
    } else {
        verify_lineage_unref(lineage);
    }
    refs_take(&known->refs);
    return known;
}

/* What a revocation or a changed bundle asks for while the connection lives. */
static err_t verify_lineage(STACK_OF(X509) * path, struct verify_cache *cache, struct peer *peer)
{
    TRY(verify_key_sha256(sk_X509_value(path, 0), peer->key_sha256));
    TRY(verify_lineage_of(path, &peer->lineage));
    if (cache != NULL)
        peer->lineage = verify_lineage_share(cache, peer->lineage);
    peer->issuers = peer->lineage->issuers;
    peer->num_issuers = peer->lineage->num;
    return OK;
}

/* verify_peer makes the peer of a verified path. */
static err_t verify_peer(const CRYPTO_BUFFER *leaf_der, STACK_OF(X509) * path,
                         const struct bundle *bundle, struct verify_cache *cache, struct peer **out,
                         int64_t *out_valid_from)
{
    CLEANUP(cert_names_fini) struct cert_names names = {0};
    CLEANUP(mem_freep) char *serial = NULL;
    X509 *leaf = sk_X509_value(path, 0);
    int64_t leaf_after = 0;
    int64_t leaf_before = 0;
    int64_t earliest = 0;

    TRY(cert_check_leaf(leaf));
    TRY(verify_identity(leaf, bundle, &names));
    TRY(cert_serial(leaf, &serial));
    TRY(cert_times(leaf, &leaf_before, &leaf_after));
    TRY(verify_dates(path, out_valid_from, &earliest));

    CLEANUP(peer_unrefp) struct peer *peer = mem_zalloc(sizeof *peer);
    refs_init(&peer->refs);
    peer->spiffe_id = names.uri;
    peer->dns_names = names.dns;
    names = (struct cert_names){0};
    peer->serial = serial;
    serial = NULL;
    peer->issuer_cn = cert_issuer_cn(leaf);
    peer->not_before = leaf_before;
    peer->not_after = earliest;
    SHA256(CRYPTO_BUFFER_data(leaf_der), CRYPTO_BUFFER_len(leaf_der), peer->leaf_sha256);
    memcpy(peer->bundle_hash, bundle->hash, sizeof peer->bundle_hash);
    TRY(verify_lineage(path, cache, peer));
    *out = peer;
    peer = NULL;
    return OK;
}

err_t verify_chain(const STACK_OF(CRYPTO_BUFFER) * chain, const struct bundle *bundle,
                   enum verify_role role, int64_t now_s, struct verify_cache *cache,
                   struct peer **out)
{
    BORING_SCOPE;
    CLEANUP(boring_x509s_freep) STACK_OF(X509) *certs = NULL;
    CLEANUP(boring_x509s_freep) STACK_OF(X509) *path = NULL;
    char key[VERIFY_KEY_HEX] = "";
    struct peer *peer = NULL;
    int64_t valid_from = 0;

    TRY(verify_check_size(chain));
    if (cache != NULL) {
        verify_key(chain, bundle, role, key);
        struct peer *known = verify_cache_get(cache, key, now_s);
        if (known != NULL) {
            *out = peer_ref(known);
            return OK;
        }
    }
    TRY(verify_parse(chain, &certs));
    TRY(verify_build(certs, bundle, role, now_s, &path));
    TRY(verify_path_lengths(path));
    TRY(verify_strength(path));
    TRY(verify_peer(sk_CRYPTO_BUFFER_value(chain, 0), path, bundle, cache, &peer, &valid_from));
    if (cache != NULL)
        verify_cache_put(cache, key, peer, valid_from);
    *out = peer;
    return OK;
}

uint8_t verify_alert(err_t err)
{
    /* As BoringSSL maps its own results, so that peers of any make understand; what is ours,
     * identity and policy, is access_denied. */
    switch ((int)err.code) {
    case E_CERT_EXPIRED:
    case E_CERT_NOT_YET_VALID:
    case E_PEER_EXPIRED:
        return SSL_AD_CERTIFICATE_EXPIRED;
    case E_PEER_REVOKED:
        return SSL_AD_CERTIFICATE_REVOKED;
    case E_CERT_MISSING:
        return SSL_AD_CERTIFICATE_REQUIRED;
    case E_CERT_USAGE:
    case E_KEY_WEAK:
    case E_CERT_WEAK_SIGNATURE:
        return SSL_AD_UNSUPPORTED_CERTIFICATE;
    case E_CERT_SYNTAX:
    case E_SAN_TOO_MANY:
        return SSL_AD_BAD_CERTIFICATE;
    case E_CHAIN_TOO_LONG:
    case E_CHAIN_UNTRUSTED:
        return SSL_AD_UNKNOWN_CA;
    case E_CHAIN_INVALID:
        return (uint8_t)SSL_alert_from_verify_result(err.sub);
    case E_TLS_SNI_UNKNOWN:
        return SSL_AD_UNRECOGNIZED_NAME;
    case E_TLS_NO_SHARED:
        return SSL_AD_HANDSHAKE_FAILURE;
    case E_NO_MEMORY:
    case E_BUG:
    case E_TLS_CONFIG:
        return SSL_AD_INTERNAL_ERROR;
    case E_TRUST_CHANGED:
        return SSL_AD_UNKNOWN_CA;
    default:
        return SSL_AD_ACCESS_DENIED;
    }
}
