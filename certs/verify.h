/* verify turns a peer's chain into its identity, or says exactly why not: the one identity parser
 * of the project, for both roles, both programs, all channels. Source: RFC 5280 section 6; SPIFFE
 * X509-SVID section 5; reliability R5, R6. */
#ifndef MORTISE_CERTS_VERIFY_H
#define MORTISE_CERTS_VERIFY_H

#include <openssl/pool.h>
#include <openssl/ssl.h>

#include "certs/bundle.h"
#include "certs/cert.h"
#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

#define VERIFY_CHAIN_MAX 5           /* certificates a peer may send: leaf and depth 4 */
#define VERIFY_CHAIN_BYTES_MAX 32768 /* honest chains are < 4 KiB; RSA ones < 10 KiB */
#define VERIFY_SANS_MAX CERT_SANS_MAX

struct peer_issuer {
    uint8_t key_sha256[32];          /* of its SubjectPublicKeyInfo */
    uint8_t cert_sha256[32];         /* of its DER */
    uint8_t subject_sha256[32];      /* of its subject's DER */
    uint8_t serial[CERT_SERIAL_MAX]; /* right-aligned; all zero: one that no list can name */
    bool signs_crls;                 /* its KeyUsage lets it, or it has none */
};
struct peer_lineage;

/* peer is what a verified certificate says: immutable, shared. */
struct peer {
    struct refs refs;
    char *spiffe_id;  /* "" when there is none (allowed only where DNS names are expected) */
    char **dns_names; /* NULL-ended */
    char *serial;     /* lower-case hex */
    char *issuer_cn;
    int64_t not_before;
    int64_t not_after; /* the earliest of the chain */
    uint8_t leaf_sha256[32];
    uint8_t key_sha256[32];            /* of the leaf's SubjectPublicKeyInfo */
    const struct peer_issuer *issuers; /* the CAs of the path, that of the leaf first; lineage's */
    size_t num_issuers;                /* 0: the leaf itself is in the bundle */
    struct peer_lineage *lineage;      /* shared by the peers of one thread that have the same */
    uint8_t bundle_hash[32];           /* of the bundle that vouched for it */
};
/* peer_issuer_key is the public key of issuers[i], borrowed from the peer. */
EVP_PKEY *peer_issuer_key(const struct peer *peer, size_t i);
struct peer *peer_ref(struct peer *peer);
void peer_unref(struct peer *peer);
MEM_CLEANUP_FN(peer_unrefp, struct peer, peer_unref)

/* verify_cache remembers verified chains of one thread: key = hash of (chain, bundle hash, role);
 * an entry is used only until its peer's notAfter. Bounded; least recently used goes first.
 * It remembers the last few issuers too, with what stands above them, under such a key: for another
 * leaf of theirs only what concerns the leaf is checked again, and all dates. */
struct verify_cache;
struct verify_cache *verify_cache_new(size_t max_entries);
void verify_cache_free(struct verify_cache *cache);
size_t verify_cache_hits(const struct verify_cache *cache);
size_t verify_cache_issuer_hits(const struct verify_cache *cache);

enum verify_role { VERIFY_SERVER_CERT, VERIFY_CLIENT_CERT };

/* verify_chain checks `chain` (leaf first) for the role against the bundle at now_s: signatures,
 * dates, basic and name constraints, KeyUsage, ExtendedKeyUsage, key and signature strength, depth,
 * unknown critical extensions; exactly one URI SAN that is a SPIFFE ID with a path, or none and at
 * least one DNS SAN; the trust domain of the bundle if it has one. `cache` may be NULL. Returns a
 * reference. Errors: CERT_*, CHAIN_*, SAN_*, KEY_WEAK, TRUST_DOMAIN. */
MUST_CHECK err_t verify_chain(const STACK_OF(CRYPTO_BUFFER) * chain, const struct bundle *bundle,
                              enum verify_role role, int64_t now_s, struct verify_cache *cache,
                              struct peer **out);
/* verify_alert is the TLS alert that answers such an error. */
uint8_t verify_alert(err_t err);

/* peer_match is an explicit expectation: exact SPIFFE IDs or DNS names (case-insensitive, no
 * wildcard on either side). Borrows the strings. */
struct peer_match {
    const char *const *spiffe_ids;
    size_t num_spiffe_ids;
    const char *const *dns_names;
    size_t num_dns_names;
};
bool peer_matches(const struct peer *peer, const struct peer_match *match);

#endif
