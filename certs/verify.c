#include "certs/verify.h"

#include <openssl/sha.h>

#include "certs/key.h"
#include "certs/spiffe_id.h"
#include "certs/verify_impl.h"

/* What X509_verify_cert may build: what the peer sent and as much again of the bundle. */
#define VERIFY_DEPTH (2 * VERIFY_CHAIN_MAX)

/* --- peer --- */

void verify_lineage_unref(struct peer_lineage *lineage)
{
    if (lineage == NULL || !refs_drop(&lineage->refs))
        return;
    for (size_t i = 0; i < lineage->num; i++)
        EVP_PKEY_free(lineage->keys[i]);
    mem_free(lineage->keys);
    mem_free(lineage);
}

EVP_PKEY *peer_issuer_key(const struct peer *peer, size_t i)
{
    CHECK(i < peer->num_issuers);
    return peer->lineage->keys[i];
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

/* verify_key is over everything that the verdict depends on, but for the time: role, bundle, and
 * each certificate from `first` on with its length, so that no two chains are one string. */
static void verify_key(const STACK_OF(CRYPTO_BUFFER) * chain, size_t first,
                       const struct bundle *bundle, enum verify_role role, char out[VERIFY_KEY_HEX])
{
    uint8_t digest[SHA256_DIGEST_LENGTH];
    uint8_t number[8];
    SHA256_CTX sha;

    SHA256_Init(&sha);
    put_be64(number, (uint64_t)role);
    SHA256_Update(&sha, number, sizeof number);
    SHA256_Update(&sha, bundle->hash, sizeof bundle->hash);
    for (size_t i = first; i < sk_CRYPTO_BUFFER_num(chain); i++) {
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

/* verify_ctx prepares a check of `leaf`: `others` are what the peer sent with it; of `anchors`, or
 * where that is NULL of the bundle, a path may end at any. */
static err_t verify_ctx(X509 *leaf, STACK_OF(X509) * others, STACK_OF(X509) * anchors,
                        const struct bundle *bundle, enum verify_role role, int64_t now_s,
                        X509_STORE_CTX **out)
{
    CLEANUP(boring_store_ctx_freep) X509_STORE_CTX *ctx = X509_STORE_CTX_new();

    if (ctx == NULL || !X509_STORE_CTX_init(ctx, bundle->store, leaf, others))
        return FAIL(NO_MEMORY, 0);
    if (anchors != NULL)
        X509_STORE_CTX_set0_trusted_stack(ctx, anchors);
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
    *out = ctx;
    ctx = NULL;
    return OK;
}

/* verify_build finds a path from the leaf to a certificate of the bundle and checks it as RFC 5280
 * section 6 says. Returns the path, leaf first, owned. */
static err_t verify_build(STACK_OF(X509) * certs, const struct bundle *bundle,
                          enum verify_role role, int64_t now_s, STACK_OF(X509) * *out)
{
    CLEANUP(boring_store_ctx_freep) X509_STORE_CTX *ctx = NULL;

    TRY(verify_ctx(sk_X509_value(certs, 0), certs, NULL, bundle, role, now_s, &ctx));
    if (X509_verify_cert(ctx) != 1)
        return verify_error(ctx, certs, now_s);
    *out = X509_STORE_CTX_get1_chain(ctx);
    return *out != NULL ? OK : FAIL(NO_MEMORY, 0);
}

/* --- under an issuer that was verified before --- */

/* verify_build_under does the same for a leaf whose issuer has been verified before, with all that
 * it rests on: that one's own signature, of a key that may be slow to check, is not checked again
 * for each of its leaves. Returns NULL when the leaf has no place there, for whatever reason: the
 * whole path has to be built then, which finds the reason too. */
static STACK_OF(X509) * verify_build_under(X509 *leaf, STACK_OF(X509) * above,
                                           const struct bundle *bundle, enum verify_role role,
                                           int64_t now_s)
{
    CLEANUP(boring_store_ctx_freep) X509_STORE_CTX *ctx = NULL;
    STACK_OF(X509) *anchor = sk_X509_new_null(); /* borrows its only member */
    STACK_OF(X509) *path = NULL;

    if (anchor != NULL && sk_X509_push(anchor, sk_X509_value(above, 0)) &&
        err_is_ok(verify_ctx(leaf, NULL, anchor, bundle, role, now_s, &ctx)) &&
        X509_verify_cert(ctx) == 1 && sk_X509_num(X509_STORE_CTX_get0_chain(ctx)) == 2) {
        path = X509_chain_up_ref(above);
        if (path != NULL && sk_X509_insert(path, leaf, 0) != 0) {
            X509_up_ref(leaf);
        } else {
            boring_x509s_freep(&path);
            path = NULL;
        }
    }
    sk_X509_free(anchor);
    return path;
}

/* All that stands above still does so now. */
static bool verify_above_is_valid(STACK_OF(X509) * above, int64_t now_s)
{
    for (size_t i = 0; i < sk_X509_num(above); i++) {
        if (!err_is_ok(cert_check_time(sk_X509_value(above, i), now_s)))
            return false;
    }
    return true;
}

static bool verify_asks_for_policy(X509 *cert)
{
    return X509_get_ext_by_NID(cert, NID_policy_constraints, -1) >= 0;
}

/* An issuer is worth keeping when something vouches for it that is not itself trusted; and only
 * where nothing above asks something of each leaf that verify_build_under does not look at: the
 * names that a CA above the issuer permits, and policies, which a path has as a whole. */
static bool verify_above_is_simple(STACK_OF(X509) * path)
{
    for (size_t i = 1; i < sk_X509_num(path); i++) {
        X509 *ca = sk_X509_value(path, i);

        if (verify_asks_for_policy(ca) ||
            (i > 1 && X509_get_ext_by_NID(ca, NID_name_constraints, -1) >= 0))
            return false;
    }
    return sk_X509_num(path) > 2;
}

/* verify_find gives the path of the chain to the bundle, checked, leaf first, owned. `above_key` is
 * over what the verdict on the issuer depends on. */
static err_t verify_find(const STACK_OF(CRYPTO_BUFFER) * chain, const struct bundle *bundle,
                         enum verify_role role, int64_t now_s, struct verify_cache *cache,
                         const char *above_key, STACK_OF(X509) * *out)
{
    CLEANUP(boring_x509s_freep) STACK_OF(X509) *certs = NULL;
    STACK_OF(X509) *above = cache != NULL ? verify_cache_above(cache, above_key) : NULL;

    if (above != NULL && verify_above_is_valid(above, now_s)) {
        CLEANUP(boring_x509_freep) X509 *leaf = NULL;

        TRY(cert_parse(sk_CRYPTO_BUFFER_value(chain, 0), &leaf));
        *out = verify_asks_for_policy(leaf) ? NULL
                                            : verify_build_under(leaf, above, bundle, role, now_s);
        if (*out != NULL) {
            verify_cache_hit_issuer(cache);
            return OK;
        }
    }
    TRY(verify_parse(chain, &certs));
    return verify_build(certs, bundle, role, now_s, out);
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

/* verify_vouches: whoever is outside vouches for names alone, and where there is anybody outside,
 * those inside for SPIFFE IDs alone. An ID of the mesh is never had from a CA of others. */
static err_t verify_vouches(STACK_OF(X509) * path, const struct bundle *bundle,
                            struct cert_names *names)
{
    CLEANUP(boring_buffer_freep) CRYPTO_BUFFER *der = NULL;
    uint8_t sha256[SHA256_DIGEST_LENGTH];

    if (bundle->outside == NULL)
        return OK;
    TRY(cert_der(sk_X509_value(path, sk_X509_num(path) - 1), &der));
    SHA256(CRYPTO_BUFFER_data(der), CRYPTO_BUFFER_len(der), sha256);
    if (!bundle_has(bundle, sha256))
        return FAIL(CHAIN_UNTRUSTED, 0);
    if (bundle_is_outside(bundle, sha256))
        return names->uri[0] == '\0' ? OK : FAIL(TRUST_DOMAIN, 0);
    if (names->uri[0] == '\0')
        return FAIL(TRUST_DOMAIN, 0);
    for (size_t i = 0; names->dns[i] != NULL; i++) {
        mem_free(names->dns[i]);
        names->dns[i] = NULL;
    }
    return OK;
}

/* verify_identity reads the names and judges the SPIFFE ID, if there is one. */
static err_t verify_identity(STACK_OF(X509) * path, const struct bundle *bundle,
                             struct cert_names *names)
{
    struct spiffe_id id;

    TRY(cert_names_get(sk_X509_value(path, 0), names));
    TRY(verify_vouches(path, bundle, names));
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

/* What a revocation list knows of an issuer: by the list's issuer, or as one that it names. */
static err_t verify_crl_names(X509 *ca, struct peer_issuer *out)
{
    const ASN1_INTEGER *serial = X509_get0_serialNumber(ca);
    size_t len = (size_t)ASN1_STRING_length(serial);
    const uint8_t *name;
    size_t name_len;

    if (!X509_NAME_get0_der(X509_get_subject_name(ca), &name, &name_len))
        return FAIL(NO_MEMORY, 0);
    SHA256(name, name_len, out->subject_sha256);
    if (err_is_ok(cert_check_serial(ca)))
        memcpy(out->serial + sizeof out->serial - len, ASN1_STRING_get0_data(serial), len);
    out->signs_crls = (X509_get_key_usage(ca) & X509v3_KU_CRL_SIGN) != 0;
    return OK;
}

static err_t verify_lineage_of(STACK_OF(X509) * path, struct peer_lineage **out)
{
    size_t num = sk_X509_num(path) - 1; /* of the CAs */
    CLEANUP(verify_lineage_unrefp)
    struct peer_lineage *lineage = mem_zalloc(sizeof *lineage + num * sizeof lineage->issuers[0]);

    refs_init(&lineage->refs);
    lineage->num = num;
    lineage->keys = mem_array(num, sizeof(EVP_PKEY *));
    for (size_t i = 0; i < num; i++) {
        struct peer_issuer *issuer = &lineage->issuers[i];
        CLEANUP(boring_buffer_freep) CRYPTO_BUFFER *der = NULL;
        X509 *ca = sk_X509_value(path, i + 1);

        TRY(verify_key_sha256(ca, issuer->key_sha256));
        TRY(verify_crl_names(ca, issuer));
        lineage->keys[i] = X509_get_pubkey(ca);
        TRY(cert_der(ca, &der));
        SHA256(CRYPTO_BUFFER_data(der), CRYPTO_BUFFER_len(der), issuer->cert_sha256);
    }
    *out = lineage;
    lineage = NULL;
    return OK;
}

/* What a revocation or a changed bundle asks for while the connection lives. */
static err_t verify_lineage(STACK_OF(X509) * path, struct verify_cache *cache, struct peer *peer)
{
    TRY(verify_key_sha256(sk_X509_value(path, 0), peer->key_sha256));
    TRY(verify_lineage_of(path, &peer->lineage));
    if (cache != NULL)
        peer->lineage = verify_cache_share(cache, peer->lineage);
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
    TRY(verify_identity(path, bundle, &names));
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
    CLEANUP(boring_x509s_freep) STACK_OF(X509) *path = NULL;
    char key[VERIFY_KEY_HEX] = "";
    char above_key[VERIFY_KEY_HEX] = "";
    struct peer *peer = NULL;
    int64_t valid_from = 0;

    TRY(verify_check_size(chain));
    if (cache != NULL) {
        verify_key(chain, 0, bundle, role, key);
        struct peer *known = verify_cache_get(cache, key, now_s);
        if (known != NULL) {
            *out = peer_ref(known);
            return OK;
        }
        verify_key(chain, 1, bundle, role, above_key);
    }
    TRY(verify_find(chain, bundle, role, now_s, cache, above_key, &path));
    TRY(verify_path_lengths(path));
    TRY(verify_strength(path));
    TRY(verify_peer(sk_CRYPTO_BUFFER_value(chain, 0), path, bundle, cache, &peer, &valid_from));
    if (cache != NULL) {
        verify_cache_put(cache, key, peer, valid_from);
        if (verify_above_is_simple(path))
            verify_cache_put_above(cache, above_key, path);
    }
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
    case E_CRL_MISSING:
    case E_CRL_STALE: /* nothing is wrong with the certificate that its owner could mend */
        return SSL_AD_CERTIFICATE_UNKNOWN;
    default:
        return SSL_AD_ACCESS_DENIED;
    }
}
