/* svid: a certificate chain with its key as one checked, immutable, shared value.
 * Source: SPIFFE X509-SVID; RFC 5280. */
#ifndef MORTISE_CERTS_SVID_H
#define MORTISE_CERTS_SVID_H

#include <openssl/evp.h>
#include <openssl/pool.h>

#include "certs/bundle.h"
#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"

#define SVID_CHAIN_MAX 5 /* leaf and at most four above it, as verify allows */

struct svid {
    struct refs refs;
    size_t num_chain;
    CRYPTO_BUFFER *chain[SVID_CHAIN_MAX]; /* DER, leaf first */
    EVP_PKEY *key;
    char *spiffe_id;    /* "" for a certificate with DNS names only (static mode) */
    char *serial;       /* lower-case hex */
    int64_t not_before; /* Unix seconds */
    int64_t not_after;  /* the earliest of the chain */
};

/* svid_of_pem parses PEM chain and key; svid_of_der takes DER certificates, leaf first, and a
 * reference to `key`. Both check that key and leaf belong together, key strength, usage, validity
 * at `now_s`, and, where `roots` is not NULL, that the chain leads to one of them. A chain out of
 * order is put in order. Errors: PEM_SYNTAX, PEM_EMPTY, CERT_SYNTAX, KEY_SYNTAX, KEY_WEAK,
 * SVID_KEY_MISMATCH, CERT_EXPIRED, CERT_NOT_YET_VALID, CERT_USAGE, SAN_*, CHAIN_*. */
MUST_CHECK err_t svid_of_pem(struct bytes cert_pem, struct bytes key_pem,
                             const struct bundle *roots, int64_t now_s, struct svid **out);
MUST_CHECK err_t svid_of_der(const struct bytes *certs, size_t num, EVP_PKEY *key,
                             const struct bundle *roots, int64_t now_s, struct svid **out);
struct svid *svid_ref(struct svid *svid);
void svid_unref(struct svid *svid);
MEM_CLEANUP_FN(svid_unrefp, struct svid, svid_unref)
/* svid_write_pem appends the chain (never the key). */
MUST_CHECK err_t svid_write_pem(const struct svid *svid, struct buf *out);

#endif
