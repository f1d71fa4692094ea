/* authz: may this peer be at the other end? Deny unless a link says yes. Pure. R3, R13. */
#ifndef MORTISE_PROXY_AUTHZ_H
#define MORTISE_PROXY_AUTHZ_H

#include "proxy/snapshot.h"

/* authz_server judges the server that an outbound link reached. Errors: PEER_IDENTITY. */
MUST_CHECK err_t authz_server(const struct link *link, const struct peer *peer);

/* authz_client chooses the inbound link of a client: `entry` as its SNI selected, or, with entry -1
 * (no SNI), the one link that allows it. `peer` NULL (no certificate) is denied before any rule.
 * Errors: CERT_MISSING, PEER_DENIED, TLS_SNI_UNKNOWN (several links allow it: which one is meant?).
 */
MUST_CHECK err_t authz_client(const struct snapshot *snapshot, int entry, const struct peer *peer,
                              const struct link **out);

#endif
