/* authz: may this peer be at the other end? Deny unless a link says yes. Pure. R3, R13. */
#ifndef MORTISE_PROXY_AUTHZ_H
#define MORTISE_PROXY_AUTHZ_H

#include "proxy/snapshot.h"

/* authz_server judges the server that an outbound link reached. Errors: CERT_MISSING, PEER_REVOKED,
 * PEER_IDENTITY. */
MUST_CHECK err_t authz_server(const struct snapshot *snapshot, const struct link *link,
                              const struct peer *peer);

/* authz_client chooses the inbound link of a client: `entry` as its SNI selected, or, with entry -1
 * (no SNI), the one link that allows it. `peer` NULL (no certificate) is denied before any rule.
 * Errors: CERT_MISSING, PEER_REVOKED, PEER_DENIED, TLS_SNI_UNKNOWN (several links allow it: which
 * one is meant?). */
MUST_CHECK err_t authz_client(const struct snapshot *snapshot, int entry, const struct peer *peer,
                              const struct link **out);

/* authz_live judges a connection that an earlier snapshot let in, by `link` of that one: would
 * `now` let its peer in? The TLS parameters are not asked about: what was negotiated stays. Nor are
 * roots that a control plane gives out: their rotation ends no connection. On an error
 * `*out_grace_ms` says how long it may go on. Errors: PEER_REVOKED, POLICY_CHANGED (the link is
 * gone, or names others), TRUST_CHANGED (no CA of the peer's path is in the truststore any more, or
 * it is for another trust domain). */
MUST_CHECK err_t authz_live(const struct snapshot *now, const struct link *link,
                            const struct peer *peer, uint32_t *out_grace_ms);

#endif
