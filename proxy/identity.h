/* identity: how a sidecar with a control plane gets its certificate and keeps it fresh.
 *
 * The key is made here, a new one for each certificate, and never leaves. The first certificate is
 * got with a join token (Attest), the next ones with the certificate in force (Renew): at half of
 * its life, or when the control plane raises the epoch. A failure changes nothing: the old
 * certificate stays and the next attempt follows with backoff. Once the certificate has expired we
 * come back with it and a proof of its key (certs/proof.h), or, when that is refused, with a join
 * token, whose file is read again each time; in turn. Source: certs/renew.h,
 * proto/mesh/identity.proto. */
#ifndef MORTISE_PROXY_IDENTITY_H
#define MORTISE_PROXY_IDENTITY_H

#include "certs/bundle.h"
#include "certs/svid.h"
#include "lib/net/loop.h"
#include "proto/mesh/identity.pb-c.h"
#include "proxy/stats.h"
#include "proxy/uplink.h"

struct identity_params {
    struct loop *loop;
    const struct clock *clock;
    struct uplink *uplink;
    struct stats *stats;
    const char *token_file;  /* copied; NULL: none */
    bool token_is_platforms; /* which says who may read that file */
    const char *token;       /* copied, wiped after use; NULL: none */
    const char *expect_id;   /* copied; who we must be; NULL: who the token is for */
    /* A certificate came; shared. `roots` are the mesh's as they came with it. The receiver tells
     * the uplink when it is time to show the new one. */
    void (*on_svid)(void *arg, struct svid *svid, struct bundle *roots);
    /* identity_error changed. */
    void (*on_error)(void *arg);
    void *arg;
};

struct identity;
struct identity *identity_new(const struct identity_params *params);
/* identity_resume begins with a certificate of before, valid or expired (then it is of use to come
 * back with only). Shared. Before identity_start. */
void identity_resume(struct identity *identity, struct svid *svid, uint64_t epoch);
void identity_start(struct identity *identity);
void identity_free(struct identity *identity);

/* identity_renew asks for a certificate of at least that epoch, after a random delay of up to
 * spread_ms. Nothing happens if the one in force is of that epoch. */
void identity_renew(struct identity *identity, uint64_t epoch, uint32_t spread_ms);

/* The epoch that the certificate in force satisfies; 0 before there is one. */
uint64_t identity_epoch(const struct identity *identity);
/* Why the last attempt failed; "" when it went well. */
const char *identity_error(const struct identity *identity);

/* identity_check_response makes of the control plane's answer a checked certificate with `key` and
 * the mesh's roots: the chain leads to the roots, is valid now, is of the trust domain, says what
 * the answer says, and, where `same_id` is not NULL, who we were before. Both are references.
 * Errors: those of bundle_of_der and svid_of_der, TRUST_DOMAIN, PEER_IDENTITY. */
MUST_CHECK err_t identity_check_response(const Mortise__V1__CertificateResponse *response,
                                         EVP_PKEY *key, const char *trust_domain,
                                         const char *same_id, int64_t now_s, struct svid **out_svid,
                                         struct bundle **out_roots);

#endif
