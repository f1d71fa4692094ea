/* server_cert is the control plane's own certificate, spiffe://<trust domain>/mortise/control:
 * issued by its own CA for a key that never leaves memory, renewed at half of its life; new
 * connections use the new one. A renewal that fails is tried again; the old certificate serves
 * until it expires. */
#ifndef MORTISE_CONTROL_SERVER_CERT_H
#define MORTISE_CONTROL_SERVER_CERT_H

#include "certs/tls_ctx.h"
#include "control/ca.h"
#include "lib/net/loop.h"

#define SERVER_CERT_RETRY_MS 15000

struct server_cert;

/* server_cert_new issues the first certificate; when there is no CA yet (ca_is_empty), none before
 * server_cert_reissue. Errors: those of ca_issue; TLS_CONFIG. */
MUST_CHECK err_t server_cert_new(struct loop *loop, struct ca *ca, const char *trust_domain,
                                 struct server_cert **out);
void server_cert_free(struct server_cert *cert);

/* server_cert_reissue makes a new one now: the CA signs with another key. When that fails it is
 * tried again, as above. */
void server_cert_reissue(struct server_cert *cert);

/* server_cert_tls is the context for a connection that begins now (borrowed), or NULL when the
 * certificate has expired, or there is none yet. Clients may show a certificate of the mesh or
 * none; TLS 1.3, ALPN h2. */
struct tls_ctx *server_cert_tls(struct server_cert *cert);
int64_t server_cert_not_after(const struct server_cert *cert);
const char *server_cert_serial(const struct server_cert *cert); /* lower-case hex; "": none yet */

/* server_cert_rotate makes another one now; when it cannot, the one that there is stays. Errors:
 * those of ca_issue. */
MUST_CHECK err_t server_cert_rotate(struct server_cert *cert);

#endif
