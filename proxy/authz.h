/* authz: may this peer be at the other end? Deny unless a link says yes and no policy (see
 * certs/policy.h) says no. A server's sidecar judges clients, a client's sidecar servers. Pure. R3,
 * R13. */
#ifndef MORTISE_PROXY_AUTHZ_H
#define MORTISE_PROXY_AUTHZ_H

#include "proxy/snapshot.h"

/* authz_server judges the server that an outbound link reached, at `now_s`; `peer` NULL: one that
 * was not verified, which is denied but by a link that asks for no more. Errors: CERT_MISSING,
 * PEER_REVOKED, PEER_IDENTITY, POLICY_DENIED; CRL_MISSING and CRL_STALE, where the link's
 * truststore has lists. */
MUST_CHECK err_t authz_server(const struct snapshot *snapshot, const struct link *link,
                              const struct peer *peer, int64_t now_s);

/* authz_client chooses the inbound link of a client: `entry` as its SNI selected, or, with entry -1
 * (no SNI), the one link that allows it. `peer` NULL (no certificate) is denied but where a link
 * lets anonymous clients in: no rule about peers is asked then
 * but policies: an ALLOW is none of theirs. Policies do not choose: a link that one of them keeps
 * the client from is not passed over for another. With POLICY_DENIED *out is set as well.
 * Errors: CERT_MISSING, PEER_REVOKED, PEER_DENIED, POLICY_DENIED, TLS_SNI_UNKNOWN (several links
 * allow it: which one is meant?), CRL_MISSING, CRL_STALE. */
MUST_CHECK err_t authz_client(const struct snapshot *snapshot, int entry, const struct peer *peer,
                              int64_t now_s, const struct link **out);

/* authz_live judges a connection that an earlier snapshot let in, by `link` of that one: would
 * `now` let its peer in (NULL: it has shown no certificate)? The TLS parameters are not asked
 * about: what was negotiated stays. Nor are roots that a control plane gives out: their rotation
 * ends no connection. Of revocation lists it counts whom they name: a list that is missing or stale
 * says nothing new of who was let in. On an error `*out_grace_ms` says how long it may go on.
 * Errors: PEER_REVOKED, POLICY_CHANGED (the link is gone, or names others), POLICY_DENIED,
 * TRUST_CHANGED (no CA of the peer's path is in the truststore any more, or it is for another trust
 * domain). */
MUST_CHECK err_t authz_live(const struct snapshot *now, const struct link *link,
                            const struct peer *peer, int64_t now_s, uint32_t *out_grace_ms);

/* authz_plain judges one without TLS likewise: its link is still permissive at `now_s`, and no
 * policy wants to know who it is. Errors: POLICY_CHANGED, POLICY_DENIED. */
MUST_CHECK err_t authz_plain(const struct snapshot *now, const struct link *link, int64_t now_s);

/* authz_policy is the name of the policy behind a POLICY_DENIED of one of these, or NULL; the
 * snapshot's. `link` is of that snapshot or of an earlier one. */
const char *authz_policy(const struct snapshot *snapshot, const struct link *link,
                         const struct peer *peer);

#endif
